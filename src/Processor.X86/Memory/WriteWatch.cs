namespace Bunraku.Processor.X86;

/// <summary>Tells which pages of guest memory the vCPU may write to, for who keeps a copy: see <see cref="IFollowingCpu.WatchWrites"/>.</summary>
/// <remarks>Every write either takes the slow path or finds a write entry in the TLB, which only the slow path makes.</remarks>
internal sealed unsafe class WriteWatch(Processor p)
{
    private Action<ulong>? _beforeWrite;
    private readonly HashSet<ulong> _noted = [];
    private readonly HashSet<nint> _notedEntries = [];

    public bool IsOn => _beforeWrite != null;

    /// <inheritdoc cref="IFollowingCpu.WatchWrites"/>
    public void Begin(Action<ulong>? beforeWrite)
    {
        _beforeWrite = beforeWrite;
        if (beforeWrite != null) p.Tlb.ForbidWrites();
        BeginAnew();
    }

    /// <inheritdoc cref="IFollowingCpu.WatchAnew"/>
    public void BeginAnew()
    {
        foreach (nint entry in _notedEntries) ((TlbEntry*)entry)->WriteTag = Tlb.Empty;
        _notedEntries.Clear();
        _noted.Clear();
    }

    /// <summary>An access to a page of RAM is about to write, or to make a TLB entry that lets later ones write. Only while <see cref="IsOn"/>.</summary>
    public void Note(byte* host, TlbEntry* entry)
    {
        if (entry != null) _notedEntries.Add((nint)entry);
        ulong page = p.Code.BackingOffset(host) & ~0xFFFul;
        if (_noted.Add(page)) _beforeWrite!(page);
    }
}
