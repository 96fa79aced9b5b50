using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>How handlers that end a block go on. Each returns what the handler must return.</summary>
internal static unsafe class Flow
{
    /// <summary>Back to the dispatcher; execution goes on with the next instruction. For what may change mode, privilege, interrupts or code.</summary>
    public static Insn* Leave(ProcessorState* s, Insn* i) => LeaveTo(s, i, NextRip(s, i));

    /// <summary>
    /// Back to the dispatcher; the instruction has retired and execution goes on at <paramref name="rip"/> (offset in CS, already truncated and checked).
    /// </summary>
    public static Insn* LeaveTo(ProcessorState* s, Insn* i, ulong rip)
    {
        s->Retired += i->Ordinal + 1u;
        s->Rip = rip;
        s->LinkFrom = null;
        return null;
    }

    /// <summary>Back to the dispatcher without retiring: the same instruction is executed again (REP interrupted, an exit to be completed).</summary>
    public static Insn* Again(ProcessorState* s, Insn* i)
    {
        s->Retired += i->Ordinal;
        s->Rip = s->BlockRip + i->Offset;
        s->LinkFrom = null;
        return null;
    }

    /// <summary>RIP of the following instruction, truncated to the code size by the dispatcher's rules.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong NextRip(ProcessorState* s, Insn* i) => (s->BlockRip + i->Offset + i->Length) & RipMask(s);

    /// <summary>All ones in the bits that RIP has in the current code size.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong RipMask(ProcessorState* s) => ModeKey.RipMask(s->Mode);

    /// <summary>
    /// A near jump to a target known at decode time (<see cref="Insn.Imm"/> = distance from the block's first instruction), with direct chaining.
    /// <paramref name="link"/> is the operation whose <see cref="Insn.Link"/> belongs to this target; <paramref name="i"/> the retiring instruction.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* Direct(ProcessorState* s, Insn* i, Insn* link)
    {
        s->Retired += i->Ordinal + 1u;
        s->BlockRip = (s->BlockRip + (ulong)link->Imm) & RipMask(s);
        Insn* target = link->Link;
        if (target != null && s->AttentionFlags == 0) return target;
        s->Rip = s->BlockRip;
        s->LinkFrom = link;
        return null;
    }

    /// <summary>
    /// The near branch <paramref name="i"/> to its own target, truncated to its operand size and checked before anything changes.
    /// A followed link was checked when it was made; legacy modes check the limit of CS each time, since it may have changed.
    /// </summary>
    /// <exception cref="GuestFault">#GP(0): not canonical, or beyond the limit of CS.</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* Near<TSize>(Processor p, ProcessorState* s, Insn* i) where TSize : struct, IBranchSize
    {
        Insn* target = i->Link;
        if (TSize.Bits != 64 || target == null || s->AttentionFlags != 0) return NearUnlinked<TSize>(p, s, i);
        s->Retired += i->Ordinal + 1u;
        s->BlockRip += (ulong)i->Imm;
        return target;
    }

    /// <summary>The rest of <see cref="Near"/>, called last so that the linked jump runs without a stack frame.</summary>
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* NearUnlinked<TSize>(Processor p, ProcessorState* s, Insn* i) where TSize : struct, IBranchSize
    {
        ulong rip = BranchTarget.Direct<TSize>(s, i);
        Insn* target = i->Link;
        BranchTarget.Check<TSize>(p, s, rip);
        s->Retired += i->Ordinal + 1u;
        s->BlockRip = rip;
        if (target != null && s->AttentionFlags == 0) return target;
        s->Rip = rip;
        s->LinkFrom = i;
        return null;
    }

    /// <summary>The conditional branch <paramref name="i"/> is not taken: its successor in the block holds the distance and the link of what follows.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* Fallthrough<TSize>(ProcessorState* s, Insn* i) where TSize : struct, IBranchSize
    {
        if (TSize.Bits != 64) return Direct(s, i, i + 1);
        Insn* link = i + 1, target = link->Link;
        s->Retired += i->Ordinal + 1u;
        s->BlockRip += (ulong)link->Imm;
        if (target != null && s->AttentionFlags == 0) return target;
        s->Rip = s->BlockRip;
        s->LinkFrom = link;
        return null;
    }

    /// <summary>A near jump to a computed target (RET, JMP r/m, CALL r/m): through the jump cache.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* Indirect(ProcessorState* s, Insn* i, ulong rip)
    {
        s->Retired += i->Ordinal + 1u;
        s->LinkFrom = null;
        s->Rip = rip;
        if (s->AttentionFlags != 0) return null;
        return JumpCacheLookup(s, rip);
    }

    /// <summary>
    /// The block at <paramref name="rip"/> if the jump cache knows it under the current mode and address space; sets <see cref="ProcessorState.BlockRip"/>
    /// then.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* JumpCacheLookup(ProcessorState* s, ulong rip)
    {
        JumpEntry* e = JumpSlot(s, rip + s->Cs.Base);
        if (e->LinearRip != rip + s->Cs.Base || e->Key != JumpKey(s)) return null;
        s->BlockRip = rip;
        return e->First;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static JumpEntry* JumpSlot(ProcessorState* s, ulong linear) =>
        (JumpEntry*)s->JumpBytes + ((linear ^ (linear >> ProcessorState.JumpBits)) & (ProcessorState.JumpSize - 1));

    /// <summary>What a jump-cache entry depends on: decode mode, address space and privilege, and the cache's generation.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong JumpKey(ProcessorState* s) => s->Mode | (s->TlbContext << ModeKey.Bits) | ((ulong)s->JumpEpoch << (ModeKey.Bits + Tlb.ContextBits));
}
