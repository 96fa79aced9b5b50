using Bunraku.Cli.CommandLine;
using Bunraku.Cli.Running;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Platform;

namespace Bunraku.Cli;

internal static class Program
{
    public static int Main(string[] args)
    {
        try
        {
            return CommandLineParser.Parse(args) switch
            {
                Request.Run run => Run(run.Options),
                Request.Engines => EnginesCommand.Print(KnownEngines.All, Console.Out),
                Request.PopekGoldberg lab => PopekGoldbergCommand.Run(lab.Options, KnownEngines.Techniques, Console.Out),
                Request.Information information => CommandLineParser.Print(information),
                _ => ExitStatus.InternalError,
            };
        }
        catch (UsageException e)
        {
            return Fail(e.Message, ExitStatus.Usage);
        }
        catch (CannotStartException e)
        {
            return Fail(e.Message, ExitStatus.CannotStart);
        }
        catch (Exception e)
        {
            return Fail($"internal error, please report it: {e}", ExitStatus.InternalError);
        }
    }

    private static int Run(RunOptions options)
    {
        options = WithScript(options);
        using FileStream? json = options.StatsJson is { } path ? CreateFile(path, "--stats-json") : null;
        using var host = new ConsoleHost(options);
        using var session = new RunSession(options with { Terminal = host.GuestTerminal, Started = StartOfProgram() }, KnownEngines.With(options.CheckInterval), KnownEngines.ParseModel, host, text => Console.Error.WriteLine("bunraku: " + text));
        RunResult result = host.Run(session);
        Explain(result, session);
        if (options.Stats || json is not null)
        {
            RunStatistics statistics = session.Statistics;
            if (options.Stats) Console.Error.Write(statistics.ToString());
            json?.Write(System.Text.Encoding.UTF8.GetBytes(statistics.ToJson()));
        }
        return result.ExitStatus;
    }

    /// <summary>Standard input that is no terminal is a script for the guest's shell: clean output, its own status, and an end.</summary>
    private static RunOptions WithScript(RunOptions options) =>
        options is { Command: null, Kernel: null, Serial.Kind: SerialKind.Stdio } && options.Guest != HelloGuest.Name && !Terminal.Is(ConsoleHost.Stdin)
            ? options with { Command = ["sh"] } : options;

    /// <summary>When the script ./bunraku handed over, which may have built for a minute in the same process before; null without the script.</summary>
    private static DateTime? StartOfProgram() =>
        double.TryParse(Environment.GetEnvironmentVariable("BUNRAKU_STARTED"), System.Globalization.NumberStyles.AllowDecimalPoint, System.Globalization.CultureInfo.InvariantCulture, out double seconds)
            && seconds < DateTimeOffset.MaxValue.ToUnixTimeSeconds() ? DateTime.UnixEpoch.AddSeconds(seconds) : null;

    /// <summary>Says why a run ended, when that is not obvious.</summary>
    private static void Explain(RunResult result, RunSession session)
    {
        if (result is { WantedCommand: true, CommandStatus: null, HostEnd: HostEnd.None or HostEnd.TimedOut }) Console.Error.Write(session.HiddenMessages);
        switch (result.Cause.Reason)
        {
            case StopReason.TripleFault:
                Console.Error.WriteLine($"bunraku: the guest crashed the processor (triple fault on cpu {result.Cause.Cpu})");
                Console.Error.Write(session.CrashReport(result.Cause.Cpu));
                break;
            case StopReason.EngineError:
                Console.Error.WriteLine($"bunraku: internal error, please report it: {result.Cause.Message}");
                Console.Error.Write(session.CrashReport(result.Cause.Cpu));
                break;
            case StopReason.Reset when result.CommandStatus is null:
                Console.Error.WriteLine("bunraku: the guest reset the machine");
                break;
            case StopReason.HostRequest when result.HostEnd == HostEnd.TimedOut:
                Console.Error.WriteLine("bunraku: the time given with --timeout ran out");
                break;
            case StopReason.PowerOff when result.WantedCommand && result.CommandStatus is null:
                Console.Error.WriteLine("bunraku: the guest powered off without the status of its command");
                break;
        }
    }

    /// <summary>Creates a file that an option names.</summary>
    /// <exception cref="CannotStartException">It cannot be written.</exception>
    internal static FileStream CreateFile(string path, string option)
    {
        try
        {
            return new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.Read);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new CannotStartException($"{option}: cannot write {path}: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    private static int Fail(string message, int status)
    {
        Console.Error.WriteLine("bunraku: " + message);
        return status;
    }
}
