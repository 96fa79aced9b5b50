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
    /// The range is decoded no more. When this returns no further access reaches the device; one that is under way holds the device's lock, so whoever removes
    /// a range with that lock held is sure that there is none.
    /// </summary>
    void Remove();
}

/// <summary>
/// Which device answers at which address of a bus. Ranges may overlap: the one of the highest priority answers, among equals the one that was added first.
/// Look-ups take no lock: they see one immutable table, which changes are made in a copy of. For the buses; an architecture with another address space makes
/// one of its own with it. Thread-safe.
/// </summary>
/// <typeparam name="TDevice">What the bus calls.</typeparam>
/// <param name="lastAddress">Highest address of the bus.</param>
/// <param name="defaultLock">The lock of devices that are added without one; null: each has its own.</param>
public sealed class AddressMap<TDevice>(ulong lastAddress, DeviceLock? defaultLock) where TDevice : class
{
    /// <summary>A device's range, as look-ups see it.</summary>
    public sealed class Entry
    {
        internal Entry(TDevice device, DeviceLock @lock, ulong first, ulong last) => (Device, Lock, First, Last) = (device, @lock, first, last);

        /// <summary>Who answers.</summary>
        public readonly TDevice Device;
        /// <summary>To be held while it answers.</summary>
        public readonly DeviceLock Lock;
        /// <summary>First and last address.</summary>
        public readonly ulong First, Last;
        /// <summary>
        /// The range was moved or removed, and the table shows it. Who found the entry asks when he holds the lock, and then looks the address up again.
        /// </summary>
        public volatile bool Gone;
    }

    /// <param name="Firsts">Where another entry begins to answer, ascending; the first is 0.</param>
    /// <param name="Owners">Who answers from there on; null: nobody.</param>
    private sealed record Table(ulong[] Firsts, Entry?[] Owners);

    private readonly Lock _changing = new();
    private readonly List<Mapping> _mappings = []; // the best first
    private readonly List<Entry> _withdrawn = []; // since the last table
    private volatile Table _table = new([0], [null]);

    /// <summary>Who answers at an address; null: nobody.</summary>
    /// <param name="address">Any address of the bus.</param>
    /// <param name="last">The same one, or nobody, answers up to here.</param>
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

    /// <summary>Puts a device at a range.</summary>
    /// <param name="first">First address.</param>
    /// <param name="length">Number of addresses, not 0.</param>
    /// <param name="device">Who is to answer.</param>
    /// <param name="lock">Held for each access; null: the device's lock if it is on the bus already, or the bus's default.</param>
    /// <param name="priority">Where ranges overlap the highest answers, among equals the first that was added.</param>
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
    /// <param name="device">Nothing happens when it has none.</param>
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
                    if (answers.Priority != hidden.Priority || answers.Entry is not { } a || hidden.Entry is not { } b || a.First > b.Last || b.First > a.Last)
                        continue;
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
