namespace Bunraku.Processor.X86;

/// <summary>Pushes onto the current stack or one that is about to become current, without touching a register.</summary>
/// <param name="segment">The stack segment for limit checks, valid as long as this lives; null for a flat 64-bit stack.</param>
/// <param name="mask">Bits of the stack pointer: 16, 32 or 64 ones.</param>
/// <param name="supervisor">Write with supervisor privilege: the stack is that of an inner level.</param>
/// <param name="faultCode">Error code of #SS.</param>
internal unsafe struct StackWriter(Processor p, SegmentRegister* segment, ulong pointer, ulong mask, bool supervisor, uint faultCode)
{
    public ulong Pointer = pointer & mask;

    public void Push(bool wide, uint value)
    {
        if (wide) PushValue(value);
        else PushValue((ushort)value);
    }

    public void Push16(ushort value) => PushValue(value);

    public void Push64(ulong value) => PushValue(value);

    public void PushValue<T>(T value) where T : unmanaged
    {
        ulong to = (Pointer - (ulong)sizeof(T)) & mask;
        ulong linear;
        if (segment == null)
        {
            if (!p.IsCanonical(to) || !p.IsCanonical(to + (ulong)sizeof(T) - 1)) throw p.Fault(Vector.Ss, faultCode);
            linear = to;
        }
        else
        {
            if (segment->IsUnusable || !p.Segments.WithinLimit(segment, to, sizeof(T))) throw p.Fault(Vector.Ss, faultCode);
            linear = (uint)(segment->Base + to);
        }
        if (supervisor) p.Mmu.WriteSystem(linear, value);
        else Access.Write(p, p.State, linear, value);
        Pointer = to;
    }

    /// <summary>Makes the pointer that of the current stack.</summary>
    public readonly void Commit() => Stacks.SetPointer(p.State, Pointer);
}

/// <summary>Pops from the current stack without moving its pointer.</summary>
internal unsafe struct StackReader(Processor p)
{
    private ulong _pointer = p.State->Rsp & Stacks.Mask(p.State);

    public readonly ulong Pointer => _pointer;

    /// <summary>Raises #SS(0) unless all of <paramref name="count"/> values lie in the stack segment: known before the first one is read.</summary>
    public readonly void Expect<T>(int count) where T : unmanaged
    {
        ulong mask = Stacks.Mask(p.State);
        if (mask == ulong.MaxValue) p.Segments.LinearAddress(Seg.Ss, _pointer, count * sizeof(T), AccessKind.Read);
        else for (int n = 0; n < count; n++) p.Segments.LinearAddress(Seg.Ss, (_pointer + (ulong)(n * sizeof(T))) & mask, sizeof(T), AccessKind.Read);
    }

    /// <exception cref="GuestFault">#SS(0), #PF.</exception>
    public T Pop<T>() where T : unmanaged
    {
        ulong linear = p.Segments.LinearAddress(Seg.Ss, _pointer, sizeof(T), AccessKind.Read);
        T value = Access.Read<T>(p, p.State, linear);
        Skip((ulong)sizeof(T));
        return value;
    }

    /// <summary>A selector out of a slot of <paramref name="slot"/> bytes, of which the others are not read.</summary>
    /// <exception cref="GuestFault">#SS(0), #PF.</exception>
    public ushort PopSelector(int slot)
    {
        ulong linear = p.Segments.LinearAddress(Seg.Ss, _pointer, sizeof(ushort), AccessKind.Read);
        ushort value = Access.Read<ushort>(p, p.State, linear);
        Skip((ulong)slot);
        return value;
    }

    public void Skip(ulong bytes) => _pointer = (_pointer + bytes) & Stacks.Mask(p.State);
}

/// <summary>Rules of the stack pointer.</summary>
internal static unsafe class Stacks
{
    /// <summary>Bits of the stack pointer in force.</summary>
    public static ulong Mask(ProcessorState* s) => CpuMode.Is64Bit(s) ? ulong.MaxValue : Mask(&s->Ss);

    public static ulong Mask(SegmentRegister* ss) => ss->Default32 ? uint.MaxValue : ushort.MaxValue;

    /// <summary>Writes RSP, ESP or SP as the current stack segment's size says.</summary>
    public static void SetPointer(ProcessorState* s, ulong value)
    {
        ulong mask = Mask(s);
        s->Rsp = mask == ushort.MaxValue ? s->Rsp & ~mask | value & mask : value & mask;
    }
}
