using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// Takes translations to other linear addresses. A process that begins has its libraries elsewhere than those before it; their code is the same, and what is
/// emitted for it differs in few places. So a page's translations for the address that was not entered for longest become those for the new one, all at once:
/// links between them stay as they are. One thread, between two blocks: none of the code runs, and what return stacks hold compares the target itself.
/// </summary>
internal sealed unsafe class TranslationMover(Processor p, TranslationStore store, TranslationLinks links)
{
    private readonly List<nint> _moving = [];

    /// <summary>Translations that were moved since power-on.</summary>
    public ulong Moves { get; private set; }

    /// <summary>Moves a translation of the block to <paramref name="rip"/>, which has none yet. It is the first of the block's list then.</summary>
    public void Move(Block* block, ulong rip)
    {
        TranslatedBlock* oldest = null;
        for (TranslatedBlock* t = TranslationsOf(block); t != null; t = t->Next)
        {
            if (!t->IsFixed) oldest = t;
        }
        if (oldest == null) return;
        ulong from = oldest->Rip & ~0xFFFul, to = rip & ~0xFFFul, page = block->Start & ~0xFFFul;
        _moving.Clear();
        for (Block* b = p.Code.FirstInPage(page); b != null; b = b->NextInPage)
        {
            if (!b->Valid || b->Mode != block->Mode) continue;
            TranslatedBlock* t = FindMovable(b, from, to);
            if (t == null) continue;
            BringToFront(b, t);
            t->IsMoving = true;
            _moving.Add((nint)t);
        }
        uint mapping = store.MappingOf(to, page);
        foreach (nint t in _moving) Move((TranslatedBlock*)t, to - from, mapping);
        foreach (nint t in _moving) ((TranslatedBlock*)t)->IsMoving = false;
        Moves += (ulong)_moving.Count;
    }

    private static TranslatedBlock* TranslationsOf(Block* b) =>
        (b->First->Flags & InsnFlags.Counted) != 0 ? (TranslatedBlock*)b->First->Extra : null;

    /// <summary>The block's translation for one page if it can be moved to another, where there is none.</summary>
    private TranslatedBlock* FindMovable(Block* b, ulong from, ulong to)
    {
        TranslatedBlock* found = null;
        for (TranslatedBlock* t = TranslationsOf(b); t != null; t = t->Next)
        {
            ulong page = t->Rip & ~0xFFFul;
            if (page == to) return null;
            if (page == from) found = t;
        }
        return found != null && !found->IsFixed && MayLieAt(found, b->Length, found->Rip - from + to) ? found : null;
    }

    private bool MayLieAt(TranslatedBlock* t, int length, ulong rip)
    {
        // The second page of a block wraps where the first is the last one.
        if (!BranchTarget.SurelyCanonical(rip) || !BranchTarget.SurelyCanonical(rip + GuestMemory.PageSize)) return false;
        for (int n = 0; n < t->LinkCount; n++)
        {
            if (!t->Links[n].IsAbsolute && !BranchTarget.SurelyCanonical(t->Links[n].Rip + (rip - t->Rip))) return false;
        }
        for (TranslatedBlock* part = t->NextPart; part != null; part = part->NextPart)
        {
            if (p.Debugger.BreaksIn(part->Rip + (rip - t->Rip), part->Block->Length)) return false;
        }
        return !p.Debugger.BreaksIn(rip, length);
    }

    private static void BringToFront(Block* b, TranslatedBlock* t)
    {
        var link = (TranslatedBlock**)&b->First->Extra;
        while (*link != t) link = &(*link)->Next;
        *link = t->Next;
        t->Next = (TranslatedBlock*)b->First->Extra;
        b->First->Extra = (ulong)t;
    }

    private void Move(TranslatedBlock* t, ulong by, uint mapping)
    {
        TranslationLink* next;
        for (TranslationLink* link = t->Incoming; link != null; link = next)
        {
            next = link->NextOfTarget;
            if (!link->From->IsMoving) links.Untie(link);
        }
        for (int n = 0; n < t->LinkCount; n++)
        {
            TranslationLink* link = t->Links + n;
            // What is moved with it was as far away, and will be.
            if (link->Target != null && !link->Target->IsMoving && !link->IsAbsolute) links.Untie(link);
            if (!link->IsAbsolute) link->Rip += by;
        }
        store.ForgetTarget(t);
        t->Rip += by;
        t->Mapping = mapping;
        t->MappingSlot = TranslationStore.MappingSlot(t->Rip, t->Mode);
        if (t->SecondPage != null)
        {
            ulong second = (t->Rip & ~0xFFFul) + GuestMemory.PageSize;
            t->SecondMapping = store.MappingOf(second, (ulong)(t->SecondPage - p.Memory.Backing.Pointer));
            t->SecondMappingSlot = TranslationStore.MappingSlot(second, t->Mode);
        }
        for (TranslatedBlock* part = t->NextPart; part != null; part = part->NextPart)
            (part->Rip, part->Mapping, part->MappingSlot) = (part->Rip + by, t->Mapping, t->MappingSlot);
        for (int n = 0; n < t->RelocationCount; n++) Relocate(t, t->Relocations + n, by);
        store.Map?.Add(t);
    }

    private void Relocate(TranslatedBlock* t, BlockRelocation* r, ulong by)
    {
        byte* at = t->Main + r->Distance;
        switch (r->Kind)
        {
            case RelocationKind.Address:
                Patch(at, *(ulong*)at + by);
                break;
            case RelocationKind.NegativeAddress:
                Patch(at, *(ulong*)at - by);
                break;
            case RelocationKind.FirstLevelEntry:
                int entry = (*(int*)at - r->Table) / sizeof(ulong) + (int)(by >> 12) & (TranslatorState.FirstLevelSize - 1);
                Patch(at, (uint)(r->Table + entry * sizeof(ulong)));
                break;
            case RelocationKind.Mapping:
                Patch(at, 0 - t->Mapping);
                break;
            case RelocationKind.MappingSlot:
                Patch(at, (uint)(store.StateAddress + t->MappingSlot));
                break;
            case RelocationKind.SecondMapping:
                Patch(at, 0 - t->SecondMapping);
                break;
            case RelocationKind.SecondMappingSlot:
                Patch(at, (uint)(store.StateAddress + t->SecondMappingSlot));
                break;
            default:
                throw new InvalidOperationException($"{r->Kind} in emitted code");
        }
    }

    private void Patch<T>(byte* at, T value) where T : unmanaged => store.Patch(at, new ReadOnlySpan<byte>(&value, sizeof(T)));
}
