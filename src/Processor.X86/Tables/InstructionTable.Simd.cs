using Iced.Intel;
using V128 = System.Runtime.Intrinsics.Vector128<byte>;
using V256 = System.Runtime.Intrinsics.Vector256<byte>;

namespace Bunraku.Processor.X86;

internal static unsafe partial class InstructionTable
{
    private static partial void Simd(Builder t)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        foreach (Code code in (ReadOnlySpan<Code>)[Code.Movups_xmm_xmmm128, Code.Movupd_xmm_xmmm128, Code.Movdqu_xmm_xmmm128])
            t.Add(code, &VectorMove<V128, Legacy>.Registers, &VectorMove<V128, Legacy>.Load, flags: Row.Sse);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.Movaps_xmm_xmmm128, Code.Movapd_xmm_xmmm128, Code.Movdqa_xmm_xmmm128])
            t.Add(code, &VectorMove<V128, Legacy>.Registers, &VectorMove<V128, Legacy>.LoadAligned, flags: Row.Sse);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.Movups_xmmm128_xmm, Code.Movupd_xmmm128_xmm, Code.Movdqu_xmmm128_xmm])
            t.Add(code, &VectorMove<V128, Legacy>.Registers, &VectorMove<V128, Legacy>.Store, flags: Row.Sse | Row.Writes);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.Movaps_xmmm128_xmm, Code.Movapd_xmmm128_xmm, Code.Movdqa_xmmm128_xmm])
            t.Add(code, &VectorMove<V128, Legacy>.Registers, &VectorMove<V128, Legacy>.StoreAligned, flags: Row.Sse | Row.Writes);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.Movntps_m128_xmm, Code.Movntpd_m128_xmm, Code.Movntdq_m128_xmm])
            t.Add(code, null, &VectorMove<V128, Legacy>.StoreAligned, flags: Row.Sse | Row.Writes);
        t.Add(Code.Lddqu_xmm_m128,    null, &VectorMove<V128, Legacy>.Load, flags: Row.Sse);
        t.Add(Code.Movntdqa_xmm_m128, null, &VectorMove<V128, Legacy>.LoadAligned, flags: Row.Sse);

        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovups_xmm_xmmm128, Code.VEX_Vmovupd_xmm_xmmm128, Code.VEX_Vmovdqu_xmm_xmmm128])
            t.Add(code, &VectorMove<V128, Vex>.Registers, &VectorMove<V128, Vex>.Load, flags: Row.Avx);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovaps_xmm_xmmm128, Code.VEX_Vmovapd_xmm_xmmm128, Code.VEX_Vmovdqa_xmm_xmmm128])
            t.Add(code, &VectorMove<V128, Vex>.Registers, &VectorMove<V128, Vex>.LoadAligned, flags: Row.Avx);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovups_xmmm128_xmm, Code.VEX_Vmovupd_xmmm128_xmm, Code.VEX_Vmovdqu_xmmm128_xmm])
            t.Add(code, &VectorMove<V128, Vex>.Registers, &VectorMove<V128, Vex>.Store, flags: Row.Avx | Row.Writes);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovaps_xmmm128_xmm, Code.VEX_Vmovapd_xmmm128_xmm, Code.VEX_Vmovdqa_xmmm128_xmm])
            t.Add(code, &VectorMove<V128, Vex>.Registers, &VectorMove<V128, Vex>.StoreAligned, flags: Row.Avx | Row.Writes);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovntps_m128_xmm, Code.VEX_Vmovntpd_m128_xmm, Code.VEX_Vmovntdq_m128_xmm])
            t.Add(code, null, &VectorMove<V128, Vex>.StoreAligned, flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vlddqu_xmm_m128,    null, &VectorMove<V128, Vex>.Load, flags: Row.Avx);
        t.Add(Code.VEX_Vmovntdqa_xmm_m128, null, &VectorMove<V128, Vex>.LoadAligned, flags: Row.Avx);

        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovups_ymm_ymmm256, Code.VEX_Vmovupd_ymm_ymmm256, Code.VEX_Vmovdqu_ymm_ymmm256])
            t.Add(code, &VectorMove<V256, Vex>.Registers, &VectorMove<V256, Vex>.Load, flags: Row.Avx);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovaps_ymm_ymmm256, Code.VEX_Vmovapd_ymm_ymmm256, Code.VEX_Vmovdqa_ymm_ymmm256])
            t.Add(code, &VectorMove<V256, Vex>.Registers, &VectorMove<V256, Vex>.LoadAligned, flags: Row.Avx);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovups_ymmm256_ymm, Code.VEX_Vmovupd_ymmm256_ymm, Code.VEX_Vmovdqu_ymmm256_ymm])
            t.Add(code, &VectorMove<V256, Vex>.Registers, &VectorMove<V256, Vex>.Store, flags: Row.Avx | Row.Writes);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovaps_ymmm256_ymm, Code.VEX_Vmovapd_ymmm256_ymm, Code.VEX_Vmovdqa_ymmm256_ymm])
            t.Add(code, &VectorMove<V256, Vex>.Registers, &VectorMove<V256, Vex>.StoreAligned, flags: Row.Avx | Row.Writes);
        foreach (Code code in (ReadOnlySpan<Code>)[Code.VEX_Vmovntps_m256_ymm, Code.VEX_Vmovntpd_m256_ymm, Code.VEX_Vmovntdq_m256_ymm])
            t.Add(code, null, &VectorMove<V256, Vex>.StoreAligned, flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vlddqu_ymm_m256,    null, &VectorMove<V256, Vex>.Load, flags: Row.Avx);
        t.Add(Code.VEX_Vmovntdqa_ymm_m256, null, &VectorMove<V256, Vex>.LoadAligned, flags: Row.Avx);

        t.Add(Code.Movd_xmm_rm32,          &ScalarMove<uint, Legacy>.FromRegister,  &ScalarMove<uint, Legacy>.Load,  flags: Row.Sse);
        t.Add(Code.Movq_xmm_rm64,          &ScalarMove<ulong, Legacy>.FromRegister, &ScalarMove<ulong, Legacy>.Load, flags: Row.Sse);
        t.Add(Code.Movq_xmm_xmmm64,        &ScalarMove<ulong, Legacy>.FromRegister, &ScalarMove<ulong, Legacy>.Load, flags: Row.Sse);
        t.Add(Code.Movd_rm32_xmm,          &ScalarMove<uint, Legacy>.ToGeneral,     &ScalarMove<uint, Legacy>.Store, flags: Row.Sse | Row.Writes);
        t.Add(Code.Movq_rm64_xmm,          &ScalarMove<ulong, Legacy>.ToGeneral,    &ScalarMove<ulong, Legacy>.Store, flags: Row.Sse | Row.Writes);
        t.Add(Code.Movq_xmmm64_xmm,        &ScalarMove<ulong, Legacy>.FromRegister, &ScalarMove<ulong, Legacy>.Store, flags: Row.Sse | Row.Writes);
        t.Add(Code.VEX_Vmovd_xmm_rm32,     &ScalarMove<uint, Vex>.FromRegister,     &ScalarMove<uint, Vex>.Load,     flags: Row.Avx);
        t.Add(Code.VEX_Vmovq_xmm_rm64,     &ScalarMove<ulong, Vex>.FromRegister,    &ScalarMove<ulong, Vex>.Load,    flags: Row.Avx);
        t.Add(Code.VEX_Vmovq_xmm_xmmm64,   &ScalarMove<ulong, Vex>.FromRegister,    &ScalarMove<ulong, Vex>.Load,    flags: Row.Avx);
        t.Add(Code.VEX_Vmovd_rm32_xmm,     &ScalarMove<uint, Vex>.ToGeneral,        &ScalarMove<uint, Vex>.Store,    flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vmovq_rm64_xmm,     &ScalarMove<ulong, Vex>.ToGeneral,       &ScalarMove<ulong, Vex>.Store,   flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vmovq_xmmm64_xmm,   &ScalarMove<ulong, Vex>.FromRegister,    &ScalarMove<ulong, Vex>.Store,   flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vmovss_xmm_m32,     null, &ScalarMove<uint, Vex>.Load,   flags: Row.Avx);
        t.Add(Code.VEX_Vmovsd_xmm_m64,     null, &ScalarMove<ulong, Vex>.Load,  flags: Row.Avx);
        t.Add(Code.VEX_Vmovss_m32_xmm,     null, &ScalarMove<uint, Vex>.Store,  flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vmovsd_m64_xmm,     null, &ScalarMove<ulong, Vex>.Store, flags: Row.Avx | Row.Writes);
        t.Add(Code.Movntss_m32_xmm,        null, &ScalarMove<uint, Legacy>.Store,  flags: Row.Sse | Row.Writes);
        t.Add(Code.Movntsd_m64_xmm,        null, &ScalarMove<ulong, Legacy>.Store, flags: Row.Sse | Row.Writes);

        t.Add(Code.Ldmxcsr_m32,            null, &SimdControl.Ldmxcsr, flags: Row.Sse);
        t.Add(Code.Stmxcsr_m32,            null, &SimdControl.Stmxcsr, flags: Row.Sse | Row.Writes);
        t.Add(Code.VEX_Vldmxcsr_m32,       null, &SimdControl.Ldmxcsr, flags: Row.Avx);
        t.Add(Code.VEX_Vstmxcsr_m32,       null, &SimdControl.Stmxcsr, flags: Row.Avx | Row.Writes);
        t.Add(Code.VEX_Vzeroupper,         &SimdControl.Vzeroupper, flags: Row.Avx);
        t.Add(Code.VEX_Vzeroall,           &SimdControl.Vzeroall, flags: Row.Avx);
        if (!t.Contains(Code.Movnti_m32_r32))
        {
            t.Add(Code.Movnti_m32_r32,     null, &SimdControl.StoreRegister<uint>, flags: Row.Writes);
            t.Add(Code.Movnti_m64_r64,     null, &SimdControl.StoreRegister<ulong>, flags: Row.Writes);
        }

        t.Add(Code.Maskmovdqu_rDI_xmm_xmm,           null, &MaskedBytes.Maskmovdqu, flags: Row.Sse | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vmaskmovdqu_rDI_xmm_xmm,      null, &MaskedBytes.Maskmovdqu, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.Maskmovq_rDI_mm_mm,               null, &MaskedBytes.Maskmovq, flags: Row.Mmx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vmaskmovps_xmm_xmm_m128, null, &MaskedMove<int, V128>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vmaskmovps_m128_xmm_xmm, null, &MaskedMove<int, V128>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vmaskmovps_ymm_ymm_m256, null, &MaskedMove<int, V256>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vmaskmovps_m256_ymm_ymm, null, &MaskedMove<int, V256>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vmaskmovpd_xmm_xmm_m128, null, &MaskedMove<long, V128>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vmaskmovpd_m128_xmm_xmm, null, &MaskedMove<long, V128>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vmaskmovpd_ymm_ymm_m256, null, &MaskedMove<long, V256>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vmaskmovpd_m256_ymm_ymm, null, &MaskedMove<long, V256>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vpmaskmovd_xmm_xmm_m128, null, &MaskedMove<int, V128>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpmaskmovd_m128_xmm_xmm, null, &MaskedMove<int, V128>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vpmaskmovd_ymm_ymm_m256, null, &MaskedMove<int, V256>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpmaskmovd_m256_ymm_ymm, null, &MaskedMove<int, V256>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vpmaskmovq_xmm_xmm_m128, null, &MaskedMove<long, V128>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpmaskmovq_m128_xmm_xmm, null, &MaskedMove<long, V128>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vpmaskmovq_ymm_ymm_m256, null, &MaskedMove<long, V256>.Load, flags: Row.Avx | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpmaskmovq_m256_ymm_ymm, null, &MaskedMove<long, V256>.Store, flags: Row.Avx | Row.OwnSegmentation | Row.Writes);
        t.Add(Code.VEX_Vgatherdpd_xmm_vm32x_xmm,    null, &Gather<int, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherdpd_ymm_vm32x_ymm,    null, &Gather<int, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherdps_xmm_vm32x_xmm,    null, &Gather<int, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherdps_ymm_vm32y_ymm,    null, &Gather<int, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherqpd_xmm_vm64x_xmm,    null, &Gather<long, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherqpd_ymm_vm64y_ymm,    null, &Gather<long, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherqps_xmm_vm64x_xmm,    null, &Gather<long, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vgatherqps_xmm_vm64y_xmm,    null, &Gather<long, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherdd_xmm_vm32x_xmm,    null, &Gather<int, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherdd_ymm_vm32y_ymm,    null, &Gather<int, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherdq_xmm_vm32x_xmm,    null, &Gather<int, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherdq_ymm_vm32x_ymm,    null, &Gather<int, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherqd_xmm_vm64x_xmm,    null, &Gather<long, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherqd_xmm_vm64y_xmm,    null, &Gather<long, int>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherqq_xmm_vm64x_xmm,    null, &Gather<long, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
        t.Add(Code.VEX_Vpgatherqq_ymm_vm64y_ymm,    null, &Gather<long, long>.Run, flags: Row.Avx | Row.Host | Row.OwnSegmentation);
#pragma warning restore IDE0055

        // Everything else is executed by the host.
        foreach (Code code in Enum.GetValues<Code>())
        {
            if (t.Contains(code)) continue;
            ThunkForm form = ThunkForm.Get(code);
            if (!form.IsSimd) continue;
            if (SimdExceptions.IsConversionToHalf(code))
            {
                t.Add(code, HostHandlers.Register(form), form.MemorySize == 8 ? &HalfStore<ulong>.Run : &HalfStore<V128>.Run,
                    flags: Row.Host | Row.Avx | Row.OwnSegmentation | Row.Writes);
                continue;
            }
            t.Add(code,
                form.HasRegisterForm ? HostHandlers.Register(form) : null,
                form.MemorySize != 0 ? HostHandlers.Memory(form) : null,
                flags: Row.Host | (form.IsVex ? Row.Avx : form.HasSimd ? Row.Sse : form.IsMmx ? Row.Mmx : Row.None) | (form.IsStore ? Row.Writes : Row.None));
        }
    }
}
