using System.Buffers.Binary;
using System.Numerics;
using Bunraku.Engines;
using Bunraku.Storage;

namespace Bunraku.Machine.Ata;

/// <summary>
/// A disk: IDENTIFY, reads and writes with 28 and 48 bits by PIO, DMA and native command queuing, flush, write cache on and off, TRIM, the logs that queuing
/// needs.
/// </summary>
internal sealed class AtaDisk : AtaDevice
{
    private const int LargestMultiple = 16, QueueDepth = 32, TrimBlocks = 8, TrimEntry = 8, NcqErrorLog = 0x10;
    private const byte FuaQueued = 1 << 7; // in the device field

    private readonly IBlockBackend _disk;
    private readonly string _serial;
    private byte _multiple = LargestMultiple;
    private bool _writeCache = true, _lookAhead = true;
    private byte[]? _queuedError; // the log of the queued command that failed last

    /// <param name="disk">Closed by who opened it.</param>
    /// <param name="serial">Up to 20 ASCII characters.</param>
    public AtaDisk(IBlockBackend disk, string serial) => (_disk, _serial) = (disk, serial);

    public override uint Signature => 0x0000_0101;

    private ulong Sectors => Math.Min(_disk.Length / Sector, (1ul << 48) - 1);

    public override bool IsQueued(AtaOpcode opcode) => opcode is AtaOpcode.ReadFpdmaQueued or AtaOpcode.WriteFpdmaQueued;

    public override void Reset() => (_multiple, _writeCache, _lookAhead, _queuedError) = (LargestMultiple, true, true, null);

    public override byte[] Save() => [_multiple, (byte)(_writeCache ? 1 : 0), (byte)(_lookAhead ? 1 : 0), .. _queuedError ?? []];

    public override void Restore(byte[] state)
    {
        const int settings = 3;
        if (state.Length is not (settings or settings + Sector)) throw new StateFormatException("the saved disk is of another kind");
        (_multiple, _writeCache, _lookAhead) = ((byte)Math.Min(state[0], (byte)LargestMultiple), state[1] != 0, state[2] != 0);
        _queuedError = state.Length > settings ? state[settings..] : null;
    }

    /// <summary>A queued command failed: READ LOG EXT tells which, and no other is done before (section 4.14 "Native Command Queuing").</summary>
    public void NoteQueuedError(int tag, AtaResult result)
    {
        byte[] log = new byte[Sector];
        (log[0], log[2], log[3]) = ((byte)tag, (byte)result.Status, (byte)result.Error);
        Span<byte> lba = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(lba, result.Lba);
        lba[..3].CopyTo(log.AsSpan(4));
        lba[3..6].CopyTo(log.AsSpan(8));
        byte sum = 0;
        foreach (byte b in log) sum += b;
        log[^1] = (byte)-sum;
        _queuedError = log;
    }

    public override AtaPlan Plan(AtaCommand c)
    {
        switch (c.Opcode)
        {
            case AtaOpcode.Identify:
                return new(AtaProtocol.PioIn, Sector, Identify);
            case AtaOpcode.ReadSectors or AtaOpcode.ReadMultiple:
                return Read(c, AtaProtocol.PioIn, Lba28(c), Count28(c));
            case AtaOpcode.ReadSectorsExt or AtaOpcode.ReadMultipleExt:
                return Read(c, AtaProtocol.PioIn, c.Lba, Count48(c.Count));
            case AtaOpcode.ReadDma:
                return Read(c, AtaProtocol.DmaIn, Lba28(c), Count28(c));
            case AtaOpcode.ReadDmaExt:
                return Read(c, AtaProtocol.DmaIn, c.Lba, Count48(c.Count));
            case AtaOpcode.ReadFpdmaQueued:
                return Read(c, AtaProtocol.DmaIn, c.Lba, Count48(c.Features));
            case AtaOpcode.WriteSectors or AtaOpcode.WriteMultiple:
                return Write(AtaProtocol.PioOut, Lba28(c), Count28(c), lasting: false);
            case AtaOpcode.WriteSectorsExt or AtaOpcode.WriteMultipleExt:
                return Write(AtaProtocol.PioOut, c.Lba, Count48(c.Count), lasting: false);
            case AtaOpcode.WriteMultipleFuaExt:
                return Write(AtaProtocol.PioOut, c.Lba, Count48(c.Count), lasting: true);
            case AtaOpcode.WriteDma:
                return Write(AtaProtocol.DmaOut, Lba28(c), Count28(c), lasting: false);
            case AtaOpcode.WriteDmaExt or AtaOpcode.WriteDmaFuaExt:
                return Write(AtaProtocol.DmaOut, c.Lba, Count48(c.Count), c.Opcode == AtaOpcode.WriteDmaFuaExt);
            case AtaOpcode.WriteFpdmaQueued:
                return Write(AtaProtocol.DmaOut, c.Lba, Count48(c.Features), (c.Device & FuaQueued) != 0);
            case AtaOpcode.ReadVerify:
                return Verify(Lba28(c), Count28(c));
            case AtaOpcode.ReadVerifyExt:
                return Verify(c.Lba, Count48(c.Count));
            case AtaOpcode.FlushCache or AtaOpcode.FlushCacheExt:
                return new(AtaProtocol.NoData, 0, _ => Guarded(0, () => _disk.Flush()), Waits: true);
            case AtaOpcode.DataSetManagement when (c.Features & 1) != 0 && c.Count is > 0 and <= TrimBlocks && !_disk.IsReadOnly:
                return new(AtaProtocol.DmaOut, c.Count * Sector, Trim, Waits: true);
            case AtaOpcode.ReadLogExt or AtaOpcode.ReadLogDmaExt:
                return ReadLog(c);
            case AtaOpcode.SetMultiple:
                return SetMultiple(c.Count & 0xFF);
            case AtaOpcode.SetFeatures:
                return SetFeatures(c);
            case AtaOpcode.ReadNativeMax:
                return new(AtaProtocol.NoData, 0, _ => AtaResult.Good(lba: Math.Min(Sectors, 1 << 28) - 1));
            case AtaOpcode.ReadNativeMaxExt:
                return new(AtaProtocol.NoData, 0, _ => AtaResult.Good(lba: Sectors - 1));
            case AtaOpcode.CheckPowerMode:
                return new(AtaProtocol.NoData, 0, _ => AtaResult.Good(count: 0xFF)); // active or idle
            case AtaOpcode.Standby or AtaOpcode.StandbyImmediate or AtaOpcode.Idle or AtaOpcode.IdleImmediate or AtaOpcode.Sleep:
                return AtaPlan.Nothing;
            case AtaOpcode.Diagnostic:
                return new(AtaProtocol.NoData, 0, _ => new AtaResult(AtaStatus.Idle, (AtaError)1, Signature >> 8, (ushort)(Signature & 0xFF), 0));
            default:
                return AtaPlan.Refused;
        }
    }

    private static ulong Lba28(AtaCommand c) => c.Lba & 0xFF_FFFF | (ulong)(c.Device & 0xF) << 24;

    private static uint Count28(AtaCommand c) => (c.Count & 0xFF) == 0 ? 256u : (uint)(c.Count & 0xFF);

    private static uint Count48(ushort count) => count == 0 ? 65536u : count;

    private bool IsInside(ulong lba, uint count) => lba <= Sectors && count <= Sectors - lba;

    private static AtaPlan Beyond(AtaProtocol protocol, ulong lba) => new(protocol, 0, _ => AtaResult.Failed(AtaError.IdNotFound, lba));

    private AtaPlan Read(AtaCommand c, AtaProtocol protocol, ulong lba, uint count)
    {
        if (c.Opcode is AtaOpcode.ReadMultiple or AtaOpcode.ReadMultipleExt && _multiple == 0) return AtaPlan.Refused;
        if (!IsInside(lba, count)) return Beyond(AtaProtocol.NoData, lba);
        return new(protocol, (int)(count * Sector),
            data => Guarded(lba, () => _disk.Read(lba * Sector, data.Span), data.Length, AtaError.Uncorrectable), Waits: true);
    }

    private AtaPlan Write(AtaProtocol protocol, ulong lba, uint count, bool lasting)
    {
        if (_disk.IsReadOnly) return AtaPlan.Refused;
        if (!IsInside(lba, count)) return Beyond(AtaProtocol.NoData, lba);
        lasting |= !_writeCache;
        return new(protocol, (int)(count * Sector), data => Guarded(lba, () =>
        {
            _disk.Write(lba * Sector, data.Span);
            if (lasting) _disk.Flush();
        }, data.Length), Waits: true);
    }

    private AtaPlan Verify(ulong lba, uint count)
    {
        if (!IsInside(lba, count)) return Beyond(AtaProtocol.NoData, lba);
        return new(AtaProtocol.NoData, 0, _ => Guarded(lba, () =>
        {
            byte[] piece = new byte[Math.Min(count, 256) * Sector];
            for (uint done = 0; done < count; done += 256)
                _disk.Read((lba + done) * Sector, piece.AsSpan(0, (int)Math.Min(count - done, 256) * Sector));
        }, 0, AtaError.Uncorrectable), Waits: true);
    }

    /// <summary>Ranges of 48 bits of address and 16 of length, in sectors; a length of 0 is no range (section 7.5.3).</summary>
    private AtaResult Trim(Memory<byte> data)
    {
        for (int pass = 0; pass < 2; pass++) // all of them are looked at before the first goes
        {
            for (int at = 0; at < data.Length; at += TrimEntry)
            {
                ulong entry = BinaryPrimitives.ReadUInt64LittleEndian(data.Span[at..]), lba = entry & ((1ul << 48) - 1);
                uint count = (uint)(entry >> 48);
                if (count == 0) continue;
                if (!IsInside(lba, count)) return AtaResult.Failed(AtaError.IdNotFound, lba);
                if (pass == 0) continue;
                AtaResult result = Guarded(lba, () => _disk.Discard(lba * Sector, (ulong)count * Sector));
                if (result.IsError) return result;
            }
        }
        return AtaResult.Good(data.Length);
    }

    private static AtaResult Guarded(ulong lba, Action action, int length = 0, AtaError error = AtaError.Aborted)
    {
        try
        {
            action();
            return AtaResult.Good(length);
        }
        catch (IOException)
        {
            return new AtaResult(AtaStatus.Idle | AtaStatus.Error | (error == AtaError.Aborted ? AtaStatus.DeviceFault : 0), error, lba, 0, 0);
        }
    }

    /// <summary>The directory of logs, and that of the queued command that failed, which is told once.</summary>
    private AtaPlan ReadLog(AtaCommand c)
    {
        int log = (int)(c.Lba & 0xFF), page = (int)(c.Lba >> 8 & 0xFF), pages = c.Count;
        if (log is not (0 or NcqErrorLog) || page != 0 || pages != 1) return AtaPlan.Refused;
        return new(c.Opcode == AtaOpcode.ReadLogExt ? AtaProtocol.PioIn : AtaProtocol.DmaIn, Sector, data =>
        {
            data.Span.Clear();
            if (log == 0)
            {
                PutWord(data.Span, 0, 1); // version
                PutWord(data.Span, NcqErrorLog, 1); // pages
            }
            else
            {
                const byte notQueued = 0x80;
                if (_queuedError is { } failed) failed.CopyTo(data.Span);
                else (data.Span[0], data.Span[^1]) = (notQueued, notQueued); // sum 0
                _queuedError = null;
            }
            return AtaResult.Good(Sector);
        });
    }

    private AtaPlan SetMultiple(int sectors)
    {
        if (sectors > LargestMultiple || (sectors & (sectors - 1)) != 0) return AtaPlan.Refused;
        return new(AtaProtocol.NoData, 0, _ =>
        {
            _multiple = (byte)sectors;
            return AtaResult.Good();
        });
    }

    /// <summary>Section 7.45, table "SET FEATURES commands".</summary>
    private AtaPlan SetFeatures(AtaCommand c)
    {
        switch (c.Features & 0xFF)
        {
            case 0x02 or 0x82: // write cache
                bool cache = (c.Features & 0xFF) == 0x02;
                if (cache) return Setting(() => _writeCache = true);
                _writeCache = false;
                return new(AtaProtocol.NoData, 0, _ => Guarded(0, () => _disk.Flush()), Waits: true);
            case 0xAA or 0x55:
                bool lookAhead = (c.Features & 0xFF) == 0xAA;
                return Setting(() => _lookAhead = lookAhead);
            case 0x03: // transfer mode: SATA has one
                return AtaPlan.Nothing;
            default:
                return AtaPlan.Refused;
        }
    }

    private static AtaPlan Setting(Action set) => new(AtaProtocol.NoData, 0, _ =>
    {
        set();
        return AtaResult.Good();
    });

    /// <summary>Section 7.12.7 "Input from the Device to the Host Data Structure".</summary>
    private AtaResult Identify(Memory<byte> data)
    {
        Span<byte> id = data.Span;
        id.Clear();
        ulong sectors = Sectors;
        int cylinders = (int)Math.Min(sectors / (16 * 63), 16383);
        PutWord(id, 0, 0x0040); // a fixed ATA device
        foreach (int first in (ReadOnlySpan<int>)[1, 54]) PutWord(id, first, cylinders);
        PutWord(id, 3, 16);
        PutWord(id, 6, 63);
        PutWord(id, 55, 16);
        PutWord(id, 56, 63);
        BinaryPrimitives.WriteUInt32LittleEndian(id[(57 * 2)..], (uint)(cylinders * 16 * 63));
        PutText(id, 10, 10, _serial);
        PutText(id, 23, 4, "1.0");
        PutText(id, 27, 20, "BUNRAKU DISK");
        PutWord(id, 47, 0x8000 | LargestMultiple);
        PutWord(id, 49, 0x0F00); // LBA, DMA, IORDY
        PutWord(id, 50, 0x4000);
        PutWord(id, 53, 0x0007);
        PutWord(id, 59, _multiple == 0 ? 0 : 0x0100 | _multiple);
        BinaryPrimitives.WriteUInt32LittleEndian(id[(60 * 2)..], (uint)Math.Min(sectors, (1 << 28) - 1));
        PutWord(id, 63, 0x0007);
        PutWord(id, 64, 0x0003);
        for (int word = 65; word <= 68; word++) PutWord(id, word, 120); // ns a cycle
        PutWord(id, 75, QueueDepth - 1);
        PutWord(id, 76, 0x010E); // queuing; 1.5, 3 and 6 Gb/s
        PutWord(id, 80, 0x07F0); // ATA/ATAPI-4 to ACS-3
        const int cache = 1 << 5, lookAhead = 1 << 6, nop = 1 << 14, flush = 1 << 12, flushExt = 1 << 13, lba48 = 1 << 10, valid = 1 << 14;
        const int logs = 1 << 5, fua = 1 << 6;
        PutWord(id, 82, nop | cache | lookAhead);
        PutWord(id, 83, valid | flush | flushExt | lba48);
        PutWord(id, 84, valid | logs | fua);
        PutWord(id, 85, nop | (_writeCache ? cache : 0) | (_lookAhead ? lookAhead : 0));
        PutWord(id, 86, flush | flushExt | lba48);
        PutWord(id, 87, valid | logs | fua);
        PutWord(id, 88, 0x203F); // Ultra DMA 5
        BinaryPrimitives.WriteUInt64LittleEndian(id[(100 * 2)..], sectors);
        int physical = BitOperations.Log2(Math.Clamp(_disk.Granularity, Sector, 4096) / Sector);
        PutWord(id, 106, valid | (physical > 0 ? 1 << 13 | physical : 0));
        if (!_disk.IsReadOnly)
        {
            PutWord(id, 105, TrimBlocks);
            PutWord(id, 169, 1);
        }
        PutWord(id, 209, valid);
        PutWord(id, 217, 1); // does not rotate
        PutWord(id, 222, 0x107F); // SATA up to 3.2
        Seal(id);
        return AtaResult.Good(Sector);
    }
}
