using Bunraku.Platform;
using Bunraku.Sessions.Snapshots;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Sessions;

/// <summary>What of an image shows in the guest: with another one it is another disk.</summary>
/// <param name="Length">Bytes of the disk.</param>
/// <param name="Granularity">See <see cref="IBlockBackend.Granularity"/>.</param>
internal readonly record struct DiskShape(ulong Length, uint Granularity, bool IsReadOnly);

/// <summary>The host could not do what a guest's request to a disk asked for.</summary>
/// <param name="Disk">Number of the disk; discs (<see cref="VmOptions.CompactDiscs"/>) follow behind the disks.</param>
/// <param name="IsRead">It was to be read; else written, made lasting or discarded.</param>
/// <param name="LacksRoom">The host has no room for it.</param>
/// <param name="Stops">The machine is stopped and tries again when it is let go on (<see cref="VmDisk.StopsWhenFull"/>); else the guest was told.</param>
/// <param name="Reason">The host's words, as other programs print them.</param>
public readonly record struct DiskError(int Disk, bool IsRead, bool LacksRoom, bool Stops, string Reason);

/// <summary>What is known of a disk or disc of a VM.</summary>
/// <param name="Path">As the user wrote it.</param>
/// <param name="Format">How the bytes lie there; those of a throwaway disk over it are a qcow2 image's. Null: another machine has it.</param>
/// <param name="Length">Bytes.</param>
/// <param name="IsReadOnly">The guest can only read.</param>
/// <param name="LacksRoom">A request waits until the host has room for it: see <see cref="VmDisk.StopsWhenFull"/>.</param>
public readonly record struct DiskState(string Path, ImageFormat? Format, ulong Length, bool IsReadOnly, bool LacksRoom);

/// <summary>
/// A disk whose image is opened when it is needed, and closed for another machine that goes on with it: two never have it open. Any number of threads, as
/// <see cref="IBlockBackend"/> says; opened and closed while the machine is paused.
/// </summary>
internal sealed class GuestDisk : IBlockBackend
{
    private readonly Func<IBlockBackend> _open;
    private readonly string _path;
    private volatile IBlockBackend? _image;
    private DiskShape _shape; // as long as it is closed
    private volatile DiskCopy? _copy; // is told before anything is written

    /// <summary>
    /// Asked where the host has no room for what the guest writes: true when there may be some by now. Null: the guest is told of an error. Set before it runs.
    /// </summary>
    public Func<string, bool>? AwaitRoom { get; set; }

    /// <summary>Told of each error of the host that the guest's requests meet. Set before it runs.</summary>
    public Action<DiskError>? Failed { get; set; }

    /// <summary>Its number among the disks and discs of the machine.</summary>
    public int Number { get; init; }

    private int _waiting; // requests that wait for room

    /// <summary>A request waits until there is room.</summary>
    public bool LacksRoom => Volatile.Read(ref _waiting) > 0;

    /// <summary>Opens it at once.</summary>
    /// <exception cref="IOException">It cannot be had.</exception>
    public GuestDisk(string path, Func<IBlockBackend> open)
    {
        (_path, _open) = (path, open);
        _image = open();
    }

    /// <summary>Closed so far.</summary>
    public GuestDisk(string path, Func<IBlockBackend> open, DiskShape shape) => (_path, _open, _shape) = (path, open, shape);

    /// <summary>What the guest sees of it.</summary>
    public DiskShape Shape => _image is { } image ? new(image.Length, image.Granularity, image.IsReadOnly) : _shape;

    /// <summary>What is known of it.</summary>
    public DiskState State =>
        new(_path, _image switch { null => null, RawDisk => ImageFormat.Raw, _ => ImageFormat.Qcow2 }, Length, IsReadOnly, LacksRoom);

    /// <summary>The image is open here.</summary>
    public bool IsOpen => _image is not null;

    /// <summary>Opens a closed disk.</summary>
    /// <exception cref="IOException">It cannot be had, or is another one.</exception>
    public void Open()
    {
        if (_image is not null) return;
        IBlockBackend image = _open();
        if (new DiskShape(image.Length, image.Granularity, image.IsReadOnly) != _shape)
        {
            image.Dispose();
            throw new DiskException($"disk {_path}: is another one than the machine had, or has another size");
        }
        _image = image;
    }

    /// <summary>Begins a copy of what the disk holds now. While the machine is paused.</summary>
    /// <exception cref="IOException">There is no place for it.</exception>
    public DiskCopy BeginCopy() => _copy = new DiskCopy(Image, _path, over => Interlocked.CompareExchange(ref _copy, null, over)); // not a later one's

    /// <summary>Makes lasting what was written, and closes it.</summary>
    /// <exception cref="IOException">The host cannot; it stays open.</exception>
    public void Close()
    {
        if (_image is not { } image) return;
        if (!image.IsReadOnly) image.Flush();
        _shape = Shape;
        _image = null;
        image.Dispose();
    }

    /// <summary>Makes the disk larger. While the machine is paused.</summary>
    /// <exception cref="IOException">It cannot be.</exception>
    public void Grow(ulong length)
    {
        if (IsReadOnly) throw new DiskException($"disk {_path}: it can only be read");
        if (length < Length) throw new DiskException($"disk {_path}: it has {Length} bytes, and becomes no smaller while the guest has it");
        switch (Image)
        {
            case Qcow2Disk image:
                image.Resize(length);
                break;
            case RawDisk image:
                image.Resize(length);
                break;
            default:
                throw new DiskException($"disk {_path}: what is gone at the end keeps its size");
        }
    }

    /// <summary>See <see cref="ThrowawayDisk.CopyTo"/>.</summary>
    public void CopyTo(string path) => ((ThrowawayDisk)Image).CopyTo(path);

    private IBlockBackend Image => _image ?? throw new IOException($"disk {_path}: another machine has it");

    /// <summary>Tells of an error that the guest is told of.</summary>
    private void Report(IOException e, bool isRead) =>
        Failed?.Invoke(new DiskError(Number, isRead, HostError.IsNoSpace(e), Stops: false, HostError.Reason(e)));

    /// <summary>
    /// The host had no room, and somebody has let the machine go on since. What was lost when it was to be made lasting is another matter: it would be lost the
    /// next time as well, and that would look like success. Not in an exception's filter, which is asked before the image has given its locks back.
    /// </summary>
    private bool MayTryAgain(IOException e)
    {
        if (!HostError.IsNoSpace(e) || e is LostWritesException || AwaitRoom is not { } awaitRoom)
        {
            Report(e, isRead: false);
            return false;
        }
        Failed?.Invoke(new DiskError(Number, IsRead: false, LacksRoom: true, Stops: true, HostError.Reason(e)));
        Interlocked.Increment(ref _waiting);
        try
        {
            return awaitRoom(_path);
        }
        finally
        {
            Interlocked.Decrement(ref _waiting);
        }
    }

    public ulong Length => Shape.Length;
    public bool IsReadOnly => Shape.IsReadOnly;
    public uint Granularity => Shape.Granularity;

    public void Read(ulong position, Span<byte> destination)
    {
        try
        {
            Image.Read(position, destination);
        }
        catch (IOException e)
        {
            Report(e, isRead: true);
            throw;
        }
    }

    public void Write(ulong position, ReadOnlySpan<byte> source)
    {
        _copy?.BeforeChange(position, (ulong)source.Length);
        while (true)
        {
            try
            {
                Image.Write(position, source);
                return;
            }
            catch (IOException e)
            {
                if (!MayTryAgain(e)) throw;
            }
        }
    }

    /// <summary>Tables of an image may still have to be written at a flush: where there is no room for them, that is tried again as a write is.</summary>
    public void Flush()
    {
        while (true)
        {
            try
            {
                Image.Flush();
                return;
            }
            catch (IOException e)
            {
                if (!MayTryAgain(e)) throw;
            }
        }
    }

    /// <summary>The same for somebody else than the guest, who is told of what goes wrong and waits for nothing.</summary>
    public void FlushNow() => Image.Flush();

    public void WriteZeroes(ulong position, ulong length, bool unmap)
    {
        _copy?.BeforeChange(position, length);
        while (true)
        {
            try
            {
                Image.WriteZeroes(position, length, unmap);
                return;
            }
            catch (IOException e)
            {
                if (!MayTryAgain(e)) throw;
            }
        }
    }

    public void Discard(ulong position, ulong length)
    {
        _copy?.BeforeChange(position, length);
        while (true)
        {
            try
            {
                Image.Discard(position, length);
                return;
            }
            catch (IOException e) // tables of an image say what is discarded
            {
                if (!MayTryAgain(e)) throw;
            }
        }
    }

    public ulong KnownZeros(ulong position) => Image.KnownZeros(position);
    public void Dispose() => _image?.Dispose();
}
