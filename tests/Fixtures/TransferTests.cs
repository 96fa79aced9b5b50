using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3A, "Protection", sections "Privilege Level Checking When Transferring Program Control Between Code Segments"; vol. 2, CALL, JMP, RET, IRET,
/// INT n.
/// </summary>
/// <remarks>
/// QEMU 7.2's TCG agrees, but raises #TS where the manual has #SS for an absent stack segment, and gives IDT entries of long mode twice their number in error
/// codes.
/// </remarks>
public sealed class TransferTests
{
    [Theory]
    // DPL, RPL, CPL, access, allowed
    [Engines(0, 0, 0, Desc.Code, true), Engines(3, 3, 3, Desc.Code, true), Engines(0, 0, 3, Desc.Code, false), Engines(3, 3, 0, Desc.Code, false),
        Engines(0, 3, 0, Desc.Code, false)]
    [Engines(0, 3, 3, Desc.CodeConforming, true), Engines(3, 0, 0, Desc.CodeConforming, false), Engines(0, 0, 0, Desc.Data, false),
        Engines(0, 0, 0, Desc.Ldt, false)]
    public void Direct_far_transfers_check_DPL_RPL_and_conforming(string engine, int dpl, int rpl, int cpl, int access, bool allowed)
    {
        foreach (bool call in (bool[])[false, true])
        {
            using var g = new Guest(Mode.Protected32, cpl);
            g.Gdt(Sel.Free, Desc.Flat(access, dpl));
            g.Code(a =>
            {
                g.Mark(a, "at");
                if (call) a.call((ushort)(Sel.Free | rpl), Layout.Code + 0x100);
                else a.jmp((ushort)(Sel.Free | rpl), Layout.Code + 0x100);
            });
            g.Place(Layout.Code + 0x100, 32, g.End);
            Outcome o = g.Run(engine);
            if (!allowed)
            {
                o.Raised(X.GP, Sel.Free, g["at"]);
                continue;
            }
            o.Done();
            if (cpl == 0) Assert.Equal(Sel.Free | cpl, o.State.Cs.Selector);
        }
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void An_absent_code_segment_raises_NP_and_a_target_beyond_the_limit_GP(string engine, bool beyond)
    {
        using var g = new Guest(Mode.Protected32);
        g.Gdt(Sel.Free, beyond ? Desc.Segment(Layout.Code, 0xFF, Desc.Code, Desc.Size.Big) : Desc.Flat(Desc.Code - Desc.NotPresent));
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.jmp(Sel.Free, 0x100u);
        });
        g.Run(engine).Raised(beyond ? X.GP : X.NP, beyond ? 0u : Sel.Free, g["at"]);
    }

    [Theory]
    // gate type, words or doublewords to copy
    [Engines(Desc.CallGate, 0), Engines(Desc.CallGate, 3), Engines(Desc.CallGate, 31), Engines(Desc.CallGate16, 0), Engines(Desc.CallGate16, 5)]
    public void A_call_gate_to_level_0_switches_the_stack_and_copies_the_parameters_and_RET_comes_back(string engine, int type, int parameters)
    {
        using var g = new Guest(Mode.Protected32, 3);
        bool wide = type == Desc.CallGate;
        int size = wide ? 4 : 2;
        // 16-bit gates reach 64 KiB: the routine lies there.
        const uint routine = 0x6000;
        g.Gdt(Sel.Free, Desc.Gate(Sel.Code32, routine, type, 3, parameters));
        g.Place(routine, 32, a =>
        {
            g.Mark(a, "inner");
            a.mov(ebp, esp);
            for (int n = 0; n < parameters + 4; n++)
            {
                if (wide) a.mov(eax, __dword_ptr[ebp + n * size]);
                else a.movzx(eax, __word_ptr[ebp + n * size]);
                Guest.Report(a);
            }
            if (wide) a.retf((short)(parameters * size));
            else a.db(0x66, 0xCA, (byte)(parameters * size), 0);
        });
        g.Code(a =>
        {
            for (int n = parameters; n > 0; n--)
            {
                if (wide) a.push(n * 0x11);
                else a.db(0x66, 0x6A, (byte)(n * 0x11));
            }
            a.call(Sel.Free | 3, 0x1234_5678u);
            g.Mark(a, "next");
            a.@int(X.Done);
        });
        if (!wide)
        {
            // A 16-bit return address: the code has to be within 64 KiB, too.
            g.Gdt(Sel.UserCode32, Desc.Segment(Layout.Code, 0xFFFF, Desc.Code, Desc.Size.Big, 3));
            g.State.Cs = g.Loaded(Sel.UserCode32);
            g.State.Rip = 0;
        }
        Outcome o = g.Run(engine);
        Assert.Null(o.Vector);
        ulong mask = wide ? uint.MaxValue : 0xFFFFu;
        ulong next = (wide ? g["next"] : g["next"] - Layout.Code) & mask;
        ulong[] expected =
            [next, Sel.UserCode32, .. Enumerable.Range(1, parameters).Select(n => (ulong)n * 0x11), (Layout.StackTop - (ulong)(parameters * size)) & mask,
            Sel.UserData32];
        Assert.Equal(expected, o.Reports);
        // RET n has released the parameters of both stacks: the frame of INT shows the outer one.
        Assert.Equal(wide ? Layout.StackTop : Layout.StackTop & 0xFFFFul, g.Read<uint>(Layout.KernelStackTop - 8));
    }

    [Theory]
    // gate DPL, RPL of the selector, CPL; the gate's own selector is the error code
    [Engines(0, 0, 3), Engines(2, 3, 0), Engines(0, 3, 3)]
    public void A_call_gate_must_be_at_or_below_CPL_and_RPL(string engine, int dpl, int rpl, int cpl)
    {
        using var g = new Guest(Mode.Protected32, cpl);
        g.Gdt(Sel.Free, Desc.Gate(Sel.Code32, Layout.Code, Desc.CallGate, dpl));
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.call((ushort)(Sel.Free | rpl), 0u);
        });
        g.Run(engine).Raised(X.GP, Sel.Free, g["at"]);
    }

    [Theory, Engines]
    public void JMP_through_a_call_gate_cannot_raise_the_privilege(string engine)
    {
        using var g = new Guest(Mode.Protected32, 3);
        g.Gdt(Sel.Free, Desc.Gate(Sel.Code32, Layout.Code, Desc.CallGate, 3));
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.jmp(Sel.Free | 3, 0u);
        });
        g.Run(engine).Raised(X.GP, Sel.Code32, g["at"]);
    }

    [Theory]
    [Engines(0u, X.TS, 0u), Engines((uint)Sel.UserData32, X.TS, Sel.UserData32 & ~3u), Engines((uint)Sel.Code32, X.TS, (uint)Sel.Code32),
        Engines(Sel.Free + 8u, X.SS, Sel.Free + 8u), Engines(0xFF8u, X.TS, 0xFF8u)]
    public void A_bad_stack_selector_in_the_TSS_raises_TS_and_an_absent_stack_SS(string engine, uint selector, int vector, uint error)
    {
        using var g = new Guest(Mode.Protected32, 3);
        g.Gdt(Sel.Free, Desc.Gate(Sel.Free + 16, Layout.Code, Desc.CallGate, 3)).Gdt(Sel.Free + 8, Desc.Flat(Desc.Data - Desc.NotPresent))
            .Gdt(Sel.Free + 16, Desc.Flat(Desc.Code, 1));
        // Level 1 has the bad stack, so that exceptions still get theirs.
        g.Write(Layout.Tss + 12, Layout.Stack1Top);
        g.Gdt(Sel.Free + 8, Desc.Flat(Desc.Data - Desc.NotPresent, 1));
        g.Write(Layout.Tss + 16, selector == 0 || selector == Sel.UserData32 ? selector : selector | 1);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.call(Sel.Free | 3, 0u);
        });
        g.Run(engine).Raised(vector, error, g["at"]);
    }

    [Theory, Engines]
    public void A_64_bit_call_gate_pushes_a_null_stack_switch_frame_of_quadwords(string engine)
    {
        using var g = new Guest(Mode.Long, 3);
        g.Gdt(Sel.Free, Desc.Gate(Sel.Code64, Guest.Stub(0x20), Desc.CallGate, 3)).Gdt(Sel.Free + 8, 0);
        g.Write(Layout.Data, 0u);
        g.Write(Layout.Data + 4, (ushort)(Sel.Free | 3));
        g.Code(a =>
        {
            a.mov(rbx, Layout.Data);
            a.db(0xFF, 0x1B); // CALL m16:32 [RBX]
            g.Mark(a, "next");
            a.nop();
        });
        Outcome o = g.Run(engine);
        Assert.Equal(0x20, o.Vector);
        Assert.Equal((g["next"], Sel.UserCode64), (o.Frame.Rip, o.Frame.Cs));
        Assert.Equal((ulong)Layout.StackTop, o.Frame.Flags); // no flags in a call's frame: RSP, then SS
        Assert.Equal((ulong)Sel.UserData32, o.Frame.Rsp);
        Assert.Equal((Layout.KernelStackTop - 32ul, 0), (o.State.Gpr[4], o.State.Ss.Selector));
    }

    [Theory]
    [Engines(Desc.CallGate16, Sel.Code64), Engines(Desc.CallGate, Sel.Code32), Engines(Desc.TaskGate, Sel.Code64), Engines(Desc.Tss32, Sel.Code64)]
    public void In_long_mode_there_are_no_16_bit_gates_no_task_gates_and_only_64_bit_targets(string engine, int type, int target)
    {
        using var g = new Guest(Mode.Long);
        g.Gdt(Sel.Free, Desc.Gate((ushort)target, Layout.Code, type, 3)).Gdt(Sel.Free + 8, 0);
        g.Write(Layout.Data + 4, (ushort)(Sel.Free | 3));
        g.Code(a =>
        {
            a.mov(rbx, Layout.Data);
            g.Mark(a, "at");
            a.db(0xFF, 0x1B);
        });
        g.Run(engine).Raised(X.GP, type == Desc.CallGate ? (uint)target : Sel.Free, g["at"]);
    }

    [Theory]
    [Engines(Sel.Free, true), Engines(Sel.Data32, false), Engines(Sel.UserData32, true)]
    public void RET_to_an_outer_level_nulls_data_segments_that_it_may_not_use(string engine, int selector, bool stays)
    {
        using var g = new Guest(Mode.Protected32);
        g.Gdt(Sel.Free, Desc.Flat(Desc.CodeConforming)); // stays, whatever its DPL
        g.Code(a =>
        {
            a.mov(eax, selector);
            a.mov(es, eax);
            a.push(Sel.UserData32);
            a.push((int)Layout.Data + 0x1000);
            a.push(Sel.UserCode32);
            a.push((int)Layout.Code + 0x100);
            a.retf();
        });
        g.Place(Layout.Code + 0x100, 32, a =>
        {
            a.mov(eax, es);
            a.@int(X.Done);
        });
        Outcome o = g.Run(engine);
        Assert.Equal(X.Done, o.Vector);
        Assert.Equal(Sel.UserCode32, o.Frame.Cs);
        Assert.Equal(Layout.Data + 0x1000ul, o.Frame.Rsp);
        Assert.Equal(stays ? (ulong)selector : 0, o.State.Gpr[0] & 0xFFFF);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void IRET_to_the_same_level_restores_flags_as_its_privilege_allows(string engine, Mode mode)
    {
        foreach (int cpl in (int[])[0, 3])
        {
            using var g = new Guest(mode, cpl);
            bool wide = mode == Mode.Long;
            g.Code(a =>
            {
                if (wide)
                {
                    a.push(cpl == 3 ? Sel.UserData32 : Sel.Data32);
                    a.push((int)Layout.StackTop);
                }
                a.push(0x24_3E02); // ID, AC, IOPL 3, OF, DF, IF
                a.push(cpl == 3 ? wide ? Sel.UserCode64 : Sel.UserCode32 : wide ? Sel.Code64 : Sel.Code32);
                a.push((int)Layout.Code + 0x100);
                if (wide) a.iretq();
                else a.iretd();
            });
            g.Place(Layout.Code + 0x100, wide ? 64 : 32, a =>
            {
                if (wide)
                {
                    a.pushfq();
                    a.pop(rax);
                }
                else
                {
                    a.pushfd();
                    a.pop(eax);
                }
                g.End(a);
            });
            Outcome o = g.Run(engine).Done();
            Assert.Equal(cpl == 0 ? 0x24_3E02ul : 0x24_0C02ul, o.State.Gpr[0]);
        }
    }

    [Theory]
    [Engines(0u, 0u), Engines((uint)Sel.Data32, (uint)Sel.Data32), Engines(0xFF8u, 0xFF8u), Engines((uint)Sel.Code32 | 1, (uint)Sel.Code32)]
    public void IRET_with_a_bad_CS_raises_GP_with_the_selector_and_leaves_the_stack_pointer(string engine, uint cs, uint error)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            a.push(2);
            a.push((int)cs);
            a.push((int)Layout.Code);
            g.Mark(a, "at");
            a.iretd();
        });
        Outcome o = g.Run(engine).Raised(X.GP, error, g["at"]);
        Assert.Equal(Layout.StackTop - 12 - 16ul, o.State.Gpr[4]);
    }

    [Theory, Engines]
    public void IRETQ_with_NT_raises_GP_in_long_mode(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x4000;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.iretq();
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void IRETQ_from_64_bit_mode_enters_compatibility_mode_and_an_interrupt_comes_back(string engine, bool user)
    {
        using var g = new Guest(Mode.Long);
        ushort code = user ? Sel.UserCode32 : Sel.Code32, data = user ? Sel.UserData32 : Sel.Data32;
        foreach (uint page in (uint[])[Layout.Code, Layout.Data]) g.Tables[page] |= Pte.U;
        g.Code(a =>
        {
            a.push(data);
            a.push((int)Layout.Data + 0x1000);
            a.push(2);
            a.push(code);
            a.push((int)Layout.Code + 0x100);
            a.iretq();
        });
        g.Place(Layout.Code + 0x100, 32, a =>
        {
            a.mov(eax, 0x8000_0000);
            a.inc(eax);
            a.dec(ecx); // a REX prefix in 64-bit mode
            g.Mark(a, "at");
            a.int3();
            g.Mark(a, "next");
            a.nop();
        });
        Outcome o = g.Run(engine).Raised(X.BP, null, g["next"]);
        Assert.Equal((code, data, Layout.Data + 0x1000ul), (o.Frame.Cs, o.Frame.Ss, o.Frame.Rsp));
        Assert.Equal((0x8000_0001ul, 0xFFFF_FFFFul), (o.State.Gpr[0], o.State.Gpr[1]));
    }

    [Theory, Engines]
    public void IRET_to_a_null_SS_is_allowed_at_levels_below_3_of_64_bit_mode_only(string engine)
    {
        foreach (int rpl in (int[])[0, 3])
        {
            using var g = new Guest(Mode.Long);
            g.Code(a =>
            {
                a.push(rpl);
                a.push((int)Layout.StackTop);
                a.push(2);
                a.push(rpl == 0 ? Sel.Code64 : Sel.UserCode64);
                a.push((int)Layout.Code + 0x100);
                g.Mark(a, "at");
                a.iretq();
            });
            g.Place(Layout.Code + 0x100, 64, a => a.hlt());
            Outcome o = g.Run(engine);
            if (rpl == 0) o.Done();
            else o.Raised(X.GP, 0, g["at"]);
        }
    }

    [Theory]
    [Engines(Desc.IntGate16), Engines(Desc.TrapGate16)]
    public void A_16_bit_gate_pushes_words(string engine, int type)
    {
        using var g = new Guest(Mode.Protected32);
        g.Idt(0x20, Desc.Gate(Sel.Code32, Guest.Stub(0x20), type));
        g.Code(a =>
        {
            a.sti();
            a.@int(0x20);
            g.Mark(a, "next");
            a.nop();
        });
        Outcome o = g.Run(engine);
        Assert.Equal(0x20, o.Vector);
        Assert.Equal(Layout.StackTop - 6ul, o.State.Gpr[4]);
        Assert.Equal(((ushort)g["next"], Sel.Code32, (ushort)0x202),
            (g.Read<ushort>(Layout.StackTop - 6), g.Read<ushort>(Layout.StackTop - 4), g.Read<ushort>(Layout.StackTop - 2)));
        Assert.Equal(type == Desc.TrapGate16 ? 0x200ul : 0, o.State.Rflags & 0x200);
    }

    [Theory, Engines]
    public void An_interrupt_gate_to_conforming_code_keeps_level_and_stack(string engine)
    {
        using var g = new Guest(Mode.Protected32, 3);
        g.Gdt(Sel.Free, Desc.Flat(Desc.CodeConforming));
        g.Idt(0x20, Desc.Gate(Sel.Free, Layout.Code + 0x100, Desc.IntGate, 3));
        g.Code(a => a.@int(0x20));
        g.Place(Layout.Code + 0x100, 32, a =>
        {
            a.mov(eax, cs);
            a.mov(edx, esp);
            a.@int(X.Done);
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((Sel.Free | 3ul, Layout.StackTop - 12ul), (o.State.Gpr[0], o.State.Gpr[2]));
    }

    [Theory]
    [Engines(0u, 0u), Engines((uint)Sel.Data32, (uint)Sel.Data32), Engines((uint)Sel.UserCode32 & ~3u, (uint)Sel.UserCode32 & ~3u), Engines(0xFF8u, 0xFF8u)]
    public void A_gate_with_a_bad_code_selector_raises_GP_with_it(string engine, uint selector, uint error)
    {
        using var g = new Guest(Mode.Protected32);
        g.Idt(0x20, Desc.Gate((ushort)selector, 0, Desc.IntGate));
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.@int(0x20);
        });
        g.Run(engine).Raised(X.GP, error, g["at"]);
    }

    [Theory]
    [Engines(Desc.TaskGate), Engines(Desc.IntGate16), Engines(Desc.CallGate), Engines(Desc.Code)]
    public void The_IDT_of_long_mode_holds_64_bit_interrupt_and_trap_gates_only(string engine, int type)
    {
        using var g = new Guest(Mode.Long);
        g.Idt(0x20, Desc.Gate(Sel.Code64, 0, type));
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.@int(0x20);
        });
        g.Run(engine).Raised(X.GP, 0x20 << 3 | 2, g["at"]);
    }

    [Theory, Engines]
    public void Real_mode_goes_to_protected_mode_to_long_mode_and_back(string engine)
    {
        // SDM vol. 3A, "Switching to Protected Mode", "IA-32e Mode Operation"; a guest that starts as after reset.
        using var g = new Guest(Mode.Real);
        var longTables = new PageTables(g.Memory, Mode.Long);
        for (uint page = 0; page < Layout.MemorySize; page += 0x1000) longTables[page] = page | Pte.P | Pte.W;
        g.Write(Layout.Data, (ushort)(Layout.GdtSize - 1));
        g.Write(Layout.Data + 2, Layout.Gdt);
        g.State.GdtrBase = 0;
        g.State.GdtrLimit = 0;
        g.Gdt(Sel.Free, Desc.Segment(Layout.Code, 0xFFFF, Desc.Code));
        g.Code(a =>
        {
            a.cli();
            a.db(0x66, 0x0F, 0x01, 0x16, 0x00, 0x00); // LGDT [0], 32-bit operand size
            a.mov(eax, cr0);
            a.or(al, 1);
            a.mov(cr0, eax);
            a.db(0x66, 0xEA);
            a.dd(Layout.Code + 0x100);
            a.dw(Sel.Code32);
        });
        g.Place(Layout.Code + 0x100, 32, a =>
        {
            a.mov(eax, Sel.Data32);
            a.mov(ds, eax);
            a.mov(es, eax);
            a.mov(ss, eax);
            a.mov(esp, Layout.StackTop);
            a.mov(eax, cr4);
            a.or(eax, 0x20);
            a.mov(cr4, eax);
            a.mov(eax, longTables.Root);
            a.mov(cr3, eax);
            a.mov(ecx, 0xC000_0080);
            a.rdmsr();
            a.or(eax, 0x100);
            a.wrmsr();
            a.mov(eax, cr0);
            a.or(eax, 0x8000_0000);
            a.mov(cr0, eax);
            a.rdmsr();
            Guest.Report(a); // LMA is set now
            a.jmp(Sel.Code64, Layout.Code + 0x200);
        }, Layout.Code + 0x100);
        g.Place(Layout.Code + 0x200, 64, a =>
        {
            a.mov(rax, 0x1234_5678_9ABC_DEF0);
            a.shr(rax, 32);
            Guest.Report(a);
            a.push(Sel.Code32);
            a.push((int)Layout.Code + 0x300);
            a.db(0x48, 0xCB); // RETFQ
        }, Layout.Code + 0x200);
        g.Place(Layout.Code + 0x300, 32, a =>
        {
            a.mov(eax, cr0);
            a.and(eax, 0x7FFF_FFFF);
            a.mov(cr0, eax);
            a.mov(ecx, 0xC000_0080);
            a.rdmsr();
            Guest.Report(a);
            a.jmp(Sel.Free, 0x400u);
        }, Layout.Code + 0x300);
        g.Place(Layout.Code + 0x400, 16, a =>
        {
            a.mov(ax, Sel.Data16);
            a.mov(ds, ax);
            a.mov(ss, ax);
            a.mov(eax, cr0);
            a.and(al, 0xFE);
            a.mov(cr0, eax);
            a.jmp((ushort)(Layout.Code >> 4), (ushort)0x500);
        });
        g.Place(Layout.Code + 0x500, 16, a =>
        {
            a.mov(ax, 0x4321);
            a.movzx(eax, ax);
            Guest.Report(a);
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal([0x500, 0x1234_5678, 0x100, 0x4321], o.Reports);
        Assert.Equal((0ul, Layout.Code >> 4), (o.State.Cr0 & 0x8000_0001, o.State.Cs.Selector));
    }
}
