using System.Globalization;
using System.Net;
using System.Net.NetworkInformation;
using Bunraku.Network.Slirp;

namespace Bunraku.Cli.Qemu;

/// <summary>Networks and cards of a command line: back ends by their names, those of the old hub, and the cards that are to have them.</summary>
internal sealed class QemuNetworks(QemuMachine machine)
{
    private readonly Dictionary<string, VmNetwork> _backends = new(StringComparer.Ordinal);
    private readonly HashSet<string> _taken = new(StringComparer.Ordinal);
    private readonly List<VmNetwork> _hub = [];
    private readonly List<(NetworkModel Model, PhysicalAddress? Mac)> _hubCards = [];
    private bool _isGiven;

    /// <summary>Cards that are virtio's, or are replaced by one, since there are no others.</summary>
    private static readonly string[] s_virtio =
        ["virtio", "virtio-net", "virtio-net-pci", "virtio-net-pci-transitional", "virtio-net-pci-non-transitional", "virtio-net-device"],
        s_intel = ["e1000", "e1000-82540em"],
        s_others = ["e1000-82544gc", "e1000-82545em", "e1000e", "rtl8139", "ne2k_pci", "pcnet", "i82551", "i82557b", "i82559er", "igb", "vmxnet3", "tulip",
            "usb-net"];

    /// <summary>A model of a card.</summary>
    public static bool IsCard(string model) => s_virtio.Contains(model) || s_intel.Contains(model) || s_others.Contains(model);

    /// <summary>-netdev.</summary>
    public void AddBackend(string text)
    {
        _isGiven = true;
        QemuWords words = QemuWords.Parse("-netdev", text, "type");
        string id = words.Need("id");
        if (!_backends.TryAdd(id, Backend(words, words.Need("type")))) throw new UsageException($"-netdev: the name '{id}' is given twice");
    }

    /// <summary>-nic: a back end and its card in one.</summary>
    public void AddPair(string text)
    {
        _isGiven = true;
        QemuWords words = QemuWords.Parse("-nic", text, "type");
        string kind = words.Take("type") ?? "user";
        if (kind == "none") return;
        string? mac = words.Take("mac") ?? words.Take("macaddr"), model = words.Take("model");
        string id = words.Take("id") ?? "";
        words.Drop("addr");
        NetworkModel card = Model("-nic", model);
        machine.NetworkNames.Add((id, null));
        machine.Networks.Add(Backend(words, kind) with { Model = card, Mac = Mac("-nic", mac) });
    }

    /// <summary>-net: a card, or a back end, on the hub that all of them share.</summary>
    public void AddToHub(string text)
    {
        _isGiven = true;
        QemuWords words = QemuWords.Parse("-net", text, "type");
        string kind = words.Need("type");
        switch (kind)
        {
            case "none":
                return;
            case "nic":
                NetworkModel card = Model("-net", words.Take("model"));
                PhysicalAddress? mac = Mac("-net", words.Take("macaddr"));
                string? backend = words.Take("netdev");
                words.Drop("name", "addr", "vectors", "id");
                words.Finish();
                if (backend is not null) Connect("-net", backend, card, mac, null, null, null);
                else _hubCards.Add((card, mac));
                return;
            default:
                words.Drop("name", "id");
                _hub.Add(Backend(words, kind));
                return;
        }
    }

    /// <summary>-device with a card.</summary>
    public void AddCard(string model, QemuWords words, string? id)
    {
        NetworkModel card = Model("-device", model);
        int? mtu = words.TakeNumber("host_mtu"), vectors = words.TakeNumber("vectors");
        bool several = words.TakeSwitch("mq") == true;
        words.Drop("mrg_rxbuf", "csum", "gso", "guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo", "host_tso4", "host_tso6", "host_ecn",
            "host_ufo",
            "status", "ctrl_vq", "ctrl_rx", "ctrl_vlan", "ctrl_mac_addr", "rx_queue_size", "tx_queue_size", "tx", "ioeventfd", "event_idx", "indirect_desc",
                "packed");
        string? mac = words.Take("mac");
        if (words.Take("netdev") is not { } backend)
        {
            machine.Notes.Add($"-device: {model}: a card without netdev= has no cable, and is left out");
            return;
        }
        int? queues = several && vectors is > 2 ? Math.Clamp((vectors.Value - 2) / 2, 1, VmNetwork.MostQueues) : null;
        Connect("-device", backend, card, Mac("-device", mac), mtu, card == NetworkModel.Virtio ? queues : null, id);
    }

    private void Connect(string option, string id, NetworkModel model, PhysicalAddress? mac, int? mtu, int? queues, string? card)
    {
        if (!_backends.TryGetValue(id, out VmNetwork? backend)) throw new UsageException($"{option}: there is no -netdev with id={id}");
        if (!_taken.Add(id)) throw new UsageException($"{option}: the network '{id}' has a card already");
        machine.NetworkNames.Add((id, card));
        machine.Networks.Add(backend with { Model = model, Mac = mac, Mtu = mtu ?? backend.Mtu, Queues = queues ?? backend.Queues });
    }

    /// <summary>All is read: the hub's cards get what is on it.</summary>
    /// <param name="hasDefaults">A machine of whose network nothing is said has a card with the user-mode network.</param>
    public void Finish(bool hasDefaults)
    {
        if (_hub.Count > 1 || _hubCards.Count > 1)
            throw new UsageException("-net: a hub with several cards or networks is not had; -nic, or -netdev with -device, connects each card by itself");
        if (_hub is [var backend])
        {
            if (_hubCards is [var card])
            {
                machine.NetworkNames.Add(("", null));
                machine.Networks.Add(backend with { Model = card.Model, Mac = card.Mac });
            }
            else machine.Notes.Add("-net: a network without '-net nic' has no card, and is left out");
        }
        else if (_hubCards.Count > 0)
        {
            machine.Notes.Add("-net nic: a card without a network has no cable, and is left out");
        }
        if (_isGiven || !hasDefaults) return;
        machine.HasDefaultNetwork = true;
        machine.NetworkNames.Add(("", null));
        machine.Networks.Add(new UserNetwork(new SlirpOptions { HostLoopback = true }));
    }

    private NetworkModel Model(string option, string? model)
    {
        if (model is null || s_virtio.Contains(model)) return NetworkModel.Virtio;
        if (s_intel.Contains(model)) return NetworkModel.E1000;
        if (!s_others.Contains(model)) throw new UsageException(Nearest.Message($"model of {option}", model, [.. s_virtio, .. s_intel]));
        machine.Notes.Add($"{option}: there is no {model}; the guest gets a virtio network card in its place");
        return NetworkModel.Virtio;
    }

    private VmNetwork Backend(QemuWords words, string kind)
    {
        string option = words.Option;
        VmNetwork network;
        switch (kind)
        {
            case "user":
                network = User(words);
                break;
            case "tap":
                if (words.Take("fd") is not null || words.Take("fds") is not null) throw new UsageException($"{option}: not had: tap with fd=; name it by "
                    + "ifname=");
                foreach (string script in (string[])["script", "downscript"])
                {
                    if (words.Take(script) is { } program and not "no") machine.Notes.Add($"{option}: {script}={program} is not run: the interface is to be "
                        + "up already");
                }
                if (words.TakeSwitch("vhost") == true) machine.Notes.Add($"{option}: vhost=on is passed over: the card is this process's");
                words.Drop("vhostforce", "sndbuf", "vnet_hdr", "queues", "br", "helper");
                network = new TapInterface(words.Need("ifname"));
                break;
            case "socket":
                network = Sockets(words);
                break;
            case "stream":
                network = Stream(words);
                break;
            case "dgram":
                network = Datagrams(words);
                break;
            default:
                throw new UsageException(kind is "bridge" or "hubport" or "vde" or "l2tpv3" or "vhost-user" or "vhost-vdpa" or "netmap"
                    ? $"{option}: not had: {kind}; there are user, tap, socket, stream and dgram" : Nearest.Message($"network of {option}", kind,
                        ["user", "tap", "socket", "stream", "dgram"]));
        }
        words.Finish();
        return network;
    }

    /// <summary>A cable of the words that QEMU has always had: TCP, from one side or the other, a multicast group, or UDP packets.</summary>
    private static VmNetwork Sockets(QemuWords words)
    {
        string option = words.Option;
        string? local = words.Take("localaddr");
        (string Kind, string Where)[] given = [.. from kind in (string[])["listen", "connect", "mcast", "udp", "fd"]
                                                  let value = words.Take(kind) where value is not null select (kind, value)];
        if (given is not [var (what, where)] || what == "fd")
            throw new UsageException($"{option}: a socket has one of listen=, connect=, mcast= and udp=; a descriptor (fd=) is not had");
        if (local is not null && what is "listen" or "connect") throw new UsageException($"{option}: localaddr= goes with mcast= or udp=, not with {what}=");
        return what switch
        {
            "mcast" => Group(option, EndPoint(option, where), local is null ? null : EndPoint(option, local + ":1").Address),
            "udp" => new UdpCable(EndPoint(option, local ?? throw new UsageException($"{option}: 'localaddr=' is missing")), EndPoint(option, where)),
            _ => new TcpCable(EndPoint(option, where), what == "listen"),
        };
    }

    private static VmNetwork Stream(QemuWords words)
    {
        bool listens = words.TakeSwitch("server") == true;
        switch (words.Take("addr.type"))
        {
            case "inet":
                return new TcpCable(EndPoint(words.Option, $"{words.Need("addr.host")}:{words.Need("addr.port")}"), listens);
            case "unix":
                return new UnixCable(words.Need("addr.path"));
            default:
                throw new UsageException($"{words.Option}: a stream has addr.type=inet or addr.type=unix");
        }
    }

    private static VmNetwork Datagrams(QemuWords words)
    {
        string option = words.Option;
        string? local = words.Take("local.type");
        if (words.Take("remote.type") is not "inet" || local is not (null or "inet"))
            throw new UsageException($"{option}: not had: dgram of another kind than local.type=inet with remote.type=inet");
        IPEndPoint remote = EndPoint(option, $"{words.Need("remote.host")}:{words.Need("remote.port")}");
        string? host = words.Take("local.host"), port = words.Take("local.port");
        if (MulticastCable.IsGroup(remote.Address)) return Group(option, remote, host is null ? null : EndPoint(option, host + ":1").Address);
        if (host is null || port is null) throw new UsageException($"{option}: local.host= and local.port= are needed beside remote.host={remote.Address}");
        return new UdpCable(EndPoint(option, $"{host}:{port}"), remote);
    }

    private static MulticastCable Group(string option, IPEndPoint group, IPAddress? local) => MulticastCable.IsGroup(group.Address)
        ? new MulticastCable(group, local) : throw new UsageException($"{option}: {group.Address} is no multicast group: 224.0.0.0 to 239.255.255.255 are");

    private UserNetwork User(QemuWords words)
    {
        string option = words.Option;
        var forwards = new List<HostForward>();
        foreach (string text in words.TakeAll("hostfwd"))
        {
            try
            {
                forwards.Add(HostForward.Parse(text));
            }
            catch (FormatException e)
            {
                throw new UsageException($"{option}: hostfwd={e.Message}");
            }
        }
        bool restricted = words.TakeSwitch("restrict") == true, ip6 = words.TakeSwitch("ipv6") ?? true;
        if (words.TakeSwitch("ipv4") == false) throw new UsageException($"{option}: not had: ipv4=off");
        IPAddress? host = Address("host"), network = Address("net"), firstDhcp = Address("dhcpstart"), nameServer = Address("dns");
        foreach (string absent in (string[])["tftp", "bootfile", "smb", "guestfwd"])
        {
            if (words.Take(absent) is not null) throw new UsageException($"{option}: not had: {absent}=");
        }
        foreach (string passed in (string[])["hostname", "dnssearch", "domainname", "tftp-server-name", "smbserver", "ipv6-net", "ipv6-prefix", "ipv6-host",
            "ipv6-dns",
            "ipv6-prefixlen"])
        {
            if (words.TakeAll(passed).Count > 0) machine.Notes.Add($"{option}: '{passed}' is passed over: the network tells its guests nothing of the kind");
        }
        return new UserNetwork(new SlirpOptions
        {
            Forwards = forwards,
            Restricted = restricted,
            Ip6 = ip6,
            // As with QEMU: 10.0.2.2 is the host, its loopback included.
            HostLoopback = !restricted,
            Network = network ?? SlirpOptions.DefaultNetwork,
            Host = host,
            NameServer = nameServer,
            FirstDhcp = firstDhcp,
        });

        IPAddress? Address(string key)
        {
            if (words.Take(key) is not { } text) return null;
            int slash = text.IndexOf('/');
            if (slash >= 0 && text[slash..] is not ("/24" or "/255.255.255.0")) throw new UsageException($"{option}: {key}={text}: a network has 24 bits");
            return IPAddress.TryParse(slash < 0 ? text : text[..slash], out IPAddress? address)
                && address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork
                ? address : throw new UsageException($"{option}: {key}={text} is no address");
        }
    }

    private static IPEndPoint EndPoint(string option, string text)
    {
        int colon = text.LastIndexOf(':');
        string host = colon > 0 ? text[..colon] : "127.0.0.1";
        if (host == "localhost") host = "127.0.0.1";
        return ushort.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out ushort port) && port != 0
            && IPAddress.TryParse(host, out IPAddress? address) ? new IPEndPoint(address, port)
                : throw new UsageException($"{option}: '{text}' is no address with a port");
    }

    private static PhysicalAddress? Mac(string option, string? text) => text is null ? null
        : PhysicalAddress.TryParse(text.ToUpperInvariant(), out PhysicalAddress? mac) && mac.GetAddressBytes().Length == 6 ? mac
        : throw new UsageException($"{option}: '{text}' is no address of a network card");
}
