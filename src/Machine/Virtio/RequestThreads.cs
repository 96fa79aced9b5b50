using Bunraku.Hypervisor;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// A thread for each queue of a device, which does the queue's requests in their order, without the device's lock. What was not begun when a queue is reset is
/// dropped, and what came after a reset begins when all is over that was begun before: no old write lands upon a new one, whichever queue that came by.
/// </summary>
/// <remarks>With the device's lock held, but for what is called on the threads.</remarks>
/// <param name="live">A queue of the device, where it is enabled: asked with the lock held.</param>
/// <param name="guarded"><see cref="VirtioDevice.Guarded"/> of the device.</param>
/// <param name="begin">Reads a request out of guest memory and calls <see cref="Begin"/>: with the lock held.</param>
internal sealed class RequestThreads(int queues, Func<int, Virtqueue?> live, Action<Action> guarded, Action<int, DescriptorChain> begin)
{
    /// <summary>Bytes that requests may hold at a time. What is more stays in the queue: a driver can name the same memory in any number of requests.</summary>
    private const long MostUnderWay = 64 << 20;
    /// <summary>What a request and each of its descriptors take themselves, about: lists of descriptors may be long where their buffers are short.</summary>
    private const int RequestSize = 512, DescriptorSize = 32;

    private readonly QueueWork[] _work = [.. Enumerable.Range(0, queues).Select(_ => new QueueWork())];
    private DeviceLock? _lock;
    private int _epoch; // goes up with each reset
    private long _bytesUnderWay;

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

    /// <summary>Takes what a queue has, as far as there is room for it.</summary>
    public void Take(int queue)
    {
        while (live(queue) is { } from)
        {
            if (_bytesUnderWay >= MostUnderWay)
            {
                _work[queue].Waits = true; // goes on when a request is done, whichever queue had it
                return;
            }
            if (Entries(queue) >= from.Size) return;
            if (from.Take() is { } buffer) begin(queue, buffer);
            else if (!from.EnableNotifications()) return;
        }
    }

    private static long Room(DescriptorChain buffer, long bytes) =>
        bytes + RequestSize + (long)DescriptorSize * (buffer.Readable.Count + buffer.Writable.Count);

    /// <summary>Has a queue's thread do a request.</summary>
    /// <param name="bytes">That it holds meanwhile.</param>
    /// <param name="do">On the thread; first asks what it is given whether the request is to be done, and calls <see cref="End"/> at the end.</param>
    public void Begin(int queue, DescriptorChain buffer, long bytes, Action<Func<bool>> @do)
    {
        QueueWork work = _work[queue];
        (work.Generation, work.Entries) = (buffer.Generation, buffer.Entries + (work.Generation == buffer.Generation ? work.Entries : 0));
        _bytesUnderWay += Room(buffer, bytes);
        int epoch = _epoch;
        work.Thread!.Post(() => @do(() => Enter(queue, buffer, epoch)));
    }

    /// <summary>On a queue's thread, before a request is done. False: its queue is gone. Waits for what older lives of queues have begun.</summary>
    private bool Enter(int queue, DescriptorChain buffer, int epoch)
    {
        IoThread thread = _work[queue].Thread!;
        while (true)
        {
            lock (_lock!)
            {
                // An older one may wait for the VM to go on: whoever pauses it must not wait for this one.
                while (live(queue)?.Generation == buffer.Generation && Array.Exists(_work, w => w.Running < epoch))
                {
                    thread.Stall();
                    Monitor.Wait(_lock);
                }
                if (thread.TryGoOn())
                {
                    if (live(queue)?.Generation != buffer.Generation) return false;
                    _work[queue].Running = epoch;
                    return true;
                }
            }
            thread.AwaitPauseEnd();
        }
    }

    /// <summary>On a queue's thread, without the lock: a request is over. What waits goes on.</summary>
    /// <param name="bytes">As it began.</param>
    /// <param name="answer">Gives the buffer back, with the lock held; not called where its queue was reset meanwhile.</param>
    public void End(int queue, DescriptorChain buffer, long bytes, Action answer)
    {
        lock (_lock!)
        {
            QueueWork work = _work[queue];
            work.Running = QueueWork.Idle;
            Monitor.PulseAll(_lock);
            if (work.Generation == buffer.Generation) work.Entries -= buffer.Entries;
            _bytesUnderWay -= Room(buffer, bytes);
            guarded(() =>
            {
                if (live(queue)?.Generation == buffer.Generation) answer();
                Take(queue);
            });
            for (int n = 0; n < _work.Length; n++)
            {
                if (!_work[n].Waits) continue;
                _work[n].Waits = false;
                int other = n;
                guarded(() => Take(other));
            }
        }
    }
}
