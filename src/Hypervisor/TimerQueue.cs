using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor;

/// <summary>
/// The machine's timers: one thread that sleeps until the earliest deadline in virtual time and calls back with the machine lock held.
/// </summary>
public sealed class TimerQueue : IDisposable
{
    private const long Millisecond = 1_000_000; // ns

    private readonly VirtualClock _clock;
    private readonly object _lock;
    private readonly PriorityQueue<Timer, long> _queue = new();
    private readonly Thread _thread;
    private bool _stopping;
    private bool _paused;

    /// <param name="deviceLock">The machine lock; the thread waits on it.</param>
    internal TimerQueue(VirtualClock clock, object deviceLock)
    {
        _clock = clock;
        _lock = deviceLock;
        _thread = new Thread(Run) { Name = "timers", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Makes a timer that is not armed.</summary>
    public IMachineTimer Create(Action callback) => new Timer(this, callback);

    /// <summary>Holds all callbacks back while virtual time stands still.</summary>
    internal void Pause(bool paused)
    {
        lock (_lock)
        {
            _paused = paused;
            Monitor.PulseAll(_lock);
        }
    }

    private void Run()
    {
        lock (_lock)
        {
            while (!_stopping)
            {
                if (_paused || _queue.Count == 0)
                {
                    Monitor.Wait(_lock);
                    continue;
                }
                Timer timer = _queue.Peek();
                long wait = timer.Deadline - _clock.Nanoseconds;
                if (wait > 0)
                {
                    if (wait >= Millisecond) Monitor.Wait(_lock, (int)Math.Min(1000, wait / Millisecond));
                    else SleepUnlocked(wait);
                    continue;
                }
                _queue.Dequeue();
                timer.Deadline = long.MinValue;
                timer.Callback();
            }
        }
    }

    /// <summary>
    /// The last part of a wait, finer than the monitor's millisecond: a guest's periodic timer of 1000 Hz would never keep up with rounded waits. A deadline
    /// that is set meanwhile, and comes earlier, is late by no more than this rest.
    /// </summary>
    private void SleepUnlocked(long nanoseconds)
    {
        Monitor.Exit(_lock);
        try
        {
            HostSleep.Nanoseconds(nanoseconds);
        }
        finally
        {
            Monitor.Enter(_lock);
        }
    }

    public void Dispose()
    {
        lock (_lock)
        {
            _stopping = true;
            Monitor.PulseAll(_lock);
        }
        if (Thread.CurrentThread != _thread) _thread.Join();
    }

    private sealed class Timer(TimerQueue owner, Action callback) : IMachineTimer
    {
        public readonly Action Callback = callback;
        public long Deadline = long.MinValue; // MinValue: not armed

        public void Arm(long deadline)
        {
            deadline = Math.Max(deadline, 0);
            if (Deadline == deadline) return;
            Cancel();
            Deadline = deadline;
            owner._queue.Enqueue(this, deadline);
            if (owner._queue.Peek() == this) Monitor.PulseAll(owner._lock); // the thread sleeps until what was the earliest deadline
        }

        /// <summary>Leaves nothing behind: a guest can arm a timer as often as it likes, with deadlines in any future.</summary>
        public void Cancel()
        {
            if (Deadline == long.MinValue) return;
            Deadline = long.MinValue;
            owner._queue.Remove(this, out _, out _);
        }
    }
}
