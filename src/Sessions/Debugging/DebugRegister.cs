using System.Buffers.Binary;

namespace Bunraku.Sessions.Debugging;

/// <summary>A register as a debugger sees it.</summary>
/// <param name="Name">GDB's name.</param>
/// <param name="Size">Bytes, little-endian.</param>
/// <param name="Type">Of the target description.</param>
/// <param name="Read">Takes it out of a state.</param>
/// <param name="Write">Puts it into a state; false: it cannot be set, or not to that.</param>
internal sealed record DebugRegister(string Name, int Size, string Type, DebugRegister.Reader Read, DebugRegister.Writer Write)
{
    public delegate void Reader(CpuState state, Span<byte> value);

    public delegate bool Writer(CpuState state, ReadOnlySpan<byte> value);

    /// <summary>GDB's group, where the type does not say it.</summary>
    public string? Group { get; init; }

    /// <summary>A number of up to 8 bytes.</summary>
    /// <param name="set">Null: it cannot be set, but to what it is.</param>
    public static DebugRegister Number(string name, int size, string type, Func<CpuState, ulong> get, Func<CpuState, ulong, bool>? set)
    {
        return new DebugRegister(name, size, type, Read, Write);

        void Read(CpuState state, Span<byte> value)
        {
            Span<byte> all = stackalloc byte[sizeof(ulong)];
            BinaryPrimitives.WriteUInt64LittleEndian(all, get(state));
            all[..size].CopyTo(value);
        }

        bool Write(CpuState state, ReadOnlySpan<byte> value)
        {
            Span<byte> all = stackalloc byte[sizeof(ulong)];
            all.Clear();
            value.CopyTo(all);
            ulong number = BinaryPrimitives.ReadUInt64LittleEndian(all), mask = size == sizeof(ulong) ? ulong.MaxValue : (1ul << (8 * size)) - 1;
            return number == (get(state) & mask) || (set?.Invoke(state, number) ?? false);
        }
    }

    /// <summary>Bytes of the XSAVE image.</summary>
    public static DebugRegister Image(string name, int size, string type, int offset) =>
        new(name, size, type, (state, value) => state.Xsave.AsSpan(offset, size).CopyTo(value), (state, value) =>
        {
            value.CopyTo(state.Xsave.AsSpan(offset, size));
            return true;
        });
}
