namespace Bunraku.Processor.X86;

/// <summary>
/// Whether a guest of a hypervisor inside the guest runs, and what the memory side has to know of it. Entering and leaving is the vendor's affair; code and
/// mappings of both sides stay where they are, since mode keys and TLB tags tell them apart.
/// </summary>
internal sealed unsafe class GuestMode(Processor p)
{
    private const ulong NoPage = ulong.MaxValue;

    /// <summary>The hypervisor's guest runs, and not the hypervisor.</summary>
    public bool IsActive { get; private set; }

    /// <summary>What its guest-physical addresses go through; null: they are the machine's.</summary>
    public SecondStage? SecondStage { get; private set; }

    /// <summary>What is cached of it, and of others'.</summary>
    public GuestPhysicalMappings Mappings { get; } = new();

    /// <summary>Accesses to the page that stands for its local APIC; null: no page does.</summary>
    public IGuestApicPage? Apic { get; private set; }

    /// <summary>That page by its guest-physical address, or by its address in the machine; all ones: it is not given so.</summary>
    public ulong ApicGuestPage { get; private set; } = NoPage;

    /// <inheritdoc cref="ApicGuestPage"/>
    public ulong ApicPage { get; private set; } = NoPage;

    /// <summary>The next instruction, which writes to the APIC, is executed alone: what follows from the write comes before another instruction.</summary>
    public bool StepsApicWrite { get; set; }

    /// <summary>
    /// An instruction is about to write to the APIC what brings something about: unless it is executed alone already, it is abandoned for that.
    /// </summary>
    /// <exception cref="ExitRequest">It is. Nothing has changed.</exception>
    public void RequireAlone()
    {
        if (p.State->Current == null || (p.State->Mode & ModeKey.Single) != 0) return;
        StepsApicWrite = true;
        throw p.Exits.ExecuteAlone();
    }

    /// <summary>For <see cref="ProcessorState.Mode"/>.</summary>
    public uint ModeBit => IsActive ? ModeKey.Guest : 0;

    /// <summary>The guest is entered: <see cref="Processor.ModeChanged"/> must follow, once its state is loaded.</summary>
    public void Enter(AddressSpaceOwner owner, SecondStage? secondStage, GuestApicPage apic = default)
    {
        IsActive = true;
        SecondStage = secondStage;
        SelectApic(apic);
        p.Tlb.SelectOwner(owner with { ApicPage = apic.Key });
    }

    /// <summary>The guest is left: <see cref="Processor.ModeChanged"/> must follow, once the hypervisor's state is loaded.</summary>
    public void Leave()
    {
        IsActive = false;
        SecondStage = null;
        SelectApic(default);
        p.Tlb.SelectOwner(default);
    }

    private void SelectApic(GuestApicPage apic)
    {
        Apic = apic.Access;
        ApicGuestPage = apic.Access != null && apic.IsGuestPhysical ? apic.Page : NoPage;
        ApicPage = apic.Access != null && !apic.IsGuestPhysical ? apic.Page : NoPage;
    }
}
