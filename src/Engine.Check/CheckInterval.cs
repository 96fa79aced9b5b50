namespace Bunraku.Engine.Check;

/// <summary>How long the subject runs at most before it is compared.</summary>
public readonly record struct CheckInterval
{
    private CheckInterval(TimeSpan? time, ulong? instructions) => (Time, Instructions) = (time, instructions);

    /// <summary>Kicks come at such distances; between them the subject runs undisturbed.</summary>
    public TimeSpan? Time { get; }

    /// <summary>The subject ends its block after so many instructions; each of its blocks goes back to its dispatcher.</summary>
    public ulong? Instructions { get; }

    /// <summary>100 µs.</summary>
    public static CheckInterval Default { get; } = Every(TimeSpan.FromMicroseconds(100));

    /// <summary>By time.</summary>
    /// <param name="time">1 µs to 1 s.</param>
    public static CheckInterval Every(TimeSpan time)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(time, TimeSpan.FromMicroseconds(1));
        ArgumentOutOfRangeException.ThrowIfGreaterThan(time, TimeSpan.FromSeconds(1));
        return new(time, null);
    }

    /// <summary>By instructions.</summary>
    /// <param name="instructions">At least 1.</param>
    public static CheckInterval Every(ulong instructions)
    {
        ArgumentOutOfRangeException.ThrowIfZero(instructions);
        return new(null, instructions);
    }
}
