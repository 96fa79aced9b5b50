namespace Bunraku.Engine.Check;

/// <summary>How long the subject runs at most before it is compared.</summary>
public readonly record struct CheckInterval
{
    private CheckInterval(TimeSpan? time, ulong? instructions) => (Time, Instructions) = (time, instructions);

    /// <summary>Kicks come at such distances; between them the subject runs undisturbed.</summary>
    public TimeSpan? Time { get; }

    /// <summary>The subject ends its block after so many instructions; each of its blocks goes back to its dispatcher.</summary>
    public ulong? Instructions { get; }

    public static CheckInterval Default { get; } = Every(TimeSpan.FromMilliseconds(1));

    /// <param name="time">At least 1 ms.</param>
    public static CheckInterval Every(TimeSpan time) => new(time, null);

    /// <param name="instructions">At least 1.</param>
    public static CheckInterval Every(ulong instructions) => new(null, instructions);
}
