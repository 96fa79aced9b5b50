namespace Bunraku.Storage;

/// <summary>
/// What is behind a disk: bytes by position. Any number of threads at a time; each call waits for the host. Of accesses to the same bytes at the same time
/// each byte is that of one of them.
/// </summary>
public interface IBlockBackend : IDisposable
{
    /// <summary>Size of the disk in bytes: a multiple of 512. It changes only where an owner resizes the disk.</summary>
    ulong Length { get; }

    /// <summary>True: the guest may not write.</summary>
    bool IsReadOnly { get; }

    /// <summary>What is discarded or zeroed in pieces of so many bytes, aligned, costs nothing to write: a power of two, at least 512.</summary>
    uint Granularity { get; }

    /// <summary>Reads exactly so many bytes. Inside the disk.</summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void Read(ulong position, Span<byte> destination);

    /// <summary>Writes. Inside the disk. Lasting only after <see cref="Flush"/>.</summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void Write(ulong position, ReadOnlySpan<byte> source);

    /// <summary>What was written before survives the loss of the host's power when this returns.</summary>
    /// <exception cref="IOException">The host cannot. What was written is in doubt from then on: every further flush fails, too.</exception>
    void Flush();

    /// <summary>
    /// A range reads as zeros from now on. Room that it takes on the host is given back if that is possible and <paramref name="unmap"/> allows it.
    /// </summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void WriteZeroes(ulong position, ulong length, bool unmap);

    /// <summary>
    /// The guest has no use for what is in a range: what is read there afterwards is anything that the guest itself has written there, or zeros.
    /// </summary>
    /// <exception cref="IOException">The host cannot.</exception>
    void Discard(ulong position, ulong length);

    /// <summary>How many bytes from a position on are known to be zero without being read; 0: nothing is known.</summary>
    /// <exception cref="IOException">The host cannot.</exception>
    ulong KnownZeros(ulong position);
}
