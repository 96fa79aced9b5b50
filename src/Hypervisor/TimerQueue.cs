using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor;

/// <summary>
/// The machine's timers: one thread that sleeps until the earliest deadline in virtual time and calls back with the lock of the timer's device held.
/// Thread-safe.
/// </summary>
public sealed class TimerQueue : IDisposable
{
    /// <summary>Virtual time bends a little against the host's: no sleep is so long that it would matter.</summary>
    private const long LongestSleep = 1_000_000_000; // ns

    private readonly VirtualClock _clock;
    /// <summary>Guards the queue. Taken inside a device's lock; nothing is called with it held.</summary>
    private readonly object _lock = new();
    // Timers with one deadline come in the order in which they were made: alike in each machine of one shape.
    private readonly PriorityQueue<Timer, (long Deadline, int Number)> _queue = new();
    private int _timers;
    private readonly Thread _thread;
    private readonly Alarm _alarm = new();
    private long _sleepsUntil = long.MinValue; // the deadline that the thread sleeps for; MinValue: it is awake and will look
    private readonly Action? _begin;
    private readonly Action<Exception> _failed;
    private bool _stopping;
    private bool _paused;
    private bool _callingBack;

    /// <param name="failed">Told of what a callback throws, which is a defect of ours; no timer comes any more then.</param>
    /// <param name="begin">What the thread does first.</param>
    internal TimerQueue(VirtualClock clock, Action<Exception> failed, Action? begin = null)
    {
        _failed = failed;
        _begin = begin;
        _clock = clock;
        _thread = new Thread(Run) { Name = "timers", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Makes a timer that is not armed.</summary>
    /// <param name="lock">The device's lock: held for the callback, and by who arms and cancels.</param>
    public IMachineTimer Create(Action callback, DeviceLock @lock) => new Timer(this, callback, @lock, Interlocked.Increment(ref _timers));

    /// <summary>When the next timer is due; null: none is armed. While the timers are held.</summary>
    internal long? NextDeadline
    {
        get
        {
            lock (_lock) return _queue.TryPeek(out Timer? timer, out _) ? timer.DueAt : null;
        }
    }

    /// <summary>
    /// Calls back whatever is due, on this thread, while the timers are held (<see cref="VirtualMachine.Pause"/>): for who moves the stopped clock by steps.
    /// With no lock held.
    /// </summary>
    internal void RunDue()
    {
        lock (_lock)
        {
            while (_queue.TryPeek(out Timer? timer, out _) && timer.DueAt <= _clock.Nanoseconds) Fire();
        }
    }

    /// <summary>
    /// Calls back the first timer, without the queue's lock. Until the device's lock is there the device may have armed the timer anew, or cancelled it: then
    /// the callback would be one too many.
    /// </summary>
    private void Fire()
    {
        Timer timer = _queue.Dequeue();
        timer.DueAt = Timer.NotArmed;
        int version = timer.Version;
        _callingBack = true;
        Monitor.Exit(_lock);
        try
        {
            lock (timer.Lock)
            {
                if (timer.Version == version) timer.Callback();
            }
        }
        finally
        {
            Monitor.Enter(_lock);
            _callingBack = false;
            if (_paused) Monitor.PulseAll(_lock);
        }
    }

    /// <summary>Holds all callbacks back while virtual time stands still; returns when none is under way. With no device's lock held.</summary>
    internal void Pause(bool paused)
    {
        lock (_lock)
        {
            _paused = paused;
            _alarm.Ring();
            while (_paused && _callingBack && Thread.CurrentThread != _thread) Monitor.Wait(_lock);
        }
    }

    private void Run()
    {
        try
        {
            Alarm.MakePunctual();
            _begin?.Invoke();
            CallBack();
        }
        catch (Exception e)
        {
            _failed(e); // with no lock held
        }
    }

    /// <summary>Calls back what comes due, until the end.</summary>
    private void CallBack()
    {
        lock (_lock)
        {
            while (!_stopping)
            {
                if (_paused || _queue.Count == 0)
                {
                    SleepUnlocked(long.MaxValue, -1);
                    continue;
                }
                long deadline = _queue.Peek().DueAt, wait = deadline - _clock.Nanoseconds;
                if (wait > 0)
                {
                    SleepUnlocked(deadline, Math.Min(wait, LongestSleep));
                    continue;
                }
                Fire();
            }
        }
    }

    /// <summary>Sleeps without the lock, until the time has passed or <see cref="Alarm.Ring"/> says that there is something earlier.</summary>
    private void SleepUnlocked(long deadline, long nanoseconds)
    {
        _sleepsUntil = deadline;
        Monitor.Exit(_lock);
        try
        {
            _alarm.Sleep(nanoseconds);
        }
        finally
        {
            Monitor.Enter(_lock);
            _sleepsUntil = long.MinValue;
        }
    }

    /// <summary>No timer calls back any more. With no device's lock held.</summary>
    public void Dispose()
    {
        lock (_lock)
        {
            _stopping = true;
            _alarm.Ring();
        }
        if (Thread.CurrentThread == _thread) return;
        _thread.Join();
        lock (_lock) _alarm.Dispose(); // whoever still arms a timer rings nobody
    }

    private sealed class Timer(TimerQueue owner, Action callback, DeviceLock @lock, int number) : IMachineTimer
    {
        public const long NotArmed = long.MinValue;
        public readonly Action Callback = callback;
        public readonly DeviceLock Lock = @lock;
        public long DueAt = NotArmed;
        public int Version; // how often it was armed or cancelled; changes with both locks held

        public long? Deadline => DueAt == NotArmed ? null : DueAt;

        public void Arm(long deadline)
        {
            deadline = Math.Max(deadline, 0);
            lock (owner._lock)
            {
                if (DueAt == deadline) return;
                Remove();
                DueAt = deadline;
                owner._queue.Enqueue(this, (deadline, number));
                if (deadline >= owner._sleepsUntil) return;
                owner._sleepsUntil = deadline;
                owner._alarm.Ring();
            }
        }

        /// <summary>Leaves nothing behind: a guest can arm a timer as often as it likes, with deadlines in any future.</summary>
        public void Cancel()
        {
            lock (owner._lock) Remove();
        }

        private void Remove()
        {
            Version++;
            if (DueAt == NotArmed) return;
            DueAt = NotArmed;
            owner._queue.Remove(this, out _, out _);
        }
    }
}
