using System.Diagnostics;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which programs run directly. Each has an account, in time: what it computes in a helper is earned, since translated it would have taken about twice as
/// long; what it costs to enter, to leave and to map pages is paid; and of the time that passes a small part is given to it, so that it can try. A program
/// runs directly while there is something in its account: so nothing that a guest does gets slower by more than that part, whatever it is. Programs are
/// known by the root of their page tables.
/// </summary>
/// <param name="always">Every program always, for tests.</param>
internal sealed class DirectPolicy(bool always)
{
    /// <summary>One part in so many of the time that passes is given to a program: 2 %.</summary>
    private const long Given = 50;
    /// <summary>And to one that the last time only ran out of pages that were not mapped yet: 12.5 %.</summary>
    private const long GivenToPromising = 8;
    /// <summary>More programs than this are forgotten.</summary>
    private const int MostRecords = 256;

    private static readonly long s_millisecond = Stopwatch.Frequency / 1000;
    /// <summary>What is earned at most: a program that changes its ways is found out soon.</summary>
    private static readonly long s_most = 5 * s_millisecond;
    /// <summary>What is owed at most: so is one that takes the place of another.</summary>
    private static readonly long s_least = -2 * s_millisecond;
    /// <summary>What a new program owes: it has to live for 10 ms.</summary>
    private static readonly long s_first = -10 * s_millisecond / Given;
    /// <summary>Time between two looks counts up to this.</summary>
    private static readonly long s_longest = 20 * s_millisecond;
    /// <summary>A shadow is compared with the guest's tables so often.</summary>
    private static readonly long s_checkEvery = Stopwatch.Frequency;

    private sealed class Record
    {
        public long Account, Checked;
        public bool IsPromising;
    }

    private readonly Dictionary<ulong, Record> _records = [];
    private long _seen; // when a program was looked at last

    /// <summary>What switching to a helper and back costs without anything else, in ticks of <see cref="Stopwatch"/>, as was measured when one was started.</summary>
    public long SwitchCost { get; set; } = Stopwatch.Frequency / 100_000; // 10 µs

    private Record RecordOf(ulong root, long now)
    {
        if (_records.TryGetValue(root, out Record? known)) return known;
        if (_records.Count == MostRecords) _records.Clear();
        return _records[root] = new Record { Account = s_first, Checked = now };
    }

    /// <summary>The kernel returns to a program, which may run directly.</summary>
    public bool IsWorthTrying(ulong root)
    {
        if (always) return true;
        long now = Stopwatch.GetTimestamp();
        Record record = RecordOf(root, now);
        long passed = Math.Min(now - _seen, s_longest);
        _seen = now;
        record.Account += passed / (record.IsPromising ? GivenToPromising : Given);
        return record.Account > 0;
    }

    /// <summary>Every return to a program is of interest.</summary>
    public bool IsWorthwhile(ulong root) => always || (_records.TryGetValue(root, out Record? known) && known.Account > 0);

    /// <summary>The program ran in the helper.</summary>
    /// <param name="total">What it took, in ticks of <see cref="Stopwatch"/>, with everything that belongs to it.</param>
    /// <param name="inside">The part of it from letting the helper go on to its stop.</param>
    public void Count(ulong root, long total, long inside)
    {
        long now = Stopwatch.GetTimestamp();
        Record record = RecordOf(root, now);
        long computed = Math.Max(inside - SwitchCost, 0), paid = total - computed;
        // Caches are cold afterwards, on both sides.
        record.Account = Math.Clamp(record.Account + computed - paid - paid / 4, s_least, s_most);
        _seen = now;
    }

    /// <summary>The program may be entered once more.</summary>
    public bool MayGoOn(ulong root) => always || IsWorthwhile(root);

    /// <summary>The program does not run directly for now.</summary>
    /// <param name="lacksPages">It stopped because of a page that can be mapped.</param>
    public void End(ulong root, bool lacksPages)
    {
        if (_records.TryGetValue(root, out Record? record)) record.IsPromising = lacksPages;
    }

    /// <summary>A second has passed since the shadow was compared with the guest's tables.</summary>
    public bool IsTimeToCheck(ulong root)
    {
        long now = Stopwatch.GetTimestamp();
        Record record = RecordOf(root, now);
        if (now - record.Checked < s_checkEvery) return false;
        record.Checked = now;
        return true;
    }
}
