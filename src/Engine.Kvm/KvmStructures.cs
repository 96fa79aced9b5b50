using System.Runtime.InteropServices;

namespace Bunraku.Engine.Kvm;

// Layouts of the kernel's include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h; field names are ours, order and widths theirs.

/// <summary>struct kvm_userspace_memory_region.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMemoryRegion
{
    /// <summary>KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY.</summary>
    public const uint LogDirtyPages = 1, ReadOnly = 2;

    public uint Slot, Flags;
    public ulong GuestAddress, Size, HostAddress;
}

/// <summary>struct kvm_dirty_log.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDirtyLog
{
    public uint Slot, Reserved;
    public void* Bitmap;
}

/// <summary>struct kvm_enable_cap.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmEnableCapability
{
    public uint Capability, Flags;
    public fixed ulong Arguments[4];
    public fixed byte Reserved[64];
}

/// <summary>struct kvm_msr_filter_range: a clear bit in the bitmap denies the MSR.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmMsrFilterRange
{
    public const uint Read = 1, Write = 2;

    public uint Flags, Count, First;
    public byte* Bitmap;
}

/// <summary>struct kvm_msr_filter with its 16 ranges; flags 0: what no range holds is allowed.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMsrFilter
{
    [System.Runtime.CompilerServices.InlineArray(16)]
    public struct RangeArray
    {
        private KvmMsrFilterRange _first;
    }

    public uint Flags;
    public RangeArray Ranges;
}

/// <summary>struct kvm_device_attr.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDeviceAttribute
{
    /// <summary>KVM_VCPU_TSC_CTRL and its attribute KVM_VCPU_TSC_OFFSET.</summary>
    public const uint VcpuTscControl = 0;
    public const ulong VcpuTscOffset = 0;

    public uint Flags, Group;
    public ulong Attribute;
    public void* Address;
}

/// <summary>struct kvm_cpuid_entry2.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmCpuidEntry
{
    /// <summary>KVM_CPUID_FLAG_SIGNIFCANT_INDEX: the answer depends on ECX.</summary>
    public const uint SignificantIndex = 1;

    public uint Function, Index, Flags, Eax, Ebx, Ecx, Edx;
    private uint _padding0, _padding1, _padding2;
}

/// <summary>struct kvm_regs.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmRegisters
{
    public ulong Rax, Rbx, Rcx, Rdx, Rsi, Rdi, Rsp, Rbp, R8, R9, R10, R11, R12, R13, R14, R15, Rip, Rflags;
}

/// <summary>struct kvm_segment.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmSegment
{
    public ulong Base;
    public uint Limit;
    public ushort Selector;
    public byte Type, Present, Dpl, Db, S, L, G, Avl, Unusable;
    private byte _padding;
}

/// <summary>struct kvm_dtable.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmDescriptorTable
{
    public ulong Base;
    public ushort Limit;
    private ushort _padding0, _padding1, _padding2;
}

/// <summary>struct kvm_sregs.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmSystemRegisters
{
    public KvmSegment Cs, Ds, Es, Fs, Gs, Ss, Tr, Ldt;
    public KvmDescriptorTable Gdt, Idt;
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8, Efer, ApicBase;
    public fixed ulong InterruptBitmap[4];
}

/// <summary>struct kvm_debugregs.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDebugRegisters
{
    public fixed ulong Db[4];
    public ulong Dr6, Dr7, Flags;
    private fixed ulong _reserved[9];
}

/// <summary>struct kvm_xcrs.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmXcrs
{
    public uint Count, Flags;
    /// <summary>Entry 0: number, reserved, value. The other 15 entries follow.</summary>
    public uint Number0, Reserved0;
    public ulong Value0;
    private fixed ulong _rest[15 * 2 + 16];
}

/// <summary>struct kvm_vcpu_events.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmVcpuEvents
{
    public const uint ValidNmiPending = 1, ValidShadow = 4, ValidTripleFault = 0x20;
    public const byte ShadowMovSs = 1, ShadowSti = 2;

    public byte ExceptionInjected, ExceptionNumber, ExceptionHasErrorCode, ExceptionPending;
    public uint ExceptionErrorCode;
    public byte InterruptInjected, InterruptNumber, InterruptSoft, InterruptShadow;
    public byte NmiInjected, NmiPending, NmiMasked, NmiPadding;
    public uint SipiVector, Flags;
    public byte SmiInSmm, SmiPending, SmiInsideNmi, SmiLatchedInit, TripleFaultPending;
    private fixed byte _reserved[26];
    public byte ExceptionHasPayload;
    public ulong ExceptionPayload;
}

/// <summary>struct kvm_msr_entry.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMsrEntry
{
    public uint Index, Reserved;
    public ulong Value;
}

/// <summary>struct kvm_msi.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmMsi
{
    public uint AddressLow, AddressHigh, Data, Flags, DeviceId;
    private fixed byte _padding[12];
}

/// <summary>struct kvm_irq_routing_entry of type KVM_IRQ_ROUTING_MSI. The table is a count, flags, and entries.</summary>
[StructLayout(LayoutKind.Sequential, Size = 48)]
internal struct KvmMsiRoute
{
    public const uint Msi = 2;

    public uint Gsi, Type, Flags, Padding, AddressLow, AddressHigh, Data;
}

/// <summary>struct kvm_irqfd.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmIrqfd
{
    public const uint Deassign = 1;

    public uint Descriptor, Gsi, Flags, ResampleDescriptor;
    private fixed byte _padding[16];
}

/// <summary>struct kvm_ioeventfd.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmIoeventfd
{
    public const uint DataMatch = 1, Pio = 2, Deassign = 4;

    public ulong Data, Address;
    public uint Length;
    public int Descriptor;
    public uint Flags;
    private fixed byte _padding[36];
}

/// <summary>struct kvm_coalesced_mmio_zone.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmCoalescedZone
{
    public ulong Address;
    public uint Size, IsPort;
}

/// <summary>struct kvm_coalesced_mmio_ring: writes from First on, up to Last, in a page that is mapped behind a vCPU's run structure.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmCoalescedRing
{
    /// <summary>struct kvm_coalesced_mmio.</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct Entry
    {
        public ulong Address;
        public uint Length, IsPort;
        public ulong Data;
    }

    public const int PageSize = 4096;
    public static readonly uint Capacity = (uint)((PageSize - sizeof(KvmCoalescedRing)) / sizeof(Entry));

    public uint First, Last;
}

/// <summary>struct kvm_clock_data.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmClockData
{
    public ulong Nanoseconds;
    public uint Flags, Padding;
    public ulong RealTime, HostTsc;
    private fixed uint _padding[4];
}

/// <summary>struct kvm_guest_debug.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmGuestDebug
{
    public const uint Enable = 1, SingleStep = 2;

    public uint Control, Padding;
    public fixed ulong DebugRegisters[8];
}

/// <summary>KVM_MP_STATE_*.</summary>
internal enum KvmMpState : uint
{
    Runnable = 0, Uninitialized = 1, InitReceived = 2, Halted = 3, SipiReceived = 4,
}

/// <summary>The part of struct kvm_run that is the same for all exits, and the exits that we know, overlaid.</summary>
[StructLayout(LayoutKind.Explicit)]
internal unsafe struct KvmRun
{
    [FieldOffset(0)] public byte RequestInterruptWindow;
    [FieldOffset(1)] public byte ImmediateExit;
    [FieldOffset(8)] public KvmExit ExitReason;
    [FieldOffset(12)] public byte ReadyForInterruptInjection;
    [FieldOffset(13)] public byte InterruptFlag;
    [FieldOffset(14)] public ushort Flags;
    [FieldOffset(16)] public ulong Cr8;
    [FieldOffset(24)] public ulong ApicBase;

    // KVM_EXIT_IO: the data lie IoDataOffset bytes behind the beginning of this structure.
    [FieldOffset(32)] public byte IoIsWrite;
    [FieldOffset(33)] public byte IoSize;
    [FieldOffset(34)] public ushort IoPort;
    [FieldOffset(36)] public uint IoCount;
    [FieldOffset(40)] public ulong IoDataOffset;

    // KVM_EXIT_MMIO
    [FieldOffset(32)] public ulong MmioAddress;
    [FieldOffset(40)] public fixed byte MmioData[8];
    [FieldOffset(48)] public uint MmioLength;
    [FieldOffset(52)] public byte MmioIsWrite;

    // KVM_EXIT_IOAPIC_EOI
    [FieldOffset(32)] public byte EoiVector;

    // KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR
    [FieldOffset(32)] public byte MsrError;
    [FieldOffset(40)] public uint MsrReason;
    [FieldOffset(44)] public uint MsrIndex;
    [FieldOffset(48)] public ulong MsrData;

    // KVM_EXIT_INTERNAL_ERROR; for suberror 1 InternalData[0] are flags, of which bit 0 says that instruction bytes follow.
    [FieldOffset(32)] public uint InternalSuberror;
    [FieldOffset(36)] public uint InternalCount;
    [FieldOffset(40)] public fixed ulong InternalData[16];
    [FieldOffset(48)] public byte InstructionSize;
    [FieldOffset(49)] public fixed byte InstructionBytes[15];

    // KVM_EXIT_FAIL_ENTRY, KVM_EXIT_UNKNOWN
    [FieldOffset(32)] public ulong HardwareReason;
    [FieldOffset(40)] public uint FailedOnHostCpu;
}

/// <summary>Exit reasons, KVM_EXIT_*.</summary>
internal enum KvmExit : uint
{
    Unknown = 0, Exception = 1, Io = 2, Hypercall = 3, Debug = 4, Hlt = 5, Mmio = 6, InterruptWindowOpen = 7, Shutdown = 8, FailEntry = 9, Interrupted = 10,
    SetTpr = 11, InternalError = 17, SystemEvent = 24, IoApicEoi = 26, ReadMsr = 29, WriteMsr = 30, MemoryFault = 39,
}
