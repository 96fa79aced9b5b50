using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Time;

/// <summary>Products and quotients of 128 bits against the framework's.</summary>
public class WideMathTests
{
    [Fact]
    public void Quotients_are_those_of_UInt128()
    {
        var random = new Random(7);
        for (int n = 0; n < 200_000; n++)
        {
            (ulong a, ulong b, ulong d) = (Next(), Next(), Math.Max(Next(), 1));
            UInt128 quotient = (UInt128)a * b / d;
            Assert.Equal(quotient > ulong.MaxValue ? ulong.MaxValue : (ulong)quotient, WideMath.MultiplyDivide(a, b, d));
            UInt128 up = ((UInt128)a * b + (d - 1)) / d;
            Assert.Equal(up > ulong.MaxValue ? ulong.MaxValue : (ulong)up, WideMath.MultiplyDivide(a, b, d, d - 1));
            if (a >= d) continue;
            (UInt128 q, UInt128 r) = UInt128.DivRem(new UInt128(a, b), d);
            Assert.Equal((ulong)q, WideMath.Divide(a, b, d, out ulong left));
            Assert.Equal((ulong)r, left);
        }

        // Of any length, and often at an edge.
        ulong Next() => ((ulong)random.NextInt64() << 1 | (uint)random.Next(2)) >> random.Next(64) is var value && random.Next(4) > 0 ? value
            : random.Next(2) == 0 ? ulong.MaxValue >> random.Next(64) : 1ul << random.Next(64);
    }
}
