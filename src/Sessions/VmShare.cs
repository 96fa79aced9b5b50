using System.Text;
using Bunraku.Machine.Virtio.Files;

namespace Bunraku.Sessions;

/// <summary>By which protocol a guest has a folder.</summary>
public enum ShareKind
{
    /// <summary>virtio-fs: see <see cref="FileSystemDevice"/>.</summary>
    VirtioFs,
    /// <summary>9P2000.L, for guests without virtio-fs: see <see cref="NinePDevice"/>.</summary>
    NineP,
}

/// <summary>A folder of the host that the guest can mount.</summary>
/// <param name="Folder">Its path.</param>
public sealed record VmShare(string Folder)
{
    /// <summary>By which the guest mounts it, up to <see cref="FileSystemDevice.LongestTag"/> bytes; null: share and its number, from 0.</summary>
    public string? Tag { get; init; }

    /// <summary>
    /// Where a Linux guest of ours mounts it before anything runs; null: where it is on the host. Its shell and its command start in the first of them. Other
    /// guests mount it themselves, and then this is null.
    /// </summary>
    public string? At { get; init; }

    /// <summary>By which protocol.</summary>
    public ShareKind Kind { get; init; }

    /// <summary>The guest changes nothing.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Whose the files are in the guest.</summary>
    public FileOwners Owners { get; init; }

    /// <summary>How long the guest goes by what it has read.</summary>
    public FileCache Cache { get; init; }

    private const int LongestPath = 4000;

    /// <summary>The guest's own: with something else there it has no programs, or nothing can be mounted there.</summary>
    private static readonly string[] s_taken = ["/", "/bin", "/sbin", "/usr", "/usr/bin", "/usr/sbin", "/etc", "/etc/bunraku", "/dev", "/proc", "/sys", "/run"],
        s_takenWhole = ["/dev/", "/proc/", "/sys/", "/run/", "/etc/bunraku/"];

    /// <summary>The tag that it has as the n-th.</summary>
    internal string TagOf(int number) => Tag ?? $"share{number}";

    /// <summary>Where a guest of ours mounts it.</summary>
    internal string Place => Normal(At ?? Path.GetFullPath(Folder));

    private static string Normal(string at) => at.StartsWith('/') && Path.GetFullPath(at) is { Length: > 1 } full ? full.TrimEnd('/') : at;

    /// <summary>What is wrong with the shares of a VM by themselves; null: nothing.</summary>
    /// <param name="mounts">The guest is one that mounts them.</param>
    internal static string? Problem(IReadOnlyList<VmShare> shares, bool mounts)
    {
        for (int n = 0; n < shares.Count; n++)
        {
            VmShare share = shares[n];
            string tag = share.TagOf(n);
            if (share.Folder.Length == 0 || share.Folder.Contains('\0')) return "a folder is missing";
            bool isNineP = share.Kind == ShareKind.NineP;
            int longest = isNineP ? NinePDevice.LongestTag : FileSystemDevice.LongestTag;
            int bytes = Encoding.UTF8.GetByteCount(tag);
            if (bytes == 0 || bytes > longest || tag.AsSpan().ContainsAny('\0', '\n') || !isNineP && tag.Contains('/'))
                return $"'{tag}' is no tag; it has 1 to {longest} characters{(isNineP ? "" : ", and no '/'")}";
            if (Enumerable.Range(0, n).Any(other => shares[other].TagOf(other) == tag)) return $"two folders have the tag {tag}";
            if (!mounts)
            {
                if (share.At is not null) return $"{share.At}: this guest mounts by itself; leave 'at' out and mount the tag {tag} in it";
                continue;
            }
            string at = share.Place;
            if (!at.StartsWith('/') || at.Length > LongestPath || at.AsSpan().ContainsAny('\0', '\n')) return $"'{at}' is no path from / on";
            if (s_taken.Contains(at) || s_takenWhole.Any(t => at.StartsWith(t, StringComparison.Ordinal)))
                return share.At is null ? $"{share.Folder}: the guest has a {at} of its own; say with 'at' where it shall be"
                    : $"'at' {at}: the guest has a {at} of its own; choose another place";
            if (Enumerable.Range(0, n).Any(other => shares[other].Place == at)) return $"two folders are to be at {at}";
        }
        return null;
    }
}
