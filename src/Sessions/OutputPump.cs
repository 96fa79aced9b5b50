namespace Bunraku.Sessions;

/// <summary>
/// Carries the guest's output to where it is written on a thread of its own, so that a slow terminal does not hold a device's lock. Bytes keep their
/// order and none is lost: disposal writes what waits. Who writes calls <see cref="Throttle"/> where it may wait. Thread-safe.
/// </summary>
public sealed class OutputPump : IDisposable
{
    private const int Capacity = 1 << 20;

    /// <summary>
    /// A guest's serial port gives single bytes. To wake the thread and write for each of them takes longer than the guest needs for the next, so it waits for
    /// this many bytes, but no longer than a millisecond.
    /// </summary>
    private const int Gathered = 4096;
    private readonly object _lock = new();
    private readonly Thread _thread;
    private readonly Func<ReadOnlyMemory<byte>, int> _write;
    private readonly Action<int> _closed;
    private byte[] _waiting = new byte[4096], _writing = new byte[4096];
    private int _length;
    private volatile bool _full;
    private bool _ending, _broken, _released, _idle = true;

    /// <param name="write">
    /// Writes all of the bytes, on the pump's thread, and returns 0, or an error number when no more can be written (broken pipe, full disk).
    /// </param>
    /// <param name="closed">Called once, on the pump's thread, with that number.</param>
    public OutputPump(Func<ReadOnlyMemory<byte>, int> write, Action<int> closed)
    {
        (_write, _closed) = (write, closed);
        _thread = new Thread(Run) { Name = "output", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Queues bytes without waiting. Dropped once the reader is gone.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        lock (_lock)
        {
            if (_broken || _ending) return;
            if (_length + bytes.Length > _waiting.Length) Array.Resize(ref _waiting, Math.Max(_waiting.Length * 2, _length + bytes.Length));
            bytes.CopyTo(_waiting.AsSpan(_length));
            int before = _length;
            _length += bytes.Length;
            _full = _length >= Capacity;
            if (before == 0 || (before < Gathered && _length >= Gathered)) Monitor.PulseAll(_lock);
        }
    }

    /// <summary>A mebibyte is queued: who need not have all of it written can leave the rest out. Any thread.</summary>
    public bool IsFull => _full;

    /// <summary>Waits while a mebibyte is queued: a guest that prints faster than anybody reads is held up instead of filling the host's memory.</summary>
    /// <param name="milliseconds">The longest wait; -1: no limit.</param>
    /// <returns>There is room, or nobody may wait any more.</returns>
    public bool Throttle(int milliseconds = Timeout.Infinite)
    {
        if (!_full) return true;
        lock (_lock)
        {
            bool inTime = true;
            while (_full && !_broken && !_ending && !_released && inTime) inTime = Monitor.Wait(_lock, milliseconds);
            return inTime;
        }
    }

    /// <summary>Ends all waiting in <see cref="Throttle"/>: the guest is about to stop.</summary>
    public void Release()
    {
        lock (_lock)
        {
            _released = true;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Returns when all that was queued before has been written.</summary>
    public void Flush()
    {
        lock (_lock)
        {
            while ((_length > 0 || !_idle) && !_broken) Monitor.Wait(_lock);
        }
    }

    private void Run()
    {
        while (true)
        {
            int n;
            lock (_lock)
            {
                _idle = true;
                Monitor.PulseAll(_lock);
                while (_length == 0 && !_ending) Monitor.Wait(_lock);
                if (_length == 0) return;
                if (_length < Gathered && !_ending) Monitor.Wait(_lock, 1);
                (_waiting, _writing) = (_writing, _waiting);
                (n, _length, _idle, _full) = (_length, 0, false, false);
                Monitor.PulseAll(_lock);
            }
            int errno = _write(_writing.AsMemory(0, n));
            if (errno == 0) continue;
            // First the news, then the end of all waiting: who waits in Flush asks afterwards how it went.
            _closed(errno);
            lock (_lock)
            {
                _broken = true;
                Monitor.PulseAll(_lock);
            }
            return;
        }
    }

    /// <summary>Writes what waits and ends the thread.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _ending = true;
            Monitor.PulseAll(_lock);
        }
        if (Thread.CurrentThread != _thread) _thread.Join();
    }
}
