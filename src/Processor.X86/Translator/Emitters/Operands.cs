using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>Registers as operands of instructions.</summary>
internal static class Operands
{
    /// <summary>Number of AH to BH in a ModRM byte.</summary>
    public static int HighNumber(HostRegister register) => 4 + (register - HostRegister.AH);

    // High bytes are other registers than the whole ones.
    public static int Identity(HostRegister register) => IsHigh(register) ? 32 + (register - HostRegister.AH) : NumberOf(register);

    public static bool IsHigh(HostRegister register) => register is >= HostRegister.AH and <= HostRegister.BH;

    /// <summary>Number of the whole register.</summary>
    public static int NumberOf(HostRegister register) => register.GetFullRegister() - HostRegister.RAX;

    public static HostRegister Sized(Host host, int size) => size switch
    {
        1 => host < Host.Rsp ? HostRegister.AL + (int)host : HostRegister.SPL + ((int)host - 4),
        2 => HostRegister.AX + (int)host,
        4 => HostRegister.EAX + (int)host,
        _ => HostRegister.RAX + (int)host,
    };

    public static bool Writes(OpAccess access) => access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;

    /// <summary>BT, BTS, BTR and BTC by a register: where the bit lies in memory the register decides as well.</summary>
    public static bool IsBitString(in Instruction g) =>
        g.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && g.GetOpKind(1) == OpKind.Register;

    /// <summary>A locked operation on a host that minds those across cache lines: what is not aligned is left to the interpreter.</summary>
    public static bool MustNotSplit(in Instruction g) => HostLocks.ReportsSplit && (g.HasLockPrefix || g.Mnemonic == Mnemonic.Xchg);

    /// <summary>Forms that 64-bit mode lacks, as others that do the same.</summary>
    public static Code In64BitMode(Code code) => code switch
    {
        Code.Inc_r16 => Code.Inc_rm16,
        Code.Inc_r32 => Code.Inc_rm32,
        Code.Dec_r16 => Code.Dec_rm16,
        Code.Dec_r32 => Code.Dec_rm32,
        Code.Mov_AL_moffs8 => Code.Mov_r8_rm8,
        Code.Mov_AX_moffs16 => Code.Mov_r16_rm16,
        Code.Mov_EAX_moffs32 => Code.Mov_r32_rm32,
        Code.Mov_RAX_moffs64 => Code.Mov_r64_rm64,
        Code.Mov_moffs8_AL => Code.Mov_rm8_r8,
        Code.Mov_moffs16_AX => Code.Mov_rm16_r16,
        Code.Mov_moffs32_EAX => Code.Mov_rm32_r32,
        Code.Mov_moffs64_RAX => Code.Mov_rm64_r64,
        Code.Add_rm8_imm8_82 => Code.Add_rm8_imm8,
        Code.Or_rm8_imm8_82 => Code.Or_rm8_imm8,
        Code.Adc_rm8_imm8_82 => Code.Adc_rm8_imm8,
        Code.Sbb_rm8_imm8_82 => Code.Sbb_rm8_imm8,
        Code.And_rm8_imm8_82 => Code.And_rm8_imm8,
        Code.Sub_rm8_imm8_82 => Code.Sub_rm8_imm8,
        Code.Xor_rm8_imm8_82 => Code.Xor_rm8_imm8,
        Code.Cmp_rm8_imm8_82 => Code.Cmp_rm8_imm8,
        // With an accumulator the short form names it; a substitute must not be renamed behind its back.
        Code.Xchg_r16_AX => Code.Xchg_rm16_r16,
        Code.Xchg_r32_EAX => Code.Xchg_rm32_r32,
        Code.Xchg_r64_RAX => Code.Xchg_rm64_r64,
        _ => code,
    };
}
