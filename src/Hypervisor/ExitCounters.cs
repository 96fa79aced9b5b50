namespace Bunraku.Hypervisor;

/// <summary>Exits by reason of one vCPU, since its start. Written by its thread; other threads read approximate values.</summary>
public sealed class ExitCounters
{
    private readonly ulong[] _counts = new ulong[byte.MaxValue + 1];

    internal ExitCounters()
    {
    }

    /// <summary>Exits for one reason.</summary>
    /// <param name="reason">Number of the reason in the architecture's list, <see cref="Engines.VmExit.ReasonNumber"/>.</param>
    public ulong this[byte reason] => Volatile.Read(ref _counts[reason]);

    /// <summary>All exits.</summary>
    public ulong Total => _counts.Aggregate(0ul, (a, b) => a + b);

    internal void Count(byte reason) => _counts[reason]++;
}
