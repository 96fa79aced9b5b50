using System.Net;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Security.Cryptography;

namespace Bunraku.Platform;

/// <summary>Sockets that only this host, or only this user, can connect to.</summary>
public static class LocalSocket
{
    private const string SomebodyListens = "somebody listens there already";
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    /// <summary>Listens at a port.</summary>
    /// <param name="where">A loopback address; port 0: any that is free.</param>
    /// <param name="backlog">How many may wait to be accepted.</param>
    /// <exception cref="ArgumentException">It is no loopback address.</exception>
    /// <exception cref="SocketException">The system refuses.</exception>
    public static Socket Listen(IPEndPoint where, int backlog)
    {
        if (!IPAddress.IsLoopback(where.Address)) throw new ArgumentException($"{where} is no loopback address", nameof(where));
        return ListenAnywhere(where, backlog);
    }

    /// <summary>The same at any address of this host: who listens there must know whom to let in.</summary>
    /// <exception cref="SocketException">The system refuses.</exception>
    public static Socket ListenAnywhere(IPEndPoint where, int backlog)
    {
        var socket = new Socket(where.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            socket.Bind(where);
            socket.Listen(backlog);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>
    /// Listens at a Unix socket that nobody but its owner can connect to, not for a moment either: it is made in a folder of its own that only the owner may
    /// enter, gets its rights there, and then its place. The process's umask, which other threads share, is left alone. A socket that is there and that nobody
    /// listens on is replaced; everything else stays.
    /// </summary>
    /// <param name="path">Where it is to be.</param>
    /// <param name="backlog">How many may wait to be accepted.</param>
    /// <exception cref="IOException">Something is there, or the folder cannot be written.</exception>
    /// <exception cref="SocketException">The system refuses.</exception>
    /// <exception cref="ArgumentException">The path is too long for a socket.</exception>
    public static Socket Listen(string path, int backlog)
    {
        if (HostFile.SocketIdentity(path) is not null && Answers(path)) throw new IOException(SomebodyListens);
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
            // Not before: as long as ours is there as well, no other file has its number.
            if (!TryTakeAway(path, Path.Combine(folder, "old"))) throw new IOException(SomebodyListens);
            Place(inside, path);
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

    /// <summary>Takes a socket away that nobody listens on. False: somebody does, perhaps since a moment, and it stays.</summary>
    /// <param name="to">Where it goes, in a folder of our own.</param>
    private static bool TryTakeAway(string path, string to)
    {
        if (HostFile.SocketIdentity(path) is not { } seen) return true;
        if (Answers(path)) return false;
        try
        {
            File.Move(path, to, overwrite: true);
        }
        catch (FileNotFoundException)
        {
            return true; // others have replaced it, or do so
        }
        if (HostFile.SocketIdentity(to) == seen) return true;
        _ = Libc.Link(to, path);
        return false;
    }

    /// <summary>Gives a file its place, where nothing may be.</summary>
    private static void Place(string from, string path)
    {
        if (Libc.Link(from, path) == 0) return; // the other name goes with its folder
        if (Marshal.GetLastPInvokeError() != Errno.Exists) File.Move(from, path, overwrite: false); // a file system without such links
        else throw HostFile.SocketIdentity(path) is null ? new IOException(HostError.Reason(Errno.Exists), Errno.Exists) : new IOException(SomebodyListens);
    }

    /// <summary>Waits for who connects next; null: nobody is to be let in any more.</summary>
    /// <param name="listener">Its disposal ends the waiting, too.</param>
    /// <param name="cancel">Ends the waiting.</param>
    public static async Task<Socket?> AcceptAsync(Socket listener, CancellationToken cancel)
    {
        const int pauseMilliseconds = 100;
        while (true)
        {
            try
            {
                return await listener.AcceptAsync(cancel).ConfigureAwait(false);
            }
            catch (Exception e) when (e is OperationCanceledException or ObjectDisposedException)
            {
                return null;
            }
            catch (SocketException)
            {
                if (cancel.IsCancellationRequested) return null;
                // No descriptors, for example, or who came has gone: the others go on.
                await Task.Delay(pauseMilliseconds, CancellationToken.None).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Somebody listens at a Unix socket, or may: who is not let in cannot tell. Waits for nobody.</summary>
    public static bool Answers(string path)
    {
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { Blocking = false };
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
            return true;
        }
        catch (SocketException e)
        {
            return File.Exists(path) && e.SocketErrorCode != SocketError.ConnectionRefused;
        }
    }

    /// <summary>The one who listens where a Unix socket is connected to is this process's user, or root: nobody else has put a socket there.</summary>
    /// <remarks>Linux manual page unix(7), SO_PEERCRED: those of who called listen(2), so that no path is looked up twice.</remarks>
    public static bool IsOurs(Socket connected)
    {
        const int socketLevel = 1, peerCredentials = 17;
        Span<int> processUserGroup = stackalloc int[3];
        int length = connected.GetRawSocketOption(socketLevel, peerCredentials, MemoryMarshal.AsBytes(processUserGroup));
        return length == 3 * sizeof(int) && IsTrusted((uint)processUserGroup[1], HostProcess.UserId);
    }

    /// <summary>What a user has put somewhere is as if another one had done it: that one itself, or root, who can do it anyhow.</summary>
    public static bool IsTrusted(uint user, uint by) => user == 0 || user == by;

    /// <summary>
    /// Takes the file away, if it is still a socket, and nobody listens there: who did does not any more, and another process may have the place.
    /// </summary>
    public static void Remove(string path)
    {
        try
        {
            if (HostFile.SocketIdentity(path) is { } seen && !Answers(path) && HostFile.SocketIdentity(path) == seen) File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It is only a name.
        }
    }
}
