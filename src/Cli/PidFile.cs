using System.Globalization;
using System.Text;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Cli;

/// <summary>A file with this process's number for as long as the object lives; two processes do not have the same one, QEMU's included.</summary>
internal sealed class PidFile : IDisposable
{
    private const FileShare Everybody = FileShare.ReadWrite | FileShare.Delete; // the lock says whose it is

    private readonly FileStream _file;
    private readonly string _path;

    /// <exception cref="CannotStartException">It cannot be written, or another process has it.</exception>
    public PidFile(string path)
    {
        try
        {
            _path = Path.GetFullPath(path);
            if (HostFile.IsDevice(_path)) throw new CannotStartException($"{path} is a device, and no file for the process ID");
            _file = Take(_path);
            // Not before it is ours: who waits for it to appear finds the number in it.
            _file.SetLength(0);
            _file.Write(Encoding.ASCII.GetBytes(Environment.ProcessId.ToString(CultureInfo.InvariantCulture) + "\n"));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            _file?.Dispose();
            throw new CannotStartException($"the file {path} for the process ID cannot be written: {HostError.Reason(e)}", e);
        }
    }

    private static FileStream Take(string path)
    {
        while (true)
        {
            var file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, Everybody, bufferSize: 0);
            try
            {
                if (!HostFile.TryLock(file.SafeFileHandle))
                    throw new CannotStartException($"the file {path} for the process ID belongs to another process that runs; give this one another file");
                // Who had it may have deleted it since it was opened: then this lock keeps nobody out.
                if (IsAt(path, file)) return file;
            }
            catch
            {
                file.Dispose();
                throw;
            }
            file.Dispose();
        }
    }

    private static bool IsAt(string path, FileStream file)
    {
        try
        {
            using SafeFileHandle found = File.OpenHandle(path, FileMode.Open, FileAccess.Read, Everybody);
            return HostFile.Identity(found) == HostFile.Identity(file.SafeFileHandle);
        }
        catch (FileNotFoundException)
        {
            return false;
        }
    }

    public void Dispose()
    {
        try
        {
            // Locked until it is gone. What somebody else put in its place is not ours.
            if (IsAt(_path, _file)) File.Delete(_path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It tells of a process that is no more.
        }
        _file.Dispose();
    }
}
