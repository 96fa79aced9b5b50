using Bunraku.Platform;
using Bunraku.Storage;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions.Snapshots;

/// <summary>
/// A copy of what a disk held at one moment, made while it goes on being written: who is about to change a piece copies it first. A raw image without a name
/// in the folder for temporary files; what is zero takes no room. Any number of threads.
/// </summary>
internal sealed class DiskCopy : IDisposable
{
    private const int Piece = 128 << 10;

    private readonly IBlockBackend _disk;
    private readonly string _name;
    private readonly Action<DiskCopy> _over;
    private readonly SafeFileHandle _file;
    private readonly ulong _length; // of the disk at that moment: it may grow
    private readonly bool[] _copied; // by pieces: set with the lock held, once it is written
    private readonly byte[] _buffer = new byte[Piece]; // guarded by the lock
    private readonly Lock _lock = new();
    private IOException? _failure; // guarded by the lock: the copy is none

    /// <param name="disk">Nobody changes it now, and nobody changes it later without <see cref="BeforeChange"/>.</param>
    /// <param name="name">The disk's, for messages.</param>
    /// <param name="over">It need not be told of changes any more. Once or more, and maybe when another copy is under way.</param>
    /// <exception cref="IOException">There is no place for it.</exception>
    public DiskCopy(IBlockBackend disk, string name, Action<DiskCopy> over)
    {
        (_disk, _name, _over, _length) = (disk, name, over, disk.Length);
        _copied = new bool[(_length + Piece - 1) / Piece];
        try
        {
            _file = HostFile.CreateNameless();
        }
        catch (UnauthorizedAccessException e)
        {
            throw new IOException(HostError.Reason(e), e);
        }
        RandomAccess.SetLength(_file, (long)_length);
    }

    /// <summary>By which it can be opened for as long as this is not disposed of.</summary>
    public string Path => HostFile.PathOf(_file);

    /// <summary>Somebody is about to write there. Where the copy cannot be made, that is the copy's trouble alone.</summary>
    public void BeforeChange(ulong position, ulong length)
    {
        ulong end = Math.Min(position + length, _length);
        for (ulong n = position / Piece; n * Piece < end; n++) Copy(n);
    }

    private void Copy(ulong piece)
    {
        if (Volatile.Read(ref _copied[piece])) return;
        lock (_lock)
        {
            if (_copied[piece] || _failure is not null) return;
            try
            {
                ulong start = piece * Piece;
                Span<byte> bytes = _buffer.AsSpan(0, (int)Math.Min(Piece, _length - start));
                if (_disk.KnownZeros(start) < (ulong)bytes.Length)
                {
                    _disk.Read(start, bytes);
                    if (bytes.ContainsAnyExcept((byte)0)) RandomAccess.Write(_file, bytes, (long)start);
                }
                Volatile.Write(ref _copied[piece], true);
            }
            catch (IOException e)
            {
                _failure = e;
            }
        }
    }

    /// <summary>Copies the rest. The machine may run.</summary>
    /// <exception cref="IOException">The copy could not be made: the folder for temporary files is full, for example.</exception>
    public void Complete()
    {
        for (ulong n = 0; n < (ulong)_copied.Length; n++) Copy(n);
        _over(this);
        lock (_lock)
        {
            if (_failure is { } e)
                throw new IOException($"the copy of the disk {_name} in {System.IO.Path.GetTempPath()}: {HostError.Reason(e)}", e);
        }
    }

    /// <summary>Who has opened the copy keeps it.</summary>
    public void Dispose()
    {
        _over(this);
        lock (_lock)
        {
            _failure ??= new IOException("nobody wants the copy any more");
            _file.Dispose();
        }
    }
}
