using System.Net.Sockets;
using System.Text;
using Bunraku.Cli.Qemu;
using Bunraku.Cli.Qemu.Characters;
using Bunraku.Cli.Terminals;
using Bunraku.Platform;
using Bunraku.Sessions.Control;

namespace Bunraku.Cli;

/// <summary>
/// In place of the terminal of a VM in the background: what it prints goes to a log, and to who is attached by a socket, who also types for it. Both are in the
/// folder of the control sockets, for the user alone. Thread-safe.
/// </summary>
internal sealed class DetachedTerminal : IDisposable
{
    /// <summary>Bytes of a log; there are two at most, the one that is written and the one before.</summary>
    private const int LongestLog = 4 << 20, Replayed = 4096;

    /// <summary>What who is attached is sent first: somebody listens.</summary>
    public const byte Greeting = 0;

    private readonly SocketCharacters _socket;
    private readonly Lock _lock = new();
    private readonly string _path;
    private readonly Queue<byte> _last = new();
    private FileStream _log;

    /// <exception cref="CannotStartException">A file or the socket cannot be made.</exception>
    public DetachedTerminal(ControlFolder folder, string name)
    {
        _path = LogOf(folder, name);
        try
        {
            File.Delete(Older(_path));
            _log = Create(_path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CannotStartException($"the log {_path} cannot be written: {HostError.Reason(e)}", e);
        }
        _socket = new SocketCharacters(new CharacterSpec(name, CharacterKind.Unix) { Path = SocketOf(folder, name), IsServer = true }, default)
        {
            MayLose = true, // a terminal that is left open somewhere holds up no guest
            Connected = Greet,
        };
    }

    /// <summary>Where somebody attaches.</summary>
    public static string SocketOf(ControlFolder folder, string name) => Path.Combine(folder.PathFor(name), name + ".console");

    /// <summary>Where the log is.</summary>
    public static string LogOf(ControlFolder folder, string name) => Path.Combine(folder.PathFor(name), name + ".log");

    /// <summary>The log before that one, if it became too long.</summary>
    public static string Older(string log) => log + ".1";

    private static FileStream Create(string path) => new(path, new FileStreamOptions
    {
        Mode = FileMode.Create,
        Access = FileAccess.Write,
        Share = FileShare.ReadWrite | FileShare.Delete,
        BufferSize = 0,
        UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
    });

    /// <summary>Takes what is typed. Before <see cref="Start"/>.</summary>
    public ShowBytes? Received { set => _socket.Received = value; }

    /// <summary>Lets somebody attach.</summary>
    public void Start() => _socket.Start();

    private void Greet()
    {
        // The last of what there was, so that the screen is not empty.
        lock (_lock) _socket.Write([Greeting, .. _last]);
    }

    /// <summary>Writes to both; on the thread of an output pump, which may wait for the disk.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            foreach (byte b in bytes)
            {
                if (_last.Count == Replayed) _last.Dequeue();
                _last.Enqueue(b);
            }
            try
            {
                if (_log.Length > LongestLog)
                {
                    _log.Dispose();
                    File.Move(_path, Older(_path), overwrite: true);
                    _log = Create(_path);
                }
                _log.Write(bytes);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException or ObjectDisposedException)
            {
                // A log that cannot be written any more ends no VM.
            }
            _socket.Write(bytes);
        }
    }

    /// <summary>For this process's own messages.</summary>
    public TextWriter Messages => new MessageWriter(this);

    private sealed class MessageWriter(DetachedTerminal owner) : TextWriter
    {
        public override Encoding Encoding => Encoding.UTF8;

        public override void Write(char value) => owner.Write(Encoding.UTF8.GetBytes([value]));

        public override void Write(string? value) => owner.Write(Encoding.UTF8.GetBytes(value ?? ""));
    }

    public void Dispose()
    {
        _socket.Dispose();
        lock (_lock) _log.Dispose();
    }

    /// <summary>Connects this process's terminal with a VM in the background, until it ends or Ctrl-A D leaves it.</summary>
    /// <exception cref="ControlException">There is none, or somebody else is attached.</exception>
    public static void Attach(ControlFolder folder, string name)
    {
        const byte escape = ConsoleKeys.DefaultEscape;
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        byte[] buffer = new byte[64 << 10];
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(SocketOf(folder, name)));
            socket.ReceiveTimeout = 3000; // ms; it greets at once
            if (socket.Receive(buffer.AsSpan(0, 1)) != 1) throw new ControlException($"the VM '{name}' has just ended");
            socket.ReceiveTimeout = 0;
        }
        catch (SocketException e) when (e.SocketErrorCode is SocketError.TimedOut or SocketError.WouldBlock)
        {
            throw new ControlException($"somebody else is attached to the VM '{name}'", e);
        }
        catch (SocketException e)
        {
            throw new ControlException($"no VM named '{name}' runs in the background; 'bunraku ps' lists those that run, and 'run --detach' starts one", e);
        }
        using Terminal? terminal = Terminal.Open(ConsoleHost.Stdin);
        using var reader = new DescriptorReader(ConsoleHost.Stdin);
        if (terminal is not null) Console.Error.WriteLine($"bunraku: attached to {name}; Ctrl-A D leaves it, Ctrl-A H says what else there is");
        terminal?.EnterRaw();
        var typing = new Thread(() =>
        {
            byte[] typed = new byte[4096];
            bool escaped = false;
            while (reader.Read(typed) is > 0 and int n)
            {
                var rest = new List<byte>();
                foreach (byte b in typed.AsSpan(0, n))
                {
                    if (escaped && (b | 0x20) == 'd')
                    {
                        socket.Shutdown(SocketShutdown.Both);
                        return;
                    }
                    if (escaped) rest.Add(escape);
                    escaped = !escaped && b == escape;
                    if (!escaped) rest.Add(b);
                }
                if (rest.Count > 0 && !TrySend(socket, [.. rest])) return;
            }
            // A script has said all: what comes from the guest is still shown until it ends.
        })
        { Name = "input", IsBackground = true };
        typing.Start();
        try
        {
            while (socket.Receive(buffer) is > 0 and int n)
            {
                if (DescriptorWriter.WriteAll(ConsoleHost.Stdout, buffer.AsSpan(0, n)) != 0) break;
            }
        }
        catch (SocketException)
        {
            // It has ended.
        }
        terminal?.Restore();
        reader.Stop();
        typing.Join();
        if (terminal is not null) Console.Error.WriteLine("\nbunraku: no longer attached");
    }

    private static bool TrySend(Socket socket, byte[] bytes)
    {
        try
        {
            for (int done = 0; done < bytes.Length;) done += socket.Send(bytes.AsSpan(done));
            return true;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            return false;
        }
    }

    /// <summary>Prints what a VM in the background has printed.</summary>
    /// <param name="follow">And what it prints from now on, until it ends.</param>
    /// <exception cref="ControlException">There is no log.</exception>
    public static void PrintLog(ControlFolder folder, string name, bool follow)
    {
        const int pause = 100; // ms
        string path = LogOf(folder, name);
        if (!File.Exists(path)) throw new ControlException($"there is no log of a VM '{name}'; those have one that 'run --detach' starts");
        using Stream output = Console.OpenStandardOutput();
        if (File.Exists(Older(path))) Copy(Older(path));
        using FileStream log = Open(path);
        while (true)
        {
            bool runs = follow && LocalSocket.Answers(SocketOf(folder, name));
            log.CopyTo(output);
            output.Flush();
            if (!runs) return;
            Thread.Sleep(pause);
        }

        void Copy(string file)
        {
            using FileStream older = Open(file);
            older.CopyTo(output);
        }

        static FileStream Open(string file) => new(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
    }
}
