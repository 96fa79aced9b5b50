using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// What other vCPUs ask of this one: to give up write access to pages that hold code from now on, to drop cached mappings, and to stand still for a locked
/// operation that is no host atomic. A vCPU inside the guest does it when it next looks at its attention flags; outside, before it enters again.
/// </summary>
internal sealed unsafe class Shootdown(Processor p) : IPageRightsObserver
{
    /// <summary>More pages than this are not worth a look at each TLB entry for each page.</summary>
    private const int MostRevocations = 32;
    /// <summary>Stands for all pages, and for all kinds of access to them, in a revocation.</summary>
    private const ulong EveryPage = ulong.MaxValue;

    private readonly Lock _requestLock = new(); // held for moments, inside no other lock
    private readonly List<(ulong Page, Revocation? Revocation)> _revocations = []; // under the lock
    private readonly List<(ulong Page, Revocation? Revocation)> _revocationsAtHand = [];
    private bool _insideGuest, _waitsForBus; // under the lock, for who has to know exactly

    /// <summary>The vCPU may access guest memory at any moment. Any thread.</summary>
    public bool AccessesMemory
    {
        get
        {
            lock (_requestLock) return _insideGuest && !_waitsForBus;
        }
    }

    /// <summary>
    /// In the middle of an instruction, inside the guest: nothing is accessed while the vCPU waits for the bus. Nothing else changes: translated code around
    /// the instruction may go on with addresses that it has checked before, so requests of others are not answered here.
    /// </summary>
    public void WaitsForBus(bool waits)
    {
        lock (_requestLock) _waitsForBus = waits;
    }

    /// <summary>From here to <see cref="LeaveGuest"/> others wait for this vCPU to see what they ask for.</summary>
    public void EnterGuest()
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
            if (!p.Group.MustWaitForBus(p)) return;
            LeaveGuest();
            p.Group.WaitForBus(p);
        }
    }

    public void LeaveGuest()
    {
        bool requests;
        lock (_requestLock)
        {
            _insideGuest = false;
            requests = _revocations.Count > 0;
        }
        if (requests) ProcessRevocations();
    }

    /// <summary>Lets another vCPU have the bus, if it wants it. Between blocks.</summary>
    public void YieldBus()
    {
        if (!p.Group.MustWaitForBus(p)) return;
        LeaveGuest();
        EnterGuest();
    }

    /// <inheritdoc/>
    void IPageRightsObserver.RightsTaken(Revocation revocation) => Ask(EveryPage, revocation);

    /// <summary>
    /// This vCPU is to give up write access to a page, or with <see cref="EveryPage"/> every cached mapping, and to report it. Outside the guest nothing is
    /// accessed before the next entry, which does it; so there is nothing to wait for. Any thread.
    /// </summary>
    /// <param name="page">Offset of the page in the backing memory.</param>
    public void Ask(ulong page, Revocation revocation)
    {
        lock (_requestLock)
        {
            if (!_insideGuest)
            {
                // So many are done as one flush, and so is every page.
                bool isKnown = page == EveryPage ? _revocations.Exists(r => r.Page == EveryPage) : _revocations.Count > MostRevocations;
                if (!isKnown) _revocations.Add((page, null));
                return;
            }
            revocation.Expect();
            _revocations.Add((page, revocation));
        }
        p.Signal(Attention.Event);
    }

    /// <summary>Gives up the access that others asked for, and reports it.</summary>
    public void ProcessRevocations()
    {
        lock (_requestLock)
        {
            if (_revocations.Count == 0) return;
            _revocationsAtHand.AddRange(_revocations);
            _revocations.Clear();
        }
        if (_revocationsAtHand.Count > MostRevocations || _revocationsAtHand.Exists(r => r.Page == EveryPage))
        {
            p.Tlb.FlushAll();
        }
        else
        {
            foreach ((ulong page, _) in _revocationsAtHand) p.Tlb.RevokeWrites(p.Memory.Backing.Pointer + page);
        }
        foreach ((_, Revocation? revocation) in _revocationsAtHand) revocation?.Report();
        _revocationsAtHand.Clear();
    }
}
