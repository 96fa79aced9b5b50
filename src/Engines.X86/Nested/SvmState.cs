namespace Bunraku.Engines.X86;

/// <summary>
/// What a processor with SVM has beside its registers. What the host of a guest goes on with lies in its host save area in memory; the guest's registers are
/// those of the processor. A plain container.
/// </summary>
/// <remarks>AMD APM vol. 2, "Secure Virtual Machine".</remarks>
public sealed class SvmState
{
    /// <summary>Bytes of a VMCB's control area that mean anything.</summary>
    public const int ControlSize = 256;

    /// <summary>Where the guest's ASID, NP_ENABLE with what belongs to it, and N_CR3 lie in a VMCB's control area.</summary>
    public const int AsidOffset = 0x58, NestedControlOffset = 0x90, NestedCr3Offset = 0xB0;

    /// <summary>NP_ENABLE.</summary>
    public const ulong NestedPaging = 1;

    /// <summary>GIF: clear, it holds interrupts, NMIs and INIT back.</summary>
    public bool GlobalInterruptFlag = true;
    /// <summary>VM_CR, VM_HSAVE_PA, the key of VM_CR's lock, and the TSC ratio as 8 and 32 bits of a fixed-point number.</summary>
    public ulong VmCr, HostSaveArea, Key, TscRatio = 1ul << 32;

    /// <summary>An INIT has become #SX, which is not delivered yet.</summary>
    public bool SecurityExceptionDue;

    /// <summary>A guest runs. Everything below counts only then.</summary>
    public bool InGuest;
    /// <summary>Physical address of the guest's VMCB.</summary>
    public ulong Vmcb;
    /// <summary>The VMCB's control area as VMRUN has read it, with what has changed since: the virtual interrupt, the TLB control that is done.</summary>
    public byte[] Control = new byte[ControlSize];
    /// <summary>CR0, CR4 and EFER of the host: how nested page tables are read.</summary>
    public ulong HostCr0, HostCr4, HostEfer;
    /// <summary>PAT of the host while nested paging gives the guest its own.</summary>
    public ulong HostPat;
    /// <summary>PDPTEs of a host with PAE paging.</summary>
    public ulong[] HostPdptes = new ulong[4];
    /// <summary>RFLAGS.IF of the host, which holds physical interrupts back where those of the guest are virtual.</summary>
    public bool HostInterruptFlag;

    /// <summary>AVIC: an interrupt is recognized, or a doorbell was rung.</summary>
    public bool AvicRecognized;
    /// <summary>Code and EXITINFO of an exit that comes behind the last instruction; 0: none does.</summary>
    public ulong PendingExit, PendingExitInfo1, PendingExitInfo2;

    /// <summary>The guest's addresses go through nested page tables.</summary>
    public bool HasNestedPaging => InGuest && (BitConverter.ToUInt64(Control, NestedControlOffset) & NestedPaging) != 0;

    /// <summary>N_CR3, which names its nested page tables, and the guest's ASID.</summary>
    public ulong NestedCr3 => BitConverter.ToUInt64(Control, NestedCr3Offset);

    /// <inheritdoc cref="NestedCr3"/>
    public uint Asid => BitConverter.ToUInt32(Control, AsidOffset);

    /// <summary>PAUSE may still be executed so often before it exits.</summary>
    public int PauseCount;
    /// <summary>Instructions since the last PAUSE.</summary>
    public ulong SincePause;

    /// <summary>Nothing differs that both engines must agree on at an exit: not how long ago a PAUSE was.</summary>
    /// <param name="a">One.</param>
    /// <param name="b">The other; neither need be there.</param>
    public static bool AreEqual(SvmState? a, SvmState? b)
    {
        if (a is null || b is null) return a is null && b is null;
        return (a.GlobalInterruptFlag, a.VmCr, a.HostSaveArea, a.Key, a.TscRatio, a.SecurityExceptionDue, a.InGuest)
                == (b.GlobalInterruptFlag, b.VmCr, b.HostSaveArea, b.Key, b.TscRatio, b.SecurityExceptionDue, b.InGuest)
            && (!a.InGuest || ((a.PendingExitInfo1, a.PendingExitInfo2) == (b.PendingExitInfo1, b.PendingExitInfo2)
                && (a.Vmcb, a.HostCr0, a.HostCr4, a.HostEfer, a.HostPat, a.HostInterruptFlag, a.PauseCount, a.AvicRecognized, a.PendingExit)
                    == (b.Vmcb, b.HostCr0, b.HostCr4, b.HostEfer, b.HostPat, b.HostInterruptFlag, b.PauseCount, b.AvicRecognized, b.PendingExit)
                && a.Control.AsSpan().SequenceEqual(b.Control) && a.HostPdptes.AsSpan().SequenceEqual(b.HostPdptes)));
    }

    /// <summary>One line about it.</summary>
    public override string ToString() =>
        $"{(InGuest ? $"guest of VMCB 0x{Vmcb:X}" : "host")}, GIF {(GlobalInterruptFlag ? 1 : 0)}, VM_CR 0x{VmCr:X}, control {Convert.ToHexString(Control)}";

    /// <summary>A copy that nothing is shared with.</summary>
    public SvmState Clone()
    {
        var copy = (SvmState)MemberwiseClone();
        copy.Control = [.. Control];
        copy.HostPdptes = [.. HostPdptes];
        return copy;
    }
}
