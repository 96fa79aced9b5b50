using System.Runtime.Intrinsics.X86;
using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>
/// Undefined flags of the instructions that both engines compute (BCD arithmetic): ours are those of AMD's families 19h and 1Ah, so there every bit is
/// compared; on any other host the bits of this table are left out. All other undefined flags are the host's in both engines, and are compared on every host.
/// Intel SDM vol. 2, section "Flags Affected" of each instruction; AMD APM vol. 3, appendix "Instruction Effects on RFLAGS".
/// </summary>
public static class UndefinedFlags
{
    private const uint Cf = 1, Pf = 4, Af = 0x10, Zf = 0x40, Sf = 0x80, Of = 0x800;

    private static readonly Dictionary<Mnemonic, uint> s_masks = new()
    {
#pragma warning disable IDE0055
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
