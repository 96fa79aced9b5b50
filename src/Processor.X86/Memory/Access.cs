using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// Memory operands. The fast path is a direct-mapped lookup in the software TLB: an entry's tag holds the page and the context
/// (address space, privilege, permissions in force), so one comparison decides; the last byte's page is compared, so that
/// an access across pages never matches. Everything else goes to the Slow methods of <see cref="Processor"/>.
/// </summary>
internal static unsafe class Access
{
    private const ulong PageMask = ~0xFFFul;

    /// <summary>Linear address of the instruction's memory operand.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong Address(ProcessorState* s, Insn* i) =>
        ((*(ulong*)((byte*)s + i->Base) + (*(ulong*)((byte*)s + i->Index) << i->Scale) + (ulong)i->Disp) & i->AddressMask)
        + *(ulong*)((byte*)s + i->SegmentBase);

    /// <summary>The offset part of the memory operand (LEA, MPX-like uses).</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static ulong EffectiveAddress(ProcessorState* s, Insn* i) =>
        (*(ulong*)((byte*)s + i->Base) + (*(ulong*)((byte*)s + i->Index) << i->Scale) + (ulong)i->Disp) & i->AddressMask;

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static TlbEntry* Entry(ProcessorState* s, ulong address) =>
        (TlbEntry*)(s->TlbBytes + ((address >> 7) & ((ProcessorState.TlbSize - 1) << 5)));

    /// <summary>Reads a value of 1, 2, 4 or 8 bytes at a linear address with the current privilege.</summary>
    /// <exception cref="GuestFault">#PF, #GP, #SS, #AC as the access requires.</exception>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T Read<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        if (e->ReadTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
            return Unsafe.ReadUnaligned<T>((byte*)address + e->Addend);
        return p.Mmu.ReadSlow<T>(address);
    }

    /// <summary>Writes a value of 1, 2, 4 or 8 bytes at a linear address with the current privilege.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Write<T>(Processor p, ProcessorState* s, ulong address, T value) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        if (e->WriteTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
            Unsafe.WriteUnaligned((byte*)address + e->Addend, value);
        else
            p.Mmu.WriteSlow(address, value);
    }

    /// <summary>The fast path of <see cref="Read{T}"/> alone. A handler that leaves the rest to a method called last needs no frame of its own.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryRead<T>(ProcessorState* s, ulong address, out T value) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        if (e->ReadTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
        {
            value = Unsafe.ReadUnaligned<T>((byte*)address + e->Addend);
            return true;
        }
        Unsafe.SkipInit(out value);
        return false;
    }

    /// <summary>The fast path of <see cref="Write{T}"/> alone; see <see cref="TryRead{T}"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool TryWrite<T>(ProcessorState* s, ulong address, T value) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        if (e->WriteTag != (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext)) return false;
        Unsafe.WriteUnaligned((byte*)address + e->Addend, value);
        return true;
    }

    /// <summary>
    /// Reads a value that the instruction is going to write back (read-modify-write): every check of the write happens now,
    /// so that the <see cref="Write{T}"/> that must follow cannot fault.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T ReadForWrite<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        if (e->WriteTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
            return Unsafe.ReadUnaligned<T>((byte*)address + e->Addend);
        return p.Mmu.ReadForWriteSlow<T>(address);
    }

    /// <summary>
    /// <see cref="Read{T}"/> for handlers that return <see cref="Exits.LeaveForExit"/> when this is false: a device must be asked first. Nothing may have
    /// changed yet.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool ReadOrLeave<T>(Processor p, ProcessorState* s, ulong address, out T value) where T : unmanaged
    {
        if (TryRead(s, address, out value)) return true;
        bool done = p.Mmu.TryReadSlow(address, out T slow); // another variable: the handler's own stays in a register
        value = slow;
        return done;
    }

    /// <summary><see cref="ReadForWrite{T}"/> in the manner of <see cref="ReadOrLeave{T}"/>.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static bool ReadForWriteOrLeave<T>(Processor p, ProcessorState* s, ulong address, out T value) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        if (e->WriteTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext))
        {
            value = Unsafe.ReadUnaligned<T>((byte*)address + e->Addend);
            return true;
        }
        bool done = p.Mmu.TryReadForWriteSlow(address, out T slow);
        value = slow;
        return done;
    }

    /// <summary>
    /// Host pointer for a locked read-modify-write, all write checks done: in RAM, within a page, aligned or not, since the host's own locked instructions are
    /// atomic at any address. After the operation <see cref="Atomics.After"/> must be called. Null when the operand is in two pages or not in RAM, or in two
    /// cache lines where the host minds (<see cref="HostLocks"/>): then the caller uses
    /// ReadForWrite and Write between <see cref="ProcessorGroup.LockBus"/> and <see cref="ProcessorGroup.UnlockBus"/>.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static T* PointerForAtomic<T>(Processor p, ProcessorState* s, ulong address) where T : unmanaged
    {
        TlbEntry* e = Entry(s, address);
        return e->WriteTag == (((address + (ulong)(sizeof(T) - 1)) & PageMask) | s->TlbContext) && !HostLocks.MustNot(address, sizeof(T))
            ? (T*)((byte*)address + e->Addend)
            : (T*)p.Atomics.Pointer<T>(address);
    }
}
