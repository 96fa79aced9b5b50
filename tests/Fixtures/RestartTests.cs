using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Every way in which a PC's operating systems restart it ends in a reset of the machine, and a crash is still told as one.</summary>
public sealed class RestartTests
{
    private const ushort Segment = 0x0100, Code = 0x0000, Stack = 0x0800, NoVectors = 0x0400, AnyVectors = 0x0406;

    /// <summary>Runs real-mode code on a board until the machine stops. Interrupts are off, the stack is there, CS = DS = SS.</summary>
    private static StopReason Run(string engine, Action<Assembler> emit)
    {
        using var g = new Guest(Mode.Real);
        using var vm = new X86Machine(TestedEngines.Find(engine), g.Model, Layout.MemorySize);
        var board = new PcBoard(vm, new PcBoardOptions());
        Assert.NotNull(board.FwCfg);
        var assembler = new Assembler(16);
        emit(assembler);
        using var code = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(code), Code);
        Assert.True(vm.Memory.Write(Segment << 4, code.ToArray()));
        Assert.True(vm.Memory.Write((Segment << 4) + NoVectors, new byte[6]));
        Assert.True(vm.Memory.Write((Segment << 4) + AnyVectors, [0x03, 0x00, 0, 0, 0, 0]));
        CpuState state = g.State;
        state.Rip = Code;
        state.Rflags = 2;
        state.Cs = state.Cs with { Selector = Segment, Base = Segment << 4 };
        state.Ds = state.Ds with { Selector = Segment, Base = Segment << 4 };
        state.Ss = state.Ss with { Selector = Segment, Base = Segment << 4 };
        state.Gpr[4] = Stack;
        (state.IdtrBase, state.IdtrLimit) = (0, 0x3FF);
        vm.Cpus[0].Cpu.WriteState(state);
        vm.Start();
        StopCause? cause = BoardGuest.Ends(vm);
        if (cause is null) vm.Stop(new StopCause(StopReason.HostRequest));
        vm.Join();
        return vm.Stopped.Result.Reason;
    }

    [Theory, Engines]
    public void A_jump_to_where_a_processor_begins_after_reset_resets_the_machine(string engine)
    {
        // IBM PC AT Technical Reference, BIOS listing: power-on reset at F000:FFF0, which is FFFF:0000 as well.
        Assert.Equal(StopReason.Reset, Run(engine, a => a.db([0xEA, 0xF0, 0xFF, 0x00, 0xF0])));
        Assert.Equal(StopReason.Reset, Run(engine, a => a.db([0xEA, 0x00, 0x00, 0xFF, 0xFF])));
    }

    [Theory, Engines]
    public void INT_19h_loads_anew_which_is_a_reset(string engine) => Assert.Equal(StopReason.Reset, Run(engine, a => a.@int(0x19)));

    [Theory, Engines]
    public void Other_BIOS_services_return(string engine) =>
        Assert.Equal(StopReason.Reset, Run(engine, a =>
        {
            a.@int(0x10);
            a.@int(0x15);
            a.mov(dx, 0xCF9);
            a.mov(al, 6);
            a.@out(dx, al);
            a.hlt();
        }));

    /// <summary>Intel SDM vol. 3A, "Real-Address Mode IDT": a vector beyond the limit is #GP, then #DF, then shutdown.</summary>
    [Theory]
    [Engines(new byte[] { 0xCC }), Engines(new byte[] { 0xCD, 0x80 })]
    public void An_interrupt_instruction_without_any_vector_resets_the_machine(string engine, byte[] instruction) =>
        Assert.Equal(StopReason.Reset, Run(engine, a =>
        {
            a.lidt(__[NoVectors]);
            a.db(instruction);
        }));

    [Theory, Engines]
    public void A_fault_without_any_vector_is_a_crash(string engine) =>
        Assert.Equal(StopReason.Shutdown, Run(engine, a =>
        {
            a.lidt(__[NoVectors]);
            a.ud2();
        }));

    [Theory, Engines]
    public void An_interrupt_instruction_beyond_a_table_that_is_not_empty_is_a_crash(string engine) =>
        Assert.Equal(StopReason.Shutdown, Run(engine, a =>
        {
            a.lidt(__[AnyVectors]);
            a.@int(3);
        }));
}
