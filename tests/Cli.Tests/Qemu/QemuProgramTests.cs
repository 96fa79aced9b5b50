using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;
using Bunraku.Machine;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests.Qemu;

/// <summary>The program with command lines of QEMU's, as a program that starts QEMU sees it: streams, sockets, statuses.</summary>
public sealed class QemuProgramTests : IDisposable
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    /// <summary>Echoes on COM1 in capitals; 'q' ends it by isa-debug-exit with 10h, 'r' resets the machine.</summary>
    private static readonly byte[] Echoes = TestKernel.Assemble(a =>
    {
        const ushort com1 = 0x3F8, modemControl = com1 + 4, exit = 0xF4, reset = 0xCF9;
        Label next = a.CreateLabel(), isReset = a.CreateLabel(), isQuit = a.CreateLabel();
        TestKernel.Print(a, "ready\n");
        TestKernel.Out(a, modemControl, 3); // DTR and RTS: what comes in waits for them
        a.Label(ref next);
        TestKernel.Receive(a);
        a.cmp(al, (sbyte)'q');
        a.je(isQuit);
        a.cmp(al, (sbyte)'r');
        a.je(isReset);
        a.and(al, 0xDF - 0x100); // to upper case
        a.@out(dx, al);
        a.jmp(next);
        a.Label(ref isQuit);
        TestKernel.Out(a, exit, 0x10);
        TestKernel.Loop(a);
        a.Label(ref isReset);
        TestKernel.Out(a, reset, 6);
        TestKernel.Loop(a);
    });

    /// <summary>Prints on COM2 and the debug console, tells of a panic by pvpanic, and stays.</summary>
    private static readonly byte[] Panics = TestKernel.Assemble(a =>
    {
        const ushort com2 = 0x2F8, debug = 0xE9, panic = 0x505;
        foreach (byte b in "two"u8) TestKernel.Out(a, com2, b);
        foreach (byte b in "debug"u8) TestKernel.Out(a, debug, b);
        TestKernel.Out(a, panic, 1);
        TestKernel.Loop(a);
    });

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-qemu").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    private string Kernel(byte[] bytes)
    {
        File.WriteAllBytes(In("kernel"), bytes);
        return In("kernel");
    }

    private static TestProcess Start(params string[] arguments) => new(new ProcessStartInfo("dotnet", [Program, "qemu", .. arguments])
    {
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    });

    private static (int Status, string Output, string Errors) Run(string input, params string[] arguments)
    {
        using TestProcess process = Start(arguments);
        Task<string> errors = process.StandardError.ReadToEndAsync();
        process.StandardInput.Write(input);
        process.StandardInput.Close();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, errors.Result);
    }

    private static Socket Connect(string path)
    {
        for (int n = 0; ; n++)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
            try
            {
                socket.Connect(new UnixDomainSocketEndPoint(path));
                return socket;
            }
            catch (SocketException) when (n < 600)
            {
                socket.Dispose();
                Thread.Sleep(100);
            }
        }
    }

    private static string ReadUntil(Socket socket, string end)
    {
        var text = new StringBuilder();
        byte[] buffer = new byte[4096];
        while (!text.ToString().EndsWith(end, StringComparison.Ordinal))
        {
            int n = socket.Receive(buffer);
            Assert.True(n > 0, $"'{end}' did not come: {text}");
            text.Append(Encoding.UTF8.GetString(buffer, 0, n));
        }
        return text.ToString();
    }

    /// <summary>QEMU's isa-debug-exit: (value &lt;&lt; 1) | 1. What comes by standard input reaches COM1, and its end is not the guest's.</summary>
    [Fact]
    public void Standard_streams_and_isa_debug_exit() => Assert.Equal((0x21, "ready\nABC", ""),
        Run("abcq", "-nodefaults", "-kernel", Kernel(Echoes), "-nographic", "-serial", "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"));

    [Fact]
    public void A_reset_with_no_reboot_is_0() =>
        Assert.Equal((0, "ready\n", ""), Run("r", "-nodefaults", "-kernel", Kernel(Echoes), "-nographic", "-serial", "stdio", "-no-reboot"));

    [Fact]
    public void The_terminal_is_shared_behind_the_escape_key()
    {
        (int status, string output, string errors) = Run("ab\u0002cinfo version\r\u0002cc\u0002x", "-kernel", Kernel(Echoes), "-nographic", "-net", "none",
            "-echr", "2");
        Assert.Equal((0, ""), (status, errors));
        Assert.Contains("(qemu) ", output, StringComparison.Ordinal);
        Assert.Contains("7.2.0 Bunraku", output, StringComparison.Ordinal);
    }

    [Fact]
    public void A_panic_ends_it_and_each_port_has_a_place_of_its_own()
    {
        (int status, _, string errors) = Run("", "-nodefaults", "-kernel", Kernel(Panics), "-display", "none", "-serial", "null", "-serial",
            $"file:{In("two")}",
            "-debugcon", $"file:{In("debug")}", "-device", "pvpanic");
        Assert.Equal((0, ""), (status, errors));
        Assert.Equal("two", File.ReadAllText(In("two")));
        Assert.Equal("debug", File.ReadAllText(In("debug")));
    }

    [Fact]
    public void Wrong_words_are_1_and_one_line()
    {
        (int status, string output, string errors) = Run("", "-kernel", Kernel(Echoes), "-device", "nvme,drive=d");
        Assert.Equal((1, ""), (status, output));
        Assert.Matches("^bunraku: -device: not had: nvme[^\n]*\n$", errors);
    }

    [Fact]
    public void A_signal_is_0_as_with_QEMU()
    {
        using TestProcess process = Start("-nodefaults", "-kernel", Kernel(Echoes), "-nographic", "-serial", "stdio");
        Assert.Equal("ready", process.StandardOutput.ReadLine());
        process.Signal(PosixSignal.SIGTERM);
        Assert.Contains("terminating on signal 15", process.StandardError.ReadToEnd(), StringComparison.Ordinal);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }

    /// <summary>QEMU documentation, docs/interop/qmp-spec, and QMP Reference Manual: greeting, negotiation, commands, errors, events.</summary>
    [Fact]
    public void The_machine_protocol()
    {
        using TestProcess process = Start("-nodefaults", "-kernel", Kernel(Echoes), "-display", "none", "-S", "-name", "web", "-qmp",
            $"unix:{In("q")},server=on,wait=off",
            "-serial", $"unix:{In("s")},server=on,wait=off", "-monitor", $"unix:{In("m")},server=on,wait=off");
        using Socket socket = Connect(In("q"));
        using var stream = new NetworkStream(socket);
        using var reader = new StreamReader(stream);
        var events = new List<string>();
        Assert.Equal(JsonValueKind.Array, Next().GetProperty("QMP").GetProperty("capabilities").ValueKind);
        Assert.Equal("CommandNotFound", Ask("""{"execute":"query-status"}""").GetProperty("error").GetProperty("class").GetString());
        Assert.Equal(7, Ask("""{"execute":"qmp_capabilities","id":7}""").GetProperty("id").GetInt32());
        Assert.Equal("prelaunch", Status());
        Assert.Equal("web", Ask("""{"execute":"query-name"}""").GetProperty("return").GetProperty("name").GetString());
        Assert.Equal("GenericError", Ask("{]").GetProperty("error").GetProperty("class").GetString());
        // Half of a surrogate pair can be read and not written: the answer has no id.
        foreach (string half in (string[])["""{"execute":"query-status","id":"\ud800"}""", """{"execute":"query-status","id":[{"\ud800":1}]}"""])
        {
            JsonElement answer = Ask(half);
            Assert.Equal("JSON parse error", answer.GetProperty("error").GetProperty("desc").GetString());
            Assert.False(answer.TryGetProperty("id", out _));
        }
        Assert.Equal("CommandNotFound", Ask("""{"execute":"no-such"}""").GetProperty("error").GetProperty("class").GetString());

        using Socket serial = Connect(In("s")), monitor = Connect(In("m"));
        Assert.Contains("QEMU 7.2.0 monitor", ReadUntil(monitor, "(qemu) "), StringComparison.Ordinal);
        // In two pieces, and without a line end.
        socket.Send("{\"exec"u8);
        Ask("""ute":"cont"}""");
        Assert.Equal("running", Status());
        Assert.EndsWith("ready\n", ReadUntil(serial, "ready\n"), StringComparison.Ordinal);
        serial.Send("xy"u8);
        Assert.Equal("XY", ReadUntil(serial, "XY"));
        Ask("""{"execute":"stop"}""");
        Assert.Equal("paused", Status());
        monitor.Send("cont\r"u8);
        ReadUntil(monitor, "(qemu) ");
        Assert.Equal("running", Status());
        Assert.Single(Ask("""{"execute":"query-cpus-fast"}""").GetProperty("return").EnumerateArray());
        Assert.Equal("DeviceNotActive", Ask("""{"execute":"query-balloon"}""").GetProperty("error").GetProperty("class").GetString());
        Assert.Equal("DeviceNotActive", Ask("""{"execute":"balloon","arguments":{"value":1048576}}""").GetProperty("error").GetProperty("class").GetString());
        Assert.Equal("GenericError", Ask("""{"execute":"balloon","arguments":{"value":-1}}""").GetProperty("error").GetProperty("class").GetString());
        string said = Ask("""{"execute":"human-monitor-command","arguments":{"command-line":"info name"}}""").GetProperty("return").GetString()!;
        Assert.Equal("web\r\n", said);
        serial.Send("r"u8);
        ReadUntil(serial, "ready\n");
        Ask("""{"execute":"quit"}""");
        while (reader.ReadLine() is { } line) events.Add(JsonDocument.Parse(line).RootElement.GetProperty("event").GetString()!);
        process.WaitForExit();
        Assert.Equal((0, ""), (process.ExitCode, process.StandardError.ReadToEnd()));
        Assert.Equal(["RESUME", "STOP", "RESUME", "RESET", "SHUTDOWN"], events);
        Assert.Empty(Directory.GetFiles(_folder).Select(Path.GetFileName).Except(["kernel"]));

        JsonElement Next()
        {
            while (true)
            {
                JsonElement message = JsonDocument.Parse(reader.ReadLine()!).RootElement;
                if (!message.TryGetProperty("event", out JsonElement name)) return message;
                events.Add(name.GetString()!);
            }
        }

        JsonElement Ask(string command)
        {
            socket.Send(Encoding.UTF8.GetBytes(command + (command == "{]" ? "\n" : "")));
            return Next();
        }

        string Status() => Ask("""{"execute":"query-status"}""").GetProperty("return").GetProperty("status").GetString()!;
    }

    /// <summary>QMP Reference Manual: BLOCK_IO_ERROR, query-block. The file of a disk has become shorter when the firmware wants to boot from it.</summary>
    [Fact]
    public void An_error_of_a_disk()
    {
        File.WriteAllBytes(In("disk"), new byte[1 << 20]);
        using TestProcess process = Start("-nodefaults", "-display", "none", "-S", "-hda", In("disk"), "-qmp", $"unix:{In("q")},server=on,wait=off");
        using Socket socket = Connect(In("q"));
        using var reader = new StreamReader(new NetworkStream(socket));
        reader.ReadLine(); // the greeting
        Ask("""{"execute":"qmp_capabilities"}""");
        JsonElement block = Ask("""{"execute":"query-block"}""").GetProperty("return").EnumerateArray().Single();
        Assert.Equal("ide0-hd0", block.GetProperty("device").GetString());
        Assert.Equal("ok", block.GetProperty("io-status").GetString());
        Assert.Equal("raw", block.GetProperty("inserted").GetProperty("drv").GetString());
        Assert.Equal(1 << 20, block.GetProperty("inserted").GetProperty("image").GetProperty("virtual-size").GetInt32());
        File.WriteAllBytes(In("disk"), []);
        Ask("""{"execute":"cont"}""");
        JsonElement told;
        do
        {
            told = JsonDocument.Parse(reader.ReadLine()!).RootElement;
        }
        while (!told.TryGetProperty("event", out JsonElement name) || name.GetString() != "BLOCK_IO_ERROR");
        JsonElement data = told.GetProperty("data");
        Assert.Equal(("ide0-hd0", "read", "report"), (Text("device"), Text("operation"), Text("action")));
        Assert.False(data.GetProperty("nospace").GetBoolean());
        Assert.NotEmpty(Text("reason"));
        socket.Send("""{"execute":"quit"}"""u8);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);

        JsonElement Ask(string command)
        {
            socket.Send(Encoding.UTF8.GetBytes(command));
            while (true)
            {
                JsonElement message = JsonDocument.Parse(reader.ReadLine()!).RootElement;
                if (!message.TryGetProperty("event", out _)) return message;
            }
        }

        string Text(string name) => data.GetProperty(name).GetString()!;
    }

    /// <summary>The server stops listening to it; the guest does not stop, and whatever it has asked is answered when it reads.</summary>
    [Fact]
    public void A_client_that_does_not_read_holds_up_only_itself()
    {
        const int mostHeard = 4 << 20;
        byte[] request = "{\"execute\":\"query-commands\"}"u8.ToArray();
        using TestProcess process = Start("-nodefaults", "-kernel", Kernel(Echoes), "-display", "none", "-qmp", $"unix:{In("q")},server=on,wait=off",
            "-serial", $"unix:{In("s")},server=on,wait=off");
        using Socket serial = Connect(In("s")), socket = Connect(In("q"));
        socket.Send("{\"execute\":\"qmp_capabilities\"}"u8);
        byte[] requests = [.. Enumerable.Repeat(request, 1000).SelectMany(r => r)];
        socket.Blocking = false;
        int sent = 0;
        while (sent < mostHeard && socket.Poll(2_000_000, SelectMode.SelectWrite)) sent += socket.Send(requests.AsSpan(sent % requests.Length));
        Assert.True(sent < mostHeard);
        serial.Send("xy"u8);
        Assert.EndsWith("XY", ReadUntil(serial, "XY"), StringComparison.Ordinal);

        socket.Blocking = true;
        using var stream = new NetworkStream(socket);
        using var reader = new StreamReader(stream);
        for (int expected = 2 + sent / request.Length; expected > 0; expected--) Assert.NotNull(reader.ReadLine());
        process.Signal(PosixSignal.SIGTERM);
        process.WaitForExit();
    }

    /// <summary>Whoever asks to the very end gets answers or the end of the connection, and the process ends as it was to.</summary>
    [Fact]
    public void A_monitor_that_is_busy_at_the_end()
    {
        using TestProcess process = Start("-kernel", Kernel(Echoes), "-display", "none", "-vga", "std", "-net", "none", "-serial",
            $"unix:{In("s")},server=on,wait=off", "-monitor", $"unix:{In("m")},server=on,wait=off", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04");
        using Socket serial = Connect(In("s")), monitor = Connect(In("m"));
        ReadUntil(monitor, "(qemu) ");
        for (int n = 0; n < 500; n++) monitor.Send("info screen\r"u8);
        serial.Send("q"u8);
        process.WaitForExit();
        Assert.Equal((0x21, ""), (process.ExitCode, process.StandardError.ReadToEnd()));
    }

    /// <summary>PNG Specification, Third Edition, "PNG signature".</summary>
    [Fact]
    public void A_picture_of_the_screen()
    {
        string kernel = Kernel(Echoes), people = In("1.png"), protocol = In("2.png");
        string[] words = ["-kernel", kernel, "-net", "none", "-serial", "null", "-display", "none", "-vga"];
        (int status, string output, string errors) = Run($"screendump {people}\rquit\r", [.. words, "std", "-monitor", "stdio"]);
        Assert.Equal((0, ""), (status, errors));
        Assert.Equal([0x89, .. "PNG\r\n"u8, 0x1A, (byte)'\n'], File.ReadAllBytes(people)[..8]);
        string asked = """{"execute":"qmp_capabilities"}""" + Dump("png") + Dump("ppm") + """{"execute":"quit"}""";
        (_, output, _) = Run(asked, [.. words, "std", "-qmp", "stdio", "-monitor", "none"]);
        Assert.Equal(File.ReadAllBytes(people)[..8], File.ReadAllBytes(protocol)[..8]);
        Assert.Contains("not as ppm", output, StringComparison.Ordinal);

        string Dump(string format) => """{"execute":"screendump","arguments":{"filename":"FILE","format":"KIND"}}"""
            .Replace("FILE", protocol, StringComparison.Ordinal).Replace("KIND", format, StringComparison.Ordinal);
    }

    [Fact]
    public void In_the_background_with_its_number_in_a_file()
    {
        (int status, string output, string errors) = Run("", "-nodefaults", "-kernel", Kernel(Echoes), "-display", "none", "-daemonize", "-pidfile", In("pid"),
            "-serial", $"file:{In("log")}", "-monitor", $"unix:{In("m")},server=on,wait=off");
        Assert.Equal((0, "", ""), (status, output, errors));
        int id = int.Parse(File.ReadAllText(In("pid")), System.Globalization.CultureInfo.InvariantCulture);
        using Socket monitor = Connect(In("m"));
        ReadUntil(monitor, "(qemu) ");
        Assert.True(Directory.Exists($"/proc/{id}"));
        monitor.Send("quit\r"u8);
        while (monitor.Receive(new byte[4096]) > 0)
        {
        }
        for (int n = 0; File.Exists(In("pid")); n++)
        {
            Assert.True(n < 600);
            Thread.Sleep(100);
        }
        (status, _, errors) = Run("", "-nodefaults", "-kernel", In("no-kernel"), "-display", "none", "-daemonize");
        Assert.Equal(1, status);
        Assert.Contains("no-kernel", errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(PosixSignal.SIGQUIT, 3)]
    [InlineData(PosixSignal.SIGTERM, 15)]
    public void The_terminal_comes_back_after_a_signal(PosixSignal signal, int number)
    {
        using var pty = new Pty();
        string before = pty.Modes;
        string command = $"exec env --default-signal dotnet '{Program}' qemu -nodefaults -display none -serial mon:stdio -kernel '{Kernel(Echoes)}'";
        using var process = new TestProcess(new ProcessStartInfo("sh", ["-c", $"{command} <{pty.Name} >{pty.Name} 2>&1"]));
        pty.ReadUntil("ready");
        Assert.NotEqual(before, pty.Modes);
        process.Signal(signal);
        pty.ReadUntil($"terminating on signal {number}");
        process.WaitForExit();
        Assert.Equal((0, before), (process.ExitCode, pty.Modes));
    }

    /// <summary>Linux with the words of kunit.py, and its disks and identity: it reaches user space and switches off.</summary>
    [Fact]
    public void Linux_boots_with_the_words_of_kunit()
    {
        string kernel = new LinuxGuestFiles().Kernel;
        var archive = new CpioArchive();
        foreach (string folder in (string[])["bin", "dev", "proc", "sys"]) archive.AddDirectory(folder);
        archive.AddCharacterDevice("dev/console", 5, 1);
        archive.AddFile("bin/busybox", File.ReadAllBytes(new DebianPackages(new GuestCache()).FindBusybox()), 0x1ED);
        archive.AddFile("init", """
            #!/bin/busybox sh
            /bin/busybox mount -t sysfs sys /sys
            /bin/busybox echo user space of $(/bin/busybox cat /sys/class/dmi/id/product_uuid /sys/class/dmi/id/sys_vendor)
            /bin/busybox poweroff -f

            """u8, 0x1ED);
        File.WriteAllBytes(In("initrd"), archive.ToArray());
        (int status, string output, string errors) = Run("", "-nodefaults", "-m", "1024", "-kernel", kernel, "-initrd", In("initrd"), "-append",
            "console=ttyS0 quiet", "-no-reboot",
            "-nographic", "-accel", "kvm", "-accel", "hvf", "-accel", "tcg", "-serial", "stdio", "-uuid", "00112233-4455-6677-8899-aabbccddeeff", "-smbios",
                "type=1,manufacturer=Acme",
            "");
        Assert.Equal((0, ""), (status, errors));
        Assert.Contains("user space of 00112233-4455-6677-8899-aabbccddeeff Acme", output, StringComparison.Ordinal);
    }

    /// <summary>A link named as QEMU's program is QEMU's program.</summary>
    [Fact]
    public void A_link_of_QEMUs_name()
    {
        string link = In("qemu-system-x86_64");
        File.CreateSymbolicLink(link, Path.Combine(AppContext.BaseDirectory, "bunraku"));
        using var process = new TestProcess(new ProcessStartInfo(link, ["-version"]) { RedirectStandardOutput = true });
        Assert.StartsWith("QEMU emulator version 7.2.0", process.StandardOutput.ReadToEnd(), StringComparison.Ordinal);
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
    }
}
