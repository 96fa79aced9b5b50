using System.Text.Json;
using System.Text.Json.Serialization;

namespace Bunraku.Sessions.Snapshots;

/// <summary>What a snapshot's file says of itself: docs/snapshots.md.</summary>
/// <param name="Program">Version of the program that wrote it, for people.</param>
/// <param name="Saved">When.</param>
/// <param name="MemorySize">Bytes of RAM, ROM included.</param>
/// <param name="Memory">Where its contents are; what lies in no range is zero.</param>
/// <param name="Checksums">XXH3 of each <see cref="SnapshotFile.Chunk"/> of the file between header and state; the last one may be shorter.</param>
/// <param name="Parts">The state tree, in the order in which it is restored.</param>
/// <param name="Machine">What has to be there again before the state is restored: a <see cref="MachineDescription"/>.</param>
/// <param name="Disks">The files of the disks, and then of the discs, as they were.</param>
/// <param name="Waits">Of a guest that has booted and waits for a command; null: it is none.</param>
/// <param name="Packed">Bytes that each <see cref="SnapshotFile.Chunk"/> takes in the file, packed by zstd, one behind the other; null: it is as it is.</param>
/// <param name="Fork">Of a VM that went on; null: it was saved to last. Nobody but the one who wrote it has had the file, and it has no checksums.</param>
internal sealed record SnapshotManifest(
    string Program, DateTime Saved, ulong MemorySize, SnapshotRange[] Memory, ulong[] Checksums, SnapshotPart[] Parts, SnapshotPart Machine, FileMark[] Disks,
    WaitingGuest? Waits, int[]? Packed, ForkOrigin? Fork);

/// <summary>What copies of a VM have in common.</summary>
/// <param name="Paused">Until when it ran as one, UTC: copies' clocks go on from there.</param>
internal sealed record ForkOrigin(DateTime Paused);

/// <summary>What of a <see cref="MachineDescription"/> the machine needs that has the same options anyway.</summary>
/// <param name="TscFrequency">Hz.</param>
/// <param name="CommandLine">Of the kernel.</param>
/// <param name="Token">See <see cref="Bunraku.Machine.LinuxGuest.Token"/>.</param>
internal sealed record WaitingGuest(ulong TscFrequency, string CommandLine, string Token);

/// <summary>A piece of the RAM.</summary>
/// <param name="Offset">In the RAM, a multiple of 4096.</param>
/// <param name="Length">Bytes, a multiple of 4096.</param>
/// <param name="Position">In the file, a multiple of 4096.</param>
internal readonly record struct SnapshotRange(ulong Offset, ulong Length, long Position);

/// <summary>The state of one part: see <see cref="SavedState"/>.</summary>
/// <param name="Position">Of its record in the file.</param>
/// <param name="Length">Bytes of it.</param>
internal sealed record SnapshotPart(string Id, string Format, int Version, long Position, int Length);

/// <summary>Generated ahead of time, since the first use of a serializer made at run time takes longer than all the rest of a restore.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Strict)]
[JsonSerializable(typeof(SnapshotManifest))]
internal sealed partial class SnapshotJson : JsonSerializerContext;
