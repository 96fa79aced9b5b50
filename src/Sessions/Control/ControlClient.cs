using System.Net.Sockets;
using System.Text.Json;

namespace Bunraku.Sessions.Control;

/// <summary>A connection to the control socket of a VM, of this process or another one. One thread.</summary>
public sealed class ControlClient : IDisposable
{
    private static readonly TimeSpan s_connectLimit = TimeSpan.FromSeconds(5);

    private readonly NetworkStream _stream;
    private readonly LineReader _lines;
    private readonly string _name;

    private ControlClient(Socket socket, string name)
    {
        _name = name;
        _stream = new NetworkStream(socket, ownsSocket: true);
        _lines = new LineReader(_stream, ControlProtocol.LongestAnswer);
    }

    /// <summary>Reaches a VM by its name.</summary>
    /// <exception cref="ControlException">There is none.</exception>
    public static ControlClient Connect(ControlFolder folder, string name)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            using var limit = new CancellationTokenSource(s_connectLimit);
            socket.ConnectAsync(new UnixDomainSocketEndPoint(folder.SocketOf(name)), limit.Token).AsTask().GetAwaiter().GetResult();
            return new ControlClient(socket, name);
        }
        catch (Exception e)
        {
            socket.Dispose();
            throw e switch
            {
                SocketException => new ControlException($"no VM named '{name}' runs; 'bunraku ps' lists those that do", e),
                OperationCanceledException => NoAnswer(name, e),
                _ => e,
            };
        }
    }

    private static ControlException NoAnswer(string name, Exception? e = null) => new($"the VM '{name}' does not answer", e);

    /// <summary>Asks, and waits for the answer.</summary>
    /// <param name="limit">How long.</param>
    /// <exception cref="ControlException">There is no answer, or it says no.</exception>
    public ControlAnswer Ask(ControlRequest request, TimeSpan limit) => TryAsk(request, limit) is { } answer
        ? answer.Ok ? answer : throw new ControlException(answer.Error ?? $"the VM '{_name}' does not do it")
        : throw new ControlException($"the VM '{_name}' ended before it answered");

    /// <summary>The VM ends, or its process, within a time. False: it goes on.</summary>
    public bool AwaitEnd(TimeSpan limit)
    {
        try
        {
            TryAsk(new ControlRequest("wait"), limit);
            return true;
        }
        catch (ControlException)
        {
            return false;
        }
    }

    /// <summary>Null: nobody is at the other end any more.</summary>
    private ControlAnswer? TryAsk(ControlRequest request, TimeSpan limit)
    {
        using var cancel = new CancellationTokenSource(limit);
        try
        {
            _stream.WriteAsync(ControlProtocol.Line(request), cancel.Token).AsTask().GetAwaiter().GetResult();
            ReadOnlyMemory<byte>? line = _lines.ReadAsync(cancel.Token).AsTask().GetAwaiter().GetResult();
            return line is { } some ? ControlProtocol.Parse<ControlAnswer>(some.Span) : null;
        }
        catch (IOException)
        {
            return null;
        }
        catch (OperationCanceledException e)
        {
            throw NoAnswer(_name, e);
        }
        catch (Exception e) when (e is JsonException or InvalidDataException)
        {
            throw new ControlException($"the VM '{_name}' answers what is no answer: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _stream.Dispose();
}
