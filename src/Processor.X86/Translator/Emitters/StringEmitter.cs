using System.Numerics;
using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>
/// String instructions of 64-bit mode. Repeated MOVS and STOS that go upwards and stay within a page of each operand: kernels and libraries have short ones
/// all the time, and the host has them as fast as anything. MOVS, STOS and LODS of one element, which compilers take for copies of structures, are the accesses
/// that they consist of. The interpreter does all others.
/// </summary>
internal sealed unsafe class StringEmitter(Emission e)
{
    private static readonly GuestAddress s_source = new(6, -1, 0, 0, Wide: true, 0), s_destination = new(7, -1, 0, 0, Wide: true, 0);

    public bool Emit(in Instruction g, int number)
    {
        if (!e.Wide || e.Loop.IsExchanged) return false;
        bool reads = false, writes = false;
        for (int n = 0; n < g.OpCount; n++)
        {
            OpKind kind = g.GetOpKind(n);
            if (kind == OpKind.MemoryESRDI) writes = true;
            else if (kind == OpKind.MemorySegRSI && g.SegmentPrefix == HostRegister.None) reads = true;
            else if (kind != OpKind.Register) return false; // another address size, or a segment with a base
        }
        if (!g.HasRepPrefix && !g.HasRepnePrefix) return EmitOne(reads, writes, g.MemorySize.GetSize(), number);
        return writes && EmitRepeated(reads, g.MemorySize.GetSize(), number);
    }

    /// <summary>One element, in either direction.</summary>
    private bool EmitOne(bool reads, bool writes, int size, int number)
    {
        if (reads)
        {
            EmitAccess(s_source, size, write: false, writes ? Host.Rcx : Host.Rax, extend: writes, number);
            if (writes) e.Asm.StoreState(StateOffsets.Temporary0, Host.Rcx);
        }
        if (writes) EmitAccess(s_destination, size, write: true, reads ? Host.Rcx : Host.Rax, extend: false, number);
        e.Asm.LoadStateSigned32(HostRegisters.Scratch, StateOffsets.Direction);
        int scale = BitOperations.Log2((uint)size);
        if (reads) e.Asm.Lea(Host.Rsi, Host.Rsi, HostRegisters.Scratch, scale, 0);
        if (writes) e.Asm.Lea(Host.Rdi, Host.Rdi, HostRegisters.Scratch, scale, 0);
        return true;
    }

    /// <param name="register">RAX, or RCX, whose value is in the state when it is written.</param>
    /// <param name="extend">All of the register is loaded.</param>
    private void EmitAccess(in GuestAddress address, int size, bool write, Host register, bool extend, int number)
    {
        Addresses.HostOperand at = e.Addresses.Check(address, size, write, aligned: false, number);
        var memory = new MemoryOperand(Operands.Sized(at.Base, 8), Operands.Sized(HostRegisters.Addend, 8), 1, at.Displacement, 1);
        HostRegister operand = Operands.Sized(register, extend && size < 4 ? 4 : size);
        if (!write)
        {
            Code load = size switch
            {
                1 => extend ? Code.Movzx_r32_rm8 : Code.Mov_r8_rm8,
                2 => extend ? Code.Movzx_r32_rm16 : Code.Mov_r16_rm16,
                4 => Code.Mov_r32_rm32,
                _ => Code.Mov_r64_rm64,
            };
            e.Encode(Instruction.Create(load, operand, memory));
            return;
        }
        if (register == Host.Rcx) e.Asm.LoadState(register, StateOffsets.Temporary0);
        Code store = size switch { 1 => Code.Mov_rm8_r8, 2 => Code.Mov_rm16_r16, 4 => Code.Mov_rm32_r32, _ => Code.Mov_rm64_r64 };
        e.Encode(Instruction.Create(store, memory, operand));
    }

    private bool EmitRepeated(bool moves, int size, int number)
    {
        int scale = BitOperations.Log2((uint)size);
        HostLabel exit = e.Cold.OperationExit(number), done = e.NewLabel();
        e.Asm.LoadState(HostRegisters.Scratch, StateOffsets.Direction, wide: false);
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, Host.None, 0, -1, wide: false);
        e.Near.LeaveUnlessZero32(exit);
        // Without iterations nothing is accessed.
        e.Asm.Move(HostRegisters.Scratch, HostRegisters.Count);
        e.Near.LeaveIfZero(done);
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Count, -1);
        e.Asm.Pext(HostRegisters.Scratch, HostRegisters.Scratch, e.Runtime.Constant(TranslatorRuntime.PageMask));
        e.Near.LeaveUnlessZero56(exit);
        if (moves) CheckPage(Host.Rsi, scale, exit);
        CheckPage(Host.Rdi, scale, exit);
        if (moves)
        {
            // In the order in which the first element is read and written.
            e.Addresses.CheckOne(s_source, 1, write: false, aligned: false, number);
            e.Asm.Lea(HostRegisters.Address, Host.Rsi, HostRegisters.Addend, 0, 0);
            e.Asm.StoreState(StateOffsets.Temporary0, HostRegisters.Address);
        }
        e.Addresses.CheckOne(s_destination, 1, write: true, aligned: false, number);
        e.Groups.LoseAddend();
        e.Asm.Lea(HostRegisters.Address, Host.Rdi, HostRegisters.Count, scale, 0);
        e.Asm.Lea(Host.Rdi, Host.Rdi, HostRegisters.Addend, 0, 0);
        if (moves)
        {
            e.Asm.Lea(HostRegisters.Addend, Host.Rsi, HostRegisters.Count, scale, 0);
            e.Asm.LoadState(Host.Rsi, StateOffsets.Temporary0);
        }
        e.Asm.Move(HostRegisters.Scratch, HostRegisters.Count);
        EmitHost(moves, size);
        e.Asm.Move(Host.Rdi, HostRegisters.Address);
        if (moves) e.Asm.Move(Host.Rsi, HostRegisters.Addend);
        e.Asm.MoveImmediate(HostRegisters.Count, 0);
        e.Asm.Place(done);
        return true;
    }

    /// <summary>The interpreter has to do it unless all elements, at most 4096, lie in the page of the first.</summary>
    private void CheckPage(Host first, int scale, HostLabel exit)
    {
        e.Asm.Pext(HostRegisters.Scratch, first, e.Runtime.Constant(TranslatorRuntime.OffsetMask));
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Count, scale, -1);
        e.Asm.Pext(HostRegisters.Scratch, HostRegisters.Scratch, e.Runtime.Constant(TranslatorRuntime.PageMask));
        e.Near.LeaveUnlessZero56(exit);
    }

    /// <summary>REP MOVS or REP STOS.</summary>
    private void EmitHost(bool moves, int size)
    {
        if (size == 2) e.Asm.WriteByte(0x66);
        e.Asm.WriteByte(0xF3);
        if (size == 8) e.Asm.WriteByte(0x48);
        e.Asm.WriteByte((byte)((moves ? 0xA4 : 0xAA) | (size == 1 ? 0 : 1)));
    }
}
