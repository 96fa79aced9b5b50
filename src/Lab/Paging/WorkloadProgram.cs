using System.Reflection;
using Bunraku.Machine;

namespace Bunraku.Lab.Paging;

/// <summary>The program of bench/workloads, which is a guest's first process: compiled on this machine.</summary>
internal static class WorkloadProgram
{
    // No vectors but our own, no loops turned into library calls, the same rounding everywhere; static, since the guest has no libraries.
    public static readonly string[] CompilerOptions =
        ["-std=gnu11", "-O2", "-march=x86-64", "-static", "-Wall", "-Wextra", "-fno-tree-vectorize", "-fno-tree-loop-distribute-patterns", "-ffp-contract=off",
            "-fno-strict-aliasing"];

    private const string Prefix = "workloads/";

    /// <summary>The program, and an initramfs whose first process it is.</summary>
    /// <exception cref="BootException">The compiler is missing or complains, or busybox can't be had; the message is one line.</exception>
    public static (IReadOnlyList<string> Workloads, byte[] Initrd) Build(DebianPackages packages, CancellationToken cancel)
    {
        string gcc = ToolRunner.Find("gcc")
            ?? throw new BootException("gcc compiles the guest's workloads and is not installed (apt-get install gcc libc6-dev)");
        string folder = Directory.CreateTempSubdirectory("bunraku-lab-").FullName;
        try
        {
            Assembly here = typeof(WorkloadProgram).Assembly;
            foreach (string name in here.GetManifestResourceNames().Where(n => n.StartsWith(Prefix, StringComparison.Ordinal)))
            {
                using Stream source = here.GetManifestResourceStream(name)!;
                using FileStream file = File.Create(Path.Combine(folder, name[Prefix.Length..]));
                source.CopyTo(file);
            }
            string program = Path.Combine(folder, "workloads");
            ToolRunner.Result compiled = ToolRunner.Run(gcc,
                [.. CompilerOptions, "-o", program, .. Directory.GetFiles(folder, "*.c").Order(StringComparer.Ordinal)], folder, cancel);
            if (compiled.Status != 0) throw new BootException($"gcc cannot compile the guest's workloads: {compiled.Cause}");
            string[] workloads = [.. ToolRunner.Run(program, ["--list"], folder, cancel).Output.Split('\n', StringSplitOptions.RemoveEmptyEntries)
                .Select(l => l.Split('\t')).Where(f => f[1] != "footprint").Select(f => f[0])];
            return (workloads, Archive(File.ReadAllBytes(packages.FindBusybox(cancel)), File.ReadAllBytes(program)));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>An initramfs with a first process, and busybox for it.</summary>
    public static byte[] Archive(ReadOnlySpan<byte> busybox, ReadOnlySpan<byte> init)
    {
        const uint executable = 0x1ED;
        var archive = new CpioArchive();
        foreach (string directory in (string[])["bin", "dev", "proc", "tmp"]) archive.AddDirectory(directory);
        archive.AddCharacterDevice("dev/console", 5, 1); // the kernel opens it for init before anything is mounted
        archive.AddFile("bin/busybox", busybox, executable);
        archive.AddFile("init", init, executable);
        return archive.ToArray();
    }
}
