using System.Runtime.InteropServices;

namespace Bunraku.Hypervisor.X86.Paravirtual;

// The interface that KVM offers its guests: numbers and layouts. Linux, Documentation/virt/kvm/x86/{cpuid,msr,hypercalls}.rst and
// arch/x86/include/uapi/asm/kvm_para.h.

/// <summary>What a guest may use, EAX of CPUID leaf 40000001h.</summary>
[Flags]
public enum KvmFeatures : uint
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>kvmclock at the old MSR numbers.</summary>
    ClockSource = 1 << 0,
    /// <summary>No delay is needed between port accesses.</summary>
    NopIoDelay = 1 << 1,
    /// <summary>kvmclock at the new MSR numbers.</summary>
    ClockSource2 = 1 << 3,
    /// <summary>The guest learns how long its vCPUs wanted to run and could not.</summary>
    StealTime = 1 << 5,
    /// <summary>An end of interrupt without an exit.</summary>
    PvEoi = 1 << 6,
    /// <summary>A halted vCPU can be kicked awake: spinlocks that sleep.</summary>
    PvUnhalt = 1 << 7,
    /// <summary>The TLB of a vCPU that does not run is flushed when it runs again. Needs steal time.</summary>
    PvTlbFlush = 1 << 9,
    /// <summary>One call sends an interrupt to many vCPUs.</summary>
    PvSendIpi = 1 << 11,
    /// <summary>The guest says whether the host may poll when it halts.</summary>
    PollControl = 1 << 12,
    /// <summary>A vCPU can give its time to one that it waits for.</summary>
    PvSchedYield = 1 << 13,
    /// <summary>The stable bit of a clock page is to be believed.</summary>
    ClockSourceStable = 1 << 24,
}

/// <summary>How the VM runs, EDX of CPUID leaf 40000001h.</summary>
[Flags]
public enum KvmHints : uint
{
    /// <summary>Nothing is promised.</summary>
    None = 0,
    /// <summary>vCPUs are never preempted for long: spinning beats sleeping.</summary>
    Realtime = 1 << 0,
}

/// <summary>MSRs.</summary>
internal static class KvmMsr
{
    public const uint WallClockOld = 0x11, SystemTimeOld = 0x12;
    public const uint First = 0x4B56_4D00, Last = 0x4B56_4DFF;
    public const uint WallClock = First, SystemTime = First + 1, StealTime = First + 3, PvEoi = First + 4, PollControl = First + 5;

    /// <summary>Bit 0 of SystemTime, StealTime, PvEoi and PollControl.</summary>
    public const ulong Enable = 1;
    /// <summary>StealTime: the address is a multiple of 64, these bits are 0.</summary>
    public const ulong StealTimeReserved = 0x3E;
    /// <summary>PvEoi: the address is a multiple of 4.</summary>
    public const ulong PvEoiReserved = 2;
}

/// <summary>Hypercalls by their number in RAX.</summary>
internal enum HypercallNumber : ulong
{
    /// <summary>Does nothing but exit.</summary>
    VapicPollIrq = 1,
    /// <summary>Wakes the halted vCPU whose APIC ID is the second argument.</summary>
    KickCpu = 5,
    /// <summary>Writes <see cref="ClockPairing"/> to the address in the first argument.</summary>
    ClockPairing = 9,
    /// <summary>A bitmap of 128 destinations (64 outside 64-bit mode) from a lowest APIC ID on, and the ICR's lower half.</summary>
    SendIpi = 10,
    /// <summary>Lets others run, best the vCPU whose APIC ID is the first argument.</summary>
    SchedYield = 11,
}

/// <summary>What a hypercall returns when it fails, negated in RAX.</summary>
internal enum HypercallError : long
{
    None = 0,
    NotPermitted = 1,
    Fault = 14,
    Invalid = 22,
    NotSupported = 95,
    NoSuchCall = 1000,
}

/// <summary>struct pvclock_vcpu_time_info: ns = SystemTime + ((TSC - TscTimestamp) shifted left by TscShift) × TscToSystemMultiplier >> 32.</summary>
[StructLayout(LayoutKind.Explicit, Size = 32)]
internal struct ClockPage
{
    /// <summary>Odd while the page is being changed.</summary>
    [FieldOffset(0)] public uint Version;
    [FieldOffset(8)] public ulong TscTimestamp;
    [FieldOffset(16)] public ulong SystemTime;
    [FieldOffset(24)] public uint TscToSystemMultiplier;
    [FieldOffset(28)] public sbyte TscShift;
    [FieldOffset(29)] public byte Flags;

    /// <summary>Time read by any vCPU is comparable to that of all others.</summary>
    public const byte TscStable = 1;
    /// <summary>The host stopped the guest for a while; the guest clears it when it has taken note.</summary>
    public const byte GuestStopped = 2;
}

/// <summary>struct pvclock_wall_clock: the time of day at which <see cref="ClockPage.SystemTime"/> was 0.</summary>
[StructLayout(LayoutKind.Explicit, Size = 12)]
internal struct WallClockPage
{
    [FieldOffset(0)] public uint Version;
    [FieldOffset(4)] public uint Seconds;
    [FieldOffset(8)] public uint Nanoseconds;
}

/// <summary>struct kvm_steal_time.</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct StealTimePage
{
    /// <summary>Nanoseconds that the vCPU wanted to run and could not.</summary>
    [FieldOffset(0)] public ulong Steal;
    /// <summary>Odd while the page is being changed.</summary>
    [FieldOffset(8)] public uint Version;
    [FieldOffset(12)] public uint Flags;
    /// <summary>The bits below; changed by the guest too, atomically.</summary>
    [FieldOffset(16)] public byte Preempted;

    /// <summary>The vCPU does not run.</summary>
    public const byte IsPreempted = 1;
    /// <summary>Asked for by another vCPU: the TLB is to be flushed before this one runs.</summary>
    public const byte FlushTlb = 2;
}

/// <summary>struct kvm_clock_pairing: the host's time of day and the guest's TSC at one moment.</summary>
[StructLayout(LayoutKind.Explicit, Size = 64)]
internal struct ClockPairing
{
    [FieldOffset(0)] public long Seconds;
    [FieldOffset(8)] public long Nanoseconds;
    [FieldOffset(16)] public ulong Tsc;

    /// <summary>KVM_CLOCK_PAIRING_WALLCLOCK, the only type.</summary>
    public const ulong WallClock = 0;
}
