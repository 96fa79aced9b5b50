using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>
/// Answers the requests of one guest's FUSE client for a <see cref="SharedFolder"/>: which operations there are, and how a connection begins and ends. The
/// guest is hostile: it names files by numbers that it was given and by single names, and whatever it sends, nothing outside of the folder is touched. Any
/// number of threads.
/// </summary>
/// <remarks>
/// Why nothing leads out of the folder: all that the guest can say of a file is the number of one that it was told of, and one name in such a folder. Names
/// have no '/', and are neither "." nor ".."; each is looked up by itself, from the folder's descriptor, without following a link (<see cref="FolderCalls"/>).
/// A link's target is the guest's to follow, in the guest. What is opened was seen to be a regular file or a folder by the same descriptor that is opened.
/// </remarks>
internal sealed class FuseServer(SharedFolder folder) : IFolderServer
{
    /// <summary>Most bytes that one request reads or writes.</summary>
    public const int LargestTransfer = 1 << 20;

    /// <summary>What a request or an answer has beside: headers, names, attributes.</summary>
    public const int LargestRest = (64 << 10) + 1024;

    private const uint Major = 7, Minor = 38, OldestMinor = 31, PageSize = 4096;
    private const uint FirstMinorWithExtension = 36;

    private const FuseFeature Wanted = FuseFeature.AsyncRead | FuseFeature.AtomicTruncate | FuseFeature.BigWrites | FuseFeature.ReadFolderPlus
        | FuseFeature.ReadFolderPlusAuto | FuseFeature.AsyncDirect | FuseFeature.ParallelFolders | FuseFeature.MaxPages | FuseFeature.CacheLinks
        | FuseFeature.KillPrivileges2 | FuseFeature.InitExtension;

    private delegate int Handler(FuseConnection connection, ref FuseRequest request, ref FuseReply reply);

    /// <summary>One operation.</summary>
    /// <param name="Answers">Bytes that a successful answer has at least; the driver must have given room for them before anything is done.</param>
    /// <param name="Changes">It is refused where the folder is read-only.</param>
    private sealed record Operation(FuseOpcode Opcode, int Answers, bool Changes, Handler Do);

    private static readonly int s_entry = Unsafe.SizeOf<FuseEntryOut>(), s_attributes = Unsafe.SizeOf<FuseAttributesOut>(),
        s_opened = Unsafe.SizeOf<FuseOpenOut>(), s_size = Unsafe.SizeOf<FuseSizeOut>();

    private static readonly Dictionary<FuseOpcode, Operation> s_operations = new Operation[]
    {
#pragma warning disable IDE0055 // table
        new(FuseOpcode.Lookup,         s_entry,            false, NameRequests.Lookup),
        new(FuseOpcode.GetAttributes,  s_attributes,       false, AttributeRequests.Get),
        new(FuseOpcode.SetAttributes,  s_attributes,       true,  AttributeRequests.Set),
        new(FuseOpcode.ReadLink,       0,                  false, NameRequests.ReadLink),
        new(FuseOpcode.SymbolicLink,   s_entry,            true,  NameRequests.SymbolicLink),
        new(FuseOpcode.MakeNode,       s_entry,            true,  NameRequests.MakeNode),
        new(FuseOpcode.MakeFolder,     s_entry,            true,  NameRequests.MakeFolder),
        new(FuseOpcode.Unlink,         0,                  true,  NameRequests.Unlink),
        new(FuseOpcode.RemoveFolder,   0,                  true,  NameRequests.RemoveFolder),
        new(FuseOpcode.Rename,         0,                  true,  NameRequests.Rename),
        new(FuseOpcode.Rename2,        0,                  true,  NameRequests.Rename2),
        new(FuseOpcode.Link,           s_entry,            true,  NameRequests.Link),
        new(FuseOpcode.Open,           s_opened,           false, FileRequests.Open),
        new(FuseOpcode.Create,         s_entry + s_opened, true,  FileRequests.Create),
        new(FuseOpcode.Read,           0,                  false, FileRequests.Read),
        new(FuseOpcode.Write,          s_size,             true,  FileRequests.Write),
        new(FuseOpcode.Flush,          0,                  false, FileRequests.Flush),
        new(FuseOpcode.Sync,           0,                  false, FileRequests.Sync),
        new(FuseOpcode.Release,        0,                  false, FileRequests.Release),
        new(FuseOpcode.Allocate,       0,                  true,  FileRequests.Allocate),
        new(FuseOpcode.Seek,           sizeof(ulong),      false, FileRequests.Seek),
        new(FuseOpcode.CopyRange,      s_size,             true,  FileRequests.CopyRange),
        new(FuseOpcode.OpenFolder,     s_opened,           false, FolderRequests.Open),
        new(FuseOpcode.ReadFolder,     0,                  false, FolderRequests.Read),
        new(FuseOpcode.ReadFolderPlus, 0,                  false, FolderRequests.ReadPlus),
        new(FuseOpcode.SyncFolder,     0,                  false, FolderRequests.Sync),
        new(FuseOpcode.ReleaseFolder,  0,                  false, FileRequests.Release),
        new(FuseOpcode.FileSystem,     Unsafe.SizeOf<FuseFileSystem>(), false, AttributeRequests.FileSystem),
        new(FuseOpcode.SyncFileSystem, 0,                  false, FolderRequests.SyncAll),
        new(FuseOpcode.SetXattr,       0,                  true,  XattrRequests.Set),
        new(FuseOpcode.GetXattr,       0,                  false, XattrRequests.Get),
        new(FuseOpcode.ListXattr,      0,                  false, XattrRequests.List),
        new(FuseOpcode.RemoveXattr,    0,                  true,  XattrRequests.Remove),
#pragma warning restore IDE0055
    }.ToDictionary(o => o.Opcode);

    private readonly FolderSessions<FuseConnection> _connections = new();

    /// <summary>The guest has it mounted, or has had and left it as it was.</summary>
    public bool IsConnected => Connection is not null;

    /// <summary>The connection, for tests.</summary>
    internal FuseConnection? Connection => _connections.Current;

    /// <summary>Nobody waits for an answer.</summary>
    public static bool HasNoAnswer(FuseOpcode opcode) => opcode is FuseOpcode.Forget or FuseOpcode.BatchForget or FuseOpcode.Interrupt;

    /// <inheritdoc/>
    public bool HasRoom(ReadOnlySpan<byte> message, int room) =>
        room >= FuseOutHeader.Size || HasNoAnswer(MemoryMarshal.Read<FuseInHeader>(message).Opcode);

    /// <inheritdoc/>
    public int Handle(ReadOnlySpan<byte> message, Span<byte> room)
    {
        FuseInHeader header = MemoryMarshal.Read<FuseInHeader>(message);
        int length = (int)Math.Min(header.Length, (uint)message.Length);
        var request = new FuseRequest(header, message[Math.Min(FuseInHeader.Size, length)..length]);
        if (HasNoAnswer(header.Opcode))
        {
            if (Connection is { } known) Forget(known, ref request);
            return 0;
        }
        var reply = new FuseReply(room[FuseOutHeader.Size..]);
        int errno = length < FuseInHeader.Size || header.Length > message.Length ? Errno.Invalid : Do(ref request, ref reply);
        int used = FuseOutHeader.Size + (errno == 0 ? reply.Length : 0);
        MemoryMarshal.Write(room, new FuseOutHeader { Length = (uint)used, Error = -errno, Unique = header.Unique });
        return used;
    }

    private int Do(ref FuseRequest request, ref FuseReply reply)
    {
        switch (request.Header.Opcode)
        {
            case FuseOpcode.Init: return Init(ref request, ref reply);
            case FuseOpcode.Destroy:
                Reset()?.Dispose();
                return 0;
        }
        if (Connection is not { } connection) return Errno.Io; // nothing comes before INIT
        if (!s_operations.TryGetValue(request.Header.Opcode, out Operation? operation)) return Errno.NotImplemented;
        if (reply.Room.Length < operation.Answers) return Errno.Invalid;
        if (operation.Changes && folder.IsReadOnly) return Errno.ReadOnly;
        return operation.Do(connection, ref request, ref reply);
    }

    private int Init(ref FuseRequest request, ref FuseReply reply)
    {
        if (reply.Room.Length < Unsafe.SizeOf<FuseInitOut>() || !request.TryTake(out FuseInitIn asked)) return Errno.Invalid;
        if (asked.Major < Major || asked.Major == Major && asked.Minor < OldestMinor) return Errno.Protocol;
        if (asked.Major > Major)
        {
            // The client asks again, in our version.
            reply.Put(new FuseInitOut { Major = Major, Minor = Minor });
            return 0;
        }
        Reset()?.Dispose();
        var offered = (FuseFeature)asked.Flags;
        FuseFeature wanted = Wanted | (folder.Cache == FileCache.Always ? FuseFeature.WritebackCache : FuseFeature.AutoInvalidateData);
        if (asked.Minor < FirstMinorWithExtension) wanted &= ~FuseFeature.InitExtension;
        FuseFeature agreed = offered & wanted;
        _connections.Begin(new FuseConnection(folder, agreed));
        uint largest = agreed.HasFlag(FuseFeature.MaxPages) ? LargestTransfer : 32 * PageSize;
        reply.Put(new FuseInitOut
        {
            Major = Major,
            Minor = Minor,
            MaxReadahead = Math.Min(asked.MaxReadahead, LargestTransfer),
            Flags = (uint)agreed,
            MaxBackground = 64,
            CongestionThreshold = 48,
            MaxWrite = largest,
            TimeGranularity = 1,
            MaxPages = (ushort)(largest / PageSize),
        });
        return 0;
    }

    private static void Forget(FuseConnection connection, ref FuseRequest request)
    {
        switch (request.Header.Opcode)
        {
            case FuseOpcode.Forget when request.TryTake(out ulong count):
                connection.Nodes.Forget(request.Header.Node, count);
                break;
            case FuseOpcode.BatchForget when request.TryTake(out FuseBatchForgetIn batch):
                for (uint n = 0; n < batch.Count && request.TryTake(out FuseForget one); n++) connection.Nodes.Forget(one.Node, one.Count);
                break;
                // INTERRUPT: nothing here waits for anything that an interrupt could end.
        }
    }

    /// <inheritdoc/>
    public IDisposable? Reset() => _connections.Reset();

    /// <summary>Closes all that guests have left open.</summary>
    public void Dispose() => _connections.Dispose();
}
