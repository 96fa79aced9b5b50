using System.Runtime.InteropServices;
using Bunraku.Hypervisor;
using Bunraku.Network;

namespace Bunraku.Machine.Virtio.Net;

/// <summary>Buffers of a receive queue that were taken and have no frame yet. With the device's lock held.</summary>
internal sealed class ReceiveBuffers
{
    private readonly List<DescriptorChain> _held = [];
    private uint[] _written = [];
    private ulong _bytes;
    private int _generation;

    /// <summary>Entries of the queue's current life that are held.</summary>
    public int Entries { get; private set; }

    public void Clear()
    {
        _held.Clear();
        (_bytes, Entries) = (0, 0);
    }

    /// <summary>What became of a frame.</summary>
    public enum Outcome { Ready, NoBuffers, TooLong }

    /// <summary>Takes buffers until a frame fits.</summary>
    /// <param name="merges">It may lie in several.</param>
    /// <exception cref="VirtqueueException">What stands in memory is no queue.</exception>
    public Outcome Gather(Virtqueue live, ulong length, bool merges)
    {
        if (_generation != live.Generation) Clear();
        _generation = live.Generation;
        while (_bytes < length)
        {
            if (!merges && _held.Count > 0) return Outcome.TooLong;
            if (Entries >= live.Size) throw new VirtqueueException("no frame fits into all buffers of the queue");
            if (live.Take() is { } buffer)
            {
                if (_held.Count == 0 && buffer.WritableLength < FrameWork.Length) throw new VirtqueueException("a buffer has no room for the header");
                _held.Add(buffer);
                _bytes += buffer.WritableLength;
                Entries += buffer.Entries;
            }
            else if (!live.EnableNotifications()) return Outcome.NoBuffers;
        }
        return Outcome.Ready;
    }

    /// <summary>
    /// Writes a frame that fits. The buffers that it is in, with what was written to each, are to be completed before anything else is asked.
    /// </summary>
    /// <exception cref="VirtqueueException">A buffer is not in RAM.</exception>
    public (DescriptorChain[] Buffers, uint[] Written) Fill(DmaSpace dma, in FrameWork work, ReadOnlySpan<byte> frame)
    {
        ulong left = (ulong)(FrameWork.Length + frame.Length);
        int count = 0;
        for (; left > 0; count++) left -= Math.Min(left, _held[count].WritableLength);
        DescriptorChain[] buffers = [.. CollectionsMarshal.AsSpan(_held)[..count]];
        if (_written.Length != count) _written = new uint[count];
        Span<byte> header = stackalloc byte[FrameWork.Length];
        work.Write(header, (ushort)count);
        for (int n = 0; n < count; n++)
        {
            DescriptorChain buffer = buffers[n];
            ulong at = n == 0 ? (ulong)FrameWork.Length : 0;
            int length = (int)Math.Min(buffer.WritableLength - at, (ulong)frame.Length);
            if (n == 0 && !buffer.TryWrite(dma, 0, header) || !buffer.TryWrite(dma, at, frame[..length]))
                throw new VirtqueueException("a buffer is not in RAM");
            frame = frame[length..];
            _written[n] = (uint)at + (uint)length;
            _bytes -= buffer.WritableLength;
            Entries -= buffer.Entries;
        }
        _held.RemoveRange(0, count);
        return (buffers, _written);
    }
}
