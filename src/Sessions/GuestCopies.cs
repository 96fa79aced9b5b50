using Bunraku.Machine;
using Bunraku.Platform;

namespace Bunraku.Sessions;

/// <summary>A file or folder of the host that a guest of ours gets a copy of.</summary>
/// <param name="Source">Its path here.</param>
public sealed record VmCopy(string Source)
{
    /// <summary>Where the guest has it, from / on; with a slash at its end a folder in which it keeps its name. Null: in /root.</summary>
    public string? At { get; init; }
}

/// <summary>Reads what is copied into a guest.</summary>
internal static class GuestCopies
{
    private const string Home = "/root/";
    private const int MostFiles = 100_000;
    private const uint Permissions = 0x1FF, FolderMode = 0x1ED;

    /// <summary>Why a place in the guest is none; null: it is one.</summary>
    public static string? Problem(string at) => at.StartsWith('/') && !at.Contains('\0') && !at.Split('/').Contains("..") ? null
        : $"'{at}' is no place in the guest; write a path from / on, without '..'";

    /// <summary>The files, folders before what is in them.</summary>
    /// <exception cref="BootException">One cannot be read, or all are too many.</exception>
    public static IReadOnlyList<LinuxGuestFile> Read(VmOptions options)
    {
        var files = new List<LinuxGuestFile>();
        long room = (long)Math.Min(options.Memory / 2, int.MaxValue);
        foreach (VmCopy copy in options.Copies)
        {
            string name = Path.GetFileName(Path.GetFullPath(copy.Source).TrimEnd('/'));
            string at = copy.At ?? Home;
            if (at.EndsWith('/')) at += name;
            Add(copy.Source, "/" + at.Trim('/'), true);
        }
        return files;

        void Add(string source, string at, bool follows)
        {
            if (files.Count >= MostFiles) throw new BootException($"copy of {source}: more than {MostFiles} files");
            try
            {
                FileSystemInfo info = Directory.Exists(source) ? new DirectoryInfo(source) : new FileInfo(source);
                if (!follows && info.LinkTarget is { } target)
                {
                    files.Add(new LinuxGuestFile(at, 0) { Target = target });
                    return;
                }
                if (info is DirectoryInfo)
                {
                    files.Add(new LinuxGuestFile(at, FolderMode) { IsFolder = true });
                    foreach (string inside in Directory.EnumerateFileSystemEntries(source).Order(StringComparer.Ordinal))
                        Add(inside, $"{at}/{Path.GetFileName(inside)}", false);
                    return;
                }
                // A named pipe would wait for ever for who writes into it.
                if (HostFile.IsSpecial(source)) throw new BootException($"copy of {source}: it is neither a file nor a folder");
                byte[] content = File.ReadAllBytes(source);
                room -= content.Length;
                if (room < 0) throw new BootException($"copy of {source}: all copies together take more than half of the guest's memory");
                files.Add(new LinuxGuestFile(at, (uint)File.GetUnixFileMode(source) & Permissions) { Content = content });
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new BootException($"copy of {source}: {HostError.Reason(e)}");
            }
        }
    }
}
