using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3A, "Protection": limit checking, type checking, privilege checks of data segments, null selectors.</summary>
/// <remarks>QEMU's TCG checks no limits and no types at accesses, only at loads; there it agrees. It cannot be the oracle for the rest.</remarks>
public sealed class SegmentTests
{
    /// <summary>Loads ES (or what <paramref name="load"/> says) with <see cref="Sel.Free"/> and makes one access at EBX.</summary>
    private static (Outcome, Guest) Access(string engine, ulong descriptor, uint offset, Action<Assembler> access, int cpl = 0, Mode mode = Mode.Protected32,
        int rpl = 0)
    {
        var g = new Guest(mode, cpl);
        g.Gdt(Sel.Free, descriptor);
        g.Code(a =>
        {
            a.mov(eax, Sel.Free | rpl);
            g.Mark(a, "load");
            a.mov(es, eax);
            a.mov(ebx, offset);
            g.Mark(a, "at");
            access(a);
            g.End(a);
        });
        return (g.Run(engine), g);
    }

    private static void Reads(Assembler a) => a.mov(eax, __dword_ptr.es[ebx]);

    private static void Writes(Assembler a) => a.mov(__dword_ptr.es[ebx], eax);

    private static void Expect((Outcome, Guest) run, bool allowed)
    {
        (Outcome o, Guest g) = run;
        using (g)
        {
            if (allowed) o.Done();
            else o.Raised(X.GP, 0, g["at"]);
        }
    }

    /// <summary>Intel SDM vol. 2, VERR/VERW "Operation".</summary>
    [Theory, Engines]
    public void VERW_sets_ZF_for_a_data_segment_that_may_be_written_and_changes_no_other_flag(string engine)
    {
        const int arithmetic = 0x8D5, zero = 0x40;
        (int Selector, ulong Descriptor, bool Valid)[] cases =
        [
            (0x80, Desc.Flat(Desc.Data), true), (0x88, Desc.Flat(Desc.DataRo), false), (0x90, Desc.Flat(Desc.DataDown), true),
            (0x98, Desc.Flat(Desc.Code), false), (0xA0, Desc.Flat(Desc.CodeConforming), false), (0xA8, Desc.Flat(Desc.Data - Desc.NotPresent), true),
            (0xB0, Desc.Segment(0, 0x67, Desc.Tss32), false), (0xB8 | 3, Desc.Flat(Desc.Data), false), (0xC0, Desc.Flat(Desc.Data, dpl: 3), true),
            (0xC8 | 3, Desc.Flat(Desc.Data, dpl: 3), true), (0xD0 | 4, Desc.Flat(Desc.Data), false), (0xD8, Desc.Flat(Desc.Data), false), (0, 0, false),
            (3, 0, false),
        ];
        using var g = new Guest(Mode.Long);
        g.State.GdtrLimit = 0xD8 + 6; // one byte of the last is missing
        foreach ((int selector, ulong descriptor, _) in cases) if (selector > 3) g.Gdt((ushort)(selector & ~7), descriptor);
        g.Code(a =>
        {
            for (int n = 0; n < cases.Length; n++)
            {
                foreach (int flags in (int[])[0, arithmetic])
                {
                    a.mov(__word_ptr[(int)Layout.Data], (short)cases[n].Selector);
                    a.push(flags | 2);
                    a.popfq();
                    a.verw(__word_ptr[(int)Layout.Data]);
                    a.pushfq();
                    a.pop(rax);
                    a.@out(Guest.ReportPort, eax);
                }
            }
            a.hlt();
        });
        Assert.Equal(cases.SelectMany(c => new[] { 0, arithmetic }.Select(f => (ulong)(c.Valid ? f | zero : f & ~zero))),
            g.Run(engine).Done().Reports.Select(r => r & arithmetic));
    }

    private const uint Base = Layout.Data;

    [Theory]
    [Engines(0xFFCu, true), Engines(0xFFDu, false), Engines(0xFFFu, false), Engines(0x1000u, false), Engines(0xFFFF_FFFEu, false), Engines(0u, true)]
    public void Limit_checking_of_an_expand_up_segment(string engine, uint offset, bool allowed)
    {
        Expect(Access(engine, Desc.Segment(Base, 0xFFF, Desc.Data, Desc.Size.Big), offset, Reads), allowed);
        Expect(Access(engine, Desc.Segment(Base, 0xFFF, Desc.Data, Desc.Size.Big), offset, Writes), allowed);
        Expect(Access(engine, Desc.Segment(Base, 0, Desc.Data, Desc.Size.Big | Desc.Size.Granular), offset, Reads), allowed);
    }

    [Theory]
    [Engines(0xFFFu, false), Engines(0x1000u, true), Engines(0xFFCu, false), Engines(0xFFFCu, true), Engines(0xFFFDu, false), Engines(0x1_0000u, false)]
    public void Limit_checking_of_a_small_expand_down_segment(string engine, uint offset, bool allowed) =>
        Expect(Access(engine, Desc.Segment(Base, 0xFFF, Desc.DataDown), offset, Reads), allowed);

    [Theory]
    [Engines(0xFFFu, false), Engines(0x1000u, true), Engines(0x1_0000u, true), Engines(0xFFFF_FFFEu, false)]
    public void Limit_checking_of_a_big_expand_down_segment(string engine, uint offset, bool allowed) =>
        Expect(Access(engine, Desc.Segment(Base, 0xFFF, Desc.DataDown, Desc.Size.Big), offset, Reads), allowed);

    [Theory]
    [Engines(1, 0xFFFu, true), Engines(2, 0xFFFu, false), Engines(2, 0xFFEu, true), Engines(8, 0xFF8u, true), Engines(8, 0xFF9u, false),
        Engines(16, 0xFF0u, true), Engines(16, 0xFF1u, false)]
    public void Limit_checking_counts_every_byte_of_the_operand(string engine, int size, uint offset, bool allowed) =>
        Expect(Access(engine, Desc.Segment(Base, 0xFFF, Desc.Data, Desc.Size.Big), offset, a =>
        {
            switch (size)
            {
                case 1: a.mov(al, __byte_ptr.es[ebx]); break;
                case 2: a.mov(ax, __word_ptr.es[ebx]); break;
                case 8: a.movq(mm0, __qword_ptr.es[ebx]); break;
                default: a.movups(xmm0, __xmmword_ptr.es[ebx]); break;
            }
        }), allowed);

    [Theory]
    [Engines(Desc.Data, true, true), Engines(Desc.DataRo, true, false), Engines(Desc.Code, true, false), Engines(Desc.CodeConforming, true, false),
        Engines(Desc.DataDown, true, true), Engines(Desc.DataDownRo, true, false)]
    public void Type_checking_of_reads_and_writes(string engine, int access, bool read, bool write)
    {
        // An expand-down segment of limit FFFh has offset 1000h, others of limit FFFFh too.
        uint limit = (access & 0x1C) == 0x14 ? 0xFFFu : 0xFFFF;
        Expect(Access(engine, Desc.Segment(Base, limit, access, Desc.Size.Big), 0x1000, Reads), read);
        Expect(Access(engine, Desc.Segment(Base, limit, access, Desc.Size.Big), 0x1000, Writes), write);
        Expect(Access(engine, Desc.Segment(Base, limit, access, Desc.Size.Big), 0x1000, a => a.inc(__dword_ptr.es[ebx])), write);
    }

    [Theory]
    [Engines(Desc.CodeXo), Engines(Desc.CodeConformingXo), Engines(Desc.Tss32), Engines(Desc.Ldt), Engines(Desc.CallGate)]
    public void Loading_DS_with_what_cannot_be_read_raises_GP_with_the_selector(string engine, int access)
    {
        (Outcome o, Guest g) = Access(engine, Desc.Segment(Base, 0xFFF, access), 0, Reads);
        using (g) o.Raised(X.GP, Sel.Free, g["load"]);
    }

    [Theory]
    // DPL, CPL, RPL
    [Engines(3, 3, 3, true), Engines(0, 3, 3, false), Engines(0, 0, 3, false), Engines(0, 0, 0, true), Engines(3, 0, 3, true), Engines(2, 3, 0, false)]
    public void Privilege_level_checking_of_data_segments_and_of_conforming_code(string engine, int dpl, int cpl, int rpl, bool allowed)
    {
        (Outcome o, Guest g) = Access(engine, Desc.Segment(Base, 0xFFF, Desc.Data, Desc.Size.Big, dpl), 0, Reads, cpl, rpl: rpl);
        using (g)
        {
            if (allowed) o.Done();
            else o.Raised(X.GP, Sel.Free, g["load"]);
        }
        Expect(Access(engine, Desc.Segment(Base, 0xFFF, Desc.CodeConforming, Desc.Size.Big, dpl), 0, Reads, cpl, rpl: rpl), true);
    }

    [Theory]
    [Engines(0), Engines(1), Engines(3)]
    public void A_null_selector_can_be_loaded_into_ES_but_not_be_used(string engine, int rpl)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            a.mov(eax, rpl);
            a.mov(es, eax);
            g.Mark(a, "at");
            a.mov(al, __byte_ptr.es[(int)Layout.Data]);
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void A_null_selector_in_a_data_segment_does_not_matter_in_64_bit_mode(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.xor(eax, eax);
            a.mov(ds, eax);
            a.mov(es, eax);
            a.mov(ss, eax);
            a.mov(al, __byte_ptr[(int)Layout.Data]);
            a.push(rax);
            a.hlt();
        });
        g.Run(engine).Done();
    }

    [Theory]
    [Engines(Mode.Protected32, 0, 0u), Engines(Mode.Protected32, 3, 0u), Engines(Mode.Long, 3, 3u)]
    public void A_null_selector_for_SS_raises_GP_0(string engine, Mode mode, int cpl, uint selector)
    {
        using var g = new Guest(mode, cpl);
        g.Code(a =>
        {
            a.mov(eax, selector);
            g.Mark(a, "at");
            a.mov(ss, eax);
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory]
    // DPL, RPL, access
    [Engines(0, 3, Desc.Data), Engines(3, 0, Desc.Data), Engines(0, 0, Desc.DataRo), Engines(0, 0, Desc.Code)]
    public void SS_needs_writable_data_with_RPL_and_DPL_equal_to_CPL(string engine, int dpl, int rpl, int access)
    {
        using var g = new Guest(Mode.Protected32);
        g.Gdt(Sel.Free, Desc.Flat(access, dpl));
        g.Code(a =>
        {
            a.mov(eax, Sel.Free | rpl);
            g.Mark(a, "at");
            a.mov(ss, eax);
        });
        g.Run(engine).Raised(X.GP, Sel.Free, g["at"]);
    }

    [Theory]
    [Engines(Sel.Free | 4, Sel.Free | 4), Engines(0x800, 0x800), Engines(0xFFFC, 0xFFFC)]
    public void A_selector_beyond_its_table_raises_GP_with_the_selector_and_TI(string engine, int selector, int error)
    {
        using var g = new Guest(Mode.Protected32);
        g.State.Ldtr = g.State.Ldtr with { Limit = Sel.Free - 1u };
        g.Code(a =>
        {
            a.mov(eax, selector);
            g.Mark(a, "at");
            a.mov(fs, eax);
        });
        g.Run(engine).Raised(X.GP, (uint)error, g["at"]);
    }

    [Theory, Engines]
    public void The_accessed_bit_is_set_when_a_segment_is_loaded_and_not_by_LAR_or_VERR(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Gdt(Sel.Free, Desc.Flat(Desc.Data - 1)).Gdt(Sel.Free + 8, Desc.Flat(Desc.Data - 1));
        g.Code(a =>
        {
            a.mov(eax, Sel.Free);
            a.mov(fs, eax);
            a.mov(eax, Sel.Free + 8);
            a.lar(ecx, eax);
            a.verr(ax);
            a.hlt();
        });
        g.Run(engine).Done();
        Assert.Equal((1ul, 0ul), (g.Gdt(Sel.Free) >> 40 & 1, g.Gdt(Sel.Free + 8) >> 40 & 1));
    }

    [Theory]
    [Engines(false, X.GP), Engines(true, X.SS)]
    public void An_operand_that_runs_past_4_GiB_violates_the_limit_of_a_flat_segment(string engine, bool stack, int vector)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            a.mov(ebx, 0xFFFF_FFFEu);
            a.mov(ebp, ebx);
            g.Mark(a, "at");
            a.mov(eax, stack ? __dword_ptr[ebp] : __dword_ptr[ebx]);
            a.hlt();
        });
        g.Run(engine).Raised(vector, 0, g["at"]);
    }

    [Theory, Engines]
    public void A_base_that_makes_the_linear_address_wrap_at_4_GiB_is_no_violation(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Gdt(Sel.Free, Desc.Segment(0xFFFF_F000, 0xF_FFFF, Desc.Data, Desc.Size.Big | Desc.Size.Granular));
        g.Write(Layout.Data, 0x1234_5678u);
        g.Code(a =>
        {
            a.mov(eax, Sel.Free);
            a.mov(fs, eax);
            a.mov(ebx, Layout.Data + 0x1000);
            a.mov(eax, __dword_ptr.fs[ebx]);
            a.hlt();
        });
        Assert.Equal(0x1234_5678ul, g.Run(engine).Done().State.Gpr[0]);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected16), Engines(Mode.Virtual8086)]
    public void Execution_that_runs_past_FFFFh_in_a_64_KiB_segment_raises_GP_and_does_not_wrap(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Place(Layout.Code + 0xFFFE, 16, a => { a.nop(); a.nop(); });
        g.Code(a => g.End(a));
        g.State.Rip = 0xFFFE;
        // A word has no room for 10000h: real mode pushes 0.
        g.Run(engine).Raised(X.GP, mode == Mode.Real ? null : 0, mode == Mode.Real ? 0u : 0x1_0000);
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected16)]
    public void An_instruction_across_the_limit_of_CS_raises_GP_at_its_start(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Place(Layout.Code + 0xFFFE, 16, a => a.mov(ax, 0x1234));
        g.State.Rip = 0xFFFE;
        g.Run(engine).Raised(X.GP, mode == Mode.Real ? null : 0, 0xFFFE);
    }

    [Theory, Engines]
    public void A_near_jump_of_16_bits_wraps_its_target_at_64_KiB(string engine)
    {
        using var g = new Guest(Mode.Real);
        g.Place(Layout.Code + 0xFF00, 16, a => a.db(0xE9, 0xFD, 0x01)); // to FF03h + 1FDh = 100h
        g.Place(Layout.Code + 0x100, 16, a => a.hlt());
        g.State.Rip = 0xFF00;
        Assert.Equal(0x101ul, g.Run(engine).Done().State.Rip);
    }

    [Theory]
    [Engines(X.GP, false), Engines(X.SS, true)]
    public void Real_mode_checks_the_limit_of_64_KiB(string engine, int vector, bool stack)
    {
        using var g = new Guest(Mode.Real);
        g.Code(a =>
        {
            a.mov(bx, 0xFFFF);
            a.mov(bp, bx);
            g.Mark(a, "at");
            a.mov(ax, stack ? __word_ptr[bp] : __word_ptr[bx]);
        });
        g.Run(engine).Raised(vector, null, g["at"]);
    }

    [Theory, Engines]
    public void A_real_mode_segment_keeps_the_limit_of_protected_mode(string engine)
    {
        using var g = new Guest(Mode.Real);
        g.State.Fs = g.State.Fs with { Limit = uint.MaxValue };
        g.Write(0x10_0000, 0x55u);
        g.Code(a =>
        {
            a.xor(ax, ax);
            a.mov(fs, ax);
            a.mov(ebx, 0x10_0000);
            a.mov(eax, __dword_ptr.fs[ebx]);
            a.hlt();
        });
        Assert.Equal(0x55ul, g.Run(engine).Done().State.Gpr[0]);
    }

    [Theory]
    [Engines(0, 3, 0, false), Engines(3, 3, 3, true), Engines(0, 0, 3, false), Engines(1, 3, 3, false), Engines(0, 0, 0, true)]
    public void VERR_sees_the_segments_that_CPL_and_RPL_let_it_see(string engine, int dpl, int cpl, int rpl, bool visible)
    {
        using var g = new Guest(Mode.Protected32, cpl);
        g.Gdt(Sel.Free, Desc.Flat(Desc.Data, dpl));
        g.Code(a =>
        {
            a.mov(eax, Sel.Free | rpl);
            a.verr(ax);
            a.setz(bl);
            g.End(a);
        });
        Assert.Equal(visible ? 1ul : 0, g.Run(engine).Done().State.Gpr[3] & 0xFF);
    }

    [Theory, Engines]
    public void LSL_gives_the_limit_in_bytes_and_LAR_the_access_rights(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Gdt(Sel.Free, Desc.Segment(0x1234_5678, 0x12, Desc.Data, Desc.Size.Big | Desc.Size.Granular));
        g.Code(a =>
        {
            a.mov(eax, Sel.Free);
            a.lsl(ebx, eax);
            a.lar(ecx, eax);
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x1_2FFFul, 0x00C0_9300ul), (o.State.Gpr[3], o.State.Gpr[1]));
    }

    [Theory]
    [Engines(3, 1, true), Engines(1, 3, false), Engines(2, 2, false)]
    public void ARPL_raises_the_RPL_and_says_so_in_ZF(string engine, int source, int destination, bool adjusts)
    {
        using var g = new Guest(Mode.Protected32, 3);
        g.Code(a =>
        {
            a.mov(eax, 0x40 | destination);
            a.mov(ecx, 0x80 | source);
            a.arpl(ax, cx);
            a.setz(bl);
            g.End(a);
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x40ul | (uint)Math.Max(source, destination), adjusts ? 1ul : 0), (o.State.Gpr[0], o.State.Gpr[3] & 0xFF));
    }
}
