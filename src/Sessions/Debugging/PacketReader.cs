namespace Bunraku.Sessions.Debugging;

/// <summary>What came from a debugger.</summary>
internal enum PacketKind
{
    /// <summary>A packet: see <see cref="PacketReader.Payload"/>.</summary>
    Packet,
    /// <summary>A packet whose checksum is wrong.</summary>
    Damaged,
    /// <summary>A packet that is longer than was agreed.</summary>
    TooLong,
    /// <summary>The byte 03h outside of a packet.</summary>
    Interrupt,
    /// <summary>Our last packet has come well.</summary>
    Acknowledged,
    /// <summary>It has not: it is to be sent again.</summary>
    Refused,
}

/// <summary>
/// Finds packets of GDB's remote protocol in a stream of bytes: framing, checksums, escapes. Whatever the bytes are, it needs no more memory than the longest
/// packet. One thread.
/// </summary>
/// <param name="longest">Bytes of a packet's contents, escapes resolved.</param>
/// <remarks>GDB manual, appendix "GDB Remote Serial Protocol", section "Overview".</remarks>
internal sealed class PacketReader(int longest)
{
    private const byte InterruptByte = 3, Escape = (byte)'}', EscapeMask = 0x20;

    private enum Place { Outside, Inside, Escaped, FirstDigit, SecondDigit }

    private readonly byte[] _payload = new byte[longest];
    private Place _place;
    private int _length; // may be one more than there is room
    private byte _sum, _digit;

    /// <summary>The contents of the packet that was found last; until the next byte.</summary>
    public ReadOnlySpan<byte> Payload => _payload.AsSpan(0, Math.Min(_length, longest));

    /// <summary>Takes bytes from the beginning, until something is complete.</summary>
    /// <returns>Null: there are no more bytes.</returns>
    public PacketKind? Take(ref ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            byte b = bytes[0];
            bytes = bytes[1..];
            if (Take(b) is { } kind) return kind;
        }
        return null;
    }

    private PacketKind? Take(byte b)
    {
        switch (_place)
        {
            case Place.Outside:
                switch (b)
                {
                    case (byte)'$':
                        Begin();
                        return null;
                    case (byte)'+':
                        return PacketKind.Acknowledged;
                    case (byte)'-':
                        return PacketKind.Refused;
                    case InterruptByte:
                        return PacketKind.Interrupt;
                    default:
                        return null; // noise
                }
            case Place.Inside when b == '#':
                _place = Place.FirstDigit;
                return null;
            case Place.Inside when b == '$':
                Begin(); // the end of the one before was lost
                return null;
            case Place.Inside when b == Escape:
                _sum += b;
                _place = Place.Escaped;
                return null;
            case Place.Inside:
                _sum += b;
                Store(b);
                return null;
            case Place.Escaped:
                _sum += b;
                _place = Place.Inside;
                Store((byte)(b ^ EscapeMask));
                return null;
            case Place.FirstDigit:
                _digit = b;
                _place = Place.SecondDigit;
                return null;
            default:
                _place = Place.Outside;
                bool holds = Digit(_digit) is { } high && Digit(b) is { } low && (high << 4 | low) == _sum;
                return !holds ? PacketKind.Damaged : _length > longest ? PacketKind.TooLong : PacketKind.Packet;
        }
    }

    private void Begin()
    {
        _place = Place.Inside;
        _length = 0;
        _sum = 0;
    }

    private void Store(byte b)
    {
        if (_length < longest) _payload[_length] = b;
        if (_length <= longest) _length++;
    }

    private static int? Digit(byte b) => char.IsAsciiHexDigit((char)b) ? b <= '9' ? b - '0' : (b | 0x20) - 'a' + 10 : null;
}
