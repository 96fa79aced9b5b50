using System.Net.Sockets;
using System.Runtime.InteropServices;
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

    /// <summary>What who is attached is sent first: somebody listens. The escape key follows.</summary>
    private const byte Greeting = 0;
    private static readonly TimeSpan s_answering = TimeSpan.FromSeconds(2);
    private const int GreetingLength = 2;

    private readonly SocketCharacters _socket;
    private readonly Lock _lock = new();
    private readonly string _path;
    private readonly byte _escape;
    private readonly Queue<byte> _last = new();
    private FileStream _log;

    /// <param name="escape">The key before commands; 0: there is none.</param>
    /// <exception cref="CannotStartException">A file or the socket cannot be made.</exception>
    public DetachedTerminal(ControlFolder folder, string name, byte escape)
    {
        (_path, _escape) = (LogOf(folder, name), escape);
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
        lock (_lock) _socket.Write([Greeting, _escape, .. _last]);
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

    /// <summary>Connects this process's terminal with a VM in the background, until that ends, its escape key and D leave it, or a signal does.</summary>
    /// <returns>This process's status.</returns>
    /// <exception cref="ControlException">There is none, or somebody else is attached.</exception>
    public static int Attach(ControlFolder folder, string name)
    {
        using Socket socket = Connect(folder, name, out byte escape);
        using Terminal? terminal = Terminal.Open(ConsoleHost.Stdin);
        using var reader = new DescriptorReader(ConsoleHost.Stdin);
        using var signals = new EndingSignals(_ => Leave(socket)) { Terminal = terminal };
        using var jobControl = new JobControl(null, terminal, t => t.EnterRaw());
        var keys = new ConsoleKeys(escape, detaches: true);
        if (terminal is not null)
            Console.Error.WriteLine(escape != 0 ? $"bunraku: attached to {name}; {keys.Key} D leaves it, {keys.Key} H says what else there is"
                : $"bunraku: attached to {name}; no key leaves it, 'kill {Environment.ProcessId}' does");
        PosixSignalRegistration? resized = null;
        var typing = new Thread(() => SendTyped(reader, socket, keys, escape)) { Name = "input", IsBackground = true };
        try
        {
            terminal?.EnterRaw();
            if (terminal is not null) resized = PosixSignalRegistration.Create(PosixSignal.SIGWINCH, _ => TellSize(folder, name, terminal));
            TellSize(folder, name, terminal);
            typing.Start();
            byte[] buffer = new byte[64 << 10];
            while (socket.Receive(buffer) is > 0 and int n)
            {
                if (DescriptorWriter.WriteAll(ConsoleHost.Stdout, buffer.AsSpan(0, n)) != 0) break;
            }
        }
        catch (SocketException)
        {
            // It has ended.
        }
        finally
        {
            resized?.Dispose();
            terminal?.Dispose(); // raw no more, whatever job control does
            Leave(socket);
            reader.Stop();
            if (typing.IsAlive) typing.Join();
        }
        if (terminal is not null) Console.Error.WriteLine("\nbunraku: no longer attached");
        return signals.First == 0 ? ExitStatus.Success : ExitStatus.Signal + signals.First;
    }

    /// <summary>The guest's terminal becomes as large as this one. A VM that does not listen keeps what it has.</summary>
    private static void TellSize(ControlFolder folder, string name, Terminal? terminal)
    {
        if (terminal?.Size is not var (columns, rows)) return;
        try
        {
            using ControlClient client = ControlClient.Connect(folder, name);
            client.Ask(new ControlRequest("size", Columns: columns, Rows: rows), s_answering);
        }
        catch (ControlException)
        {
            // It has ended, or is being made.
        }
    }

    private static Socket Connect(ControlFolder folder, string name, out byte escape)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            byte[] greeting = new byte[GreetingLength];
            socket.Connect(new UnixDomainSocketEndPoint(SocketOf(folder, name)));
            socket.ReceiveTimeout = 3000; // ms; it greets at once
            for (int got = 0; got < GreetingLength;)
                got += socket.Receive(greeting.AsSpan(got)) is > 0 and int n ? n : throw new ControlException($"the VM '{name}' has just ended");
            socket.ReceiveTimeout = 0;
            escape = greeting[1];
            return socket;
        }
        catch (Exception e)
        {
            socket.Dispose();
            throw e switch
            {
                SocketException { SocketErrorCode: SocketError.TimedOut or SocketError.WouldBlock } =>
                    new ControlException($"somebody else is attached to the VM '{name}'", e),
                SocketException => new ControlException(
                    $"no VM named '{name}' runs in the background; 'bunraku ps' lists those that run, and 'run --detach' starts one", e),
                _ => e,
            };
        }
    }

    /// <summary>
    /// Sends what is typed as it is, for the VM knows its keys itself, but for the one that leaves it: that works when the VM answers no more. The
    /// escape key waits here for what follows.
    /// </summary>
    private static void SendTyped(DescriptorReader reader, Socket socket, ConsoleKeys keys, byte escape)
    {
        byte[] typed = new byte[4096];
        var rest = new List<byte>();
        while (reader.Read(typed) is > 0 and int n)
        {
            rest.Clear();
            foreach (byte b in typed.AsSpan(0, n))
            {
                bool escaped = keys.Escaped, leaves = false;
                keys.Feed([b], static _ => { }, c => leaves = c == ConsoleCommand.Detach);
                if (leaves)
                {
                    Leave(socket);
                    return;
                }
                if (keys.Escaped) continue;
                if (escaped) rest.Add(escape);
                rest.Add(b);
            }
            if (rest.Count > 0 && !TrySend(socket, [.. rest])) return;
        }
        // A script has said all: what comes from the guest is still shown until it ends.
    }

    /// <summary>Ends what waits for the VM.</summary>
    private static void Leave(Socket socket)
    {
        try
        {
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // It has ended.
        }
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
