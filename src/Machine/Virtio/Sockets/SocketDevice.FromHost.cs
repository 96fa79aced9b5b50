using System.Buffers.Binary;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Bunraku.Machine.Virtio.Sockets;

// What is there for the guest: bytes of the host's sockets, answers and events.
public sealed partial class SocketDevice
{
    private void Read(SocketConnection c, int most)
    {
        int got = c.Socket.Receive(c.Inbound.Room(most), SocketFlags.None, out SocketError error);
        if (error == SocketError.WouldBlock) c.MayRead = false;
        else if (error != SocketError.Success || got == 0) c.HostEnded = true;
        else c.Inbound.Added(got);
    }

    /// <summary>A program of the host says where it wants to go.</summary>
    private void Greet(SocketConnection c)
    {
        if (!c.MayRead) return;
        Read(c, SocketConnection.LargestRead);
        uint? port = HostSockets.ReadGreeting(c.Inbound.Waiting, out int length);
        if (port is null && length == 0 && !c.HostEnded) return;
        if (port is null || !IsReady || _owesEvent || _hasEnded)
        {
            Close(c);
            return;
        }
        c.Inbound.Taken(length); // what comes behind it is for the guest
        (c.Phase, c.OwesFirstPacket, c.GuestPort) = (ConnectionPhase.Requested, true, port.Value);
        do
        {
            c.HostPort = _nextHostPort;
            _nextHostPort = _nextHostPort == uint.MaxValue - 1 ? FirstHostPort : _nextHostPort + 1;
        }
        while (!_byPorts.TryAdd((c.HostPort, c.GuestPort), c));
    }

    /// <summary>Gives the guest what there is for it, a packet of each connection in turn.</summary>
    private void GivePackets()
    {
        int given = 0;
        bool some = true;
        while (some && given < MostOfRound)
        {
            some = false;
            if (_resets.TryPeek(out (uint Host, uint Guest) ports))
            {
                if (!TryGive(null, ports)) break;
                _resets.Dequeue();
                given++;
                some = true;
            }
            for (int n = 0; n < _all.Count; n++)
            {
                SocketConnection c = _all[n];
                if (!c.HasPacket) continue;
                if (!TryGive(c, (c.HostPort, c.GuestPort)))
                {
                    Hand();
                    return;
                }
                given++;
                some = true;
            }
        }
        _more |= some;
        Hand();
    }

    /// <summary>False: there is no buffer for it.</summary>
    private bool TryGive(SocketConnection? c, (uint Host, uint Guest) ports)
    {
        DescriptorChain? buffer = null;
        while (Live(Receive) is { } live && (buffer = live.Take()) is null)
        {
            Hand(); // the driver may wait for these before it gives others
            if (!live.EnableNotifications()) return false;
        }
        if (buffer is null) return false;
        if (buffer.WritableLength < SocketPacket.Length) throw new VirtqueueException("a buffer has no room for a packet's header");
        int room = (int)Math.Min(buffer.WritableLength - SocketPacket.Length, SocketConnection.LargestRead);
        (SocketOperation operation, uint flags, int size) = c is null ? (SocketOperation.Reset, 0u, 0) : Next(c, room);
        if (size > 0 && !buffer.TryWrite(Dma, SocketPacket.Length, c!.Inbound.Waiting[..size])) throw new VirtqueueException("a buffer is not in RAM");
        new SocketPacket(HostCid, GuestCid, ports.Host, ports.Guest, (uint)size, SocketPacket.Stream, operation, flags,
            c is null ? 0 : (uint)SocketConnection.BufferSize, c?.Forwarded ?? 0).Write(_packet);
        if (!buffer.TryWrite(Dma, 0, _packet)) throw new VirtqueueException("a buffer is not in RAM");
        c?.CreditIsTold();
        if (size > 0)
        {
            c!.Inbound.Taken(size);
            c.Sent(size);
        }
        _filled.Add(buffer);
        _written.Add((uint)(SocketPacket.Length + size));
        if (_filled.Count == MostHanded) Hand();
        return true;
    }

    /// <summary>The next packet of a connection that has one, which is on its way then.</summary>
    private static (SocketOperation Operation, uint Flags, int Size) Next(SocketConnection c, int room)
    {
        if (c.OwesFirstPacket)
        {
            c.OwesFirstPacket = false;
            return (c.Phase == ConnectionPhase.Requested ? SocketOperation.Request : SocketOperation.Response, 0, 0);
        }
        int size = (int)Math.Min((uint)Math.Min(room, c.Inbound.Count), c.Credit);
        if (size > 0 && !c.GuestIsDeaf) return (SocketOperation.Data, 0, size);
        if (c.ToTell is not 0 and { } ends)
        {
            c.Told |= ends;
            return (SocketOperation.Shutdown, (uint)c.Told, 0);
        }
        if (!c.WantsCredit) return (SocketOperation.CreditUpdate, 0, 0);
        c.CreditIsAskedFor();
        return (SocketOperation.CreditRequest, 0, 0);
    }

    /// <summary>Gives the driver what is filled, with one interrupt.</summary>
    private void Hand()
    {
        if (_filled.Count == 0) return;
        Complete(Receive, CollectionsMarshal.AsSpan(_filled), CollectionsMarshal.AsSpan(_written));
        _filled.Clear();
        _written.Clear();
    }

    /// <summary>Section 5.10.6.7 "Device Events".</summary>
    private void TellEvent()
    {
        Span<byte> e = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(e, TransportReset);
        while (_owesEvent && Live(Events) is { } live)
        {
            if (live.Take() is { } buffer)
            {
                if (!buffer.TryWrite(Dma, 0, e)) throw new VirtqueueException("a buffer is no place for an event");
                Complete(Events, buffer, (uint)e.Length);
                _owesEvent = false;
            }
            else if (!live.EnableNotifications()) return;
        }
    }
}
