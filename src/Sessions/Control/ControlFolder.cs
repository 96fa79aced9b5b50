using System.Diagnostics;
using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Sessions.Control;

/// <summary>
/// The folder with the control sockets of one user's VMs, NAME.sock each. It is the user's alone: whoever may open a socket there may do all that its VM's
/// owner may. Any thread, any process.
/// </summary>
/// <param name="path">Where it is; it is made when it is first needed.</param>
public sealed class ControlFolder(string path)
{
    private const int LongestName = 64, LongestSocketPath = 107; // sun_path of unix(7), without its zero
    private const string Suffix = ".sock";
    private static readonly TimeSpan s_longestHold = TimeSpan.FromSeconds(10);

    /// <summary>As it was given.</summary>
    public string Path { get; } = path;

    /// <summary>A VM may have the name: 1 to 64 of the characters A to Z, a to z, 0 to 9, '.', '_' and '-'.</summary>
    public static bool IsName(string name) => name.Length is > 0 and <= LongestName && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-');

    /// <summary>Says of a text that <see cref="IsName"/> refuses what a name is.</summary>
    public static string NoName(string text) => $"'{text}' is no name of a VM; it has 1 to {LongestName} letters, digits, dots, dashes and underscores";

    /// <summary>
    /// <see cref="Path"/>, after a look at it: whoever else could write there could answer for a VM, and would be told what its owner types.
    /// </summary>
    /// <param name="name">Of the VM that is looked for.</param>
    /// <exception cref="ControlException">It is not there, or not this user's alone.</exception>
    public string PathFor(string name) => HostFile.IsPrivateFolder(Path) ? Path
        : throw (System.IO.Path.Exists(Path) ? NotOurs() : new ControlException($"no VM named '{name}' runs; 'bunraku ps' lists those that do"));

    private ControlException NotOurs() => new($"the folder for control sockets {Path} is not yours alone (mode 0700); remove it, or let it be elsewhere");

    /// <summary>Path of a VM's socket, in a folder that is this user's alone.</summary>
    /// <exception cref="ControlException">No VM can have that name, or <see cref="PathFor"/>.</exception>
    internal string SocketOf(string name)
    {
        string socket = PlaceOf(name);
        PathFor(name);
        return socket;
    }

    private string PlaceOf(string name)
    {
        if (!IsName(name)) throw new ControlException(NoName(name));
        string socket = System.IO.Path.Combine(Path, name + Suffix);
        return System.Text.Encoding.UTF8.GetByteCount(socket) <= LongestSocketPath ? socket
            : throw new ControlException($"the path of the control socket is too long for a socket: {socket}; take a shorter name");
    }

    /// <summary>The names for which there is a socket, in their order; whether somebody answers there is another question.</summary>
    public IReadOnlyList<string> Names()
    {
        if (!HostFile.IsPrivateFolder(Path)) return [];
        IEnumerable<string> names = Directory.EnumerateFiles(Path, "*" + Suffix).Select(f => System.IO.Path.GetFileName(f)[..^Suffix.Length]);
        return [.. names.Where(IsName).Order(StringComparer.Ordinal)];
    }

    /// <summary>A VM of that name runs, or something that is called so.</summary>
    /// <exception cref="ControlException">No VM can have that name.</exception>
    public bool IsTaken(string name) => HostFile.IsPrivateFolder(Path) && LocalSocket.Answers(SocketOf(name));

    /// <summary>Makes the folder, or sees that it is the user's alone.</summary>
    /// <exception cref="ControlException">It cannot be had.</exception>
    private void Prepare()
    {
        try
        {
            HostFile.MakePrivateFolder(Path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ControlException($"the folder for control sockets {Path} cannot be made: {HostError.Reason(e)}", e);
        }
        if (!HostFile.IsPrivateFolder(Path)) throw NotOurs();
    }

    /// <summary>Listens at a VM's socket. One that a process has left behind which is no more is replaced.</summary>
    /// <exception cref="ControlException">A VM of that name runs, or the folder cannot be had.</exception>
    internal Socket Claim(string name)
    {
        const int waiting = 16;
        string path = PlaceOf(name);
        Prepare();
        using FileStream held = Hold();
        if (LocalSocket.Answers(path)) throw new ControlException($"a VM named '{name}' runs already; 'bunraku ps' lists them");
        try
        {
            File.Delete(path); // whatever it is: the folder is ours
            return LocalSocket.Listen(path, waiting);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException)
        {
            throw new ControlException($"the control socket {path} cannot be made: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    /// <summary>Closes a socket that <see cref="Claim"/> made, and removes it.</summary>
    internal void Release(string name, Socket socket)
    {
        try
        {
            using FileStream held = Hold();
            socket.Dispose();
            if (!LocalSocket.Answers(SocketOf(name))) File.Delete(SocketOf(name)); // if it was removed meanwhile, another VM may have the name
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ControlException)
        {
            // It is replaced by the next VM of that name.
        }
        finally
        {
            socket.Dispose();
        }
    }

    /// <summary>Who claims or gives back a name does it alone.</summary>
    private FileStream Hold()
    {
        const int pauseMilliseconds = 10;
        string path = System.IO.Path.Combine(Path, "lock");
        for (long start = Stopwatch.GetTimestamp(); ; Thread.Sleep(pauseMilliseconds))
        {
            try
            {
                return new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            }
            catch (IOException) when (Stopwatch.GetElapsedTime(start) < s_longestHold)
            {
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new ControlException($"{path} cannot be had: {HostError.Reason(e)}", e);
            }
        }
    }
}

/// <summary>A VM cannot be reached, or does not do what it is asked for.</summary>
/// <param name="message">One line.</param>
/// <param name="inner">What caused it.</param>
public sealed class ControlException(string message, Exception? inner = null) : SessionException(message, inner);
