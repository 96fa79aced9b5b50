namespace Bunraku.Sessions.Debugging;

/// <summary>Makes packets of GDB's remote protocol: framing, checksum, escapes, run lengths.</summary>
/// <remarks>GDB manual, appendix "GDB Remote Serial Protocol", section "Overview".</remarks>
internal static class PacketWriter
{
    private const byte Escape = (byte)'}', EscapeMask = 0x20, Repeat = (byte)'*';
    /// <summary>A run's length is a printable character, so much above the number of repetitions.</summary>
    private const int LengthBase = 29, FewestRepetitions = 3, MostRepetitions = '~' - LengthBase;

    /// <summary>The packet that has these contents.</summary>
    public static byte[] Frame(ReadOnlySpan<byte> payload)
    {
        var packet = new List<byte>(payload.Length + 4) { (byte)'$' };
        for (int n = 0; n < payload.Length;)
        {
            byte b = payload[n];
            if (b is Escape or (byte)'#' or (byte)'$' or Repeat)
            {
                packet.Add(Escape);
                packet.Add((byte)(b ^ EscapeMask));
                n++;
                continue;
            }
            int same = payload[n..].IndexOfAnyExcept(b) is >= 0 and int other ? other : payload.Length - n;
            packet.Add(b);
            int repetitions = Repetitions(same - 1);
            if (repetitions > 0)
            {
                packet.Add(Repeat);
                packet.Add((byte)(LengthBase + repetitions));
            }
            n += 1 + repetitions;
        }
        byte sum = 0;
        foreach (byte b in packet.Skip(1)) sum += b;
        packet.Add((byte)'#');
        packet.AddRange(System.Text.Encoding.ASCII.GetBytes(sum.ToString("x2", System.Globalization.CultureInfo.InvariantCulture)));
        return [.. packet];
    }

    /// <summary>How many of so many repetitions are told in one character; those that would be '#', '$', '+' or '-' are told in two.</summary>
    private static int Repetitions(int possible)
    {
        if (possible < FewestRepetitions) return 0;
        int n = Math.Min(possible, MostRepetitions);
        while ((char)(LengthBase + n) is '#' or '$' or '+' or '-') n--;
        return n;
    }
}
