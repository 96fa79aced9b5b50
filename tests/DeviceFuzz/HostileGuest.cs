using System.Numerics;
using System.Runtime.InteropServices;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;
using Iced.Intel;
using static Bunraku.DeviceFuzz.GuestParts;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.DeviceFuzz;

/// <summary>
/// A 64-bit guest that reads and writes ports, device memory and MSRs at random, makes hypercalls and DMA, and survives the exceptions, interrupts and NMIs
/// that come of it. Each processor counts what it did at <see cref="Counter"/>. The sequence follows from the seed alone; when interrupts come does not.
/// </summary>
/// <remarks>
/// What devices write at random addresses misses it: it lies below 640 KiB and above 64 KiB, with address bit 20 clear (A20 may be masked) and not at powers of
/// two; DMA commands come from memory that nobody else writes to. EFER is left alone. Everything else that ends or spoils the guest ends the VM.
/// </remarks>
public static class HostileGuest
{
    public const ulong MemorySize = 16 << 20;
    public const int MostCpus = 16;

    private const uint Trampoline = 0x2_1000, Gdt = 0x2_2000, Idt = 0x2_3000, Pml4 = 0x2_4000, Pdpt = 0x2_5000, Tss = 0x2_6000, PortTable = 0x2_8000,
        MmioTable = 0x2_8800, MsrTable = 0x2_9000,
        Pointers = 0x2_9800, NumberOfCpus = 0x2_9900, Seed = 0x2_9908, Blocks = 0x2_A000, Code = 0x2_C000, CodeEnd = 0x3_0000, Stacks = 0x5_0000,
        Scratch = 0x8_0000, Commands = 0x9_0000;
    private const int BlockSize = 64, StackTopOffset = 8, InterruptsOffset = 16, NmiTurnOffset = 24, InterruptTurnOffset = 32, StackSize = 0x1000;
    private const ushort TssSelector = 0x18;
    private const ushort DmaCommand = FwCfg.SelectorPort + 8;
    private const uint EferMsr = 0xC000_0080, ApicBaseMsr = 0x1B, X2ApicEoi = 0x80B;
    private const int NmiVector = 2, Exceptions = 32, InterruptFlag = 0x200;

    /// <summary>Physical address of a processor's count of accesses, 64 bits.</summary>
    public static ulong Counter(int cpu) => Blocks + (uint)cpu * BlockSize;

    /// <summary>Physical address of a processor's count of interrupts and NMIs, 64 bits.</summary>
    public static ulong Interrupts(int cpu) => Counter(cpu) + InterruptsOffset;

    /// <summary>Puts the guest into a VM with a board and its first processor at the beginning. Before the VM starts.</summary>
    public static void Load(X86Machine vm, ulong seed)
    {
        GuestMemory memory = vm.Memory;
        ReadOnlySpan<ulong> gdt = [0, CodeDescriptor64, DataDescriptor, 0x0000_8B00_0000_0067 | (ulong)Tss << 16, 0];
        Write(memory, Gdt, MemoryMarshal.AsBytes(gdt));
        memory.TryWrite(Pml4, Pdpt | 3ul);
        for (uint n = 0; n < 512; n++) memory.TryWrite(Pdpt + n * 8, (ulong)n << 30 | 0x83); // 512 GiB, each address its own
        Write(memory, PortTable, Bytes(HostilePlan.Ports));
        Write(memory, MmioTable, Bytes(HostilePlan.Mmio));
        Write(memory, MsrTable, Bytes(HostilePlan.Msrs));
        memory.TryWrite(Seed, seed);
        for (int n = 0; n < MostCpus; n++) memory.TryWrite(Counter(n) + StackTopOffset, Stacks + (ulong)(n + 1) * StackSize);
        // GDTR at Pointers, IDTR at Pointers + 16.
        memory.TryWrite(Pointers, (ushort)(gdt.Length * 8 - 1));
        memory.TryWrite(Pointers + 2, (ulong)Gdt);
        memory.TryWrite(Pointers + 16, (ushort)0xFFF);
        memory.TryWrite(Pointers + 18, (ulong)Idt);
        var scratch = new byte[0x1_F000];
        new Random((int)seed).NextBytes(scratch);
        Write(memory, Scratch, scratch);

        var program = new Program(vm.Cpus.Count);
        Write(memory, Code, program.Bytes);
        Write(memory, Trampoline, TrampolineCode(program.Application));
        for (int vector = 0; vector < 256; vector++)
            Gate(memory, vector, vector == NmiVector ? program.Nmi : vector < Exceptions ? program.Exception : program.Interrupt);
        vm.Cpus[0].Cpu.WriteState(InitialState(program.Entry));
    }

    private static byte[] Bytes(Target[] targets) => MemoryMarshal.AsBytes<Target>(targets).ToArray();

    private static void Write(GuestMemory memory, ulong at, ReadOnlySpan<byte> bytes)
    {
        if (!memory.Write(at, bytes)) throw new InvalidOperationException("the guest does not fit");
    }

    private static void Gate(GuestMemory memory, int vector, ulong to) =>
        memory.TryWrite(Idt + (uint)vector * 16, (to & 0xFFFF) | (ulong)CodeSelector << 16 | 0x8Eul << 40 | (to >> 16 & 0xFFFF) << 48);

    private static CpuState InitialState(ulong entry)
    {
        CpuState s = FlatState(entry, 0xA09B);
        (s.Cr0, s.Cr3, s.Cr4, s.Efer) = (0x8001_0033, Pml4, 0x620, 0x500);
        (s.GdtrBase, s.GdtrLimit) = (Gdt, 0x27);
        (s.IdtrBase, s.IdtrLimit) = (Idt, 0xFFF);
        s.Tr = new SegmentState(TssSelector, Tss, 0x67, 0x8B);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(512), 3ul);
        return s;
    }

    /// <summary>What the start-up IPI starts: from real mode to 64-bit mode.</summary>
    private static byte[] TrampolineCode(ulong application) => Assemble(16, 0, a =>
    {
        a.cli();
        a.mov(ax, (ushort)(Pointers >> 4));
        a.mov(ds, ax);
        a.db(0x66); // all 32 bits of the base
        a.lgdt(__[0]);
        a.mov(eax, 0x620);
        a.mov(cr4, eax);
        a.mov(eax, Pml4);
        a.mov(cr3, eax);
        a.mov(ecx, EferMsr);
        a.mov(eax, 0x100);
        a.xor(edx, edx);
        a.wrmsr();
        a.mov(eax, 0x8001_0033);
        a.mov(cr0, eax);
        // JMP ptr16:32
        a.db(0x66, 0xEA, (byte)application, (byte)(application >> 8), (byte)(application >> 16), (byte)(application >> 24), (byte)CodeSelector, 0);
    }, out _);

    /// <summary>
    /// The 64-bit code. R15 is the generator's state, R14 the processor's block; the rest is scratch, and an exception goes on with the next access.
    /// </summary>
    private sealed class Program
    {
        private Label _next, _random, _value, _target, _restart;

        public Program(int cpus)
        {
            Label entry = default, application = default, nmi = default, interrupt = default;
            Bytes = Assemble(64, Code, a =>
            {
                (_next, _random, _value, _target, _restart) = (a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel());
                (entry, application, nmi, interrupt) = (a.CreateLabel(), a.CreateLabel(), a.CreateLabel(), a.CreateLabel());
                a.Label(ref entry);
                a.mov(r14d, Blocks);
                a.mov(r15, __qword_ptr[Seed]);
                a.mov(rsp, __qword_ptr[r14 + StackTopOffset]);
                SetUp(a);
                if (cpus > 1) StartOthers(a);
                a.Label(ref _restart);
                a.cld();
                a.mov(rsp, __qword_ptr[r14 + StackTopOffset]);
                a.Label(ref _next);
                Choose(a);
                Helpers(a);
                Handlers(a, ref nmi, ref interrupt);
                a.Label(ref application);
                BeginOther(a);
            }, out AssemblerResult result);
            if (Bytes.Length > CodeEnd - Code) throw new InvalidOperationException("the code does not fit");
            (Entry, Application, Nmi, Interrupt, Exception) = (result.GetLabelRIP(entry), result.GetLabelRIP(application), result.GetLabelRIP(nmi),
                result.GetLabelRIP(interrupt), result.GetLabelRIP(_restart));
        }

        public byte[] Bytes { get; }
        public ulong Entry { get; }
        public ulong Application { get; }
        public ulong Nmi { get; }
        public ulong Interrupt { get; }
        public ulong Exception { get; }

        /// <summary>
        /// Begins as an operating system does, so that interrupts come: 8259A at 20h and 28h, 8254 at 1 kHz, local APIC on, its timer and COM1 too, LINT1 is
        /// NMI.
        /// </summary>
        private static void SetUp(Assembler a)
        {
            foreach ((ushort port, byte value) in (ReadOnlySpan<(ushort, byte)>)
                [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0), (0xA0, 0x11), (0xA1, 0x28), (0xA1, 2), (0xA1, 1), (0xA1, 0), (0x43, 0x34),
                    (0x40, 0xA9), (0x40, 4), (0x3F9, 0xF), (0x3FC, 8)])
            {
                a.mov(edx, port);
                a.mov(al, value);
                a.@out(dx, al);
            }
            a.mov(ebx, (uint)MemoryLayout.LocalApic);
            foreach ((int register, uint value) in (ReadOnlySpan<(int, uint)>)[(0xF0, 0x1FF), (0x360, 0x400), (0x3E0, 0xB), (0x320, 0x2_0050),
                (0x380, 1_000_000)]) a.mov(__dword_ptr[rbx + register], value);
        }

        private static void StartOthers(Assembler a)
        {
            a.mov(ebx, (uint)(MemoryLayout.LocalApic + 0xF0));
            a.mov(__dword_ptr[rbx], 0x1FF);
            a.mov(ebx, (uint)(MemoryLayout.LocalApic + 0x300));
            foreach (uint command in (ReadOnlySpan<uint>)[0xC_4500, 0xC_4600 | Trampoline >> 12, 0xC_4600 | Trampoline >> 12]) a.mov(__dword_ptr[rbx], command);
        }

        private void BeginOther(Assembler a)
        {
            a.mov(eax, DataSelector);
            a.mov(ds, ax);
            a.mov(es, ax);
            a.mov(ss, ax);
            a.lidt(__[Pointers + 16]);
            a.mov(eax, 1);
            a.@lock.xadd(__dword_ptr[NumberOfCpus], eax);
            a.inc(eax);
            a.and(eax, MostCpus - 1);
            a.mov(ecx, eax);
            a.shl(ecx, 6);
            a.mov(r14d, Blocks);
            a.add(r14, rcx);
            a.inc(eax);
            a.mov(r15, __qword_ptr[Seed]);
            a.imul(r15, rax);
            a.jmp(_restart);
        }

        /// <summary>One access: 1 in 64 for each unit of weight.</summary>
        private void Choose(Assembler a)
        {
            (int Weight, Action<Assembler> Emit)[] kinds =
            [
                (22, Port), (21, Mmio), (9, Msr), (2, Hypercall), (1, TaskPriority), (2, FirmwareDma), (1, EndOfInterrupt), (2, Odd), (3, b => b.sti()),
                (1, b => b.cli()),
            ];
            Label[] labels = [.. kinds.Select(_ => a.CreateLabel())];
            a.inc(__qword_ptr[r14]);
            a.call(_random);
            a.and(eax, 63);
            int sum = 0;
            for (int n = 0; n < kinds.Length - 1; n++)
            {
                a.cmp(eax, sum += kinds[n].Weight);
                a.jb(labels[n]);
            }
            a.jmp(labels[^1]);
            for (int n = 0; n < kinds.Length; n++)
            {
                a.Label(ref labels[n]);
                kinds[n].Emit(a);
                a.jmp(_next);
            }
        }

        /// <summary>Emits a choice by the low bits of RCX, which it takes away; the number of choices is a power of two.</summary>
        private void OneOf(Assembler a, params Action<Assembler>[] choices)
        {
            a.mov(eax, ecx);
            a.and(eax, choices.Length - 1);
            a.shr(rcx, (byte)BitOperations.Log2((uint)choices.Length));
            Switch(a, eax, b => b.jmp(_next), choices);
        }

        /// <summary>Emits a choice by a register's value, which is the first when it is out of range; each ends with the same.</summary>
        private static void Switch(Assembler a, AssemblerRegister32 selector, Action<Assembler> end, params Action<Assembler>[] choices)
        {
            Label[] labels = [.. choices.Select(_ => a.CreateLabel())];
            for (int n = 1; n < choices.Length; n++)
            {
                a.cmp(selector, n);
                a.je(labels[n]);
            }
            for (int n = 0; n < choices.Length; n++)
            {
                if (n > 0) a.Label(ref labels[n]);
                choices[n](a);
                end(a);
            }
        }

        /// <summary>RBX = an address of the table, R13 = a value, RCX = random.</summary>
        private void Pick(Assembler a, uint table, int entries)
        {
            a.mov(esi, table);
            a.mov(edi, entries - 1);
            a.call(_target);
            a.mov(r12, rax);
            a.call(_value);
            a.mov(r13, rax);
            a.call(_random);
            a.mov(rcx, rax);
            a.mov(rbx, r12);
        }

        private void Port(Assembler a)
        {
            Pick(a, PortTable, HostilePlan.Ports.Length);
            a.mov(edx, ebx);
            void Out(Assembler b, int size)
            {
                b.mov(rax, r13);
                if (size == 1) b.@out(dx, al);
                if (size == 2)
                {
                    // Every other one of 16 bits at CF8h would reset the machine.
                    Label word = b.CreateLabel();
                    b.cmp(dx, PciHost.FirstPort);
                    b.jne(word);
                    b.@out(dx, eax);
                    b.jmp(_next);
                    b.Label(ref word);
                    b.@out(dx, ax);
                }
                if (size == 4)
                {
                    // A DMA command anywhere in memory could zero the guest: it is one of those in memory that nobody else writes to (the register is
                    // big-endian).
                    Label other = b.CreateLabel();
                    b.cmp(dx, DmaCommand);
                    b.jne(other);
                    b.and(eax, unchecked((int)0xFFFF_0000));
                    b.or(eax, (int)(Commands >> 8));
                    b.Label(ref other);
                    b.@out(dx, eax);
                }
            }
            OneOf(a,
                b => b.@in(al, dx), b => b.@in(al, dx), b => b.@in(ax, dx), b => b.@in(eax, dx), b => b.@in(eax, dx), b => b.@in(al, dx), b => b.@in(ax, dx),
                b => Out(b, 1), b => Out(b, 1), b => Out(b, 1), b => Out(b, 2), b => Out(b, 2), b => Out(b, 4), b => Out(b, 4), b => Out(b, 1),
                PortString);
        }

        /// <summary>REP INS and OUTS of up to 63 elements, from and to memory or a device.</summary>
        private void PortString(Assembler a)
        {
            Label memory = a.CreateLabel();
            foreach (ushort port in (ReadOnlySpan<ushort>)[PciHost.FirstPort, 0x64, DmaCommand])
            {
                // Many at once reset the machine, or zero the guest.
                a.cmp(dx, port);
                a.je(_next);
            }
            a.push(rdx);
            a.push(rcx);
            a.mov(rdi, r13);
            a.and(edi, 0x7FFF);
            a.add(edi, Scratch);
            a.test(ecx, 0x3000);
            a.jnz(memory);
            a.mov(esi, MmioTable);
            a.mov(edi, HostilePlan.Mmio.Length - 1);
            a.call(_target);
            a.mov(rdi, rax);
            a.Label(ref memory);
            a.pop(rcx);
            a.pop(rdx);
            a.mov(rsi, rdi);
            a.mov(r8, rcx);
            a.shr(r8, 16);
            a.xchg(rcx, r8);
            a.and(ecx, 63);
            // RCX is the count: the choice goes by R8.
            a.and(r8d, 7);
            Switch(a, r8d, b => b.jmp(_next), b => b.rep.insb(), b => b.rep.insw(), b => b.rep.insd(), b => b.rep.outsb(), b => b.rep.outsw(),
                b => b.rep.outsd());
        }

        private void Mmio(Assembler a)
        {
            Pick(a, MmioTable, HostilePlan.Mmio.Length);
            OneOf(a,
                b => b.mov(al, __byte_ptr[rbx]), b => b.mov(ax, __word_ptr[rbx]), b => b.mov(eax, __dword_ptr[rbx]), b => b.mov(rax, __qword_ptr[rbx]),
                b => b.mov(__byte_ptr[rbx], r13b), b => b.mov(__word_ptr[rbx], r13w), b => b.mov(__dword_ptr[rbx], r13d), b => b.mov(__qword_ptr[rbx], r13),
                b => b.mov(eax, __dword_ptr[rbx]), b => b.mov(__dword_ptr[rbx], r13d), b => b.mov(__dword_ptr[rbx], r13d), b => b.mov(__qword_ptr[rbx], r13),
                b => b.@lock.add(__dword_ptr[rbx], r13d), b => b.xchg(__qword_ptr[rbx], r13), b => b.movups(xmm0, __xmmword_ptr[rbx]), OddMmio);
        }

        private void OddMmio(Assembler a)
        {
            void Copy(Assembler b, bool fromDevice, bool bytes)
            {
                b.and(ecx, 63);
                b.mov(rsi, rbx);
                b.mov(rdi, r13);
                b.and(edi, 0x7FFF);
                b.add(edi, Scratch);
                if (!fromDevice) b.xchg(rsi, rdi);
                if (bytes) b.rep.movsb();
                else b.rep.movsq();
            }
            void Store(Assembler b)
            {
                b.and(ecx, 63);
                b.mov(rdi, rbx);
                b.mov(rax, r13);
                b.rep.stosd();
            }
            void Aligned(Assembler b, Action<Assembler> use)
            {
                b.and(rbx, -16);
                use(b);
            }
            OneOf(a,
                b => b.movups(__xmmword_ptr[rbx], xmm0), b => Copy(b, true, true), b => Copy(b, true, false), b => Copy(b, false, true), b =>
                    Copy(b, false, false), Store,
                b => Aligned(b, c => c.fxsave(__[rbx])), b => Aligned(b, c => c.fxrstor(__[rbx])), b => Aligned(b, c => c.@lock.cmpxchg16b(__xmmword_ptr[rbx])),
                b => b.push(__qword_ptr[rbx]), b => b.@lock.bts(__qword_ptr[rbx], r13), b => b.@lock.xadd(__word_ptr[rbx], r13w), b =>
                b.cmp(__byte_ptr[rbx], r13b),
                b => b.sidt(__[rbx]), b => b.invlpg(__[rbx]), b => b.fld(__tword_ptr[rbx]));
        }

        private void Msr(Assembler a)
        {
            Label skip = a.CreateLabel();
            Pick(a, MsrTable, HostilePlan.Msrs.Length);
            a.mov(r8, rcx);
            a.mov(ecx, ebx);
            a.cmp(ecx, EferMsr);
            a.je(skip);
            a.mov(rax, r13);
            a.mov(rdx, r13);
            a.shr(rdx, 32);
            a.test(r8d, 3);
            Label read = a.CreateLabel();
            a.jz(read);
            a.wrmsr();
            a.jmp(_next);
            a.Label(ref read);
            a.rdmsr();
            a.Label(ref skip);
            a.nop();
        }

        private void Hypercall(Assembler a)
        {
            foreach (AssemblerRegister64 register in (AssemblerRegister64[])[r8, r9, r10, r11])
            {
                a.call(_value);
                a.mov(register, rax);
            }
            a.call(_random);
            a.mov(rbx, r8);
            a.mov(rcx, r9);
            a.mov(rdx, r10);
            a.mov(rsi, r11);
            Label all = a.CreateLabel(), other = a.CreateLabel();
            a.bt(rax, 40);
            a.jc(all);
            a.and(eax, 15);
            a.Label(ref all);
            a.bt(r10, 3);
            a.jc(other);
            a.vmmcall();
            a.jmp(_next);
            a.Label(ref other);
            a.vmcall();
        }

        private void TaskPriority(Assembler a)
        {
            a.call(_value);
            a.mov(cr8, rax);
            a.mov(rax, cr8);
        }

        /// <summary>A descriptor at random that moves data between an item and scratch memory or devices.</summary>
        private void FirmwareDma(Assembler a)
        {
            Label toScratch = a.CreateLabel();
            Pick(a, MmioTable, HostilePlan.Mmio.Length);
            a.mov(r8d, ecx);
            a.and(r8d, 0x3F_001F);
            a.bswap(r8d);
            a.mov(__dword_ptr[Commands + 0xF000], r8d);
            a.shr(rcx, 24);
            a.test(ecx, 3);
            a.jz(toScratch); // a device's address and any length
            a.mov(rbx, rcx);
            a.and(ebx, 0x3FFF);
            a.add(ebx, Scratch);
            a.and(r13d, 0x3FFF);
            a.Label(ref toScratch);
            a.bswap(rbx);
            a.mov(__qword_ptr[Commands + 0xF008], rbx);
            a.bswap(r13d);
            a.mov(__dword_ptr[Commands + 0xF004], r13d);
            a.mov(edx, DmaCommand - 4);
            a.xor(eax, eax);
            a.@out(dx, eax);
            a.mov(edx, DmaCommand);
            a.mov(eax, Commands + 0xF000);
            a.bswap(eax);
            a.@out(dx, eax);
        }

        private static void EndOfInterrupt(Assembler a)
        {
            Label page = a.CreateLabel(), done = a.CreateLabel();
            a.mov(ecx, ApicBaseMsr);
            a.rdmsr();
            a.test(eax, 0x400);
            a.jz(page);
            a.mov(ecx, X2ApicEoi);
            a.xor(eax, eax);
            a.xor(edx, edx);
            a.wrmsr();
            a.jmp(done);
            a.Label(ref page);
            a.mov(eax, (uint)(MemoryLayout.LocalApic + 0xB0));
            a.mov(__dword_ptr[rax], 0);
            a.Label(ref done);
            a.mov(al, 0x20);
            a.@out(0xA0, al);
            a.@out(0x20, al);
        }

        private void Odd(Assembler a)
        {
            Pick(a, MmioTable, HostilePlan.Mmio.Length);
            OneOf(a, b =>
            {
                b.mov(rax, r13);
                b.cpuid();
            }, b => b.rdtscp(), b => b.wbinvd(), b => b.pause());
        }

        private void Helpers(Assembler a)
        {
            // random: RAX = 64 bits (xorshift64*); RDX is lost.
            a.Label(ref _random);
            foreach ((byte bits, bool left) in (ReadOnlySpan<(byte, bool)>)[(12, false), (25, true), (27, false)])
            {
                a.mov(rax, r15);
                if (left) a.shl(rax, bits);
                else a.shr(rax, bits);
                a.xor(r15, rax);
            }
            a.mov(rax, 0x2545_F491_4F6C_DD1D);
            a.imul(rax, r15);
            a.bswap(rax);
            a.ret();

            // target: RAX = an address out of the table at RSI with EDI + 1 entries.
            a.Label(ref _target);
            a.call(_random);
            a.and(eax, edi);
            a.shl(eax, 4);
            a.add(rsi, rax);
            a.call(_random);
            a.and(rax, __qword_ptr[rsi + 8]);
            a.add(rax, __qword_ptr[rsi]);
            a.ret();

            // value: RAX = what is more interesting than noise; RBX, RCX, RDX are lost.
            a.Label(ref _value);
            a.call(_random);
            a.mov(rbx, rax);
            a.call(_random);
            a.mov(rcx, rax);
            a.and(eax, 7);
            a.shr(rcx, 8);
            Switch(a, eax, b =>
                {
                    b.mov(rax, rbx);
                    b.ret();
                },
                b => b.and(ebx, 3),
                b => b.or(rbx, -1),
                b =>
                {
                    b.mov(ebx, 1);
                    b.shl(rbx, cl);
                },
                b => b.and(ebx, 0xFFFF),
                b =>
                {
                    // CONFIG_ADDRESS of bus 0
                    b.and(ebx, 0xFFFF);
                    b.or(ebx, int.MinValue);
                },
                b =>
                {
                    // An address in scratch memory, with or without a bit that enables
                    b.and(ebx, 0xFFC0);
                    b.and(ecx, 1);
                    b.lea(ebx, __[ebx + ecx + Scratch]);
                },
                b => b.and(ebx, 0x3F),
                b => b.nop());
        }

        private static void Handlers(Assembler a, ref Label nmi, ref Label interrupt)
        {
            // Every other one goes back with interrupts off, so that no storm of them stops the guest; each handler has its own turns, since they may come in
            // pairs. Vector 2 comes from the 8259A too.
            a.Label(ref nmi);
            CountInterrupt(a, NmiTurnOffset);
            a.iretq();

            a.Label(ref interrupt);
            a.push(rax);
            a.push(rcx);
            a.push(rdx);
            EndOfInterrupt(a);
            a.pop(rdx);
            a.pop(rcx);
            a.pop(rax);
            CountInterrupt(a, InterruptTurnOffset);
            a.iretq();
        }

        private static void CountInterrupt(Assembler a, int turn)
        {
            Label keep = a.CreateLabel();
            a.inc(__qword_ptr[r14 + InterruptsOffset]);
            a.xor(__byte_ptr[r14 + turn], 1);
            a.jz(keep);
            a.and(__qword_ptr[rsp + 16], ~InterruptFlag);
            a.Label(ref keep);
        }
    }
}
