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
            var messages = new GuestMessages("t0");
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
        var messages = new GuestMessages("t0");
        var output = new List<byte>();
        byte[] stream = Encoding.ASCII.GetBytes("\x1B_bunraku;t0;" + new string('x', 1000));
        messages.Filter(stream, output);
        messages.Flush(output);
        Assert.Equal(stream, output);
    }
}
