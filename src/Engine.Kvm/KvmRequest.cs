using System.Runtime.CompilerServices;

namespace Bunraku.Engine.Kvm;

/// <summary>Capabilities that can be asked for, KVM_CAP_* of include/uapi/linux/kvm.h.</summary>
internal enum KvmCapability : uint
{
    UserMemory = 3, SetTssAddress = 4, ExtendedCpuid = 7, VcpuCount = 9, MemorySlots = 10, MultiprocessingState = 14, CoalescedMmio = 15, UserNmi = 22,
    SetGuestDebug = 23, InterruptRouting = 25, Irqfd = 32, Ioeventfd = 36, SetIdentityMapAddress = 37, AdjustClock = 39, VcpuEvents = 41, DebugRegisters = 50,
    Xsave = 55, Xcrs = 56, TscControl = 60, GetTscFrequency = 61, MaximumVcpus = 66, TscDeadlineTimer = 72, KvmClockControl = 76, SignalMsi = 77,
    ReadOnlyMemory = 81, SplitIrqChip = 121, VcpuAttributes = 127, X2ApicApi = 129, ImmediateExit = 136, NestedState = 157, CoalescedPio = 162,
    UserSpaceMsr = 188, MsrFilter = 189, EnforceParavirtualCpuid = 190, Xsave2 = 208,
}

/// <summary>One request: its number as the kernel's macros make it from direction, size and code, and its name for messages.</summary>
internal readonly record struct KvmRequest(string Name, uint Number)
{
    private const uint Write = 1u << 30, Read = 2u << 30;

    private static KvmRequest Plain(string name, byte code) => new(name, 0xAE00u | code);

    private static KvmRequest Of(string name, uint direction, byte code, int size) => new(name, direction | (uint)size << 16 | 0xAE00u | code);

    public static readonly KvmRequest
        GetApiVersion = Plain("KVM_GET_API_VERSION", 0x00),
        CreateVm = Plain("KVM_CREATE_VM", 0x01),
        GetMsrIndexList = Of("KVM_GET_MSR_INDEX_LIST", Read | Write, 0x02, 4),
        CheckExtension = Plain("KVM_CHECK_EXTENSION", 0x03),
        GetVcpuMapSize = Plain("KVM_GET_VCPU_MMAP_SIZE", 0x04),
        GetSupportedCpuid = Of("KVM_GET_SUPPORTED_CPUID", Read | Write, 0x05, 8),
        CreateVcpu = Plain("KVM_CREATE_VCPU", 0x41),
        GetDirtyLog = Of("KVM_GET_DIRTY_LOG", Write, 0x42, Unsafe.SizeOf<KvmDirtyLog>()),
        SetMemoryRegion = Of("KVM_SET_USER_MEMORY_REGION", Write, 0x46, Unsafe.SizeOf<KvmMemoryRegion>()),
        SetTssAddress = Plain("KVM_SET_TSS_ADDR", 0x47),
        SetIdentityMapAddress = Of("KVM_SET_IDENTITY_MAP_ADDR", Write, 0x48, sizeof(ulong)),
        RegisterCoalesced = Of("KVM_REGISTER_COALESCED_MMIO", Write, 0x67, Unsafe.SizeOf<KvmCoalescedZone>()),
        UnregisterCoalesced = Of("KVM_UNREGISTER_COALESCED_MMIO", Write, 0x68, Unsafe.SizeOf<KvmCoalescedZone>()),
        SetRouting = Of("KVM_SET_GSI_ROUTING", Write, 0x6A, 8),
        Irqfd = Of("KVM_IRQFD", Write, 0x76, Unsafe.SizeOf<KvmIrqfd>()),
        Ioeventfd = Of("KVM_IOEVENTFD", Write, 0x79, Unsafe.SizeOf<KvmIoeventfd>()),
        SetClock = Of("KVM_SET_CLOCK", Write, 0x7B, Unsafe.SizeOf<KvmClockData>()),
        GetClock = Of("KVM_GET_CLOCK", Read, 0x7C, Unsafe.SizeOf<KvmClockData>()),
        Run = Plain("KVM_RUN", 0x80),
        GetRegisters = Of("KVM_GET_REGS", Read, 0x81, Unsafe.SizeOf<KvmRegisters>()),
        SetRegisters = Of("KVM_SET_REGS", Write, 0x82, Unsafe.SizeOf<KvmRegisters>()),
        GetSystemRegisters = Of("KVM_GET_SREGS", Read, 0x83, Unsafe.SizeOf<KvmSystemRegisters>()),
        SetSystemRegisters = Of("KVM_SET_SREGS", Write, 0x84, Unsafe.SizeOf<KvmSystemRegisters>()),
        Interrupt = Of("KVM_INTERRUPT", Write, 0x86, sizeof(uint)),
        GetLapic = Of("KVM_GET_LAPIC", Read, 0x8E, LapicSize),
        SetLapic = Of("KVM_SET_LAPIC", Write, 0x8F, LapicSize),
        GetMpState = Of("KVM_GET_MP_STATE", Read, 0x98, sizeof(uint)),
        SetMpState = Of("KVM_SET_MP_STATE", Write, 0x99, sizeof(uint)),
        SetGuestDebug = Of("KVM_SET_GUEST_DEBUG", Write, 0x9B, Unsafe.SizeOf<KvmGuestDebug>()),
        GetMsrs = Of("KVM_GET_MSRS", Read | Write, 0x88, 8),
        SetMsrs = Of("KVM_SET_MSRS", Write, 0x89, 8),
        SetCpuid = Of("KVM_SET_CPUID2", Write, 0x90, 8),
        Nmi = Plain("KVM_NMI", 0x9A),
        GetVcpuEvents = Of("KVM_GET_VCPU_EVENTS", Read, 0x9F, Unsafe.SizeOf<KvmVcpuEvents>()),
        SetVcpuEvents = Of("KVM_SET_VCPU_EVENTS", Write, 0xA0, Unsafe.SizeOf<KvmVcpuEvents>()),
        GetDebugRegisters = Of("KVM_GET_DEBUGREGS", Read, 0xA1, Unsafe.SizeOf<KvmDebugRegisters>()),
        SetDebugRegisters = Of("KVM_SET_DEBUGREGS", Write, 0xA2, Unsafe.SizeOf<KvmDebugRegisters>()),
        SetTscFrequency = Plain("KVM_SET_TSC_KHZ", 0xA2),
        EnableCapability = Of("KVM_ENABLE_CAP", Write, 0xA3, Unsafe.SizeOf<KvmEnableCapability>()),
        GetTscFrequency = Plain("KVM_GET_TSC_KHZ", 0xA3),
        GetXsave = Of("KVM_GET_XSAVE", Read, 0xA4, XsaveSize),
        SetXsave = Of("KVM_SET_XSAVE", Write, 0xA5, XsaveSize),
        GetXcrs = Of("KVM_GET_XCRS", Read, 0xA6, Unsafe.SizeOf<KvmXcrs>()),
        SetXcrs = Of("KVM_SET_XCRS", Write, 0xA7, Unsafe.SizeOf<KvmXcrs>()),
        SignalMsi = Of("KVM_SIGNAL_MSI", Write, 0xA5, Unsafe.SizeOf<KvmMsi>()),
        KvmClockControl = Plain("KVM_KVMCLOCK_CTRL", 0xAD),
        GetNestedState = Of("KVM_GET_NESTED_STATE", Read | Write, 0xBE, KvmNestedState.HeaderSize),
        SetNestedState = Of("KVM_SET_NESTED_STATE", Write, 0xBF, KvmNestedState.HeaderSize),
        SetMsrFilter = Of("KVM_X86_SET_MSR_FILTER", Write, 0xC6, Unsafe.SizeOf<KvmMsrFilter>()),
        GetXsave2 = Of("KVM_GET_XSAVE2", Read, 0xCF, XsaveSize),
        SetDeviceAttribute = Of("KVM_SET_DEVICE_ATTR", Write, 0xE1, Unsafe.SizeOf<KvmDeviceAttribute>()),
        GetDeviceAttribute = Of("KVM_GET_DEVICE_ATTR", Write, 0xE2, Unsafe.SizeOf<KvmDeviceAttribute>()),
        HasDeviceAttribute = Of("KVM_HAS_DEVICE_ATTR", Write, 0xE3, Unsafe.SizeOf<KvmDeviceAttribute>());

    /// <summary>Bytes of struct kvm_xsave; KVM_CAP_XSAVE2 tells when the host needs more.</summary>
    public const int XsaveSize = 4096;

    /// <summary>Bytes of struct kvm_lapic_state: the registers as in the xAPIC page.</summary>
    public const int LapicSize = 0x400;
}
