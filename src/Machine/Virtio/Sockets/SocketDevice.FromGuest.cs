using System.Net.Sockets;

namespace Bunraku.Machine.Virtio.Sockets;

// What the guest sends: packets, and what of them goes on to the host's sockets.
public sealed partial class SocketDevice
{
    private void TakePackets()
    {
        for (int n = 0; _resets.Count < MostResets && Live(Transmit) is { } live; n++)
        {
            if (n == MostOfRound)
            {
                _more = true;
                return;
            }
            if (live.Take() is not { } buffer)
            {
                if (live.EnableNotifications()) continue;
                return;
            }
            if (!buffer.TryRead(Dma, 0, _packet)) throw new VirtqueueException("a buffer is not in RAM, or too short for a packet's header");
            SocketPacket packet = SocketPacket.Read(_packet);
            // Section 5.10.6.4.1 "Driver Requirements": the guest speaks for itself.
            if (packet.SourceCid == GuestCid) Take(packet, buffer);
            Complete(Transmit, buffer, 0);
        }
    }

    private void Take(in SocketPacket packet, DescriptorChain buffer)
    {
        (uint Host, uint Guest) ports = (packet.DestinationPort, packet.SourcePort);
        _byPorts.TryGetValue(ports, out SocketConnection? c);
        if (packet.Operation == SocketOperation.Reset)
        {
            if (c is not null) Forget(c);
            return;
        }
        bool known = packet.DestinationCid == HostCid && packet.Type == SocketPacket.Stream;
        if (known && packet.Operation == SocketOperation.Request && c is null && Open(ports) is { } opened)
        {
            opened.TakeCredit(packet);
            return;
        }
        // Section 5.10.6.4.2: what is for nobody, or makes no sense, is answered by a reset.
        if (!known || c is null || !TryTake(c, packet, buffer))
        {
            if (c is null) _resets.Enqueue(ports);
            else End(c);
        }
    }

    private SocketConnection? Open((uint Host, uint Guest) ports)
    {
        if (_all.Count >= MostConnections || _host?.Connect(ports.Host) is not { } socket) return null;
        var c = new SocketConnection(socket, ConnectionPhase.Established) { HostPort = ports.Host, GuestPort = ports.Guest, OwesFirstPacket = true };
        _all.Add(c);
        _byPorts.Add(ports, c);
        return c;
    }

    /// <summary>False: the packet has no place in this connection.</summary>
    private bool TryTake(SocketConnection c, in SocketPacket packet, DescriptorChain buffer)
    {
        c.TakeCredit(packet);
        if (packet.Operation == SocketOperation.Response)
        {
            if (c.Phase != ConnectionPhase.Requested) return false;
            c.Phase = ConnectionPhase.Established;
            byte[] welcome = HostSockets.Welcome(c.HostPort);
            return c.Socket.Send(welcome, SocketFlags.None, out SocketError error) == welcome.Length && error == SocketError.Success;
        }
        if (c.Phase != ConnectionPhase.Established) return false;
        switch (packet.Operation)
        {
            case SocketOperation.Data: return TryTakeData(c, packet, buffer);
            case SocketOperation.CreditUpdate: return true;
            case SocketOperation.CreditRequest:
                c.OwesCredit = true;
                return true;
            case SocketOperation.Shutdown:
                var ends = (SocketShutdownFlags)packet.Flags;
                c.GuestEnded |= ends.HasFlag(SocketShutdownFlags.Send);
                if (ends.HasFlag(SocketShutdownFlags.Receive) && !c.GuestIsDeaf)
                {
                    c.GuestIsDeaf = true;
                    c.Inbound.Clear();
                    Shut(c, SocketShutdown.Receive); // who writes there finds out
                }
                if (c.Outbound.Count == 0) EndOutput(c);
                return true;
            default: return false;
        }
    }

    private bool TryTakeData(SocketConnection c, in SocketPacket packet, DescriptorChain buffer)
    {
        // More than the guest may send, or than there is.
        if (c.GuestEnded || packet.Size > SocketConnection.BufferSize - c.Outbound.Count) return false;
        Span<byte> bytes = _payload.AsSpan(0, (int)packet.Size);
        if (!buffer.TryRead(Dma, SocketPacket.Length, bytes)) return false;
        if (c.HostIsDeaf)
        {
            c.Forward(bytes.Length);
            return true;
        }
        int sent = c.Outbound.Count == 0 ? Send(c, bytes) : 0;
        if (c.HostIsDeaf) return true;
        ReadOnlySpan<byte> rest = bytes[sent..];
        if (rest.IsEmpty) return true;
        rest.CopyTo(c.Outbound.Room(rest.Length));
        c.Outbound.Added(rest.Length);
        return true;
    }

    /// <summary>How many of the bytes the host has taken, of which the guest will be told.</summary>
    private static int Send(SocketConnection c, ReadOnlySpan<byte> bytes)
    {
        int sent = c.Socket.Send(bytes, SocketFlags.None, out SocketError error);
        if (error == SocketError.WouldBlock)
        {
            c.MayWrite = false;
            return 0;
        }
        if (error != SocketError.Success)
        {
            c.Forward(bytes.Length - c.Outbound.Count);
            c.Deafen();
            return 0;
        }
        c.Forward(sent);
        return sent;
    }

    private void Write(SocketConnection c)
    {
        int sent = Send(c, c.Outbound.Waiting);
        if (!c.HostIsDeaf) c.Outbound.Taken(sent);
        if (c.Outbound.Count > 0) return;
        c.Outbound.Clear();
        if (c.Phase == ConnectionPhase.Draining) Close(c);
        else EndOutput(c);
    }

    /// <summary>All that the guest had sent is with the host.</summary>
    private static void EndOutput(SocketConnection c)
    {
        if (c.GuestEnded && !c.HostIsDeaf) Shut(c, SocketShutdown.Send);
    }

    private static void Shut(SocketConnection c, SocketShutdown side)
    {
        try
        {
            c.Socket.Shutdown(side);
        }
        catch (SocketException)
        {
            // It is gone already.
        }
    }
}
