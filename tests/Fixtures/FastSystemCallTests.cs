using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>AMD APM vol. 2, "SYSCALL and SYSRET"; Intel SDM vol. 2, SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS "Operation".</summary>
/// <remarks>QEMU 7.2's TCG agrees, but loses the arithmetic flags at SYSCALL, which the manuals mask by FMASK only.</remarks>
[TinyCachesToo]
public sealed class FastSystemCallTests
{
    private const uint Entry = Layout.Code + 0x800, EntryCompat = Layout.Code + 0x900;
    private const uint Star = 0xC000_0081, Lstar = 0xC000_0082, Cstar = 0xC000_0083, Fmask = 0xC000_0084, KernelGsBase = 0xC000_0102;
    // SYSRET takes CS from the base + 16 and SS from the base + 8.
    private const ushort UserBase = Sel.Free;

    private static Guest NewGuest(Mode mode, int cpl, string model = "max")
    {
        var g = new Guest(mode, cpl, model);
        g.State.Msrs[Star] = (ulong)UserBase << 48 | (ulong)Sel.Code32 << 32;
        g.State.Msrs[Lstar] = Entry;
        g.State.Msrs[Cstar] = EntryCompat;
        g.State.Msrs[Fmask] = 0x4_0700;
        return g;
    }

    [Theory]
    [Engines("max"), Engines("x86-64-v3-intel")]
    public void SYSCALL_saves_RIP_and_RFLAGS_masks_the_flags_and_loads_fixed_segments(string engine, string model)
    {
        using Guest g = NewGuest(Mode.Long, 3, model);
        g.Tables[Layout.Code] &= ~Pte.U; // the entry is in a supervisor page; the user's code is elsewhere
        g.State.Rip = Layout.Spare;
        g.State.Rflags |= 0x4_0603;
        g.Place(Layout.Spare, 64, a =>
        {
            a.syscall();
            g.Mark(a, "next");
            a.nop();
        });
        g.Place(Entry, 64, a => a.hlt());
        Outcome o = g.Run(engine).Done();
        Assert.Equal((g["next"], 0x4_0603ul, 0x3ul), (o.State.Gpr[1], o.State.Gpr[11], o.State.Rflags));
        Assert.Equal((Sel.Code32, Sel.Code32 + 8), (o.State.Cs.Selector, o.State.Ss.Selector));
        Assert.Equal((0xA09Bu, 0xC093u), (o.State.Cs.Attributes, o.State.Ss.Attributes));
        Assert.Equal((ulong)Layout.StackTop, o.State.Gpr[4]);
    }

    /// <summary>FCS is the code segment in which the last x87 instruction was, whatever runs afterwards.</summary>
    [Theory, Engines]
    public void The_selector_of_the_last_x87_instruction_is_that_of_the_program(string engine)
    {
        using Guest g = NewGuest(Mode.Long, 3);
        g.Code(a =>
        {
            a.fld1();
            a.fstp(st0);
            a.syscall();
        });
        g.Place(Entry, 64, a => a.hlt());
        Outcome o = g.Run(engine).Done();
        Assert.Equal((Sel.UserCode64, Sel.Code32), (o.State.X87Cs, o.State.Cs.Selector));
    }

    [Theory, Engines]
    public void Behind_SYSRET_a_page_of_the_kernel_is_closed_again(string engine)
    {
        using Guest g = NewGuest(Mode.Long, 3);
        g.Tables[Layout.Code] &= ~Pte.U;
        g.State.Rip = Layout.Spare;
        g.State.Gpr[3] = 6;
        g.Place(Layout.Spare, 64, a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.syscall();
            a.dec(ebx);
            a.jne(again);
            g.Mark(a, "at");
            a.mov(rax, __qword_ptr[Layout.Code]);
            a.ud2();
        });
        g.Place(Entry, 64, a =>
        {
            a.mov(rax, __qword_ptr[Layout.Code]); // open here
            a.sysretq();
        });
        g.Run(engine).Raised(X.PF, 5, g["at"]);
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void SYSRET_goes_to_64_bit_or_compatibility_mode_by_its_operand_size(string engine, bool wide)
    {
        using Guest g = NewGuest(Mode.Long, 0);
        g.State.Gpr[1] = Layout.Spare;
        g.State.Gpr[11] = 0x3_4202 | 0x1_0000; // VM and RF are dropped
        g.Code(a =>
        {
            if (wide) a.sysretq();
            else a.sysret();
        });
        g.Place(Layout.Spare, wide ? 64 : 32, a =>
        {
            a.dec(eax);
            a.ud2();
        });
        Outcome o = g.Run(engine);
        Assert.Equal(X.UD, o.Vector);
        Assert.Equal((UserBase + (wide ? 16 : 0) | 3, UserBase + 8 | 3), (o.Frame.Cs, o.Frame.Ss));
        Assert.Equal(0x4202ul, o.Frame.Flags & 0x2_4202);
    }

    [Theory]
    [Engines("max", X.GP, 3), Engines("x86-64-v3-intel", X.GP, 0)]
    public void SYSRET_to_a_non_canonical_address_faults_at_level_0_on_Intel_and_at_level_3_on_AMD(string engine, string model, int vector, int cpl)
    {
        using Guest g = NewGuest(Mode.Long, 0, model);
        g.State.Gpr[1] = 0x0000_8000_0000_0000;
        g.State.Gpr[11] = 2;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.sysretq();
        });
        Outcome o = g.Run(engine).Raised(vector, 0, cpl == 0 ? g["at"] : 0x0000_8000_0000_0000);
        Assert.Equal(cpl, o.Frame.Cs & 3);
    }

    [Theory]
    [Engines("max", true), Engines("x86-64-v3-intel", false)]
    public void SYSCALL_in_compatibility_mode_is_AMDs(string engine, string model, bool exists)
    {
        using Guest g = NewGuest(Mode.Compatibility, 3, model);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.syscall();
            g.Mark(a, "next");
            a.nop();
        });
        g.Place(EntryCompat, 64, a => a.ud2());
        Outcome o = g.Run(engine);
        if (exists)
        {
            Assert.Equal(((int?)X.UD, (ulong)EntryCompat, g["next"]), (o.Vector, o.Frame.Rip, o.State.Gpr[1]));
        }
        else
        {
            o.Raised(X.UD, null, g["at"]);
        }
    }

    [Theory, Engines]
    public void Without_EFER_SCE_SYSCALL_and_SYSRET_raise_UD(string engine)
    {
        foreach (bool ret in (bool[])[false, true])
        {
            using Guest g = NewGuest(Mode.Long, 0);
            g.State.Efer &= ~1ul;
            g.Code(a =>
            {
                g.Mark(a, "at");
                if (ret) a.sysretq();
                else a.syscall();
            });
            g.Run(engine).Raised(X.UD, null, g["at"]);
        }
    }

    [Theory, Engines]
    public void SYSRET_at_level_3_raises_GP(string engine)
    {
        using Guest g = NewGuest(Mode.Long, 3);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.sysretq();
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void SYSENTER_and_SYSEXIT_in_protected_mode(string engine)
    {
        using var g = new Guest(Mode.Protected32, 3);
        g.State.Msrs[0x174] = Sel.Free;
        g.State.Msrs[0x175] = Layout.Stack1Top;
        g.State.Msrs[0x176] = Entry;
        g.State.Rflags |= 0x200;
        // Code and data at levels 0 and 3, in the order that the instructions assume.
        g.Code(a =>
        {
            a.sysenter();
            a.nop();
        });
        g.Place(Entry, 32, a =>
        {
            a.mov(eax, cs);
            Guest.Report(a);
            a.mov(eax, ss);
            Guest.Report(a);
            a.mov(eax, esp);
            Guest.Report(a);
            a.pushfd();
            a.pop(eax);
            Guest.Report(a);
            a.mov(ecx, Layout.StackTop - 0x100);
            a.mov(edx, Layout.Code + 0x100);
            a.sysexit();
        });
        g.Place(Layout.Code + 0x100, 32, a => a.ud2());
        Outcome o = g.Run(engine).Raised(X.UD, null, Layout.Code + 0x100);
        Assert.Equal([Sel.Free, Sel.Free + 8, Layout.Stack1Top, 2], o.Reports);
        Assert.Equal((Sel.Free + 16 | 3, Sel.Free + 24 | 3, Layout.StackTop - 0x100ul), (o.Frame.Cs, o.Frame.Ss, o.Frame.Rsp));
    }

    [Theory]
    [Engines("max", false), Engines("x86-64-v3-intel", true)]
    public void SYSENTER_in_long_mode_is_Intels(string engine, string model, bool exists)
    {
        using var g = new Guest(Mode.Long, 3, model);
        g.State.Msrs[0x174] = Sel.Code64;
        g.State.Msrs[0x175] = Layout.Stack1Top;
        g.State.Msrs[0x176] = Entry;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.sysenter();
        });
        g.Place(Entry, 64, a =>
        {
            a.mov(rax, rsp);
            a.hlt();
        });
        Outcome o = g.Run(engine);
        if (!exists) o.Raised(X.UD, null, g["at"]);
        else Assert.Equal((Layout.Stack1Top, Entry + 4ul), (o.State.Gpr[0], o.State.Rip));
    }

    [Theory, Engines]
    public void SYSENTER_with_a_null_CS_raises_GP(string engine)
    {
        using var g = new Guest(Mode.Protected32, 3);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.sysenter();
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void SWAPGS_exchanges_the_GS_base_and_is_privileged(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Msrs[KernelGsBase] = Layout.Data + 0x100;
        g.State.Gs = g.State.Gs with { Base = Layout.Data };
        g.Write(Layout.Data, 0x11u);
        g.Write(Layout.Data + 0x100, 0x22u);
        g.Code(a =>
        {
            for (int n = 0; n < 3; n++)
            {
                a.mov(eax, __dword_ptr.gs[0]);
                Guest.Report(a);
                a.swapgs();
            }
            a.hlt();
        });
        Assert.Equal([0x11ul, 0x22, 0x11], g.Run(engine).Done().Reports);

        using var user = new Guest(Mode.Long, 3);
        user.Code(a =>
        {
            user.Mark(a, "at");
            a.swapgs();
        });
        user.Run(engine).Raised(X.GP, 0, user["at"]);
        using var legacy = new Guest(Mode.Protected32);
        legacy.Code(a =>
        {
            legacy.Mark(a, "at");
            a.db(0x0F, 0x01, 0xF8);
        });
        legacy.Run(engine).Raised(X.UD, null, legacy["at"]);
    }
}
