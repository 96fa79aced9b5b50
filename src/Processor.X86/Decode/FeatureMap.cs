using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>Which of Iced's CPUID features a CPU model has: an instruction of any other raises #UD.</summary>
internal static class FeatureMap
{
    /// <summary>The model's answer for each of Iced's features, by its number.</summary>
    public static bool[] For(CpuModel model)
    {
        var result = new bool[Enum.GetValues<CpuidFeature>().Cast<int>().Max() + 1];
        foreach (CpuidFeature f in Enum.GetValues<CpuidFeature>()) result[(int)f] = Needs(f) is { } needed && needed.All(model.Has);
        return result;
    }

    /// <summary>Decoder options that make the old meaning of prefixed opcodes come out where the model lacks the newer instruction.</summary>
    public static DecoderOptions Options(CpuModel model)
    {
        // No model has CET: what it made of the reserved no-operations 0F 18 to 0F 1F (ENDBR, RDSSP) does nothing.
        DecoderOptions options = DecoderOptions.NoWbnoinvd | DecoderOptions.ForceReservedNop;
        if (!model.Has(CpuFeature.Bmi1)) options |= DecoderOptions.NoMPFX_0FBC; // TZCNT is BSF there
        if (!model.Has(CpuFeature.Lzcnt)) options |= DecoderOptions.NoMPFX_0FBD; // LZCNT is BSR there
        if (!model.Has(CpuFeature.LahfLm)) options |= DecoderOptions.NoLahfSahf64;
        // Iced's option does more, all of it AMD's: far pointers have no 64-bit offset, and UD0 has no ModRM byte.
        if (model.Behavior.OperandSizePrefixNarrowsNearBranches) options |= DecoderOptions.AMD;
        return options;
    }

    /// <summary>Features needed, none for what every model has, null for what no model has.</summary>
    private static CpuFeature[]? Needs(CpuidFeature f)
    {
#pragma warning disable IDE0055
        return f switch
        {
            CpuidFeature.INTEL8086 or CpuidFeature.INTEL186 or CpuidFeature.INTEL286 or CpuidFeature.INTEL386 or CpuidFeature.INTEL486
                or CpuidFeature.CPUID or CpuidFeature.MULTIBYTENOP or CpuidFeature.PAUSE or CpuidFeature.FPU287 or CpuidFeature.FPU387 => [],
            CpuidFeature.FPU                => [CpuFeature.Fpu],
            CpuidFeature.X64                => [CpuFeature.Lm],
            CpuidFeature.TSC                => [CpuFeature.Tsc],
            CpuidFeature.MSR                => [CpuFeature.Msr],
            CpuidFeature.RDPMC              => [],
            CpuidFeature.SEP                => [CpuFeature.Sep],
            CpuidFeature.CX8                => [CpuFeature.Cx8],
            CpuidFeature.CMPXCHG16B         => [CpuFeature.Cx16],
            CpuidFeature.CMOV               => [CpuFeature.Cmov],
            CpuidFeature.CLFSH              => [CpuFeature.Clflush],
            CpuidFeature.CLFLUSHOPT         => [CpuFeature.Clflushopt],
            CpuidFeature.CLWB               => [CpuFeature.Clwb],
            CpuidFeature.MMX                => [CpuFeature.Mmx],
            CpuidFeature.FXSR               => [CpuFeature.Fxsr],
            CpuidFeature.SSE                => [CpuFeature.Sse],
            CpuidFeature.SSE2               => [CpuFeature.Sse2],
            CpuidFeature.SSE3               => [CpuFeature.Sse3],
            CpuidFeature.SSSE3              => [CpuFeature.Ssse3],
            CpuidFeature.SSE4_1             => [CpuFeature.Sse41],
            CpuidFeature.SSE4_2             => [CpuFeature.Sse42],
            CpuidFeature.SSE4A              => [CpuFeature.Sse4a],
            CpuidFeature.POPCNT             => [CpuFeature.Popcnt],
            CpuidFeature.LZCNT              => [CpuFeature.Lzcnt],
            CpuidFeature.BMI1               => [CpuFeature.Bmi1],
            CpuidFeature.BMI2               => [CpuFeature.Bmi2],
            CpuidFeature.ADX                => [CpuFeature.Adx],
            CpuidFeature.MOVBE              => [CpuFeature.Movbe],
            CpuidFeature.AES                => [CpuFeature.Aes],
            CpuidFeature.PCLMULQDQ          => [CpuFeature.Pclmulqdq],
            CpuidFeature.SHA                => [CpuFeature.Sha],
            CpuidFeature.AVX                => [CpuFeature.Avx],
            CpuidFeature.AVX2               => [CpuFeature.Avx2],
            CpuidFeature.FMA                => [CpuFeature.Fma],
            CpuidFeature.F16C               => [CpuFeature.F16c],
            CpuidFeature.RDRAND             => [CpuFeature.Rdrand],
            CpuidFeature.RDSEED             => [CpuFeature.Rdseed],
            CpuidFeature.RDPID              => [CpuFeature.Rdpid],
            CpuidFeature.RDTSCP             => [CpuFeature.Rdtscp],
            CpuidFeature.FSGSBASE           => [CpuFeature.Fsgsbase],
            CpuidFeature.INVPCID            => [CpuFeature.Invpcid],
            CpuidFeature.SMAP               => [CpuFeature.Smap],
            CpuidFeature.PKU                => [CpuFeature.Pku],
            CpuidFeature.SYSCALL            => [CpuFeature.Syscall],
            CpuidFeature.MONITOR            => [CpuFeature.Monitor],
            CpuidFeature.XSAVE              => [CpuFeature.Xsave],
            CpuidFeature.XSAVEOPT           => [CpuFeature.Xsaveopt],
            CpuidFeature.XSAVEC             => [CpuFeature.Xsavec],
            CpuidFeature.XSAVES             => [CpuFeature.Xsaves],
            CpuidFeature.PREFETCHW          => [],
            CpuidFeature.SKINIT_or_SVM      => [CpuFeature.Svm],
            CpuidFeature.SMM                => [CpuFeature.Svm], // RSM, undefined outside system management mode: it can be intercepted
            // VMCALL and VMMCALL are every model's; the rest raises #UD in its handler.
            CpuidFeature.VMX or CpuidFeature.SVM or CpuidFeature.INVEPT or CpuidFeature.INVVPID => [],
            _ => null,
        };
#pragma warning restore IDE0055
    }

    /// <summary>Forms in the hint-NOP space (0F 0D, 0F 18 to 0F 1F), which do nothing where the feature is absent (SDM vol. 2B "NOP").</summary>
    public static bool IsHint(in Instruction instruction) =>
        instruction.OpCode.OpCode is 0x0D or (>= 0x18 and <= 0x1F) && instruction.OpCode.Table == OpCodeTableKind.T0F
        && instruction.OpCode.Encoding == EncodingKind.Legacy;
}
