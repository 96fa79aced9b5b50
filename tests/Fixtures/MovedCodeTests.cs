using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using GuestRegister = Iced.Intel.Register;

namespace Bunraku.Fixtures;

/// <summary>
/// The same pages of code at many linear addresses, as a library is that each process has elsewhere. Whatever depends on RIP depends on the address at which
/// the code is executed: Intel SDM vol. 1, "RIP-Relative Addressing", vol. 2, "CALL", vol. 3A, "Aliasing of Code".
/// </summary>
[TinyCachesToo]
public sealed class MovedCodeTests
{
    private const int Aliases = 24;
    private const uint First = Layout.Spare, Second = First + 0x1000, Other = First + 0x4000;
    private const ulong Where = 0x7F12_3440_0000;
    /// <summary>In the page of data, by its distance from the instruction.</summary>
    private static MemoryOperand Counter => new(GuestRegister.RIP, GuestRegister.None, 1, (long)Where + 0x2010, 8, false, GuestRegister.None);

    /// <summary>Linear address of the code's first page at one of its places.</summary>
    private static ulong Alias(int n) => Where + (ulong)n * 0x4000;

    private static Guest WithAliases(int cpl = 0)
    {
        var g = new Guest(Mode.Long, cpl);
        for (int n = 0; n < Aliases; n++)
        {
            for (uint page = 0; page < 3; page++) g.Tables[Alias(n) + page * 0x1000] = First + page * 0x1000 | Pte.P | Pte.W | Pte.U;
        }
        return g;
    }

    /// <summary>A function of two pages whose result in RAX has every kind of address in it: <see cref="Result"/>.</summary>
    private static void PlaceFunction(Guest g)
    {
        g.Place(First, 64, a =>
        {
            Label near = a.CreateLabel(), loop = a.CreateLabel(), start = a.CreateLabel();
            a.Label(ref start);
            a.lea(rax, __[start]);
            a.AddInstruction(Instruction.Create(Iced.Intel.Code.Inc_rm32, Counter));
            a.AddInstruction(Instruction.Create(Iced.Intel.Code.Mov_r32_rm32, GuestRegister.ECX, Counter));
            a.add(rax, rcx);
            a.AddInstruction(Instruction.Create(Iced.Intel.Code.Push_rm64, Counter));
            a.pop(rcx);
            a.call(near);
            a.call(Where + 0x1100);
            g.Mark(a, "immediate");
            a.mov(edx, 3);
            a.Label(ref loop);
            a.add(rax, rdx);
            a.dec(edx);
            a.jne(loop);
            a.ret();
            g.Mark(a, "before near");
            a.nop();
            a.Label(ref near);
            a.lea(rdx, __[near]);
            a.xor(rax, rdx);
            a.ret();
        }, Where);
        g.Place(Second + 0x100, 64, a =>
        {
            Label next = a.CreateLabel();
            g.Mark(a, "call of next");
            a.call(next);
            a.Label(ref next);
            a.pop(rdx);
            a.add(rax, rdx);
            a.ret();
        }, Where + 0x1100);
    }

    private static ulong Result(Guest g, ulong alias, uint count, int steps = 3)
    {
        const ulong lengthOfNop = 1, lengthOfCall = 5;
        ulong by = alias - Where, result = alias + count;
        return (result ^ (g["before near"] + lengthOfNop + by)) + g["call of next"] + lengthOfCall + by + (ulong)(steps * (steps + 1) / 2);
    }

    /// <summary>Calls what is at an address, and RBP gets what it returned.</summary>
    private static void Call(Assembler a, ulong address)
    {
        a.mov(rdi, address);
        a.call(rdi);
        a.add(rbp, rax);
        a.rol(rbp, 7);
    }

    private static ulong Mix(ulong sum, ulong result) => ulong.RotateLeft(sum + result, 7);

    /// <summary>So the tests are of what they say.</summary>
    private static void AssertMoved(Guest g, string engine)
    {
        if (engine != TestedEngines.Translator) return;
        Assert.InRange(g.Cpu.Execution!.Counts.Single(c => c.Name == "moved to another address").Value, 20ul, ulong.MaxValue);
    }

    [Theory, Engines(0), Engines(3)]
    public void At_all_its_addresses_in_turns_code_sees_the_one_at_which_it_is_executed(string engine, int cpl)
    {
        using Guest g = WithAliases(cpl);
        PlaceFunction(g);
        var random = new Random(12);
        int[] order = [.. Enumerable.Range(0, 200).Select(_ => random.Next(Aliases))];
        const int rounds = 4;
        g.Code(a =>
        {
            Label again = a.CreateLabel();
            a.mov(r9d, rounds);
            a.Label(ref again);
            foreach (int n in order) Call(a, Alias(n));
            a.dec(r9d);
            a.jne(again);
            g.End(a);
        });
        ulong sum = 0;
        uint count = 0;
        for (int round = 0; round < rounds; round++)
        {
            foreach (int n in order) sum = Mix(sum, Result(g, Alias(n), ++count));
        }
        Assert.Equal(sum, g.Run(engine).Done().State.Gpr[5]);
        AssertMoved(g, engine);
    }

    [Theory, Engines]
    public void Returns_find_their_way_when_the_code_was_executed_elsewhere_meanwhile(string engine)
    {
        using Guest g = WithAliases();
        var random = new Random(13);
        const int depth = 60, rounds = 5;
        int[] order = [.. Enumerable.Range(0, depth).Select(_ => random.Next(Aliases))];
        for (int n = 0; n < depth; n++) g.Write(Layout.Data + (uint)n * 8, Alias(order[n]));
        g.Place(First, 64, a =>
        {
            Label start = a.CreateLabel();
            a.Label(ref start);
            a.lea(rax, __[start]);
            a.add(rbp, rax);
            a.call(rbx);
            a.lea(rax, __[start]);
            a.xor(rbp, rax);
            a.rol(rbp, 3);
            a.ret();
        }, Where);
        g.Code(a =>
        {
            Label again = a.CreateLabel(), back = a.CreateLabel(), end = a.CreateLabel();
            a.mov(r9d, rounds);
            a.Label(ref again);
            a.mov(r8d, depth);
            a.call(back);
            a.dec(r9d);
            a.jne(again);
            a.hlt();
            g.Mark(a, "back");
            a.nop();
            a.Label(ref back);
            a.test(r8d, r8d);
            a.je(end);
            a.dec(r8d);
            a.call(__qword_ptr[r8 * 8 + (int)Layout.Data]);
            a.Label(ref end);
            a.ret();
        });
        g.State.Gpr[3] = g["back"];
        ulong sum = 0;
        for (int round = 0; round < rounds; round++)
        {
            for (int n = depth - 1; n >= 0; n--) sum += Alias(order[n]);
            for (int n = 0; n < depth; n++) sum = ulong.RotateLeft(sum ^ Alias(order[n]), 3);
        }
        Assert.Equal(sum, g.Run(engine).Done().State.Gpr[5]);
        AssertMoved(g, engine);
    }

    [Theory, Engines]
    public void What_one_mapping_writes_all_execute(string engine)
    {
        using Guest g = WithAliases();
        PlaceFunction(g);
        var random = new Random(14);
        (int By, int At, int Steps)[] calls = [.. Enumerable.Range(0, 300).Select(_ => (random.Next(Aliases), random.Next(Aliases), random.Next(6)))];
        int last = 3;
        ulong sum = 0;
        uint count = 0;
        g.Code(a =>
        {
            for (int n = 0; n < calls.Length; n++)
            {
                // Most calls find the code as the one before has left it.
                if (calls[n].Steps > 0 && n % 3 == 0)
                {
                    last = calls[n].Steps;
                    a.mov(rsi, Alias(calls[n].By) + (g["immediate"] - Where) + 1);
                    a.mov(__byte_ptr[rsi], last);
                }
                Call(a, Alias(calls[n].At));
                sum = Mix(sum, Result(g, Alias(calls[n].At), ++count, last));
            }
            a.hlt();
        });
        Assert.Equal(sum, g.Run(engine).Done().State.Gpr[5]);
        AssertMoved(g, engine);
    }

    [Theory, Engines]
    public void Where_other_code_is_mapped_in_between_each_is_executed_as_mapped(string engine)
    {
        using Guest g = WithAliases();
        PlaceFunction(g);
        g.Place(Other, 64, a =>
        {
            Label start = a.CreateLabel();
            a.Label(ref start);
            a.lea(rax, __[start]);
            a.not(rax);
            a.ret();
        }, Where);
        var random = new Random(15);
        var isOther = new bool[Aliases];
        ulong sum = 0;
        uint count = 0;
        g.Code(a =>
        {
            for (int step = 0; step < 400; step++)
            {
                int n = random.Next(Aliases);
                if (step % 2 == 0)
                {
                    isOther[n] = !isOther[n];
                    a.mov(__qword_ptr[(int)g.Tables.EntryAddress(Alias(n))], (int)((isOther[n] ? Other : First) | Pte.P | Pte.W | Pte.U));
                    a.mov(rdi, Alias(n));
                    a.invlpg(__[rdi]);
                    if (step % 4 == 0) n = random.Next(Aliases);
                }
                Call(a, Alias(n));
                sum = Mix(sum, isOther[n] ? ~Alias(n) : Result(g, Alias(n), ++count));
            }
            a.hlt();
        });
        Assert.Equal(sum, g.Run(engine).Done().State.Gpr[5]);
        AssertMoved(g, engine);
    }

    [Theory, Engines]
    public void A_fault_in_code_that_has_moved_has_the_RIP_of_the_address_at_which_it_is_executed(string engine)
    {
        using Guest g = WithAliases();
        g.Place(First, 64, a =>
        {
            a.AddInstruction(Instruction.Create(Iced.Intel.Code.Lea_r64_m, GuestRegister.RAX, Counter));
            a.nop();
            g.Mark(a, "faults");
            a.mov(ecx, __dword_ptr[rdi]);
            a.ret();
        }, Where);
        var random = new Random(16);
        int[] order = [.. Enumerable.Range(0, 120).Select(_ => random.Next(Aliases))];
        ulong sum = 0;
        g.Code(a =>
        {
            foreach (int n in order)
            {
                a.mov(rbx, Alias(n));
                a.mov(rdi, Where - 0x1000); // nothing is there
                a.call(rbx);
                sum = Mix(Mix(sum, Alias(n) + g["faults"] - Where), Alias(n) + 0x2010);
            }
            a.hlt();
            g.Mark(a, "handler");
            a.add(rsp, 8);
            a.add(rbp, __qword_ptr[rsp]);
            a.rol(rbp, 7);
            a.add(rbp, rax);
            a.rol(rbp, 7);
            a.mov(rdi, (ulong)Layout.Data);
            a.iretq();
        });
        g.Handle(X.PF, "handler");
        Assert.Equal(sum, g.Run(engine).Done().State.Gpr[5]);
        AssertMoved(g, engine);
    }
}
