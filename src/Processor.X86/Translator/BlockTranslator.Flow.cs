using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Ends of blocks. Direct jumps lead to a stub until the dispatcher ties them to their target; within a page to its main entry, else to the one that checks the
/// mapping. Indirect ones go through the jump cache. Whoever can loop looks at the attention flags: backward jumps and indirect ones.
/// </summary>
internal sealed unsafe partial class BlockTranslator
{
    private ulong Truncate(ulong rip) => _wide ? rip : (uint)rip;

    /// <summary>Whether a direct jump may be emitted: the interpreter raises #GP(0) for the others.</summary>
    private bool IsTarget(ulong rip) => !_wide || BranchTarget.SurelyCanonical(rip);

    private int AddLink(ulong rip)
    {
        _translation->Links[_linkCount] = new TranslationLink { Rip = rip, From = _translation, Mode = _translation->Mode };
        return _linkCount++;
    }

    /// <summary>An unconditional jump to <paramref name="rip"/>; everything has retired.</summary>
    private void EmitLink(ulong rip, bool backward = false)
    {
        int link = AddLink(rip);
        if (backward)
        {
            ReadAttention();
            JumpIfCountNotZero(AttentionExit(link));
        }
        HostLabel stub = NewLabel();
        _a.Jump(stub);
        _translation->Links[link].Site = (byte*)(_a.Here - 4);
        _cold.Add(new Cold(ColdKind.Link, stub, null, link, default, 0, false));
    }

    /// <summary>A label whose code leaves on the way to a link's target, since something wants attention.</summary>
    private HostLabel AttentionExit(int link)
    {
        HostLabel label = NewLabel();
        _cold.Add(new Cold(ColdKind.Attention, label, null, link, default, 0, false));
        return label;
    }

    /// <summary>RCX is zero afterwards when nothing wants attention.</summary>
    private void ReadAttention()
    {
        // Whoever watches from another thread sees that a loop goes on.
        _a.StoreState(StateOffsets.Retired, HostRegisters.Retired);
        _a.LoadState(HostRegisters.Scratch, StateOffsets.Attention, wide: false);
    }

    private static bool IsBackward(ulong target, in Instruction g) => target <= g.IP;

    private bool EmitJump(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget);
        if (!IsTarget(target)) return false;
        Retire(ordinal + 1);
        if (_loop != null) EmitLoopBack();
        else EmitLink(target, IsBackward(target, g));
        return true;
    }

    private bool EmitJumpConditional(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget), next = Truncate(g.NextIP);
        if (!IsTarget(target) || !IsTarget(next)) return false;
        int condition = (int)g.ConditionCode - (int)ConditionCode.o;
        Retire(ordinal + 1);
        if (IsBackward(target, g))
        {
            HostLabel notTaken = NewLabel();
            _a.JumpIf(condition ^ 1, notTaken);
            if (_loop != null) EmitLoopBack();
            else EmitLink(target, backward: true);
            _a.Place(notTaken);
            ExchangeOut();
        }
        else
        {
            int link = AddLink(target);
            HostLabel stub = NewLabel();
            _a.JumpIf(condition, stub);
            _translation->Links[link].Site = (byte*)(_a.Here - 4);
            _cold.Add(new Cold(ColdKind.Link, stub, null, link, default, 0, false));
        }
        EmitLink(next);
        return true;
    }

    private bool EmitJumpIfCountZero(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget), next = Truncate(g.NextIP);
        if (!IsTarget(target) || !IsTarget(next)) return false;
        Retire(ordinal + 1);
        HostLabel zero = NewLabel();
        _a.Move(HostRegisters.Scratch, HostRegisters.Count, wide: g.Code == Code.Jrcxz_rel8_64);
        _a.JumpIfRcxZero(zero);
        EmitLink(next);
        _a.Place(zero);
        EmitLink(target, IsBackward(target, g));
        return true;
    }

    private bool EmitLoop(in Instruction g, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget), next = Truncate(g.NextIP);
        if (!IsTarget(target) || !IsTarget(next)) return false;
        bool wide = g.Code == Code.Loop_rel8_64_RCX;
        Retire(ordinal + 1);
        HostLabel done = NewLabel();
        _a.Lea(HostRegisters.Count, HostRegisters.Count, Host.None, 0, -1, wide);
        _a.Move(HostRegisters.Scratch, HostRegisters.Count);
        _a.JumpIfRcxZero(done);
        EmitLink(target, IsBackward(target, g));
        _a.Place(done);
        EmitLink(next);
        return true;
    }

    /// <summary>
    /// Finds the translation for the RIP in <see cref="HostRegisters.Address"/>; afterwards its number in the jump cache is in <see cref="HostRegisters.Addend"/>. What is not
    /// there, and what must wait for attention, the interpreter jumps to.
    /// </summary>
    private void FindTarget(int number) => FindTarget(number, _translation->TargetTable);

    private void FindTarget(int number, int targets)
    {
        HostLabel exit = OperationExit(number);
        _addendGroup = -1;
        int table = StateOffsets.Targets + targets * TranslatorState.TargetTableSize;
        _a.Pext(HostRegisters.Addend, HostRegisters.Address, _runtime.Constant(TranslatorRuntime.TargetMask));
        _a.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, table);
        _a.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Address, 0, 0);
        JumpIfCountNotZero(exit);
        ReadAttention();
        JumpIfCountNotZero(exit);
    }

    private int TargetCode => TargetCodeOf(_translation->TargetTable);

    private static int TargetCodeOf(int targets) => StateOffsets.Targets + targets * TranslatorState.TargetTableSize + TranslatorState.TargetSize * sizeof(ulong);

    /// <summary>Loads the operand of JMP or CALL r/m into <see cref="HostRegisters.Address"/>.</summary>
    private bool LoadTarget(in Instruction g, Insn* operation, int number)
    {
        if (g.GetOpKind(0) == OpKind.Memory)
        {
            if (!GuestAddress.TryGet(operation, _rip, out GuestAddress address)) return false;
            LoadOperand(HostRegisters.Address, Check(address, Slot, write: false, aligned: false, number), _wide);
            return true;
        }
        int register = NumberOf(g.Op0Register);
        Host from = Of(register);
        if (from == Host.None) _a.LoadState(HostRegisters.Address, StateOffsets.Gpr(register), _wide);
        else _a.Move(HostRegisters.Address, from, _wide);
        return true;
    }

    private bool HasSlotSize(in Instruction g) => g.Code is Code.Jmp_rm64 or Code.Call_rm64 or Code.Retnq or Code.Retnq_imm16 or Code.Call_rel32_64 == _wide;

    private bool EmitJumpIndirect(in Instruction g, Insn* operation, int number, int ordinal)
    {
        if (!HasSlotSize(g) || !LoadTarget(g, operation, number)) return false;
        FindTarget(number);
        Retire(ordinal + 1);
        _a.JumpTable(HostRegisters.Addend, TargetCode);
        return true;
    }

    private bool EmitCallIndirect(in Instruction g, Insn* operation, int number, int ordinal)
    {
        if (!HasSlotSize(g) || !LoadTarget(g, operation, number)) return false;
        FindTarget(number);
        _a.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, TargetCode);
        _a.StoreState(StateOffsets.Temporary0, HostRegisters.Scratch);
        PushReturnAddress(g, number);
        Retire(ordinal + 1);
        _a.JumpState(StateOffsets.Temporary0);
        return true;
    }

    private void PushReturnAddress(in Instruction g, int number)
    {
        HostOperand slot = CheckPush(number);
        ulong next = Truncate(g.NextIP);
        if (!_wide || (long)next == (int)next)
        {
            StoreOperandImmediate(slot, (int)next, _wide);
        }
        else
        {
            _a.MoveImmediate(HostRegisters.Scratch, next);
            StoreOperand(slot, HostRegisters.Scratch, wide: true);
        }
        MoveStackPointer(-Slot);
    }

    private bool EmitCall(in Instruction g, int number, int ordinal)
    {
        ulong target = Truncate(g.NearBranchTarget);
        if (!HasSlotSize(g) || !IsTarget(target)) return false;
        PushReturnAddress(g, number);
        Retire(ordinal + 1);
        EmitLink(target, IsBackward(target, g));
        return true;
    }

    private bool EmitReturn(in Instruction g, int number, int ordinal)
    {
        if (!HasSlotSize(g)) return false;
        LoadOperand(HostRegisters.Address, CheckTop(number), _wide);
        FindTarget(number);
        MoveStackPointer(Slot + (g.OpCount > 0 ? g.Immediate16 : 0));
        Retire(ordinal + 1);
        _a.JumpTable(HostRegisters.Addend, TargetCode);
        return true;
    }
}
