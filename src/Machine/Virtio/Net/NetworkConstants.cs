namespace Bunraku.Machine.Virtio.Net;

/// <summary>Feature bits of the network device: Virtual I/O Device (VIRTIO) Version 1.3, section 5.1.3.</summary>
[Flags]
internal enum NetworkFeature : ulong
{
    Checksum = 1 << 0, GuestChecksum = 1 << 1, GuestOffloads = 1 << 2, Mtu = 1 << 3, Mac = 1 << 5, GuestTcp4 = 1 << 7, GuestTcp6 = 1 << 8, GuestEcn = 1 << 9,
    HostTcp4 = 1 << 11, HostTcp6 = 1 << 12, HostEcn = 1 << 13, MergeBuffers = 1 << 15, Status = 1 << 16, ControlQueue = 1 << 17, ReceiveModes = 1 << 18,
    Vlan = 1 << 19, MoreReceiveModes = 1 << 20, MultiQueue = 1 << 22, SetMac = 1 << 23,
}

/// <summary>Configuration space: section 5.1.4.</summary>
internal static class NetworkField
{
    public const int Mac = 0, Status = 6, MaxPairs = 8, Mtu = 10, Length = 12;

    /// <summary>Bit of <see cref="Status"/>: VIRTIO_NET_S_LINK_UP.</summary>
    public const byte LinkUp = 1;
}

/// <summary>Classes of commands on the control queue: section 5.1.6.5.</summary>
internal enum ControlClass : byte { Receive = 0, Mac = 1, Vlan = 2, Queues = 4, Offloads = 5 }
