using Bunraku.Engines;
using static Bunraku.Engines.X86.EptBits;

namespace Bunraku.Processor.X86;

/// <summary>A walk of the extended page tables that an EPT pointer names. Intel SDM vol. 3C, "The Extended Page Table Mechanism (EPT)".</summary>
internal sealed unsafe class ExtendedPageTables(Processor p, Vmx vmx) : SecondStage(p.GuestMode.Mappings)
{
    /// <summary>Stands for a page-modification log that is full, which is no qualification of a violation.</summary>
    public const ulong LogFull = 1ul << 63;

    private readonly ulong _reservedPhysical = PagingBits.AddressMask & ~((1ul << p.Model.PhysicalAddressBits) - 1);

    /// <summary>The EPT pointer in force.</summary>
    public ulong Pointer { get; private set; }

    private ulong _present = AnyAccess; // bits of which an entry has one, unless it is not present
    private bool _modeBased; // mode-based execute control: bit 2 is for supervisor-mode linear addresses, bit 10 for those of user mode
    private readonly bool _executeOnly = p.Model.Has(CpuFeature.VmxEptExeconly), _gigabytePages = p.Model.Has(CpuFeature.VmxEpt1gb);

    /// <summary>The tables of the guest that is entered, or that has chosen others.</summary>
    public void Select(ulong pointer, bool modeBasedExecute)
    {
        (Pointer, _modeBased) = (pointer, modeBasedExecute);
        _present = modeBasedExecute ? AnyAccess | UserExecuteAccess : AnyAccess;
        p.GuestMode.Mappings.Select(pointer, asid: 0);
    }

    private bool HasFlags => (Pointer & PointerAccessedDirty) != 0;

    protected override PageRights RightsToWalk => HasFlags ? PageRights.Read | PageRights.Write : PageRights.Read;

    protected override SecondStageResult Walk(ulong guestPhysical, SecondStageAccess access)
    {
        bool flags = HasFlags;
        ulong execute = _modeBased && access.IsUserAddress ? UserExecuteAccess : ExecuteAccess;
        ulong wanted = (access.Wanted & PageRights.Execute) != 0 ? execute : (access.Wanted & PageRights.Write) != 0 ? WriteAccess : ReadAccess;
        // With accessed and dirty flags the processor's accesses to paging structures count as writes; without, it reads and writes where it sets a flag.
        if (access.IsTableAccess && (flags || access.Wanted == PageRights.Write)) wanted = ReadAccess | WriteAccess;
        if (guestPhysical >> 48 != 0) return Violation(wanted, 0, SuppressException);
        ulong rights = _present, table = Pointer & PagingBits.AddressMask;
        TableEntry<ulong>* path = stackalloc TableEntry<ulong>[4];
        for (int level = 4; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!p.PagingStructures.TryRead(table + (((guestPhysical >> shift) & 0x1FF) << 3), out path[4 - level]))
                return new SecondStageResult { Outcome = SecondStageOutcome.Refused };
            ulong entry = path[4 - level].Value;
            if ((entry & _present) == 0) return Violation(wanted, 0, entry);
            bool leaf = level == 1 || (level < (_gigabytePages ? 4 : 3) && (entry & LargePage) != 0);
            if (IsMisconfigured(entry, level, leaf))
                return new SecondStageResult { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(0, IsMisconfiguration: true) };
            rights &= entry;
            if (!leaf)
            {
                table = entry & PagingBits.AddressMask;
                continue;
            }
            if ((wanted & ~rights) != 0) return Violation(wanted, rights, entry);
            bool write = (wanted & WriteAccess) != 0;
            bool logs = flags && write && vmx.Has(SecondaryControls.EnablePml) && (entry & Dirty) == 0;
            if (logs && vmx.PageLogIsFull) return new SecondStageResult { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(LogFull) };
            for (int n = 0; flags && n <= 4 - level; n++)
            {
                FlagUpdate update = p.PagingStructures.TrySetFlags(path[n], n == 4 - level && write ? Accessed | Dirty : Accessed);
                if (update != FlagUpdate.Done)
                    return new SecondStageResult { Outcome = update == FlagUpdate.Void ? SecondStageOutcome.Void : SecondStageOutcome.Refused };
            }
            if (logs) vmx.LogPage(guestPhysical);
            ulong mask = (1ul << shift) - 1;
            return new SecondStageResult
            {
                Outcome = SecondStageOutcome.Mapped,
                Page = (entry & PagingBits.AddressMask & ~mask) | (guestPhysical & mask & ~0xFFFul),
                Rights = Rights(rights, execute, mayWrite: !flags || write || (entry & Dirty) != 0),
            };
        }
    }

    private static PageRights Rights(ulong rights, ulong execute, bool mayWrite) => ((rights & ReadAccess) != 0 ? PageRights.Read : 0)
        | ((rights & WriteAccess) != 0 && mayWrite ? PageRights.Write : 0) | ((rights & execute) != 0 ? PageRights.Execute : 0);

    /// <summary>
    /// Exit qualification: bits 2:0 the access, 5:3 what the entries allow, with mode-based execute control bit 6 execution at user-mode addresses.
    /// </summary>
    /// <param name="last">The entry that ended the walk.</param>
    private static SecondStageResult Violation(ulong wanted, ulong rights, ulong last)
    {
        ulong code = (wanted & UserExecuteAccess) != 0 ? ExecuteAccess : wanted;
        code |= (rights & AnyAccess) << 3 | ((rights & UserExecuteAccess) != 0 ? 1ul << 6 : 0);
        return new() { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(code, IsConvertible: (last & SuppressException) == 0) };
    }

    /// <summary>SDM vol. 3C, "EPT Misconfigurations".</summary>
    private bool IsMisconfigured(ulong entry, int level, bool leaf)
    {
        if ((entry & (ReadAccess | WriteAccess)) == WriteAccess || (entry & _reservedPhysical) != 0) return true;
        if (!_executeOnly && (entry & ReadAccess) == 0) return true; // what is left is execution alone
        if (!leaf) return (entry & (level == 4 || (level == 3 && !_gigabytePages) ? 0xF8ul : 0x78ul)) != 0;
        if (MemoryType(entry) is 2 or 3 or 7) return true;
        return level > 1 && (entry & ((1ul << (3 + 9 * level)) - 1) & ~0xFFFul) != 0;
    }
}
