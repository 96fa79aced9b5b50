using System.CommandLine;
using Bunraku.Cli.CommandLine;
using Bunraku.Cli.Qemu;
using Bunraku.Platform;

namespace Bunraku.Cli;

internal static class Program
{
    public static int Main(string[] args)
    {
        Background.Enter();
        if (QemuCommand.IsName(HostProcess.StartedAs)) args = [QemuCommand.Word, .. args];
        if (args is [RunCommand.Word or RestoreCommand.Word or QemuCommand.Word, ..]) WarmUp.Begin();
        var lost = new List<CannotWriteException>();
        StandardStreams.Guard(e =>
        {
            if (lost.Count == 0) lost.Add(e);
        });
        try
        {
            if (args is [QemuCommand.Word, .. string[] words]) return QemuCommand.Run(words, lost);
            return CommandLineParser.Parse(args) switch
            {
                Request.Run run => RunGuest.Run(run.Options, args, lost),
                Request.Engines { AsJson: true } => EnginesCommand.PrintJson(KnownEngines.All, Console.Out),
                Request.Engines => EnginesCommand.Print(KnownEngines.All, Console.Out),
                Request.Image image => ImageCommands.Run(image.What, Console.Out),
                Request.Cache cache => CacheCommands.Run(cache.What, cache.Guests, Console.Out),
                Request.Control control => ControlClients.Run(control.What, Console.Out),
                Request.PopekGoldberg lab => PopekGoldbergCommand.Run(lab.Options, KnownEngines.Techniques, Console.Out),
                Request.Paging paging => PagingCommand.Run(paging.Options, KnownEngines.Techniques, Console.Out),
                Request.Nested nested => NestedCommand.Run(nested.Options, KnownEngines.Techniques, Console.Out),
                Request.Shadow shadow => ShadowCommand.Run(shadow.Options, Console.Out),
                Request.Help help => Print(HelpText.For(help.Command, help.Path, Consoles.Width(Console.Out))),
                Request.Generated generated => Print(generated.Text),
                Request.CpuModels => Print(CpuHelp.Text(Consoles.Width(Console.Out))),
                Request.Suggestions suggestions => Print(string.Concat(suggestions.Words.Select(w => w + "\n"))),
                Request.Version version =>
                    version.Parsed.Invoke(new InvocationConfiguration { Output = Console.Out, Error = Console.Error, EnableDefaultExceptionHandler = false }),
                _ => ExitStatus.InternalError,
            };
        }
        catch (SessionException e) when (e is UsageException or VmOptionException)
        {
            return Fail(e.Message, ExitStatus.Usage);
        }
        catch (SessionException e)
        {
            return Fail(e.Message, ExitStatus.Failure);
        }
        catch (Bunraku.Storage.DiskException e)
        {
            return Fail(e.Message, ExitStatus.Failure);
        }
        catch (Exception e)
        {
            return Fail($"internal error, please report it: {e}", ExitStatus.InternalError);
        }
    }

    private static int Print(string text)
    {
        Console.Out.Write(text);
        return ExitStatus.Success;
    }

    private static int Fail(string message, int status)
    {
        Console.Error.WriteLine("bunraku: " + message);
        return status;
    }
}
