using System.Buffers.Binary;
using Bunraku.Machine.Ahci;
using Bunraku.Machine.Tests.State;
using Bunraku.Storage;

namespace Bunraku.Machine.Tests.Ahci;

/// <summary>A disk in memory whose accesses can be held up, or fail.</summary>
internal sealed class MemoryDisk(int sectors) : IBlockBackend
{
    private readonly byte[] _bytes = new byte[sectors * 512];

    public byte[] Bytes => _bytes;
    public SemaphoreSlim? Hold { get; set; }
    public bool Fails { get; set; }
    public int Begun;
    public int Flushes;
    public List<(ulong, ulong)> Discarded { get; } = [];
    public ulong Length => (ulong)_bytes.Length;
    public bool IsReadOnly { get; init; }
    public uint Granularity => 4096;
    public ulong KnownZeros(ulong position) => 0;

    private void Access()
    {
        Interlocked.Increment(ref Begun);
        Hold?.Wait(TimeSpan.FromSeconds(20)); // a test that has failed must not wait for ever
        if (Fails) throw new IOException("broken");
    }

    public void Read(ulong position, Span<byte> destination)
    {
        Access();
        lock (_bytes) _bytes.AsSpan((int)position, destination.Length).CopyTo(destination);
    }

    public void Write(ulong position, ReadOnlySpan<byte> source)
    {
        Access();
        lock (_bytes) source.CopyTo(_bytes.AsSpan((int)position));
    }

    public void Flush() => Interlocked.Increment(ref Flushes);

    public void WriteZeroes(ulong position, ulong length, bool unmap) => _bytes.AsSpan((int)position, (int)length).Clear();

    public void Discard(ulong position, ulong length)
    {
        lock (_bytes) Discarded.Add((position, length));
    }

    public void Dispose()
    {
    }
}

/// <summary>A driver for one port, as AHCI 1.3.1, chapter 10 "Software Guidelines" has it; memory below 4 MiB.</summary>
internal sealed class AhciDriver : IDisposable
{
    public const int Slot = 5;
    public const ulong Bar = 0xFEB0_0000, List = 0x10_0000, Fis = 0x11_0000, Tables = 0x12_0000, Data = 0x20_0000;
    public const int Pr = 0x10, Ie = 0x14, Cmd = 0x18, Tfd = 0x20, Sig = 0x24, Ssts = 0x28, Sctl = 0x2C, Serr = 0x30, Sact = 0x34, Ci = 0x38;

    private readonly int _port;

    public AhciDriver(int port, params SataDrive[] drives)
    {
        _port = port;
        Rig = new BoardRig(0, new AhciPart(drives, Slot));
        Rig.Io(0xCF8, 4, true, 0x8000_0000 | Slot << 11 | 0x24);
        Rig.Io(0xCFC, 4, true, Bar);
        Rig.Io(0xCF8, 4, true, 0x8000_0000 | Slot << 11 | 0x04);
        Rig.Io(0xCFC, 4, true, 6);
        Rig.Machine.Resume();
    }

    public BoardRig Rig { get; }

    public uint Hba(int offset) => (uint)Rig.Mmio(0, Bar + (ulong)offset, 4, false, 0);

    public void Hba(int offset, uint value) => Rig.Mmio(0, Bar + (ulong)offset, 4, true, value);

    public uint this[int offset]
    {
        get => Hba(0x100 + 0x80 * _port + offset);
        set => Hba(0x100 + 0x80 * _port + offset, value);
    }

    public void Start()
    {
        (this[0], this[4], this[8], this[12]) = ((uint)List, 0, (uint)Fis, 0);
        this[Ie] = uint.MaxValue;
        Hba(4, 1u << 31 | 2);
        this[Cmd] = 1 << 4;
        this[Serr] = uint.MaxValue;
        this[Pr] = uint.MaxValue;
        this[Cmd] = 1 << 4 | 1;
    }

    public void Restart()
    {
        this[Cmd] = 1 << 4;
        this[Serr] = uint.MaxValue;
        this[Pr] = uint.MaxValue;
        Hba(8, uint.MaxValue);
        this[Cmd] = 1 << 4 | 1;
    }

    public void Write(ulong at, ReadOnlySpan<byte> bytes) => Assert.True(Rig.Machine.Memory.Write(at, bytes));

    public byte[] Read(ulong at, int count)
    {
        byte[] bytes = new byte[count];
        Assert.True(Rig.Machine.Memory.Read(at, bytes));
        return bytes;
    }

    public uint Int(ulong at) => BinaryPrimitives.ReadUInt32LittleEndian(Read(at, 4));

    public static ulong Table(int slot) => Tables + (ulong)slot * 0x400;

    /// <summary>Puts a command into a slot; <see cref="Issue"/> tells the device.</summary>
    /// <param name="descriptors">Address and length of each piece of data.</param>
    public void Prepare(int slot, byte opcode, ulong lba = 0, ushort count = 0, ushort features = 0, byte[]? packet = null, byte device = 0x40,
        params (ulong Address, int Length)[] descriptors)
    {
        byte[] table = new byte[0x80 + 16 * descriptors.Length];
        (table[0], table[1], table[2], table[3], table[7], table[11]) = (0x27, 0x80, opcode, (byte)features, device, (byte)(features >> 8));
        for (int n = 0; n < 3; n++) (table[4 + n], table[8 + n]) = ((byte)(lba >> 8 * n), (byte)(lba >> 8 * (n + 3)));
        BinaryPrimitives.WriteUInt16LittleEndian(table.AsSpan(12), count);
        packet?.CopyTo(table, 0x40);
        for (int n = 0; n < descriptors.Length; n++)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(table.AsSpan(0x80 + 16 * n), descriptors[n].Address);
            BinaryPrimitives.WriteUInt32LittleEndian(table.AsSpan(0x8C + 16 * n), (uint)descriptors[n].Length - 1);
        }
        Write(Table(slot), table);
        byte[] header = new byte[32];
        BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)(5 | (packet is null ? 0 : 1 << 5) | descriptors.Length << 16));
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(8), Table(slot));
        Write(List + (ulong)slot * 32, header);
    }

    public void Issue(uint slots, bool queued = false)
    {
        if (queued) this[Sact] = slots;
        this[Ci] = slots;
    }

    public static void Until(Func<bool> condition) => Assert.True(SpinWait.SpinUntil(condition, TimeSpan.FromSeconds(60)), "nothing happens");

    /// <summary>Issues the command of slot 0 and waits for its end. The port's interrupts, which are cleared.</summary>
    public uint Run(byte opcode, ulong lba = 0, ushort count = 0, ushort features = 0, byte[]? packet = null, params (ulong Address, int Length)[] descriptors)
    {
        Prepare(0, opcode, lba, count, features, packet, 0x40, descriptors);
        Issue(1);
        Until(() => this[Pr] != 0);
        uint interrupts = this[Pr];
        this[Pr] = interrupts;
        Hba(8, uint.MaxValue);
        return interrupts;
    }

    public void Dispose() => Rig.Dispose();
}
