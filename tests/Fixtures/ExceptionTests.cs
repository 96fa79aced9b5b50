using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3A, "Interrupt and Exception Handling", section "Exception and Interrupt Reference": each vector, its error code and the saved instruction
/// pointer.
/// </summary>
/// <remarks>
/// QEMU 7.2's TCG agrees except where it simplifies: it saves no RF with faults, sets no EXT, gives IDT entries of long mode twice their number, has neither
/// #AC nor SIMD exceptions of masked-out kinds, raises #GP for non-canonical stack operands, and loads a null SS whenever the IST is used; the manual says the
/// last for changes of level alone.
/// </remarks>
public sealed class ExceptionTests
{
    /// <summary>Runs one instruction at the mark "at"; what follows is marked "next".</summary>
    private static (Outcome, Guest) One(string engine, Mode mode, int cpl, Action<Assembler> before, Action<Assembler> faulting, Action<Guest>? prepare = null)
    {
        var g = new Guest(mode, cpl);
        g.Code(a =>
        {
            before(a);
            g.Mark(a, "at");
            faulting(a);
            g.Mark(a, "next");
            g.End(a);
        });
        prepare?.Invoke(g);
        return (g.Run(engine), g);
    }

    [Theory]
    [Engines(Mode.Real, 0), Engines(Mode.Virtual8086, 3), Engines(Mode.Protected16, 0), Engines(Mode.Protected32, 0), Engines(Mode.Protected32, 3),
        Engines(Mode.Pae, 3), Engines(Mode.Compatibility, 3), Engines(Mode.Long, 0), Engines(Mode.Long, 3)]
    public void Interrupt_0_Divide_Error_is_a_fault_without_error_code(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) = One(engine, mode, cpl, a => a.xor(ecx, ecx), a => a.div(ecx));
        using (g) o.Raised(X.DE, null, g["at"]);
    }

    [Theory]
    [Engines(Mode.Real, 0), Engines(Mode.Virtual8086, 3), Engines(Mode.Protected32, 0), Engines(Mode.Protected32, 3), Engines(Mode.Long, 0),
        Engines(Mode.Long, 3)]
    public void Interrupt_3_Breakpoint_is_a_trap(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) = One(engine, mode, cpl, a => a.nop(), a => a.int3());
        using (g) o.Raised(X.BP, null, g["next"]);
    }

    [Theory]
    [Engines(Mode.Real, 0), Engines(Mode.Virtual8086, 3), Engines(Mode.Protected32, 0), Engines(Mode.Compatibility, 3)]
    public void Interrupt_4_Overflow_is_a_trap_and_only_if_OF_is_set(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) = One(engine, mode, cpl, a =>
        {
            a.xor(eax, eax);
            a.into();
            a.mov(al, 0x7F);
            a.inc(al);
        }, a => a.into());
        using (g) o.Raised(X.OF, null, g["next"]);
    }

    [Theory]
    [Engines(Mode.Real, 0), Engines(Mode.Protected32, 0), Engines(Mode.Protected32, 3), Engines(Mode.Compatibility, 0)]
    public void Interrupt_5_BOUND_Range_Exceeded_is_a_fault(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) = One(engine, mode, cpl, a =>
        {
            if (mode == Mode.Real) a.mov(bx, 0);
            else a.mov(ebx, Layout.Data);
            a.mov(cx, 11);
        }, a =>
        {
            if (mode == Mode.Real) a.bound(cx, __dword_ptr[bx]);
            else a.bound(cx, __dword_ptr[ebx]);
        }, g => g.Write(Layout.Data, 0x000A_0003u));
        using (g) o.Raised(X.BR, null, g["at"]);
    }

    [Theory]
    [Engines(Mode.Real, 0), Engines(Mode.Virtual8086, 3), Engines(Mode.Protected32, 3), Engines(Mode.Long, 0), Engines(Mode.Long, 3)]
    public void Interrupt_6_Invalid_Opcode_is_a_fault(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) = One(engine, mode, cpl, a => a.nop(), a => a.ud2());
        using (g) o.Raised(X.UD, null, g["at"]);
    }

    [Theory]
    [Engines(Mode.Protected32, 0), Engines(Mode.Long, 0), Engines(Mode.Long, 3)]
    public void Interrupt_7_Device_Not_Available_by_CR0_TS_is_a_fault(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) = One(engine, mode, cpl, a => a.nop(), a => a.fld1(), g => g.State.Cr0 |= 8);
        using (g) o.Raised(X.NM, null, g["at"]);
    }

    [Theory]
    [Engines(true, true, true), Engines(true, false, false), Engines(false, true, false)]
    public void WAIT_raises_Device_Not_Available_only_with_both_MP_and_TS(string engine, bool mp, bool ts, bool raises)
    {
        (Outcome o, Guest g) =
            One(engine, Mode.Protected32, 0, a => a.nop(), a => a.wait(), g => g.State.Cr0 = g.State.Cr0 & ~0xAul | (mp ? 2ul : 0) | (ts ? 8ul : 0));
        using (g)
        {
            if (raises) o.Raised(X.NM, null, g["at"]);
            else o.Done();
        }
    }

    [Theory]
    [Engines(Mode.Protected32, 0), Engines(Mode.Protected32, 3), Engines(Mode.Compatibility, 3), Engines(Mode.Long, 0), Engines(Mode.Long, 3)]
    public void Interrupt_11_Segment_Not_Present_has_the_selector(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) =
            One(engine, mode, cpl, a => a.mov(eax, Sel.Free | 3), a => a.mov(ds, eax), g => g.Gdt(Sel.Free, Desc.Flat(Desc.Data - Desc.NotPresent, 3)));
        using (g) o.Raised(X.NP, Sel.Free, g["at"]);
    }

    [Theory]
    [Engines(Mode.Protected32, 0), Engines(Mode.Compatibility, 0), Engines(Mode.Long, 0)]
    public void Interrupt_12_Stack_Fault_for_an_absent_stack_segment_has_the_selector(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) =
            One(engine, mode, cpl, a => a.mov(eax, Sel.Free), a => a.mov(ss, eax), g => g.Gdt(Sel.Free, Desc.Flat(Desc.Data - Desc.NotPresent)));
        using (g) o.Raised(X.SS, Sel.Free, g["at"]);
    }

    [Theory]
    [Engines(0), Engines(3)]
    public void Interrupt_12_Stack_Fault_for_a_non_canonical_stack_address_has_error_code_0(string engine, int cpl)
    {
        (Outcome o, Guest g) = One(engine, Mode.Long, cpl, a => a.mov(rbp, 0x8000_0000_0000_0000), a => a.mov(rax, __qword_ptr[rbp]));
        using (g) o.Raised(X.SS, 0, g["at"]);
    }

    [Theory]
    [Engines(0), Engines(3)]
    public void Interrupt_13_General_Protection_for_a_non_canonical_address_has_error_code_0(string engine, int cpl)
    {
        (Outcome o, Guest g) = One(engine, Mode.Long, cpl, a => a.mov(rbx, 0x0001_0000_0000_0000), a => a.mov(rax, __qword_ptr[rbx]));
        using (g) o.Raised(X.GP, 0, g["at"]);
    }

    [Theory]
    [Engines(0x10u), Engines(0x8Cu), Engines(0x100u)]
    public void Interrupt_13_has_the_vector_and_the_IDT_bit_for_a_software_interrupt_beyond_the_IDT(string engine, uint vector)
    {
        (Outcome o, Guest g) = One(engine, Mode.Protected32, 0, a => a.nop(), a => a.@int((byte)vector), g => g.State.IdtrLimit = 0x7F);
        using (g)
        {
            if (vector == 0x100) o.Raised(X.DE, null, g["next"]); // INT 0 is inside
            else o.Raised(X.GP, vector << 3 | 2, g["at"]);
        }
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_software_interrupt_from_level_3_through_a_gate_of_level_0_raises_GP_with_the_vector(string engine, Mode mode)
    {
        (Outcome o, Guest g) = One(engine, mode, 3, a => a.nop(), a => a.@int(0x40));
        using (g) o.Raised(X.GP, 0x40 << 3 | 2, g["at"]);
    }

    [Theory]
    [Engines(Mode.Protected32, 0), Engines(Mode.Protected32, 3), Engines(Mode.Long, 0), Engines(Mode.Long, 3)]
    public void An_absent_gate_raises_NP_with_the_vector_and_EXT_only_for_exceptions(string engine, Mode mode, int cpl)
    {
        (Outcome o, Guest g) =
            One(engine, mode, cpl, a => a.nop(), a => a.int3(), g => g.Idt(X.BP, Desc.Gate(g.StubCode, 0, Desc.IntGate - Desc.NotPresent, 3)));
        using (g) o.Raised(X.NP, X.BP << 3 | 2, g["at"]);

        (o, g) = One(engine, mode, cpl, a => a.nop(), a => a.ud2(), g => g.Idt(X.UD, Desc.Gate(g.StubCode, 0, Desc.IntGate - Desc.NotPresent, 3)));
        using (g) o.Raised(X.NP, X.UD << 3 | 3, g["at"]);
    }

    [Theory]
    [Engines(Mode.Paged32, 0), Engines(Mode.Pae, 3), Engines(Mode.Long, 0), Engines(Mode.Long, 3), Engines(Mode.Long5, 0)]
    public void Interrupt_14_Page_Fault_gives_the_address_in_CR2(string engine, Mode mode, int cpl)
    {
        using var g = new Guest(mode, cpl);
        g.Code(a =>
        {
            a.nop();
            g.Mark(a, "at");
            a.mov(eax, g.AtBx);
        });
        g.State.Gpr[3] = 0x7F_F123;
        Outcome o = g.Run(engine).Raised(X.PF, cpl == 3 ? 4u : 0, g["at"]);
        Assert.Equal(0x7F_F123ul, o.State.Cr2);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void Interrupt_16_Math_Fault_comes_with_the_next_waiting_instruction(string engine, Mode mode)
    {
        (Outcome o, Guest g) = One(engine, mode, 0, a =>
        {
            a.fldcw(__word_ptr[(int)Layout.Data]);
            a.fld1();
            a.fldz();
            a.fdivp(st1, st0);
            a.fnop();
        }, a => a.nop(), g => g.Write<ushort>(Layout.Data, 0x37B)); // ZM clear
        using (g) Assert.Equal(((int?)X.MF, (uint?)null), (o.Vector, o.Frame.Error));
    }

    [Theory]
    [Engines(3, true), Engines(0, false)]
    public void Interrupt_17_Alignment_Check_only_at_level_3_with_AM_and_AC(string engine, int cpl, bool raises)
    {
        (Outcome o, Guest g) = One(engine, Mode.Long, cpl, a => a.mov(ebx, Layout.Data + 1), a => a.mov(eax, __dword_ptr[rbx]), g =>
        {
            g.State.Cr0 |= 1 << 18;
            g.State.Rflags |= 1 << 18;
        });
        using (g)
        {
            if (raises) o.Raised(X.AC, 0, g["at"]);
            else o.Done();
        }
    }

    [Theory]
    [Engines(true, X.XM), Engines(false, X.UD)]
    public void Interrupt_19_SIMD_Exception_or_UD_without_OSXMMEXCPT(string engine, bool enabled, int vector)
    {
        (Outcome o, Guest g) = One(engine, Mode.Long, 0, a =>
        {
            a.mov(ebx, Layout.Data);
            a.ldmxcsr(__dword_ptr[rbx]);
            a.pxor(xmm1, xmm1);
            a.pcmpeqd(xmm0, xmm0);
            a.psrld(xmm0, 25);
            a.pslld(xmm0, 23);
        }, a => a.divss(xmm0, xmm1), g =>
        {
            g.Write(Layout.Data, 0x1D80u); // ZM clear
            if (!enabled) g.State.Cr4 &= ~0x400ul;
        });
        using (g) o.Raised(vector, null, g["at"]);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void RF_is_set_in_the_flags_that_a_fault_saves_and_clear_in_those_of_a_trap(string engine, Mode mode)
    {
        (Outcome o, Guest g) = One(engine, mode, 0, a => a.nop(), a => a.ud2());
        using (g) Assert.Equal(1ul << 16, o.Frame.Flags & 1ul << 16);
        (o, g) = One(engine, mode, 0, a => a.nop(), a => a.int3());
        using (g) Assert.Equal(0ul, o.Frame.Flags & 1ul << 16);
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void Interrupt_gates_clear_IF_and_trap_gates_do_not(string engine, Mode mode)
    {
        foreach (int type in (int[])[Desc.IntGate, Desc.TrapGate])
        {
            (Outcome o, Guest g) = One(engine, mode, 0, a => a.nop(), a => a.ud2(), g =>
            {
                g.State.Rflags |= 0x4300; // NT, IF, TF
                g.State.Rflags &= ~0x100ul;
                g.Idt(X.UD, Desc.Gate(g.StubCode, Guest.Stub(X.UD), type));
            });
            using (g)
            {
                Assert.Equal(X.UD, o.Vector);
                Assert.Equal(0x4200ul, o.Frame.Flags & 0x4300);
                Assert.Equal(type == Desc.TrapGate ? 0x200ul : 0, o.State.Rflags & 0x4300);
            }
        }
    }

    [Theory, Engines]
    public void In_64_bit_mode_SS_and_RSP_are_always_pushed_on_a_stack_aligned_to_16(string engine)
    {
        (Outcome o, Guest g) = One(engine, Mode.Long, 0, a => a.nop(), a => a.ud2(), g => g.State.Gpr[4] = Layout.StackTop - 3);
        using (g)
        {
            Assert.Equal((Layout.StackTop - 3, Sel.Data32), (o.Frame.Rsp, o.Frame.Ss));
            Assert.Equal(Layout.StackTop - 16ul - 40, o.State.Gpr[4]);
        }
    }

    [Theory, Engines]
    public void A_change_of_level_in_long_mode_loads_a_null_SS_with_the_new_CPL(string engine)
    {
        (Outcome o, Guest g) = One(engine, Mode.Long, 3, a => a.nop(), a => a.ud2());
        using (g)
        {
            Assert.Equal(0, o.State.Ss.Selector);
            Assert.Equal(Layout.KernelStackTop - 40ul, o.State.Gpr[4]);
            Assert.Equal((Sel.UserCode64, Sel.UserData32, (ulong)Layout.StackTop), (o.Frame.Cs, o.Frame.Ss, o.Frame.Rsp));
        }
    }

    [Theory]
    [Engines(1), Engines(3), Engines(7)]
    public void Interrupt_Stack_Table_switches_the_stack_without_a_change_of_level(string engine, int ist)
    {
        (Outcome o, Guest g) =
            One(engine, Mode.Long, 0, a => a.nop(), a => a.ud2(), g => g.Idt(X.UD, Desc.Gate(Sel.Code64, Guest.Stub(X.UD), Desc.IntGate, 0, ist)));
        using (g)
        {
            Assert.Equal(Layout.Ist1Top - (ulong)(ist - 1) * 0x1000 - 40, o.State.Gpr[4]);
            Assert.Equal((ulong)Layout.StackTop, o.Frame.Rsp);
            Assert.Equal(Sel.Data32, o.State.Ss.Selector);
        }
    }

    [Theory, Engines]
    public void Exceptions_of_virtual_8086_mode_push_the_data_segments_and_null_them(string engine)
    {
        (Outcome o, Guest g) = One(engine, Mode.Virtual8086, 3, a =>
        {
            a.mov(ax, 0x1111);
            a.mov(es, ax);
            a.mov(ax, 0x2222);
            a.mov(gs, ax);
        }, a => a.ud2());
        using (g)
        {
            o.Raised(X.UD, null, g["at"]);
            Assert.Equal(0x2_0000ul, o.Frame.Flags & 0x2_0000);
            Assert.Equal(0ul, o.State.Rflags & 0x2_0000);
            Assert.Equal([0x1111, 0x3000, 0x3000, 0x2222], o.Frame.Rest[..4]);
            Assert.Equal((0, 0, 0, 0), (o.State.Es.Selector, o.State.Ds.Selector, o.State.Fs.Selector, o.State.Gs.Selector));
            Assert.Equal(Layout.KernelStackTop - 9 * 4, o.State.Gpr[4]);
        }
    }

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void Instructions_of_more_than_15_bytes_raise_GP(string engine, Mode mode)
    {
        (Outcome o, Guest g) = One(engine, mode, 0, a => a.nop(), a => a.db([.. Enumerable.Repeat((byte)0x66, 15), 0x90]));
        using (g) o.Raised(X.GP, 0, g["at"]);
        (o, g) = One(engine, mode, 0, a => a.nop(), a => a.db([.. Enumerable.Repeat((byte)0x66, 14), 0x90]));
        using (g) o.Done();
    }
}
