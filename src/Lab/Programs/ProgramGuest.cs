using Bunraku.Engines;
using Bunraku.Lab.PopekGoldberg;
using Iced.Intel;
using static Bunraku.Engines.X86.PagingBits;

namespace Bunraku.Lab.Programs;

/// <summary>
/// Memory and start state of a guest with one program, which has what Linux gives its programs: selectors and descriptors, control registers, SYSCALL. Engines
/// that run programs directly on the host's processor run this one so. The kernel's memory lies at its physical addresses, the program's at
/// <see cref="ProgramBase"/> with a page table of its own.
/// </summary>
internal sealed class ProgramGuest : IDisposable
{
    public const ulong MemorySize = 4 << 20;
    /// <summary>Where SYSCALL leads to, routines of the kernel, and handlers of all vectors, <see cref="StubSize"/> bytes apart.</summary>
    public const ulong Entry = 0xB000, Routines = 0xC000, Stubs = 0xA000;
    public const int StubSize = 16, Vectors = 256;
    /// <summary>The first linear address of the program's page table, which maps 2 MiB; and the first frame for it.</summary>
    public const ulong ProgramBase = 0x40_0000, Frames = 0x10_0000;
    /// <summary>CR3 of two address spaces, with their PCIDs: the same tables below.</summary>
    public const ulong FirstSpace = 0x4001, SecondSpace = 0x9002;

    private const ulong Gdt = 0x1000, Idt = 0x2000, Tss = 0x3000, Pdpt = 0x5000, Pd = 0x6000, KernelTable = 0x7000, ProgramTable = 0x8000,
        KernelStack = 0xE000;
    private const ushort KernelCode = 0x10, KernelData = 0x18, TssSelector = 0x40, ProcessorNumber = 0x78;
    private const uint TssLimit = 0x67;
    private const ulong Pointing = Present | Writable | User | Accessed;

    public GuestMemory Memory { get; } = new(MemorySize);

    /// <summary>About to execute at <see cref="Entry"/>, in the kernel.</summary>
    public CpuState State { get; } = new();

    public ProgramGuest()
    {
        WriteTables();
        WriteDescriptors();
        PrepareState();
    }

    /// <summary>Guest-physical address of the last-level entry that maps a page of the program.</summary>
    public static ulong EntryAddress(ulong linear) => ProgramTable + ((linear - ProgramBase) >> 12) * 8;

    /// <summary>The last-level entry of a page of the program.</summary>
    public ulong this[ulong linear]
    {
        get => Memory.TryRead(EntryAddress(linear), out ulong value) ? value : 0;
        set => Memory.TryWrite(EntryAddress(linear), value);
    }

    /// <summary>Writes code as it is at an address, to the frame or kernel page at another.</summary>
    /// <param name="physical">Where its bytes go.</param>
    /// <param name="address">Where it is executed.</param>
    /// <returns>The address behind it.</returns>
    public ulong Place(ulong physical, ulong address, Action<Assembler> emit)
    {
        var assembler = new Assembler(64);
        emit(assembler);
        var writer = new ByteWriter();
        assembler.Assemble(writer, address);
        byte[] code = writer.ToArray();
        Memory.Write(physical, code);
        return address + (ulong)code.Length;
    }

    /// <summary>A handler of the kernel's instead of the one that tells the vector.</summary>
    public void Handle(int vector, ulong handler, int dpl = 0)
    {
        Memory.TryWrite(Idt + (ulong)vector * 16, (handler & 0xFFFF) | (ulong)KernelCode << 16 | (0x8Eul | (ulong)dpl << 5) << 40
            | (handler >> 16 & 0xFFFF) << 48);
        Memory.TryWrite(Idt + (ulong)vector * 16 + 8, 0ul);
    }

    private void WriteTables()
    {
        foreach (ulong root in (ulong[])[FirstSpace, SecondSpace]) Memory.TryWrite(root & AddressMask, Pdpt | Pointing);
        Memory.TryWrite(Pdpt, Pd | Pointing);
        Memory.TryWrite(Pd, KernelTable | Pointing);
        Memory.TryWrite(Pd + (ProgramBase >> 21) * 8, ProgramTable | Pointing);
        for (ulong page = 0; page < 512; page++) Memory.TryWrite(KernelTable + page * 8, page << 12 | Present | Writable);
    }

    private void WriteDescriptors()
    {
        (ushort Selector, ulong Value)[] descriptors =
        [
            (KernelCode, 0x00AF_9B00_0000_FFFF), (KernelData, 0x00CF_9300_0000_FFFF), (0x20, 0x00CF_FB00_0000_FFFF), (0x28, 0x00CF_F300_0000_FFFF),
            (0x30, 0x00AF_FB00_0000_FFFF), (TssSelector, TssLimit | Tss << 16 | 0x8Bul << 40), (ProcessorNumber, 0x0040_F100_0000_0000),
        ];
        foreach ((ushort selector, ulong value) in descriptors) Memory.TryWrite(Gdt + selector, value);
        Memory.TryWrite(Tss + 4, KernelStack);
        var stubs = new byte[Vectors * StubSize];
        for (int vector = 0; vector < Vectors; vector++)
        {
            (stubs[vector * StubSize], stubs[vector * StubSize + 1], stubs[vector * StubSize + 2]) = (0xE6 /* OUT imm8, AL */, (byte)vector, 0xF4 /* HLT */);
            Handle(vector, Stubs + (ulong)(vector * StubSize), vector is 3 or 4 ? 3 : 0);
        }
        Memory.Write(Stubs, stubs);
    }

    private void PrepareState()
    {
        CpuState s = State;
        s.Rip = Entry;
        s.Rflags = 2;
        s.Cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
        s.Cr3 = FirstSpace;
        s.Cr4 = 0x7_06A0; // OSXSAVE PCIDE FSGSBASE OSXMMEXCPT OSFXSR PGE PAE
        s.Efer = 0xD01; // NXE LMA LME SCE
        s.Xcr0 = 7;
        s.Cs = new SegmentState(KernelCode, 0, uint.MaxValue, 0xA09B);
        s.Ss = new SegmentState(KernelData, 0, uint.MaxValue, 0xC093);
        s.Ds = s.Es = s.Fs = s.Gs = new SegmentState(0, 0, 0, 0x1_0000);
        s.Ldtr = new SegmentState(0, 0, 0, 0x1_0000);
        s.Tr = new SegmentState(TssSelector, Tss, TssLimit, 0x8B);
        (s.GdtrBase, s.GdtrLimit) = (Gdt, ProcessorNumber + 7);
        (s.IdtrBase, s.IdtrLimit) = (Idt, Vectors * 16 - 1);
        s.Gpr[(int)Gp.Rsp] = KernelStack;
        s.Msrs[Msr.Star] = 0x23ul << 48 | (ulong)KernelCode << 32;
        s.Msrs[Msr.Lstar] = Entry;
        s.Msrs[Msr.Fmask] = 0x4_0700; // AC DF IF TF
    }

    public void Dispose() => Memory.Dispose();
}
