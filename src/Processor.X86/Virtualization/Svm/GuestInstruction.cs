using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The bytes of the guest's instruction at RIP, as far as they can be fetched: 0 to 15. AMD APM vol. 2, "Decode Assists".</summary>
internal unsafe struct GuestInstruction
{
    private const int Most = 15;
    private fixed byte _bytes[Most];
    private byte _count;

    public GuestInstruction(Processor p)
    {
        ProcessorState* s = p.State;
        ulong linear = s->Rip + BlockFinder.CodeBase(s);
        while (_count < Most)
        {
            ulong at = p.Mmu.Wrap(linear + _count);
            if (!p.IsCanonical(at)) return;
            WalkResult page = p.Walker.Walk(at, p.Mmu.CurrentPrivilege | PageWalker.FetchAccess);
            if (page.Outcome != WalkOutcome.Mapped || page.Host == null) return;
            int n = Math.Min(Most - _count, (int)GuestMemory.PageSize - (int)(at & 0xFFF));
            for (int k = 0; k < n; k++) _bytes[_count++] = page.Host[(at & 0xFFF) + (ulong)k];
        }
    }

    public readonly void Store(VmcbControl* control)
    {
        control->FetchedBytes = _count;
        for (int n = 0; n < Most; n++) control->Instruction[n] = _bytes[n];
    }
}
