namespace Bunraku.Machine;

/// <summary>
/// The bytes of a file that is loaded beside a kernel, at the start and again at each reset of the machine. What lies in a file is read from there each time,
/// so that hundreds of MiB need not be kept for a reset that seldom comes.
/// </summary>
public abstract class BootContent
{
    private const int Chunk = 1 << 20;

    /// <summary>How many there are.</summary>
    public abstract ulong Length { get; }

    /// <summary>Reads all of it.</summary>
    /// <param name="write">Gets each piece, in order, and where it begins.</param>
    /// <exception cref="BootException">It cannot be read, or is not what it was.</exception>
    public abstract void Read(Action<ulong, ReadOnlySpan<byte>> write);

    /// <summary>Bytes that are in memory and stay there.</summary>
    public static implicit operator BootContent(byte[] bytes) => new Bytes(bytes);

    /// <inheritdoc cref="op_Implicit(byte[])"/>
    public static implicit operator BootContent(ReadOnlyMemory<byte> bytes) => new Bytes(bytes);

    private sealed class Bytes(ReadOnlyMemory<byte> bytes) : BootContent
    {
        public override ulong Length => (ulong)bytes.Length;

        public override void Read(Action<ulong, ReadOnlySpan<byte>> write) => write(0, bytes.Span);
    }

    /// <summary>A file on the host, of a length and age that it must still have when it is read.</summary>
    internal sealed class OfFile : BootContent
    {
        private readonly string _path, _fullPath, _role;
        private readonly DateTime _written;

        /// <param name="stream">The file, open.</param>
        /// <param name="path">As the user wrote it.</param>
        /// <param name="role">What the file is to be, for messages.</param>
        public OfFile(FileStream stream, string path, string role)
        {
            (_path, _fullPath, _role) = (path, Path.GetFullPath(path), role);
            Length = (ulong)stream.Length;
            _written = File.GetLastWriteTimeUtc(stream.SafeFileHandle);
        }

        public override ulong Length { get; }

        public override void Read(Action<ulong, ReadOnlySpan<byte>> write) => BootFile.Explain(_path, _role, () =>
        {
            using FileStream stream = BootFile.OpenFile(_fullPath);
            if ((ulong)stream.Length != Length || File.GetLastWriteTimeUtc(stream.SafeFileHandle) != _written) throw Changed();
            byte[] chunk = new byte[(int)Math.Min(Length, Chunk)];
            for (ulong done = 0; done < Length;)
            {
                int n = stream.Read(chunk.AsSpan(0, (int)Math.Min(Length - done, (ulong)chunk.Length)));
                if (n == 0) throw Changed();
                write(done, chunk.AsSpan(0, n));
                done += (ulong)n;
            }
            return true;
        });

        private BootException Changed() => new($"{_role} {_path}: the file was changed while the machine used it (start the machine anew to boot the new one)");
    }
}
