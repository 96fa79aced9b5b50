using System.Buffers.Text;

namespace Bunraku.Sessions.Debugging;

/// <summary>Numbers and bytes of the remote protocol, which are in hexadecimal digits.</summary>
internal static class Hex
{
    /// <summary>Takes a number of up to 64 bits from the beginning. False: there is none, or it is too large; nothing was taken then.</summary>
    public static bool TryTakeNumber(ref ReadOnlySpan<byte> text, out ulong value)
    {
        if (!Utf8Parser.TryParse(text, out value, out int taken, 'x')) return false;
        text = text[taken..];
        return true;
    }

    /// <summary>Takes one character from the beginning.</summary>
    public static bool TryTake(ref ReadOnlySpan<byte> text, char expected)
    {
        if (text.IsEmpty || text[0] != expected) return false;
        text = text[1..];
        return true;
    }

    /// <summary>Bytes, two digits each. False: they are none.</summary>
    public static bool TryReadBytes(ReadOnlySpan<byte> digits, out byte[] bytes)
    {
        bytes = new byte[digits.Length / 2];
        return digits.Length % 2 == 0
            && Convert.FromHexString(digits, bytes, out _, out _) == System.Buffers.OperationStatus.Done;
    }

    /// <summary>Two digits for each byte.</summary>
    public static string Of(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(bytes);

    /// <summary>The same of a text's bytes in UTF-8.</summary>
    public static string OfText(string text) => Of(System.Text.Encoding.UTF8.GetBytes(text));
}
