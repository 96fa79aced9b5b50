namespace Bunraku.Network;

/// <summary>
/// What is at the other end of a network card's cable. One thread at a time calls it, the card's; only <see cref="Wake"/> is for any thread. Nothing throws
/// for what the host refuses: frames are lost, as on any cable.
/// </summary>
public interface INetworkBackend : IDisposable
{
    /// <summary>Most bytes of a packet, behind the Ethernet header, that the guest had better send: 68 to 65535.</summary>
    int Mtu { get; }

    /// <summary>Takes frames whose checksum is missing, and can be made to deliver such: <see cref="Accept"/>.</summary>
    bool HasOffloads { get; }

    /// <summary>Takes TCP frames of up to <see cref="Frame.Largest"/> bytes whatever <see cref="Mtu"/> is; else they come in segments.</summary>
    bool TakesLargeFrames { get; }

    /// <summary>Somebody is at the other end.</summary>
    bool IsConnected { get; }

    /// <summary>What frames to the guest may lack from now on. Only where <see cref="HasOffloads"/>.</summary>
    /// <param name="checksums">Frames may come with a partial checksum.</param>
    /// <param name="segments4">TCP frames over IPv4 may be longer than the MTU.</param>
    /// <param name="segments6">The same over IPv6.</param>
    void Accept(bool checksums, bool segments4, bool segments6);

    /// <summary>A frame from the guest.</summary>
    /// <param name="work">What it lacks: nothing, unless <see cref="HasOffloads"/>.</param>
    /// <param name="frame">From the destination's address on, at least <see cref="Frame.HeaderLength"/> bytes, without the check sequence.</param>
    void Send(in FrameWork work, ReadOnlySpan<byte> frame);

    /// <summary>Waits for the host or for <see cref="Wake"/>, and delivers what has come; returns after one round of it.</summary>
    /// <param name="receiver">Takes the frames, on this thread.</param>
    /// <param name="waits">False: only looks.</param>
    void Serve(IFrameReceiver receiver, bool waits);

    /// <summary>Ends the <see cref="Serve"/> that is under way, or the next one. Any thread.</summary>
    void Wake();
}

/// <summary>Who takes frames for the guest.</summary>
public interface IFrameReceiver
{
    /// <summary>A frame; it is copied or dropped, nobody waits.</summary>
    void Receive(in FrameWork work, ReadOnlySpan<byte> frame);

    /// <summary><see cref="INetworkBackend.IsConnected"/> has changed.</summary>
    void ConnectionChanged();
}
