using Bunraku.Processor.X86;
using Iced.Intel;

namespace Bunraku.Processor.Tests;

/// <summary>Which places of a page of code must not run directly, compared with what a decoder reads there.</summary>
public sealed class NativeCodeTests
{
    private const int PageSize = 4096, Margin = NativeCode.Margin;

    /// <summary>Bytes that sensitive instructions are made of, so that random code has many: prefixes, opcodes, ModRM bytes.</summary>
    private static readonly byte[] s_bytes =
    [
        0x0F, 0x0F, 0x0F, 0x0F, 0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65, 0x40, 0x48, 0x4F, 0xA2, 0x33, 0x34, 0x01, 0xAE, 0xC7, 0xC1,
        0xD9, 0xD0, 0xEE, 0xEF, 0xFA, 0xFB, 0xFD, 0x20, 0x28, 0x30, 0x64, 0x6C, 0x74, 0xA0, 0xF8, 0xFF, 0x00, 0x04, 0x45, 0xC0, 0x90,
    ];

    private static SensitiveInstructions KindOf(Mnemonic mnemonic) => mnemonic switch
    {
        Mnemonic.Cpuid => SensitiveInstructions.Cpuid,
        Mnemonic.Rdpmc => SensitiveInstructions.Rdpmc,
        Mnemonic.Sysenter => SensitiveInstructions.Sysenter,
        Mnemonic.Rdpid => SensitiveInstructions.Rdpid,
        Mnemonic.Xgetbv => SensitiveInstructions.Xgetbv,
        Mnemonic.Xsave or Mnemonic.Xsave64 or Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64 or Mnemonic.Xsavec or Mnemonic.Xsavec64 or Mnemonic.Xrstor
            or Mnemonic.Xrstor64 => SensitiveInstructions.Xsave,
        Mnemonic.Rdpkru or Mnemonic.Wrpkru => SensitiveInstructions.ProtectionKeys,
        Mnemonic.Monitorx or Mnemonic.Mwaitx => SensitiveInstructions.Monitorx,
        Mnemonic.Rdpru => SensitiveInstructions.Rdpru,
        Mnemonic.Vmcall or Mnemonic.Vmmcall => SensitiveInstructions.Hypercall,
        Mnemonic.Fxsave or Mnemonic.Fxsave64 => SensitiveInstructions.Fxsave,
        _ => SensitiveInstructions.None,
    };

    /// <summary>Wherever a decoder finds a sensitive instruction that lies in a page, if only in part, its first byte is found.</summary>
    [Fact]
    public void No_sensitive_instruction_is_missed_wherever_it_begins()
    {
        var random = new Random(20261129);
        var kinds = SensitiveInstructions.None;
        for (int n = 0; n < 40; n++)
        {
            byte[] code = new byte[PageSize + 2 * Margin];
            for (int i = 0; i < code.Length; i++) code[i] = s_bytes[random.Next(s_bytes.Length)];
            if (n % 4 == 1) code.AsSpan(0, Margin).Clear();
            if (n % 4 == 2) code.AsSpan(code.Length - Margin).Clear();
            var found = new HashSet<int>();
            NativeCode.FindSensitive(code, SensitiveInstructions.All, found);
            for (int start = 0; start < Margin + PageSize; start++)
            {
                Instruction instruction = At(code, start);
                SensitiveInstructions kind = KindOf(instruction.Mnemonic);
                if (kind == SensitiveInstructions.None || start + instruction.Length <= Margin) continue;
                kinds |= kind;
                Assert.True(found.Contains(start - Margin), $"{instruction} at {start - Margin} of page {n} is missed");
            }
        }
        Assert.Equal(SensitiveInstructions.All, kinds);
    }

    private static Instruction At(byte[] code, int start)
    {
        Decoder.Create(64, new ByteArrayCodeReader(code, start, Math.Min(15, code.Length - start))).Decode(out Instruction instruction);
        return instruction;
    }

    /// <summary>What is harmless on a host is not looked for.</summary>
    [Fact]
    public void Only_what_is_asked_for_is_found()
    {
        byte[] code = new byte[PageSize + 2 * Margin];
        ((ReadOnlySpan<byte>)[0x0F, 0xA2, 0x90, 0x0F, 0x01, 0xD0, 0x90, 0x0F, 0xC7, 0xF8, 0xF3, 0x0F, 0xC7, 0xF8]).CopyTo(code.AsSpan(Margin + 100));
        Assert.Equal([100], Find(SensitiveInstructions.Cpuid));
        Assert.Equal([103], Find(SensitiveInstructions.Xgetbv));
        Assert.Equal([110], Find(SensitiveInstructions.Rdpid)); // without F3 it is RDSEED
        Assert.Empty(Find(SensitiveInstructions.None));

        HashSet<int> Find(SensitiveInstructions kinds)
        {
            var found = new HashSet<int>();
            NativeCode.FindSensitive(code, kinds, found);
            return found;
        }
    }

    /// <summary>Instructions that are too short to be looked for everywhere are found where code runs through them, and not in the middle of others.</summary>
    [Theory]
    [InlineData(new byte[] { 0x0F, 0x01, 0xE0 }, true)] // smsw eax
    [InlineData(new byte[] { 0x48, 0x0F, 0x00, 0xC8 }, true)] // str rax
    [InlineData(new byte[] { 0x0F, 0x02, 0xC1 }, true)] // lar eax, ecx
    [InlineData(new byte[] { 0x0F, 0x00, 0xE0 }, true)] // verr ax
    [InlineData(new byte[] { 0xCD, 0x80 }, true)]
    [InlineData(new byte[] { 0xB8, 0x0F, 0x01, 0xE0, 0x00 }, false)] // mov eax, imm32
    [InlineData(new byte[] { 0xBE, 0x0F, 0x00, 0x00, 0x00 }, false)] // mov esi, 15
    public void Short_instructions_are_found_where_code_runs_through_them(byte[] instruction, bool found)
    {
        foreach (int at in (int[])[0, 5, 700, PageSize - 16])
        {
            byte[] page = new byte[PageSize];
            page.AsSpan().Fill(0x90);
            instruction.CopyTo(page.AsSpan(at));
            foreach (int entry in (int[])[-1, 0])
            {
                var places = new HashSet<int>();
                NativeCode.FindShort(page, 0, entry, places);
                Assert.Equal(found ? [at] : [], places);
            }
        }
        // It begins in the page and ends in the next one.
        byte[] across = new byte[PageSize + NativeCode.LongestInstruction];
        across.AsSpan().Fill(0x90);
        instruction.CopyTo(across.AsSpan(PageSize - 1));
        var last = new HashSet<int>();
        NativeCode.FindShort(across, 0, -1, last);
        Assert.Equal(found ? [PageSize - 1] : [], last);
        // The tail of an instruction of the page before.
        byte[] seam = new byte[NativeCode.RunUp + PageSize];
        seam.AsSpan().Fill(0x90);
        instruction.CopyTo(seam.AsSpan(NativeCode.RunUp - 1));
        var behind = new HashSet<int>();
        NativeCode.FindShort(seam, NativeCode.RunUp, -1, behind);
        Assert.Empty(behind);
    }
}
