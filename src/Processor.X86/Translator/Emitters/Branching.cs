using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Ends of blocks. Direct jumps lead to a stub until the dispatcher ties them to their target; within a page to its main entry, else to the one that checks the
/// mapping. Indirect ones go through the jump cache, returns through <see cref="ReturnStacks"/>. Whoever can loop looks at the attention flags: backward jumps,
/// indirect ones, and calls, since a recursion need not jump.
/// </summary>
internal sealed unsafe class Branching(Emission e)
{
    public ulong Truncate(ulong rip) => e.Wide ? rip : (uint)rip;

    /// <summary>Whether a direct jump may be emitted: the interpreter raises #GP(0) for the others.</summary>
    private bool IsTarget(ulong rip) => !e.Wide || BranchTarget.SurelyCanonical(rip);

    /// <summary>An unconditional jump to <paramref name="rip"/>; everything has retired.</summary>
    /// <param name="isAbsolute">The target is the same wherever the block lies.</param>
    public void EmitLink(ulong rip, bool backward = false, uint? mode = null, bool isAbsolute = false)
    {
        int link = e.AddLink(rip, mode);
        e.Head->Links[link].IsAbsolute = isAbsolute;
        if (backward)
        {
            LeaveForAttention(e.Cold.AttentionExit(link));
        }
        EmitLinkJump(link);
    }

    /// <summary>The jump of a link.</summary>
    public void EmitLinkJump(int link)
    {
        HostLabel stub = e.NewLabel();
        e.Asm.Jump(stub);
        e.Head->Links[link].Site = (byte*)(e.Asm.Here - 4);
        e.Cold.Add(new ColdPiece(ColdKind.Link, stub, null, link));
    }

    /// <summary>A conditional jump of a link.</summary>
    private void EmitLinkJumpIf(int condition, int link)
    {
        HostLabel stub = e.NewLabel();
        e.Asm.JumpIf(condition, stub);
        e.Head->Links[link].Site = (byte*)(e.Asm.Here - 4);
        e.Cold.Add(new ColdPiece(ColdKind.Link, stub, null, link));
    }

    /// <summary>Leaves the translation for <paramref name="rip"/> on a condition, or goes on with the next part; everything has retired.</summary>
    private void EmitSideExit(int condition, ulong rip, bool backward)
    {
        int link = e.AddLink(rip);
        bool direct = !backward && !e.Loop.IsExchanged;
        if (direct && e.Near.AreWanted(HostAssembler.LongestJumps))
        {
            // The place behind a jump that is there anyway is good for the jumps near by.
            HostLabel on = e.NewLabel();
            e.Asm.JumpIf(condition ^ 1, on);
            EmitLinkJump(link);
            e.Near.Place(between: false);
            e.Asm.Place(on);
        }
        else if (direct)
        {
            EmitLinkJumpIf(condition, link);
        }
        else
        {
            HostLabel exit = e.NewLabel();
            e.Asm.JumpIf(condition, exit);
            e.Cold.Add(new ColdPiece(backward ? ColdKind.BackwardSideExit : ColdKind.SideExit, exit, null, link));
        }
    }

    /// <summary>To a place that may be far away if something wants attention.</summary>
    private void LeaveForAttention(HostLabel target)
    {
        // Whoever watches from another thread sees that a loop goes on.
        e.Asm.StoreState(StateOffsets.Retired, HostRegisters.Retired);
        e.Asm.LoadState(HostRegisters.Scratch, StateOffsets.Quiet);
        e.Near.LeaveIfZero(target);
    }

    /// <summary>RCX is zero afterwards when nothing wants attention.</summary>
    /// <param name="setsIf">RFLAGS.IF may be set by the jump: nor may anything wait for that.</param>
    public void ReadAttention(bool setsIf = false)
    {
        e.Asm.StoreState(StateOffsets.Retired, HostRegisters.Retired); // for whoever watches
        e.Asm.LoadState(HostRegisters.Scratch, StateOffsets.Attention, wide: setsIf);
    }

    private static bool IsBackward(ulong target, in Instruction g) => target <= g.IP;

    public bool EmitJump(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget);
        if (!IsTarget(target)) return false;
        e.Retire(ordinal + 1);
        if (e.Next == Transition.Taken) return true;
        if (e.Loop.Start != null) e.Loop.EmitLoopBack();
        else EmitLink(target, IsBackward(target, g));
        return true;
    }

    public bool EmitJumpConditional(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget), next = Truncate(g.NextIP);
        if (!IsTarget(target) || !IsTarget(next)) return false;
        int condition = (int)g.ConditionCode - (int)ConditionCode.o;
        e.Retire(ordinal + 1);
        if (e.Next == Transition.Taken)
        {
            EmitSideExit(condition ^ 1, next, backward: false);
            return true;
        }
        if (e.Next == Transition.NotTaken)
        {
            EmitSideExit(condition, target, IsBackward(target, g));
            return true;
        }
        if (IsBackward(target, g))
        {
            HostLabel notTaken = e.NewLabel();
            e.Asm.JumpIf(condition ^ 1, notTaken);
            if (e.Loop.Start != null) e.Loop.EmitLoopBack();
            else EmitLink(target, backward: true);
            e.Asm.Place(notTaken);
            e.Loop.ExchangeOut();
        }
        else
        {
            EmitLinkJumpIf(condition, e.AddLink(target));
        }
        EmitLink(next);
        return true;
    }

    public bool EmitJumpIfCountZero(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget), next = Truncate(g.NextIP);
        if (!IsTarget(target) || !IsTarget(next)) return false;
        e.Retire(ordinal + 1);
        HostLabel zero = e.NewLabel();
        e.Asm.Move(HostRegisters.Scratch, HostRegisters.Count, wide: g.Code == Code.Jrcxz_rel8_64);
        e.Asm.JumpIfRcxZero(zero);
        EmitLink(next);
        e.Asm.Place(zero);
        EmitLink(target, IsBackward(target, g));
        return true;
    }

    public bool EmitLoop(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget), next = Truncate(g.NextIP);
        if (!IsTarget(target) || !IsTarget(next)) return false;
        bool wide = g.Code == Code.Loop_rel8_64_RCX;
        e.Retire(ordinal + 1);
        HostLabel done = e.NewLabel();
        e.Asm.Lea(HostRegisters.Count, HostRegisters.Count, Host.None, 0, -1, wide);
        e.Asm.Move(HostRegisters.Scratch, HostRegisters.Count);
        e.Asm.JumpIfRcxZero(done);
        EmitLink(target, IsBackward(target, g));
        e.Asm.Place(done);
        EmitLink(next);
        return true;
    }

    /// <summary>
    /// Finds the translation for the RIP in <see cref="HostRegisters.Address"/>; afterwards its number in the jump cache is in
    /// <see cref="HostRegisters.Addend"/>. What is not there, and what must wait for attention, the interpreter jumps to.
    /// </summary>
    private void FindTarget(int number) => FindTarget(number, e.Translation->TargetTable);

    public void FindTarget(int number, int targets, bool setsIf = false)
    {
        HostLabel exit = e.Cold.OperationExit(number);
        e.Groups.LoseAddend();
        int table = StateOffsets.Targets + targets * TranslatorState.TargetTableSize;
        e.Asm.Pext(HostRegisters.Addend, HostRegisters.Address, e.Runtime.Constant(e.Runtime.TargetMask));
        e.Asm.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, table);
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Address, 0, 0);
        e.JumpIfCountNotZero(exit);
        if (!setsIf)
        {
            LeaveForAttention(exit);
            return;
        }
        ReadAttention(setsIf);
        e.JumpIfCountNotZero(exit);
    }

    private int TargetCode => TargetCodeOf(e.Translation->TargetTable);

    public static int TargetCodeOf(int targets) =>
        StateOffsets.Targets + targets * TranslatorState.TargetTableSize + TranslatorState.TargetSize * sizeof(ulong);

    /// <summary>Loads the operand of JMP or CALL r/m into <see cref="HostRegisters.Address"/>.</summary>
    private bool LoadTarget(in Instruction g, Insn* operation, int number)
    {
        if (g.GetOpKind(0) == OpKind.Memory)
        {
            if (!GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
            e.Addresses.LoadOperand(HostRegisters.Address, e.Addresses.Check(address, e.Stack.Slot, write: false, aligned: false, number), e.Wide);
            return true;
        }
        int register = Operands.NumberOf(g.Op0Register);
        Host from = e.Loop.Of(register);
        if (from == Host.None) e.Asm.LoadState(HostRegisters.Address, StateOffsets.Gpr(register), e.Wide);
        else e.Asm.Move(HostRegisters.Address, from, e.Wide);
        return true;
    }

    private bool HasSlotSize(in Instruction g) => g.Code is Code.Jmp_rm64 or Code.Call_rm64 or Code.Retnq or Code.Retnq_imm16 or Code.Call_rel32_64 == e.Wide;

    public bool EmitJumpIndirect(in Instruction g, Insn* operation, int number, int ordinal)
    {
        if (!HasSlotSize(g) || !LoadTarget(g, operation, number)) return false;
        e.Plan.Restore();
        FindTarget(number);
        e.Retire(ordinal + 1);
        e.Asm.JumpTable(HostRegisters.Addend, TargetCode);
        return true;
    }

    public bool EmitCallIndirect(in Instruction g, Insn* operation, int number, int ordinal)
    {
        if (!HasSlotSize(g) || !LoadTarget(g, operation, number)) return false;
        e.Plan.Restore();
        FindTarget(number);
        e.Plan.MayLeave();
        e.Asm.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, TargetCode);
        e.Asm.StoreState(StateOffsets.Temporary0, HostRegisters.Scratch);
        PushReturnAddress(g, number);
        e.Retire(ordinal + 1);
        CheckReturnStack(null);
        e.Asm.CallState(StateOffsets.Temporary0);
        EmitContinuation(Truncate(g.NextIP));
        return true;
    }

    private void PushReturnAddress(in Instruction g, int number)
    {
        Addresses.HostOperand slot = e.Stack.CheckPush(number);
        ulong next = Truncate(g.NextIP);
        if (!e.Wide || (long)next == (int)next)
        {
            e.Addresses.StoreOperandImmediate(slot, (int)next, e.Wide);
            e.Asm.IsFixed = true;
        }
        else
        {
            e.Asm.MoveAddress(HostRegisters.Scratch, next);
            e.Addresses.StoreOperand(slot, HostRegisters.Scratch, wide: true);
        }
        e.Plan.Restore();
        e.Stack.MoveStackPointer(-e.Stack.Slot);
    }

    public bool EmitCall(in Instruction g, int number, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget);
        if (!HasSlotSize(g) || !IsTarget(target)) return false;
        PushReturnAddress(g, number);
        e.Retire(ordinal + 1);
        int link = e.AddLink(target);
        CheckReturnStack(link);
        HostLabel stub = e.NewLabel();
        e.Asm.Call(stub);
        e.Head->Links[link].Site = (byte*)(e.Asm.Here - 4);
        e.Cold.Add(new ColdPiece(ColdKind.Link, stub, null, link));
        EmitContinuation(Truncate(g.NextIP));
        return true;
    }

    /// <summary>There is room for one more place on the return stack afterwards, and nothing wants attention.</summary>
    /// <param name="link">Of the call; null: somebody has looked for attention.</param>
    private void CheckReturnStack(int? link)
    {
        HostLabel full = e.NewLabel(), back = e.NewLabel();
        if (link == null) e.Asm.Pext(HostRegisters.Scratch, Host.Rsp, e.Runtime.Constant(TranslatorState.AllQuiet));
        else e.Asm.PextState(HostRegisters.Scratch, Host.Rsp, StateOffsets.Quiet);
        e.Near.LeaveIfZero(full);
        e.Asm.Place(back);
        e.Cold.Add(new ColdPiece(link == null ? ColdKind.FullReturnStack : ColdKind.Call, full, back, link ?? 0));
    }

    /// <summary>
    /// Where a RET of the host leads that stands for a RET of the guest, with its target in <see cref="HostRegisters.Address"/>: to <paramref name="next"/> if
    /// that is the target.
    /// </summary>
    private void EmitContinuation(ulong next)
    {
        // Only now: the jumps near by are not to be put between the call and this.
        HostLabel expected = e.NewLabel();
        ulong negative = 0 - next;
        if ((long)negative == (int)negative)
        {
            e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Address, (int)negative);
            e.Asm.IsFixed = true;
        }
        else
        {
            e.Asm.MoveAddress(HostRegisters.Scratch, negative, negative: true);
            e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Address, 0, 0);
        }
        e.Asm.JumpIfRcxZero(expected);
        e.Asm.Jump(e.Runtime.OtherReturns[e.Translation->TargetTable]);
        if (e.Next == Transition.Return)
        {
            if (!e.Near.AreOutOfReach) e.Near.Place(between: false);
            e.Asm.Place(expected);
            return;
        }
        e.Asm.Place(expected);
        int link = e.AddLink(next);
        e.Head->Links[link].IsReturn = true;
        EmitLinkJump(link);
    }

    public bool EmitReturn(in Instruction g, int number, int ordinal)
    {
        if (!HasSlotSize(g)) return false;
        e.Addresses.LoadOperand(HostRegisters.Address, e.Stack.CheckTop(number), e.Wide);
        e.Groups.LoseAddend();
        e.Plan.Restore();
        HostLabel exit = e.Cold.OperationExit(number); // a record with nothing in front of it
        // Nobody looks for attention, unless the return comes to another place than its call expects: calls do.
        e.Stack.MoveStackPointer(e.Stack.Slot + (g.OpCount > 0 ? g.Immediate16 : 0));
        e.Retire(ordinal + 1);
        e.Asm.Lea(HostRegisters.Addend, exit);
        e.Asm.Return();
        return true;
    }
}
