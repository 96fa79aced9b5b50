using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>A request to KVM failed. The message is one line: request, error, what to do.</summary>
/// <param name="request">The request's name.</param>
/// <param name="errno">The kernel's error number.</param>
/// <param name="remedy">What to do.</param>
public sealed class KvmException(string request, int errno, string remedy) : EngineException($"{request} failed: {Errno.Name(errno)}; {remedy}")
{
    /// <summary>The request's name.</summary>
    public string Request { get; } = request;

    /// <summary>The kernel's error number.</summary>
    public int Error { get; } = errno;
}

/// <summary>
/// Something that takes KVM requests: /dev/kvm, a VM or a vCPU. A vCPU's requests come from one thread at a time.
/// </summary>
internal abstract unsafe class KvmFile : IDisposable
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
        Errno.NoDevice when request == KvmRequest.Irqfd || request == KvmRequest.SignalMsi =>
            "the VM has no local APICs in the kernel; this is a defect of the engine",
        Errno.Exists => "the number is taken already; this is a defect of the engine",
        Errno.NotPermitted or Errno.AccessDenied => "the host forbids it to this process: look at its seccomp or security policy",
        Errno.NotATypewriter => "this kernel is too old for it: Linux 5.10 or later is needed",
        Errno.Invalid when request == KvmRequest.SetSystemRegisters || request == KvmRequest.SetXcrs || request == KvmRequest.SetXsave
                || request == KvmRequest.SetMsrs
            => "the state uses processor features that this KVM does not give its guests; choose a smaller CPU model, or the engine interp",
        Errno.Invalid when request == KvmRequest.SetCpuid => "this KVM refuses the CPU model; choose another one",
        Errno.Invalid when request == KvmRequest.CreateVcpu => "that is more processors than this KVM supports",
        _ => "look into the host's kernel log (dmesg); if it says nothing, try the engine interp and report this",
    };

    public abstract void Dispose();
}

/// <summary>A KVM descriptor.</summary>
internal sealed unsafe class KvmDescriptor : KvmFile
{
    private readonly DeviceFile _file;

    private KvmDescriptor(DeviceFile file) => _file = file;

    public override long TryRequest(KvmRequest request, nuint argument) => _file.Control(request.Number, argument);

    /// <summary>Opens /dev/kvm. Null with the error number when it does not open.</summary>
    public static KvmDescriptor? TryOpen(string path, out int errno) => DeviceFile.TryOpen(path, out errno) is { } file ? new KvmDescriptor(file) : null;

    /// <summary>A request that returns a new descriptor.</summary>
    /// <exception cref="KvmException">The request failed.</exception>
    public KvmDescriptor Create(KvmRequest request, nuint argument = 0)
    {
        long fd;
        // Interrupted by a signal: nothing happened yet.
        do fd = TryRequest(request, argument); while (fd == -Errno.Interrupted);
        return fd >= 0 ? new KvmDescriptor(DeviceFile.Adopt((int)fd)) : throw Failed(request, (int)-fd);
    }

    /// <summary>Maps a vCPU's run structure.</summary>
    /// <exception cref="KvmException">The kernel refuses.</exception>
    public KvmRun* Map(int size)
    {
        void* address = _file.TryMap((nuint)size, out int errno);
        return address != null ? (KvmRun*)address : throw new KvmException("mmap of the vCPU", errno, "the host has no memory or address space left");
    }

    /// <summary>Ends a mapping of <see cref="Map"/>; nobody uses it any more.</summary>
    public static void Unmap(KvmRun* run, int size) => DeviceFile.Unmap(run, (nuint)size);

    public override void Dispose() => _file.Dispose();
}
