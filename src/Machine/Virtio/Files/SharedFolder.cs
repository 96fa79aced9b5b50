using Bunraku.Platform;

namespace Bunraku.Machine.Virtio.Files;

/// <summary>Whose the files are that the guest sees.</summary>
public enum FileOwners
{
    /// <summary>
    /// What belongs to the user of this process is root's in the guest, and what the guest says of users, permissions and device nodes is kept in an extended
    /// attribute of the file (<see cref="MappedOwners.Attribute"/>) where the user could not do it: no file of the host becomes another user's or set-user-ID.
    /// </summary>
    Mapped,
    /// <summary>The host's own numbers and permissions, which the guest sets as well. For root, and guests that are trusted with that.</summary>
    Host,
}

/// <summary>How long the guest goes by what it has read.</summary>
public enum FileCache
{
    /// <summary>
    /// A second for names and attributes; what a file holds, until it is opened again or was seen to have changed. Writes go to the host at once.
    /// </summary>
    Auto,
    /// <summary>For ever, and writes wait in the guest: for folders that nobody else changes meanwhile.</summary>
    Always,
    /// <summary>Nothing of names and attributes.</summary>
    None,
}

/// <summary>A folder of the host for a guest, open until it is disposed of. Immutable.</summary>
public sealed class SharedFolder : IDisposable
{
    private const int SmallestShare = 32;
    private const string Needs = "it cannot be shared: the host's kernel needs openat2 (Linux 5.6 or later) and a mounted /proc";

    /// <summary>Opens a folder.</summary>
    /// <param name="path">Symbolic links in it are followed.</param>
    /// <exception cref="IOException">It is none, or this host cannot share one; the message says why.</exception>
    public SharedFolder(string path)
    {
        Path = path;
        Check(FolderCalls.OpenFolder(path, out int root), path);
        Root = root;
        try
        {
            Check(FolderCalls.Status(root, out HostFileStatus status), path);
            RootStatus = status;
            if (FolderCalls.IsKernels(root)) throw new IOException($"folder {path}: it is the kernel's, and no guest may have it");
            // What all of it stands on: better now than in the guest.
            int errno = FolderCalls.OpenChild(root, "."u8, out int again);
            if (errno == 0) FolderCalls.Close(again);
            else throw new IOException($"folder {path}: {(errno is Errno.NotImplemented or Errno.NotPermitted ? Needs : HostError.Reason(errno))}");
            errno = FolderCalls.ReopenFolder(root, out int opened);
            if (errno == 0) FolderCalls.Close(opened);
            else throw new IOException($"folder {path}: {(errno == Errno.NoEntry ? Needs : HostError.Reason(errno))}");
        }
        catch
        {
            FolderCalls.Close(root);
            throw;
        }
    }

    private static void Check(int errno, string path)
    {
        if (errno != 0) throw new IOException($"folder {path}: {HostError.Reason(errno)}");
    }

    /// <summary>Where it is.</summary>
    public string Path { get; }

    /// <summary>The guest changes nothing: whatever it tries, it is told that the file system is read-only.</summary>
    public bool IsReadOnly { get; init; }

    /// <summary>Whose the files are.</summary>
    public FileOwners Owners { get; init; }

    /// <summary>How long the guest goes by what it has read.</summary>
    public FileCache Cache { get; init; }

    /// <summary>
    /// Most descriptors of this process that may name or open files for the guest: a half for each. Files beyond the first half are found again by their names
    /// when they are needed; beyond the second nothing can be opened (ENFILE).
    /// </summary>
    public int MostDescriptors { get; init; } = DescriptorsFor(1);

    /// <summary>
    /// A fair number of <see cref="MostDescriptors"/>: half of those that this process may have, for all folders together, up to 65,536 for each.
    /// </summary>
    public static int DescriptorsFor(int folders) => (int)Math.Clamp(FolderCalls.MostDescriptors / 2 / (ulong)folders, SmallestShare, 65_536);

    internal int Root { get; }

    internal HostFileStatus RootStatus { get; }

    /// <summary>Behind the machine's end.</summary>
    public void Dispose() => FolderCalls.Close(Root);
}
