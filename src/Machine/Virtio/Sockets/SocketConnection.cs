using System.Net.Sockets;

namespace Bunraku.Machine.Virtio.Sockets;

/// <summary>How far a connection has come.</summary>
internal enum ConnectionPhase
{
    /// <summary>A program of the host has connected, and is to say where it wants to go.</summary>
    Greeting,
    /// <summary>The guest is asked.</summary>
    Requested,
    /// <summary>Both ends are there.</summary>
    Established,
    /// <summary>The guest knows nothing of it any more; what it had sent goes to the host.</summary>
    Draining,
}

/// <summary>One stream between a socket of the guest and one of the host. With the device's lock held.</summary>
/// <param name="socket">The host's, which never blocks.</param>
internal sealed class SocketConnection(Socket socket, ConnectionPhase phase)
{
    /// <summary>Bytes from the guest that may wait for the host: what the guest is told that it may send.</summary>
    public const int BufferSize = 256 << 10;

    /// <summary>Bytes that are read from the host at once.</summary>
    public const int LargestRead = 64 << 10;

    /// <summary>How much the guest may send is told anew when it knows of so much less.</summary>
    private const uint ToldAfter = BufferSize / 4;

    private uint _peerBuffer, _peerForwarded, _sent, _forwarded, _forwardedTold;
    private bool _creditIsAskedFor;

    public Socket Socket => socket;
    public ConnectionPhase Phase { get; set; } = phase;
    public uint HostPort { get; set; }
    public uint GuestPort { get; set; }

    /// <summary>From the host, not given to the guest yet.</summary>
    public ByteQueue Inbound { get; } = new();

    /// <summary>From the guest, not taken by the host yet.</summary>
    public ByteQueue Outbound { get; } = new();

    /// <summary>It is closed, or is to be, and in no list any more.</summary>
    public bool IsGone { get; set; }

    /// <summary>Until when, on the host's clock of milliseconds, it has to say where it wants to go.</summary>
    public long GreetsUntil { get; init; }

    /// <summary>The host sends nothing more.</summary>
    public bool HostEnded { get; set; }

    /// <summary>The host takes nothing more.</summary>
    public bool HostIsDeaf { get; private set; }

    /// <summary>The guest sends nothing more.</summary>
    public bool GuestEnded { get; set; }

    /// <summary>The guest takes nothing more.</summary>
    public bool GuestIsDeaf { get; set; }

    /// <summary>The host's socket may have something; a read tells.</summary>
    public bool MayRead { get; set; } = true;

    /// <summary>The host's socket may have room; a write tells.</summary>
    public bool MayWrite { get; set; } = true;

    /// <summary>The guest is to be told that the connection is there, or to be asked for one.</summary>
    public bool OwesFirstPacket { get; set; }

    /// <summary>The guest is to be told how much it may send.</summary>
    public bool OwesCredit { get; set; }

    /// <summary>What of the host's ends the guest was told.</summary>
    public SocketShutdownFlags Told { get; set; }

    /// <summary>What it is to be told, behind all that came before.</summary>
    public SocketShutdownFlags ToTell => Phase != ConnectionPhase.Established ? 0
        : ((HostEnded && Inbound.Count == 0 ? SocketShutdownFlags.Send : 0) | (HostIsDeaf ? SocketShutdownFlags.Receive : 0)) & ~Told;

    /// <summary>The host takes nothing more: what was for it is forgotten.</summary>
    public void Deafen()
    {
        HostIsDeaf = true;
        Forward(Outbound.Count);
        Outbound.Clear();
    }

    // ---- credit: section 5.10.6.3 "Buffer Space Management"

    /// <summary>Bytes that the guest has room for.</summary>
    public uint Credit => _peerBuffer - (_sent - _peerForwarded) is { } free && free <= _peerBuffer ? free : 0;

    /// <summary>Bytes that have left <see cref="Outbound"/>, as the guest is told.</summary>
    public uint Forwarded => _forwarded;

    /// <summary>The guest has said what room it has.</summary>
    public void TakeCredit(in SocketPacket packet)
    {
        (_peerBuffer, _peerForwarded) = (packet.BufferSize, packet.Forwarded);
        if (Credit > 0) _creditIsAskedFor = false;
    }

    /// <summary>Bytes have gone to the guest.</summary>
    public void Sent(int count) => _sent += (uint)count;

    /// <summary>Bytes have gone to the host, or are forgotten.</summary>
    public void Forward(int count)
    {
        _forwarded += (uint)count;
        if (_forwarded - _forwardedTold >= ToldAfter) OwesCredit = true;
    }

    /// <summary>A packet to the guest tells how much has gone.</summary>
    public void CreditIsTold() => (_forwardedTold, OwesCredit) = (_forwarded, false);

    /// <summary>What was sent has taken all room of the guest, and it was not asked yet whether there is some again.</summary>
    public bool WantsCredit => Phase == ConnectionPhase.Established && !_creditIsAskedFor && !GuestIsDeaf && (!HostEnded || Inbound.Count > 0)
        && Credit == 0 && _sent > 0;

    public void CreditIsAskedFor() => _creditIsAskedFor = true;

    // ---- what the device waits for

    /// <summary>The host is to be read, as soon as it has something.</summary>
    public bool WantsInput => Phase == ConnectionPhase.Greeting
        || Phase == ConnectionPhase.Established && !HostEnded && !GuestIsDeaf && Inbound.Count == 0 && Credit > 0;

    /// <summary>The host is to be written to, as soon as it has room.</summary>
    public bool WantsOutput => Outbound.Count > 0 && !HostIsDeaf;

    /// <summary>Nobody reads, and yet it counts whether the other end is there.</summary>
    public bool WatchesEnd => !HostIsDeaf && (Phase == ConnectionPhase.Requested || HostEnded || GuestIsDeaf);

    /// <summary>There is a packet for the guest.</summary>
    public bool HasPacket => OwesFirstPacket || Phase == ConnectionPhase.Established
        && (Inbound.Count > 0 && Credit > 0 && !GuestIsDeaf || ToTell != 0 || OwesCredit || WantsCredit);
}
