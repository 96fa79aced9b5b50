using Bunraku.Platform;

namespace Bunraku.Machine;

/// <summary>Reads the files that a user names for booting.</summary>
public static class BootFile
{
    private const int Chunk = 1 << 20;

    /// <summary>Reads a whole file, or a pipe to its end.</summary>
    /// <param name="path">As the user wrote it.</param>
    /// <param name="role">What the file was to be: "kernel", "initrd", "module".</param>
    /// <param name="limit">Most bytes that are of use, which follows from the guest's memory.</param>
    /// <exception cref="BootException">It is missing, empty, not readable, not a file or pipe, or larger than <paramref name="limit"/> or an array.</exception>
    public static byte[] Read(string path, string role, ulong limit)
    {
        return Explain(path, role, () =>
        {
            using FileStream stream = OpenChecked(path, role, ref limit, out ulong length);
            return NotEmpty(length > 0 ? ReadFile(stream, (int)length) : ReadPipe(stream, limit) ?? throw TooLarge(path, role, length, limit), path, role);
        });
    }

    /// <summary>The same for what is loaded as it is: a file is read when it is loaded, a pipe now.</summary>
    /// <inheritdoc cref="Read"/>
    public static BootContent Open(string path, string role, ulong limit) => Explain<BootContent>(path, role, () =>
    {
        using FileStream stream = OpenChecked(path, role, ref limit, out ulong length);
        return length > 0 ? new BootContent.OfFile(stream, path, role)
            : NotEmpty(ReadPipe(stream, limit) ?? throw TooLarge(path, role, length, limit), path, role);
    });

    internal static FileStream OpenFile(string path) => new(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);

    /// <param name="length">Of a file; 0: of what has none, or is empty.</param>
    private static FileStream OpenChecked(string path, string role, ref ulong limit, out ulong length)
    {
        if (Directory.Exists(path)) throw new BootException($"{role} {path}: is a directory, not a file");
        // Some devices have no end, others wait for ever.
        if (HostFile.IsDevice(path)) throw new BootException($"{role} {path}: is a device, not a file");
        FileStream stream = OpenFile(path);
        limit = Math.Min(limit, (ulong)Array.MaxLength);
        length = stream.CanSeek ? (ulong)stream.Length : 0;
        if (length <= limit) return stream;
        stream.Dispose();
        throw TooLarge(path, role, length, limit);
    }

    private static byte[] NotEmpty(byte[] bytes, string path, string role) =>
        bytes.Length > 0 ? bytes : throw new BootException($"{role} {path}: the file is empty");

    // How long a pipe is shows only at its end; what no array holds, no guest's memory makes fit.
    private static BootException TooLarge(string path, string role, ulong length, ulong limit) =>
        new($"{role} {path}: has more than {limit >> 20} MiB, which is too much for this guest")
        {
            MemoryNeeded = limit < (ulong)Array.MaxLength ? BootMemory.AlignUp(Math.Max(length, limit + 1), 1 << 20) : null,
        };

    /// <summary>Does something with a file; what goes wrong becomes one line.</summary>
    internal static T Explain<T>(string path, string role, Func<T> read)
    {
        try
        {
            return read();
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new BootException($"{role} {path}: no such file", e);
        }
        catch (UnauthorizedAccessException e)
        {
            throw new BootException($"{role} {path}: permission denied (copy it to where this user may read it)", e);
        }
        catch (OutOfMemoryException e)
        {
            throw new BootException($"{role} {path}: the host has not enough memory to read it", e);
        }
        catch (Exception e) when (e is IOException or ArgumentException or NotSupportedException)
        {
            throw new BootException($"{role} {path}: cannot be read: {e.Message.ReplaceLineEndings(" ")}", e);
        }
    }

    private static byte[] ReadFile(FileStream stream, int length)
    {
        byte[] bytes = new byte[length];
        int done = stream.ReadAtLeast(bytes, length, throwOnEndOfStream: false);
        return done == length ? bytes : bytes[..done];
    }

    /// <summary>Reads what has no length: pipes, files of /proc. Null when more than <paramref name="limit"/> bytes come.</summary>
    private static byte[]? ReadPipe(FileStream stream, ulong limit)
    {
        using var all = new MemoryStream();
        byte[] chunk = new byte[Chunk];
        while (stream.Read(chunk) is > 0 and int n)
        {
            if ((ulong)all.Length + (ulong)n > limit) return null;
            all.Write(chunk, 0, n);
        }
        return all.ToArray();
    }
}
