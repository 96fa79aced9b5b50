using System.Buffers.Binary;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// Answers the requests of one guest's 9P2000.L client for a <see cref="SharedFolder"/>: which operations there are, and how a session begins. The guest is
/// hostile; see <see cref="FuseServer"/> for why nothing leads out of the folder. One thread, but for <see cref="Reset"/> and what says so.
/// </summary>
internal sealed class NinePServer(SharedFolder folder) : IFolderServer
{
    /// <summary>Most bytes of a message.</summary>
    public const int LargestMessage = FuseServer.LargestTransfer + 4096;

    private const int SmallestMessage = 4096;
    private static ReadOnlySpan<byte> Dialect => "9P2000.L"u8;

    private delegate int Handler(NinePSession session, ref NinePRequest request, ref NinePReply reply);

    /// <summary>One operation.</summary>
    /// <param name="Answers">Bytes that a successful answer has at least; the driver must have given room for them before anything is done.</param>
    /// <param name="Changes">It is refused where the folder is read-only.</param>
    private sealed record Operation(NinePType Type, int Answers, bool Changes, Handler Do);

    private static readonly Dictionary<NinePType, Operation> s_operations = new Operation[]
    {
#pragma warning disable IDE0055 // table
        new(NinePType.Attach,        NineP.QidSize,     false, NinePRequests.Attach),
        new(NinePType.Walk,          sizeof(ushort),    false, NinePRequests.Walk),
        new(NinePType.Clunk,         0,                 false, NinePRequests.Clunk),
        new(NinePType.Remove,        0,                 false, NinePRequests.Remove),
        new(NinePType.Flush,         0,                 false, NinePRequests.Flush),
        new(NinePType.Open,          NineP.QidSize + 4, false, NinePRequests.Open),
        new(NinePType.Create,        NineP.QidSize + 4, true,  NinePRequests.Create),
        new(NinePType.Read,          4,                 false, NinePTransfers.Read),
        new(NinePType.Write,         4,                 false, NinePTransfers.Write),
        new(NinePType.ReadFolder,    4,                 false, NinePTransfers.ReadFolder),
        new(NinePType.Sync,          0,                 false, NinePTransfers.Sync),
        new(NinePType.XattrWalk,     8,                 false, NinePTransfers.XattrWalk),
        new(NinePType.XattrCreate,   0,                 true,  NinePTransfers.XattrCreate),
        new(NinePType.GetAttributes, 153,               false, NinePRequests.GetAttributes),
        new(NinePType.SetAttributes, 0,                 true,  NinePRequests.SetAttributes),
        new(NinePType.FileSystem,    60,                false, NinePRequests.FileSystem),
        new(NinePType.ReadLink,      sizeof(ushort),    false, NinePRequests.ReadLink),
        new(NinePType.SymbolicLink,  NineP.QidSize,     true,  NinePRequests.SymbolicLink),
        new(NinePType.MakeNode,      NineP.QidSize,     true,  NinePRequests.MakeNode),
        new(NinePType.MakeFolder,    NineP.QidSize,     true,  NinePRequests.MakeFolder),
        new(NinePType.Link,          0,                 true,  NinePRequests.Link),
        new(NinePType.RenameAt,      0,                 true,  NinePRequests.RenameAt),
        new(NinePType.UnlinkAt,      0,                 true,  NinePRequests.UnlinkAt),
        new(NinePType.Lock,          1,                 false, NinePRequests.Lock),
        new(NinePType.GetLock,       23,                false, NinePRequests.GetLock),
#pragma warning restore IDE0055
    }.ToDictionary(o => o.Type);

    private readonly FolderSessions<NinePSession> _sessions = new();
    private volatile int _largest = SmallestMessage;

    /// <summary>The guest has files of the folder: it has it mounted. Any thread.</summary>
    public bool IsConnected => Session is { IsUsed: true };

    /// <summary>The session, for tests.</summary>
    internal NinePSession? Session => _sessions.Current;

    /// <inheritdoc/>
    public bool HasRoom(ReadOnlySpan<byte> message, int room) => room >= NineP.ErrorSize;

    /// <inheritdoc/>
    public int Handle(ReadOnlySpan<byte> message, Span<byte> room)
    {
        uint size = BinaryPrimitives.ReadUInt32LittleEndian(message);
        byte type = message[4];
        ushort tag = BinaryPrimitives.ReadUInt16LittleEndian(message[5..]);
        if (room.Length > _largest && type != (byte)NinePType.Version) room = room[.._largest];
        var reply = new NinePReply(room[NineP.HeaderSize..]);
        int errno = Errno.Invalid;
        if (size >= NineP.HeaderSize && size <= message.Length)
        {
            var request = new NinePRequest(message[NineP.HeaderSize..(int)size]);
            errno = Do((NinePType)type, ref request, ref reply);
        }
        int used = errno == 0 ? NineP.HeaderSize + reply.Length : NineP.ErrorSize;
        BinaryPrimitives.WriteUInt32LittleEndian(room, (uint)used);
        room[4] = errno == 0 ? (byte)(type + 1) : NineP.Error;
        BinaryPrimitives.WriteUInt16LittleEndian(room[5..], tag);
        if (errno != 0) BinaryPrimitives.WriteUInt32LittleEndian(room[NineP.HeaderSize..], (uint)errno);
        return used;
    }

    private int Do(NinePType type, ref NinePRequest request, ref NinePReply reply)
    {
        if (type == NinePType.Version) return Begin(ref request, ref reply);
        if (Session is not { } session) return Errno.Io; // nothing comes before Tversion
        if (!s_operations.TryGetValue(type, out Operation? operation)) return Errno.NotSupported;
        if (reply.Room.Length < operation.Answers) return Errno.Invalid;
        if (operation.Changes && folder.IsReadOnly) return Errno.ReadOnly;
        return operation.Do(session, ref request, ref reply);
    }

    private int Begin(ref NinePRequest request, ref NinePReply reply)
    {
        uint largest = request.Take32();
        ReadOnlySpan<byte> version = request.TakeText();
        if (request.IsShort || largest < SmallestMessage || reply.Room.Length < 4 + 2 + Dialect.Length) return Errno.Invalid;
        Reset()?.Dispose();
        bool isOurs = version.SequenceEqual(Dialect);
        largest = Math.Min(largest, LargestMessage);
        reply.Put(largest);
        reply.TryPutText(isOurs ? Dialect : "unknown"u8);
        if (!isOurs) return 0;
        _largest = (int)largest;
        _sessions.Begin(new NinePSession(folder));
        return 0;
    }

    /// <inheritdoc/>
    public IDisposable? Reset() => _sessions.Reset();

    /// <summary>Closes all that guests have left open.</summary>
    public void Dispose() => _sessions.Dispose();
}
