using Bunraku.Platform;
using Bunraku.Sessions.Snapshots;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Sessions;

/// <summary>What of an image shows in the guest: with another one it is another disk.</summary>
/// <param name="Length">Bytes of the disk.</param>
/// <param name="Granularity">See <see cref="IBlockBackend.Granularity"/>.</param>
internal readonly record struct DiskShape(ulong Length, uint Granularity, bool IsReadOnly);

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

    public ulong Length => Shape.Length;
    public bool IsReadOnly => Shape.IsReadOnly;
    public uint Granularity => Shape.Granularity;
    public void Read(ulong position, Span<byte> destination) => Image.Read(position, destination);
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
            catch (IOException e) when (MayTryAgain(e))
            {
                // There may be room now.
            }
        }
    }

    /// <summary>The host had no room, and somebody has let the machine go on since.</summary>
    private bool MayTryAgain(IOException e) => HostError.IsNoSpace(e) && AwaitRoom?.Invoke(_path) == true;

    public void Flush() => Image.Flush();

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
            catch (IOException e) when (MayTryAgain(e))
            {
                // As above.
            }
        }
    }

    public void Discard(ulong position, ulong length)
    {
        _copy?.BeforeChange(position, length);
        Image.Discard(position, length);
    }

    public ulong KnownZeros(ulong position) => Image.KnownZeros(position);
    public void Dispose() => _image?.Dispose();
}
