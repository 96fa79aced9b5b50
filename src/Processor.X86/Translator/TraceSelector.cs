using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>How execution comes from one part of a translation to the next.</summary>
internal enum Transition
{
    /// <summary>It does not: this is the last part.</summary>
    None,
    /// <summary>The direct jump at the end is taken.</summary>
    Taken,
    /// <summary>The conditional jump at the end is not taken.</summary>
    NotTaken,
    /// <summary>The call at the end comes back.</summary>
    Return,
}

/// <summary>A block that becomes part of a translation.</summary>
internal readonly unsafe struct TracePart(Block* block, ulong rip, Transition next)
{
    public readonly Block* Block = block;
    /// <summary>RIP for which it is translated.</summary>
    public readonly ulong Rip = rip;
    public readonly Transition Next = next;
}

/// <summary>
/// Chooses the blocks that are translated as one piece: the one that has become hot, and those that were executed behind it most of the times. They lie in the
/// same page, one behind the other, so that nothing in a piece can loop but its last jump, and the mapping of one page decides. What is translated already is
/// only jumped to: code of which there is more than one copy costs more than the jump.
/// </summary>
internal sealed unsafe class TraceSelector(Processor p, int threshold)
{
    /// <summary>Blocks of one translation, and the instructions of all of them.</summary>
    public const int MostParts = 8, MostInstructions = BlockDecoder.MaxInstructions;

    private readonly TracePart[] _parts = new TracePart[MostParts];

    /// <summary>What is translated together with <paramref name="first"/>, which is entered at <paramref name="rip"/>; that is the first part.</summary>
    public ReadOnlySpan<TracePart> Select(Block* first, ulong rip)
    {
        int count = 0, instructions = InstructionsOf(first);
        Block* block = first;
        bool extends = !first->Crosses && (first->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        for (; ; )
        {
            Transition next = Transition.None;
            ulong nextRip = 0;
            Block* found = extends && count < MostParts - 1 ? Next(block, rip, out next, out nextRip) : null;
            if (found != null && (IsPart(found, count) || found == block || (instructions += InstructionsOf(found)) > MostInstructions)) found = null;
            _parts[count++] = new TracePart(block, rip, found == null ? Transition.None : next);
            if (found == null) return _parts.AsSpan(0, count);
            block = found;
            rip = nextRip;
        }
    }

    private bool IsPart(Block* block, int count)
    {
        for (int n = 0; n < count; n++)
        {
            if (_parts[n].Block == block) return true;
        }
        return false;
    }

    private static int InstructionsOf(Block* block) => block->First[block->Count - 1].Ordinal + 1;

    /// <summary>The block that comes behind this one most of the times; null: none does, or it cannot be told.</summary>
    private Block* Next(Block* block, ulong rip, out Transition transition, out ulong nextRip)
    {
        Insn* last = block->First + block->Count - 1;
        while (last->Length == 0 && last > block->First) last--;
        ulong next = rip + block->Length, target = rip + (ulong)last->Imm;
        transition = Transition.None;
        nextRip = next;
        if ((last->Flags & InsnFlags.OtherHandler) != 0 || last->Code == Insn.BreakpointCode) return null;
        switch (TranslationTable.Get((Code)last->Code).Kind)
        {
            case TranslationKind.Jump:
                (transition, nextRip) = (Transition.Taken, target);
                return Likely(block, rip, target, next, out _);
            case TranslationKind.Call or TranslationKind.CallIndirect:
                transition = Transition.Return;
                return Likely(block, rip, next, next, out _);
            case TranslationKind.JumpConditional:
                Block* notTaken = Likely(block, rip, next, next, out int straight), taken = Likely(block, rip, target, next, out int away);
                bool jumps = taken != null && (notTaken == null || away > straight);
                (transition, nextRip) = jumps ? (Transition.Taken, target) : (Transition.NotTaken, next);
                return jumps ? taken : notTaken;
            default:
                return null;
        }
    }

    /// <summary>The block at <paramref name="rip"/> if it was entered often, so many times, and may be part of a translation.</summary>
    /// <param name="block">The block in front of it.</param>
    /// <param name="at">Of that block.</param>
    /// <param name="behind">The address behind that block: what lies lower could be entered again and again without anybody looking for attention.</param>
    private Block* Likely(Block* block, ulong at, ulong rip, ulong behind, out int entries)
    {
        entries = 0;
        if (rip < behind || ((rip ^ at) & ~0xFFFul) != 0) return null;
        ulong start = (block->Start & ~0xFFFul) | (rip & 0xFFF);
        Block* found = p.Code.Find(start, block->Mode);
        if (found == null)
        {
            entries = p.Translator!.WasHot(start, block->Mode) ? threshold : 0;
            // With a low threshold nothing was counted: that is for tests.
            if (!IsOften(entries) || (found = p.Blocks.DecodeAhead(start, rip, block->Mode)) == null) return null;
        }
        else
        {
            if ((found->First->Flags & InsnFlags.Counted) == 0) return null;
            if (found->First->Extra != 0) return null;
            entries = (int)Math.Min(found->First->Imm, int.MaxValue);
        }
        return IsOften(entries) && found->Valid && !found->Crosses && !p.Debugger.BreaksIn(rip, found->Length) ? found : null;
    }

    /// <summary>At least about half as often as the first block.</summary>
    private bool IsOften(int entries) => 2 * entries + 1 >= threshold;
}
