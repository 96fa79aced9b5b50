using Bunraku.Engines;
using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>What SYSCALL and SYSRET are emitted with; good as long as <see cref="TranslatorState.SystemCalls"/> is <paramref name="Version"/>.</summary>
/// <param name="Enabled">EFER.SCE.</param>
/// <param name="KeepsStack">SYSRET leaves base, limit and attributes of SS as they are.</param>
internal readonly record struct SystemCallSetting(uint Version, bool Enabled, ulong Star, ulong Target, ulong Mask, bool KeepsStack);

/// <summary>SYSCALL, SYSRET and RDTSC, of which user programs and kernels have the most; their rare forms are the interpreter's.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>FMASK must clear these: everything that would make the mode or the direction depend on the program, or let an interrupt in.</summary>
    private const ulong ClearedByCall = (ulong)(Rflags.Tf | Rflags.If | Rflags.Df | Rflags.Ac);

    /// <summary>Set before <see cref="Translate"/>.</summary>
    public SystemCallSetting SystemCalls { get; set; }

    private readonly TscScale* _scale;
    private readonly Func<uint, int> _targetTableOf;

    private bool EmitSystemCall(in Instruction g, int number, int ordinal)
    {
        uint mode = _translation->Mode;
        ulong arithmetic = SystemCalls.Mask & (ulong)Rflags.Arithmetic;
        if (arithmetic is not (0 or (ulong)Rflags.Arithmetic)) return false;
        if (!_wide || ModeKey.Cpl(mode) != 3 || !SystemCalls.Enabled || (SystemCalls.Mask & ClearedByCall) != ClearedByCall || !BranchTarget.SurelyCanonical(SystemCalls.Target)) return false;
        LeaveUnless(StateOffsets.SystemCalls, SystemCalls.Version, number);
        // With AC set alignment checks may be on.
        _a.LoadState(Host.Rcx, StateOffsets.FlagsOther, wide: false);
        LeaveIfAny((ulong)Rflags.Ac, number);
        SaveFlags();
        FlagsImage();
        _a.StoreState(StateOffsets.Gpr(11), Host.Rcx);
        Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.R13D, ~(int)SystemCalls.Mask));
        Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.R13D, (int)Rflags.Fixed1));
        _a.StoreState(StateOffsets.FlagsOther, Host.R13, wide: false);
        int selector = (int)(SystemCalls.Star >> 32) & 0xFFFC;
        SetFlat(Seg.Cs, selector, FastSystemCalls.CodeAttributes | FastSystemCalls.Long, 0);
        SetFlat(Seg.Ss, selector + 8, FastSystemCalls.DataAttributes, 0);
        uint changed = mode & ~(3u << ModeKey.CplShift) | ModeKey.Stack32;
        SetLevel(0, changed);
        if (arithmetic != 0) _a.MoveImmediate(Host.Rax, 0);
        RestoreFlags();
        _a.MoveImmediate(HostRegisters.Count, g.NextIP);
        Retire(ordinal + 1);
        EmitLink(SystemCalls.Target);
        _translation->Links[_linkCount - 1].Mode = changed;
        return true;
    }

    private bool EmitSystemReturn(int number, int ordinal)
    {
        uint mode = _translation->Mode;
        if (!_wide || !IsSupervisor || !SystemCalls.Enabled) return false;
        uint changed = mode & ~ModeKey.SmapOverride | 3u << ModeKey.CplShift | (SystemCalls.KeepsStack ? 0 : ModeKey.Stack32);
        int targets = _targetTableOf(changed);
        if (targets < 0) return false;
        LeaveUnless(StateOffsets.SystemCalls, SystemCalls.Version, number);
        _a.LoadState(Host.Rcx, StateOffsets.Gpr(11));
        LeaveIfAny(TranslatorRuntime.RefusedByReturn, number);
        _a.Move(Host.Rcx, HostRegisters.Count);
        LeaveIfAny(TranslatorRuntime.UpperHalf, number);
        _a.Move(HostRegisters.Address, HostRegisters.Count);
        FindTarget(number, targets);
        _a.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, TargetCodeOf(targets));
        _a.StoreState(StateOffsets.Temporary0, HostRegisters.Scratch);
        _a.StoreState(StateOffsets.Temporary1, Host.Rax);
        _a.LoadState(Host.R13, StateOffsets.Gpr(11), wide: false);
        Encode(Instruction.Create(Code.Mov_r32_rm32, HostRegister.ECX, HostRegister.R13D));
        Encode(Instruction.Create(Code.And_rm32_imm32, HostRegister.ECX, (int)(FastSystemCalls.Returned & ~(uint)Rflags.Arithmetic)));
        Encode(Instruction.Create(Code.Or_rm32_imm8, HostRegister.ECX, (int)Rflags.Fixed1));
        _a.StoreState(StateOffsets.FlagsOther, Host.Rcx, wide: false);
        int selector = (int)(SystemCalls.Star >> 48);
        SetFlat(Seg.Cs, selector + 16 | 3, FastSystemCalls.CodeAttributes | FastSystemCalls.Long, 3);
        if (SystemCalls.KeepsStack)
        {
            Encode(Instruction.Create(Code.Or_rm32_imm32, _a.State(StateOffsets.Attributes(Seg.Ss)), 3 << 5));
            SetSelector(Seg.Ss, selector + 8 | 3);
        }
        else
        {
            SetFlat(Seg.Ss, selector + 8 | 3, FastSystemCalls.DataAttributes, 3);
        }
        SetLevel(3, changed);
        FlagsOfImage();
        RestoreFlags();
        Retire(ordinal + 1);
        _a.JumpState(StateOffsets.Temporary0);
        return true;
    }

    /// <summary>The arithmetic flags are lost.</summary>
    private void SetLevel(int level, uint mode)
    {
        _a.StoreStateImmediate(StateOffsets.Cpl, level, wide: false);
        _a.StoreStateImmediate(StateOffsets.Direction, 1, wide: false);
        _a.StoreStateImmediate(StateOffsets.Mode, (int)mode, wide: false);
        // RFLAGS.AC is clear.
        _a.LoadState(Host.Rcx, StateOffsets.TlbContext);
        Encode(Instruction.Create(Code.And_rm64_imm8, HostRegister.RCX, ~3));
        if (level == 3) Encode(Instruction.Create(Code.Or_rm64_imm8, HostRegister.RCX, 1));
        _a.StoreState(StateOffsets.TlbContext, Host.Rcx);
    }

    private void SetFlat(Seg segment, int selector, uint attributes, int dpl)
    {
        _a.StoreStateImmediate(RegisterOffsets.BaseOf(segment), 0, wide: true);
        _a.StoreStateImmediate(StateOffsets.Limit(segment), -1, wide: false);
        _a.StoreStateImmediate(StateOffsets.Attributes(segment), (int)(attributes | (uint)dpl << 5), wide: false);
        SetSelector(segment, selector);
    }

    private void SetSelector(Seg segment, int selector) => Encode(Instruction.Create(Code.Mov_rm16_imm16, _a.State(StateOffsets.Selector(segment)), (int)(ushort)selector));

    /// <summary>The interpreter executes the operation unless a word of the state has a value.</summary>
    private void LeaveUnless(int word, uint value, int number)
    {
        _a.LoadState(Host.Rcx, word, wide: false);
        _a.Lea(Host.Rcx, Host.Rcx, Host.None, 0, -(int)value, wide: false);
        JumpIfCountNotZero(OperationExit(number));
    }

    /// <summary>The interpreter executes the operation if RCX has any of some bits, one of the runtime's constants.</summary>
    private void LeaveIfAny(ulong bits, int number)
    {
        _a.Pext(Host.Rcx, Host.Rcx, _runtime.Constant(bits));
        JumpIfCountNotZero(OperationExit(number));
    }

    /// <summary>RDTSC and RDTSCP: the host's counter, scaled; see <see cref="TscScale"/>.</summary>
    private bool EmitReadTsc(in Instruction g, int number)
    {
        if (_scale == null || !_wide) return false;
        if (!IsSupervisor)
        {
            _a.LoadState(Host.Rcx, StateOffsets.Cr4);
            LeaveIfAny((ulong)Cr4.Tsd, number);
        }
        bool waits = g.Code == Code.Rdtscp;
        _addendGroup = -1;
        if (waits) _a.Bytes(0x0F, 0x01, 0xF9); // RDTSCP, which writes ECX
        else _a.Bytes(0x0F, 0x31); // RDTSC
        Shift(Code.VEX_Shlx_r64_rm64_r64, HostRegister.RDX, HostRegister.RDX, 32);
        _a.Lea(Host.Rdx, Host.Rdx, Host.Rax, 0, 0);
        _a.MoveImmediate(Host.Rcx, (ulong)_scale);
        Encode(Instruction.Create(Code.VEX_Mulx_r64_r64_rm64, HostRegister.R14, HostRegister.R13, new MemoryOperand(HostRegister.RCX)));
        _a.Load(Host.Rax, Host.Rcx, Host.None, sizeof(ulong));
        Shift(Code.VEX_Shlx_r64_rm64_r64, HostRegister.R14, HostRegister.R14, 64 - TscScale.Shift);
        Shift(Code.VEX_Shrx_r64_rm64_r64, HostRegister.R13, HostRegister.R13, TscScale.Shift);
        _a.Lea(Host.R13, Host.R13, Host.R14, 0, 0);
        _a.Lea(Host.R13, Host.R13, Host.Rax, 0, 0);
        _a.LoadState(Host.Rcx, StateOffsets.TscOffset);
        _a.Lea(Host.R13, Host.R13, Host.Rcx, 0, 0);
        _a.Move(Host.Rax, Host.R13, wide: false);
        Shift(Code.VEX_Shrx_r64_rm64_r64, HostRegister.RDX, HostRegister.R13, 32);
        if (waits) _a.LoadState(HostRegisters.Count, StateOffsets.TscAux);
        return true;
    }

    private void Shift(Code code, HostRegister to, HostRegister from, int count)
    {
        _a.MoveImmediate(Host.Rcx, (ulong)count);
        Encode(Instruction.Create(code, to, from, HostRegister.RCX));
    }
}
