namespace Bunraku.Platform;

/// <summary>Address space in which pages of a memory can be seen again, in any order. Nothing is accessible elsewhere in it. One thread.</summary>
/// <remarks>
/// Invariant: [<see cref="HostMapping.Pointer"/>, +<see cref="Length"/>) belongs to this window until <see cref="HostMapping.Dispose"/>, and holds pages of its
/// memory only.
/// </remarks>
public sealed unsafe class AddressWindow : HostMapping
{
    private readonly RamBacking _memory;

    private AddressWindow(RamBacking memory, ulong length, byte* pointer)
    {
        (_memory, Length) = (memory, length);
        Own(pointer, length);
    }

    /// <summary>An empty window; null when the host refuses: no address space, or all of it would have to be locked in memory.</summary>
    /// <param name="length">Bytes, a multiple of 4096.</param>
    public static AddressWindow? TryCreate(RamBacking memory, ulong length)
    {
        void* at = Reserve(null, length);
        return at == Libc.MapFailed ? null : new AddressWindow(memory, length, (byte*)at);
    }

    /// <summary>Size in bytes.</summary>
    public ulong Length { get; }

    /// <summary>
    /// Shows the memory's page at <paramref name="source"/> at <paramref name="offset"/>, both multiples of 4096 and inside. False: the host refuses.
    /// </summary>
    public bool TryShow(ulong offset, ulong source)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(offset, Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(source, _memory.Length);
        const int flags = Libc.MapShared | Libc.MapFixed | Libc.MapPopulate;
        return Libc.Mmap(Pointer + offset, 0x1000, Libc.ProtRead | Libc.ProtWrite, flags, _memory.Descriptor, (long)source) != Libc.MapFailed;
    }

    /// <summary>Takes everything away.</summary>
    public void Clear() => Reserve(Pointer, Length);

    private static void* Reserve(byte* at, ulong length) =>
        Libc.Mmap(at, (nuint)length, Libc.ProtNone, Libc.MapPrivate | Libc.MapAnonymous | Libc.MapNoReserve | (at == null ? 0 : Libc.MapFixed), -1, 0);
}
