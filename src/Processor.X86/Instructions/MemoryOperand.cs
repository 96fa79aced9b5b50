using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>What an instruction does with the value of its memory operand once it is read; it cannot fault any more.</summary>
internal unsafe interface IUse<T> where T : unmanaged
{
    static abstract void Use(ProcessorState* s, Insn* i, T value);
}

/// <summary>
/// The frequent handlers that read memory once. The miss is a call in tail position, so that the hit runs without a stack frame: saving and
/// restoring registers around it costs as much as the access.
/// </summary>
internal static unsafe class Load<TUse, T> where TUse : struct, IUse<T> where T : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* Run(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        if (!Access.TryRead(s, address, out T value)) return Miss(p, s, i, address);
        TUse.Use(s, i, value);
        return i + 1;
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* Miss(Processor p, ProcessorState* s, Insn* i, ulong address)
    {
        if (!p.Mmu.TryReadSlow(address, out T value)) return p.Exits.LeaveForExit(i);
        TUse.Use(s, i, value);
        return i + 1;
    }
}

/// <summary>The frequent handlers that write memory once and do nothing else; see <see cref="Load{TUse,T}"/>.</summary>
internal static unsafe class Store<T> where T : unmanaged
{
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Insn* Run(Processor p, ProcessorState* s, Insn* i, T value)
    {
        ulong address = Access.Address(s, i);
        return Access.TryWrite(s, address, value) ? i + 1 : Miss(p, i, address, value);
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static Insn* Miss(Processor p, Insn* i, ulong address, T value)
    {
        p.Mmu.WriteSlow(address, value);
        return i + 1;
    }
}
