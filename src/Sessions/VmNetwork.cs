using System.Net;
using System.Net.NetworkInformation;
using System.Text.Json.Serialization;
using Bunraku.Network;
using Bunraku.Network.Slirp;

namespace Bunraku.Sessions;

/// <summary>Which card the guest sees.</summary>
public enum NetworkModel
{
    /// <summary>virtio's: <see cref="Machine.Virtio.Net.NetworkCard"/>.</summary>
    Virtio,
    /// <summary>Intel's 82540EM, for systems without virtio drivers: <see cref="Machine.Ethernet.E1000"/>.</summary>
    E1000,
}

/// <summary>A network card of a VM, by what is at the other end of its cable. The kinds have their names in a <see cref="MachineDescription"/>.</summary>
[JsonPolymorphic(TypeDiscriminatorPropertyName = "Kind")]
[JsonDerivedType(typeof(UserNetwork), "user")]
[JsonDerivedType(typeof(TapInterface), "tap")]
[JsonDerivedType(typeof(UnixCable), "unix")]
[JsonDerivedType(typeof(UdpCable), "udp")]
[JsonDerivedType(typeof(TcpCable), "tcp")]
[JsonDerivedType(typeof(MulticastCable), "multicast")]
[JsonDerivedType(typeof(NoNetwork), "none")]
public abstract record VmNetwork
{
    /// <summary>Bounds of <see cref="Mtu"/>: IPv6 has no smaller packets (RFC 8200 section 5).</summary>
    public const int SmallestMtu = 1280, LargestMtu = SlirpOptions.DefaultMtu;

    /// <summary>Most of <see cref="Queues"/>.</summary>
    public const int MostQueues = 32;

    /// <summary>Which card it is.</summary>
    public NetworkModel Model { get; init; }

    /// <summary>Address of the card; null: a random one of those that QEMU's cards have (52:54:00).</summary>
    public PhysicalAddress? Mac { get; init; }

    /// <summary>Largest packet, in bytes; null: what suits the kind.</summary>
    public int? Mtu { get; init; }

    /// <summary>Pairs of queues; null: one for each vCPU, up to 8.</summary>
    public int? Queues { get; init; }

    /// <summary>What a copy of the VM has in its place, while this one stays with the original: nobody is the same twice on a network of others.</summary>
    /// <param name="backend">What is there.</param>
    internal VmNetwork OfCopy(INetworkBackend backend) => this is UserNetwork user ? user with { Options = user.Options with { Forwards = [] } }
        : new NoNetwork(backend.HasOffloads) { Model = Model, Mac = Mac, Mtu = backend.Mtu, Queues = Queues };

    /// <exception cref="NetworkException">It cannot be had.</exception>
    internal abstract INetworkBackend Open();

    private protected const int EthernetMtu = 1500;
}

/// <summary>Nothing: the card of a copy whose network is the original's alone.</summary>
/// <param name="HasOffloads">See <see cref="INetworkBackend.HasOffloads"/>.</param>
internal sealed record NoNetwork(bool HasOffloads) : VmNetwork
{
    internal override INetworkBackend Open() => new CutCable(Mtu ?? EthernetMtu, HasOffloads);
}

/// <summary>The user-mode network: no privileges, no device of the host. See <see cref="SlirpNetwork"/>.</summary>
/// <param name="Options">What it may do. <see cref="SlirpOptions.Mtu"/> comes from <see cref="VmNetwork.Mtu"/>.</param>
public sealed record UserNetwork(SlirpOptions Options) : VmNetwork
{
    internal override INetworkBackend Open() => new SlirpNetwork(Options with { Mtu = Mtu ?? DefaultMtu });

    /// <summary>A card that does not tell the guest of it has that of Ethernet.</summary>
    private int DefaultMtu => Model == NetworkModel.E1000 ? EthernetMtu : SlirpOptions.DefaultMtu;
}

/// <summary>A tap interface of the host: see <see cref="TapNetwork"/>.</summary>
/// <param name="Name">Of the interface.</param>
public sealed record TapInterface(string Name) : VmNetwork
{
    internal override INetworkBackend Open() => new TapNetwork(Name, Mtu ?? EthernetMtu);
}

/// <summary>A cable to another VM by a Unix socket: see <see cref="StreamLink.Unix"/>.</summary>
/// <param name="Path">Of the socket.</param>
public sealed record UnixCable(string Path) : VmNetwork
{
    internal override INetworkBackend Open() => StreamLink.Unix(Path, Mtu ?? EthernetMtu);
}

/// <summary>A cable to another VM made of UDP packets: see <see cref="DatagramLink.Pair"/>.</summary>
/// <param name="Local">Where frames come in.</param>
/// <param name="Remote">Where they go.</param>
public sealed record UdpCable(IPEndPoint Local, IPEndPoint Remote) : VmNetwork
{
    internal override INetworkBackend Open() => DatagramLink.Pair(Local, Remote, Mtu ?? EthernetMtu);
}

/// <summary>A cable to another VM by TCP: see <see cref="StreamLink.Listen"/> and <see cref="StreamLink.Connect"/>.</summary>
/// <param name="Address">Where one of the two listens.</param>
/// <param name="Listens">It is this one; else it connects to the other one, which must be there.</param>
public sealed record TcpCable(IPEndPoint Address, bool Listens) : VmNetwork
{
    internal override INetworkBackend Open() =>
        Listens ? StreamLink.Listen(Address, Mtu ?? EthernetMtu) : StreamLink.Connect(Address, Mtu ?? EthernetMtu);
}

/// <summary>A wire on which all machines of a multicast group are: see <see cref="DatagramLink.Multicast"/>.</summary>
/// <param name="Group">Address, 224.0.0.0 to 239.255.255.255, and port.</param>
/// <param name="Local">Address of the host's interface on which the group is; null: the host's choice.</param>
public sealed record MulticastCable(IPEndPoint Group, IPAddress? Local) : VmNetwork
{
    /// <summary>Groups of IPv4: RFC 5771.</summary>
    public static bool IsGroup(IPAddress address) =>
        address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork && address.GetAddressBytes()[0] is >= 224 and <= 239;

    internal override INetworkBackend Open() => DatagramLink.Multicast(Group, Local, Mtu ?? EthernetMtu);
}
