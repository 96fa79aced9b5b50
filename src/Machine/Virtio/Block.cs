using System.Buffers;
using System.Buffers.Binary;
using System.Numerics;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Storage;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// The block device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.2. Requests are taken with the device's lock held and done on a thread for each queue,
/// in their order, between the disk and memory of ours: a device that is reset meanwhile finds nothing of old requests in guest memory.
/// </summary>
/// <remarks>
/// What a queue's thread has not begun when its queue or the device is reset is dropped. What it has begun ends before anything begins that came after the
/// reset: no old write lands upon a new one, whichever queue that came by.
/// </remarks>
public sealed class Block : VirtioDevice
{
    private const int QueueSize = 256, SerialLength = 20, Sector = 512, HeaderLength = 16, RangeLength = 16;
    // In sectors: of a range to be discarded, which costs little, and to be zeroed, which may be written; ranges of a request.
    private const uint SegmentMax = QueueSize - 2, LargestDiscard = 1 << 21, LargestZeroes = 1 << 15, MostRanges = 16;
    private const int LargestRequest = 16 << 20; // bytes; Linux's are at most 4 MiB


    // Section 5.2.3.
    [Flags]
    private enum Feature : ulong
    {
        SegmentMax = 1 << 2, ReadOnly = 1 << 5, BlockSize = 1 << 6, Flush = 1 << 9, Topology = 1 << 10, WriteCache = 1 << 11, Queues = 1 << 12,
        Discard = 1 << 13, WriteZeroes = 1 << 14,
    }

    // Section 5.2.4.
    private static class Field
    {
        public const int Capacity = 0, SegmentMax = 12, BlockSize = 20, PhysicalBlock = 24, MinimalIo = 26, OptimalIo = 28, WriteBack = 32, Queues = 34,
            DiscardSectors = 36, DiscardSegments = 40, DiscardAlignment = 44, ZeroesSectors = 48, ZeroesSegments = 52, ZeroesUnmap = 56, Length = 60;
    }

    // Section 5.2.6.
    private enum RequestType : uint { In = 0, Out = 1, Flush = 4, GetId = 8, Discard = 11, WriteZeroes = 13 }

    private enum RequestStatus : byte { Ok = 0, IoError = 1, Unsupported = 2 }

    private readonly IBlockBackend _disk;
    private readonly byte[] _serial = new byte[SerialLength];
    private readonly byte[] _configuration = new byte[Field.Length];
    private readonly RequestThreads _threads;
    private readonly int _queues;
    private DeviceLock? _lock;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="disk">Closed by who opened it, after the machine's end.</param>
    /// <param name="serial">Serial number, up to 20 ASCII characters.</param>
    /// <param name="queues">1 to 64: a driver has one for each processor, if there are as many.</param>
    public Block(string id, IBlockBackend disk, string serial = "", int queues = 1)
        : base(id, VirtioType.Block, [.. Enumerable.Repeat((ushort)QueueSize, queues)])
    {
        _disk = disk;
        (_queues, _threads) = (queues, new RequestThreads(queues, Live, Guarded, Begin));
        Encoding.ASCII.GetBytes(serial.AsSpan(0, Math.Min(serial.Length, SerialLength)), _serial);
        uint granule = Math.Max(disk.Granularity, Sector), page = Math.Min(granule, 4096);
        SetCapacity();
        Put32(Field.SegmentMax, SegmentMax);
        Put32(Field.BlockSize, Sector);
        _configuration[Field.PhysicalBlock] = (byte)BitOperations.Log2(page / Sector);
        BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(Field.MinimalIo), (ushort)(page / Sector));
        Put32(Field.OptimalIo, granule / Sector);
        _configuration[Field.WriteBack] = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(Field.Queues), (ushort)queues);
        Put32(Field.DiscardSectors, LargestDiscard);
        Put32(Field.DiscardSegments, MostRanges);
        Put32(Field.DiscardAlignment, granule / Sector);
        Put32(Field.ZeroesSectors, LargestZeroes);
        Put32(Field.ZeroesSegments, MostRanges);
        _configuration[Field.ZeroesUnmap] = 1;
    }

    private void Put32(int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(_configuration.AsSpan(at), value);

    private void SetCapacity() => BinaryPrimitives.WriteUInt64LittleEndian(_configuration.AsSpan(Field.Capacity), _disk.Length / Sector);

    /// <summary>The disk has another size: the driver is told. Any thread.</summary>
    public void DiskResized()
    {
        if (_lock is null) return;
        lock (_lock)
        {
            SetCapacity();
            ConfigurationChanged();
        }
    }

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => (ulong)(Feature.SegmentMax | Feature.BlockSize | Feature.Flush | Feature.Topology | Feature.WriteCache |
        (_queues > 1 ? Feature.Queues : 0) | (_disk.IsReadOnly ? Feature.ReadOnly : Feature.Discard | Feature.WriteZeroes));

    /// <inheritdoc/>
    protected override ReadOnlySpan<byte> Configuration => _configuration;

    /// <summary>Section 5.2.5: the one field that a driver writes says whether writes may wait for a flush.</summary>
    protected override void WriteConfiguration(int offset, ReadOnlySpan<byte> bytes)
    {
        if (offset == Field.WriteBack && bytes.Length == 1 && ((Feature)Features).HasFlag(Feature.WriteCache)) _configuration[offset] = (byte)(bytes[0] & 1);
    }

    /// <inheritdoc/>
    protected internal override void AttachTo(X86Machine machine, DeviceLock @lock)
    {
        _lock = @lock;
        _threads.Start(n => machine.CreateIoThread(_queues == 1 ? Id : $"{Id}.{n}"), @lock);
    }

    /// <inheritdoc/>
    protected override int EntriesUnderWay(int queue) => _threads.Entries(queue);

    /// <inheritdoc/>
    protected override void DeviceReset()
    {
        _threads.Forget();
        _configuration[Field.WriteBack] = 1;
    }

    /// <inheritdoc/>
    protected override void QueueWasReset(int queue) => _threads.Forget();

    /// <inheritdoc/>
    protected override byte[] SaveOwn() => [_configuration[Field.WriteBack]];

    /// <inheritdoc/>
    protected override void RestoreOwn(byte[] state)
    {
        _configuration[Field.WriteBack] = (byte)(StateCheck.Length(state, 1, Id)[0] & 1);
        _threads.Forget();
    }

    /// <inheritdoc/>
    protected override void Notified(int queue) => _threads.Take(queue);

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
        long bytes = type == RequestType.WriteZeroes ? LargestRequest : (long)length; // erasing takes as long as a large write
        bool lasting = !((Feature)Features).HasFlag(Feature.Flush) || _configuration[Field.WriteBack] == 0;
        _threads.Begin(queue, buffer, bytes, isLive =>
        {
            bool does = isLive() && !tooLong;
            RequestStatus status = does ? Do(type, sector, used.Span, lasting) : RequestStatus.IoError;
            bool answers = status == RequestStatus.Ok && type is RequestType.In or RequestType.GetId;
            Memory<byte> answer = answers ? used : default;
            _threads.End(queue, buffer, bytes, () => Finish(queue, buffer, status, answer.Span));
            ArrayPool<byte>.Shared.Return(data);
        });
    }

    private void Finish(int queue, DescriptorChain buffer, RequestStatus status, ReadOnlySpan<byte> answer)
    {
        if (!buffer.TryWrite(Dma, 0, answer) || !buffer.TryWrite(Dma, buffer.WritableLength - 1, [(byte)status]))
            throw new VirtqueueException("a buffer is not in RAM");
        Complete(queue, buffer, (uint)Math.Min(buffer.WritableLength, (ulong)answer.Length + 1));
    }

    /// <summary>On the device's thread, without its lock.</summary>
    private RequestStatus Do(RequestType type, ulong sector, Span<byte> data, bool lasting)
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
                    if (lasting) _disk.Flush();
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
                    if (count > (discard ? LargestDiscard : LargestZeroes) || !IsInside(sector, (ulong)count * Sector)) return RequestStatus.IoError;
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
