using System.Buffers.Binary;
using Bunraku.Engines;

namespace Bunraku.Machine;

/// <summary>Processor states in which boot protocols enter a kernel, with the tables in guest memory that they rest on.</summary>
internal static class InitialState
{
    /// <summary>Selectors that the Linux boot protocol names __BOOT_CS and __BOOT_DS; the other protocols leave the choice open.</summary>
    private const ushort CodeSelector = 0x10, DataSelector = 0x18, TaskSelector = 0x20;

    // Access rights in the format of SegmentState.Attributes.
    private const uint FlatData = 0xC093, Code32 = 0xC09B, Code64 = 0xA09B, BusyTask = 0x008B, UnusableLdt = 0x1_0082;
    /// <summary>No protocol promises an interrupt table: base and limit stay those of real mode, as where a boot loader came from there.</summary>
    private const ushort RealModeVectors = 0x3FF;
    private const uint FlatLimit = 0xFFFF_FFFF, TaskLimit = 0x67;

    private const ulong Cr0Pe = 1, Cr0Et = 1 << 4, Cr0Pg = 1ul << 31, Cr4Pae = 1 << 5, EferLme = 1 << 8, EferLma = 1 << 10;
    private const ulong PresentWritable = PagingBits.Present | PagingBits.Writable;
    private const uint MtrrDefType = 0x2FF;
    /// <summary>MTRRs on, all memory write-back, as firmware leaves RAM.</summary>
    private const ulong MtrrWriteBack = 1 << 11 | 6;

    /// <summary>32-bit protected mode without paging, flat segments, interrupts off.</summary>
    public static CpuState Protected32(BootMemory memory, CpuModel model, uint entry)
    {
        CpuState state = Common(memory, model, entry, Code32);
        state.Cr0 = Cr0Pe | Cr0Et;
        return state;
    }

    /// <summary>64-bit mode, flat segments, at least the first 4 GiB mapped to themselves, interrupts off.</summary>
    public static CpuState Long64(BootMemory memory, CpuModel model, ulong entry)
    {
        CpuState state = Common(memory, model, entry, Code64);
        state.Cr3 = IdentityMap(memory, model.Has(CpuFeature.Pdpe1gb));
        state.Cr4 = Cr4Pae;
        state.Efer = EferLme | EferLma;
        state.Cr0 = Cr0Pe | Cr0Et | Cr0Pg;
        return state;
    }

    /// <summary>What firmware does to an application processor before it waits for its start-up IPI: memory types as on the bootstrap processor.</summary>
    public static void PrepareApplicationProcessor(CpuState state, CpuModel model)
    {
        state.Msrs.Clear();
        SetMemoryTypes(state, model);
    }

    private static void SetMemoryTypes(CpuState state, CpuModel model)
    {
        if (model.Has(CpuFeature.Mtrr)) state.Msrs[MtrrDefType] = MtrrWriteBack;
    }

    private static CpuState Common(BootMemory memory, CpuModel model, ulong entry, uint code)
    {
        var data = new SegmentState(DataSelector, 0, FlatLimit, FlatData);
        var state = new CpuState
        {
            Rip = entry,
            Rflags = 2,
            Xcr0 = 1,
            Dr6 = 0xFFFF_0FF0,
            Dr7 = 0x400,
            Cs = new(CodeSelector, 0, FlatLimit, code),
            Ds = data,
            Es = data,
            Ss = data,
            Fs = data,
            Gs = data,
            Tr = new(TaskSelector, 0, TaskLimit, BusyTask),
            Ldtr = new(0, 0, 0xFFFF, UnusableLdt),
            IdtrLimit = RealModeVectors,
        };
        // What FNINIT and RESET leave: all exceptions masked (Intel SDM vol. 1, "x87 FPU Control Word", "MXCSR Control and Status Register").
        BinaryPrimitives.WriteUInt16LittleEndian(state.Xsave, 0x37F);
        BinaryPrimitives.WriteUInt32LittleEndian(state.Xsave.AsSpan(24), 0x1F80);
        BinaryPrimitives.WriteUInt64LittleEndian(state.Xsave.AsSpan(512), 3);
        SetMemoryTypes(state, model);

        Span<byte> gdt = stackalloc byte[TaskSelector + 8];
        gdt.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(gdt[CodeSelector..], Descriptor(state.Cs));
        BinaryPrimitives.WriteUInt64LittleEndian(gdt[DataSelector..], Descriptor(data));
        BinaryPrimitives.WriteUInt64LittleEndian(gdt[TaskSelector..], Descriptor(state.Tr));
        state.GdtrBase = memory.Place(gdt, "the descriptor table");
        state.GdtrLimit = (ushort)(gdt.Length - 1);
        return state;
    }

    /// <summary>An 8-byte segment descriptor: Intel SDM vol. 3A "Segment Descriptors".</summary>
    private static ulong Descriptor(SegmentState s)
    {
        uint limit = (s.Attributes & 0x8000) != 0 ? s.Limit >> 12 : s.Limit;
        return (limit & 0xFFFF) | (s.Base & 0xFF_FFFF) << 16 | (ulong)(s.Attributes & 0xF0FF) << 40 | (ulong)(limit & 0xF_0000) << 32
            | (s.Base & 0xFF00_0000) << 32;
    }

    /// <summary>Page tables that map memory to itself: 512 GiB with 1 GiB pages, or 4 GiB with 2 MiB pages. Returns the address of the PML4.</summary>
    private static ulong IdentityMap(BootMemory memory, bool gigabytePages)
    {
        ulong pml4 = memory.AllocateLow(GuestMemory.PageSize, "the page tables"), pdpt = memory.AllocateLow(GuestMemory.PageSize, "the page tables");
        Span<byte> table = stackalloc byte[(int)GuestMemory.PageSize];
        table.Clear();
        BinaryPrimitives.WriteUInt64LittleEndian(table, pdpt | PresentWritable);
        memory.Write(pml4, table);
        if (gigabytePages)
        {
            memory.Write(pdpt, Fill(table, 512, 0, 1ul << 30, PagingBits.LargePage));
            return pml4;
        }
        const int directories = 4;
        ulong first = memory.AllocateLow(directories * GuestMemory.PageSize, "the page tables");
        for (ulong n = 0; n < directories; n++) memory.Write(first + n * GuestMemory.PageSize, Fill(table, 512, n << 30, 1ul << 21, PagingBits.LargePage));
        memory.Write(pdpt, Fill(table, directories, first, GuestMemory.PageSize, 0));
        return pml4;
    }

    private static ReadOnlySpan<byte> Fill(Span<byte> table, int entries, ulong first, ulong step, ulong bits)
    {
        table.Clear();
        for (int n = 0; n < entries; n++) BinaryPrimitives.WriteUInt64LittleEndian(table[(n * 8)..], first + (ulong)n * step | bits | PresentWritable);
        return table;
    }
}
