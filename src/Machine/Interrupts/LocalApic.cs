using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Interrupts;

/// <summary>
/// The local APIC of one vCPU and its source of interrupts: xAPIC page, x2APIC MSRs, timer, local interrupt pins. The 8259A stands behind LINT0 and
/// reaches the processor as ExtINT, or directly while the APIC is disabled. All members with <see cref="VirtualMachine.InterruptLock"/> held.
/// </summary>
/// <remarks>Intel SDM vol. 3A, chapter "Advanced Programmable Interrupt Controller (APIC)". A page access or MSR access comes from the own vCPU only.</remarks>
internal sealed partial class LocalApic : IMmioDevice, IInterruptSource, IDevice, IStateful<LocalApicRecord>
{
    private const ulong BaseBsp = 1 << 8, BaseExtd = 1 << 10, BaseEnable = 1 << 11;
    private const ulong PageLength = 0x1000;
    /// <summary>One that the processor takes at once and one that it holds until IRET.</summary>
    private const int MostNmis = 2;

    private readonly ApicBus _bus;
    private readonly ITimeSource _time;
    private readonly MmioBus _mmio;
    private readonly CpuModel _model;
    private readonly Func<ulong> _readTsc;
    private readonly Action _wake;
    private readonly Func<byte> _acknowledgePic;

    private ulong _base;
    private byte _id; // of the xAPIC
    private VectorSet _isr, _tmr, _irr;
    private byte _tpr, _ppr;
    private bool _deliverable; // the highest request is above the processor priority
    private int _nmis; // that wait, at most MostNmis
    private bool _initPending, _waitsForStartUp;
    private byte? _startUp; // vector of the start-up IPI that came while the processor waits for one
    private bool _extIntReceived; // an ExtINT message came in
    private bool _lint0, _lint1; // levels of the pins
    private bool _ownAccess; // the vCPU itself is at work here: it looks for interrupts afterwards, no need to wake it

    /// <param name="index">Number of the vCPU, which is also its APIC ID.</param>
    /// <param name="mmio">What only this vCPU sees; the xAPIC page is put there.</param>
    /// <param name="readTsc">The TSC that deadlines are compared with. An engine that gives its guest an offset takes it out of IA32_TSC_DEADLINE.</param>
    /// <param name="wake">Tells the vCPU that an event became deliverable.</param>
    /// <param name="acknowledgePic">The interrupt acknowledge cycle of the 8259A pair: returns the vector.</param>
    public LocalApic(int index, ApicBus bus, ITimeSource time, CpuModel model, MmioBus mmio, Func<ulong> readTsc, Action wake, Func<byte> acknowledgePic)
    {
        Index = index;
        _bus = bus;
        _time = time;
        _model = model;
        _mmio = mmio;
        _readTsc = readTsc;
        _wake = wake;
        _acknowledgePic = acknowledgePic;
        _timer = time.CreateTimer(OnTimer);
        Lint0 = new Pin(SetLint0);
        Lint1 = new Pin(SetLint1);
        bus.Add(this);
        Reset();
    }

    public int Index { get; }

    /// <summary>Local interrupt pin 0: the INTR output of the 8259A pair.</summary>
    public IInterruptLine Lint0 { get; }

    /// <summary>Local interrupt pin 1: the machine's NMI.</summary>
    public IInterruptLine Lint1 { get; }

    public LocalApicMode Mode => (_base & BaseEnable) == 0 ? LocalApicMode.Disabled : (_base & BaseExtd) == 0 ? LocalApicMode.XApic : LocalApicMode.X2Apic;

    /// <summary>Enabled in IA32_APIC_BASE and in the spurious-interrupt vector register.</summary>
    internal bool AcceptsInterrupts => (_base & BaseEnable) != 0 && (_svr & SvrEnable) != 0;

    internal byte ProcessorPriority => _ppr;

    /// <summary>State after power-up: enabled at FEE00000h in xAPIC mode, by software disabled. vCPU 0 is the bootstrap processor.</summary>
    public void Reset()
    {
        _base = MemoryLayout.LocalApic | BaseEnable | (Index == 0 ? BaseBsp : 0);
        _id = (byte)Index;
        _initPending = false;
        _startUp = null;
        MapPage();
        Initialize();
    }

    private bool IsBootstrap => (_base & BaseBsp) != 0;

    /// <summary>State after INIT: as after power-up, but IA32_APIC_BASE and the ID are kept.</summary>
    /// <remarks>Intel SDM vol. 3A, "Local APIC State After It Has Been Software Disabled" and the neighbouring sections on reset and INIT.</remarks>
    public void Initialize()
    {
        _isr = _tmr = _irr = default;
        _tpr = 0;
        _nmis = 0;
        _extIntReceived = _silentEoi = false;
        _waitsForStartUp = !IsBootstrap;
        ResetRegisters();
        ResetTimer();
        UpdatePriority();
    }

    // ---- what the run loop asks

    public bool InterruptPending => _deliverable || ExtIntPending;

    public byte? AcknowledgeInterrupt()
    {
        if (ExtIntPending)
        {
            _extIntReceived = false;
            return _acknowledgePic();
        }
        if (!_deliverable) return null;
        int vector = _irr.Highest;
        _irr.Set(vector, false);
        _isr.Set(vector, true);
        UpdatePriority();
        return (byte)vector;
    }

    public bool NmiPending => _nmis > 0;

    public bool TakeNmi()
    {
        if (_nmis == 0) return false;
        _nmis--;
        return true;
    }

    public void CollapseNmis() => _nmis = Math.Min(_nmis, 1);

    public ulong Cr8
    {
        get => (ulong)_tpr >> 4;
        set
        {
            _tpr = (byte)(value << 4);
            UpdatePriority();
        }
    }

    public bool InitPending => _initPending;

    public void DropInit() => (_initPending, _startUp) = (false, null);

    public void WaitForStartUp() => (_waitsForStartUp, _startUp) = (true, null);

    void IInterruptSource.EndOfInterrupt() => EndOfInterrupt();

    public bool TakeInit()
    {
        if (!_initPending) return false;
        _initPending = false;
        Initialize();
        return true;
    }

    public bool WaitsForStartUp => _waitsForStartUp;

    public byte? TakeStartUp()
    {
        if (!_waitsForStartUp || _startUp is not { } vector) return null;
        _startUp = null;
        _waitsForStartUp = false;
        return vector;
    }

    /// <summary>ExtINT goes past the priorities of the APIC; the 8259A has its own.</summary>
    private bool ExtIntPending => _lint0
        && (_extIntReceived || (_base & BaseEnable) == 0 || Lvt(LocalApicRegister.LvtLint0) is { Mode: DeliveryMode.ExtInt, IsMasked: false });

    // ---- messages

    internal bool IsDestination(in InterruptMessage message)
    {
        LocalApicMode mode = Mode;
        if (mode == LocalApicMode.Disabled) return false;
        if (message.IsBroadcast) return true;
        uint destination = message.Destination;
        if (!message.IsLogical) return destination == (mode == LocalApicMode.X2Apic ? (uint)Index : _id);
        if (mode == LocalApicMode.X2Apic) return destination >> 16 == X2Ldr >> 16 && (destination & X2Ldr & 0xFFFF) != 0;
        if (destination > 0xFF) return false;
        uint logicalId = _ldr >> 24;
        return (_dfr >> 28) switch
        {
            0xF => (destination & logicalId) != 0,
            0x0 => destination >> 4 == logicalId >> 4 && (destination & logicalId & 0xF) != 0,
            _ => false,
        };
    }

    /// <summary>Takes a message of which this APIC is a destination. True when it is accepted.</summary>
    internal bool Receive(in InterruptMessage message)
    {
        if ((_base & BaseEnable) == 0) return false;
        switch (message.Mode)
        {
            case DeliveryMode.Fixed:
            case DeliveryMode.LowestPriority:
                return Request(message.Vector, message.IsLevel);
            case DeliveryMode.Nmi:
                RaiseNmi();
                return true;
            case DeliveryMode.Init:
                ReceiveInit();
                return true;
            case DeliveryMode.StartUp:
                // Only a processor that waits takes it; the second one that operating systems send is for a processor that missed the first.
                if (!_waitsForStartUp && !(_initPending && !IsBootstrap)) return true;
                _startUp ??= message.Vector;
                Wake();
                return true;
            case DeliveryMode.ExtInt:
                _extIntReceived = true;
                Wake();
                return true;
            default: // there is no system management mode here
                return false;
        }
    }

    /// <summary>Sets the request bit of a vector.</summary>
    private bool Request(byte vector, bool level)
    {
        if (!AcceptsInterrupts) return false;
        if (vector < 16)
        {
            RecordError(ApicErrors.ReceivedIllegalVector);
            return false;
        }
        _irr.Set(vector, true);
        _tmr.Set(vector, level);
        UpdatePriority();
        if (_deliverable || _silentEoi) Wake();
        return true;
    }

    private void ReceiveInit()
    {
        _initPending = true;
        _startUp = null;
        Wake();
    }

    private void RaiseNmi()
    {
        _nmis = Math.Min(_nmis + 1, MostNmis);
        Wake();
    }

    private void Wake()
    {
        if (!_ownAccess) _wake();
    }

    /// <summary>Computes PPR and whether a request is above it. Called whenever TPR, ISR, IRR or the mode changed.</summary>
    /// <remarks>Intel SDM vol. 3A, "Task and Processor Priorities".</remarks>
    private void UpdatePriority()
    {
        int inService = Math.Max(_isr.Highest, 0), request = _irr.Highest;
        _ppr = _tpr >> 4 >= inService >> 4 ? _tpr : (byte)(inService & 0xF0);
        _deliverable = request >= 0 && request >> 4 > _ppr >> 4 && (_base & BaseEnable) != 0;
    }

    private void EndOfInterrupt()
    {
        int vector = _isr.Highest;
        if (vector < 0) return;
        _isr.Set(vector, false);
        UpdatePriority();
        if (!_tmr.Contains(vector)) return;
        ref LvtEntry lint0 = ref Lvt(LocalApicRegister.LvtLint0);
        if (lint0.RemoteIrr && lint0.Vector == vector)
        {
            lint0 = new(lint0.Value & ~LvtEntry.RemoteIrrBit);
            ServiceLint0();
        }
        if ((_svr & SvrSuppressEoiBroadcast) == 0) _bus.BroadcastEoi((byte)vector);
    }

    // ---- local interrupts

    private void SetLint0(bool asserted)
    {
        bool edge = asserted && !_lint0;
        _lint0 = asserted;
        if (!edge) return;
        if (ExtIntPending) Wake();
        else if (Lvt(LocalApicRegister.LvtLint0) is { Mode: DeliveryMode.Fixed, IsLevel: true }) ServiceLint0();
        else if ((_base & BaseEnable) != 0) TriggerLocal(LocalApicRegister.LvtLint0);
    }

    /// <summary>Level-triggered fixed interrupt on LINT0: requested until EOI finds the pin inactive.</summary>
    private void ServiceLint0()
    {
        ref LvtEntry lint0 = ref Lvt(LocalApicRegister.LvtLint0);
        if (!_lint0 || lint0.IsMasked || lint0.RemoteIrr || !lint0.IsLevel || lint0.Mode != DeliveryMode.Fixed) return;
        if (Request(lint0.Vector, level: true)) lint0 = new(lint0.Value | LvtEntry.RemoteIrrBit);
    }

    private void SetLint1(bool asserted)
    {
        bool edge = asserted && !_lint1;
        _lint1 = asserted;
        if (!edge) return;
        if ((_base & BaseEnable) == 0) RaiseNmi();
        else TriggerLocal(LocalApicRegister.LvtLint1);
    }

    /// <summary>Delivers what the LVT entry says, unless it is masked.</summary>
    private void TriggerLocal(LocalApicRegister entry)
    {
        LvtEntry lvt = Lvt(entry);
        if (lvt.IsMasked) return;
        switch (lvt.Mode)
        {
            case DeliveryMode.Fixed:
                Request(lvt.Vector, level: false);
                break;
            case DeliveryMode.Nmi:
                RaiseNmi();
                break;
            case DeliveryMode.Init:
                ReceiveInit();
                break;
            default: // ExtINT is a level (ExtIntPending); the others do nothing here
                break;
        }
    }

    // ---- IA32_APIC_BASE

    /// <remarks>Intel SDM vol. 3A, "Local APIC State Transitions with IA32_APIC_BASE, x2APIC" and "Relocating the Local APIC Registers".</remarks>
    private bool TryWriteBase(ulong value)
    {
        ulong legal = ((1ul << _model.PhysicalAddressBits) - PageLength) | BaseBsp | BaseEnable | (_model.Has(CpuFeature.X2apic) ? BaseExtd : 0);
        if ((value & ~legal) != 0) return false;
        bool enabled = (value & BaseEnable) != 0, extended = (value & BaseExtd) != 0;
        switch (Mode)
        {
            case LocalApicMode.Disabled when extended:
            case LocalApicMode.XApic when extended && !enabled:
            case LocalApicMode.X2Apic when enabled != extended:
                return false;
            default:
                break;
        }
        if (Mode == LocalApicMode.XApic && extended) _icr = (uint)_icr; // the destination field has another format now
        if (!enabled) _id = (byte)Index;
        _base = value;
        MapPage();
        if (!enabled) ResetTimer(); // of the rest, "prior initialization may be lost"; it is kept
        UpdatePriority();
        return true;
    }

    private void MapPage()
    {
        _mmio.Remove(this);
        if (Mode == LocalApicMode.XApic) _mmio.Add(_base & ~(PageLength - 1), PageLength, this);
    }

    private sealed class Pin(Action<bool> set) : IInterruptLine
    {
        public void Set(bool asserted) => set(asserted);
    }
}
