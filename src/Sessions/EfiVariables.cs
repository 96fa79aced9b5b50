using Bunraku.Machine.Firmware;
using Bunraku.Platform;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Sessions;

/// <summary>The file in which firmware keeps its variables: the contents of its flash memory. Nobody else has it open meanwhile.</summary>
internal sealed class EfiVariables : IFlashStore, IDisposable
{
    private readonly string _path;
    private readonly SafeFileHandle _file;
    private Exception? _failure; // the first one

    /// <param name="path">Of the file.</param>
    /// <param name="initial">What it holds where there is none.</param>
    /// <exception cref="CannotStartException">It cannot be opened or made, or is another file.</exception>
    public EfiVariables(string path, ReadOnlySpan<byte> initial)
    {
        _path = path;
        try
        {
            _file = File.OpenHandle(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or NotSupportedException)
        {
            throw new CannotStartException($"the firmware's variables in {path}: {HostError.Reason(e)}", e);
        }
        long length = RandomAccess.GetLength(_file);
        if (length == 0) RandomAccess.Write(_file, initial, 0);
        Contents = length == 0 ? initial.ToArray() : new byte[initial.Length];
        if (length != 0 && (length != initial.Length || RandomAccess.Read(_file, Contents, 0) != initial.Length))
        {
            _file.Dispose();
            throw new CannotStartException($"{path} holds no variables of this firmware: they have {initial.Length} bytes, the file has {length}");
        }
    }

    /// <summary>What was in it at the beginning.</summary>
    public byte[] Contents { get; }

    /// <inheritdoc/>
    public void Write(int offset, ReadOnlySpan<byte> bytes)
    {
        try
        {
            RandomAccess.Write(_file, bytes, offset);
        }
        catch (IOException e)
        {
            _failure ??= e; // told at the end; the guest cannot do anything about it
        }
    }

    /// <summary>Has the host keep it over a loss of power. Null, or what went wrong, now or before.</summary>
    public CannotWriteException? Flush()
    {
        try
        {
            if (_failure is null) RandomAccess.FlushToDisk(_file);
        }
        catch (IOException e)
        {
            _failure = e;
        }
        return _failure is null ? null : new CannotWriteException($"the firmware's variables in {_path}", HostError.Reason(_failure), _failure);
    }

    public void Dispose() => _file.Dispose();
}
