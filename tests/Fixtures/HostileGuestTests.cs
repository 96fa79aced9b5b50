using Bunraku.Engines;
using Bunraku.Hypervisor;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Guests that do their worst: the monitor stays in control and ends them at once.</summary>
public sealed class HostileGuestTests
{
    /// <summary>Runs a guest on the hypervisor's own thread, lets it go round for a while, and stops it. A monitor that lost control hangs the test.</summary>
    private static StopCause StopIt(string engine, Mode mode, Action<Guest, Assembler> emit, Action<Guest>? prepare = null)
    {
        using var g = new Guest(mode);
        g.Code(a => emit(g, a));
        prepare?.Invoke(g);
        using var vm = new X86Machine(TestedEngines.Find(engine), g.Model, Layout.MemorySize);
        var memory = new byte[Layout.MemorySize];
        Assert.True(g.Memory.Read(0, memory));
        Assert.True(vm.Memory.Write(0, memory));
        vm.Cpus[0].Cpu.WriteState(g.State);
        vm.Start();
        Task.Delay(50).Wait();
        vm.Stop(new StopCause(StopReason.HostRequest));
        vm.Join();
        return vm.Stopped.Result;
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_loop_with_interrupts_off_stops(string engine, Mode mode) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, mode, (g, a) =>
        {
            Label loop = a.CreateLabel();
            a.cli();
            a.Label(ref loop);
            a.jmp(loop);
        }).Reason);

    [Theory, Engines]
    public void An_endless_exception_stops(string engine) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, Mode.Long, (g, a) =>
        {
            g.Mark(a, "ud");
            a.ud2();
        }, g => g.Handle(X.UD, "ud", ist: 1)).Reason);

    [Theory, Engines]
    public void An_endless_single_step_trap_stops(string engine) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, Mode.Long, (g, a) =>
        {
            g.Mark(a, "db");
            a.or(__dword_ptr[rsp + 16], 0x100);
            a.iretq();
        }, g =>
        {
            g.Handle(X.DB, "db", ist: 1);
            g.State.Rflags |= 0x100;
        }).Reason);

    [Theory, Engines]
    public void A_data_breakpoint_that_the_handler_hits_again_and_again_stops(string engine) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, Mode.Long, (g, a) =>
        {
            Label loop = a.CreateLabel();
            g.Mark(a, "db");
            a.nop();
            a.Label(ref loop);
            a.mov(__byte_ptr[(int)Layout.Data], al);
            a.jmp(loop);
        }, g =>
        {
            g.Handle(X.DB, "db", ist: 1);
            g.State.Dr[0] = Layout.Data;
            g.State.Dr7 = 0x400 | 1 | 1 << 16;
        }).Reason);

    [Theory]
    [Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_string_instruction_without_end_stops(string engine, Mode mode) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, mode, (g, a) =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.mov(ecx, -1);
            a.mov(edi, Layout.Data);
            a.mov(esi, Layout.Data);
            a.cld();
            a.rep.lodsb();
            a.jmp(loop);
        }, g => { if (mode == Mode.Long) g.State.Gpr[6] = 0; }).Reason is StopReason.HostRequest or StopReason.Shutdown ? StopReason.HostRequest
            : StopReason.EngineError);

    [Theory, Engines]
    public void A_flood_of_exits_stops(string engine) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, Mode.Long, (g, a) =>
        {
            Label loop = a.CreateLabel();
            a.mov(rbx, Layout.Mmio);
            a.Label(ref loop);
            a.@out(0x80, al);
            a.add(__qword_ptr[rbx + 4], rax);
            a.jmp(loop);
        }).Reason);

    [Theory, Engines]
    public void HLT_with_interrupts_off_stops(string engine) =>
        Assert.Equal(StopReason.HostRequest, StopIt(engine, Mode.Long, (g, a) =>
        {
            a.cli();
            a.hlt();
        }).Reason);

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_jump_into_nothing_ends_as_the_processor_says(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            if (mode == Mode.Real)
            {
                a.jmp(0xF000, 0x0000);
            }
            else
            {
                a.mov(eax, 0xD000_0000);
                if (mode == Mode.Long) a.jmp(rax);
                else a.jmp(eax);
            }
        });
        if (mode == Mode.Real) g.Write(0xF_0000, new byte[0x1_0000]); // RAM there, full of zeros: it runs through to the segment's end
        Outcome o = g.Run(engine);
        if (mode == Mode.Long) o.Raised(X.PF, 0x10, 0xD000_0000);
        else if (mode == Mode.Real) o.Raised(X.GP, null, 0);
        else Assert.NotEqual(ExitReason.InternalError, o.Reason);
    }

    [Theory, Engines]
    public void Code_that_unmaps_itself_faults_at_the_next_fetch_after_INVLPG(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(rbx, g.Tables.EntryAddress(Layout.Code));
            a.mov(__qword_ptr[rbx], 0);
            a.invlpg(__[(int)Layout.Code]);
            g.Mark(a, "at");
            a.nop();
            a.hlt();
        });
        g.Run(engine).Raised(X.PF, 0x10, g["at"]);
    }

    [Theory, Engines]
    public void Code_that_unmaps_everything_is_shutdown(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(rax, Layout.Data); // a page of zeros
            a.mov(cr3, rax);
            a.nop();
        });
        g.Run(engine).TripleFault();
    }

    [Theory, Engines]
    public void Page_tables_outside_of_memory_read_as_all_ones(string engine)
    {
        using var g = new Guest(Mode.Paged32);
        g.Code(a =>
        {
            a.mov(eax, 0xC000_0000);
            a.mov(cr3, eax);
            a.nop();
        });
        Outcome o = g.Run(engine);
        Assert.NotEqual(ExitReason.InternalError, o.Reason);
    }

    [Theory, Engines]
    public void A_stack_that_runs_into_nothing_ends_in_a_double_fault(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.push(rax);
            a.jmp(loop);
        });
        g.Tables[Layout.StackBase - 0x1000] = 0;
        g.State.Gpr[4] = Layout.StackBase + 0x100;
        g.Idt(X.DF, Desc.Gate(Sel.Code64, Guest.Stub(X.DF), Desc.IntGate, 0, 1));
        Assert.Equal(X.DF, g.Run(engine).Vector);
    }
}
