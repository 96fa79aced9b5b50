namespace Bunraku.Sessions;

/// <summary>The process's exit statuses. The README has the same table.</summary>
public static class ExitStatus
{
    /// <summary>The guest powered off, or the user quit.</summary>
    public const int Success = 0;

    /// <summary>
    /// The machine could not be made: a file, a package, memory or the cache is missing or unusable. Or something asked for could not be written.
    /// </summary>
    public const int Failure = 1;

    /// <summary>The command line is wrong.</summary>
    public const int Usage = 2;

    /// <summary>The guest crashed the processor (triple fault).</summary>
    public const int GuestCrashed = 3;

    /// <summary>The guest reset the machine instead of powering it off: a reboot, or a panic with panic=N.</summary>
    public const int GuestReset = 4;

    /// <summary>The time given with --timeout ran out.</summary>
    public const int TimedOut = 124;

    /// <summary>A defect of ours: the engine could not go on, or an unexpected exception.</summary>
    public const int InternalError = 125;

    /// <summary>Plus the signal's number: ended by that signal (130 is Ctrl-C, or quit before a command gave its status).</summary>
    public const int Signal = 128;
}
