using System.Numerics;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The virtual APIC of a guest: the registers on its virtual-APIC page, the virtual interrupts that wait there, and those that are posted. Which accesses come
/// here is in <see cref="VirtualApicAccess"/>; the task priority comes by MOV to CR8 as well, and some registers by RDMSR and WRMSR.
/// </summary>
/// <remarks>
/// Intel SDM vol. 3C, "APIC Virtualization and Virtual Interrupts". The page is the hypervisor's: whatever it holds, no index comes from it that is not one of
/// 256 vectors. RVI and SVI are where the VMCS has them while the guest runs.
/// </remarks>
internal sealed unsafe class VirtualApic(Processor p, Vmx vmx) : ApicRegisterPage
{
    /// <summary>
    /// An exit that comes behind the instruction that has brought it about, before anything else happens; with its qualification. Null: none does.
    /// </summary>
    public (VmxExitReason Reason, ulong Qualification)? PendingExit { get; private set; }

    /// <summary>A pending virtual interrupt is recognized: it is delivered as soon as the guest can take one.</summary>
    public bool IsRecognized { get; private set; }

    private bool DeliversInterrupts => vmx.Has(SecondaryControls.VirtualInterruptDelivery);

    private bool VirtualizesRegisters => vmx.Has(SecondaryControls.ApicRegisterVirtualization);

    private ref ulong Status => ref vmx.Current[VmcsField.GuestInterruptStatus];

    /// <summary>RVI: the highest virtual interrupt that is requested; 0: none.</summary>
    private byte Requested
    {
        get => (byte)Status;
        set => Status = Status & 0xFF00 | value;
    }

    /// <summary>SVI: the virtual interrupt that is in service; 0: none.</summary>
    private byte Served
    {
        get => (byte)(Status >> 8);
        set => Status = Status & 0xFF | (ulong)value << 8;
    }

    // ---- the page

    private ulong Page => vmx.Current[VmcsField.VirtualApicAddress];

    /// <inheritdoc/>
    public override uint Get(uint offset) => vmx.Memory.Read<uint>(Page + offset);

    private ulong ReadWide(uint offset) => vmx.Memory.Read<ulong>(Page + offset);

    private void Write(uint offset, uint value) => vmx.Memory.Write(Page + offset, value);

    /// <summary>A bit of VISR or VIRR: 32 of them stand in each 16 bytes.</summary>
    private void SetBit(uint register, byte vector, bool value)
    {
        uint offset = RegisterOf(register, vector), bit = BitOf(vector);
        Write(offset, value ? Get(offset) | bit : Get(offset) & ~bit);
    }

    // ---- entering and leaving

    /// <summary>The guest's controls are in force.</summary>
    public void Begin() => (PendingExit, IsRecognized) = (null, false);

    /// <summary>
    /// The guest is entered: its processor priority is made up anew, and what waits is looked at; without virtual-interrupt delivery a task priority below the
    /// threshold exits at once where the APIC's page is virtualized.
    /// </summary>
    /// <remarks>Intel SDM vol. 3C, "VM Exits Induced by the TPR Threshold", "PPR Virtualization".</remarks>
    public void Enter()
    {
        if (DeliversInterrupts)
        {
            UpdatePriority();
            Evaluate();
        }
        else if (vmx.Has(ProcessorControls.UseTprShadow) && vmx.Has(SecondaryControls.VirtualizeApicAccesses) && vmx.Current[VmcsField.GuestActivity] <= 1)
        {
            CheckThreshold();
        }
    }

    public void Save(VmxState state)
    {
        state.RecognizesInterrupt = IsRecognized;
        (state.PendingExit, state.PendingExitQualification) = PendingExit is { } exit ? ((uint)exit.Reason, exit.Qualification) : (0, 0);
    }

    public void Restore(VmxState state)
    {
        Begin();
        if (!vmx.InGuest) return;
        IsRecognized = state.RecognizesInterrupt && DeliversInterrupts;
        if (state.PendingExit != 0) PendingExit = ((VmxExitReason)state.PendingExit, state.PendingExitQualification);
    }

    private void ExitBehind(VmxExitReason reason, ulong qualification)
    {
        PendingExit = (reason, qualification);
        p.WantAttention();
    }

    /// <summary>The exit that is due, once.</summary>
    public bool TakeExit(out VmxExitReason reason, out ulong qualification)
    {
        (reason, qualification) = PendingExit ?? default;
        bool due = PendingExit != null;
        PendingExit = null;
        return due;
    }

    // ---- priorities

    /// <summary>CR8 of the guest.</summary>
    public ulong ReadCr8() => Get(TaskPriority) >> 4 & 0xF;

    /// <summary>MOV to CR8.</summary>
    public void WriteCr8(ulong cr8) => WriteTaskPriority((uint)cr8 << 4);

    private void WriteTaskPriority(uint value)
    {
        Write(TaskPriority, value);
        TaskPriorityChanged();
    }

    /// <summary>TPR virtualization.</summary>
    private void TaskPriorityChanged()
    {
        if (!DeliversInterrupts)
        {
            CheckThreshold();
            return;
        }
        UpdatePriority();
        Evaluate();
    }

    private void CheckThreshold()
    {
        if ((Get(TaskPriority) >> 4 & 0xF) < (vmx.Current[VmcsField.TprThreshold] & 0xF)) ExitBehind(VmxExitReason.TprBelowThreshold, 0);
    }

    /// <summary>PPR virtualization.</summary>
    private void UpdatePriority()
    {
        uint task = Get(TaskPriority) & 0xFF, served = Served;
        Write(ProcessorPriority, task >> 4 >= served >> 4 ? task : served & 0xF0);
    }

    // ---- virtual interrupts

    /// <summary>Evaluation of pending virtual interrupts.</summary>
    private void Evaluate()
    {
        IsRecognized = !vmx.Has(ProcessorControls.InterruptWindowExiting) && Requested >> 4 > (int)(Get(ProcessorPriority) >> 4 & 0xF);
        p.Events.UpdateWindowAttention();
    }

    /// <summary>Virtual-interrupt delivery. Between two instructions, when the guest can take an interrupt and one is recognized.</summary>
    public void Deliver()
    {
        byte vector = Requested;
        SetBit(InService, vector, true);
        Served = vector;
        Write(ProcessorPriority, vector & 0xF0u);
        SetBit(Request, vector, false);
        Requested = Highest(Request);
        IsRecognized = false;
        vmx.NoteActive();
        p.Delivery.CountGuestEvent();
        p.Delivery.DeliverInterrupt(vector);
        if (!vmx.InGuest || !vmx.Has(ProcessorControls.MonitorTrapFlag)) return;
        // What the flag traps after is the delivery, which may have to be tried again.
        if (p.Exits.Pending) vmx.TrapPending = true;
        else vmx.Exit.Leave(VmxExitReason.MonitorTrapFlag, 0, 0);
    }

    /// <summary>EOI virtualization.</summary>
    private void EndInterrupt()
    {
        byte vector = Served;
        SetBit(InService, vector, false);
        Served = Highest(InService);
        UpdatePriority();
        if (ExitsAtEnd(vector)) ExitBehind(VmxExitReason.VirtualizedEoi, vector);
        else Evaluate();
    }

    /// <summary>The EOI-exit bitmap has the vector.</summary>
    private bool ExitsAtEnd(byte vector) => (vmx.Current[VmcsField.EoiExitBitmap0 + (ushort)(2 * (vector >> 6))] >> (vector & 63) & 1) != 0;

    /// <summary>Self-IPI virtualization.</summary>
    private void SendSelf(byte vector)
    {
        SetBit(Request, vector, true);
        Requested = Math.Max(Requested, vector);
        Evaluate();
    }

    private const int OutstandingNotification = 32; // byte of the posted-interrupt descriptor whose bit 0 it is

    /// <summary>
    /// Posted-interrupt processing: what others have left in the descriptor becomes virtual interrupts that are requested. The notification is not outstanding
    /// any more from before the requests are taken, so that none is left behind.
    /// </summary>
    /// <remarks>Intel SDM vol. 3C, "Posted-Interrupt Processing".</remarks>
    public void TakePosted()
    {
        byte* descriptor = vmx.Memory.Pointer(vmx.Current[VmcsField.PostedInterruptDescriptor], PageRights.Read | PageRights.Write);
        if (descriptor != null)
        {
            vmx.Memory.BeforeWrite(descriptor);
            Interlocked.And(ref *(uint*)(descriptor + OutstandingNotification), ~1u);
            for (uint n = 0; n < 8; n++)
            {
                uint posted = Interlocked.Exchange(ref *(uint*)(descriptor + n * sizeof(uint)), 0);
                if (posted == 0) continue;
                Write(Request + n * 16, Get(Request + n * 16) | posted);
                Requested = Math.Max(Requested, (byte)(n * 32 + (uint)BitOperations.Log2(posted)));
            }
            vmx.Memory.Written(descriptor, OutstandingNotification + sizeof(uint));
        }
        Evaluate();
    }

    // ---- the APIC's page

    /// <summary>The access, which is virtualized, writes; with what follows ("APIC-write emulation").</summary>
    public void WritePage(uint offset, byte* source, int length)
    {
        uint register = offset & ~3u, value = Changed(offset, source, length);
        switch (register)
        {
            case TaskPriority:
                WriteTaskPriority(value & 0xFF);
                return;
            case InterruptCommandHigh:
                Write(register, value & 0xFF00_0000);
                return;
            case EndOfInterrupt when DeliversInterrupts:
                Write(register, 0);
                EndInterrupt();
                return;
            case InterruptCommand when DeliversInterrupts && IsSelfIpi(value):
                Write(register, value);
                SendSelf((byte)value);
                return;
            default:
                Write(register, value);
                ExitBehind(VmxExitReason.ApicWrite, offset);
                return;
        }
    }

    /// <summary>Fixed, edge-triggered, to itself by the shorthand, of a vector that may be; no reserved bit is set, nor the delivery status.</summary>
    private static bool IsSelfIpi(uint command)
    {
        const uint shorthand = 3 << 18, self = 1 << 18, reserved = 0xFFF0_0000 | 3 << 16 | 1 << 13 | 1 << 12, level = 1 << 15, mode = 7 << 8;
        return (command & (reserved | shorthand | level | mode)) == self && (command & 0xF0) != 0;
    }

    /// <summary>
    /// What a write at this offset brings about may be an exit or a virtual interrupt that comes before the next instruction: the instruction must be executed
    /// alone.
    /// </summary>
    public bool MayInterrupt(uint offset) => (offset & ~3u) switch
    {
        InterruptCommandHigh => false,
        TaskPriority => DeliversInterrupts ? Requested >> 4 != 0 : (vmx.Current[VmcsField.TprThreshold] & 0xF) != 0,
        EndOfInterrupt when DeliversInterrupts => Requested >> 4 != 0 || ExitsAtEnd(Served),
        _ => true,
    };

    // ---- MSRs

    private const uint FirstMsr = 0x800, LastMsr = 0x8FF, TprMsr = 0x808, EoiMsr = 0x80B, SelfIpiMsr = 0x83F;

    private bool IsVirtual(uint msr) => msr is >= FirstMsr and <= LastMsr && vmx.Has(SecondaryControls.VirtualizeX2Apic);

    /// <summary>RDMSR of a register of the virtual APIC. False: the MSR is not virtualized.</summary>
    public bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0;
        if (!IsVirtual(msr) || (msr != TprMsr && !VirtualizesRegisters)) return false;
        value = ReadWide((msr & 0xFF) << 4);
        return true;
    }

    /// <summary>WRMSR of a register of the virtual APIC. Null: the MSR is not virtualized; false: #GP.</summary>
    public bool? WriteMsr(uint msr, ulong value)
    {
        if (!IsVirtual(msr)) return null;
        switch (msr)
        {
            case TprMsr:
                if (value > 0xFF) return false;
                Write(TaskPriority + 4, 0);
                WriteTaskPriority((uint)value);
                return true;
            case EoiMsr when DeliversInterrupts:
                if (value != 0) return false;
                Write(EndOfInterrupt, 0);
                EndInterrupt();
                return true;
            case SelfIpiMsr when DeliversInterrupts:
                if (value > 0xFF) return false;
                Write(SelfIpi, (uint)value);
                if (value >> 4 == 0) ExitBehind(VmxExitReason.ApicWrite, SelfIpi);
                else SendSelf((byte)value);
                return true;
            default:
                return null;
        }
    }
}
