using System.ComponentModel;
using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>What the dispatcher has to do after direct execution.</summary>
internal enum DirectOutcome : byte
{
    /// <summary>Go on in software: the program cannot, or should not, run directly now.</summary>
    Software,
    /// <summary>Execute one instruction, which something was the matter with, and come back.</summary>
    Step,
    /// <summary>Look at the attention flags.</summary>
    Attention,
}

/// <summary>
/// Runs programs of the guest on the host's processor as they are, in helper processes whose address spaces shadow the guest's page tables. Whatever stops a
/// program there is decided in software: the instruction is executed again by the interpreter, which raises the fault or finds the page, makes the system
/// call, and sees all that the host's processor must not show. For the vCPU's thread alone, but for <see cref="Interrupt"/>.
/// </summary>
internal sealed unsafe partial class DirectExecution(Processor p, DirectSetup setup) : IDisposable
{
    /// <summary>Helpers of one vCPU; programs beyond take turns.</summary>
    private const int MostHelpers = 6;
    /// <summary>Pages that a helper maps at most: a host lets a process have 65,530 mappings.</summary>
    private const int MostPages = 60_000;
    /// <summary>After so many blocks in pages that must not run directly a program is not watched any more.</summary>
    private const int LongestExcursion = 512;

    private readonly DirectRegisters _registers = new(p.State);
    private readonly ShadowPeek _peek = new(p);
    private FaultingAccess? _access; // made when the first program runs
    private readonly DirectPolicy _policy = new(always: setup.Use == DirectUse.Always);
    private readonly List<ShadowSpace> _spaces = [];
    private ShadowSpace? _current;
    private ulong _fault; // address of the access that the helper could not make; 0: none
    private bool _faultFetches;
    private ulong _awaited; // the last access that was left to the guest's kernel; 0: none
    private ShadowSpace? _awaitedIn;
    private bool _awaitedFetches;
    private ulong _turn;
    private long _begin; // the thread's processor time when it came here; ns
    private int _excursion; // blocks since the program has come to a page that must not run directly
    private bool _unusable; // the host refused
    private int _owner = -1; // the thread that traces the helpers
    private TracedProcess? _inside; // runs guest code now; read by any thread
    private readonly ProcessorLease _lease = new(p.Group.LeasedProcessors);

    /// <summary>What was done, for statistics. Any thread, approximately.</summary>
    public DirectCounters Counters { get; } = new();

    /// <summary>What the host's scheduler gave the helpers.</summary>
    public HelperTime Time { get; } = new();

    private Action? _wish;

    /// <summary>What is to happen when programs are worth running directly and cannot, since the memory is not shared; once. Before the vCPU runs.</summary>
    public Action WishForMemory { set => _wish = value; }

    /// <summary>The dispatcher should call <see cref="Run"/> before the next block.</summary>
    public bool IsDue { get; private set; }

    /// <summary>Any thread, after it has set attention flags: the program stops where it is.</summary>
    public void Interrupt() => Volatile.Read(ref _inside)?.Interrupt();

    /// <summary>Programs of guests inside the guest never run directly.</summary>
    private bool InGuest => (p.State->Mode & ModeKey.Guest) != 0;

    /// <summary>What a program is known by.</summary>
    private ulong Root => p.State->Cr3 & PagingBits.AddressMask;

    /// <summary>The processor has returned from the kernel to a program.</summary>
    public void ReturnedToUser()
    {
        if (_unusable || p.State->Cpl != 3 || InGuest) return;
        if (!p.Memory.Backing.IsShared)
        {
            _policy.Returns(p.State->Translator.Returns);
            return;
        }
        if (!_policy.IsWorthTrying(Root, p.State->Fs.Base, p.State->Translator.Returns) || !setup.IsKnown)
        {
            SpaceSelected();
            return;
        }
        IsDue = true;
        Counters.Stretches++;
        p.WantAttention(Attention.BlockEnd);
    }

    /// <summary>An exception or interrupt of a program is about to be delivered.</summary>
    public void LeavesUser()
    {
        if (_unusable || InGuest) return;
        if (p.Memory.Backing.IsShared)
        {
            _policy.Leaves(Root, p.State->Fs.Base, p.State->Translator.Returns);
            return;
        }
        if (!_policy.WouldGain(p.State->Fs.Base, p.State->Translator.Returns) || !setup.IsKnown) return;
        if (setup.Host.WhyNot == null) Interlocked.Exchange(ref _wish, null)?.Invoke();
        else _unusable = true;
    }

    /// <summary>Another address space is in force.</summary>
    public void SpaceSelected() => p.Msrs.HearOfReturns(!_unusable && !InGuest && _policy.IsWorthwhile(Root));

    /// <summary>Runs the program until it needs software.</summary>
    public DirectOutcome Run()
    {
        ProcessorState* s = p.State;
        if (s->Cpl != 3 || (s->FlagsOther & (uint)(Rflags.Rf | Rflags.Tf)) != (uint)Rflags.Rf || p.Debug.HasInstructionBreakpoints) return RunNow(s);
        // After a fault the kernel returns with RF set, for one instruction. It must not pass the processor's breakpoints that guard pages there.
        ulong rip = s->Rip;
        s->FlagsOther &= ~(uint)Rflags.Rf;
        DirectOutcome outcome = RunNow(s);
        if (s->Rip == rip && s->Cpl == 3) s->FlagsOther |= (uint)Rflags.Rf; // it has not been executed
        return outcome;
    }

    private DirectOutcome RunNow(ProcessorState* s)
    {
        _begin = HostScheduling.OwnProcessorTime;
        if (!CanRun(s))
        {
            // Also when a fault is delivered, and the kernel goes on.
            if (s->Cpl == 3)
            {
                Counters.Unsuitable++;
                Charge();
            }
            End();
            return DirectOutcome.Software;
        }
        if (!TrySelectSpace()) return Software();
        if (_awaited != 0)
        {
            // The guest's kernel has seen to it: what its tables say now is mapped at once.
            ulong address = _awaited;
            _awaited = 0;
            if (_awaitedIn == _current) _ = TryFill(address, _awaitedFetches);
        }
        if (_fault != 0)
        {
            ulong address = _fault;
            _fault = 0;
            // An instruction that ends in a page that must not run directly is executed in software; what it leads to comes next.
            if (!TryFill(address, _faultFetches))
            {
                if (!_current!.IsRefused(address)) return Software();
                Charge();
                return DirectOutcome.Step;
            }
        }
        if (_current!.IsRefused(PageOf(s->Rip)))
        {
            if (++_excursion == LongestExcursion || !_policy.MayGoOn) return Software();
            // Back here at the next jump, which may lead elsewhere.
            p.WantAttention(Attention.BlockEnd);
            return DirectOutcome.Software;
        }
        _excursion = 0;
        CheckFlags();
        CpuWork work = s->Work;
        s->Work = CpuWork.Direct;
        TracedStop stop = RunHelper(out TracedRegisters registers, out bool interrupted);
        s->Work = work;
        if (stop == TracedStop.Ended) return interrupted ? DirectOutcome.Attention : Software();
        return Decide(s, stop, registers);
    }

    /// <summary>What was done since the thread came here is paid for, whether the program ran or not.</summary>
    /// <param name="more">Processor time of others for it, in nanoseconds.</param>
    private void Charge(long more = 0)
    {
        long now = HostScheduling.OwnProcessorTime, cost = now - _begin + more;
        _begin = now;
        _policy.Pay(cost);
        Counters.Paid += (ulong)cost;
    }

    private DirectOutcome Software()
    {
        Charge();
        End();
        return DirectOutcome.Software;
    }

    private void End()
    {
        if (!IsDue) return;
        IsDue = false;
        if (_fault != 0 && _current != null) (_awaited, _awaitedIn, _awaitedFetches) = (_fault, _current, _faultFetches);
        _fault = 0;
        _excursion = 0;
        _policy.Note();
        SpaceSelected();
    }

    /// <summary>Everything that a program could see of its processor is the same in the helper.</summary>
    private bool CanRun(ProcessorState* s)
    {
        const uint mode = ModeKey.CodeSizeMask | ModeKey.Em | ModeKey.Ts | ModeKey.Guest | ModeKey.Single | 3u << ModeKey.CplShift;
        const ulong pkru = 1 << 9;
        const uint wantedMode = ModeKey.Code64 | 3u << ModeKey.CplShift;
        if ((s->Mode & mode) != wantedMode || (s->Mode & ModeKey.AvxEnabled) == 0 || (s->Xcr0 & ~pkru) != 7) return false;
        const ulong cr0 = (ulong)(Cr0.Pg | Cr0.Am | Cr0.Ne), cr4 = (ulong)(Cr4.Pcide | Cr4.Fsgsbase | Cr4.Osfxsr | Cr4.Osxmmexcpt);
        if ((s->Cr0 & cr0) != cr0 || (s->Cr4 & cr4) != cr4 || (s->Cr4 & (ulong)Cr4.La57) != 0 || (s->Efer & (ulong)Efer.Sce) == 0) return false;
        // Pages with another protection key than 0 are not mapped.
        if ((s->Cr4 & (ulong)Cr4.Pke) != 0 && (s->Pkru & 3) != 0) return false;
        if ((Flags.Get(s) & ~DirectRegisters.Free) != DirectRegisters.Required) return false;
        if (s->Cs.Selector != DirectRegisters.Code64 || s->Ss.Selector != DirectRegisters.Data || s->Fs.Selector != 0 || s->Gs.Selector != 0
            || s->Ds.Selector is not (0 or DirectRegisters.Data) || s->Es.Selector is not (0 or DirectRegisters.Data)) return false;
        if (p.MustStep || p.Events.InterruptShadow || p.WriteWatch.IsOn || p.Following.Until != null || p.Memory.Rights.WereTaken
            || !p.Tlb.AllowsFills) return false;
        if ((s->Mxcsr & ~0xFFFFu) != 0 || s->Rip >= DirectHelper.AddressEnd || s->Fs.Base >= DirectHelper.AddressEnd
            || s->Gs.Base >= DirectHelper.AddressEnd) return false;
        if (s->Xcr0 != _xcr0)
        {
            // What may run depends on it.
            _xcr0 = s->Xcr0;
            foreach (ShadowSpace space in _spaces) space.Clear();
        }
        return HasEqualDescriptors();
    }

    private ulong _xcr0; // that the shadows were made for

    /// <summary>
    /// Behind the selectors that the host accepts from a program lie the descriptors that the guest has there, so that loading one does the same. The host's
    /// others cannot be loaded, nor has a helper an LDT.
    /// </summary>
    private bool HasEqualDescriptors()
    {
        const uint flatCode64 = 0xA0FB, flatCode32 = 0xC0FB, flatData = 0xC0F3, accessed = 1, dataOfPrograms = 0xF0, kind = 0xFA;
        return IsFlat(DirectRegisters.Code64, flatCode64) && IsFlat(DirectRegisters.Code32, flatCode32) && IsFlat(DirectRegisters.Data, flatData)
            && TryRead(DirectRegisters.ProcessorNumber, out Descriptor number) && (number.Attributes & kind) == dataOfPrograms;

        bool IsFlat(ushort selector, uint attributes) => TryRead(selector, out Descriptor d) && d.Base == 0 && d.Limit == uint.MaxValue
            && (d.Attributes | accessed) == attributes;

        bool TryRead(ushort selector, out Descriptor descriptor)
        {
            ulong raw = 0;
            bool isThere = p.Segments.DescriptorAddress(selector) is { } address && (address & 7) == 0 && _peek.TryRead(address, out raw);
            descriptor = new Descriptor(raw);
            return isThere;
        }
    }

    private bool TrySelectSpace()
    {
        int thread = Environment.CurrentManagedThreadId;
        if (thread != _owner)
        {
            // Only the thread that has started a helper can trace it.
            DropHelpers();
            _owner = thread;
        }
        ulong birth = p.Tlb.SpaceBirth;
        ShadowSpace? space = _current?.Birth == birth ? _current : _spaces.Find(known => known.Birth == birth);
        if (space == null && _spaces.Find(known => known.Root == Root) is { } flushed)
        {
            // The same tables after a flush of the TLB: most of what they said they still say.
            space = flushed;
            space.Refresh(birth);
            Compare(space);
        }
        if (space == null)
        {
            // At most the one that was used longest ago is lost.
            space = _spaces.Count < MostHelpers ? TryStart() : _spaces.MinBy(known => known.Used);
            if (space == null) return false;
            space.BeginAnew(birth, Root);
        }
        if (space.Count > MostPages) space.Clear();
        space.Used = ++_turn;
        _current = space;
        Time.Select(space.Helper);
        return true;
    }

    private ShadowSpace? TryStart()
    {
        if (setup.Host.WhyNot != null)
        {
            _unusable = true;
            return null;
        }
        try
        {
            var space = new ShadowSpace(new DirectHelper(p.Memory.Backing, _registers), Counters);
            _spaces.Add(space);
            Counters.HelpersStarted++;
            MeasureEntry(space.Helper);
            Charge(space.Helper.Process.ProcessorTime);
            return space;
        }
        catch (Win32Exception)
        {
            _unusable = true;
            return null;
        }
    }

    /// <summary>Enters for nothing a few times: the median is what switching costs here and now.</summary>
    private void MeasureEntry(DirectHelper helper)
    {
        const int times = 9;
        Span<long> taken = stackalloc long[times], waited = stackalloc long[times];
        using ThreadAccounting? own = ThreadAccounting.OfCurrentThread();
        for (int n = 0; n < times; n++)
        {
            long before = Waited();
            if (!helper.TryEnterForNothing(out long inside)) return;
            (taken[n], waited[n]) = (inside, Waited() - before);
        }
        taken.Sort();
        waited.Sort();
        _policy.SwitchCost = taken[times / 2];
        if (Time.HandOver == 0)
        {
            Time.Select(null);
            Time.HandOver = waited[times / 2];
        }

        long Waited() => (own?.Read().Wait ?? 0) + (helper.Accounting?.Read().Wait ?? 0);
    }

    /// <summary>Runs guest code in the helper; the state is what it left.</summary>
    /// <param name="interrupted">With <see cref="TracedStop.Ended"/>: nothing ran, since somebody wants attention.</param>
    private TracedStop RunHelper(out TracedRegisters registers, out bool interrupted)
    {
        ShadowSpace space = _current!;
        long spent = space.Helper.Process.ProcessorTime;
        TracedProcess process = space.Helper.Process;
        registers = default;
        interrupted = false;
        if (!space.TryFinish() || !_registers.TrySet(process, space.Helper.HiddenBy))
        {
            Discard(space);
            return TracedStop.Ended;
        }
        // Who sets attention flags looks at _inside afterwards.
        Interlocked.Exchange(ref _inside, process);
        if (p.State->AttentionFlags != 0)
        {
            Volatile.Write(ref _inside, null);
            interrupted = true;
            return TracedStop.Ended;
        }
        Counters.Entries++;
        _lease.Hold(process, ref space.Helper.Placed);
        long before = process.ProcessorTime;
        TracedStop stop = process.Run();
        Volatile.Write(ref _inside, null);
        // Nobody counts there; but what was to happen at the next instruction is over.
        p.State->Retired++;
        if (stop != TracedStop.Ended && _registers.TryGet(process, stop == TracedStop.SystemCall, out registers))
        {
            long now = process.ProcessorTime, own = HostScheduling.OwnProcessorTime;
            long total = own - _begin + now - spent, computed = _policy.Count(total, now - before);
            _begin = own;
            Counters.Computed += (ulong)computed;
            Counters.Paid += (ulong)Math.Max(total - computed, 0);
            return stop;
        }
        // What the program has done since it was entered is lost.
        Discard(space);
        throw new EngineException("a process that runs code of the guest directly was ended from outside, and its registers with it");
    }

    private void Discard(ShadowSpace space)
    {
        Time.Select(null);
        _spaces.Remove(space);
        if (_current == space) _current = null;
        space.Dispose();
    }

    private DirectOutcome Decide(ProcessorState* s, TracedStop stop, in TracedRegisters r)
    {
        TracedProcess process = _current!.Helper.Process;
        if (r.Cs != DirectRegisters.Code64 || r.Ds != s->Ds.Selector || r.Es != s->Es.Selector || (r.Fs | r.Gs) != 0 || r.Ss != DirectRegisters.Data)
            TakeSegments(s, r);
        else p.ModeChanged(); // AC, TF
        switch (stop)
        {
            case TracedStop.Ending:
                Discard(_current!);
                End();
                return DirectOutcome.Software;
            case TracedStop.SystemCall:
                Counters.SystemCalls++;
                s->Rip = (s->Rip - SystemCallLength) & Flow.RipMask(s);
                return DirectOutcome.Step;
        }
        if (process.WasInterrupted)
        {
            Counters.Interruptions++;
            return DirectOutcome.Attention;
        }
        const int segmentationFault = 11, trap = 5, badSystemCall = 31, mapError = 1, accessError = 2, keyError = 4;
        if (!process.TryGetSignal(out int code, out ulong address)) return DirectOutcome.Step;
        // Sent by somebody (si_code, signal.h): the program has nothing to do with it.
        if (code <= 0) return DirectOutcome.Attention;
        switch (process.Signal)
        {
            case segmentationFault when code is mapError or accessError or keyError:
                Counters.Faults++;
                _fault = PageOf(address);
                _faultFetches = address - s->Rip < 16;
                if (!_policy.MayGoOn) return Software();
                // What the tables allow already needs no instruction in software.
                return TryFillBefore(address) || TryRaise(s, address) ? DirectOutcome.Attention : DirectOutcome.Step;
            case trap:
                Counters.Traps++;
                return TakeTrap(s, code);
            case badSystemCall:
                // In the host's page of old system calls, which it has carried out the return of.
                s->Rip = address;
                s->Rsp -= 8;
                return DirectOutcome.Step;
            default:
                return DirectOutcome.Step;
        }
    }

    /// <summary>
    /// An access to data that the helper could not make is looked for in the guest's tables, as the processor does: they allow it and get their accessed and
    /// dirty flags, or its page fault is delivered. False: that is left to the interpreter.
    /// </summary>
    private bool TryRaise(ProcessorState* s, ulong address)
    {
        if (_faultFetches || p.Exits.Intercepts(Vector.Pf) || p.Debugger.WatchesPage(address)) return false;
        _access ??= new FaultingAccess(p, _peek);
        if (!_access.TryFind(address, out bool writes)) return false;
        WalkResult found = p.Walker.Walk(address, PageWalker.UserAccess | (writes ? PageWalker.WriteAccess : PageWalker.ReadAccess));
        switch (found.Outcome)
        {
            case WalkOutcome.Mapped:
                // Devices, and code that is written to, need the instruction itself.
                return found.Host != null && !(writes && p.Code.IsCodePage(found.Host));
            case WalkOutcome.PageFault:
                p.Mmu.SetCr2(address);
                p.Delivery.DeliverException(Vector.Pf, found.ErrorCode);
                return true;
            default:
                return false;
        }
    }

    /// <summary>SYSCALL, or INT 80h, of which the host tells when RIP is behind them.</summary>
    private const ulong SystemCallLength = 2;

    /// <summary>The program has loaded segment registers: software loads them, too.</summary>
    private void TakeSegments(ProcessorState* s, in TracedRegisters r)
    {
        (ulong fsBase, ulong gsBase) = (r.FsBase, r.GsBase);
        Load(Seg.Ds, r.Ds);
        Load(Seg.Es, r.Es);
        Load(Seg.Fs, r.Fs);
        Load(Seg.Gs, r.Gs);
        if (r.Ss != s->Ss.Selector) Load(Seg.Ss, r.Ss);
        if (r.Cs != s->Cs.Selector && p.Segments.TryReadDescriptor((ushort)r.Cs, out Descriptor code))
            code.CopyTo(&s->Cs, (ushort)r.Cs);
        (s->Fs.Base, s->Gs.Base) = (fsBase, gsBase);
        p.ModeChanged();

        void Load(Seg segment, ulong selector)
        {
            if (ProcessorState.Segment(s, segment)->Selector != (ushort)selector) p.Segments.LoadSegment(segment, (ushort)selector);
        }
    }

    /// <summary>INT3 and INT1, which the host tells of when they are over; or a single step that the program has asked for.</summary>
    private DirectOutcome TakeTrap(ProcessorState* s, int code)
    {
        const int kernel = 0x80, breakpoint = 1;
        if (code == DirectHelper.BreakpointCode)
        {
            Counters.Guarded++;
            return DirectOutcome.Step;
        }
        if ((s->FlagsOther & (uint)Rflags.Tf) != 0 && code is not (kernel or breakpoint))
        {
            p.Debug.NoteSingleStep();
            return DirectOutcome.Attention;
        }
        byte* last = p.Mmu.Fetch(s->Rip - 1);
        s->Rip -= *last is 0xCC or 0xF1 ? 1ul : 2;
        return DirectOutcome.Step;
    }

    /// <summary>The vCPU halts: its thread will sleep.</summary>
    public void Halts() => _lease.LetGo();

    private void DropHelpers()
    {
        Time.Select(null);
        foreach (ShadowSpace space in _spaces) space.Dispose();
        _spaces.Clear();
        _current = null;
    }

    public void Dispose()
    {
        DropHelpers();
        _lease.Abandon();
    }
}
