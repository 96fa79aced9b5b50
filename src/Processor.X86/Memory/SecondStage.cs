using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What a guest-physical access is for.</summary>
/// <param name="Wanted">One right: to read, to write or to execute.</param>
/// <param name="IsTableAccess">An access of the first stage to its own paging structures.</param>
/// <param name="IsUser">The access is made at CPL 3.</param>
/// <param name="IsUserAddress">The linear address is one of user mode: the first stage's entries say so, or there is no paging.</param>
internal readonly record struct SecondStageAccess(PageRights Wanted, bool IsTableAccess, bool IsUser, bool IsUserAddress = false);

/// <summary>Why a second stage refuses an access, in the terms of its vendor.</summary>
/// <param name="Code">Error code of a nested page fault, or exit qualification of an EPT violation as far as the second stage knows it.</param>
/// <param name="IsMisconfiguration">An EPT misconfiguration, which has no qualification.</param>
/// <param name="IsConvertible">The entry of EPT lets the violation become a virtualization exception.</param>
internal readonly record struct SecondStageFault(ulong Code, bool IsMisconfiguration = false, bool IsConvertible = false);

/// <summary>How a walk of the second stage ended.</summary>
internal enum SecondStageOutcome : byte
{
    /// <summary>The access is allowed.</summary>
    Mapped,
    /// <summary>It is not: <see cref="SecondStageResult.Fault"/> for the hypervisor whose tables they are.</summary>
    Fault,
    /// <summary>Our own second stage refuses access to these tables: <see cref="PagingStructures.Refusal"/>.</summary>
    Refused,
    /// <summary>Another processor changed an entry meanwhile: the walk means nothing.</summary>
    Void,
}

/// <summary>What a walk of the second stage found.</summary>
internal readonly struct SecondStageResult
{
    public SecondStageOutcome Outcome { get; init; }
    /// <summary>With <see cref="SecondStageOutcome.Mapped"/>: where the 4 KiB page lies in the memory of the machine.</summary>
    public ulong Page { get; init; }
    /// <summary>Everything that may be done with the page; writing only when its dirty flag is set, so that this can be cached.</summary>
    public PageRights Rights { get; init; }
    /// <summary>With <see cref="SecondStageOutcome.Fault"/>.</summary>
    public SecondStageFault Fault { get; init; }
}

/// <summary>
/// The second stage that a hypervisor inside the guest has built in memory: nested page tables (AMD) or extended page tables (Intel). Every guest-physical
/// address of its guest passes it: data, instruction fetch, each paging-structure entry of the first stage, PDPTEs.
/// </summary>
/// <remarks>AMD APM vol. 2, "Nested Paging"; Intel SDM vol. 3C, "The Extended Page Table Mechanism (EPT)".</remarks>
internal abstract class SecondStage(GuestPhysicalMappings mappings)
{
    /// <summary>
    /// Where an access leads; never throws. Sets accessed and dirty flags of the second stage's own entries as the processor would, by compare and exchange.
    /// </summary>
    /// <param name="guestPhysical">Any address.</param>
    public SecondStageResult Translate(ulong guestPhysical, SecondStageAccess access)
    {
        // Not what the access is for in the end: hypervisors clear its dirty flag and count on the next entry of the guest to see that, without INVEPT.
        if (access.IsTableAccess && mappings.TryFind(guestPhysical, access.Wanted | RightsToWalk, out SecondStageResult known)) return known;
        SecondStageResult found = Walk(guestPhysical, access);
        if (access.IsTableAccess || found.Outcome != SecondStageOutcome.Mapped) mappings.Note(guestPhysical, found);
        return found;
    }

    /// <summary>What <see cref="Translate"/> says, by the tables in memory.</summary>
    protected abstract SecondStageResult Walk(ulong guestPhysical, SecondStageAccess access);

    /// <summary>The rights to paging structures of the first stage that a walk has to have, even if it only reads them.</summary>
    protected abstract PageRights RightsToWalk { get; }

    /// <summary>The PAE page-directory-pointer entries of the first stage are read by each walk, and not by MOV to CR3.</summary>
    public virtual bool ReadsPdptes => false;
}
