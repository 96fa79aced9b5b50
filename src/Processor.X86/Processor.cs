using System.Runtime.InteropServices;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// One x86 vCPU in software. The class is split by topic: Execution/ (dispatch, blocks), Memory/ (MMU), System/ (segments, events,
/// control registers), Instructions/ (handlers, static methods grouped in classes).
/// Everything is for the one thread that runs the vCPU unless it says otherwise.
/// </summary>
public sealed unsafe partial class Processor : IDisposable
{
    /// <summary>Execution state in native memory; never null before disposal.</summary>
    internal readonly ProcessorState* State;
    private readonly LowMemory _stateMemory;
    internal readonly GuestMemory Memory;
    internal readonly CpuModel Model;
    internal readonly VirtualClock Clock;

    /// <summary>0-based number of this vCPU, also its initial APIC identifier.</summary>
    internal int CpuIndex { get; init; }

    /// <summary>The vCPUs of this one's VM.</summary>
    internal ProcessorGroup Group { get; }

    /// <summary>What CPUID tells about now.</summary>
    internal CpuidSubject CpuidSubject => new(
        Model, CpuIndex, Group.Count, Clock.TscFrequency, (State->Cr4 & (ulong)Cr4.Osxsave) != 0, (State->Cr4 & (ulong)Cr4.Pke) != 0, State->Xcr0, State->Xss, ApicDisabled);

    /// <summary>The exit being prepared or returned.</summary>
    internal readonly VmExit Exit = new();

    private readonly GuestFault _fault = new();
    internal readonly ExitRequest ExitRequested = new();
    /// <summary>Held for moments only: other threads set attention flags in memory that disposal frees.</summary>
    private readonly Lock _disposal = new();
    private bool _disposed;

    /// <param name="group">One for all vCPUs of a VM; the new one joins it.</param>
    /// <param name="translateAfter">How often a block is entered before it is translated; 0: never.</param>
    internal Processor(GuestMemory memory, CpuModel model, VirtualClock clock, ProcessorGroup group, int translateAfter = 0)
    {
        Group = group;
        group.Add(this);
        Memory = memory;
        Model = model;
        _paging = new PagingModel(model);
        _physical = new GuestPhysical(memory);
        Clock = clock;
        // Emitted code has 32-bit absolute addresses of it.
        _stateMemory = new LowMemory(sizeof(ProcessorState));
        State = (ProcessorState*)_stateMemory.Pointer;
        X87.Reset(State); // host-executed instructions rely on a valid image
        _interceptSets.Find(_controls.Instructions);
        _decoder = new BlockDecoder(this);
        if (translateAfter > 0) CreateTranslator(translateAfter);
        _observer = memory.Code.Add(this);
        memory.Rights.Add(this);
        Reset();
    }

    ~Processor() => Release();

    /// <summary>Raises an exception for the guest: <c>throw p.Fault(…)</c>. The instruction must have changed nothing yet.</summary>
    internal GuestFault Fault(Vector vector, uint? errorCode = null)
    {
        _fault.Vector = vector;
        _fault.ErrorCode = errorCode;
        return _fault;
    }

    /// <summary>#GP with an error code: 0 or a selector with its EXT bit clear.</summary>
    internal GuestFault GeneralProtection(uint errorCode = 0) => Fault(Vector.Gp, errorCode);

    /// <summary>#UD.</summary>
    internal GuestFault InvalidOpcode() => Fault(Vector.Ud);

    /// <inheritdoc cref="IVirtualCpu.Controls"/>
    internal ExecutionControls Controls
    {
        get => _controls;
        set
        {
            bool recode = value.Instructions != _controls.Instructions;
            _controls = value;
            if (recode) SelectIntercepts();
            UpdateWindowAttention();
        }
    }

    private readonly InterceptSets _interceptSets = new();
    private uint _interceptMode; // the set in force, as it stands in the mode key

    /// <summary>The controls ask for other instructions: code decoded under the old ones stays, but is not what runs now.</summary>
    private void SelectIntercepts()
    {
        uint? set = _interceptSets.Find(_controls.Instructions);
        if (set == null)
        {
            FlushCode();
            _interceptSets.Clear();
            set = _interceptSets.Find(_controls.Instructions);
        }
        _interceptMode = set!.Value << ModeKey.InterceptShift;
        // No half-way link may lead from one set's code to the other's.
        State->LinkFrom = null;
        _openLink = null;
        ModeChanged();
    }

    /// <inheritdoc cref="IVirtualCpu.Kick"/>
    internal void Kick() => Signal(Attention.Kick);

    /// <summary>Sets attention flags from any thread; after disposal there is nothing left to be told.</summary>
    private void Signal(Attention flags)
    {
        lock (_disposal)
        {
            if (!_disposed) Interlocked.Or(ref State->AttentionFlags, (int)flags);
        }
    }

    internal void InjectInterrupt(byte vector)
    {
        if (!InterruptWindowOpen) throw new InvalidOperationException("the interrupt window is closed");
        _injectedInterrupt = vector;
    }

    /// <inheritdoc cref="IVirtualCpu.OfferInterrupt"/>
    internal void OfferInterrupt(IInterruptAcknowledge source)
    {
        if (!InterruptWindowOpen) throw new InvalidOperationException("the interrupt window is closed");
        // Offered once more before it was entered, it is active in name only.
        _offeredInHlt = Activity == CpuActivity.Halted || (_offeredInterrupt != null && _offeredInHlt);
        _offeredInterrupt = source;
    }

    private IInterruptAcknowledge? _offeredInterrupt; // for the next entry
    private bool _offeredInHlt; // an interrupt that goes away does not end HLT

    internal void InjectNmi()
    {
        if (!NmiWindowOpen) throw new InvalidOperationException("the NMI window is closed");
        _injectedNmi = true;
    }

    /// <summary>An NMI is to be delivered at the next entry.</summary>
    internal bool NmiInjected => _injectedNmi;

    internal void InjectException(Vector vector, uint? errorCode) => _injectedException = (vector, errorCode);

    /// <summary>What <see cref="DeliverInjected"/> would deliver.</summary>
    private PendingEvent? PendingEvent
    {
        get => _injectedException is { } e ? new(PendingEventKind.Exception, (byte)e.Vector, e.ErrorCode)
            : _injectedNmi ? new(PendingEventKind.Nmi, (byte)Vector.Nmi)
            : _injectedInterrupt >= 0 ? new(PendingEventKind.ExternalInterrupt, (byte)_injectedInterrupt)
            : null;
        set
        {
            _injectedException = value is { Kind: PendingEventKind.Exception } e ? ((Vector)e.Vector, e.ErrorCode) : null;
            _injectedNmi = value is { Kind: PendingEventKind.Nmi };
            _injectedInterrupt = value is { Kind: PendingEventKind.ExternalInterrupt } i ? i.Vector : -1;
        }
    }

    /// <summary>Drops a half-done instruction and events not yet delivered: the whole state is being replaced.</summary>
    internal void AbandonInstruction()
    {
        DropCompletion();
        ForgetReplay();
        _mmioReadPending = false;
        _accessRefused = false;
        _reexecuting = false;
        _posted.Clear();
        _injectedException = null;
        _injectedInterrupt = -1;
        _offeredInterrupt = null;
        _injectedNmi = false;
        _heldNmi = false;
        ExitPending = false;
        State->Current = null;
        State->LinkFrom = null;
    }

    internal EngineCounters Counters =>
        new(State->Retired, BlocksDecoded, BlocksInvalidated, TlbMisses, TlbFlushes, ExceptionsDelivered, InterruptsDelivered, _firstUserTimestamp, BlocksTranslated, CodeFlushes);

    public void Dispose()
    {
        if (_disposed) return;
        Memory.Code.Remove(_observer);
        Memory.Rights.Remove(this);
        lock (_disposal)
        {
            _arena.Dispose();
            DisposeThunks();
            DisposeTranslator();
            Release();
        }
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_disposed) return;
        _disposed = true;
        _stateMemory?.Dispose(); // null when there was none to be had
        NativeMemory.Free(_buckets);
    }
}
