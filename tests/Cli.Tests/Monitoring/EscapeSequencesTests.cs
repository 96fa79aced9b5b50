using System.Text;
using Bunraku.Cli.Terminals;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Tests.Monitoring;

/// <summary>Which sequences are a terminal's answers and events, and which are keys: xterm's "Control Sequences".</summary>
public class EscapeSequencesTests
{
    private static List<(TerminalInput What, string Bytes)> Feed(string typed)
    {
        var sequences = new EscapeSequences();
        var seen = new List<(TerminalInput, string)>();
        foreach (byte b in Encoding.Latin1.GetBytes(typed)) sequences.Feed(b, (what, bytes) => seen.Add((what, Encoding.Latin1.GetString(bytes))));
        return seen;
    }

    [Theory]
    [InlineData("\x1B[24;18R")] // CPR: where the cursor is
    [InlineData("\x1B[?24;18;1R")] // DECXCPR
    [InlineData("\x1B[?62;22c")] // primary device attributes
    [InlineData("\x1B[>41;380;0c")] // secondary device attributes
    [InlineData("\x1B[0n")] // status
    [InlineData("\x1B[?2026;2$y")] // DECRPM: a mode
    [InlineData("\x1B[8;24;80t")] // size of the window
    [InlineData("\x1B[2;1;1;128;128;1;0x")] // DECREPTPARM
    [InlineData("\x1B[I")] // focus in
    [InlineData("\x1B[O")] // focus out
    [InlineData("\x1B[<0;10;5M")] // mouse, SGR
    [InlineData("\x1B[<0;10;5m")]
    [InlineData("\x1B[M !!")] // mouse, X10: three more bytes
    [InlineData("\x1B]11;rgb:0000/0000/0000\x1B\\")] // a colour
    [InlineData("\x1B]11;rgb:0000/0000/0000\x07")]
    [InlineData("\x1BP>|XTerm(380)\x1B\\")] // the terminal's name
    [InlineData("\x1BP1$r0m\x1B\\")] // DECRPSS
    [InlineData("\x1B_Gi=31;OK\x1B\\")] // graphics
    public void AReportIsOnePiece(string report) =>
        Assert.Equal([(TerminalInput.Byte, "a"), (TerminalInput.Report, report), (TerminalInput.Byte, "b")], Feed("a" + report + "b"));

    [Theory]
    [InlineData("\x1B[A")]
    [InlineData("\x1BOA")]
    [InlineData("\x1B[1;5C")]
    [InlineData("\x1B[3~")]
    [InlineData("\x1B[200~")] // a paste begins
    [InlineData("\x1B" + "b")]
    [InlineData("\x1BOP")]
    public void AKeyIsOnePiece(string key) => Assert.Equal([(TerminalInput.Key, key), (TerminalInput.Byte, "b")], Feed(key + "b"));

    [Theory]
    [InlineData("\x1B[12\rx", "\rx")]
    [InlineData("\x1BPtyped by hand\r", "\r")]
    [InlineData("\x1B\x03y", "\x03y")]
    [InlineData("\x1B]x\x01" + "c", "\x01" + "c")]
    public void AControlCharacterEndsWhatOnlyBeganLikeASequence(string typed, string left) =>
        Assert.Equal(left, string.Concat(Feed(typed).Select(s => s.Bytes)));

    [Fact]
    public void EndlessSequencesAreGivenUp() => Assert.Contains((TerminalInput.Byte, "z"), Feed("\x1B]" + new string('x', 100_000) + "z"));
}
