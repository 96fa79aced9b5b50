namespace Bunraku.Processor.X86;

/// <summary>Direct jumps from translation to translation. None of the code that is changed runs meanwhile.</summary>
internal sealed unsafe class TranslationLinks(TranslationStore store)
{
    /// <summary>The jump leads directly to its target from now on, if that is the target.</summary>
    public void Tie(TranslationLink* link, TranslatedBlock* target)
    {
        if (link->Target != null || link->From->IsGivenUp || link->Rip != target->Rip || link->Mode != target->Mode) return;
        bool samePage = !link->IsReturn && target->SecondPage == null && link->From->Page == target->Page && ((link->From->Rip ^ target->Rip) & ~0xFFFul) == 0;
        byte* entry = samePage ? target->Main : target->Checked;
        Lead(link, entry);
        link->Target = target;
        link->PreviousOfTarget = null;
        link->NextOfTarget = target->Incoming;
        if (target->Incoming != null) target->Incoming->PreviousOfTarget = link;
        target->Incoming = link;
    }

    /// <summary>The link's jump leads there from now on.</summary>
    private void Lead(TranslationLink* link, byte* to)
    {
        int distance = (int)(to - (link->Site + 4));
        store.Patch(link->Site, new ReadOnlySpan<byte>(&distance, sizeof(int)));
    }

    /// <summary>The link leads to its stub again.</summary>
    public void Untie(TranslationLink* link)
    {
        Lead(link, link->Stub);
        Forget(link);
    }

    /// <summary>The link is none of its target's any more.</summary>
    public static void Forget(TranslationLink* link)
    {
        if (link->PreviousOfTarget != null) link->PreviousOfTarget->NextOfTarget = link->NextOfTarget;
        else link->Target->Incoming = link->NextOfTarget;
        if (link->NextOfTarget != null) link->NextOfTarget->PreviousOfTarget = link->PreviousOfTarget;
        link->Target = null;
    }

    /// <summary>Puts a jump into emitted code.</summary>
    public void Redirect(byte* from, byte* to)
    {
        Span<byte> jump = stackalloc byte[5];
        jump[0] = 0xE9;
        BitConverter.TryWriteBytes(jump[1..], (int)(to - (from + 5)));
        store.Patch(from, jump);
    }
}
