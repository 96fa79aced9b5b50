using System.Text;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>A file that an option names, created before the work begins, so that a wrong path is told at once. No more than one write is buffered.</summary>
internal sealed class ReportFile : IDisposable
{
    private readonly FileStream _file;
    private readonly string _path;

    /// <exception cref="CannotStartException">It cannot be created.</exception>
    public ReportFile(string path, string option, bool append = false)
    {
        _path = path;
        try
        {
            // Without a buffer nothing is left for Dispose to fail with.
            _file = new FileStream(path, append ? FileMode.Append : FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 0);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new CannotStartException($"{option}: cannot write {path}: {HostError.Reason(e)}", e);
        }
    }

    /// <summary>The descriptor, as long as this object lives.</summary>
    public int Descriptor => (int)_file.SafeFileHandle.DangerousGetHandle();

    /// <exception cref="CannotWriteException">A full disk, for example.</exception>
    public void Write(string text) => Write(Encoding.UTF8.GetBytes(text));

    /// <inheritdoc cref="Write(string)"/>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        try
        {
            _file.Write(bytes);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new CannotWriteException(_path, HostError.Reason(e), e);
        }
    }

    public void Dispose() => _file.Dispose();
}
