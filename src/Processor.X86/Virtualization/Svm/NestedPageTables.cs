using Bunraku.Engines;
using static Bunraku.Engines.X86.PagingBits;

namespace Bunraku.Processor.X86;

/// <summary>
/// Nested page tables: the host's kind of paging, by what its CR0, CR4 and EFER were at VMRUN, with nCR3 for CR3. Every access counts as one of user mode, and
/// the walks of the guest's own tables as writes.
/// </summary>
/// <remarks>AMD APM vol. 2, "Nested Paging" and "Nested Page Faults vs. Intercepts".</remarks>
internal sealed class NestedPageTables(Processor p) : SecondStage(p.GuestMode.Mappings)
{
    /// <summary>Bits of the error code beyond those of #PF: the guest's own address was translated, or that of one of its paging structures.</summary>
    public const ulong FinalAccess = 1ul << 32, TableWalk = 1ul << 33;

    private ulong _root;
    private int _levels; // 5, 4: long mode; 3: PAE; 2: 32-bit entries
    private bool _executeDisable, _largePages32, _reportsFetches, _executeTrap;
    private ulong _reserved;
    private readonly bool _gigabytePages = p.Model.Has(CpuFeature.Pdpe1gb);

    /// <summary>The tables that the next guest is entered with.</summary>
    /// <param name="executeTrap">Guest mode execute trap (GMET): supervisor code runs from pages that are not the user's alone.</param>
    /// <param name="asid">The guest's.</param>
    public void Select(ulong root, ushort asid, ulong hostCr4, ulong hostEfer, bool executeTrap)
    {
        bool longMode = (hostEfer & (ulong)Efer.Lma) != 0, pae = (hostCr4 & (ulong)Cr4.Pae) != 0;
        _root = root;
        _levels = longMode ? (hostCr4 & (ulong)Cr4.La57) != 0 ? 5 : 4 : pae ? 3 : 2;
        _executeDisable = pae && (hostEfer & (ulong)Efer.Nxe) != 0;
        _largePages32 = (hostCr4 & (ulong)Cr4.Pse) != 0;
        _reportsFetches = _executeDisable || (hostCr4 & (ulong)Cr4.Smep) != 0;
        _executeTrap = executeTrap;
        _reserved = AddressMask & ~((1ul << p.Model.PhysicalAddressBits) - 1) | (_executeDisable ? 0 : ExecuteDisable);
        p.GuestMode.Mappings.Select(Key, asid);
    }

    /// <summary>For the tag of cached mappings: nCR3 in its address bits, and below them what else says how its tables are read.</summary>
    public ulong Key => _root & AddressMask | (uint)_levels | (_executeDisable ? 8u : 0) | (_largePages32 ? 16u : 0) | (_executeTrap ? 32u : 0);

    public override bool ReadsPdptes => true;

    protected override PageRights RightsToWalk => PageRights.Read | PageRights.Write;

    protected override SecondStageResult Walk(ulong guestPhysical, SecondStageAccess access) =>
        _levels == 2 ? Walk32(guestPhysical, access) : Walk64(guestPhysical, access);

    private SecondStageResult Walk64(ulong address, SecondStageAccess access)
    {
        int bits = _levels == 3 ? 32 : 12 + 9 * _levels;
        if (address >> bits != 0) return Fault(access, 0);
        ulong table = _levels == 3 ? _root & PdptAddressMask : _root & AddressMask, and = ulong.MaxValue, or = 0;
        for (int level = _levels; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!p.PagingStructures.TryRead(table + ((address >> shift & 0x1FF) << 3), out TableEntry<ulong> slot)) return Refused;
            ulong entry = slot.Value;
            if ((entry & Present) == 0) return Fault(access, 0);
            bool leaf = level == 1 || ((entry & LargePage) != 0 && (level == 2 || (level == 3 && _levels > 3 && _gigabytePages)));
            if ((entry & ReservedBits(level, shift, leaf)) != 0) return Fault(access, PageFaultError.Present | PageFaultError.Reserved);
            if (level != 3 || _levels > 3)
            {
                and &= entry;
                or |= entry;
            }
            if (leaf) return Finish(slot, and, or, shift, address, access);
            if ((level != 3 || _levels > 3) && Update(slot, Accessed) is { } failure) return failure;
            table = entry & AddressMask;
        }
    }

    /// <summary>Bits that must be zero in an entry. AMD APM vol. 2, "Long-Mode Page Translation", the figures; bit 8 of the topmost.</summary>
    private ulong ReservedBits(int level, int shift, bool leaf)
    {
        ulong reserved = _reserved;
        if (level == 3 && _levels == 3) return reserved | ExecuteDisable | ReservedOfPae | ReservedOfPdpte;
        if (_levels == 3) reserved |= ReservedOfPae;
        if (level >= 4 || (level == 3 && !_gigabytePages)) reserved |= LargePage;
        if (level >= 4) reserved |= Global;
        if (leaf && level > 1) reserved |= ReservedOfLargePage(shift);
        return reserved;
    }

    private SecondStageResult Finish(in TableEntry<ulong> slot, ulong and, ulong or, int shift, ulong address, SecondStageAccess access)
    {
        ulong entry = slot.Value;
        bool write = access.IsTableAccess || access.Wanted == PageRights.Write;
        PageRights allowed = Allowed(and, or, access.IsUser);
        PageRights wanted = write ? PageRights.Write : access.Wanted;
        if ((allowed & wanted) == 0) return Fault(access, PageFaultError.Present);
        if (Update(slot, write ? Accessed | Dirty : Accessed) is { } failure) return failure;
        if (!write && (entry & Dirty) == 0) allowed &= ~PageRights.Write;
        ulong mask = (1ul << shift) - 1;
        return new SecondStageResult
        {
            Outcome = SecondStageOutcome.Mapped,
            Page = entry & AddressMask & ~mask | address & mask & ~0xFFFul,
            Rights = allowed,
        };
    }

    private PageRights Allowed(ulong and, ulong or, bool isUser)
    {
        bool userPage = (and & User) != 0;
        // The trap makes the bit one of execution alone: the user's pages for the user, the others for the supervisor.
        if (!userPage && !_executeTrap) return 0;
        PageRights data = PageRights.Read | ((and & Writable) != 0 ? PageRights.Write : 0);
        bool forbidden = (_executeDisable && (or & ExecuteDisable) != 0) || (_executeTrap && userPage != isUser);
        return forbidden ? data : data | PageRights.Execute;
    }

    /// <summary>The host without PAE.</summary>
    private SecondStageResult Walk32(ulong address, SecondStageAccess access)
    {
        if (address >> 32 != 0) return Fault(access, 0);
        if (!p.PagingStructures.TryRead((_root & AddressMask32) + ((address >> 22 & 0x3FF) << 2), out TableEntry<uint> slot)) return Refused;
        uint entry = slot.Value, and = entry;
        if ((entry & Present) == 0) return Fault(access, 0);
        bool large = _largePages32 && (entry & LargePage) != 0;
        ulong frame;
        if (large)
        {
            ulong high = HighAddress32(entry);
            if ((entry & ReservedOfLargePage32) != 0 || high >> p.Model.PhysicalAddressBits != 0)
                return Fault(access, PageFaultError.Present | PageFaultError.Reserved);
            frame = high | entry & LargePageAddressMask32 | address & 0x3F_F000;
        }
        else
        {
            if (Update(slot, (uint)Accessed) is { } failed) return failed;
            if (!p.PagingStructures.TryRead((entry & AddressMask32) + ((address >> 12 & 0x3FF) << 2), out slot)) return Refused;
            entry = slot.Value;
            if ((entry & Present) == 0) return Fault(access, 0);
            and &= entry;
            frame = entry & AddressMask32;
        }
        bool write = access.IsTableAccess || access.Wanted == PageRights.Write;
        if ((and & User) == 0 || (write && (and & Writable) == 0)) return Fault(access, PageFaultError.Present);
        if (Update(slot, (uint)(write ? Accessed | Dirty : Accessed)) is { } failure) return failure;
        bool writable = (and & Writable) != 0 && (write || (entry & Dirty) != 0);
        return new SecondStageResult
        {
            Outcome = SecondStageOutcome.Mapped,
            Page = frame,
            Rights = PageRights.Read | PageRights.Execute | (writable ? PageRights.Write : 0),
        };
    }

    private SecondStageResult? Update<T>(in TableEntry<T> slot, T flags) where T : unmanaged, System.Numerics.IBinaryInteger<T> =>
        p.PagingStructures.TrySetFlags(slot, flags) switch
        {
            FlagUpdate.Done => null,
            FlagUpdate.Void => new SecondStageResult { Outcome = SecondStageOutcome.Void },
            _ => Refused,
        };

    private static SecondStageResult Refused => new() { Outcome = SecondStageOutcome.Refused };

    /// <summary>EXITINFO1 of the nested page fault.</summary>
    private SecondStageResult Fault(SecondStageAccess access, PageFaultError cause)
    {
        ulong code = (ulong)cause | (ulong)PageFaultError.User | (access.IsTableAccess ? TableWalk : FinalAccess);
        if (access.IsTableAccess || access.Wanted == PageRights.Write) code |= (ulong)PageFaultError.Write;
        if (access is { IsTableAccess: false, Wanted: PageRights.Execute } && _reportsFetches) code |= (ulong)PageFaultError.Fetch;
        return new SecondStageResult { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(code) };
    }
}
