using System.Buffers;
using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Bunraku.Machine.Virtio;

/// <summary>The entropy device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.4. Fills the driver's buffers with random bytes of the host.</summary>
public sealed class Entropy : VirtioDevice
{
    private const int LargestAnswer = 64 << 10; // a driver that gives more room gets a part of it, as it must expect
    private readonly Action<Span<byte>> _fill;

    /// <param name="id">Its name in the machine.</param>
    /// <param name="fill">Where the bytes come from; null: the host's random numbers.</param>
    public Entropy(string id, Action<Span<byte>>? fill = null) : base(id, VirtioType.Entropy, 256) => _fill = fill ?? RandomNumberGenerator.Fill;

    /// <summary>
    /// Bytes that follow from a number, for guests that are to do the same each time: no secret. A machine that is restored begins with the first.
    /// </summary>
    /// <remarks>SHA-256 of the number and a counter, block by block.</remarks>
    public static Action<Span<byte>> Seeded(ulong seed)
    {
        byte[] input = new byte[2 * sizeof(ulong)], block = [];
        BinaryPrimitives.WriteUInt64LittleEndian(input, seed);
        ulong next = 0;
        return bytes =>
        {
            while (!bytes.IsEmpty)
            {
                if (block.Length == 0)
                {
                    BinaryPrimitives.WriteUInt64LittleEndian(input.AsSpan(sizeof(ulong)), next++);
                    block = SHA256.HashData(input);
                }
                int count = Math.Min(block.Length, bytes.Length);
                block.AsSpan(0, count).CopyTo(bytes);
                block = block[count..];
                bytes = bytes[count..];
            }
        };
    }

    /// <inheritdoc/>
    protected override void Notified(int queue)
    {
        while (Live(queue) is { } live)
        {
            if (live.Take() is { } buffer) Fill(queue, buffer);
            else if (!live.EnableNotifications()) return;
        }
    }

    private void Fill(int queue, DescriptorChain buffer)
    {
        int length = (int)Math.Min(buffer.WritableLength, LargestAnswer);
        byte[] bytes = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            _fill(bytes.AsSpan(0, length));
            if (!buffer.TryWrite(Dma, 0, bytes.AsSpan(0, length))) throw new VirtqueueException("a buffer is not in RAM");
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(bytes, clearArray: true);
        }
        Complete(queue, buffer, (uint)length);
    }
}
