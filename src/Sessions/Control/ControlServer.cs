using System.Net.Sockets;
using System.Text.Json;
using Bunraku.Platform;
using Bunraku.Sessions.Migration;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Sessions.Control;

/// <summary>
/// Answers at a VM's control socket from before the VM is made until it has ended. What clients send is bounded and checked: the worst that one can do is what
/// the requests are for. Any thread.
/// </summary>
public sealed class ControlServer : IDisposable
{
    private const int MostClients = 32, DefaultWidth = 80, NarrowestWidth = 20, WidestWidth = 1000;
    private static readonly TimeSpan s_requestLimit = TimeSpan.FromMinutes(1), s_answerLimit = TimeSpan.FromSeconds(10),
        s_lastAnswers = TimeSpan.FromSeconds(2);

    private readonly ControlFolder _folder;
    private readonly string _name;
    private readonly Socket _socket;
    private readonly DateTime _begun = DateTime.UtcNow;
    private readonly CancellationTokenSource _end = new();
    private readonly TaskCompletionSource<Vm> _vm = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task _accepting;
    private int _clients, _busy, _disposed;

    /// <summary>Takes the name.</summary>
    /// <exception cref="ControlException">It cannot be had; the message is one line.</exception>
    public ControlServer(ControlFolder folder, string name)
    {
        (_folder, _name) = (folder, name);
        _socket = folder.Claim(name);
        _accepting = Task.Run(AcceptAsync);
    }

    /// <summary>From now on requests reach the VM. Once.</summary>
    public void Attach(Vm vm) => _vm.TrySetResult(vm);

    private Vm? Machine => _vm.Task.IsCompletedSuccessfully ? _vm.Task.Result : null;

    private async Task AcceptAsync()
    {
        while (await LocalSocket.AcceptAsync(_socket, _end.Token).ConfigureAwait(false) is { } client) _ = Task.Run(() => ServeAsync(client));
    }

    private async Task ServeAsync(Socket client)
    {
        bool counts = Interlocked.Increment(ref _clients) <= MostClients;
        try
        {
            using var stream = new NetworkStream(client, ownsSocket: true);
            if (!counts)
            {
                await AnswerAsync(stream, new ControlAnswer(false, $"more than {MostClients} clients at a time")).ConfigureAwait(false);
                return;
            }
            var lines = new LineReader(stream, ControlProtocol.LongestRequest);
            using var held = new Held();
            while (!_end.IsCancellationRequested)
            {
                ReadOnlyMemory<byte>? line;
                using (var limit = CancellationTokenSource.CreateLinkedTokenSource(_end.Token))
                {
                    // Who makes copies is silent meanwhile.
                    if (held.Fork is null) limit.CancelAfter(s_requestLimit);
                    line = await lines.ReadAsync(limit.Token).ConfigureAwait(false);
                }
                if (line is null) return;
                Interlocked.Increment(ref _busy);
                try
                {
                    if (await DoAsync(line.Value, held).ConfigureAwait(false) is { } answer)
                    {
                        await AnswerAsync(stream, answer).ConfigureAwait(false);
                        continue;
                    }
                }
                finally
                {
                    Interlocked.Decrement(ref _busy);
                }
                await Task.Delay(Timeout.Infinite, _end.Token).ConfigureAwait(false); // the answer is the end of the connection, when the name is free
            }
        }
        catch (InvalidDataException e)
        {
            await TryRefuseAsync(client, e.Message).ConfigureAwait(false);
        }
        catch (Exception e) when (e is IOException or SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // It went away, or took too long.
        }
        finally
        {
            client.Dispose();
            Interlocked.Decrement(ref _clients);
        }
    }

    private static async Task TryRefuseAsync(Socket client, string message)
    {
        try
        {
            using var limit = new CancellationTokenSource(s_answerLimit);
            await client.SendAsync(ControlProtocol.Line(new ControlAnswer(false, message)), limit.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // It does not want to know.
        }
    }

    private async Task AnswerAsync(NetworkStream stream, ControlAnswer answer)
    {
        using var limit = CancellationTokenSource.CreateLinkedTokenSource(_end.Token);
        limit.CancelAfter(s_answerLimit);
        await stream.WriteAsync(ControlProtocol.Line(answer), limit.Token).ConfigureAwait(false);
    }

    /// <summary>What the VM keeps for a client for as long as it is connected.</summary>
    private sealed class Held : IDisposable
    {
        public VmFork? Fork { get; set; }

        public void Dispose() => Fork?.Dispose();
    }

    /// <summary>Null: nothing is answered until the end.</summary>
    private async Task<ControlAnswer?> DoAsync(ReadOnlyMemory<byte> line, Held held)
    {
        try
        {
            ControlRequest request = ControlProtocol.Parse<ControlRequest>(line.Span);
            if (request.Do == "status") return new ControlAnswer(true, Status: Status());
            if (request.Do == "wait") return null;
            if (Machine is not { } machine) return new ControlAnswer(false, $"the VM '{_name}' is still being made; try again");
            switch (request.Do)
            {
                case "monitor" when request.Line is { } command:
                    int width = Math.Clamp(request.Width ?? DefaultWidth, NarrowestWidth, WidestWidth);
                    return new ControlAnswer(true, Text: new MonitorShell(machine, () => width).Execute(command));
                case "power":
                    machine.PressPowerButton();
                    return new ControlAnswer(true);
                case "size" when request is { Columns: > 0 and <= ushort.MaxValue and var columns, Rows: > 0 and <= ushort.MaxValue and var rows }:
                    machine.ResizeTerminal(columns, rows);
                    return new ControlAnswer(true);
                case "quit":
                    machine.End(HostEnd.Quit);
                    return new ControlAnswer(true);
                case "migrate" when request.To is { } target:
                    MigrationResult result = await machine.MigrateAsync(MigrationAddress.Parse(target), cancel: _end.Token).ConfigureAwait(false);
                    return new ControlAnswer(true, Text: result + "\n");
                case "fork":
                    held.Dispose();
                    held.Fork = await machine.ForkAsync().ConfigureAwait(false);
                    return new ControlAnswer(true, Text: held.Fork + "\n", Path: held.Fork.Path);
                default:
                    return new ControlAnswer(false, $"the request '{request.Do}' is unknown, or lacks something");
            }
        }
        catch (JsonException e)
        {
            return new ControlAnswer(false, $"this is no request: {e.Message.ReplaceLineEndings(" ")}");
        }
        catch (SessionException e)
        {
            return new ControlAnswer(false, e.Message);
        }
        catch (Exception e) when (e is not OperationCanceledException) // the VM goes on, whatever it was
        {
            return new ControlAnswer(false, $"the request failed: {e.Message.ReplaceLineEndings(" ")}");
        }
    }

    private ControlStatus Status()
    {
        double uptime = Math.Round((DateTime.UtcNow - _begun).TotalSeconds, 1);
        if (Machine is not { } vm) return new ControlStatus(_name, Environment.ProcessId, "", 0, 0, "starting", uptime);
        string state = vm.State switch { VmState.Running => "running", VmState.Paused => "stopped", VmState.Ended => "ended", _ => "starting" };
        return new ControlStatus(_name, Environment.ProcessId, vm.EngineName, vm.Machine.Memory.RamSize, vm.Machine.Cpus.Count, state, uptime);
    }

    /// <summary>Gives the name back. Clients that wait are left.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0) return;
        _folder.Release(_name, _socket);
        // Who has asked for the end, or for a move, is told that it was done.
        long start = System.Diagnostics.Stopwatch.GetTimestamp();
        while (Volatile.Read(ref _busy) > 0 && System.Diagnostics.Stopwatch.GetElapsedTime(start) < s_lastAnswers) Thread.Sleep(1);
        _end.Cancel();
        _accepting.Wait();
    }
}
