using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>Exits by reason of one vCPU. Written by its thread; other threads read approximate values.</summary>
public sealed class ExitCounters
{
    private readonly ulong[] _counts = new ulong[Enum.GetValues<ExitReason>().Length];

    public ulong this[ExitReason reason] => Volatile.Read(ref _counts[(int)reason]);

    public ulong Total => _counts.Aggregate(0ul, (a, b) => a + b);

    internal void Count(ExitReason reason) => _counts[(int)reason]++;
}
