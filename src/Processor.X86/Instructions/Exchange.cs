using System.Numerics;
using System.Runtime.CompilerServices;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>XCHG, XADD and CMPXCHG in one width. XCHG with memory is always atomic.</summary>
internal static unsafe class Exchange<T> where T : unmanaged, IBinaryInteger<T>
{
    public static Insn* XchgRegReg(Processor p, ProcessorState* s, Insn* i)
    {
        T a = Register.Get<T>(s, i->R0), b = Register.Get<T>(s, i->R1);
        Register.Set(s, i->R0, b);
        Register.Set(s, i->R1, a);
        return i + 1;
    }

    public static Insn* XchgMem(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        T* target = Access.PointerForAtomic<T>(p, s, address);
        if (target == null)
        {
            Register.Set(s, i->R0, Atomic<Replace, T>.Run(p, s, i, address));
            return i + 1;
        }
        T old = Interlocked.Exchange(ref *target, Register.Get<T>(s, i->R0));
        p.Atomics.After<T>();
        Register.Set(s, i->R0, old);
        return i + 1;
    }

    private readonly struct Replace : IAtomicChange<T>
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => Register.Get<T>(s, i->R0);
    }

    public static Insn* XaddRegReg(Processor p, ProcessorState* s, Insn* i)
    {
        T a = Register.Get<T>(s, i->R0);
        T sum = AddOperation.Apply(s, a, Register.Get<T>(s, i->R1));
        // The source first: with twice the same register the sum stays.
        Register.Set(s, i->R1, a);
        Register.Set(s, i->R0, sum);
        return i + 1;
    }

    public static Insn* XaddMem(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        T a = Access.ReadForWrite<T>(p, s, address);
        Access.Write(p, s, address, AddOperation.Apply(s, a, Register.Get<T>(s, i->R0)));
        Register.Set(s, i->R0, a);
        return i + 1;
    }

    public static Insn* XaddLocked(Processor p, ProcessorState* s, Insn* i)
    {
        T old = Atomic<Sum, T>.Run(p, s, i, Access.Address(s, i));
        Register.Set(s, i->R0, old);
        return i + 1;
    }

    private readonly struct Sum : IAtomicChange<T>
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => AddOperation.Apply(s, old, Register.Get<T>(s, i->R0));
    }

    public static Insn* CmpxchgRegReg(Processor p, ProcessorState* s, Insn* i)
    {
        T a = Register.Get<T>(s, i->R0);
        if (CompareAccumulator(s, a)) Register.Set(s, i->R0, Register.Get<T>(s, i->R1));
        else Register.Set(s, 0, a);
        return i + 1;
    }

    public static Insn* CmpxchgMem(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        T a = Access.ReadForWrite<T>(p, s, address);
        if (a == Register.Get<T>(s, 0)) Access.Write(p, s, address, Register.Get<T>(s, i->R0));
        if (!CompareAccumulator(s, a)) Register.Set(s, 0, a);
        return i + 1;
    }

    public static Insn* CmpxchgLocked(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        T* target = Access.PointerForAtomic<T>(p, s, address);
        T old;
        if (target != null)
        {
            old = Interlocked.CompareExchange(ref *target, Register.Get<T>(s, i->R0), Register.Get<T>(s, 0));
            p.Atomics.After<T>();
        }
        else
        {
            old = Atomic<ReplaceIfEqual, T>.Run(p, s, i, address);
        }
        if (!CompareAccumulator(s, old)) Register.Set(s, 0, old);
        return i + 1;
    }

    private readonly struct ReplaceIfEqual : IAtomicChange<T>
    {
        public static T Next(ProcessorState* s, Insn* i, T old) => old == Register.Get<T>(s, 0) ? Register.Get<T>(s, i->R0) : old;
    }

    /// <summary>Flags as after CMP accumulator, <paramref name="value"/>; true when equal.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static bool CompareAccumulator(ProcessorState* s, T value)
    {
        T accumulator = Register.Get<T>(s, 0);
        SubOperation.Apply(s, accumulator, value);
        return accumulator == value;
    }
}

/// <summary>CMPXCHG8B and CMPXCHG16B. Only ZF changes.</summary>
internal static unsafe class WideExchange
{
    public static Insn* Cmpxchg8b(Processor p, ProcessorState* s, Insn* i)
    {
        ulong expected = Join(s->Rdx, s->Rax), old = Atomic<ReplaceIfEqual, ulong>.Run(p, s, i, Access.Address(s, i));
        if (old != expected)
        {
            s->Rax = (uint)old;
            s->Rdx = old >> 32;
        }
        Flags.SetZf(s, old == expected);
        return i + 1;
    }

    private static ulong Join(ulong high, ulong low) => (high << 32) | (uint)low;

    private readonly struct ReplaceIfEqual : IAtomicChange<ulong>
    {
        public static ulong Next(ProcessorState* s, Insn* i, ulong old) => old == Join(s->Rdx, s->Rax) ? Join(s->Rcx, s->Rbx) : old;
    }

    /// <exception cref="GuestFault">#GP(0) when the operand is not aligned to 16 bytes.</exception>
    public static Insn* Cmpxchg16b(Processor p, ProcessorState* s, Insn* i)
    {
        ulong address = Access.Address(s, i);
        if ((address & 15) != 0) throw p.GeneralProtection();
        ulong* expected = stackalloc ulong[2] { s->Rax, s->Rdx };
        var target = (ulong*)Access.PointerForAtomic<UInt128>(p, s, address);
        bool equal;
        if (target != null)
        {
            equal = Atomic128.CompareExchange(target, expected, s->Rbx, s->Rcx);
            p.Atomics.After<UInt128>();
        }
        else
        {
            equal = CompareExchangeDevice(p, s, address, expected);
        }
        if (!equal)
        {
            s->Rax = expected[0];
            s->Rdx = expected[1];
        }
        Flags.SetZf(s, equal);
        return i + 1;
    }

    /// <summary>The operand is aligned, hence in one page, hence not in RAM.</summary>
    private static bool CompareExchangeDevice(Processor p, ProcessorState* s, ulong address, ulong* expected)
    {
        p.Group.LockBus(p);
        try
        {
            ulong low = Access.ReadForWrite<ulong>(p, s, address), high = Access.ReadForWrite<ulong>(p, s, address + 8);
            bool equal = low == expected[0] && high == expected[1];
            if (equal)
            {
                Access.Write(p, s, address, s->Rbx);
                Access.Write(p, s, address + 8, s->Rcx);
            }
            expected[0] = low;
            expected[1] = high;
            return equal;
        }
        finally
        {
            p.Group.UnlockBus();
        }
    }
}

/// <summary>The host's CMPXCHG16B, which the class library does not offer. Process-wide, immutable after its first use. Thread-safe.</summary>
internal static unsafe class Atomic128
{
    // Keeps the code mapped.
    private static readonly ExecutableMemory s_memory = new(4096);

    /// <summary>(target, expected in and seen out, replacement low, replacement high) in System V order; returns 1 when it was exchanged.</summary>
    private static readonly delegate* unmanaged[SuppressGCTransition]<ulong*, ulong*, ulong, ulong, byte> s_exchange =
        (delegate* unmanaged[SuppressGCTransition]<ulong*, ulong*, ulong, ulong, byte>)s_memory.Append(
        [
            0x53,                         // push rbx
            0x48, 0x89, 0xD3,             // mov rbx, rdx
            0x48, 0x8B, 0x06,             // mov rax, [rsi]
            0x48, 0x8B, 0x56, 0x08,       // mov rdx, [rsi+8]
            0xF0, 0x48, 0x0F, 0xC7, 0x0F, // lock cmpxchg16b [rdi]
            0x48, 0x89, 0x06,             // mov [rsi], rax
            0x48, 0x89, 0x56, 0x08,       // mov [rsi+8], rdx
            0x0F, 0x94, 0xC0,             // sete al
            0x5B,                         // pop rbx
            0xC3,                         // ret
        ]);

    /// <summary>Compares 16 bytes at <paramref name="target"/> (aligned to 16) with <paramref name="expected"/>, which receives what was there.</summary>
    public static bool CompareExchange(ulong* target, ulong* expected, ulong low, ulong high) => s_exchange(target, expected, low, high) != 0;
}
