using Bunraku.Engines;

namespace Bunraku.Hypervisor.Paravirtual;

/// <summary>
/// The paravirtual side of one vCPU: the structures in guest memory that it asked for, kept up to date between exits. For the vCPU's thread, unless a member
/// says otherwise.
/// </summary>
internal sealed unsafe class ParavirtualCpu(ParavirtualInterface owner, CpuThread thread)
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

    /// <summary>The guest lets the host poll before it sleeps in HLT.</summary>
    public bool HostMayPoll => (_pollMsr & KvmMsr.Enable) != 0;

    /// <summary>RESET and INIT: the guest's structures are forgotten. On the vCPU's thread, or before it runs.</summary>
    public void Reset()
    {
        _clockMsr = _stealMsr = _eoiMsr = 0;
        _clockPage = _stealPage = _eoiFlag = default;
        _pollMsr = KvmMsr.Enable;
    }

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
                _clockPage = (value & KvmMsr.Enable) != 0 ? new(owner.Memory, value & ~KvmMsr.Enable, sizeof(ClockPage)) : default;
                _clockStale = true;
                return true;
            case KvmMsr.StealTime when owner.Has(KvmFeatures.StealTime) && (value & KvmMsr.StealTimeReserved) == 0:
                _stealMsr = value;
                _stealPage = (value & KvmMsr.Enable) != 0 ? new(owner.Memory, value & ~KvmMsr.Enable, sizeof(StealTimePage)) : default;
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
        GuestWindow flag = (value & KvmMsr.Enable) != 0 ? new(owner.Memory, value & ~KvmMsr.Enable, sizeof(uint)) : default;
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
        if (stopped) _stopped = true;
        _clockStale = true;
    }

    private void UpdateClock()
    {
        _clockStale = false;
        if (!_clockPage.IsUsable) return;
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
        if (thread.Interrupts is not { } source) return;
        lock (owner.DeviceLock)
        {
            if (!source.TryOfferSilentEoi()) return;
        }
        _eoiOffered = true;
        Interlocked.Or(ref *(int*)_eoiFlag.Pointer, 1);
        _eoiFlag.Written();
    }

    /// <summary>Takes the offer back, and ends the interrupt when the guest has accepted it by clearing the flag.</summary>
    private void TakeEoi()
    {
        _eoiOffered = false;
        // A flag that was moved away meanwhile cannot be: its MSR exits.
        bool accepted = (Interlocked.And(ref *(int*)_eoiFlag.Pointer, ~1) & 1) == 0;
        _eoiFlag.Written();
        lock (owner.DeviceLock) thread.Interrupts!.WithdrawSilentEoi(accepted);
    }
}
