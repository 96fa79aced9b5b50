using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Fixtures;

/// <summary>Repeated moves over many pages.</summary>
[TinyCachesToo]
public sealed class StringMoveTests
{
    private const uint Code = 0x1000, Source = 0x10_0000, Pages = 64, Length = Pages * 0x1000;
    private const int Rcx = 1, Rsi = 6, Rdi = 7;

    /// <summary>Intel SDM vol. 2, CLD and STD: the direction of what follows, and no other flag.</summary>
    [Theory, Engines]
    public void CLD_and_STD_set_the_direction_of_the_next_string_instruction(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x8D5;
        g.State.Gpr[7] = Layout.Data + 0x100;
        g.Code(a =>
        {
            a.std();
            a.stosb();
            a.cld();
            a.pushfq();
            a.stosd();
            a.pop(AssemblerRegisters.rbx);
            g.End(a);
        });
        CpuState s = g.Run(engine).Done().State;
        Assert.Equal((Layout.Data + 0x103ul, 0x8D5ul), (s.Gpr[7], s.Gpr[3] & 0xCD5));
    }

    /// <summary>
    /// Source and destination a power of two apart, as when memory is measured by moving its lower half up: in a TLB that is indexed by address bits both
    /// pages want the same place. Looking a page up costs no more than a few times for each page then, not once for each element.
    /// </summary>
    /// <param name="distance">From the source to the destination, a multiple of 4096 or a little more.</param>
    [Theory]
    [Engines(16u << 20), Engines(32u << 20), Engines(64u << 20), Engines((64u << 20) + 0x804)]
    public void Pages_that_share_a_place_in_the_TLB_do_not_evict_each_other_for_each_element(string engine, uint distance)
    {
        using var g = new Guest(Mode.Protected32);
        using var memory = new GuestMemory(Source + (64u << 20) + Length + 0x1000);
        using IX86Vm vm = TestedEngines.Find(engine).CreateVm(memory, g.Model, new VirtualClock());
        IX86Cpu cpu = vm.CreateCpu(0);
        byte[] content = new byte[Length], found = new byte[Length];
        new Random(1).NextBytes(content);
        Assert.True(memory.Write(Source, content));
        var assembler = new Assembler(32);
        assembler.rep.movsd();
        assembler.hlt();
        using var code = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(code), Code);
        Assert.True(memory.Write(Code, code.ToArray()));
        CpuState state = g.State;
        state.Rip = Code;
        (state.Gpr[Rsi], state.Gpr[Rdi], state.Gpr[Rcx]) = (Source, Source + distance, Length / 4);
        cpu.WriteState(state);
        ExitReason reason;
        do reason = cpu.Enter().Reason;
        while (reason == ExitReason.Kicked);
        Assert.Equal(ExitReason.Hlt, reason);
        Assert.True(memory.Read(Source + distance, found));
        Assert.True(content.AsSpan().SequenceEqual(found));
        Assert.InRange(cpu.Counters.TlbMisses, 0ul, 8ul * Pages);
    }
}
