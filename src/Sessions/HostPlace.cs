using System.Globalization;
using System.Net;

namespace Bunraku.Sessions;

/// <summary>Places of this host at which a VM listens, as people write them: unix:PATH, or ADDRESS:PORT.</summary>
internal static class HostPlace
{
    private const string UnixPrefix = "unix:";

    /// <summary>The path of unix:PATH; null: the text is no such place.</summary>
    /// <exception cref="FormatException">There is no path; the message is one line.</exception>
    public static string? PathIn(string text)
    {
        if (!text.StartsWith(UnixPrefix, StringComparison.Ordinal)) return null;
        return text.Length > UnixPrefix.Length ? text[UnixPrefix.Length..] : throw new FormatException("unix:PATH needs a path");
    }

    /// <summary>Takes 127.0.0.1:1234, [::1]:1234, localhost:1234 and :1234 apart.</summary>
    /// <param name="host">As it was typed; may be empty.</param>
    /// <param name="port">0 to 65535.</param>
    public static bool TrySplit(string text, out string host, out int port)
    {
        int colon = text.LastIndexOf(':');
        (host, port) = (colon < 0 ? "" : text[..colon], 0);
        return colon >= 0 && int.TryParse(text.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out port) && port <= IPEndPoint.MaxPort;
    }

    /// <summary>The address of a host from <see cref="TrySplit"/>, 127.0.0.1 for none and for localhost; null: it is no address.</summary>
    public static IPAddress? AddressOf(string host) =>
        host is "" or "localhost" ? IPAddress.Loopback : IPAddress.TryParse(host, out IPAddress? address) ? address : null;
}
