using Bunraku.Platform;
using Bunraku.Processor.X86;

namespace Bunraku.Processor.Tests;

/// <summary>Which stops of a helper a trial takes for those of a host on which programs can run directly.</summary>
public sealed class DirectTrialTests
{
    private const ulong Start = 0x40_0000, Address = 0x1234_5678;
    private const int Illegal = 4, Trap = 5, Segmentation = 11, MapError = 1, AccessError = 2, Kernel = 0x80;

    private static readonly DirectTrial s_instruction = new("", [0x0F, 0x31]), s_trap = new("", [0xCC], Rip: 1) { Signal = Trap },
        s_fault = new("", [0x48, 0x8B, 0x03], Address) { FaultCode = MapError, Address = Address },
        s_fetch = new("", [0xFF, 0xE3], Address, Rip: null) { FaultCode = AccessError, Address = Address, Jumps = true },
        s_anywhere = new("", [0xFF, 0xE3], Address, Rip: null);

    [Fact]
    public void An_instruction_that_is_executed_does_not_trap()
    {
        Assert.True(s_instruction.IsMet(TracedStop.Signal, Segmentation, Kernel, 0, Start, Start));
        Assert.False(s_instruction.IsMet(TracedStop.SystemCall, Trap, 0, 0, Start, Start + 4)); // as where PR_SET_TSC does nothing
        Assert.False(s_instruction.IsMet(TracedStop.Signal, Segmentation, Kernel, 0, Start, Start + 2));
    }

    [Fact]
    public void A_trap_stands_behind_its_instruction()
    {
        Assert.True(s_trap.IsMet(TracedStop.Signal, Trap, Kernel, 0, Start, Start + 1));
        Assert.False(s_trap.IsMet(TracedStop.Signal, Trap, Kernel, 0, Start, Start));
        Assert.False(s_trap.IsMet(TracedStop.Signal, Illegal, Kernel, 0, Start, Start + 1));
    }

    [Fact]
    public void A_page_fault_tells_kind_and_address()
    {
        Assert.True(s_fault.IsMet(TracedStop.Signal, Segmentation, MapError, Address, Start, Start));
        Assert.False(s_fault.IsMet(TracedStop.Signal, Segmentation, MapError, Address & ~0xFFFul, Start, Start));
        Assert.False(s_fault.IsMet(TracedStop.Signal, Segmentation, Kernel, 0, Start, Start));
        Assert.False(s_fault.IsMet(TracedStop.Signal, Illegal, MapError, Address, Start, Start));
    }

    [Fact]
    public void After_a_jump_RIP_is_where_it_led()
    {
        Assert.True(s_fetch.IsMet(TracedStop.Signal, Segmentation, AccessError, Address, Start, Address));
        Assert.False(s_fetch.IsMet(TracedStop.Signal, Segmentation, AccessError, Address, Start, Start));
        Assert.True(s_anywhere.IsMet(TracedStop.Signal, Segmentation, Kernel, 0, Start, Start + 99));
        Assert.False(s_anywhere.IsMet(TracedStop.SystemCall, Trap, 0, 0, Start, Start + 4));
    }
}
