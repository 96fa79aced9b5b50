using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>A binary floating-point format. IEEE 754-2008, "Basic and interchange formats".</summary>
/// <param name="Precision">Significant bits, the implied one included.</param>
/// <param name="MinExponent">Exponent of the least normal number.</param>
/// <param name="MaxExponent">Exponent of the largest finite number.</param>
/// <param name="Bits">Width.</param>
internal readonly record struct FloatFormat(int Precision, int MinExponent, int MaxExponent, int Bits)
{
    public static FloatFormat Half => new(11, -14, 15, 16);
    public static FloatFormat Single => new(24, -126, 127, 32);
    public static FloatFormat Double => new(53, -1022, 1023, 64);
}

/// <summary>MXCSR.RC. Intel SDM vol. 1, "Rounding Control (RC) Field".</summary>
internal enum Rounding { Nearest, Down, Up, Zero }

internal enum NumberKind { Finite, Infinity, NaN }

/// <summary>
/// The exact result of an operation before it is rounded: sign, integer magnitude and exponent without limits.
/// </summary>
/// <param name="Sticky">Something that is not zero lies below the magnitude's last bit.</param>
internal readonly record struct ExactNumber(NumberKind Kind, bool Negative, BigInteger Magnitude, int Exponent, bool Sticky = false)
{
    public static ExactNumber NaN => new(NumberKind.NaN, false, 0, 0);

    public bool IsFinite => Kind == NumberKind.Finite;
    public bool IsZero => IsFinite && Magnitude.IsZero && !Sticky;
    public bool IsInfinity => Kind == NumberKind.Infinity;

    /// <summary>Finite, not zero, and below the normal numbers of <paramref name="format"/>.</summary>
    public bool IsDenormal(FloatFormat format) => IsFinite && !IsZero && Top < format.MinExponent;

    /// <summary>Exponent of the leading bit.</summary>
    private int Top => Exponent + (int)Magnitude.GetBitLength() - 1;

    public ExactNumber Negated => this with { Negative = !Negative };

    /// <param name="denormalsAreZeros">MXCSR.DAZ.</param>
    public static ExactNumber Decode(ulong bits, FloatFormat format, bool denormalsAreZeros)
    {
        int fractionBits = format.Precision - 1, special = (1 << (format.Bits - format.Precision)) - 1;
        bool negative = (bits >> (format.Bits - 1) & 1) != 0;
        int exponent = (int)(bits >> fractionBits) & special;
        ulong fraction = bits & ((1ul << fractionBits) - 1);
        if (exponent == special) return fraction != 0 ? NaN : new ExactNumber(NumberKind.Infinity, negative, 0, 0);
        if (exponent == 0) return new ExactNumber(NumberKind.Finite, negative, denormalsAreZeros ? 0 : fraction, format.MinExponent - fractionBits);
        return new ExactNumber(NumberKind.Finite, negative, fraction | 1ul << fractionBits, exponent - 1 + format.MinExponent - fractionBits);
    }

    /// <summary>A NaN whose quiet bit is clear.</summary>
    public static bool IsSignalling(ulong bits, FloatFormat format) =>
        Decode(bits, format, false).Kind == NumberKind.NaN && (bits >> (format.Precision - 2) & 1) == 0;

    public static ExactNumber Multiply(ExactNumber a, ExactNumber b)
    {
        bool negative = a.Negative ^ b.Negative;
        if (a.IsFinite && b.IsFinite) return new ExactNumber(NumberKind.Finite, negative, a.Magnitude * b.Magnitude, a.Exponent + b.Exponent);
        if (a.Kind == NumberKind.NaN || b.Kind == NumberKind.NaN || a.IsZero || b.IsZero) return NaN;
        return new ExactNumber(NumberKind.Infinity, negative, 0, 0);
    }

    public static ExactNumber Add(ExactNumber a, ExactNumber b)
    {
        if (!a.IsFinite || !b.IsFinite)
        {
            if (a.Kind == NumberKind.NaN || b.Kind == NumberKind.NaN || (a.IsInfinity && b.IsInfinity && a.Negative != b.Negative)) return NaN;
            return a.IsInfinity ? a : b;
        }
        int exponent = Math.Min(a.Exponent, b.Exponent);
        BigInteger sum = Signed(a, exponent) + Signed(b, exponent);
        return new ExactNumber(NumberKind.Finite, sum.Sign < 0, BigInteger.Abs(sum), exponent);

        static BigInteger Signed(ExactNumber n, int exponent)
        {
            BigInteger magnitude = n.Magnitude << (n.Exponent - exponent);
            return n.Negative ? -magnitude : magnitude;
        }
    }

    /// <summary>
    /// The quotient with more bits than <paramref name="format"/> has. Of a division by zero or of an infinity NaN, since neither is rounded.
    /// </summary>
    public static ExactNumber Divide(ExactNumber a, ExactNumber b, FloatFormat format)
    {
        if (!a.IsFinite || !b.IsFinite || b.IsZero) return NaN;
        int shift = Math.Max(0, format.Precision + 3 + (int)(b.Magnitude.GetBitLength() - a.Magnitude.GetBitLength()));
        BigInteger quotient = BigInteger.DivRem(a.Magnitude << shift, b.Magnitude, out BigInteger rest);
        return new ExactNumber(NumberKind.Finite, a.Negative ^ b.Negative, quotient, a.Exponent - b.Exponent - shift, !rest.IsZero);
    }

    /// <summary>
    /// Rounds to a format and tells OE, UE and PE. Where overflow or underflow is unmasked, the result is rounded as if the exponent had no limits, and PE
    /// tells whether that was inexact; a result is tiny when it is so after that rounding.
    /// </summary>
    /// <remarks>
    /// Intel SDM vol. 1, "Numeric Overflow Exception (#O)", "Numeric Underflow Exception (#U)" and "Inexact-Result (Precision) Exception (#P)".
    /// </remarks>
    /// <param name="unmasked">Exceptions whose masks are clear, in the bits of the flags.</param>
    /// <param name="flush">MXCSR.FZ: counts while underflow is masked.</param>
    public ExactNumber Round(FloatFormat format, Rounding rounding, Mxcsr unmasked, bool flush, out Mxcsr raised)
    {
        raised = 0;
        if (!IsFinite || IsZero) return this;
        ExactNumber result = Cut((int)Magnitude.GetBitLength() - format.Precision, rounding, out bool inexact);
        raised = inexact ? Mxcsr.Pe : 0;
        if (result.Top > format.MaxExponent)
        {
            raised |= Mxcsr.Oe;
            if ((unmasked & Mxcsr.Oe) == 0) raised |= Mxcsr.Pe;
            return rounding == Rounding.Nearest || rounding == (Negative ? Rounding.Down : Rounding.Up)
                ? new ExactNumber(NumberKind.Infinity, Negative, 0, 0)
                : new ExactNumber(NumberKind.Finite, Negative, (BigInteger.One << format.Precision) - 1, format.MaxExponent - format.Precision + 1);
        }
        if (result.Top >= format.MinExponent) return result;
        if ((unmasked & Mxcsr.Ue) != 0)
        {
            raised |= Mxcsr.Ue;
            return result;
        }
        if (flush)
        {
            raised = Mxcsr.Ue | Mxcsr.Pe;
            return this with { Magnitude = 0, Sticky = false };
        }
        result = Cut(format.MinExponent - format.Precision + 1 - Exponent, rounding, out inexact);
        raised = inexact ? Mxcsr.Ue | Mxcsr.Pe : 0;
        return result;
    }

    /// <summary>Rounds the last <paramref name="bits"/> bits of the magnitude away.</summary>
    private ExactNumber Cut(int bits, Rounding rounding, out bool inexact)
    {
        inexact = Sticky;
        if (bits <= 0) return this;
        BigInteger kept = Magnitude >> bits, rest = Magnitude - (kept << bits), half = BigInteger.One << (bits - 1);
        inexact |= !rest.IsZero;
        bool up = rounding switch
        {
            Rounding.Nearest => rest > half || (rest == half && (Sticky || !kept.IsEven)),
            Rounding.Down => inexact && Negative,
            Rounding.Up => inexact && !Negative,
            _ => false,
        };
        return this with { Magnitude = up ? kept + 1 : kept, Exponent = Exponent + bits, Sticky = false };
    }
}
