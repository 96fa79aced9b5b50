using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// x87 instructions in the host's x87 registers, which get the guest's state at the first of them and keep it until translated code is left. Exceptions are masked
/// then. The pointers that FXSAVE shows are made from records, since the host's would tell where the code cache is.
/// </summary>
internal sealed unsafe partial class BlockTranslator
{
    private bool EmitX87Guard(int number)
    {
        if (_x87Loaded) return true;
        EmitGuard(StateOffsets.X87Missing, ColdKind.X87, number);
        _x87Loaded = true;
        _translation->UsesX87 = true;
        return true;
    }

    private bool EmitX87(in Instruction g, Insn* operation, int number)
    {
        EmitX87Guard(number);
        bool records = ThunkForm.Get(g.Code) is { IsControl: false };
        GuestAddress address = default;
        bool memory = (operation->Flags & InsnFlags.HasMemory) != 0;
        if (memory && !GuestAddress.TryGet(operation, _rip, out address)) return false;
        if (!EmitSame(g, operation, number, TranslationFlags.None)) return false;
        if (!records) return true;
        HostLabel record = NewLabel();
        _cold.Add(new Cold(ColdKind.Record, record, null, number, default, 0, false));
        _addendGroup = -1;
        _a.Lea(Host.R14, record);
        _a.StoreState(StateOffsets.X87Last, Host.R14);
        if (!memory) return true;
        _a.StoreState(StateOffsets.X87LastMemory, Host.R14);
        // FDP is the offset in the segment.
        Materialise(address with { SegmentBase = 0 }, Host.R13);
        _a.StoreState(StateOffsets.X87Address, Host.R13);
        return true;
    }

    /// <summary>FLDCW that unmasks nothing.</summary>
    private bool EmitLoadX87Control(in Instruction g, Insn* operation, int number)
    {
        EmitX87Guard(number);
        if (!GuestAddress.TryGet(operation, _rip, out GuestAddress address)) return false;
        HostOperand operand = Check(address, 2, write: false, aligned: false, number);
        MemoryOperand source = operand.Base == Host.None
            ? new MemoryOperand(Sized(HostRegisters.Addend, 8), operand.Displacement)
            : new MemoryOperand(Sized(operand.Base, 8), Sized(HostRegisters.Addend, 8), 1, operand.Displacement, operand.Displacement == 0 ? 0 : 1);
        Encode(Instruction.Create(Code.Movzx_r32_rm8, Iced.Intel.Register.ECX, source));
        _a.Pext(Host.Rcx, Host.Rcx, _runtime.Constant(TranslatorRuntime.X87Masks));
        _a.Lea(Host.Rcx, Host.Rcx, -(int)TranslatorRuntime.X87Masks);
        JumpIfCountNotZero(OperationExit(number));
        Encode(Instruction.Create(Code.Fldcw_m2byte, source));
        return true;
    }
}
