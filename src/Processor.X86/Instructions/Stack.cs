using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// The stack in every mode: RSP in 64-bit mode, else ESP or SP by SS.B, through SS with its base and limit. Push and Pop change the stack pointer only when the
/// access has succeeded. Instructions of several accesses use
/// <see cref="Store{T}"/> and <see cref="Peek{T}"/>, which leave it alone, and <see cref="Adjust"/> at the end.
/// </summary>
internal static unsafe class Stack
{
    /// <summary>All ones in the bits of the stack pointer in use.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Mask(ProcessorState* s) =>
        (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? ulong.MaxValue : (s->Mode & ModeKey.Stack32) != 0 ? 0xFFFF_FFFF : 0xFFFF;

    /// <summary>Offset of the top of the stack in SS.</summary>
    public static ulong Pointer(ProcessorState* s) => s->Rsp & Mask(s);

    /// <summary>Replaces RSP, ESP (the upper half becomes zero) or SP (the rest stays).</summary>
    public static void SetPointer(ProcessorState* s, ulong value)
    {
        if ((s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64) s->Rsp = value;
        else if ((s->Mode & ModeKey.Stack32) != 0) s->Rsp = (uint)value;
        else *(ushort*)&s->Rsp = (ushort)value;
    }

    /// <summary>Adds <paramref name="delta"/> bytes to the stack pointer.</summary>
    public static void Adjust(ProcessorState* s, long delta) => SetPointer(s, s->Rsp + (ulong)delta);

    /// <summary>Pushes one value.</summary>
    /// <exception cref="GuestFault">#SS(0), #PF, #AC; nothing has changed then.</exception>
    public static void Push<T>(Processor p, ProcessorState* s, T value) where T : unmanaged
    {
        Store(p, s, -sizeof(T), value);
        Adjust(s, -sizeof(T));
    }

    /// <summary>Pops one value.</summary>
    public static T Pop<T>(Processor p, ProcessorState* s) where T : unmanaged
    {
        T value = Peek<T>(p, s, 0);
        Adjust(s, sizeof(T));
        return value;
    }

    /// <summary>Reads at <paramref name="offset"/> bytes from the top of the stack; the stack pointer stays.</summary>
    public static T Peek<T>(Processor p, ProcessorState* s, long offset) where T : unmanaged =>
        Access.Read<T>(p, s, Linear(p, s, s->Rsp + (ulong)offset, sizeof(T), AccessKind.Read));

    /// <summary>Writes at <paramref name="offset"/> bytes (negative: not yet on the stack) from the top; the stack pointer stays.</summary>
    public static void Store<T>(Processor p, ProcessorState* s, long offset, T value) where T : unmanaged =>
        Access.Write(p, s, Linear(p, s, s->Rsp + (ulong)offset, sizeof(T), AccessKind.Write), value);

    /// <summary>
    /// Raises whatever storing <paramref name="length"/> bytes below the top would raise, so that a push of several values is all or nothing.
    /// </summary>
    public static void CheckPush(Processor p, ProcessorState* s, int length) =>
        p.Mmu.CheckWrite(Linear(p, s, s->Rsp - (ulong)length, length, AccessKind.Write), length);

    /// <summary>Linear address of <paramref name="size"/> bytes at <paramref name="pointer"/>, which is truncated to the stack size here.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Linear(Processor p, ProcessorState* s, ulong pointer, int size, AccessKind kind)
    {
        ulong mask = Mask(s);
        // In 64-bit mode only this check knows that a non-canonical address is the stack's: #SS instead of #GP.
        return mask == ulong.MaxValue ? p.Segments.LinearAddress(Seg.Ss, pointer, size, kind) : Implicit.Linear(p, s, Seg.Ss, pointer & mask, size, kind);
    }
}
