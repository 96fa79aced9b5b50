using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which code may run on the host's processor as it is: byte sequences that would show the host's own state, and are no privileged instructions, are looked
/// for at any offset, since a jump can lead there.
/// </summary>
/// <remarks>
/// What traps in a helper needs no look: RDTSC and RDTSCP (PR_SET_TSC), SYSCALL, most INT n, whatever needs level 0, and what else <see cref="DirectProbe"/>
/// has found to trap.
/// </remarks>
internal static class NativeCode
{
    private const byte Escape = 0x0F, Interrupt = 0xCD, RepeatPrefix = 0xF3;

    /// <summary>Bytes of the longest sequence.</summary>
    private const int Longest = 3;

    /// <summary>The sensitive instruction whose opcode begins here.</summary>
    /// <param name="b">At least three bytes, those behind the end of the code being zero.</param>
    private static SensitiveInstructions At(ReadOnlySpan<byte> b)
    {
        byte modRm = b[2];
        int register = modRm >> 3 & 7;
        bool isMemory = modRm < 0xC0;
        return b[1] switch
        {
            0xA2 => SensitiveInstructions.Cpuid,
            0x33 => SensitiveInstructions.Rdpmc,
            0x34 => SensitiveInstructions.Sysenter,
            0x01 => modRm switch
            {
                0xC1 or 0xD9 => SensitiveInstructions.Hypercall,
                0xD0 => SensitiveInstructions.Xgetbv,
                0xEE or 0xEF => SensitiveInstructions.ProtectionKeys,
                0xFA or 0xFB => SensitiveInstructions.Monitorx,
                0xFD => SensitiveInstructions.Rdpru,
                _ => SensitiveInstructions.None,
            },
            0xAE when isMemory => register switch
            {
                0 => SensitiveInstructions.Fxsave,
                4 or 5 or 6 => SensitiveInstructions.Xsave,
                _ => SensitiveInstructions.None,
            },
            // With F3; else the register form is RDSEED.
            0xC7 => isMemory ? register is 4 ? SensitiveInstructions.Xsave : SensitiveInstructions.None
                : register is 7 ? SensitiveInstructions.Rdpid : SensitiveInstructions.None,
            _ => SensitiveInstructions.None,
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
    /// <param name="sensitive">What is looked for.</param>
    /// <param name="found">Offsets in the page are added; negative ones are before it.</param>
    public static void FindSensitive(ReadOnlySpan<byte> code, SensitiveInstructions sensitive, HashSet<int> found)
    {
        int from = 0, last = code.Length - Longest, behind = code.Length - Margin;
        while (from <= last && code[from..(last + 1)].IndexOf(Escape) is var next and >= 0)
        {
            int at = from + next;
            from = at + 1;
            SensitiveInstructions kind = At(code[at..]) & sensitive;
            if (at + Longest <= Margin || kind == SensitiveInstructions.None) continue;
            bool isWhole = kind != SensitiveInstructions.Rdpid;
            // Each prefix before it may be where the instruction begins.
            for (int start = at; ; start--)
            {
                if (isWhole && start < behind) found.Add(start - Margin);
                if (start == 0 || start == at - MostPrefixes || !IsPrefix(code[start - 1])) break;
                isWhole |= code[start - 1] == RepeatPrefix;
            }
        }
    }

    /// <summary>Legacy prefixes and REX: Intel SDM vol. 2A, "Instruction Prefixes".</summary>
    private static bool IsPrefix(byte b) => b is 0x66 or 0x67 or 0xF0 or 0xF2 or 0xF3 or 0x2E or 0x36 or 0x3E or 0x26 or 0x64 or 0x65 or (>= 0x40 and <= 0x4F);

    /// <summary>
    /// Of the instructions as they follow each other, those that would show the host and are too short to be looked for wherever their bytes stand: every
    /// fifth page has such bytes by chance, in the middle of others. What a jump into the middle of an instruction could show is a leak that docs/direct.md
    /// names.
    /// </summary>
    /// <param name="code">The page, what is known of the bytes before it, and bytes behind it.</param>
    /// <param name="before">Where the page begins.</param>
    /// <param name="entry">Offset in the page; negative: nobody knows yet where it will be entered.</param>
    /// <param name="found">Offsets in the page are added.</param>
    public static void FindShort(ReadOnlySpan<byte> code, int before, int entry, HashSet<int> found)
    {
        int from = before, behind = before + (int)GuestMemory.PageSize, end = code.Length - 1;
        if (entry >= 0) entry += before;
        while (from < end && code[from..end].IndexOfAny(Escape, Interrupt) is var next and >= 0)
        {
            int at = from + next;
            from = at + 1;
            if (code[at] == Escape ? code[at + 1] > 3 : code[at + 1] is not (0x80 or 0x04)) continue;
            // From the entry as the processor would; else from a little before, where decoders fall into step whatever byte they begin with.
            if (entry >= 0 && entry <= at && at - entry < NearEntry) Decode(entry, code);
            else
            {
                Decode(Math.Max(at - RunUp, 0), code);
                Decode(Math.Max(at - RunUp + 1, 0), code);
            }

            // Up to the opcode; the instruction that has it is added if it is one of those.
            void Decode(int first, ReadOnlySpan<byte> code)
            {
                var decoder = Decoder.Create(64, new ByteArrayCodeReader(code[first..Math.Min(at + LongestInstruction, code.Length)].ToArray()));
                while (first + (int)decoder.IP <= at)
                {
                    int start = first + (int)decoder.IP;
                    decoder.Decode(out Instruction instruction);
                    if (first + (int)decoder.IP > at && start >= before && start < behind && IsShort(instruction)) found.Add(start - before);
                }
            }
        }
    }

    private const int NearEntry = 512;
    /// <summary>Bytes.</summary>
    public const int LongestInstruction = 15;

    /// <summary>Bytes from which on decoders have fallen into step.</summary>
    public const int RunUp = 96;

    private static bool IsShort(in Instruction instruction) => instruction.Mnemonic is Mnemonic.Lar or Mnemonic.Lsl or Mnemonic.Verr or Mnemonic.Verw
        or Mnemonic.Sgdt or Mnemonic.Sidt or Mnemonic.Sldt or Mnemonic.Str or Mnemonic.Smsw
        // INT 80h loses the upper half of RAX in Linux, and INT 4 comes back as a fault that may also be another instruction's.
        || (instruction.Mnemonic == Mnemonic.Int && instruction.Immediate8 is 0x80 or 0x04);
}
