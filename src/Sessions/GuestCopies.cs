using Bunraku.Machine;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

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
                using SafeFileHandle file = HostFile.OpenRegular(source, follows) ?? throw new BootException($"copy of {source}: it is no longer a file");
                files.Add(new LinuxGuestFile(at, (uint)File.GetUnixFileMode(file) & Permissions) { Content = Contents(file, source) });
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new BootException($"copy of {source}: {HostError.Reason(e)}");
            }
        }

        ReadOnlyMemory<byte> Contents(SafeFileHandle file, string source)
        {
            var content = new MemoryStream();
            byte[] buffer = new byte[64 << 10];
            long length = RandomAccess.GetLength(file);
            if (length <= room) content.Capacity = (int)length;
            // It may grow meanwhile, and some files of the kernel's do not say how long they are.
            for (int n; length <= room && (n = RandomAccess.Read(file, buffer, content.Length)) > 0; length = Math.Max(length, content.Length))
                content.Write(buffer, 0, n);
            if (length > room) throw new BootException($"copy of {source}: all copies together take more than half of the guest's memory");
            room -= content.Length;
            return content.GetBuffer().AsMemory(0, (int)content.Length);
        }
    }
}
