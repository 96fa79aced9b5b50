using System.Runtime.Intrinsics.X86;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>What stands behind /dev/kvm.</summary>
internal enum KvmBacking { None, Vmx, Svm }

/// <summary>Looks at /dev/kvm and says in one line what it offers, or what is missing and the remedy.</summary>
internal static class KvmHost
{
    public const string Device = "/dev/kvm";
    private const int ApiVersion = 12;

    /// <summary>Capabilities without which this engine cannot work; all are there since Linux 5.10.</summary>
    private static readonly KvmCapability[] s_needed =
    [
        KvmCapability.UserMemory, KvmCapability.ExtendedCpuid, KvmCapability.UserNmi, KvmCapability.VcpuEvents, KvmCapability.DebugRegisters,
        KvmCapability.Xsave,
        KvmCapability.Xcrs, KvmCapability.ImmediateExit, KvmCapability.UserSpaceMsr, KvmCapability.MsrFilter,
    ];

    /// <summary>Opens /dev/kvm and checks its version and capabilities. Null with the reason and the remedy.</summary>
    public static KvmDescriptor? TryOpen(out string problem)
    {
        KvmDescriptor? kvm = KvmDescriptor.TryOpen(Device, out int errno);
        if (kvm == null)
        {
            problem = CannotOpen(errno, Backing());
            return null;
        }
        problem = Unsuitable(kvm) ?? "";
        if (problem == "") return kvm;
        kvm.Dispose();
        return null;
    }

    /// <summary>APIC identifiers of 8 bits but for the broadcast and the I/O APIC's.</summary>
    private const int MostCpus = 254;

    /// <summary>vCPUs that a VM can have; 1 where there is no KVM.</summary>
    public static int MaxCpus()
    {
        using KvmDescriptor? kvm = TryOpen(out _);
        return kvm == null ? 1 : Math.Clamp(Math.Max(kvm.Check(KvmCapability.MaximumVcpus), kvm.Check(KvmCapability.VcpuCount)), 1, MostCpus);
    }

    /// <summary>Why /dev/kvm does not open, and what to do.</summary>
    internal static string CannotOpen(int errno, KvmBacking backing) => errno switch
    {
        Errno.NoEntry or Errno.NoDevice when backing == KvmBacking.None =>
            $"no {Device}, and the processor shows neither VT-x nor AMD-V: "
                + "enable it in the firmware, or take a host or cloud instance with (nested) virtualization",
        Errno.NoEntry or Errno.NoDevice =>
            $"no {Device} although the processor has {Name(backing)}: load the module (modprobe {Module(backing)}); in a container, pass the device in",
        Errno.AccessDenied or Errno.NotPermitted =>
            $"no permission to open {Device}: join the group that owns it (usermod -aG kvm USER, then log in again), or pass the device to the container",
        _ => $"{Device} does not open: {Errno.Name(errno)}",
    };

    /// <summary>What an opened device lacks; null when it suits.</summary>
    internal static string? Unsuitable(KvmFile kvm)
    {
        long version = kvm.TryRequest(KvmRequest.GetApiVersion, 0);
        if (version != ApiVersion) return $"{Device} has API version {version}, {ApiVersion} is needed: it is not KVM, or from before Linux 2.6.22";
        string missing = "";
        foreach (KvmCapability needed in s_needed)
        {
            if (kvm.Check(needed) == 0) missing += (missing == "" ? "" : ", ") + needed;
        }
        return missing == "" ? null : $"KVM lacks {missing}: Linux 5.10 or later is needed";
    }

    /// <summary>Virtualization that the processor shows, as CPUID says.</summary>
    /// <remarks>Intel SDM vol. 2, CPUID.01H:ECX.VMX[bit 5]; AMD APM vol. 3, Fn8000_0001_ECX[SVM].</remarks>
    public static KvmBacking Backing()
    {
        if (!X86Base.IsSupported) return KvmBacking.None;
        if ((X86Base.CpuId(1, 0).Ecx & 1 << 5) != 0) return KvmBacking.Vmx;
        bool extended = (uint)X86Base.CpuId(unchecked((int)CpuidLeaves.ExtendedFirst), 0).Eax > CpuidLeaves.ExtendedFirst;
        return extended && (X86Base.CpuId(unchecked((int)CpuidLeaves.ExtendedFirst + 1), 0).Ecx & 1 << 2) != 0 ? KvmBacking.Svm : KvmBacking.None;
    }

    /// <summary>Whether KVM uses nested paging; null when its module does not say.</summary>
    private static bool? NestedPaging(KvmBacking backing)
    {
        try
        {
            string parameter = backing == KvmBacking.Vmx ? "/sys/module/kvm_intel/parameters/ept" : "/sys/module/kvm_amd/parameters/npt";
            return File.ReadAllText(parameter).Trim() is "Y" or "1";
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    public static EngineProbe Probe()
    {
        using KvmDescriptor? kvm = TryOpen(out string problem);
        if (kvm == null) return new(false, problem);
        KvmBacking backing = Backing();
        try
        {
            // Only the creation of a VM shows that the virtualization is enabled and free.
            kvm.Create(KvmRequest.CreateVm).Dispose();
        }
        catch (KvmException e)
        {
            return new(false, e.Message, backing != KvmBacking.None, Chosen: false);
        }
        return Describe(kvm, backing, backing == KvmBacking.None ? null : NestedPaging(backing));
    }

    /// <summary>The line for a KVM that works.</summary>
    internal static EngineProbe Describe(KvmFile kvm, KvmBacking backing, bool? nestedPaging)
    {
        string capabilities = $"API {ApiVersion}, up to {Math.Max(kvm.Check(KvmCapability.MaximumVcpus), kvm.Check(KvmCapability.VcpuCount))} vCPUs, "
            + $"{kvm.Check(KvmCapability.MemorySlots)} memory slots, TSC scaling {YesNo(kvm.Check(KvmCapability.TscControl) != 0)}, "
            + $"local APICs in the kernel {LocalApics(kvm, backing)}, irqfd {Has(KvmCapability.Irqfd)}, ioeventfd {Has(KvmCapability.Ioeventfd)}, "
            + $"coalesced writes {Has(KvmCapability.CoalescedMmio)}, kvmclock {Has(KvmCapability.AdjustClock)}";
        if (backing == KvmBacking.None)
        {
            return new(true, "KVM without hardware: the processor shows neither VT-x nor AMD-V, so it emulates, about 1000 times slower than a translator; "
                + $"auto does not choose it ({capabilities})", Hardware: false, Chosen: false,
                Warning: "this KVM has no hardware behind it and emulates, about 1000 times slower than a translator: a boot takes many minutes");
        }
        string paging = nestedPaging switch
        {
            true => "nested paging",
            false => "no nested paging (shadow page tables, slower)",
            null => "nested paging unknown"
        };
        return new(true, $"{Name(backing)}, {paging} ({capabilities})", Hardware: true);

        string Has(KvmCapability capability) => YesNo(kvm.Check(capability) != 0);
    }

    private static string YesNo(bool yes) => yes ? "yes" : "no";

    private static string LocalApics(KvmFile kvm, KvmBacking backing)
    {
        KvmCapability[] missing = [.. KvmApics.Missing(kvm)];
        if (missing.Length > 0) return $"no (it lacks {string.Join(", ", missing)}), so the board's are used";
        return backing == KvmBacking.None ? "not used without hardware" : "yes";
    }

    private static string Name(KvmBacking backing) => backing == KvmBacking.Vmx ? "VT-x" : "AMD-V";

    private static string Module(KvmBacking backing) => backing == KvmBacking.Vmx ? "kvm_intel" : "kvm_amd";
}
