using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>How the translator treats an instruction form.</summary>
internal enum TranslationKind : byte
{
    /// <summary>The interpreter's handler executes it.</summary>
    Interpret,
    /// <summary>The host executes the same instruction with other registers and another address.</summary>
    Same,
    /// <summary>The same, with vector registers.</summary>
    Simd,
    /// <summary>The same, with x87 registers.</summary>
    X87, LoadX87Control, WaitX87,
    Lea, Push, Pop, Leave, Divide, Nop,
    Jump, JumpIndirect, JumpConditional, JumpIfCountZero, Loop, Call, CallIndirect, Return,
    SystemCall, SystemReturn, ReadTsc, String,
    PushFlags, PopFlags, ClearInterrupts, SetInterrupts, SetAlignmentCheck, ClearAlignmentCheck, MoveFromSegment, SwapGs, VerifyWrite,
    ClearDirection, ReadPkru, ReadControl,
}

/// <summary>What a translation needs to know of a form beyond Iced's tables.</summary>
[Flags]
internal enum TranslationFlags : byte
{
    None = 0,
    /// <summary>Reads RCX without naming it, or names CL as the count of a shift.</summary>
    ReadsCount = 1,
    /// <summary>Writes ECX without naming it.</summary>
    WritesCount = 2,
    /// <summary>A memory operand must be aligned to its size, else the interpreter raises #GP(0).</summary>
    Aligned = 4,
}

/// <summary>One entry for each instruction form (Iced's <see cref="Code"/>): who translates it. Built once, then immutable.</summary>
internal static class TranslationTable
{
    private static readonly (TranslationKind Kind, TranslationFlags Flags)[] s_entries = Build();

    public static (TranslationKind Kind, TranslationFlags Flags) Get(Code code) => s_entries[(int)code];

    private static (TranslationKind, TranslationFlags)[] Build()
    {
        Code[] codes = Enum.GetValues<Code>();
        var entries = new (TranslationKind, TranslationFlags)[codes.Length];
        foreach (Code code in codes)
        {
            if (!InstructionTable.Implements(code)) continue;
            TranslationKind kind = Classify(code);
            entries[(int)code] = (kind, kind is TranslationKind.Same or TranslationKind.Simd ? FlagsOf(code) : TranslationFlags.None);
        }
        return entries;
    }

    private static TranslationKind Classify(Code code)
    {
        ref readonly InstructionRow row = ref InstructionTable.Get(code);
        if (ThunkForm.Get(code) is { IsX87: true, IsControl: false } && (row.Flags & Row.Host) != 0) return TranslationKind.X87;
        switch (code)
        {
            case Code.Fnstsw_AX or Code.Fnstsw_m2byte or Code.Fnstcw_m2byte: return TranslationKind.X87;
            case Code.Fldcw_m2byte: return TranslationKind.LoadX87Control;
            case Code.Wait: return TranslationKind.WaitX87;
            default: break;
        }
        if ((row.Flags & (Row.X87 | Row.Mmx | Row.Wait)) != 0) return TranslationKind.Interpret;
        if ((row.Flags & Row.Cpl0) != 0 && code is not (Code.Swapgs or Code.Mov_r64_cr)) return TranslationKind.Interpret;
        // Processors read 2 or 4 bytes for it.
        if (code == Code.Movsxd_r16_rm16) return TranslationKind.Interpret;
        OpCodeInfo info = code.ToOpCode();
        // Where a register operand is MMX the state is the x87's.
        for (int n = 0; n < info.OpCount; n++)
        {
            if (info.GetOpKind(n).ToString().StartsWith("mm_", StringComparison.Ordinal)) return TranslationKind.Interpret;
        }
        if ((row.Flags & (Row.Sse | Row.Avx)) != 0)
        {
            bool state = (row.Flags & Row.OwnSegmentation) != 0
                || code is Code.Ldmxcsr_m32 or Code.Stmxcsr_m32 or Code.VEX_Vldmxcsr_m32 or Code.VEX_Vstmxcsr_m32;
            return state ? TranslationKind.Interpret : TranslationKind.Simd;
        }
        return Integer(code);
    }

    private static TranslationKind Integer(Code code)
    {
#pragma warning disable IDE0055 // one aligned row a family
        switch (code)
        {
            case Code.Jmp_rel8_64 or Code.Jmp_rel32_64 or Code.Jmp_rel8_32 or Code.Jmp_rel32_32:     return TranslationKind.Jump;
            case Code.Jmp_rm64 or Code.Jmp_rm32:                                                      return TranslationKind.JumpIndirect;
            case Code.Call_rel32_64 or Code.Call_rel32_32:                                            return TranslationKind.Call;
            case Code.Call_rm64 or Code.Call_rm32:                                                    return TranslationKind.CallIndirect;
            case Code.Retnq or Code.Retnq_imm16 or Code.Retnd or Code.Retnd_imm16:                    return TranslationKind.Return;
            case Code.Jrcxz_rel8_64 or Code.Jecxz_rel8_64 or Code.Jecxz_rel8_32:                      return TranslationKind.JumpIfCountZero;
            case Code.Loop_rel8_64_RCX or Code.Loop_rel8_32_ECX:                                      return TranslationKind.Loop;
            case Code.Push_r64 or Code.Push_rm64 or Code.Pushq_imm8 or Code.Pushq_imm32:              return TranslationKind.Push;
            case Code.Push_r32 or Code.Push_rm32 or Code.Pushd_imm8 or Code.Pushd_imm32:              return TranslationKind.Push;
            case Code.Pop_r64 or Code.Pop_r32:                                                        return TranslationKind.Pop;
            case Code.Pop_rm64 or Code.Pop_rm32:                                                      return TranslationKind.Pop;
            case Code.Leaveq or Code.Leaved:                                                          return TranslationKind.Leave;
            case Code.Lea_r16_m or Code.Lea_r32_m or Code.Lea_r64_m:                                  return TranslationKind.Lea;
            case Code.Mov_rm16_Sreg or Code.Mov_r32m16_Sreg or Code.Mov_r64m16_Sreg:                   return TranslationKind.MoveFromSegment;
            case Code.Syscall:                                                                        return TranslationKind.SystemCall;
            case Code.Sysretq:                                                                        return TranslationKind.SystemReturn;
            case Code.Rdtsc or Code.Rdtscp:                                                           return TranslationKind.ReadTsc;
            case Code.Stosb_m8_AL or Code.Stosw_m16_AX or Code.Stosd_m32_EAX or Code.Stosq_m64_RAX:           return TranslationKind.String;
            case Code.Movsb_m8_m8 or Code.Movsw_m16_m16 or Code.Movsd_m32_m32 or Code.Movsq_m64_m64:          return TranslationKind.String;
            case Code.Lodsb_AL_m8 or Code.Lodsw_AX_m16 or Code.Lodsd_EAX_m32 or Code.Lodsq_RAX_m64:           return TranslationKind.String;
            case Code.Verw_rm16 or Code.Verw_r32m16 or Code.Verw_r64m16:                              return TranslationKind.VerifyWrite;
            case Code.Rdpkru:                                                                         return TranslationKind.ReadPkru;
            case Code.Mov_r64_cr:                                                                     return TranslationKind.ReadControl;
            case Code.Swapgs:                                                                         return TranslationKind.SwapGs;
            case Code.Div_rm32 or Code.Div_rm64 or Code.Idiv_rm32 or Code.Idiv_rm64:                  return TranslationKind.Divide;
        }
        if (code.IsJccShortOrNear()) return code.ToOpCode().OperandSize != 16 && !Is16Bit(code) ? TranslationKind.JumpConditional : TranslationKind.Interpret;
        return code.Mnemonic() switch
        {
            Mnemonic.Add or Mnemonic.Or or Mnemonic.Adc or Mnemonic.Sbb or Mnemonic.And or Mnemonic.Sub or Mnemonic.Xor or Mnemonic.Cmp or Mnemonic.Test
                or Mnemonic.Inc or Mnemonic.Dec or Mnemonic.Neg or Mnemonic.Not
                or Mnemonic.Shl or Mnemonic.Sal or Mnemonic.Shr or Mnemonic.Sar or Mnemonic.Rol or Mnemonic.Ror or Mnemonic.Rcl or Mnemonic.Rcr or Mnemonic.Shld
                or Mnemonic.Shrd
                or Mnemonic.Imul or Mnemonic.Mul
                or Mnemonic.Movzx or Mnemonic.Movsx or Mnemonic.Movsxd or Mnemonic.Movbe or Mnemonic.Movnti or Mnemonic.Bswap
                or Mnemonic.Xchg or Mnemonic.Xadd or Mnemonic.Cmpxchg or Mnemonic.Cmpxchg8b or Mnemonic.Cmpxchg16b
                or Mnemonic.Bsf or Mnemonic.Bsr or Mnemonic.Tzcnt or Mnemonic.Lzcnt or Mnemonic.Popcnt
                or Mnemonic.Andn or Mnemonic.Bextr or Mnemonic.Blsi or Mnemonic.Blsmsk or Mnemonic.Blsr or Mnemonic.Bzhi or Mnemonic.Mulx or Mnemonic.Pdep
                or Mnemonic.Pext
                or Mnemonic.Rorx or Mnemonic.Sarx or Mnemonic.Shlx or Mnemonic.Shrx or Mnemonic.Adcx or Mnemonic.Adox or Mnemonic.Crc32
                or Mnemonic.Cbw or Mnemonic.Cwde or Mnemonic.Cdqe or Mnemonic.Cwd or Mnemonic.Cdq or Mnemonic.Cqo
                or Mnemonic.Cmc or Mnemonic.Clc or Mnemonic.Stc or Mnemonic.Lahf or Mnemonic.Sahf
                or Mnemonic.Lfence or Mnemonic.Mfence or Mnemonic.Sfence                                => TranslationKind.Same,
            Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc                               => TranslationKind.Same,
            Mnemonic.Mov when MovesGeneral(code)                                                      => TranslationKind.Same,
            Mnemonic.Nop or Mnemonic.Reservednop or Mnemonic.Endbr64 or Mnemonic.Endbr32              => TranslationKind.Nop,
            >= Mnemonic.Prefetch and <= Mnemonic.Prefetchwt1                                          => TranslationKind.Nop,
            Mnemonic.Pushfq                                                                           => TranslationKind.PushFlags,
            Mnemonic.Popfq                                                                            => TranslationKind.PopFlags,
            Mnemonic.Stac                                                                             => TranslationKind.SetAlignmentCheck,
            Mnemonic.Clac                                                                             => TranslationKind.ClearAlignmentCheck,
            Mnemonic.Cld                                                                              => TranslationKind.ClearDirection,
            Mnemonic.Cli                                                                              => TranslationKind.ClearInterrupts,
            Mnemonic.Sti                                                                              => TranslationKind.SetInterrupts,
            _ when IsConditional(code)                                                                => TranslationKind.Same,
            _                                                                                         => TranslationKind.Interpret,
        };
#pragma warning restore IDE0055
    }

    // CMOVcc and SETcc.
    private static bool IsConditional(Code code) =>
        code.ConditionCode() != ConditionCode.None && !code.IsJccShortOrNear() && !code.IsLoop() && !code.IsLoopcc();

    private static bool Is16Bit(Code code) =>
        code.ToString() is var name && (name.EndsWith("_16", StringComparison.Ordinal) || name.EndsWith("rel16", StringComparison.Ordinal));

    // Not control, debug or segment registers.
    private static bool MovesGeneral(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        for (int n = 0; n < info.OpCount; n++)
        {
            string kind = info.GetOpKind(n).ToString();
            if (kind.StartsWith("cr_", StringComparison.Ordinal) || kind.StartsWith("dr_", StringComparison.Ordinal)
                || kind.StartsWith("tr_", StringComparison.Ordinal)
                || kind.StartsWith("seg_", StringComparison.Ordinal))
                return false;
        }
        return true;
    }

    private static TranslationFlags FlagsOf(Code code)
    {
        var flags = TranslationFlags.None;
        OpCodeInfo info = code.ToOpCode();
        for (int n = 0; n < info.OpCount; n++)
        {
            if (info.GetOpKind(n) == OpCodeOperandKind.cl) flags |= TranslationFlags.ReadsCount;
        }
        switch (code.Mnemonic())
        {
            case Mnemonic.Cmpxchg8b:
                flags |= TranslationFlags.ReadsCount;
                break;
            case Mnemonic.Cmpxchg16b:
                flags |= TranslationFlags.ReadsCount | TranslationFlags.Aligned;
                break;
            case Mnemonic.Pcmpestri or Mnemonic.Pcmpistri or Mnemonic.Vpcmpestri or Mnemonic.Vpcmpistri or Mnemonic.Pcmpestri64 or Mnemonic.Vpcmpestri64:
                flags |= TranslationFlags.WritesCount;
                break;
            default:
                break;
        }
        if (ThunkForm.Get(code) is { HasSimd: true, Aligned: true }) flags |= TranslationFlags.Aligned;
        return flags;
    }
}
