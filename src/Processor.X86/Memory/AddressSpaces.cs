namespace Bunraku.Processor.X86;

/// <summary>Whose linear addresses they are, apart from the PCID.</summary>
/// <param name="Tag">VPID or ASID; 0 for the processor's own (root or host) mode.</param>
/// <param name="SecondStageRoot">EPTP or nested CR3; 0 without a second stage.</param>
/// <param name="ApicPage">The page that is never cached, since each access to it is looked at: <see cref="GuestApicPage.Key"/>.</param>
/// <remarks>Intel SDM vol. 3C, "Caching Translation Information"; AMD APM vol. 2, "TLB Control".</remarks>
internal readonly record struct AddressSpaceOwner(ushort Tag, ulong SecondStageRoot, ulong ApicPage = 0);

/// <summary>State of the processor that cached rights depend on: under other values the same space has another number.</summary>
internal readonly record struct RightsInputs(ulong Cr0, ulong Cr4, ulong Efer, uint Pkru, bool ChecksAlignment, bool WatchesData);

/// <summary>
/// Gives linear address spaces the numbers that the tags of the software TLB carry: one for each owner (VPID or ASID, second stage), PCID and set of inputs.
/// To flush a space is to forget its number: entries with it never match again, and nothing has to be searched. A forgotten number is given again only after
/// the TLB was searched for it, so that spaces in use keep their entries however fast others come and go.
/// </summary>
/// <remarks>Invariant: a number names at most one space at a time, and no TLB entry has a number that is free.</remarks>
internal sealed class AddressSpaces
{
    /// <summary>Numbers are 1 to this: the tags have 10 bits for them. 0 is no number.</summary>
    public const int Last = 1000;
    /// <summary>When the numbers run out, the spaces that were selected longest ago go until so many are free.</summary>
    private const int LeastFree = Last / 4;
    /// <summary>More sets than this are not kept: each is a table of all PCIDs.</summary>
    private const int MostSets = 64;

    /// <summary>The spaces of one owner under the same inputs.</summary>
    private sealed class SpaceSet
    {
        public AddressSpaceOwner Owner;
        public RightsInputs Inputs;
        public long Entered; // when
        public readonly ushort[] OfPcid = new ushort[4096];
        public readonly List<ushort> Pcids = []; // that have a number
    }

    private readonly List<SpaceSet> _sets = [new()];
    private readonly long[] _selected = new long[Last + 1]; // when; 0: the number is free, or forgotten
    private readonly ulong[] _births = new ulong[Last + 1];
    /// <summary>Where the numbers' spaces have large pages cached, two words for each: a bit for a region of 1 GiB, which other regions share.</summary>
    private readonly ulong[] _large = new ulong[2 * (Last + 1)];
    private ulong _lastBirth;
    private readonly Stack<ushort> _free = new();
    private SpaceSet _current, _previous;
    private ushort _number; // that was selected last
    private long _clock;

    public AddressSpaces()
    {
        _current = _previous = _sets[0];
        FillFree();
    }

    /// <summary>The number names a space. TLB entries with another can never match.</summary>
    public bool IsLive(int number) => number <= Last && _selected[number] != 0;

    private const int BirthShift = 10;

    /// <summary>When a space got its number, with the number: two spaces never have the same.</summary>
    public ulong BirthOf(int number) => _births[number];

    /// <summary>The space of that birth still has its number.</summary>
    public bool IsAlive(ulong birth)
    {
        int number = (int)(birth & (1ul << BirthShift) - 1);
        return _births[number] == birth && IsLive(number);
    }

    /// <summary>From now on spaces are selected for this owner and these inputs.</summary>
    public void Enter(AddressSpaceOwner owner, in RightsInputs inputs)
    {
        if (_current.Owner != owner || _current.Inputs != inputs)
        {
            // A guest's hypervisor and its guest take turns.
            SpaceSet next = _previous.Owner == owner && _previous.Inputs == inputs ? _previous : Find(owner, inputs);
            (_previous, _current) = (_current, next);
        }
        _current.Entered = ++_clock;
    }

    private SpaceSet Find(AddressSpaceOwner owner, in RightsInputs inputs)
    {
        foreach (SpaceSet known in _sets)
        {
            if (known.Owner == owner && known.Inputs == inputs) return known;
        }
        SpaceSet set;
        if (_sets.Count == MostSets)
        {
            set = _sets.MinBy(s => s.Entered)!;
            Forget(set);
        }
        else
        {
            _sets.Add(set = new SpaceSet());
        }
        (set.Owner, set.Inputs) = (owner, inputs);
        return set;
    }

    /// <summary>The number of a PCID's space, or 0 when none is free: <see cref="Reclaim"/> must be called then.</summary>
    /// <param name="pcid">0 to 4095.</param>
    public ushort Select(uint pcid)
    {
        ref ushort number = ref _current.OfPcid[pcid];
        if (number == 0)
        {
            if (!_free.TryPop(out ushort free)) return 0;
            number = free;
            _births[number] = ++_lastBirth << BirthShift | number;
            _large[2 * number] = _large[2 * number + 1] = 0;
            _current.Pcids.Add((ushort)pcid);
        }
        if (number != _number || _selected[number] == 0)
        {
            _number = number;
            _selected[number] = ++_clock;
        }
        return number;
    }

    /// <summary>Whose a number is; null: it is free.</summary>
    public (AddressSpaceOwner Owner, uint Pcid)? Find(int number)
    {
        foreach (SpaceSet set in _sets)
        {
            foreach (ushort pcid in set.Pcids)
            {
                if (set.OfPcid[pcid] == number) return (set.Owner, pcid);
            }
        }
        return null;
    }

    /// <summary>Forgets every space.</summary>
    public void ForgetAll()
    {
        foreach (SpaceSet set in _sets) Forget(set);
    }

    /// <summary>Forgets all spaces of a VPID or ASID, whatever their second stage.</summary>
    public void ForgetTag(ushort tag)
    {
        foreach (SpaceSet set in _sets)
        {
            if (set.Owner.Tag == tag) Forget(set);
        }
    }

    /// <summary>Forgets all spaces behind a second stage, whatever their VPID or ASID.</summary>
    /// <remarks>For INVEPT, and for AMD's flush by nested CR3: tests alone call it until there are guests inside the guest.</remarks>
    public void ForgetSecondStage(ulong root)
    {
        foreach (SpaceSet set in _sets)
        {
            if (set.Owner.SecondStageRoot == root) Forget(set);
        }
    }

    /// <summary>A page of a mapping larger than 4 KiB is cached for a number's space; a region is as large as the largest there is.</summary>
    public void NoteLarge(int number, ulong address) => LargeOf(number, address) |= LargeBit(address);

    /// <summary>Each half of the address space has its word, so that programs do not suffer from the kernel's pages.</summary>
    private ref ulong LargeOf(int number, ulong address) => ref _large[2 * number + (int)(address >> 63)];

    private static ulong LargeBit(ulong address) => 1ul << (int)((address >> 30) * 0x9E37_79B9_7F4A_7C15 >> 58);

    /// <summary>Forgets the spaces of a VPID or ASID that may have large pages cached around an address. False: there are none.</summary>
    public bool ForgetLarge(ushort tag, ulong address)
    {
        ulong bit = LargeBit(address);
        bool any = false;
        foreach (SpaceSet set in _sets)
        {
            if (set.Owner.Tag != tag) continue;
            for (int n = set.Pcids.Count - 1; n >= 0; n--)
            {
                ushort pcid = set.Pcids[n];
                if ((LargeOf(set.OfPcid[pcid], address) & bit) == 0) continue;
                Forget(set, pcid);
                set.Pcids.RemoveAt(n);
                any = true;
            }
        }
        return any;
    }

    /// <summary>Forgets one PCID's spaces of a VPID or ASID, whatever their second stage.</summary>
    public void ForgetPcid(ushort tag, uint pcid)
    {
        foreach (SpaceSet set in _sets)
        {
            if (set.Owner.Tag == tag && set.OfPcid[pcid] != 0 && set.Pcids.Remove((ushort)pcid)) Forget(set, (ushort)pcid);
        }
    }

    private void Forget(SpaceSet set)
    {
        foreach (ushort pcid in set.Pcids) Forget(set, pcid);
        set.Pcids.Clear();
    }

    private void Forget(SpaceSet set, ushort pcid)
    {
        _selected[set.OfPcid[pcid]] = 0;
        set.OfPcid[pcid] = 0;
    }

    /// <summary>
    /// The numbers have run out: frees the forgotten ones, and if these are few those of spaces that were selected longest ago. Before the next
    /// <see cref="Select"/> the caller removes every entry from the TLB whose number is not <see cref="IsLive"/>.
    /// </summary>
    public void Reclaim()
    {
        if (_selected.AsSpan(1).Count(0) < LeastFree)
        {
            long[] times = [.. _selected.AsSpan(1)];
            Array.Sort(times);
            long newest = times[LeastFree - 1]; // of those that go
            foreach (SpaceSet set in _sets)
            {
                set.Pcids.RemoveAll(pcid =>
                {
                    if (_selected[set.OfPcid[pcid]] > newest) return false;
                    Forget(set, pcid);
                    return true;
                });
            }
        }
        FillFree();
    }

    private void FillFree()
    {
        _free.Clear();
        for (int n = Last; n > 0; n--)
        {
            if (_selected[n] == 0) _free.Push((ushort)n);
        }
    }
}
