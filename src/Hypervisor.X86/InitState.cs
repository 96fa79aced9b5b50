using Bunraku.Engines;

namespace Bunraku.Hypervisor.X86;

/// <summary>What INIT and the start-up IPI do to a vCPU's state.</summary>
/// <remarks>
/// Intel SDM vol. 3A, "Processor State After Reset", table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT", and "Multiple-Processor
/// Initialization". MSRs that INIT leaves alone, the TSC among them, are not in the state afterwards: what is not there is not written.
/// </remarks>
internal static class InitState
{
    private const ulong Cr0Et = 1 << 4, Cr0KeptByInit = 3ul << 29; // CD, NW
    private const uint Code = 0x9B, Data = 0x93, Ldt = 0x82, BusyTss = 0x8B;

    /// <summary>State after INIT, made of the state before.</summary>
    /// <param name="signature">EAX of CPUID leaf 1.</param>
    public static void Apply(CpuState state, uint signature)
    {
        Array.Clear(state.Gpr);
        state.Gpr[2] = signature;
        state.Rip = 0xFFF0;
        state.Rflags = 2;
        state.Cr0 = state.Cr0 & Cr0KeptByInit | Cr0Et;
        state.Cr2 = state.Cr3 = state.Cr4 = state.Cr8 = state.Efer = 0;
        var data = new SegmentState(0, 0, 0xFFFF, Data);
        state.Cs = new SegmentState(0xF000, 0xFFFF_0000, 0xFFFF, Code);
        state.Ds = state.Es = state.Fs = state.Gs = state.Ss = data;
        state.Ldtr = new SegmentState(0, 0, 0xFFFF, Ldt);
        state.Tr = new SegmentState(0, 0, 0xFFFF, BusyTss);
        state.GdtrBase = state.IdtrBase = 0;
        state.GdtrLimit = state.IdtrLimit = 0xFFFF;
        Array.Clear(state.Dr);
        state.Dr6 = 0xFFFF_0FF0;
        state.Dr7 = 0x400;
        state.Msrs.Clear();
        state.Msrs[MsrIndex.DebugCtl] = 0;
        state.InterruptShadow = state.NmiBlocked = state.MovSsShadow = state.NmiPending = state.FerrAsserted = false;
        state.PendingDebug = 0;
        state.Pending = null;
        state.Activity = CpuActivity.WaitForStartUp;
        state.Pdptes = null;
        state.HalfDone = null;
        state.KernelNested = null;
        state.MmioValues.Clear();
    }

    /// <summary>A start-up IPI: execution begins at 000VV000h in real-address mode.</summary>
    public static void StartUp(CpuState state, byte vector)
    {
        state.Cs = new SegmentState((ushort)(vector << 8), (ulong)vector << 12, 0xFFFF, Code);
        state.Rip = 0;
        state.Activity = CpuActivity.Active;
        state.Msrs.Clear();
    }
}
