using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which code may run on the host's processor as it is: byte sequences that would show the host's own state, and are no privileged instructions, are looked
/// for at any offset, since a jump can lead there.
/// </summary>
/// <remarks>
/// What traps in a helper needs no look: RDTSC and RDTSCP (PR_SET_TSC), SYSCALL, most INT n, whatever needs level 0. The list is that of the sensitive
/// unprivileged instructions (docs/popek-goldberg.md) with the XSAVE family, whose areas have the host's layout, and calls to a hypervisor below the host.
/// </remarks>
internal static class NativeCode
{
    private const byte Escape = 0x0F, Interrupt = 0xCD;

    /// <summary>Bytes of the longest sequence.</summary>
    private const int Longest = 3;

    /// <summary>A sequence that may not run begins here.</summary>
    /// <param name="b">At least three bytes, those behind the end of the code being zero.</param>
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

    /// <summary>Bytes of neighbours that an instruction can have which reaches into a page: 14 prefixes, and a sequence without its last byte.</summary>
    public const int Margin = MostPrefixes + Longest - 1;

    private const int MostPrefixes = 14;

    /// <summary>
    /// Where instructions can begin that must not run: those whose sensitive sequence lies in a page, or that reach into it or out of it.
    /// </summary>
    /// <param name="code">The last <see cref="Margin"/> bytes before the page, the page, and the first <see cref="Margin"/> behind it; zero where a neighbour
    /// must not be executed.</param>
    /// <param name="found">Offsets in the page are added; negative ones are before it.</param>
    public static void FindSensitive(ReadOnlySpan<byte> code, bool cpuidFaults, HashSet<int> found)
    {
        int from = 0, last = code.Length - Longest, behind = code.Length - Margin;
        while (from <= last && code[from..(last + 1)].IndexOf(Escape) is var next and >= 0)
        {
            int at = from + next;
            from = at + 1;
            if (at + Longest <= Margin || !IsSensitive(code[at..], cpuidFaults)) continue;
            // Each prefix before it may be where the instruction begins.
            int start = at;
            do
            {
                if (start < behind) found.Add(start - Margin);
                start--;
            }
            while (start >= Math.Max(0, at - MostPrefixes) && IsPrefix(code[start]));
        }
    }

    /// <summary>Legacy prefixes and REX: Intel SDM vol. 2A, "Instruction Prefixes".</summary>
    private static bool IsPrefix(byte b) => b is 0x66 or 0x67 or 0xF0 or 0xF2 or 0xF3 or 0x2E or 0x36 or 0x3E or 0x26 or 0x64 or 0x65 or (>= 0x40 and <= 0x4F);

    /// <summary>
    /// Of the instructions from an entry on, one behind the other to the end of the page, those that would show the host and are too short to be looked for
    /// wherever their bytes stand: every fifth page has such bytes by chance, in the middle of others. What a jump into the middle of an instruction could
    /// show is a leak that docs/direct.md names.
    /// </summary>
    /// <param name="entry">Offset in the page.</param>
    /// <param name="found">Offsets in the page are added.</param>
    public static void FindShort(ReadOnlySpan<byte> page, int entry, HashSet<int> found)
    {
        if (!HasShortForm(page[entry..])) return;
        var decoder = Decoder.Create(64, new ByteArrayCodeReader(page[entry..].ToArray()));
        while (decoder.IP < (ulong)(page.Length - entry))
        {
            decoder.Decode(out Instruction instruction);
            if (instruction.Mnemonic is Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Sgdt or Mnemonic.Sidt or Mnemonic.Sldt
                or Mnemonic.Str or Mnemonic.Smsw
                // INT 80h loses the upper half of RAX in Linux, and INT 4 comes back as a fault that may also be another instruction's.
                || (instruction.Mnemonic == Mnemonic.Int && instruction.Immediate8 is 0x80 or 0x04)) found.Add(entry + (int)instruction.IP);
        }
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
