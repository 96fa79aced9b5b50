using Bunraku.Hypervisor;

namespace Bunraku.Cli.Running;

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
    public const int OutputClosedStatus = Cli.ExitStatus.Signal + Sigpipe;

    /// <summary>What is missing of the command's streams, in words; null when they came whole.</summary>
    public string? StreamDamage { get; init; }

    /// <summary>The process status that stands for this end; see <see cref="Cli.ExitStatus"/>.</summary>
    public int ExitStatus => Cause.Reason switch
    {
        StopReason.DebugExit => Cause.Status & 0xFF,
        StopReason.TripleFault => Cli.ExitStatus.GuestCrashed,
        StopReason.EngineError => Cli.ExitStatus.InternalError,
        StopReason.HostRequest => HostEnd switch
        {
            HostEnd.TimedOut => Cli.ExitStatus.TimedOut,
            HostEnd.Signal => Cli.ExitStatus.Signal + Signal,
            HostEnd.OutputClosed => OutputClosedStatus,
            HostEnd.OutputFailed => Cli.ExitStatus.Failure,
            _ => WantedCommand ? Cli.ExitStatus.Signal + Sigint : Cli.ExitStatus.Success,
        },
        _ when StreamDamage is not null => Cli.ExitStatus.InternalError,
        _ when CommandStatus is { } status => status & 0xFF,
        StopReason.Reset => Cli.ExitStatus.GuestReset,
        StopReason.PowerOff when WantedCommand => Cli.ExitStatus.InternalError,
        _ => Cli.ExitStatus.Success,
    };
}
