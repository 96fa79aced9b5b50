using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// MXCSR behind #XM. Intel SDM vol. 1, "Numeric Overflow Exception (#O)", "Numeric Underflow Exception (#U)", "SIMD Floating-Point Exceptions". All values are
/// what silicon leaves.
/// </summary>
public sealed class SimdExceptionTests
{
    /// <summary>An instruction with its operands (64 bits of each, twice) and what MXCSR holds afterwards.</summary>
    private sealed record Trial(string What, ulong A, ulong B, uint Before, uint After);

    private const ulong Large = 0x7FE1_CCF3_85EB_C8A0, TwoTo31 = 0x41E0_0000_0000_0000; // 1e308
    private const ulong Small = 0x0178_0000_0000_0001, TwoToMinus60 = 0x3C30_0000_0000_0000; // 1.8000000000001h * 2^-1000
    private const ulong Third = 0x3FD5_5555_5555_5555, Three = 0x4008_0000_0000_0000;

    private static ulong Both(uint single) => single | (ulong)single << 32;

    private static readonly Trial[] s_trials =
    [
        // The product with an exponent of its own is exact: OE or UE alone.
        new("mulsd", Large, TwoTo31, 0x1B80, 0x1B88),
        new("mulsd", Small, TwoToMinus60, 0x1780, 0x1790),
        new("mulpd", Large, TwoTo31, 0x1B80, 0x1B88),
        new("mulpd", Small, TwoToMinus60, 0x1780, 0x1790),
        new("vmulpd", Small, TwoToMinus60, 0x1780, 0x1790),
        new("vfmadd213pd", Large, TwoTo31, 0x1B80, 0x1B88),
        new("divsd", Small, 0x43B0_0000_0000_0000, 0x1780, 0x1790), // by 2^60
        new("divsd", Large, 0x3E00_0000_0000_0000, 0x1B80, 0x1B88), // by 2^-31
        new("addsd", 0x7FE0_0000_0000_0000, 0x7FE0_0000_0000_0000, 0x1B80, 0x1B88),
        // It is not: PE as well.
        new("mulsd", 0x7FE5_5555_5555_5555, 0x4015_5555_5555_5555, 0x1B80, 0x1BA8),
        new("mulsd", 0x0015_5555_5555_5555, Third, 0x1780, 0x17B0),
        new("divsd", 0x0010_0000_0000_0000, Three, 0x1780, 0x17B0),
        new("divpd", 0x7FEF_FFFF_FFFF_FFFF, Third, 0x1B80, 0x1BA8),
        // Masked, a flushed or denormal result is inexact.
        new("mulsd", Small, TwoToMinus60, 0x1F80, 0x1FB0),
        new("mulsd", Small, TwoToMinus60, 0x9F80, 0x9FB0),
        // FZ has no effect while underflow is unmasked.
        new("mulsd", Small, TwoToMinus60, 0x9780, 0x9790),
        new("mulps", Both(0x0080_0001), Both(0x3F00_0000), 0x1780, 0x1790), // (1 + 2^-23) * 2^-127
        new("cvtpd2ps", 0x4810_0000_0000_0000, 0, 0x1B80, 0x1B88), // 2^130
        new("cvtpd2ps", 0x4810_0000_0000_0001, 0, 0x1B80, 0x1BA8),
        new("cvtsd2ss", 0x3720_0000_0000_0000, 0, 0x1780, 0x1790), // 2^-141
        new("vcvtps2ph", Both(0x4780_0000), 0, 0x1B80, 0x1B88), // 65536
        new("vcvtps2ph", Both(0x4780_0001), 0, 0x1B80, 0x1BA8),
        new("vcvtps2ph", Both(0x3300_0000), 0, 0x1780, 0x1790), // 2^-25
        // The products are exact and tiny; the sums, which would be inexact, are not computed any more.
        new("dpps", Both(0x0080_0000), Both(0x3F00_0000), 0x1780, 0x1790),
        // Both products overflow with the mask clear: one step, OE alone.
        new("dppd", Large, TwoTo31, 0x1B80, 0x1B88),
        new("haddpd", 0x7FE0_0000_0000_0000, 0x7FE0_0000_0000_0000, 0x1B80, 0x1B88),
        // What is found before computing comes alone.
        new("mulpd", 0x7FF0_0000_0000_0001, TwoTo31, 0x1300, 0x1301),
    ];

    [Theory, Engines]
    public void PE_tells_whether_an_unmasked_overflow_or_underflow_would_be_exact_without_limits_of_the_exponent(string engine)
    {
        foreach (Trial t in s_trials)
        {
            using var g = new Guest(Mode.Long);
            g.State.Xcr0 = 7;
            g.State.Cr4 |= 0x4_0000; // OSXSAVE
            foreach ((uint at, ulong value) in (ReadOnlySpan<(uint, ulong)>)[(Layout.Data, t.A), (Layout.Data + 0x10, t.B)])
            {
                g.Write(at, value);
                g.Write(at + 8, value);
            }
            g.Write(Layout.Data + 0x20, t.Before);
            g.Code(a =>
            {
                a.mov(ebx, Layout.Data);
                a.movaps(xmm0, __xmmword_ptr[rbx]);
                a.movaps(xmm1, __xmmword_ptr[rbx + 0x10]);
                a.vxorpd(xmm2, xmm2, xmm2);
                a.ldmxcsr(__dword_ptr[rbx + 0x20]);
                g.Mark(a, "at");
                switch (t.What)
                {
                    case "mulsd": a.mulsd(xmm0, xmm1); break;
                    case "mulpd": a.mulpd(xmm0, xmm1); break;
                    case "mulps": a.mulps(xmm0, xmm1); break;
                    case "vmulpd": a.vmulpd(xmm3, xmm0, __xmmword_ptr[rbx + 0x10]); break;
                    case "vfmadd213pd": a.vfmadd213pd(xmm0, xmm1, xmm2); break;
                    case "divsd": a.divsd(xmm0, xmm1); break;
                    case "divpd": a.divpd(xmm0, xmm1); break;
                    case "addsd": a.addsd(xmm0, xmm1); break;
                    case "cvtpd2ps": a.cvtpd2ps(xmm3, xmm0); break;
                    case "cvtsd2ss": a.cvtsd2ss(xmm3, xmm0); break;
                    case "vcvtps2ph": a.vcvtps2ph(xmm3, xmm0, 0); break;
                    case "dpps": a.dpps(xmm0, xmm1, 0xFF); break;
                    case "dppd": a.dppd(xmm0, xmm1, 0x33); break;
                    case "haddpd": a.haddpd(xmm0, xmm1); break;
                    default: throw new InvalidOperationException(t.What);
                }
                a.hlt();
            });
            Outcome o = g.Run(engine);
            uint mxcsr = BitConverter.ToUInt32(o.State.Xsave, 24);
            int? vector = (t.After & ~(t.Before >> 7) & 0x3F) != 0 ? X.XM : null;
            string found = $"{t.What} {t.A:X} {t.B:X} with MXCSR {t.Before:X}: {mxcsr:X} for {t.After:X}, vector {o.Vector}";
            Assert.True((mxcsr, o.Vector) == (t.After, vector), found);
            // The destination is as it was.
            if (vector != null) Assert.Equal(t.A, BitConverter.ToUInt64(o.State.Xsave, 160));
        }
    }

    /// <summary><see cref="Engines.VendorBehavior.ConvertsToHalfBeforeStore"/>: the operand is not present.</summary>
    [Theory, Engines("max", 0x1F80), Engines("x86-64-v3-intel", 0x1FA0)]
    public void VCVTPS2PH_to_memory_that_faults_leaves_MXCSR_as_the_model_does(string engine, string model, int after)
    {
        using Guest g = HalfStore(model, 0x1F80);
        Outcome o = g.Run(engine);
        Assert.Equal((X.PF, (uint)after), (o.Vector, BitConverter.ToUInt32(o.State.Xsave, 24)));
    }

    [Theory, Engines("max", X.PF), Engines("x86-64-v3-intel", X.XM)]
    public void VCVTPS2PH_to_memory_with_PE_unmasked_has_the_priority_of_the_model(string engine, string model, int vector)
    {
        using Guest g = HalfStore(model, 0x0F80);
        Assert.Equal(vector, g.Run(engine).Vector);
    }

    private static Guest HalfStore(string model, uint mxcsr)
    {
        var g = new Guest(Mode.Long, model: model);
        g.State.Xcr0 = 7;
        g.State.Cr4 |= 0x4_0000; // OSXSAVE
        g.Write(Layout.Data, mxcsr);
        g.Code(a =>
        {
            a.mov(ebx, Layout.Data);
            a.ldmxcsr(__dword_ptr[rbx]);
            a.mov(eax, 0x3F80_0001); // 1 + 2^-23
            a.vmovd(xmm0, eax);
            a.mov(ebx, 0x80_0000);
            a.vcvtps2ph(__qword_ptr[rbx], xmm0, 0);
            a.hlt();
        });
        return g;
    }
}
