using System.Globalization;
using System.Text;
using Bunraku.Hypervisor;
using Iced.Intel;

namespace Bunraku.Sessions;

/// <summary>
/// Writes a vCPU's state for people, in lines for 80 characters: registers, segments, control registers, the code around RIP. The vCPU must stand still.
/// </summary>
public static class StateReport
{
    private const ulong EferLma = 1 << 10;

    /// <summary>General registers, RIP, RFLAGS, segments, descriptor tables, control and debug registers.</summary>
    public static string Registers(CpuState s)
    {
        var text = new StringBuilder();
        string[] names = ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"];
        for (int n = 0; n < 16; n++) Append(text, $"{names[n]}={s.Gpr[n]:x16}{(n % 3 == 2 || n == 15 ? "\n" : " ")}");
        Append(text, $"RIP={s.Rip:x16} RFLAGS={s.Rflags:x8} [{Flags(s.Rflags)}]");
        string halted = s.Activity == CpuActivity.Halted ? " HLT" : "";
        Append(text, $" CPL={(s.Ss.Attributes >> 5) & 3}{halted}{(s.InterruptShadow ? " shadow" : "")}{(s.NmiBlocked ? " NMI blocked" : "")}\n");
        (string, SegmentState)[] segments = [("ES", s.Es), ("CS", s.Cs), ("SS", s.Ss), ("DS", s.Ds), ("FS", s.Fs), ("GS", s.Gs), ("LDT", s.Ldtr), ("TR", s.Tr)];
        foreach ((string name, SegmentState segment) in segments)
            Append(text,
                $"{name,-4}={segment.Selector:x4} base {segment.Base:x16} limit {segment.Limit:x8} attr {segment.Attributes:x5} {Describe(segment)}\n");
        Append(text, $"GDT  base {s.GdtrBase:x16} limit {s.GdtrLimit:x4}\nIDT  base {s.IdtrBase:x16} limit {s.IdtrLimit:x4}\n");
        Append(text, $"CR0={s.Cr0:x8} CR2={s.Cr2:x16} CR3={s.Cr3:x16} CR4={s.Cr4:x8}\nCR8={s.Cr8:x} EFER={s.Efer:x4} XCR0={s.Xcr0:x}\n");
        Append(text, $"DR0={s.Dr[0]:x16} DR1={s.Dr[1]:x16} DR2={s.Dr[2]:x16}\nDR3={s.Dr[3]:x16} DR6={s.Dr6:x8} DR7={s.Dr7:x8}\n");
        return text.ToString();
    }

    /// <summary>A few instructions before and after RIP, the current one marked.</summary>
    public static string Disassembly(GuestMemory memory, CpuState s)
    {
        const int before = 48, after = 48;
        bool wide = (s.Efer & EferLma) != 0 && (s.Cs.Attributes & 0x2000) != 0;
        int bitness = wide ? 64 : (s.Cs.Attributes & 0x4000) != 0 ? 32 : 16;
        ulong codeBase = wide ? 0 : s.Cs.Base;
        Span<byte> code = stackalloc byte[after];
        int length = LinearMemory.Read(memory, s, codeBase + s.Rip, code);
        if (length == 0) return $"  no memory is mapped at RIP (linear {codeBase + s.Rip:x})\n";

        // x86 code cannot be decoded backwards: take the longest run up that ends exactly at RIP.
        Span<byte> earlier = stackalloc byte[before];
        int start = 0;
        for (int back = before; back > 0 && start == 0; back--)
        {
            if (s.Rip < (ulong)back || LinearMemory.Read(memory, s, codeBase + s.Rip - (ulong)back, earlier[..back]) != back) continue;
            if (EndsAt(earlier[..back].ToArray(), bitness, s.Rip)) start = back;
        }
        byte[] all = [.. earlier[..start], .. code[..length]];
        var decoder = Iced.Intel.Decoder.Create(bitness, all, s.Rip - (ulong)start);
        var formatter = new NasmFormatter { Options = { DigitSeparator = "", FirstOperandCharIndex = 8 } };
        var output = new StringOutput();
        var lines = new List<(ulong Address, string Line)>();
        while (decoder.IP < s.Rip + (ulong)length)
        {
            int at = (int)(decoder.IP - (s.Rip - (ulong)start));
            Instruction instruction = decoder.Decode();
            if (instruction.IsInvalid && decoder.LastError == DecoderError.NoMoreBytes) break;
            formatter.Format(instruction, output);
            string bytes = Convert.ToHexStringLower(all.AsSpan(at, instruction.Length));
            lines.Add((instruction.IP, $"{(instruction.IP == s.Rip ? "=>" : "  ")} {instruction.IP:x16}  {bytes,-22} {output.ToStringAndReset()}"));
        }
        int current = lines.FindIndex(l => l.Address == s.Rip);
        int first = Math.Max(0, current - 6), last = Math.Min(lines.Count, current + 7);
        return string.Concat(lines[first..last].Select(l => l.Line + "\n"));
    }

    private static bool EndsAt(byte[] code, int bitness, ulong end)
    {
        var decoder = Iced.Intel.Decoder.Create(bitness, code, end - (ulong)code.Length);
        while (decoder.IP < end)
        {
            if (decoder.Decode().IsInvalid) return false;
        }
        return decoder.IP == end;
    }

    private static string Flags(ulong rflags)
    {
        (int, string)[] names = [(11, "O"), (10, "D"), (9, "I"), (8, "T"), (7, "S"), (6, "Z"), (4, "A"), (2, "P"), (0, "C")];
        return string.Concat(names.Select(n => (rflags >> n.Item1 & 1) != 0 ? n.Item2 : "-"));
    }

    private static string Describe(SegmentState s)
    {
        if ((s.Attributes & 0x1_0000) != 0) return "unusable";
        uint type = s.Attributes & 0xF;
        string kind = (s.Attributes & 0x10) == 0 ? "system" : (type & 8) != 0 ? (s.Attributes & 0x2000) != 0 ? "code64" : (s.Attributes & 0x4000) != 0
            ? "code32" : "code16" : "data";
        return $"{kind} type {type:x} dpl {(s.Attributes >> 5) & 3}{((s.Attributes & 0x80) != 0 ? "" : " not present")}";
    }

    private static void Append(StringBuilder text, FormattableString value) => text.Append(value.ToString(CultureInfo.InvariantCulture));
}
