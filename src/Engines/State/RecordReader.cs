using System.Collections;
using System.Collections.Concurrent;
using System.Globalization;
using System.Reflection;
using System.Text;
using System.Text.Json;

namespace Bunraku.Engines;

/// <summary>
/// Reads records that <see cref="JsonSerializer"/> wrote, by their shape alone: members as they are declared, nothing missing, unknown, twice, or null where
/// none may be. The library's own reader is generic in each record and each member, and the runtime compiles all of that anew in each process, which takes
/// longer than the rest of a restore; here is no code for each type. Thread-safe.
/// </summary>
public static class RecordReader
{
    private const int LongestQuote = 64;

    /// <summary>A cache: what is known of a type does not change.</summary>
    private static readonly ConcurrentDictionary<Type, Shape> s_shapes = new();

    /// <summary>Reads one record, which is all of the text.</summary>
    /// <param name="type">Of the record; see <see cref="IStateful{TState}"/> for what it may consist of.</param>
    /// <exception cref="JsonException">The text is something else; the message is one line.</exception>
    public static object Read(ReadOnlySpan<byte> json, Type type)
    {
        var reader = new Utf8JsonReader(json);
        Next(ref reader);
        object record = Value(ref reader, ShapeOf(type), "it") ?? throw new JsonException("it is null");
        if (reader.Read()) throw new JsonException("something follows it");
        return record;
    }

    private static Shape ShapeOf(Type type) => s_shapes.TryGetValue(type, out Shape? shape) ? shape : s_shapes.GetOrAdd(type, new Shape(type));

    private static void Next(ref Utf8JsonReader reader)
    {
        if (!reader.Read()) throw new JsonException("it ends too early");
    }

    /// <summary>The value at which the reader stands; null only where the type has one.</summary>
    private static object? Value(ref Utf8JsonReader reader, Shape shape, string name)
    {
        if (reader.TokenType == JsonTokenType.Null) return shape.HasNull ? null : throw new JsonException($"{name} is null");
        return shape.Kind switch
        {
            Kind.Scalar => Scalar(ref reader, shape, name),
            Kind.Bytes => reader.TokenType == JsonTokenType.String && reader.TryGetBytesFromBase64(out byte[]? bytes) ? bytes : throw Wrong(name, shape),
            Kind.Array => Elements(ref reader, shape, name),
            Kind.List => Elements(ref reader, shape, name),
            Kind.Dictionary => Entries(ref reader, shape, name),
            _ => Record(ref reader, shape, name),
        };
    }

    private static JsonException Wrong(string name, Shape shape) => new($"{name} is no {shape.Type.Name}");

    private static object Scalar(ref Utf8JsonReader reader, Shape shape, string name)
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

    private static object Elements(ref Utf8JsonReader reader, Shape shape, string name)
    {
        if (reader.TokenType != JsonTokenType.StartArray) throw Wrong(name, shape);
        var values = new ArrayList();
        for (Next(ref reader); reader.TokenType != JsonTokenType.EndArray; Next(ref reader)) values.Add(Element(ref reader, shape, name));
        if (shape.Kind == Kind.Array)
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
    private static object? Element(ref Utf8JsonReader reader, Shape shape, string name) =>
        Value(ref reader, shape.Element!, name) ?? (shape.Element!.Type.IsValueType ? null : throw new JsonException($"one of {name} is null"));

    private static object Entries(ref Utf8JsonReader reader, Shape shape, string name)
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

    private static object Record(ref Utf8JsonReader reader, Shape shape, string name)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw Wrong(name, shape);
        Member[] members = shape.Members;
        object?[] values = new object?[members.Length];
        bool[] seen = new bool[members.Length];
        int next = 0;
        for (Next(ref reader); reader.TokenType != JsonTokenType.EndObject; Next(ref reader))
        {
            // They come in the order in which they were written, which is almost always that of the members.
            int n = next < members.Length && reader.ValueTextEquals(members[next].Name) ? next : Find(ref reader, members);
            if (n < 0) throw new JsonException($"{name} has a member '{Quote(ref reader)}', which is not known");
            Member member = members[n];
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

    private static int Find(ref Utf8JsonReader reader, Member[] members)
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

    private enum Kind
    {
        Scalar, Bytes, Array, List, Dictionary, Record
    }

    /// <summary>What is known of a type.</summary>
    private sealed class Shape
    {
        private readonly ConstructorInfo? _constructor;
        private Member[]? _members; // once they were asked for

        public Shape(Type type)
        {
            Type underlying = Nullable.GetUnderlyingType(type) ?? type;
            Type = underlying;
            HasNull = !type.IsValueType || underlying != type;
            Code = Type.GetTypeCode(underlying);
            if (Code is not TypeCode.Object)
            {
                if (Code is TypeCode.Char or TypeCode.Single or TypeCode.Double or TypeCode.Decimal or TypeCode.DBNull) throw Unknown(type);
                Kind = Kind.Scalar;
            }
            else if (type.IsArray)
            {
                Type element = type.GetElementType()!;
                Kind = element == typeof(byte) ? Kind.Bytes : Kind.Array;
                if (Kind == Kind.Array) Element = ShapeOf(element);
            }
            else if (type.IsGenericType && underlying == type)
            {
                Type form = type.GetGenericTypeDefinition();
                Type[] arguments = type.GenericTypeArguments;
                Element = ShapeOf(arguments[^1]);
                if (form == typeof(List<>)) Kind = Kind.List;
                else if (form == typeof(Dictionary<,>) || form == typeof(SortedDictionary<,>)) (Kind, Key) = (Kind.Dictionary, Type.GetTypeCode(arguments[0]));
                else throw Unknown(type);
            }
            else
            {
                Kind = Kind.Record;
                ConstructorInfo[] constructors = underlying.GetConstructors();
                _constructor = constructors.Length switch
                {
                    1 => constructors[0],
                    0 when underlying.IsValueType => null,
                    _ => throw Unknown(type),
                };
            }
        }

        public Type Type { get; }

        public bool HasNull { get; }

        public Kind Kind { get; }

        public TypeCode Code { get; }

        /// <summary>Of an array, a list or a dictionary.</summary>
        public Shape? Element { get; }

        /// <summary>Of a dictionary.</summary>
        public TypeCode Key { get; }

        /// <summary>Of a record: what its constructor takes, and then the rest.</summary>
        public Member[] Members => _members ??= FindMembers();

        /// <summary>How many of the members the constructor takes.</summary>
        public int Parameters { get; private set; }

        public object Make(object?[] values) => _constructor is null ? Activator.CreateInstance(Type)!
            : _constructor.Invoke(BindingFlags.DoNotWrapExceptions, null, values.Length == Parameters ? values : values[..Parameters], null);

        private Member[] FindMembers()
        {
            ParameterInfo[] parameters = _constructor?.GetParameters() ?? [];
            var members = new List<Member>();
            foreach (ParameterInfo p in parameters) members.Add(new Member(p.Name!, p.ParameterType, c => c.Create(p).WriteState, null));
            foreach (PropertyInfo p in Type.GetProperties(BindingFlags.Instance | BindingFlags.Public))
            {
                // What has no way back is computed.
                if (p.SetMethod is { IsPublic: true } && !Has(parameters, p.Name))
                    members.Add(new Member(p.Name, p.PropertyType, c => c.Create(p).WriteState, p.SetValue));
            }
            foreach (FieldInfo f in Type.GetFields(BindingFlags.Instance | BindingFlags.Public))
            {
                if (!f.IsInitOnly) members.Add(new Member(f.Name, f.FieldType, c => c.Create(f).WriteState, f.SetValue));
            }
            Parameters = parameters.Length;
            return [.. members];
        }

        private static bool Has(ParameterInfo[] parameters, string name)
        {
            foreach (ParameterInfo p in parameters)
            {
                if (p.Name == name) return true;
            }
            return false;
        }

        private static InvalidOperationException Unknown(Type type) => new($"{type} is nothing that a state record can consist of");
    }

    /// <summary>A member of a record.</summary>
    /// <param name="nullability">Whether null may be there, where the type alone does not tell.</param>
    /// <param name="set">Null: the constructor does it.</param>
    private sealed class Member(string name, Type type, Func<NullabilityInfoContext, NullabilityState> nullability, Action<object, object?>? set)
    {
        public string Name => name;

        public Shape Shape { get; } = ShapeOf(type);

        /// <summary>Asked for where null is met, since it takes long.</summary>
        public bool MayBeNull => type.IsValueType || nullability(new NullabilityInfoContext()) != NullabilityState.NotNull;

        public void Set(object record, object? value) => set!(record, value);
    }
}
