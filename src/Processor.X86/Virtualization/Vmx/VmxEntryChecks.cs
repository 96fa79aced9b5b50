using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>One check of a VM entry.</summary>
/// <param name="Name">What is checked, in the manual's words.</param>
internal readonly record struct VmxEntryCheck(string Name, Func<VmxEntryChecks, bool> Holds);

/// <summary>
/// The checks that a VM entry makes before it loads anything, in the manual's order: controls, host state, guest state. The first that does not hold decides.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "VM Entries", sections "Checks on VMX Controls and Host-State Area" and "Checking and Loading Guest State".</remarks>
internal sealed unsafe partial class VmxEntryChecks(Processor p, Vmx vmx)
{
    private readonly ulong _beyondPhysical = ~((1ul << p.Model.PhysicalAddressBits) - 1);
    private readonly ulong _pin = Capability(p, VmxCapabilities.TruePinBased), _primary = Capability(p, VmxCapabilities.TrueProcessorBased),
        _secondary = Capability(p, VmxCapabilities.Secondary), _exit = Capability(p, VmxCapabilities.TrueExit),
        _entry = Capability(p, VmxCapabilities.TrueEntry);

    private Vmcs _v = vmx.Current;

    private static ulong Capability(Processor p, uint index) => VmxCapabilities.Read(index, p.Model, p.ControlRegisters.Cr4Allowed);

    // The controls as they stand in the VMCS.
    private PinControls Pin { get; set; }

    private ProcessorControls Primary { get; set; }

    private SecondaryControls Secondary { get; set; }

    private ExitControls Exit { get; set; }

    private EntryControls Entry { get; set; }

    private uint Interruption { get; set; }

    /// <summary>Of a failed check of guest state.</summary>
    public ulong Qualification { get; private set; }

    public void Begin()
    {
        _v = vmx.Current;
        Pin = (PinControls)_v[VmcsField.PinBasedControls];
        Primary = (ProcessorControls)_v[VmcsField.ProcessorBasedControls];
        Secondary = (Primary & ProcessorControls.ActivateSecondaryControls) != 0 ? (SecondaryControls)_v[VmcsField.SecondaryControls] : 0;
        Exit = (ExitControls)_v[VmcsField.ExitControls];
        Entry = (EntryControls)_v[VmcsField.EntryControls];
        Interruption = (uint)_v[VmcsField.EntryInterruptionInformation];
    }

    /// <summary>Name of the first check that does not hold; null: all do.</summary>
    public string? FirstFailure(VmxEntryCheck[] checks)
    {
        Qualification = 0;
        foreach (ref readonly VmxEntryCheck check in checks.AsSpan())
        {
            if (!check.Holds(this)) return check.Name;
        }
        return null;
    }

    // ---- words of the tables

    private bool Has(PinControls c) => (Pin & c) != 0;

    private bool Has(ProcessorControls c) => (Primary & c) != 0;

    private bool Has(SecondaryControls c) => (Secondary & c) != 0;

    private bool Has(ExitControls c) => (Exit & c) != 0;

    private bool Has(EntryControls c) => (Entry & c) != 0;

    private static bool Allows(ulong capability, uint value) => (~value & (uint)capability) == 0 && (value & ~(uint)(capability >> 32)) == 0;

    /// <summary>A physical address that is a multiple of <paramref name="alignment"/> and within the address width.</summary>
    private bool IsAddress(VmcsField field, ulong alignment = GuestMemory.PageSize) => (_v[field] & (alignment - 1)) == 0 && (_v[field] & _beyondPhysical) == 0;

    private bool IsMsrList(VmcsField count, VmcsField address) => _v[count] == 0
        || (IsAddress(address, 16) && ((_v[address] + _v[count] * 16 - 1) & _beyondPhysical) == 0);

    private bool IsCanonical(VmcsField field) => p.IsCanonicalBase(_v[field]);

    private static bool ArePatTypes(ulong pat) => MsrFile.AreMemoryTypes(pat, uncachedMinus: true);

    public bool IsEptPointer(ulong pointer)
    {
        // Write-back or uncacheable, four levels.
        ulong reserved = p.Model.Has(CpuFeature.VmxEptad) ? 0xF80 : 0xF80 | EptBits.PointerAccessedDirty;
        return (pointer & 7) is 0 or 6 && EptBits.PointerLevels(pointer) == 4 && (pointer & reserved) == 0 && (pointer & _beyondPhysical) == 0;
    }

    private const string TprThreshold = "TPR threshold";

    /// <summary>The checks on VM-execution, VM-exit and VM-entry control fields.</summary>
    public static readonly VmxEntryCheck[] Controls =
    [
        new("Reserved bits of the pin-based controls", c => Allows(c._pin, (uint)c.Pin)),
        new("Reserved bits of the primary processor-based controls", c => Allows(c._primary, (uint)c.Primary)),
        new("Reserved bits of the secondary processor-based controls", c => !c.Has(ProcessorControls.ActivateSecondaryControls)
            || Allows(c._secondary, (uint)c.Secondary)),
        new("CR3-target count", c => c._v[VmcsField.Cr3TargetCount] <= VmxCapabilities.Cr3Targets),
        new("I/O-bitmap addresses", c => !c.Has(ProcessorControls.UseIoBitmaps) || (c.IsAddress(VmcsField.IoBitmapA) && c.IsAddress(VmcsField.IoBitmapB))),
        new("MSR-bitmap address", c => !c.Has(ProcessorControls.UseMsrBitmaps) || c.IsAddress(VmcsField.MsrBitmaps)),
        new("Virtual-APIC address", c => !c.Has(ProcessorControls.UseTprShadow) || c.IsAddress(VmcsField.VirtualApicAddress)),
        new(TprThreshold, c => !c.Has(ProcessorControls.UseTprShadow) || c.Has(SecondaryControls.VirtualInterruptDelivery)
            || (c._v[VmcsField.TprThreshold] >> 4 == 0 && (c.Has(SecondaryControls.VirtualizeApicAccesses)
                || c._v[VmcsField.TprThreshold] <= (ulong)(c.VirtualTpr >> 4)))),
        new("APIC virtualization without TPR shadow", c => c.Has(ProcessorControls.UseTprShadow)
            || !c.Has(SecondaryControls.VirtualizeX2Apic | SecondaryControls.ApicRegisterVirtualization | SecondaryControls.VirtualInterruptDelivery)),
        new("Virtual NMIs without NMI exiting", c => c.Has(PinControls.NmiExiting) || !c.Has(PinControls.VirtualNmis)),
        new("NMI-window exiting without virtual NMIs", c => c.Has(PinControls.VirtualNmis) || !c.Has(ProcessorControls.NmiWindowExiting)),
        new("APIC-access address", c => !c.Has(SecondaryControls.VirtualizeApicAccesses) || c.IsAddress(VmcsField.ApicAccessAddress)),
        new("Virtualize x2APIC mode with APIC accesses", c => !c.Has(SecondaryControls.VirtualizeX2Apic) || !c.Has(SecondaryControls.VirtualizeApicAccesses)),
        new("Virtual-interrupt delivery without external-interrupt exiting", c => !c.Has(SecondaryControls.VirtualInterruptDelivery)
            || c.Has(PinControls.ExternalInterruptExiting)),
        new("Posted interrupts", c => !c.Has(PinControls.ProcessPostedInterrupts) || (c.Has(SecondaryControls.VirtualInterruptDelivery)
            && c.Has(ExitControls.AcknowledgeInterruptOnExit) && c._v[VmcsField.PostedInterruptNotificationVector] <= 0xFF
            && c.IsAddress(VmcsField.PostedInterruptDescriptor, 64))),
        new("VPID 0000h", c => !c.Has(SecondaryControls.EnableVpid) || c._v[VmcsField.VirtualProcessorIdentifier] != 0),
        new("EPT pointer", c => !c.Has(SecondaryControls.EnableEpt) || c.IsEptPointer(c._v[VmcsField.EptPointer])),
        new("PML without EPT, or its address", c => !c.Has(SecondaryControls.EnablePml)
            || (c.Has(SecondaryControls.EnableEpt) && c.IsAddress(VmcsField.PmlAddress))),
        new("Unrestricted guest without EPT", c => !c.Has(SecondaryControls.UnrestrictedGuest) || c.Has(SecondaryControls.EnableEpt)),
        new("Mode-based execute control without EPT", c => !c.Has(SecondaryControls.ModeBasedExecute) || c.Has(SecondaryControls.EnableEpt)),
        new("VM functions", c => !c.Has(SecondaryControls.EnableVmFunctions) || (c._v[VmcsField.VmFunctionControls] & ~VmxCapabilities.EptpSwitching) == 0),
        new("EPTP switching", c => !c.Has(SecondaryControls.EnableVmFunctions) || (c._v[VmcsField.VmFunctionControls] & 1) == 0
            || (c.Has(SecondaryControls.EnableEpt) && c.IsAddress(VmcsField.EptpListAddress))),
        new("VMREAD and VMWRITE bitmaps", c => !c.Has(SecondaryControls.VmcsShadowing)
            || (c.IsAddress(VmcsField.VmreadBitmap) && c.IsAddress(VmcsField.VmwriteBitmap))),
        new("Virtualization-exception information address", c => !c.Has(SecondaryControls.EptViolationVe)
            || c.IsAddress(VmcsField.VirtualizationExceptionAddress)),
        new("Reserved bits of the VM-exit controls", c => Allows(c._exit, (uint)c.Exit)),
        new("Saving the preemption timer without it", c => c.Has(PinControls.PreemptionTimer) || !c.Has(ExitControls.SavePreemptionTimer)),
        new("VM-exit MSR-store list", c => c.IsMsrList(VmcsField.ExitMsrStoreCount, VmcsField.ExitMsrStoreAddress)),
        new("VM-exit MSR-load list", c => c.IsMsrList(VmcsField.ExitMsrLoadCount, VmcsField.ExitMsrLoadAddress)),
        new("Reserved bits of the VM-entry controls", c => Allows(c._entry, (uint)c.Entry)),
        new("VM-entry interruption-information field", c => c.IsInjectionValid()),
        new("VM-entry MSR-load list", c => c.IsMsrList(VmcsField.EntryMsrLoadCount, VmcsField.EntryMsrLoadAddress)),
        new("Entry to SMM outside SMM", c => !c.Has(EntryControls.EntryToSmm) && !c.Has(EntryControls.DeactivateDualMonitor)),
    ];

    /// <summary>Those of them that depend on more than the VMCS.</summary>
    public static readonly VmxEntryCheck[] ControlsInMemory = [.. Controls.Where(c => c.Name == TprThreshold)];

    /// <summary>VTPR in the virtual-APIC page.</summary>
    private byte VirtualTpr => vmx.Memory.Read<byte>(_v[VmcsField.VirtualApicAddress] + 0x80);

    private bool IsInjectionValid()
    {
        uint info = Interruption;
        if ((info & 1u << 31) == 0) return true;
        uint type = info >> 8 & 7, vector = info & 0xFF;
        if (type == 1 || (info & 0x7FFF_F000) != 0) return false;
        if (type == 7 && !(p.Model.Has(CpuFeature.VmxMtf) && vector == 0)) return false;
        if ((type == 2 && vector != 2) || (type == 3 && vector > 31)) return false;
        bool deliversError = (info & 1 << 11) != 0;
        bool unrestrictedReal = Has(SecondaryControls.UnrestrictedGuest) && (_v[VmcsField.GuestCr0] & (ulong)Cr0.Pe) == 0;
        // IA32_VMX_BASIC bit 56: with or without an error code whatever the vector, but never in real mode.
        if (deliversError && (type != 3 || unrestrictedReal)) return false;
        if (deliversError && (_v[VmcsField.EntryExceptionErrorCode] & 0xFFFF_8000) != 0) return false;
        return type < 4 || type == 7 || _v[VmcsField.EntryInstructionLength] <= 15;
    }

    private bool IsHostCr(ulong cr0, ulong cr4) => (VmxCapabilities.Cr0Required & ~cr0) == 0 && cr0 >> 32 == 0
        && (VmxCapabilities.Cr4Required & ~cr4) == 0 && (cr4 & ~p.ControlRegisters.Cr4Allowed) == 0;

    private static bool IsHostSelector(ulong selector) => (selector & 7) == 0;

    private bool LongHost => Has(ExitControls.HostAddressSpaceSize);

    /// <summary>The checks on the host-state area.</summary>
    public static readonly VmxEntryCheck[] Host =
    [
        new("Host CR0 and CR4", c => c.IsHostCr(c._v[VmcsField.HostCr0], c._v[VmcsField.HostCr4])),
        new("Host CR3", c => (c._v[VmcsField.HostCr3] & c._beyondPhysical) == 0),
        new("Host IA32_SYSENTER_ESP and EIP", c => c.IsCanonical(VmcsField.HostSysenterEsp) && c.IsCanonical(VmcsField.HostSysenterEip)),
        new("Host IA32_PAT", c => !c.Has(ExitControls.LoadPat) || ArePatTypes(c._v[VmcsField.HostPat])),
        new("Host IA32_EFER", c => !c.Has(ExitControls.LoadEfer) || c.IsEfer(c._v[VmcsField.HostEfer], c.LongHost, paging: true)),
        new("RPL and TI of host selectors", c => IsHostSelector(c._v[VmcsField.HostEsSelector] | c._v[VmcsField.HostCsSelector]
            | c._v[VmcsField.HostSsSelector] | c._v[VmcsField.HostDsSelector] | c._v[VmcsField.HostFsSelector] | c._v[VmcsField.HostGsSelector]
            | c._v[VmcsField.HostTrSelector])),
        new("Host CS and TR selectors", c => c._v[VmcsField.HostCsSelector] != 0 && c._v[VmcsField.HostTrSelector] != 0),
        new("Host SS selector", c => c.LongHost || c._v[VmcsField.HostSsSelector] != 0),
        new("Host bases", c => c.IsCanonical(VmcsField.HostFsBase) && c.IsCanonical(VmcsField.HostGsBase) && c.IsCanonical(VmcsField.HostGdtrBase)
            && c.IsCanonical(VmcsField.HostIdtrBase) && c.IsCanonical(VmcsField.HostTrBase)),
        new("Host address-space size outside IA-32e mode", c => CpuMode.IsLong(c.State) || (!c.Has(EntryControls.Ia32eModeGuest) && !c.LongHost)),
        new("Host address-space size in IA-32e mode", c => !CpuMode.IsLong(c.State) || c.LongHost),
        new("Host address space of 32 bits", c => c.LongHost || (!c.Has(EntryControls.Ia32eModeGuest) && (c._v[VmcsField.HostCr4] & (ulong)Cr4.Pcide) == 0
            && c._v[VmcsField.HostRip] >> 32 == 0)),
        new("Host address space of 64 bits", c => !c.LongHost || ((c._v[VmcsField.HostCr4] & (ulong)Cr4.Pae) != 0 && c.IsCanonicalRip(c._v[VmcsField.HostRip],
            c._v[VmcsField.HostCr4]))),
    ];

    private ProcessorState* State => p.State;

    private static bool IsCanonicalFor(ulong address, ulong cr4)
    {
        int shift = (cr4 & (ulong)Cr4.La57) != 0 ? 64 - 57 : 64 - 48;
        return (ulong)((long)(address << shift) >> shift) == address;
    }

    private bool IsCanonicalRip(ulong address, ulong cr4) => IsCanonicalFor(address, cr4);

    private bool IsEfer(ulong efer, bool longMode, bool paging) => (efer & ~p.Msrs.EferAllowed) == 0 && ((efer & (ulong)Efer.Lma) != 0) == longMode
        && (!paging || ((efer & (ulong)Efer.Lme) != 0) == longMode);
}
