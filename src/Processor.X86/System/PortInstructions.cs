using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>IN, OUT, INS, OUTS. Intel SDM vol. 1, "Input/Output", section "Protected-Mode I/O".</summary>
internal static unsafe class PortInstructions
{
    public static Insn* InImmediate<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> => In<T>(p, s, i, (byte)i->Imm);

    public static Insn* InDx<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> => In<T>(p, s, i, (ushort)s->Rdx);

    private static Insn* In<T>(Processor p, ProcessorState* s, Insn* i, ushort port) where T : unmanaged, IBinaryInteger<T>
    {
        if (!p.Exits.TakeCompletion(i, ExitReason.Io))
        {
            CheckPort(p, s, port, sizeof(T));
            return p.Exits.ExitForCompletion(i, ExitReason.Io, port, sizeof(T));
        }
        Register.Set(s, i->R0, T.CreateTruncating(p.Exit.Data));
        p.Debug.PortAccessed(port, sizeof(T));
        return Flow.Leave(s, i);
    }

    public static Insn* OutImmediate<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> => Out<T>(p, s, i, (byte)i->Imm);

    public static Insn* OutDx<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> => Out<T>(p, s, i, (ushort)s->Rdx);

    private static Insn* Out<T>(Processor p, ProcessorState* s, Insn* i, ushort port) where T : unmanaged, IBinaryInteger<T>
    {
        CheckPort(p, s, port, sizeof(T));
        if (p.Exits.MustExitFirst) return p.Exits.LeaveForExit(i);
        p.Exits.RequestExit(ExitReason.Io, port, sizeof(T), isWrite: true, data: ulong.CreateTruncating(*(T*)&s->Rax));
        p.Debug.PortAccessed(port, sizeof(T));
        return Flow.Leave(s, i);
    }

    private static ulong AddressMask(Insn* i) =>
        (i->Flags & InsnFlags.Address16) != 0 ? 0xFFFF : (i->Flags & InsnFlags.Address32) != 0 ? 0xFFFF_FFFF : ulong.MaxValue;

    private static bool IsRepeated(Insn* i) => (i->Flags & (InsnFlags.Rep | InsnFlags.Repne)) != 0;

    /// <summary>Adds the element size to an index register, in the bits of the address size.</summary>
    private static void Advance(ProcessorState* s, ulong* register, ulong mask, long step)
    {
        ulong next = (*register + (ulong)(step * s->Direction)) & mask;
        *register = mask == 0xFFFF ? *register & ~mask | next : next;
    }

    /// <summary>After one element: RCX counts down; the instruction goes on until it is 0.</summary>
    private static Insn* Next(Processor p, ProcessorState* s, Insn* i, ulong mask)
    {
        if (!IsRepeated(i)) return Flow.Leave(s, i);
        ulong count = (s->Rcx - 1) & mask;
        s->Rcx = mask == 0xFFFF ? s->Rcx & ~mask | count : count;
        return count == 0 ? Flow.Leave(s, i) : Flow.Again(s, i);
    }

    private static bool IsDone(ProcessorState* s, Insn* i, ulong mask) => IsRepeated(i) && (s->Rcx & mask) == 0;

    /// <summary>INS: one element for each execution; the read exits and the element is stored when the answer is there.</summary>
    public static Insn* Ins<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong mask = AddressMask(i);
        var port = (ushort)s->Rdx;
        bool completed = p.Exits.TakeCompletion(i, ExitReason.Io);
        // The permission comes first, even if there is nothing to do.
        if (!completed) CheckPort(p, s, port, sizeof(T));
        if (IsDone(s, i, mask)) return Flow.Leave(s, i);
        ulong address = p.Segments.LinearAddress(Seg.Es, s->Rdi & mask, sizeof(T), AccessKind.Write);
        // Everything that can fault comes before the device is asked, which may change by it.
        if (!completed)
        {
            p.Mmu.CheckWrite(address, sizeof(T));
            return p.Exits.ExitForCompletion(i, ExitReason.Io, port, sizeof(T));
        }
        try
        {
            Access.Write(p, s, address, T.CreateTruncating(p.Exit.Data));
        }
        catch (ExitRequest)
        {
            p.Exits.KeepAnswer();
            throw;
        }
        p.Debug.PortAccessed(port, sizeof(T));
        Advance(s, &s->Rdi, mask, sizeof(T));
        return Next(p, s, i, mask);
    }

    /// <summary>OUTS: one element and one trap-like exit for each execution.</summary>
    public static Insn* Outs<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong mask = AddressMask(i);
        var port = (ushort)s->Rdx;
        CheckPort(p, s, port, sizeof(T));
        if (IsDone(s, i, mask)) return Flow.Leave(s, i);
        var segment = (Seg)((int)(i->Flags & InsnFlags.SegmentMask) / (int)InsnFlags.SegmentShift9);
        if (!Access.ReadOrLeave(p, s, p.Segments.LinearAddress(segment, s->Rsi & mask, sizeof(T), AccessKind.Read), out T value) || p.Exits.MustExitFirst)
            return p.Exits.LeaveForExit(i);
        p.Exits.RequestExit(ExitReason.Io, port, sizeof(T), isWrite: true, data: ulong.CreateTruncating(value));
        p.Debug.PortAccessed(port, sizeof(T));
        Advance(s, &s->Rsi, mask, sizeof(T));
        return Next(p, s, i, mask);
    }

    /// <summary>#GP(0) unless CPL is within IOPL or the I/O permission bitmap of the TSS allows all of the access.</summary>
    public static void CheckPort(Processor p, ProcessorState* s, ushort port, int size)
    {
        if ((s->Cr0 & (ulong)Cr0.Pe) == 0) return;
        bool virtual8086 = CpuMode.IsVirtual8086(s);
        if (!virtual8086 && s->Cpl <= ((int)(s->FlagsOther >> 12) & 3)) return;
        // A 16-bit TSS has no bitmap.
        if (s->Tr.IsUnusable || (s->Tr.Type & 8) == 0 || s->Tr.Limit < 103) throw p.GeneralProtection();
        uint at = p.Mmu.ReadSystem<ushort>(s->Tr.Base + 102) + port / 8u;
        // Two bytes are always read, so the bitmap ends with one more byte of ones.
        if (at + 1 > s->Tr.Limit) throw p.GeneralProtection();
        uint bits = p.Mmu.ReadSystem<ushort>(s->Tr.Base + at);
        if ((bits >> (port & 7) & ((1u << size) - 1)) != 0) throw p.GeneralProtection();
    }
}
