using System.Text;
using Bunraku.Platform;

namespace Bunraku.Cli;

/// <summary>Every exit of a VM, or of the guests inside its guest, as a line in a file or on standard error. Thread-safe.</summary>
internal sealed class ExitTrace : IVmObserver, INestedObserver, IDisposable
{
    private const int BufferSize = 1 << 16;
    private readonly Lock _lock = new();
    private readonly Stream _stream;
    private readonly string _name;
    private readonly TraceKind _kind;
    private StreamWriter? _writer;
    private CannotWriteException? _error;

    /// <exception cref="CannotStartException">The file cannot be created.</exception>
    public ExitTrace(TraceTarget target)
    {
        _name = target.Path ?? "standard error";
        _kind = target.Kind;
        try
        {
            _stream = target.Path is { } path ? new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.Read, bufferSize: 0)
                : Console.OpenStandardError();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new CannotStartException($"--trace: cannot write {_name}: {HostError.Reason(e)}", e);
        }
        _writer = new StreamWriter(_stream, new UTF8Encoding(false), BufferSize, leaveOpen: true);
    }

    /// <summary>Why the trace broke off; null while it is whole. Final when the VM has ended.</summary>
    public CannotWriteException? Error
    {
        get
        {
            lock (_lock) return _error;
        }
    }

    /// <summary>Adds a line. When it cannot be written the trace ends there, and the guest goes on.</summary>
    public void OnExit(Vm vm, in ExitRecord exit)
    {
        if (_kind == TraceKind.Exits) Add(exit.ToString());
    }

    /// <inheritdoc cref="OnExit"/>
    public void Crossed(in NestedCrossing crossing) => Add(crossing.ToString());

    private void Add(string line)
    {
        lock (_lock) Guarded(w => w.WriteLine(line));
    }

    /// <summary>Writes out what waits.</summary>
    public void OnEnd(Vm vm, VmResult result) => End();

    private void End()
    {
        lock (_lock)
        {
            Guarded(w => w.Flush());
            _writer = null;
        }
    }

    private void Guarded(Action<StreamWriter> write)
    {
        if (_writer is null) return;
        try
        {
            write(_writer);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            _error = new CannotWriteException(_name, HostError.Reason(e), e);
            // The writer keeps what it could not write and would try again with the next line.
            _writer = null;
        }
    }

    public void Dispose()
    {
        End();
        _stream.Dispose();
    }
}
