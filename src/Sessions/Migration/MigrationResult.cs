using System.Globalization;

namespace Bunraku.Sessions.Migration;

/// <summary>A VM was not moved, or none came; the VM at this end goes on, or was never made. The message is one line.</summary>
/// <param name="message">One line.</param>
/// <param name="inner">What caused it.</param>
public sealed class MigrationException(string message, Exception? inner = null) : SessionException(message, inner);

/// <summary>How a VM is moved. Immutable.</summary>
public sealed record MigrationOptions
{
    /// <summary>The VM is paused for the rest when it can be sent in this time, as fast as what was sent so far.</summary>
    public TimeSpan PauseBound { get; init; } = TimeSpan.FromMilliseconds(50);

    /// <summary>After so many rounds the VM is paused whatever is left: a guest that writes faster than is sent would never come over.</summary>
    public int MostRounds { get; init; } = 30;

    /// <summary>How long the other end may take for its part of one message.</summary>
    public TimeSpan AnswerLimit { get; init; } = TimeSpan.FromSeconds(30);
}

/// <summary>How a VM was moved.</summary>
/// <param name="Pause">How long it stood still: from the last instruction here until it may go on there.</param>
/// <param name="Preparation">How long it stood still before, at the beginning: the longest of several moments.</param>
/// <param name="Total">All of it.</param>
/// <param name="Rounds">How often the pages that had changed were sent while it ran.</param>
/// <param name="Pages">4 KiB each, that were sent in all.</param>
/// <param name="LastPages">Those of them that were sent during the pause.</param>
public sealed record MigrationResult(TimeSpan Pause, TimeSpan Preparation, TimeSpan Total, int Rounds, long Pages, long LastPages)
{
    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"moved in {Total.TotalSeconds:0.00} s, paused for {Pause.TotalMilliseconds:0.0} ms, and {Preparation.TotalMilliseconds:0.0} ms at the beginning; "
            + $"{Pages} pages in {Rounds} rounds, {LastPages} of them in the pause");
}
