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

    /// <summary>Bytes, 1280 to 65520.</summary>
    public int Mtu { get; init; } = DefaultMtu;
}
