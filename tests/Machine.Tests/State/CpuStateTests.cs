using Bunraku.Engines;

namespace Bunraku.Machine.Tests.State;

/// <summary>A processor's state from outside is checked before anything uses it.</summary>
public sealed class CpuStateTests
{
    private static HalfDoneInstruction HalfDone(ExitReason reason, int size) => new(reason, 0, false, size, 0, 0, false, 0, 0, 0, 0, 0, 0);

    public static TheoryData<string, Action<CpuState>> Wrong => new()
    {
        { "Gpr", s => s.Gpr = new ulong[15] },
        { "Dr", s => s.Dr = [] },
        { "Xsave", s => s.Xsave = new byte[4097] },
        { "Pdptes", s => s.Pdptes = new ulong[3] },
        { "Activity", s => s.Activity = (CpuActivity)9 },
        { "half.Size", s => s.HalfDone = HalfDone(ExitReason.Io, 9) },
        { "half.Size", s => s.HalfDone = HalfDone(ExitReason.Io, -1) },
        { "half.Reason", s => s.HalfDone = HalfDone((ExitReason)200, 1) },
        { "pending.Kind", s => s.Pending = new PendingEvent((EventKind)77, 3) },
        { "MmioValues.Count", s => s.MmioValues = [.. new ulong[4097]] },
        { "PostedWrites.Count", s => s.PostedWrites = [.. Enumerable.Repeat(new PostedWrite(0, 1, 0), 0x1_0001)] },
        { "KernelNested.Length", s => s.KernelNested = new byte[127] },
        { "KernelNested.Length", s => s.KernelNested = new byte[0x1_0001] },
        { "write.Size", s => s.PostedWrites = [new PostedWrite(0, 0, 0)] },
    };

    [Theory, MemberData(nameof(Wrong))]
    public void AWrongStateIsRefusedByName(string what, Action<CpuState> change)
    {
        var state = new CpuState();
        state.Check("cpu0");
        change(state);
        string message = Assert.Throws<StateFormatException>(() => state.Check("cpu0")).Message;
        Assert.StartsWith("cpu0: ", message, StringComparison.Ordinal);
        Assert.Contains(what, message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0x400ul, 0x2000u, 0x1_0000_0010ul, 0xF_0000ul, true, 0x1_0000_0010ul)]
    [InlineData(0x400ul, 0x4000u, 0x10ul, 0xF_0000ul, false, 0xF_0010ul)] // compatibility mode
    [InlineData(0ul, 0x2000u, 0x10ul, 0xFFFF_FFF8ul, false, 8ul)] // linear addresses have 32 bits
    public void TheInstructionsAddressFollowsTheMode(ulong efer, uint attributes, ulong rip, ulong codeBase, bool is64Bit, ulong address)
    {
        var state = new CpuState { Efer = efer, Rip = rip, Cs = new SegmentState(8, codeBase, uint.MaxValue, attributes) };
        Assert.Equal((is64Bit, address), (state.Is64BitMode, state.InstructionAddress));
    }
}
