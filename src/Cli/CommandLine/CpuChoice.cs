using Bunraku.Engines;

namespace Bunraku.Cli.CommandLine;

/// <summary>Reads <c>--cpu MODEL[,+FEATURE,-FEATURE]</c>.</summary>
public static class CpuChoice
{
    /// <summary>The model that <paramref name="text"/> describes; null is the first one. A list of features alone changes the first one.</summary>
    /// <param name="models">What there is, the default first. A feature that none of them has is not implemented.</param>
    /// <exception cref="UsageException">An unknown model or feature.</exception>
    public static CpuModel Parse(string? text, IReadOnlyList<CpuModel> models)
    {
        if (models.Count == 0) throw new UsageException("this build has no CPU model");
        if (text is null) return models[0];
        CpuModel model = models[0];
        var features = new HashSet<CpuFeature>(model.Features);
        string[] words = text.Split(',');
        for (int n = 0; n < words.Length; n++)
        {
            string word = words[n];
            if (word.StartsWith('+')) features.Add(Feature(word[1..], models));
            else if (word.StartsWith('-')) features.Remove(Feature(word[1..], models));
            else if (n == 0)
            {
                model = models.FirstOrDefault(m => m.Name == word) ?? throw new UsageException(Nearest.Message("CPU model", word, [.. models.Select(m => m.Name)]));
                features = [.. model.Features];
            }
            else
            {
                throw new UsageException($"--cpu: '{word}' needs + or - before it");
            }
        }
        return words.Length == 1 && model.Name == text ? model : model with { Name = text, Features = features };
    }

    private static CpuFeature Feature(string name, IReadOnlyList<CpuModel> models)
    {
        // /proc/cpuinfo writes sse4_1, manuals SSE4.1.
        string plain = string.Concat(name.Where(char.IsAsciiLetterOrDigit)).ToLowerInvariant();
        string[] known = [.. Enum.GetValues<CpuFeature>().Where(f => models.Any(m => m.Has(f))).Select(f => f.ToString().ToLowerInvariant())];
        if (known.Contains(plain)) return Enum.Parse<CpuFeature>(plain, ignoreCase: true);
        if (Enum.TryParse(plain, ignoreCase: true, out CpuFeature feature) && Enum.IsDefined(feature) && !plain.All(char.IsAsciiDigit))
            throw new UsageException($"the CPU feature '{name}' is not implemented");
        throw new UsageException(Nearest.Message("CPU feature", name, known));
    }
}
