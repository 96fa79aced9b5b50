using System.Numerics;

namespace Bunraku.Platform;

/// <summary>
/// Products and quotients of 128 bits. The framework's UInt128 cannot be compiled ahead of time: the runtime would compile each operator at each start.
/// </summary>
public static class WideMath
{
    private const int HalfBits = 32;
    private const ulong Half = uint.MaxValue;

    /// <summary>(a × b + c) / divisor, rounded down; saturates.</summary>
    /// <param name="a">Any.</param>
    /// <param name="b">Any.</param>
    /// <param name="divisor">Not 0.</param>
    /// <param name="c">One less than the divisor rounds up.</param>
    public static ulong MultiplyDivide(ulong a, ulong b, ulong divisor, ulong c = 0)
    {
        ulong high = Math.BigMul(a, b, out ulong low);
        low += c;
        if (low < c) high++;
        return high == 0 ? low / divisor : high >= divisor ? ulong.MaxValue : Divide(high, low, divisor, out _);
    }

    /// <summary>(high × 2^64 + low) / divisor, rounded down.</summary>
    /// <param name="high">Below <paramref name="divisor"/>, so that the quotient fits.</param>
    /// <param name="low">The lower 64 bits.</param>
    /// <param name="divisor">Not 0.</param>
    /// <param name="remainder">What is left.</param>
    public static ulong Divide(ulong high, ulong low, ulong divisor, out ulong remainder)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(high, divisor);
        // Knuth, The Art of Computer Programming, vol. 2, 4.3.1, algorithm D, with two digits of 32 bits.
        int shift = BitOperations.LeadingZeroCount(divisor);
        divisor <<= shift;
        ulong rest = shift == 0 ? high : high << shift | low >> (64 - shift), next = low << shift;
        ulong first = Digit(ref rest, next >> HalfBits, divisor), second = Digit(ref rest, next & Half, divisor);
        remainder = rest >> shift;
        return first << HalfBits | second;
    }

    /// <summary>The next digit of the quotient; the rest is what it leaves.</summary>
    private static ulong Digit(ref ulong rest, ulong next, ulong divisor)
    {
        ulong top = divisor >> HalfBits, digit = rest / top, left = rest - digit * top;
        while (digit > Half || digit * (divisor & Half) > (left << HalfBits | next))
        {
            digit--;
            left += top;
            if (left > Half) break;
        }
        rest = (rest << HalfBits | next) - digit * divisor;
        return digit;
    }
}
