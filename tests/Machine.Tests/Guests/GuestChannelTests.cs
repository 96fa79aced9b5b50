using System.Text;

namespace Bunraku.Machine.Tests;

public class GuestChannelTests
{
    [Fact]
    public void Messages_are_taken_out_of_the_console_however_it_is_cut()
    {
        byte[] stream = Encoding.ASCII.GetBytes("a\x1B[0m\x1B\x1B_bunraku;t0;init\x1B\\b\x1B_bunraku;other;exit 9\x1B\\c\x1B_bunraku;t0;exit 3\x1B\\d\x1B");
        for (int piece = 1; piece <= stream.Length; piece++)
        {
            var messages = new GuestMessages("t0", GuestConsole.Shell);
            var output = new List<byte>();
            foreach (byte[] part in stream.Chunk(piece)) messages.Filter(part, output);
            messages.Flush(output);
            Assert.Equal("a\x1B[0m\x1B" + "b\x1B_bunraku;other;exit 9\x1B\\cd\x1B", Encoding.ASCII.GetString([.. output]));
            Assert.True(messages.InitStarted);
            Assert.Equal(3, messages.ExitStatus);
        }
    }

    [Fact]
    public void An_endless_message_is_passed_on()
    {
        var messages = new GuestMessages("t0", GuestConsole.Shell);
        var output = new List<byte>();
        byte[] stream = Encoding.ASCII.GetBytes("\x1B_bunraku;t0;" + new string('x', 1000));
        messages.Filter(stream, output);
        messages.Flush(output);
        Assert.Equal(stream, output);
    }

    [Fact]
    public void Acknowledgements_are_counted_wherever_they_stand()
    {
        byte[] stream = [0xFF, .. Encoding.ASCII.GetBytes("a\x1B_bunraku;t0;in"), 0xFF, .. Encoding.ASCII.GetBytes("put\x1B\\b"), 0xFF];
        var messages = new GuestMessages("t0", GuestConsole.Command);
        var output = new List<byte>();
        messages.Filter(stream, output);
        messages.Flush(output);
        Assert.Equal("ab"u8.ToArray(), output);
        Assert.Equal(3, messages.FramesTaken);
        Assert.True(messages.InputReady);
        // In a shell's output the same byte is the user's.
        messages = new GuestMessages("t0", GuestConsole.Shell);
        output.Clear();
        messages.Filter([0xFF], output);
        Assert.Equal([0xFF], output);
    }

    [Fact]
    public void Input_goes_in_frames_and_no_more_than_the_guest_has_room_for()
    {
        byte[] input = new byte[3 * CommandInput.LongestFrame + 10];
        new Random(1).NextBytes(input);
        var frames = new CommandInput();
        frames.Add(input);
        frames.End();
        var line = new List<byte>();
        frames.Take(line);
        frames.Take(line);
        var received = new List<byte>();
        int taken = 0;
        bool ended = false;
        while (!ended)
        {
            Assert.InRange(line.Count, 1, CommandInput.MostFrames * (CommandInput.LongestFrame + 8));
            int end = line.IndexOf((byte)'\n');
            string[] header = Encoding.ASCII.GetString([.. line.Take(end)]).Split(' ');
            Assert.Equal($"{taken + 1}", header[0]);
            int size = int.Parse(header[1]);
            received.AddRange(line.Skip(end + 1).Take(size));
            line.RemoveRange(0, end + 1 + size);
            ended = size == 0;
            if (ended) break;
            frames.Acknowledge(++taken);
            frames.Take(line);
        }
        Assert.Empty(line);
        Assert.Equal(input, received);
        Assert.Equal(0, frames.Waiting);
    }

    [Theory]
    // As Linux prints it; the counters are 32 bits wide and printed with a sign.
    [InlineData("1: uart:16550A port:000002F8 irq:3 tx:30 rx:7 RTS|CTS|DTR|DSR|CD", 30u, 7u, 0u)]
    [InlineData("1: uart:16550A port:000002F8 irq:3 tx:-2 rx:7 fe:1 pe:2 brk:3 oe:4 bo:626688 RTS|CTS|DTR|DSR|CD", 4_294_967_294u, 7u, 626_698u)]
    public void What_Linux_counted_on_a_line_is_read(string text, uint sent, uint received, uint damaged) =>
        Assert.Equal(new GuestLineCounters(sent, received, damaged), GuestLineCounters.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("1: uart:unknown port:000002F8 irq:3")]
    public void A_line_without_counters_is_none(string text) => Assert.Null(GuestLineCounters.Parse(text));
}
