using System.Text;
using Bunraku.Sessions.Debugging;

namespace Bunraku.Cli.Tests;

/// <summary>GDB manual, appendix "GDB Remote Serial Protocol", section "Overview": packets, their checksums, escapes and run lengths.</summary>
public sealed class PacketTests
{
    private static List<string> Read(PacketReader reader, ReadOnlySpan<byte> bytes)
    {
        var found = new List<string>();
        while (reader.Take(ref bytes) is { } kind)
            found.Add(kind == PacketKind.Packet ? Encoding.Latin1.GetString(reader.Payload) : kind.ToString());
        return found;
    }

    [Theory]
    [InlineData("$m0,4#fd", "m0,4")] // from gdb's own log
    [InlineData("$qTStatus#49", "qTStatus")]
    [InlineData("+$g#67", "Acknowledged,g")]
    [InlineData("-\u0003+", "Refused,Interrupt,Acknowledged")]
    [InlineData("$#00", "")]
    [InlineData("$g#68$g#67", "Damaged,g")]
    [InlineData("$g#6x", "Damaged")]
    [InlineData("noise$g#67noise", "g")]
    [InlineData("$lost$g#67", "g")]
    [InlineData("$X0,1:}\u0003#9f", "X0,1:#")]
    [InlineData("$X0,1:\u0003#22", "X0,1:\u0003")]
    public void WhatComesIsRead(string bytes, string expected)
    {
        byte[] all = Encoding.Latin1.GetBytes(bytes);
        Assert.Equal(expected, string.Join(',', Read(new PacketReader(100), all)));
        var one = new PacketReader(100);
        Assert.Equal(expected, string.Join(',', all.SelectMany(b => Read(one, [b]))));
    }

    [Fact]
    public void APacketThatIsTooLongIsToldAndTakesNoMemory()
    {
        var reader = new PacketReader(10);
        Assert.Equal(["0123456789"], Read(reader, "$0123456789#0d"u8));
        Assert.Equal(["TooLong", "g"], Read(reader, Encoding.ASCII.GetBytes("$" + new string('a', 100_000) + $"#{97 * 100_000 & 0xFF:x2}$g#67")));
    }

    [Theory]
    [InlineData("OK", "$OK#9a")] // from gdbserver's log
    [InlineData("", "$#00")]
    [InlineData("0000", "$0* #7a")] // the manual's example: "0* " is "0000"
    [InlineData("}#$*", "$}]}\u0003}\u0004}\n#63")]
    [InlineData("00", "$00#60")]
    public void WhatIsSentIsFramed(string payload, string expected)
    {
        byte[] packet = PacketWriter.Frame(Encoding.Latin1.GetBytes(payload));
        Assert.Equal(expected[..^2], Encoding.Latin1.GetString(packet)[..^2]);
        Assert.Equal(packet[1..^3].Aggregate((byte)0, (s, b) => (byte)(s + b)).ToString("x2", null), Encoding.Latin1.GetString(packet)[^2..]);
    }

    [Fact]
    public void RunLengthsAreNoCharactersThatMeanSomethingElse()
    {
        for (int n = 1; n < 400; n++)
        {
            byte[] packet = PacketWriter.Frame(Enumerable.Repeat((byte)'0', n).ToArray());
            int length = 0;
            for (int at = 1; at < packet.Length - 3; at++)
            {
                if (packet[at] != '*')
                {
                    length++;
                    continue;
                }
                Assert.InRange(packet[++at], 29 + 3, 126);
                Assert.DoesNotContain((char)packet[at], "#$+-");
                length += packet[at] - 29;
            }
            Assert.Equal(n, length);
        }
    }

    [Fact]
    public void RandomBytesAreNoDanger()
    {
        var random = new Random(5);
        ReadOnlySpan<byte> likely = "$#}*+-\u00030123456789abcdef:;,"u8;
        var reader = new PacketReader(64);
        int packets = 0;
        for (int n = 0; n < 3000; n++)
        {
            var bytes = new byte[random.Next(1, 200)];
            for (int i = 0; i < bytes.Length; i++) bytes[i] = random.Next(4) == 0 ? (byte)random.Next(256) : likely[random.Next(likely.Length)];
            foreach (string _ in Read(reader, bytes))
            {
                Assert.True(reader.Payload.Length <= 64);
                packets++;
            }
            // Whatever it was in the middle of, a packet behind two ends is found.
            Assert.Contains("?", Read(reader, "#00#00$?#3f"u8));
        }
        Assert.True(packets > 3000);
    }
}
