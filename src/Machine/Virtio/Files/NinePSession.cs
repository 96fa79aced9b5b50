using System.Buffers;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>What the guest has under one of its numbers: a file, perhaps open, or an extended attribute of one.</summary>
internal sealed class NinePFid(ulong node, uint user)
{
    /// <summary>The file, by its number in <see cref="NodeTable"/>.</summary>
    public ulong Node { get; set; } = node;

    /// <summary>As whom the guest makes files with it.</summary>
    public uint User { get; } = user;

    /// <summary>Of what is open, in <see cref="HandleTable"/>; 0: nothing.</summary>
    public ulong Handle { get; set; }

    /// <summary>How that was opened: open(2).</summary>
    public uint Flags { get; set; }

    /// <summary>What is open is a folder.</summary>
    public bool IsFolder { get; set; }

    /// <summary>Contents of an attribute that is read, or is to be written; null: it is no attribute.</summary>
    public byte[]? Value { get; set; }

    /// <summary>Of an attribute that is written when the guest lets the number go; null: it is read.</summary>
    public byte[]? ValueName { get; set; }

    public uint ValueFlags { get; set; }

    /// <summary>Bytes of it that were written.</summary>
    public int ValueLength { get; set; }
}

/// <summary>
/// What lives from a guest's Tversion until the next one: its numbers for files. What is done with files, the requests of FUSE do that
/// <see cref="FuseConnection"/> has: so both protocols have one way to the host, with its bounds. One thread, but for disposal.
/// </summary>
internal sealed class NinePSession(SharedFolder folder) : IDisposable
{
    /// <summary>Most numbers, and attributes among them.</summary>
    private const int MostFids = 1 << 17, MostValues = 64;

    private const int LongestBody = 128 + FolderCalls.LongestName + FolderCalls.LongestPath + 2;

    /// <summary>A file of which the guest has numbers.</summary>
    private struct Known
    {
        public int Fids;
        /// <summary>How often the table counts that the guest was told of it.</summary>
        public ulong Lookups;
    }

    public delegate int Operation(FuseConnection connection, ref FuseRequest request, ref FuseReply reply);

    private readonly byte[] _body = new byte[LongestBody];
    private readonly Dictionary<uint, NinePFid> _fids = [];
    private readonly Dictionary<ulong, Known> _known = [];
    private int _values;

    public FuseConnection Files { get; } = new(folder, 0);

    /// <summary>The guest has numbers. Any thread.</summary>
    public bool IsUsed => _count > 0;

    private volatile int _count;

    public bool TryFind(uint number, out NinePFid fid) => _fids.TryGetValue(number, out fid!);

    /// <summary>Gives a number to a file of which one is held.</summary>
    public int Add(uint number, NinePFid fid)
    {
        if (_fids.ContainsKey(number)) return Errno.Invalid;
        if (_fids.Count >= MostFids) return Errno.TooManyFilesOfAll;
        if (fid.Value is not null && ++_values > MostValues)
        {
            _values--;
            return Errno.TooManyFilesOfAll;
        }
        _fids.Add(number, fid);
        _count = _fids.Count;
        Hold(fid.Node, lookups: 0);
        return 0;
    }

    /// <summary>One more holds a file.</summary>
    /// <param name="lookups">How often the table counted it for that.</param>
    public void Hold(ulong node, ulong lookups)
    {
        ref Known known = ref CollectionsMarshal.GetValueRefOrAddDefault(_known, node, out _);
        known.Fids++;
        known.Lookups += lookups;
    }

    /// <summary>One fewer holds it.</summary>
    public void Release(ulong node)
    {
        ref Known known = ref CollectionsMarshal.GetValueRefOrNullRef(_known, node);
        if (Unsafe.IsNullRef(ref known) || --known.Fids > 0) return;
        Files.Nodes.Forget(node, known.Lookups);
        _known.Remove(node);
    }

    /// <summary>A number becomes an attribute's.</summary>
    public int MakeValue(NinePFid fid, byte[] value, byte[]? name, uint flags)
    {
        if (fid.Value is not null || fid.Handle != 0) return Errno.Invalid;
        if (_values >= MostValues) return Errno.TooManyFilesOfAll;
        _values++;
        (fid.Value, fid.ValueName, fid.ValueFlags) = (value, name, flags);
        return 0;
    }

    /// <summary>The guest lets a number go: it is gone, also where this fails.</summary>
    public int Remove(uint number)
    {
        if (!_fids.Remove(number, out NinePFid? fid)) return Errno.BadDescriptor;
        _count = _fids.Count;
        int errno = 0;
        if (fid.Value is not null) _values--;
        if (fid is { Value: { } value, ValueName: { } name })
        {
            errno = fid.ValueLength < value.Length ? Errno.Invalid : value.Length == 0 ? Call(fid, XattrRequests.Remove, default(Nothing), name, default)
                : SetValue(fid, name, value);
        }
        if (fid.Handle != 0) Files.Handles.Remove(fid.Handle);
        Release(fid.Node);
        return errno;
    }

    private int SetValue(NinePFid fid, byte[] name, byte[] value)
    {
        byte[] body = ArrayPool<byte>.Shared.Rent(Unsafe.SizeOf<FuseXattrIn>() + name.Length + 1 + value.Length);
        try
        {
            int at = Put(body, new FuseXattrIn { Size = (uint)value.Length, Flags = fid.ValueFlags }, name, default);
            value.CopyTo(body, at);
            var reply = new FuseReply([]);
            return Do(fid.Node, fid.User, 0, XattrRequests.Set, body.AsSpan(0, at + value.Length), ref reply);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(body);
        }
    }

    /// <summary>No structure in front of the names.</summary>
    public struct Nothing;

    /// <summary>Does a request of which nothing is wanted but whether it went well.</summary>
    public int Call<T>(NinePFid fid, Operation operation, T asked, ReadOnlySpan<byte> first, ReadOnlySpan<byte> second) where T : unmanaged
    {
        var reply = new FuseReply(stackalloc byte[256]);
        return Call(fid, 0, operation, asked, first, second, ref reply);
    }

    /// <summary>Does a request of FUSE.</summary>
    /// <param name="asked">What stands in front; <see cref="Nothing"/> for nothing.</param>
    /// <param name="first">The first name, or empty.</param>
    /// <param name="second">The second one; empty: there is none, and where one is needed it is missing.</param>
    public int Call<T>(NinePFid fid, uint group, Operation operation, T asked, ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ref FuseReply reply)
        where T : unmanaged
    {
        if (first.Length + second.Length > FolderCalls.LongestName + FolderCalls.LongestPath) return Errno.NameTooLong;
        int length = Put(_body, asked, first, second);
        return Do(fid.Node, fid.User, group, operation, _body.AsSpan(0, length), ref reply);
    }

    private static int Put<T>(Span<byte> body, T asked, ReadOnlySpan<byte> first, ReadOnlySpan<byte> second) where T : unmanaged
    {
        int length = 0;
        if (typeof(T) != typeof(Nothing))
        {
            MemoryMarshal.Write(body, asked);
            length = Unsafe.SizeOf<T>();
        }
        length += PutText(body[length..], first);
        return second.IsEmpty ? length : length + PutText(body[length..], second);
    }

    private static int PutText(Span<byte> body, ReadOnlySpan<byte> text)
    {
        text.CopyTo(body);
        body[text.Length] = 0;
        return text.Length + 1;
    }

    private int Do(ulong node, uint user, uint group, Operation operation, ReadOnlySpan<byte> body, ref FuseReply reply)
    {
        var request = new FuseRequest(new FuseInHeader { Node = node, User = user, Group = group }, body);
        return operation(Files, ref request, ref reply);
    }

    /// <summary>Closes all.</summary>
    public void Dispose() => Files.Dispose();
}
