namespace Bunraku.Silicon;

/// <summary>Reproducible random numbers (SplitMix64) and operand values with a taste for edges.</summary>
public sealed class Rng(ulong seed)
{
    private ulong _state = seed;

    private static readonly ulong[] s_edges =
    [
        0, 1, 2, 3, 7, 8, 0xF, 0x10, 0x1F, 0x20, 0x3F, 0x40, 0x7F, 0x80, 0x81, 0xFE, 0xFF, 0x100, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x1_0000,
        0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFE, 0xFFFF_FFFF, 0x1_0000_0000, 0x7FFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0000, 0x8000_0000_0000_0001,
        0xFFFF_FFFF_FFFF_FFFE, 0xFFFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_8000_0000, 0x5555_5555_5555_5555, 0xAAAA_AAAA_AAAA_AAAA, 0x0102_0408_1020_4080,
    ];

    private static readonly ulong[] s_doubles =
    [
        0, 0x8000_0000_0000_0000, 0x3FF0_0000_0000_0000, 0xBFF0_0000_0000_0000, 0x7FF0_0000_0000_0000, 0xFFF0_0000_0000_0000, // 0, 1, infinity
        0x7FF8_0000_0000_0000, 0xFFF8_0000_0000_0000, 0x7FF0_0000_0000_0001, 0xFFF7_FFFF_FFFF_FFFF, 0x7FFC_1234_5678_9ABC,       // quiet and signalling NaN
        // denormal, least and greatest normal
        1, 0x800F_FFFF_FFFF_FFFF, 0x0010_0000_0000_0000, 0x7FEF_FFFF_FFFF_FFFF, 0xFFEF_FFFF_FFFF_FFFF,
        0x41E0_0000_0000_0000, 0xC1E0_0000_0000_0000, 0x43E0_0000_0000_0000, 0x41DF_FFFF_FFC0_0000, 0x41DF_FFFF_FFE0_0000,     // limits of int and long
        0x3FE0_0000_0000_0000, 0x3FF8_0000_0000_0000, 0x4004_0000_0000_0000, 0x4340_0000_0000_0000, 0x36A0_0000_0000_0000,     // halves, 2^53, limit of float
    ];

    private static readonly uint[] s_floats =
    [
        0, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0xFFBF_FFFF, 0x7FC1_2345,
        1, 0x807F_FFFF, 0x0080_0000, 0x7F7F_FFFF, 0xFF7F_FFFF, 0x4F00_0000, 0xCF00_0000, 0x5F00_0000, 0x3F00_0000, 0x3FC0_0000, 0x4B00_0000, 0x3300_0000,
    ];

    public ulong Next()
    {
        ulong z = _state += 0x9E37_79B9_7F4A_7C15;
        z = (z ^ (z >> 30)) * 0xBF58_476D_1CE4_E5B9;
        z = (z ^ (z >> 27)) * 0x94D0_49BB_1331_11EB;
        return z ^ (z >> 31);
    }

    /// <summary>0 to <paramref name="bound"/> - 1.</summary>
    public int Below(int bound) => (int)((UInt128)Next() * (uint)bound >> 64);

    /// <summary>True once in <paramref name="n"/>.</summary>
    public bool OneIn(int n) => Below(n) == 0;

    public T Pick<T>(ReadOnlySpan<T> items) => items[Below(items.Length)];

    /// <summary>A general-purpose value: an edge, a small number or anything.</summary>
    public ulong Value() => Below(8) switch
    {
        0 or 1 => s_edges[Below(s_edges.Length)],
        2 => (ulong)(Below(64) - 32),
        3 => Next() >> Below(64),
        4 => 1ul << Below(64),
        _ => Next(),
    };

    /// <summary>Fills with values of every type an instruction may see there.</summary>
    public void Fill(Span<byte> bytes)
    {
        int style = Below(8);
        for (int n = 0; n + 8 <= bytes.Length; n += 8)
        {
            int s = style < 6 ? style : Below(6);
            ulong v = s switch
            {
                0 => s_doubles[Below(s_doubles.Length)],
                1 => s_floats[Below(s_floats.Length)] | (ulong)s_floats[Below(s_floats.Length)] << 32,
                2 => Value(),
                3 => BitConverter.DoubleToUInt64Bits(Sign() * (double)Next() / (1ul << Below(64))),
                4 => Small() | (ulong)Small() << 32,
                _ => Next(),
            };
            BitConverter.TryWriteBytes(bytes[n..], v);
        }
    }

    /// <summary>A double with which results overflow, are tiny, exact or not.</summary>
    public ulong EdgeOfDouble() => Edge(52, 1023, s_doubles[Below(s_doubles.Length)]);

    /// <summary>A single with which results overflow, are tiny, exact or not.</summary>
    public uint EdgeOfSingle() => (uint)Edge(23, 127, s_floats[Below(s_floats.Length)]);

    private ulong Edge(int fractionBits, int bias, ulong special)
    {
        ulong all = (1ul << fractionBits) - 1;
        ulong fraction = Below(4) switch { 0 => Next() & all, 1 => Next() & all & ~(all >> 8), 2 => 1ul << Below(fractionBits), _ => all & ~(ulong)Below(4) };
        // Near zero, near the largest, near their square roots, near one, and, for doubles, near the limits of single precision.
        int near = Below(12);
        int exponent = near switch
        {
            0 or 1 => Below(fractionBits + 4),
            2 or 3 => 2 * bias - Below(fractionBits + 4),
            4 => bias / 2 + Below(8) - 4,
            5 => bias + bias / 2 + Below(8) - 4,
            6 => Math.Max(0, bias - 127 - Below(26)),
            7 => Math.Min(2 * bias, bias + 120 + Below(16)),
            8 => Math.Max(0, bias - 14 - Below(14)),
            9 => bias + 12 + Below(8),
            10 => -1,
            _ => bias + Below(8) - 4,
        };
        if (exponent < 0) return special;
        ulong sign = OneIn(2) ? 1ul << (fractionBits == 52 ? 63 : 31) : 0;
        return sign | (ulong)exponent << fractionBits | fraction;
    }

    private int Sign() => OneIn(2) ? -1 : 1;

    private uint Small() => BitConverter.SingleToUInt32Bits((float)(Sign() * (Below(1 << 20) / 64.0)));

    private static readonly ushort[] s_exponents =
        [0, 1, 0x3FFF, 0x3FFE, 0x4000, 0x401E, 0x403E, 0x403F, 0x7FFE, 0x7FFF, 0x3FC0, 0x43FE, 0x43FF, 0x3C01, 0x407E, 0x3F81];
    private static readonly ulong[] s_mantissas =
        [0, 0x8000_0000_0000_0000, 0xC000_0000_0000_0000, 0xFFFF_FFFF_FFFF_FFFF, 0x8000_0000_0000_0001, 0xA000_0000_0000_0000, 0x4000_0000_0000_0000, 1,
        0xFFFF_FFFF_FFFF_F800, 0xFFFF_FF00_0000_0000];

    /// <summary>An 80-bit floating-point value, also of the unsupported kinds.</summary>
    public void Extended(Span<byte> bytes)
    {
        ulong mantissa;
        ushort exponent;
        switch (Below(6))
        {
            case 0:
                mantissa = s_mantissas[Below(s_mantissas.Length)];
                exponent = s_exponents[Below(s_exponents.Length)];
                break;
            case 1:
                mantissa = Next();
                exponent = (ushort)Below(0x8000);
                break;
            case 2: // a whole number
                mantissa = (Next() | 1ul << 63) & ~0ul << Below(64);
                exponent = (ushort)(0x3FFF + Below(64));
                break;
            default:
                mantissa = Next() | 1ul << 63;
                exponent = (ushort)(0x3FFF - 20 + Below(40));
                break;
        }
        BitConverter.TryWriteBytes(bytes, mantissa);
        BitConverter.TryWriteBytes(bytes[8..], (ushort)(exponent | (OneIn(2) ? 0x8000 : 0)));
    }
}
