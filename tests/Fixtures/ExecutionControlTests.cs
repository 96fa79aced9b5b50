using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Execution controls: what exits, before any effect, and how each exit is completed. Intel SDM vol. 3C, "Instructions That Cause VM Exits Conditionally",
/// "Exception Bitmap".
/// </summary>
public sealed class ExecutionControlTests
{
    /// <summary>Runs code whose instruction at "at" must exit; returns after the whole run.</summary>
    private static (Outcome, List<X86Exit>) Run(string engine, InterceptedInstructions controls, Action<Guest, Assembler> emit, Action<X86Exit>? answer = null,
        Action<Guest>? prepare = null, int cpl = 0)
    {
        using var g = new Guest(Mode.Long, cpl);
        g.Code(a => emit(g, a));
        prepare?.Invoke(g);
        var seen = new List<X86Exit>();
        var state = new CpuState();
        g.OnExit = exit =>
        {
            if (exit.Reason is ExitReason.Hlt or ExitReason.Io) return false;
            g.Cpu.ReadState(state);
            Assert.Equal(g["at"], state.Rip);
            seen.Add(new X86Exit
            {
                Reason = exit.Reason,
                IsWrite = exit.IsWrite,
                Address = exit.Address,
                Data = exit.Data,
                Leaf = exit.Leaf,
                Subleaf = exit.Subleaf,
                Eax = exit.Eax
            });
            answer?.Invoke(exit);
            return false;
        };
        g.On(engine).Cpu.Controls = new ExecutionControls(controls);
        return (g.Run(engine), seen);
    }

    [Theory, Engines]
    public void CPUID_exits_with_leaf_and_subleaf_and_gives_what_the_hypervisor_answers(string engine)
    {
        (Outcome o, List<X86Exit> seen) = Run(engine, InterceptedInstructions.Cpuid, (g, a) =>
        {
            a.mov(eax, 7);
            a.mov(ecx, 3);
            g.Mark(a, "at");
            a.cpuid();
            a.hlt();
        }, exit => (exit.Eax, exit.Ebx, exit.Ecx, exit.Edx) = (0x11111111, 0x22222222, 0x33333333, 0x84444444));
        o.Done();
        Assert.Equal((7u, 3u), (seen.Single().Leaf, seen[0].Subleaf));
        Assert.Equal((0x11111111ul, 0x22222222ul, 0x33333333ul, 0x84444444ul), (o.State.Gpr[0], o.State.Gpr[3], o.State.Gpr[1], o.State.Gpr[2]));
    }

    [Theory, Engines]
    public void Code_under_other_controls_stays_decoded_beside(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.xor(eax, eax);
            a.cpuid();
            a.@out(Guest.ReportPort, eax);
            a.jmp(again);
        });
        var decoded = new List<ulong>();
        int exits = 0, rounds = 0;
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Cpuid)
            {
                exits++;
                exit.Eax = 0x1234;
            }
            if (exit.Reason != ExitReason.Io) return false;
            Assert.Equal(rounds % 2 == 1, exit.Data == 0x1234);
            decoded.Add(g.Cpu.Counters.BlocksDecoded);
            g.Cpu.Controls = g.Cpu.Controls with { Instructions = ++rounds % 2 == 1 ? InterceptedInstructions.Cpuid : InterceptedInstructions.None };
            return rounds == 40;
        };
        g.On(engine).Cpu.Controls = new ExecutionControls(InterceptedInstructions.None);
        g.Run(engine);
        Assert.Equal(20, exits);
        Assert.Equal(decoded[3], decoded[^1]);
    }

    [Theory, Engines]
    public void More_sets_of_controls_than_are_remembered_still_do_what_they_say(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.pause();
            a.xor(eax, eax);
            a.cpuid();
            a.rdtsc();
            a.mov(rbx, cr4);
            a.mov(cr4, rbx);
            a.mov(rbx, cr3);
            a.@out(Guest.ReportPort, eax);
            a.jmp(again);
        });
        (InterceptedInstructions Control, ExitReason Reason)[] kinds =
            [(InterceptedInstructions.Pause, ExitReason.Pause), (InterceptedInstructions.Cpuid, ExitReason.Cpuid),
                (InterceptedInstructions.Rdtsc, ExitReason.Rdtsc), (InterceptedInstructions.Cr4, ExitReason.CrAccess),
                (InterceptedInstructions.Cr3Store, ExitReason.CrAccess)];
        int set = 0;
        var seen = new List<ExitReason>();
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.Io)
            {
                seen.Add(exit.Reason);
                return false;
            }
            Assert.Equal(kinds.Where((_, n) => (set >> n & 1) != 0).Select(k => k.Reason), seen);
            seen.Clear();
            set++;
            g.Cpu.Controls =
                g.Cpu.Controls with
                {
                    Instructions = kinds.Where((_, n) => (set >> n & 1) != 0)
                .Aggregate(InterceptedInstructions.None, (all, k) => all | k.Control)
                };
            return set == 32 * 3;
        };
        g.On(engine).Cpu.Controls = new ExecutionControls(InterceptedInstructions.None);
        g.Run(engine);
    }

    [Theory, Engines]
    public void An_intercepted_CPUID_that_nobody_answers_gives_the_processors_own_values(string engine)
    {
        static void Emit(Guest g, Assembler a)
        {
            a.mov(eax, 1);
            g.Mark(a, "at");
            a.cpuid();
            a.hlt();
        }
        Outcome watched = Run(engine, InterceptedInstructions.Cpuid, Emit).Item1, plain = Run(engine, InterceptedInstructions.None, Emit).Item1;
        Assert.Equal(plain.State.Gpr, watched.State.Gpr);
    }

    [Theory]
    [Engines(InterceptedInstructions.Pause, ExitReason.Pause, 0)]
    [Engines(InterceptedInstructions.Rdtsc, ExitReason.Rdtsc, 0)]
    [Engines(InterceptedInstructions.Invlpg, ExitReason.Invlpg, 0x1234)]
    [Engines(InterceptedInstructions.Wbinvd, ExitReason.Wbinvd, 0)]
    [Engines(InterceptedInstructions.DescriptorTable, ExitReason.DescriptorTable, 0)]
    [Engines(InterceptedInstructions.MovDr, ExitReason.DrAccess, 3)]
    [Engines(InterceptedInstructions.Cr0, ExitReason.CrAccess, 0)]
    [Engines(InterceptedInstructions.Cr3Load, ExitReason.CrAccess, 3)]
    [Engines(InterceptedInstructions.Cr3Store, ExitReason.CrAccess, 3)]
    [Engines(InterceptedInstructions.Cr4, ExitReason.CrAccess, 4)]
    [Engines(InterceptedInstructions.Rdpmc, ExitReason.Rdpmc, 0)]
    public void Each_control_makes_its_instruction_exit_once_and_no_other(string engine, InterceptedInstructions control, ExitReason reason, int address)
    {
        void Emit(Guest g, Assembler a)
        {
            a.mov(rdi, Layout.Data);
            a.mov(rsi, 0x1234);
            a.xor(ecx, ecx);
            One(InterceptedInstructions.Pause, () => a.pause());
            One(InterceptedInstructions.Rdtsc, () => a.rdtsc());
            One(InterceptedInstructions.Invlpg, () => a.invlpg(__[rsi]));
            One(InterceptedInstructions.Wbinvd, () => a.wbinvd());
            One(InterceptedInstructions.DescriptorTable, () => a.sgdt(__[rdi]));
            One(InterceptedInstructions.MovDr, () => a.mov(dr3, rsi));
            One(InterceptedInstructions.Cr0, () => a.clts());
            a.mov(rax, cr4);
            One(InterceptedInstructions.Cr4, () => a.mov(cr4, rax));
            One(InterceptedInstructions.Cr3Store, () => a.mov(rax, cr3));
            One(InterceptedInstructions.Cr3Load, () => a.mov(cr3, rax));
            One(InterceptedInstructions.Rdpmc, () => a.rdpmc());
            a.hlt();

            void One(InterceptedInstructions kind, Action emit)
            {
                if (kind == control) g.Mark(a, "at");
                emit();
            }
        }
        (Outcome o, List<X86Exit> seen) = Run(engine, control, Emit);
        o.Done();
        Assert.Equal((reason, (ulong)address), (seen.Single().Reason, seen[0].Address));
        Outcome plain = Run(engine, InterceptedInstructions.None, Emit).Item1.Done();
        Assert.Equal((plain.State.Cr0, plain.State.Cr3, plain.State.Cr4, plain.State.Dr[3]), (o.State.Cr0, o.State.Cr3, o.State.Cr4, o.State.Dr[3]));
    }

    [Theory, Engines]
    public void The_hypervisor_may_change_what_MOV_to_CR4_writes_and_what_RDTSC_reads(string engine)
    {
        (Outcome o, _) = Run(engine, InterceptedInstructions.Cr4, (g, a) =>
        {
            a.mov(rax, cr4);
            a.or(eax, 4);
            g.Mark(a, "at");
            a.mov(cr4, rax);
            a.hlt();
        }, exit => exit.Data &= ~4ul);
        Assert.Equal(0ul, o.Done().State.Cr4 & 4);
        (o, _) = Run(engine, InterceptedInstructions.Rdtsc, (g, a) =>
        {
            g.Mark(a, "at");
            a.rdtsc();
            a.hlt();
        }, exit => exit.Data = 0x1234_5678_9ABC_DEF0);
        Assert.Equal((0x9ABC_DEF0ul, 0x1234_5678ul), (o.Done().State.Gpr[0], o.State.Gpr[2]));
    }

    [Theory, Engines]
    public void A_refused_intercept_raises_GP_with_nothing_done(string engine)
    {
        (Outcome o, _) = Run(engine, InterceptedInstructions.Cr0, (g, a) =>
        {
            g.Mark(a, "at");
            a.clts();
            a.hlt();
        }, exit => exit.Fault = true, g => g.State.Cr0 |= 8);
        Assert.Equal((X.GP, 0u, 8ul), (o.Vector, o.Frame.Error, o.State.Cr0 & 8));
    }

    [Theory, Engines]
    public void Privilege_comes_before_the_exit(string engine)
    {
        using var g = new Guest(Mode.Long, 3);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.wbinvd();
        });
        g.On(engine).Cpu.Controls = new ExecutionControls(InterceptedInstructions.Wbinvd);
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory]
    [Engines(X.UD), Engines(X.DE), Engines(X.PF), Engines(X.BP), Engines(X.DB)]
    public void A_vector_of_the_exception_bitmap_exits_instead_of_being_delivered(string engine, int vector)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            g.Mark(a, "at");
            switch (vector)
            {
                case X.UD: a.ud2(); break;
                case X.DE: a.div(ecx); break;
                case X.PF: a.mov(eax, __dword_ptr[rbx]); break;
                case X.BP: a.int3(); break;
                default: a.nop(); break;
            }
            g.Mark(a, "next");
            a.hlt();
        });
        g.State.Gpr[3] = 0x80_0000;
        if (vector == X.DB) g.State.Rflags |= 0x100;
        g.On(engine).Cpu.Controls = new ExecutionControls(ExceptionBitmap: 1u << vector);
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Exception, g[vector == X.DB ? "next" : "at"]), (o.Reason, o.State.Rip));
        Assert.Equal((ulong)Layout.StackTop, o.State.Gpr[4]);

        g.Cpu.InjectException(X.UD, null);
        o = g.Run(engine);
        Assert.Equal(X.UD, o.Vector);
    }

    /// <summary>Intel SDM vol. 3C, VMCALL; AMD APM vol. 3, VMMCALL: #UD where nobody is to be called, as in a VM whose hypervisor takes no calls.</summary>
    [Theory, Engines(0, false), Engines(3, false), Engines(0, true), Engines(3, true)]
    public void Hypercalls_raise_Invalid_Opcode_unless_they_are_intercepted(string engine, int cpl, bool amd)
    {
        using var g = new Guest(Mode.Long, cpl, "max,+hypervisor");
        g.Code(a =>
        {
            g.Mark(a, "at");
            if (amd) a.vmmcall();
            else a.vmcall();
            g.End(a);
        });
        g.Run(engine).Raised(X.UD, null, g["at"]);
    }
}
