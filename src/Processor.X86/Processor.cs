using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// One x86 vCPU in software: its state, its model, and the components that do what a single instruction handler does not. A component has its own private state
/// and reaches the others through this class; handlers (Instructions/, System/) are static methods that get the processor, its state and the operation.
/// Everything is for the one thread that runs the vCPU unless it says otherwise.
/// </summary>
internal sealed unsafe partial class Processor : IDisposable
{
    /// <summary>Execution state in native memory; never null before disposal.</summary>
    public readonly ProcessorState* State;
    private readonly LowMemory _stateMemory;
    public readonly GuestMemory Memory;
    public readonly CpuModel Model;
    public readonly VirtualClock Clock;

    /// <summary>0-based number of this vCPU, also its initial APIC identifier.</summary>
    public int CpuIndex { get; init; }

    /// <summary>The vCPUs of this one's VM.</summary>
    public readonly ProcessorGroup Group;

    // Memory.
    public readonly GuestPhysical Physical;
    public readonly PagingStructures PagingStructures;
    public readonly PageWalker Walker;
    public readonly Tlb Tlb;
    public readonly Mmu Mmu;
    public readonly Atomics Atomics;
    public readonly Mmio Mmio;
    public readonly WriteWatch WriteWatch;
    public readonly Shootdown Shootdown;

    // Code.
    public readonly CodeCache Code;
    public readonly BlockFinder Blocks;
    public readonly JumpCache JumpCache;
    public readonly Thunks Thunks = new();
    /// <summary>Null: nothing is translated.</summary>
    public readonly Translator? Translator;
    /// <summary>Null: programs of the guest do not run directly on the host's processor.</summary>
    public readonly DirectExecution? Direct;

    // Execution.
    public readonly Exits Exits;
    public readonly Events Events;
    public readonly EventDelivery Delivery;
    public readonly InterruptGates Gates;
    public readonly DebugUnit Debug;
    public readonly HostDebugger Debugger;
    public readonly LastBranch LastBranch;
    public readonly Following Following;
    public readonly PauseLoops PauseLoops;

    /// <summary>VMX; null: the model has none.</summary>
    public readonly Vmx? Vmx;

    /// <summary>Guests of a hypervisor inside the guest.</summary>
    public readonly GuestMode GuestMode;

    /// <summary>Null: the model has no SVM.</summary>
    public readonly Svm? Svm;

    // System instructions.
    public readonly ControlRegisters ControlRegisters;
    public readonly MsrFile Msrs;
    public readonly Segmentation Segments;
    public readonly FarTransfers FarTransfers;
    public readonly InterruptReturns InterruptReturns;
    public readonly TaskSwitcher Tasks;

    /// <summary>The exit being prepared or returned.</summary>
    public readonly X86Exit Exit = new();

    private readonly GuestFault _fault = new();

    /// <summary>Held for moments only: other threads set attention flags in memory that disposal frees.</summary>
    private readonly Lock _disposal = new();
    private bool _disposed;

    /// <param name="group">One for all vCPUs of a VM; the new one joins it.</param>
    /// <param name="translateAfter">How often a block is entered before it is translated; 0: never.</param>
    /// <param name="sizes">How large its caches of code are; null: as usual.</param>
    /// <param name="direct">Which programs run directly on the host's processor; null: none.</param>
    public Processor(GuestMemory memory, CpuModel model, VirtualClock clock, ProcessorGroup group, int translateAfter = 0, CodeCacheSizes? sizes = null,
        DirectSetup? direct = null)
    {
        sizes ??= CodeCacheSizes.Usual;
        sizes.Check();
        Group = group;
        group.Add(this);
        (Memory, Model, Clock) = (memory, model, clock);
        _baseShift = model.Has(CpuFeature.La57) ? 64 - 57 : 64 - 48;
        // Emitted code has 32-bit absolute addresses of it.
        _stateMemory = new LowMemory(sizeof(ProcessorState));
        State = (ProcessorState*)_stateMemory.Pointer;
        X87.Reset(State); // host-executed instructions rely on a valid image
        Physical = new GuestPhysical(memory);
        PagingStructures = new PagingStructures(this);
        GuestMode = new GuestMode(this);
        Walker = new PageWalker(this);
        Tlb = new Tlb(this);
        Mmu = new Mmu(this);
        Atomics = new Atomics(this);
        Mmio = new Mmio(this);
        WriteWatch = new WriteWatch(this);
        Shootdown = new Shootdown(this);
        Code = new CodeCache(this, sizes);
        Blocks = new BlockFinder(this);
        JumpCache = new JumpCache(this);
        Exits = new Exits(this);
        Events = new Events(this);
        Delivery = new EventDelivery(this);
        Gates = new InterruptGates(this);
        Debug = new DebugUnit(this);
        Debugger = new HostDebugger(this);
        LastBranch = new LastBranch(this);
        Following = new Following(this);
        PauseLoops = new PauseLoops(this);
        ControlRegisters = new ControlRegisters(this);
        Msrs = new MsrFile(this);
        Segments = new Segmentation(this);
        FarTransfers = new FarTransfers(this);
        InterruptReturns = new InterruptReturns(this);
        Tasks = new TaskSwitcher(this);
        if (model.Has(CpuFeature.Svm)) GuestHypervisor = Svm = new Svm(this);
        if (translateAfter > 0) Translator = new Translator(this, translateAfter, sizes);
        if (direct != null) Direct = new DirectExecution(this, direct);
        if (model.Has(CpuFeature.Vmx)) GuestHypervisor = Vmx = new Vmx(this);
        _interceptSets.Find(_controls.Instructions, GuestIntercepts);
        // From now on other threads may call.
        Code.Attach();
        memory.Rights.Add(Shootdown);
        Reset();
    }

    ~Processor() => Release();

    /// <summary>What CPUID tells about now.</summary>
    public CpuidSubject CpuidSubject => new(
        Model, CpuIndex, Group.Count, Clock.CounterFrequency, (State->Cr4 & (ulong)Cr4.Osxsave) != 0, (State->Cr4 & (ulong)Cr4.Pke) != 0, State->Xcr0,
        State->Xss,
            Msrs.ApicDisabled);

    /// <summary>Raises an exception for the guest: <c>throw p.Fault(…)</c>. The instruction must have changed nothing yet.</summary>
    public GuestFault Fault(Vector vector, uint? errorCode = null)
    {
        _fault.Vector = vector;
        _fault.ErrorCode = errorCode;
        return _fault;
    }

    /// <summary>#GP with an error code: 0 or a selector with its EXT bit clear.</summary>
    public GuestFault GeneralProtection(uint errorCode = 0) => Fault(Vector.Gp, errorCode);

    /// <summary>#UD.</summary>
    public GuestFault InvalidOpcode() => Fault(Vector.Ud);

    /// <summary>#TS, #NP, #SS or #GP with a selector as the error code.</summary>
    public GuestFault SelectorFault(Vector vector, ushort selector) => Fault(vector, selector & 0xFFFCu);

    private ExecutionControls _controls = new();
    private readonly InterceptSets _interceptSets = new();
    private uint _interceptMode; // the set in force, as it stands in the mode key

    /// <inheritdoc cref="IX86Cpu.Controls"/>
    public ExecutionControls Controls
    {
        get => _controls;
        set
        {
            bool recode = value.Instructions != _controls.Instructions;
            _controls = value;
            if (recode) SelectIntercepts();
            Events.UpdateWindowAttention();
        }
    }

    /// <summary>What a hypervisor inside the guest is asked about; none unless its guest runs.</summary>
    public GuestIntercepts GuestIntercepts { get; private set; }

    /// <summary>A guest inside the guest is entered, or left: other instructions are its hypervisor's affair.</summary>
    /// <returns>True: it is another set, and <see cref="ModeChanged"/> was called.</returns>
    public bool SelectGuestIntercepts(GuestIntercepts set)
    {
        if (set == GuestIntercepts) return false;
        GuestIntercepts = set;
        SelectIntercepts();
        return true;
    }

    /// <summary>The controls ask for other instructions: code decoded under the old ones stays, but is not what runs now.</summary>
    private void SelectIntercepts()
    {
        uint? set = _interceptSets.Find(_controls.Instructions, GuestIntercepts);
        if (set == null)
        {
            Code.Flush(FlushCause.Intercepts);
            _interceptSets.Clear();
            set = _interceptSets.Find(_controls.Instructions, GuestIntercepts);
        }
        _interceptMode = set!.Value << ModeKey.InterceptShift;
        // No half-way link may lead from one set's code to the other's.
        State->LinkFrom = null;
        Translator?.ForgetOpenLink();
        ModeChanged();
    }

    /// <summary>Stopwatch time at which CPL became 3 for the first time, 0 before.</summary>
    private long _firstUserTimestamp;

    /// <summary>
    /// To be called after any change of CR0, CR3, CR4, EFER, CPL, RFLAGS.AC, RFLAGS.VM, RFLAGS.TF, PKRU, CS or SS attributes, data segments, XCR0, DR7:
    /// recomputes
    /// <see cref="ProcessorState.Mode"/> and <see cref="ProcessorState.TlbContext"/>. Only what changed is recomputed; calling too often is harmless.
    /// </summary>
    public void ModeChanged()
    {
        ProcessorState* s = State;
        s->Mode = ModeKey.Of(s) | _interceptMode | GuestMode.ModeBit;
        Tlb.ModeChanged();
        if (s->Cpl == 3 && _firstUserTimestamp == 0) _firstUserTimestamp = Stopwatch.GetTimestamp();
    }

    private readonly int _baseShift; // bits above the linear addresses that the model has

    /// <summary>Bits 63 down to the top implemented linear-address bit are equal: 48 bits, or 57 with CR4.LA57.</summary>
    public bool IsCanonical(ulong address)
    {
        int shift = (State->Cr4 & (ulong)Cr4.La57) != 0 ? 64 - 57 : 64 - 48;
        return (ulong)((long)(address << shift) >> shift) == address;
    }

    /// <summary>The address with the bits above the top implemented one equal to it: what the processor makes of a base that VMRUN or VMLOAD loads.</summary>
    public ulong Canonical(ulong address)
    {
        return (ulong)((long)(address << _baseShift) >> _baseShift);
    }

    /// <summary>
    /// As <see cref="IsCanonical"/> for values loaded into MSRs and bases of segments and descriptor tables: what counts there is the width that the processor
    /// supports, whatever CR4.LA57 says (SDM vol. 1, "Canonical Addressing").
    /// </summary>
    public bool IsCanonicalBase(ulong address)
    {
        return (ulong)((long)(address << _baseShift) >> _baseShift) == address;
    }

    /// <summary>The A20M# pin. Any thread; takes effect before the next block.</summary>
    public void SetA20(bool pass)
    {
        if (Physical.A20 == pass) return;
        Physical.A20 = pass;
        Signal(Attention.Event);
    }

    /// <inheritdoc cref="IVirtualCpu.Kick"/>
    public void Kick() => Signal(Attention.Kick);

    /// <summary>Sets attention flags from any thread; after disposal there is nothing left to be told.</summary>
    public void Signal(Attention flags)
    {
        lock (_disposal)
        {
            if (_disposed) return;
            WantAttention(flags);
            Direct?.Interrupt();
        }
    }

    /// <summary>Sets attention flags on the vCPU's own thread: the dispatcher looks before the next block.</summary>
    public void WantAttention(Attention flags = Attention.Event)
    {
        Interlocked.Or(ref State->AttentionFlags, (int)flags);
        Volatile.Write(ref State->Translator.Quiet, 0);
    }

    public EngineCounters Counters =>
        new(State->Retired, Code.BlocksDecoded, Code.BlocksInvalidated, Tlb.Misses, Tlb.Flushes, Delivery.ExceptionsDelivered, Delivery.InterruptsDelivered,
            _firstUserTimestamp,
            Translator?.BlocksTranslated ?? 0, Code.Flushes);

    public void Dispose()
    {
        if (_disposed) return;
        Vmx?.Timer.Dispose(); // its thread asks for attention
        Code.Detach();
        Memory.Rights.Remove(Shootdown);
        lock (_disposal)
        {
            Code.Dispose();
            Thunks.Dispose();
            Svm?.Dispose();
            Direct?.Dispose();
            Translator?.Dispose();
            Release();
        }
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_disposed) return;
        _disposed = true;
        _stateMemory?.Dispose(); // null when there was none to be had
    }
}
