using System.Buffers;
using System.Buffers.Binary;
using System.ComponentModel;
using System.IO.Hashing;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using System.Text.Json;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions.Snapshots;

/// <summary>
/// A saved VM in a file, open to be restored: docs/snapshots.md has the format. The file comes from anywhere: nothing of it is used before it was checked. The
/// state's own contents are checked by whom they are restored to.
/// </summary>
/// <remarks>For one thread. A restored VM needs the file's contents as long as it lives, but not this object.</remarks>
internal sealed class SnapshotFile : IMemoryContent, IDisposable
{
    /// <summary>The format that this program writes and reads.</summary>
    public const int Version = 2;

    /// <summary>Bytes that one checksum is for.</summary>
    public const int Chunk = 1 << 20;

    /// <summary>Where the memory begins in the file.</summary>
    public const int FirstPage = 4096;

    /// <summary>Bounds of what is read before anything is checked, in bytes.</summary>
    private const long MostState = 256 << 20, MostManifest = 64 << 20;

    /// <summary>Bytes of a packed chunk: what does not become smaller becomes a little larger.</summary>
    private const int LongestPacked = Chunk + (Chunk >> 7) + 1024;

    private const int PageMask = (int)GuestMemory.PageSize - 1;

    private readonly SafeFileHandle _file;
    private readonly long _stateStart;

    private readonly ReadOnlyMemory<byte> _machineText;
    private MachineDescription? _machine; // once it was asked for
    private Action<string>? _damaged; // null: nothing is checked later

    private SnapshotFile(
        string path, SafeFileHandle file, SnapshotManifest manifest, long stateStart, SavedState[] parts, ReadOnlyMemory<byte> machine) =>
        (Path, _file, Manifest, _stateStart, Parts, _machineText) = (path, file, manifest, stateStart, parts, machine);

    /// <summary>As it was opened.</summary>
    public string Path { get; }

    /// <summary>What the file says of itself.</summary>
    public SnapshotManifest Manifest { get; }

    /// <summary>The state tree.</summary>
    public IReadOnlyList<SavedState> Parts { get; }

    /// <summary>Its memory can be mapped; else it is packed, and is read.</summary>
    public bool IsMapped => Manifest.Packed is null;

    /// <summary>Opens a snapshot and checks all but the memory's contents.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <exception cref="CannotStartException">It is none, or damaged, or of another version: one line.</exception>
    public static SnapshotFile Open(string path)
    {
        SafeFileHandle? file = null;
        try
        {
            if (HostFile.IsSpecial(path)) throw Unusable(path, "is no regular file");
            file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.Read | FileShare.Delete);
            return Read(path, file);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            file?.Dispose();
            throw Unusable(path, e is FileNotFoundException or DirectoryNotFoundException ? "no such file" : HostError.Reason(e), e);
        }
        catch
        {
            file?.Dispose();
            throw;
        }
    }

    /// <summary>
    /// The memory's contents are not compared by <see cref="Verify"/>, but when the guest uses them: <see cref="CopyTo"/> makes <see cref="LaterCheck"/>. For a
    /// mapped file, and an engine that asks for pages.
    /// </summary>
    /// <param name="damaged">Told what is wrong, once something is, by who found it: any thread, a vCPU's too.</param>
    public void VerifyLater(Action<string> damaged) => _damaged = damaged;

    /// <summary>Null: there is nothing to check any more. Whoever has it disposes of it.</summary>
    public MemoryCheck? LaterCheck { get; private set; }

    /// <summary>One line.</summary>
    public CannotStartException Unusable(string why) => Unusable(Path, why);

    private static CannotStartException Unusable(string path, string why, Exception? inner = null) => new($"snapshot {path}: {why}", inner);

    private static SnapshotFile Read(string path, SafeFileHandle file)
    {
        Span<byte> bytes = stackalloc byte[Marshal.SizeOf<SnapshotHeader>()];
        long length = RandomAccess.GetLength(file);
        if (length < bytes.Length || HostFile.Read(file, bytes, 0) != bytes.Length) throw Unusable(path, "is no snapshot of a VM");
        SnapshotHeader header = MemoryMarshal.Read<SnapshotHeader>(bytes);
        if (header.Magic != SnapshotHeader.Mark) throw Unusable(path, "is no snapshot of a VM");
        if (header.Version != Version)
        {
            string writer = header.Version > Version ? "a newer" : "an older";
            throw Unusable(path, $"version {header.Version} of the format was written by {writer} program; this one knows version {Version}");
        }
        if (header.StateStart < FirstPage || (header.StateStart & PageMask) != 0 || header.ManifestStart < header.StateStart
            || header.End < header.ManifestStart || header.ManifestStart - header.StateStart > MostState || header.End - header.ManifestStart > MostManifest)
            throw Unusable(path, "is damaged: its header makes no sense");
        if (header.End != length) throw Unusable(path, $"is damaged: it has {length} bytes and was written with {header.End}");
        byte[] tail = new byte[header.End - header.StateStart];
        if (HostFile.Read(file, tail, header.StateStart) < tail.Length) throw Unusable(path, "was made shorter while it was read");
        Span<byte> digest = stackalloc byte[SHA256.HashSizeInBytes];
        SHA256.HashData(tail, digest);
        if (!digest.SequenceEqual(header.Digest)) throw Unusable(path, "is damaged: its state is not what was written");
        int stateLength = (int)(header.ManifestStart - header.StateStart);
        SnapshotManifest manifest;
        try
        {
            manifest = (SnapshotManifest)RecordReader.Read(tail.AsSpan(stateLength), typeof(SnapshotManifest));
        }
        catch (JsonException e)
        {
            throw Unusable(path, $"its description cannot be read: {e.Message.ReplaceLineEndings(" ")}", e);
        }
        // It is not checked as much, and brings disks that are not looked at: it is what this program has made of a VM that runs, which nobody can name.
        if (manifest.Fork is not null && !HostFile.IsNameless(file))
            throw Unusable(path, "is the beginning of a running VM's copies, and of use for 'fork' alone; what 'save' writes can be restored");
        Check(path, manifest, header);
        long stateStart = header.StateStart;
        return new SnapshotFile(path, file, manifest, stateStart, [.. manifest.Parts.Select(Part)], Part(manifest.Machine).Data);

        SavedState Part(SnapshotPart part)
        {
            long start = part.Position - stateStart;
            if (start < 0 || part.Length < 0 || start > stateLength - part.Length)
                throw Unusable(path, $"is damaged: the state of {part.Id} lies outside");
            return new SavedState(part.Id, part.Format, part.Version, tail.AsMemory((int)start, part.Length));
        }
    }

    /// <summary>What has to be there before the state is restored.</summary>
    /// <exception cref="CannotStartException">It cannot be read, or a disk is not what it was.</exception>
    public MachineDescription Machine => _machine ??= ReadMachine();

    private MachineDescription ReadMachine()
    {
        MachineDescription machine;
        try
        {
            machine = MachineDescription.Parse(_machineText.Span);
        }
        catch (StateFormatException e)
        {
            throw Unusable(Path, e.Message, e);
        }
        string[] disks = [.. machine.Disks.Select(d => d.Image.Path), .. machine.CompactDiscs];
        if (disks.Length != Manifest.Disks.Length) throw Unusable(Path, "is damaged: its disks have no marks");
        for (int n = 0; n < disks.Length; n++)
        {
            bool isCopy = Manifest.Fork is not null && n < machine.Disks.Count && machine.Disks[n].Throwaway && Manifest.Disks[n] == FileMark.None;
            if (!isCopy && Manifest.Disks[n].Problem(disks[n]) is { } problem) throw Unusable(Path, problem);
        }
        return machine;
    }

    /// <summary>Where the memory ends: in the file, or in what it becomes when it is unpacked.</summary>
    private static long EndOfMemory(SnapshotManifest manifest, long stateStart) => manifest.Packed is null ? stateStart
        : manifest.Memory.Aggregate((long)FirstPage, (end, r) => Math.Max(end, r.Position + (long)r.Length));

    private static void Check(string path, SnapshotManifest manifest, in SnapshotHeader header)
    {
        // What is packed becomes no more than the memory, whatever it says.
        long last = manifest.Packed is null ? header.StateStart : FirstPage + (long)Math.Min(manifest.MemorySize, long.MaxValue - FirstPage);
        ulong end = 0;
        foreach (SnapshotRange r in manifest.Memory)
        {
            if (r.Length == 0 || ((r.Offset | r.Length) & PageMask) != 0 || r.Offset < end || r.Offset > manifest.MemorySize
                || r.Length > manifest.MemorySize - r.Offset || (r.Position & PageMask) != 0 || r.Position < FirstPage || r.Position > last
                || r.Length > (ulong)(last - r.Position))
                throw Unusable(path, $"is damaged: its piece of memory at {r.Offset:X} lies outside");
            end = r.Offset + r.Length;
        }
        long chunks = (EndOfMemory(manifest, header.StateStart) - FirstPage + Chunk - 1) / Chunk;
        if (manifest.Checksums.Length != chunks && (manifest.Fork is null || manifest.Checksums.Length > 0))
            throw Unusable(path, $"is damaged: it has {manifest.Checksums.Length} checksums and needs {chunks}");
        if (manifest.Waits is { } waits && (waits.Token is not { Length: > 0 and <= 64 } token || !token.All(char.IsAsciiLetterOrDigit)))
            throw Unusable(path, "is damaged: its guest's token is none"); // a file's name has it in it
        if (manifest.Packed is not { } packed) return;
        if (packed.Length != chunks || manifest.Checksums.Length != chunks || Array.Exists(packed, n => n is <= 0 or > LongestPacked)
            || packed.Sum(n => (long)n) > header.StateStart - FirstPage)
            throw Unusable(path, "is damaged: its packed pieces make no sense");
    }

    /// <summary>Reads the memory's contents and compares them with their checksums; what is packed is compared when it is unpacked.</summary>
    /// <exception cref="CannotStartException">They differ, or cannot be read.</exception>
    public void Verify()
    {
        if (!IsMapped) return;
        ulong[] now;
        try
        {
            now = Checksums(_file, _stateStart);
        }
        catch (IOException e)
        {
            throw Unusable(Path, HostError.Reason(e), e);
        }
        int same = now.AsSpan().CommonPrefixLength(Manifest.Checksums);
        if (same < now.Length) throw Unusable(Path, NotWhatWasWritten(PlaceOf(same)));
    }

    /// <summary>What is wrong with one chunk of the memory in a file; null: nothing. Any thread.</summary>
    /// <param name="end">Where the memory ends in the file.</param>
    /// <param name="checksum">That of the chunk as it was written.</param>
    public static string? ChunkProblem(SafeFileHandle file, int chunk, long end, ulong checksum)
    {
        byte[] buffer = ArrayPool<byte>.Shared.Rent(Chunk);
        try
        {
            return ChecksumOf(file, chunk, end, buffer) == checksum ? null : NotWhatWasWritten(PlaceOf(chunk));
        }
        catch (EndOfStreamException)
        {
            return "was made shorter while it was read";
        }
        catch (IOException e)
        {
            return HostError.Reason(e);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    private static long PlaceOf(int chunk) => FirstPage + (long)chunk * Chunk;

    /// <param name="buffer">Room for a chunk.</param>
    /// <exception cref="IOException">It cannot be read; <see cref="EndOfStreamException"/>: the file ends before.</exception>
    private static ulong ChecksumOf(SafeFileHandle file, int chunk, long end, byte[] buffer)
    {
        long start = PlaceOf(chunk);
        Span<byte> bytes = buffer.AsSpan(0, (int)Math.Min(Chunk, end - start));
        if (HostFile.Read(file, bytes, start) < bytes.Length) throw new EndOfStreamException("it ends too early");
        return XxHash3.HashToUInt64(bytes);
    }

    private static string NotWhatWasWritten(long position) => $"is damaged: its memory is not what was written, from byte {position} on";

    /// <summary>The checksums of what lies between the header and <paramref name="end"/>.</summary>
    /// <exception cref="IOException">The file cannot be read, or ends before.</exception>
    public static ulong[] Checksums(SafeFileHandle file, long end)
    {
        var sums = new ulong[(end - FirstPage + Chunk - 1) / Chunk];
        try
        {
            Parallel.For(0, sums.Length, () => new byte[Chunk], (n, _, buffer) =>
            {
                sums[n] = ChecksumOf(file, n, end, buffer);
                return buffer;
            }, _ => { });
        }
        catch (AggregateException e) when (e.InnerExceptions[0] is IOException inner)
        {
            throw new IOException(inner.Message, inner);
        }
        return sums;
    }

    /// <inheritdoc/>
    public void CopyTo(GuestMemory memory)
    {
        if (memory.Size != Manifest.MemorySize)
            throw new StateFormatException($"the saved machine has {Manifest.MemorySize} bytes of memory, this one {memory.Size}");
        try
        {
            memory.Load(_file, !IsMapped ? [] : [.. Manifest.Memory.Select(r => new FileRange(r.Offset, r.Length, r.Position))]);
            if (!IsMapped) Unpack(memory, Manifest.Packed!);
            else if (_damaged is not null) LaterCheck = new MemoryCheck(memory, _file, Manifest, _stateStart, _damaged);
        }
        catch (Exception e) when (e is IOException or Win32Exception)
        {
            throw new StateFormatException($"its memory cannot be had: {e.Message}", e);
        }
    }

    /// <summary>Unpacks the memory, which is all zeros.</summary>
    /// <exception cref="IOException">It is not what was written.</exception>
    private void Unpack(GuestMemory memory, int[] packed)
    {
        SnapshotRange[] ranges = [.. Manifest.Memory.OrderBy(r => r.Position)];
        for (int n = 1; n < ranges.Length; n++)
        {
            if (ranges[n].Position < ranges[n - 1].Position + (long)ranges[n - 1].Length) throw new IOException("two pieces of it lie at one place");
        }
        long end = EndOfMemory(Manifest, _stateStart);
        var positions = new long[packed.Length];
        for (int n = 0; n < packed.Length; n++) positions[n] = n == 0 ? FirstPage : positions[n - 1] + packed[n - 1];
        try
        {
            Parallel.For(0, packed.Length, () => new Unpacker(), (n, _, tools) =>
            {
                long start = FirstPage + (long)n * Chunk;
                Span<byte> chunk = tools.Chunk.AsSpan(0, (int)Math.Min(Chunk, end - start)), bytes = tools.Packed.AsSpan(0, packed[n]);
                if (HostFile.Read(_file, bytes, positions[n]) < bytes.Length) throw new EndOfStreamException("it ends too early");
                if (!tools.Unpacks(bytes, chunk) || XxHash3.HashToUInt64(chunk) != Manifest.Checksums[n])
                    throw new InvalidDataException($"it is not what was written, from byte {positions[n]} on");
                Distribute(memory, ranges, chunk, start);
                return tools;
            }, tools => tools.Dispose());
        }
        catch (AggregateException e) when (e.InnerExceptions[0] is IOException or InvalidDataException)
        {
            throw new IOException(e.InnerExceptions[0].Message, e);
        }
        memory.Code.AllWritten();
    }

    private sealed class Unpacker : IDisposable
    {
        private readonly ZstdSharp.Decompressor _zstd = new();

        public byte[] Packed { get; } = new byte[LongestPacked];
        public byte[] Chunk { get; } = new byte[SnapshotFile.Chunk];

        /// <summary>False: it is not so many bytes, packed.</summary>
        public bool Unpacks(ReadOnlySpan<byte> packed, Span<byte> chunk)
        {
            try
            {
                return _zstd.TryUnwrap(packed, chunk, out int length) && length == chunk.Length;
            }
            catch (ZstdSharp.ZstdException)
            {
                return false;
            }
        }

        public void Dispose() => _zstd.Dispose();
    }

    /// <summary>Puts a chunk's bytes to the places of the ranges that it has parts of.</summary>
    /// <param name="ranges">By position, which differ.</param>
    /// <param name="start">Position of the chunk.</param>
    private static unsafe void Distribute(GuestMemory memory, SnapshotRange[] ranges, ReadOnlySpan<byte> chunk, long start)
    {
        int low = 0, high = ranges.Length;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (ranges[middle].Position + (long)ranges[middle].Length <= start) low = middle + 1;
            else high = middle;
        }
        for (; low < ranges.Length && ranges[low].Position < start + chunk.Length; low++)
        {
            SnapshotRange r = ranges[low];
            long from = Math.Max(r.Position, start), to = Math.Min(r.Position + (long)r.Length, start + chunk.Length);
            // Inside the memory: Check has seen to it.
            chunk[(int)(from - start)..(int)(to - start)].CopyTo(
                new Span<byte>(memory.Backing.Pointer + r.Offset + (ulong)(from - r.Position), (int)(to - from)));
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (LaterCheck is null) _file.Dispose(); // else it is the check's
    }
}

/// <summary>The first bytes of a snapshot's file, little-endian.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct SnapshotHeader
{
    /// <summary>"BNRKSNAP".</summary>
    public const ulong Mark = 0x50414E534B524E42;

    /// <summary><see cref="Mark"/>.</summary>
    public ulong Magic;
    /// <summary>Version of the format.</summary>
    public int Version;
    /// <summary>0.</summary>
    public int Reserved;
    /// <summary>Where the memory ends and the state begins; a multiple of 4096.</summary>
    public long StateStart;
    /// <summary>Where the manifest begins, which reaches to the end.</summary>
    public long ManifestStart;
    /// <summary>Bytes of the file.</summary>
    public long End;
    /// <summary>SHA-256 of state and manifest.</summary>
    public DigestBytes Digest;
}

/// <summary>SHA-256.</summary>
[System.Runtime.CompilerServices.InlineArray(SHA256.HashSizeInBytes)]
internal struct DigestBytes
{
    private byte _first;
}
