using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>PUSH, POP and LEAVE.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>Bytes of a stack slot: what is pushed has the width of the mode here.</summary>
    private int Slot => _wide ? 8 : 4;

    private void MoveStackPointer(int bytes) => _a.Lea(HostRegisters.StackPointer, HostRegisters.StackPointer, Host.None, 0, bytes, _wide);

    private HostOperand CheckPush(int number) => Check(GuestAddress.Stack(-Slot, _wide), Slot, write: true, aligned: false, number);

    private HostOperand CheckTop(int number) => Check(GuestAddress.Stack(0, _wide), Slot, write: false, aligned: false, number);

    private static bool FitsStack(Code code, bool wide) => code switch
    {
        Code.Push_r32 or Code.Push_rm32 or Code.Pushd_imm8 or Code.Pushd_imm32 or Code.Pop_r32 or Code.Pop_rm32 => !wide,
        _ => wide,
    };

    private bool EmitPush(in Instruction g, Insn* operation, int number)
    {
        if (!FitsStack(g.Code, _wide)) return false;
        if (g.GetOpKind(0) == OpKind.Memory)
        {
            if (!GuestAddress.TryGet(operation, _rip, out GuestAddress address)) return false;
            LoadOperand(HostRegisters.Scratch, Check(address, Slot, write: false, aligned: false, number), _wide);
            _a.StoreState(StateOffsets.Temporary0, HostRegisters.Scratch);
            HostOperand slot = CheckPush(number);
            _a.LoadState(HostRegisters.Scratch, StateOffsets.Temporary0);
            StoreOperand(slot, HostRegisters.Scratch, _wide);
        }
        else if (g.GetOpKind(0) == OpKind.Register)
        {
            int register = NumberOf(g.Op0Register);
            Host from = Of(register);
            HostOperand slot = CheckPush(number);
            if (from == Host.None) _a.LoadState(from = HostRegisters.Scratch, StateOffsets.Gpr(register));
            StoreOperand(slot, from, _wide);
        }
        else
        {
            StoreOperandImmediate(CheckPush(number), (int)g.GetImmediate(0), _wide);
        }
        MoveStackPointer(-Slot);
        return true;
    }

    private bool EmitPop(in Instruction g, int number)
    {
        if (!FitsStack(g.Code, _wide) || g.GetOpKind(0) != OpKind.Register) return false;
        HostOperand top = CheckTop(number);
        int register = NumberOf(g.Op0Register);
        Host to = Of(register);
        if (to is Host.None or HostRegisters.StackPointer)
        {
            LoadOperand(HostRegisters.Scratch, top, _wide);
            MoveStackPointer(Slot);
            if (to == Host.None) _a.StoreState(StateOffsets.Gpr(register), HostRegisters.Scratch);
            else _a.Move(to, HostRegisters.Scratch);
        }
        else
        {
            LoadOperand(to, top, _wide);
            MoveStackPointer(Slot);
        }
        return true;
    }

    private bool EmitLeave(int number)
    {
        var frame = new GuestAddress(5, -1, 0, 0, _wide, 0);
        LoadOperand(HostRegisters.Scratch, Check(frame, Slot, write: false, aligned: false, number), _wide);
        _a.Lea(HostRegisters.StackPointer, Host.Rbp, Host.None, 0, Slot, _wide);
        _a.Move(Host.Rbp, HostRegisters.Scratch);
        return true;
    }
}
