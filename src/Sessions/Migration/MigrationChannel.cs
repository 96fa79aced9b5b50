using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;

namespace Bunraku.Sessions.Migration;

/// <summary>What a message is. The numbers are the format.</summary>
internal enum MigrationMessage : uint
{
    /// <summary>From the sender: magic, version, the claim's token, the description of the machine.</summary>
    Hello = 1,
    /// <summary>From the sender: number of the first page, and pages that follow each other.</summary>
    Pages = 2,
    /// <summary>From the sender: number of the first page, how many are zero from there on.</summary>
    Zeros = 3,
    /// <summary>From the sender, which has paused the VM and closed its disks: everything but memory.</summary>
    State = 4,
    /// <summary>From the sender: the VM is the receiver's if the claim is still there.</summary>
    Commit = 5,
    /// <summary>From the receiver: the machine is made, and takes pages.</summary>
    Ready = 101,
    /// <summary>From the receiver: it could go on at once.</summary>
    Prepared = 102,
    /// <summary>From the receiver: the VM is its own.</summary>
    Running = 103,
    /// <summary>From the receiver: it gives up; why, in one line.</summary>
    Failed = 199,
}

/// <summary>
/// Messages over a stream: a kind and a length of 32 bits each, little-endian, then so many bytes. What comes in is bounded; each read and write has a limit of
/// time. One thread.
/// </summary>
internal sealed class MigrationChannel(Stream stream, TimeSpan limit, CancellationToken cancel)
{
    /// <summary>Bytes of a page, and the most pages of one message.</summary>
    public const int PageSize = (int)GuestMemory.PageSize, MostPages = 256;

    private const int HeaderLength = 8, LongestReason = 4096;

    /// <summary>Bytes of the longest message: the state of a machine with many processors.</summary>
    private const int Longest = 64 << 20;

    private readonly byte[] _header = new byte[HeaderLength];
    private CancellationToken _cancel = cancel;
    private byte[] _body = new byte[sizeof(ulong) + MostPages * PageSize];

    /// <summary>Where the messages go, and what else follows them.</summary>
    public Stream Stream => stream;

    /// <summary>Called before each message that is sent; for tests, which cut the connection there.</summary>
    public Action<MigrationMessage>? BeforeSend { get; init; }

    /// <summary>From here on it is not cancelled: a message that is given up half way is none, and what follows it neither.</summary>
    public void Complete() => _cancel = CancellationToken.None;

    /// <summary>Sends a message of two pieces.</summary>
    /// <exception cref="IOException">The other end is gone, or does not take it.</exception>
    public void Send(MigrationMessage kind, ReadOnlyMemory<byte> first = default, ReadOnlyMemory<byte> second = default)
    {
        BeforeSend?.Invoke(kind);
        byte[] header = new byte[HeaderLength];
        BinaryPrimitives.WriteUInt32LittleEndian(header, (uint)kind);
        BinaryPrimitives.WriteInt32LittleEndian(header.AsSpan(4), first.Length + second.Length);
        Within(token => WriteAsync(token));

        async ValueTask<int> WriteAsync(CancellationToken token)
        {
            await stream.WriteAsync(header, token).ConfigureAwait(false);
            if (!first.IsEmpty) await stream.WriteAsync(first, token).ConfigureAwait(false);
            if (!second.IsEmpty) await stream.WriteAsync(second, token).ConfigureAwait(false);
            await stream.FlushAsync(token).ConfigureAwait(false);
            return 0;
        }
    }

    /// <summary>The next message; its bytes are good until the next call.</summary>
    /// <exception cref="IOException">The other end is gone, or says nothing.</exception>
    /// <exception cref="StateFormatException">What it says is no message.</exception>
    public (MigrationMessage Kind, ReadOnlyMemory<byte> Body) Receive()
    {
        Within(token => ReadAsync(_header, token));
        var kind = (MigrationMessage)BinaryPrimitives.ReadUInt32LittleEndian(_header);
        int length = BinaryPrimitives.ReadInt32LittleEndian(_header.AsSpan(4));
        if (length < 0 || length > MostOf(kind)) throw new StateFormatException($"a message of the kind {(uint)kind} with {(uint)length} bytes is none");
        // Room grows with what has come, not with what somebody says that will.
        for (int got = 0; got < length;)
        {
            if (_body.Length == got) Array.Resize(ref _body, (int)Math.Min(2L * got, length));
            int next = Math.Min(length, _body.Length) - got;
            Memory<byte> piece = _body.AsMemory(got, next);
            Within(token => ReadAsync(piece, token));
            got += next;
        }
        return (kind, _body.AsMemory(0, length));
    }

    /// <summary>The next message, which has to be of one kind. What a receiver says when it gives up comes out as an exception.</summary>
    /// <exception cref="MigrationException">The other end has given up, and says why.</exception>
    /// <inheritdoc cref="Receive()"/>
    public ReadOnlyMemory<byte> Receive(MigrationMessage expected)
    {
        (MigrationMessage kind, ReadOnlyMemory<byte> body) = Receive();
        if (kind == expected) return body;
        if (kind == MigrationMessage.Failed) throw new MigrationException($"the VM was not moved and goes on; the other end says: {Line(body.Span)}");
        throw new StateFormatException($"a message of the kind {kind} came in place of {expected}");
    }

    /// <summary>A peer's words as one line that a terminal can show.</summary>
    public static string Line(ReadOnlySpan<byte> text) => string.Concat(Encoding.UTF8.GetString(text).Select(c => char.IsControl(c) ? ' ' : c));

    private static int MostOf(MigrationMessage kind) => kind switch
    {
        MigrationMessage.Hello or MigrationMessage.State => Longest,
        MigrationMessage.Pages => sizeof(ulong) + MostPages * PageSize,
        MigrationMessage.Zeros => 2 * sizeof(ulong),
        MigrationMessage.Failed => LongestReason,
        MigrationMessage.Commit or MigrationMessage.Ready or MigrationMessage.Prepared or MigrationMessage.Running => 0,
        _ => -1,
    };

    /// <summary>A receiver's reason in the length that a message has room for.</summary>
    public static byte[] Reason(string text)
    {
        byte[] bytes = Encoding.UTF8.GetBytes(text);
        return bytes.Length <= LongestReason ? bytes : bytes[..LongestReason];
    }

    private async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken token)
    {
        await stream.ReadExactlyAsync(buffer, token).ConfigureAwait(false);
        return 0;
    }

    private void Within(Func<CancellationToken, ValueTask<int>> action)
    {
        using var timed = CancellationTokenSource.CreateLinkedTokenSource(_cancel);
        timed.CancelAfter(limit);
        try
        {
            action(timed.Token).AsTask().GetAwaiter().GetResult();
        }
        catch (OperationCanceledException e) when (!_cancel.IsCancellationRequested)
        {
            throw new IOException($"the other end has not answered for {limit.TotalSeconds:0.#} s", e);
        }
        catch (Exception e) when (e is EndOfStreamException or ObjectDisposedException)
        {
            throw new IOException("the connection has ended", e);
        }
    }
}
