namespace Bunraku.Sessions;

/// <summary>
/// Two streams as a guest's console. A thread writes the output, so that a slow reader does not hold a serial port's lock, and one reads the input; both end
/// with disposal, whatever the streams do: a read or a write that does not come back is left to its stream, and its result goes nowhere.
/// </summary>
internal sealed class StreamConsole : IGuestConsole, IDisposable
{
    private const int InputBuffer = 64 << 10;

    private readonly Stream? _input;
    private readonly OutputPump? _pump, _errors;
    private readonly CancellationTokenSource _inputEnd = new(), _outputEnd = new();
    private readonly Action<SessionException> _failed;
    private Thread? _reader;

    /// <param name="failed">Told on a thread of this console that a stream threw an exception: it is not used any more.</param>
    public StreamConsole(Stream? input, Stream? output, Stream? errors, Action<SessionException> failed)
    {
        (_input, _failed) = (input, failed);
        if (output is not null) _pump = new OutputPump(bytes => WriteOutput(output, bytes), _ => { });
        if (errors is not null) _errors = new OutputPump(bytes => WriteOutput(errors, bytes), _ => { });
    }

    /// <summary>Begins to read. Once.</summary>
    /// <param name="send">Takes what was read, and may wait.</param>
    /// <param name="end">There is no more; whether there was any.</param>
    public void StartReading(SendBytes send, Action<bool> end)
    {
        if (_input is null)
        {
            end(false);
            return;
        }
        _reader = new Thread(() => ReadInput(send, end)) { Name = "input", IsBackground = true };
        _reader.Start();
    }

    public void Write(ReadOnlySpan<byte> bytes) => _pump?.Write(bytes);

    public void WriteError(ReadOnlySpan<byte> bytes) => _errors?.Write(bytes);

    public bool Throttle(int milliseconds) => _pump?.Throttle(milliseconds) is not false && _errors?.Throttle(milliseconds) is not false;

    public void Release()
    {
        _pump?.Release();
        _errors?.Release();
    }

    /// <summary>Returns when all output is written.</summary>
    public void Flush()
    {
        _pump?.Flush();
        _errors?.Flush();
    }

    /// <summary>Gives up what is not written yet: nobody waits for a reader that does not read.</summary>
    public void Abandon() => Cancel(_outputEnd);

    /// <summary>Output was given up: what the caller got is not all of it.</summary>
    public bool GaveUp { get; private set; }

    /// <summary>Reads no more of the caller's stream; one read may be under way and is given up.</summary>
    public void StopReading() => Cancel(_inputEnd);

    private static void Cancel(CancellationTokenSource end)
    {
        try
        {
            end.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // The VM was disposed of on another thread, which ended both.
        }
    }

    private int WriteOutput(Stream output, ReadOnlyMemory<byte> bytes)
    {
        try
        {
            // Not Write: a thread that waits in it for a reader can be ended by nobody.
            output.WriteAsync(bytes, _outputEnd.Token).AsTask().WaitAsync(_outputEnd.Token).GetAwaiter().GetResult();
            output.FlushAsync(_outputEnd.Token).WaitAsync(_outputEnd.Token).GetAwaiter().GetResult();
            return 0;
        }
        catch (OperationCanceledException) when (_outputEnd.IsCancellationRequested)
        {
            GaveUp = true;
            return 1;
        }
        catch (Exception e) // a stream of the caller's may throw anything
        {
            _failed(new CannotWriteException("the guest's output", e.Message.ReplaceLineEndings(" "), e));
            return 1;
        }
    }

    private void ReadInput(SendBytes send, Action<bool> end)
    {
        byte[] buffer = new byte[InputBuffer];
        bool any = false;
        try
        {
            while (_input!.ReadAsync(buffer, _inputEnd.Token).AsTask().WaitAsync(_inputEnd.Token).GetAwaiter().GetResult() is > 0 and int n)
            {
                any = true;
                send(buffer.AsSpan(0, n));
            }
        }
        catch (OperationCanceledException) when (_inputEnd.IsCancellationRequested)
        {
            return;
        }
        catch (Exception e) // as above
        {
            _failed(new CannotReadException("the guest's input", e.Message.ReplaceLineEndings(" "), e));
            return;
        }
        end(any);
    }

    /// <summary>Ends both threads; what is not written yet is given up. When the VM has stopped, so that <c>send</c> does not wait.</summary>
    public void Dispose()
    {
        StopReading();
        Abandon();
        _reader?.Join();
        _pump?.Dispose();
        _errors?.Dispose();
        _inputEnd.Dispose();
        _outputEnd.Dispose();
    }
}

/// <summary>Takes bytes.</summary>
internal delegate void SendBytes(ReadOnlySpan<byte> bytes);
