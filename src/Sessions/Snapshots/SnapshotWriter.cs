using System.Reflection;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions.Snapshots;

/// <summary>
/// Writes a snapshot beside the place where it is to be, and moves it there when it is whole: whatever happens before, an old one stays, and there is no half
/// one under that name. For one thread.
/// </summary>
internal sealed class SnapshotWriter : IDisposable
{
    /// <summary>Pages that are zero between two that are not are written too, up to so many: a range costs a mapping of the host.</summary>
    private const int ShortestGap = 16;
    /// <summary>The host allows 65,530 mappings of a process (vm.max_map_count).</summary>
    private const int MostRanges = 1 << 14;
    private const int Piece = 1 << 20;
    /// <summary>Of zstd: slower levels make a guest's memory hardly smaller.</summary>
    private const int PackLevel = 1;
    /// <summary>Chunks that are packed at a time, for each processor.</summary>
    private const int ChunksTogether = 4;

    /// <summary>Digits by which names of files differ that are not complete.</summary>
    private const int Unique = 32;

    private static readonly TimeSpan s_abandoned = TimeSpan.FromSeconds(5);

    private readonly string? _path; // null: the file has no place
    private readonly string _what; // for messages
    private string? _temporary;
    private SafeFileHandle _file;
    private readonly List<SnapshotRange> _ranges = [];
    private long _end = SnapshotFile.FirstPage;
    private bool _done;

    /// <param name="path">As the user wrote it; what is there is replaced.</param>
    /// <exception cref="CannotWriteException">It cannot be written there.</exception>
    public SnapshotWriter(string path)
    {
        (_path, _what) = (path, $"snapshot {path}");
        if (HostFile.IsSpecial(path)) throw new CannotWriteException(_what, "it is no regular file");
        RemoveAbandoned();
        (_temporary, _file) = Guard(Create);
    }

    /// <param name="file">It is written there, whoever closes it.</param>
    public SnapshotWriter(SafeFileHandle file) => (_what, _file) = ("the copy of its memory", file);

    /// <summary>Before its place: of the same folder, so that it can be moved.</summary>
    private static (string Folder, string Prefix) Beside(string path)
    {
        string full = Path.GetFullPath(path);
        return (Path.GetDirectoryName(full) ?? "/", $".{Path.GetFileName(full)}.");
    }

    private (string Path, SafeFileHandle File) Create()
    {
        (string folder, string prefix) = Beside(_path!);
        string temporary = Path.Combine(folder, $"{prefix}{Guid.NewGuid():n}");
        // What a guest had in its memory is nobody else's business.
        HostFile.CreatePrivate(temporary);
        return (temporary, File.OpenHandle(temporary, FileMode.Open, FileAccess.ReadWrite, FileShare.Read | FileShare.Delete));
    }

    /// <summary>Removes what earlier saves of this name left that were killed: who still writes has his file locked.</summary>
    private void RemoveAbandoned()
    {
        (string folder, string prefix) = Beside(_path!);
        if (!Directory.Exists(folder)) return;
        var all = new EnumerationOptions { AttributesToSkip = default };
        foreach (string left in Directory.EnumerateFiles(folder, prefix + new string('?', Unique), all))
        {
            // A pattern takes more than this name where that has '*' or '?' in it.
            if (!Path.GetFileName(left).StartsWith(prefix, StringComparison.Ordinal) || !Guid.TryParseExact(left[^Unique..], "n", out _)) continue;
            try
            {
                // One that is being made is not locked for a moment.
                if (DateTime.UtcNow - File.GetLastWriteTimeUtc(left) < s_abandoned) continue;
                using SafeFileHandle mine = File.OpenHandle(left, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
                File.Delete(left);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                // Somebody writes it, or it is somebody else's.
            }
        }
    }

    /// <summary>Bytes that the file has so far, or has when it is complete.</summary>
    public long Length => _end;

    /// <summary>Writes all of the memory that is not zero. Nobody writes to it meanwhile, or what is written is written again (<see cref="Update"/>).</summary>
    /// <exception cref="CannotWriteException">The disk is full, or something like that.</exception>
    public unsafe void Write(GuestMemory memory)
    {
        foreach ((ulong offset, ulong length) in Content(memory))
        {
            Write(memory.Backing.Pointer + offset, length, _end);
            _ranges.Add(new SnapshotRange(offset, length, _end));
            _end += (long)length;
        }
    }

    /// <summary>Writes pages again that have changed since; what was zero then gets a place.</summary>
    /// <param name="pages">Numbers of pages of the backing memory, ascending.</param>
    /// <exception cref="CannotWriteException">As above.</exception>
    public unsafe void Update(GuestMemory memory, IEnumerable<ulong> pages)
    {
        var added = new List<SnapshotRange>();
        int at = 0;
        foreach (ulong page in pages)
        {
            ulong offset = page << GuestMemory.PageShift;
            while (at < _ranges.Count && _ranges[at].Offset + _ranges[at].Length <= offset) at++;
            long position;
            if (at < _ranges.Count && _ranges[at].Offset <= offset)
            {
                position = _ranges[at].Position + (long)(offset - _ranges[at].Offset);
            }
            else
            {
                position = _end;
                if (added.Count > 0 && added[^1] is var last && last.Offset + last.Length == offset && last.Position + (long)last.Length == _end)
                    added[^1] = last with { Length = last.Length + GuestMemory.PageSize };
                else added.Add(new SnapshotRange(offset, GuestMemory.PageSize, _end));
                _end += (long)GuestMemory.PageSize;
            }
            Write(memory.Backing.Pointer + offset, GuestMemory.PageSize, position);
        }
        if (added.Count == 0) return;
        _ranges.AddRange(added);
        _ranges.Sort((a, b) => a.Offset.CompareTo(b.Offset));
    }

    /// <summary>Completes the file and puts it in its place.</summary>
    /// <param name="contents">What the file says beside.</param>
    /// <param name="memory">Bytes of RAM.</param>
    /// <param name="lasting">When this returns, the file survives a loss of power.</param>
    /// <param name="packs">Memory is packed: the file is smaller, and is not mapped but read when it is restored.</param>
    /// <exception cref="CannotWriteException">As above.</exception>
    public void Complete(SnapshotContents contents, ulong memory, bool lasting = false, bool packs = false)
    {
        int[]? packed = null;
        ulong[] checksums = contents.Fork is null ? Guard(() => SnapshotFile.Checksums(_file, _end)) : [];
        if (packs) packed = Guard(() => Pack(_end));
        long state = _end;
        using var tail = new MemoryStream();
        SnapshotPart[] places = [.. contents.Parts.Select(p => Place(p.Id, p.Format, p.Version, p.Data.Span))];
        SnapshotPart machine = Place("description", "description", MachineDescription.CurrentVersion, contents.Machine.ToJson());
        long manifest = state + tail.Length;
        string program = typeof(SnapshotWriter).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "";
        JsonSerializer.Serialize(tail, new SnapshotManifest(
            program, DateTime.UtcNow, memory, [.. _ranges], checksums, places, machine, contents.Disks, contents.Waits, packed, contents.Fork),
            SnapshotJson.Default.SnapshotManifest);
        ReadOnlySpan<byte> bytes = tail.GetBuffer().AsSpan(0, (int)tail.Length);
        var header = new SnapshotHeader
        {
            Magic = SnapshotHeader.Mark,
            Version = SnapshotFile.Version,
            StateStart = state,
            ManifestStart = manifest,
            End = state + tail.Length,
        };
        SHA256.HashData(bytes, header.Digest);
        Span<byte> first = stackalloc byte[Marshal.SizeOf<SnapshotHeader>()];
        MemoryMarshal.Write(first, header);
        try
        {
            RandomAccess.Write(_file, bytes, state);
            RandomAccess.Write(_file, first, 0);
            if (lasting) RandomAccess.FlushToDisk(_file);
            if (_path is not null) File.Move(_temporary!, _path, overwrite: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failed(e);
        }
        _end = header.End;
        _done = true;

        SnapshotPart Place(string id, string format, int version, ReadOnlySpan<byte> data)
        {
            long position = state + tail.Length;
            tail.Write(data);
            return new SnapshotPart(id, format, version, position, data.Length);
        }
    }

    /// <summary>Packs what was written so far into another file, which takes this one's place.</summary>
    /// <param name="end">Of what was written.</param>
    /// <returns>Bytes of each chunk.</returns>
    private int[] Pack(long end)
    {
        (string temporary, SafeFileHandle file) = Create();
        var lengths = new int[(end - SnapshotFile.FirstPage + SnapshotFile.Chunk - 1) / SnapshotFile.Chunk];
        long position = SnapshotFile.FirstPage;
        try
        {
            var together = new byte[Environment.ProcessorCount * ChunksTogether][];
            for (int first = 0; first < lengths.Length; first += together.Length)
            {
                int count = Math.Min(together.Length, lengths.Length - first);
                Parallel.For(0, count, () => (Packer: new ZstdSharp.Compressor(PackLevel), Buffer: new byte[SnapshotFile.Chunk]), (n, _, tools) =>
                {
                    long start = SnapshotFile.FirstPage + (long)(first + n) * SnapshotFile.Chunk;
                    Span<byte> chunk = tools.Buffer.AsSpan(0, (int)Math.Min(SnapshotFile.Chunk, end - start));
                    if (HostFile.Read(_file, chunk, start) < chunk.Length) throw new EndOfStreamException("it ends too early");
                    together[n] = tools.Packer.Wrap(chunk).ToArray();
                    return tools;
                }, tools => tools.Packer.Dispose());
                for (int n = 0; n < count; n++)
                {
                    RandomAccess.Write(file, together[n], position);
                    lengths[first + n] = together[n].Length;
                    position += together[n].Length;
                }
            }
        }
        catch (Exception e)
        {
            file.Dispose();
            File.Delete(temporary);
            if (e is AggregateException { InnerException: IOException inner }) throw new IOException(inner.Message, inner);
            throw;
        }
        _file.Dispose();
        File.Delete(_temporary!);
        (_temporary, _file) = (temporary, file);
        _end = (position + SnapshotFile.FirstPage - 1) / SnapshotFile.FirstPage * SnapshotFile.FirstPage;
        return lengths;
    }

    /// <summary>Ranges of the memory with something in them, ascending.</summary>
    private static unsafe List<(ulong Offset, ulong Length)> Content(GuestMemory memory)
    {
        IReadOnlyList<(ulong Offset, ulong Length)> allocated = memory.Backing.Allocated();
        for (ulong gap = ShortestGap; ; gap *= 2)
        {
            var ranges = new List<(ulong Offset, ulong Length)>();
            foreach ((ulong offset, ulong length) in allocated)
            {
                for (ulong at = offset; at < offset + length; at += GuestMemory.PageSize)
                {
                    if (!new ReadOnlySpan<byte>(memory.Backing.Pointer + at, (int)GuestMemory.PageSize).ContainsAnyExcept((byte)0)) continue;
                    if (ranges.Count > 0 && at - (ranges[^1].Offset + ranges[^1].Length) < gap * GuestMemory.PageSize)
                        ranges[^1] = (ranges[^1].Offset, at + GuestMemory.PageSize - ranges[^1].Offset);
                    else ranges.Add((at, GuestMemory.PageSize));
                }
            }
            if (ranges.Count <= MostRanges) return ranges;
        }
    }

    private unsafe void Write(byte* from, ulong length, long position) => Guard(() =>
    {
        for (ulong done = 0; done < length;)
        {
            int count = (int)Math.Min(Piece, length - done);
            RandomAccess.Write(_file, new ReadOnlySpan<byte>(from + done, count), position + (long)done);
            done += (ulong)count;
        }
        return 0;
    });

    private T Guard<T>(Func<T> action)
    {
        try
        {
            return action();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw Failed(e);
        }
    }

    private CannotWriteException Failed(Exception e) => new(_what, HostError.Reason(e), e);

    /// <summary>A file that is not complete is gone.</summary>
    public void Dispose()
    {
        if (_path is null) return;
        _file.Dispose();
        if (_done) return;
        try
        {
            File.Delete(_temporary!);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It is not under the name that anybody opens.
        }
    }
}

/// <summary>What a snapshot's file says beside the memory.</summary>
internal sealed record SnapshotContents(IReadOnlyList<SavedState> Parts, MachineDescription Machine, FileMark[] Disks, WaitingGuest? Waits)
{
    /// <inheritdoc cref="SnapshotManifest.Fork"/>
    public ForkOrigin? Fork { get; init; }
}
