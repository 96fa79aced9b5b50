using System.Numerics;

namespace Bunraku.Processor.X86;

/// <summary>MOV, PUSH and POP of segment registers, LDS, LES, LFS, LGS, LSS. R0 or R1 is the segment register's number.</summary>
internal static unsafe class SegmentInstructions
{
    /// <summary>MOV r, Sreg: zero-extended to the operand size.</summary>
    public static Insn* MoveFromReg<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        Register.Set(s, i->R0, T.CreateTruncating(ProcessorState.Segment(s, (Seg)i->R1)->Selector));
        return i + 1;
    }

    public static Insn* MoveFromMem(Processor p, ProcessorState* s, Insn* i)
    {
        Access.Write(p, s, Access.Address(s, i), ProcessorState.Segment(s, (Seg)i->R0)->Selector);
        return i + 1;
    }

    public static Insn* MoveToReg(Processor p, ProcessorState* s, Insn* i) => Load(p, s, i, Register.Get<ushort>(s, i->R1));

    public static Insn* MoveToMem(Processor p, ProcessorState* s, Insn* i)
    {
        if ((Seg)i->R0 == Seg.Cs) throw p.InvalidOpcode();
        return Load(p, s, i, Access.Read<ushort>(p, s, Access.Address(s, i)));
    }

    private static Insn* Load(Processor p, ProcessorState* s, Insn* i, ushort selector)
    {
        var seg = (Seg)i->R0;
        if (seg == Seg.Cs) throw p.InvalidOpcode();
        p.Segments.LoadSegment(seg, selector);
        return Loaded(p, s, i, seg);
    }

    private static Insn* Loaded(Processor p, ProcessorState* s, Insn* i, Seg seg)
    {
        if (seg == Seg.Ss) p.Events.BeginInterruptShadow(i, movSs: true);
        p.ModeChanged();
        return Flow.Leave(s, i);
    }

    /// <summary>PUSH Sreg: the selector in a slot of the operand size.</summary>
    public static Insn* Push<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        ulong to = (s->Rsp - (ulong)sizeof(T)) & Stacks.Mask(s);
        ushort selector = ProcessorState.Segment(s, (Seg)i->R0)->Selector;
        if (sizeof(T) == 4 && !p.Model.Behavior.PushesWholeSegmentSlot) Access.Write(p, s, p.Segments.LinearAddress(Seg.Ss, to, 2, AccessKind.Write), selector);
        else Access.Write(p, s, p.Segments.LinearAddress(Seg.Ss, to, sizeof(T), AccessKind.Write), T.CreateTruncating(selector));
        Stacks.SetPointer(s, to);
        return i + 1;
    }

    public static Insn* Pop<T>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T>
    {
        var stack = new StackReader(p);
        var selector = p.Model.Behavior.PopsWholeSegmentSlot ? ushort.CreateTruncating(stack.Pop<T>()) : stack.PopSelector(sizeof(T));
        ulong mask = Stacks.Mask(s);
        p.Segments.LoadSegment((Seg)i->R0, selector);
        // The width of the stack pointer is that before a new SS.
        s->Rsp = mask == ushort.MaxValue ? s->Rsp & ~mask | stack.Pointer & mask : stack.Pointer;
        return Loaded(p, s, i, (Seg)i->R0);
    }

    /// <summary>LDS, LES, LFS, LGS, LSS with an offset as wide as <typeparamref name="T"/>; Extra is not used, the code says which register.</summary>
    public static Insn* LoadFar<T, TSeg>(Processor p, ProcessorState* s, Insn* i) where T : unmanaged, IBinaryInteger<T> where TSeg : struct, ISegmentNumber
    {
        ulong address = Access.Address(s, i);
        p.Mmu.CheckStructure(address, sizeof(T) + sizeof(ushort));
        T offset = Access.Read<T>(p, s, address);
        ushort selector = Access.Read<ushort>(p, s, address + (ulong)sizeof(T));
        p.Segments.LoadSegment(TSeg.Number, selector);
        Register.Set(s, i->R0, offset);
        p.ModeChanged();
        return Flow.Leave(s, i);
    }
}

/// <summary>A segment register as a type argument.</summary>
internal interface ISegmentNumber
{
    static abstract Seg Number { get; }
}

internal readonly struct EsNumber : ISegmentNumber { public static Seg Number => Seg.Es; }
internal readonly struct SsNumber : ISegmentNumber { public static Seg Number => Seg.Ss; }
internal readonly struct DsNumber : ISegmentNumber { public static Seg Number => Seg.Ds; }
internal readonly struct FsNumber : ISegmentNumber { public static Seg Number => Seg.Fs; }
internal readonly struct GsNumber : ISegmentNumber { public static Seg Number => Seg.Gs; }
