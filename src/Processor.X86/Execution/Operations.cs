namespace Bunraku.Processor.X86;

/// <summary>Handlers that belong to no instruction: block ends, stubs, exceptions known at decode time, segmentation micro-operations.</summary>
internal static unsafe class Operations
{
    /// <summary>The end of a block that runs into the next instruction; Imm is the distance from the block's start.</summary>
    public static Insn* EndOfBlock(Processor p, ProcessorState* s, Insn* i)
    {
        // Nothing retires here: Ordinal already counts all instructions, and Direct adds one more.
        s->Retired--;
        return Flow.Direct(s, i, i);
    }

    /// <summary>Stands where code was that has changed: look it up anew.</summary>
    public static Insn* Resync(Processor p, ProcessorState* s, Insn* i) => Flow.Again(s, i);

    public static Insn* RaiseUd(Processor p, ProcessorState* s, Insn* i) => throw p.InvalidOpcode();

    public static Insn* RaiseNm(Processor p, ProcessorState* s, Insn* i) => throw p.Fault(Vector.Nm);

    public static Insn* RaiseGp0(Processor p, ProcessorState* s, Insn* i) => throw p.GeneralProtection();

    /// <summary>
    /// Segmentation of the memory operand of the operation that follows: R0 = segment, R1 = size in bytes, R2 = <see cref="AccessKind"/>,
    /// R3 = 1 for x87 and MMX instructions that a pending exception stops before their operand is looked at.
    /// </summary>
    public static Insn* Segmentation(Processor p, ProcessorState* s, Insn* i)
    {
        if (i->R3 != 0) X87.CheckPending(p, s);
        s->PreparedAddress = p.Segments.LinearAddress((Seg)i->R0, Access.EffectiveAddress(s, i), i->R1, (AccessKind)i->R2);
        return i + 1;
    }
}
