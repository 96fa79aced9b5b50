using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>
/// QEMU's firmware configuration device (docs/specs/fw_cfg.rst): selector 510h, data 511h, DMA 514h. Items are added before the guest runs;
/// registers run with its lock held.
/// </summary>
public sealed partial class FwCfg : IDevice, IStateful<FwCfgState>
{
    /// <summary>Port of the selector, 16 bits; the data port follows it.</summary>
    public const ushort SelectorPort = 0x510;
    private const ushort DmaPort = 0x514;
    private const int DmaPorts = 8;
    /// <summary>Number of ports, from the selector on.</summary>
    public const int Ports = DmaPort + DmaPorts - SelectorPort;
    private const int FileNameSize = 56, FileEntrySize = 64, E820EntrySize = 20;
    private const uint IdTraditional = 1 << 0, IdDma = 1 << 1;
    private const ulong DmaSignature = 0x51454D5520434647; // "QEMU CFG"

    [Flags]
    private enum DmaControl : uint
    {
        Error = 1 << 0,
        Read = 1 << 1,
        Skip = 1 << 2,
        Select = 1 << 3,
        Write = 1 << 4,
    }

    private sealed record Item(byte[] Data, bool Writable);

    private readonly DmaSpace _dma;
    private readonly Dictionary<ushort, Item> _items = [];
    private readonly SortedDictionary<string, byte[]> _files = new(StringComparer.Ordinal);
    private readonly HashSet<string> _writableFiles = [];
    private bool _filesNumbered;
    private ushort _selected;
    private long _position;
    private uint _dmaHigh;

    /// <param name="memory">Where DMA reads and writes.</param>
    /// <param name="cpus">Processors, both running and possible.</param>
    public FwCfg(GuestMemory memory, int cpus)
    {
        _dma = new DmaSpace(memory);
        Add(FwCfgKey.Signature, "QEMU"u8.ToArray());
        AddInt32(FwCfgKey.Id, IdTraditional | IdDma);
        Add(FwCfgKey.Uuid, new byte[16]);
        AddInt64(FwCfgKey.RamSize, memory.RamSize);
        AddInt16(FwCfgKey.NoGraphic, 1);
        AddInt16(FwCfgKey.CpuCount, (ushort)cpus);
        AddInt16(FwCfgKey.MaximumCpuCount, (ushort)cpus);
        AddInt16(FwCfgKey.BootMenu, 0);
    }

    /// <param name="lock">Held for the registers; null: the device is alone.</param>
    public void AttachTo(PortBus ports, DeviceLock? @lock = null)
    {
        @lock ??= new DeviceLock("fw_cfg");
        ports.Add(SelectorPort, 2, new Traditional(this), @lock);
        ports.Add(DmaPort, DmaPorts, new Dma(this), @lock);
    }

    /// <summary>Sets an item; an earlier one with the same key is replaced.</summary>
    public void Add(FwCfgKey key, byte[] data) => _items[(ushort)key] = new Item(data, Writable: false);

    /// <summary>Sets an item of 16 bits, little-endian.</summary>
    public void AddInt16(FwCfgKey key, ushort value)
    {
        byte[] data = new byte[sizeof(ushort)];
        BinaryPrimitives.WriteUInt16LittleEndian(data, value);
        Add(key, data);
    }

    /// <summary>Sets an item of 32 bits, little-endian.</summary>
    public void AddInt32(FwCfgKey key, uint value)
    {
        byte[] data = new byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Add(key, data);
    }

    /// <summary>Sets an item of 64 bits, little-endian.</summary>
    public void AddInt64(FwCfgKey key, ulong value)
    {
        byte[] data = new byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(data, value);
        Add(key, data);
    }

    /// <summary>A string with its terminating zero and, under <paramref name="sizeKey"/>, its length with that.</summary>
    public void AddString(FwCfgKey key, FwCfgKey sizeKey, string value)
    {
        byte[] data = [.. Encoding.UTF8.GetBytes(value), 0];
        Add(key, data);
        AddInt32(sizeKey, (uint)data.Length);
    }

    /// <summary>Adds or replaces a named file.</summary>
    /// <param name="name">1 to 55 ASCII characters, as "etc/e820" or "opt/org.example/name".</param>
    /// <param name="writable">The guest may write it by DMA; it changes <paramref name="data"/>.</param>
    /// <exception cref="ArgumentException">The name does not fit.</exception>
    /// <exception cref="InvalidOperationException">The guest runs already and was told of the files.</exception>
    public void AddFile(string name, byte[] data, bool writable = false)
    {
        if (name.Length is 0 or >= FileNameSize || !Ascii.IsValid(name) || name.Contains('\0'))
            throw new ArgumentException($"fw_cfg file name \"{name}\" is not 1 to {FileNameSize - 1} ASCII characters", nameof(name));
        if (_filesNumbered) throw new InvalidOperationException("fw_cfg files are fixed once the guest has looked");
        _files[name] = data;
        if (writable) _writableFiles.Add(name);
        else _writableFiles.Remove(name);
    }

    /// <summary>
    /// Adds "etc/msr_feature_control": what firmware writes to IA32_FEATURE_CONTROL of each processor, so that VMX is there and stays. docs/specs/fw_cfg and
    /// SeaBIOS's use of it are QEMU's; bits: Intel SDM vol. 3C, "Enabling and Entering VMX Operation".
    /// </summary>
    public void AddFeatureControl()
    {
        const ulong locked = 1, vmxOutsideSmx = 4;
        AddFile("etc/msr_feature_control", BitConverter.GetBytes(locked | vmxOutsideSmx));
    }

    /// <summary>Adds "etc/e820", the memory map in the layout of the BIOS call: 64-bit address, 64-bit length, 32-bit type.</summary>
    public void AddE820(IEnumerable<E820Entry> entries)
    {
        List<byte> file = [];
        Span<byte> entry = stackalloc byte[E820EntrySize];
        foreach (E820Entry range in entries)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(entry, range.Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], range.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)range.Type);
            file.AddRange(entry);
        }
        AddFile("etc/e820", [.. file]);
    }

    /// <summary>Gives the files their keys, in the order of their names, and writes the directory: big-endian counts, sizes and keys.</summary>
    private void NumberFiles()
    {
        if (_filesNumbered) return;
        _filesNumbered = true;
        byte[] directory = new byte[sizeof(uint) + FileEntrySize * _files.Count];
        BinaryPrimitives.WriteUInt32BigEndian(directory, (uint)_files.Count);
        ushort key = (ushort)FwCfgKey.FirstFile;
        Span<byte> entry = directory.AsSpan(sizeof(uint));
        foreach ((string name, byte[] data) in _files)
        {
            BinaryPrimitives.WriteUInt32BigEndian(entry, (uint)data.Length);
            BinaryPrimitives.WriteUInt16BigEndian(entry[4..], key);
            Encoding.ASCII.GetBytes(name, entry[8..]);
            bool writable = _writableFiles.Contains(name);
            if (writable) _original[key] = [.. data];
            _items[key++] = new Item(data, writable);
            entry = entry[FileEntrySize..];
        }
        Add(FwCfgKey.FileDirectory, directory);
    }

    private void Select(ushort key)
    {
        NumberFiles();
        _selected = key;
        _position = 0;
    }

    private Item? Selected => _items.GetValueOrDefault(_selected);

    /// <summary>Reading past the end, or of an item that there is not, gives zeros.</summary>
    private byte ReadByte() => Selected is { } item && _position < item.Data.Length ? item.Data[_position++] : (byte)0;

    private void RunDma(ulong address)
    {
        // control, length, address: 32, 32 and 64 bits, big-endian
        Span<byte> command = stackalloc byte[16];
        if (!_dma.Read(address, command)) return; // there is no place to report to
        DmaControl control = (DmaControl)BinaryPrimitives.ReadUInt32BigEndian(command);
        uint length = BinaryPrimitives.ReadUInt32BigEndian(command[4..]);
        ulong buffer = BinaryPrimitives.ReadUInt64BigEndian(command[8..]);
        if (control.HasFlag(DmaControl.Select)) Select((ushort)((uint)control >> 16));
        bool good = true;
        if (control.HasFlag(DmaControl.Read)) good = Read(buffer, length);
        else if (control.HasFlag(DmaControl.Write)) good = Write(buffer, length);
        else if (control.HasFlag(DmaControl.Skip)) _position = Math.Min(_position + length, int.MaxValue); // no item is longer
        Span<byte> result = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32BigEndian(result, good ? 0 : (uint)DmaControl.Error);
        _dma.Write(address, result);
    }

    private bool Read(ulong address, uint length)
    {
        ReadOnlySpan<byte> rest = Rest((int)Math.Min(length, int.MaxValue));
        if (!_dma.TryOpen(address, length, writes: true, out DmaTransfer transfer)) return false;
        _position += rest.Length;
        foreach (Span<byte> piece in transfer)
        {
            int copied = Math.Min(rest.Length, piece.Length);
            rest[..copied].CopyTo(piece);
            rest = rest[copied..];
            piece[copied..].Clear();
        }
        return true;
    }

    private bool Write(ulong address, uint length)
    {
        if (length == 0) return true;
        if (Selected is not { Writable: true } item || _position + length > item.Data.Length) return false;
        if (!_dma.Read(address, item.Data.AsSpan((int)_position, (int)length))) return false;
        _position += length;
        return true;
    }

    private ReadOnlySpan<byte> Rest(int most)
    {
        if (Selected is not { } item || _position >= item.Data.Length) return [];
        ReadOnlySpan<byte> rest = item.Data.AsSpan((int)_position);
        return rest[..Math.Min(most, rest.Length)];
    }

    /// <summary>The selector, a little-endian word that is only written, overlapped by the data register, a byte that is only read.</summary>
    private sealed class Traditional(FwCfg owner) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size)
        {
            if (size == 1) return offset == 1 ? owner.ReadByte() : 0u;
            return (uint)owner.ReadByte() << 8; // a word read ends with the byte of the data register
        }

        public void WritePort(ushort offset, int size, uint value)
        {
            // Writing the data register is ignored since QEMU 2.4.
            if (offset == 0 && size == 2) owner.Select((ushort)value);
        }
    }

    /// <summary>The 64-bit DMA address register, big-endian: writing the low half, the last four bytes, starts the transfer.</summary>
    private sealed class Dma(FwCfg owner) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size)
        {
            uint value = 0;
            for (int n = 0; n < size; n++) value |= (uint)(byte)(DmaSignature >> (56 - 8 * (offset + n))) << (8 * n);
            return value;
        }

        public void WritePort(ushort offset, int size, uint value)
        {
            if (size != 4 || offset is not (0 or 4)) return;
            uint half = BinaryPrimitives.ReverseEndianness(value);
            if (offset == 0)
            {
                owner._dmaHigh = half;
                return;
            }
            ulong address = (ulong)owner._dmaHigh << 32 | half;
            owner._dmaHigh = 0;
            owner.RunDma(address);
        }
    }
}
