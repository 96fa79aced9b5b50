namespace Bunraku.Cli;

/// <summary>The engines that experiments are asked for.</summary>
internal static class LabEngines
{
    /// <summary>Those of a list of names; without one, all that can run here.</summary>
    /// <exception cref="UsageException">There is no such engine.</exception>
    /// <exception cref="CannotStartException">One of them, or none, can run here.</exception>
    public static IX86Engine[] Select(IReadOnlyList<string> names, IReadOnlyList<IX86Engine> known)
    {
        if (names.Count == 0)
        {
            IX86Engine[] available = [.. known.Where(e => e.Probe().Available)];
            return available.Length > 0 ? available : throw new CannotStartException("no engine can run here; 'bunraku engines' says why");
        }
        var engines = new List<IX86Engine>();
        foreach (string name in names.Distinct(StringComparer.OrdinalIgnoreCase))
        {
            IX86Engine engine = known.FirstOrDefault(e => e.Name.Equals(name, StringComparison.OrdinalIgnoreCase))
                ?? throw new UsageException("--engine: " + Nearest.Message("engine", name, [.. known.Select(e => e.Name)]));
            EngineProbe probe = engine.Probe();
            if (!probe.Available) throw new CannotStartException($"engine '{engine.Name}' cannot run here: {probe.Detail}");
            engines.Add(engine);
        }
        return [.. engines];
    }
}
