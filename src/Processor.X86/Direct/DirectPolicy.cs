using System.Diagnostics;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which programs run directly: those that compute for longer than it costs to enter and leave a helper, as was measured the last times. A stretch begins when
/// the kernel returns to a program, and ends when it needs the kernel. Programs are known by the root of their page tables.
/// </summary>
/// <param name="always">Every program always, for tests.</param>
internal sealed class DirectPolicy(bool always)
{
    /// <summary>What one entry and exit costs, in ticks of <see cref="Stopwatch"/>, as was measured when a helper was started.</summary>
    public long EntryCost { get; set; } = Stopwatch.Frequency / 50_000; // 20 µs
    /// <summary>A program that is younger is not worth a helper.</summary>
    private static readonly long s_leastAge = Stopwatch.Frequency / 100; // 10 ms
    /// <summary>A shadow is compared with the guest's tables so often.</summary>
    private static readonly long s_checkEvery = Stopwatch.Frequency;
    /// <summary>Returns to a program that does not pay are let pass, twice as many each time, up to this.</summary>
    private const int MostSkipped = 1024;
    /// <summary>A stretch may begin with so many entries that do not pay: pages are mapped then.</summary>
    private const int EntriesForNothing = 64;
    /// <summary>More programs than this are forgotten.</summary>
    private const int MostRecords = 256;

    private sealed class Record
    {
        public long Since, Checked;
        public int Penalty, Skip;
        /// <summary>The last stretch paid.</summary>
        public bool IsWorthwhile;
    }

    private readonly Dictionary<ulong, Record> _records = [];
    private long _direct; // of this stretch, in the helper
    private int _entries; // of this stretch

    private Record RecordOf(ulong root)
    {
        if (_records.TryGetValue(root, out Record? known)) return known;
        if (_records.Count == MostRecords) _records.Clear();
        long now = Stopwatch.GetTimestamp();
        return _records[root] = new Record { Since = now, Checked = now };
    }

    /// <summary>The kernel returns to a program.</summary>
    public bool IsWorthTrying(ulong root)
    {
        if (always) return true;
        Record record = RecordOf(root);
        if (record.Skip > 0)
        {
            record.Skip--;
            return false;
        }
        return record.IsWorthwhile || Stopwatch.GetTimestamp() - record.Since > s_leastAge;
    }

    /// <summary>Every return to a program is of interest.</summary>
    public bool IsWorthwhile(ulong root) => always || (_records.TryGetValue(root, out Record? known) && known.IsWorthwhile);

    /// <summary>The program ran in the helper.</summary>
    public void Count(long begin, long end)
    {
        _entries++;
        _direct += Math.Max(end - begin - EntryCost, 0);
    }

    /// <summary>
    /// What was computed directly is worth what it cost: translated it would have taken about three times as long, and the caches are cold after each entry.
    /// </summary>
    private bool Pays => _direct >= 2 * _entries * EntryCost;

    /// <summary>The program may be entered once more in this stretch.</summary>
    public bool MayGoOn => always || _entries < EntriesForNothing || Pays;

    /// <summary>The stretch is over.</summary>
    public void End(ulong root)
    {
        Record record = RecordOf(root);
        record.IsWorthwhile = Pays;
        record.Penalty = record.IsWorthwhile ? 0 : Math.Min(2 * record.Penalty + 1, MostSkipped);
        record.Skip = record.Penalty;
        _direct = 0;
        _entries = 0;
    }

    /// <summary>A second has passed since the shadow was compared with the guest's tables.</summary>
    public bool IsTimeToCheck(ulong root)
    {
        Record record = RecordOf(root);
        long now = Stopwatch.GetTimestamp();
        if (now - record.Checked < s_checkEvery) return false;
        record.Checked = now;
        return true;
    }
}
