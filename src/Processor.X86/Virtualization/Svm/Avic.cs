using System.Numerics;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The Advanced Virtual Interrupt Controller: a guest's local APIC lies in its vAPIC backing page. The processor reads and writes registers there, delivers
/// the interrupts that are requested there, and sends interrupts of the guest to backing pages of its other processors.
/// </summary>
/// <remarks>
/// AMD APM vol. 2, "Advanced Virtual Interrupt Controller". All pages and tables are the host's memory, whatever it holds: an index that comes from there is a
/// vector or is compared with the table's size. Guests in x2APIC mode ("x2AVIC") have the same registers as MSRs.
/// </remarks>
internal sealed unsafe class Avic(Processor p, Svm svm) : ApicRegisterPage, IGuestApicPage
{
    /// <summary>Stands for an access that exits before it is made, among what a second stage refuses.</summary>
    public const ulong Refused = 1ul << 62;

    /// <summary>Doorbell: tells the processor with this APIC ID that its guest's backing page has changed. Write-only.</summary>
    public const uint DoorbellMsr = 0xC001_011B;

    // AMD APM vol. 2, "Guest vAPIC Register Access Behavior".
    private static readonly ulong s_read = Registers(0x20, 0x30) | Registers(0x80, 0x80) | Registers(0xA0, 0xF0) | Registers(0x100, 0x280)
        | Registers(0x300, 0x380) | Registers(0x3E0, 0x3E0);
    private static readonly ulong s_accelerated = Registers(TaskPriority, TaskPriority) | Registers(EndOfInterrupt, EndOfInterrupt)
        | Registers(InterruptCommand, InterruptCommandHigh);
    private static readonly ulong s_trapped = Registers(0x20, 0x20) | Registers(0xD0, 0xF0) | Registers(0x280, 0x280) | Registers(0x320, 0x380)
        | Registers(0x3E0, 0x3E0);

    private volatile bool _rung; // by any thread

    /// <summary>An interrupt is requested whose priority is high enough.</summary>
    public bool IsRecognized { get; private set; }

    /// <summary>The guest that runs has it.</summary>
    public bool IsOn => svm.InGuest && Wants(svm.Control);

    private bool Wants(VmcbControl* c) => svm.Features.Avic && (c->VirtualInterrupt & VirtualInterruptBits.AvicEnable) != 0;

    private const ulong AddressBits = 0x000F_FFFF_FFFF_F000;

    /// <summary>The guest that runs has its APIC in x2APIC mode: registers are MSRs, and there is no page.</summary>
    public bool HasMsrs => IsOn && svm.Features.X2Avic && (svm.Control->VirtualInterrupt & VirtualInterruptBits.X2AvicEnable) != 0;

    /// <summary>VMRUN: AVIC needs nested paging, and each address lies below the end of physical addresses.</summary>
    /// <param name="limit">That end.</param>
    public bool IsValid(VmcbControl* c, ulong limit)
    {
        if (!Wants(c)) return true;
        if ((c->NestedControl & VmcbControl.NestedPaging) == 0) return false;
        return (c->AvicBackingPage & AddressBits) < limit && (c->AvicLogicalTable & AddressBits) < limit && (c->AvicPhysicalTable & AddressBits) < limit
            && (c->AvicApicBar & AddressBits) < limit;
    }

    /// <summary>The page of the guest's APIC.</summary>
    public GuestApicPage Page => IsOn && !HasMsrs ? new GuestApicPage(this, svm.Control->AvicApicBar & AddressBits, IsGuestPhysical: true) : default;

    /// <summary>VMRUN has loaded the guest.</summary>
    public void Begin()
    {
        IsRecognized = _rung = false;
        if (IsOn) Evaluate();
    }

    public void Save(SvmState state) => state.AvicRecognized = IsRecognized || _rung;

    public void Restore(SvmState state)
    {
        _rung = false;
        IsRecognized = state.AvicRecognized && IsOn;
    }

    // ---- backing pages

    private ulong BackingPage => svm.Control->AvicBackingPage & AddressBits;

    /// <inheritdoc/>
    public override uint Get(uint offset)
    {
        byte* page = svm.Memory.Page(BackingPage);
        return page == null ? uint.MaxValue : Volatile.Read(ref *(uint*)(page + offset));
    }

    private void Set(uint offset, uint value)
    {
        byte* page = svm.Memory.Page(BackingPage);
        if (page == null) return;
        svm.Memory.BeforeWrite(page);
        Volatile.Write(ref *(uint*)(page + offset), value);
        svm.Memory.AfterWrite(page + offset, sizeof(uint));
    }

    private void SetBit(byte* page, uint register, byte vector, bool value)
    {
        uint offset = RegisterOf(register, vector), bit = BitOf(vector);
        svm.Memory.BeforeWrite(page);
        if (value) Interlocked.Or(ref *(uint*)(page + offset), bit);
        else Interlocked.And(ref *(uint*)(page + offset), ~bit);
        svm.Memory.AfterWrite(page + offset, sizeof(uint));
    }

    private void SetBit(uint register, byte vector, bool value)
    {
        byte* page = svm.Memory.Page(BackingPage);
        if (page != null) SetBit(page, register, vector, value);
    }

    private bool HasBit(uint register, byte vector) => (Get(RegisterOf(register, vector)) & BitOf(vector)) != 0;

    // ---- interrupts

    /// <summary>V_TPR and the register are one.</summary>
    public void SetTaskPriority(uint value)
    {
        Set(TaskPriority, value & 0xFF);
        ref ulong word = ref svm.Control->VirtualInterrupt;
        word = word & ~0xFul | value >> 4 & 0xF;
        Evaluate();
    }

    private void Evaluate()
    {
        _rung = false;
        uint task = Get(TaskPriority) & 0xF0, served = Highest(InService) & 0xF0u, priority = Math.Max(task, served);
        Set(ProcessorPriority, task >= served ? Get(TaskPriority) & 0xFF : served);
        IsRecognized = Highest(Request) >> 4 > (int)priority >> 4;
        p.Events.UpdateWindowAttention();
    }

    /// <summary>Another processor has written to the backing page. Any thread.</summary>
    public void Ring()
    {
        _rung = true;
        p.Signal(Attention.Event);
    }

    /// <summary>What others have left is to be looked at.</summary>
    public bool IsRung => _rung;

    /// <summary>Looks at what a doorbell was rung for.</summary>
    public void Answer()
    {
        if (_rung && IsOn) Evaluate();
        _rung = false;
    }

    /// <summary>Between two instructions, when the guest can take an interrupt and one is recognized.</summary>
    public void Deliver()
    {
        byte vector = Highest(Request);
        SetBit(Request, vector, false);
        SetBit(InService, vector, true);
        Evaluate();
        p.Delivery.CountGuestEvent();
        p.Delivery.DeliverInterrupt(vector);
    }

    private void EndInterrupt()
    {
        byte vector = Highest(InService);
        if (vector != 0 && HasBit(Trigger, vector))
        {
            // A level-triggered interrupt is the host's to end.
            svm.ExitSoon(SvmExit.AvicNoAccelerate, EndOfInterrupt | WriteAccess, vector);
            return;
        }
        SetBit(InService, vector, false);
        Evaluate();
    }

    // ---- accesses to the page

    private const ulong WriteAccess = 1ul << 32;

    /// <inheritdoc/>
    public void Check(uint offset, int length, uint access, ulong linear, ulong page)
    {
        bool write = (access & PageWalker.WriteAccess) != 0;
        bool inside = (access & (PageWalker.InTwoPages | PageWalker.FetchAccess)) == 0 && p.Delivery is { IsDelivering: false, Vectoring: null }
            && (offset & 0xF) + length <= sizeof(uint) && offset < 0x400 && svm.Memory.Page(BackingPage) != null;
        ulong allowed = write ? s_accelerated | s_trapped : s_read;
        if (!inside || (allowed >> (int)(offset >> 4) & 1) == 0)
        {
            PageRights wanted = write ? PageRights.Write : PageRights.Read;
            throw p.Exits.RefusedAccess(linear, new Refusal(page, wanted, IsTableAccess: false, new SecondStageFault(Refused)));
        }
        if (write && (offset & ~0xFu) != InterruptCommandHigh) p.GuestMode.RequireAlone();
    }

    /// <summary>The exit of an access that was refused: EXITINFO1 has its offset and whether it writes.</summary>
    public void Refuse(X86Exit exit) => svm.WorldSwitch.Exit(SvmExit.AvicNoAccelerate, (exit.Address & 0xFF0) | (exit.IsWrite ? WriteAccess : 0), 0,
        SvmEvents.Encode(exit.Vectoring));

    /// <inheritdoc/>
    public void Write(uint offset, byte* source, int length)
    {
        uint register = offset & ~3u, value = Changed(offset, source, length);
        switch (register)
        {
            case TaskPriority:
                SetTaskPriority(value);
                break;
            case EndOfInterrupt:
                Set(register, value);
                EndInterrupt();
                break;
            case InterruptCommand:
                Set(register, value);
                Send(value, Get(InterruptCommandHigh));
                break;
            case InterruptCommandHigh:
                Set(register, value);
                break;
            default:
                Set(register, value);
                svm.ExitSoon(SvmExit.AvicNoAccelerate, register | WriteAccess, 0);
                break;
        }
    }

    // ---- MSRs

    private const uint FirstMsr = 0x800, LastMsr = 0x8FF, CurrentCount = 0x390;

    /// <summary>Registers that x2APIC mode has, by the page's offsets. The command is one of 64 bits.</summary>
    private static readonly ulong s_readMsrs = s_read & ~(Registers(0xB0, 0xC0) | Registers(DestinationFormat, DestinationFormat)
        | Registers(InterruptCommandHigh, InterruptCommandHigh));
    private static readonly ulong s_trappedMsrs = s_trapped & s_readMsrs & ~(Registers(Id, Id) | Registers(LogicalDestination, LogicalDestination));

    private static uint OffsetOf(uint msr) => (msr & 0xFF) << 4;

    /// <summary>A register of the guest's APIC, where it is in x2APIC mode.</summary>
    public bool IsMsr(uint msr) => msr is >= FirstMsr and <= LastMsr && HasMsrs;

    /// <summary>The access exits before it is made: the timer's count is the host's to tell.</summary>
    /// <param name="info">EXITINFO1.</param>
    public static bool IsFault(uint msr, bool write, out ulong info)
    {
        info = CurrentCount;
        return OffsetOf(msr) == CurrentCount && !write;
    }

    /// <summary>RDMSR. False: #GP.</summary>
    public bool TryReadMsr(uint msr, out ulong value)
    {
        uint offset = OffsetOf(msr);
        value = 0;
        if (offset >= 0x400 || (s_readMsrs >> (int)(offset >> 4) & 1) == 0) return false;
        value = offset == InterruptCommand ? Get(offset) | (ulong)Get(InterruptCommandHigh) << 32 : Get(offset);
        return true;
    }

    /// <summary>WRMSR. False: #GP, and nothing has changed.</summary>
    public bool TryWriteMsr(uint msr, ulong value)
    {
        const ulong reservedOfCommand = 0xFFF0_0000 | 3 << 16 | 1 << 13, deliveryStatus = 1 << 12;
        uint offset = OffsetOf(msr);
        switch (offset)
        {
            case TaskPriority:
                if (value > 0xFF) return false;
                SetTaskPriority((uint)value);
                return true;
            case EndOfInterrupt:
                if (value != 0) return false;
                Set(EndOfInterrupt, 0);
                EndInterrupt();
                return true;
            case InterruptCommand:
                if ((value & reservedOfCommand) != 0) return false;
                Set(InterruptCommand, (uint)(value & ~deliveryStatus));
                Set(InterruptCommandHigh, (uint)(value >> 32));
                Send((uint)(value & ~deliveryStatus), (uint)(value >> 32));
                return true;
            case SelfIpi:
                if (value > 0xFF) return false;
                Set(SelfIpi, (uint)value);
                Send(ToSelf | (uint)value, 0);
                return true;
            default:
                if (offset >= 0x400 || (s_trappedMsrs >> (int)(offset >> 4) & 1) == 0 || value > uint.MaxValue) return false;
                Set(offset, (uint)value);
                svm.ExitSoon(SvmExit.AvicNoAccelerate, offset | WriteAccess, 0);
                return true;
        }
    }

    // ---- interrupts to other processors of the guest

    /// <summary>Why an interrupt could not be sent: EXITINFO2 bits 63:32.</summary>
    private enum Failure : uint
    {
        InvalidInterruptType = 0, TargetNotRunning = 1, InvalidTarget = 2, InvalidBackingPage = 3, InvalidVector = 4,
    }

    private const ulong EntryValid = 1ul << 63, EntryRunning = 1ul << 62;
    private const uint ToSelf = 1 << 18; // the shorthand

    private void Send(uint command, uint high)
    {
        const uint mode = 7 << 8, level = 1 << 15, logical = 1 << 11;
        uint shorthand = command >> 18 & 3;
        if ((command & (mode | level)) != 0)
        {
            Fail(command, high, Failure.InvalidInterruptType, 0);
            return;
        }
        var vector = (byte)command;
        if (vector < 16)
        {
            Fail(command, high, Failure.InvalidVector, 0);
            return;
        }
        if (shorthand == 1)
        {
            Accept(svm.Memory.Page(BackingPage), vector);
            Evaluate();
            return;
        }
        bool wide = HasMsrs;
        uint destination = wide ? high : high >> 24;
        if (shorthand >= 2 || destination == (wide ? uint.MaxValue : 0xFF)) Broadcast(command, high, vector, toSelf: shorthand != 3);
        else if ((command & logical) == 0) SendTo(command, high, vector, [destination]);
        else if (wide) SendTo(command, high, vector, ClusterTargets(destination));
        else if (LogicalTargets(destination) is { } targets) SendTo(command, high, vector, targets);
        else Fail(command, high, Failure.InvalidTarget, 0);
    }

    private void Fail(uint command, uint high, Failure failure, uint index) =>
        svm.ExitSoon(SvmExit.AvicIncompleteIpi, command | (ulong)high << 32, index | (ulong)failure << 32);

    /// <summary>Of the physical APIC ID table, which fills at most a page.</summary>
    private uint LastTarget => (uint)svm.Control->AvicPhysicalTable & (HasMsrs ? 0x1FFu : 0xFF);

    /// <summary>An entry of the physical APIC ID table; 0 where there is none.</summary>
    private ulong Entry(uint id)
    {
        byte* page = svm.Memory.Page(svm.Control->AvicPhysicalTable & AddressBits);
        return page == null || id > LastTarget ? 0 : Volatile.Read(ref *(ulong*)(page + id * sizeof(ulong)));
    }

    /// <summary>Through the logical APIC ID table: an entry for each bit of a destination, in the flat model or in a cluster. Null: one is not valid.</summary>
    private List<uint>? LogicalTargets(uint destination)
    {
        byte* table = svm.Memory.Page(svm.Control->AvicLogicalTable & AddressBits);
        if (table == null) return null;
        bool flat = Get(DestinationFormat) >> 28 == 0xF;
        uint first = flat ? 0 : (destination >> 4) * 4, bits = flat ? destination : destination & 0xF;
        if (!flat && first >= 60) return null; // cluster 15 is all of them
        var targets = new List<uint>();
        for (; bits != 0; bits &= bits - 1)
        {
            uint entry = Volatile.Read(ref *(uint*)(table + (first + (uint)BitOperations.TrailingZeroCount(bits)) * sizeof(uint)));
            if ((entry & 1u << 31) == 0) return null;
            targets.Add(entry & 0xFF);
        }
        return targets;
    }

    /// <summary>In x2APIC mode the logical ID follows from the ID: 16 bits of a cluster, and its number. There is no table.</summary>
    private static List<uint> ClusterTargets(uint destination)
    {
        var targets = new List<uint>();
        for (uint bits = destination & 0xFFFF; bits != 0; bits &= bits - 1)
            targets.Add((destination >> 16) * 16 + (uint)BitOperations.TrailingZeroCount(bits));
        return targets;
    }

    private void Broadcast(uint command, uint high, byte vector, bool toSelf)
    {
        var targets = new List<uint>();
        for (uint id = 0; id <= LastTarget; id++)
        {
            ulong entry = Entry(id);
            if ((entry & EntryValid) != 0 && (toSelf || (entry & AddressBits) != BackingPage)) targets.Add(id);
        }
        SendTo(command, high, vector, targets);
    }

    /// <summary>All targets are looked at before any gets the interrupt; one that does not run gets it, and the host is told.</summary>
    private void SendTo(uint command, uint high, byte vector, IReadOnlyList<uint> targets)
    {
        foreach (uint id in targets)
        {
            ulong entry = Entry(id);
            if ((entry & EntryValid) == 0 || svm.Memory.Page(entry & AddressBits) == null)
            {
                Fail(command, high, (entry & EntryValid) == 0 ? Failure.InvalidTarget : Failure.InvalidBackingPage, id);
                return;
            }
        }
        uint? asleep = null;
        foreach (uint id in targets)
        {
            ulong entry = Entry(id);
            byte* page = svm.Memory.Page(entry & AddressBits);
            if (page == null) continue; // others write to the table
            Accept(page, vector);
            if ((entry & AddressBits) == BackingPage) Evaluate();
            else if ((entry & EntryRunning) != 0) RingAt((uint)entry & (HasMsrs ? 0xFFFu : 0xFF));
            else asleep ??= id;
        }
        if (asleep is { } target) Fail(command, high, Failure.TargetNotRunning, target);
    }

    private void Accept(byte* page, byte vector)
    {
        if (page == null) return;
        SetBit(page, Trigger, vector, false);
        SetBit(page, Request, vector, true);
    }

    /// <summary>Rings the doorbell of the processor with this APIC ID; there need be none.</summary>
    public void RingAt(uint id) => p.Group.Find(id)?.Svm?.Avic.Ring();
}
