using System.Globalization;
using System.Net;
using System.Net.NetworkInformation;
using Bunraku.Network.Slirp;

namespace Bunraku.Cli.CommandLine;

/// <summary>What stands behind <c>--net</c>: a kind, and words about it.</summary>
internal static class NetworkArgument
{
    private static readonly string[] s_kinds = ["user", "tap:", "unix:", "listen:", "connect:", "mcast:", "udp:"], s_names = ["mac", "mtu", "queues", "model"],
        s_userNames = ["hostfwd", "restrict", "loopback", "ipv6"];

    /// <exception cref="UsageException">It is no description of a network.</exception>
    public static VmNetwork Parse(string text)
    {
        (string kind, IReadOnlyList<(string, string)> words) = WordList.Parse(text);
        VmNetwork network = Kind(kind);
        foreach ((string name, string value) in words)
        {
            network = name switch
            {
                "mac" => network with { Mac = Mac(value) },
                "mtu" => network with { Mtu = Number(name, value) },
                "queues" => network with { Queues = Number(name, value) },
                "model" => network with { Model = Model(value) },
                "local" when network is MulticastCable group => group with { Local = Local(value) },
                _ when network is UserNetwork user && s_userNames.Contains(name) => user with { Options = UserWord(user.Options, name, value) },
                _ => throw new UsageException(Nearest.Message("word behind --net", name, network switch
                {
                    UserNetwork => [.. s_names, .. s_userNames],
                    MulticastCable => [.. s_names, "local"],
                    _ => s_names,
                })),
            };
        }
        return network;
    }

    private static VmNetwork Kind(string text)
    {
        (string kind, string? value) = text.IndexOf(':') is >= 0 and int colon ? (text[..colon], text[(colon + 1)..]) : (text, null);
        return kind switch
        {
            "user" when value is null => new UserNetwork(new SlirpOptions()),
            "tap" when value is { Length: > 0 } => new TapInterface(value),
            "unix" when value is { Length: > 0 } => new UnixCable(value),
            "udp" when value is { Length: > 0 } => Udp(value),
            "listen" or "connect" when value is not null && EndPoint(value) is { } end => new TcpCable(end, kind == "listen"),
            "listen" or "connect" => throw new UsageException(
                $"--net {text}: write {kind}:[ADDRESS:]PORT, for example listen:7001 here and connect:7001 there"),
            "mcast" when value is not null && EndPoint(value) is { } group && MulticastCable.IsGroup(group.Address) =>
                new MulticastCable(group, IPAddress.Loopback),
            "mcast" => throw new UsageException($"--net {text}: write mcast:GROUP:PORT, for example mcast:239.1.2.3:7001"),
            "tap" or "unix" or "udp" => throw new UsageException($"--net {text}: write tap:NAME, unix:PATH or udp:[ADDRESS:]PORT-[ADDRESS:]PORT"),
            _ => throw new UsageException(Nearest.Message("network", text, s_kinds)),
        };
    }

    private static UdpCable Udp(string text)
    {
        string[] ends = text.Split('-');
        return ends.Length == 2 && EndPoint(ends[0]) is { } local && EndPoint(ends[1]) is { } remote && local.AddressFamily == remote.AddressFamily
            ? new UdpCable(local, remote)
            : throw new UsageException($"--net udp:{text}: write udp:[ADDRESS:]PORT-[ADDRESS:]PORT, for example udp:7001-7002 here and udp:7002-7001 there");
    }

    private static IPEndPoint? EndPoint(string text) =>
        ushort.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out ushort port) ? new IPEndPoint(IPAddress.Loopback, port)
        : IPEndPoint.TryParse(text, out IPEndPoint? end) && end.Port != 0 ? end : null;

    private static SlirpOptions UserWord(SlirpOptions options, string name, string value)
    {
        switch (name)
        {
            case "restrict": return options with { Restricted = Quantities.IsOn("--net", name, value) };
            case "loopback": return options with { HostLoopback = Quantities.IsOn("--net", name, value) };
            case "ipv6": return options with { Ip6 = Quantities.IsOn("--net", name, value) };
            default:
                try
                {
                    return options with { Forwards = [.. options.Forwards, HostForward.Parse(value)] };
                }
                catch (FormatException e)
                {
                    throw new UsageException($"--net: hostfwd={e.Message}");
                }
        }
    }

    private static IPAddress Local(string text) =>
        IPAddress.TryParse(text, out IPAddress? address) && address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork ? address
            : throw new UsageException($"--net: local={text} is no address of this host; write for example local=192.0.2.1");

    private static NetworkModel Model(string text) => text switch
    {
        "virtio" => NetworkModel.Virtio,
        "e1000" => NetworkModel.E1000,
        _ => throw new UsageException(Nearest.Message("model of --net", text, ["virtio", "e1000"])),
    };

    private static PhysicalAddress Mac(string text) => PhysicalAddress.TryParse(text.ToUpperInvariant(), out PhysicalAddress? mac) ? mac
        : throw new UsageException($"--net: mac={text} is no address of a network card; write for example 52:54:00:12:34:56");

    private static int Number(string name, string text) => int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number) ? number
        : throw new UsageException($"--net: {name}={text} is no number");
}
