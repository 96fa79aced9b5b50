using Bunraku.Platform;

namespace Bunraku.Hypervisor;

/// <summary>
/// A thread for a device's back end: it does what may wait for the host (files, sockets) while the guest runs on. Work is done in the order in which it was
/// posted, with no lock held; to deliver a result it takes the device's lock. It stands still while the VM is paused.
/// </summary>
public sealed class IoThread : IDisposable
{
    private const long LookNanoseconds = 50_000;
    private const int SpinLength = 8;

    /// <summary>Guards the queue. Taken inside a device's lock; nothing is called with it held.</summary>
    private readonly object _lock = new();
    private readonly Queue<Action> _work = new();
    private readonly Thread _thread;
    private readonly Action<Exception> _failed;
    private readonly Action? _wake;
    private bool _working;
    private volatile bool _paused, _ending; // written with the lock held
    private uint _posted, _taken; // how much work; the second is the thread's own
    private bool _stalled; // the work that is under way waits for the VM to go on
    private bool _waits; // it waits for other work

    /// <param name="failed">Told of what work throws, which is a defect of ours; the thread ends then.</param>
    /// <param name="wake">See <see cref="VirtualMachine.CreateIoThread"/>.</param>
    internal IoThread(string name, Action<Exception> failed, Action? wake = null)
    {
        (_failed, _wake) = (failed, wake);
        _thread = new Thread(Run) { Name = name, IsBackground = true };
        _thread.Start();
    }

    /// <summary>Queues work. Any thread; never waits. Work that is posted after the end of the VM is dropped.</summary>
    public void Post(Action work)
    {
        lock (_lock)
        {
            if (_ending) return;
            _work.Enqueue(work);
            _posted++;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Holds work back, and returns when none is under way; or lets it go on. With no device's lock held, not from work.</summary>
    internal void Pause(bool paused)
    {
        lock (_lock)
        {
            _paused = paused;
            if (!paused) _stalled = false; // before the pulse: who waits looks at it once
            Monitor.PulseAll(_lock);
        }
        if (paused) _wake?.Invoke();
        lock (_lock)
        {
            while (_paused && _working && !_stalled && !_waits) Monitor.Wait(_lock);
        }
    }

    /// <summary>This is the thread that runs.</summary>
    internal bool IsCurrent => Thread.CurrentThread == _thread;

    /// <summary>
    /// From work, with no lock held: waits until the VM has been paused and goes on, and counts as standing still meanwhile. False: the VM has ended.
    /// </summary>
    internal bool AwaitResume()
    {
        lock (_lock)
        {
            _stalled = true;
            Monitor.PulseAll(_lock);
            while (_stalled && !_ending) Monitor.Wait(_lock);
            _stalled = false;
            return !_ending;
        }
    }

    /// <summary>From work, with its device's lock held: it waits for other work, and counts as standing still until <see cref="TryGoOn"/>.</summary>
    public void Stall()
    {
        lock (_lock)
        {
            _waits = true;
            Monitor.PulseAll(_lock);
        }
    }

    /// <summary>From work, with its device's lock held: it has what it waited for. False: the VM stands still; see <see cref="AwaitPauseEnd"/>.</summary>
    public bool TryGoOn()
    {
        lock (_lock)
        {
            if (_waits && _paused && !_ending) return false;
            _waits = false;
            return true;
        }
    }

    /// <summary>From work that stalls, with no lock held: returns when the VM goes on, or ends.</summary>
    public void AwaitPauseEnd()
    {
        lock (_lock)
        {
            while (_paused && !_ending) Monitor.Wait(_lock);
        }
    }

    private void Run()
    {
        try
        {
            while (Take() is { } work)
            {
                work();
                AwaitMore();
            }
        }
        catch (Exception e)
        {
            _failed(e);
        }
        finally
        {
            lock (_lock)
            {
                (_working, _ending) = (false, true);
                Monitor.PulseAll(_lock);
            }
        }
    }

    /// <summary>
    /// A driver that waits for its answer asks for the next thing at once: waking a thread costs more than looking for a moment whether it has. Not where there
    /// is no other processor on which it could.
    /// </summary>
    private void AwaitMore()
    {
        if (Environment.ProcessorCount == 1) return;
        long end = HostCounter.MonotonicNanoseconds + LookNanoseconds;
        while (Volatile.Read(ref _posted) == _taken && !_paused && !_ending && HostCounter.MonotonicNanoseconds < end) Thread.SpinWait(SpinLength);
    }

    /// <summary>The next work; null at the end, when all that was posted before is done.</summary>
    private Action? Take()
    {
        lock (_lock)
        {
            _working = false;
            Monitor.PulseAll(_lock);
            while (!_ending && (_paused || _work.Count == 0)) Monitor.Wait(_lock);
            _working = _work.TryDequeue(out Action? work);
            if (_working) _taken++;
            return work;
        }
    }

    /// <summary>The VM ends: no work is taken any more, and none waits for the VM to go on. What was posted is still done. Any thread, never waits.</summary>
    internal void End()
    {
        lock (_lock)
        {
            _ending = true;
            Monitor.PulseAll(_lock);
        }
        _wake?.Invoke();
    }

    /// <summary>Returns when the work that was posted is done. With no device's lock held.</summary>
    public void Dispose()
    {
        End();
        if (Thread.CurrentThread != _thread) _thread.Join();
    }
}
