using Bunraku.Engines;

namespace Bunraku.Fixtures;

/// <summary>One exit that a device would have handled.</summary>
public readonly record struct Access(ExitReason Reason, bool IsWrite, ulong Address, int Size, ulong Data);

/// <summary>How one run of a guest ended, with the state there.</summary>
/// <param name="Reason">The last exit.</param>
/// <param name="Vector">The exception or interrupt whose handler was reached; null when the code came to its own end.</param>
/// <param name="Accesses">Port, MMIO and MSR exits in order.</param>
public sealed record Outcome(ExitReason Reason, int? Vector, Frame Frame, CpuState State, IReadOnlyList<Access> Accesses)
{
    /// <summary>The code came to its end without any exception.</summary>
    public Outcome Done()
    {
        Assert.Equal((ExitReason.Hlt, (int?)null), (Reason, Vector));
        return this;
    }

    /// <summary>The handler of <paramref name="vector"/> was reached with this error code (null: it has none) and saved RIP.</summary>
    public Outcome Raised(int vector, uint? error, ulong rip)
    {
        Assert.Equal((ExitReason.Hlt, (int?)vector, error, rip), (Reason, Vector, Frame.Error, Frame.Rip));
        return this;
    }

    public Outcome TripleFault()
    {
        Assert.Equal(ExitReason.TripleFault, Reason);
        return this;
    }

    /// <summary>Values that the code reported through port <see cref="Guest.ReportPort"/>.</summary>
    public ulong[] Reports => [.. Accesses.Where(a => a is { Reason: ExitReason.Io, IsWrite: true, Address: Guest.ReportPort }).Select(a => a.Data)];
}

/// <summary>What an event pushed on the handler's stack, low to high. <see cref="Rest"/>: the next six values.</summary>
public sealed record Frame(uint? Error, ulong Rip, ushort Cs, ulong Flags, ulong Rsp, ushort Ss, ulong[] Rest);
