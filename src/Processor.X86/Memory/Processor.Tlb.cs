using System.Diagnostics;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The software TLB's contexts. A tag carries 12 bits that name everything a cached mapping depends on besides the page: the address space's number
/// (<see cref="AddressSpaces"/>), privilege, SMAP override. Entries may vanish at any time, as on hardware; global pages are therefore dropped with the rest.
/// </summary>
public sealed unsafe partial class Processor
{
    private const ulong TlbEmpty = ulong.MaxValue;

    private readonly AddressSpaces _spaces = new();
    private AddressSpaceOwner _owner; // of the address space in force: the processor's own, until there are guests inside
    private RightsInputs _rightsInputs;
    private bool _fillAllowed = true, _alignmentChecks, _dataBreakpoints;

    /// <summary>Linear pages from which code was entered since the jump cache's generation began (a Bloom filter), so that INVLPG of data costs nothing.</summary>
    private readonly ulong[] _codePageFilter = new ulong[64];

    /// <summary>Regions that large pages were cached for, one for each half of the address space: INVLPG inside drops everything. Wider than need be when several owners' mappings are cached.</summary>
    private readonly (ulong Low, ulong High)[] _largeRegions = [(ulong.MaxValue, 0), (ulong.MaxValue, 0)];

    internal ulong TlbMisses, TlbFlushes;

    /// <summary>Stopwatch time at which CPL became 3 for the first time, 0 before.</summary>
    private long _firstUserTimestamp;

    /// <summary>
    /// To be called after any change of CR0, CR3, CR4, EFER, CPL, RFLAGS.AC, RFLAGS.VM, RFLAGS.TF, PKRU, CS or SS attributes, data segments, XCR0, DR7: recomputes
    /// <see cref="ProcessorState.Mode"/>, <see cref="ProcessorState.TlbContext"/> and the attention for single steps.
    /// Only what changed is recomputed; calling too often is harmless.
    /// </summary>
    internal void ModeChanged()
    {
        ProcessorState* s = State;
        s->Mode = ComputeMode(s);
        bool align = s->Cpl == 3 && (s->Cr0 & (ulong)Cr0.Am) != 0 && (s->FlagsOther & (uint)Rflags.Ac) != 0;
        // DR7 R/Wn = 01b (write) or 11b (access) with Ln or Gn set.
        bool watch = false;
        for (int n = 0; n < 4; n++) watch |= (s->Dr7 >> (2 * n) & 3) != 0 && (s->Dr7 >> (16 + 4 * n) & 1) != 0;
        const ulong cr0Bits = (ulong)(Cr0.Pg | Cr0.Wp | Cr0.Pe);
        const ulong cr4Bits = (ulong)(Cr4.Pse | Cr4.Pae | Cr4.Pge | Cr4.Smep | Cr4.Smap | Cr4.Pke | Cr4.La57 | Cr4.Pcide);
        var inputs = new RightsInputs(s->Cr0 & cr0Bits, s->Cr4 & cr4Bits, s->Efer, s->Pkru, align, watch);
        if (inputs != _rightsInputs)
        {
            _rightsInputs = inputs;
            _alignmentChecks = align;
            _dataBreakpoints = watch;
            _fillAllowed = !align && !watch;
            _spaces.Enter(_owner, inputs);
        }
        SelectContext();
    }

    /// <summary>From now on linear addresses are those of <paramref name="owner"/>. What is cached for others stays.</summary>
    internal void SelectOwner(AddressSpaceOwner owner)
    {
        if (owner == _owner) return;
        _owner = owner;
        _spaces.Enter(owner, _rightsInputs);
        SelectContext();
    }

    private void SelectContext()
    {
        ProcessorState* s = State;
        ushort space = _spaces.Select(CurrentPcid);
        if (space == 0)
        {
            ReclaimSpaces();
            space = _spaces.Select(CurrentPcid);
        }
        bool smapOverride = (s->FlagsOther & (uint)Rflags.Ac) != 0;
        if (s->TlbContext >> SpaceShift != space) DropFirstLevel();
        s->TlbContext = ((ulong)space << SpaceShift) | (s->Cpl == 3 ? 1ul : 0) | (smapOverride ? SmapOverrideContext : 0);
        if (s->Cpl == 3 && _firstUserTimestamp == 0) _firstUserTimestamp = Stopwatch.GetTimestamp();
    }

    /// <summary>Bit of the TLB context that stands for RFLAGS.AC.</summary>
    internal const ulong SmapOverrideContext = 2;
    /// <summary>Where the number of the address space begins in a TLB context, which is a tag's low 12 bits.</summary>
    private const int SpaceShift = 2;

    private uint CurrentPcid => (State->Cr4 & (ulong)Cr4.Pcide) != 0 ? (uint)State->Cr3 & 0xFFF : 0;

    /// <summary>The numbers of address spaces ran out: those that are not in use are freed, and entries with them go.</summary>
    private void ReclaimSpaces()
    {
        _spaces.Reclaim();
        // A new number tells elsewhere; here it may be an old one again.
        DropFirstLevel();
        var e = (TlbEntry*)State->TlbBytes;
        for (int n = 0; n < ProcessorState.TlbSize; n++)
        {
            if (!IsLive(e[n].ReadTag)) e[n].ReadTag = TlbEmpty;
            if (!IsLive(e[n].WriteTag)) e[n].WriteTag = TlbEmpty;
            if (!IsLive(e[n].ExecTag)) e[n].ExecTag = TlbEmpty;
        }
        BumpJumpEpoch();

        bool IsLive(ulong tag) => _spaces.IsLive((int)(tag & 0xFFF) >> SpaceShift);
    }

    private void BumpJumpEpoch()
    {
        if (++State->JumpEpoch == 0)
        {
            // After 2^32 generations old keys could match again.
            new Span<byte>(State->JumpBytes, ProcessorState.JumpSize * sizeof(JumpEntry)).Clear();
            State->JumpEpoch = 1;
        }
        Array.Clear(_codePageFilter);
    }

    /// <summary>Drops every cached mapping of the VPID or ASID in force, global ones included.</summary>
    internal void FlushTlb()
    {
        TlbFlushes++;
        _spaces.ForgetTag(_owner.Tag);
        if (_spaces.AreForgotten) ForgetLargeRegions();
        SelectContext();
    }

    /// <summary>Drops every cached mapping: what lies behind guest-physical addresses has changed.</summary>
    private void FlushPhysical()
    {
        TlbFlushes++;
        _spaces.ForgetAll();
        ForgetLargeRegions();
        SelectContext();
    }

    private void ForgetLargeRegions() => _largeRegions[0] = _largeRegions[1] = (ulong.MaxValue, 0);

    /// <summary>INVLPG: drops the translation of one page in the current PCID and global ones.</summary>
    internal void FlushTlbPage(ulong address)
    {
        (ulong low, ulong high) = _largeRegions[address >> 63];
        if (address >= low && address <= high)
        {
            FlushTlb();
            return;
        }
        TlbEntry* e = Access.Entry(State, address);
        ulong page = address & ~0xFFFul;
        if ((e->ReadTag & ~0xFFFul) == page) e->ReadTag = TlbEmpty;
        if ((e->WriteTag & ~0xFFFul) == page) e->WriteTag = TlbEmpty;
        if ((e->ExecTag & ~0xFFFul) == page) e->ExecTag = TlbEmpty;
        DropFirstLevelPage(page);
        if (CodePageFilterHas(address)) BumpJumpEpoch();
    }

    /// <summary>Drops what belongs to <paramref name="pcid"/>, except globals; for <paramref name="address"/> only if given.</summary>
    internal void FlushTlbPcid(uint pcid, ulong? address = null)
    {
        if (address is { } a)
        {
            FlushTlbPage(a);
            return;
        }
        TlbFlushes++;
        _spaces.ForgetPcid(_owner.Tag, pcid);
        SelectContext();
    }

    private void NoteLarge(ulong address, bool large)
    {
        if (!large) return;
        ref (ulong Low, ulong High) region = ref _largeRegions[address >> 63];
        // A 1 GiB page is the largest there is.
        region = (Math.Min(region.Low, address & ~0x3FFF_FFFFul), Math.Max(region.High, address | 0x3FFF_FFFF));
    }

    private void NoteCodePage(ulong linear)
    {
        ulong page = linear >> 12;
        ulong hash = page ^ (page >> 12);
        _codePageFilter[(hash >> 6) & 63] |= 1ul << (int)(hash & 63);
    }

    private bool CodePageFilterHas(ulong linear)
    {
        ulong page = linear >> 12;
        ulong hash = page ^ (page >> 12);
        return (_codePageFilter[(hash >> 6) & 63] & (1ul << (int)(hash & 63))) != 0;
    }

    /// <summary>A page now holds code: writes to it must take the slow path from now on.</summary>
    private void RevokeWrites(byte* page)
    {
        var e = (TlbEntry*)State->TlbBytes;
        for (int n = 0; n < ProcessorState.TlbSize; n++)
        {
            if (e[n].WriteTag != TlbEmpty && (byte*)(e[n].Addend + (nint)(e[n].WriteTag & ~0xFFFul)) == page) e[n].WriteTag = TlbEmpty;
        }
        RevokeFirstLevelWrites(page);
    }

    private uint ComputeMode(ProcessorState* s)
    {
        uint mode = 0;
        bool protectedMode = (s->Cr0 & (ulong)Cr0.Pe) != 0, v86 = protectedMode && (s->FlagsOther & (uint)Rflags.Vm) != 0;
        bool longMode = (s->Efer & (ulong)Efer.Lma) != 0;
        bool code64 = longMode && s->Cs.Long && !v86;
        mode |= code64 ? ModeKey.Code64 : s->Cs.Default32 ? ModeKey.Code32 : ModeKey.Code16;
        if (s->Ss.Default32) mode |= ModeKey.Stack32;
        if (code64 || (IsFlat(s->Cs) && IsFlat(s->Ds) && IsFlat(s->Es) && IsFlat(s->Ss))) mode |= ModeKey.Flat;
        mode |= (uint)s->Cpl << ModeKey.CplShift;
        if (protectedMode) mode |= ModeKey.Protected;
        if (v86) mode |= ModeKey.Virtual8086;
        if (longMode) mode |= ModeKey.LongMode;
        if ((s->Cr0 & (ulong)Cr0.Em) != 0) mode |= ModeKey.Em;
        if ((s->Cr0 & (ulong)Cr0.Ts) != 0) mode |= ModeKey.Ts;
        if ((s->Cr0 & (ulong)Cr0.Mp) != 0) mode |= ModeKey.Mp;
        if ((s->Cr4 & (ulong)Cr4.Osfxsr) != 0) mode |= ModeKey.Osfxsr;
        if ((s->Cr4 & (ulong)Cr4.Osxsave) != 0 && (s->Xcr0 & 6) == 6) mode |= ModeKey.AvxEnabled;
        if (s->Cpl != 3 && (s->FlagsOther & (uint)Rflags.Ac) != 0) mode |= ModeKey.SmapOverride;
        return mode | _interceptMode;

        static bool IsFlat(in SegmentRegister r) =>
            r.Base == 0 && r.Limit == uint.MaxValue && (r.Attributes & SegmentRegister.Unusable) == 0 && r.Present && !r.IsSystem
            && (r.IsCode ? r.ReadWrite : r.ReadWrite && !r.ExpandDownOrConforming);
    }
}
