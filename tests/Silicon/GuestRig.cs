using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Silicon;

/// <summary>
/// A guest without an operating system on any engine: 64-bit mode at CPL 3 as under Linux, the same pages at the same linear addresses
/// as <see cref="HostSilicon"/>, and a supervisor page whose exception handlers do what the host's signal handler does.
/// </summary>
public sealed unsafe class GuestRig : IDisposable
{
    private const ulong Physical = 0x10_0000;        // of Layout.Base; the guest's RAM holds the whole reserved range
    private const ulong Kernel = 0xFFFF_8000_0000_0000, KernelPhysical = 0x8000, KernelStack = Kernel + 0x7000;
    private const int KernelPages = 8;
    private const ulong Gdt = Kernel, GdtSize = 0x80, Ldt = Kernel + 0x100, Tss = Kernel + 0x200, Idt = Kernel + 0x1000, Stubs = Kernel + 0x3000;

    private readonly GuestMemory _memory;
    private readonly IX86Vm _vm;
    private readonly IX86Cpu _cpu;
    private readonly CpuState _state = new();
    private ulong _routine = ulong.MaxValue;

    public GuestRig(IX86Engine engine, CpuModel model)
    {
        const ulong used = Layout.Contexts + Layout.ContextsSize - Layout.Base;
        _memory = new GuestMemory((Physical + used + 0xF_FFFF) & ~0xF_FFFFul);
        BuildPageTables();
        _vm = engine.CreateVm(_memory, model, new VirtualClock());
        _cpu = _vm.CreateCpu(0);
    }

    /// <summary>Instructions that the vCPU retired so far.</summary>
    public ulong Retired => _cpu.Counters.InstructionsRetired;

    /// <summary>Bytes of the guest's memory at a linear address of <see cref="Layout"/>.</summary>
    internal byte* Pointer(ulong linear) => _memory.Backing.Pointer + Physical + (linear - Layout.Base);

    /// <summary>Writes at a linear address of <see cref="Layout"/> as DMA would.</summary>
    internal void Write(ulong linear, ReadOnlySpan<byte> bytes)
    {
        if (!_memory.Write(Physical + (linear - Layout.Base), bytes)) throw new ArgumentOutOfRangeException(nameof(linear));
    }

    /// <summary>Runs the batch; contexts and data were copied into the guest before.</summary>
    /// <exception cref="InvalidOperationException">The guest left the routine in a way that no case can cause.</exception>
    internal void Run(RoutineCode routine, ReadOnlySpan<byte> cases, int trials)
    {
        if (_routine != routine.Store || !new ReadOnlySpan<byte>(Pointer(Layout.Routine), routine.Bytes.Length).SequenceEqual(routine.Bytes))
        {
            Write(Layout.Routine, routine.Bytes);
            BuildHandlers(routine);
            _routine = routine.Store;
        }
        Write(Layout.Cases, cases);
        var slots = new byte[Layout.SlotsSize];
        void Set(ulong slot, ulong value) => BitConverter.TryWriteBytes(slots.AsSpan((int)(slot - Layout.Slots)), value);
        Set(Slot.Current, Layout.Contexts);
        Set(Slot.Count, (ulong)trials);
        Set(Slot.Exit, routine.GuestExit);
        Set(Slot.FlatSelector, Layout.Flat);
        Set(Slot.Data16Selector, Layout.Data16);
        Write(Layout.Slots, slots);

        PrepareState(routine.Loop);
        _cpu.WriteState(_state);
        X86Exit exit;
        do exit = _cpu.Enter(); while (exit.Reason == ExitReason.Kicked);
        ulong panic = *(ulong*)Pointer(Slot.Panic);
        if (exit.Reason == ExitReason.Hlt && panic == 0) return;
        _cpu.ReadState(_state);
        ulong trial = (*(ulong*)Pointer(Slot.Current) - Layout.Contexts) / Context.Size;
        string what = panic != 0
            ? $"exception {panic - 1} at 0x{*(ulong*)Pointer(Slot.PanicRip):X} outside of a case"
            : $"exit {exit.Reason} {exit.Message} address 0x{exit.Address:X} at RIP 0x{_state.Rip:X}";
        throw new GuestRigException((int)trial, what);
    }

    public void Dispose()
    {
        _cpu.Dispose();
        _vm.Dispose();
        _memory.Dispose();
    }

    private void Store(ulong kernelAddress, ulong value) => _memory.TryWrite(KernelPhysical + (kernelAddress - Kernel), value);

    private void BuildPageTables()
    {
        const ulong pml4 = 0x1000, lowPdpt = 0x2000, highPdpt = 0x3000, highPd = 0x4000, highPt = 0x5000, lowPd = 0x6000;
        const ulong user = 7, userRead = 5, supervisor = 3, noExecute = 1ul << 63;
        ulong nextTable = 0x2_0000;
        _memory.TryWrite(pml4, lowPdpt | user);
        _memory.TryWrite(pml4 + 256 * 8, highPdpt | supervisor);
        _memory.TryWrite(highPdpt, highPd | supervisor);
        _memory.TryWrite(highPd, highPt | supervisor);
        for (ulong n = 0; n < KernelPages; n++) _memory.TryWrite(highPt + n * 8, KernelPhysical + n * 0x1000 | supervisor);
        _memory.TryWrite(lowPdpt, lowPd | user);
        Map(Layout.Routine, Layout.RoutineSize, userRead);
        Map(Layout.Cases, Layout.CasesSize, userRead);
        Map(Layout.ReadOnly, Layout.ReadOnlySize, userRead | noExecute);
        Map(Layout.Slots, Layout.SlotsSize, user | noExecute);
        Map(Layout.Data, Layout.DataSize, user | noExecute);
        Map(Layout.Contexts, Layout.ContextsSize, user | noExecute);

        void Map(ulong linear, ulong size, ulong bits)
        {
            for (ulong a = linear; a < linear + size; a += 0x1000)
            {
                ulong pde = lowPd + ((a >> 21) & 0x1FF) * 8;
                _memory.TryRead(pde, out ulong table);
                if (table == 0)
                {
                    table = nextTable | user;
                    nextTable += 0x1000;
                    _memory.TryWrite(pde, table);
                }
                _memory.TryWrite((table & ~0xFFFul) + (a >> 12 & 0x1FF) * 8, Physical + (a - Layout.Base) | bits);
            }
        }
    }

    private void BuildHandlers(RoutineCode routine)
    {
        // The descriptors of Linux's GDT that a program can see, with the accessed bit set as there.
        Store(Gdt + 0x10, 0x00AF_9B00_0000_FFFF);
        Store(Gdt + 0x18, 0x00CF_9300_0000_FFFF);
        Store(Gdt + 0x20, 0x00CF_FB00_0000_FFFF);
        Store(Gdt + 0x28, 0x00CF_F300_0000_FFFF);
        Store(Gdt + 0x30, 0x00AF_FB00_0000_FFFF);
        Store(Ldt, Descriptor16(Layout.Cases, 0xFB));
        Store(Ldt + 8, Descriptor16(Layout.Data, 0xF3));
        Store(Tss + 4, KernelStack);
        Store(Tss + 0x60, 0x68ul << 48); // I/O map base beyond the limit: no port is free

        var a = new Assembler(64);
        var entries = new Label[256];
        Label common = a.CreateLabel(), panic = a.CreateLabel();
        for (int vector = 0; vector < 32; vector++)
        {
            entries[vector] = a.CreateLabel();
            a.Label(ref entries[vector]);
            if (vector is not (8 or 10 or 11 or 12 or 13 or 14 or 17)) a.push(0);
            a.push(vector);
            a.jmp(common);
        }
        entries[Layout.DoneVector] = a.CreateLabel();
        a.Label(ref entries[Layout.DoneVector]);
        a.hlt();
        a.ud2();

        a.Label(ref common);
        a.push(rax);
        a.push(rbx);
        a.cmp(__dword_ptr[Slot.InTest], 0);
        a.je(panic);
        a.mov(rbx, __qword_ptr[Slot.Current]);
        foreach ((int offset, int field) in (ReadOnlySpan<(int, int)>)[(16, Context.FaultVector), (24, Context.FaultError), (32, Context.FaultRip)])
        {
            a.mov(rax, __qword_ptr[rsp + offset]);
            a.mov(__qword_ptr[rbx + field], rax);
        }
        a.mov(rax, cr2);
        a.mov(__qword_ptr[rbx + Context.FaultAddress], rax);
        a.mov(rax, routine.Store);
        a.mov(__qword_ptr[rsp + 32], rax);
        a.and(__dword_ptr[rsp + 48], ~0x100);
        a.mov(__qword_ptr[rsp + 40], Layout.Code64);
        a.mov(__qword_ptr[rsp + 64], Layout.Flat);
        a.pop(rbx);
        a.pop(rax);
        a.add(rsp, 16);
        a.iretq();

        a.Label(ref panic);
        a.mov(rax, __qword_ptr[rsp + 16]);
        a.inc(rax);
        a.mov(__qword_ptr[Slot.Panic], rax);
        a.mov(rax, __qword_ptr[rsp + 32]);
        a.mov(__qword_ptr[Slot.PanicRip], rax);
        a.hlt();
        a.ud2();

        var writer = new ByteWriter();
        AssemblerResult result = a.Assemble(writer, Stubs, BlockEncoderOptions.ReturnNewInstructionOffsets);
        _memory.Write(KernelPhysical + (Stubs - Kernel), writer.ToArray());
        for (int vector = 0; vector < 256; vector++)
        {
            if (entries[vector].IsEmpty) continue;
            ulong handler = result.GetLabelRIP(entries[vector]);
            // As Linux has it: INT3 and INTO may be called by programs, and the 0x81 of ours.
            ulong dpl = vector is 3 or 4 or Layout.DoneVector ? 3ul : 0;
            Store(Idt + (ulong)vector * 16, (handler & 0xFFFF) | 0x10 << 16 | (0x8E00ul | dpl << 13) << 32 | (handler >> 16 & 0xFFFF) << 48);
            Store(Idt + (ulong)vector * 16 + 8, handler >> 32);
        }
    }

    /// <summary>A 64 KiB 16-bit segment.</summary>
    private static ulong Descriptor16(ulong start, ulong access) => 0xFFFF | (start & 0xFF_FFFF) << 16 | access << 40 | (start >> 24) << 56;

    private void PrepareState(ulong rip)
    {
        CpuState s = _state;
        Array.Clear(s.Gpr);
        s.Rip = rip;
        s.Rflags = 0x202;
        s.Cr0 = 0x8005_0033; // PG AM WP NE ET MP PE
        s.Cr3 = 0x1000;
        s.Cr4 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 16 | 1 << 18; // PAE PGE OSFXSR OSXMMEXCPT UMIP FSGSBASE OSXSAVE
        s.Efer = 0xD01; // SCE LME LMA NXE
        s.Xcr0 = 7;
        var flat = new SegmentState(Layout.Flat, 0, uint.MaxValue, 0xC0F3);
        s.Cs = new SegmentState(Layout.Code64, 0, uint.MaxValue, 0xA0FB);
        s.Ss = s.Ds = s.Es = flat;
        s.Fs = new SegmentState(0, Layout.FsBase, 0, 1 << 16);
        s.Gs = new SegmentState(0, Layout.GsBase, 0, 1 << 16);
        s.Ldtr = new SegmentState(0x50, Ldt, 15, 0x82);
        s.Tr = new SegmentState(0x40, Tss, 0x67, 0x8B);
        s.GdtrBase = Gdt;
        s.GdtrLimit = (ushort)(GdtSize - 1);
        s.IdtrBase = Idt;
        s.IdtrLimit = 0xFFF;
        s.Dr6 = 0xFFFF_0FF0;
        s.Dr7 = 0x400;
        s.InterruptShadow = s.NmiBlocked = false;
        Array.Clear(s.Xsave);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(512), 7ul);
    }
}

/// <summary>The guest did something no case can cause; the run is void from trial <see cref="Trial"/> on.</summary>
public sealed class GuestRigException(int trial, string message) : InvalidOperationException(message)
{
    public int Trial { get; } = trial;
}
