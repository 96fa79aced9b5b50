using System.Buffers.Binary;

namespace Bunraku.Machine.Virtio.Balloons;

/// <summary>What the guest tells of its memory: Virtual I/O Device (VIRTIO) Version 1.3, section 5.5.6.4 "Memory Statistics Tags".</summary>
public enum BalloonStatistic : ushort
{
    /// <summary>Bytes that were read from swap space.</summary>
    SwapIn = 0,
    /// <summary>Bytes that were written to it.</summary>
    SwapOut = 1,
    /// <summary>Page faults that waited for a disk.</summary>
    MajorFaults = 2,
    /// <summary>Those that did not.</summary>
    MinorFaults = 3,
    /// <summary>Bytes that nothing uses.</summary>
    Free = 4,
    /// <summary>Bytes that the guest's system has.</summary>
    Total = 5,
    /// <summary>Bytes that programs could have without swapping.</summary>
    Available = 6,
    /// <summary>Bytes that hold what could be read again.</summary>
    Caches = 7,
    /// <summary>Huge pages that were given.</summary>
    HugePagesGiven = 8,
    /// <summary>Huge pages that could not be given.</summary>
    HugePagesRefused = 9,
}

/// <summary>A guest's balloon.</summary>
/// <param name="Wanted">Bytes that the guest is to give back.</param>
/// <param name="Given">Bytes that it says it has given back.</param>
/// <param name="IsUsed">A driver has the device.</param>
/// <param name="Reported">Bytes that were given to the host because the guest reported them as free, in all.</param>
/// <param name="Statistics">What it last told; those that it does not know are missing.</param>
/// <param name="Ram">Bytes of memory that the machine was made with.</param>
public sealed record BalloonState(ulong Wanted, ulong Given, bool IsUsed, ulong Reported, IReadOnlyDictionary<BalloonStatistic, ulong> Statistics, ulong Ram)
{
    /// <summary>Bytes of memory that the guest has left itself.</summary>
    public ulong Actual => Ram - Math.Min(Ram, Given);

    /// <summary>Bytes of memory that it is to make do with.</summary>
    public ulong Target => Ram - Math.Min(Ram, Wanted);
}

/// <summary>The form in which they come: section 5.5.6.3 "Memory Statistics", struct virtio_balloon_stat.</summary>
internal static class BalloonStatistics
{
    public const int EntryLength = 10;

    /// <summary>Tags that are not known are passed over.</summary>
    public static Dictionary<BalloonStatistic, ulong> Read(ReadOnlySpan<byte> bytes)
    {
        var all = new Dictionary<BalloonStatistic, ulong>();
        for (; bytes.Length >= EntryLength; bytes = bytes[EntryLength..])
        {
            var tag = (BalloonStatistic)BinaryPrimitives.ReadUInt16LittleEndian(bytes);
            ulong value = BinaryPrimitives.ReadUInt64LittleEndian(bytes[2..]);
            if (Enum.IsDefined(tag) && value != ulong.MaxValue) all[tag] = value; // all ones: the guest does not know
        }
        return all;
    }
}
