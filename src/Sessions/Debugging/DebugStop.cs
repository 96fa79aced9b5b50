namespace Bunraku.Sessions.Debugging;

/// <summary>Why the guest stands still for its debugger.</summary>
internal enum DebugStopKind
{
    /// <summary>The debugger asked for it.</summary>
    Interrupted,
    /// <summary>A step is done.</summary>
    Step,
    /// <summary>A breakpoint of the kind Z0.</summary>
    SoftwareBreakpoint,
    /// <summary>A breakpoint of the kind Z1.</summary>
    HardwareBreakpoint,
    /// <summary>A watchpoint: of writes, of reads, of both.</summary>
    WriteWatch, ReadWatch, AccessWatch,
}

/// <summary>A stop, as it is told.</summary>
/// <param name="Cpu">The vCPU that it came from.</param>
/// <param name="Address">What the watchpoint was set on.</param>
internal readonly record struct DebugStop(int Cpu, DebugStopKind Kind, ulong Address = 0);

/// <summary>What a vCPU does while the guest goes on.</summary>
internal enum CpuOrder
{
    /// <summary>It stands still.</summary>
    Hold,
    /// <summary>It runs.</summary>
    Run,
    /// <summary>It executes one instruction.</summary>
    Step,
}

/// <summary>Breakpoints and watchpoints by the number that the protocol gives their kinds.</summary>
internal enum PointKind
{
    Software, Hardware, Write, Read, Access,
}
