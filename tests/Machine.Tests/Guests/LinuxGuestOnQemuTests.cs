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
        LinuxGuest guest =
            LinuxGuest.Create(kernel, "linux", File.ReadAllBytes(packages.FindBusybox()),
            new() { Command = command, Terminal = terminal, Columns = 91, Rows = 33 });
        string kernelPath = Path.Combine(_folder, "kernel"), initrdPath = Path.Combine(_folder, "initrd");
        File.WriteAllBytes(kernelPath, kernel);
        File.WriteAllBytes(initrdPath, guest.Initrd.Span);
        var messages = new GuestMessages(guest.Token, guest.Console);
        var console = new List<byte>();
        using var mayContinue = new SemaphoreSlim(0);
        using var qemu = new Qemu(com1 =>
        {
            int taken = messages.FramesTaken;
            bool ready = messages.InputReady;
            messages.Filter(com1, console);
            if (ready != messages.InputReady || taken != messages.FramesTaken) mayContinue.Release();
            // On a busy host QEMU's timer may come too late for Linux's check.
        }, "-m", "512M", "-kernel", kernelPath, "-initrd", initrdPath, "-append", guest.Append + " no_timer_check");
        if (input is not null)
        {
            var line = new List<byte>();
            var frames = new CommandInput();
            frames.Add(input);
            frames.End();
            do
            {
                Assert.True(mayContinue.Wait(TimeSpan.FromMinutes(2)));
                frames.Acknowledge(messages.FramesTaken);
                frames.Take(line);
                qemu.SendCom2([.. line]);
                line.Clear();
            }
            while (frames.Waiting > 0);
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
        // Every byte value and more than may be under way.
        byte[] input = new byte[CommandInput.MostFrames * CommandInput.LongestFrame + 777];
        new Random(1).NextBytes(input);
        (int? status, _, byte[] output) = Run(["sh", "-c", "cat; exit 42"], input);
        Assert.Equal(Convert.ToHexString(input), Convert.ToHexString(output));
        Assert.Equal(42, status);
    }

    [Theory]
    [InlineData(127, "/no/such/command")]
    [InlineData(137, "sh", "-c", "kill -9 $$")]
    public void A_command_that_fails_reports_its_status(int expected, params string[] command) => Assert.Equal(expected, Run(command).Status);

    [Theory]
    [InlineData("poweroff"), InlineData("halt"), InlineData("reboot")]
    public void Switching_off_without_force_sends_what_was_printed_and_ends_the_machine(string command)
    {
        // QEMU ends at a reset, too.
        (int? status, string console, byte[] output) = Run(["sh", "-c", $"seq 20000; {command}; sleep 1000"]);
        Assert.Equal(string.Concat(Enumerable.Range(1, 20000).Select(n => $"{n}\n")), Encoding.ASCII.GetString(output));
        Assert.Null(status);
        Assert.Contains(command == "reboot" ? "reboot: Restarting system" : "reboot: Power down", console);
    }

    [Fact]
    public void A_command_on_a_terminal_has_the_users_window_and_job_control()
    {
        (int? status, _, byte[] output) =
            Run(["sh", "-c", "tty; stty size; ps -o tty,pid,args | grep -c 'ttyS1\\|4,65'; : </dev/tty && echo controlling"], terminal: true);
        string text = Encoding.UTF8.GetString(output);
        Assert.StartsWith("/dev/ttyS1\r\n33 91\r\n", text);
        Assert.EndsWith("controlling\r\n", text);
        Assert.Equal(0, status);
    }
}
