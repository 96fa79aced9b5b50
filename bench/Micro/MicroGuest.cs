using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Micro;

/// <summary>
/// A guest of a few instructions: 64-bit mode at level 0, all memory mapped one to one with pages of 4 KiB. Port 0 ends a stretch of work.
/// </summary>
internal sealed class MicroGuest : IDisposable
{
    public const uint MemorySize = 32 << 20, PageSize = 4096;
    /// <summary>Where the vCPU starts.</summary>
    public const uint Code = 0x2_0000;
    /// <summary>The gates' handlers, and what lies behind them in memory is free.</summary>
    public const uint Handlers = 0x8_0000, Free = 0x10_0000;
    /// <summary>Not mapped.</summary>
    public const ulong Unmapped = 0x40_0000_0000;
    /// <summary>Nothing is behind this physical address, which is mapped.</summary>
    public const uint Mmio = 0xD000_0000;

    private const uint Gdt = 0x1000, Idt = 0x2000, StackTop = 0x8000, PageMap = 0x1_0000; // PML4, PDPT, page directory, then page tables from Tables on
    private const uint PageDirectoryPointers = PageMap + PageSize, PageDirectory = PageMap + 2 * PageSize, MmioDirectory = PageMap + 3 * PageSize,
        Tables = MemorySize - (MemorySize >> 9);
    private const ulong Present = 1, Writable = 2, Large = 0x80;
    private const ushort CodeSelector = 8, DataSelector = 16;

    private readonly VirtualClock _clock = new();
    private IX86Vm? _vm;
    private IX86Cpu? _cpu;

    public MicroGuest()
    {
        Memory = new GuestMemory(MemorySize);
        // Intel SDM vol. 3A, "4-Level Paging".
        Write(PageMap, PageDirectoryPointers | Present | Writable);
        Write(PageDirectoryPointers, PageDirectory | Present | Writable);
        Write(PageDirectoryPointers + 3 * 8, MmioDirectory | Present | Writable);
        Write(MmioDirectory + ((Mmio >> 21) & 511) * 8, Mmio | Present | Writable | Large);
        for (uint page = 0; page < MemorySize / PageSize; page++)
        {
            Write(Tables + page * 8, (ulong)page * PageSize | Present | Writable);
            if (page % 512 == 0) Write(PageDirectory + page / 512 * 8, Tables + page * 8 | Present | Writable);
        }
        Write(Gdt + CodeSelector, 0x00AF_9B00_0000_FFFFul);
        Write(Gdt + DataSelector, 0x00CF_9300_0000_FFFFul);
        State = new CpuState
        {
            Rip = Code,
            Rflags = 2,
            Cr0 = 0x8001_0033, // PG, WP, NE, ET, MP, PE
            Cr3 = PageMap,
            Cr4 = 0x620, // OSXMMEXCPT, OSFXSR, PAE
            Efer = 0xD01, // NXE, LMA, LME, SCE
            Xcr0 = 1,
            Dr6 = 0xFFFF_0FF0,
            Dr7 = 0x400,
            GdtrBase = Gdt,
            GdtrLimit = 23,
            IdtrBase = Idt,
            IdtrLimit = 0xFFF,
            Cs = new(CodeSelector, 0, 0xFFFF_FFFF, 0xA09B),
            Ldtr = new(0, 0, 0, 0x1_0000),
            Tr = new(0x18, 0, 0x67, 0x8B),
        };
        State.Ds = State.Es = State.Ss = State.Fs = State.Gs = new(DataSelector, 0, 0xFFFF_FFFF, 0xC093);
        State.Gpr[4] = StackTop;
        BitConverter.TryWriteBytes(State.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(State.Xsave.AsSpan(24), 0x1F80u);
        BitConverter.TryWriteBytes(State.Xsave.AsSpan(512), 3ul);
    }

    public GuestMemory Memory { get; }

    /// <summary>To be changed before <see cref="On"/>.</summary>
    public CpuState State { get; }

    /// <summary>Assembles code and returns its bytes, which are in memory then.</summary>
    public byte[] Place(ulong address, Action<Assembler> emit)
    {
        var assembler = new Assembler(64);
        emit(assembler);
        using var bytes = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(bytes), address);
        byte[] code = bytes.ToArray();
        if (!Memory.Write(address, code)) throw new InvalidOperationException("code does not fit into memory");
        return code;
    }

    /// <summary>The gate of a vector leads to <paramref name="handler"/>. Intel SDM vol. 3A, "64-Bit Mode IDT".</summary>
    public void Handle(int vector, uint handler)
    {
        const ulong interruptGate = 0x8E00ul << 32;
        Write(Idt + (uint)vector * 16, handler & 0xFFFF | (ulong)CodeSelector << 16 | interruptGate | (ulong)(handler >> 16) << 48);
    }

    public void Write(ulong address, ulong value)
    {
        if (!Memory.TryWrite(address, value)) throw new InvalidOperationException("outside memory");
    }

    /// <summary>Brings the guest to an engine. The thread that calls this is the vCPU's.</summary>
    public void On(IX86Engine engine)
    {
        _vm = engine.CreateVm(Memory, CpuModels.Parse(CpuModels.Default), _clock);
        _cpu = _vm.CreateCpu(0);
        _cpu.WriteState(State);
    }

    /// <summary>Runs to the next exit of one kind. Anything that the guest does not do by itself is an error.</summary>
    public X86Exit Run(ExitReason reason)
    {
        for (; ; )
        {
            X86Exit exit = _cpu!.Enter();
            if (exit.Reason == reason) return exit;
            if (exit.Reason != ExitReason.Kicked)
                throw new InvalidOperationException($"the guest exited with {exit.Reason} at {exit.Address:X}: {exit.Message}");
        }
    }

    public void Dispose()
    {
        _cpu?.Dispose();
        _vm?.Dispose();
        Memory.Dispose();
    }

    private sealed class StreamCodeWriter(Stream stream) : CodeWriter
    {
        public override void WriteByte(byte value) => stream.WriteByte(value);
    }
}
