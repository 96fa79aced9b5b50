using System.Text;
using Bunraku.Cli.Terminals;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Tests.Monitoring;

/// <summary>The escape keys are those of QEMU's multiplexed console (QEMU's manual, "Keys in the character backend multiplexer").</summary>
public class ConsoleKeysTests
{
    /// <summary>What the guest got, with commands in angle brackets where they happened.</summary>
    private static string Feed(params string[] pieces)
    {
        var keys = new ConsoleKeys();
        var seen = new StringBuilder();
        foreach (string piece in pieces)
            keys.Feed(Encoding.Latin1.GetBytes(piece), b => seen.Append((char)b), c => seen.Append($"<{c}>"));
        return seen.ToString();
    }

    [Theory]
    [InlineData("ls\r", "ls\r")]
    [InlineData("\x03\x04\x1a\x1c", "\x03\x04\x1a\x1c")]
    [InlineData("a\x01xb", "a<Quit>b")]
    [InlineData("\x01X", "<Quit>")]
    [InlineData("\x01" + "c", "<ToggleMonitor>")]
    [InlineData("\x01" + "b", "<Break>")]
    [InlineData("\x01h\x01?", "<Help><Help>")]
    [InlineData("\x01\x01", "\x01")]
    [InlineData("\x01" + "a", "\x01")]
    [InlineData("\x01\x01x", "\x01x")]
    [InlineData("\x01!z", "z")]
    [InlineData("\xff\x80", "\xff\x80")]
    public void KeysGoWhereTheyShould(string typed, string expected) => Assert.Equal(expected, Feed(typed));

    [Theory]
    [InlineData(true, "<Detach>z")]
    [InlineData(false, "z")]
    public void AVmInTheBackgroundAloneCanBeLeft(bool detaches, string expected)
    {
        var seen = new StringBuilder();
        var keys = new ConsoleKeys(detaches: detaches);
        keys.Feed("\x01\x64z"u8, b => seen.Append((char)b), c => seen.Append($"<{c}>"));
        Assert.Equal(expected, seen.ToString());
        Assert.Equal(detaches, keys.Help.Any(h => h.Keys == "Ctrl-A D"));
    }

    [Fact]
    public void AnEscapeMayComeInPieces() => Assert.Equal("a<Quit>b", Feed("a\x01", "xb"));
}
