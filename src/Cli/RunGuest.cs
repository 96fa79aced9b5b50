using System.Globalization;
using System.Security.Cryptography;
using Bunraku.Cli.CommandLine;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Platform;
using Bunraku.Sessions.Control;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli;

/// <summary><c>bunraku run</c>: one VM with this process's console, and what is said at its end.</summary>
internal static class RunGuest
{
    /// <summary>Lines of the guest kernel's messages that are shown with an error: a panic with registers and call trace.</summary>
    private const int MessageLines = 60;

    /// <param name="arguments">The program's: what another process is started with.</param>
    /// <param name="lost">What could not be written; more is added here.</param>
    /// <exception cref="SessionException">It came to no run.</exception>
    public static int Run(RunOptions options, IReadOnlyList<string> arguments, List<CannotWriteException> lost)
    {
        options = WithScript(WithFirmware(options));
        if (options.Detach && !Background.IsIt) return Detach(options, arguments);
        using ControlServer? control = options.Name is { } name ? new ControlServer(ControlClients.Folder, name) : null;
        using PidFile? pid = options.PidFile is { } number ? new PidFile(number) : null;
        using ReportFile? json = options.StatsJson is { } path ? new ReportFile(path, "--stats-json") : null;
        if (options is { Screenshot: not null, HasDisplay: false })
            throw new UsageException("--screenshot: the machine has no screen; --vga std or --bios gives it one");
        using var host = new ConsoleHost(options);
        using ExitTrace? trace = options.Trace is { } target ? new ExitTrace(target) : null;
        using PerfMap? map = options.PerfMap ? new PerfMap("--perf-map") : null;
        string? kept = null; // what is to be said of it when the terminal is ours again
        if (Build(options, host, trace, map, text => kept = text) is not { } built) return ExitStatus.Signal + host.Signal;
        using Vm vm = built;
        control?.Attach(vm);
        VmResult result = host.Run(vm);
        Explain(result, vm);
        if (options.Screenshot is { } picture && vm.Display is { } display)
        {
            try
            {
                PngFile.Write(picture, display.Paint());
            }
            catch (CannotWriteException e)
            {
                lost.Add(e);
            }
        }
        // For people; a program that reads the errors of its command has no use for it.
        if (kept is not null && !options.Quiet && Terminal.Is(ConsoleHost.Stderr)) Console.Error.WriteLine("bunraku: " + kept);
        if (trace?.Error is { } broken) lost.Add(broken);
        map?.Dispose();
        if (map?.Error is { } unwritten) lost.Add(unwritten);
        if (options.Stats || json is not null)
        {
            VmStatistics statistics = result.Statistics!;
            if (options.Stats) Console.Error.Write(statistics.ToString());
            try
            {
                json?.Write(statistics.ToJson());
            }
            catch (CannotWriteException e)
            {
                lost.Add(e);
            }
        }
        if (host.OutputError is { } output) Console.Error.WriteLine("bunraku: " + output.Message);
        foreach (CannotWriteException e in lost) Console.Error.WriteLine("bunraku: " + e.Message);
        int status = Status(result, host.OutputStatus, lost.Count > 0);
        if (options.Detach) Console.Error.WriteLine($"bunraku: ended with status {status}");
        return status;
    }

    /// <summary>The same in the background. A VM that was given no name gets one, by which it is reached.</summary>
    private static int Detach(RunOptions options, IReadOnlyList<string> arguments)
    {
        string name = options.Name
            ?? (options is { Kernel: null, Bios: null, RestoreFrom: null, Incoming: null } ? options.Guest : "vm")
                + $"-{RandomNumberGenerator.GetHexString(4, lowercase: true)}";
        int status = Background.Start([arguments[0], "--name", name, .. arguments.Skip(1)]);
        if (status == ExitStatus.Success) Console.Out.WriteLine(name);
        return status;
    }

    /// <summary>Null when a signal asked for the end before; a download may have taken a minute by then.</summary>
    private static Vm? Build(RunOptions options, ConsoleHost host, ExitTrace? trace, PerfMap? map, Action<string> kept)
    {
        try
        {
            VmBuilder builder = new VmBuilder(KnownEngines.With(options.CheckInterval, options.Direct), options)
            {
                Terminal = host.GuestTerminal,
                Started = StartOfProgram() ?? HostProcess.StartTime,
                Console = host,
                Observers = trace is null ? [] : [trace],
                HostCode = map,
                Nesting = options.Trace is { Kind: TraceKind.Nested } ? trace : null,
                RestoreFrom = options.RestoreFrom,
                MemoryBacking = options.MemoryBacking,
                SaveTo = options.SaveTo,
                CompressSaves = options.Compress,
                Kept = kept,
                Measures = options.Stats || options.StatsJson is not null,
                Progress = options.Quiet ? null : text => Console.Error.WriteLine("bunraku: " + text),
                Words = OptionWords.CommandLine,
            };
            if (options.Incoming is not { } from) return builder.Build(host.Interrupted);
            return Vm.ReceiveAsync(from.Accept(host.Interrupted), builder, cancel: host.Interrupted).GetAwaiter().GetResult();
        }
        // A package manager that got the same signal may have failed before it could be cancelled.
        catch (Exception e) when (host.Signal != 0 && e is (OperationCanceledException or SessionException))
        {
            return null;
        }
    }

    /// <summary>What the guest said is part of the result: a command whose output is lost has not succeeded. A report beside it is not.</summary>
    /// <param name="outputStatus">The status that stands for lost output; 0 when none was lost.</param>
    internal static int Status(VmResult result, int outputStatus, bool reportLost)
    {
        int status = result.ExitStatus;
        if (status != ExitStatus.Success) return status;
        if (outputStatus != ExitStatus.Success) return outputStatus;
        return reportLost && result.CommandStatus is null ? ExitStatus.Failure : status;
    }

    /// <summary>An installed system is booted, as on a machine that is switched on; with the name of a guest behind 'run', that guest has the disk.</summary>
    private static RunOptions WithFirmware(RunOptions options)
    {
        if (!options.BootsDisk || BootableDisk.Firmware(options.Disks.Select(d => d.Image), options.CompactDiscs) is not { } bios) return options;
        if (!options.Quiet && !Background.IsIt)
            Console.Error.WriteLine($"bunraku: booting what is on the disk, as with --bios {bios}; 'bunraku run linux' has the built-in guest, with the disk");
        return options with { Bios = bios };
    }

    /// <summary>Standard input that is no terminal is a script for the guest's shell: clean output, its own status, and an end.</summary>
    private static RunOptions WithScript(RunOptions options) =>
        options is { Detach: false, Command: null, Kernel: null, Bios: null, RestoreFrom: null, Incoming: null, Serial.Kind: SerialKind.Stdio }
            && options.Init is null && options.Guest != HelloGuest.Name && !Terminal.Is(ConsoleHost.Stdin) ? options with { Command = ["sh"] }
            // Where nobody sits, what a guest prints while it boots may be what is wanted.
            : options.Command is null && !(options.Serial.Kind == SerialKind.Stdio && Terminal.Is(ConsoleHost.Stdin)) ? options with { KeepBooted = false }
            : options;

    /// <summary>When the script ./bunraku handed over, which may have built for a minute in the same process before; null without the script.</summary>
    private static DateTime? StartOfProgram() =>
        double.TryParse(Environment.GetEnvironmentVariable("BUNRAKU_STARTED"), NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out double seconds)
            && seconds < DateTimeOffset.MaxValue.ToUnixTimeSeconds() ? DateTime.UnixEpoch.AddSeconds(seconds) : null;

    /// <summary>Says why a run ended, when that is not obvious.</summary>
    private static void Explain(VmResult result, Vm vm)
    {
        if (result is { WantedCommand: true, CommandStatus: null, StreamDamage: null, HostEnd: HostEnd.None or HostEnd.TimedOut })
            Console.Error.Write(LastLines(vm.HiddenMessages));
        foreach (string reason in Reasons(result)) Console.Error.WriteLine("bunraku: " + reason);
        if (vm.SavedTo is { } saved) Console.Error.WriteLine($"bunraku: saved to {saved}; 'bunraku restore {saved}' goes on");
        if (result.Cause.Reason is StopReason.Shutdown or StopReason.EngineError) Console.Error.Write(vm.CrashReport(result.Cause.Cpu));
    }

    /// <summary>Why a run ended and what is missing of it, a line each; nothing when it ended as one expects.</summary>
    internal static IEnumerable<string> Reasons(VmResult result)
    {
        switch (result.Cause.Reason)
        {
            case StopReason.Shutdown:
                yield return $"the guest crashed the processor (triple fault on cpu {result.Cause.Cpu})";
                break;
            case StopReason.EngineError:
                yield return $"internal error, please report it: {result.Cause.Message}";
                break;
            case StopReason.HostRequest when result is { HostEnd: HostEnd.Migrated, StatusElsewhere: { } status }:
                if (result.CommandStatus is null) yield return $"the guest ended where it was moved to, with status {status} and without that of its command";
                break;
            case StopReason.HostRequest when result.HostEnd == HostEnd.Migrated:
                yield return "the guest goes on where it was moved to";
                break;
            case StopReason.Reset when result.CommandStatus is null:
                yield return "the guest reset the machine";
                break;
            case StopReason.HostRequest when result.HostEnd == HostEnd.TimedOut:
                yield return "the time given with --timeout ran out";
                break;
            case StopReason.PowerOff when result is { WantedCommand: true, CommandStatus: null, StreamDamage: null }:
                yield return "the guest powered off without the status of its command";
                break;
        }
        if (result.StreamDamage is { } damage) yield return result.CommandStatus is { } status ? $"{damage}; its status was {status}" : damage;
    }

    private static string LastLines(string messages)
    {
        string[] lines = messages.TrimEnd('\n').Split('\n');
        return messages.Length == 0 ? "" : string.Concat(lines.TakeLast(MessageLines).Select(l => l + "\n"));
    }
}
