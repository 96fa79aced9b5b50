using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Hypervisor.X86.Paravirtual;

/// <summary>
/// The paravirtual side of one vCPU: the structures in guest memory that it asked for, kept up to date between exits. For the vCPU's thread, unless a member
/// says otherwise.
/// </summary>
internal sealed unsafe class ParavirtualCpu(ParavirtualInterface owner, X86CpuThread thread) : IStateful<ParavirtualCpuState>
{
    /// <summary>Steal time is brought up to date at an entry no more often than this, in ns: the host's accounts cost a system call.</summary>
    private const long StealInterval = 500_000;

    private readonly VirtualClock _clock = owner.Clock;
    private ulong _clockMsr, _stealMsr, _eoiMsr, _pollMsr = KvmMsr.Enable;
    private GuestWindow _clockPage, _stealPage, _eoiFlag;
    private volatile bool _clockStale, _stopped;
    private ulong _tscOffset;
    private long _stolenBefore, _stealUpdated;
    private bool _away, _eoiOffered;
    private HostBackoff _backoff;

    /// <summary>The guest lets the host poll before it sleeps in HLT.</summary>
    public bool HostMayPoll => (_pollMsr & KvmMsr.Enable) != 0;

    /// <summary>RESET and INIT: the guest's structures are forgotten. On the vCPU's thread, or before it runs.</summary>
    public void Reset()
    {
        _clockMsr = _stealMsr = _eoiMsr = 0;
        _clockPage = _stealPage = _eoiFlag = default;
        _pollMsr = KvmMsr.Enable;
        _eoiOffered = _away = _clockStale = _stopped = false;
    }

    /// <summary>The guest waits for a vCPU that is not running. On the vCPU's thread.</summary>
    public void WaitForOthers() => _backoff.Wait();

    // ---- state

    public string Id => $"kvm.cpu{thread.Cpu.Index}";

    ParavirtualCpuState IStateful<ParavirtualCpuState>.Save() => new(
        _clockMsr, _stealMsr, _eoiMsr, _pollMsr, _clockStale, _stopped, _tscOffset, thread.StolenNanoseconds - _stolenBefore, _stealUpdated, _away,
        _eoiOffered, thread.UnhaltPending);

    void IStateful<ParavirtualCpuState>.Restore(ParavirtualCpuState state)
    {
        (_clockMsr, _stealMsr, _eoiMsr, _pollMsr) = (state.Clock, state.Steal, state.Eoi, state.Poll);
        _clockPage = Window(_clockMsr, sizeof(ClockPage));
        _stealPage = Window(_stealMsr, sizeof(StealTimePage));
        _eoiFlag = Window(_eoiMsr, sizeof(uint));
        (_clockStale, _stopped, _tscOffset) = (state.ClockStale, state.Stopped, state.TscOffset);
        // This thread has stolen time of its own; what the guest has not been told of stays to be told.
        _stolenBefore = thread.StolenNanoseconds - state.StolenUnreported;
        (_stealUpdated, _away) = (state.StealUpdated, state.Away);
        _eoiOffered = state.EoiOffered && _eoiFlag.IsUsable;
        thread.UnhaltPending = state.Unhalt;
    }

    /// <summary>What an MSR with an address and an enable bit asks for.</summary>
    private GuestWindow Window(ulong msr, int length) => (msr & KvmMsr.Enable) != 0 ? new(owner.Memory, msr & ~KvmMsr.Enable, length) : default;

    // ---- MSRs

    public bool TryRead(uint index, out ulong value)
    {
        switch (index)
        {
            case KvmMsr.SystemTime or KvmMsr.SystemTimeOld: value = _clockMsr; return true;
            case KvmMsr.StealTime when owner.Has(KvmFeatures.StealTime): value = _stealMsr; return true;
            case KvmMsr.PvEoi: value = _eoiMsr; return true;
            case KvmMsr.PollControl: value = _pollMsr; return true;
            default: value = 0; return false;
        }
    }

    /// <summary>False raises #GP.</summary>
    public bool TryWrite(uint index, ulong value)
    {
        switch (index)
        {
            case KvmMsr.SystemTime or KvmMsr.SystemTimeOld:
                // An address without RAM is no fault: the page is just not there.
                _clockMsr = value;
                _clockPage = Window(value, sizeof(ClockPage));
                _clockStale = true;
                if (!_clockPage.IsUsable) _stopped = false;
                return true;
            case KvmMsr.StealTime when owner.Has(KvmFeatures.StealTime) && (value & KvmMsr.StealTimeReserved) == 0:
                _stealMsr = value;
                _stealPage = Window(value, sizeof(StealTimePage));
                _stolenBefore = thread.StolenNanoseconds;
                _stealUpdated = long.MinValue / 2;
                _away = true; // whatever stands there about us is wrong
                return true;
            case KvmMsr.PvEoi when (value & KvmMsr.PvEoiReserved) == 0:
                return TryWriteEoi(value);
            case KvmMsr.PollControl when (value & ~KvmMsr.Enable) == 0:
                _pollMsr = value;
                return true;
            default:
                return false;
        }
    }

    private bool TryWriteEoi(ulong value)
    {
        GuestWindow flag = Window(value, sizeof(uint));
        if ((value & KvmMsr.Enable) != 0 && !flag.IsUsable) return false;
        _eoiMsr = value;
        _eoiFlag = flag;
        return true;
    }

    // ---- between exits

    /// <summary>Before each entry, when what is pending has been injected.</summary>
    public void BeforeEntry()
    {
        ulong offset = thread.Cpu.TscOffset;
        if (offset != _tscOffset)
        {
            _tscOffset = offset;
            owner.TscChanged();
        }
        if (_clockStale) UpdateClock();
        if (_stealPage.IsUsable) UpdateSteal();
        if (_eoiFlag.IsUsable) OfferEoi();
    }

    /// <summary>An interrupt has gone into service, at the beginning of an entry or before it.</summary>
    public void InterruptTaken()
    {
        if (_eoiFlag.IsUsable) OfferEoi();
    }

    /// <summary>After each exit, before anything is done about it.</summary>
    public void AfterExit()
    {
        if (_eoiOffered) TakeEoi();
    }

    /// <summary>The vCPU does not run for a while: others need not wait for it.</summary>
    public void Leave()
    {
        if (!_stealPage.IsUsable || _away) return;
        _away = true;
        _stealPage.Prepare();
        Interlocked.Or(ref Flags(_stealPage), StealTimePage.IsPreempted);
        _stealPage.Written();
    }

    // The flags' word: bytes 17 to 19 are padding.
    private static ref int Flags(in GuestWindow page) => ref *(int*)(page.Pointer + 16);

    // ---- kvmclock

    /// <summary>TSC offset of this vCPU. Any thread.</summary>
    public ulong TscOffset => Volatile.Read(ref _tscOffset);

    /// <summary>The clock page is to be written anew before the next entry. Any thread.</summary>
    /// <param name="stopped">Time stood still in between.</param>
    public void ClockChanged(bool stopped)
    {
        if (stopped && _clockPage.IsUsable) _stopped = true; // a page that comes later has missed nothing
        _clockStale = true;
    }

    private void UpdateClock()
    {
        _clockStale = false;
        if (!_clockPage.IsUsable) return;
        _clockPage.Prepare();
        var page = (ClockPage*)_clockPage.Pointer;
        // A guest that has not yet taken note of an earlier stop is told again.
        byte flags = (byte)(page->Flags & ClockPage.GuestStopped | (owner.TscIsStable ? ClockPage.TscStable : 0));
        if (_stopped)
        {
            flags |= ClockPage.GuestStopped;
            _stopped = false;
        }
        uint version = Volatile.Read(ref page->Version) | 1; // odd, whatever the guest has left there
        Volatile.Write(ref page->Version, version);
        Thread.MemoryBarrier();
        (page->TscTimestamp, page->SystemTime) = (_tscOffset, 0);
        (page->TscToSystemMultiplier, page->TscShift, page->Flags) = (owner.ClockMultiplier, owner.ClockShift, flags);
        Thread.MemoryBarrier();
        Volatile.Write(ref page->Version, version + 1);
        _clockPage.Written();
    }

    // ---- steal time

    private void UpdateSteal()
    {
        long now = _clock.Nanoseconds;
        if (!_away && now - _stealUpdated < StealInterval) return;
        _stealUpdated = now;
        _stealPage.Prepare();
        if (_away)
        {
            _away = false;
            if ((Interlocked.Exchange(ref Flags(_stealPage), 0) & StealTimePage.FlushTlb) != 0) thread.Cpu.FlushTlb();
        }
        long stolen = thread.StolenNanoseconds;
        var page = (StealTimePage*)_stealPage.Pointer;
        uint version = Volatile.Read(ref page->Version) | 1;
        Volatile.Write(ref page->Version, version);
        Thread.MemoryBarrier();
        page->Steal += (ulong)(stolen - _stolenBefore);
        page->Flags = 0;
        Thread.MemoryBarrier();
        Volatile.Write(ref page->Version, version + 1);
        _stolenBefore = stolen;
        _stealPage.Written();
    }

    // ---- end of interrupt without an exit

    /// <summary>Sets the flag by which the guest sees that it need not tell the APIC about the end of the interrupt in service.</summary>
    private void OfferEoi()
    {
        if (_eoiOffered) return;
        if (thread.Interrupts is not { IsInService: true } source) return;
        lock (owner.InterruptLock)
        {
            if (!source.TryOfferSilentEoi()) return;
        }
        _eoiOffered = true;
        _eoiFlag.Prepare();
        Interlocked.Or(ref *(int*)_eoiFlag.Pointer, 1);
        _eoiFlag.Written();
    }

    /// <summary>Takes the offer back, and ends the interrupt when the guest has accepted it by clearing the flag.</summary>
    private void TakeEoi()
    {
        _eoiOffered = false;
        _eoiFlag.Prepare();
        // A flag that was moved away meanwhile cannot be: its MSR exits.
        bool accepted = (Interlocked.And(ref *(int*)_eoiFlag.Pointer, ~1) & 1) == 0;
        _eoiFlag.Written();
        lock (owner.InterruptLock) thread.Interrupts!.WithdrawSilentEoi(accepted);
        thread.LookForEvents();
    }
}

/// <summary>What KVM's interface knows of one vCPU; the structures themselves are in guest memory.</summary>
/// <param name="Clock">MSR of the clock page.</param>
/// <param name="Steal">MSR of the steal-time page.</param>
/// <param name="Eoi">MSR of the end-of-interrupt flag.</param>
/// <param name="Poll">MSR that lets the host poll before it sleeps.</param>
/// <param name="ClockStale">The clock page is to be written anew.</param>
/// <param name="Stopped">The guest is to be told that time stood still.</param>
/// <param name="TscOffset">The vCPU's TSC offset as it was last looked at.</param>
/// <param name="StolenUnreported">ns of stolen time that the guest has not been told of.</param>
/// <param name="StealUpdated">ns of virtual time at which it was told last.</param>
/// <param name="Away">The steal-time page says that the vCPU does not run.</param>
/// <param name="EoiOffered">The flag offers the guest to end its interrupt without telling.</param>
/// <param name="Unhalt">The next HLT ends at once.</param>
[StateRecord("kvm.cpu", version: 1)]
internal sealed record ParavirtualCpuState(
    ulong Clock, ulong Steal, ulong Eoi, ulong Poll, bool ClockStale, bool Stopped, ulong TscOffset, long StolenUnreported, long StealUpdated, bool Away,
    bool EoiOffered, bool Unhalt);
