using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Bench.Nested;

/// <summary>What the guest inside the guest does again and again, to exit each time.</summary>
internal enum NestedExit
{
    /// <summary>VMCALL or VMMCALL: nothing but the exit and the entry.</summary>
    Empty,
    /// <summary>CPUID, which the hypervisor emulates: it reads and writes RIP.</summary>
    Cpuid,
    /// <summary>A load from a page that the second stage does not map.</summary>
    SecondStage,
}

/// <summary>A hypervisor of a few instructions in 64-bit mode that enters its guest again after each exit, at the exit boundary alone.</summary>
internal sealed class NestedLoop : IDisposable
{
    private const uint Gdt = 0x1000, Idt = 0x2000, Tss = 0x3000, Code = 0x4000, AfterExit = 0x5000, Stack = 0x8000, GuestCode = 0x9000, Tables = 0xA000,
        Operation = 0x1_0000, Control = 0x1_1000, Save = 0x1_2000, Zeros = 0x1_3000, Fields = 0x1_8000, Second = 0x2_0000, Hole = 0x20_0000;
    private const ulong Present = 7, Large = 1 << 7;

    private readonly GuestMemory _memory = new(4 << 20);
    private readonly IX86Vm _vm;
    private readonly IX86Cpu _cpu;
    private readonly bool _isVmx;
    private readonly NestedExit _kind;

    public NestedLoop(IX86Engine engine, bool isVmx, NestedExit kind)
    {
        (_isVmx, _kind) = (isVmx, kind);
        _vm = engine.CreateVm(_memory, CpuModels.Parse(isVmx ? "max,+vmx" : "max,+svm"), new VirtualClock());
        _cpu = _vm.CreateCpu(0);
        _memory.TryWrite(Gdt + 8, 0x00AF_9B00_0000_FFFFul);
        _memory.TryWrite(Gdt + 16, 0x00CF_9300_0000_FFFFul);
        WriteTables(Tables, Present, Present, hole: false);
        WriteTables(Second, Present, isVmx ? Present | 6 << 3 : Present, hole: kind == NestedExit.SecondStage);
        Place(GuestCode, Guest);
        Place(Code, isVmx ? Intel : Amd);
        if (isVmx) Place(AfterExit, IntelAfterExit);
        if (isVmx) WriteFields();
        else WriteVmcb();
    }

    /// <summary>4 MiB by two pages of 2 MiB.</summary>
    private void WriteTables(uint at, ulong table, ulong leaf, bool hole)
    {
        _memory.TryWrite(at, at + 0x1000ul | table);
        _memory.TryWrite(at + 0x1000, at + 0x2000ul | table);
        _memory.TryWrite(at + 0x2000, leaf | Large);
        _memory.TryWrite(at + 0x2008, hole ? 0 : Hole | leaf | Large);
    }

    private void Place(uint at, Action<Assembler> emit)
    {
        var a = new Assembler(64);
        emit(a);
        using var bytes = new MemoryStream();
        a.Assemble(new StreamCodeWriter(bytes), at);
        _memory.Write(at, bytes.ToArray());
    }

    private void Guest(Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        if (_kind == NestedExit.Cpuid) a.cpuid();
        else if (_kind == NestedExit.SecondStage) a.mov(eax, __dword_ptr[Hole]);
        else if (_isVmx) a.vmcall();
        else a.vmmcall();
        a.jmp(again);
    }

    private void Amd(Assembler a)
    {
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.mov(rax, (ulong)Control);
        a.db(0x0F, 0x01, 0xD8); // VMRUN
        if (_kind == NestedExit.Cpuid) a.add(__qword_ptr[Control + 0x578], 2);
        a.dec(rbp);
        a.jnz(again);
        a.hlt();
    }

    private static void Intel(Assembler a)
    {
        Label write = a.CreateLabel(), enter = a.CreateLabel(), locked = a.CreateLabel();
        a.mov(ecx, 0x3A);
        a.rdmsr();
        a.test(al, 1);
        a.jnz(locked);
        a.mov(eax, 5);
        a.xor(edx, edx);
        a.wrmsr();
        a.Label(ref locked);
        a.vmxon(__qword_ptr[Fields - 16]);
        a.vmclear(__qword_ptr[Fields - 8]);
        a.vmptrld(__qword_ptr[Fields - 8]);
        a.mov(esi, Fields);
        a.Label(ref write);
        a.mov(rax, __qword_ptr[rsi]);
        a.cmp(rax, -1);
        a.je(enter);
        a.vmwrite(rax, __qword_ptr[rsi + 8]);
        a.add(rsi, 16);
        a.jmp(write);
        a.Label(ref enter);
        a.vmlaunch();
        a.ud2();
    }

    private void IntelAfterExit(Assembler a)
    {
        Label end = a.CreateLabel();
        a.dec(rbp);
        a.jz(end);
        if (_kind == NestedExit.Cpuid)
        {
            a.mov(eax, 0x681E);
            a.vmread(rdx, rax);
            a.add(rdx, 2);
            a.vmwrite(rax, rdx);
        }
        a.vmresume();
        a.ud2();
        a.Label(ref end);
        a.vmxoff();
        a.hlt();
    }

    private static CpuState State()
    {
        var data = new SegmentState(16, 0, uint.MaxValue, 0xC093);
        var s = new CpuState
        {
            Rip = Code,
            Rflags = 2,
            Cr0 = 0x8001_0033,
            Cr3 = Tables,
            Cr4 = 0x620,
            Efer = 0xD01,
            Dr6 = 0xFFFF_0FF0,
            Dr7 = 0x400,
            Xcr0 = 1,
            Cs = new SegmentState(8, 0, uint.MaxValue, 0xA09B),
            Ds = data,
            Es = data,
            Fs = data,
            Gs = data,
            Ss = data,
            Tr = new SegmentState(0x18, Tss, 0x67, 0x8B),
            Ldtr = new SegmentState(0, 0, 0, 0x1_0082),
            GdtrBase = Gdt,
            GdtrLimit = 0x7F,
            IdtrBase = Idt,
            IdtrLimit = 0xFFF,
        };
        s.Gpr[4] = Stack;
        BitConverter.TryWriteBytes(s.Xsave, (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        return s;
    }

    private void WriteFields()
    {
        _memory.TryWrite(Operation, 0x42_0001u);
        _memory.TryWrite(Control, 0x42_0001u);
        _memory.TryWrite(Fields - 16, (ulong)Operation);
        _memory.TryWrite(Fields - 8, (ulong)Control);
        CpuState s = State();
        ulong cr4 = s.Cr4 | 0x2000;
        (uint Field, ulong Value)[] fields =
        [
            (0x4000, 0x16), (0x4002, 0x8400_6172 | 1 << 28), (0x401E, 1 << 1 | 1 << 5), (0x400C, 0x3_6FFF | 3 << 20), (0x4012, 0x11FF | 1 << 9 | 1 << 15),
            (0, 1), (0x2004, Zeros), (0x201A, Second | 0x1E), (0x2800, ulong.MaxValue), (0x6C00, s.Cr0), (0x6C02, s.Cr3), (0x6C04, cr4), (0x2C02, s.Efer),
            (0xC02, 8), (0xC04, 16), (0xC00, 16), (0xC06, 16), (0xC0C, 0x18), (0x6C0A, Tss), (0x6C0C, Gdt), (0x6C0E, Idt), (0x6C14, Stack), (0x6C16, AfterExit),
            (0x6800, s.Cr0), (0x6802, s.Cr3), (0x6804, cr4), (0x2806, s.Efer), (0x802, 8), (0x804, 16), (0x800, 16), (0x806, 16), (0x80E, 0x18),
            (0x4802, uint.MaxValue), (0x4804, uint.MaxValue), (0x4800, uint.MaxValue), (0x4806, uint.MaxValue), (0x480E, 0x67), (0x6814, Tss), (0x4816, 0xA09B),
            (0x4818, 0xC093), (0x4814, 0xC093), (0x481A, 0xC093), (0x481C, 0x1_0000), (0x481E, 0x1_0000), (0x4820, 0x1_0000), (0x4822, 0x8B), (0x6816, Gdt),
            (0x6818, Idt), (0x4810, 0x7F), (0x4812, 0xFFF), (0x681A, 0x400), (0x681C, Stack), (0x681E, GuestCode), (0x6820, 2),
        ];
        uint at = Fields;
        foreach ((uint field, ulong value) in fields)
        {
            _memory.TryWrite<ulong>(at, field);
            _memory.TryWrite(at + 8, value);
            at += 16;
        }
        _memory.TryWrite(at, ulong.MaxValue);
    }

    private void WriteVmcb()
    {
        CpuState s = State();
        void Set(uint offset, ulong value) => _memory.TryWrite(Control + offset, value);
        void Segment(uint offset, ulong selector, ulong attributes, ulong limit, ulong @base)
        {
            Set(offset, selector | attributes << 16 | limit << 32);
            Set(offset + 8, @base);
        }
        Set(0x08, 1ul << 50); // CPUID
        Set(0x10, 3); // VMRUN, VMMCALL
        Set(0x58, 1); // ASID
        Set(0x90, 1);
        Set(0xB0, Second);
        foreach (uint at in (uint[])[0x400, 0x420, 0x430, 0x440, 0x450]) Segment(at, 16, 0xC93, uint.MaxValue, 0);
        Segment(0x410, 8, 0xA9B, uint.MaxValue, 0);
        Segment(0x460, 0, 0, 0x7F, Gdt);
        Segment(0x480, 0, 0, 0xFFF, Idt);
        Segment(0x490, 0x18, 0x8B, 0x67, Tss);
        (uint, ulong)[] fields = [(0x4D0, s.Efer | 0x1000), (0x548, s.Cr4), (0x550, s.Cr3), (0x558, s.Cr0), (0x560, 0x400), (0x568, 0xFFFF_0FF0), (0x570, 2),
            (0x578, GuestCode), (0x5D8, Stack), (0x668, 0x0007_0406_0007_0406)];
        foreach ((uint offset, ulong value) in fields) Set(offset, value);
    }

    /// <summary>Nanoseconds for each of <paramref name="count"/> exits with the entry behind it.</summary>
    public double Measure(int count)
    {
        CpuState s = State();
        if (_isVmx) s.Cr4 |= 0x2000;
        else s.Efer |= 0x1000;
        if (!_isVmx) s.Svm = new SvmState { HostSaveArea = Save };
        s.Gpr[5] = (ulong)count;
        _cpu.WriteState(s);
        // Processor time where the host tells it: others may use it, too.
        using ThreadAccounting? account = ThreadAccounting.OfCurrentThread();
        long started = account?.Read().Run ?? 0, start = Stopwatch.GetTimestamp();
        X86Exit exit;
        do exit = _cpu.Enter();
        while (exit.Reason == ExitReason.Kicked);
        double time = account?.Read().Run - started ?? Stopwatch.GetElapsedTime(start).TotalNanoseconds;
        _cpu.ReadState(s);
        if (exit.Reason != ExitReason.Hlt || s.Gpr[5] != 0) throw new InvalidOperationException($"exit {exit.Reason} {exit.Message}, {s.Gpr[5]} rounds left");
        return time / count;
    }

    public void Dispose()
    {
        _cpu.Dispose();
        _vm.Dispose();
        _memory.Dispose();
    }
}
