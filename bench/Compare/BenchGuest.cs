using System.Diagnostics;
using System.Globalization;
using System.Text;
using Bunraku.Lab.Paging;
using Bunraku.Machine;

namespace Bunraku.Compare;

/// <summary>What every monitor boots: the distribution's kernel, and an initramfs whose first process runs workloads.</summary>
/// <param name="Workloads">All that it knows, in its order.</param>
internal sealed record BenchGuest(string Kernel, string Initrd, IReadOnlyList<Workload> Workloads)
{
    /// <summary>Starts workloads of it as programs of this host.</summary>
    public required Func<IReadOnlyList<Workload>, int, ProcessStartInfo> Native { get; init; }

    /// <summary>An initramfs that runs the command 'true' and powers off; null: that is not measured.</summary>
    public string? TrueInitrd { get; init; }

    /// <summary>An initramfs with KVM, QEMU and the workloads for its guest; null: that is not measured.</summary>
    public string? HypervisorInitrd { get; init; }

    /// <summary>Mebibytes of RAM that every monitor gives.</summary>
    public int Megabytes { get; init; } = 512;

    /// <summary>Processors that every monitor gives.</summary>
    public int Cpus { get; init; } = 1;

    /// <summary>Which processor QEMU is: what is fastest.</summary>
    public string QemuCpu { get; init; } = "max";

    /// <summary>What the kernel's command line has besides.</summary>
    public string Append { get; init; } = "";

    /// <summary>How many times longer than usual one line may be awaited.</summary>
    public int Patience { get; init; } = 1;

    /// <summary>Builds the one with our own workloads in <paramref name="folder"/>.</summary>
    /// <param name="nested">With a hypervisor whose guest runs them.</param>
    /// <exception cref="BenchException">The compiler is missing or complains.</exception>
    /// <exception cref="BootException">The kernel or busybox can't be had.</exception>
    public static BenchGuest Build(string sources, string folder, bool nested, CancellationToken cancel)
    {
        string gcc = HostProgram.Find("gcc")
            ?? throw new BenchException("gcc compiles the guest's workloads and is not installed (apt-get install gcc libc6-dev)");
        Directory.CreateDirectory(folder);
        string program = Path.Combine(folder, "workloads"), fresh = program + ".new";
        HostProgram.Run(gcc, [.. WorkloadProgram.CompilerOptions, "-o", fresh, .. Directory.GetFiles(sources, "*.c").Order(StringComparer.Ordinal)], cancel);
        File.Move(fresh, program, overwrite: true);
        Workload[] workloads =
            [.. HostProgram.Run(program, ["--list"], cancel).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split('\t'))
                .Select(f => new Workload(f[0], f[1], ulong.Parse(f[2], CultureInfo.InvariantCulture), f[3]))];

        var packages = new DebianPackages(new GuestCache(), text => Console.Error.WriteLine("bench/compare: " + text));
        string kernel = packages.FindKernel("linux", cancel);
        byte[] busybox = File.ReadAllBytes(packages.FindBusybox(cancel));
        string initrd = Path.Combine(folder, "workloads.cpio"), trueInitrd = Path.Combine(folder, "true.cpio");
        File.WriteAllBytes(initrd, WorkloadProgram.Archive(busybox, File.ReadAllBytes(program)));
        File.WriteAllBytes(trueInitrd, WorkloadProgram.Archive(busybox, "#!/bin/busybox sh\n/bin/busybox true\n/bin/busybox poweroff -f\n"u8));
        const int megabytes = 512;
        string? hypervisor = null;
        if (nested)
        {
            hypervisor = Path.Combine(folder, "hypervisor.cpio");
            File.WriteAllBytes(hypervisor, HypervisorGuest.Build(packages, File.ReadAllBytes(initrd), megabytes, cancel).Initrd);
        }
        return new(kernel, initrd, workloads)
        {
            HypervisorInitrd = hypervisor,
            TrueInitrd = trueInitrd,
            Native = (chosen, milliseconds) => new(program, [milliseconds.ToString(CultureInfo.InvariantCulture), Names(chosen)]),
        };
    }

    /// <summary>The kernel's command line for a boot that runs <paramref name="workloads"/>.</summary>
    public string CommandLine(IEnumerable<Workload> workloads, int milliseconds, bool mitigations)
    {
        var line = new StringBuilder("console=ttyS0 panic=-1").Append(Append);
        if (!mitigations) line.Append(" mitigations=off");
        line.Append(CultureInfo.InvariantCulture, $" bench.ms={milliseconds} bench.linger-ms=300 bench.only={Names(workloads)}");
        return line.ToString();
    }

    /// <summary>As the programs understand them.</summary>
    public static string Names(IEnumerable<Workload> workloads) => string.Join(',', workloads.Select(w => w.Name));
}
