using System.Diagnostics;

namespace Bunraku.Processor.X86;

/// <summary>
/// Which programs run directly. Each has an account, in time: what it computes in a helper is earned twice, since translated it would have taken about three
/// times as long; what it costs to start a helper, to enter, to leave and to map pages is paid; and of the time that passes a part is given to it, so that it
/// can try: a large one while it computes for long without the kernel, as long as that is not lost, and else next to nothing. A program runs directly while
/// there is something in its account: so nothing that a guest does gets slower by much more than that, whatever it is. What has an account is a thread, known
/// by its page tables and its FS base, which is where systems keep what belongs to a thread: of the threads of one program some may compute and others call
/// the kernel all the time.
/// </summary>
/// <param name="always">Every program always, for tests.</param>
internal sealed class DirectPolicy(bool always)
{
    /// <summary>One part in so many of the time that passes is given to a thread: 0.5 %.</summary>
    private const long Given = 200;
    /// <summary>And to one that computes, as long as it has credit: a quarter, since it may become several times as fast.</summary>
    private const long GivenToComputing = 4;
    /// <summary>More threads than this are forgotten.</summary>
    private const int MostRecords = 1024;

    private static readonly long s_millisecond = Stopwatch.Frequency / 1000;
    /// <summary>What is earned at most: a program that changes its ways is found out soon.</summary>
    private static readonly long s_most = 5 * s_millisecond;
    /// <summary>What is owed at most: so is one that takes the place of another.</summary>
    private static readonly long s_least = -3 * s_millisecond;
    /// <summary>What a new program owes: it has to compute for 10 ms.</summary>
    private static readonly long s_first = -10 * s_millisecond / GivenToComputing;
    /// <summary>What a thread that computes is given in advance; only what it gains makes it whole again.</summary>
    private static readonly long s_credit = 200 * s_millisecond;
    /// <summary>Time between two looks counts up to this.</summary>
    private static readonly long s_longest = 20 * s_millisecond;
    /// <summary>A thread computes where so much passes from a return to a fault or interrupt: several times what an entry and a mapping take.</summary>
    private static readonly long s_stretch = s_millisecond / 5;

    private sealed class Record
    {
        public long Account = s_first;
        public long Credit = s_credit;
    }

    private readonly Dictionary<(ulong Root, ulong FsBase), Record> _records = [];
    private readonly HashSet<ulong> _worthwhile = []; // roots, of which a thread had something left when it was looked at last
    private Record _current = new(); // of the thread that was returned to last
    private ulong _root;
    private long _seen; // when a program was returned to last
    private uint _returns; // what the count of SYSRETs was then

    /// <summary>What switching costs of the helper's processor time, in nanoseconds, as measured when one was started.</summary>
    public long SwitchCost { get; set; } = 5000;

    private Record Find(ulong root, ulong fsBase)
    {
        if (_records.TryGetValue((root, fsBase), out Record? record)) return record;
        if (_records.Count == MostRecords)
        {
            _records.Clear();
            _worthwhile.Clear();
        }
        return _records[(root, fsBase)] = new Record();
    }

    /// <summary>The kernel returns to a thread, which may run directly.</summary>
    /// <param name="root">Address of its page tables.</param>
    /// <param name="returns">SYSRETs so far that were not told of (<see cref="TranslatorState.Returns"/>).</param>
    public bool IsWorthTrying(ulong root, ulong fsBase, uint returns)
    {
        if (always) return true;
        (_current, _root) = (Find(root, fsBase), root);
        long now = Stopwatch.GetTimestamp(), passed = Math.Min(now - _seen, s_longest);
        (_seen, _returns) = (now, returns);
        _current.Account = Math.Min(_current.Account + passed / Given, s_most);
        Note();
        return _current.Account > 0;
    }

    /// <summary>A fault or an interrupt takes a thread to the kernel. True: it has computed since it was returned to, for long.</summary>
    private bool Computed(uint returns, out long passed)
    {
        passed = 0;
        if (returns != _returns) return false;
        passed = Stopwatch.GetTimestamp() - _seen;
        return passed >= s_stretch;
    }

    /// <summary>A fault or an interrupt takes a thread, which may run directly, to the kernel.</summary>
    public void Leaves(ulong root, ulong fsBase, uint returns)
    {
        if (always || !Computed(returns, out long passed)) return;
        Record record = Find(root, fsBase);
        if (record.Credit <= 0) return;
        long given = Math.Min(passed, s_longest) / GivenToComputing;
        record.Account = Math.Min(record.Account + given, s_most);
        record.Credit -= given;
    }

    /// <summary>A thread that has computed for so long, with hardly a word to the kernel, is worth moving the guest's memory for.</summary>
    private static readonly long s_much = 250 * s_millisecond;

    private ulong _computes; // FS base of the thread that is watched
    private long _computed;

    /// <summary>While nothing can run directly: the kernel returns to a thread.</summary>
    public void Returns(uint returns) => (_seen, _returns) = (Stopwatch.GetTimestamp(), returns);

    /// <summary>While nothing can run directly: a thread goes to the kernel; whether that would be good for it.</summary>
    public bool WouldGain(ulong fsBase, uint returns)
    {
        bool computed = Computed(returns, out long passed);
        if (fsBase != _computes) (_computes, _computed) = (fsBase, 0);
        // Short times are paid for.
        else _computed = computed ? _computed + Math.Min(passed, s_longest) : Math.Max(_computed - s_millisecond, 0);
        return always || _computed > s_much;
    }

    /// <summary>The thread runs directly from now on if there is something in its account, and else does not.</summary>
    public void Note()
    {
        if (_current.Account > 0) _worthwhile.Add(_root);
        else _worthwhile.Remove(_root);
    }

    /// <summary>Every return to the threads of a program is of interest.</summary>
    public bool IsWorthwhile(ulong root) => always || _worthwhile.Contains(root);

    /// <summary>The thread ran in the helper.</summary>
    /// <param name="total">Processor time of both, in nanoseconds: waiting for a processor of the host is no gain, and no cost.</param>
    /// <param name="inside">The helper's part, from letting it go on to its stop.</param>
    /// <returns>What it computed, in nanoseconds.</returns>
    public long Count(long total, long inside)
    {
        long computed = Math.Max(inside - SwitchCost, 0), paid = total - computed;
        // Caches are cold afterwards, on both sides.
        Enter(2 * computed - paid - paid / 4);
        _seen = Stopwatch.GetTimestamp();
        return computed;
    }

    /// <summary>Something was done for the thread beside running it.</summary>
    /// <param name="cost">Processor time, in nanoseconds.</param>
    public void Pay(long cost) => Enter(-cost);

    private void Enter(long nanoseconds)
    {
        long ticks = (long)(nanoseconds * (Stopwatch.Frequency / 1e9));
        _current.Account = Math.Clamp(_current.Account + ticks, s_least, s_most);
        if (ticks > 0) _current.Credit = Math.Min(_current.Credit + ticks, s_credit);
    }

    /// <summary>The thread may be entered once more.</summary>
    public bool MayGoOn => always || _current.Account > 0;
}
