using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Code that an engine may execute as one piece though it has branches and calls in it: what happens in the middle happens to the instruction at which it
/// happens, and what comes later in the piece is what it is by then.
/// </summary>
[TinyCachesToo]
public sealed class TraceTests
{
    private const int Rounds = 5;
    private const uint Linear = 0x60_0000;
    private const ulong Cf = 1, Zf = 0x40;

    [Theory]
    [Engines(0), Engines(1), Engines(2), Engines(3)]
    public void A_fault_behind_branches_and_a_call_is_that_instructions(string engine, int kind)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label never = a.CreateLabel(), next = a.CreateLabel(), function = a.CreateLabel();
            a.mov(edi, Linear);
            a.mov(eax, 1);
            a.cmp(eax, 2);
            a.je(never);
            a.add(ebx, 5);
            a.push(rbx);
            a.jmp(next);
            a.Label(ref never);
            a.hlt();
            a.Label(ref next);
            a.cmp(ebx, 5);
            a.jne(never);
            a.call(function);
            a.cmp(edx, 1);
            a.jne(never);
            a.sub(esi, 1); // borrows
            g.Mark(a, "fault");
            if (kind == 0) a.mov(rcx, __[rdi]);
            else if (kind == 1) a.adc(__dword_ptr[rdi + 4], ecx);
            else if (kind == 2) a.movups(xmm0, __xmmword_ptr[rdi]);
            else a.mov(__[rdi + 8], r12);
            a.hlt();
            a.Label(ref function);
            a.inc(edx);
            a.ret();
        });
        Outcome o = g.Run(engine).Raised(X.PF, kind is 1 or 3 ? 2u : 0, g["fault"]);
        Assert.Equal((Cf, 5ul, 1ul, (ulong)uint.MaxValue), (o.Frame.Flags & (Cf | Zf), o.State.Gpr[3], o.State.Gpr[2], o.State.Gpr[6]));
        Assert.Equal(kind switch { 1 => Linear + 4u, 3 => Linear + 8u, _ => Linear }, o.State.Cr2);
    }

    [Theory, Engines]
    public void A_store_behind_a_branch_that_leaves_makes_no_page_dirty(string engine)
    {
        const ulong dirty = 0x40;
        using var g = new Guest(Mode.Long);
        g.Tables[Linear] = Layout.Spare | Pte.P | Pte.W;
        g.Tables[Linear + 0x1000] = Layout.Spare + 0x1000 | Pte.P;
        g.Write(Layout.Spare + 0x1000, 1);
        g.Code(a =>
        {
            Label again = a.CreateLabel(), zero = a.CreateLabel(), done = a.CreateLabel();
            a.mov(esi, Rounds);
            a.Label(ref again);
            a.mov(edi, Linear);
            a.mov(eax, __[rdi + 16]);
            a.test(eax, eax);
            a.je(zero);
            a.mov(__[rdi + 24], eax);
            a.Label(ref zero);
            a.add(ebx, 1);
            a.dec(esi);
            a.jne(again);
            // The other page may only be read, and the store behind the branch is executed: it faults, not the load.
            a.mov(edi, Linear + 0x1000);
            a.mov(eax, __[rdi]);
            a.test(eax, eax);
            a.je(done);
            g.Mark(a, "fault");
            a.mov(__dword_ptr[rdi + 8], ebx);
            a.Label(ref done);
            a.hlt();
        });
        g.State.Cr0 |= 1 << 16; // WP
        Outcome o = g.Run(engine).Raised(X.PF, 3, g["fault"]);
        Assert.Equal((0ul, (ulong)Rounds, 1ul), (g.Tables[Linear] & dirty, o.State.Gpr[3], o.State.Gpr[0]));
    }

    [Theory]
    [Engines(false), Engines(true)]
    public void Code_behind_a_branch_is_what_was_stored_in_front_of_it(string engine, bool inCallee)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label again = a.CreateLabel(), never = a.CreateLabel(), function = a.CreateLabel();
            a.mov(esi, Rounds);
            a.Label(ref again);
            if (inCallee) a.call(function);
            else a.mov(__[rdi], esi);
            a.cmp(esi, 0);
            a.je(never);
            a.nop();
            a.add(ebx, 1);
            a.jc(never);
            g.Mark(a, "patched");
            a.add(ebx, 0x1000);
            a.dec(esi);
            a.jne(again);
            a.Label(ref never);
            a.hlt();
            a.Label(ref function);
            a.mov(__[rdi], esi);
            a.ret();
        });
        g.State.Gpr[7] = g["patched"] + 2; // the immediate
        Assert.Equal((ulong)(Rounds + Rounds * (Rounds + 1) / 2), g.Run(engine).Done().State.Gpr[3]);
    }

    [Theory, Engines]
    public void A_call_comes_back_to_the_page_that_is_there_by_then(string engine)
    {
        const uint page = Layout.Spare, other = Layout.Spare + 0x1000;
        using var g = new Guest(Mode.Long);
        g.Tables[Linear] = page | Pte.P | Pte.W;
        g.Code(a =>
        {
            Label again = a.CreateLabel();
            a.mov(esi, Rounds);
            a.Label(ref again);
            a.mov(eax, Linear);
            a.call(rax);
            a.dec(esi);
            a.jne(again);
            a.hlt();
            // Exchanges both pages.
            g.Mark(a, "exchange");
            a.mov(edi, g.Tables.EntryAddress(Linear));
            a.xor(__qword_ptr[rdi], (int)(page ^ other));
            a.invlpg(__[(int)Linear]);
            a.ret();
        });
        foreach ((uint at, int step) in ((uint, int)[])[(page, 1), (other, 100)])
        {
            g.Place(at, 64, a =>
            {
                a.mov(ecx, (uint)g["exchange"]);
                a.add(ebx, 0);
                a.call(rcx);
                a.add(ebx, step);
                Label end = a.CreateLabel();
                a.jc(end);
                a.Label(ref end);
                a.ret();
            }, Linear);
        }
        // It calls from one page and comes back to the other.
        Assert.Equal((ulong)((Rounds + 1) / 2 * 100 + Rounds / 2), g.Run(engine).Done().State.Gpr[3]);
    }

    [Theory, Engines]
    public void A_loop_of_several_blocks_keeps_all_registers_on_every_way_out(string engine)
    {
        using var g = new Guest(Mode.Long);
        const int turns = 300;
        // What the loop reads: each seventh element makes it leave in the middle.
        ulong sum = 0, seen = 0;
        for (int n = 0; n < turns; n++)
        {
            ulong value = n % 7 == 3 ? 0ul : (ulong)n * 3 + 1;
            g.Write(Layout.Data + (uint)n * 8, value);
            sum += value != 0 ? value : 1000;
            if (value != 0 && (value & 1) == 0) seen += 2;
        }
        g.Code(a =>
        {
            Label again = a.CreateLabel(), odd = a.CreateLabel(), zero = a.CreateLabel(), end = a.CreateLabel();
            a.mov(r12d, Layout.Data);
            a.mov(r13d, turns);
            a.xor(r14d, r14d);
            a.xor(r15d, r15d);
            a.Label(ref again);
            a.mov(r11, __[r12]);
            a.test(r11, r11);
            a.je(zero);
            a.add(r14, r11);
            a.test(r11b, 1);
            a.jne(odd);
            a.add(r15, 2);
            a.Label(ref odd);
            a.add(r12, 8);
            a.dec(r13);
            a.je(end);
            a.jmp(again);
            a.Label(ref zero);
            a.add(r14, 1000);
            a.add(r12, 8);
            a.dec(r13);
            a.jne(again);
            a.Label(ref end);
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((sum, seen, 0ul, (ulong)Layout.Data + 8 * turns), (o.State.Gpr[14], o.State.Gpr[15], o.State.Gpr[13], o.State.Gpr[12]));
    }

    [Theory]
    [Engines("recursion"), Engines("calls"), Engines("returns"), Engines("blocks"), Engines("indirect")]
    public void A_kick_ends_whatever_has_no_end(string engine, string what)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel(), function = a.CreateLabel(), leaf = a.CreateLabel(), on = a.CreateLabel();
            a.Label(ref loop);
            switch (what)
            {
                case "recursion": // twice as long for each level, and nothing jumps back
                    a.mov(ecx, 200);
                    a.mov(esp, Layout.StackTop);
                    a.call(function);
                    a.hlt();
                    a.Label(ref function);
                    a.dec(ecx);
                    a.je(leaf);
                    a.call(function);
                    a.call(function);
                    a.Label(ref leaf);
                    a.inc(ecx);
                    a.ret();
                    break;
                case "calls":
                    a.mov(esp, Layout.StackTop);
                    a.call(loop);
                    break;
                case "returns":
                    a.lea(rax, __[loop]);
                    a.push(rax);
                    a.ret();
                    break;
                case "blocks":
                    a.inc(ebx);
                    a.cmp(ebx, -1);
                    a.je(on);
                    a.dec(ebx);
                    a.jmp(leaf);
                    a.Label(ref on);
                    a.hlt();
                    a.Label(ref leaf);
                    a.inc(edx);
                    a.jmp(loop);
                    break;
                default:
                    a.lea(rax, __[loop]);
                    a.cmp(ebx, -1);
                    a.je(on);
                    a.jmp(rax);
                    a.Label(ref on);
                    a.hlt();
                    break;
            }
        });
        g.OnExit = exit => exit.Reason == ExitReason.Kicked;
        g.On(engine);
        for (int n = 0; n < 3; n++)
        {
            using var kick = new Timer(_ => g.Cpu.Kick(), null, 30, Timeout.Infinite);
            Assert.Equal(ExitReason.Kicked, g.Run(engine).Reason);
        }
    }
}
