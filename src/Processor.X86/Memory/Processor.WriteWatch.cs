namespace Bunraku.Processor.X86;

/// <summary>Telling which pages of guest memory the vCPU may write to, for who keeps a copy: see <see cref="Engines.IFollowingCpu.WatchWrites"/>.</summary>
/// <remarks>Every write either takes the slow path or finds a write entry in the TLB, which only the slow path makes.</remarks>
public sealed unsafe partial class Processor
{
    private Action<ulong>? _beforeWrite;
    private readonly HashSet<ulong> _noted = [];
    private readonly HashSet<nint> _notedEntries = [];

    /// <inheritdoc cref="Engines.IFollowingCpu.WatchWrites"/>
    internal void WatchWrites(Action<ulong>? beforeWrite)
    {
        _beforeWrite = beforeWrite;
        if (beforeWrite != null)
        {
            var e = (TlbEntry*)State->TlbBytes;
            for (int n = 0; n < ProcessorState.TlbSize; n++) e[n].WriteTag = TlbEmpty;
        }
        WatchAnew();
    }

    /// <inheritdoc cref="Engines.IFollowingCpu.WatchAnew"/>
    internal void WatchAnew()
    {
        foreach (nint entry in _notedEntries) ((TlbEntry*)entry)->WriteTag = TlbEmpty;
        _notedEntries.Clear();
        _noted.Clear();
    }

    /// <summary>An access to a page of RAM is about to write, or to make a TLB entry that lets later ones write.</summary>
    private void NoteWrite(byte* host, TlbEntry* entry)
    {
        if (entry != null) _notedEntries.Add((nint)entry);
        ulong page = BackingOffset(host) & ~0xFFFul;
        if (_noted.Add(page)) _beforeWrite!(page);
    }
}
