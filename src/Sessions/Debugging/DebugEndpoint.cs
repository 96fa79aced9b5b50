using System.Net;

namespace Bunraku.Sessions.Debugging;

/// <summary>
/// Where a VM listens for a debugger: a loopback address, or a Unix socket. Who connects can read and write all of the guest, so nothing else is possible. On
/// loopback every user of the host can connect; a Unix socket is its owner's alone.
/// </summary>
public sealed record DebugEndpoint
{
    private DebugEndpoint(IPEndPoint? address, string? path) => (Address, Path) = (address, path);

    /// <summary>A loopback address with a port; 0: any that is free. Null: it is a socket.</summary>
    public IPEndPoint? Address { get; }

    /// <summary>Path of the Unix socket; null: it is an address.</summary>
    public string? Path { get; }

    /// <summary>A Unix socket.</summary>
    /// <param name="path">Where it is made; nothing may be there.</param>
    public static DebugEndpoint Unix(string path) => new(null, path);

    /// <summary>A port on the loopback address 127.0.0.1.</summary>
    /// <param name="port">0 to 65535; 0: any that is free.</param>
    public static DebugEndpoint Loopback(int port = 0) => new(new IPEndPoint(IPAddress.Loopback, port), null);

    /// <summary>Reads 127.0.0.1:1234, [::1]:1234, localhost:1234, :1234, or unix:PATH.</summary>
    /// <param name="text">As it was typed.</param>
    /// <exception cref="FormatException">It is none of them; the message is one line.</exception>
    public static DebugEndpoint Parse(string text)
    {
        if (HostPlace.PathIn(text) is { } path) return Unix(path);
        if (!HostPlace.TrySplit(text, out string host, out int port))
            throw new FormatException($"'{text}' is no place for a debugger to connect to; write for example 127.0.0.1:1234 or unix:PATH");
        IPAddress address = HostPlace.AddressOf(host)
            ?? throw new FormatException($"'{host}' is no address; a debugger can connect to 127.0.0.1:{port} or unix:PATH");
        return IPAddress.IsLoopback(address) ? new DebugEndpoint(new IPEndPoint(address, port), null)
            : throw new FormatException($"'{host}' is no loopback address, and who connects has all of the guest: use 127.0.0.1:{port} or unix:PATH");
    }

    /// <summary>As GDB's <c>target remote</c> takes it.</summary>
    public override string ToString() => Path ?? Address!.ToString();
}
