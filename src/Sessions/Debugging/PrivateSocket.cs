using System.Net.Sockets;
using System.Security.Cryptography;
using Bunraku.Platform;

namespace Bunraku.Sessions.Debugging;

/// <summary>
/// A Unix socket that nobody but its owner can connect to, not for a moment either: it is made in a folder of its own that only the owner may enter, gets its
/// rights there, and then its place. The process's umask, which other threads share, is left alone.
/// </summary>
internal static class PrivateSocket
{
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    /// <summary>Listens. A socket that is there and that nobody listens on is replaced; everything else stays.</summary>
    /// <exception cref="IOException">Something is there, or the folder cannot be written.</exception>
    /// <exception cref="SocketException">The system refuses.</exception>
    /// <exception cref="ArgumentException">The path is too long for a socket.</exception>
    public static Socket Listen(string path, int backlog)
    {
        RemoveAbandoned(path);
        string parent = Path.GetDirectoryName(Path.GetFullPath(path))!;
        if (!Directory.Exists(parent)) throw new DirectoryNotFoundException(); // it would be made
        string folder = Path.Combine(parent, "." + RandomNumberGenerator.GetHexString(6, lowercase: true));
        _ = new UnixDomainSocketEndPoint(path); // too long? the user's path is told, not ours
        Directory.CreateDirectory(folder, OwnerOnly | UnixFileMode.UserExecute);
        string inside = Path.Combine(folder, "s");
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Bind(new UnixDomainSocketEndPoint(inside));
            File.SetUnixFileMode(inside, OwnerOnly);
            socket.Listen(backlog);
            File.Move(inside, path, overwrite: false);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
        finally
        {
            if (Directory.Exists(folder)) Directory.Delete(folder, recursive: true);
        }
    }

    private static void RemoveAbandoned(string path)
    {
        if (!HostFile.IsSocket(path)) return;
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused)
        {
            File.Delete(path);
            return;
        }
        throw new IOException("somebody listens there already");
    }

    /// <summary>Takes the file away, if it is still a socket.</summary>
    public static void Remove(string path)
    {
        try
        {
            if (HostFile.IsSocket(path)) File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It is only a name.
        }
    }
}
