using System.Diagnostics;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which programs run directly. Each has an account, in time: what it computes in a helper is earned twice, since translated it would have taken about three
/// times as long; what it costs to enter, to leave and to map pages is paid; and of the time that passes a small part is given to it, so that it can try. A
/// program runs directly while there is something in its account: so nothing that a guest does gets slower by more than that part, whatever it is. What has
/// an account is a thread, known by its page tables and its FS base, which is where systems keep what belongs to a thread: of the threads of one program some
/// may compute and others call the kernel all the time.
/// </summary>
/// <param name="always">Every program always, for tests.</param>
internal sealed class DirectPolicy(bool always)
{
    /// <summary>One part in so many of the time that passes is given to a thread: 1 %.</summary>
    private const long Given = 100;
    /// <summary>And to one that the last time only ran out of pages that were not mapped yet: 6 %.</summary>
    private const long GivenToPromising = 16;
    /// <summary>More threads than this are forgotten.</summary>
    private const int MostRecords = 1024;

    private static readonly long s_millisecond = Stopwatch.Frequency / 1000;
    /// <summary>What is earned at most: a program that changes its ways is found out soon.</summary>
    private static readonly long s_most = 5 * s_millisecond;
    /// <summary>What is owed at most: so is one that takes the place of another.</summary>
    private static readonly long s_least = -2 * s_millisecond;
    /// <summary>What a new program owes: it has to live for 10 ms.</summary>
    private static readonly long s_first = -10 * s_millisecond / Given;
    /// <summary>Time between two looks counts up to this.</summary>
    private static readonly long s_longest = 20 * s_millisecond;

    private sealed class Record
    {
        public long Account;
        public bool IsPromising;
    }

    private readonly Dictionary<(ulong Root, ulong FsBase), Record> _records = [];
    private readonly HashSet<ulong> _worthwhile = []; // roots, of which a thread had something left when it was looked at last
    private Record _current = new(); // of the thread that was looked at last
    private ulong _root;
    private long _seen; // when a program was looked at last

    /// <summary>What switching costs of the helper's processor time, in nanoseconds, as measured when one was started.</summary>
    public long SwitchCost { get; set; } = 5000;

    /// <summary>The kernel returns to a thread, which may run directly.</summary>
    /// <param name="root">Address of its page tables.</param>
    public bool IsWorthTrying(ulong root, ulong fsBase)
    {
        if (always) return true;
        if (!_records.TryGetValue((root, fsBase), out Record? record))
        {
            if (_records.Count == MostRecords)
            {
                _records.Clear();
                _worthwhile.Clear();
            }
            _records[(root, fsBase)] = record = new Record { Account = s_first };
        }
        long now = Stopwatch.GetTimestamp(), passed = Math.Min(now - _seen, s_longest);
        _seen = now;
        record.Account += passed / (record.IsPromising ? GivenToPromising : Given);
        (_current, _root) = (record, root);
        Note();
        return record.Account > 0;
    }

    /// <summary>A thread that has computed for so long, with hardly a word to the kernel, is worth moving the guest's memory for.</summary>
    private static readonly long s_much = 250 * s_millisecond;

    private ulong _computes; // FS base of the thread that is watched
    private long _computed;

    /// <summary>
    /// While nothing can run directly: whether that would be good for a thread to which the kernel returns. True: look at each return.
    /// </summary>
    /// <param name="much">It computes, and has for long.</param>
    public bool WouldGain(ulong fsBase, out bool much)
    {
        long now = Stopwatch.GetTimestamp(), passed = Math.Min(now - _seen, s_longest);
        _seen = now;
        if (fsBase != _computes) (_computes, _computed) = (fsBase, 0);
        // Since the last return: short times are paid for.
        else _computed = passed > s_millisecond ? _computed + passed : Math.Max(_computed - s_millisecond, 0);
        much = always || _computed > s_much;
        return _computed > 0 || much;
    }

    private void Note()
    {
        if (_current.Account > 0) _worthwhile.Add(_root);
        else _worthwhile.Remove(_root);
    }

    /// <summary>Every return to the threads of a program is of interest.</summary>
    public bool IsWorthwhile(ulong root) => always || _worthwhile.Contains(root);

    /// <summary>The thread ran in the helper.</summary>
    /// <param name="total">Processor time of both, in nanoseconds: waiting for a processor of the host is no gain, and no cost.</param>
    /// <param name="inside">The helper's part, from letting it go on to its stop.</param>
    public void Count(long total, long inside)
    {
        long computed = Math.Max(inside - SwitchCost, 0), paid = total - computed;
        // Caches are cold afterwards, on both sides.
        _current.Account = Math.Clamp(_current.Account + ToTicks(2 * computed - paid - paid / 4), s_least, s_most);
        _seen = Stopwatch.GetTimestamp();
    }

    private static long ToTicks(long nanoseconds) => (long)(nanoseconds * (Stopwatch.Frequency / 1e9));

    /// <summary>The thread may be entered once more.</summary>
    public bool MayGoOn => always || _current.Account > 0;

    /// <summary>The thread does not run directly for now.</summary>
    /// <param name="lacksPages">It stopped because of a page that can be mapped.</param>
    public void End(bool lacksPages)
    {
        _current.IsPromising = lacksPages;
        Note();
    }
}
