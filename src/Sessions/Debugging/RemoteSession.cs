using System.Globalization;
using System.Text;

namespace Bunraku.Sessions.Debugging;

/// <summary>One debugger that is connected: its packets in, answers and stops out. The guest stands still from the first moment on.</summary>
/// <param name="ended">Completes with the exit status when the guest has ended.</param>
internal sealed class RemoteSession(Stream stream, DebugTarget target, RemoteMonitor monitor, Task<int> ended)
{
    private readonly PacketReader _reader = new(RemoteProtocol.LongestPacket);
    private readonly byte[] _buffer = new byte[RemoteProtocol.LongestPacket];
    private byte[] _lastPacket = [];
    private bool _acknowledges = true, _isOver;

    /// <summary>Serves the debugger until it goes or the guest ends. Then nothing is left of it, and the guest, if there is one, goes on.</summary>
    /// <exception cref="IOException">The connection broke.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public async Task RunAsync(CancellationToken cancel)
    {
        target.Attach();
        try
        {
            var protocol = new RemoteProtocol(target, monitor, target.Stop(0));
            Task<int>? reading = null;
            while (!_isOver)
            {
                reading ??= stream.ReadAsync(_buffer, cancel).AsTask();
                // While the guest stands still no vCPU stops, and what stopped it has been told.
                Task? stopped = target.HasStopped ? null : target.Stopped;
                Task[] awaited = stopped is null ? [reading, ended] : [reading, stopped, ended];
                await Task.WhenAny(awaited).ConfigureAwait(false);
                if (ended.IsCompleted)
                {
                    int status = await ended.ConfigureAwait(false);
                    await SendAsync(Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"W{status:x2}")), cancel).ConfigureAwait(false);
                    return;
                }
                if (stopped is { IsCompleted: true }) await TellStopAsync(protocol, cancel).ConfigureAwait(false);
                if (!reading.IsCompleted) continue;
                int n = await reading.ConfigureAwait(false);
                reading = null;
                if (n == 0) return;
                await TakeAsync(protocol, _buffer.AsMemory(0, n), cancel).ConfigureAwait(false);
            }
        }
        finally
        {
            target.Detach();
        }
    }

    private Task TellStopAsync(RemoteProtocol protocol, CancellationToken cancel) => SendAsync(protocol.Tell(target.Stop(protocol.Cpu)), cancel);

    private async Task TakeAsync(RemoteProtocol protocol, ReadOnlyMemory<byte> bytes, CancellationToken cancel)
    {
        while (!_isOver && Find(ref bytes) is { } kind)
        {
            switch (kind)
            {
                case PacketKind.Packet:
                    await AcknowledgeAsync('+', cancel).ConfigureAwait(false);
                    await AnswerAsync(protocol, cancel).ConfigureAwait(false);
                    break;
                case PacketKind.TooLong:
                    await AcknowledgeAsync('+', cancel).ConfigureAwait(false);
                    await SendAsync("E02"u8.ToArray(), cancel).ConfigureAwait(false);
                    break;
                case PacketKind.Damaged:
                    await AcknowledgeAsync('-', cancel).ConfigureAwait(false);
                    break;
                case PacketKind.Refused when _acknowledges && _lastPacket.Length > 0:
                    await stream.WriteAsync(_lastPacket, cancel).ConfigureAwait(false);
                    break;
                case PacketKind.Interrupt when !target.HasStopped:
                    await TellStopAsync(protocol, cancel).ConfigureAwait(false);
                    break;
                default:
                    break;
            }
        }
    }

    private PacketKind? Find(ref ReadOnlyMemory<byte> bytes)
    {
        ReadOnlySpan<byte> rest = bytes.Span;
        PacketKind? kind = _reader.Take(ref rest);
        bytes = bytes[^rest.Length..];
        return kind;
    }

    private async Task AnswerAsync(RemoteProtocol protocol, CancellationToken cancel)
    {
        // While the guest runs a debugger has only these two to say.
        if (!target.HasStopped && _reader.Payload is not [(byte)'k' or (byte)'D', ..]) return;
        RemoteAnswer answer = protocol.Answer(_reader.Payload);
        foreach (byte[] reply in answer.Replies) await SendAsync(reply, cancel).ConfigureAwait(false);
        switch (answer.Action)
        {
            case RemoteAction.Resume:
                if (target.Resume(protocol.Orders) is { } met) await SendAsync(protocol.Tell(met), cancel).ConfigureAwait(false);
                break;
            case RemoteAction.StopAcknowledging:
                _acknowledges = false;
                break;
            case RemoteAction.Detach:
                _isOver = true;
                break;
            case RemoteAction.Kill:
                _isOver = true;
                target.Kill();
                break;
        }
    }

    private async Task AcknowledgeAsync(char sign, CancellationToken cancel)
    {
        if (_acknowledges) await stream.WriteAsync(new[] { (byte)sign }, cancel).ConfigureAwait(false);
    }

    private async Task SendAsync(byte[] payload, CancellationToken cancel)
    {
        _lastPacket = PacketWriter.Frame(payload);
        await stream.WriteAsync(_lastPacket, cancel).ConfigureAwait(false);
    }
}
