using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Tests;

/// <summary>What the loaders leave in memory and registers, run by QEMU's processor.</summary>
public sealed class LoadersOnQemuTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-boot").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    internal static CpuModel Model(params CpuFeature[] features) => new("test", "GenuineIntel", 6, 60, 3, "test", features.ToHashSet());

    /// <summary>Boots Linux from the loader's state until the command's status comes; returns the command's output.</summary>
    private string BootLinux(Func<byte[], byte[]> kernelOf, CpuModel model, ulong memorySize, string[] command, string qemuCpu)
    {
        var packages = new DebianPackages(new GuestCache());
        byte[] kernel = kernelOf(File.ReadAllBytes(packages.FindKernel("linux")));
        LinuxGuest guest = LinuxGuest.Create(kernel, "linux", File.ReadAllBytes(packages.FindBusybox()), new() { Command = command });
        using var memory = new GuestMemory(MemoryLayout.Regions(memorySize));
        CpuState state =
            KernelLoader.Load(new(memory, model, E820.Build(memory), kernel, "linux")
            {
                Modules = [new(guest.Initrd, "initramfs")],
                CommandLine = guest.Append + " bunraku.end"
            });
        var messages = new GuestMessages(guest.Token);
        var console = new List<byte>();
        using var ended = new ManualResetEventSlim();
        messages.Received += message =>
        {
            if (message.StartsWith("exit", StringComparison.Ordinal)) ended.Set();
        };
        // No firmware, so no ACPI: the guest cannot power off and is ended from outside.
        using var qemu = new Qemu(com1 => messages.Filter(com1, console), ["-cpu", qemuCpu, .. BootStateRom.Prepare(state, memory, _folder)]);
        qemu.EndAfter(ended);
        string output = Encoding.UTF8.GetString(qemu.Finish().Com2);
        Assert.True(messages.ExitStatus == 0, Encoding.UTF8.GetString([.. console]));
        Assert.StartsWith($"{guest.Append} bunraku.end\n", output);
        return output;
    }

    private static readonly string[] Show =
        ["sh", "-c", "cat /proc/cmdline; grep -c . /proc/cpuinfo >/dev/null && grep RAM /proc/iomem | wc -l; dmesg | grep -E 'BIOS-e820|Xen|PVH'"];

    private static void CheckShown(string shown)
    {
        Assert.Contains("[mem 0x0000000000000000-0x000000000009fbff] usable", shown);
        Assert.Contains("[mem 0x0000000000100000-0x000000000fffffff] usable", shown);
    }

    [Theory]
    [InlineData("qemu64", CpuFeature.Lm, CpuFeature.Lm)]
    [InlineData("max", CpuFeature.Pdpe1gb, CpuFeature.Mtrr)]
    public void Linux_boots_by_the_64_bit_protocol(string cpu, CpuFeature more, CpuFeature andMore) =>
        CheckShown(BootLinux(k => k, Model(CpuFeature.Lm, more, andMore), 256 << 20, Show, cpu));

    [Fact]
    public void Linux_boots_by_the_32_bit_protocol() =>
        // A model without long mode makes the loader choose the 32-bit entry; the kernel then finds the mode on QEMU's processor.
        CheckShown(BootLinux(k => k, Model(), 256 << 20, Show, "max"));

    [Fact]
    public void Linux_boots_by_PVH()
    {
        string shown = BootLinux(k => LinuxPayload.Extract(k), Model(CpuFeature.Lm), 256 << 20, Show, "max");
        CheckShown(shown.Replace("BIOS-e820: ", ""));
    }

    [Fact]
    public void Linux_sees_memory_above_4_GiB() =>
        Assert.Contains("[mem 0x0000000100000000-0x000000010fffffff] usable",
            BootLinux(k => k, Model(CpuFeature.Lm), (3ul << 30) + (256 << 20), Show, "qemu64"));
}
