using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Network;

namespace Bunraku.Machine.Virtio.Net;

/// <summary>
/// Which frames the driver wants: Virtual I/O Device (VIRTIO) Version 1.3, sections 5.1.6.5.1 to 5.1.6.5.3. Until the driver says something all of them, since
/// one that cannot filter expects that. With the device's lock held.
/// </summary>
internal sealed class ReceiveFilter
{
    private const int MostAddresses = 64, AddressLength = 6, Vlans = 4096;

    [Flags]
    private enum Mode : byte { Promiscuous = 1, AllMulticast = 2, AllUnicast = 4, NoMulticast = 8, NoUnicast = 16, NoBroadcast = 32 }

    // Where each part stands in the saved state.
    private const int ModeAt = 0, CountAt = 1, AddressesAt = 2, VlansAt = AddressesAt + MostAddresses * AddressLength;

    /// <summary>Bytes of <see cref="Save"/>.</summary>
    public const int StateLength = VlansAt + Vlans / 8;

    private readonly List<ulong> _addresses = [];
    private readonly byte[] _vlans = new byte[Vlans / 8];
    private Mode _mode = Mode.Promiscuous;

    public void Reset()
    {
        _mode = Mode.Promiscuous;
        _addresses.Clear();
        Array.Clear(_vlans);
    }

    /// <summary>The driver wants the frame.</summary>
    /// <param name="own">The device's address.</param>
    /// <param name="filtersVlans">The driver has the feature.</param>
    public bool Passes(ReadOnlySpan<byte> frame, ReadOnlySpan<byte> own, bool filtersVlans)
    {
        if (filtersVlans && BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) == Frame.Vlan)
        {
            if (frame.Length < Frame.HeaderLength + 4) return false;
            int vlan = BinaryPrimitives.ReadUInt16BigEndian(frame[14..]) & Vlans - 1;
            if ((_vlans[vlan >> 3] & 1 << (vlan & 7)) == 0) return false;
        }
        if (_mode.HasFlag(Mode.Promiscuous)) return true;
        ReadOnlySpan<byte> to = frame[..AddressLength];
        if (!to.ContainsAnyExcept((byte)0xFF)) return !_mode.HasFlag(Mode.NoBroadcast);
        bool multicast = (to[0] & 1) != 0;
        if (_mode.HasFlag(multicast ? Mode.NoMulticast : Mode.NoUnicast)) return false;
        return _mode.HasFlag(multicast ? Mode.AllMulticast : Mode.AllUnicast) || !multicast && to.SequenceEqual(own) || _addresses.Contains(Number(to));
    }

    private static ulong Number(ReadOnlySpan<byte> address) =>
        (ulong)BinaryPrimitives.ReadUInt32BigEndian(address) << 16 | BinaryPrimitives.ReadUInt16BigEndian(address[4..]);

    /// <summary>Section 5.1.6.5.1. False: there is no such command.</summary>
    public bool SetMode(byte command, ReadOnlySpan<byte> data)
    {
        if (data.Length < 1 || command > 5) return false;
        var bit = (Mode)(1 << command);
        _mode = data[0] != 0 ? _mode | bit : _mode & ~bit;
        return true;
    }

    /// <summary>Section 5.1.6.5.2: the table of unicast addresses, then that of multicast ones. False: it is none.</summary>
    public bool SetTable(ReadOnlySpan<byte> data)
    {
        List<ulong> addresses = [];
        Mode tooMany = 0;
        foreach (Mode all in (ReadOnlySpan<Mode>)[Mode.AllUnicast, Mode.AllMulticast])
        {
            if (data.Length < 4) return false;
            uint count = BinaryPrimitives.ReadUInt32LittleEndian(data);
            data = data[4..];
            if (count > (uint)data.Length / AddressLength) return false;
            // Those that there is no room for come, and others with them.
            if (addresses.Count + count > MostAddresses) tooMany |= all;
            else for (int n = 0; n < count; n++) addresses.Add(Number(data[(n * AddressLength)..]));
            data = data[((int)count * AddressLength)..];
        }
        _addresses.Clear();
        _addresses.AddRange(addresses);
        _mode |= tooMany;
        return true;
    }

    /// <summary>Section 5.1.6.5.3. False: there is no such command or VLAN.</summary>
    public bool SetVlan(byte command, ReadOnlySpan<byte> data)
    {
        if (data.Length < 2 || command > 1) return false;
        int vlan = BinaryPrimitives.ReadUInt16LittleEndian(data);
        if (vlan >= Vlans) return false;
        byte bit = (byte)(1 << (vlan & 7));
        if (command == 0) _vlans[vlan >> 3] |= bit;
        else _vlans[vlan >> 3] &= (byte)~bit;
        return true;
    }

    public void Save(Span<byte> state)
    {
        (state[ModeAt], state[CountAt]) = ((byte)_mode, (byte)_addresses.Count);
        for (int n = 0; n < _addresses.Count; n++)
        {
            Span<byte> at = state[(AddressesAt + n * AddressLength)..];
            BinaryPrimitives.WriteUInt32BigEndian(at, (uint)(_addresses[n] >> 16));
            BinaryPrimitives.WriteUInt16BigEndian(at[4..], (ushort)_addresses[n]);
        }
        _vlans.CopyTo(state[VlansAt..]);
    }

    /// <exception cref="StateFormatException">It has more addresses than there is room for.</exception>
    public void Restore(ReadOnlySpan<byte> state, string id)
    {
        Reset();
        _mode = (Mode)state[ModeAt];
        int count = StateCheck.Range(state[CountAt], (byte)0, (byte)MostAddresses, id);
        for (int n = 0; n < count; n++) _addresses.Add(Number(state[(AddressesAt + n * AddressLength)..]));
        state[VlansAt..StateLength].CopyTo(_vlans);
    }
}
