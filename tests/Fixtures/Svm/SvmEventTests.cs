using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.SvmGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>AMD APM vol. 2, "Event Injection", "Interrupt and Local APIC Support", "Exception Intercepts", "Global Interrupt Flag", "Virtual NMI".</summary>
public sealed class SvmEventTests
{
    private const ulong Valid = 1ul << 31, HasErrorCode = 1 << 11;
    private const int External = 0, Nmi = 2 << 8, Exception = 3 << 8, Software = 4 << 8;

    /// <summary>The handler of a vector: leaves its number in RBX and exits.</summary>
    private static void HandleWith(SvmGuest g, int vector, Action<Assembler>? emit = null)
    {
        g.Host.Place(Layout.Spare, 64, a =>
        {
            emit?.Invoke(a);
            a.mov(ebx, vector);
            a.vmmcall();
        });
        g.Host.Idt(vector, Desc.Gate(Sel.Code64, Layout.Spare, Desc.IntGate));
    }

    [Theory]
    [Engines(External | 0x41, null), Engines(Nmi | 2, null), Engines(Exception | X.DE, null), Engines(Exception | X.GP, 0x1234u),
        Engines(Software | 0x55, null)]
    public void An_injected_event_is_delivered_before_the_first_instruction(string engine, int what, uint? error)
    {
        using var g = new SvmGuest();
        int vector = (byte)what;
        g.Set(Field.EventInjection, (uint)what | Valid | (error is { } e ? HasErrorCode | (ulong)e << 32 : 0));
        g.Set(Field.NextRip, GuestCode + 2ul);
        HandleWith(g, vector, a =>
        {
            if (error != null) a.pop(rcx);
            a.pop(rsi);
        });
        g.Code(a => { a.nop(); a.nop(); a.vmmcall(); });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x81ul, (ulong)vector), (g.ExitCode, o.State.Gpr[3]));
        if (error is { } code) Assert.Equal(code, o.State.Gpr[1]);
        // What INT n would push is the address behind it.
        Assert.Equal(GuestCode + ((what & 0xF00) == Software ? 2ul : 0), o.State.Gpr[6]);
        Assert.Equal(0ul, g.Get<ulong>(Field.EventInjection) & Valid);
    }

    [Theory]
    [Engines(1 << 8), Engines(5 << 8), Engines(7 << 8), Engines(Exception | 2), Engines(Exception | 32), Engines(Exception | X.BR)]
    public void An_event_that_cannot_be_is_VMEXIT_INVALID(string engine, int what)
    {
        using var g = new SvmGuest();
        g.Set(Field.EventInjection, (uint)what | Valid);
        g.Code(a => a.vmmcall());
        g.Run(engine).Done();
        Assert.Equal(ulong.MaxValue, g.ExitCode);
    }

    [Theory, Engines]
    public void A_fault_of_an_injected_event_tells_of_it_in_EXITINTINFO(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.EventInjection, 0x41 | Valid);
        g.Host.Idt(0x41, 0);
        g.Intercept(Field.Exceptions, X.NP);
        g.Intercept(Field.Exceptions, X.GP);
        g.Code(a => a.vmmcall());
        g.Run(engine).Done();
        Assert.Equal(0x40ul + X.GP, g.ExitCode);
        Assert.Equal(0x41ul << 3 | 3, g.Info1);
        Assert.Equal(0x41ul | Valid, g.Get<ulong>(Field.ExitIntInfo));
    }

    [Theory, Engines]
    public void An_intercepted_page_fault_leaves_CR2_alone_and_tells_its_address(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Exceptions, X.PF);
        g.Set(Field.Cr2, 0x7777ul);
        g.Code(a =>
        {
            g.Host.Mark(a, "at");
            a.mov(__dword_ptr[0x7000_0000], eax);
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((0x4Eul, 2ul, 0x7000_0000ul, 0x7777ul), (g.ExitCode, g.Info1, g.Info2, g.Get<ulong>(Field.Cr2)));
        Assert.Equal(g.Host["at"], g.Get<ulong>(Field.Rip));
        Assert.Equal((byte)15, g.Get<byte>(Field.FetchedBytes));
        Assert.Equal(g.Host.Read<uint>(GuestCode), g.Get<uint>(Field.FetchedBytes + 1));
    }

    [Theory, Engines]
    public void A_triple_fault_of_the_guest_is_its_hosts_affair(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.IdtrLimit, 0u);
        g.Code(a => a.ud2());
        g.Run(engine).Done();
        Assert.Equal(0x7Ful, g.ExitCode);
    }

    [Theory, Engines]
    public void An_intercepted_interrupt_is_not_acknowledged(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 0);
        g.Set(Field.Rflags, 0x202ul);
        var source = new OfferedInterrupts(0x41);
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, al);
            g.Host.Mark(a, "at");
            a.nop();
            a.vmmcall();
        });
        g.Host.OnExit = exit =>
        {
            if (exit is { Reason: ExitReason.Io, Address: Guest.ReportPort }) g.Host.Cpu.OfferInterrupt(source);
            return false;
        };
        g.Run(engine).Done();
        Assert.Equal((0x60ul, g.Host["at"], 0), (g.ExitCode, g.Get<ulong>(Field.Rip), source.Asked));
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void With_V_INTR_MASKING_the_hosts_IF_decides_about_interrupts(string engine, bool hostEnabled)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 0);
        g.Set(Field.VirtualInterrupt, 1ul << 24);
        g.Set(Field.Rflags, hostEnabled ? 2ul : 0x202ul);
        bool? open = null;
        g.Enter = a =>
        {
            a.clgi();
            if (hostEnabled) a.sti();
        };
        g.After = a => a.cli();
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, al);
            a.vmmcall();
        });
        g.Host.OnExit = exit =>
        {
            if (exit is { Reason: ExitReason.Io, Address: Guest.ReportPort }) open = g.Host.Cpu.InterruptWindowOpen;
            return false;
        };
        g.Run(engine).Done();
        Assert.Equal(hostEnabled, open);
    }

    [Theory, Engines]
    public void An_intercepted_NMI_waits_for_GIF(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 1);
        g.Code(a =>
        {
            a.@out(Guest.ReportPort, al);
            a.nop();
            a.vmmcall();
        });
        g.After = a =>
        {
            a.mov(ebx, 1);
            a.stgi();
            a.mov(ebx, 2);
        };
        g.Host.OnExit = exit =>
        {
            if (exit is { Reason: ExitReason.Io, Address: Guest.ReportPort }) g.Host.Cpu.InjectNmi();
            return false;
        };
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Hlt, (int?)X.NMI, 1ul, 0x61ul), (o.Reason, o.Vector, o.State.Gpr[3], g.ExitCode));
    }

    [Theory, Engines]
    public void A_virtual_interrupt_exits_when_it_could_be_taken(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 4);
        g.Set(Field.VirtualInterrupt, 1ul << 8 | 1ul << 20 | 1ul << 24 | 0x55ul << 32);
        g.Code(a =>
        {
            a.nop();
            a.sti();
            a.nop();
            g.Host.Mark(a, "at");
            a.nop();
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((0x64ul, g.Host["at"]), (g.ExitCode, g.Get<ulong>(Field.Rip)));
        Assert.NotEqual(0ul, g.Get<ulong>(Field.VirtualInterrupt) & 1ul << 8);
    }

    [Theory]
    [Engines(5, 4, true), Engines(4, 4, false)]
    public void A_virtual_interrupt_is_delivered_when_its_priority_is_above_V_TPR(string engine, int priority, int taskPriority, bool delivered)
    {
        using var g = new SvmGuest();
        g.Set(Field.VirtualInterrupt, 1ul << 8 | (ulong)priority << 16 | 1ul << 24 | 0x55ul << 32);
        g.Set(Field.Rflags, 0x202ul);
        HandleWith(g, 0x55);
        g.Code(a =>
        {
            a.xor(ebx, ebx);
            a.cli();
            a.mov(eax, taskPriority);
            a.mov(cr8, rax);
            a.sti();
            a.nop();
            a.nop();
            a.vmmcall();
        });
        g.Set(Field.Rflags, 2ul);
        Outcome o = g.Run(engine).Done();
        Assert.Equal(delivered ? 0x55ul : 0ul, o.State.Gpr[3]);
        Assert.Equal(delivered ? 0ul : 1ul << 8, g.Get<ulong>(Field.VirtualInterrupt) & 1ul << 8);
    }

    [Theory, Engines]
    public void An_exit_in_an_interrupt_shadow_saves_it(string engine)
    {
        using var g = new SvmGuest();
        g.Code(a =>
        {
            a.sti();
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((0x81ul, 1ul), (g.ExitCode, g.Get<ulong>(Field.InterruptShadow)));
    }

    [Theory, Engines]
    public void A_guest_that_is_entered_in_an_interrupt_shadow_takes_no_virtual_interrupt_before_its_first_instruction(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 4);
        g.Set(Field.VirtualInterrupt, 1ul << 8 | 1ul << 20 | 1ul << 24);
        g.Set(Field.InterruptShadow, 1ul);
        g.Set(Field.Rflags, 0x202ul);
        g.Code(a =>
        {
            a.nop();
            g.Host.Mark(a, "at");
            a.nop();
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((0x64ul, g.Host["at"]), (g.ExitCode, g.Get<ulong>(Field.Rip)));
    }

    [Theory, Engines]
    public void With_a_virtual_GIF_STGI_and_CLGI_change_it_alone(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.VirtualInterrupt, 1ul << 25);
        g.Code(a =>
        {
            a.stgi();
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((0x81ul, 1ul << 9), (g.ExitCode, g.Get<ulong>(Field.VirtualInterrupt) & 1ul << 9));
    }

    [Theory, Engines]
    public void A_virtual_NMI_is_delivered_once_and_blocks_the_next_until_IRET(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 1);
        g.Set(Field.VirtualInterrupt, 1ul << 26 | 1ul << 11);
        HandleWith(g, X.NMI);
        g.Code(a =>
        {
            a.xor(ebx, ebx);
            a.vmmcall();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x81ul, (ulong)X.NMI, 1ul << 12), (g.ExitCode, o.State.Gpr[3], g.Get<ulong>(Field.VirtualInterrupt) & 3ul << 11));
    }

    /// <summary>AMD APM vol. 2, "INIT Intercept", "Security Exception (#SX)".</summary>
    [Theory]
    [Engines(true, true), Engines(true, false), Engines(false, true), Engines(false, false)]
    public void An_intercepted_INIT_waits_for_GIF_and_becomes_SX_where_that_is_asked_for(string engine, bool intercepted, bool redirected)
    {
        const int sx = 30, sent = 0x7100, behind = 0x7101, told = 0x7102;
        using var g = new SvmGuest();
        if (redirected)
        {
            g.Enter = a =>
            {
                a.mov(ecx, 0xC001_0114); // VM_CR
                a.mov(eax, 2); // R_INIT
                a.xor(edx, edx);
                a.wrmsr();
            };
        }
        if (intercepted) g.Intercept(Field.Intercepts1, 3);
        HandleWith(g, sx, a =>
        {
            a.pop(rcx);
            a.mov(edx, told);
            a.@out(dx, al);
        });
        g.After = a =>
        {
            a.mov(edx, behind);
            a.@out(dx, al);
            a.stgi();
            a.nop();
        };
        g.Code(a =>
        {
            a.mov(edx, sent);
            a.@out(dx, al);
            g.Host.Mark(a, "next");
            a.vmmcall();
        });
        var responses = new List<(ulong Where, InitResponse Response)>();
        bool waits = false, ends = false;
        g.Host.OnExit = e =>
        {
            ulong where = e.Reason == ExitReason.Io ? e.Address : 0;
            waits |= where == sent;
            ends |= where == told;
            if (waits && (where is sent or behind || e.Reason == ExitReason.Kicked))
            {
                InitResponse response = g.Host.Cpu.TakeInit();
                responses.Add((where, response));
                waits = response == InitResponse.Blocked;
                ends |= response == InitResponse.Initialize;
            }
            return ends;
        };
        Outcome o = g.Run(engine);
        InitResponse last = redirected ? InitResponse.Taken : InitResponse.Initialize;
        if (!intercepted)
        {
            Assert.Equal((sent, last), ((int)responses[^1].Where, responses[^1].Response));
            Assert.Single(responses);
        }
        else
        {
            // Where the guest sends it, where the host goes on with GIF clear, and behind STGI; an engine that is two is kicked more often.
            Assert.Equal([((ulong)sent, InitResponse.Blocked), ((ulong)behind, InitResponse.Blocked), (0ul, last)],
                responses.Where(r => r != (0ul, InitResponse.Blocked)).Distinct());
            Assert.Equal((0x63ul, g.Host["next"]), (g.ExitCode, g.Get<ulong>(Field.Rip)));
        }
        if (redirected) Assert.Equal(1ul, o.State.Gpr[1]); // the error code
    }
}
