namespace Bunraku.Engines.X86;

#pragma warning disable CS1591 // names of the manual

/// <summary>The fields of a VMCS that this processor has, by their encoding.</summary>
/// <remarks>
/// Intel SDM vol. 3D, appendix "Field Encoding in VMCS": bit 0 access to the upper half, bits 9:1 index, 11:10 type (control, read-only data, guest, host),
/// 14:13 width (16, 64, 32 bits, natural).
/// </remarks>
public enum VmcsField : ushort
{
    // 16-bit control fields
    VirtualProcessorIdentifier = 0x0000, PostedInterruptNotificationVector = 0x0002, EptpIndex = 0x0004,
    // 16-bit guest-state fields
    GuestEsSelector = 0x0800, GuestCsSelector = 0x0802, GuestSsSelector = 0x0804, GuestDsSelector = 0x0806, GuestFsSelector = 0x0808,
    GuestGsSelector = 0x080A, GuestLdtrSelector = 0x080C, GuestTrSelector = 0x080E, GuestInterruptStatus = 0x0810, PmlIndex = 0x0812,
    // 16-bit host-state fields
    HostEsSelector = 0x0C00, HostCsSelector = 0x0C02, HostSsSelector = 0x0C04, HostDsSelector = 0x0C06, HostFsSelector = 0x0C08,
    HostGsSelector = 0x0C0A, HostTrSelector = 0x0C0C,
    // 64-bit control fields
    IoBitmapA = 0x2000, IoBitmapB = 0x2002, MsrBitmaps = 0x2004, ExitMsrStoreAddress = 0x2006, ExitMsrLoadAddress = 0x2008,
    EntryMsrLoadAddress = 0x200A, ExecutiveVmcsPointer = 0x200C, PmlAddress = 0x200E, TscOffset = 0x2010, VirtualApicAddress = 0x2012,
    ApicAccessAddress = 0x2014, PostedInterruptDescriptor = 0x2016, VmFunctionControls = 0x2018, EptPointer = 0x201A, EoiExitBitmap0 = 0x201C,
    EoiExitBitmap1 = 0x201E, EoiExitBitmap2 = 0x2020, EoiExitBitmap3 = 0x2022, EptpListAddress = 0x2024, VmreadBitmap = 0x2026,
    VmwriteBitmap = 0x2028, VirtualizationExceptionAddress = 0x202A, XssExitingBitmap = 0x202C, TscMultiplier = 0x2032,
    // 64-bit read-only data field
    GuestPhysicalAddress = 0x2400,
    // 64-bit guest-state fields
    VmcsLinkPointer = 0x2800, GuestDebugCtl = 0x2802, GuestPat = 0x2804, GuestEfer = 0x2806, GuestPdpte0 = 0x280A, GuestPdpte1 = 0x280C,
    GuestPdpte2 = 0x280E, GuestPdpte3 = 0x2810,
    // 64-bit host-state fields
    HostPat = 0x2C00, HostEfer = 0x2C02,
    // 32-bit control fields
    PinBasedControls = 0x4000, ProcessorBasedControls = 0x4002, ExceptionBitmap = 0x4004, PageFaultErrorCodeMask = 0x4006,
    PageFaultErrorCodeMatch = 0x4008, Cr3TargetCount = 0x400A, ExitControls = 0x400C, ExitMsrStoreCount = 0x400E, ExitMsrLoadCount = 0x4010,
    EntryControls = 0x4012, EntryMsrLoadCount = 0x4014, EntryInterruptionInformation = 0x4016, EntryExceptionErrorCode = 0x4018,
    EntryInstructionLength = 0x401A, TprThreshold = 0x401C, SecondaryControls = 0x401E, PleGap = 0x4020, PleWindow = 0x4022,
    // 32-bit read-only data fields
    InstructionError = 0x4400, ExitReason = 0x4402, ExitInterruptionInformation = 0x4404, ExitInterruptionErrorCode = 0x4406,
    IdtVectoringInformation = 0x4408, IdtVectoringErrorCode = 0x440A, ExitInstructionLength = 0x440C, ExitInstructionInformation = 0x440E,
    // 32-bit guest-state fields
    GuestEsLimit = 0x4800, GuestCsLimit = 0x4802, GuestSsLimit = 0x4804, GuestDsLimit = 0x4806, GuestFsLimit = 0x4808, GuestGsLimit = 0x480A,
    GuestLdtrLimit = 0x480C, GuestTrLimit = 0x480E, GuestGdtrLimit = 0x4810, GuestIdtrLimit = 0x4812, GuestEsRights = 0x4814, GuestCsRights = 0x4816,
    GuestSsRights = 0x4818, GuestDsRights = 0x481A, GuestFsRights = 0x481C, GuestGsRights = 0x481E, GuestLdtrRights = 0x4820, GuestTrRights = 0x4822,
    GuestInterruptibility = 0x4824, GuestActivity = 0x4826, GuestSmbase = 0x4828, GuestSysenterCs = 0x482A, PreemptionTimer = 0x482E,
    // 32-bit host-state field
    HostSysenterCs = 0x4C00,
    // Natural-width control fields
    Cr0Mask = 0x6000, Cr4Mask = 0x6002, Cr0Shadow = 0x6004, Cr4Shadow = 0x6006, Cr3Target0 = 0x6008, Cr3Target1 = 0x600A, Cr3Target2 = 0x600C,
    Cr3Target3 = 0x600E,
    // Natural-width read-only data fields
    ExitQualification = 0x6400, IoRcx = 0x6402, IoRsi = 0x6404, IoRdi = 0x6406, IoRip = 0x6408, GuestLinearAddress = 0x640A,
    // Natural-width guest-state fields
    GuestCr0 = 0x6800, GuestCr3 = 0x6802, GuestCr4 = 0x6804, GuestEsBase = 0x6806, GuestCsBase = 0x6808, GuestSsBase = 0x680A, GuestDsBase = 0x680C,
    GuestFsBase = 0x680E, GuestGsBase = 0x6810, GuestLdtrBase = 0x6812, GuestTrBase = 0x6814, GuestGdtrBase = 0x6816, GuestIdtrBase = 0x6818,
    GuestDr7 = 0x681A, GuestRsp = 0x681C, GuestRip = 0x681E, GuestRflags = 0x6820, GuestPendingDebug = 0x6822, GuestSysenterEsp = 0x6824,
    GuestSysenterEip = 0x6826,
    // Natural-width host-state fields
    HostCr0 = 0x6C00, HostCr3 = 0x6C02, HostCr4 = 0x6C04, HostFsBase = 0x6C06, HostGsBase = 0x6C08, HostTrBase = 0x6C0A, HostGdtrBase = 0x6C0C,
    HostIdtrBase = 0x6C0E, HostSysenterEsp = 0x6C10, HostSysenterEip = 0x6C12, HostRsp = 0x6C14, HostRip = 0x6C16,
}

/// <summary>Bits 14:13 of an encoding.</summary>
public enum VmcsWidth { Word, Quadword, Doubleword, Natural }

/// <summary>Bits 11:10 of an encoding.</summary>
public enum VmcsGroup { Control, ReadOnly, Guest, Host }
