using System.Collections;
using System.Diagnostics.CodeAnalysis;
using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Bunraku.Engines;

/// <summary>
/// Reads records that <see cref="RecordWriter"/> wrote, by their shape alone: members as they are declared, nothing missing, unknown, twice, or null where
/// none may be. The library's own reader is generic in each record and each member, and the runtime compiles all of that anew in each process, which takes
/// longer than the rest of a restore; here is no code for each type. Thread-safe.
/// </summary>
public static class RecordReader
{
    private const int LongestQuote = 64;

    /// <summary>Reads one record, which is all of the text.</summary>
    /// <param name="type">Of the record; see <see cref="IStateful{TState}"/> for what it may consist of.</param>
    /// <exception cref="JsonException">The text is something else; the message is one line.</exception>
    public static object Read(ReadOnlySpan<byte> json, Type type)
    {
        var reader = new Utf8JsonReader(json);
        Next(ref reader);
        RecordShape shape = RecordShape.Of(type);
        object record;
        try
        {
            record = Value(ref reader, shape, "it") ?? throw new JsonException("it is null");
        }
        catch (InvalidOperationException e) // half of a surrogate pair, for example
        {
            throw new JsonException("it has text that is none", e);
        }
        if (reader.Read()) throw new JsonException("something follows it");
        return record;
    }

    private static void Next(ref Utf8JsonReader reader)
    {
        if (!reader.Read()) throw new JsonException("it ends too early");
    }

    /// <summary>The value at which the reader stands; null only where the type has one.</summary>
    private static object? Value(ref Utf8JsonReader reader, RecordShape shape, string name)
    {
        if (reader.TokenType == JsonTokenType.Null) return shape.HasNull ? null : throw new JsonException($"{name} is null");
        return shape.Kind switch
        {
            RecordKind.Scalar => Scalar(ref reader, shape, name),
            RecordKind.Bytes => reader.TokenType == JsonTokenType.String && reader.TryGetBytesFromBase64(out byte[]? bytes) ? bytes : throw Wrong(name, shape),
            RecordKind.Array => Elements(ref reader, shape, name),
            RecordKind.List => Elements(ref reader, shape, name),
            RecordKind.Dictionary => Entries(ref reader, shape, name),
            _ => Record(ref reader, shape, name),
        };
    }

    private static JsonException Wrong(string name, RecordShape shape) => new($"{name} is no {shape.Type.Name}");

    private static object Scalar(ref Utf8JsonReader reader, RecordShape shape, string name)
    {
        bool number = reader.TokenType == JsonTokenType.Number;
        object? value = shape.Code switch
        {
            TypeCode.Boolean => reader.TokenType switch { JsonTokenType.True => true, JsonTokenType.False => false, _ => null },
            TypeCode.String => reader.TokenType == JsonTokenType.String ? Text(ref reader, name) : null,
            TypeCode.Byte => number && reader.TryGetByte(out byte v) ? v : null,
            TypeCode.SByte => number && reader.TryGetSByte(out sbyte v) ? v : null,
            TypeCode.UInt16 => number && reader.TryGetUInt16(out ushort v) ? v : null,
            TypeCode.Int16 => number && reader.TryGetInt16(out short v) ? v : null,
            TypeCode.UInt32 => number && reader.TryGetUInt32(out uint v) ? v : null,
            TypeCode.Int32 => number && reader.TryGetInt32(out int v) ? v : null,
            TypeCode.UInt64 => number && reader.TryGetUInt64(out ulong v) ? v : null,
            TypeCode.DateTime => reader.TokenType == JsonTokenType.String && reader.TryGetDateTime(out DateTime v) ? v : null,
            _ => number && reader.TryGetInt64(out long v) ? v : null,
        };
        if (value is null) throw Wrong(name, shape);
        return shape.Type.IsEnum ? Enum.ToObject(shape.Type, value) : value;
    }

    private static string Text(ref Utf8JsonReader reader, string name)
    {
        try
        {
            return reader.GetString()!;
        }
        catch (InvalidOperationException e) // bytes that are no UTF-8
        {
            throw new JsonException($"{name} is no text", e);
        }
    }

    // What a program of machine code alone must keep for us; a record with another list or dictionary says so as well.
    [DynamicDependency(DynamicallyAccessedMemberTypes.PublicParameterlessConstructor, typeof(List<ulong>))]
    private static object Elements(ref Utf8JsonReader reader, RecordShape shape, string name)
    {
        if (reader.TokenType != JsonTokenType.StartArray) throw Wrong(name, shape);
        var values = new ArrayList();
        for (Next(ref reader); reader.TokenType != JsonTokenType.EndArray; Next(ref reader)) values.Add(Element(ref reader, shape, name));
        if (shape.Kind == RecordKind.Array)
        {
            Array array = Array.CreateInstance(shape.Element!.Type, values.Count);
            for (int n = 0; n < values.Count; n++) array.SetValue(values[n], n);
            return array;
        }
        var list = (IList)Activator.CreateInstance(shape.Type)!;
        for (int n = 0; n < values.Count; n++) list.Add(values[n]);
        return list;
    }

    /// <summary>One of several: no record has some of which one may be no object at all.</summary>
    private static object? Element(ref Utf8JsonReader reader, RecordShape shape, string name) =>
        Value(ref reader, shape.Element!, name) ?? (shape.Element!.Type.IsValueType ? null : throw new JsonException($"one of {name} is null"));

    [DynamicDependency(DynamicallyAccessedMemberTypes.PublicParameterlessConstructor, typeof(Dictionary<uint, ulong>))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.PublicParameterlessConstructor, typeof(SortedDictionary<ushort, int>))]
    [DynamicDependency(DynamicallyAccessedMemberTypes.PublicParameterlessConstructor, typeof(SortedDictionary<ushort, byte[]>))]
    private static object Entries(ref Utf8JsonReader reader, RecordShape shape, string name)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Wrong(name, shape);
        var entries = (IDictionary)Activator.CreateInstance(shape.Type)!;
        for (Next(ref reader); reader.TokenType != JsonTokenType.EndObject; Next(ref reader))
        {
            string text = Quote(ref reader);
            object key = shape.Key switch
            {
                TypeCode.UInt16 => ushort.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ushort v) ? v : null,
                TypeCode.UInt32 => uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out uint v) ? v : null,
                _ => (object?)null,
            } ?? throw new JsonException($"'{text}' is no key of {name}");
            Next(ref reader);
            object? value = Element(ref reader, shape, name);
            if (entries.Contains(key)) throw new JsonException($"{name} has {text} twice");
            entries.Add(key, value);
        }
        return entries;
    }

    private static object Record(ref Utf8JsonReader reader, RecordShape shape, string name)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Wrong(name, shape);
        RecordMember[] members = shape.Members;
        object?[] values = new object?[members.Length];
        bool[] seen = new bool[members.Length];
        int next = 0;
        for (Next(ref reader); reader.TokenType != JsonTokenType.EndObject; Next(ref reader))
        {
            // They come in the order in which they were written, which is almost always that of the members.
            int n = next < members.Length && reader.ValueTextEquals(members[next].Name) ? next : Find(ref reader, members);
            if (n < 0) throw new JsonException($"{name} has a member '{Quote(ref reader)}', which is not known");
            RecordMember member = members[n];
            if (seen[n]) throw new JsonException($"{member.Name} is there twice");
            seen[n] = true;
            next = n + 1;
            Next(ref reader);
            values[n] = Value(ref reader, member.Shape, member.Name);
            if (values[n] is null && !member.MayBeNull) throw new JsonException($"{member.Name} is null");
        }
        for (int n = 0; n < members.Length; n++)
        {
            if (!seen[n]) throw new JsonException($"{members[n].Name} is missing");
        }
        object record = shape.Make(values);
        for (int n = shape.Parameters; n < members.Length; n++) members[n].Set(record, values[n]);
        return record;
    }

    private static int Find(ref Utf8JsonReader reader, RecordMember[] members)
    {
        for (int n = 0; n < members.Length; n++)
        {
            if (reader.ValueTextEquals(members[n].Name)) return n;
        }
        return -1;
    }

    /// <summary>The name as it is in the text, escaped there, so that it has no line ends.</summary>
    private static string Quote(ref Utf8JsonReader reader)
    {
        ReadOnlySpan<byte> name = reader.ValueSpan;
        return Encoding.UTF8.GetString(name[..Math.Min(name.Length, LongestQuote)]);
    }
}
