using System.Diagnostics;
using System.Globalization;

namespace Bunraku.Compare;

/// <summary>Rounds of all subjects, in turns, so that a busy minute of the host does not hit one of them alone.</summary>
internal sealed class Comparison(CompareOptions options, BenchGuest guest, IReadOnlyList<Subject> subjects, IReadOnlyList<Workload> workloads, Results results,
    HostLoad load, Progress progress)
{
    public void Run(CancellationToken cancel)
    {
        var round = new Round(guest, results, load, options.Milliseconds, progress.Step);
        bool usual = options.Mitigations != Mitigations.Off;
        Workload[] programs = [.. workloads.Where(w => w.Group != Group.Boot)], system = [.. programs.Where(w => w.Group == Group.OperatingSystem)];
        bool boot = workloads.Contains(Workload.Start) || workloads.Contains(Workload.Kernel);
        for (int run = 0; run < options.Runs; run++)
        {
            for (int turn = 0; turn < subjects.Count; turn++)
            {
                Subject subject = subjects[(turn + run) % subjects.Count]; // another one begins each time
                if (run >= subject.MaxRuns) continue;
                long started = Stopwatch.GetTimestamp();
                round.Run(subject, usual, subject.Boots ? programs : [.. programs.Where(w => w.Group != Group.OperatingSystem)], boot && subject.Boots, cancel);
                if (options.Mitigations == Mitigations.Both && subject.Boots) round.Run(subject, false, system, false, cancel);
                if (workloads.Contains(Workload.True)) round.RunTrue(subject, usual, cancel);
                progress.Line(string.Create(CultureInfo.InvariantCulture,
                    $"round {run + 1} of {Math.Min(options.Runs, subject.MaxRuns)}, {subject.Title}: {Stopwatch.GetElapsedTime(started).TotalSeconds:0.0} s"));
            }
        }
    }
}

/// <summary>What goes on, on standard error: a line for each turn, and on a terminal a last line that changes.</summary>
internal sealed class Progress
{
    private readonly bool _terminal = !Console.IsErrorRedirected;

    public void Step(string text)
    {
        if (_terminal) Console.Error.Write($"\r\e[K{text}");
    }

    public void Line(string text) => Console.Error.WriteLine(_terminal ? $"\r\e[K{text}" : text);

    /// <summary>Takes the changing line away.</summary>
    public void Clear()
    {
        if (_terminal) Console.Error.Write("\r\e[K");
    }
}
