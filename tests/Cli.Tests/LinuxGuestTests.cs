using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Debian's kernels boot in the program as a user starts it; what the guest printed is judged.</summary>
public sealed class LinuxGuestTests : IClassFixture<LinuxGuestFiles>
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    private static (int Status, byte[] Output, string Error) Run(byte[] input, params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet", [Program, "run", "--timeout", "9m", .. arguments])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using var process = new TestProcess(start);
        Task<string> error = process.StandardError.ReadToEndAsync();
        Task typing = Task.Run(() =>
        {
            process.StandardInput.BaseStream.Write(input);
            process.StandardInput.Close();
        });
        var output = new MemoryStream();
        process.StandardOutput.BaseStream.CopyTo(output);
        process.WaitForExit();
        typing.Wait();
        return (process.ExitCode, output.ToArray(), error.Result);
    }

    private static (int Status, string Output) Text(params string[] arguments)
    {
        (int status, byte[] output, string error) = Run([], arguments);
        Assert.DoesNotContain("bunraku:", error);
        return (status, System.Text.Encoding.UTF8.GetString(output));
    }

    private static void NoErrors(string log) =>
        // Raw records: <facility * 8 + level>; the kernel's facility is 0, levels up to 3 are errors.
        Assert.DoesNotContain(log.Split('\n'), line => Regex.IsMatch(line, "^<[0-3]>"));

    /// <summary>Flags in /proc/cpuinfo of the levels of the System V ABI's AMD64 supplement, section "Micro-Architecture Levels".</summary>
    private static readonly string[] s_baseline = ["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"];
    private static readonly string[] s_beyondBaseline =
        ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"];

    private static string[] Flags(string cpuinfo) => Regex.Match(cpuinfo, "^flags\t*: (.*)$", RegexOptions.Multiline).Groups[1].Value.Split(' ');

    private static void SeesMemory(ulong megabytes, string log)
    {
        // All that the map calls usable, but for the kilobyte of the EBDA, the video hole and the ACPI tables.
        ulong usable = 0;
        foreach (Match range in Regex.Matches(log, "BIOS-e820: \\[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\\] usable"))
            usable += ulong.Parse(range.Groups[2].Value, NumberStyles.HexNumber, null) - ulong.Parse(range.Groups[1].Value, NumberStyles.HexNumber, null) + 1;
        Assert.Equal((megabytes << 20) - (0x10_0000 - 0x9_FC00), usable);
    }

    [Fact]
    public void TheDefaultKernelRunsACommandAndGivesItsStatus()
    {
        (int status, string output) = Text("--memory", "320M", "--", "sh", "-c", "uname -sr; cat /proc/cpuinfo; dmesg -r; exit 7");
        Assert.Equal(7, status);
        Assert.Matches("^Linux [0-9.-]+-cloud-amd64\n", output);
        NoErrors(output);
        SeesMemory(320, output);
        Assert.Empty(s_baseline.Concat(s_beyondBaseline).Except(Flags(output)));
    }

    [Theory]
    [InlineData(2), InlineData(8)]
    public void SeveralProcessorsBootWithoutAWarning(int cpus)
    {
        (int status, string output) = Text("--cpus", $"{cpus}", "--", "sh", "-c", "nproc; dmesg -r");
        Assert.Equal(0, status);
        Assert.Equal($"{cpus}", output.Split('\n')[0]);
        // Level 4 is a warning. Two are about a busy host, and right: it let a processor wait in the middle of a timer's interrupt, or longer than timers have
        // periods.
        Assert.DoesNotContain(output.Split('\n'),
            line => Regex.IsMatch(line, "^<[0-4]>") && !Regex.IsMatch(line, "hrtimer: interrupt took [0-9]+ ns$|hpet: Lost [0-9]+ RTC interrupts$"));
    }

    [Fact]
    public void AnNmiFromTheMonitorAndASysRqFromTheConsoleReachTheKernel()
    {
        using var pty = new Pty();
        using var process =
            new TestProcess(new ProcessStartInfo("sh", ["-c", $"exec dotnet '{Program}' run --cpus 2 --timeout 9m <{pty.Name} >{pty.Name} 2>&1"]));
        pty.Type("echo 7 >/proc/sysrq-trigger; echo shell'-'ready\r"); // messages of all levels go to the console
        pty.ReadUntil("shell-ready");
        pty.Type("\x01" + "cnmi\r");
        pty.ReadUntil("NMI received for unknown reason");
        pty.Type("info cpus\r");
        Assert.Contains("cpu0  ", pty.ReadUntil("cpu1  "));
        pty.Type("\x01" + "c\x01" + "bh");
        pty.ReadUntil("sysrq: HELP");
        pty.Type("echo l >/proc/sysrq-trigger\r"); // an NMI to every processor, which answers with its stack
        // Each prints once, in any order, and on a busy host the second after the shell has its prompt again.
        pty.ReadUntil("NMI backtrace for cpu", times: 2);
        pty.Type("exit\r");
        pty.ReadUntil("Power down");
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    [Fact]
    public void WhatTheKernelSaidLastIsShownWhereItDiesBeforeItsConsoleIsThere()
    {
        (int status, byte[] output, string error) = Run([], "--cpu", "max,-sse2", "--", "true");
        Assert.Equal((4, 0), (status, output.Length));
        Assert.Contains("invalid opcode", error); // LFENCE is an instruction of SSE2
        Assert.Contains("Kernel panic - not syncing", error);
        Assert.EndsWith("bunraku: the guest reset the machine\n", error);
    }

    [Fact]
    public void TheGenericKernelBoots()
    {
        (int status, string output) = Text("linux-generic", "--", "sh", "-c", "uname -sr; dmesg -r");
        Assert.Equal(0, status);
        Assert.Matches("^Linux [0-9.-]+-amd64\n", output);
        Assert.DoesNotContain("cloud", output);
        NoErrors(output);
        SeesMemory(512, output);
    }

    [Fact]
    public void TheBaselineProcessorBootsWithMemoryBeyond4GiB()
    {
        (int status, string output) = Text("--cpu", "x86-64-v1", "--memory", "5G", "--", "sh", "-c", "cat /proc/cpuinfo; dmesg -r");
        Assert.Equal(0, status);
        NoErrors(output);
        SeesMemory(5 * 1024, output);
        Assert.Empty(s_baseline.Except(Flags(output)));
        Assert.Empty(s_beyondBaseline.Intersect(Flags(output)));
    }

    [Fact]
    public void StandardInputIsAScript()
    {
        // What is left running does not keep the guest from ending.
        (int status, byte[] output, string error) = Run("echo one; test -t 0 || echo no terminal; sleep 1000 & exit 3\n"u8.ToArray());
        Assert.Equal((3, ""), (status, error));
        Assert.Equal("one\nno terminal\n", System.Text.Encoding.UTF8.GetString(output));
    }

    [Fact]
    public void AShellOnATerminalTakesWhatIsTypedAheadAndPowersOffAtItsEnd()
    {
        using var pty = new Pty();
        using (var stty = Process.Start("stty", ["-F", pty.Name, "rows", "33", "cols", "91"])) stty.WaitForExit();
        string before = pty.Modes;
        using var process =
            new TestProcess(new ProcessStartInfo("sh", ["-c", $"exec dotnet '{Program}' run --fresh --timeout 9m <{pty.Name} >{pty.Name} 2>&1"]));
        pty.ReadUntil("Linux version");
        // Of one process: between two commands a Ctrl-C could come when the shell has begun the second one and that is not in the foreground yet.
        pty.Type("stty size; sh -c \"echo typed'-'ahead; exec sleep 1000\"\r");
        Assert.Contains("33 91", pty.ReadUntil("typed-ahead"));
        pty.Type("\x03"); // for the guest's shell, not for the program
        pty.Type("exit\r");
        pty.ReadUntil("Power down");
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        Assert.Equal(before, pty.Modes);
    }

    [Fact]
    public void EndOfInputTypedAheadEndsTheShell()
    {
        using var pty = new Pty();
        using var process =
            new TestProcess(new ProcessStartInfo("sh", ["-c", $"exec dotnet '{Program}' run --fresh --timeout 9m <{pty.Name} >{pty.Name} 2>&1"]));
        pty.ReadUntil("Linux version");
        pty.Type("\x04");
        pty.ReadUntil("Power down");
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    [Theory]
    [InlineData("poweroff", 0, "reboot: Power down"), InlineData("halt", 0, "reboot: Power down"), InlineData("reboot", 4, "reboot: Restarting system")]
    public void TheShellSwitchesTheMachineOffWithoutForce(string command, int status, string last)
    {
        using var pty = new Pty();
        using var process = new TestProcess(new ProcessStartInfo("setsid",
            ["--wait", "sh", "-c", $"exec dotnet '{Program}' run --no-reboot --timeout 5m <{pty.Name} >{pty.Name} 2>&1"]));
        // The prompt is what it looks like: nothing of the message in it is left over.
        Assert.Contains("\nroot@bunraku:/# ", pty.ReadUntil("/# "));
        pty.Type(command + "\r");
        pty.ReadUntil(last);
        process.WaitForExit();
        Assert.Equal(status, process.ExitCode);
    }

    [Fact]
    public void ControlCWhileTheGuestBootsEndsACommandOnATerminal()
    {
        using var pty = new Pty();
        string before = pty.Modes;
        using var process = new TestProcess(new ProcessStartInfo("setsid",
            ["--wait", "sh", "-c", $"exec dotnet '{Program}' run --timeout 5m -- sleep 1000 <{pty.Name} >{pty.Name} 2>&1"]));
        // Raw: the program has the terminal.
        while (!pty.AllModes.Contains("-isig", StringComparison.Ordinal)) Thread.Sleep(10);
        pty.Type("\x03");
        process.WaitForExit();
        Assert.Equal(130, process.ExitCode);
        Assert.Equal(before, pty.Modes);
    }

    [Fact]
    public void ControlCAndTheLastOutputOfACommandOnATerminalAreNotLost()
    {
        using var pty = new Pty();
        // A command that leaves its process group's leader alone, prints more than a terminal holds, and takes Ctrl-C itself.
        using var process = new TestProcess(new ProcessStartInfo("setsid",
            ["--wait", "sh", "-c",
                $"exec dotnet '{Program}' run --timeout 5m --cpus 2 -- sh -c 'trap \"seq 30000; exit 5\" INT; echo rea\"\"dy; while :; do sleep 1; "
                    + $"done' <{pty.Name} >{pty.Name} 2>&1"]));
        pty.ReadUntil("ready");
        pty.Type("\x03");
        string output = pty.ReadUntil("\n30000\r").Replace("\r", "");
        Assert.Contains(string.Concat(Enumerable.Range(1, 29999).Select(n => $"{n}\n")), output);
        process.WaitForExit();
        Assert.Equal(5, process.ExitCode);
    }

    /// <summary>A window that changes its size: programs in the guest see it while they run, in a shell and in a command, at once or in a kept guest.</summary>
    [Theory]
    [InlineData("--fresh"), InlineData(""), InlineData("--fresh -- sh"), InlineData("-- sh")]
    public void TheTerminalsSizeFollowsWhileTheGuestRuns(string words)
    {
        using var pty = new Pty();
        pty.Resize(33, 91);
        // The leader of a session has the terminal, and is told of its sizes.
        using var process = new TestProcess(new ProcessStartInfo("setsid",
            ["--wait", "sh", "-c", $"exec dotnet '{Program}' run --timeout 9m {words} <{pty.Name} >{pty.Name} 2>&1"]));
        // Of one process group, as a program with a window is: that is told.
        pty.Type("""stty size; sh -c 'trap "echo s\"\"ize \$(stty size)" WINCH; echo rea""dy; while :; do sleep 0.1; done'""" + "\r");
        Assert.Contains("33 91", pty.ReadUntil("ready"));
        foreach ((int rows, int columns) in ((int, int)[])[(44, 123), (10, 20)])
        {
            pty.Resize(rows, columns);
            pty.ReadUntil($"size {rows} {columns}");
        }
        pty.Type("\x03");
        pty.Type("exit\r");
        process.WaitForExit();
    }

    /// <summary>Linux finds configuration space in memory by the table MCFG, and sees there what the ports show (sysfs), of each function.</summary>
    [Fact]
    public void ConfigurationSpaceInMemoryIsWhatThePortsShow()
    {
        (int status, string output) = Text("--rng", "--net", "user", "--append", "iomem=relaxed", "--", "sh", "-c", """
            dmesg | grep -o 'PCI: MMCONFIG.*'
            for device in /sys/bus/pci/devices/*; do
                place=${device##*:}
                at=$((0xFEF00000 + (0x${place%.*} << 15) + (${place#*.} << 12)))
                for n in $(seq 0 4 252); do devmem $((at + n)) 32; done >/tmp/memory
                hexdump -v -e '1/4 "0x%08X\n"' $device/config | cmp - /tmp/memory && echo same
                devmem $((at + 256)) 32
            done
            """);
        Assert.Equal(0, status);
        Assert.Equal("""
            PCI: MMCONFIG for domain 0000 [bus 00-00] at [mem 0xfef00000-0xfeffffff] (base 0xfef00000)
            PCI: MMCONFIG at [mem 0xfef00000-0xfeffffff] reserved in E820

            """ + string.Concat(Enumerable.Repeat("same\n0xFFFFFFFF\n", 5)), output);
    }
}
