using System.Net.Sockets;
using Bunraku.Platform;

namespace Bunraku.Sessions.Debugging;

/// <summary>
/// Listens for debuggers that speak GDB's remote protocol (GDB, LLDB), and serves one at a time: while one is there, others are turned away. A debugger that
/// comes stops the guest; when it goes, the guest goes on. Made by <see cref="Vm.ServeDebugger"/>, ends with the VM or with its disposal.
/// </summary>
public sealed class DebugServer : IDisposable
{
    private const int Backlog = 4;
    /// <summary>How long the guest's end waits at most until a debugger has taken it: one that does not read shall not hold it up.</summary>
    private static readonly TimeSpan s_farewell = TimeSpan.FromSeconds(1);

    private readonly Vm _vm;
    private readonly Socket _listener;
    private readonly DebugTarget _target;
    private readonly RemoteMonitor _monitor = new();
    private readonly CancellationTokenSource _cancel = new();
    private readonly TaskCompletionSource<int> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Lock _lock = new();
    private readonly Task _accepting;
    private Task _session = Task.CompletedTask; // never fails; under the lock, as is the next
    private Socket? _served; // its connection
    private bool _disposed; // under the lock

    /// <exception cref="CannotStartException">It cannot listen there.</exception>
    internal DebugServer(Vm vm, DebugEndpoint where)
    {
        _vm = vm;
        _target = new DebugTarget(vm);
        try
        {
            _listener = where.Path is { } path ? LocalSocket.Listen(path, Backlog) : LocalSocket.Listen(where.Address!, Backlog);
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException or ArgumentException)
        {
            string what = where.Path is null ? "port" : "socket";
            throw new CannotStartException($"the debugger's {what} {where} cannot be listened on: {HostError.Reason(e)}", e);
        }
        Endpoint = where.Address is { } address
            ? DebugEndpoint.Parse(new System.Net.IPEndPoint(address.Address, ((System.Net.IPEndPoint)_listener.LocalEndPoint!).Port).ToString()) : where;
        _accepting = Task.Run(AcceptAsync);
    }

    /// <summary>Where it listens, with the port that was chosen.</summary>
    public DebugEndpoint Endpoint { get; }

    /// <summary>It was disposed of.</summary>
    public bool IsOver
    {
        get
        {
            lock (_lock) return _disposed;
        }
    }

    /// <summary>Those that can be debugged, or all where none can.</summary>
    internal static IReadOnlyList<IX86Engine> Preferred(IReadOnlyList<IX86Engine> engines) =>
        engines.Any(e => e.WhyNoDebugger is null) ? [.. engines.OrderBy(e => e.WhyNoDebugger is null ? 0 : 1)] : engines;

    /// <summary>A debugger has stopped the guest, and alone lets it go on.</summary>
    public bool HasStopped => _target.HasStopped;

    private async Task AcceptAsync()
    {
        while (await LocalSocket.AcceptAsync(_listener, _cancel.Token).ConfigureAwait(false) is { } connection)
        {
            lock (_lock)
            {
                if (_disposed || !(_session.IsCompleted || IsParting()))
                {
                    connection.Dispose();
                    continue;
                }
                Task before = _session;
                _served = connection;
                _session = Task.Run(() => ServeAsync(connection, before));
            }
        }
    }

    /// <summary>The debugger has closed its end, and its session is about to see that: who comes at once after it is not turned away.</summary>
    private bool IsParting()
    {
        try
        {
            return _served is { } socket && socket.Poll(0, SelectMode.SelectRead) && socket.Available == 0;
        }
        catch (Exception e) when (e is ObjectDisposedException or SocketException)
        {
            return true;
        }
    }

    /// <param name="before">The session of the one before.</param>
    private async Task ServeAsync(Socket connection, Task before)
    {
        try
        {
            await before.ConfigureAwait(false);
            if (connection.AddressFamily != AddressFamily.Unix) connection.NoDelay = true;
            await using var stream = new NetworkStream(connection, ownsSocket: true);
            await new RemoteSession(stream, _target, _monitor, _ended.Task).RunAsync(_cancel.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // The debugger is gone.
        }
        catch (Exception e)
        {
            _vm.Fail(new ObserverException(nameof(DebugServer), nameof(ServeAsync), e)); // a defect of ours: it is told, and not hidden
        }
    }

    /// <summary>The guest has ended: a debugger is told so.</summary>
    internal void GuestEnded(int status)
    {
        _ended.TrySetResult(status);
        Task session;
        lock (_lock) session = _session;
        session.Wait(s_farewell);
    }

    /// <summary>Listens no more, and parts from a debugger that is there; the guest goes on.</summary>
    public void Dispose()
    {
        Task session;
        lock (_lock)
        {
            if (_disposed) return;
            _disposed = true;
            session = _session;
        }
        _cancel.Cancel();
        _listener.Dispose();
        if (Endpoint.Path is { } path) LocalSocket.Remove(path);
        _accepting.Wait();
        session.Wait();
        _cancel.Dispose();
    }
}
