using System.Buffers;
using System.Buffers.Binary;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine.Storage;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// The block device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.2. Requests are taken with the device's lock held and done on a thread of their own,
/// one after the other, between the disk and memory of ours: a device that is reset meanwhile finds nothing of old requests in guest memory.
/// </summary>
public sealed class Block : VirtioDevice
{
    private const int QueueSize = 256, SerialLength = 20, Sector = 512, HeaderLength = 16, RangeLength = 16;
    private const uint SegmentMax = QueueSize - 2, LargestRange = 1 << 13, MostRanges = 16; // sectors of a range to be erased, ranges of a request
    private const int LargestRequest = 16 << 20; // bytes; Linux's are at most 4 MiB

    /// <summary>Bytes that requests may hold at a time. What is more stays in the queue: a driver can name the same memory in any number of requests.</summary>
    private const long MostUnderWay = 64 << 20;

    // Section 5.2.3.
    [Flags]
    private enum Feature : ulong { SegmentMax = 1 << 2, ReadOnly = 1 << 5, BlockSize = 1 << 6, Flush = 1 << 9, Discard = 1 << 13, WriteZeroes = 1 << 14 }

    // Section 5.2.6.
    private enum RequestType : uint { In = 0, Out = 1, Flush = 4, GetId = 8, Discard = 11, WriteZeroes = 13 }

    private enum RequestStatus : byte { Ok = 0, IoError = 1, Unsupported = 2 }

    private readonly IBlockBackend _disk;
    private readonly byte[] _serial = new byte[SerialLength];
    private readonly byte[] _configuration = new byte[60];
    private IoThread? _thread;
    private DeviceLock? _lock;
    private long _bytesUnderWay;
    private (int Generation, int Entries) _underWay; // of the life of the queue that requests came from last

    /// <param name="id">Its name in the machine.</param>
    /// <param name="disk">Closed by who opened it, after the machine's end.</param>
    /// <param name="serial">Serial number, up to 20 ASCII characters.</param>
    public Block(string id, IBlockBackend disk, string serial = "") : base(id, VirtioType.Block, QueueSize)
    {
        _disk = disk;
        Encoding.ASCII.GetBytes(serial.AsSpan(0, Math.Min(serial.Length, SerialLength)), _serial);
        // Section 5.2.4: capacity 0, seg_max 12, blk_size 20, max_discard_sectors 36, max_discard_seg 40, discard_sector_alignment 44,
        // max_write_zeroes_sectors 48, max_write_zeroes_seg 52, write_zeroes_may_unmap 56.
        BinaryPrimitives.WriteUInt64LittleEndian(_configuration, disk.Length / Sector);
        foreach ((int at, uint value) in (ReadOnlySpan<(int, uint)>)
            [(12, SegmentMax), (20, Sector), (36, LargestRange), (40, MostRanges), (44, 1), (48, LargestRange), (52, MostRanges), (56, 1)])
            BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(at), value);
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => (ulong)(Feature.SegmentMax | Feature.BlockSize | Feature.Flush |
        (_disk.IsReadOnly ? Feature.ReadOnly : Feature.Discard | Feature.WriteZeroes));

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _lock = @lock;
        _thread = machine.CreateIoThread(Id);
    }

    /// <inheritdoc/>
    protected override int EntriesUnderWay(int queue) => Live(queue)?.Generation == _underWay.Generation ? _underWay.Entries : 0;

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        while (Live(queue) is { } live)
        {
            if (_bytesUnderWay >= MostUnderWay || EntriesUnderWay(queue) >= live.Size) return; // goes on when a request is done
            if (live.Take() is { } buffer) Begin(queue, buffer);
            else if (!live.EnableNotifications()) return;
        }
    }

    /// <summary>Reads the request out of guest memory and hands it to the thread.</summary>
    private void Begin(int queue, DescriptorChain buffer)
    {
        Span<byte> header = stackalloc byte[HeaderLength];
        if (buffer.WritableLength == 0 || !buffer.TryRead(Dma, 0, header)) throw new VirtqueueException("a request without header or status");
        var type = (RequestType)BinaryPrimitives.ReadUInt32LittleEndian(header);
        ulong sector = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        ulong length = type switch
        {
            RequestType.In => buffer.WritableLength - 1,
            RequestType.Out or RequestType.Discard or RequestType.WriteZeroes => buffer.ReadableLength - HeaderLength,
            RequestType.GetId => Math.Min(buffer.WritableLength - 1, SerialLength),
            _ => 0,
        };
        // In their order, those that are refused as well: requests are given back as they came.
        bool tooLong = length > LargestRequest;
        if (tooLong) length = 0;
        byte[] data = ArrayPool<byte>.Shared.Rent((int)length);
        Memory<byte> used = data.AsMemory(0, (int)length);
        if (!tooLong && type is RequestType.Out or RequestType.Discard or RequestType.WriteZeroes && !buffer.TryRead(Dma, HeaderLength, used.Span))
        {
            ArrayPool<byte>.Shared.Return(data);
            throw new VirtqueueException("a buffer is not in RAM");
        }
        _underWay = (buffer.Generation, buffer.Entries + (_underWay.Generation == buffer.Generation ? _underWay.Entries : 0));
        long bytes = type == RequestType.WriteZeroes ? LargestRequest : (long)length; // erasing takes as long as a large write
        _bytesUnderWay += bytes;
        _thread!.Post(() =>
        {
            RequestStatus status = tooLong ? RequestStatus.IoError : Do(type, sector, used.Span);
            lock (_lock!)
            {
                _bytesUnderWay -= bytes;
                if (_underWay.Generation == buffer.Generation) _underWay.Entries -= buffer.Entries;
                bool answers = status == RequestStatus.Ok && type is RequestType.In or RequestType.GetId;
                Guarded(() =>
                {
                    Finish(queue, buffer, status, answers ? used.Span : []);
                    Notified(queue);
                });
            }
            ArrayPool<byte>.Shared.Return(data);
        });
    }

    private void Finish(int queue, DescriptorChain buffer, RequestStatus status, ReadOnlySpan<byte> answer)
    {
        if (Live(queue)?.Generation != buffer.Generation) return; // the queue was reset meanwhile
        if (!buffer.TryWrite(Dma, 0, answer) || !buffer.TryWrite(Dma, buffer.WritableLength - 1, [(byte)status]))
            throw new VirtqueueException("a buffer is not in RAM");
        Complete(queue, buffer, (uint)Math.Min(buffer.WritableLength, (ulong)answer.Length + 1));
    }

    /// <summary>On the device's thread, without its lock.</summary>
    private RequestStatus Do(RequestType type, ulong sector, Span<byte> data)
    {
        try
        {
            switch (type)
            {
                case RequestType.In when IsInside(sector, (ulong)data.Length):
                    _disk.Read(sector * Sector, data);
                    return RequestStatus.Ok;
                case RequestType.Out when !_disk.IsReadOnly && IsInside(sector, (ulong)data.Length):
                    _disk.Write(sector * Sector, data);
                    // Without the feature the driver never asks for a flush: then each write is lasting (section 5.2.6.2).
                    if (!((Feature)Features).HasFlag(Feature.Flush)) _disk.Flush();
                    return RequestStatus.Ok;
                case RequestType.Flush:
                    if (!_disk.IsReadOnly) _disk.Flush();
                    return RequestStatus.Ok;
                case RequestType.GetId:
                    _serial.AsSpan(0, data.Length).CopyTo(data);
                    return RequestStatus.Ok;
                case RequestType.Discard or RequestType.WriteZeroes when !_disk.IsReadOnly:
                    return Erase(type == RequestType.Discard, data);
                case RequestType.In or RequestType.Out or RequestType.Discard or RequestType.WriteZeroes:
                    return RequestStatus.IoError;
                default:
                    return RequestStatus.Unsupported;
            }
        }
        catch (IOException)
        {
            return RequestStatus.IoError;
        }
    }

    private RequestStatus Erase(bool discard, ReadOnlySpan<byte> ranges)
    {
        const uint unmap = 1;
        if (ranges.Length == 0 || ranges.Length % RangeLength != 0 || ranges.Length / RangeLength > MostRanges) return RequestStatus.IoError;
        for (int pass = 0; pass < 2; pass++) // all ranges are looked at before the first is erased
        {
            for (int at = 0; at < ranges.Length; at += RangeLength)
            {
                ulong sector = BinaryPrimitives.ReadUInt64LittleEndian(ranges[at..]);
                uint count = BinaryPrimitives.ReadUInt32LittleEndian(ranges[(at + 8)..]), flags = BinaryPrimitives.ReadUInt32LittleEndian(ranges[(at + 12)..]);
                if (pass == 0)
                {
                    if ((flags & ~unmap) != 0 || discard && flags != 0) return RequestStatus.Unsupported;
                    if (count > LargestRange || !IsInside(sector, (ulong)count * Sector)) return RequestStatus.IoError;
                }
                else if (discard) _disk.Discard(sector * Sector, (ulong)count * Sector);
                else _disk.WriteZeroes(sector * Sector, (ulong)count * Sector, (flags & unmap) != 0);
            }
        }
        return RequestStatus.Ok;
    }

    private bool IsInside(ulong sector, ulong length)
    {
        ulong sectors = _disk.Length / Sector;
        return length % Sector == 0 && sector <= sectors && length / Sector <= sectors - sector;
    }
}
