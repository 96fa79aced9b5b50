using System.Runtime.Intrinsics.X86;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The slow side of locked operations.</summary>
internal sealed unsafe class Atomics(Processor p)
{
    /// <summary>Where a locked operation works past the TLB, or null; what happened there may concern decoded code.</summary>
    private byte* _atomicPastTlb;

    /// <summary>See <see cref="Access.PointerForAtomic"/>.</summary>
    public byte* Pointer<T>(ulong address) where T : unmanaged
    {
        p.Mmu.CheckAlignment<T>(address, PageWalker.WriteAccess);
        uint access = p.Mmu.CurrentPrivilege | PageWalker.WriteAccess;
        if ((address & 0xFFF) + (ulong)sizeof(T) > GuestMemory.PageSize || HostLocks.MustNot(address, sizeof(T)))
        {
            p.Mmu.CheckRange(address, sizeof(T), access);
            return null;
        }
        return _atomicPastTlb = p.Mmu.HostOf(address, sizeof(T), access);
    }

    /// <summary>To be called when a locked operation at a pointer of <see cref="Access.PointerForAtomic"/> is done.</summary>
    public void After<T>() where T : unmanaged
    {
        if (_atomicPastTlb != null) Finish(sizeof(T));
    }

    private void Finish(int length)
    {
        byte* host = _atomicPastTlb;
        _atomicPastTlb = null;
        p.Code.AfterWrite(host, length);
    }
}

/// <summary>What the host makes of locked operations across cache lines.</summary>
internal static class HostLocks
{
    /// <summary>
    /// The processor can report them (Intel SDM vol. 3B, "Bus Lock Detection", and vol. 3A, "Features to Disable Bus Locks"; AMD APM vol. 2, "Bus Lock Trap"),
    /// and Linux then lets a thread that makes one wait for some 10 ms. So they are done here with the other vCPUs standing still, as those across pages are.
    /// </summary>
    public static readonly bool ReportsSplit = X86Base.CpuId(0, 0).Eax >= Features
        && ((X86Base.CpuId(Features, 0).Ecx & BusLockDetect) != 0 || (X86Base.CpuId(Features, 0).Edx & CoreCapabilities) != 0);

    private const int Features = 7, BusLockDetect = 1 << 24, CoreCapabilities = 1 << 30, LineSize = 64;

    /// <summary>A locked operation of the host must not be made there.</summary>
    public static bool MustNot(ulong address, int length) => ReportsSplit && ((uint)address & LineSize - 1) + (uint)length > LineSize;
}

/// <summary>What a locked read-modify-write makes of the old value.</summary>
internal unsafe interface IAtomicChange<T> where T : unmanaged
{
    /// <summary>The new value. May set flags; called again with a newer old value when another processor came first.</summary>
    static abstract T Next(ProcessorState* s, Insn* i, T old);
}

/// <summary>Locked read-modify-write operations on memory. Intel SDM vol. 3A, "Locked Atomic Operations".</summary>
internal static unsafe class Atomic<TChange, T> where TChange : struct, IAtomicChange<T> where T : unmanaged
{
    /// <summary>Returns the value that was there. Flags are those of the change that took place.</summary>
    public static T Run(Processor p, ProcessorState* s, Insn* i, ulong address)
    {
        T* target = Access.PointerForAtomic<T>(p, s, address);
        if (target == null) return WithBusLocked(p, s, i, address);
        // ADC, SBB, INC and DEC read or keep the carry, so each attempt starts from the same one.
        ulong carries = s->FlagCarries;
        T old = *target;
        while (true)
        {
            s->FlagCarries = carries;
            T seen = Interlocked.CompareExchange(ref *target, TChange.Next(s, i, old), old);
            if (EqualityComparer<T>.Default.Equals(seen, old)) break;
            old = seen;
        }
        p.Atomics.After<T>();
        return old;
    }

    private static T WithBusLocked(Processor p, ProcessorState* s, Insn* i, ulong address)
    {
        p.Group.LockBus(p);
        try
        {
            T old = Access.ReadForWrite<T>(p, s, address);
            Access.Write(p, s, address, TChange.Next(s, i, old));
            return old;
        }
        finally
        {
            p.Group.UnlockBus();
        }
    }
}
