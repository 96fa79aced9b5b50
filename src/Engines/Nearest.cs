namespace Bunraku.Engines;

/// <summary>Finds what a mistyped name probably meant.</summary>
public static class Nearest
{
    /// <summary>The known name nearest to <paramref name="typed"/>, or null when none is near enough to be meant. Case does not count.</summary>
    public static string? Find(string typed, IEnumerable<string> known)
    {
        string word = typed.ToLowerInvariant();
        string? best = null;
        int bestDistance = int.MaxValue;
        foreach (string name in known)
        {
            string lower = name.ToLowerInvariant();
            int distance = Distance(word, lower);
            // A name begun but not finished is nearer than its length says.
            if (word.Length > 0 && lower.StartsWith(word, StringComparison.Ordinal)) distance = Math.Min(distance, 1);
            if (distance >= bestDistance || distance > Math.Max(2, lower.Length / 2)) continue;
            (best, bestDistance) = (name, distance);
        }
        return best;
    }

    /// <summary>"unknown WHAT 'NAME'" with the nearest known name, or all of them when they are few.</summary>
    public static string Message(string what, string typed, IReadOnlyCollection<string> known) => Message(what, typed, typed, known);

    /// <summary>The same with what was <paramref name="meant"/>, spelled as the known names are.</summary>
    public static string Message(string what, string typed, string meant, IReadOnlyCollection<string> known)
    {
        if (Find(meant, known) is { } near) return $"unknown {what} '{typed}'; did you mean '{near}'?";
        return known.Count is > 0 and <= 8 ? $"unknown {what} '{typed}'; known: {string.Join(", ", known)}" : $"unknown {what} '{typed}'";
    }

    /// <summary>Levenshtein's edit distance: insertions, deletions and substitutions that turn <paramref name="a"/> into <paramref name="b"/>.</summary>
    public static int Distance(string a, string b)
    {
        int[] row = new int[b.Length + 1];
        for (int j = 0; j <= b.Length; j++) row[j] = j;
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(substituted, Math.Min(row[j], row[j - 1]) + 1);
            }
        }
        return row[b.Length];
    }
}
