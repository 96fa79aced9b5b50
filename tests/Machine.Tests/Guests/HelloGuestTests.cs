using System.Text;

namespace Bunraku.Machine.Tests;

public sealed class HelloGuestTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-hello").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("hexlo\x7F\x7F\x7Fllo there\r", "hexlo\b \b\b \b\b \bllo there\r\nYou typed: hello there")]
    [InlineData("no newline\x04", "no newline\r\nYou typed: no newline")]
    [InlineData("\x04", "")]
    public void It_greets_repeats_a_line_and_powers_off_on_QEMU_too(string typed, string repeated)
    {
        string kernel = Path.Combine(_folder, "hello");
        File.WriteAllBytes(kernel, HelloGuest.Build());
        var seen = new StringBuilder();
        using var prompted = new ManualResetEventSlim();
        using var qemu = new Qemu(com1 =>
        {
            if (seen.Append(Encoding.ASCII.GetString(com1)).ToString().Contains("Type a line: ")) prompted.Set();
        }, "-m", "128M", "-cpu", "qemu64", "-kernel", kernel);
        qemu.Await(prompted);
        qemu.SendCom1(Encoding.ASCII.GetBytes(typed));
        string output = Encoding.ASCII.GetString(qemu.Finish().Com1);
        Assert.StartsWith("Hello from a guest on Bunraku.\r\nProcessor: QEMU Virtual CPU", output);
        Assert.Contains("\r\nMemory: 127 MiB\r\n", output); // QEMU's firmware keeps a little at the top
        Assert.EndsWith("Type a line: " + repeated + "\r\nPowering off.\r\n", output);
        Assert.Equal(0, qemu.Status);
    }
}
