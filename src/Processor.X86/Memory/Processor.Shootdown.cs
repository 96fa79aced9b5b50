using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// What other vCPUs ask of this one: to give up write access to pages that hold code from now on, to drop decoded code, and to stand still for a locked
/// operation that is no host atomic. A vCPU inside the guest does it when it next looks at its attention flags; outside, before it enters again.
/// </summary>
public sealed unsafe partial class Processor : IPageRightsObserver
{
    /// <summary>More pages than this are not worth a look at each TLB entry for each page.</summary>
    private const int MostRevocations = 32;
    /// <summary>Stands for all pages, and for all kinds of access to them, in a revocation.</summary>
    private const ulong EveryPage = ulong.MaxValue;
    /// <summary>PAUSE instructions between two offers to the host's scheduler: a few microseconds of spinning, several times what the offer costs.</summary>
    private const uint PauseBurst = 64;

    private readonly Lock _requestLock = new(); // held for moments, inside no other lock
    private readonly List<(ulong Page, Revocation? Revocation)> _revocations = []; // under the lock
    private readonly List<(ulong Page, Revocation? Revocation)> _revocationsAtHand = [];
    private uint _pauses;
    private HostBackoff _backoff;
    private bool _insideGuest, _waitsForBus; // under the lock, for who has to know exactly

    /// <summary>The vCPU may access guest memory at any moment. Any thread.</summary>
    internal bool AccessesMemory
    {
        get
        {
            lock (_requestLock) return _insideGuest && !_waitsForBus;
        }
    }

    /// <summary>
    /// In the middle of an instruction, inside the guest: nothing is accessed while the vCPU waits for the bus. Nothing else changes: translated code around the
    /// instruction may go on with addresses that it has checked before, so requests of others are not answered here.
    /// </summary>
    internal void WaitsForBus(bool waits)
    {
        lock (_requestLock) _waitsForBus = waits;
    }

    /// <inheritdoc cref="IVirtualCpu.Enter"/>
    internal VmExit Enter()
    {
        if (!TripleFaulted) Activity = CpuActivity.Active;
        EnterGuest();
        try
        {
            return RunToExit();
        }
        finally
        {
            LeaveGuest();
        }
    }

    /// <summary>From here to <see cref="LeaveGuest"/> others wait for this vCPU to see what they ask for.</summary>
    internal void EnterGuest()
    {
        while (true)
        {
            bool requests;
            lock (_requestLock)
            {
                _insideGuest = true;
                requests = _revocations.Count > 0;
            }
            if (requests) ProcessRevocations();
            // Whoever takes the bus looks at _insideGuest afterwards, under the lock that was just released.
            if (!Group.MustWaitForBus(this)) return;
            LeaveGuest();
            Group.WaitForBus(this);
        }
    }

    internal void LeaveGuest()
    {
        bool requests;
        lock (_requestLock)
        {
            _insideGuest = false;
            requests = _revocations.Count > 0;
        }
        if (requests) ProcessRevocations();
    }

    /// <summary>After a burst of PAUSE the host's other threads have their turn: one of them may be the vCPU that this one waits for.</summary>
    internal void Paused()
    {
        if (++_pauses % PauseBurst == 0 && Group.Count > 1) _backoff.Wait();
    }

    /// <summary>Lets the host's other threads have their turn, for what another vCPU has to do first. On this vCPU's thread.</summary>
    internal void WaitForOthers() => _backoff.Wait();

    /// <summary>Makes the vCPU look at what others want, as soon as it is between two blocks. Any thread.</summary>
    internal void CallAttention() => Signal(Attention.Event);

    /// <summary>Lets another vCPU have the bus, if it wants it. Between blocks.</summary>
    private void YieldBus()
    {
        if (!Group.MustWaitForBus(this)) return;
        LeaveGuest();
        EnterGuest();
    }

    /// <inheritdoc/>
    void ICodeObserver.RevokeWrites(ulong page, Revocation revocation)
    {
        lock (_requestLock)
        {
            if (!_insideGuest)
            {
                // Nothing is written before the next entry; many pages collapse into one flush then.
                if (_revocations.Count <= MostRevocations) _revocations.Add((page, null));
                return;
            }
            revocation.Expect();
            _revocations.Add((page, revocation));
        }
        Signal(Attention.Event);
    }

    /// <inheritdoc/>
    void IPageRightsObserver.RightsTaken(Revocation revocation)
    {
        lock (_requestLock)
        {
            if (!_insideGuest)
            {
                if (!_revocations.Exists(r => r.Page == EveryPage)) _revocations.Add((EveryPage, null));
                return;
            }
            revocation.Expect();
            _revocations.Add((EveryPage, revocation));
        }
        Signal(Attention.Event);
    }

    /// <summary>Gives up the access that others asked for, and reports it.</summary>
    private void ProcessRevocations()
    {
        lock (_requestLock)
        {
            if (_revocations.Count == 0) return;
            _revocationsAtHand.AddRange(_revocations);
            _revocations.Clear();
        }
        if (_revocationsAtHand.Count > MostRevocations || _revocationsAtHand.Exists(r => r.Page == EveryPage))
        {
            FlushPhysical();
        }
        else
        {
            foreach ((ulong page, _) in _revocationsAtHand) RevokeWrites(Memory.Backing.Pointer + page);
        }
        foreach ((_, Revocation? revocation) in _revocationsAtHand) revocation?.Report();
        _revocationsAtHand.Clear();
    }

    /// <summary>
    /// Bytes were written past the TLB: decoded code in the way is forgotten, here and elsewhere. The range lies in one page.
    /// </summary>
    private void AfterWrite(byte* host, int length)
    {
        // The store comes before the look at the page: see CodePages.
        Interlocked.MemoryBarrier();
        InvalidateCode(host, length);
        Memory.Code.WrittenBy(BackingOffset(host), _observer);
    }
}
