using Bunraku.Hypervisor;

namespace Bunraku.Sessions;

/// <summary>Why the host ended a VM, when it was not the guest's doing.</summary>
public enum HostEnd
{
    /// <summary>It did not.</summary>
    None,
    /// <summary>The user or the program had enough, or the VM was disposed of.</summary>
    Quit,
    /// <summary><see cref="VmOptions.Timeout"/> ran out.</summary>
    TimedOut,
    /// <summary>A signal asked for it.</summary>
    Signal,
    /// <summary>Nobody reads the output any more.</summary>
    OutputClosed,
    /// <summary>The output cannot be written.</summary>
    OutputFailed,
    /// <summary>The token of <see cref="Vm.RunAsync"/> was cancelled.</summary>
    Cancelled,
    /// <summary>It goes on in another machine: see <see cref="Vm.MigrateAsync(Stream, Migration.MigrationOptions, CancellationToken)"/>.</summary>
    Migrated,
    /// <summary>A stream or an observer threw an exception, which <see cref="Vm.RunAsync"/> throws on.</summary>
    Failed,
}

/// <summary>How a VM ended.</summary>
/// <param name="Cause">What the VM says.</param>
/// <param name="HostEnd">Who asked, when the cause is <see cref="StopReason.HostRequest"/>.</param>
/// <param name="Signal">The signal's number for <see cref="HostEnd.Signal"/>.</param>
/// <param name="CommandStatus">Status of the command inside the guest, when one ran to its end.</param>
/// <param name="WantedCommand">A command was to run.</param>
public sealed record VmResult(StopCause Cause, HostEnd HostEnd, int Signal, int? CommandStatus, bool WantedCommand)
{
    private const int Sigint = 2, Sigpipe = 13;

    /// <summary>The process status when nobody reads the output any more, as if SIGPIPE had ended us.</summary>
    public const int OutputClosedStatus = Sessions.ExitStatus.Signal + Sigpipe;

    /// <summary>What is missing of the command's streams, in words; null when they came whole.</summary>
    public string? StreamDamage { get; init; }

    /// <summary>What the process ended with that took the guest over, and its command (<see cref="HostEnd.Migrated"/>); null: nobody says.</summary>
    public int? StatusElsewhere { get; init; }

    /// <summary>The figures of the run; null where nobody wants them (<see cref="VmBuilder.Measures"/>), and in a result that no VM made.</summary>
    public VmStatistics? Statistics { get; init; }

    /// <summary>The process status that stands for this end, 0 to 255; see <see cref="Sessions.ExitStatus"/>. A command's own status where one ran.</summary>
    public int ExitStatus => Cause.Reason switch
    {
        StopReason.DebugExit => Cause.Status & 0xFF,
        StopReason.Shutdown => Sessions.ExitStatus.GuestCrashed,
        StopReason.EngineError => Sessions.ExitStatus.InternalError,
        StopReason.HostRequest => HostEnd switch
        {
            HostEnd.TimedOut => Sessions.ExitStatus.TimedOut,
            HostEnd.Signal => Sessions.ExitStatus.Signal + Signal,
            HostEnd.OutputClosed => OutputClosedStatus,
            HostEnd.OutputFailed or HostEnd.Failed => Sessions.ExitStatus.Failure,
            HostEnd.Cancelled => Sessions.ExitStatus.Signal + Sigint,
            HostEnd.Migrated when StatusElsewhere is { } status => status,
            _ => WantedCommand ? Sessions.ExitStatus.Signal + Sigint : Sessions.ExitStatus.Success,
        },
        _ when StreamDamage is not null => Sessions.ExitStatus.InternalError,
        _ when CommandStatus is { } status => status & 0xFF,
        StopReason.Reset => Sessions.ExitStatus.GuestReset,
        StopReason.PowerOff when WantedCommand => Sessions.ExitStatus.InternalError,
        _ => Sessions.ExitStatus.Success,
    };
}
