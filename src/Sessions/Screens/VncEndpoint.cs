using System.Net;

namespace Bunraku.Sessions.Screens;

/// <summary>Where a VM shows its screen to VNC viewers, and to whom.</summary>
public sealed record VncEndpoint
{
    private VncEndpoint(IPEndPoint? address, string? path, string? passwordFile, bool asksForPassword) =>
        (Address, Path, PasswordFile, AsksForPassword) = (address, path, passwordFile, asksForPassword);

    /// <summary>An address with a port; 0: any that is free. Null: it is a socket.</summary>
    public IPEndPoint? Address { get; }

    /// <summary>Path of a Unix socket, its owner's alone; null: it is an address.</summary>
    public string? Path { get; }

    /// <summary>Path of a file whose first line a viewer must know; VNC goes by 8 bytes of it. Null: there is none.</summary>
    public string? PasswordFile { get; }

    /// <summary>
    /// A viewer must know a password: that of <see cref="PasswordFile"/>, or of <see cref="VncServer.SetPassword"/>, without which nobody is let in. Else
    /// whoever can connect is.
    /// </summary>
    public bool AsksForPassword { get; }

    /// <summary>
    /// Reads 127.0.0.1:5901, [::1]:5901, localhost:5901, :5901 or unix:PATH, each with ",password-file=FILE" behind it or not. An address that others reach
    /// needs the password.
    /// </summary>
    /// <param name="text">As it was typed.</param>
    /// <param name="asksForPassword">See <see cref="AsksForPassword"/>; a file makes it so as well.</param>
    /// <exception cref="FormatException">It is none of them; the message is one line.</exception>
    public static VncEndpoint Parse(string text, bool asksForPassword = false)
    {
        const string passwordWord = "password-file=";
        string? password = null;
        string[] pieces = text.Split(',');
        foreach (string piece in pieces.AsSpan(1))
        {
            if (!piece.StartsWith(passwordWord, StringComparison.Ordinal) || piece.Length == passwordWord.Length)
                throw new FormatException($"'{piece}' is not {passwordWord}FILE");
            password = piece[passwordWord.Length..];
        }
        string place = pieces[0];
        bool asks = asksForPassword || password is not null;
        if (HostPlace.PathIn(place) is { } path) return new VncEndpoint(null, path, password, asks);
        if (!HostPlace.TrySplit(place, out string host, out int port))
            throw new FormatException($"'{place}' is no place for a viewer to connect to; write for example 127.0.0.1:5901 or unix:PATH");
        IPAddress address = HostPlace.AddressOf(host) ?? throw new FormatException($"'{host}' is no address");
        if (!IPAddress.IsLoopback(address) && !asks)
            throw new FormatException($"'{host}' can be reached by others, and who connects has the keyboard: a password ({passwordWord}FILE) keeps them out");
        return new VncEndpoint(new IPEndPoint(address, port), null, password, asks);
    }

    /// <summary>As a viewer takes it.</summary>
    public override string ToString() => Path ?? Address!.ToString();
}
