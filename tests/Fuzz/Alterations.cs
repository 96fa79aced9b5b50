using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Bunraku.Fuzz;

/// <summary>Records that were altered at random and are still of their form, or nearly so.</summary>
internal static class Alterations
{
    /// <summary>One value of a record in JSON becomes another one; of others, a byte.</summary>
    public static byte[] OfRecord(byte[] record, Random random)
    {
        if (random.Next(2) == 0 && record is [(byte)'{', ..] && OfItsValues(record, random) is { } altered) return altered;
        if (record.Length == 0) return [(byte)random.Next(256)];
        int at = random.Next(record.Length);
        switch (random.Next(3))
        {
            case 0: return [.. record[..at], .. record[(at + 1)..]];
            case 1: return [.. record[..at], (byte)random.Next(256), .. record[at..]];
            default:
                record[at] ^= (byte)random.Next(1, 256);
                return record;
        }
    }

    private static byte[]? OfItsValues(byte[] record, Random random)
    {
        try
        {
            JsonNode node = JsonNode.Parse(record)!;
            OfValue(node, random);
            return Encoding.UTF8.GetBytes(node.ToJsonString());
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException or ArgumentException)
        {
            return null; // it was altered before, and is no text any more, or has a name twice
        }
    }

    /// <summary>One value at random, somewhere inside: at a limit, of another kind, twice, or not there.</summary>
    public static void OfValue(JsonNode node, Random random)
    {
        while (true)
        {
            int count = node switch { JsonObject o => o.Count, JsonArray a => a.Count, _ => 0 };
            if (count == 0) return;
            int n = random.Next(count);
            string name = node is JsonObject fields ? fields.ElementAt(n).Key : "";
            JsonNode? inner = node is JsonObject ? node[name] : node[n];
            if (inner is JsonObject or JsonArray && random.Next(8) != 0)
            {
                node = inner;
                continue;
            }
            JsonNode? next = random.Next(6) switch
            {
                0 => null,
                1 => "",
                2 when inner is JsonValue text && text.TryGetValue(out string? old) => old + "/../\0",
                2 => inner?.ToJsonString(),
                _ => Number(inner, random),
            };
            if (node is JsonObject properties)
            {
                if (random.Next(8) == 0) properties.Remove(name);
                else properties[name] = next;
            }
            else if (node is JsonArray items)
            {
                if (random.Next(4) == 0) items.RemoveAt(n);
                else if (random.Next(4) == 0) items.Insert(random.Next(items.Count + 1), inner?.DeepClone());
                else items[n] = next;
            }
            return;
        }
    }

    private static JsonNode Number(JsonNode? before, Random random)
    {
        long old = before is JsonValue number && number.TryGetValue(out long value) ? value : 0;
        long[] limits = [0, 1, -1, 4096, int.MaxValue, int.MinValue, uint.MaxValue, long.MaxValue, long.MinValue, long.MaxValue & ~4095L, 1L << 40];
        return random.Next(3) switch
        {
            0 => unchecked(old + random.Next(-2, 3) * 4096L),
            1 => random.Next(2) == 0 ? unchecked(old + random.Next(-2, 3)) : (JsonNode)ulong.MaxValue,
            _ => limits[random.Next(limits.Length)],
        };
    }
}
