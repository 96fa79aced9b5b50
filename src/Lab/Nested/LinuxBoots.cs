using Bunraku.Engines;
using Bunraku.Lab.Paging;
using Bunraku.Machine;
using Bunraku.Sessions;

namespace Bunraku.Lab.Nested;

/// <summary>The boot of Linux at one level, from the start of QEMU below it to its first process.</summary>
/// <param name="Technique">VMX or SVM.</param>
/// <param name="Without">What L1's KVM does not use, as a parameter of its module; empty: everything is used.</param>
/// <param name="Level">2: a guest of KVM at L1; 3: a guest of KVM at L2.</param>
/// <param name="Exits">At L0, by reason.</param>
public sealed record LinuxBoot(string Technique, string Without, int Level, double Seconds, IReadOnlyDictionary<string, ulong> Exits)
{
    /// <summary>All exits.</summary>
    public ulong TotalExits => Exits.Values.Aggregate(0ul, (a, b) => a + b);
}

/// <summary>
/// Linux with KVM and QEMU at L1 boots the same at L2, which boots Linux at L3: the exits of each boot, with what the processor does for L1 and without.
/// </summary>
public static class LinuxBoots
{
    private const int InnerMegabytes = 256;

    private static readonly (NestedVirtualization Technique, int Level, string Without)[] s_boots =
    [
        (NestedVirtualization.Vmx, 2, ""), (NestedVirtualization.Vmx, 3, ""), (NestedVirtualization.Vmx, 3, "enable_shadow_vmcs=0"),
        (NestedVirtualization.Svm, 2, ""), (NestedVirtualization.Svm, 3, ""), (NestedVirtualization.Svm, 3, "vls=0,vgif=0"),
    ];

    /// <summary>Runs them one after the other, a minute or so each.</summary>
    /// <param name="engine">One in software.</param>
    /// <param name="progress">Is told what happens.</param>
    /// <exception cref="BootException">The guests cannot be made; the message is one line.</exception>
    /// <exception cref="SessionException">They cannot run.</exception>
    /// <exception cref="InvalidOperationException">One did not come up; the message is one line.</exception>
    public static IReadOnlyList<LinuxBoot> Run(IX86Engine engine, Action<string>? progress, CancellationToken cancel)
    {
        var packages = new DebianPackages(new GuestCache(), progress);
        byte[] innermost = WorkloadProgram.Build(packages, cancel).Initrd;
        HypervisorGuest two = HypervisorGuest.Build(packages, innermost, InnerMegabytes, cancel);
        // Its archive and files are larger by those of the one inside.
        const int middle = InnerMegabytes + HypervisorGuest.OwnMegabytes, largerBy = 320;
        HypervisorGuest three = HypervisorGuest.Build(packages, two.Initrd, middle, cancel);
        var boots = new List<LinuxBoot>();
        string initrd = Path.GetTempFileName();
        try
        {
            foreach ((NestedVirtualization technique, int level, string without) in s_boots)
            {
                bool isVmx = technique == NestedVirtualization.Vmx;
                string name = $"Linux at L{level}, {(isVmx ? "VMX" : "SVM")}{(without.Length > 0 ? ", " + without : "")}";
                progress?.Invoke(name);
                File.WriteAllBytes(initrd, (level == 2 ? two : three).Initrd);
                var watch = new PagingWatch(isVmx);
                HypervisorRun.Run(engine, technique, two.Kernel, initrd, level == 2 ? middle : middle + HypervisorGuest.OwnMegabytes + largerBy, watch,
                    string.Concat(without.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(p => $"kvm.param={p} ")) + "bench.boot", cancel);
                if (watch.Failure is { } failure) throw new InvalidOperationException($"{name}: {failure}");
                if (watch.Launches != level - 1 || watch.BootSeconds == 0)
                    throw new InvalidOperationException($"{name}: it did not come to its first process; its last line: {watch.LastLine}");
                boots.Add(new LinuxBoot(isVmx ? "VMX" : "SVM", without, level, watch.BootSeconds, watch.BootExits));
            }
        }
        finally
        {
            File.Delete(initrd);
        }
        return boots;
    }
}
