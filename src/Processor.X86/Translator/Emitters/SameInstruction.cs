using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>Instructions that the host executes as they are: registers and the address are replaced, the rest stays.</summary>
internal sealed unsafe class SameInstruction(Emission e)
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

    public bool EmitSimd(in Instruction g, Insn* operation, int number, TranslationFlags flags)
    {
        if (!e.SimdLoaded)
        {
            e.Cold.EmitGuard(StateOffsets.SimdLoaded, ColdKind.Simd, number);
            e.NoteSimd();
        }
        return EmitSame(g, operation, number, flags);
    }

    public bool EmitSame(in Instruction g, Insn* operation, int number, TranslationFlags flags)
    {
        Instruction h = g;
        h.Code = Operands.In64BitMode(g.Code);
        int memory = -1;
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) == OpKind.Memory) memory = n;
        }
        if (memory < 0 && EmitMove(g)) return true;
        InstructionInfo information = e.Information.GetInfo(g, InstructionInfoOptions.NoMemoryUsage | InstructionInfoOptions.NoRegisterUsage);
        Addresses.HostOperand operand = default;
        if (memory >= 0)
        {
            if (Operands.IsBitString(g)) return EmitBitString(g, operation, number);
            int size = g.MemorySize.GetSize();
            if (size is 0 or > 64 || !GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
            bool aligned = (flags & TranslationFlags.Aligned) != 0 || Operands.MustNotSplit(g);
            operand = e.Addresses.Check(address, size, Operands.Writes(information.GetOpAccess(memory)), aligned && size > 1, number);
            h.SegmentPrefix = HostRegister.None;
            h.MemoryBase = operand.Base == Host.None ? HostRegister.None : Operands.Sized(operand.Base, 8);
            h.MemoryIndex = Operands.Sized(HostRegisters.Addend, 8);
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
            Host host = e.Loop.Of(Operands.NumberOf(register));
            bool high = Operands.IsHigh(register);
            if (host != Host.None && (!high || (!rex && register != HostRegister.CH)))
            {
                if (!high) h.SetOpRegister(n, Operands.Sized(host, register.GetSize()));
                continue;
            }
            if (memory < 0 && TryInPlace(ref h, g, n, Operands.Writes(access)))
            {
                memory = n;
                continue;
            }
            int k = 0;
            while (k < used && Operands.Identity(substitutes[k].Guest) != Operands.Identity(register)) k++;
            if (k == used)
            {
                if (used == MostSubstitutes) return false;
                Host scratch;
                if (freeCount) (scratch, freeCount) = (Host.Rcx, false);
                else if (free13) (scratch, free13) = (HostRegisters.Address, false);
                else if (free14)
                {
                    (scratch, free14) = (HostRegisters.Addend, false);
                    e.Groups.LoseAddend();
                }
                else return false;
                substitutes[used++] = new Substitute { Guest = register, Scratch = scratch };
            }
            substitutes[k].Written |= Operands.Writes(access);
            substitutes[k].Read |= access != OpAccess.Write || register.GetSize() < 4; // shorter ones leave the rest as it was
            h.SetOpRegister(n, Operands.Sized(substitutes[k].Scratch, register.GetSize()));
        }
        // RCX last: what comes before may need it.
        for (int k = used - 1; k >= 0; k--)
        {
            if (substitutes[k].Read) LoadSubstitute(substitutes[k]);
        }
        if (count) e.Asm.Move(Host.Rcx, HostRegisters.Count);
        if (!e.Asm.TryEncode(h)) return false;
        if ((flags & TranslationFlags.WritesCount) != 0) e.Asm.Move(HostRegisters.Count, Host.Rcx);
        for (int k = 0; k < used; k++)
        {
            if (substitutes[k].Written) StoreSubstitute(substitutes[k]);
        }
        return true;
    }

    /// <summary>BT, BTS, BTR and BTC of memory by a register, whose bit may lie anywhere around the operand.</summary>
    private bool EmitBitString(in Instruction g, Insn* operation, int number)
    {
        int size = g.MemorySize.GetSize();
        if (!e.Wide || size is not (4 or 8) || !GuestAddress.TryGet(operation, e.Rip, out GuestAddress address) || !address.Wide) return false;
        // The interpreter's handler adds the base behind the bit's place, so the operation has none.
        if (g.MemorySegment is HostRegister.FS or HostRegister.GS)
            address = address with { SegmentBase = RegisterOffsets.BaseOf((Seg)(g.MemorySegment - HostRegister.ES)) };
        int bit = Operands.NumberOf(g.Op1Register);
        e.Addresses.CheckBit(address, bit, size, write: g.Mnemonic != Mnemonic.Bt, Operands.MustNotSplit(g), number);
        Host from = e.Loop.Of(bit);
        if (from == Host.None) e.Asm.LoadState(from = Host.Rcx, StateOffsets.Gpr(bit));
        e.Asm.Pext(Host.Rcx, from, e.Runtime.Constant((ulong)(8 * size - 1)));
        Instruction h = g;
        h.SegmentPrefix = HostRegister.None;
        (h.MemoryBase, h.MemoryIndex, h.MemoryIndexScale) = (HostRegister.R13, HostRegister.R14, 1);
        (h.MemoryDisplacement64, h.MemoryDisplSize) = (0, 0);
        h.Op1Register = Operands.Sized(Host.Rcx, size);
        return e.Asm.TryEncode(h);
    }

    /// <summary>
    /// Makes register operand <paramref name="n"/> a memory operand, the register's place in the state, where the form has one that does the same.
    /// </summary>
    private bool TryInPlace(ref Instruction h, in Instruction g, int n, bool written)
    {
        HostRegister register = g.GetOpRegister(n);
        int size = register.GetSize();
        if (Operands.IsHigh(register) || (written && size == 4)) return false; // 32 bits extend to 64 in a register only
        if (g.OpCode.GetOpKind(n)
            is not (OpCodeOperandKind.r8_or_mem or OpCodeOperandKind.r16_or_mem or OpCodeOperandKind.r32_or_mem or OpCodeOperandKind.r64_or_mem)) return false;
        // Processors may leave another OF, undefined, behind a rotate in memory than in a register: Intel's do by an immediate count.
        if (g.Mnemonic is Mnemonic.Rol or Mnemonic.Ror && g.GetOpKind(1) == OpKind.Immediate8) return false;
        // XCHG with memory locks the bus, and a bit string goes beyond its operand.
        if (g.Mnemonic is Mnemonic.Xchg || Operands.IsBitString(g)) return false;
        for (int k = 0; k < g.OpCount; k++)
        {
            if (k != n && g.GetOpKind(k) == OpKind.Register && g.GetOpRegister(k).IsGPR()
                && Operands.NumberOf(g.GetOpRegister(k)) == Operands.NumberOf(register)) return false;
        }
        Instruction inPlace = h;
        MemoryOperand place = e.Asm.State(StateOffsets.Gpr(Operands.NumberOf(register)));
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
        if (!Operands.IsHigh(s.Guest))
        {
            e.Asm.LoadState(s.Scratch, StateOffsets.Gpr(Operands.NumberOf(s.Guest)));
            return;
        }
        if (s.Guest == HostRegister.CH)
        {
            e.Asm.StoreState(StateOffsets.Gpr(1), HostRegisters.Count);
            e.Asm.LoadStateByte(s.Scratch, StateOffsets.Gpr(1) + 1);
            return;
        }
        // MOVZX ECX, xH: the only registers that need no REX prefix.
        e.Asm.Bytes(0x0F, 0xB6, (byte)(0xC8 | Operands.HighNumber(s.Guest)));
        if (s.Scratch != Host.Rcx) e.Asm.Move(s.Scratch, Host.Rcx);
    }

    private void StoreSubstitute(in Substitute s)
    {
        if (!Operands.IsHigh(s.Guest))
        {
            e.Asm.StoreState(StateOffsets.Gpr(Operands.NumberOf(s.Guest)), s.Scratch);
            return;
        }
        if (s.Guest == HostRegister.CH)
        {
            e.Asm.StoreState(StateOffsets.Gpr(1), HostRegisters.Count);
            e.Asm.StoreStateByte(StateOffsets.Gpr(1) + 1, s.Scratch);
            e.Asm.LoadState(HostRegisters.Count, StateOffsets.Gpr(1));
            return;
        }
        if (s.Scratch != Host.Rcx) e.Asm.Move(Host.Rcx, s.Scratch);
        e.Asm.Bytes(0x88, (byte)(0xC8 | Operands.HighNumber(s.Guest))); // MOV xH, CL
    }

    /// <summary>Moves between registers of which one lives in memory.</summary>
    private bool EmitMove(in Instruction g)
    {
        if (g.Mnemonic != Mnemonic.Mov || g.GetOpKind(1) != OpKind.Register) return false;
        HostRegister to = g.Op0Register, from = g.Op1Register;
        int size = to.GetSize();
        if (size < 4) return false;
        Host hostTo = e.Loop.Of(Operands.NumberOf(to)), hostFrom = e.Loop.Of(Operands.NumberOf(from));
        if (hostTo != Host.None && hostFrom != Host.None) return false;
        if (hostTo != Host.None)
        {
            e.Asm.LoadState(hostTo, StateOffsets.Gpr(Operands.NumberOf(from)), size == 8);
            return true;
        }
        // 32 bits extend to 64 on the way.
        if (hostFrom == Host.None) e.Asm.LoadState(Host.Rcx, StateOffsets.Gpr(Operands.NumberOf(from)), size == 8);
        else if (size == 4) e.Asm.Move(Host.Rcx, hostFrom, wide: false);
        e.Asm.StoreState(StateOffsets.Gpr(Operands.NumberOf(to)), hostFrom == Host.None || size == 4 ? Host.Rcx : hostFrom);
        return true;
    }

    /// <summary>An operand besides memory makes the host's instruction need a REX prefix, so that AH to BH cannot be named.</summary>
    private bool NeedsRex(in Instruction g, bool count)
    {
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) != OpKind.Register) continue;
            HostRegister register = g.GetOpRegister(n);
            if (!register.IsGPR() || Operands.IsHigh(register) || (count && g.OpCode.GetOpKind(n) == OpCodeOperandKind.cl)) continue;
            Host host = e.Loop.Of(Operands.NumberOf(register));
            if (host == Host.None || host >= Host.R8 || (register.GetSize() == 1 && host >= Host.Rsp)) return true;
        }
        return false;
    }

    public bool EmitLea(in Instruction g, Insn* operation)
    {
        int size = g.Op0Register.GetSize();
        if (size < 4 || !GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
        // The result is truncated to the smaller of both sizes.
        e.Asm.IsFixed |= address.IsRelative && size != 8;
        address = address with { Wide = address.Wide && size == 8, SegmentBase = 0 };
        int number = Operands.NumberOf(g.Op0Register);
        Host to = e.Loop.Of(number);
        e.Addresses.Materialise(address, to == Host.None ? HostRegisters.Address : to);
        if (to == Host.None) e.Asm.StoreState(StateOffsets.Gpr(number), HostRegisters.Address);
        return true;
    }

    public bool EmitDivide(in Instruction g, Insn* operation, int number)
    {
        bool wide = g.Code is Code.Div_rm64 or Code.Idiv_rm64, signed = g.Code is Code.Idiv_rm32 or Code.Idiv_rm64;
        Host divisor;
        if (g.GetOpKind(0) == OpKind.Memory)
        {
            if (!GuestAddress.TryGet(operation, e.Rip, out GuestAddress address)) return false;
            e.Addresses.LoadOperand(HostRegisters.Address, e.Addresses.Check(address, wide ? 8 : 4, write: false, aligned: false, number), wide);
            divisor = HostRegisters.Address;
        }
        else
        {
            int register = Operands.NumberOf(g.Op0Register);
            divisor = e.Loop.Of(register);
            if (divisor == Host.None) e.Asm.LoadState(divisor = HostRegisters.Address, StateOffsets.Gpr(register));
        }
        // What may raise #DE, or needs the whole dividend, is the interpreter's.
        HostLabel exit = e.Cold.OperationExit(number);
        if (signed)
        {
            e.Asm.MoveImmediate(Host.Rcx, wide ? 63u : 31u);
            e.Asm.TryEncode(wide ? Instruction.Create(Code.VEX_Sarx_r64_rm64_r64, HostRegister.RCX, HostRegister.RAX, HostRegister.RCX)
                : Instruction.Create(Code.VEX_Sarx_r32_rm32_r32, HostRegister.ECX, HostRegister.EAX, HostRegister.ECX));
            e.Asm.TryEncode(wide ? Instruction.Create(Code.Not_rm64, HostRegister.RCX) : Instruction.Create(Code.Not_rm32, HostRegister.ECX));
            e.Asm.Lea(Host.Rcx, Host.Rdx, Host.Rcx, 0, 1, wide);
        }
        else
        {
            e.Asm.Move(Host.Rcx, Host.Rdx, wide);
        }
        e.JumpIfCountNotZero(exit);
        e.Asm.Move(Host.Rcx, divisor, wide);
        e.JumpIfCountZero(exit);
        if (signed)
        {
            e.Asm.Lea(Host.Rcx, divisor, Host.None, 0, 1, wide);
            e.JumpIfCountZero(exit);
        }
        Instruction h = g;
        if (g.GetOpKind(0) == OpKind.Memory) h = Instruction.Create(g.Code, Operands.Sized(divisor, wide ? 8 : 4));
        else h.Op0Register = Operands.Sized(divisor, wide ? 8 : 4);
        return e.Asm.TryEncode(h);
    }
}
