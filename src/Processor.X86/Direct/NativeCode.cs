using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which code may run on the host's processor as it is: byte sequences that would show the host's own state, and are no privileged instructions, must not
/// stand at any offset, since a jump can lead there.
/// </summary>
/// <remarks>
/// What traps in a helper needs no look: RDTSC and RDTSCP (PR_SET_TSC), SYSCALL, most INT n, whatever needs level 0. The list is that of the sensitive
/// unprivileged instructions (docs/popek-goldberg.md) with the XSAVE family, whose areas have the host's layout, and calls to a hypervisor below the host.
/// </remarks>
internal static class NativeCode
{
    private const byte Escape = 0x0F, Interrupt = 0xCD;

    /// <summary>Bytes of the longest sequence.</summary>
    public const int Longest = 5;

    /// <summary>A sequence that may not run begins here.</summary>
    /// <param name="b">At least <see cref="Longest"/> bytes, those behind the end of the code being zero.</param>
    /// <param name="cpuidFaults">CPUID traps, too.</param>
    public static bool IsSensitive(ReadOnlySpan<byte> b, bool cpuidFaults)
    {
        if (b[0] != Escape) return false;
        byte modRm = b[2];
        int register = modRm >> 3 & 7;
        bool isMemory = modRm < 0xC0;
        return b[1] switch
        {
            0xA2 => !cpuidFaults, // CPUID
            0x33 or 0x34 => true, // RDPMC, SYSENTER
            0x01 => modRm is 0xC1 or 0xD9 // VMCALL, VMMCALL
                or 0xD0 // XGETBV
                or 0xEE or 0xEF // RDPKRU, WRPKRU
                or 0xFA or 0xFB or 0xFD, // MONITORX, MWAITX, RDPRU
            0xAE => isMemory && register is 4 or 5 or 6, // XSAVE, XRSTOR, XSAVEOPT
            0xC7 => isMemory ? register is 4 : register is 7, // XSAVEC; RDPID, and RDSEED with it
            _ => false,
        };
    }

    /// <summary>No sensitive sequence lies in a page, nor begins in it and ends in the next one.</summary>
    /// <param name="page">4096 bytes.</param>
    /// <param name="next">First bytes of the page behind it, if that may be executed, too; else empty.</param>
    public static bool IsInnocent(ReadOnlySpan<byte> page, ReadOnlySpan<byte> next, bool cpuidFaults)
    {
        int from = 0;
        while (page[from..].IndexOf(Escape) is var found and >= 0)
        {
            int at = from + found;
            if (at > page.Length - Longest) return IsSeamInnocent(page, next, cpuidFaults);
            if (IsSensitive(page[at..], cpuidFaults)) return false;
            from = at + 1;
        }
        return true;
    }

    /// <summary>No sensitive sequence begins in the last bytes of a page.</summary>
    /// <inheritdoc cref="IsInnocent"/>
    public static bool IsSeamInnocent(ReadOnlySpan<byte> page, ReadOnlySpan<byte> next, bool cpuidFaults)
    {
        Span<byte> seam = stackalloc byte[2 * Longest];
        seam.Clear();
        page[^Longest..].CopyTo(seam);
        next[..Math.Min(next.Length, Longest)].CopyTo(seam[Longest..]);
        for (int n = 0; n < Longest; n++)
            if (IsSensitive(seam[n..], cpuidFaults)) return false;
        return true;
    }

    /// <summary>
    /// No instruction from an entry on, one behind the other to the end of the page, is one that would show the host and is too short to be refused wherever
    /// its bytes stand: every fifth page has such bytes by chance, in the middle of others. What a jump into the middle of an instruction could show is a leak
    /// that docs/direct.md names.
    /// </summary>
    /// <param name="entry">Offset in the page.</param>
    public static bool IsStraightCodeInnocent(ReadOnlySpan<byte> page, int entry)
    {
        if (!HasShortForm(page[entry..])) return true;
        var decoder = Decoder.Create(64, new ByteArrayCodeReader(page[entry..].ToArray()));
        while (decoder.IP < (ulong)(page.Length - entry))
        {
            decoder.Decode(out Instruction instruction);
            if (instruction.Mnemonic is Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Sgdt or Mnemonic.Sidt or Mnemonic.Sldt
                or Mnemonic.Str or Mnemonic.Smsw) return false;
            // INT 80h loses the upper half of RAX in Linux, and INT 4 comes back as a fault that may also be another instruction's.
            if (instruction.Mnemonic == Mnemonic.Int && instruction.Immediate8 is 0x80 or 0x04) return false;
        }
        return true;
    }

    private static bool HasShortForm(ReadOnlySpan<byte> code)
    {
        for (int n = 0; n < code.Length - 1; n++)
        {
            if ((code[n] == Escape && code[n + 1] <= 3) || (code[n] == Interrupt && code[n + 1] is 0x80 or 0x04)) return true;
        }
        return false;
    }
}
