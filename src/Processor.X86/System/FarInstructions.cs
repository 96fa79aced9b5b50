using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>Far JMP, CALL, RET, IRET and the software interrupts. Direct far targets: Imm is the offset, Extra the selector.</summary>
internal static unsafe class FarInstructions
{
    public static Insn* JumpDirect<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        p.FarTransfers.FarJump(i, (ushort)i->Extra, ulong.CreateTruncating(T.CreateTruncating(i->Imm)));

    public static Insn* CallDirect<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        p.FarTransfers.FarCall<T>(i, (ushort)i->Extra, ulong.CreateTruncating(T.CreateTruncating(i->Imm)));

    public static Insn* JumpIndirect<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        (ushort selector, ulong rip) = ReadPointer<T>(p, s, i);
        return p.FarTransfers.FarJump(i, selector, rip);
    }

    public static Insn* CallIndirect<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        (ushort selector, ulong rip) = ReadPointer<T>(p, s, i);
        return p.FarTransfers.FarCall<T>(i, selector, rip);
    }

    private static (ushort Selector, ulong Rip) ReadPointer<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong address = Access.Address(s, i);
        p.Mmu.CheckStructure(address, sizeof(T) + sizeof(ushort));
        ulong rip = ulong.CreateTruncating(Access.Read<T>(p, s, address));
        return (Access.Read<ushort>(p, s, address + (ulong)sizeof(T)), rip);
    }

    public static Insn* Return<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> => p.FarTransfers.FarReturn<T>(i, 0);

    public static Insn* ReturnImmediate<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> =>
        p.FarTransfers.FarReturn<T>(i, (ushort)i->Imm);

    public static Insn* Iret<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> => p.InterruptReturns.InterruptReturn<T>(i);

    public static Insn* Int(Processor p, ProcessorState* s, Insn* i) => p.Delivery.SoftwareInterrupt(i, (byte)i->Imm, EventSource.Interrupt);

    public static Insn* Int3(Processor p, ProcessorState* s, Insn* i) => p.Delivery.SoftwareInterrupt(i, (byte)Vector.Bp, EventSource.Trap);

    public static Insn* Into(Processor p, ProcessorState* s, Insn* i) =>
        Flags.Of(s) ? p.Delivery.SoftwareInterrupt(i, (byte)Vector.Of, EventSource.Trap) : Flow.Leave(s, i);

    public static Insn* Int1(Processor p, ProcessorState* s, Insn* i) => p.Delivery.SoftwareInterrupt(i, (byte)Vector.Db, EventSource.Icebp);
}
