namespace Bunraku.Storage;

/// <summary>
/// The file below an image format. Any number of threads at a time. What was written is lasting after <see cref="Flush"/>; before it the host's power may fail
/// with any part of it on the disk, sector by sector of 512 bytes.
/// </summary>
public interface IImageFile : IDisposable
{
    /// <summary>As the user wrote it, for messages.</summary>
    string Name { get; }

    /// <summary>Bytes.</summary>
    ulong Length { get; }

    /// <summary>Reads; bytes behind the end are zero.</summary>
    /// <returns>How many bytes the file had of them.</returns>
    /// <exception cref="IOException">The host cannot.</exception>
    int Read(ulong position, Span<byte> destination);

    /// <summary>Writes; the file becomes longer where that is needed.</summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void Write(ulong position, ReadOnlySpan<byte> source);

    /// <summary>What was written is lasting when this returns.</summary>
    /// <exception cref="IOException">The host cannot, from now on.</exception>
    void Flush();

    /// <summary>A range reads as zeros, and takes no room any more where <paramref name="unmap"/> asks for that and the host can. The length stays.</summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void Zero(ulong position, ulong length, bool unmap);

    /// <summary>Gives the room of a range back if the host can; then it reads as zeros. The length stays.</summary>
    void Discard(ulong position, ulong length);

    /// <summary>Cuts the file, or adds zeros.</summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void Resize(ulong length);

    /// <summary>Bytes from a position on that the host does not store, and so are zero; 0 where it stores them or does not know.</summary>
    ulong Hole(ulong position);
}
