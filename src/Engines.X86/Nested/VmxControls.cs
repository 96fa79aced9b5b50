namespace Bunraku.Engines.X86;

#pragma warning disable CS1591 // names of the manual

/// <summary>Pin-based VM-execution controls. Intel SDM vol. 3C, section of that name.</summary>
[Flags]
public enum PinControls : uint
{
    ExternalInterruptExiting = 1 << 0, NmiExiting = 1 << 3, VirtualNmis = 1 << 5, PreemptionTimer = 1 << 6, ProcessPostedInterrupts = 1 << 7,
    Default1 = 1 << 1 | 1 << 2 | 1 << 4,
}

/// <summary>Primary processor-based VM-execution controls. Intel SDM vol. 3C, "Processor-Based VM-Execution Controls".</summary>
[Flags]
public enum ProcessorControls : uint
{
    InterruptWindowExiting = 1 << 2, UseTscOffsetting = 1 << 3, HltExiting = 1 << 7, InvlpgExiting = 1 << 9, MwaitExiting = 1 << 10,
    RdpmcExiting = 1 << 11, RdtscExiting = 1 << 12, Cr3LoadExiting = 1 << 15, Cr3StoreExiting = 1 << 16, Cr8LoadExiting = 1 << 19,
    Cr8StoreExiting = 1 << 20, UseTprShadow = 1 << 21, NmiWindowExiting = 1 << 22, MovDrExiting = 1 << 23, UnconditionalIoExiting = 1 << 24,
    UseIoBitmaps = 1 << 25, MonitorTrapFlag = 1 << 27, UseMsrBitmaps = 1 << 28, MonitorExiting = 1 << 29, PauseExiting = 1 << 30,
    ActivateSecondaryControls = 1u << 31,
    Default1 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 13 | 1 << 14 | Cr3LoadExiting | Cr3StoreExiting | 1 << 26,
}

/// <summary>Secondary processor-based VM-execution controls. Intel SDM vol. 3C, "Processor-Based VM-Execution Controls".</summary>
[Flags]
public enum SecondaryControls : uint
{
    VirtualizeApicAccesses = 1 << 0, EnableEpt = 1 << 1, DescriptorTableExiting = 1 << 2, EnableRdtscp = 1 << 3, VirtualizeX2Apic = 1 << 4,
    EnableVpid = 1 << 5, WbinvdExiting = 1 << 6, UnrestrictedGuest = 1 << 7, ApicRegisterVirtualization = 1 << 8, VirtualInterruptDelivery = 1 << 9,
    PauseLoopExiting = 1 << 10, RdrandExiting = 1 << 11, EnableInvpcid = 1 << 12, EnableVmFunctions = 1 << 13, VmcsShadowing = 1 << 14,
    RdseedExiting = 1 << 16, EnablePml = 1 << 17, EptViolationVe = 1 << 18, EnableXsaves = 1 << 20, ModeBasedExecute = 1 << 22, UseTscScaling = 1 << 25,
}

/// <summary>VM-exit controls. Intel SDM vol. 3C, section of that name.</summary>
[Flags]
public enum ExitControls : uint
{
    SaveDebugControls = 1 << 2, HostAddressSpaceSize = 1 << 9, AcknowledgeInterruptOnExit = 1 << 15, SavePat = 1 << 18, LoadPat = 1 << 19,
    SaveEfer = 1 << 20, LoadEfer = 1 << 21, SavePreemptionTimer = 1 << 22,
    Default1 = 0x1FF | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 17,
}

/// <summary>VM-entry controls. Intel SDM vol. 3C, section of that name.</summary>
[Flags]
public enum EntryControls : uint
{
    LoadDebugControls = 1 << 2, Ia32eModeGuest = 1 << 9, EntryToSmm = 1 << 10, DeactivateDualMonitor = 1 << 11, LoadPat = 1 << 14, LoadEfer = 1 << 15,
    Default1 = 0x1FF | 1 << 12,
}

/// <summary>Basic exit reasons. Intel SDM vol. 3D, appendix "VMX Basic Exit Reasons".</summary>
public enum VmxExitReason : uint
{
    ExceptionOrNmi = 0, ExternalInterrupt = 1, TripleFault = 2, Init = 3, StartupIpi = 4, InterruptWindow = 7, NmiWindow = 8, TaskSwitch = 9, Cpuid = 10,
    Hlt = 12, Invd = 13, Invlpg = 14, Rdpmc = 15, Rdtsc = 16, Rsm = 17, Vmcall = 18, Vmclear = 19, Vmlaunch = 20, Vmptrld = 21, Vmptrst = 22, Vmread = 23,
    Vmresume = 24, Vmwrite = 25, Vmxoff = 26, Vmxon = 27, CrAccess = 28, MovDr = 29, Io = 30, Rdmsr = 31, Wrmsr = 32, EntryInvalidGuestState = 33,
    EntryMsrLoading = 34, Mwait = 36, MonitorTrapFlag = 37, Monitor = 39, Pause = 40, EntryMachineCheck = 41, TprBelowThreshold = 43, ApicAccess = 44,
    VirtualizedEoi = 45, GdtrOrIdtr = 46, LdtrOrTr = 47, EptViolation = 48, EptMisconfiguration = 49, Invept = 50, Rdtscp = 51, PreemptionTimer = 52,
    Invvpid = 53, Wbinvd = 54, Xsetbv = 55, ApicWrite = 56, Rdrand = 57, Invpcid = 58, Vmfunc = 59, Rdseed = 61, PmlFull = 62, Xsaves = 63, Xrstors = 64,
}

/// <summary>VM-instruction error numbers. Intel SDM vol. 3C, "VM Instruction Error Numbers".</summary>
public enum VmxError : uint
{
    VmcallInRoot = 1, VmclearInvalidAddress = 2, VmclearVmxonPointer = 3, VmlaunchNotClear = 4, VmresumeNotLaunched = 5, VmresumeAfterVmxoff = 6,
    EntryInvalidControls = 7, EntryInvalidHostState = 8, VmptrldInvalidAddress = 9, VmptrldVmxonPointer = 10, VmptrldRevision = 11,
    UnsupportedField = 12, VmwriteReadOnly = 13, VmxonInRoot = 15, EntryBlockedByMovSs = 26, InvalidOperandToInvalidation = 28,
}

/// <summary>Numbers of VMX aborts. Intel SDM vol. 3C, "VMX Aborts".</summary>
public enum VmxAbort : uint { SavingMsrs = 1, HostPdpte = 2, LoadingMsrs = 4 }

/// <summary>Bits of the guest-interruptibility field. Intel SDM vol. 3C, "Guest Non-Register State".</summary>
[Flags]
public enum Interruptibility : uint { BlockingBySti = 1, BlockingByMovSs = 2, BlockingBySmi = 4, BlockingByNmi = 8, EnclaveInterruption = 16 }
