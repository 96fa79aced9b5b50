using System.Globalization;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>A file with this process's number for as long as the object lives; two processes do not have the same one.</summary>
internal sealed class PidFile : IDisposable
{
    private readonly FileStream _file;
    private readonly string _path;

    /// <exception cref="CannotStartException">It cannot be written, or another process has it.</exception>
    public PidFile(string path)
    {
        _path = Path.GetFullPath(path);
        try
        {
            // Locked (flock) for as long as it is open; who waits for it to appear finds the number in it.
            _file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, bufferSize: 0);
            _file.SetLength(0);
            _file.Write(System.Text.Encoding.ASCII.GetBytes(Environment.ProcessId.ToString(CultureInfo.InvariantCulture) + "\n"));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            _file?.Dispose();
            throw new CannotStartException($"the file {path} for the process ID cannot be written: {HostError.Reason(e)}", e);
        }
    }

    public void Dispose()
    {
        try
        {
            File.Delete(_path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It tells of a process that is no more.
        }
        _file.Dispose();
    }
}
