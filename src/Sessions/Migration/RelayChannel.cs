using System.Buffers.Binary;

namespace Bunraku.Sessions.Migration;

/// <summary>What a message of a relay is. The numbers are the format.</summary>
internal enum RelayMessage : uint
{
    /// <summary>To the guest: bytes for the command's input.</summary>
    Input = 1,
    /// <summary>To the guest: there is no more input.</summary>
    InputEnd = 2,
    /// <summary>To the guest: columns and rows of the terminal, two numbers of 16 bits each.</summary>
    Size = 3,
    /// <summary>From the guest: bytes that the command, or its terminal, has printed.</summary>
    Output = 101,
    /// <summary>From the guest: bytes that the command wrote to its standard error, where that comes apart.</summary>
    Errors = 102,
    /// <summary>From the guest, the last one: a <see cref="RelayEnd"/>.</summary>
    Ended = 103,
}

/// <summary>
/// What goes over a migration's connection behind the move, when the guest has gone and its command's streams have not: messages as those of
/// <see cref="MigrationChannel"/>, with no limit of time. One thread reads; any may write.
/// </summary>
/// <param name="stream">Is closed with this.</param>
internal sealed class RelayChannel(Stream stream) : IDisposable
{
    private const int HeaderLength = 8, Longest = 64 << 10;

    private readonly Lock _lock = new(); // one message at a time
    private readonly CancellationTokenSource _closed = new();
    private readonly byte[] _header = new byte[HeaderLength], _body = new byte[Longest];

    /// <summary>Where the messages go.</summary>
    public Stream Stream => stream;

    /// <summary>Sends bytes, in as many messages as they need.</summary>
    /// <exception cref="IOException">The other end is gone, or this one is closed.</exception>
    public void Send(RelayMessage kind, ReadOnlyMemory<byte> bytes = default)
    {
        lock (_lock)
        {
            do
            {
                ReadOnlyMemory<byte> piece = bytes[..Math.Min(Longest, bytes.Length)];
                byte[] message = new byte[HeaderLength + piece.Length];
                BinaryPrimitives.WriteUInt32LittleEndian(message, (uint)kind);
                BinaryPrimitives.WriteInt32LittleEndian(message.AsSpan(sizeof(uint)), piece.Length);
                piece.CopyTo(message.AsMemory(HeaderLength));
                Await(token => stream.WriteAsync(message, token).AsTask());
                bytes = bytes[piece.Length..];
            }
            while (!bytes.IsEmpty);
        }
    }

    /// <summary>The next message; its bytes are good until the next call.</summary>
    /// <exception cref="IOException">The other end is gone, or says what is no message.</exception>
    public (RelayMessage Kind, ReadOnlyMemory<byte> Body) Receive()
    {
        Await(token => stream.ReadExactlyAsync(_header, token).AsTask());
        uint kind = BinaryPrimitives.ReadUInt32LittleEndian(_header);
        int length = BinaryPrimitives.ReadInt32LittleEndian(_header.AsSpan(sizeof(uint)));
        if (length is < 0 or > Longest || !Enum.IsDefined((RelayMessage)kind)) throw new IOException($"a message of the kind {kind} is none");
        Memory<byte> body = _body.AsMemory(0, length);
        Await(token => stream.ReadExactlyAsync(body, token).AsTask());
        return ((RelayMessage)kind, body);
    }

    private void Await(Func<CancellationToken, Task> action)
    {
        try
        {
            // A stream that does not listen to the token is left to itself.
            action(_closed.Token).WaitAsync(_closed.Token).GetAwaiter().GetResult();
        }
        catch (Exception e) when (e is EndOfStreamException or ObjectDisposedException or OperationCanceledException)
        {
            throw new IOException("the connection has ended", e);
        }
    }

    /// <summary>Ends what is under way. Any thread, as often as one likes.</summary>
    public void Dispose()
    {
        _closed.Cancel();
        stream.Dispose();
    }
}

/// <summary>How a guest with a command ended where it was moved to.</summary>
/// <param name="Status">What its process ends with.</param>
/// <param name="CommandStatus">The command's own, where it came to its end.</param>
/// <param name="Damage">What is missing of its streams; null: nothing.</param>
internal sealed record RelayEnd(int Status, int? CommandStatus, string? Damage)
{
    private const int TextAt = 3 * sizeof(int), LongestText = 4096;

    /// <summary>Three numbers of 32 bits (status, whether the command has one, that), and UTF-8.</summary>
    public byte[] ToBytes()
    {
        byte[] text = System.Text.Encoding.UTF8.GetBytes(Damage ?? "");
        byte[] bytes = new byte[TextAt + Math.Min(text.Length, LongestText)];
        BinaryPrimitives.WriteInt32LittleEndian(bytes, Status);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(sizeof(int)), CommandStatus is null ? 0 : 1);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(2 * sizeof(int)), CommandStatus ?? 0);
        text.AsSpan(0, bytes.Length - TextAt).CopyTo(bytes.AsSpan(TextAt));
        return bytes;
    }

    /// <exception cref="IOException">It is none.</exception>
    public static RelayEnd Read(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length is < TextAt or > TextAt + LongestText) throw new IOException("the other end says no status");
        bool hasStatus = BinaryPrimitives.ReadInt32LittleEndian(bytes[sizeof(int)..]) != 0;
        int? status = hasStatus ? BinaryPrimitives.ReadInt32LittleEndian(bytes[(2 * sizeof(int))..]) : null;
        string text = MigrationChannel.Line(bytes[TextAt..]);
        return new RelayEnd(BinaryPrimitives.ReadInt32LittleEndian(bytes) & byte.MaxValue, status, text.Length == 0 ? null : text);
    }
}
