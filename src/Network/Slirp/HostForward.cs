using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace Bunraku.Network.Slirp;

/// <summary>A port of the host that leads to one of the guest.</summary>
/// <param name="IsUdp">Else TCP.</param>
/// <param name="Host">Where the host listens.</param>
/// <param name="Guest">Where it leads; the address 0.0.0.0 is the guest's own.</param>
public sealed record HostForward(bool IsUdp, IPEndPoint Host, IPEndPoint Guest)
{
    /// <summary>Reads <c>[tcp|udp]:[ADDRESS:]PORT-[ADDRESS]:PORT</c>; the kind may be left out. IPv6 addresses stand in brackets.</summary>
    /// <exception cref="FormatException">It is not that; the message says what is wrong.</exception>
    public static HostForward Parse(string text)
    {
        string rest = text;
        bool udp = rest.StartsWith("udp:", StringComparison.Ordinal);
        if (udp || rest.StartsWith("tcp:", StringComparison.Ordinal)) rest = rest[4..];
        string[] ends = rest.Split('-');
        if (ends.Length != 2) throw new FormatException($"'{text}' does not lead anywhere; write for example tcp:127.0.0.1:2222-:22");
        IPEndPoint host = EndPoint(ends[0], IPAddress.Loopback, text);
        IPEndPoint guest = EndPoint(ends[1], IPAddress.Any, text);
        if (guest.AddressFamily != host.AddressFamily)
            throw new FormatException($"'{text}': both addresses must be of IPv4, or both of IPv6, where the guest's has to be named");
        if (guest.Port == 0) throw new FormatException($"'{text}': the guest's port is missing");
        return new HostForward(udp, host, guest);
    }

    private static IPEndPoint EndPoint(string text, IPAddress nobody, string whole)
    {
        int colon = text.LastIndexOf(':');
        string address = text[..Math.Max(colon, 0)].TrimStart(':'), port = text[(colon + 1)..];
        if (!ushort.TryParse(port, NumberStyles.None, CultureInfo.InvariantCulture, out ushort number))
            throw new FormatException($"'{whole}': '{port}' is no port; write for example tcp:127.0.0.1:2222-:22");
        if (text.StartsWith('[')) address = text[..colon];
        IPAddress? found = nobody;
        if (address.Length > 0 && !IPAddress.TryParse(address.Trim('[', ']'), out found))
            throw new FormatException($"'{whole}': '{address}' is no address of IPv4, or of IPv6 in brackets");
        return new IPEndPoint(found!, number);
    }

    /// <inheritdoc/>
    public override string ToString() => $"{(IsUdp ? "udp" : "tcp")}:{Host}-{Guest}";
}
