using System.Runtime.Intrinsics.X86;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>
/// Flags that the manuals leave undefined (Intel SDM vol. 2, section "Flags Affected" of each instruction; AMD APM vol. 3, appendix
/// "Instruction Effects on RFLAGS"). Real processors are deterministic, but generations differ: our processor gives what AMD's families 19h and
/// 1Ah give, so there every bit is compared; on any other host the bits of this table are left out.
/// </summary>
public static class UndefinedFlags
{
    private const uint Cf = 1, Pf = 4, Af = 0x10, Zf = 0x40, Sf = 0x80, Of = 0x800;

    private static readonly Dictionary<Mnemonic, uint> s_masks = new()
    {
#pragma warning disable IDE0055
        [Mnemonic.And]    = Af,                     // "AND": AF
        [Mnemonic.Or]     = Af,                     // "OR": AF
        [Mnemonic.Xor]    = Af,                     // "XOR": AF
        [Mnemonic.Test]   = Af,                     // "TEST": AF
        [Mnemonic.Andn]   = Af | Pf,                // "ANDN": AF, PF
        [Mnemonic.Bextr]  = Af | Sf | Pf,           // "BEXTR": AF, SF, PF
        [Mnemonic.Blsi]   = Af | Pf,                // "BLSI": AF, PF
        [Mnemonic.Blsmsk] = Af | Pf,                // "BLSMSK": AF, PF
        [Mnemonic.Blsr]   = Af | Pf,                // "BLSR": AF, PF
        [Mnemonic.Bzhi]   = Af | Pf,                // "BZHI": AF, PF
        [Mnemonic.Tzcnt]  = Of | Sf | Pf | Af,      // "TZCNT": OF, SF, PF, AF
        [Mnemonic.Lzcnt]  = Of | Sf | Pf | Af,      // "LZCNT": OF, SF, PF, AF
        [Mnemonic.Bsf]    = Cf | Of | Sf | Af | Pf, // "BSF": CF, OF, SF, AF, PF
        [Mnemonic.Bsr]    = Cf | Of | Sf | Af | Pf, // "BSR": CF, OF, SF, AF, PF
        [Mnemonic.Bt]     = Of | Sf | Af | Pf,      // "BT": OF, SF, AF, PF
        [Mnemonic.Btc]    = Of | Sf | Af | Pf,      // "BTC": OF, SF, AF, PF
        [Mnemonic.Btr]    = Of | Sf | Af | Pf,      // "BTR": OF, SF, AF, PF
        [Mnemonic.Bts]    = Of | Sf | Af | Pf,      // "BTS": OF, SF, AF, PF
        [Mnemonic.Shl]    = Af | Of | Cf,           // "SAL/SAR/SHL/SHR": AF; OF unless the count is 1; CF when the count reaches the width
        [Mnemonic.Sal]    = Af | Of | Cf,
        [Mnemonic.Shr]    = Af | Of | Cf,
        [Mnemonic.Sar]    = Af | Of,
        [Mnemonic.Shld]   = Af | Of,                // "SHLD": AF; OF when the count exceeds 1
        [Mnemonic.Shrd]   = Af | Of,                // "SHRD": AF; OF when the count exceeds 1
        [Mnemonic.Rol]    = Of,                     // "RCL/RCR/ROL/ROR": OF unless the count is 1
        [Mnemonic.Ror]    = Of,
        [Mnemonic.Rcl]    = Of,
        [Mnemonic.Rcr]    = Of,
        [Mnemonic.Mul]    = Sf | Zf | Af | Pf,      // "MUL": SF, ZF, AF, PF
        [Mnemonic.Imul]   = Sf | Zf | Af | Pf,      // "IMUL": SF, ZF, AF, PF
        [Mnemonic.Div]    = Cf | Of | Sf | Zf | Af | Pf, // "DIV": all
        [Mnemonic.Idiv]   = Cf | Of | Sf | Zf | Af | Pf, // "IDIV": all
        [Mnemonic.Aaa]    = Of | Sf | Zf | Pf,      // "AAA": OF, SF, ZF, PF
        [Mnemonic.Aas]    = Of | Sf | Zf | Pf,      // "AAS": OF, SF, ZF, PF
        [Mnemonic.Aad]    = Of | Af | Cf,           // "AAD": OF, AF, CF
        [Mnemonic.Aam]    = Of | Af | Cf,           // "AAM": OF, AF, CF
        [Mnemonic.Daa]    = Of,                     // "DAA": OF
        [Mnemonic.Das]    = Of,                     // "DAS": OF
#pragma warning restore IDE0055
    };

    private static readonly bool s_exact = HostIsReference();

    /// <summary>Flags not to compare after <paramref name="instruction"/> on this host.</summary>
    public static uint Mask(in Instruction instruction) => s_exact ? 0 : s_masks.GetValueOrDefault(instruction.Mnemonic);

    private static bool HostIsReference()
    {
        (_, int b, int c, int d) = X86Base.CpuId(0, 0);
        if (b != 0x6874_7541 || d != 0x6974_6E65 || c != 0x444D_4163) return false; // AuthenticAMD
        int signature = X86Base.CpuId(1, 0).Eax;
        return (signature >> 8 & 0xF) + (signature >> 20 & 0xFF) is 0x19 or 0x1A;
    }
}
