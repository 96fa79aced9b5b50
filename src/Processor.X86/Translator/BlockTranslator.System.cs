using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>What kernels do all the time: RFLAGS, the interrupt flag, RFLAGS.AC, SWAPGS.</summary>
internal sealed unsafe partial class BlockTranslator
{
    private const int IfBit = 9, AcBit = 18;

    private bool IsSupervisor => ModeKey.Cpl(_translation->Mode) == 0;

    /// <summary>Sets or clears one bit of the upper flags, without a change of the arithmetic ones.</summary>
    private void ChangeFlag(int bit, bool set)
    {
        // The bit goes to the top, is shifted out, and what comes in at the bottom goes to its place.
        _a.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
        RotateCount(bit + 1);
        _a.Lea(Host.Rcx, Host.Rcx, Host.Rcx, 0, set ? 1 : 0, wide: false);
        RotateCount(32 - bit);
        _a.StoreState(StateOffsets.FlagsOther, Host.Rcx, wide: false);
    }

    /// <summary>RORX ECX, ECX, n.</summary>
    private void RotateCount(int n) => Encode(Instruction.Create(Code.VEX_Rorx_r32_rm32_imm8, HostRegister.ECX, HostRegister.ECX, n));

    private void Encode(in Instruction instruction)
    {
        if (!_a.TryEncode(instruction)) throw new InvalidOperationException($"cannot encode {instruction}");
    }

    /// <summary>The arithmetic flags go to AX as <see cref="TranslatorState.HostFlags"/> has them; RAX is kept.</summary>
    private void SaveFlags()
    {
        _a.StoreState(StateOffsets.Temporary1, Host.Rax);
        _a.FlagsToAx();
    }

    private void RestoreFlags()
    {
        _a.FlagsFromAx();
        _a.LoadState(Host.Rax, StateOffsets.Temporary1);
    }

    /// <summary>RFLAGS goes to ECX without RF and VM, its upper flags to R13D; the arithmetic flags are in AX.</summary>
    private void FlagsImage()
    {
        _a.Bytes(0x0F, 0xB6, 0xCC); // MOVZX ECX, AH
        Encode(Instruction.Create(Code.Movzx_r32_rm8, HostRegister.R13D, HostRegister.AL));
        Encode(Instruction.Create(Code.Shl_rm32_imm8, HostRegister.R13D, 11));
        Encode(Instruction.Create(Code.Or_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        _a.LoadState(Host.R13, StateOffsets.FlagsOther, wide: false);
        Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.R13D, ~(int)(Rflags.Rf | Rflags.Vm)));
        Encode(Instruction.Create(Code.Or_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.ECX, (int)Rflags.Fixed1));
    }

    /// <summary>The arithmetic flags of an image in R13D go to AX; R13 is lost.</summary>
    private void FlagsOfImage()
    {
        Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.EAX, HostRegister.R13D));
        Encode(Instruction.Create(Code.Shl_rm32_imm8, HostRegister.EAX, 8));
        Encode(Instruction.Create(Code.Shr_rm32_imm8, HostRegister.R13D, 11));
        Encode(Instruction.Create(Code.And_rm32_imm8, HostRegister.R13D, 1));
        Encode(Instruction.Create(Code.Or_r32_rm32, HostRegister.EAX, HostRegister.R13D));
    }

    private bool EmitPushFlags(int number)
    {
        if (!_wide) return false;
        SaveFlags();
        FlagsImage();
        _a.StoreState(StateOffsets.Temporary0, Host.Rcx);
        RestoreFlags();
        HostOperand slot = CheckPush(number);
        _a.LoadState(Host.Rcx, StateOffsets.Temporary0);
        StoreOperand(slot, Host.Rcx, wide: true);
        MoveStackPointer(-8);
        return true;
    }

    /// <summary>POPFQ that changes nothing but the arithmetic flags and IF; the interpreter does the rest, and everything when attention is wanted.</summary>
    private bool EmitPopFlags(in Instruction g, int number, int ordinal)
    {
        if (!_wide || ModeKey.Cpl(_translation->Mode) is 1 or 2) return false;
        // At level 3 IOPL decides about IF, and IOPL itself cannot change.
        var unchanged = (int)(Rflags.Tf | Rflags.Df | Rflags.Nt | Rflags.Ac | Rflags.Id | (IsSupervisor ? Rflags.Iopl : Rflags.If));
        HostLabel slow = NewLabel(), go = NewLabel();
        LoadOperand(Host.R13, CheckTop(number), wide: true);
        SaveFlags();
        Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        Encode(Instruction.Create(Code.Xor_r32_rm32, HostRegister.ECX, _a.State(StateOffsets.FlagsOther)));
        Encode(Instruction.Create(Code.Test_rm32_imm32, HostRegister.ECX, unchanged));
        _a.JumpIf(5 /* NE */, slow);
        if (IsSupervisor)
        {
            HostLabel quiet = NewLabel();
            Encode(Instruction.Create(Code.Test_rm32_imm32, HostRegister.R13D, (int)Rflags.If));
            _a.JumpIf(4 /* E */, quiet);
            Encode(Instruction.Create(Code.Cmp_rm32_imm8, _a.State(StateOffsets.Attention), 0));
            _a.JumpIf(5 /* NE */, slow);
            _a.Place(quiet);
            // Only IF can differ here among the upper flags that were compared or may change.
            Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.ECX, (int)Rflags.If));
            Encode(Instruction.Create(Code.Xor_rm32_r32, _a.State(StateOffsets.FlagsOther), HostRegister.ECX));
        }
        FlagsOfImage();
        _a.Jump(go);
        _a.Place(slow);
        RestoreFlags();
        _a.Jump(OperationExit(number));
        _a.Place(go);
        RestoreFlags();
        MoveStackPointer(8);
        Retire(ordinal + 1);
        EmitLink(g.NextIP);
        return true;
    }

    private bool EmitClearInterrupts()
    {
        if (!IsSupervisor) return false;
        ChangeFlag(IfBit, set: false);
        return true;
    }

    /// <summary>STI. What arrives from now on is seen at the next look at the attention flags, behind the shadow; what is already there makes the interpreter do it.</summary>
    private bool EmitSetInterrupts(in Instruction g, int number, int ordinal)
    {
        if (!IsSupervisor) return false;
        HostLabel disabled = NewLabel();
        _a.LoadState(Host.Rcx, StateOffsets.Attention, wide: false);
        JumpIfCountNotZero(OperationExit(number));
        Retire(ordinal + 1);
        _a.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
        _a.Pext(Host.Rcx, Host.Rcx, _runtime.Constant((ulong)Rflags.If));
        _a.JumpIfRcxZero(disabled);
        EmitLink(Truncate(g.NextIP));
        _a.Place(disabled);
        ChangeFlag(IfBit, set: true);
        _a.StoreState(StateOffsets.ShadowAt, HostRegisters.Retired);
        EmitLink(Truncate(g.NextIP));
        return true;
    }

    /// <summary>STAC and CLAC: the block that follows has another mode, and with it another first-level TLB.</summary>
    private bool EmitAlignmentCheck(in Instruction g, int ordinal, bool set)
    {
        if (!IsSupervisor || !_wide) return false;
        uint mode = _translation->Mode, changed = set ? mode | ModeKey.SmapOverride : mode & ~ModeKey.SmapOverride;
        if (mode != changed)
        {
            int direction = set ? 1 : -1;
            _a.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
            _a.Lea(Host.Rcx, Host.Rcx, Host.None, 0, direction << AcBit, wide: false);
            _a.StoreState(StateOffsets.FlagsOther, Host.Rcx, wide: false);
            _a.LoadState(Host.Rcx, StateOffsets.TlbContext);
            _a.Lea(Host.Rcx, Host.Rcx, direction * (int)Tlb.SmapOverrideContext);
            _a.StoreState(StateOffsets.TlbContext, Host.Rcx);
            _a.StoreStateImmediate(StateOffsets.Mode, (int)changed, wide: false);
        }
        Retire(ordinal + 1);
        EmitLink(g.NextIP);
        _translation->Links[_linkCount - 1].Mode = changed;
        return true;
    }

    private bool EmitMoveFromSegment(in Instruction g)
    {
        if (g.GetOpKind(0) != OpKind.Register || g.Op0Register.GetSize() < 4) return false;
        int number = NumberOf(g.Op0Register);
        Host to = Of(number);
        var segment = (Seg)(g.Op1Register - HostRegister.ES);
        Encode(Instruction.Create(Code.Movzx_r32_rm16, Sized(to == Host.None ? Host.Rcx : to, 4), _a.State(StateOffsets.Selector(segment))));
        if (to == Host.None) _a.StoreState(StateOffsets.Gpr(number), Host.Rcx);
        return true;
    }

    private bool EmitSwapGs()
    {
        _a.LoadState(Host.Rcx, StateOffsets.GsBase);
        _a.LoadState(Host.R13, StateOffsets.KernelGsBase);
        _a.StoreState(StateOffsets.GsBase, Host.R13);
        _a.StoreState(StateOffsets.KernelGsBase, Host.Rcx);
        return true;
    }
}
