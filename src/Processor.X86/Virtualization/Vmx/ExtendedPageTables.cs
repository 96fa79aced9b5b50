using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>A walk of the extended page tables that an EPT pointer names. Intel SDM vol. 3C, "The Extended Page Table Mechanism (EPT)".</summary>
internal sealed unsafe class ExtendedPageTables(Processor p, Vmx vmx) : SecondStage
{
    private const ulong ReadBit = 1, WriteBit = 2, ExecuteBit = 4, AnyRight = 7, LargeBit = 1 << 7, AccessedBit = 1 << 8, DirtyBit = 1 << 9;
    private const ulong AddressBits = 0x000F_FFFF_FFFF_F000;

    /// <summary>Stands for a page-modification log that is full, which is no qualification of a violation.</summary>
    public const ulong LogFull = 1ul << 63;

    /// <summary>EPT pointer: bits 2:0 memory type, 5:3 levels minus one, 6 accessed and dirty flags.</summary>
    public const ulong PointerAccessedDirty = 1 << 6;

    private readonly ulong _reservedPhysical = AddressBits & ~((1ul << p.Model.PhysicalAddressBits) - 1);

    /// <summary>The EPT pointer in force.</summary>
    public ulong Pointer { get; set; }

    public override SecondStageResult Translate(ulong guestPhysical, SecondStageAccess access)
    {
        bool flags = (Pointer & PointerAccessedDirty) != 0;
        ulong wanted = (access.Wanted & PageRights.Execute) != 0 ? ExecuteBit : (access.Wanted & PageRights.Write) != 0 ? WriteBit : ReadBit;
        // With accessed and dirty flags the processor's accesses to paging structures count as writes.
        if (access.IsTableAccess && flags) wanted = ReadBit | WriteBit;
        if (guestPhysical >> 48 != 0) return Violation(wanted, 0);
        ulong rights = AnyRight, table = Pointer & AddressBits;
        TableEntry<ulong>* path = stackalloc TableEntry<ulong>[4];
        for (int level = 4; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!p.PagingStructures.TryRead(table + (((guestPhysical >> shift) & 0x1FF) << 3), out path[4 - level]))
                return new SecondStageResult { Outcome = SecondStageOutcome.Refused };
            ulong entry = path[4 - level].Value;
            if ((entry & AnyRight) == 0) return Violation(wanted, 0);
            bool leaf = level == 1 || (level < 4 && (entry & LargeBit) != 0);
            if (IsMisconfigured(entry, level, leaf))
                return new SecondStageResult { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(0, IsMisconfiguration: true) };
            rights &= entry;
            if (!leaf)
            {
                table = entry & AddressBits;
                continue;
            }
            if ((wanted & ~rights) != 0) return Violation(wanted, rights);
            bool write = (wanted & WriteBit) != 0;
            bool logs = flags && write && vmx.Has(SecondaryControls.EnablePml) && (entry & DirtyBit) == 0;
            if (logs && vmx.PageLogIsFull) return new SecondStageResult { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(LogFull) };
            for (int n = 0; flags && n <= 4 - level; n++)
            {
                FlagUpdate update = p.PagingStructures.TrySetFlags(path[n], n == 4 - level && write ? AccessedBit | DirtyBit : AccessedBit);
                if (update != FlagUpdate.Done)
                    return new SecondStageResult { Outcome = update == FlagUpdate.Void ? SecondStageOutcome.Void : SecondStageOutcome.Refused };
            }
            if (logs) vmx.LogPage(guestPhysical);
            ulong mask = (1ul << shift) - 1;
            return new SecondStageResult
            {
                Outcome = SecondStageOutcome.Mapped,
                Page = (entry & AddressBits & ~mask) | (guestPhysical & mask & ~0xFFFul),
                Rights = Rights(rights, mayWrite: !flags || write || (entry & DirtyBit) != 0),
            };
        }
    }

    private static PageRights Rights(ulong rights, bool mayWrite) => ((rights & ReadBit) != 0 ? PageRights.Read : 0)
        | ((rights & WriteBit) != 0 && mayWrite ? PageRights.Write : 0) | ((rights & ExecuteBit) != 0 ? PageRights.Execute : 0);

    private static SecondStageResult Violation(ulong wanted, ulong rights) =>
        new() { Outcome = SecondStageOutcome.Fault, Fault = new SecondStageFault(wanted | rights << 3) };

    /// <summary>SDM vol. 3C, "EPT Misconfigurations".</summary>
    private bool IsMisconfigured(ulong entry, int level, bool leaf)
    {
        if ((entry & (ReadBit | WriteBit)) == WriteBit || (entry & _reservedPhysical) != 0) return true;
        if (!leaf) return (entry & (level == 4 ? 0xF8ul : 0x78ul)) != 0;
        ulong type = entry >> 3 & 7;
        if (type is 2 or 3 or 7) return true;
        return level > 1 && (entry & ((1ul << (3 + 9 * level)) - 1) & ~0xFFFul) != 0;
    }
}
