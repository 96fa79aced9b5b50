using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Parsing;
using Bunraku.Engines;

namespace Bunraku.Cli.CommandLine;

/// <summary>What the command line asks for.</summary>
internal abstract record Request
{
    internal sealed record Run(Running.RunOptions Options) : Request;

    internal sealed record Engines : Request;

    internal sealed record PopekGoldberg(LabOptions Options) : Request;

    /// <summary>Help or version: the library prints it.</summary>
    internal sealed record Information(ParseResult Parsed) : Request;
}

/// <summary>Turns arguments into a <see cref="Request"/>, or into one line that says what is wrong with them.</summary>
internal static class CommandLineParser
{
    private const string ExitStatuses =
        """

        Exit status of 'run':
          0     the guest powered off or the user quit; behind -- the command's own status
          1     the machine could not be made (a file, package, memory or the cache)
          2     wrong usage
          3     the guest crashed the processor (triple fault)
          4     the guest reset the machine
          124   the time given with --timeout ran out
          125   internal error
          128+n ended by signal n (130: Ctrl-C)
          With --debug-exit, value*2+1 of what the guest wrote to port 0xf4.
        """;

    /// <exception cref="UsageException">Wrong usage; the message is one line.</exception>
    public static Request Parse(IReadOnlyList<string> args)
    {
        // All behind -- belongs to the guest: the library would hand its first word to GUEST.
        int dashes = args.ToList().IndexOf("--");
        IReadOnlyList<string>? command = dashes < 0 ? null : [.. args.Skip(dashes + 1)];
        string[] own = [.. dashes < 0 ? args : args.Take(dashes)];

        var run = new RunCommand();
        var engines = new Command("engines", "Say which engines can run here, and why the others cannot");
        var lab = new LabCommand();
        var root = new RootCommand("Bunraku, a virtual machine monitor: runs unmodified operating systems on a processor written in C#.") { run, engines, lab };
        ParseResult parsed = root.Parse(own, new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null });
        if (parsed.Action is HelpAction or { Terminating: true } && parsed.Errors.Count == 0) return new Request.Information(parsed);

        RejectUnknown(parsed, root, own);
        if (parsed.CommandResult.Command == lab) throw new UsageException("an experiment is missing: popek-goldberg");
        if (parsed.Errors.Count > 0) throw new UsageException(OneLine(parsed.Errors[0]));
        if (parsed.CommandResult.Command == run) return new Request.Run(run.Read(parsed, command));
        if (command is not null) throw new UsageException("a command behind -- goes with 'run'");
        if (parsed.CommandResult.Command == engines) return new Request.Engines();
        if (parsed.CommandResult.Command == lab.PopekGoldberg) return new Request.PopekGoldberg(lab.Read(parsed));
        throw new UsageException("a command is missing: run, engines or lab; see bunraku --help");
    }

    /// <summary>Prints what <see cref="Request.Information"/> stands for.</summary>
    public static int Print(Request.Information request)
    {
        int status = request.Parsed.Invoke();
        if (request.Parsed.Action is HelpAction && request.Parsed.CommandResult.Command is RunCommand or RootCommand)
        {
            Console.Out.WriteLine("Use 'bunraku run [GUEST] [options] -- COMMAND...' for one command inside the guest.");
            Console.Out.WriteLine(ExitStatuses.TrimEnd());
        }
        return status;
    }

    /// <summary>Words that the library could not place, or took for an argument though they look like an option.</summary>
    private static void RejectUnknown(ParseResult parsed, RootCommand root, string[] args)
    {
        Command command = parsed.CommandResult.Command;
        string[] options = [.. command.Options.Concat(root.Options.Where(o => o.Recursive)).SelectMany(o => o.Aliases.Append(o.Name)).Where(n => n.StartsWith("--", StringComparison.Ordinal)).Distinct()];
        IEnumerable<string> placed = parsed.CommandResult.Children.OfType<ArgumentResult>().SelectMany(a => a.Tokens).Select(t => t.Value);
        foreach (string word in placed.Concat(parsed.UnmatchedTokens))
        {
            if (word.StartsWith('-') && args.Contains(word))
            {
                string name = word.Split('=', 2)[0];
                throw new UsageException(Nearest.Message("option", name, options));
            }
        }
        foreach (string word in parsed.UnmatchedTokens)
        {
            if (command == root) throw new UsageException(Nearest.Message("command", word, [.. root.Subcommands.Select(c => c.Name)]));
            if (command is LabCommand) throw new UsageException(Nearest.Message("experiment", word, [.. command.Subcommands.Select(c => c.Name)]));
            throw new UsageException(command is RunCommand ? $"unexpected '{word}'; a command for the guest goes behind --" : $"unexpected '{word}'");
        }
    }

    private static string OneLine(ParseError error)
    {
        string name = error.SymbolResult switch
        {
            OptionResult o => o.Option.Name + ": ",
            _ => "",
        };
        string message = error.Message.ReplaceLineEndings(" ").Trim();
        return message.Contains(name.TrimEnd(':', ' '), StringComparison.Ordinal) ? message : name + message;
    }
}
