namespace Bunraku.Storage.Qcow2;

/// <summary>What an entry of a table of the second level says of a cluster.</summary>
internal enum ClusterKind
{
    /// <summary>The backing file has it, or it is zero.</summary>
    Unallocated,
    /// <summary>Its bytes lie at <see cref="TableEntry.Offset"/>.</summary>
    Data,
    /// <summary>It is zero; where <see cref="TableEntry.Offset"/> is not 0, room is kept for it.</summary>
    Zero,
    /// <summary>Its bytes are compressed.</summary>
    Compressed,
}

/// <summary>An entry of a table of the first or second level: docs/interop/qcow2.txt, "Cluster mapping".</summary>
internal readonly record struct TableEntry(ulong Value)
{
    private const ulong CopiedBit = 1ul << 63, CompressedBit = 1ul << 62, ZeroBit = 1, OffsetMask = 0x00FF_FFFF_FFFF_FE00;

    public static TableEntry Zero => new(ZeroBit);

    /// <summary>An entry whose cluster nobody else refers to.</summary>
    public static TableEntry Owned(ulong offset) => new(offset | CopiedBit);

    /// <summary>Nobody else refers to the cluster: it may be written where it is.</summary>
    public bool IsOwned => (Value & CopiedBit) != 0;

    /// <summary>Where the cluster lies in the file; not for compressed ones.</summary>
    public ulong Offset => Value & OffsetMask;

    public ClusterKind Kind => (Value & CompressedBit) != 0 ? ClusterKind.Compressed : (Value & ZeroBit) != 0 ? ClusterKind.Zero
        : Offset == 0 ? ClusterKind.Unallocated : ClusterKind.Data;

    /// <summary>The same with the owner's bit set or cleared.</summary>
    public TableEntry WithOwned(bool owned) => new(owned ? Value | CopiedBit : Value & ~CopiedBit);

    public static TableEntry Compressed(ulong position, int bytes, int clusterBits)
    {
        ulong sectors = (position + (ulong)bytes - 1) / 512 - position / 512;
        return new(CompressedBit | sectors << PositionBits(clusterBits) | position);
    }

    /// <summary>Where compressed bytes begin, and at most how many there are: whole sectors of 512 bytes behind the first.</summary>
    public (ulong Position, int Length) CompressedRange(int clusterBits)
    {
        int bits = PositionBits(clusterBits);
        ulong position = Value & ((1ul << bits) - 1);
        int sectors = (int)(Value >> bits & ((1ul << (62 - bits)) - 1)) + 1;
        return (position, sectors * 512 - (int)(position & 511));
    }

    private static int PositionBits(int clusterBits) => 62 - (clusterBits - 8);
}
