namespace Bunraku.Sessions.Debugging;

/// <summary>The breakpoints and watchpoints of a debugger, which are the same for all vCPUs. One thread, while the guest stands still.</summary>
internal sealed class DebugPoints
{
    /// <summary>A debugger that goes astray shall not fill the memory.</summary>
    private const int MostBreakpoints = 4096, MostWatchpoints = 256;
    private const ulong LongestWatch = 4096;

    private readonly HashSet<(PointKind Kind, ulong Address, ulong Length)> _points = [];

    /// <summary>Sets a point. A breakpoint's length says nothing.</summary>
    /// <returns>Null, or in a few words why it cannot be set.</returns>
    public string? Add(PointKind kind, ulong address, ulong length)
    {
        if (IsBreakpoint(kind)) length = 1;
        if (length is 0 or > LongestWatch || address + (length - 1) < address) return $"a watchpoint has 1 to {LongestWatch} bytes";
        var point = (kind, address, length);
        if (_points.Contains(point)) return null; // the protocol wants that to be the same as once
        if (_points.Count(p => IsBreakpoint(p.Kind) == IsBreakpoint(kind)) >= (IsBreakpoint(kind) ? MostBreakpoints : MostWatchpoints))
            return "there are too many breakpoints or watchpoints already";
        _points.Add(point);
        return null;
    }

    /// <summary>Takes a point away, if it is there.</summary>
    public void Remove(PointKind kind, ulong address, ulong length) => _points.Remove((kind, address, IsBreakpoint(kind) ? 1 : length));

    public void Clear() => _points.Clear();

    private static bool IsBreakpoint(PointKind kind) => kind is PointKind.Software or PointKind.Hardware;

    /// <summary>What a vCPU is told.</summary>
    public DebugControls Controls(bool step) => new(
        [.. _points.Where(p => IsBreakpoint(p.Kind)).Select(p => p.Address).Distinct()],
        [.. _points.Where(p => !IsBreakpoint(p.Kind))
            .Select(p => new Watchpoint(p.Address, p.Length, Reads: p.Kind != PointKind.Write, Writes: p.Kind != PointKind.Read))],
        step);

    /// <summary>The kind of the breakpoint that a vCPU has met; null: it is gone.</summary>
    public DebugStopKind? BreakpointAt(ulong address) => _points.Contains((PointKind.Hardware, address, 1)) ? DebugStopKind.HardwareBreakpoint
        : _points.Contains((PointKind.Software, address, 1)) ? DebugStopKind.SoftwareBreakpoint : null;

    /// <summary>The kind of the watchpoint that begins there; null: it is gone.</summary>
    public DebugStopKind? WatchpointAt(ulong address)
    {
        foreach ((PointKind kind, ulong start, _) in _points)
        {
            if (start != address || IsBreakpoint(kind)) continue;
            return kind switch { PointKind.Write => DebugStopKind.WriteWatch, PointKind.Read => DebugStopKind.ReadWatch, _ => DebugStopKind.AccessWatch };
        }
        return null;
    }
}
