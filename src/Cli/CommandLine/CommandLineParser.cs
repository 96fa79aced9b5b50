using System.CommandLine;
using System.CommandLine.Completions;
using System.CommandLine.Help;
using System.CommandLine.Parsing;

namespace Bunraku.Cli.CommandLine;

/// <summary>What the command line asks for.</summary>
internal abstract record Request
{
    internal sealed record Run(RunOptions Options) : Request;

    /// <param name="AsJson">For programs.</param>
    internal sealed record Engines(bool AsJson = false) : Request;

    internal sealed record Image(ImageRequest What) : Request;

    /// <param name="Guests">What is to be fetched.</param>
    internal sealed record Cache(CacheRequest What, IReadOnlyList<string> Guests) : Request;

    internal sealed record Control(ControlRequests What) : Request;

    internal sealed record PopekGoldberg(LabOptions Options) : Request;

    internal sealed record Shadow(ShadowOptions Options) : Request;

    internal sealed record Paging(PagingOptions Options) : Request;

    internal sealed record Nested(NestedOptions Options) : Request;

    /// <summary>The help of one command.</summary>
    /// <param name="Path">Its name behind the program's; empty for the program.</param>
    internal sealed record Help(Command Command, string Path) : Request;

    /// <summary>A text that is made of the definitions of the commands: the manual page, or what a shell reads.</summary>
    internal sealed record Generated(string Text) : Request;

    /// <summary>The CPU models and features.</summary>
    internal sealed record CpuModels : Request;

    /// <summary>Words for a shell that completes a command line.</summary>
    internal sealed record Suggestions(IReadOnlyList<string> Words) : Request;

    /// <summary>The version: the library prints it.</summary>
    internal sealed record Version(ParseResult Parsed) : Request;
}

/// <summary>Turns arguments into a <see cref="Request"/>, or into one line that says what is wrong with them.</summary>
internal static class CommandLineParser
{
    private const string Description = "Bunraku, a virtual machine monitor: runs unmodified operating systems on a processor written in C#.";

    /// <exception cref="UsageException">Wrong usage; the message is one line.</exception>
    public static Request Parse(IReadOnlyList<string> args)
    {
        // All behind -- belongs to the guest: the library would hand its first word to GUEST.
        int dashes = args.ToList().IndexOf("--");
        IReadOnlyList<string>? command = dashes < 0 ? null : [.. args.Skip(dashes + 1)];
        string[] own = [.. dashes < 0 ? args : args.Take(dashes)];

        // What is started most often is not worth the library, which takes longer for it than a guest for a small command.
        if (own is [RunCommand.Word] && command is { Count: > 0 }) return new Request.Run(RunCommand.WithDefaults(command));

        var configuration = new ParserConfiguration { EnablePosixBundling = false, ResponseFileTokenReplacer = null };
        var run = new RunCommand();
        if (own is [RunCommand.Word, ..]) own = ConfigurationFile.Expand(own);
        if (own is [RunCommand.Word, ..]) return ParseRun(run, own, command, configuration);
        Option<bool> asJson = SingleValue.Flag("--json", "as JSON, for programs");
        var engines = new Command("engines", "Say which engines can run here, and why the others cannot") { asJson };
        var shell = new Argument<string>("SHELL") { Description = "bash, zsh or fish" };
        shell.CompletionSources.Add([.. CompletionScript.Shells]);
        var completion = new Command("completion", "Print what a shell reads to complete command lines: eval \"$(bunraku completion bash)\"") { shell };
        var man = new Command("man", "Print the manual page: bunraku man | man -l -");
        var qemu = new Command(Qemu.QemuCommand.Word, "Run a machine that a command line of QEMU's describes; 'bunraku qemu -help' lists its options")
        {
            new Argument<string[]>("OPTION") { Arity = ArgumentArity.ZeroOrMore, Description = "as qemu-system-x86_64 takes them" },
        };
        var lab = new LabCommand();
        var image = new ImageCommand();
        var restore = new RestoreCommand();
        var cache = new CacheCommand();
        var control = new ControlCommands();
        var words = new Argument<string[]>("COMMAND") { Arity = ArgumentArity.ZeroOrMore, Description = "a command; without one, what there is" };
        var help = new Command("help", "Explain a command") { words };
        var root = new RootCommand(Description)
        {
            run, restore, qemu, engines, image, cache, control.List, control.Attach, control.Logs, control.Stop, control.Kill, control.Monitor,
            control.Migrate, control.Receive, control.Fork, lab, completion, man, help
        };
        words.CompletionSources.Add([.. root.Subcommands.Select(c => c.Name)]);
        ParseResult parsed = root.Parse(own, configuration);
        if (root.Directives.OfType<SuggestDirective>().Select(parsed.GetResult).FirstOrDefault(r => r is not null) is { } suggest)
        {
            // The line that is to be completed is one argument, and unfinished.
            int? position = int.TryParse(suggest.Values.FirstOrDefault(), out int p) ? p : null;
            return new Request.Suggestions(Completion.For(root, configuration, own.Length > 1 ? own[^1] : "", position));
        }
        Command asked = parsed.CommandResult.Command;
        if (parsed.Action is HelpAction) return new Request.Help(asked, Path(parsed.CommandResult));
        if (parsed.Action is { Terminating: true } && parsed.Errors.Count == 0) return new Request.Version(parsed);
        if (asked == help) return HelpFor(root, parsed.GetValue(words) ?? []);

        RejectUnknown(parsed, root, own);
        if (asked == man && parsed.Errors.Count == 0) return new Request.Generated(ManPage.For(root, Version));
        if (asked == completion && parsed.Errors.Count == 0) return new Request.Generated(CompletionScript.For(parsed.GetValue(shell) ?? ""));
        if (asked == lab || asked == image || asked == cache) return new Request.Help(asked, asked.Name);
        if (asked == root)
            throw new UsageException($"a command is missing: {string.Join(", ", root.Subcommands.Select(c => c.Name))}; 'bunraku help' explains them");
        if (parsed.Errors.Count > 0) throw new UsageException(OneLine(parsed.Errors[0]));
        if (asked == run) return Asked(run, parsed, command);
        if (asked == restore) return new Request.Run(restore.Read(parsed, command));
        if (asked == control.Monitor) return new Request.Control(control.ReadMonitor(parsed, command));
        if (command is not null) throw new UsageException("a command behind -- goes with 'run', 'restore' and 'monitor'");
        if (cache.Subcommands.Contains(asked)) return new Request.Cache(cache.Read(parsed), cache.Guests(parsed));
        if (asked == control.Receive) return new Request.Run(control.ReadReceive(parsed));
        if (control.Has(asked)) return new Request.Control(control.Read(parsed));
        if (asked == engines) return new Request.Engines(parsed.GetValue(asJson));
        if (image.Subcommands.Contains(asked)) return new Request.Image(image.Read(parsed));
        if (asked == lab.Paging) return new Request.Paging(lab.ReadPaging(parsed));
        if (asked == lab.Shadow) return new Request.Shadow(lab.ReadShadow(parsed));
        if (lab.AsksForEngines(parsed)) return new Request.Engines();
        if (asked == lab.Nested) return new Request.Nested(lab.ReadNested(parsed));
        return lab.AsksForCpus(parsed) ? new Request.CpuModels() : new Request.PopekGoldberg(lab.Read(parsed));
    }

    private static string Version => typeof(CommandLineParser).Assembly.GetName().Version?.ToString(3) ?? "";

    /// <summary>The same for 'run', without the other commands and their options, which take longer to be made than this one to be parsed.</summary>
    private static Request ParseRun(RunCommand run, string[] args, IReadOnlyList<string>? command, ParserConfiguration configuration)
    {
        var root = new RootCommand(Description) { run };
        ParseResult parsed = root.Parse(args, configuration);
        if (parsed.Action is HelpAction) return new Request.Help(run, run.Name);
        RejectUnknown(parsed, root, args);
        if (parsed.Errors.Count > 0) throw new UsageException(OneLine(parsed.Errors[0]));
        return Asked(run, parsed, command);
    }

    private static Request Asked(RunCommand run, ParseResult parsed, IReadOnlyList<string>? command) =>
        run.AsksForCpus(parsed) ? new Request.CpuModels() : run.AsksForEngines(parsed) ? new Request.Engines() : new Request.Run(run.Read(parsed, command));

    private static Request.Help HelpFor(RootCommand root, string[] words)
    {
        Command command = root;
        var path = new List<string>();
        foreach (string word in words)
        {
            command = command.Subcommands.FirstOrDefault(c => c.Name == word)
                ?? throw new UsageException(Nearest.Message("command", word, [.. command.Subcommands.Select(c => c.Name)]));
            path.Add(word);
        }
        return new Request.Help(command, string.Join(' ', path));
    }

    private static string Path(CommandResult result) => result.Parent is CommandResult parent ? $"{Path(parent)} {result.Command.Name}".TrimStart() : "";

    /// <summary>Words that the library could not place, or took for an argument though they look like an option.</summary>
    private static void RejectUnknown(ParseResult parsed, RootCommand root, string[] args)
    {
        Command command = parsed.CommandResult.Command;
        string[] options =
            [.. command.Options.Concat(root.Options.Where(o => o.Recursive)).SelectMany(o => o.Aliases.Append(o.Name))
            .Where(n => n.StartsWith("--", StringComparison.Ordinal)).Distinct()];
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
            if (command is ImageCommand or CacheCommand)
                throw new UsageException(Nearest.Message("command", word, [.. command.Subcommands.Select(c => c.Name)]));
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
