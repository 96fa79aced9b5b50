using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>What kernels do all the time: RFLAGS, the interrupt flag, RFLAGS.AC, SWAPGS.</summary>
internal sealed unsafe class FlagsEmitter(Emission e)
{
    private const int IfBit = 9, DfBit = 10, AcBit = 18;

    /// <summary>Sets or clears one bit of the upper flags, without a change of the arithmetic ones.</summary>
    private void ChangeFlag(int bit, bool set)
    {
        // The bit goes to the top, is shifted out, and what comes in at the bottom goes to its place.
        e.Asm.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
        RotateCount(bit + 1);
        e.Asm.Lea(Host.Rcx, Host.Rcx, Host.Rcx, 0, set ? 1 : 0, wide: false);
        RotateCount(32 - bit);
        e.Asm.StoreState(StateOffsets.FlagsOther, Host.Rcx, wide: false);
    }

    /// <summary>RORX ECX, ECX, n.</summary>
    private void RotateCount(int n) => e.Encode(Instruction.Create(Code.VEX_Rorx_r32_rm32_imm8, HostRegister.ECX, HostRegister.ECX, n));

    /// <summary>The arithmetic flags go to AX as <see cref="TranslatorState.HostFlags"/> has them; RAX is kept.</summary>
    public void SaveFlags()
    {
        e.Asm.StoreState(StateOffsets.Temporary1, Host.Rax);
        e.Asm.FlagsToAx();
    }

    public void RestoreFlags()
    {
        e.Asm.FlagsFromAx();
        e.Asm.LoadState(Host.Rax, StateOffsets.Temporary1);
    }

    /// <summary>RFLAGS goes to ECX without RF and VM, its upper flags to R13D; the arithmetic flags are in AX.</summary>
    public void FlagsImage()
    {
        e.Asm.Bytes(0x0F, 0xB6, 0xCC); // MOVZX ECX, AH
        e.Encode(Instruction.Create(Code.Movzx_r32_rm8, HostRegister.R13D, HostRegister.AL));
        e.Encode(Instruction.Create(Code.Shl_rm32_imm8, HostRegister.R13D, 11));
        e.Encode(Instruction.Create(Code.Or_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        e.Asm.LoadState(Host.R13, StateOffsets.FlagsOther, wide: false);
        e.Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.R13D, ~(int)(Rflags.Rf | Rflags.Vm)));
        e.Encode(Instruction.Create(Code.Or_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        e.Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.ECX, (int)Rflags.Fixed1));
    }

    /// <summary>The arithmetic flags of an image in R13D go to AX; R13 is lost.</summary>
    public void FlagsOfImage()
    {
        e.Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.EAX, HostRegister.R13D));
        e.Encode(Instruction.Create(Code.Shl_rm32_imm8, HostRegister.EAX, 8));
        e.Encode(Instruction.Create(Code.Shr_rm32_imm8, HostRegister.R13D, 11));
        e.Encode(Instruction.Create(Code.And_rm32_imm8, HostRegister.R13D, 1));
        e.Encode(Instruction.Create(Code.Or_r32_rm32, HostRegister.EAX, HostRegister.R13D));
    }

    public bool EmitPushFlags(int number)
    {
        if (!e.Wide) return false;
        SaveFlags();
        FlagsImage();
        e.Asm.StoreState(StateOffsets.Temporary0, Host.Rcx);
        RestoreFlags();
        Addresses.HostOperand slot = e.Stack.CheckPush(number);
        e.Asm.LoadState(Host.Rcx, StateOffsets.Temporary0);
        e.Addresses.StoreOperand(slot, Host.Rcx, wide: true);
        e.Stack.MoveStackPointer(-8);
        return true;
    }

    /// <summary>POPFQ that changes nothing but the arithmetic flags and IF; the interpreter does the rest, and everything when attention is wanted.</summary>
    public bool EmitPopFlags(in Instruction g, int number, int ordinal)
    {
        if (!e.Wide || ModeKey.Cpl(e.Translation->Mode) is 1 or 2) return false;
        // At level 3 IOPL decides about IF, and IOPL itself cannot change.
        var unchanged = (int)(Rflags.Tf | Rflags.Df | Rflags.Nt | Rflags.Ac | Rflags.Id | (e.IsSupervisor ? Rflags.Iopl : Rflags.If));
        HostLabel slow = e.NewLabel(), go = e.NewLabel();
        e.Addresses.LoadOperand(Host.R13, e.Stack.CheckTop(number), wide: true);
        SaveFlags();
        e.Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        e.Encode(Instruction.Create(Code.Xor_r32_rm32, HostRegister.ECX, e.Asm.State(StateOffsets.FlagsOther)));
        e.Encode(Instruction.Create(Code.Test_rm32_imm32, HostRegister.ECX, unchanged));
        e.Asm.JumpIf(5 /* NE */, slow);
        if (e.IsSupervisor)
        {
            HostLabel quiet = e.NewLabel();
            e.Encode(Instruction.Create(Code.Test_rm32_imm32, HostRegister.R13D, (int)Rflags.If));
            e.Asm.JumpIf(4 /* E */, quiet);
            e.Encode(Instruction.Create(Code.Cmp_rm64_imm8, e.Asm.State(StateOffsets.Attention), 0)); // and WindowAttention
            e.Asm.JumpIf(5 /* NE */, slow);
            e.Asm.Place(quiet);
            // Only IF can differ here among the upper flags that were compared or may change.
            e.Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.ECX, (int)Rflags.If));
            e.Encode(Instruction.Create(Code.Xor_rm32_r32, e.Asm.State(StateOffsets.FlagsOther), HostRegister.ECX));
        }
        FlagsOfImage();
        e.Asm.Jump(go);
        e.Asm.Place(slow);
        RestoreFlags();
        e.Asm.Jump(e.Cold.OperationExit(number));
        e.Asm.Place(go);
        RestoreFlags();
        e.Stack.MoveStackPointer(8);
        e.Retire(ordinal + 1);
        e.Branches.EmitLink(g.NextIP);
        return true;
    }

    /// <summary>CLD, with which a kernel begins whenever it is entered.</summary>
    public bool EmitClearDirection()
    {
        ChangeFlag(DfBit, set: false);
        e.Asm.StoreStateImmediate(StateOffsets.Direction, 1, wide: false);
        return true;
    }

    /// <summary>
    /// VERW of memory at level 0, for a selector of the GDT with RPL 0: kernels clear the processor's buffers with it at each way back to user mode.
    /// </summary>
    public bool EmitVerifyWrite(Insn* operation, int number)
    {
        if (!e.Wide || ModeKey.Cpl(e.Translation->Mode) != 0 || (operation->Flags & InsnFlags.HasMemory) == 0) return false;
        if (!GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
        HostLabel slow = e.NewLabel(), inside = e.NewLabel();
        e.Addresses.CheckOne(address, sizeof(ushort), write: false, aligned: false, number);
        var selector = new MemoryOperand(Operands.Sized(e.Addresses.AddressRegister(address), 8), Operands.Sized(HostRegisters.Addend, 8));
        e.Encode(Instruction.Create(Code.Movzx_r32_rm16, HostRegister.ECX, selector));
        e.Asm.StoreState(StateOffsets.Temporary0, Host.Rcx);
        e.Near.Place(between: true); // what follows is longer than its reach
        SaveFlags();
        e.Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.ECX, e.Asm.State(StateOffsets.Temporary0)));
        e.Encode(Instruction.Create(Code.Test_rm32_imm32, HostRegister.ECX, 7));
        e.Asm.JumpIf(5 /* NE */, slow); // the LDT's, or with an RPL, or null with one
        e.Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.ECX, 7));
        e.Encode(Instruction.Create(Code.Cmp_rm32_imm8, HostRegister.ECX, 7));
        e.Asm.JumpIf(4 /* E */, slow); // null
        e.Encode(Instruction.Create(Code.Cmp_r32_rm32, HostRegister.ECX, e.Asm.State(StateOffsets.GdtrLimit)));
        e.Asm.JumpIf(6 /* BE */, inside);
        e.Asm.Place(slow);
        RestoreFlags();
        e.Asm.Jump(e.Cold.OperationExit(number));
        e.Asm.Place(inside);
        RestoreFlags();
        e.Addresses.CheckDescriptor(number);
        e.Asm.Load(Host.R13, HostRegisters.Address, HostRegisters.Addend, 0, wide: true);
        SaveFlags();
        // ZF is bit 6 of AH.
        e.Encode(Instruction.Create(Code.Shr_rm64_imm8, HostRegister.R13, DescriptorTypeShift));
        e.Encode(Instruction.Create(Code.And_rm32_imm8, HostRegister.R13D, SegmentIsUsers | SegmentIsCode | SegmentIsWritable));
        e.Encode(Instruction.Create(Code.Cmp_rm32_imm8, HostRegister.R13D, SegmentIsUsers | SegmentIsWritable));
        e.Encode(Instruction.Create(Code.Sete_rm8, HostRegister.CL));
        e.Encode(Instruction.Create(Code.Shl_rm8_imm8, HostRegister.CL, 6));
        e.Encode(Instruction.Create(Code.And_rm8_imm8, HostRegister.AH, ~(1 << 6)));
        e.Encode(Instruction.Create(Code.Or_r8_rm8, HostRegister.AH, HostRegister.CL));
        RestoreFlags();
        return true;
    }

    /// <summary>The access byte of a descriptor, and its bits: S, that of code, and that of data which can be written.</summary>
    private const int DescriptorTypeShift = 40, SegmentIsUsers = 1 << 4, SegmentIsCode = 1 << 3, SegmentIsWritable = 1 << 1;

    public bool EmitClearInterrupts()
    {
        if (!e.IsSupervisor) return false;
        ChangeFlag(IfBit, set: false);
        return true;
    }

    /// <summary>
    /// STI. What arrives from now on is seen at the next look at the attention flags, behind the shadow; what is already there makes the interpreter do it.
    /// </summary>
    public bool EmitSetInterrupts(in Instruction g, int number, int ordinal)
    {
        if (!e.IsSupervisor) return false;
        HostLabel disabled = e.NewLabel();
        e.Asm.LoadState(Host.Rcx, StateOffsets.Attention); // and WindowAttention
        e.JumpIfCountNotZero(e.Cold.OperationExit(number));
        e.Retire(ordinal + 1);
        e.Asm.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
        e.Asm.Pext(Host.Rcx, Host.Rcx, e.Runtime.Constant((ulong)Rflags.If));
        e.Asm.JumpIfRcxZero(disabled);
        e.Branches.EmitLink(e.Branches.Truncate(g.NextIP));
        e.Asm.Place(disabled);
        ChangeFlag(IfBit, set: true);
        e.Asm.StoreState(StateOffsets.ShadowAt, HostRegisters.Retired);
        e.Branches.EmitLink(e.Branches.Truncate(g.NextIP));
        return true;
    }

    /// <summary>STAC and CLAC: the block that follows has another mode, and with it another first-level TLB.</summary>
    public bool EmitAlignmentCheck(in Instruction g, int ordinal, bool set)
    {
        if (!e.IsSupervisor || !e.Wide) return false;
        uint mode = e.Translation->Mode, changed = set ? mode | ModeKey.SmapOverride : mode & ~ModeKey.SmapOverride;
        int targets = e.TargetTableOf(changed);
        if (targets < 0) return false;
        if (mode != changed)
        {
            e.ChangeReturnStack(targets);
            int direction = set ? 1 : -1;
            e.Asm.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
            e.Asm.Lea(Host.Rcx, Host.Rcx, Host.None, 0, direction << AcBit, wide: false);
            e.Asm.StoreState(StateOffsets.FlagsOther, Host.Rcx, wide: false);
            e.Asm.LoadState(Host.Rcx, StateOffsets.TlbContext);
            e.Asm.Lea(Host.Rcx, Host.Rcx, direction * (int)Tlb.SmapOverrideContext);
            e.Asm.StoreState(StateOffsets.TlbContext, Host.Rcx);
            e.Asm.StoreStateImmediate(StateOffsets.Mode, (int)changed, wide: false);
        }
        e.Retire(ordinal + 1);
        e.Branches.EmitLink(g.NextIP, mode: changed);
        return true;
    }

    public bool EmitMoveFromSegment(in Instruction g)
    {
        if (g.GetOpKind(0) != OpKind.Register || g.Op0Register.GetSize() < 4) return false;
        int number = Operands.NumberOf(g.Op0Register);
        Host to = e.Loop.Of(number);
        var segment = (Seg)(g.Op1Register - HostRegister.ES);
        e.Encode(Instruction.Create(Code.Movzx_r32_rm16, Operands.Sized(to == Host.None ? Host.Rcx : to, 4), e.Asm.State(StateOffsets.Selector(segment))));
        if (to == Host.None) e.Asm.StoreState(StateOffsets.Gpr(number), Host.Rcx);
        return true;
    }

    public bool EmitSwapGs()
    {
        e.Asm.LoadState(Host.Rcx, StateOffsets.GsBase);
        e.Asm.LoadState(Host.R13, StateOffsets.KernelGsBase);
        e.Asm.StoreState(StateOffsets.GsBase, Host.R13);
        e.Asm.StoreState(StateOffsets.KernelGsBase, Host.Rcx);
        return true;
    }
}
