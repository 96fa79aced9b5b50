using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// A fault sees the flags of the last instruction that set them, whatever an engine has done with flags that nobody reads before they are set anew, and
/// wherever that instruction's operands have gone since. Intel SDM vol. 1, "EFLAGS Register"; vol. 3A, "Exception and Interrupt Reference".
/// </summary>
[TinyCachesToo]
public sealed class FlagsAtFaultsTests
{
    private const uint Linear = 0x60_0000;
    private const uint Cf = 1, Pf = 4, Af = 0x10, Zf = 0x40, Sf = 0x80, Of = 0x800, All = Cf | Pf | Af | Zf | Sf | Of;

    public static readonly string[] Producers =
    [
        "cmp", "cmp imm", "cmp m", "cmp r15", "test", "test imm", "test self", "and", "or", "xor", "xor self",
        "add", "add imm", "add self", "add m", "add r15", "sub", "sub imm", "sub self", "neg", "inc", "shl",
    ];

    private static readonly (ulong First, ulong Second)[] s_values =
    [
        (5, 5), (0x8000_0000_8000_8080, 1), (0x7FFF_FFFF_7FFF_7F7F, 0xFFFF_FFFF_FFFF_FFFF), (0x10, 0x8000_0000_8000_8080), (0, 3), (0xFFFF_FFFF_FFFF_FFFF, 1),
    ];

    private const int Immediate = -128;

    /// <summary>In this order: what sets flags, two loads behind which its operands are gone, one that faults, and what sets flags anew.</summary>
    private static void Emit(Guest g, Assembler a, string what, int size, bool early)
    {
        Set(a, what, size);
        // Registers may change before anything is accessed, too.
        if (early) a.mov(rax, rsi);
        a.mov(r8, __[rsi]);
        a.mov(rax, __[rsi + r8]);
        a.mov(rdx, __[rsi + r8 + 8]);
        a.mov(r15, __[rsi + r8 + 16]);
        g.Mark(a, "fault");
        a.mov(rbx, __[rdi]);
        a.add(rbx, 1);
        a.hlt();
    }

    private static void Set(Assembler a, string what, int size)
    {
        AssemblerMemoryOperand m = __[rbp];
        switch (what, size)
        {
            case ("cmp", 1): a.cmp(al, dl); break;
            case ("cmp", 2): a.cmp(ax, dx); break;
            case ("cmp", 4): a.cmp(eax, edx); break;
            case ("cmp", _): a.cmp(rax, rdx); break;
            case ("cmp imm", 1): a.cmp(al, Immediate); break;
            case ("cmp imm", 2): a.cmp(ax, Immediate); break;
            case ("cmp imm", 4): a.cmp(eax, Immediate); break;
            case ("cmp imm", _): a.cmp(rax, Immediate); break;
            case ("cmp m", _): a.cmp(rax, m); break;
            case ("cmp r15", 1): a.cmp(al, r15b); break;
            case ("cmp r15", 2): a.cmp(ax, r15w); break;
            case ("cmp r15", 4): a.cmp(eax, r15d); break;
            case ("cmp r15", _): a.cmp(rax, r15); break;
            case ("test", 1): a.test(al, dl); break;
            case ("test", 2): a.test(ax, dx); break;
            case ("test", 4): a.test(eax, edx); break;
            case ("test", _): a.test(rax, rdx); break;
            case ("test imm", 1): a.test(al, Immediate); break;
            case ("test imm", 2): a.test(ax, Immediate); break;
            case ("test imm", 4): a.test(eax, Immediate); break;
            case ("test imm", _): a.test(rax, Immediate); break;
            case ("test self", 1): a.test(al, al); break;
            case ("test self", 2): a.test(ax, ax); break;
            case ("test self", 4): a.test(eax, eax); break;
            case ("test self", _): a.test(rax, rax); break;
            case ("and", 1): a.and(al, dl); break;
            case ("and", 2): a.and(ax, dx); break;
            case ("and", 4): a.and(eax, edx); break;
            case ("and", _): a.and(rax, rdx); break;
            case ("or", 4): a.or(eax, edx); break;
            case ("or", _): a.or(rax, rdx); break;
            case ("xor", 4): a.xor(eax, edx); break;
            case ("xor", _): a.xor(rax, rdx); break;
            case ("xor self", _): a.xor(eax, eax); break;
            case ("add", 1): a.add(al, dl); break;
            case ("add", 2): a.add(ax, dx); break;
            case ("add", 4): a.add(eax, edx); break;
            case ("add", _): a.add(rax, rdx); break;
            case ("add imm", 1): a.add(al, Immediate); break;
            case ("add imm", 2): a.add(ax, Immediate); break;
            case ("add imm", 4): a.add(eax, Immediate); break;
            case ("add imm", _): a.add(rax, Immediate); break;
            case ("add self", _): a.add(rax, rax); break;
            case ("add m", _): a.add(rax, m); break;
            case ("add r15", 4): a.add(eax, r15d); break;
            case ("add r15", _): a.add(rax, r15); break;
            case ("sub", 1): a.sub(al, dl); break;
            case ("sub", 2): a.sub(ax, dx); break;
            case ("sub", 4): a.sub(eax, edx); break;
            case ("sub", _): a.sub(rax, rdx); break;
            case ("sub imm", 1): a.sub(al, Immediate); break;
            case ("sub imm", 2): a.sub(ax, Immediate); break;
            case ("sub imm", 4): a.sub(eax, Immediate); break;
            case ("sub imm", _): a.sub(rax, Immediate); break;
            case ("sub self", _): a.sub(eax, eax); break;
            case ("neg", 1): a.neg(al); break;
            case ("neg", 2): a.neg(ax); break;
            case ("neg", 4): a.neg(eax); break;
            case ("neg", _): a.neg(rax); break;
            case ("inc", _): a.inc(rax); break;
            case ("shl", _): a.shl(rax, 1); break;
        }
    }

    /// <summary>The flags by the definition of each instruction.</summary>
    private static uint Expected(string what, int size, ulong first, ulong second, uint before)
    {
        string name = what.Split(' ')[0];
        if (what.EndsWith("imm", StringComparison.Ordinal)) second = unchecked((ulong)(long)Immediate);
        if (what.EndsWith("self", StringComparison.Ordinal)) second = first;
        if (name is "xor" && second == first || what is "sub self") size = 4;
        if (what is "cmp m" or "add m" or "add self" or "inc" or "shl" || (name is "or" or "xor" && size < 4) || (what is "add r15" && size < 4)) size = 8;
        if (name == "neg") (first, second) = (0, first);
        if (name == "inc") second = 1;
        if (name == "shl") second = first;
        int bits = 8 * size;
        UInt128 mask = ((UInt128)1 << bits) - 1, x = first & mask, y = second & mask, wide = name switch
        {
            "add" or "inc" or "shl" => x + y,
            "cmp" or "sub" or "neg" => x - y,
            "test" or "and" => x & y,
            "or" => x | y,
            _ => x ^ y,
        };
        UInt128 result = wide & mask, sign = (UInt128)1 << (bits - 1);
        bool adds = name is "add" or "inc" or "shl", subtracts = name is "cmp" or "sub" or "neg";
        uint flags = 0;
        if (adds || subtracts)
        {
            if ((wide >> bits & 1) != 0) flags |= Cf;
            if (((x ^ y ^ result) & 0x10) != 0) flags |= Af;
            if (((adds ? ~(x ^ y) : x ^ y) & (x ^ result) & sign) != 0) flags |= Of;
        }
        if (name == "inc") flags = flags & ~Cf | before & Cf;
        if (result == 0) flags |= Zf;
        if ((result & sign) != 0) flags |= Sf;
        if ((System.Numerics.BitOperations.PopCount((uint)(byte)result) & 1) == 0) flags |= Pf;
        return flags;
    }

    [Theory]
    [Engines(1, false), Engines(2, false), Engines(4, false), Engines(8, false), Engines(1, true), Engines(2, true), Engines(4, true), Engines(8, true)]
    public void A_load_that_faults_sees_the_flags_of_the_instruction_that_set_them(string engine, int size, bool early)
    {
        foreach (string what in Producers)
        {
            foreach ((ulong first, ulong second) in s_values)
            {
                using var g = new Guest(Mode.Long);
                g.Write(Layout.Data + 64, second);
                g.Code(a => Emit(g, a, what, size, early));
                (g.State.Gpr[0], g.State.Gpr[2], g.State.Gpr[15]) = (first, second, second);
                (g.State.Gpr[5], g.State.Gpr[6], g.State.Gpr[7]) = (Layout.Data + 64, Layout.Data, Linear);
                g.State.Rflags |= Cf;
                Outcome o = g.Run(engine).Raised(X.PF, 0, g["fault"]);
                // What SHL leaves in AF is not defined.
                uint compared = what == "shl" ? All & ~Af : All;
                Assert.Equal((what, first, Expected(what, size, first, second, Cf) & compared), (what, first, (uint)o.Frame.Flags & compared));
            }
        }
    }

    [Theory]
    [Engines(false), Engines(true)]
    public void A_loop_whose_load_faults_in_the_end_has_the_flags_of_its_last_turn(string engine, bool conditional)
    {
        const int turns = 40;
        using var g = new Guest(Mode.Long);
        for (int n = 0; n < 16; n++) g.Tables[Linear - 0x1_0000 + (uint)n * 0x1000] = Layout.Spare + (uint)(n & 3) * 0x1000 | Pte.P | Pte.W;
        g.Code(a =>
        {
            Label again = a.CreateLabel(), end = a.CreateLabel();
            a.Label(ref again);
            a.mov(rdx, __[rsi]);
            a.cmp(rdx, 7);
            if (conditional) a.je(end);
            a.mov(rdx, __[rsi + 8]);
            a.mov(rcx, __[rsi + 16]);
            g.Mark(a, "fault");
            a.mov(r12, __[rsi + rbx]);
            a.sub(r13, r12);
            a.lea(rsi, __[rsi + rbp]);
            a.cmp(rsi, rdi);
            a.jne(again);
            a.Label(ref end);
            a.hlt();
        });
        g.State.Gpr[5] = 0x1_0000 / turns & ~7ul;
        g.State.Gpr[6] = Linear - g.State.Gpr[5] * turns;
        (g.State.Gpr[3], g.State.Gpr[7]) = (g.State.Gpr[5], Linear + 0x1000); // the last turn's last load is beyond
        Outcome o = g.Run(engine).Raised(X.PF, 0, g["fault"]);
        Assert.Equal(Expected("cmp", 8, 0, 7, 0), (uint)o.Frame.Flags & All);
    }
}
