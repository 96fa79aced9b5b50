using System.Collections.Concurrent;
using System.Reflection;

namespace Bunraku.Engines;

/// <summary>What a value of a state record is in its text.</summary>
internal enum RecordKind
{
    Scalar, Bytes, Array, List, Dictionary, Record
}

/// <summary>What is known of a type that state records consist of, for who reads and writes them without code for each type.</summary>
internal sealed class RecordShape
{
    /// <summary>A cache: what is known of a type does not change.</summary>
    private static readonly ConcurrentDictionary<Type, RecordShape> s_shapes = new();

    private readonly ConstructorInfo? _constructor;
    private RecordMember[]? _members; // once they were asked for

    private RecordShape(Type type)
    {
        Type underlying = Nullable.GetUnderlyingType(type) ?? type;
        Type = underlying;
        HasNull = !type.IsValueType || underlying != type;
        Code = Type.GetTypeCode(underlying);
        if (Code is not TypeCode.Object)
        {
            if (Code is TypeCode.Char or TypeCode.Single or TypeCode.Double or TypeCode.Decimal or TypeCode.DBNull) throw Unknown(type);
            Kind = RecordKind.Scalar;
        }
        else if (type.IsArray)
        {
            Type element = type.GetElementType()!;
            Kind = element == typeof(byte) ? RecordKind.Bytes : RecordKind.Array;
            if (Kind == RecordKind.Array) Element = Of(element);
        }
        else if (type.IsGenericType && underlying == type)
        {
            Type form = type.GetGenericTypeDefinition();
            Type[] arguments = type.GenericTypeArguments;
            Element = Of(arguments[^1]);
            if (form == typeof(List<>)) Kind = RecordKind.List;
            else if (form == typeof(Dictionary<,>) || form == typeof(SortedDictionary<,>))
                (Kind, Key) = (RecordKind.Dictionary, Type.GetTypeCode(arguments[0]));
            else throw Unknown(type);
        }
        else
        {
            Kind = RecordKind.Record;
            ConstructorInfo[] constructors = underlying.GetConstructors();
            _constructor = constructors.Length switch
            {
                1 => constructors[0],
                0 when underlying.IsValueType => null,
                _ => throw Unknown(type),
            };
        }
    }

    /// <summary>That of a type. Any thread.</summary>
    /// <exception cref="InvalidOperationException">No state record can consist of it.</exception>
    public static RecordShape Of(Type type) => s_shapes.TryGetValue(type, out RecordShape? shape) ? shape : s_shapes.GetOrAdd(type, new RecordShape(type));

    /// <summary>The type, without what makes it nullable.</summary>
    public Type Type { get; }

    public bool HasNull { get; }

    public RecordKind Kind { get; }

    public TypeCode Code { get; }

    /// <summary>Of an array, a list or a dictionary.</summary>
    public RecordShape? Element { get; }

    /// <summary>Of a dictionary.</summary>
    public TypeCode Key { get; }

    /// <summary>Of a record: what its constructor takes, and then the rest.</summary>
    public RecordMember[] Members => _members ??= FindMembers();

    /// <summary>How many of the members the constructor takes.</summary>
    public int Parameters { get; private set; }

    public object Make(object?[] values) => _constructor is null ? Activator.CreateInstance(Type)!
        : _constructor.Invoke(BindingFlags.DoNotWrapExceptions, null, values.Length == Parameters ? values : values[..Parameters], null);

    private RecordMember[] FindMembers()
    {
        ParameterInfo[] parameters = _constructor?.GetParameters() ?? [];
        PropertyInfo[] properties = Type.GetProperties(BindingFlags.Instance | BindingFlags.Public);
        var members = new List<RecordMember>();
        foreach (ParameterInfo p in parameters)
        {
            PropertyInfo property = Array.Find(properties, q => q.Name == p.Name && q.PropertyType == p.ParameterType) ?? throw Unknown(Type);
            members.Add(new RecordMember(p.Name!, p.ParameterType, c => c.Create(p).WriteState, property.GetValue, null));
        }
        foreach (PropertyInfo p in properties)
        {
            // What has no way back is computed.
            if (p.SetMethod is { IsPublic: true } && !Array.Exists(parameters, q => q.Name == p.Name))
                members.Add(new RecordMember(p.Name, p.PropertyType, c => c.Create(p).WriteState, p.GetValue, p.SetValue));
        }
        foreach (FieldInfo f in Type.GetFields(BindingFlags.Instance | BindingFlags.Public))
        {
            if (!f.IsInitOnly) members.Add(new RecordMember(f.Name, f.FieldType, c => c.Create(f).WriteState, f.GetValue, f.SetValue));
        }
        Parameters = parameters.Length;
        return [.. members];
    }

    private static InvalidOperationException Unknown(Type type) => new($"{type} is nothing that a state record can consist of");
}

/// <summary>A member of a state record.</summary>
/// <param name="nullability">Whether null may be there, where the type alone does not tell.</param>
/// <param name="set">Null: the constructor does it.</param>
internal sealed class RecordMember(
    string name, Type type, Func<NullabilityInfoContext, NullabilityState> nullability, Func<object, object?> get, Action<object, object?>? set)
{
    public string Name => name;

    public RecordShape Shape { get; } = RecordShape.Of(type);

    /// <summary>Asked for where null is met, since it takes long.</summary>
    public bool MayBeNull => type.IsValueType || nullability(new NullabilityInfoContext()) != NullabilityState.NotNull;

    public object? Get(object record) => get(record);

    public void Set(object record, object? value) => set!(record, value);
}
