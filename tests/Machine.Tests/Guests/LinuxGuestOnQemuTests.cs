using System.Text;

namespace Bunraku.Machine.Tests;

/// <summary>The default guest, booted by QEMU: kernel, initramfs, and the way that output and status come out are judged without our own machine.</summary>
public sealed class LinuxGuestOnQemuTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-guest").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private (int? Status, string Console, byte[] Output) Run(string[] command, byte[]? input = null, bool terminal = false)
    {
        var packages = new DebianPackages(new GuestCache());
        byte[] kernel = File.ReadAllBytes(packages.FindKernel("linux"));
        LinuxGuest guest = LinuxGuest.Create(kernel, "linux", File.ReadAllBytes(packages.FindBusybox()), new() { Command = command, Terminal = terminal, Columns = 91, Rows = 33 });
        string kernelPath = Path.Combine(_folder, "kernel"), initrdPath = Path.Combine(_folder, "initrd");
        File.WriteAllBytes(kernelPath, kernel);
        File.WriteAllBytes(initrdPath, guest.Initrd.Span);
        var messages = new GuestMessages(guest.Token);
        var console = new List<byte>();
        using var inputReady = new ManualResetEventSlim();
        messages.Received += message =>
        {
            if (message == "input") inputReady.Set();
        };
        using var qemu = new Qemu(com1 => messages.Filter(com1, console), "-m", "512M", "-kernel", kernelPath, "-initrd", initrdPath, "-append", guest.Append);
        if (input is not null)
        {
            qemu.Await(inputReady);
            var coded = new List<byte>();
            var encoder = new CommandInput();
            encoder.Encode(input, coded);
            encoder.End(coded);
            qemu.SendCom2([.. coded]);
        }
        byte[] com2 = qemu.Finish().Com2;
        Assert.True(messages.InitStarted, Encoding.UTF8.GetString([.. console]));
        return (messages.ExitStatus, Encoding.UTF8.GetString([.. console]), com2);
    }

    [Fact]
    public void A_command_gets_its_arguments_as_they_are_and_gives_its_output_and_status()
    {
        string[] words = ["printf", "%s|", "two words", "it's", "$HOME", "`id`", "\\n", "\"", "*", "", "ü", "a\nb"];
        (int? status, string console, byte[] output) = Run(words);
        Assert.Equal("two words|it's|$HOME|`id`|\\n|\"|*||ü|a\nb|", Encoding.UTF8.GetString(output));
        Assert.Equal(0, status);
        Assert.DoesNotContain("Kernel panic", console);
    }

    [Fact]
    public void Every_byte_comes_through_standard_input_and_output_and_the_end_of_input_too()
    {
        // Every byte value, lines longer than a terminal holds, and no newline at the end; the reader's size equals the piece size.
        byte[] input = new byte[3 * 1021 + 777];
        new Random(1).NextBytes(input);
        for (int n = 0; n < 256; n++) input[n] = (byte)n;
        for (int n = 256; n < 2500; n++) if (input[n] == '\n') input[n] = 0;
        (int? status, _, byte[] output) = Run(["sh", "-c", "dd bs=1021 2>/dev/null; exit 42"], input);
        Assert.Equal(Convert.ToHexString(input), Convert.ToHexString(output));
        Assert.Equal(42, status);
    }

    [Theory]
    [InlineData(127, "/no/such/command")]
    [InlineData(137, "sh", "-c", "kill -9 $$")]
    public void A_command_that_fails_reports_its_status(int expected, params string[] command) => Assert.Equal(expected, Run(command).Status);

    [Fact]
    public void A_command_on_a_terminal_has_the_users_window_and_job_control()
    {
        (int? status, _, byte[] output) = Run(["sh", "-c", "tty; stty size; ps -o tty,pid,args | grep -c 'ttyS1\\|4,65'; : </dev/tty && echo controlling"], terminal: true);
        string text = Encoding.UTF8.GetString(output);
        Assert.StartsWith("/dev/ttyS1\r\n33 91\r\n", text);
        Assert.EndsWith("controlling\r\n", text);
        Assert.Equal(0, status);
    }
}
