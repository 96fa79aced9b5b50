using System.Globalization;
using System.Text;
using Bunraku.Machine;

namespace Bunraku.Compare;

/// <summary>The guest that every monitor boots: the distribution's kernel, and an initramfs with our workloads as its first process.</summary>
/// <param name="Program">The workloads as a program for this host; the same file is the guest's init.</param>
/// <param name="TrueInitrd">An initramfs that runs the command 'true' and powers off.</param>
/// <param name="Workloads">All that the program knows, in its order.</param>
internal sealed record BenchGuest(string Kernel, string Initrd, string TrueInitrd, string Program, IReadOnlyList<Workload> Workloads)
{
    /// <summary>Bytes of RAM that every monitor gives.</summary>
    public const int Megabytes = 512;

    // No vectors but our own, no loops turned into library calls, the same rounding everywhere; static, since the guest has no libraries.
    private static readonly string[] CompilerOptions =
        ["-std=gnu11", "-O2", "-march=x86-64", "-static", "-Wall", "-Wextra", "-fno-tree-vectorize", "-fno-tree-loop-distribute-patterns", "-ffp-contract=off", "-fno-strict-aliasing"];

    /// <summary>Builds it in <paramref name="folder"/>.</summary>
    /// <exception cref="BenchException">The compiler is missing or complains.</exception>
    /// <exception cref="BootException">The kernel or busybox can't be had.</exception>
    public static BenchGuest Build(string sources, string folder, CancellationToken cancel)
    {
        string gcc = HostProgram.Find("gcc") ?? throw new BenchException("gcc compiles the guest's workloads and is not installed (apt-get install gcc libc6-dev)");
        Directory.CreateDirectory(folder);
        string program = Path.Combine(folder, "workloads"), fresh = program + ".new";
        HostProgram.Run(gcc, [.. CompilerOptions, "-o", fresh, .. Directory.GetFiles(sources, "*.c").Order(StringComparer.Ordinal)], cancel);
        File.Move(fresh, program, overwrite: true);
        Workload[] workloads =
            [.. HostProgram.Run(program, ["--list"], cancel).Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split('\t'))
                .Select(f => new Workload(f[0], f[1], ulong.Parse(f[2], CultureInfo.InvariantCulture), f[3]))];

        var packages = new DebianPackages(new GuestCache(), text => Console.Error.WriteLine("bench/compare: " + text));
        string kernel = packages.FindKernel("linux", cancel);
        byte[] busybox = File.ReadAllBytes(packages.FindBusybox(cancel));
        string initrd = Path.Combine(folder, "workloads.cpio"), trueInitrd = Path.Combine(folder, "true.cpio");
        File.WriteAllBytes(initrd, Archive(busybox, File.ReadAllBytes(program)));
        File.WriteAllBytes(trueInitrd, Archive(busybox, "#!/bin/busybox sh\n/bin/busybox true\n/bin/busybox poweroff -f\n"u8));
        return new(kernel, initrd, trueInitrd, program, workloads);
    }

    private static byte[] Archive(ReadOnlySpan<byte> busybox, ReadOnlySpan<byte> init)
    {
        const uint executable = 0x1ED;
        var archive = new CpioArchive();
        foreach (string directory in (string[])["bin", "dev", "proc", "tmp"]) archive.AddDirectory(directory);
        archive.AddCharacterDevice("dev/console", 5, 1); // the kernel opens it for init before anything is mounted
        archive.AddFile("bin/busybox", busybox, executable);
        archive.AddFile("init", init, executable);
        return archive.ToArray();
    }

    /// <summary>The kernel's command line for a boot that runs <paramref name="workloads"/>.</summary>
    public static string CommandLine(IEnumerable<Workload> workloads, int milliseconds, bool mitigations)
    {
        var line = new StringBuilder("console=ttyS0 panic=-1");
        if (!mitigations) line.Append(" mitigations=off");
        line.Append(CultureInfo.InvariantCulture, $" bench.ms={milliseconds} bench.linger-ms=300 bench.only=").AppendJoin(',', workloads.Select(w => w.Name));
        return line.ToString();
    }
}
