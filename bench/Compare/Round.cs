using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;

namespace Bunraku.Compare;

/// <summary>Lets one subject run workloads, and writes down what its console says.</summary>
internal sealed partial class Round(BenchGuest guest, Results results, HostLoad load, int milliseconds, Action<string> progress)
{
    private const int MaxBoots = 4; // a guest that dies again and again is not worth the time

    /// <summary>
    /// Runs all of <paramref name="workloads"/> that are not settled yet. A guest that crashes or hangs is named and booted again for the rest.
    /// </summary>
    public void Run(Subject subject, bool mitigations, IReadOnlyList<Workload> workloads, bool boot, CancellationToken cancel)
    {
        List<Workload> pending = [.. workloads.Where(w => !results.IsSettled(new(subject.Name, mitigations, w)))];
        // A boot is worth measuring without any workload, too.
        for (int boots = 0; boots < MaxBoots && (pending.Count > 0 || (boot && boots == 0)); boots++)
        {
            if (RunBoot(subject, mitigations, pending, boot && boots == 0, cancel) is not { } trouble) return;
            if (pending.Count == 0)
            {
                results.Errors.Add($"{subject.Name}: {trouble}");
                return;
            }
            results.Fail(new(subject.Name, mitigations, pending[0]), trouble);
            pending.RemoveAt(0);
        }
        if (pending.Count > 0)
            results.Errors.Add($"{subject.Name}: given up after {MaxBoots} attempts; not measured: {string.Join(", ", pending.Select(w => w.Name))}");
    }

    /// <summary>Measures the whole life of a monitor that runs one small command.</summary>
    public void RunTrue(Subject subject, bool mitigations, CancellationToken cancel)
    {
        var cell = new Cell(subject.Name, mitigations, Workload.True);
        if (results.IsSettled(cell) || subject.StartTrue(guest, mitigations) is not { } info) return;
        progress($"{subject.Title}: {Workload.True.Name}");
        double cpu = ProcessClock.OfEndedChildren();
        long started = Stopwatch.GetTimestamp();
        using Process process = HostProgram.Start(info);
        using CancellationTokenRegistration kill = cancel.Register(() => HostProgram.Kill(process));
        Task<string> error = process.StandardError.ReadToEndAsync(CancellationToken.None);
        Task output = process.StandardOutput.BaseStream.CopyToAsync(Stream.Null, CancellationToken.None);
        bool ended = process.WaitForExit(subject.Patience);
        double took = Stopwatch.GetElapsedTime(started).TotalNanoseconds;
        HostProgram.Kill(process);
        cancel.ThrowIfCancellationRequested();
        Task.WaitAll([output, error], CancellationToken.None);
        if (!ended) results.Fail(cell, $"did not end within {subject.Patience.TotalSeconds} s and was ended");
        else if (process.ExitCode != 0) results.Fail(cell, $"status {process.ExitCode}: {HostProgram.LastLine(error.Result)}");
        else results.Add(cell, new(1, took, ProcessClock.OfEndedChildren() - cpu, null));
    }

    /// <summary>One boot. Workloads leave <paramref name="pending"/> as they are done.</summary>
    /// <returns>Null, or why the first one still pending was not measured.</returns>
    private string? RunBoot(Subject subject, bool mitigations, List<Workload> pending, bool measureBoot, CancellationToken cancel)
    {
        progress(subject.Boots ? $"{subject.Title}: booting" : subject.Title);
        using RunningSubject running = subject.Start(guest, pending, milliseconds, mitigations);
        long? first = null, entry = null, start = null;
        double? firstCpu = null, startCpu = null;
        bool done = false;
        string last = "";
        while (!done)
        {
            if (!running.Console.TryTake(subject.Patience * guest.Patience, cancel, out (string Text, long Time) line))
            {
                string where = last.Length > 0 ? $"; its last line: {Clean(last)}" : "";
                if (!running.Console.Ended) return $"no sign of life for {subject.Patience.TotalSeconds * guest.Patience} s, so it was ended{where}";
                running.Process.WaitForExit();
                string errors = running.Console.Errors;
                return $"it ended too early, with status {running.Process.ExitCode}{(errors.Trim().Length > 0 ? ": " + HostProgram.LastLine(errors) : where)}";
            }
            if (line.Text.Trim().Length > 0) last = line.Text;
            if (first is null && running.IsBootLoadersLastWord(line.Text)) entry = line.Time;
            Match report = Report().Match(line.Text);
            if (!report.Success) continue;
            string[] words = report.Groups[1].Value.Split(' ', 3);
            double? cpu = ProcessorTime(running);
            if (words[0] == "first") (first, firstCpu) = (line.Time, cpu);
            if (words[0] == "done") done = true;
            if (words.Length < 2 || pending.FirstOrDefault(w => w.Name == words[1]) is not { } workload) continue;
            var cell = new Cell(subject.Name, mitigations, workload);
            switch (words[0])
            {
                case "start":
                    progress($"{subject.Title}: {workload.Name}");
                    (start, startCpu) = (line.Time, ProcessorTime(running)); // after the progress line, which takes a moment
                    continue;
                case "end" when Figures().Match(words[2]) is { Success: true } f && start is { } from:
                    if (!results.IsRight(cell, f.Groups["sum"].Value)) break;
                    // A program of this host has ended by now, and its own figure is right.
                    double? processor = subject.Boots ? cpu - startCpu : Number(f, "cpu");
                    results.Add(cell, new((ulong)Number(f, "units"), Stopwatch.GetElapsedTime(from, line.Time).TotalNanoseconds, processor, Number(f, "ns")));
                    break;
                case "skip":
                    results.Skip(cell, words[2]);
                    break;
                case "fail":
                    results.Fail(cell, words[2]);
                    break;
                default: // a garbled line
                    results.Fail(cell, $"cannot read: {Clean(line.Text)}");
                    break;
            }
            pending.Remove(workload);
            start = null;
        }
        ulong? memory = running.MonitorMemory(guest);
        if (!running.EndsItself && ProcessorTime(running) is { } used) load.AddOurs(used);
        double? kernelEntry = null;
        if (running.EndsItself && !running.Process.WaitForExit(TimeSpan.FromSeconds(20)))
            results.Errors.Add($"{subject.Name}: did not end after the guest had powered off, and was ended");
        else if (running.EndsItself) (kernelEntry, memory) = running.Statistics() is var (e, m) ? (e, m ?? memory) : default;
        if (memory is { } bytes) results.AddMemory(subject.Name, bytes);
        if (measureBoot && subject.Boots && first is { } mark) AddBoot(subject, mitigations, running.Started, entry, kernelEntry, mark, firstCpu);
        return pending.Count == 0 ? null : "it was not run";
    }

    private void AddBoot(Subject subject, bool mitigations, long started, long? entry, double? kernelEntry, long mark, double? cpu)
    {
        double start = Stopwatch.GetElapsedTime(started, mark).TotalNanoseconds;
        results.Add(new(subject.Name, mitigations, Workload.Start), new(1, start, cpu, null));
        if (entry is { } at)
            results.Add(new(subject.Name, mitigations, Workload.Kernel), new(1, Stopwatch.GetElapsedTime(at, mark).TotalNanoseconds, null, null));
        else if (kernelEntry is { } seconds) results.Add(new(subject.Name, mitigations, Workload.Kernel), new(1, start - seconds * 1e9, null, null));
    }

    private static double? ProcessorTime(RunningSubject running) => running.MonitorId is { } id ? ProcessClock.Nanoseconds(id) : null;

    private static double Number(Match match, string group) => double.Parse(match.Groups[group].Value, CultureInfo.InvariantCulture);

    private static string Clean(string line)
    {
        string text = new([.. line.Where(c => c is >= ' ' and <= '~')]);
        return text.Length <= 120 ? text : text[..120];
    }

    [GeneratedRegex("@bench (.*)$")]
    private static partial Regex Report();

    [GeneratedRegex("^units=(?<units>[0-9]+) ns=(?<ns>[0-9]+) cpu=(?<cpu>[0-9]+) sum=(?<sum>[0-9a-f]{16})$")]
    private static partial Regex Figures();
}
