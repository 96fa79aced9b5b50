using System.Buffers.Binary;

namespace Bunraku.Sessions.Migration;

/// <summary>
/// The streams of a command whose guest was moved away: they stay those of the process that was started with it, up to the command's end.
/// </summary>
internal sealed class StreamRelay : IDisposable
{
    private readonly RelayChannel _channel;
    private readonly IGuestConsole _console;
    private readonly TaskCompletionSource<RelayEnd?> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Begins.</summary>
    /// <param name="stream">To where the guest is; is closed with this.</param>
    /// <param name="console">Takes what comes.</param>
    public StreamRelay(Stream stream, IGuestConsole console)
    {
        (_channel, _console) = (new RelayChannel(stream), console);
        new Thread(Run) { Name = "relay", IsBackground = true }.Start();
    }

    /// <summary>To where the guest is.</summary>
    public Stream Stream => _channel.Stream;

    /// <summary>How the guest ended there; null: the connection was gone before, or this was closed. Never fails.</summary>
    public Task<RelayEnd?> Ended => _ended.Task;

    private void Run()
    {
        RelayEnd? end = null;
        try
        {
            while (end is null)
            {
                (RelayMessage kind, ReadOnlyMemory<byte> body) = _channel.Receive();
                switch (kind)
                {
                    case RelayMessage.Output: _console.Write(body.Span); break;
                    case RelayMessage.Errors: _console.WriteError(body.Span); break;
                    case RelayMessage.Ended: end = RelayEnd.Read(body.Span); break;
                    default: throw new IOException($"a message of the kind {kind} comes from no guest");
                }
                _console.Throttle(Timeout.Infinite);
            }
        }
        catch (IOException)
        {
            // It is over.
        }
        finally
        {
            Dispose();
            _ended.SetResult(end);
        }
    }

    /// <summary>Input for the guest; waits while that takes none. Nobody gets it when the connection is gone.</summary>
    public void Send(ReadOnlySpan<byte> bytes) => Send(RelayMessage.Input, bytes.ToArray());

    /// <summary>There is no more.</summary>
    public void SendEnd() => Send(RelayMessage.InputEnd, []);

    /// <summary>The terminal has another size.</summary>
    /// <param name="columns">1 to 65535.</param>
    /// <param name="rows">1 to 65535.</param>
    public void SendSize(int columns, int rows)
    {
        byte[] size = new byte[2 * sizeof(ushort)];
        BinaryPrimitives.WriteUInt16LittleEndian(size, (ushort)columns);
        BinaryPrimitives.WriteUInt16LittleEndian(size.AsSpan(sizeof(ushort)), (ushort)rows);
        Send(RelayMessage.Size, size);
    }

    private void Send(RelayMessage kind, byte[] bytes)
    {
        try
        {
            _channel.Send(kind, bytes);
        }
        catch (IOException)
        {
            // Who reads finds out as well.
        }
    }

    /// <summary>Closes the connection: the guest's end there is the end of its command.</summary>
    public void Dispose() => _channel.Dispose();
}
