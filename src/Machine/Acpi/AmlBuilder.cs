using System.Buffers.Binary;
using System.Text;

namespace Bunraku.Machine.Acpi;

/// <summary>
/// Writes ACPI Machine Language: named objects, scopes, devices, methods, packages. Nested constructs take a delegate that writes their contents.
/// </summary>
/// <remarks>ACPI Specification 6.3, chapter 20 "ACPI Machine Language (AML) Specification". Ops in the order of its section 20.3.</remarks>
public sealed class AmlBuilder
{
    private const byte ZeroOp = 0x00, OneOp = 0x01, NameOp = 0x08, BytePrefix = 0x0A, WordPrefix = 0x0B, DWordPrefix = 0x0C, StringPrefix = 0x0D,
        QWordPrefix = 0x0E, ScopeOp = 0x10, BufferOp = 0x11, PackageOp = 0x12, MethodOp = 0x14, DualNamePrefix = 0x2E, MultiNamePrefix = 0x2F,
        ExtOpPrefix = 0x5B, DeviceOp = 0x82, Arg0Op = 0x68, StoreOp = 0x70, NotifyOp = 0x86;
    private const byte SerializedFlag = 0x08;

    private readonly List<byte> _bytes = [];

    /// <summary>What has been written so far; valid until more is.</summary>
    public ReadOnlySpan<byte> Bytes => System.Runtime.InteropServices.CollectionsMarshal.AsSpan(_bytes);

    /// <summary>Name (<paramref name="name"/>, integer).</summary>
    public AmlBuilder Name(string name, ulong value) => Op(NameOp).Path(name).Integer(value);

    /// <summary>Name (<paramref name="name"/>, string).</summary>
    public AmlBuilder Name(string name, string value) => Op(NameOp).Path(name).String(value);

    /// <summary>Name (<paramref name="name"/>, ResourceTemplate).</summary>
    public AmlBuilder Name(string name, ResourceTemplate value) => Op(NameOp).Path(name).Buffer(value.ToArray());

    /// <summary>Name (<paramref name="name"/>, Package); <paramref name="elements"/> writes <paramref name="count"/> elements.</summary>
    public AmlBuilder NamePackage(string name, int count, Action<AmlBuilder> elements)
    {
        Op(NameOp).Path(name);
        return Package(count, elements);
    }

    /// <summary>Name (_HID or _CID, EisaId): three letters and four hexadecimal digits.</summary>
    public AmlBuilder NameEisaId(string name, string id) => Name(name, EisaId(id));

    /// <summary>Scope (<paramref name="name"/>) with what <paramref name="contents"/> writes.</summary>
    public AmlBuilder Scope(string name, Action<AmlBuilder> contents) => Op(ScopeOp).Nested(b => contents(b.Path(name)));

    /// <summary>Device (<paramref name="name"/>) with what <paramref name="contents"/> writes.</summary>
    public AmlBuilder Device(string name, Action<AmlBuilder> contents) => Op(ExtOpPrefix).Op(DeviceOp).Nested(b => contents(b.Path(name)));

    /// <summary>Method (<paramref name="name"/>) with what <paramref name="body"/> writes.</summary>
    /// <param name="arguments">0 to 7.</param>
    /// <param name="serialized">One thread at a time.</param>
    public AmlBuilder Method(string name, int arguments, bool serialized, Action<AmlBuilder> body) =>
        Op(MethodOp).Nested(b => body(b.Path(name).Op((byte)(arguments | (serialized ? SerializedFlag : 0)))));

    /// <summary>Store (Arg<paramref name="argument"/>, <paramref name="target"/>).</summary>
    public AmlBuilder StoreArgument(int argument, string target) => Op(StoreOp).Op((byte)(Arg0Op + argument)).Path(target);

    /// <summary>Notify (<paramref name="device"/>, <paramref name="value"/>).</summary>
    public AmlBuilder Notify(string device, byte value) => Op(NotifyOp).Path(device).Integer(value);

    /// <summary>Package of <paramref name="count"/> elements, 0 to 255, which <paramref name="elements"/> writes.</summary>
    public AmlBuilder Package(int count, Action<AmlBuilder> elements) => Op(PackageOp).Nested(b => elements(b.Op((byte)count)));

    /// <summary>The shortest encoding of an integer.</summary>
    public AmlBuilder Integer(ulong value) => value switch
    {
        0 => Op(ZeroOp),
        1 => Op(OneOp),
        <= byte.MaxValue => Op(BytePrefix).LittleEndian(value, 1),
        <= ushort.MaxValue => Op(WordPrefix).LittleEndian(value, 2),
        <= uint.MaxValue => Op(DWordPrefix).LittleEndian(value, 4),
        _ => Op(QWordPrefix).LittleEndian(value, 8),
    };

    /// <summary>An integer of 32 bits in as many, for firmware to change.</summary>
    public AmlBuilder DWord(uint value) => Op(DWordPrefix).LittleEndian(value, sizeof(uint));

    /// <summary>A string of ASCII characters.</summary>
    public AmlBuilder String(string value)
    {
        Op(StringPrefix);
        _bytes.AddRange(Encoding.ASCII.GetBytes(value));
        return Op(0);
    }

    /// <summary>A buffer with these bytes.</summary>
    public AmlBuilder Buffer(byte[] contents) => Op(BufferOp).Nested(b => b.Integer((ulong)contents.Length)._bytes.AddRange(contents));

    private AmlBuilder Op(byte value)
    {
        _bytes.Add(value);
        return this;
    }

    private AmlBuilder LittleEndian(ulong value, int bytes)
    {
        for (int n = 0; n < bytes; n++) _bytes.Add((byte)(value >> (8 * n)));
        return this;
    }

    /// <summary>A name string: optional root, segments of one to four characters separated by dots, padded with underscores.</summary>
    private AmlBuilder Path(string path)
    {
        if (path.StartsWith('\\'))
        {
            Op((byte)'\\');
            path = path[1..];
        }
        string[] segments = path.Length == 0 ? [] : path.Split('.');
        switch (segments.Length)
        {
            case 0:
                return Op(0); // NullName
            case 1:
                break;
            case 2:
                Op(DualNamePrefix);
                break;
            default:
                Op(MultiNamePrefix).Op((byte)segments.Length);
                break;
        }
        foreach (string segment in segments)
        {
            if (segment.Length is 0 or > 4 || char.IsAsciiDigit(segment[0])
                || !segment.All(c => char.IsAsciiLetterUpper(c) || char.IsAsciiDigit(c) || c == '_'))
                throw new ArgumentException($"'{segment}' is no ACPI name segment");
            _bytes.AddRange(Encoding.ASCII.GetBytes(segment.PadRight(4, '_')));
        }
        return this;
    }

    /// <summary>PkgLength and the contents that it counts.</summary>
    /// <remarks>
    /// Section 20.2.4: one byte up to 63; else the lead byte's bits 7:6 count the bytes that follow and 3:0 are the low bits. It includes itself.
    /// </remarks>
    private AmlBuilder Nested(Action<AmlBuilder> contents)
    {
        var inner = new AmlBuilder();
        contents(inner);
        int length = inner._bytes.Count;
        if (length + 1 < 1 << 6)
        {
            Op((byte)(length + 1));
        }
        else
        {
            int extra = length + 2 < 1 << 12 ? 1 : length + 3 < 1 << 20 ? 2 : 3;
            int total = length + 1 + extra;
            Op((byte)(extra << 6 | total & 0xF)).LittleEndian((ulong)total >> 4, extra);
        }
        _bytes.AddRange(inner._bytes);
        return this;
    }

    /// <remarks>Section 19.3.4 "ASL Macros", EISAID: five bits a letter, big-endian, the digits as they are.</remarks>
    private static uint EisaId(string id)
    {
        uint letters = (uint)(id[0] - '@') << 10 | (uint)(id[1] - '@') << 5 | (uint)(id[2] - '@');
        return BinaryPrimitives.ReverseEndianness(letters << 16 | Convert.ToUInt16(id[3..], 16));
    }
}
