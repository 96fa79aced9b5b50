namespace Bunraku.Hypervisor;

/// <summary>A device's range on a bus, which can be moved and taken away while the guest runs. Thread-safe.</summary>
public interface IBusMapping
{
    /// <summary>First address.</summary>
    ulong First { get; }

    /// <summary>Number of addresses.</summary>
    ulong Length { get; }

    /// <summary>The range begins elsewhere from now on; what lies beyond the end of the bus is not decoded. A range that was removed comes back.</summary>
    void Move(ulong first);

    /// <summary>
    /// The range is decoded no more. When this returns no further access reaches the device; one that is under way holds the device's lock, so whoever removes a range with that
    /// lock held is sure that there is none.
    /// </summary>
    void Remove();
}

/// <summary>
/// Which device answers at which address of a bus. Ranges may overlap: the one of the highest priority answers, among equals the one that was added first. Look-ups take no lock: they
/// see one immutable table, which changes are made in a copy of.
/// </summary>
internal sealed class AddressMap<TDevice>(ulong lastAddress, DeviceLock? defaultLock) where TDevice : class
{
    /// <summary>A device from <paramref name="First"/> on, as look-ups see it.</summary>
    public sealed class Entry(TDevice device, DeviceLock @lock, ulong first, ulong last)
    {
        public readonly TDevice Device = device;
        public readonly DeviceLock Lock = @lock;
        public readonly ulong First = first, Last = last;
        /// <summary>The range was moved or removed, and the table shows it. Who found the entry asks when he holds the lock, and then looks the address up again.</summary>
        public volatile bool Gone;
    }

    /// <param name="Firsts">Where another entry begins to answer, ascending; the first is 0.</param>
    /// <param name="Owners">Who answers from there on; null: nobody.</param>
    private sealed record Table(ulong[] Firsts, Entry?[] Owners);

    private readonly Lock _changing = new();
    private readonly List<Mapping> _mappings = []; // the best first
    private readonly List<Entry> _withdrawn = []; // since the last table
    private volatile Table _table = new([0], [null]);

    /// <summary>Who answers at an address, and up to which address; null: nobody.</summary>
    public Entry? Find(ulong address, out ulong last)
    {
        Table table = _table;
        ulong[] firsts = table.Firsts;
        int low = 0, high = firsts.Length;
        while (high - low > 1)
        {
            int middle = (low + high) >> 1;
            if (firsts[middle] <= address) low = middle;
            else high = middle;
        }
        last = high < firsts.Length ? firsts[high] - 1 : lastAddress;
        return table.Owners[low];
    }

    public IBusMapping Add(ulong first, ulong length, TDevice device, DeviceLock? @lock, int priority)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        lock (_changing)
        {
            @lock ??= _mappings.Find(m => m.Device == device)?.Lock ?? defaultLock ?? new DeviceLock(device.GetType().Name);
            var mapping = new Mapping(this, device, @lock, length, priority);
            mapping.Place(first);
            Insert(mapping);
            Publish();
            return mapping;
        }
    }

    private ulong LastAddress => lastAddress;

    private void Insert(Mapping mapping)
    {
        int place = _mappings.FindIndex(m => m.Priority < mapping.Priority);
        _mappings.Insert(place < 0 ? _mappings.Count : place, mapping);
    }

    /// <summary>Takes all ranges of a device away.</summary>
    public void Remove(TDevice device)
    {
        lock (_changing)
        {
            foreach (Mapping mapping in _mappings.FindAll(m => m.Device == device)) mapping.Withdraw();
            _mappings.RemoveAll(m => m.Device == device);
            Publish();
        }
    }

    /// <summary>Two devices of equal priority want one address: the address, and who gets it; null: nobody does.</summary>
    public (ulong Address, TDevice Answers, TDevice Hidden)? FindConflict()
    {
        lock (_changing)
        {
            for (int n = 0; n < _mappings.Count; n++)
            {
                for (int k = 0; k < n; k++)
                {
                    (Mapping answers, Mapping hidden) = (_mappings[k], _mappings[n]);
                    if (answers.Priority != hidden.Priority || answers.Entry is not { } a || hidden.Entry is not { } b || a.First > b.Last || b.First > a.Last) continue;
                    return (Math.Max(a.First, b.First), answers.Device, hidden.Device);
                }
            }
            return null;
        }
    }

    private void Publish()
    {
        SortedSet<ulong> firsts = [0];
        foreach (Mapping mapping in _mappings)
        {
            if (mapping.Entry is not { } e) continue;
            firsts.Add(e.First);
            if (e.Last < lastAddress) firsts.Add(e.Last + 1);
        }
        Table table = new([.. firsts], new Entry?[firsts.Count]);
        for (int n = 0; n < table.Firsts.Length; n++)
        {
            ulong address = table.Firsts[n];
            table.Owners[n] = _mappings.Find(m => m.Entry is { } e && address - e.First <= e.Last - e.First)?.Entry;
        }
        _table = table;
        // Only now: who looks again finds the new table, and need not wait for it.
        foreach (Entry entry in _withdrawn) entry.Gone = true;
        _withdrawn.Clear();
    }

    private sealed class Mapping(AddressMap<TDevice> owner, TDevice device, DeviceLock @lock, ulong length, int priority) : IBusMapping
    {
        public readonly TDevice Device = device;
        public readonly DeviceLock Lock = @lock;
        public readonly int Priority = priority;
        public Entry? Entry; // null: not decoded

        public ulong First { get; private set; }
        public ulong Length => length;

        public void Place(ulong first)
        {
            Withdraw();
            First = first;
            ulong last = first + (length - 1);
            if (first <= owner.LastAddress) Entry = new Entry(Device, Lock, first, last < first ? owner.LastAddress : Math.Min(last, owner.LastAddress));
        }

        public void Withdraw()
        {
            if (Entry != null) owner._withdrawn.Add(Entry);
            Entry = null;
        }

        public void Move(ulong first)
        {
            lock (owner._changing)
            {
                Place(first);
                if (!owner._mappings.Contains(this)) owner.Insert(this);
                owner.Publish();
            }
        }

        public void Remove()
        {
            lock (owner._changing)
            {
                Withdraw();
                owner._mappings.Remove(this);
                owner.Publish();
            }
        }
    }
}
