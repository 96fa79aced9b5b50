using System.Diagnostics;
using System.Runtime.InteropServices;
using Bunraku.Machine;
using Spectre.Console;

namespace Bunraku.Compare;

internal static class Program
{
    private const int Interrupted = 130;
    private const int FootprintPatience = 5; // the largest are prepared for 20 s
    private const double Busy = 0.1; // share of the host's processors in other hands that is worth a word

    /// <returns>0; 1 when something failed, a wrong checksum among it; 2 for wrong usage; 130 by a signal.</returns>
    public static int Main(string[] args)
    {
        using var cancel = new CancellationTokenSource();
        // Whatever was started ends before we do.
        using PosixSignalRegistration interrupt = OnSignal(PosixSignal.SIGINT), terminate = OnSignal(PosixSignal.SIGTERM),
            hangUp = OnSignal(PosixSignal.SIGHUP);
        var progress = new Progress();
        try
        {
            return CompareOptions.Parse(args) is { } options ? Compare(options, progress, cancel.Token) : 0;
        }
        catch (OperationCanceledException)
        {
            progress.Line("bench/compare: interrupted");
            return Interrupted;
        }
        catch (BenchException e)
        {
            progress.Line("bench/compare: " + e.Message);
            return e.ExitStatus;
        }
        catch (BootException e)
        {
            progress.Line("bench/compare: " + e.Message);
            return 1;
        }

        PosixSignalRegistration OnSignal(PosixSignal signal) => PosixSignalRegistration.Create(signal, context =>
        {
            context.Cancel = true;
            cancel.Cancel();
        });
    }

    private static int Compare(CompareOptions options, Progress progress, CancellationToken cancel)
    {
        string root = FindRoot(), artifacts = Path.Combine(root, "artifacts", "bench");
        progress.Step("building the guest");
        BenchGuest guest = options.Programs
            ? ProgramsGuest.Build(Path.Combine(root, "bench", "Programs"), Path.Combine(artifacts, "programs"), options.Cpus, progress.Step, cancel)
            : BenchGuest.Build(Path.Combine(root, "bench", "workloads"), artifacts, options.Nested, cancel) with
            {
                Cpus = options.Cpus,
                Patience = options.Footprint ? FootprintPatience : 1,
            };
        progress.Clear();
        if (options.Prepare)
        {
            ProcessStartInfo native = guest.Native(guest.Workloads, options.Milliseconds);
            Console.WriteLine($"kernel={guest.Kernel}\ninitrd={guest.Initrd}\nnative={native.FileName} " +
                $"{string.Join(' ', native.ArgumentList)}\nappend={guest.CommandLine(guest.Workloads, options.Milliseconds, true)}");
            return 0;
        }
        Workload[] workloads = Choose(options, guest.Workloads);
        var results = new Results(options.Time);
        progress.Step("building Bunraku");
        Subject[] subjects = [new NativeSubject(),
            .. options.Subjects.SelectMany(name => Create(name, root, options.Against)).Where(s => IsHere(s, results, cancel))];
        progress.Clear();
        foreach ((string subject, string reason) in results.LeftOut) progress.Line($"left out: {subject}: {reason}");
        if (subjects.Length == 1) throw new BenchException("none of the monitors asked for can run here");

        var load = new HostLoad();
        new Comparison(options, guest, subjects, workloads, results, load, progress).Run(cancel);

        new TableReport(TableConsole(), results, subjects, workloads).Write(options.Mitigations, options.Time);
        double others = load.OthersShare;
        if (others > Busy) Console.WriteLine($"the host was busy: other programs had {others:P0} of its processors meanwhile, so trust no single " +
            $"figure{(options.Time == TimeBasis.Wall ? "; --time cpu suffers less" : "")}");
        string json = options.Json ?? Path.Combine(artifacts, options.Programs ? "programs.json" : options.Nested ? "nested.json"
            : options.Footprint ? "footprint.json" : "compare.json");
        JsonReport.Write(json, options, guest, others, results, subjects, workloads);
        Console.WriteLine($"all figures: {Path.GetRelativePath(Environment.CurrentDirectory, json)}");
        if (options.Footprint)
        {
            string picture = options.Picture ?? Path.Combine(artifacts, "footprint.svg");
            FootprintPicture.Write(picture, results, subjects, workloads);
            Console.WriteLine($"the curve: {Path.GetRelativePath(Environment.CurrentDirectory, picture)}");
        }
        foreach (string error in results.Errors) Console.Error.WriteLine("bench/compare: " + error);
        return results.Errors.Count > 0 ? 1 : 0;
    }

    private static Workload[] Choose(CompareOptions options, IReadOnlyList<Workload> programs)
    {
        IReadOnlyList<string> only = options.Only;
        Workload[] all = [.. programs.Where(w => w.Group == Group.Footprint == options.Footprint && (w.Group != Group.Paging || w.IsIn([.. only, ""])))];
        if (!options.Footprint && !options.Programs) all = [.. all, Workload.Start, Workload.Kernel, Workload.True];
        if (only.FirstOrDefault(name => !all.Any(w => w.IsIn([name]))) is { } unknown)
            throw new BenchException($"--only: no workload or group '{unknown}'; there are {string.Join(", ", all.Select(w => w.Name))}", exitStatus: 2);
        return [.. all.Where(w => w.IsIn(only))];
    }

    private static IEnumerable<Subject> Create(string name, string root, string? against) => name switch
    {
        "qemu" => [new QemuSubject()],
        "bochs" => [new BochsSubject()],
        "qemu" + InsideSubject.Svm => [InsideSubject.OfQemu()],
        _ when name.EndsWith(InsideSubject.Vmx, StringComparison.Ordinal) || name.EndsWith(InsideSubject.Svm, StringComparison.Ordinal) =>
            [InsideSubject.OfBunraku(root, name[..^4], name[^4..])],
        _ when against is not null => [BunrakuSubject.Create(root, name), BunrakuSubject.CreateOther(against, name)],
        _ => [BunrakuSubject.Create(root, name)],
    };

    private static bool IsHere(Subject subject, Results results, CancellationToken cancel)
    {
        if (subject.Missing(cancel) is not { } reason) return true;
        results.LeftOut.Add((subject.Name, reason));
        return false;
    }

    private static IAnsiConsole TableConsole()
    {
        IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
        {
            Out = new AnsiConsoleOutput(Console.Out),
            Ansi = Console.IsOutputRedirected ? AnsiSupport.No : AnsiSupport.Detect,
            ColorSystem = Console.IsOutputRedirected ? ColorSystemSupport.NoColors : ColorSystemSupport.Detect,
        });
        if (Console.IsOutputRedirected) console.Profile.Width = 300; // a file has no width; lines must not be cut for one
        return console;
    }

    /// <summary>The folder that holds the project: bench/compare tells it.</summary>
    private static string FindRoot() => Environment.GetEnvironmentVariable("BUNRAKU_ROOT") is { Length: > 0 } root ? root
        : throw new BenchException("start bench/compare, which builds and runs this program", exitStatus: 2);
}
