using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3B, "8086 Emulation": virtual-8086 mode, IOPL-sensitive instructions, and the interrupt handling of CR4.VME.</summary>
/// <remarks>QEMU 7.2's TCG agrees where it can: it has no VME.</remarks>
public sealed class Virtual8086Tests
{
    private const ulong Vif = 1 << 19, Vip = 1 << 20, If = 1 << 9, Iopl = 0x3000;

    private static (Outcome, Guest) One(string engine, Action<Assembler> emit, bool iopl3, bool vme = false, Action<Guest>? prepare = null)
    {
        var g = new Guest(Mode.Virtual8086);
        if (!iopl3) g.State.Rflags &= ~Iopl;
        if (vme) g.State.Cr4 |= 1;
        prepare?.Invoke(g);
        g.Code(a =>
        {
            g.Mark(a, "at");
            emit(a);
            g.Mark(a, "next");
            a.ud2();
        });
        return (g.Run(engine), g);
    }

    private static readonly (string Name, Action<Assembler> Emit)[] s_sensitive =
    [
        ("CLI", a => a.cli()), ("STI", a => a.sti()), ("PUSHF", a => a.pushf()), ("POPF", a => a.popf()), ("IRET", a => a.iret()), ("INT n", a => a.@int(0x20)),
            ("PUSHFD", a => a.pushfd()),
    ];

    [Theory, Engines]
    public void CLI_STI_PUSHF_POPF_INT_n_and_IRET_raise_GP_with_IOPL_below_3(string engine)
    {
        foreach ((string _, Action<Assembler> emit) in s_sensitive)
        {
            (Outcome o, Guest g) = One(engine, emit, iopl3: false);
            using (g) o.Raised(X.GP, 0, g["at"]);
        }
    }

    [Theory, Engines]
    public void INT3_and_INTO_are_not_IOPL_sensitive(string engine)
    {
        (Outcome o, Guest g) = One(engine, a => a.int3(), iopl3: false);
        using (g) o.Raised(X.BP, null, g["next"]);
    }

    [Theory, Engines]
    public void Privileged_and_protected_mode_instructions_raise_GP_or_UD(string engine)
    {
        foreach ((Action<Assembler> emit, int vector) in ((Action<Assembler>, int)[])
            [
                (a => a.hlt(), X.GP), (a => a.mov(eax, cr0), X.GP), (a => a.clts(), X.GP), (a => a.wbinvd(), X.GP), (a => a.lgdt(__[bx]), X.GP),
                    (a => a.rdmsr(), X.GP),
                (a => a.lldt(ax), X.UD), (a => a.sldt(ax), X.UD), (a => a.verr(ax), X.UD), (a => a.lar(ax, bx), X.UD), (a => a.arpl(ax, bx), X.UD),
                    (a => a.@in(al, dx), X.GP),
            ])
        {
            (Outcome o, Guest g) = One(engine, emit, iopl3: true);
            using (g)
            {
                // In virtual-8086 mode IOPL does not open ports: the bitmap does.
                o.Raised(vector, vector == X.GP ? 0u : null, g["at"]);
            }
        }
    }

    [Theory, Engines]
    public void INT_n_with_IOPL_3_goes_through_the_IDT_to_level_0_and_needs_a_gate_for_level_3(string engine)
    {
        (Outcome o, Guest g) = One(engine, a => a.@int(0x20), iopl3: true);
        using (g) o.Raised(X.GP, 0x20 << 3 | 2, g["at"]);
        (o, g) = One(engine, a => a.@int(0x20), iopl3: true, prepare: g => g.Idt(0x20, Desc.Gate(Sel.Code32, Guest.Stub(0x20), Desc.IntGate, 3)));
        using (g) o.Raised(0x20, null, g["next"]);
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void With_VME_a_clear_redirection_bit_sends_INT_n_to_the_programs_own_handler(string engine, bool iopl3)
    {
        using var h = new Guest(Mode.Virtual8086);
        h.State.Cr4 |= 1;
        h.State.Rflags |= If | Vif;
        if (!iopl3) h.State.Rflags &= ~Iopl;
        h.Write(0x20 * 4, Layout.Code + 0x100 >> 4 << 16);
        h.Code(a =>
        {
            a.@int(0x20);
            h.Mark(a, "next");
            a.nop();
        });
        h.Place(Layout.Code + 0x100, 16, a => a.ud2());
        Outcome o = h.Run(engine);
        Assert.Equal((X.UD, 0ul, (ushort)(Layout.Code + 0x100 >> 4)), (o.Vector, o.Frame.Rip, o.Frame.Cs));
        uint sp = Layout.StackTop - 6;
        Assert.Equal(((ushort)h["next"], (ushort)(Layout.Code >> 4)), (h.Read<ushort>(sp), h.Read<ushort>(sp + 2)));
        // With IOPL 3 IF is pushed and cleared, else the image shows VIF as IF and IOPL 3, and VIF is cleared.
        Assert.Equal(If | Iopl, h.Read<ushort>(sp + 4) & (If | Iopl));
        Assert.Equal(iopl3 ? Vif : If, o.Frame.Flags & (If | Vif));
    }

    [Theory, Engines]
    public void With_VME_a_set_redirection_bit_needs_IOPL_3(string engine)
    {
        void Redirect(Guest g) => g.Write(Layout.TssRedirection + 0x20 / 8, (byte)1);
        (Outcome o, Guest g) = One(engine, a => a.@int(0x20), iopl3: false, vme: true, prepare: Redirect);
        using (g) o.Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void With_VME_CLI_and_STI_act_on_VIF_and_PUSHF_shows_it(string engine)
    {
        (Outcome o, Guest g) = One(engine, a =>
        {
            a.sti();
            a.pushf();
            a.pop(ax);
            a.cli();
            a.pushf();
            a.pop(bx);
        }, iopl3: false, vme: true);
        using (g)
        {
            Assert.Equal(X.UD, o.Vector);
            Assert.Equal((If | Iopl, Iopl), (o.State.Gpr[0] & (If | Iopl), o.State.Gpr[3] & (If | Iopl)));
            Assert.Equal(0ul, o.Frame.Flags & (If | Vif));
        }
    }

    [Theory, Engines]
    public void With_VME_and_VIP_STI_and_a_POPF_that_sets_IF_raise_GP(string engine)
    {
        (Outcome o, Guest g) = One(engine, a => a.sti(), iopl3: false, vme: true, prepare: g => g.State.Rflags |= Vip);
        using (g) o.Raised(X.GP, 0, g["at"]);
        using var h = new Guest(Mode.Virtual8086);
        h.State.Cr4 |= 1;
        h.State.Rflags = h.State.Rflags & ~Iopl | Vip;
        h.Code(a =>
        {
            a.push(0x200);
            h.Mark(a, "at");
            a.popf();
        });
        h.Run(engine).Raised(X.GP, 0, h["at"]);
    }

    [Theory, Engines]
    public void IRETD_from_level_0_enters_virtual_8086_mode_with_all_segments(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            foreach (int value in (int[])[0x5000, 0x4000, 0x3000, 0x2222, (int)Layout.StackBase >> 4, 0x1000, 0x2_3202, (int)Layout.Code >> 4, 0x200])
                a.push(value);
            a.iretd();
        });
        g.Place(Layout.Code + 0x200, 16, a => a.ud2());
        Outcome o = g.Run(engine).Raised(X.UD, null, 0x200);
        Assert.Equal(0x2_3202ul | 1 << 16, o.Frame.Flags);
        Assert.Equal((0x1000ul, (ushort)(Layout.StackBase >> 4)), (o.Frame.Rsp, o.Frame.Ss));
        Assert.Equal([0x2222, 0x3000, 0x4000, 0x5000], o.Frame.Rest[..4]);
    }

    [Theory]
    [Engines(0x3C0, 1, true), Engines(0x3C1, 1, false), Engines(0x3C0, 2, false), Engines(0x3BF, 1, false), Engines(0x3F8, 1, false), Engines(0x5000, 1, false)]
    public void The_IO_permission_bitmap_opens_ports_and_all_bits_of_an_access_must_be_clear(string engine, int port, int size, bool allowed)
    {
        foreach (Mode mode in (Mode[])[Mode.Virtual8086, Mode.Protected32, Mode.Long])
        {
            using var g = new Guest(mode, 3);
            g.State.Rflags &= ~Iopl;
            if (mode == Mode.Virtual8086) g.State.Rflags |= Iopl; // means nothing here
            g.Write(Layout.TssIoMap + 0x3C0 / 8, (byte)0xFE);
            g.Code(a =>
            {
                a.mov(dx, (short)port);
                g.Mark(a, "at");
                if (size == 1) a.@in(al, dx);
                else a.@in(ax, dx);
                g.Mark(a, "next");
                g.End(a);
            });
            if (mode == Mode.Virtual8086) g.Idt(X.Done, Desc.Gate(Sel.Code32, Guest.Stub(X.Done), Desc.IntGate, 3));
            Outcome o = g.Run(engine);
            if (allowed) Assert.Equal((null, 1), (o.Vector, o.Accesses.Count));
            else o.Raised(X.GP, 0, g["at"]);
        }
    }
}
