using System.Buffers.Binary;
using System.Text;

namespace Bunraku.Storage.Qcow2;

/// <summary>A disk as it was: its own table of the first level.</summary>
internal sealed record Snapshot
{
    public required string Id { get; init; }
    public required string Name { get; init; }
    public required ulong L1Offset { get; init; }
    public required uint L1Entries { get; init; }
    /// <summary>Bytes of the disk then; null: they are not written down.</summary>
    public ulong? DiskSize { get; init; }
    /// <summary>UTC.</summary>
    public DateTime Taken { get; init; }
    /// <summary>Nanoseconds that the guest had run.</summary>
    public ulong GuestTime { get; init; }
    /// <summary>Bytes of the saved state of a machine, which QEMU keeps behind the disk.</summary>
    public ulong StateSize { get; init; }
    /// <summary>What an unknown writer keeps behind the numbers that are known.</summary>
    public byte[] More { get; init; } = [];

    public WholeTable LoadL1(IImageFile file) => WholeTable.Load(file, L1Offset, (int)L1Entries);
}

/// <summary>The snapshots inside an image: docs/interop/qcow2.txt, "Snapshots".</summary>
internal sealed class SnapshotTable
{
    private const int FixedLength = 40, KnownExtra = 16, ExtraWithInstructions = 24, MostExtra = 1024;
    private const ulong MostBytes = 64 << 20, MostL1Bytes = 1 << 30; // of the table; of the disks' tables that it leads to

    public IReadOnlyList<Snapshot> All { get; init; } = [];

    /// <summary>Bytes that the table takes in the file.</summary>
    public ulong Bytes { get; init; }

    /// <exception cref="DiskException">It is damaged.</exception>
    public static SnapshotTable Load(IImageFile file, Qcow2Header header)
    {
        var all = new List<Snapshot>();
        ulong at = header.SnapshotsOffset;
        ulong l1Bytes = 0;
        byte[] part = new byte[FixedLength];
        for (uint n = 0; n < header.SnapshotCount; n++)
        {
            Need(FixedLength);
            file.Read(at, part);
            uint extraLength = BinaryPrimitives.ReadUInt32BigEndian(part.AsSpan(36));
            int idLength = BinaryPrimitives.ReadUInt16BigEndian(part.AsSpan(12)), nameLength = BinaryPrimitives.ReadUInt16BigEndian(part.AsSpan(14));
            if (extraLength > MostExtra) throw Qcow2Header.Bad(file, $"is damaged: a snapshot has {extraLength} bytes of its own");
            byte[] rest = new byte[(int)extraLength + idLength + nameLength];
            Need((ulong)(FixedLength + rest.Length));
            file.Read(at + FixedLength, rest);
            var snapshot = new Snapshot
            {
                L1Offset = BinaryPrimitives.ReadUInt64BigEndian(part),
                L1Entries = BinaryPrimitives.ReadUInt32BigEndian(part.AsSpan(8)),
                Id = Encoding.UTF8.GetString(rest, (int)extraLength, idLength),
                Name = Encoding.UTF8.GetString(rest, (int)extraLength + idLength, nameLength),
                Taken = DateTime.UnixEpoch.AddSeconds(BinaryPrimitives.ReadUInt32BigEndian(part.AsSpan(16)))
                    .AddMicroseconds(BinaryPrimitives.ReadUInt32BigEndian(part.AsSpan(20)) / 1e3),
                GuestTime = BinaryPrimitives.ReadUInt64BigEndian(part.AsSpan(24)),
                StateSize = extraLength >= 8 ? BinaryPrimitives.ReadUInt64BigEndian(rest) : BinaryPrimitives.ReadUInt32BigEndian(part.AsSpan(32)),
                DiskSize = extraLength >= KnownExtra ? BinaryPrimitives.ReadUInt64BigEndian(rest.AsSpan(8)) : null,
                More = extraLength > KnownExtra ? rest[KnownExtra..(int)extraLength] : [],
            };
            if (snapshot.L1Entries > 0) header.Place(file, "table of a snapshot", snapshot.L1Offset, snapshot.L1Entries * 8ul);
            if ((l1Bytes += snapshot.L1Entries * 8ul) > MostL1Bytes) throw Qcow2Header.Bad(file, "has snapshots with tables of more than 1 GiB");
            all.Add(snapshot);
            at += (ulong)(FixedLength + rest.Length + 7 & ~7);
            if (at - header.SnapshotsOffset > MostBytes) throw Qcow2Header.Bad(file, "has a table of snapshots of more than 64 MiB");
        }
        return new SnapshotTable { All = all, Bytes = at - header.SnapshotsOffset };

        void Need(ulong length)
        {
            if (at > file.Length || length > file.Length - at) throw Qcow2Header.Bad(file, "is damaged: its table of snapshots ends outside the file");
        }
    }

    public static byte[] Serialize(IEnumerable<Snapshot> all)
    {
        var bytes = new MemoryStream();
        Span<byte> part = stackalloc byte[FixedLength + KnownExtra];
        foreach (Snapshot s in all)
        {
            part.Clear();
            byte[] id = Encoding.UTF8.GetBytes(s.Id), name = Encoding.UTF8.GetBytes(s.Name);
            // A reader of today wants to know of instructions that were counted: all ones are none.
            byte[] more = s.More.Length >= ExtraWithInstructions - KnownExtra ? s.More : [.. Enumerable.Repeat((byte)0xFF, ExtraWithInstructions - KnownExtra)];
            long taken = (s.Taken - DateTime.UnixEpoch).Ticks;
            BinaryPrimitives.WriteUInt64BigEndian(part, s.L1Offset);
            BinaryPrimitives.WriteUInt32BigEndian(part[8..], s.L1Entries);
            BinaryPrimitives.WriteUInt16BigEndian(part[12..], (ushort)id.Length);
            BinaryPrimitives.WriteUInt16BigEndian(part[14..], (ushort)name.Length);
            BinaryPrimitives.WriteUInt32BigEndian(part[16..], (uint)(taken / TimeSpan.TicksPerSecond));
            BinaryPrimitives.WriteUInt32BigEndian(part[20..], (uint)(taken % TimeSpan.TicksPerSecond * 100));
            BinaryPrimitives.WriteUInt64BigEndian(part[24..], s.GuestTime);
            BinaryPrimitives.WriteUInt32BigEndian(part[32..], (uint)Math.Min(s.StateSize, uint.MaxValue));
            BinaryPrimitives.WriteUInt32BigEndian(part[36..], (uint)(s.DiskSize is null ? 0 : KnownExtra + more.Length));
            BinaryPrimitives.WriteUInt64BigEndian(part[40..], s.StateSize);
            BinaryPrimitives.WriteUInt64BigEndian(part[48..], s.DiskSize ?? 0);
            bytes.Write(s.DiskSize is null ? part[..FixedLength] : part);
            if (s.DiskSize is not null) bytes.Write(more);
            bytes.Write(id);
            bytes.Write(name);
            bytes.SetLength(bytes.Length + 7 & ~7);
            bytes.Position = bytes.Length;
        }
        return bytes.ToArray();
    }
}
