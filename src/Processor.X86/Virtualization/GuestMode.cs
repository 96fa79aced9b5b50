namespace Bunraku.Processor.X86;

/// <summary>
/// Whether a guest of a hypervisor inside the guest runs, and what the memory side has to know of it. Entering and leaving is the vendor's affair; code and
/// mappings of both sides stay where they are, since mode keys and TLB tags tell them apart.
/// </summary>
internal sealed class GuestMode(Processor p)
{
    /// <summary>The hypervisor's guest runs, and not the hypervisor.</summary>
    public bool IsActive { get; private set; }

    /// <summary>What its guest-physical addresses go through; null: they are the machine's.</summary>
    public SecondStage? SecondStage { get; private set; }

    /// <summary>No page.</summary>
    public const ulong NoPage = ulong.MaxValue;

    /// <summary>The page of the machine's memory that stands for its local APIC, see <see cref="VirtualApicAccess"/>; <see cref="NoPage"/>: none does.</summary>
    public ulong ApicPage { get; private set; } = NoPage;

    /// <summary>For <see cref="ProcessorState.Mode"/>.</summary>
    public uint ModeBit => IsActive ? ModeKey.Guest : 0;

    /// <summary>The guest is entered: <see cref="Processor.ModeChanged"/> must follow, once its state is loaded.</summary>
    public void Enter(AddressSpaceOwner owner, SecondStage? secondStage, ulong apicPage = NoPage)
    {
        IsActive = true;
        SecondStage = secondStage;
        ApicPage = apicPage;
        p.Tlb.SelectOwner(apicPage == NoPage ? owner : owner with { ApicPage = apicPage | AddressSpaceOwner.HasApicPage });
    }

    /// <summary>The guest is left: <see cref="Processor.ModeChanged"/> must follow, once the hypervisor's state is loaded.</summary>
    public void Leave()
    {
        IsActive = false;
        SecondStage = null;
        ApicPage = NoPage;
        p.Tlb.SelectOwner(default);
    }
}
