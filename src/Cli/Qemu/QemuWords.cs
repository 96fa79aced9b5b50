using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Bunraku.Cli.Qemu;

/// <summary>
/// What stands behind an option of QEMU's: <c>FIRST,KEY=VALUE,…</c>, or the same as a JSON object. Who reads it takes out what it knows;
/// <see cref="Finish"/> tells of what is left, so that no word is passed over in silence.
/// </summary>
/// <remarks>
/// QEMU manual, "Invocation", and its option parser: two commas are one in a value; a word without a value is "on", with "no" before it "off"; the first word
/// may be the value of a key that is not written.
/// </remarks>
internal sealed class QemuWords
{
    private readonly string _option;
    private readonly List<(string Key, string Value)> _words = [];

    private QemuWords(string option) => _option = option;

    /// <param name="option">As it is to be named in messages.</param>
    /// <param name="text">As it was given.</param>
    /// <param name="first">The key of a first word that has none; null: there must be none.</param>
    /// <exception cref="UsageException">It is no such list.</exception>
    public static QemuWords Parse(string option, string text, string? first = null)
    {
        var words = new QemuWords(option);
        if (text.StartsWith('{')) words.AddJson(text);
        else words.AddList(text, first);
        return words;
    }

    /// <summary>As it was named.</summary>
    public string Option => _option;

    private void AddList(string text, string? first)
    {
        for (int at = 0; at < text.Length;)
        {
            int end = at;
            while (end < text.Length && text[end] is not ('=' or ',')) end++;
            string key = text[at..end];
            bool isFirst = at == 0;
            if (end < text.Length && text[end] == '=')
            {
                (string value, at) = Value(text, end + 1);
                if (key.Length == 0) throw new UsageException($"{_option}: a name is missing before '={value}'");
                _words.Add((key, value));
                continue;
            }
            if (isFirst && first is not null)
            {
                (string value, at) = Value(text, 0);
                _words.Add((first, value));
                continue;
            }
            at = end + 1;
            if (key.Length == 0) continue; // QEMU passes over a comma too many
            _words.Add(key.StartsWith("no", StringComparison.Ordinal) && key.Length > 2 ? (key[2..], "off") : (key, "on"));
        }
    }

    /// <summary>Up to the next single comma; where what is behind that begins.</summary>
    private static (string, int) Value(string text, int at)
    {
        var value = new StringBuilder();
        for (; at < text.Length; at++)
        {
            if (text[at] == ',')
            {
                if (at + 1 >= text.Length || text[at + 1] != ',') break;
                at++;
            }
            value.Append(text[at]);
        }
        return (value.ToString(), at + 1);
    }

    private void AddJson(string text)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(text, new JsonDocumentOptions { MaxDepth = 16 });
            Flatten("", document.RootElement);
        }
        catch (JsonException e)
        {
            throw new UsageException($"{_option}: this is no JSON: {e.Message.ReplaceLineEndings(" ")}");
        }
    }

    private void Flatten(string key, JsonElement element)
    {
        switch (element.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty property in element.EnumerateObject()) Flatten(key.Length > 0 ? $"{key}.{property.Name}" : property.Name, property.Value);
                break;
            case JsonValueKind.Array:
                int n = 0;
                foreach (JsonElement item in element.EnumerateArray()) Flatten(string.Create(CultureInfo.InvariantCulture, $"{key}.{n++}"), item);
                break;
            case JsonValueKind.True or JsonValueKind.False:
                _words.Add((key, element.ValueKind == JsonValueKind.True ? "on" : "off"));
                break;
            default:
                _words.Add((key, element.ToString()));
                break;
        }
    }

    /// <summary>Takes a value out: the last one that was given. Null: there is none.</summary>
    public string? Take(string key)
    {
        string? value = null;
        foreach ((string k, string v) in _words)
        {
            if (k == key) value = v;
        }
        _words.RemoveAll(w => w.Key == key);
        return value;
    }

    /// <summary>Takes all values of a key out, in their order.</summary>
    public IReadOnlyList<string> TakeAll(string key)
    {
        string[] values = [.. _words.Where(w => w.Key == key).Select(w => w.Value)];
        _words.RemoveAll(w => w.Key == key);
        return values;
    }

    /// <summary>Takes all words out whose keys begin so.</summary>
    public IReadOnlyList<(string Key, string Value)> TakeBeginning(string prefix)
    {
        (string, string)[] found = [.. _words.Where(w => w.Key.StartsWith(prefix, StringComparison.Ordinal))];
        _words.RemoveAll(w => w.Key.StartsWith(prefix, StringComparison.Ordinal));
        return found;
    }

    /// <summary>Takes a value out that must be there.</summary>
    /// <exception cref="UsageException">It is not.</exception>
    public string Need(string key) => Take(key) ?? throw new UsageException($"{_option}: '{key}=' is missing");

    /// <summary>Takes out what is on or off; null: nothing is said.</summary>
    /// <exception cref="UsageException">It is neither.</exception>
    public bool? TakeSwitch(string key) => Take(key) switch
    {
        null => null,
        "on" or "yes" or "true" => true,
        "off" or "no" or "false" => false,
        { } other => throw new UsageException($"{_option}: {key}={other} is neither on nor off"),
    };

    /// <summary>Takes out a number.</summary>
    /// <exception cref="UsageException">It is none, or negative, or more than 2^31−1.</exception>
    public int? TakeNumber(string key) => Take(key) is { } text ? Number(_option, key, text) : null;

    /// <summary>A number as QEMU takes them, decimal or with 0x.</summary>
    public static int Number(string option, string key, string text)
    {
        bool hex = text.StartsWith("0x", StringComparison.OrdinalIgnoreCase);
        return int.TryParse(hex ? text.AsSpan(2) : text, hex ? NumberStyles.AllowHexSpecifier : NumberStyles.None, CultureInfo.InvariantCulture, out int number)
            && number >= 0 ? number : throw new UsageException($"{option}: {key}={text} is no number");
    }

    /// <summary>Takes out words that change nothing here, whatever their values.</summary>
    public void Drop(params ReadOnlySpan<string> keys)
    {
        foreach (string key in keys) Take(key);
    }

    /// <summary>Nothing may be left.</summary>
    /// <exception cref="UsageException">Something is; the message names it.</exception>
    public void Finish()
    {
        if (_words.Count > 0) throw new UsageException($"{_option}: '{_words[0].Key}' is not had");
    }

    /// <summary>What is left, which is then gone.</summary>
    public IReadOnlyList<string> TakeRest()
    {
        string[] rest = [.. _words.Select(w => w.Value == "on" ? w.Key : $"{w.Key}={w.Value}")];
        _words.Clear();
        return rest;
    }

    /// <summary>Bytes of a size: a number with K, M, G, T, P or E, or without one in the given unit.</summary>
    /// <param name="unit">Bytes of one where no unit is written.</param>
    /// <exception cref="UsageException">It is none.</exception>
    public static ulong Size(string option, string text, ulong unit)
    {
        const string units = "BKMGTPE";
        int shift = text.Length == 0 ? -1 : units.IndexOf(char.ToUpperInvariant(text[^1]));
        string digits = shift < 0 ? text : text[..^1];
        decimal scale = shift < 0 ? unit : 1ul << (10 * shift);
        return decimal.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number) && number <= ulong.MaxValue / scale
            ? (ulong)(number * scale) : throw new UsageException($"{option}: '{text}' is no size; write for example 1G or 512M");
    }
}
