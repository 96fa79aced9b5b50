using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3B, "Debug Registers", "Debug Exceptions": breakpoints, single step, RF, MOV SS; vol. 3A, "Masking Exceptions and Interrupts When Switching
/// Stacks".
/// </summary>
[TinyCachesToo]
public sealed class DebugTests
{
    private const ulong Tf = 0x100, Rf = 0x1_0000, Bs = 0x4000, Bd = 0x2000;

    private static ulong Dr7(int n, int type, int length) => 0x400 | 1ul << (2 * n) | (ulong)(type | length << 2) << (16 + 4 * n);

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void TF_traps_after_each_instruction_with_BS(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.State.Rflags |= Tf;
        g.Code(a =>
        {
            a.nop();
            g.Mark(a, "next");
            a.nop();
        });
        Outcome o = g.Run(engine).Raised(X.DB, null, g["next"]);
        Assert.Equal(Bs, o.State.Dr6 & 0xE00F);
        Assert.Equal((Tf, 0ul), (o.Frame.Flags & (Tf | Rf), o.State.Rflags & Tf));
    }

    [Theory, Engines]
    public void POPF_that_sets_TF_traps_after_the_following_instruction(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.push(0x102);
            a.popfq();
            a.nop();
            g.Mark(a, "next");
            a.nop();
        });
        g.Run(engine).Raised(X.DB, null, g["next"]);
    }

    [Theory, Engines]
    public void Single_step_counts_each_iteration_of_a_string_instruction_as_an_instruction(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= Tf;
        g.State.Gpr[1] = 3;
        g.State.Gpr[7] = Layout.Data;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.rep.stosb();
            a.hlt();
        });
        Outcome o = g.Run(engine).Raised(X.DB, null, g["at"]);
        Assert.Equal(2ul, o.State.Gpr[1]);
    }

    [Theory, Engines]
    public void INT_n_under_TF_enters_its_handler_without_a_trap(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= Tf;
        g.Code(a =>
        {
            a.@int(0x20);
            g.Mark(a, "next");
            a.nop();
        });
        Assert.Equal(0x20, g.Run(engine).Vector);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void An_instruction_breakpoint_is_a_fault_that_RF_suppresses_once(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.nop();
            g.Mark(a, "at");
            a.inc(ecx);
            a.cmp(ecx, 3);
            a.jb(loop);
            a.hlt();
            g.Mark(a, "db");
            a.inc(edx);
            if (mode == Mode.Long)
            {
                a.or(__dword_ptr[rsp + 16], 0x1_0000);
                a.iretq();
            }
            else
            {
                a.or(__dword_ptr[esp + 8], 0x1_0000);
                a.iretd();
            }
        });
        g.Handle(X.DB, "db");
        g.State.Dr[0] = g["at"];
        g.State.Dr7 = Dr7(0, 0, 0);
        Outcome o = g.Run(engine).Done();
        Assert.Equal((3ul, 3ul, 1ul), (o.State.Gpr[1], o.State.Gpr[2], o.State.Dr6 & 0xF));
    }

    [Theory]
    // type 1 = write, 3 = read or write; length 0 = 1 byte, 1 = 2, 3 = 4, 2 = 8
    [Engines(1, 3, "write", 0, true), Engines(1, 3, "read", 0, false), Engines(3, 3, "read", 0, true), Engines(3, 3, "rmw", 0, true),
        Engines(1, 0, "write", 3, true), Engines(1, 0, "write", 4, false), Engines(1, 0, "write", -1, false), Engines(1, 1, "write", 4, false),
        Engines(1, 2, "write", 7, true), Engines(1, 3, "fetch", 0, false)]
    public void A_data_breakpoint_is_a_trap_on_any_byte_that_the_access_touches(string engine, int type, int length, string kind, int offset, bool hits)
    {
        using var g = new Guest(Mode.Long);
        g.Write<byte>(Layout.Data, 0xC3);
        g.State.Gpr[3] = Layout.Data;
        g.Code(a =>
        {
            switch (kind)
            {
                case "write": a.mov(__dword_ptr[rbx], eax); break;
                case "read": a.mov(eax, __dword_ptr[rbx]); break;
                case "rmw": a.inc(__dword_ptr[rbx]); break;
                default: a.call(rbx); break;
            }
            g.Mark(a, "next");
            a.hlt();
        });
        g.State.Dr[2] = (ulong)(Layout.Data + offset);
        if (length != 0) g.State.Dr[2] &= ~(length switch { 1 => 1ul, 2 => 7ul, _ => 3ul });
        g.State.Dr7 = Dr7(2, type, length);
        Outcome o = g.Run(engine);
        if (hits)
        {
            o.Raised(X.DB, null, g["next"]);
            Assert.Equal(4ul, o.State.Dr6 & 0xE00F);
            Assert.Equal(0ul, o.Frame.Flags & Rf);
        }
        else
        {
            o.Done();
        }
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void An_IO_breakpoint_needs_CR4_DE(string engine, bool de)
    {
        using var g = new Guest(Mode.Long);
        if (de) g.State.Cr4 |= 8;
        g.State.Dr[1] = 0x81;
        g.State.Dr7 = Dr7(1, 2, 0);
        g.Code(a =>
        {
            a.@out(0x80, ax);
            g.Mark(a, "next");
            a.hlt();
        });
        Outcome o = g.Run(engine);
        if (de) o.Raised(X.DB, null, g["next"]);
        else o.Done();
        Assert.Single(o.Accesses);
    }

    [Theory, Engines]
    public void DR7_GD_makes_any_access_to_a_debug_register_fault_with_BD_and_is_cleared(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Dr7 = 0x2400;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.mov(rax, dr0);
        });
        Outcome o = g.Run(engine).Raised(X.DB, null, g["at"]);
        Assert.Equal((Bd, 0ul), (o.State.Dr6 & 0xE00F, o.State.Dr7 & 0x2000));
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void DR4_and_DR5_are_DR6_and_DR7_without_CR4_DE(string engine, bool de)
    {
        using var g = new Guest(Mode.Long);
        if (de) g.State.Cr4 |= 8;
        g.State.Dr[0] = 0x1234;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.mov(rax, dr5);
            a.hlt();
        });
        Outcome o = g.Run(engine);
        if (de) o.Raised(X.UD, null, g["at"]);
        else Assert.Equal(0x400ul, o.Done().State.Gpr[0]);
    }

    [Theory]
    [Engines(6), Engines(7)]
    public void The_upper_half_of_DR6_and_DR7_is_reserved(string engine, int number)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(rax, 1ul << 32);
            g.Mark(a, "at");
            if (number == 6) a.mov(dr6, rax);
            else a.mov(dr7, rax);
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void MOV_SS_holds_a_single_step_trap_back_by_one_instruction(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.State.Rflags |= Tf;
        g.State.Gpr[0] = Sel.Data32;
        g.Code(a =>
        {
            a.mov(ss, eax);
            a.nop();
            g.Mark(a, "next");
            a.nop();
        });
        g.Run(engine).Raised(X.DB, null, g["next"]);
    }

    [Theory, Engines]
    public void A_data_breakpoint_on_MOV_SS_waits_for_the_next_instruction(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Write(Layout.Data, Sel.Data32);
        g.State.Gpr[3] = Layout.Data;
        g.State.Dr[0] = Layout.Data;
        g.State.Dr7 = Dr7(0, 3, 1);
        g.Code(a =>
        {
            a.mov(ss, __word_ptr[ebx]);
            a.nop();
            g.Mark(a, "next");
            a.nop();
        });
        g.Run(engine).Raised(X.DB, null, g["next"]);
    }

    /// <summary>
    /// Intel's processors inhibit it (SDM vol. 3A, "Masking Exceptions and Interrupts When Switching Stacks"); AMD's do not, as an EPYC shows.
    /// </summary>
    [Theory]
    [Engines("max", true), Engines("x86-64-v3-intel", false)]
    public void An_instruction_breakpoint_right_after_MOV_SS_is_lost_on_Intel_only(string engine, string model, bool fires)
    {
        using var g = new Guest(Mode.Protected32, 0, model);
        g.State.Gpr[0] = Sel.Data32;
        g.Code(a =>
        {
            a.mov(ss, eax);
            g.Mark(a, "at");
            a.nop();
            a.hlt();
        });
        g.State.Dr[0] = g["at"];
        g.State.Dr7 = Dr7(0, 0, 0);
        Outcome o = g.Run(engine);
        if (fires) o.Raised(X.DB, null, g["at"]);
        else o.Done();
    }

    [Theory, Engines]
    public void INT1_is_a_trap_that_sets_nothing_in_DR6(string engine)
    {
        using var g = new Guest(Mode.Long, 3); // no DPL check either
        g.Code(a =>
        {
            a.int1();
            g.Mark(a, "next");
            a.nop();
        });
        Outcome o = g.Run(engine).Raised(X.DB, null, g["next"]);
        Assert.Equal(0ul, o.State.Dr6 & 0xE00F);
    }

    [Theory, Engines]
    public void IRET_that_sets_TF_traps_after_the_instruction_that_it_returns_to(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.push(Sel.Data32);
            a.push((int)Layout.StackTop);
            a.push(0x102);
            a.push(Sel.Code64);
            a.push((int)Layout.Code + 0x100);
            a.iretq();
        });
        g.Place(Layout.Code + 0x100, 64, a =>
        {
            a.nop();
            g.Mark(a, "next");
            a.nop();
        });
        g.Run(engine).Raised(X.DB, null, g["next"]);
    }
}
