using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>PUSH, POP and LEAVE.</summary>
internal sealed unsafe class StackEmitter(Emission e)
{
    /// <summary>Bytes of a stack slot: what is pushed has the width of the mode here.</summary>
    public int Slot => e.Wide ? 8 : 4;

    public void MoveStackPointer(int bytes) => e.Asm.Lea(HostRegisters.StackPointer, HostRegisters.StackPointer, Host.None, 0, bytes, e.Wide);

    public Addresses.HostOperand CheckPush(int number) => e.Addresses.Check(GuestAddress.Stack(-Slot, e.Wide), Slot, write: true, aligned: false, number);

    public Addresses.HostOperand CheckTop(int number) => e.Addresses.Check(GuestAddress.Stack(0, e.Wide), Slot, write: false, aligned: false, number);

    private static bool FitsStack(Code code, bool wide) => code switch
    {
        Code.Push_r32 or Code.Push_rm32 or Code.Pushd_imm8 or Code.Pushd_imm32 or Code.Pop_r32 or Code.Pop_rm32 => !wide,
        _ => wide,
    };

    public bool EmitPush(in Instruction g, Insn* operation, int number)
    {
        if (!FitsStack(g.Code, e.Wide)) return false;
        if (g.GetOpKind(0) == OpKind.Memory)
        {
            if (!GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
            e.Addresses.LoadOperand(HostRegisters.Scratch, e.Addresses.Check(address, Slot, write: false, aligned: false, number), e.Wide);
            e.Asm.StoreState(StateOffsets.Temporary0, HostRegisters.Scratch);
            Addresses.HostOperand slot = CheckPush(number);
            e.Asm.LoadState(HostRegisters.Scratch, StateOffsets.Temporary0);
            e.Addresses.StoreOperand(slot, HostRegisters.Scratch, e.Wide);
        }
        else if (g.GetOpKind(0) == OpKind.Register)
        {
            int register = Operands.NumberOf(g.Op0Register);
            Host from = e.Loop.Of(register);
            Addresses.HostOperand slot = CheckPush(number);
            if (from == Host.None) e.Asm.LoadState(from = HostRegisters.Scratch, StateOffsets.Gpr(register));
            e.Addresses.StoreOperand(slot, from, e.Wide);
        }
        else
        {
            e.Addresses.StoreOperandImmediate(CheckPush(number), (int)g.GetImmediate(0), e.Wide);
        }
        MoveStackPointer(-Slot);
        return true;
    }

    public bool EmitPop(in Instruction g, int number)
    {
        if (!FitsStack(g.Code, e.Wide) || g.GetOpKind(0) != OpKind.Register) return false;
        Addresses.HostOperand top = CheckTop(number);
        int register = Operands.NumberOf(g.Op0Register);
        Host to = e.Loop.Of(register);
        if (to is Host.None or HostRegisters.StackPointer)
        {
            e.Addresses.LoadOperand(HostRegisters.Scratch, top, e.Wide);
            MoveStackPointer(Slot);
            if (to == Host.None) e.Asm.StoreState(StateOffsets.Gpr(register), HostRegisters.Scratch);
            else e.Asm.Move(to, HostRegisters.Scratch);
        }
        else
        {
            e.Addresses.LoadOperand(to, top, e.Wide);
            MoveStackPointer(Slot);
        }
        return true;
    }

    public bool EmitLeave(int number)
    {
        var frame = new GuestAddress(5, -1, 0, 0, e.Wide, 0);
        e.Addresses.LoadOperand(HostRegisters.Scratch, e.Addresses.Check(frame, Slot, write: false, aligned: false, number), e.Wide);
        e.Asm.Lea(HostRegisters.StackPointer, Host.Rbp, Host.None, 0, Slot, e.Wide);
        e.Asm.Move(Host.Rbp, HostRegisters.Scratch);
        return true;
    }
}
