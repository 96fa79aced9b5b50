using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>What a thunk and its handler need to know of an instruction form, all from Iced's tables.</summary>
internal sealed class ThunkForm
{
    private static readonly ThunkForm?[] s_forms = new ThunkForm?[Enum.GetValues<Code>().Length];

    /// <summary>An x87 instruction (not MMX).</summary>
    public readonly bool IsX87;
    /// <summary>x87 state management, or a wait-prefixed alias that is decoded as two instructions: never executed by the host.</summary>
    public readonly bool IsControl;
    /// <summary>VEX-encoded: the destination is written up to bit 255.</summary>
    public readonly bool IsVex;
    /// <summary>An MMX, SSE or AVX form that a thunk can execute.</summary>
    public readonly bool IsSimd;
    /// <summary>May have an MMX register operand.</summary>
    public readonly bool IsMmx;
    /// <summary>Has an MMX register operand besides a memory operand, so that the memory form enters MMX mode too (CVTPI2PS and CVTPI2PD do not).</summary>
    public readonly bool IsMmxWithMemory;
    /// <summary>Has a vector register operand or works on vector state.</summary>
    public readonly bool HasSimd;
    /// <summary>May read or raise something in MXCSR.</summary>
    public readonly bool IsFloat;
    public readonly bool WritesFlags, ReadsFlags;
    /// <summary>Bytes of the memory operand, 0 when the form has none.</summary>
    public readonly int MemorySize;
    public readonly bool IsStore;
    /// <summary>#GP(0) when the memory operand is not aligned to its size.</summary>
    public readonly bool Aligned;
    /// <summary>Of the SHA instructions: whether the operand must be aligned is the vendor's choice, so the thunk loads it by an unaligned move.</summary>
    public readonly bool IsSha;
    /// <summary>The r/m operand may be a register, or there is no memory operand.</summary>
    public readonly bool HasRegisterForm;

    /// <summary>The facts of <paramref name="code"/>; any thread (making them twice is harmless).</summary>
    public static ThunkForm Get(Code code) => s_forms[(int)code] ??= new ThunkForm(code);

    private ThunkForm(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        string name = code.Mnemonic().ToString().ToUpperInvariant();
        CpuidFeature[] features = code.CpuidFeatures();
        IsX87 = features.Any(f => f is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387)
            || (features.Contains(CpuidFeature.SSE3) && name == "FISTTP");
        IsControl = IsX87
            && (name.Contains("SAVE", StringComparison.Ordinal) || name.Contains("RSTOR", StringComparison.Ordinal)
            || name.Contains("ENV", StringComparison.Ordinal)
            || name.Contains("CW", StringComparison.Ordinal) || name.Contains("SW", StringComparison.Ordinal) || name.Contains("DW", StringComparison.Ordinal)
            || name.Contains("SG", StringComparison.Ordinal) || name.Contains("PM", StringComparison.Ordinal) || name.Contains("ENI", StringComparison.Ordinal)
            || name.Contains("DISI", StringComparison.Ordinal) || name.Contains("INIT", StringComparison.Ordinal)
                || name.Contains("CLEX", StringComparison.Ordinal) || name == "WAIT");
        IsSha = features.Contains(CpuidFeature.SHA);
        IsVex = info.Encoding == EncodingKind.VEX;
        HasRegisterForm = true;
        for (int n = 0; n < info.OpCount; n++)
        {
            OpCodeOperandKind kind = info.GetOpKind(n);
            string kindName = kind.ToString();
            IsMmx |= kindName.StartsWith("mm_", StringComparison.Ordinal);
            IsMmxWithMemory |= kindName is "mm_reg" or "mm_rm";
            HasSimd |= kindName.Contains("xmm", StringComparison.Ordinal) || kindName.Contains("ymm", StringComparison.Ordinal);
            if (kindName.Contains("mem", StringComparison.Ordinal))
            {
                MemorySize = info.MemorySize.GetSize();
                IsStore = n == 0 && (!IsX87 || name.Contains("ST", StringComparison.Ordinal));
                HasRegisterForm = kindName.Contains("_or_mem", StringComparison.Ordinal);
            }
        }
        const RflagsBits Arithmetic = RflagsBits.CF | RflagsBits.PF | RflagsBits.AF | RflagsBits.ZF | RflagsBits.SF | RflagsBits.OF;
        Instruction any = new() { Code = code };
        WritesFlags = (any.RflagsModified & Arithmetic) != 0;
        ReadsFlags = (any.RflagsRead & Arithmetic) != 0;
        IsFloat = !IsX87 && ComputesFloat(IsVex && name[0] == 'V' ? name[1..] : name);
        IsSimd = !IsX87 && info.IsInstruction && info.Encoding is EncodingKind.Legacy or EncodingKind.VEX && features.All(IsSimdFeature)
            && IsThunkable(info, name);
        Aligned = IsVex ? MustAlignVex(name) : MemorySize == 16 && HasSimd && !MayMisalign(name);
    }

    private static bool IsSimdFeature(CpuidFeature f) =>
        f is CpuidFeature.MMX or CpuidFeature.SSE or CpuidFeature.SSE2 or CpuidFeature.SSE3 or CpuidFeature.SSSE3
        or CpuidFeature.SSE4_1 or CpuidFeature.SSE4_2 or CpuidFeature.SSE4A or CpuidFeature.AVX or CpuidFeature.AVX2 or CpuidFeature.FMA or CpuidFeature.F16C
        or CpuidFeature.AES or CpuidFeature.PCLMULQDQ or CpuidFeature.SHA;

    // Gathers, masked moves and fences have handlers of their own (or, being hints, need none of this).
    private static bool IsThunkable(OpCodeInfo info, string name)
    {
        if (name.Contains("MASKMOV", StringComparison.Ordinal) || name.Contains("GATHER", StringComparison.Ordinal)
            || name.Contains("FENCE", StringComparison.Ordinal)
            || name.StartsWith("PREFETCH", StringComparison.Ordinal) || name is "PAUSE" or "CLFLUSH")
            return false;
        return info.OpCount > 0;
    }

    // Integer instructions begin with P or belong to a named family (AES, SHA); what is listed here and cannot raise anything is only slower.
    private static bool ComputesFloat(string name) =>
        name is not "MULX"
        && (name.StartsWith("ADD", StringComparison.Ordinal) || name.StartsWith("SUB", StringComparison.Ordinal)
            || name.StartsWith("MUL", StringComparison.Ordinal)
            || name.StartsWith("DIV", StringComparison.Ordinal) || name.StartsWith("SQRT", StringComparison.Ordinal)
                || name.StartsWith("MIN", StringComparison.Ordinal)
            || name.StartsWith("MAX", StringComparison.Ordinal) || name.StartsWith("CMP", StringComparison.Ordinal)
                || name.StartsWith("COMI", StringComparison.Ordinal)
            || name.StartsWith("UCOMI", StringComparison.Ordinal) || name.StartsWith("CVT", StringComparison.Ordinal)
                || name.StartsWith("ROUND", StringComparison.Ordinal)
            || name.StartsWith("DPP", StringComparison.Ordinal) || name.StartsWith("HADD", StringComparison.Ordinal)
                || name.StartsWith("HSUB", StringComparison.Ordinal)
            || name.StartsWith("FM", StringComparison.Ordinal) || name.StartsWith("FNM", StringComparison.Ordinal));

    // SDM vol. 2A, "Exceptions Type 4" and the notes of the instructions themselves.
    private static bool MayMisalign(string name) =>
        name is "MOVUPS" or "MOVUPD" or "MOVDQU" or "LDDQU" or "PCMPESTRI" or "PCMPESTRM" or "PCMPISTRI" or "PCMPISTRM"
        or "PCMPESTRI64" or "PCMPESTRM64" or "PCMPISTRI64" or "PCMPISTRM64";

    // SDM vol. 2A, "Exceptions Type 1".
    private static bool MustAlignVex(string name) => name is "VMOVAPS" or "VMOVAPD" or "VMOVDQA" or "VMOVNTPS" or "VMOVNTPD" or "VMOVNTDQ" or "VMOVNTDQA";
}
