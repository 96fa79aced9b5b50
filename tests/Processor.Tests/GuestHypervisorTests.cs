using Bunraku.Engines;
using Bunraku.Engines.X86;
using Bunraku.Processor.X86;

namespace Bunraku.Processor.Tests;

/// <summary>Exits are offered to a hypervisor inside the guest, whatever they are of, and go out when it does not take them.</summary>
public sealed unsafe class GuestHypervisorTests
{
    private const uint Start = 0x1000, Refused = 0x3000;

    /// <summary>Takes exits of one reason: execution goes on behind the instruction, with the reason in EBX.</summary>
    private sealed class Toy(X86.Processor processor, ExitReason taken, int length) : IGuestHypervisor
    {
        public List<ExitReason> Seen { get; } = [];

        public bool TakeExit(X86Exit exit)
        {
            Seen.Add(exit.Reason);
            if (exit.Reason != taken) return false;
            ProcessorState* s = processor.State;
            s->Rip += (ulong)length;
            s->Rbx = (ulong)exit.Reason;
            return true;
        }
    }

    public static IEnumerable<object[]> Cases() =>
        from translateAfter in (int[])[0, 1]
        from taken in (bool[])[true, false]
        from c in ((ExitReason, int, byte[])[])
        [
            (ExitReason.Cpuid, 2, [0x0F, 0xA2]), // intercepted
            (ExitReason.Exception, 2, [0x0F, 0x0B]), // UD2, which the exception bitmap has
            (ExitReason.EptViolation, 3, [0xA0, 0x00, 0x30]), // MOV AL, [3000h]
            (ExitReason.Mmio, 4, [0x67, 0x8B, 0x06, 0x90]), // MOV AX, [ESI], and what makes it as long
            (ExitReason.Io, 0, [0xE6, 0x80]), // OUT 80h, AL: has retired
            (ExitReason.Msr, 2, [0x0F, 0x32]), // RDMSR of the APIC's
        ]
        select (object[])[translateAfter, taken, c.Item1, c.Item2, c.Item3];

    [Theory, MemberData(nameof(Cases))]
    public void An_exit_that_the_guests_hypervisor_takes_does_not_go_out(int translateAfter, bool taken, ExitReason reason, int length, byte[] code)
    {
        using var memory = new GuestMemory(1 << 20);
        Assert.True(memory.Write(Start, [.. code, 0xF4])); // HLT
        memory.Rights.Set(Refused, 0x1000, PageRights.None);
        using var processor = new X86.Processor(memory, CpuModels.Parse("max"), new VirtualClock(), new ProcessorGroup(), translateAfter);
        var state = new CpuState();
        processor.ReadState(state);
        state.Cs = state.Cs with { Selector = 0, Base = 0 };
        state.Rip = Start;
        state.Gpr[1] = 0x1B; // IA32_APIC_BASE
        state.Gpr[6] = 0xFEC0_0000;
        state.Ds = state.Ds with { Limit = uint.MaxValue };
        processor.WriteState(state);
        processor.Controls = new ExecutionControls(InterceptedInstructions.Cpuid, ExceptionBitmap: 1 << 6);
        var toy = new Toy(processor, taken ? reason : ExitReason.TripleFault, length);
        processor.GuestHypervisor = toy;
        X86Exit exit = processor.Enter();
        Assert.Equal(taken ? ExitReason.Hlt : reason, exit.Reason);
        Assert.Equal(taken ? [reason, ExitReason.Hlt] : [reason], toy.Seen);
        Assert.Equal(taken ? (ulong)reason : 0, processor.State->Rbx);
        // Nothing of the instruction is left over.
        if (taken) Assert.False(processor.Exits.IsHalfDone);
    }

    [Fact]
    public void What_a_device_answered_to_an_instruction_that_was_taken_is_no_answer_to_the_next_one()
    {
        using var memory = new GuestMemory(1 << 20);
        Assert.True(memory.Write(Start, [0x67, 0x8B, 0x06, 0x67, 0x8B, 0x06, 0xF4])); // MOV AX, [ESI] twice, HLT
        using var processor = new X86.Processor(memory, CpuModels.Parse("max"), new VirtualClock(), new ProcessorGroup());
        var state = new CpuState();
        processor.ReadState(state);
        state.Cs = state.Cs with { Selector = 0, Base = 0 };
        state.Ds = state.Ds with { Limit = uint.MaxValue };
        state.Rip = Start;
        state.Gpr[6] = 0xFEC0_0000;
        processor.WriteState(state);
        var toy = new Toy(processor, ExitReason.Mmio, 3);
        processor.GuestHypervisor = toy;
        Assert.Equal(ExitReason.Hlt, processor.Enter().Reason);
        Assert.Equal([ExitReason.Mmio, ExitReason.Mmio, ExitReason.Hlt], toy.Seen);
    }

    [Fact]
    public void An_event_during_whose_delivery_an_exit_was_taken_is_not_delivered()
    {
        using var memory = new GuestMemory(1 << 20);
        Assert.True(memory.Write(Start, [0xF4]));
        memory.Rights.Set(0, 0x1000, PageRights.None); // the interrupt vector table
        using var processor = new X86.Processor(memory, CpuModels.Parse("max"), new VirtualClock(), new ProcessorGroup());
        var state = new CpuState();
        processor.ReadState(state);
        state.Cs = state.Cs with { Selector = 0, Base = 0 };
        state.Rip = Start;
        processor.WriteState(state);
        processor.Events.InjectNmi();
        var toy = new Toy(processor, ExitReason.EptViolation, 0);
        processor.GuestHypervisor = toy;
        Assert.Equal(ExitReason.Hlt, processor.Enter().Reason);
        Assert.Equal([ExitReason.EptViolation, ExitReason.Hlt], toy.Seen);
        Assert.False(processor.Events.NmiInjected);
    }
}
