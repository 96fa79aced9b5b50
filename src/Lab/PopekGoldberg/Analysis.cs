using System.Globalization;
using Bunraku.Engines;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>
/// Popek and Goldberg's definitions ("Formal Requirements for Virtualizable Third Generation Architectures", CACM 17(7), 1974), applied to
/// observations: privileged is what traps in user mode (an exit to the hypervisor is as good) and not in supervisor mode; control sensitive is what changes
/// system state without a trap; behaviour sensitive is what gives another result in another system state or at another level.
/// </summary>
internal static class Analysis
{
    public const int Supervisor = 0, Deprivileged = 1, User = 3;
    /// <summary>Summary of what trapped natively and was answered by the host's system.</summary>
    public const string Emulated = "emulated";
    public static IReadOnlyList<int> Levels { get; } = [User, Deprivileged, Supervisor];

    /// <summary>One instruction's executions on one processor, by level and machine state, without what also changes when nothing is executed.</summary>
    private sealed class Executions(Probe probe, Dictionary<(int Level, int State), Observation> observations, Dictionary<(int, int), HashSet<string>> noise,
        bool unsteady)
    {
        public Probe Probe => probe;
        public Observation this[int level, int state] => observations[(level, state)];
        /// <summary>The same execution a second time had another result: the clock, for one.</summary>
        public bool Unsteady => unsteady;
        public bool Has(int level) => observations.ContainsKey((level, 0));
        public IEnumerable<Observation> All => observations.Values;
        public string[] Changed(int level, int state) => [.. this[level, state].Changed.Where(n => !noise[(level, state)].Contains(n))];
    }

    /// <summary>Runs every probe on one engine with one setting of UMIP.</summary>
    /// <param name="progress">Told how many probes are done, before each.</param>
    public static ProcessorReport Engine(GuestBench bench, string engine, bool umip, IReadOnlyList<Probe> probes, Action<int>? progress = null)
    {
        var noise = new Dictionary<(int, int), HashSet<string>>();
        foreach (int level in Levels)
        {
            for (int state = 0; state < 2; state++) noise[(level, state)] = [.. bench.Run(ProbeCatalog.Control, new Setting(level, state, umip)).Changed];
        }
        bool translationsObservable = bench.TranslationDropped(ProbeCatalog.Control, new Setting(Supervisor, 0, umip)) == false;
        var instructions = new List<InstructionReport>();
        var failures = new List<string>();
        foreach (Probe probe in probes)
        {
            progress?.Invoke(instructions.Count);
            var observations = new Dictionary<(int, int), Observation>();
            foreach (int level in Levels)
            {
                for (int state = 0; state < 2; state++) observations[(level, state)] = bench.Run(probe, new Setting(level, state, umip));
            }
            int steadyAt = observations[(User, 0)].IsCompleted ? User : Supervisor;
            bool unsteady = observations[(steadyAt, 0)].IsCompleted && bench.Run(probe, new Setting(steadyAt, 0, umip)) is { IsCompleted: true } again
                && !SameResult(again, observations[(steadyAt, 0)]);
            var executions = new Executions(probe, observations, noise, unsteady);
            bool drops = translationsObservable && bench.TranslationDropped(probe, new Setting(Supervisor, 0, umip)) == true;
            List<string> exits = [];
            for (int state = 0; state < 2; state++)
                exits.AddRange(bench.Run(probe, new Setting(Supervisor, state, umip, Intercept: true)).Exits.Take(1).Select(e => e.Reason.ToString()));
            if (executions.All.FirstOrDefault(o => o.Outcome == Outcome.Failed) is { } failed) failures.Add($"{probe.Name}: {failed.Message}");
            bool steps = bench.Run(probe, new Setting(User, 0, umip, SingleStep: true)).SingleStepped;
            instructions.Add(Classify(executions, drops, [.. exits.Distinct()], steps));
        }
        return Conclude(umip ? engine + " with UMIP" : engine, engine, umip, instructions, failures, deprivileged: true, complete: failures.Count == 0);
    }

    /// <summary>
    /// Runs every probe on the host's silicon, in user mode. Which instructions are sensitive is known from <paramref name="reference"/>, where level 0 can be
    /// observed.
    /// </summary>
    public static ProcessorReport Host(HostBench bench, string name, ProcessorReport reference, IReadOnlyList<Probe> probes)
    {
        var instructions = new List<InstructionReport>();
        bool has32BitCode = bench.Has32BitCode;
        foreach (Probe probe in probes)
        {
            Observation seen = bench.Run(probe);
            string? message = probe.Bitness == 32 && !has32BitCode ? "the host's system has no segment for 32-bit code" : seen.Message;
            InstructionReport known = reference.Instructions.First(i => i.Name == probe.Name);
            // The processor trapped, and the system below the program made the result up.
            bool emulated = seen.IsCompleted && known.SingleSteps == true && !bench.SingleSteps(probe);
            bool? privileged = known.At(Supervisor)!.Executions.Any(e => e.Outcome == Outcome.Completed) ? seen.IsCaught || emulated : null;
            // State that is behind a trap is read at level 0 alone.
            Leak[] leaks = !seen.IsCompleted ? [] :
                [.. (known.At(User)!.Leaks is { Count: > 0 } found ? found : known.At(Supervisor)!.Leaks).Select(l => l with { Values = [Value(seen, l)] })];
            string[] changed = [.. seen.Changed], ignored = !seen.IsCompleted ? [] :
                [.. known.At(User)!.Ignored.Where(n => seen.SystemAfter.ContainsKey(n) && !changed.Contains(n))];
            string summary = !seen.IsCompleted ? Trap(seen)! : emulated ? Emulated : ignored.Length > 0 ? "ignored" : leaks.Length > 0 ? "leak"
                : changed.Length > 0 ? "changes" : known.BehaviourSensitive.Contains("level") ? "by level" : "done";
            var level = new LevelReport(User, summary, leaks, ignored, [new ExecutionReport(0, seen.Outcome, Trap(seen), [], changed, message)]);
            instructions.Add(new InstructionReport(probe.Name, Convert.ToHexString(probe.Assemble()), privileged, known.ControlSensitive,
                known.BehaviourSensitive, [level], [], null));
        }
        return Conclude(name, null, null, instructions, [], deprivileged: false, complete: reference.NotObserved.Count == 0);
    }

    private static ProcessorReport Conclude(string name, string? engine, bool? umip, List<InstructionReport> instructions, List<string> failures,
        bool deprivileged, bool complete)
    {
        string[] escaping = [.. instructions.Where(i => i is { IsSensitive: true, Privileged: false }).Select(i => i.Name)];
        bool? verdict = escaping.Length > 0 ? false : !complete || !instructions.Any(i => i.IsSensitive) ? null : true;
        string[]? kernel = !deprivileged ? null
            : [.. instructions.Where(i => i.IsSensitive && i.At(Deprivileged)!.Executions.Any(e => e is { Outcome: Outcome.Completed, Exits.Count: 0 }))
            .Select(i => i.Name)];
        return new ProcessorReport(name, engine, umip, verdict, escaping, kernel, failures, instructions);
    }

    private static InstructionReport Classify(Executions x, bool dropsTranslations, string[] exits, bool steps)
    {
        int[] states = [0, 1];
        // Popek and Goldberg speak of executions that do not trap in supervisor mode.
        int[] completing = [.. states.Where(s => x[Supervisor, s].IsCompleted)];
        bool failed = states.Any(s => x[User, s].Outcome == Outcome.Failed || x[Supervisor, s].Outcome == Outcome.Failed);
        bool? privileged = failed || completing.Length == 0 ? null : completing.All(s => x[User, s].IsCaught);

        var control = new List<string>();
        foreach (int s in completing)
        {
            control.AddRange(x.Changed(Supervisor, s));
            control.AddRange(x[Supervisor, s].Exits.Where(ActsOnHypervisor).Select(e => "exit " + e.Reason));
        }
        if (dropsTranslations) control.Add("TLB");

        var behaviour = new List<string>();
        foreach (int level in (int[])[Supervisor, User]) behaviour.AddRange(Leaks(x, level).Select(l => l.What));
        if (completing.Any(s => x[User, s].IsCompleted
            && ((!x.Unsteady && !SameResult(x[Supervisor, s], x[User, s]))
            || !x.Changed(Supervisor, s).ToHashSet().SetEquals(x.Changed(User, s))))) behaviour.Add("level");

        LevelReport[] levels = [.. Levels.Where(x.Has).Select(l => Describe(x, l))];
        return new InstructionReport(x.Probe.Name, Convert.ToHexString(x.Probe.Assemble()), privileged, [.. control.Distinct()], [.. behaviour.Distinct()],
            levels, exits, steps);
    }

    /// <summary>An exit that is more than a question: it writes a resource, or gives the processor or control away.</summary>
    private static bool ActsOnHypervisor(ObservedExit e) =>
        e.IsWrite || e.Reason
            is not (ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess or ExitReason.DrAccess or ExitReason.Cpuid or ExitReason.Rdtsc
            or ExitReason.DescriptorTable);

    private static LevelReport Describe(Executions x, int level)
    {
        Observation[] both = [x[level, 0], x[level, 1]];
        IReadOnlyList<Leak> leaks = Leaks(x, level);
        var ignored = new HashSet<string>();
        for (int s = 0; s < 2; s++)
        {
            if (x[level, s].IsCompleted && x[Supervisor, s].IsCompleted) ignored.UnionWith(x.Changed(Supervisor, s).Except(x.Changed(level, s)));
        }
        bool differs = !x.Unsteady
            && Enumerable.Range(0, 2).Any(s => x[level, s].IsCompleted && x[Supervisor, s].IsCompleted && !SameResult(x[Supervisor, s], x[level, s]));
        Observation? failed = both.FirstOrDefault(o => o.Outcome == Outcome.Failed), trapped = both.FirstOrDefault(o => o.Outcome == Outcome.Trapped);
        string summary =
            failed != null ? "failed"
            : trapped != null && both.All(o => !o.IsCompleted) ? Trap(trapped)!
            : both.Any(o => o.Exits.Count > 0) ? "exit"
            : ignored.Count > 0 ? "ignored"
            : leaks.Count > 0 ? level == Supervisor ? "reads" : "leak"
            : differs ? "by level"
            : x.Changed(level, 0).Length + x.Changed(level, 1).Length > 0 ? "changes"
            : "done";
        if (trapped != null && both.Any(o => o.IsCompleted)) summary = Trap(trapped) + "?";
        return new LevelReport(level, summary, leaks, [.. ignored],
            [.. both.Select((o, s) =>
                new ExecutionReport(s, o.Outcome, Trap(o), [.. o.Exits.Select(e => e.Reason.ToString())], o.Outcome == Outcome.Failed ? []
                : x.Changed(level, s), o.Message))]);
    }

    /// <summary>The results are the same as far as the program can see.</summary>
    private static bool SameResult(Observation a, Observation b)
    {
        if (a.Flags != b.Flags) return false;
        for (int n = 0; n < a.Gpr.Length; n++)
        {
            bool changed = a.Gpr[n] != a.GprBefore[n];
            if (changed != (b.Gpr[n] != b.GprBefore[n]) || (changed && a.Gpr[n] != b.Gpr[n])) return false;
        }
        for (int n = 0; n < a.Memory.Length; n++)
        {
            bool changed = a.Memory[n] != a.MemoryBefore[n];
            if (changed != (b.Memory[n] != b.MemoryBefore[n]) || (changed && a.Memory[n] != b.Memory[n])) return false;
        }
        return true;
    }

    private static readonly string[] s_registers =
        ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

    /// <summary>RAX and the others, by their numbers.</summary>
    public static string RegisterName(int number) => s_registers[number];

    /// <summary>Parts of the result that are not the same in both machine states, named after the system state that has just these values.</summary>
    private static List<Leak> Leaks(Executions x, int level)
    {
        Observation a = x[level, 0], b = x[level, 1];
        var leaks = new List<Leak>();
        if (!a.IsCompleted || !b.IsCompleted) return leaks;
        for (int n = 0; n < a.Gpr.Length; n++)
        {
            if (a.Gpr[n] == b.Gpr[n] || (a.Gpr[n] == a.GprBefore[n] && b.Gpr[n] == b.GprBefore[n])) continue;
            int size = (a.Gpr[n] | b.Gpr[n]) >> 32 != 0 ? 8 : 4;
            leaks.Add(Named(a, b, [8, 4, 2], s => a.Gpr[n] & Mask(s), s => b.Gpr[n] & Mask(s), s_registers[n])
                ?? new Leak(x.Unsteady ? "time" : s_registers[n], s_registers[n], size, Pair(a.Gpr[n], b.Gpr[n])));
        }
        for (int n = 0; n < a.Memory.Length; n++)
        {
            if (a.Memory[n] == b.Memory[n] || (a.Memory[n] == a.MemoryBefore[n] && b.Memory[n] == b.MemoryBefore[n])) continue;
            // The value may begin before the first byte that differs.
            Leak? found = null;
            for (int start = Math.Max(0, n - 7); start <= n && found == null; start++)
            {
                int at = start;
                int[] sizes = [.. new[] { 8, 4, 2 }.Where(s => at + s > n && at + s <= a.Memory.Length)];
                found = Named(a, b, sizes, s => Word(a.Memory, at, s), s => Word(b.Memory, at, s), at.ToString(CultureInfo.InvariantCulture));
            }
            found ??= new Leak("memory", n.ToString(CultureInfo.InvariantCulture), 1, Pair(a.Memory[n], b.Memory[n]));
            leaks.Add(found);
            n = Math.Max(n, int.Parse(found.Where, CultureInfo.InvariantCulture) + found.Size - 1);
        }
        return leaks;
    }

    private static Leak? Named(Observation a, Observation b, int[] sizes, Func<int, ulong> first, Func<int, ulong> second, string where)
    {
        foreach (int size in sizes)
        {
            ulong p = first(size), q = second(size);
            if (p == q) continue;
            foreach ((string name, ulong value) in a.SystemBefore.Append(new("RFLAGS", a.RflagsBefore)))
            {
                ulong other = name == "RFLAGS" ? b.RflagsBefore : b.SystemBefore[name];
                if (p == (value & Mask(size)) && q == (other & Mask(size))) return new Leak(name, where, size, Pair(p, q));
            }
        }
        return null;
    }

    private static string Value(Observation o, Leak leak)
    {
        int register = Array.IndexOf(s_registers, leak.Where);
        ulong value = register >= 0 ? o.Gpr[register] & Mask(leak.Size) : Word(o.Memory, int.Parse(leak.Where, CultureInfo.InvariantCulture), leak.Size);
        return value.ToString("X", CultureInfo.InvariantCulture);
    }

    private static string[] Pair(ulong a, ulong b) => [a.ToString("X", CultureInfo.InvariantCulture), b.ToString("X", CultureInfo.InvariantCulture)];

    private static ulong Mask(int size) => size >= 8 ? ulong.MaxValue : (1ul << size * 8) - 1;

    private static ulong Word(byte[] memory, int at, int size)
    {
        ulong value = 0;
        for (int n = size - 1; n >= 0; n--) value = value << 8 | memory[at + n];
        return value;
    }

    private static readonly string?[] s_exceptions =
        ["DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", null, "TS", "NP", "SS", "GP", "PF", null, "MF", "AC", "MC", "XM", "VE", "CP"];

    /// <summary>As the manuals write it: #GP(0), #UD, INT 21; null when nothing trapped.</summary>
    public static string? Trap(Observation o)
    {
        if (o.Vector is not { } vector) return null;
        string? name = vector < s_exceptions.Length ? s_exceptions[vector] : null;
        return name == null ? $"INT {vector:X}" : o.ErrorCode is { } error ? $"#{name}({error:X})" : "#" + name;
    }
}
