using Bunraku.Engines;
using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// RET goes where the stack says at that moment, whatever CALL has put there. Intel SDM vol. 1, "CALL and RET Instructions"; vol. 2, RET "Operation". Each test
/// goes its way several times, since an engine may remember where the first time led.
/// </summary>
[TinyCachesToo]
public sealed class ReturnTests
{
    private const int Rounds = 3;

    private const ulong StackTop = 0x3F_0000;

    /// <summary>Emits: a function that calls itself and counts its returns in EBX, so many times so deep; ESI counts the times down.</summary>
    private static void Recur(Assembler a, int times, int depth, Action atDeepest)
    {
        Label function = a.CreateLabel(), deepest = a.CreateLabel(), again = a.CreateLabel();
        a.mov(esp, (uint)StackTop);
        a.mov(esi, times);
        a.xor(ebx, ebx);
        a.Label(ref again);
        a.mov(ecx, depth);
        a.call(function);
        a.dec(esi);
        a.jne(again);
        a.hlt();
        a.Label(ref function);
        a.dec(ecx);
        a.je(deepest);
        a.call(function);
        a.add(ebx, 1);
        a.ret();
        a.Label(ref deepest);
        atDeepest();
        a.ret();
    }

    [Theory]
    [Engines(Mode.Long), Engines(Mode.Protected32)]
    public void A_recursion_deeper_than_any_predictor_comes_back_through_all_its_levels(string engine, Mode mode)
    {
        const int depth = 20_000; // an engine may keep 8192
        using var g = new Guest(mode);
        g.Code(a => Recur(a, Rounds, depth, () => { }));
        Outcome o = g.Run(engine).Done();
        Assert.Equal(((ulong)Rounds * (depth - 1), StackTop), (o.State.Gpr[3], o.State.Gpr[4]));
    }

    /// <summary>However deep calls have gone before, a vCPU that is to stop after some instructions does so: <see cref="IFollowingCpu.EnterUntil"/>.</summary>
    [Fact]
    public void Returns_from_a_deep_recursion_stop_where_they_are_told_to()
    {
        const int depth = 5000, rounds = 40;
        const ulong instructions = 100, longest = 1000;
        using var g = new Guest(Mode.Long);
        g.Code(a => Recur(a, rounds, depth, () =>
        {
            Label quiet = a.CreateLabel();
            a.cmp(esi, 1);
            a.jne(quiet);
            a.@out(Guest.ReportPort, al);
            a.Label(ref quiet);
        }));
        g.On(new TranslatorEngine(threshold: 1));
        Assert.Equal(ExitReason.Io, g.Cpu.Enter().Reason);
        ulong end = g.Cpu.Counters.InstructionsRetired + instructions;
        Assert.Equal(ExitReason.Kicked, ((IFollowingCpu)g.Cpu).EnterUntil(end).Reason);
        Assert.InRange(g.Cpu.Counters.InstructionsRetired, end, end + longest);
    }

    [Theory]
    [Engines(Mode.Long), Engines(Mode.Protected32)]
    public void A_return_address_that_was_changed_on_the_stack_is_where_RET_goes(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            bool wide = a.Bitness == 64;
            Label again = a.CreateLabel(), elsewhere = a.CreateLabel(), swap = a.CreateLabel(), both = a.CreateLabel(), inner = a.CreateLabel();
            Label outer = a.CreateLabel(), after = a.CreateLabel(), joined = a.CreateLabel();
            a.mov(esi, Rounds);
            a.Label(ref again);
            // The callee returns elsewhere.
            a.call(swap);
            a.hlt();
            a.Label(ref elsewhere);
            // The callee's callee returns to the caller: one level is left out, and the next call comes back as usual.
            a.call(outer);
            a.inc(ebx);
            a.call(both);
            // A jump by RET without a CALL.
            if (wide)
            {
                a.lea(rax, __[after]);
                a.push(rax);
            }
            else
            {
                a.call(joined);
                a.Label(ref joined);
                a.pop(eax);
                a.add(eax, 5); // POP, ADD and PUSH are 5 bytes, RET one more
                a.push(eax);
            }
            a.ret();
            a.Label(ref after);
            a.inc(ebx);
            a.dec(esi);
            a.jne(again);
            a.hlt();
            a.Label(ref swap);
            if (wide)
            {
                a.lea(rax, __[elsewhere]);
                a.mov(__[rsp], rax);
            }
            else
            {
                a.inc(__dword_ptr[esp]); // over the HLT
            }
            a.ret();
            a.Label(ref outer);
            a.call(inner);
            a.hlt();
            a.Label(ref inner);
            if (wide) a.add(rsp, 8);
            else a.add(esp, 4);
            a.ret();
            a.Label(ref both);
            a.inc(ebx);
            a.ret();
        });
        Assert.Equal(3ul * Rounds, g.Run(engine).Done().State.Gpr[3]);
    }

    [Theory, Engines]
    public void RET_in_another_mode_than_that_of_its_CALL_goes_on_in_that_mode(string engine)
    {
        const uint user = Layout.Spare;
        using var g = new Guest(Mode.Long);
        g.State.Cr4 |= 1 << 21; // SMAP
        g.Code(a =>
        {
            Label again = a.CreateLabel(), body = a.CreateLabel(), end = a.CreateLabel();
            Label none = a.CreateLabel(), set = a.CreateLabel(), clear = a.CreateLabel();
            a.xor(ebx, ebx);
            a.xor(esi, esi);
            a.lea(rdi, __[none]);
            a.Label(ref again);
            a.mov(ecx, 2 * Rounds);
            a.Label(ref body);
            a.call(rdi); // comes back with AC clear in the first loop, and with AC set in the second
            a.pushfq();
            a.bt(__dword_ptr[rsp], 18);
            a.adc(ebx, 0);
            a.pop(rax);
            a.call(clear);
            a.dec(ecx);
            a.jne(body);
            a.test(esi, esi);
            a.jne(end);
            a.inc(esi);
            a.lea(rdi, __[set]);
            a.jmp(again);
            a.Label(ref end);
            a.nop();
            g.Mark(a, "refused");
            a.add(ebx, __dword_ptr[(int)user]);
            a.hlt();
            a.Label(ref set);
            a.stac();
            a.ret();
            a.Label(ref clear);
            a.clac();
            a.Label(ref none);
            a.ret();
        });
        Assert.Equal(2ul * Rounds, g.Run(engine).Raised(X.PF, error: 1, g["refused"]).State.Gpr[3]);
    }

    [Theory, Engines]
    public void RET_to_an_address_that_is_not_canonical_faults_with_the_stack_as_it_was(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label again = a.CreateLabel(), function = a.CreateLabel();
            a.mov(esi, Rounds);
            a.mov(rdi, 0x8000_0000_0000ul);
            a.Label(ref again);
            a.xor(eax, eax);
            a.dec(esi);
            a.cmove(rax, rdi);
            a.call(function);
            a.jmp(again);
            a.Label(ref function);
            a.or(__[rsp], rax); // the last time: not canonical, with the lower bits of the right address
            g.Mark(a, "return");
            a.ret(16);
        });
        g.State.Gpr[4] = Layout.StackTop - 0x100;
        Outcome o = g.Run(engine).Raised(X.GP, 0, g["return"]);
        Assert.Equal(Layout.StackTop - 0x100ul + 16 * (Rounds - 1) - 8, o.Frame.Rsp);
    }

    [Theory, Engines]
    public void RET_leads_to_the_page_that_is_mapped_there_now(string engine)
    {
        const uint page = Layout.Spare, other = page + 0x1000;
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label again = a.CreateLabel(), function = a.CreateLabel();
            Label back = a.CreateLabel();
            a.mov(esi, 2 * Rounds);
            a.xor(ebx, ebx);
            a.lea(rdi, __[function]);
            a.Label(ref again);
            a.mov(eax, page);
            a.call(rax);
            a.dec(esi);
            a.jne(again);
            a.hlt();
            a.Label(ref function); // exchanges the pages in the second half
            a.cmp(esi, Rounds);
            a.ja(back);
            a.mov(rax, __qword_ptr[g.Tables.EntryAddress(page)]);
            a.xchg(__qword_ptr[g.Tables.EntryAddress(other)], rax);
            a.mov(__qword_ptr[g.Tables.EntryAddress(page)], rax);
            a.invlpg(__[(int)page]);
            a.invlpg(__[(int)other]);
            a.Label(ref back);
            a.ret();
        });
        foreach ((uint at, int value) in new[] { (page, 1), (other, 16) })
        {
            g.Place(at, 64, a =>
            {
                a.call(rdi);
                a.add(ebx, value);
                a.ret();
            }, page);
        }
        // Left in the first page where it was entered; later entered in the first and the second in turn, and left in the other one.
        Assert.Equal(Rounds * 1ul + 16 + 1 + 16, g.Run(engine).Done().State.Gpr[3]);
    }
}
