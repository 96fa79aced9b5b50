using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>Instructions that the host executes as they are: registers and the address are replaced, the rest stays.</summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>A general register operand that the host's instruction cannot name.</summary>
    private struct Substitute
    {
        /// <summary>The register as the guest names it: one that lives in memory, or AH to BH.</summary>
        public HostRegister Guest;
        public Host Scratch;
        public bool Read, Written;
    }

    private const int MostSubstitutes = 3;

    private bool EmitVector(in Instruction g, Insn* operation, int number, TranslationFlags flags)
    {
        if (!_vectorsLoaded)
        {
            EmitGuard(StateOffsets.VectorsMissing, ColdKind.Vectors, number);
            _vectorsLoaded = true;
            _translation->UsesVectors = true;
        }
        return EmitSame(g, operation, number, flags);
    }

    /// <summary>Has registers of the guest loaded unless the host has them: the state's word <paramref name="missing"/> is zero then.</summary>
    private void EmitGuard(int missing, ColdKind load, int number)
    {
        HostLabel cold = NewLabel(), loaded;
        _a.LoadState(Host.Rcx, missing, wide: false);
        loaded = JumpIfCountNotZero(cold);
        _cold.Add(new Cold(load, cold, loaded, number, default, 0, false));
    }

    private bool EmitSame(in Instruction g, Insn* operation, int number, TranslationFlags flags)
    {
        Instruction h = g;
        h.Code = In64BitMode(g.Code);
        int memory = -1;
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) == OpKind.Memory) memory = n;
        }
        if (memory < 0 && EmitMove(g)) return true;
        InstructionInfo information = _information.GetInfo(g, InstructionInfoOptions.NoMemoryUsage | InstructionInfoOptions.NoRegisterUsage);
        HostOperand operand = default;
        if (memory >= 0)
        {
            // A bit string may lie anywhere around its operand.
            if (g.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && g.GetOpKind(1) == OpKind.Register) return false;
            int size = g.MemorySize.GetSize();
            if (size is 0 or > 64 || !GuestAddress.TryGet(operation, _rip, out GuestAddress address)) return false;
            operand = Check(address, size, Writes(information.GetOpAccess(memory)), (flags & TranslationFlags.Aligned) != 0 && size > 1, number);
            h.SegmentPrefix = HostRegister.None;
            h.MemoryBase = operand.Base == Host.None ? HostRegister.None : Sized(operand.Base, 8);
            h.MemoryIndex = Sized(HostRegisters.Addend, 8);
            if (operand.Base == Host.None) (h.MemoryBase, h.MemoryIndex) = (h.MemoryIndex, HostRegister.None);
            h.MemoryIndexScale = 1;
            h.MemoryDisplacement64 = (ulong)operand.Displacement;
            h.MemoryDisplSize = operand.Displacement == 0 ? 0 : 1;
        }
        bool count = (flags & TranslationFlags.ReadsCount) != 0;
        Span<Substitute> substitutes = stackalloc Substitute[MostSubstitutes];
        int used = 0;
        bool free13 = operand.Base != HostRegisters.Address, free14 = memory < 0, freeCount = !count;
        bool rex = memory >= 0 || NeedsRex(g, count);
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) != OpKind.Register) continue;
            HostRegister register = g.GetOpRegister(n);
            if (register.IsVectorRegister() || register.IsST()) continue;
            if (!register.IsGPR()) return false;
            if (count && g.OpCode.GetOpKind(n) == OpCodeOperandKind.cl) continue;
            OpAccess access = information.GetOpAccess(n);
            Host host = Of(NumberOf(register));
            bool high = IsHigh(register);
            if (host != Host.None && (!high || (!rex && register != HostRegister.CH)))
            {
                if (!high) h.SetOpRegister(n, Sized(host, register.GetSize()));
                continue;
            }
            if (memory < 0 && TryInPlace(ref h, g, n, Writes(access)))
            {
                memory = n;
                continue;
            }
            int k = 0;
            while (k < used && Identity(substitutes[k].Guest) != Identity(register)) k++;
            if (k == used)
            {
                if (used == MostSubstitutes) return false;
                Host scratch;
                if (freeCount) (scratch, freeCount) = (Host.Rcx, false);
                else if (free13) (scratch, free13) = (HostRegisters.Address, false);
                else if (free14) (scratch, free14, _addendGroup) = (HostRegisters.Addend, false, -1);
                else return false;
                substitutes[used++] = new Substitute { Guest = register, Scratch = scratch };
            }
            substitutes[k].Written |= Writes(access);
            substitutes[k].Read |= access != OpAccess.Write || register.GetSize() < 4; // shorter ones leave the rest as it was
            h.SetOpRegister(n, Sized(substitutes[k].Scratch, register.GetSize()));
        }
        // RCX last: what comes before may need it.
        for (int k = used - 1; k >= 0; k--)
        {
            if (substitutes[k].Read) LoadSubstitute(substitutes[k]);
        }
        if (count) _a.Move(Host.Rcx, HostRegisters.Count);
        if (!_a.TryEncode(h)) return false;
        if ((flags & TranslationFlags.WritesCount) != 0) _a.Move(HostRegisters.Count, Host.Rcx);
        for (int k = 0; k < used; k++)
        {
            if (substitutes[k].Written) StoreSubstitute(substitutes[k]);
        }
        return true;
    }

    /// <summary>Makes register operand <paramref name="n"/> a memory operand, the register's place in the state, where the form has one that does the same.</summary>
    private bool TryInPlace(ref Instruction h, in Instruction g, int n, bool written)
    {
        HostRegister register = g.GetOpRegister(n);
        int size = register.GetSize();
        if (IsHigh(register) || (written && size == 4)) return false; // 32 bits extend to 64 in a register only
        if (g.OpCode.GetOpKind(n) is not (OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r64_or_mem)) return false;
        // Processors may leave another OF, undefined, behind a rotate in memory than in a register: Intel's do by an immediate count.
        if (g.Mnemonic is Mnemonic.Rol or Mnemonic.Ror && g.GetOpKind(1) == OpKind.Immediate8) return false;
        // XCHG with memory locks the bus, and a bit string goes beyond its operand.
        if (g.Mnemonic is Mnemonic.Xchg || (g.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && g.GetOpKind(1) == OpKind.Register)) return false;
        for (int k = 0; k < g.OpCount; k++)
        {
            if (k != n && g.GetOpKind(k) == OpKind.Register && g.GetOpRegister(k).IsGPR() && NumberOf(g.GetOpRegister(k)) == NumberOf(register)) return false;
        }
        Instruction inPlace = h;
        MemoryOperand place = _a.State(StateOffsets.Gpr(NumberOf(register)));
        inPlace.SetOpKind(n, OpKind.Memory);
        inPlace.SegmentPrefix = inPlace.MemoryBase = inPlace.MemoryIndex = HostRegister.None;
        inPlace.MemoryDisplacement64 = (ulong)place.Displacement;
        inPlace.MemoryDisplSize = place.DisplSize;
        // Some forms access fewer bytes in memory than in a register.
        if (inPlace.MemorySize.GetSize() != size) return false;
        h = inPlace;
        return true;
    }

    private void LoadSubstitute(in Substitute s)
    {
        if (!IsHigh(s.Guest))
        {
            _a.LoadState(s.Scratch, StateOffsets.Gpr(NumberOf(s.Guest)));
            return;
        }
        if (s.Guest == HostRegister.CH)
        {
            _a.StoreState(StateOffsets.Gpr(1), HostRegisters.Count);
            _a.LoadStateByte(s.Scratch, StateOffsets.Gpr(1) + 1);
            return;
        }
        // MOVZX ECX, xH: the only registers that need no REX prefix.
        _a.Bytes(0x0F, 0xB6, (byte)(0xC8 | HighNumber(s.Guest)));
        if (s.Scratch != Host.Rcx) _a.Move(s.Scratch, Host.Rcx);
    }

    private void StoreSubstitute(in Substitute s)
    {
        if (!IsHigh(s.Guest))
        {
            _a.StoreState(StateOffsets.Gpr(NumberOf(s.Guest)), s.Scratch);
            return;
        }
        if (s.Guest == HostRegister.CH)
        {
            _a.StoreState(StateOffsets.Gpr(1), HostRegisters.Count);
            _a.StoreStateByte(StateOffsets.Gpr(1) + 1, s.Scratch);
            _a.LoadState(HostRegisters.Count, StateOffsets.Gpr(1));
            return;
        }
        if (s.Scratch != Host.Rcx) _a.Move(Host.Rcx, s.Scratch);
        _a.Bytes(0x88, (byte)(0xC8 | HighNumber(s.Guest))); // MOV xH, CL
    }

    /// <summary>Number of AH to BH in a ModRM byte.</summary>
    private static int HighNumber(HostRegister register) => 4 + (register - HostRegister.AH);

    /// <summary>Moves between registers of which one lives in memory.</summary>
    private bool EmitMove(in Instruction g)
    {
        if (g.Mnemonic != Mnemonic.Mov || g.GetOpKind(1) != OpKind.Register) return false;
        HostRegister to = g.Op0Register, from = g.Op1Register;
        int size = to.GetSize();
        if (size < 4) return false;
        Host hostTo = Of(NumberOf(to)), hostFrom = Of(NumberOf(from));
        if (hostTo != Host.None && hostFrom != Host.None) return false;
        if (hostTo != Host.None)
        {
            _a.LoadState(hostTo, StateOffsets.Gpr(NumberOf(from)), size == 8);
            return true;
        }
        // 32 bits extend to 64 on the way.
        if (hostFrom == Host.None) _a.LoadState(Host.Rcx, StateOffsets.Gpr(NumberOf(from)), size == 8);
        else if (size == 4) _a.Move(Host.Rcx, hostFrom, wide: false);
        _a.StoreState(StateOffsets.Gpr(NumberOf(to)), hostFrom == Host.None || size == 4 ? Host.Rcx : hostFrom);
        return true;
    }

    /// <summary>An operand besides memory makes the host's instruction need a REX prefix, so that AH to BH cannot be named.</summary>
    private bool NeedsRex(in Instruction g, bool count)
    {
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) != OpKind.Register) continue;
            HostRegister register = g.GetOpRegister(n);
            if (!register.IsGPR() || IsHigh(register) || (count && g.OpCode.GetOpKind(n) == OpCodeOperandKind.cl)) continue;
            Host host = Of(NumberOf(register));
            if (host == Host.None || host >= Host.R8 || (register.GetSize() == 1 && host >= Host.Rsp)) return true;
        }
        return false;
    }

    // High bytes are other registers than the whole ones.
    private static int Identity(HostRegister register) => IsHigh(register) ? 32 + (register - HostRegister.AH) : NumberOf(register);

    private static bool IsHigh(HostRegister register) => register is >= HostRegister.AH and <= HostRegister.BH;

    /// <summary>Number of the whole register.</summary>
    private static int NumberOf(HostRegister register) => register.GetFullRegister() - HostRegister.RAX;

    private static HostRegister Sized(Host host, int size) => size switch
    {
        1 => host < Host.Rsp ? HostRegister.AL + (int)host : HostRegister.SPL + ((int)host - 4),
        2 => HostRegister.AX + (int)host,
        4 => HostRegister.EAX + (int)host,
        _ => HostRegister.RAX + (int)host,
    };

    private static bool Writes(OpAccess access) => access is OpAccess.Write or OpAccess.CondWrite or OpAccess.ReadWrite or OpAccess.ReadCondWrite;

    /// <summary>Forms that 64-bit mode lacks, as others that do the same.</summary>
    private static Code In64BitMode(Code code) => code switch
    {
        Code.Inc_r16 => Code.Inc_rm16,
        Code.Inc_r32 => Code.Inc_rm32,
        Code.Dec_r16 => Code.Dec_rm16,
        Code.Dec_r32 => Code.Dec_rm32,
        Code.Mov_AL_moffs8 => Code.Mov_r8_rm8,
        Code.Mov_AX_moffs16 => Code.Mov_r16_rm16,
        Code.Mov_EAX_moffs32 => Code.Mov_r32_rm32,
        Code.Mov_RAX_moffs64 => Code.Mov_r64_rm64,
        Code.Mov_moffs8_AL => Code.Mov_rm8_r8,
        Code.Mov_moffs16_AX => Code.Mov_rm16_r16,
        Code.Mov_moffs32_EAX => Code.Mov_rm32_r32,
        Code.Mov_moffs64_RAX => Code.Mov_rm64_r64,
        Code.Add_rm8_imm8_82 => Code.Add_rm8_imm8,
        Code.Or_rm8_imm8_82 => Code.Or_rm8_imm8,
        Code.Adc_rm8_imm8_82 => Code.Adc_rm8_imm8,
        Code.Sbb_rm8_imm8_82 => Code.Sbb_rm8_imm8,
        Code.And_rm8_imm8_82 => Code.And_rm8_imm8,
        Code.Sub_rm8_imm8_82 => Code.Sub_rm8_imm8,
        Code.Xor_rm8_imm8_82 => Code.Xor_rm8_imm8,
        Code.Cmp_rm8_imm8_82 => Code.Cmp_rm8_imm8,
        // With an accumulator the short form names it; a substitute must not be renamed behind its back.
        Code.Xchg_r16_AX => Code.Xchg_rm16_r16,
        Code.Xchg_r32_EAX => Code.Xchg_rm32_r32,
        Code.Xchg_r64_RAX => Code.Xchg_rm64_r64,
        _ => code,
    };

    private bool EmitLea(in Instruction g, Insn* operation)
    {
        int size = g.Op0Register.GetSize();
        if (size < 4 || !GuestAddress.TryGet(operation, _rip, out GuestAddress address)) return false;
        // The result is truncated to the smaller of both sizes.
        address = address with { Wide = address.Wide && size == 8, SegmentBase = 0 };
        int number = NumberOf(g.Op0Register);
        Host to = Of(number);
        Materialise(address, to == Host.None ? HostRegisters.Address : to);
        if (to == Host.None) _a.StoreState(StateOffsets.Gpr(number), HostRegisters.Address);
        return true;
    }

    private bool EmitDivide(in Instruction g, Insn* operation, int number)
    {
        bool wide = g.Code is Code.Div_rm64 or Code.Idiv_rm64, signed = g.Code is Code.Idiv_rm32 or Code.Idiv_rm64;
        Host divisor;
        if (g.GetOpKind(0) == OpKind.Memory)
        {
            if (!GuestAddress.TryGet(operation, _rip, out GuestAddress address)) return false;
            LoadOperand(HostRegisters.Address, Check(address, wide ? 8 : 4, write: false, aligned: false, number), wide);
            divisor = HostRegisters.Address;
        }
        else
        {
            int register = NumberOf(g.Op0Register);
            divisor = Of(register);
            if (divisor == Host.None) _a.LoadState(divisor = HostRegisters.Address, StateOffsets.Gpr(register));
        }
        // What may raise #DE, or needs the whole dividend, is the interpreter's.
        HostLabel exit = OperationExit(number);
        if (signed)
        {
            _a.MoveImmediate(Host.Rcx, wide ? 63u : 31u);
            _a.TryEncode(wide ? Instruction.Create(Code.VEX_Sarx_r64_rm64_r64, HostRegister.RCX, HostRegister.RAX, HostRegister.RCX)
                : Instruction.Create(Code.VEX_Sarx_r32_rm32_r32, HostRegister.ECX, HostRegister.EAX, HostRegister.ECX));
            _a.TryEncode(wide ? Instruction.Create(Code.Not_rm64, HostRegister.RCX) : Instruction.Create(Code.Not_rm32, HostRegister.ECX));
            _a.Lea(Host.Rcx, Host.Rdx, Host.Rcx, 0, 1, wide);
        }
        else
        {
            _a.Move(Host.Rcx, Host.Rdx, wide);
        }
        JumpIfCountNotZero(exit);
        _a.Move(Host.Rcx, divisor, wide);
        JumpIfCountZero(exit);
        if (signed)
        {
            _a.Lea(Host.Rcx, divisor, Host.None, 0, 1, wide);
            JumpIfCountZero(exit);
        }
        Instruction h = g;
        if (g.GetOpKind(0) == OpKind.Memory) h = Instruction.Create(g.Code, Sized(divisor, wide ? 8 : 4));
        else h.Op0Register = Sized(divisor, wide ? 8 : 4);
        return _a.TryEncode(h);
    }

    /// <summary>JRCXZ to a place that may be far away.</summary>
    private void JumpIfCountZero(HostLabel target)
    {
        HostLabel zero = NewLabel(), next = NewLabel();
        _a.JumpIfRcxZero(zero);
        _a.ShortJump(next);
        _a.Place(zero);
        _a.Jump(target);
        _a.Place(next);
    }

    /// <summary>The opposite, which every check ends with: to a place that may be far away unless RCX is zero. Returns the label of what follows.</summary>
    private HostLabel JumpIfCountNotZero(HostLabel target)
    {
        HostLabel zero = NewLabel();
        _a.JumpIfRcxZero(zero);
        _a.Jump(target);
        _a.Place(zero);
        return zero;
    }
}
