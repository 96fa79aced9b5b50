using System.Buffers.Binary;
using Bunraku.Network;

namespace Bunraku.Machine.Ethernet;

/// <summary>Which frames the driver wants: the manual's section 3.2.1 "Packet Address Filtering" and 9.2 "VLAN Packet Filtering".</summary>
internal static class E1000Filter
{
    private const int AddressLength = 6;
    private const uint Valid = 1u << 31, SelectMask = 3 << 16; // RAH: address valid, and whether it is the destination's

    /// <param name="register">A register's value by its offset.</param>
    public static bool Passes(ReadOnlySpan<byte> frame, Func<int, uint> register)
    {
        var control = (E1000Receive)register(E1000Register.ReceiveControl);
        if (control.HasFlag(E1000Receive.VlanFilter) && frame.Length >= Frame.HeaderLength + 4
            && BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) == (ushort)register(E1000Register.VlanType))
        {
            int vlan = BinaryPrimitives.ReadUInt16BigEndian(frame[14..]) & 0xFFF;
            if ((register(E1000Register.VlanTable + (vlan >> 5) * 4) >> (vlan & 31) & 1) == 0) return false;
        }
        ReadOnlySpan<byte> to = frame[..AddressLength];
        bool isGroup = (to[0] & 1) != 0;
        if (!to.ContainsAnyExcept((byte)0xFF) && control.HasFlag(E1000Receive.Broadcast)) return true;
        if (control.HasFlag(isGroup ? E1000Receive.AllMulticast : E1000Receive.AllUnicast)) return true;
        (uint low, ushort high) = (BinaryPrimitives.ReadUInt32LittleEndian(to), BinaryPrimitives.ReadUInt16LittleEndian(to[4..]));
        for (int n = 0; n < E1000Register.Addresses; n++)
        {
            uint upper = register(E1000Register.ReceiveAddresses + 8 * n + 4);
            if ((upper & (Valid | SelectMask)) == Valid && (ushort)upper == high && register(E1000Register.ReceiveAddresses + 8 * n) == low) return true;
        }
        if (!isGroup) return false;
        // Section 13.5.1 "Multicast Table Array": twelve bits of the address, from one of four places.
        int shift = ((uint)control >> 12 & 3) switch { 0 => 4, 1 => 3, 2 => 2, _ => 0 };
        int hash = high >> shift & 0xFFF;
        return (register(E1000Register.MulticastTable + (hash >> 5) * 4) >> (hash & 31) & 1) != 0;
    }
}
