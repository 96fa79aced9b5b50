using Bunraku.Engines;
using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>What SYSCALL and SYSRET are emitted with; good as long as <see cref="TranslatorState.SystemCalls"/> is <paramref name="Version"/>.</summary>
/// <param name="Enabled">EFER.SCE.</param>
/// <param name="KeepsStack">SYSRET leaves base, limit and attributes of SS as they are.</param>
internal readonly record struct SystemCallSetting(uint Version, bool Enabled, ulong Star, ulong Target, ulong Mask, bool KeepsStack);

/// <summary>SYSCALL, SYSRET and RDTSC, of which user programs and kernels have the most; their rare forms are the interpreter's.</summary>
internal sealed unsafe class SystemCallEmitter(Emission e)
{
    /// <summary>What SYSCALL and SYSRET are emitted with.</summary>
    public SystemCallSetting Setting { get; set; }

    /// <summary>FMASK must clear these: everything that would make the mode or the direction depend on the program, or let an interrupt in.</summary>
    private const ulong ClearedByCall = (ulong)(Rflags.Tf | Rflags.If | Rflags.Df | Rflags.Ac);

    public bool EmitSystemCall(in Instruction g, int number, int ordinal)
    {
        uint mode = e.Translation->Mode;
        ulong arithmetic = Setting.Mask & (ulong)Rflags.Arithmetic;
        if (arithmetic is not (0 or (ulong)Rflags.Arithmetic)) return false;
        if (!e.Wide || ModeKey.Cpl(mode) != 3 || !Setting.Enabled || (Setting.Mask & ClearedByCall) != ClearedByCall
            || !BranchTarget.SurelyCanonical(Setting.Target)) return false;
        uint changed = mode & ~(3u << ModeKey.CplShift) | ModeKey.Stack32;
        int targets = e.TargetTableOf(changed);
        if (targets < 0) return false;
        LeaveUnless(StateOffsets.SystemCalls, Setting.Version, number);
        LeaveIfX87(number);
        // With AC set alignment checks may be on.
        e.Asm.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
        LeaveIfAny((ulong)Rflags.Ac, number);
        e.Flags.SaveFlags();
        e.Flags.FlagsImage();
        e.Asm.StoreState(StateOffsets.Gpr(11), Host.Rcx);
        e.Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.R13D, ~(int)Setting.Mask));
        e.Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.R13D, (int)Rflags.Fixed1));
        e.Asm.StoreState(StateOffsets.FlagsOther, Host.R13, wide: false);
        int selector = (int)(Setting.Star >> 32) & 0xFFFC;
        SetFlat(Seg.Cs, selector, FastSystemCalls.CodeAttributes | FastSystemCalls.Long, 0);
        SetFlat(Seg.Ss, selector + 8, FastSystemCalls.DataAttributes, 0);
        SetLevel(0, changed);
        e.ChangeReturnStack(targets);
        if (arithmetic != 0) e.Asm.MoveImmediate(Host.Rax, 0);
        e.Flags.RestoreFlags();
        e.Asm.MoveAddress(HostRegisters.Count, g.NextIP);
        e.Retire(ordinal + 1);
        e.Branches.EmitLink(Setting.Target, mode: changed, isAbsolute: true);
        return true;
    }

    public bool EmitSystemReturn(int number, int ordinal)
    {
        uint mode = e.Translation->Mode;
        if (!e.Wide || !e.IsSupervisor || !Setting.Enabled) return false;
        uint changed = mode & ~ModeKey.SmapOverride | 3u << ModeKey.CplShift | (Setting.KeepsStack ? 0 : ModeKey.Stack32);
        int targets = e.TargetTableOf(changed);
        if (targets < 0) return false;
        LeaveUnless(StateOffsets.SystemReturns, Setting.Version, number);
        LeaveIfX87(number);
        e.Asm.LoadState(Host.Rcx, StateOffsets.Gpr(11));
        LeaveIfAny(TranslatorRuntime.RefusedByReturn, number);
        e.Asm.Move(Host.Rcx, HostRegisters.Count);
        LeaveIfAny(TranslatorRuntime.UpperHalf, number);
        e.Asm.Move(HostRegisters.Address, HostRegisters.Count);
        e.Branches.FindTarget(number, targets, setsIf: true);
        e.Asm.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, Branching.TargetCodeOf(targets));
        e.Asm.StoreState(StateOffsets.Temporary0, HostRegisters.Scratch);
        e.Asm.StoreState(StateOffsets.Temporary1, Host.Rax);
        e.Asm.LoadState(Host.R13, StateOffsets.Gpr(11), wide: false);
        e.Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        e.Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.ECX, (int)(FastSystemCalls.Returned & ~(uint)Rflags.Arithmetic)));
        e.Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.ECX, (int)Rflags.Fixed1));
        e.Asm.StoreState(StateOffsets.FlagsOther, Host.Rcx, wide: false);
        int selector = (int)(Setting.Star >> 48);
        SetFlat(Seg.Cs, selector + 16 | 3, FastSystemCalls.CodeAttributes | FastSystemCalls.Long, 3);
        if (Setting.KeepsStack)
        {
            e.Encode(Instruction.Create(Code.Or_rm32_imm32, e.Asm.State(StateOffsets.Attributes(Seg.Ss)), 3 << 5));
            SetSelector(Seg.Ss, selector + 8 | 3);
        }
        else
        {
            SetFlat(Seg.Ss, selector + 8 | 3, FastSystemCalls.DataAttributes, 3);
        }
        SetLevel(3, changed);
        e.ChangeReturnStack(targets);
        e.Encode(Instruction.Create(Code.Inc_rm32, e.Asm.State(StateOffsets.Returns)));
        e.Flags.FlagsOfImage();
        e.Flags.RestoreFlags();
        e.Retire(ordinal + 1);
        e.Asm.JumpState(StateOffsets.Temporary0);
        return true;
    }

    /// <summary>The arithmetic flags are lost.</summary>
    private void SetLevel(int level, uint mode)
    {
        e.Asm.StoreStateImmediate(StateOffsets.Cpl, level, wide: false);
        e.Asm.StoreStateImmediate(StateOffsets.Direction, 1, wide: false);
        e.Asm.StoreStateImmediate(StateOffsets.Mode, (int)mode, wide: false);
        // RFLAGS.AC is clear.
        e.Asm.LoadState(Host.Rcx, StateOffsets.TlbContext);
        e.Encode(Instruction.Create(Code.And_rm64_imm8, HostRegister.RCX, ~3));
        if (level == 3) e.Encode(Instruction.Create(Code.Or_rm64_imm8, HostRegister.RCX, 1));
        e.Asm.StoreState(StateOffsets.TlbContext, Host.Rcx);
    }

    private void SetFlat(Seg segment, int selector, uint attributes, int dpl)
    {
        e.Asm.StoreStateImmediate(RegisterOffsets.BaseOf(segment), 0, wide: true);
        e.Asm.StoreStateImmediate(StateOffsets.Limit(segment), -1, wide: false);
        e.Asm.StoreStateImmediate(StateOffsets.Attributes(segment), (int)(attributes | (uint)dpl << 5), wide: false);
        SetSelector(segment, selector);
    }

    private void SetSelector(Seg segment, int selector) =>
        e.Encode(Instruction.Create(Code.Mov_rm16_imm16, e.Asm.State(StateOffsets.Selector(segment)), (int)(ushort)selector));

    /// <summary>
    /// The selectors that belong to the last x87 instruction are taken from CS and DS when translated code is left, so it is left before CS changes.
    /// </summary>
    private void LeaveIfX87(int number)
    {
        e.Asm.LoadState(Host.Rcx, StateOffsets.X87Last);
        e.Near.LeaveUnlessZero56(e.Cold.OperationExit(number));
    }

    /// <summary>The interpreter executes the operation unless a word of the state has a value.</summary>
    private void LeaveUnless(int word, uint value, int number)
    {
        e.Asm.LoadState(Host.Rcx, word, wide: false);
        e.Asm.Lea(Host.Rcx, Host.Rcx, Host.None, 0, -(int)value, wide: false);
        e.Near.LeaveUnlessZero32(e.Cold.OperationExit(number));
    }

    /// <summary>The interpreter executes the operation if RCX has any of some bits, one of the runtime's constants.</summary>
    private void LeaveIfAny(ulong bits, int number)
    {
        e.Asm.Pext(Host.Rcx, Host.Rcx, e.Runtime.Constant(bits));
        e.Near.LeaveUnlessZero32(e.Cold.OperationExit(number));
    }

    /// <summary>RDTSC and RDTSCP: the host's counter, scaled; see <see cref="CounterScale"/>.</summary>
    public bool EmitReadTsc(in Instruction g, int number)
    {
        if (e.Scale == null || !e.Wide) return false;
        if (!e.IsSupervisor)
        {
            e.Asm.LoadState(Host.Rcx, StateOffsets.Cr4);
            LeaveIfAny((ulong)Cr4.Tsd, number);
        }
        bool waits = g.Code == Code.Rdtscp;
        e.Groups.LoseAddend();
        if (waits) e.Asm.Bytes(0x0F, 0x01, 0xF9); // RDTSCP, which writes ECX
        else e.Asm.Bytes(0x0F, 0x31); // RDTSC
        Shift(Code.VEX_Shlx_r64_rm64_r64, HostRegister.RDX, HostRegister.RDX, 32);
        e.Asm.Lea(Host.Rdx, Host.Rdx, Host.Rax, 0, 0);
        e.Asm.MoveImmediate(Host.Rcx, (ulong)e.Scale);
        e.Encode(Instruction.Create(Code.VEX_Mulx_r64_r64_rm64, HostRegister.R14, HostRegister.R13, new MemoryOperand(HostRegister.RCX)));
        e.Asm.Load(Host.Rax, Host.Rcx, Host.None, sizeof(ulong));
        Shift(Code.VEX_Shlx_r64_rm64_r64, HostRegister.R14, HostRegister.R14, 64 - CounterScale.Shift);
        Shift(Code.VEX_Shrx_r64_rm64_r64, HostRegister.R13, HostRegister.R13, CounterScale.Shift);
        e.Asm.Lea(Host.R13, Host.R13, Host.R14, 0, 0);
        e.Asm.Lea(Host.R13, Host.R13, Host.Rax, 0, 0);
        e.Asm.LoadState(Host.Rcx, StateOffsets.TscOffset);
        e.Asm.Lea(Host.R13, Host.R13, Host.Rcx, 0, 0);
        e.Asm.Move(Host.Rax, Host.R13, wide: false);
        Shift(Code.VEX_Shrx_r64_rm64_r64, HostRegister.RDX, HostRegister.R13, 32);
        if (waits) e.Asm.LoadState(HostRegisters.Count, StateOffsets.TscAux);
        return true;
    }

    /// <summary>RDPKRU: the interpreter where it faults.</summary>
    public bool EmitReadPkru(int number)
    {
        if (!e.Wide) return false;
        e.Asm.LoadState(Host.Rcx, StateOffsets.Cr4);
        e.Asm.Pext(Host.Rcx, Host.Rcx, e.Runtime.Constant((ulong)Cr4.Pke));
        e.Near.LeaveIfZero(e.Cold.OperationExit(number));
        e.Asm.Move(Host.Rcx, HostRegisters.Count, wide: false);
        e.Near.LeaveUnlessZero32(e.Cold.OperationExit(number));
        e.Asm.LoadState(Host.Rax, StateOffsets.Pkru, wide: false);
        e.Asm.MoveImmediate(Host.Rdx, 0);
        return true;
    }

    /// <summary>MOV from CR2 and CR3 at level 0: what page faults ask for.</summary>
    public bool EmitReadControl(in Instruction g, int ordinal)
    {
        int from = g.Op1Register switch { HostRegister.CR2 => StateOffsets.Cr2, HostRegister.CR3 => StateOffsets.Cr3, _ => -1 };
        if (from < 0 || !e.Wide || ModeKey.Cpl(e.Translation->Mode) != 0) return false;
        int number = Operands.NumberOf(g.Op0Register);
        Host to = e.Loop.Of(number);
        e.Asm.LoadState(to == Host.None ? Host.Rcx : to, from);
        if (to == Host.None) e.Asm.StoreState(StateOffsets.Gpr(number), Host.Rcx);
        e.Retire(ordinal + 1);
        e.Branches.EmitLink(e.Branches.Truncate(g.NextIP));
        return true;
    }

    private void Shift(Code code, HostRegister to, HostRegister from, int count)
    {
        e.Asm.MoveImmediate(Host.Rcx, (ulong)count);
        e.Encode(Instruction.Create(code, to, from, HostRegister.RCX));
    }
}
