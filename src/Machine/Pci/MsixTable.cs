using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Pci;

/// <summary>
/// The MSI-X table of a function and its pending bits: a page of memory with one entry a vector, in which the guest writes where the vector's message goes.
/// PCI Local Bus Specification 3.0, section 6.8.2 "MSI-X Capability and Table Structures". With the device's lock held.
/// </summary>
/// <param name="vectors">1 to 128.</param>
internal sealed class MsixTable(int vectors)
{
    public const byte CapabilityId = 0x11;
    /// <summary>Bytes of its memory.</summary>
    public const uint Length = 0x1000;
    /// <summary>Where the pending bits begin, behind room for the largest table.</summary>
    public const uint PendingOffset = 0x800;
    public const int MaxVectors = (int)PendingOffset / EntrySize;

    // Message control: the enable and the function mask bit.
    private const ushort Enable = 1 << 15, FunctionMask = 1 << 14;
    public const uint WritableControl = (uint)(Enable | FunctionMask) << 16;

    private const int EntrySize = 16, VectorControl = 12;
    private const uint Masked = 1;

    private readonly byte[] _table = NewTable(vectors);
    private readonly bool[] _pending = new bool[vectors];
    private bool _functionMasked;

    public int Vectors => vectors;

    /// <summary>The function interrupts by messages and not by its pin.</summary>
    public bool Enabled { get; private set; }

    /// <summary>Where messages go: address and data.</summary>
    public Action<ulong, uint>? Send { get; set; }

    /// <summary>The capability without id and link: message control, where the table is, where the pending bits are.</summary>
    public byte[] Capability(int bar)
    {
        byte[] body = new byte[10];
        BinaryPrimitives.WriteUInt16LittleEndian(body, (ushort)(vectors - 1));
        BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(2), (uint)bar);
        BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(6), PendingOffset | (uint)bar);
        return body;
    }

    /// <summary>Message control was written.</summary>
    public void SetControl(ushort control)
    {
        (Enabled, _functionMasked) = ((control & Enable) != 0, (control & FunctionMask) != 0);
        for (int n = 0; n < vectors; n++) SendPending(n);
    }

    /// <summary>Control as it stands in a saved configuration space: nothing is sent.</summary>
    public void RestoreControl(ushort control) => (Enabled, _functionMasked) = ((control & Enable) != 0, (control & FunctionMask) != 0);

    /// <summary>Sends a vector's message, or remembers it while the vector is masked. A vector beyond the table has no message.</summary>
    public void Trigger(int vector)
    {
        if (!Enabled || (uint)vector >= (uint)vectors) return;
        _pending[vector] = true;
        SendPending(vector);
    }

    private void SendPending(int vector)
    {
        if (!Enabled || _functionMasked || !_pending[vector]) return;
        ReadOnlySpan<byte> entry = _table.AsSpan(vector * EntrySize, EntrySize);
        if ((BinaryPrimitives.ReadUInt32LittleEndian(entry[VectorControl..]) & Masked) != 0) return;
        _pending[vector] = false;
        Send?.Invoke(BinaryPrimitives.ReadUInt64LittleEndian(entry), BinaryPrimitives.ReadUInt32LittleEndian(entry[8..]));
    }

    /// <summary>Its memory, for a base address register.</summary>
    public IMmioDevice Memory => new Window(this);

    private ulong Read(ulong offset, int size)
    {
        ulong value = 0;
        for (int n = 0; n < size; n++) value |= (ulong)Byte(offset + (ulong)n) << (8 * n);
        return value;
    }

    private byte Byte(ulong offset)
    {
        if (offset < (ulong)_table.Length) return _table[offset];
        byte bits = 0;
        for (int n = 0; n < 8 && offset >= PendingOffset; n++)
        {
            ulong vector = (offset - PendingOffset) * 8 + (ulong)n;
            if (vector < (ulong)vectors && _pending[vector]) bits |= (byte)(1 << n);
        }
        return bits;
    }

    /// <summary>Whole doublewords and quadwords; what else is written has no meaning there and is lost. Pending bits are read-only.</summary>
    private void Write(ulong offset, int size, ulong value)
    {
        if (size is not (4 or 8) || offset % (ulong)size != 0 || offset + (ulong)size > (ulong)_table.Length) return;
        for (int n = 0; n < size; n++) _table[offset + (ulong)n] = (byte)(value >> (8 * n));
        SendPending((int)offset / EntrySize);
    }

    /// <summary>RESET: all vectors masked, none pending. Message control is reset with configuration space.</summary>
    public void Reset()
    {
        NewTable(vectors).CopyTo(_table, 0);
        _pending.AsSpan().Clear();
    }

    public MsixState Save() => new([.. _table], [.. _pending]);

    /// <exception cref="StateFormatException">It is the table of another function.</exception>
    public void Restore(MsixState state, string id)
    {
        StateCheck.Length(state.Table, _table.Length, id).CopyTo(_table, 0);
        StateCheck.Length(state.Pending, vectors, id).CopyTo(_pending, 0);
    }

    private sealed class Window(MsixTable table) : IMmioDevice
    {
        public ulong ReadMmio(ulong offset, int size) => table.Read(offset, size);

        public void WriteMmio(ulong offset, int size, ulong value) => table.Write(offset, size, value);
    }

    private static byte[] NewTable(int vectors)
    {
        byte[] table = new byte[vectors * EntrySize];
        for (int n = 0; n < vectors; n++) table[n * EntrySize + VectorControl] = (byte)Masked;
        return table;
    }
}

/// <summary>State of a function's MSI-X table.</summary>
/// <param name="Table">Its bytes, 16 a vector.</param>
/// <param name="Pending">Vectors that wait until they are unmasked.</param>
internal sealed record MsixState(byte[] Table, bool[] Pending);
