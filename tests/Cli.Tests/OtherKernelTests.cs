using System.Diagnostics;
using System.IO.Compression;
using System.Text;
using Bunraku.Machine;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>
/// Kernels that are no Linux, in the program as a user starts it: Debian's Xen with Linux as its domain 0, and Memtest86+. All come from the distribution's
/// packages, which the machine's own apt downloads into the cache the first time: xen-system-amd64 says which hypervisor, linux-image-amd64 which kernel (the
/// one for clouds has no support for a domain 0), memtest86+ has the memory test. Xen's initrd is a busybox with a script, made here.
/// </summary>
public sealed class OtherKernelTests : IClassFixture<LinuxGuestFiles>
{
    private const string Init =
        """
        #!/bin/busybox sh
        busybox=/bin/busybox
        $busybox mount -t devtmpfs dev /dev
        exec </dev/hvc0 >/dev/hvc0 2>&1
        $busybox mount -t proc proc /proc
        $busybox mount -t sysfs sys /sys
        $busybox stty -echo
        echo shell-ready
        exec $busybox setsid -c $busybox sh

        """;

    private static byte[] Initrd(string busybox)
    {
        var archive = new CpioArchive();
        foreach (string folder in (string[])["bin", "dev", "proc", "sys"]) archive.AddDirectory(folder);
        archive.AddFile("bin/busybox", File.ReadAllBytes(busybox), 0x1ED);
        archive.AddFile("init", Encoding.ASCII.GetBytes(Init), 0x1ED);
        return archive.ToArray();
    }

    private static byte[] Unpack(string path)
    {
        using var packed = new GZipStream(File.OpenRead(path), CompressionMode.Decompress);
        using var all = new MemoryStream();
        packed.CopyTo(all);
        return all.ToArray();
    }

    /// <summary>
    /// Xen's memory management, its traps into the kernel and the console of domain 0 work: a shell answers, and the machine powers off through ACPI.
    /// </summary>
    [Fact]
    public async Task XenBootsLinuxAsItsFirstDomainToAShell()
    {
        var packages = new DebianPackages(new GuestCache());
        using var xen = new TemporaryFile(Unpack(packages.FindOther("xen", "xen-system-amd64", "xen-hypervisor-", "/boot/xen-*.gz")));
        using var initrd = new TemporaryFile(Initrd(packages.FindBusybox()));
        var start = new ProcessStartInfo("dotnet",
        [
            Path.Combine(AppContext.BaseDirectory, "bunraku.dll"), "run", "--engine", "bt", "--cpus", "2", "--memory", "512M", "--timeout", "5m",
            "--kernel", xen.Path, "--append", "com1=115200,8n1 console=com1 dom0_mem=256M",
            "--module", $"{packages.FindKernel("linux-generic")} console=hvc0 quiet", "--module", initrd.Path,
        ])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = new TestProcess(start);
        Task<string> error = process.StandardError.ReadToEndAsync();
        var output = new StringBuilder();
        bool asked = false;
        while (process.StandardOutput.ReadLine() is { } line)
        {
            output.AppendLine(line);
            if (asked || !line.Contains("shell-ready", StringComparison.Ordinal)) continue;
            asked = true;
            process.StandardInput.Write("b=/bin/busybox; echo type $($b cat /sys/hypervisor/type), $($b nproc) processors, $($b uname -s); $b poweroff -f\n");
            process.StandardInput.Flush();
        }
        process.WaitForExit();
        string complaints = await error;
        string log = output + complaints;
        Assert.True(asked, log);
        Assert.Contains("type xen, 2 processors, Linux", log);
        Assert.Contains("(XEN) Entering ACPI S5 state.", log);
        Assert.Equal("", complaints);
        Assert.Equal(0, process.ExitCode);
    }

    /// <summary>Its file ends inside the last paragraph of 16 bytes that its header counts.</summary>
    [Fact]
    public void Memtest86PlusShowsItsScreen()
    {
        string memtest = new DebianPackages(new GuestCache()).FindOther("memtest86+", "memtest86+", null, "/boot/memtest86+x64.bin");
        var start = new ProcessStartInfo("dotnet",
            [Path.Combine(AppContext.BaseDirectory, "bunraku.dll"), "run", "--memory", "32M", "--timeout", "5m", "--kernel", memtest, "--append",
                "console=ttyS0,115200"])
        { RedirectStandardInput = true, RedirectStandardOutput = true };
        using var process = new TestProcess(start);
        var screen = new StringBuilder();
        char[] buffer = new char[1024];
        // It tests for ever: what is looked for is that it began, which the lowest of its lines says.
        while (!screen.ToString().Contains("Status: Testing", StringComparison.Ordinal) && process.StandardOutput.Read(buffer) is > 0 and int n)
            screen.Append(buffer, 0, n);
        Assert.Contains("Memtest86+", screen.ToString());
        Assert.Contains("Memory  :   32MB", screen.ToString());
    }
}
