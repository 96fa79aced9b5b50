using System.Numerics;
using System.Runtime.CompilerServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// MOVS, STOS, LODS, SCAS and CMPS in one width with every address size and prefix. Registers always show the completed iterations, so that a
/// fault in the middle or an interruption restarts exactly there. Repeated moves and stores go page by page.
/// </summary>
internal static unsafe class Strings<T> where T : unmanaged, IBinaryInteger<T>
{
    private const InsnFlags AnyRepeat = InsnFlags.Rep | InsnFlags.Repne;

    public static Insn* Movs(Processor p, ProcessorState* s, Insn* i)
    {
        ulong mask = Implicit.AddressMask(i);
        SourcePage source = default;
        if ((i->Flags & AnyRepeat) == 0) return MoveOne(p, s, i, mask, ref source) ? i + 1 : p.Exits.LeaveForExit(i);
        while ((s->Rcx & mask) != 0)
        {
            int count = (s->FlagsOther & (uint)Rflags.Tf) == 0 ? MoveRun(s, i, mask, ref source) : 0;
            if (count == 0)
            {
                if (!MoveOne(p, s, i, mask, ref source)) return p.Exits.LeaveForExit(i);
                count = 1;
            }
            StringRegisters.Consume(s, mask, count);
            if ((s->Rcx & mask) != 0 && StringRegisters.Pauses(p, s)) return Flow.Again(s, i);
        }
        return i + 1;
    }

    /// <summary>
    /// The page that a move reads, as the TLB had it. Source and destination may want the same place in the TLB; then each lookup evicts the other, and
    /// without this every element would walk the page tables twice. Kept only while one instruction goes on, as a processor may keep any translation.
    /// </summary>
    private readonly record struct SourcePage(ulong Tag, nint Addend, bool Valid);

    /// <summary>Moves one element. False: the source is a device's, which must be asked first.</summary>
    /// <param name="page">The source's page where it is memory.</param>
    private static bool MoveOne(Processor p, ProcessorState* s, Insn* i, ulong mask, ref SourcePage page)
    {
        ulong from = Implicit.Linear(p, s, Implicit.Segment(i), s->Rsi & mask, sizeof(T), AccessKind.Read);
        if (!Access.ReadOrLeave(p, s, from, out T value)) return false;
        TlbEntry* read = Access.Entry(s, from);
        page = new(read->ReadTag, read->Addend, Valid: read->ReadTag == (StringRegisters.Page(from) | s->TlbContext));
        Access.Write(p, s, Implicit.Linear(p, s, Seg.Es, s->Rdi & mask, sizeof(T), AccessKind.Write), value);
        StringRegisters.Advance(&s->Rsi, mask, s->Direction * sizeof(T));
        StringRegisters.Advance(&s->Rdi, mask, s->Direction * sizeof(T));
        return true;
    }

    /// <summary>Moves as many elements as both pages hold when both are in the TLB, and returns how many; 0 when the slow way must be taken.</summary>
    /// <param name="kept">Serves for the source when the TLB has it no more.</param>
    private static int MoveRun(ProcessorState* s, Insn* i, ulong mask, ref SourcePage kept)
    {
        Seg segment = Implicit.Segment(i);
        if (segment >= Seg.Fs || !Implicit.IsFlat(s)) return 0;
        ulong source = s->Rsi & mask, destination = s->Rdi & mask;
        TlbEntry* read = Access.Entry(s, source), write = Access.Entry(s, destination);
        ulong readTag = StringRegisters.Page(source) | s->TlbContext;
        if (read->ReadTag == readTag) kept = new(readTag, read->Addend, Valid: true);
        else if (!kept.Valid || kept.Tag != readTag) return 0;
        if (write->WriteTag != (StringRegisters.Page(destination) | s->TlbContext)) return 0;
        int count = StringRegisters.Room(source, s->Direction, sizeof(T));
        count = Math.Min(count, StringRegisters.Room(destination, s->Direction, sizeof(T)));
        count = (int)Math.Min((ulong)count, s->Rcx & mask);
        if (count == 0) return 0;
        byte* from = (byte*)source + kept.Addend, to = (byte*)destination + write->Addend;
        int bytes = count * sizeof(T);
        if (s->Direction > 0)
        {
            // Elements move one after another, lowest first: a destination inside the source repeats what was just written.
            if (to > from && to < from + bytes)
            {
                for (int n = 0; n < count; n++) Unsafe.WriteUnaligned(to + n * sizeof(T), Unsafe.ReadUnaligned<T>(from + n * sizeof(T)));
            }
            else
            {
                Buffer.MemoryCopy(from, to, bytes, bytes);
            }
        }
        else
        {
            byte* lowFrom = from + sizeof(T) - bytes, lowTo = to + sizeof(T) - bytes;
            if (lowTo < lowFrom && lowTo + bytes > lowFrom)
            {
                for (int n = 0; n < count; n++) Unsafe.WriteUnaligned(to - n * sizeof(T), Unsafe.ReadUnaligned<T>(from - n * sizeof(T)));
            }
            else
            {
                Buffer.MemoryCopy(lowFrom, lowTo, bytes, bytes);
            }
        }
        StringRegisters.Advance(&s->Rsi, mask, (long)s->Direction * bytes);
        StringRegisters.Advance(&s->Rdi, mask, (long)s->Direction * bytes);
        return count;
    }

    public static Insn* Stos(Processor p, ProcessorState* s, Insn* i)
    {
        ulong mask = Implicit.AddressMask(i);
        if ((i->Flags & AnyRepeat) == 0)
        {
            StoreOne(p, s, mask);
            return i + 1;
        }
        while ((s->Rcx & mask) != 0)
        {
            int count = (s->FlagsOther & (uint)Rflags.Tf) == 0 ? StoreRun(s, mask) : 0;
            if (count == 0)
            {
                StoreOne(p, s, mask);
                count = 1;
            }
            StringRegisters.Consume(s, mask, count);
            if ((s->Rcx & mask) != 0 && StringRegisters.Pauses(p, s)) return Flow.Again(s, i);
        }
        return i + 1;
    }

    private static void StoreOne(Processor p, ProcessorState* s, ulong mask)
    {
        Access.Write(p, s, Implicit.Linear(p, s, Seg.Es, s->Rdi & mask, sizeof(T), AccessKind.Write), *(T*)&s->Rax);
        StringRegisters.Advance(&s->Rdi, mask, s->Direction * sizeof(T));
    }

    private static int StoreRun(ProcessorState* s, ulong mask)
    {
        if (!Implicit.IsFlat(s)) return 0;
        ulong destination = s->Rdi & mask;
        TlbEntry* write = Access.Entry(s, destination);
        if (write->WriteTag != (StringRegisters.Page(destination) | s->TlbContext)) return 0;
        int count = (int)Math.Min((ulong)StringRegisters.Room(destination, s->Direction, sizeof(T)), s->Rcx & mask);
        if (count == 0) return 0;
        byte* to = (byte*)destination + write->Addend;
        int bytes = count * sizeof(T);
        new Span<T>(s->Direction > 0 ? to : to + sizeof(T) - bytes, count).Fill(*(T*)&s->Rax);
        StringRegisters.Advance(&s->Rdi, mask, (long)s->Direction * bytes);
        return count;
    }

    public static Insn* Lods(Processor p, ProcessorState* s, Insn* i)
    {
        ulong mask = Implicit.AddressMask(i);
        bool repeats = (i->Flags & AnyRepeat) != 0;
        if (repeats && (s->Rcx & mask) == 0) return i + 1;
        while (true)
        {
            if (!Access.ReadOrLeave(p, s, Implicit.Linear(p, s, Implicit.Segment(i), s->Rsi & mask, sizeof(T), AccessKind.Read), out T value))
                return p.Exits.LeaveForExit(i);
            Register.Set(s, 0, value);
            StringRegisters.Advance(&s->Rsi, mask, s->Direction * sizeof(T));
            if (!repeats) return i + 1;
            StringRegisters.Consume(s, mask, 1);
            if ((s->Rcx & mask) == 0) return i + 1;
            if (StringRegisters.Pauses(p, s)) return Flow.Again(s, i);
        }
    }

    public static Insn* Scas(Processor p, ProcessorState* s, Insn* i)
    {
        ulong mask = Implicit.AddressMask(i);
        bool repeats = (i->Flags & AnyRepeat) != 0, whileEqual = (i->Flags & InsnFlags.Repne) == 0;
        if (repeats && (s->Rcx & mask) == 0) return i + 1;
        while (true)
        {
            if (!Access.ReadOrLeave(p, s, Implicit.Linear(p, s, Seg.Es, s->Rdi & mask, sizeof(T), AccessKind.Read), out T value))
                return p.Exits.LeaveForExit(i);
            SubOperation.Apply(s, *(T*)&s->Rax, value);
            StringRegisters.Advance(&s->Rdi, mask, s->Direction * sizeof(T));
            if (!repeats) return i + 1;
            StringRegisters.Consume(s, mask, 1);
            if ((s->Rcx & mask) == 0 || Flags.Zf(s) != whileEqual) return i + 1;
            if (StringRegisters.Pauses(p, s)) return Flow.Again(s, i);
        }
    }

    public static Insn* Cmps(Processor p, ProcessorState* s, Insn* i)
    {
        ulong mask = Implicit.AddressMask(i);
        bool repeats = (i->Flags & AnyRepeat) != 0, whileEqual = (i->Flags & InsnFlags.Repne) == 0;
        if (repeats && (s->Rcx & mask) == 0) return i + 1;
        while (true)
        {
            if (!Access.ReadOrLeave(p, s, Implicit.Linear(p, s, Implicit.Segment(i), s->Rsi & mask, sizeof(T), AccessKind.Read), out T first))
                return p.Exits.LeaveForExit(i);
            if (!Access.ReadOrLeave(p, s, Implicit.Linear(p, s, Seg.Es, s->Rdi & mask, sizeof(T), AccessKind.Read), out T second))
                return p.Exits.LeaveForExit(i);
            SubOperation.Apply(s, first, second);
            StringRegisters.Advance(&s->Rsi, mask, s->Direction * sizeof(T));
            StringRegisters.Advance(&s->Rdi, mask, s->Direction * sizeof(T));
            if (!repeats) return i + 1;
            StringRegisters.Consume(s, mask, 1);
            if ((s->Rcx & mask) == 0 || Flags.Zf(s) != whileEqual) return i + 1;
            if (StringRegisters.Pauses(p, s)) return Flow.Again(s, i);
        }
    }
}

/// <summary>SI, DI and CX of string instructions, which have the address size.</summary>
internal static unsafe class StringRegisters
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Page(ulong address) => address & ~0xFFFul;

    /// <summary>
    /// Elements of <paramref name="size"/> bytes that fit into the page of <paramref name="address"/> from there in the direction; the first may cross.
    /// </summary>
    public static int Room(ulong address, int direction, int size)
    {
        int offset = (int)address & 0xFFF;
        if (direction > 0) return ((int)GuestMemory.PageSize - offset) / size;
        // Downwards: the first element must not reach into the next page; the last must begin inside this one.
        return offset + size > (int)GuestMemory.PageSize ? 0 : offset / size + 1;
    }

    /// <summary>Adds to a register in the address size; a 32-bit one clears the upper half.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Advance(ulong* register, ulong mask, long delta)
    {
        ulong value = *register + (ulong)delta;
        if (mask == 0xFFFF) *(ushort*)register = (ushort)value;
        else *register = value & mask;
    }

    /// <summary>
    /// A repeated instruction with iterations left goes back to the dispatcher: something wants attention, TF traps after each iteration, or the
    /// iteration read from MMIO.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool Pauses(Processor p, ProcessorState* s)
    {
        if (s->AttentionFlags == 0 && (s->FlagsOther & (uint)Rflags.Tf) == 0 && !p.Mmio.Replaying) return false;
        // One iteration is enough to end a shadow: interrupts need not wait for all of them.
        p.Events.InterruptShadow = false;
        return true;
    }

    /// <summary>Takes completed iterations off CX, ECX or RCX.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Consume(ProcessorState* s, ulong mask, int count) => Advance(&s->Rcx, mask, -count);
}
