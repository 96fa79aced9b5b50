using System.Numerics;
using Bunraku.Engines;
using static Bunraku.Engines.X86.PagingBits;

namespace Bunraku.Processor.X86;

/// <summary>How a page walk ended.</summary>
internal enum WalkOutcome : byte
{
    /// <summary>The access is allowed by both stages.</summary>
    Mapped,
    /// <summary>The first stage refuses the access: <see cref="WalkResult.ErrorCode"/> is that of #PF.</summary>
    PageFault,
    /// <summary>The second stage refuses the access, or one of the walk's own: <see cref="WalkResult.Refusal"/>.</summary>
    Refused,
    /// <summary>Another processor changed an entry while its flags were to be set: the walk means nothing.</summary>
    Void,
}

/// <summary>A guest-physical access that a second stage refused.</summary>
/// <param name="Nested">Why the second stage of a hypervisor inside the guest refused it; null: it was our own, and the address is the machine's.</param>
internal readonly record struct Refusal(ulong Physical, PageRights Wanted, bool IsTableAccess, SecondStageFault? Nested = null);

/// <summary>Page walks, and the paging-structure entries of both stages that they read.</summary>
internal record struct WalkCount(ulong Walks, ulong References);

/// <summary>What a page walk found.</summary>
internal readonly unsafe struct WalkResult
{
    public WalkOutcome Outcome { get; init; }
    /// <summary>With <see cref="WalkOutcome.Mapped"/>: guest-physical address of the 4 KiB page, behind A20.</summary>
    public ulong Page { get; init; }
    /// <summary>That page in the host, or null when it is device memory.</summary>
    public byte* Host { get; init; }
    /// <summary>It is the page that stands for the guest's local APIC: <see cref="IGuestApicPage"/> decides. There is no host address.</summary>
    public bool IsApicPage { get; init; }
    /// <summary>A write with the same privilege would be allowed and its dirty flag is already set.</summary>
    public bool WriteReady { get; init; }
    /// <summary>A read would be allowed, too.</summary>
    public bool ReadReady { get; init; }
    /// <summary>Mapped by an entry that covers more than 4 KiB.</summary>
    public bool Large { get; init; }
    public uint ErrorCode { get; init; }
    public Refusal Refusal { get; init; }
}

/// <summary>
/// The first stage: address translation by the guest's own tables. Intel SDM vol. 3A ch. 4 "Paging" (edition 2023): all modes, reserved bits, access rights,
/// accessed and dirty flags, protection keys.
/// </summary>
internal sealed unsafe class PageWalker(Processor p)
{
    /// <summary>Access kinds, in the bits of a #PF error code.</summary>
    public const uint ReadAccess = 0, WriteAccess = (uint)PageFaultError.Write, UserAccess = (uint)PageFaultError.User,
        FetchAccess = (uint)PageFaultError.Fetch;
    /// <summary>The access reaches into another page, too.</summary>
    public const uint InTwoPages = 1u << 30;
    /// <summary>A supervisor access that the instruction did not ask for (descriptor tables, TSS): SMAP ignores RFLAGS.AC for it when CPL is 3.</summary>
    public const uint ImplicitAccess = 1u << 31;

    /// <summary>What the CPU model decides about walks, looked up once.</summary>
    private readonly struct PagingModel(CpuModel model)
    {
        /// <summary>Reserved physical address bits of a paging-structure entry.</summary>
        public readonly ulong ReservedPhysical = AddressMask & ~((1ul << model.PhysicalAddressBits) - 1);
        public readonly bool GigabytePages = model.Has(CpuFeature.Pdpe1gb);
        public readonly bool Pse36 = model.Has(CpuFeature.Pse36);
    }

    private readonly PagingModel _paging = new(p.Model);

    /// <summary>Where one linear address leads, through both stages; never throws. Sets accessed and dirty flags as the processor would.</summary>
    public WalkResult Walk(ulong linear, uint access)
    {
        WalkResult t;
        ulong before = p.PagingStructures.References;
        do t = WalkOnce(linear, access);
        while (t.Outcome == WalkOutcome.Void);
        ulong references = p.PagingStructures.References - before;
        if (references == 0) return t;
        ref WalkCount count = ref _plain;
        if (p.GuestMode.SecondStage != null) count = ref _twoStages;
        else if (p.GuestMode.IsActive) count = ref _oneStage;
        count.Walks++;
        count.References += references;
        return t;
    }

    private WalkCount _plain, _oneStage, _twoStages;

    /// <summary>
    /// Outside guests of a hypervisor inside; in those whose hypervisor has no second stage; in those with one, which each address of the walk passes, its
    /// own walks among the entries.
    /// </summary>
    public (WalkCount Plain, WalkCount OneStage, WalkCount TwoStages) Counts => (_plain, _oneStage, _twoStages);

    private WalkResult WalkOnce(ulong linear, uint access)
    {
        ProcessorState* s = p.State;
        if ((s->Cr0 & (ulong)Cr0.Pg) == 0) return Mapped(linear & 0xFFFF_F000, access, writeReady: true, large: false, userAddress: true);
        if ((s->Cr4 & (ulong)Cr4.Pae) == 0) return Walk32(linear, access);
        if ((s->Efer & (ulong)Efer.Lma) == 0) return WalkPae(linear, access);
        return Walk64(linear, access);
    }

    /// <summary>The first stage allows the access and leads to <paramref name="page"/>: what the second stage says.</summary>
    private WalkResult Mapped(ulong page, uint access, bool writeReady, bool large, bool userAddress)
    {
        PageRights wanted = (access & FetchAccess) != 0 ? PageRights.Execute : (access & WriteAccess) != 0 ? PageRights.Write : PageRights.Read;
        PageRights nested = PageRights.All;
        bool isApic = page == p.GuestMode.ApicGuestPage;
        if (p.GuestMode.SecondStage is { } stage)
        {
            SecondStageResult found = stage.Translate(page, new SecondStageAccess(wanted, IsTableAccess: false, (access & UserAccess) != 0, userAddress));
            if (found.Outcome != SecondStageOutcome.Mapped) return NotMapped(page, wanted, found);
            page = found.Page;
            nested = found.Rights;
        }
        if (isApic || page == p.GuestMode.ApicPage) return new WalkResult { Outcome = WalkOutcome.Mapped, Page = page, IsApicPage = true };
        PhysicalPage physical = p.Physical.Resolve(page, wanted);
        if (physical.Kind == PhysicalKind.Refused)
            return new WalkResult { Outcome = WalkOutcome.Refused, Refusal = new Refusal(physical.Address, wanted, IsTableAccess: false) };
        return new WalkResult
        {
            Outcome = WalkOutcome.Mapped,
            Page = physical.Address,
            Host = physical.Host,
            ReadReady = (physical.Rights & nested & PageRights.Read) != 0,
            WriteReady = writeReady && (physical.Rights & nested & PageRights.Write) != 0,
            Large = large,
        };
    }

    private WalkResult NotMapped(ulong page, PageRights wanted, in SecondStageResult found) => found.Outcome switch
    {
        SecondStageOutcome.Void => new WalkResult { Outcome = WalkOutcome.Void },
        SecondStageOutcome.Refused => new WalkResult { Outcome = WalkOutcome.Refused, Refusal = p.PagingStructures.Refusal },
        _ => new WalkResult { Outcome = WalkOutcome.Refused, Refusal = new Refusal(page, wanted, IsTableAccess: false, found.Fault) },
    };

    /// <summary>Rights collected along a walk: the AND of R/W and U/S, the OR of XD.</summary>
    private ref struct Rights
    {
        public ulong And, Or;
    }

    private WalkResult Walk64(ulong linear, uint access)
    {
        ProcessorState* s = p.State;
        ulong table = s->Cr3 & AddressMask;
        var rights = new Rights { And = ulong.MaxValue };
        int level = (s->Cr4 & (ulong)Cr4.La57) != 0 ? 5 : 4;
        for (; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!TryRead(table + (((linear >> shift) & 0x1FF) << 3), out TableEntry<ulong> slot)) return RefusedWalk;
            ulong entry = slot.Value;
            if ((entry & Present) == 0) return Miss(access, 0);
            bool leaf = level == 1 || ((entry & LargePage) != 0 && level is 2 or 3);
            ulong reserved = _paging.ReservedPhysical | ((s->Efer & (ulong)Efer.Nxe) == 0 ? ExecuteDisable : 0);
            if (level >= 4 || (level == 3 && !_paging.GigabytePages)) reserved |= LargePage;
            if (leaf && level > 1) reserved |= ReservedOfLargePage(shift);
            if (level == 3 && !_paging.GigabytePages) leaf = false;
            if ((entry & reserved) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
            rights.And &= entry;
            rights.Or |= entry;
            if (leaf) return Finish64(linear, access, slot, rights, shift);
            if (TrySetFlags(slot, Accessed) is { } failure) return failure;
            table = entry & AddressMask;
        }
    }

    private WalkResult WalkPae(ulong linear, uint access)
    {
        ProcessorState* s = p.State;
        ulong pdpte = (&s->Pdpte0)[(linear >> 30) & 3];
        if (p.GuestMode.SecondStage is { ReadsPdptes: true })
        {
            if (!TryRead((s->Cr3 & PdptAddressMask) + (linear >> 30 & 3) * 8, out TableEntry<ulong> pointer)) return RefusedWalk;
            pdpte = pointer.Value;
            if ((pdpte & Present) != 0 && (pdpte & PdpteReserved) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
        }
        if ((pdpte & Present) == 0) return Miss(access, 0);
        ulong reserved = _paging.ReservedPhysical | ReservedOfPae | ((s->Efer & (ulong)Efer.Nxe) == 0 ? ExecuteDisable : 0);
        var rights = new Rights { And = ulong.MaxValue };
        if (!TryRead((pdpte & AddressMask) + (((linear >> 21) & 0x1FF) << 3), out TableEntry<ulong> slot)) return RefusedWalk;
        ulong entry = slot.Value;
        if ((entry & Present) == 0) return Miss(access, 0);
        bool large = (entry & LargePage) != 0;
        if ((entry & (large ? reserved | ReservedOfLargePage(21) : reserved)) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
        rights.And &= entry;
        rights.Or |= entry;
        if (large) return Finish64(linear, access, slot, rights, 21);
        if (TrySetFlags(slot, Accessed) is { } failure) return failure;
        if (!TryRead((entry & AddressMask) + (((linear >> 12) & 0x1FF) << 3), out slot)) return RefusedWalk;
        entry = slot.Value;
        if ((entry & Present) == 0) return Miss(access, 0);
        if ((entry & reserved) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
        rights.And &= entry;
        rights.Or |= entry;
        return Finish64(linear, access, slot, rights, 12);
    }

    private WalkResult Walk32(ulong linear, uint access)
    {
        ProcessorState* s = p.State;
        if (!TryRead((s->Cr3 & AddressMask32) + (((linear >> 22) & 0x3FF) << 2), out TableEntry<uint> slot)) return RefusedWalk;
        uint entry = slot.Value;
        if ((entry & Present) == 0) return Miss(access, 0);
        var rights = new Rights { And = entry, Or = 0 };
        ulong frame;
        bool large = (entry & LargePage) != 0 && (s->Cr4 & (ulong)Cr4.Pse) != 0;
        if (large)
        {
            // PSE-36: bits 20:13 hold physical address bits 39:32, bit 21 is reserved.
            ulong high = _paging.Pse36 ? HighAddress32(entry) : 0;
            ulong reserved = _paging.Pse36 ? ReservedOfLargePage32 : ReservedOfLargePage(22);
            if ((entry & reserved) != 0 || (high & ~((1ul << p.Model.PhysicalAddressBits) - 1)) != 0)
                return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
            frame = high | (entry & LargePageAddressMask32) | (linear & 0x3F_F000);
        }
        else
        {
            if (TrySetFlags(slot, (uint)Accessed) is { } failed) return failed;
            if (!TryRead((entry & AddressMask32) + (((linear >> 12) & 0x3FF) << 2), out slot)) return RefusedWalk;
            entry = slot.Value;
            if ((entry & Present) == 0) return Miss(access, 0);
            rights.And &= entry;
            frame = entry & AddressMask32;
        }
        PageFaultError error = CheckRights(access, rights.And, 0, -1, out bool writable);
        if (error != 0) return Miss(access, error);
        bool write = (access & WriteAccess) != 0;
        if (TrySetFlags(slot, (uint)(write ? Accessed | Dirty : Accessed)) is { } failure) return failure;
        return Mapped(frame, access, writable && (write || (entry & Dirty) != 0), large, (rights.And & User) != 0);
    }

    private WalkResult Finish64(ulong linear, uint access, in TableEntry<ulong> slot, Rights rights, int shift)
    {
        ulong entry = slot.Value;
        bool longMode = (p.State->Efer & (ulong)Efer.Lma) != 0;
        PageFaultError error = CheckRights(access, rights.And, rights.Or, longMode ? (int)(entry >> ProtectionKeyShift) & 0xF : -1, out bool writable);
        if (error != 0) return Miss(access, error);
        bool write = (access & WriteAccess) != 0;
        if (TrySetFlags(slot, write ? Accessed | Dirty : Accessed) is { } failure) return failure;
        ulong mask = (1ul << shift) - 1;
        ulong page = (entry & AddressMask & ~mask) | (linear & mask & ~0xFFFul);
        return Mapped(page, access, writable && (write || (entry & Dirty) != 0), large: shift > 12, (rights.And & User) != 0);
    }

    /// <summary>SDM vol. 3A "Determination of Access Rights" and "Protection Keys". <paramref name="key"/> is -1 where keys do not exist.</summary>
    private PageFaultError CheckRights(uint access, ulong and, ulong or, int key, out bool writable)
    {
        ProcessorState* s = p.State;
        bool userPage = (and & User) != 0, userAccess = (access & UserAccess) != 0;
        writable = (and & Writable) != 0 || (!userAccess && (s->Cr0 & (ulong)Cr0.Wp) == 0);
        if (userAccess && !userPage) return PageFaultError.Present;
        if ((access & FetchAccess) != 0)
        {
            if ((or & ExecuteDisable) != 0 && (s->Efer & (ulong)Efer.Nxe) != 0) return PageFaultError.Present;
            if (!userAccess && userPage && (s->Cr4 & (ulong)Cr4.Smep) != 0) return PageFaultError.Present;
            return 0;
        }
        bool write = (access & WriteAccess) != 0;
        bool allowed = !write || writable;
        if (!userAccess && userPage && (s->Cr4 & (ulong)Cr4.Smap) != 0)
        {
            bool implicitAccess = (access & ImplicitAccess) != 0 && s->Cpl == 3;
            if (implicitAccess || (s->FlagsOther & (uint)Rflags.Ac) == 0) allowed = false;
        }
        if (key >= 0 && userPage && (s->Cr4 & (ulong)Cr4.Pke) != 0)
        {
            // The error code tells of the key whatever else forbids the access.
            uint bits = s->Pkru >> (2 * key);
            bool writeDisable = (bits & 2) != 0 && (userAccess || (s->Cr0 & (ulong)Cr0.Wp) != 0);
            if ((bits & 1) != 0 || (write && writeDisable)) return PageFaultError.Present | PageFaultError.ProtectionKey;
            writable &= !writeDisable;
        }
        return allowed ? 0 : PageFaultError.Present;
    }

    private WalkResult Miss(uint access, PageFaultError cause)
    {
        uint error = (uint)cause | (access & (WriteAccess | UserAccess));
        // I/D exists only where execution can be forbidden by paging.
        bool canForbid = (p.State->Cr4 & (ulong)Cr4.Smep) != 0 || ((p.State->Cr4 & (ulong)Cr4.Pae) != 0 && (p.State->Efer & (ulong)Efer.Nxe) != 0);
        if ((access & FetchAccess) != 0 && canForbid) error |= FetchAccess;
        return new WalkResult { Outcome = WalkOutcome.PageFault, ErrorCode = error };
    }

    /// <summary>What the walk at hand was refused; see <see cref="RefusedWalk"/>.</summary>
    private Refusal _tableRefusal;

    private WalkResult RefusedWalk => new() { Outcome = _void ? WalkOutcome.Void : WalkOutcome.Refused, Refusal = _tableRefusal };

    /// <summary>An entry of the second stage was changed by another processor while it was walked.</summary>
    private bool _void;

    /// <summary>
    /// Reads a paging-structure entry; outside RAM it reads as all ones. False: a second stage refuses the access, see <see cref="RefusedWalk"/>.
    /// </summary>
    /// <param name="address">Guest-physical, a multiple of the entry's size.</param>
    private bool TryRead<T>(ulong address, out TableEntry<T> entry) where T : unmanaged, IBinaryInteger<T>
    {
        ulong guestAddress = address;
        bool mayWrite = true;
        if (p.GuestMode.SecondStage is { } stage && !TryTranslateTable(stage, ref address, PageRights.Read, out mayWrite))
        {
            entry = default;
            return false;
        }
        if (p.PagingStructures.TryRead(address, out entry))
        {
            if (!mayWrite) entry = entry with { ReadOnlyAddress = guestAddress };
            return true;
        }
        _void = false;
        _tableRefusal = p.PagingStructures.Refusal;
        return false;
    }

    /// <summary>From the address of a paging-structure entry to where it is in the memory of the machine.</summary>
    /// <param name="mayWrite">Its flags may be set, too.</param>
    private bool TryTranslateTable(SecondStage stage, ref ulong address, PageRights wanted, out bool mayWrite)
    {
        SecondStageResult found = stage.Translate(address, new SecondStageAccess(wanted, IsTableAccess: true, IsUser: false));
        mayWrite = (found.Rights & PageRights.Write) != 0;
        if (found.Outcome == SecondStageOutcome.Mapped && found.Page != p.GuestMode.ApicPage)
        {
            address = found.Page | address & 0xFFF;
            return true;
        }
        SecondStageFault fault = found.Outcome == SecondStageOutcome.Mapped ? new SecondStageFault(VirtualApicAccess.Refused) : found.Fault;
        _void = found.Outcome == SecondStageOutcome.Void;
        _tableRefusal = found.Outcome == SecondStageOutcome.Refused ? p.PagingStructures.Refusal
            : new Refusal(address, wanted, IsTableAccess: true, fault);
        return false;
    }

    /// <summary>Sets accessed and dirty flags if they are not set yet; null: done, else how the walk ends.</summary>
    private WalkResult? TrySetFlags<T>(in TableEntry<T> entry, T flags) where T : unmanaged, IBinaryInteger<T>
    {
        // Without accessed and dirty flags of EPT a walk reads the guest's tables, and writes to them only here.
        if (entry.ReadOnlyAddress is { } address && (entry.Value & flags) != flags && p.GuestMode.SecondStage is { } stage
            && !TryTranslateTable(stage, ref address, PageRights.Write, out _)) return RefusedWalk;
        switch (p.PagingStructures.TrySetFlags(entry, flags))
        {
            case FlagUpdate.Void:
                return new WalkResult { Outcome = WalkOutcome.Void };
            case FlagUpdate.Refused:
                _void = false;
                _tableRefusal = p.PagingStructures.Refusal;
                return RefusedWalk;
            default:
                return null;
        }
    }

    private ulong PdpteReserved => ~((1ul << p.Model.PhysicalAddressBits) - 1) | ReservedOfPdpte;

    /// <summary>Loads the PDPTEs from <paramref name="cr3"/>; #GP(0) when a present one has reserved bits set. Intel SDM vol. 3A, "PDPTE Registers".</summary>
    public void LoadPdptes(ulong cr3)
    {
        if (p.GuestMode.SecondStage is { ReadsPdptes: true }) return;
        Span<ulong> entries = stackalloc ulong[4];
        ulong address = cr3 & PdptAddressMask;
        for (int n = 0; n < 4; n++)
        {
            TableEntry<ulong> entry;
            while (!TryRead(address + (ulong)n * 8, out entry))
            {
                if (!_void) throw p.Exits.RefusedAccess(0, _tableRefusal);
            }
            entries[n] = entry.Value;
            if ((entries[n] & Present) != 0 && (entries[n] & PdpteReserved) != 0) throw p.GeneralProtection();
        }
        entries.CopyTo(new Span<ulong>(&p.State->Pdpte0, 4));
    }

    /// <summary>Reads the PDPTEs at <paramref name="cr3"/>, whose memory has no second stage. False: a present one has reserved bits set.</summary>
    /// <exception cref="ExitRequest">Our own second stage refuses the access.</exception>
    public bool TryReadPdptes(ulong cr3, Span<ulong> entries)
    {
        for (int n = 0; n < 4; n++)
        {
            if (!p.PagingStructures.TryRead((cr3 & PdptAddressMask) + (ulong)n * 8, out TableEntry<ulong> entry))
                throw p.Exits.RefusedAccess(0, p.PagingStructures.Refusal);
            entries[n] = entry.Value;
            if ((entries[n] & Present) != 0 && (entries[n] & PdpteReserved) != 0) return false;
        }
        return true;
    }

    /// <summary>As <see cref="LoadPdptes"/>, where there is nobody to tell of reserved bits: no entry is present then.</summary>
    /// <exception cref="ExitRequest">The second stage refuses the access.</exception>
    public void LoadPdptesOrNone()
    {
        try
        {
            LoadPdptes(p.State->Cr3);
        }
        catch (GuestFault)
        {
            new Span<ulong>(&p.State->Pdpte0, 4).Clear();
        }
    }

    /// <summary>The state came without PDPTEs, which are in memory: they are loaded before the guest goes on, since that may exit.</summary>
    public bool PdptesMissing { get; private set; }

    /// <summary>The state is another one.</summary>
    public void Reset() => PdptesMissing = false;

    public void Save(CpuState state)
    {
        if (PdptesMissing) state.Pdptes = null;
        else new ReadOnlySpan<ulong>(&p.State->Pdpte0, 4).CopyTo(state.Pdptes ??= new ulong[4]);
    }

    public void Restore(CpuState state)
    {
        ProcessorState* s = p.State;
        PdptesMissing = state.Pdptes == null && (s->Cr0 & (ulong)Cr0.Pg) != 0 && (s->Cr4 & (ulong)Cr4.Pae) != 0 && !CpuMode.IsLong(s);
        if (state.Pdptes is { } pdptes) pdptes.CopyTo(new Span<ulong>(&s->Pdpte0, 4));
        if (PdptesMissing) LoadMissingPdptes(throws: false);
    }

    /// <summary>Only while <see cref="PdptesMissing"/>, between two instructions.</summary>
    public void LoadMissingPdptes() => LoadMissingPdptes(throws: true);

    private void LoadMissingPdptes(bool throws)
    {
        try
        {
            LoadPdptesOrNone();
            PdptesMissing = false;
        }
        catch (ExitRequest) when (!throws)
        {
            // The next entry tries again, and exits.
            p.Exits.DropRefusal();
        }
    }
}
