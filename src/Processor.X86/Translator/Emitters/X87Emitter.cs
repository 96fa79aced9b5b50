using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// x87 instructions in the host's x87 registers, which get the guest's state at the first of them and keep it until translated code is left. Exceptions are
/// masked then. The pointers that FXSAVE shows are made from records, since the host's would tell where the code cache is.
/// </summary>
internal sealed unsafe class X87Emitter(Emission e)
{
    public bool EmitX87Guard(int number)
    {
        if (e.X87Loaded) return true;
        e.Cold.EmitGuard(StateOffsets.X87Loaded, ColdKind.X87, number);
        e.NoteX87();
        return true;
    }

    public bool EmitX87(in Instruction g, Insn* operation, int number)
    {
        EmitX87Guard(number);
        bool records = ThunkForm.Get(g.Code) is { IsControl: false };
        GuestAddress address = default;
        bool memory = (operation->Flags & InsnFlags.HasMemory) != 0;
        if (memory && !GuestAddress.TryGet(operation, e.Rip, out address)) return false;
        if (!e.Same.EmitSame(g, operation, number, TranslationFlags.None)) return false;
        if (!records) return true;
        HostLabel record = e.NewLabel();
        e.Cold.Add(new ColdPiece(ColdKind.Record, record, null, number, default, 0, false));
        e.Groups.LoseAddend();
        e.Asm.Lea(Host.R14, record);
        e.Asm.StoreState(StateOffsets.X87Last, Host.R14);
        if (!memory) return true;
        e.Asm.StoreState(StateOffsets.X87LastMemory, Host.R14);
        // FDP is the offset in the segment.
        e.Addresses.Materialise(address with { SegmentBase = 0 }, Host.R13);
        e.Asm.StoreState(StateOffsets.X87Address, Host.R13);
        return true;
    }

    /// <summary>FLDCW that unmasks nothing.</summary>
    public bool EmitLoadX87Control(in Instruction g, Insn* operation, int number)
    {
        EmitX87Guard(number);
        if (!GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
        Addresses.HostOperand operand = e.Addresses.Check(address, 2, write: false, aligned: false, number);
        MemoryOperand source = operand.Base == Host.None
            ? new MemoryOperand(Operands.Sized(HostRegisters.Addend, 8), operand.Displacement)
            : new MemoryOperand(Operands.Sized(operand.Base, 8), Operands.Sized(HostRegisters.Addend, 8), 1, operand.Displacement,
                operand.Displacement == 0 ? 0 : 1);
        e.Encode(Instruction.Create(Code.Movzx_r32_rm8, Iced.Intel.Register.ECX, source));
        e.Asm.Pext(Host.Rcx, Host.Rcx, e.Runtime.Constant(TranslatorRuntime.X87Masks));
        e.Asm.Lea(Host.Rcx, Host.Rcx, -(int)TranslatorRuntime.X87Masks);
        e.JumpIfCountNotZero(e.Cold.OperationExit(number));
        e.Encode(Instruction.Create(Code.Fldcw_m2byte, source));
        return true;
    }
}
