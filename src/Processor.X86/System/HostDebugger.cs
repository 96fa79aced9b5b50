using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// What a debugger outside of the guest waits for, beside the guest's own <see cref="DebugUnit"/>. Nothing of it is looked at unless it can matter. In front of
/// an instruction at whose offset in a page a breakpoint lies, the decoder puts an operation that compares the address, whatever the page: so mappings may
/// change. A block with a breakpoint is not translated for that address; translations for other addresses have nothing in them. A watched page never comes into
/// the TLB, so each access to it is looked at, and one to the watched range is done once more as a step of its own, behind which the vCPU exits.
/// </summary>
internal sealed unsafe class HostDebugger(Processor p)
{
    /// <summary>Breakpoints by offset in their page: bit n of word n / 64.</summary>
    private readonly ulong[] _offsets = new ulong[GuestMemory.PageSize / 64];
    private readonly HashSet<ulong> _breakpoints = [];
    private Watchpoint[] _watchpoints = [];
    private readonly HashSet<ulong> _watchedPages = []; // their linear addresses
    private bool _steps, _stepsToAccess, _hasStepped;
    private ulong _deliveredBefore; // events, when the step was asked for
    private ulong? _accessed; // the watched range that an instruction has accessed

    /// <summary>There is a debugger.</summary>
    public bool IsOn { get; private set; }

    /// <summary>Some page is watched.</summary>
    public bool Watches { get; private set; }

    /// <summary>The next instruction is executed alone.</summary>
    public bool MustStep => _steps | _stepsToAccess;

    /// <summary>Before the next instruction is to be seen whether the vCPU exits.</summary>
    public bool MustLook => _steps | _stepsToAccess | _accessed != null;

    /// <summary>The vCPU exits before it does anything else.</summary>
    public bool IsDue => _accessed != null || (_steps && (_hasStepped || Delivered != _deliveredBefore));

    private ulong Delivered => p.Delivery.ExceptionsDelivered + p.Delivery.InterruptsDelivered;

    /// <inheritdoc cref="IVirtualCpu.SetDebugControls"/>
    public void Set(DebugControls? controls)
    {
        IsOn = controls != null;
        _steps = controls is { Step: true };
        _hasStepped = _stepsToAccess = false;
        _accessed = null;
        _deliveredBefore = Delivered;
        SetBreakpoints(controls?.Breakpoints ?? []);
        SetWatchpoints(controls?.Watchpoints ?? []);
        if (IsOn) p.WantAttention();
    }

    private void SetBreakpoints(IReadOnlyCollection<ulong> wanted)
    {
        if (wanted.Count == _breakpoints.Count && wanted.All(_breakpoints.Contains)) return;
        foreach (ulong address in wanted)
        {
            // Decoded code may be without the operation; a translation was made without it in any case.
            if (!_breakpoints.Contains(address)) p.Code.DiscardAt((int)(address % GuestMemory.PageSize));
        }
        _breakpoints.Clear();
        Array.Clear(_offsets);
        foreach (ulong address in wanted)
        {
            _breakpoints.Add(address);
            int offset = (int)(address % GuestMemory.PageSize);
            _offsets[offset / 64] |= 1ul << (offset % 64);
        }
    }

    private void SetWatchpoints(IReadOnlyCollection<Watchpoint> wanted)
    {
        if (wanted.SequenceEqual(_watchpoints)) return;
        _watchpoints = [.. wanted];
        _watchedPages.Clear();
        foreach (Watchpoint watch in _watchpoints)
        {
            ulong last = PageOf(watch.Address + (watch.Length - 1));
            for (ulong page = PageOf(watch.Address); ; page += GuestMemory.PageSize)
            {
                _watchedPages.Add(page);
                if (page == last) break;
            }
        }
        Watches = _watchedPages.Count > 0;
        p.Tlb.FlushAll();
        p.Translator?.FirstLevel.Drop();
    }

    private static ulong PageOf(ulong address) => address & ~(GuestMemory.PageSize - 1);

    // ---- breakpoints

    /// <summary>Instructions at this offset of a page have to be looked at.</summary>
    public bool MayBreakAt(int offset) => (_offsets[offset / 64] >> (offset % 64) & 1) != 0;

    /// <summary>A breakpoint lies in code at a linear address.</summary>
    public bool BreaksIn(ulong linear, int length)
    {
        foreach (ulong address in _breakpoints)
        {
            if (address - linear < (ulong)length) return true;
        }
        return false;
    }

    /// <summary>The operation in front of an instruction that may have a breakpoint.</summary>
    public static Insn* Check(Processor p, ProcessorState* s, Insn* i)
    {
        ulong linear = s->BlockRip + i->Offset + BlockFinder.CodeBase(s);
        if ((s->Mode & ModeKey.CodeSizeMask) != ModeKey.Code64) linear = (uint)linear;
        // An instruction whose answer has come has begun already.
        if (!p.Debugger._breakpoints.Contains(linear) || p.IsCompleting) return i + 1;
        return p.Exits.MustExitFirst ? p.Exits.LeaveForExit(i) : p.Exits.LeaveForDebugger(i, linear);
    }

    // ---- watchpoints and steps

    /// <summary>Accesses to the page are looked at.</summary>
    public bool WatchesPage(ulong linear) => Watches && _watchedPages.Contains(PageOf(linear));

    /// <summary>An instruction that is not executed alone, and has changed nothing yet, is going to access what is watched.</summary>
    /// <returns>True: it must be abandoned, and executed once more by itself.</returns>
    public bool MustStepForAccess(ulong linear, int length, bool write)
    {
        // The delivery of an event is no instruction, and ends by itself.
        if (p.State->Current == null || (p.State->Mode & ModeKey.Single) != 0 || Find(linear, length, write) is null) return false;
        return _stepsToAccess = true;
    }

    /// <summary>An access that will not fault: the vCPU exits behind it if it is watched.</summary>
    public void NoteAccess(ulong linear, int length, bool write)
    {
        if (Find(linear, length, write) is not { } watch) return;
        _accessed ??= watch.Address;
        p.WantAttention();
    }

    private Watchpoint? Find(ulong linear, int length, bool write)
    {
        foreach (ref readonly Watchpoint watch in _watchpoints.AsSpan())
        {
            if ((write ? watch.Writes : watch.Reads) && Overlap(watch, linear, length)) return watch;
        }
        return null;
    }

    private static bool Overlap(in Watchpoint watch, ulong linear, int length) =>
        linear - watch.Address < watch.Length || watch.Address - linear < (ulong)length;

    /// <summary>An instruction that was executed alone has retired, or something else came in its place.</summary>
    public void NoteStep()
    {
        _hasStepped = true;
        _stepsToAccess = false;
    }

    /// <summary>Fills the exit that is due.</summary>
    public void TakeExit()
    {
        p.Exit.Reason = ExitReason.Debug;
        p.Exit.DebugCause = _accessed == null ? DebugCause.Step : DebugCause.Watchpoint;
        p.Exit.Address = _accessed ?? 0;
        EndStep();
    }

    /// <summary>The vCPU exits for its debugger: nothing else is due.</summary>
    public void EndStep()
    {
        _accessed = null;
        _steps = _stepsToAccess = _hasStepped = false;
    }
}
