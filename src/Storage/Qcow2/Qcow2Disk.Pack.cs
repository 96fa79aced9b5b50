namespace Bunraku.Storage.Qcow2;

public sealed partial class Qcow2Disk
{
    private ulong _packedAt, _packedEnd; // room behind the compressed bytes that were written last, in clusters that hold nothing else

    /// <summary>
    /// Writes one whole cluster, compressed where that makes it smaller. For images that are made at once: what is compressed is never written in place.
    /// </summary>
    /// <param name="position">Of a cluster that nothing was written to.</param>
    /// <param name="cluster">As many bytes as a cluster has; what lies behind the end of the disk is zero.</param>
    internal void WritePacked(ulong position, byte[] cluster)
    {
        byte[]? packed = Compression.Pack(cluster);
        if (packed is null)
        {
            Write(position, cluster.AsSpan(0, (int)Math.Min((ulong)cluster.Length, Length - position)));
            return;
        }
        Exclusive(position, packed, (at, bytes) =>
        {
            (int first, int index) = Indexes(at);
            ulong place = PlaceFor(bytes.Length);
            _file.Write(place, bytes);
            Replace(L2ToWrite(first), index, TableEntry.Compressed(place, bytes.Length, _header.ClusterBits));
            return bytes.Length;
        });
    }

    /// <summary>Room for compressed bytes, behind those before where they fit: each adds one to the counts of the clusters in which it lies.</summary>
    private ulong PlaceFor(int length)
    {
        ulong place = _packedAt, end = _packedEnd;
        if (end - place < (ulong)length)
        {
            ulong added = Refcounts.Allocate(1, orLess: true).First << _header.ClusterBits;
            // The count of a new one is that of these bytes already.
            if (added == end && place < end) Refcounts.Change(place >> _header.ClusterBits, 1);
            else place = added;
            _packedEnd = added + ClusterSize;
        }
        else
        {
            Refcounts.Change(place >> _header.ClusterBits, 1);
        }
        _packedAt = place + (ulong)length;
        return place;
    }
}
