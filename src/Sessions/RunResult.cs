using Bunraku.Hypervisor;

namespace Bunraku.Sessions;

/// <summary>Why the host ended a run, when it was not the guest's doing.</summary>
/// <remarks><see cref="OutputClosed"/>: nobody reads the output any more. <see cref="OutputFailed"/>: it cannot be written.</remarks>
public enum HostEnd { None, Quit, TimedOut, Signal, OutputClosed, OutputFailed }

/// <summary>How a run ended.</summary>
/// <param name="Cause">What the VM says.</param>
/// <param name="HostEnd">Who asked, when the cause is <see cref="StopReason.HostRequest"/>.</param>
/// <param name="Signal">The signal's number for <see cref="HostEnd.Signal"/>.</param>
/// <param name="CommandStatus">Status of the command inside the guest, when one ran to its end.</param>
/// <param name="WantedCommand">A command was to run.</param>
public sealed record RunResult(StopCause Cause, HostEnd HostEnd, int Signal, int? CommandStatus, bool WantedCommand)
{
    private const int Sigint = 2, Sigpipe = 13;

    /// <summary>The process status when nobody reads the output any more, as if SIGPIPE had ended us.</summary>
    public const int OutputClosedStatus = Sessions.ExitStatus.Signal + Sigpipe;

    /// <summary>What is missing of the command's streams, in words; null when they came whole.</summary>
    public string? StreamDamage { get; init; }

    /// <summary>The process status that stands for this end; see <see cref="Sessions.ExitStatus"/>.</summary>
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
            HostEnd.OutputFailed => Sessions.ExitStatus.Failure,
            _ => WantedCommand ? Sessions.ExitStatus.Signal + Sigint : Sessions.ExitStatus.Success,
        },
        _ when StreamDamage is not null => Sessions.ExitStatus.InternalError,
        _ when CommandStatus is { } status => status & 0xFF,
        StopReason.Reset => Sessions.ExitStatus.GuestReset,
        StopReason.PowerOff when WantedCommand => Sessions.ExitStatus.InternalError,
        _ => Sessions.ExitStatus.Success,
    };
}
