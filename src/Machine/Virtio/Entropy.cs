using System.Buffers;
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
