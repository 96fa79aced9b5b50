using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Interrupt delivery at the exit boundary: windows, injection, shadows, NMI blocking, HLT. Intel SDM vol. 3A, "Masking Maskable Hardware Interrupts",
/// "Nonmaskable Interrupt (NMI)"; vol. 3C, "Interrupt-Window Exiting".
/// </summary>
[TinyCachesToo]
public sealed class InterruptTests
{
    private const int Vector = 0x40;

    /// <summary>Asks for a window and injects when it opens.</summary>
    private static Outcome WithWindow(string engine, Guest g, bool nmi = false)
    {
        g.OnExit = exit =>
        {
            if (exit.Reason is not (ExitReason.InterruptWindow or ExitReason.NmiWindow)) return false;
            g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = false, NmiWindowExiting = false };
            if (nmi) g.Cpu.InjectNmi();
            else g.Cpu.InjectInterrupt(Vector);
            return false;
        };
        g.On(engine).Cpu.Controls = new ExecutionControls(InterruptWindowExiting: !nmi, NmiWindowExiting: nmi);
        return g.Run(engine);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void The_interrupt_window_opens_after_the_instruction_that_follows_STI(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            a.nop();
            a.sti();
            a.nop();
            g.Mark(a, "window");
            a.nop();
            a.hlt();
        });
        WithWindow(engine, g).Raised(Vector, null, g["window"]);
    }

    [Theory, Engines]
    public void STI_with_IF_already_set_makes_no_shadow(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.pushfq();
            a.or(__dword_ptr[rsp], 0x200);
            a.popfq();
            g.Mark(a, "window");
            a.sti();
            a.nop();
            a.hlt();
        });
        WithWindow(engine, g).Raised(Vector, null, g["window"]);
    }

    [Theory, Engines]
    public void MOV_SS_and_POP_SS_inhibit_interrupts_for_one_instruction(string engine)
    {
        // The window is asked for while the instruction itself waits for a device.
        foreach (bool pop in (bool[])[false, true])
        {
            using var g = new Guest(Mode.Protected32);
            g.State.Rflags |= 0x200;
            g.State.Gpr[pop ? 4 : 3] = Layout.Mmio;
            g.Code(a =>
            {
                if (pop) a.db(0x17);
                else a.mov(ss, __word_ptr[ebx]);
                a.mov(esp, Layout.StackTop);
                g.Mark(a, "window");
                a.nop();
                a.hlt();
            });
            g.OnExit = exit =>
            {
                if (exit.Reason == ExitReason.Mmio)
                {
                    exit.Data = Sel.Data32;
                    g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = true };
                }
                if (exit.Reason == ExitReason.InterruptWindow)
                {
                    g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = false };
                    g.Cpu.InjectInterrupt(Vector);
                }
                return false;
            };
            g.Run(engine).Raised(Vector, null, g["window"]);
        }
    }

    [Theory, Engines]
    public void CLI_closes_the_window_at_once_and_POPF_and_IRET_open_it(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.sti();
            a.cli();
            a.nop();
            a.push(0x202);
            a.popfq();
            g.Mark(a, "window");
            a.nop();
            a.hlt();
        });
        WithWindow(engine, g).Raised(Vector, null, g["window"]);
    }

    [Theory]
    [Engines("STI"), Engines("POPF"), Engines("IRET"), Engines("SYSRET")]
    public void A_window_that_waits_for_IF_opens_where_IF_is_set(string engine, string how)
    {
        // The third round is the one that counts: by then the way is known, and translated.
        using var g = new Guest(Mode.Long);
        g.State.Msrs[0xC000_0081] = (ulong)(Sel.UserCode64 - 16 - 3) << 48 | (ulong)Sel.Code64 << 32; // STAR
        g.State.Msrs[0xC000_0082] = Layout.Code; // LSTAR
        g.State.Msrs[0xC000_0084] = 0x4_0700; // FMASK
        g.Code(a =>
        {
            Label again = a.CreateLabel(), start = a.CreateLabel();
            a.Label(ref start);
            a.cli();
            a.@out(0x99, al);
            a.mov(edx, 50);
            a.Label(ref again);
            a.dec(edx);
            a.jnz(again);
            switch (how)
            {
                case "STI":
                    a.sti();
                    a.nop();
                    break;
                case "POPF":
                    a.push(0x202);
                    a.popfq();
                    break;
                case "IRET":
                    a.mov(rax, rsp);
                    a.push(Sel.Data32);
                    a.push(rax);
                    a.push(0x202);
                    a.push(Sel.Code64);
                    a.push((int)Layout.Code + 0x800);
                    a.iretq();
                    break;
                default:
                    a.mov(ecx, (int)Layout.Spare);
                    a.mov(r11d, 0x202);
                    a.sysretq();
                    break;
            }
            if (how is "STI" or "POPF") g.Mark(a, "window");
            a.nop();
            a.jmp(start);
        });
        if (how is "IRET" or "SYSRET")
        {
            g.Place(how == "IRET" ? Layout.Code + 0x800 : Layout.Spare, 64, a =>
            {
                g.Mark(a, "window");
                a.nop();
                if (how == "IRET") a.jmp(Layout.Code);
                else a.syscall();
            });
        }
        int rounds = 0;
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Io && ++rounds == 3) g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = true };
            if (exit.Reason == ExitReason.InterruptWindow)
            {
                g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = false };
                g.Cpu.InjectInterrupt(Vector);
            }
            return false;
        };
        g.Run(engine).Raised(Vector, null, g["window"]);
        Assert.Equal(3, rounds);
    }

    [Theory, Engines]
    public void With_IF_clear_the_window_stays_closed_and_injection_is_refused(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a => a.hlt());
        g.On(engine).Cpu.Controls = new ExecutionControls(InterruptWindowExiting: true);
        g.Run(engine).Done();
        Assert.False(g.Cpu.InterruptWindowOpen);
        Assert.Throws<InvalidOperationException>(() => g.Cpu.InjectInterrupt(Vector));
        Assert.True(g.Cpu.NmiWindowOpen);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void An_interrupt_ends_HLT_and_returns_behind_it(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            a.hlt();
            g.Mark(a, "next");
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(g["next"], o.State.Rip);
        g.Cpu.InjectInterrupt(Vector);
        o = g.Run(engine).Raised(Vector, null, g["next"]);
        Assert.Equal((0x200ul, 0ul), (o.Frame.Flags & 0x200, o.State.Rflags & 0x200));
    }

    [Theory, Engines]
    public void An_interrupt_between_the_iterations_of_a_string_instruction_resumes_it(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Gpr[1] = 1000;
        g.State.Gpr[7] = Layout.Mmio;
        g.Code(a =>
        {
            a.sti();
            g.Mark(a, "at");
            a.rep.stosb();
            a.hlt();
            g.Mark(a, "handler");
            a.mov(rdx, rcx);
            a.mov(rbx, __qword_ptr[rsp]);
            a.iretq();
        });
        g.Handle(Vector, "handler");
        g.Tables[Layout.Mmio] = Layout.Mmio | 3;
        bool injected = false;
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Mmio && exit.Address == Layout.Mmio + 500 && !injected)
            {
                injected = true;
                g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = true };
            }
            if (exit.Reason == ExitReason.InterruptWindow)
            {
                g.Cpu.Controls = g.Cpu.Controls with { InterruptWindowExiting = false };
                g.Cpu.InjectInterrupt(Vector);
            }
            return false;
        };
        g.State.Gpr[1] = 0x900;
        g.Tables[Layout.Mmio + 0x1000] = Layout.Mmio + 0x1000 | 3;
        g.Tables[Layout.Mmio + 0x2000] = Layout.Mmio + 0x2000 | 3;
        Outcome o = g.Run(engine).Done();
        Assert.Equal(0x900, o.Accesses.Count);
        Assert.Equal((0ul, g["at"]), (o.State.Gpr[1], o.State.Gpr[3]));
        Assert.InRange(o.State.Gpr[2], 1ul, 0x8FFul);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void An_NMI_is_delivered_with_IF_clear_and_blocks_others_until_IRET(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            a.hlt();
            a.hlt();
            g.Mark(a, "handler");
            a.inc(ecx);
            a.hlt();
            if (mode == Mode.Long) a.iretq();
            else if (mode == Mode.Real) a.iret();
            else a.iretd();
        });
        g.Handle(X.NMI, "handler");
        g.Run(engine).Done();
        g.Cpu.InjectNmi();
        g.Run(engine).Done(); // in the handler
        if (g.Cpu.NmiWindowOpen)
        {
            // The engine holds one more itself.
            g.Cpu.InjectNmi();
            Assert.False(g.Cpu.NmiWindowOpen);
            Assert.Throws<InvalidOperationException>(g.Cpu.InjectNmi);
            Outcome again = g.Run(engine).Done(); // after IRET, in the handler again
            Assert.Equal(2ul, again.State.Gpr[1]);
            Assert.True(again.State.NmiBlocked);
        }
        else
        {
            Assert.Throws<InvalidOperationException>(g.Cpu.InjectNmi);
        }
        Outcome last = g.Run(engine).Done(); // after IRET
        Assert.False(last.State.NmiBlocked);
        Assert.True(g.Cpu.NmiWindowOpen);
    }

    [Theory, Engines]
    public void The_NMI_window_opens_right_after_IRET(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.NmiBlocked = true;
        g.Code(a =>
        {
            a.push(Sel.Data32);
            a.push((int)Layout.StackTop);
            a.push(2);
            a.push(Sel.Code64);
            a.push((int)Layout.Code + 0x100);
            a.iretq();
        });
        g.Place(Layout.Code + 0x100, 64, a => { a.nop(); a.hlt(); });
        WithWindow(engine, g, nmi: true).Raised(X.NMI, null, Layout.Code + 0x100);
    }

    [Theory, Engines]
    public void An_IRET_that_faults_unblocks_NMIs_too(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.NmiBlocked = true;
        g.Code(a =>
        {
            for (int n = 0; n < 5; n++) a.push(0);
            a.iretq();
        });
        g.Run(engine);
        Assert.True(g.Cpu.NmiWindowOpen);
    }

    [Theory, Engines]
    public void An_external_interrupt_does_not_check_the_DPL_of_its_gate(string engine)
    {
        using var g = new Guest(Mode.Long, 3);
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.nop();
        });
        g.On(engine).Cpu.InjectInterrupt(Vector);
        g.Run(engine).Raised(Vector, null, g["at"]);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void An_external_interrupt_through_a_bad_gate_raises_GP_with_EXT(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.State.Rflags |= 0x200;
        g.Idt(Vector, 0);
        g.Code(a => a.nop());
        g.On(engine).Cpu.InjectInterrupt(Vector);
        g.Run(engine).Raised(X.GP, Vector << 3 | 3, Layout.Code);
    }

    [Theory, Engines]
    public void A_kick_ends_a_loop_and_the_guest_goes_on_where_it_was(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(rcx);
            a.cmp(__byte_ptr[(int)Layout.Data], 0);
            a.je(loop);
            a.hlt();
        });
        g.OnExit = exit => exit.Reason == ExitReason.Kicked;
        g.On(engine);
        for (int n = 0; n < 5; n++)
        {
            g.Cpu.Kick();
            Assert.Equal(ExitReason.Kicked, g.Run(engine).Reason);
        }
        g.Write<byte>(Layout.Data, 1);
        g.Run(engine).Done();
    }

    [Theory, Engines]
    public void An_offered_interrupt_is_acknowledged_once_and_delivered(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Code(a => a.nop());
        var source = new OfferedInterrupts(Vector);
        Assert.True(g.On(engine).Cpu.OfferInterrupt(source));
        g.Run(engine).Raised(Vector, null, Layout.Code);
        Assert.Equal(1, source.Asked);
    }

    [Theory, InlineData("interp"), InlineData("bt")]
    public void The_software_processor_acknowledges_an_interrupt_when_it_takes_it(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Code(a => a.nop());
        var source = new OfferedInterrupts(Vector);
        g.On(engine).Cpu.OfferInterrupt(source);
        Assert.Equal(0, source.Asked);
        g.Run(engine).Raised(Vector, null, Layout.Code);
    }

    [Theory, Engines]
    public void An_offered_interrupt_that_went_away_changes_nothing(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            a.inc(ecx);
            a.hlt();
        });
        g.On(engine).Cpu.OfferInterrupt(new OfferedInterrupts());
        Assert.Equal(1ul, g.Run(engine).Done().State.Gpr[1]);
    }

    [Theory, InlineData("interp", 1), InlineData("bt", 1), InlineData("interp", 2), InlineData("bt", 2)]
    public void An_offered_interrupt_that_went_away_does_not_end_HLT(string engine, int offers)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            a.hlt();
            a.inc(ecx);
            a.hlt();
        });
        g.Run(engine).Done();
        var source = new OfferedInterrupts();
        for (int n = 0; n < offers; n++)
        {
            // As the run loop does.
            g.Cpu.OfferInterrupt(source);
            g.Cpu.Activity = CpuActivity.Active;
        }
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Hlt, 0ul, 1, CpuActivity.Halted), (o.Reason, o.State.Gpr[1], source.Asked, g.Cpu.Activity));
        g.Cpu.OfferInterrupt(new OfferedInterrupts(Vector));
        Assert.Equal(Vector, g.Run(engine).Vector);
    }

    [Theory, Engines]
    public void When_more_interrupts_wait_a_window_opens_as_soon_as_the_next_could_be_taken(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            a.inc(ecx);
            g.Mark(a, "end");
            a.hlt();
            g.Mark(a, "handler");
            a.inc(edx);
            a.iretq();
        });
        g.Handle(Vector, "handler");
        var source = new OfferedInterrupts(Vector, Vector, Vector);
        int windows = 0;
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.InterruptWindow) return false;
            windows++;
            g.Cpu.OfferInterrupt(source);
            return false;
        };
        g.On(engine).Cpu.OfferInterrupt(source);
        Outcome o = g.Run(engine);
        Assert.Equal((3, 2, 3ul, 1ul), (source.Asked, windows, o.State.Gpr[2], o.State.Gpr[1]));
    }
}
