using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// The software TLB. A tag is the page and 12 bits that name everything else a cached mapping depends on: the address space's number
/// (<see cref="AddressSpaces"/>), privilege, SMAP override. Entries may vanish at any time, as on hardware; global pages are therefore dropped with the rest.
/// Hits are in <see cref="Access"/>.
/// </summary>
internal sealed unsafe class Tlb(Processor p)
{
    /// <summary>A tag that matches nothing.</summary>
    public const ulong Empty = ulong.MaxValue;

    private readonly AddressSpaces _spaces = new();
    private AddressSpaceOwner _owner; // of the address space in force
    /// <summary>The space whose mappings the first level of translated code holds, outside guest mode and in it; 0: none.</summary>
    private readonly ulong[] _firstLevelSpaces = new ulong[2];
    private RightsInputs _inputs;
    /// <summary>Pages that an entry, here or in the first level, may let code write to: most pages with code have none, and need no search.</summary>
    private readonly PageSet _written = new(p.Memory.Size);

    /// <summary>CR0.AM, RFLAGS.AC and CPL 3: every access must be looked at.</summary>
    public bool ChecksAlignment { get; private set; }

    /// <summary>Accesses need no look each time, so that they may be cached.</summary>
    public bool AllowsFills { get; private set; } = true;

    public ulong Misses { get; private set; }

    public ulong Flushes { get; private set; }

    /// <summary>Part of <see cref="Processor.ModeChanged"/>: selects the context of what the state says now.</summary>
    public void ModeChanged()
    {
        ProcessorState* s = p.State;
        bool align = s->Cpl == 3 && (s->Cr0 & (ulong)Cr0.Am) != 0 && (s->FlagsOther & (uint)Rflags.Ac) != 0, watch = p.Debug.WatchesData;
        const ulong cr0Bits = (ulong)(Cr0.Pg | Cr0.Wp | Cr0.Pe);
        const ulong cr4Bits = (ulong)(Cr4.Pse | Cr4.Pae | Cr4.Pge | Cr4.Smep | Cr4.Smap | Cr4.Pke | Cr4.La57 | Cr4.Pcide);
        var inputs = new RightsInputs(s->Cr0 & cr0Bits, s->Cr4 & cr4Bits, s->Efer, s->Pkru, align, watch);
        if (inputs != _inputs || _ownerChanged)
        {
            _inputs = inputs;
            _ownerChanged = false;
            ChecksAlignment = align;
            AllowsFills = !align && !watch;
            _spaces.Enter(_owner, inputs);
        }
        SelectContext();
    }

    /// <summary>From now on linear addresses are those of <paramref name="owner"/>. What is cached for others stays.</summary>
    /// <remarks><see cref="Processor.ModeChanged"/> must follow, once the rest of the state is that of the owner, too.</remarks>
    public void SelectOwner(AddressSpaceOwner owner)
    {
        if (owner == _owner) return;
        _owner = owner;
        _ownerChanged = true;
    }

    private bool _ownerChanged;

    private void SelectContext()
    {
        ProcessorState* s = p.State;
        ushort space = _spaces.Select(CurrentPcid);
        if (space == 0)
        {
            ReclaimSpaces();
            space = _spaces.Select(CurrentPcid);
        }
        bool smapOverride = (s->FlagsOther & (uint)Rflags.Ac) != 0;
        ref ulong held = ref _firstLevelSpaces[p.GuestMode.IsActive ? 1 : 0];
        if (held != space)
        {
            held = space;
            p.Translator?.FirstLevel.Drop(p.GuestMode.IsActive);
        }
        if (p.Direct is { } direct && space != _directSpace)
        {
            _directSpace = space;
            direct.SpaceSelected();
        }
        s->TlbContext = ((ulong)space << SpaceShift) | (s->Cpl == 3 ? UserContext : 0) | (smapOverride ? SmapOverrideContext : 0);
    }

    private ushort _directSpace; // the space that direct execution was told of

    /// <summary>Names the address space in force for as long as it has its number: another one never has the same.</summary>
    public ulong SpaceBirth => _spaces.BirthOf((int)((p.State->TlbContext & 0xFFF) >> SpaceShift));

    /// <summary>The space of that birth still has its number.</summary>
    public bool IsAlive(ulong birth) => _spaces.IsAlive(birth);

    /// <summary>Bit of the TLB context that stands for CPL 3.</summary>
    private const ulong UserContext = 1;
    /// <summary>Bit of the TLB context that stands for RFLAGS.AC.</summary>
    public const ulong SmapOverrideContext = 2;
    /// <summary>Where the number of the address space begins in a TLB context, which is a tag's low 12 bits.</summary>
    private const int SpaceShift = 2;
    /// <summary>Bits of a TLB context.</summary>
    public const int ContextBits = 12;

    private uint CurrentPcid => (p.State->Cr4 & (ulong)Cr4.Pcide) != 0 ? (uint)p.State->Cr3 & 0xFFF : 0;

    /// <summary>The numbers of address spaces ran out: those that are not in use are freed, and entries with them go.</summary>
    private void ReclaimSpaces()
    {
        _spaces.Reclaim();
        // A new number tells elsewhere; here it may be an old one again.
        Array.Clear(_firstLevelSpaces);
        var e = (TlbEntry*)p.State->TlbBytes;
        for (int n = 0; n < ProcessorState.TlbSize; n++)
        {
            if (!IsLive(e[n].ReadTag)) e[n].ReadTag = Empty;
            if (!IsLive(e[n].WriteTag)) e[n].WriteTag = Empty;
            if (!IsLive(e[n].ExecTag)) e[n].ExecTag = Empty;
        }
        p.JumpCache.Forget();
    }

    /// <summary>Drops every cached mapping of the VPID or ASID in force, global ones included.</summary>
    public void Flush()
    {
        Flushes++;
        _spaces.ForgetTag(_owner.Tag);
        SelectContext();
    }

    /// <summary>Drops every cached mapping: what lies behind guest-physical addresses has changed.</summary>
    public void FlushAll()
    {
        Flushes++;
        _spaces.ForgetAll();
        p.GuestMode.Mappings.Drop();
        SelectContext();
    }

    /// <summary>Drops every cached mapping of a VPID or ASID, whatever its second stage. Mappings of guest-physical addresses stay.</summary>
    public void FlushTag(ushort tag)
    {
        Flushes++;
        _spaces.ForgetTag(tag);
        SelectContext();
    }

    /// <summary>Drops every cached mapping behind a second stage, whatever its VPID or ASID.</summary>
    public void FlushSecondStage(ulong root)
    {
        Flushes++;
        _spaces.ForgetSecondStage(root);
        p.GuestMode.Mappings.Drop();
        SelectContext();
    }

    /// <summary>INVLPG: drops the mapping of one page in the current PCID and global ones.</summary>
    public void FlushPage(ulong address) => FlushPage(address, _owner.Tag);

    /// <summary>INVLPGA, INVVPID: drops the mapping of one page in all spaces of a VPID or ASID. Other owners may lose theirs of this page, too.</summary>
    public void FlushPage(ulong address, ushort tag)
    {
        // The page may be part of a large one, whose other pages must go as well.
        if (_spaces.ForgetLarge(tag, address))
        {
            Flushes++;
            SelectContext();
        }
        TlbEntry* e = Access.Entry(p.State, address);
        ulong page = address & ~0xFFFul;
        if ((e->ReadTag & ~0xFFFul) == page) e->ReadTag = Empty;
        if ((e->WriteTag & ~0xFFFul) == page) e->WriteTag = Empty;
        if ((e->ExecTag & ~0xFFFul) == page) e->ExecTag = Empty;
        p.Translator?.FirstLevel.DropPage(page);
        p.Direct?.DropPage(page);
        if (p.JumpCache.MayHold(address)) p.JumpCache.Forget();
    }

    /// <summary>Drops what belongs to <paramref name="pcid"/>, except globals; for <paramref name="address"/> only if given.</summary>
    public void FlushPcid(uint pcid, ulong? address = null)
    {
        if (address is { } a)
        {
            FlushPage(a);
            return;
        }
        Flushes++;
        _spaces.ForgetPcid(_owner.Tag, pcid);
        SelectContext();
    }

    /// <summary>
    /// The context of supervisor accesses that no instruction has asked for: in user mode the supervisor's, whom RFLAGS.AC does not help then.
    /// </summary>
    private static ulong SystemContext(ProcessorState* s) =>
        s->Cpl == 3 || (s->TlbContext & UserContext) != 0 ? s->TlbContext & ~(UserContext | SmapOverrideContext) : s->TlbContext;

    /// <summary>The tag with which such an access hits, for the last byte of the operand.</summary>
    public static ulong SystemTag(ProcessorState* s, ulong address, int size) => ((address + (ulong)(size - 1)) & ~0xFFFul) | SystemContext(s);

    /// <summary>Enters what a walk found for a page of RAM, with the privilege of the access.</summary>
    public void Fill(ulong address, in WalkResult t, uint access)
    {
        byte* page = t.Host;
        ProcessorState* s = p.State;
        bool system = (access & PageWalker.ImplicitAccess) != 0, user = system ? (s->TlbContext & UserContext) != 0 : (access & PageWalker.UserAccess) != 0;
        // In the middle of an event delivery the privilege may be another than the context says.
        if (user != (s->Cpl == 3)) return;
        ulong context = system ? SystemContext(s) : s->TlbContext;
        if (p.Debugger.WatchesPage(address) && (access & PageWalker.FetchAccess) == 0) return; // each access is looked at
        if (t.Large) _spaces.NoteLarge((int)(context >> SpaceShift), address);
        p.Memory.Backing.Enlarge(page);
        TlbEntry* e = Access.Entry(s, address);
        ulong tag = (address & ~0xFFFul) | context;
        nint addend = (nint)page - (nint)(address & ~0xFFFul);
        // Nothing of another mapping stays, nor of another page behind the same address, which a guest need not tell of.
        if (e->Addend != addend || (e->ReadTag != tag && e->WriteTag != tag && e->ExecTag != tag)) e->ReadTag = e->WriteTag = e->ExecTag = Empty;
        e->Addend = addend;
        if ((access & PageWalker.FetchAccess) != 0)
        {
            e->ExecTag = tag;
            return;
        }
        e->ReadTag = t.ReadReady ? tag : Empty;
        e->WriteTag = Empty;
        if (!t.WriteReady || p.Code.IsCodePage(page)) return;
        e->WriteTag = tag;
        _written.Add((ulong)(page - p.Memory.Backing.Pointer) >> GuestMemory.PageShift);
    }

    /// <summary>The entry holds a mapping of an address space that still has its number. Any thread, approximately.</summary>
    public bool Holds(in TlbEntry e) => IsLive(e.ReadTag) || IsLive(e.WriteTag) || IsLive(e.ExecTag);

    /// <summary>What is in it. Between exits.</summary>
    public IReadOnlyList<TlbMapping> Read()
    {
        var found = new List<TlbMapping>();
        var e = (TlbEntry*)p.State->TlbBytes;
        for (int n = 0; n < ProcessorState.TlbSize; n++)
        {
            PageRights rights = (IsLive(e[n].ReadTag) ? PageRights.Read : 0) | (IsLive(e[n].WriteTag) ? PageRights.Write : 0)
                | (IsLive(e[n].ExecTag) ? PageRights.Execute : 0);
            if (rights == 0) continue;
            ulong tag = (rights & PageRights.Read) != 0 ? e[n].ReadTag : (rights & PageRights.Write) != 0 ? e[n].WriteTag : e[n].ExecTag;
            if (_spaces.Find((int)(tag & 0xFFF) >> SpaceShift) is not { } space) continue;
            ulong linear = tag & ~0xFFFul;
            var offset = (ulong)((byte*)(e[n].Addend + (nint)linear) - p.Memory.Backing.Pointer);
            found.Add(new TlbMapping(space.Owner.Tag, space.Owner.SecondStageRoot, space.Pcid, linear, p.Memory.AddressOf(offset), rights,
                (tag & UserContext) != 0));
        }
        return found;
    }

    private bool IsLive(ulong tag) => tag != Empty && _spaces.IsLive((int)(tag & 0xFFF) >> SpaceShift);

    /// <summary>A miss, whether it leads to an entry or not.</summary>
    public void CountMiss() => Misses++;

    /// <summary>No entry allows a write any more.</summary>
    public void ForbidWrites()
    {
        var e = (TlbEntry*)p.State->TlbBytes;
        for (int n = 0; n < ProcessorState.TlbSize; n++) e[n].WriteTag = Empty;
    }

    /// <summary>A page now holds code: writes to it must take the slow path from now on.</summary>
    public void RevokeWrites(byte* page)
    {
        if (!_written.Remove((ulong)(page - p.Memory.Backing.Pointer) >> GuestMemory.PageShift))
        {
            p.Direct?.RevokeWrites(p.Code.BackingOffset(page));
            return;
        }
        var e = (TlbEntry*)p.State->TlbBytes;
        for (int n = 0; n < ProcessorState.TlbSize; n++)
        {
            if (e[n].WriteTag != Empty && (byte*)(e[n].Addend + (nint)(e[n].WriteTag & ~0xFFFul)) == page) e[n].WriteTag = Empty;
        }
        p.Translator?.FirstLevel.RevokeWrites(page);
        p.Direct?.RevokeWrites(p.Code.BackingOffset(page));
    }
}
