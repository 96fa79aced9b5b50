using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// A thread for each queue of a device, which does the queue's requests in their order, without the device's lock. What was not begun when a queue is reset is
/// dropped, and what came after a reset begins when all is over that was begun before: no old write lands upon a new one, whichever queue that came by.
/// </summary>
/// <remarks>With the device's lock held, but for what is called on the threads.</remarks>
/// <param name="live">A queue of the device, where it is enabled: asked with the lock held.</param>
internal sealed class RequestThreads(int queues, Func<int, Virtqueue?> live)
{
    private readonly QueueWork[] _work = [.. Enumerable.Range(0, queues).Select(_ => new QueueWork())];
    private DeviceLock? _lock;
    private int _epoch; // goes up with each reset

    /// <summary>What one queue has under way.</summary>
    private sealed class QueueWork
    {
        /// <summary>No request is being done.</summary>
        public const int Idle = int.MaxValue;

        public IoThread? Thread { get; set; }

        /// <summary>In which life of the queue the entries were taken that are counted.</summary>
        public int Generation { get; set; }

        /// <summary>Entries that were taken and not given back.</summary>
        public int Entries { get; set; }

        /// <summary>The epoch of the request that the thread does, or <see cref="Idle"/>.</summary>
        public int Running { get; set; } = Idle;

        /// <summary>There may be more to be taken.</summary>
        public bool Waits { get; set; }
    }

    /// <summary>Makes the threads.</summary>
    public void Start(Func<int, IoThread> make, DeviceLock @lock)
    {
        _lock = @lock;
        for (int n = 0; n < _work.Length; n++) _work[n].Thread = make(n);
    }

    /// <summary>Entries of a queue's present life that were taken and not given back.</summary>
    public int Entries(int queue) => live(queue)?.Generation == _work[queue].Generation ? _work[queue].Entries : 0;

    /// <summary>A queue was reset, or the device.</summary>
    public void Forget() => _epoch++;

    /// <summary>Has a queue's thread do something else, behind what it has.</summary>
    public void Post(int queue, Action action) => _work[queue].Thread?.Post(action);

    /// <summary>There is more in a queue than can be taken now.</summary>
    public void MarkWaiting(int queue) => _work[queue].Waits = true;

    /// <summary>A queue waits so. Tells it once.</summary>
    public bool TakeWaiting(int queue)
    {
        bool waits = _work[queue].Waits;
        _work[queue].Waits = false;
        return waits;
    }

    /// <summary>Has a queue's thread do a request.</summary>
    /// <param name="do">On the thread; first asks what it is given whether the request is to be done, and calls <see cref="End"/> at the end.</param>
    public void Begin(int queue, DescriptorChain buffer, Action<Func<bool>> @do)
    {
        QueueWork work = _work[queue];
        (work.Generation, work.Entries) = (buffer.Generation, buffer.Entries + (work.Generation == buffer.Generation ? work.Entries : 0));
        int epoch = _epoch;
        work.Thread!.Post(() => @do(() => Enter(queue, buffer, epoch)));
    }

    /// <summary>On a queue's thread, before a request is done. False: its queue is gone. Waits for what older lives of queues have begun.</summary>
    private bool Enter(int queue, DescriptorChain buffer, int epoch)
    {
        lock (_lock!)
        {
            while (true)
            {
                if (live(queue)?.Generation != buffer.Generation) return false;
                if (!Array.Exists(_work, w => w.Running < epoch))
                {
                    _work[queue].Running = epoch;
                    return true;
                }
                Monitor.Wait(_lock);
            }
        }
    }

    /// <summary>On a queue's thread, with the lock held: a request is over.</summary>
    public void End(int queue, DescriptorChain buffer)
    {
        QueueWork work = _work[queue];
        work.Running = QueueWork.Idle;
        Monitor.PulseAll(_lock!);
        if (work.Generation == buffer.Generation) work.Entries -= buffer.Entries;
    }
}
