using System.Buffers;
using System.Collections;
using System.Globalization;
using System.Text.Json;

namespace Bunraku.Engines;

/// <summary>
/// Writes records as JSON, for <see cref="RecordReader"/>: members in the order in which they are declared, numbers for enumerations, Base64 for bytes. The
/// library's own writer is generic in each record and each member, and has to be compiled for them when the program runs. Thread-safe.
/// </summary>
public static class RecordWriter
{
    /// <summary>Writes one record as UTF-8.</summary>
    /// <param name="type">Of the record; see <see cref="IStateful{TState}"/> for what it may consist of.</param>
    public static byte[] Write(object record, Type type)
    {
        var bytes = new ArrayBufferWriter<byte>();
        using (var writer = new Utf8JsonWriter(bytes)) Value(writer, RecordShape.Of(type), record);
        return bytes.WrittenSpan.ToArray();
    }

    private static void Value(Utf8JsonWriter writer, RecordShape shape, object? value)
    {
        if (value is null)
        {
            writer.WriteNullValue();
            return;
        }
        switch (shape.Kind)
        {
            case RecordKind.Scalar: Scalar(writer, shape, value); break;
            case RecordKind.Bytes: writer.WriteBase64StringValue((byte[])value); break;
            case RecordKind.Array or RecordKind.List:
                writer.WriteStartArray();
                foreach (object? element in (IEnumerable)value) Value(writer, shape.Element!, element);
                writer.WriteEndArray();
                break;
            case RecordKind.Dictionary:
                writer.WriteStartObject();
                foreach (DictionaryEntry entry in (IDictionary)value)
                {
                    writer.WritePropertyName(((IFormattable)entry.Key).ToString(null, CultureInfo.InvariantCulture));
                    Value(writer, shape.Element!, entry.Value);
                }
                writer.WriteEndObject();
                break;
            default:
                writer.WriteStartObject();
                foreach (RecordMember member in shape.Members)
                {
                    writer.WritePropertyName(member.Name);
                    object? content = member.Get(value);
                    if (content is null && !member.MayBeNull) throw new InvalidOperationException($"{shape.Type.Name}.{member.Name} is null");
                    Value(writer, member.Shape, content);
                }
                writer.WriteEndObject();
                break;
        }
    }

    private static void Scalar(Utf8JsonWriter writer, RecordShape shape, object value)
    {
        switch (shape.Code)
        {
            case TypeCode.Boolean: writer.WriteBooleanValue((bool)value); break;
            case TypeCode.String: writer.WriteStringValue((string)value); break;
            case TypeCode.DateTime: writer.WriteStringValue((DateTime)value); break;
            case TypeCode.UInt64: writer.WriteNumberValue(Convert.ToUInt64(value, CultureInfo.InvariantCulture)); break;
            default: writer.WriteNumberValue(Convert.ToInt64(value, CultureInfo.InvariantCulture)); break;
        }
    }
}
