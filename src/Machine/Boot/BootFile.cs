namespace Bunraku.Machine;

/// <summary>Reads the files that a user names for booting.</summary>
public static class BootFile
{
    /// <summary>Reads a whole file.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <param name="role">What the file was to be: "kernel", "initrd".</param>
    /// <exception cref="BootException">It is missing, empty, not readable, not a file, or larger than an array.</exception>
    public static byte[] Read(string path, string role)
    {
        try
        {
            if (Directory.Exists(path)) throw new BootException($"{role} {path}: is a directory, not a file");
            byte[] bytes = File.ReadAllBytes(path);
            return bytes.Length > 0 ? bytes : throw new BootException($"{role} {path}: the file is empty");
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new BootException($"{role} {path}: no such file", e);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new BootException($"{role} {path}: permission denied (copy it to where this user may read it)", e);
        }
        catch (Exception e) when (e is IOException or ArgumentException or NotSupportedException)
        {
            throw new BootException($"{role} {path}: cannot be read: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }
}
