using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>Capabilities that can be asked for, KVM_CAP_* of include/uapi/linux/kvm.h.</summary>
public enum KvmCapability : uint
{
    UserMemory = 3, SetTssAddress = 4, ExtendedCpuid = 7, VcpuCount = 9, MemorySlots = 10, MultiprocessingState = 14, CoalescedMmio = 15, UserNmi = 22,
    SetGuestDebug = 23, InterruptRouting = 25, Irqfd = 32, Ioeventfd = 36, SetIdentityMapAddress = 37, AdjustClock = 39, VcpuEvents = 41, DebugRegisters = 50,
    Xsave = 55, Xcrs = 56, TscControl = 60, GetTscFrequency = 61, MaximumVcpus = 66, TscDeadlineTimer = 72, KvmClockControl = 76, SignalMsi = 77,
    ReadOnlyMemory = 81, SplitIrqChip = 121, VcpuAttributes = 127, X2ApicApi = 129, ImmediateExit = 136, CoalescedPio = 162, UserSpaceMsr = 188,
    MsrFilter = 189, EnforceParavirtualCpuid = 190, Xsave2 = 208,
}

/// <summary>One request: its number as the kernel's macros make it from direction, size and code, and its name for messages.</summary>
public readonly record struct KvmRequest(string Name, uint Number)
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

/// <summary>Error numbers that KVM's requests return.</summary>
public static class Errno
{
    public const int NotPermitted = 1, NoEntry = 2, Interrupted = 4, Io = 5, TooBig = 7, TryAgain = 11, NoMemory = 12, AccessDenied = 13, BadAddress = 14, Busy = 16,
        Exists = 17, NoDevice = 19, Invalid = 22, TooManyFiles = 24, NotATypewriter = 25, NoSpace = 28;

    /// <summary>The symbol of include/uapi/asm-generic/errno-base.h, or the number.</summary>
    public static string Name(int errno) => errno switch
    {
        NotPermitted => "EPERM",
        NoEntry => "ENOENT",
        Interrupted => "EINTR",
        Io => "EIO",
        TooBig => "E2BIG",
        TryAgain => "EAGAIN",
        NoMemory => "ENOMEM",
        AccessDenied => "EACCES",
        BadAddress => "EFAULT",
        Busy => "EBUSY",
        Exists => "EEXIST",
        NoDevice => "ENODEV",
        Invalid => "EINVAL",
        TooManyFiles => "EMFILE",
        NotATypewriter => "ENOTTY",
        NoSpace => "ENOSPC",
        _ => $"error {errno}",
    };
}

/// <summary>A request to KVM failed. The message is one line: request, error, what to do.</summary>
public sealed class KvmException(string request, int errno, string remedy) : Exception($"{request} failed: {Errno.Name(errno)}; {remedy}")
{
    public string Request { get; } = request;
    public int Error { get; } = errno;
}

/// <summary>
/// Something that takes KVM requests: /dev/kvm, a VM or a vCPU. A vCPU's requests come from one thread at a time.
/// </summary>
public abstract unsafe class KvmFile : IDisposable
{
    /// <summary>Result of the request, or minus the error number.</summary>
    public abstract long TryRequest(KvmRequest request, nuint argument);

    public long TryRequest(KvmRequest request, void* argument) => TryRequest(request, (nuint)argument);

    /// <exception cref="KvmException">The request failed.</exception>
    public long Request(KvmRequest request, nuint argument = 0)
    {
        long result = TryRequest(request, argument);
        return result >= 0 ? result : throw Failed(request, (int)-result);
    }

    /// <inheritdoc cref="Request(KvmRequest, nuint)"/>
    public long Request(KvmRequest request, void* argument) => Request(request, (nuint)argument);

    /// <summary>Switches a capability of a VM on.</summary>
    /// <exception cref="KvmException">KVM refuses.</exception>
    public void Enable(KvmCapability capability, ulong argument)
    {
        var c = new KvmEnableCapability { Capability = (uint)capability };
        c.Arguments[0] = argument;
        Request(KvmRequest.EnableCapability, &c);
    }

    /// <summary>Value of a capability; 0 when it is absent.</summary>
    public int Check(KvmCapability capability) => (int)Math.Max(0, TryRequest(KvmRequest.CheckExtension, (nuint)capability));

    /// <summary>The exception for a request that returned an error.</summary>
    public static KvmException Failed(KvmRequest request, int errno) => new(request.Name, errno, Remedy(request, errno));

    private static string Remedy(KvmRequest request, int errno) => errno switch
    {
        Errno.NoMemory => "the host has no memory left for it: give the guest less, or free some",
        Errno.TooManyFiles => "no descriptors are left: raise 'ulimit -n'",
        Errno.Busy when request == KvmRequest.CreateVm => "another hypervisor holds the processor's virtualization; stop it (VirtualBox, VMware)",
        Errno.NoDevice or Errno.Io when request == KvmRequest.CreateVm => "virtualization is disabled on this host's processor; enable it in the firmware",
        Errno.Exists when request == KvmRequest.Ioeventfd || request == KvmRequest.Irqfd => "somebody has it already; this is a defect of the machine",
        Errno.NoDevice when request == KvmRequest.Irqfd || request == KvmRequest.SignalMsi => "the VM has no local APICs in the kernel; this is a defect of the engine",
        Errno.Exists => "the number is taken already; this is a defect of the engine",
        Errno.NotPermitted or Errno.AccessDenied => "the host forbids it to this process: look at its seccomp or security policy",
        Errno.NotATypewriter => "this kernel is too old for it: Linux 5.10 or later is needed",
        Errno.Invalid when request == KvmRequest.SetSystemRegisters || request == KvmRequest.SetXcrs || request == KvmRequest.SetXsave || request == KvmRequest.SetMsrs
            => "the state uses processor features that this KVM does not give its guests; choose a smaller CPU model, or the engine interp",
        Errno.Invalid when request == KvmRequest.SetCpuid => "this KVM refuses the CPU model; choose another one",
        Errno.Invalid when request == KvmRequest.CreateVcpu => "that is more processors than this KVM supports",
        _ => "look into the host's kernel log (dmesg); if it says nothing, try the engine interp and report this",
    };

    public abstract void Dispose();
}

/// <summary>A KVM descriptor.</summary>
public sealed unsafe class KvmDescriptor : KvmFile
{
    private int _fd;

    private KvmDescriptor(int fd) => _fd = fd;

    ~KvmDescriptor() => Release();

    public override long TryRequest(KvmRequest request, nuint argument)
    {
        int result = Libc.Ioctl(_fd, request.Number, (void*)argument);
        return result >= 0 ? result : -Marshal.GetLastPInvokeError();
    }

    /// <summary>Opens /dev/kvm. Null with the error number when it does not open.</summary>
    public static KvmDescriptor? TryOpen(string path, out int errno)
    {
        int fd = Libc.Open(path, Libc.OpenReadWrite | Libc.OpenCloseOnExec, 0);
        errno = fd < 0 ? Marshal.GetLastPInvokeError() : 0;
        return fd < 0 ? null : new KvmDescriptor(fd);
    }

    /// <summary>A request that returns a new descriptor.</summary>
    /// <exception cref="KvmException">The request failed.</exception>
    public KvmDescriptor Create(KvmRequest request, nuint argument = 0)
    {
        long fd;
        // Interrupted by a signal: nothing happened yet.
        do fd = TryRequest(request, argument); while (fd == -Errno.Interrupted);
        return fd >= 0 ? new KvmDescriptor((int)fd) : throw Failed(request, (int)-fd);
    }

    /// <summary>Maps a vCPU's run structure.</summary>
    /// <exception cref="KvmException">The kernel refuses.</exception>
    public KvmRun* Map(int size)
    {
        void* address = Libc.Mmap(null, (nuint)size, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared, _fd, 0);
        return address != Libc.MapFailed ? (KvmRun*)address : throw new KvmException("mmap of the vCPU", Marshal.GetLastPInvokeError(), "the host has no memory or address space left");
    }

    /// <summary>Ends a mapping of <see cref="Map"/>; nobody uses it any more.</summary>
    public static void Unmap(KvmRun* run, int size) => _ = Libc.Munmap(run, (nuint)size);

    public override void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_fd < 0) return;
        _ = Libc.Close(_fd);
        _fd = -1;
    }
}
