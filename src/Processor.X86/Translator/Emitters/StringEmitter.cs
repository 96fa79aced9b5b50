using System.Numerics;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Repeated MOVS and STOS of 64-bit mode that go upwards and stay within a page of each operand: kernels and libraries have short ones all the time, and the
/// host has them as fast as anything. The interpreter does all others.
/// </summary>
internal sealed unsafe class StringEmitter(Emission e)
{
    private static readonly GuestAddress s_source = new(6, -1, 0, 0, Wide: true, 0), s_destination = new(7, -1, 0, 0, Wide: true, 0);

    public bool EmitRepeated(in Instruction g, int number)
    {
        bool moves = g.Mnemonic is Mnemonic.Movsb or Mnemonic.Movsw or Mnemonic.Movsd or Mnemonic.Movsq;
        if (!e.Wide || e.Loop.IsExchanged || !(g.HasRepPrefix || g.HasRepnePrefix) || g.GetOpKind(0) != OpKind.MemoryESRDI) return false;
        if (moves && (g.GetOpKind(1) != OpKind.MemorySegRSI || g.SegmentPrefix != Iced.Intel.Register.None)) return false;
        int size = g.MemorySize.GetSize(), scale = BitOperations.Log2((uint)size);
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
