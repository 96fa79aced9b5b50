using Bunraku.Engines;
using Bunraku.Silicon;
using Iced.Intel;

namespace Bunraku.Differential;

/// <summary>The forms that random code is made of, by how often real code has them.</summary>
internal sealed class InstructionPool
{
    private static readonly Mnemonic[] s_common =
    [
        Mnemonic.Mov, Mnemonic.Mov, Mnemonic.Mov, Mnemonic.Mov, Mnemonic.Mov, Mnemonic.Mov, Mnemonic.Add, Mnemonic.Add, Mnemonic.Sub, Mnemonic.Cmp,
            Mnemonic.Cmp, Mnemonic.Test, Mnemonic.Test, Mnemonic.Lea,
        Mnemonic.Lea, Mnemonic.And, Mnemonic.Or, Mnemonic.Xor, Mnemonic.Inc, Mnemonic.Dec, Mnemonic.Movzx, Mnemonic.Movzx, Mnemonic.Movsx, Mnemonic.Movsxd,
            Mnemonic.Shl, Mnemonic.Shr, Mnemonic.Sar,
        Mnemonic.Rol, Mnemonic.Ror, Mnemonic.Imul, Mnemonic.Neg, Mnemonic.Not, Mnemonic.Adc, Mnemonic.Sbb, Mnemonic.Bt, Mnemonic.Xchg, Mnemonic.Cmpxchg,
            Mnemonic.Xadd, Mnemonic.Cdq, Mnemonic.Cqo, Mnemonic.Cdqe,
        Mnemonic.Cwde, Mnemonic.Mul, Mnemonic.Div, Mnemonic.Bsf, Mnemonic.Bsr, Mnemonic.Bswap, Mnemonic.Shld, Mnemonic.Nop,
    ];

    private readonly Code[][] _common;
    private readonly Code[][] _conditional; // SETcc and CMOVcc
    private readonly Code[][] _families;    // everything, by kind
    private readonly Code[][] _vector;      // the frequent vector instructions

    private static readonly Mnemonic[] s_frequentVector =
    [
        Mnemonic.Movaps, Mnemonic.Movups, Mnemonic.Movdqa, Mnemonic.Movdqu, Mnemonic.Movd, Mnemonic.Movq, Mnemonic.Movss, Mnemonic.Movsd, Mnemonic.Pxor,
            Mnemonic.Xorps, Mnemonic.Paddd, Mnemonic.Pcmpeqb, Mnemonic.Pmovmskb,
        Mnemonic.Addsd, Mnemonic.Mulsd, Mnemonic.Subsd, Mnemonic.Divsd, Mnemonic.Cvtsi2sd, Mnemonic.Cvttsd2si, Mnemonic.Ucomisd, Mnemonic.Pshufd,
            Mnemonic.Punpcklqdq, Mnemonic.Vmovdqu, Mnemonic.Vmovdqa, Mnemonic.Vpxor,
        Mnemonic.Vaddpd, Mnemonic.Vmulpd, Mnemonic.Vzeroupper, Mnemonic.Vpcmpeqb, Mnemonic.Vpmovmskb, Mnemonic.Vmovups, Mnemonic.Vfmadd231sd,
    ];

    /// <param name="interrupted">
    /// One side is stopped where the other is not: on many processors the pointers to the last x87 instruction and its operand do not survive that, so that
    /// what shows them is left out.
    /// </param>
    public InstructionPool(CpuModel model, ProgramMode mode, bool interrupted = false)
    {
        List<Code> usable = [.. FormList.For(model, mode.Bits()).Where(c => IsUsable(c, mode) && !(interrupted && ShowsX87Pointers(c)))];
        ILookup<Mnemonic, Code> byMnemonic = usable.ToLookup(c => c.ToOpCode().Mnemonic);
        _common = Groups(s_common);
        _vector = Groups(s_frequentVector);
        _conditional =
            [.. usable.Where(c => Name(c).StartsWith("Set", StringComparison.Ordinal)
            || Name(c).StartsWith("Cmov", StringComparison.Ordinal)).GroupBy(c => Name(c)[0]).Select(g => g.ToArray())];
        _families = [.. usable.GroupBy(Family).OrderBy(g => g.Key).Select(g => g.ToArray())];

        Code[][] Groups(Mnemonic[] mnemonics) => [.. mnemonics.Where(m => byMnemonic[m].Any()).Select(m => byMnemonic[m].ToArray())];
        static string Name(Code code) => code.ToOpCode().Mnemonic.ToString();
    }

    /// <param name="vector">Vector and x87 instructions, too.</param>
    public Code Next(Rng rng, bool vector)
    {
        int kind = rng.Below(100);
        Code[][] from = kind < 62 ? _common : kind < 68 ? _conditional : vector && kind < 80 ? _vector : _families;
        for (; ; )
        {
            Code[] group = from[rng.Below(from.Length)];
            Code code = group[rng.Below(group.Length)];
            if (vector || FormTester.Parts(code) == 0) return code;
            from = _common;
        }
    }

    private static bool ShowsX87Pointers(Code code) => code.ToOpCode().Mnemonic is Mnemonic.Fnstenv or Mnemonic.Fstenv or Mnemonic.Fnsave or Mnemonic.Fsave
        or Mnemonic.Fxsave or Mnemonic.Fxsave64;

    private static int Family(Code code)
    {
        OpCodeInfo info = code.ToOpCode();
        CpuidFeature[] features = code.CpuidFeatures();
        if (features.Any(f => f is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387)) return 5;
        if (features.Contains(CpuidFeature.MMX)) return 6;
        if (FormTester.Parts(code) == StateParts.General) return info.Encoding == EncodingKind.VEX ? 4 : info.OpCodeLength > 1 ? 3 : (int)code % 3;
        return info.Encoding == EncodingKind.VEX ? 8 : 7;
    }

    /// <summary>Left out: what only a unit of its own can use safely, what is not the same twice, and what would end the program.</summary>
    private static bool IsUsable(Code code, ProgramMode mode)
    {
        OpCodeInfo info = code.ToOpCode();
        if (Exclusions.Reason(code) is not null && info.Mnemonic is not (Mnemonic.Cpuid or Mnemonic.Xgetbv or Mnemonic.Rdpid)) return false;
        if (info.Mnemonic == Mnemonic.Cpuid) return true;
        if (info.IsInputOutput || (info.IsPrivileged && !mode.IsUser())) return false;
        var probe = new Instruction { Code = code };
        if (probe.FlowControl != FlowControl.Next) return info.Mnemonic is Mnemonic.Ud2 or Mnemonic.Int3 or Mnemonic.Into or Mnemonic.Int1;
        for (int n = 0; n < info.OpCount; n++)
        {
            string kind = info.GetOpKind(n).ToString();
            if (kind is "seg_reg" or "cr_reg" or "dr_reg" or "cr" or "dr" or "es" or "ss" or "ds" or "fs" or "gs" or "seg_rBX_al") return false;
        }
        return info.Mnemonic is not (Mnemonic.Wrfsbase or Mnemonic.Wrgsbase or Mnemonic.Popf or Mnemonic.Popfq or Mnemonic.Popfd or Mnemonic.Enter
            or Mnemonic.Leave or Mnemonic.Mwait or Mnemonic.Monitor
            or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss or Mnemonic.Lds or Mnemonic.Les or Mnemonic.Sti or Mnemonic.Cli or Mnemonic.Hlt or Mnemonic.Popa
                or Mnemonic.Popad or Mnemonic.Pusha or Mnemonic.Pushad
            or Mnemonic.Vmmcall or Mnemonic.Vmcall or Mnemonic.Wrmsr or Mnemonic.Rdmsr or Mnemonic.Swapgs or Mnemonic.Std or Mnemonic.Cld);
    }
}
