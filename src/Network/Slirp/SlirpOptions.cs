using System.Net;

namespace Bunraku.Network.Slirp;

/// <summary>A user-mode network.</summary>
public sealed record SlirpOptions
{
    /// <summary>Largest packet that the guest is to send and is sent.</summary>
    public const int DefaultMtu = 65520;

    /// <summary>Ports of the host that lead into the guest.</summary>
    public IReadOnlyList<HostForward> Forwards { get; init; } = [];

    /// <summary>The guest reaches nothing but who came in through a forwarded port.</summary>
    public bool Restricted { get; init; }

    /// <summary>The guest reaches the host's 127.0.0.1 and ::1 as 10.0.2.2 and fec0::2.</summary>
    public bool HostLoopback { get; init; }

    /// <summary>IPv6 is there, too.</summary>
    public bool Ip6 { get; init; } = true;

    /// <summary>The first 24 bits of the network's addresses; the last byte is 0.</summary>
    public IPAddress Network { get; init; } = DefaultNetwork;

    /// <summary>The host's address in it; null: that with 2 at the end.</summary>
    public IPAddress? Host { get; init; }

    /// <summary>The name server's; null: that with 3 at the end.</summary>
    public IPAddress? NameServer { get; init; }

    /// <summary>The first address that the guest is given by DHCP; null: that with 15 at the end.</summary>
    public IPAddress? FirstDhcp { get; init; }

    /// <summary>Where nothing else is said.</summary>
    public static IPAddress DefaultNetwork { get; } = IPAddress.Parse("10.0.2.0");

    /// <summary>Why the addresses make no network; null: they do.</summary>
    internal string? Problem
    {
        get
        {
            if (!Is4(Network) || Network.GetAddressBytes()[3] != 0) return $"{Network} is no network of IPv4 with 24 bits, whose last byte is 0";
            IPAddress[] all = [HostAddress, NameServerAddress, FirstDhcpAddress];
            if (all.FirstOrDefault(a => !Is4(a) || !a.GetAddressBytes().AsSpan(0, 3).SequenceEqual(Network.GetAddressBytes().AsSpan(0, 3))) is { } outside)
                return $"{outside} is not in the network {Network}";
            if (all.FirstOrDefault(a => a.GetAddressBytes()[3] is 0 or 255) is { } nobody) return $"{nobody} is no address of a machine";
            return all.Distinct().Count() < all.Length ? "the host, the name server and the guest need an address each" : null;

            static bool Is4(IPAddress address) => address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetwork;
        }
    }

    internal IPAddress HostAddress => Host ?? InNetwork(2);
    internal IPAddress NameServerAddress => NameServer ?? InNetwork(3);
    internal IPAddress FirstDhcpAddress => FirstDhcp ?? InNetwork(15);

    private IPAddress InNetwork(byte last)
    {
        byte[] bytes = Network.GetAddressBytes();
        bytes[^1] = last;
        return new IPAddress(bytes);
    }

    /// <summary>Bytes, 1280 to 65520.</summary>
    public int Mtu { get; init; } = DefaultMtu;
}
