using Bunraku.Machine.Virtio.Sockets;

namespace Bunraku.Sessions;

/// <summary>Streams between the guest's AF_VSOCK sockets and Unix sockets of the host: see <see cref="SocketDevice"/> and <see cref="HostSockets"/>.</summary>
/// <param name="Path">
/// Of the socket by which programs reach the guest, and the beginning of those by which it reaches them; null: nobody is there, as for a VM that is restored
/// or copied where no path is given.
/// </param>
public sealed record VmVsock(string? Path)
{
    /// <summary>The guest's context ID where nothing else is said.</summary>
    public const uint DefaultCid = SocketDevice.SmallestCid;

    /// <summary>
    /// The guest's context ID: from <see cref="SocketDevice.SmallestCid"/> to <see cref="SocketDevice.LargestCid"/>. Null: <see cref="DefaultCid"/>, or what a
    /// guest that is restored had.
    /// </summary>
    public uint? Cid { get; init; }

    /// <summary>What is wrong with it by itself; null: nothing.</summary>
    internal string? Problem => Path is "" || Path?.Contains('\0') == true ? "the path of the socket is missing"
        : Cid is < SocketDevice.SmallestCid or > SocketDevice.LargestCid
            ? $"{Cid} is no context ID of a guest; it is from {SocketDevice.SmallestCid} to {SocketDevice.LargestCid}" : null;
}
