using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Exceptions that come up while an event is delivered ask the exception bitmap, each as it is, before it becomes a double fault and before shutdown. Intel SDM
/// vol. 3C, "Exceptions" among "Other Causes of VM Exits", and "Information for VM Exits During Event Delivery".
/// </summary>
public sealed class EventExitTests
{
    private static void Break(Guest g, int vector) => g.Idt(vector, Desc.Gate(g.StubCode, 0, Desc.IntGate - Desc.NotPresent));

    /// <summary>The run ends with an exit for <paramref name="vector"/> at the mark, nothing pushed, and says what was being delivered.</summary>
    private static void Exits(string engine, Guest g, int vector, uint error, VectoredEvent during, string mark = "at")
    {
        X86Exit? last = null;
        g.OnExit = exit =>
        {
            last = exit;
            return false;
        };
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Exception, (ulong)vector, error, (VectoredEvent?)during), (o.Reason, last!.Address, last.ErrorCode, last.Vectoring));
        Assert.Equal((g[mark], (ulong)Layout.StackTop), (o.State.Rip, o.State.Gpr[4]));
    }

    private static Guest One(string engine, Mode mode, Action<Guest, Assembler> emit, params int[] bitmap)
    {
        var g = new Guest(mode);
        g.Code(a =>
        {
            g.Mark(a, "at");
            emit(g, a);
            g.Mark(a, "next");
            a.hlt();
        });
        g.State.Gpr[3] = 0x80_0000;
        uint bits = 0;
        foreach (int vector in bitmap) bits |= 1u << vector;
        g.On(engine).Cpu.Controls = new ExecutionControls(ExceptionBitmap: bits);
        return g;
    }

    private static VectoredEvent Fault(int vector, uint? error = null) => new(EventKind.HardwareException, (byte)vector, error);

    [Theory, Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_fault_behind_the_end_of_the_IDT_exits_instead_of_ending_in_shutdown(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.State.IdtrLimit = 0;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.ud2();
        });
        g.On(engine).Cpu.Controls = new ExecutionControls(ExceptionBitmap: 1u << X.GP);
        Exits(engine, g, X.GP, X.UD << 3 | 3, Fault(X.UD));
    }

    [Theory, Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_contributory_fault_of_a_delivery_exits_as_itself(string engine, Mode mode)
    {
        using Guest g = One(engine, mode, (_, a) => a.div(ecx), X.NP, X.DF);
        Break(g, X.DE);
        Exits(engine, g, X.NP, X.DE << 3 | 3, Fault(X.DE));
    }

    [Theory, Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_double_fault_exits_before_it_is_delivered(string engine, Mode mode)
    {
        using Guest g = One(engine, mode, (_, a) => a.div(ecx), X.DF);
        Break(g, X.DE);
        Exits(engine, g, X.DF, 0, Fault(X.DE));
    }

    [Theory, Engines]
    public void A_fault_of_a_double_faults_delivery_exits_instead_of_shutdown(string engine)
    {
        // #DE's gate is absent, and so is the stack of #DF.
        using Guest g = One(engine, Mode.Long, (_, a) => a.div(ecx), X.PF);
        Break(g, X.DE);
        g.Idt(X.DF, Desc.Gate(Sel.Code64, Guest.Stub(X.DF), Desc.IntGate, 0, 1));
        g.Tables[Layout.Ist1Top - 8] = 0;
        Exits(engine, g, X.PF, 2, Fault(X.DF, 0));
    }

    [Theory, Engines(X.NP), Engines(X.DF)]
    public void A_fault_of_a_page_faults_delivery_exits(string engine, int vector)
    {
        using Guest g = One(engine, Mode.Long, (_, a) =>
        {
            a.mov(eax, __dword_ptr[rbx]);
        }, vector);
        Break(g, X.PF);
        Exits(engine, g, vector, vector == X.NP ? X.PF << 3 | 3u : 0, Fault(X.PF, 0));
    }

    [Theory, Engines]
    public void A_page_fault_of_a_delivery_exits(string engine)
    {
        using Guest g = One(engine, Mode.Long, (_, a) => a.ud2(), X.PF);
        g.Idt(X.UD, Desc.Gate(Sel.Code64, Guest.Stub(X.UD), Desc.IntGate, 0, 1));
        g.Tables[Layout.Ist1Top - 8] = 0;
        Exits(engine, g, X.PF, 2, Fault(X.UD));
    }

    [Theory, Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_fault_of_a_software_interrupt_exits(string engine, Mode mode)
    {
        using Guest g = One(engine, mode, (_, a) => a.@int(0x40), X.NP);
        Break(g, 0x40);
        Exits(engine, g, X.NP, 0x40 << 3 | 2, new VectoredEvent(EventKind.SoftwareInterrupt, 0x40, null, InstructionLength: 2));
        using Guest trap = One(engine, mode, (_, a) => a.int3(), X.NP);
        Break(trap, X.BP);
        Exits(engine, trap, X.NP, X.BP << 3 | 2, new VectoredEvent(EventKind.SoftwareException, X.BP, null, InstructionLength: 1));
    }

    [Theory, Engines]
    public void A_fault_of_an_injected_event_exits(string engine)
    {
        foreach (EventKind kind in (EventKind[])[EventKind.ExternalInterrupt, EventKind.Nmi, EventKind.HardwareException])
        {
            using Guest g = One(engine, Mode.Long, (_, a) => a.nop(), X.NP);
            byte vector = kind == EventKind.ExternalInterrupt ? (byte)0x41 : kind == EventKind.Nmi ? (byte)X.NMI : (byte)X.SS;
            Break(g, vector);
            uint? error = null;
            if (kind == EventKind.ExternalInterrupt)
            {
                var state = new CpuState();
                g.Cpu.ReadState(state);
                state.Rflags |= 0x200;
                g.Cpu.WriteState(state);
                g.Cpu.InjectInterrupt(vector);
            }
            else if (kind == EventKind.Nmi)
            {
                g.Cpu.InjectNmi();
            }
            else
            {
                g.Cpu.InjectException(vector, error = 0x18);
            }
            // A benign event and #NP: serially, so it is #NP that exits; of #SS it would be a double fault.
            Exits(engine, g, X.NP, (uint)vector << 3 | 3, new VectoredEvent(kind, vector, error));
        }
    }

    [Theory, Engines]
    public void A_fault_of_a_single_step_traps_delivery_exits_and_without_the_bitmap_it_ends_in_shutdown(string engine)
    {
        using Guest g = One(engine, Mode.Long, (_, a) => a.nop(), X.NP);
        Break(g, X.DB);
        StepFrom(g);
        Exits(engine, g, X.NP, X.DB << 3 | 3, Fault(X.DB), "next");

        using Guest shutdown = One(engine, Mode.Long, (_, a) => a.nop());
        foreach (int vector in (int[])[X.DB, X.NP, X.DF]) Break(shutdown, vector);
        StepFrom(shutdown);
        shutdown.Run(engine).TripleFault();

        static void StepFrom(Guest g)
        {
            var state = new CpuState();
            g.Cpu.ReadState(state);
            state.Rflags |= 0x100;
            g.Cpu.WriteState(state);
        }
    }

    [Theory, Engines]
    public void An_exit_of_the_stepped_instruction_comes_before_that_of_its_trap(string engine)
    {
        using Guest g = One(engine, Mode.Long, (_, a) => a.@out(0xE0, al), X.NP);
        Break(g, X.DB);
        var state = new CpuState();
        g.Cpu.ReadState(state);
        state.Rflags |= 0x100;
        g.Cpu.WriteState(state);
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Exception, 1, g["next"]), (o.Reason, o.Reports.Length, o.State.Rip));
    }

    [Theory, Engines]
    public void A_fault_in_the_new_task_of_a_task_switch_exits_there(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        const uint entry = Layout.Code + 0x800;
        g.Gdt(Sel.Free, Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32));
        g.Write(Layout.OtherTss + 0x20, entry);
        g.Write(Layout.OtherTss + 0x24, 2u);
        // ES to GS stay null; SS is one, too, which no task may have.
        g.Write<uint>(Layout.OtherTss + 0x4C, Sel.Code32);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.jmp(Sel.Free, 0u);
        });
        g.Place(entry, 32, a => a.hlt());
        X86Exit? last = null;
        g.OnExit = exit =>
        {
            last = exit;
            return false;
        };
        g.On(engine).Cpu.Controls = new ExecutionControls(ExceptionBitmap: 1u << X.TS);
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Exception, (ulong)X.TS, 0u), (o.Reason, last!.Address, last.ErrorCode));
        Assert.Equal(((ulong)entry, Sel.Free), (o.State.Rip, o.State.Tr.Selector));
    }

    [Theory, Engines]
    public void The_guest_goes_on_when_the_event_is_injected_again(string engine)
    {
        using Guest g = One(engine, Mode.Long, (_, a) => a.ud2(), X.NP);
        Break(g, X.UD);
        Exits(engine, g, X.NP, X.UD << 3 | 3, Fault(X.UD));
        g.Idt(X.UD, Desc.Gate(g.StubCode, Guest.Stub(X.UD), Desc.IntGate));
        g.Cpu.InjectException(X.UD, null);
        g.Run(engine).Raised(X.UD, null, g["at"]);
    }
}
