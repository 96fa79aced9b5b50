namespace Bunraku.Hypervisor.Scheduling;

/// <summary>How much of the host's processors a VM gets, and how.</summary>
public sealed record CpuTimeOptions
{
    /// <summary>What <see cref="Weight"/> may be, and what it is worth when nobody says.</summary>
    public const int LeastWeight = 1, DefaultWeight = 100, MostWeight = 10_000;

    /// <summary>Percent of one processor that all vCPUs together may use; null: no limit.</summary>
    public double? Cap { get; init; }

    /// <summary>Share against others that want the same processors, as cgroup v2 counts; null: the default.</summary>
    public int? Weight { get; init; }

    /// <summary>Host processors for the vCPUs, in turn; empty: the host decides.</summary>
    public IReadOnlyList<int> Pins { get; init; } = [];

    /// <summary>vCPUs and timers run by SCHED_FIFO, memory is locked, and halted vCPUs are waited for actively for a while.</summary>
    public bool Realtime { get; init; }

    /// <summary>Nothing is asked for.</summary>
    public bool IsDefault => Cap is null && Weight is null && Pins.Count == 0 && !Realtime;
}

/// <summary>The host does not give what <see cref="CpuTimeOptions"/> asks for. The message is one line that names the option and the remedy.</summary>
public sealed class CpuTimeException(string message, Exception? inner = null) : Exception(message, inner);
