using Bunraku.Platform;

namespace Bunraku.Network;

/// <summary>A cable with nobody at its other end: what the guest sends is lost, and nothing comes.</summary>
/// <param name="mtu">Bytes.</param>
/// <param name="hasOffloads">As what was there before, for a guest that has already agreed with it.</param>
public sealed class CutCable(int mtu, bool hasOffloads) : INetworkBackend
{
    private readonly EventDescriptor _wake = new();

    /// <inheritdoc/>
    public int Mtu => mtu;

    /// <inheritdoc/>
    public bool HasOffloads => hasOffloads;

    /// <inheritdoc/>
    public bool TakesLargeFrames => true;

    /// <inheritdoc/>
    public bool IsConnected => false;

    /// <inheritdoc/>
    public void Accept(bool checksums, bool segments4, bool segments6)
    {
    }

    /// <inheritdoc/>
    public void Send(in FrameWork work, ReadOnlySpan<byte> frame)
    {
    }

    /// <inheritdoc/>
    public void Serve(IFrameReceiver receiver, bool waits)
    {
        if (_wake.Wait(waits ? -1 : 0)) _wake.Take();
    }

    /// <inheritdoc/>
    public void Wake() => _wake.Signal();

    /// <summary>No other thread uses it.</summary>
    public void Dispose() => _wake.Dispose();
}
