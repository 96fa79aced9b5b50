using System.Numerics;
using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>PUSH, POP and LEAVE of 64 bits, which exist in 64-bit mode only.</summary>
internal static unsafe class Stack64
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Push(Processor p, ProcessorState* s, Insn* i, ulong value)
    {
        ulong rsp = s->Rsp - 8;
        if (!Access.TryWrite(s, rsp, value)) return PushMiss(p, s, i, value);
        s->Rsp = rsp;
        return i + 1;
    }

    // Misses are calls in tail position, so that hits run without a stack frame; see Load.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* PushMiss(Processor p, ProcessorState* s, Insn* i, ulong value)
    {
        ulong rsp = s->Rsp - 8;
        // Not left to the access: of PUSH m it would take the segment of the memory operand.
        p.Mmu.WriteSlow(p.Segments.LinearAddress(Seg.Ss, rsp, sizeof(ulong), AccessKind.Write), value);
        s->Rsp = rsp;
        return i + 1;
    }

    public static Insn* PushReg(Processor p, ProcessorState* s, Insn* i) => Push(p, s, i, Register.Get<ulong>(s, i->R0));

    public static Insn* PushImm(Processor p, ProcessorState* s, Insn* i) => Push(p, s, i, (ulong)i->Imm);

    public static Insn* PushMem(Processor p, ProcessorState* s, Insn* i) =>
        Access.ReadOrLeave(p, s, Access.Address(s, i), out ulong value) ? Push(p, s, i, value) : p.Exits.LeaveForExit(i);

    public static Insn* PopReg(Processor p, ProcessorState* s, Insn* i)
    {
        return Access.TryRead(s, s->Rsp, out ulong value) ? Popped(s, i, value) : PopMiss(p, s, i);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* PopMiss(Processor p, ProcessorState* s, Insn* i) => Popped(s, i, p.Mmu.ReadSlow<ulong>(s->Rsp));

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static Insn* Popped(ProcessorState* s, Insn* i, ulong value)
    {
        // The increment first: POP RSP leaves the value that was popped.
        s->Rsp += 8;
        Register.Set(s, i->R0, value);
        return i + 1;
    }

    public static Insn* Leave(Processor p, ProcessorState* s, Insn* i)
    {
        ulong frame = s->Rbp, value = Access.Read<ulong>(p, s, frame);
        s->Rsp = frame + 8;
        s->Rbp = value;
        return i + 1;
    }
}

/// <summary>PUSH, POP, PUSHA, POPA, ENTER and LEAVE with any operand size in any mode.</summary>
internal static unsafe class StackInstructions<T> where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* PushReg(Processor p, ProcessorState* s, Insn* i)
    {
        Stack.Push(p, s, Register.Get<T>(s, i->R0));
        return i + 1;
    }

    public static Insn* PushImm(Processor p, ProcessorState* s, Insn* i)
    {
        Stack.Push(p, s, T.CreateTruncating(i->Imm));
        return i + 1;
    }

    public static Insn* PushMem(Processor p, ProcessorState* s, Insn* i)
    {
        Stack.Push(p, s, Access.Read<T>(p, s, Access.Address(s, i)));
        return i + 1;
    }

    public static Insn* PopReg(Processor p, ProcessorState* s, Insn* i)
    {
        T value = Stack.Pop<T>(p, s);
        Register.Set(s, i->R0, value);
        return i + 1;
    }

    /// <summary>POP m: an address that uses the stack pointer sees it after the increment (SDM vol. 2, POP).</summary>
    public static Insn* PopMem(Processor p, ProcessorState* s, Insn* i)
    {
        T value = Stack.Peek<T>(p, s, 0);
        ulong rsp = s->Rsp;
        Stack.Adjust(s, sizeof(T));
        ulong offset = Access.EffectiveAddress(s, i), popped = s->Rsp;
        // A fault in the rest must find the old stack pointer.
        s->Rsp = rsp;
        Access.Write(p, s, Implicit.Linear(p, s, Implicit.Segment(i), offset, sizeof(T), AccessKind.Write), value);
        s->Rsp = popped;
        return i + 1;
    }

    public static Insn* PushAll(Processor p, ProcessorState* s, Insn* i)
    {
        for (int n = 0; n < 8; n++) p.Mmu.CheckWrite(Stack.Linear(p, s, s->Rsp - (ulong)((n + 1) * sizeof(T)), sizeof(T), AccessKind.Write), sizeof(T));
        for (int n = 0; n < 8; n++) Stack.Store(p, s, -(n + 1) * sizeof(T), *(T*)ProcessorState.Gpr(s, n));
        Stack.Adjust(s, -8 * sizeof(T));
        return i + 1;
    }

    public static Insn* PopAll(Processor p, ProcessorState* s, Insn* i)
    {
        const int StackPointer = 4;
        // As on the silicon, a fault in the middle leaves the registers that were popped; the stack pointer is the old one, so the restart is exact.
        for (int n = 0; n < 8; n++)
        {
            T value = Stack.Peek<T>(p, s, n * sizeof(T));
            if (7 - n != StackPointer) Register.Set(s, (7 - n) * sizeof(ulong), value);
        }
        Stack.Adjust(s, 8 * sizeof(T));
        return i + 1;
    }

    public static Insn* Leave(Processor p, ProcessorState* s, Insn* i)
    {
        T value = Access.Read<T>(p, s, Stack.Linear(p, s, s->Rbp, sizeof(T), AccessKind.Read));
        Stack.SetPointer(s, s->Rbp + (ulong)sizeof(T));
        Register.Set(s, FramePointer(s), value);
        return i + 1;
    }

    /// <summary>ENTER size, level: builds a stack frame with a display of <c>level</c> frame pointers.</summary>
    public static Insn* Enter(Processor p, ProcessorState* s, Insn* i)
    {
        int level = (int)i->Extra & 31;
        uint size = (ushort)i->Imm;
        ulong mask = Stack.Mask(s);
        long top = -sizeof(T);
        // With a 16-bit stack the upper half of ESP stays.
        T frame = T.CreateTruncating((s->Rsp & ~mask) | ((s->Rsp - (ulong)sizeof(T)) & mask));

        // What is pushed before a fault stays in memory, as on the silicon; the registers change at the end.
        Stack.Store(p, s, top, *(T*)&s->Rbp);
        for (int n = 1; n < level; n++)
        {
            // One by one: the old display may lie where the new one is being pushed.
            T pointer = Access.Read<T>(p, s, Stack.Linear(p, s, s->Rbp - (ulong)(n * sizeof(T)), sizeof(T), AccessKind.Read));
            Stack.Store(p, s, top -= sizeof(T), pointer);
        }
        if (level > 0) Stack.Store(p, s, top -= sizeof(T), frame);
        ulong end = s->Rsp + (ulong)top - size;
        p.Mmu.CheckWrite(Stack.Linear(p, s, end, sizeof(T), AccessKind.Write), sizeof(T));
        Stack.SetPointer(s, end);
        Register.Set(s, FramePointer(s), frame);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static int FramePointer(ProcessorState* s) => (int)((byte*)&s->Rbp - (byte*)s);
}
