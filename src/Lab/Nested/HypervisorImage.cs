using Bunraku.Engines;
using Bunraku.Lab.PopekGoldberg;
using Iced.Intel;
using static Bunraku.Engines.X86.PagingBits;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.Nested;

/// <summary>
/// Memory and start state of hypervisors inside each other, and of the guest of the innermost. Each level has a MiB of its own; every page table, of
/// guests and of second stages, maps each address to itself, so that a pointer means the same at every level. All of them use the same descriptor tables,
/// and none of them takes interrupts.
/// </summary>
internal abstract class HypervisorImage : IDisposable
{
    public const ulong MemorySize = 8 << 20;
    /// <summary>The guest reads how often it is to exit from here, each time anew; no hypervisor inside wants this port.</summary>
    public const byte NextPort = 0x55;

    protected const uint Gdt = 0x1000, Idt = 0x2000, Tss = 0x3000, Tables = 0xA000, StackOffset = 0x8000, RegistersOffset = 0x8100, SecondStageOffset = 0xA000;
    /// <summary>A level's control block for its guest, and the outer hypervisor's for its guest's guest.</summary>
    protected const uint OwnOffset = 0x1_1000, InnerOffset = 0x1_2000;
    protected const ushort CodeSelector = 8, DataSelector = 16, TssSelector = 24;
    protected const ushort GdtLimit = 0x7F, IdtLimit = 0xFFF, TssLimit = 0x67;
    protected const ulong ResetDr7 = 0x400, ResetPat = 0x0007_0406_0007_0406;
    /// <summary>Attributes of descriptors as VMX holds them.</summary>
    protected const uint CodeRights = 0xA09B, DataRights = 0xC093, TssRights = 0x8B, Unusable = 0x1_0000;

    private static readonly AssemblerRegister64[] s_registers = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

    /// <param name="levels">1 to 3: how deep the guest is. At 1 there is no hypervisor inside.</param>
    protected HypervisorImage(int levels)
    {
        Levels = levels;
        Memory.TryWrite(Gdt + CodeSelector, 0x00AF_9B00_0000_FFFFul);
        Memory.TryWrite(Gdt + DataSelector, 0x00CF_9300_0000_FFFFul);
        WriteTables(Tables, Present | Writable | User, Present | Writable | User);
        Place(Window(levels), Guest);
    }

    public int Levels { get; }

    public GuestMemory Memory { get; } = new(MemorySize);

    /// <summary>CPU model with what the hypervisors use.</summary>
    public abstract string Model { get; }

    /// <summary>Where a level's memory begins, and its code.</summary>
    protected static uint Window(int level) => (uint)level << 20;

    /// <summary>The level that a guest's control block belongs to; 0: none of them.</summary>
    public int LevelOf(ulong control)
    {
        for (int level = 1; level < Levels; level++)
            if (control == Window(level) + OwnOffset) return level + 1;
        return control == Window(1) + InnerOffset ? 3 : 0;
    }

    /// <summary>What an exit is called: as the manual of the vendor calls it.</summary>
    public abstract string NameOf(ulong reason);

    /// <summary>Four levels of tables: all memory by pages of 2 MiB.</summary>
    protected void WriteTables(uint at, ulong table, ulong leaf)
    {
        Memory.TryWrite(at, at + 0x1000ul | table);
        Memory.TryWrite(at + 0x1000, at + 0x2000ul | table);
        for (uint page = 0; page < MemorySize >> 21; page++) Memory.TryWrite(at + 0x2000 + page * 8, (ulong)page << 21 | leaf | LargePage);
    }

    protected void Place(uint at, Action<Assembler> emit)
    {
        var assembler = new Assembler(64);
        emit(assembler);
        var writer = new ByteWriter();
        assembler.Assemble(writer, at);
        byte[] code = writer.ToArray();
        if (code.Length > StackOffset) throw new InvalidOperationException("a hypervisor is longer than its place");
        Memory.Write(at, code);
    }

    /// <summary>CPUID again and again, as often as the port says. The level that has answered is in EAX.</summary>
    private static void Guest(Assembler a)
    {
        Label begin = a.CreateLabel(), again = a.CreateLabel();
        a.Label(ref begin);
        a.@in(eax, NextPort);
        a.mov(ebp, eax);
        a.Label(ref again);
        a.xor(eax, eax);
        a.cpuid();
        a.dec(ebp);
        a.jnz(again);
        a.jmp(begin);
    }

    /// <summary>Where a hypervisor keeps a register of its guest.</summary>
    protected static AssemblerMemoryOperand Kept(uint window, int register) => __qword_ptr[window + RegistersOffset + (uint)register * 8];

    /// <summary>All general registers of the guest but RSP, which the processor keeps; and those that the processor keeps as well.</summary>
    protected static void Keep(Assembler a, uint window, bool withRax)
    {
        for (int n = withRax ? 0 : 1; n < s_registers.Length; n++)
            if (n != (int)Gp.Rsp) a.mov(Kept(window, n), s_registers[n]);
    }

    /// <inheritdoc cref="Keep"/>
    protected static void GiveBack(Assembler a, uint window, bool withRax)
    {
        for (int n = withRax ? 0 : 1; n < s_registers.Length; n++)
            if (n != (int)Gp.Rsp) a.mov(s_registers[n], Kept(window, n));
    }

    /// <summary>The guest's answer to CPUID: which level has emulated it.</summary>
    protected static void Answer(Assembler a, uint window, int level, AssemblerMemoryOperand guestRax)
    {
        a.mov(guestRax, level);
        foreach (Gp register in (Gp[])[Gp.Rbx, Gp.Rcx, Gp.Rdx]) a.mov(Kept(window, (int)register), 0);
    }

    /// <summary>Level 1 is about to begin.</summary>
    public CpuState State()
    {
        var data = new SegmentState(DataSelector, 0, uint.MaxValue, DataRights);
        var s = new CpuState
        {
            Rip = Window(1),
            Rflags = 2,
            Cr0 = 0x8001_0033, // PG WP NE ET MP PE
            Cr3 = Tables,
            Cr4 = 0x620, // OSXMMEXCPT OSFXSR PAE
            Efer = 0xD01, // NXE LMA LME SCE
            Dr6 = 0xFFFF_0FF0,
            Dr7 = ResetDr7,
            Xcr0 = 1,
            Cs = new SegmentState(CodeSelector, 0, uint.MaxValue, CodeRights),
            Ds = data,
            Es = data,
            Fs = data,
            Gs = data,
            Ss = data,
            Tr = new SegmentState(TssSelector, Tss, TssLimit, TssRights),
            Ldtr = new SegmentState(0, 0, 0, Unusable | 0x82),
            GdtrBase = Gdt,
            GdtrLimit = GdtLimit,
            IdtrBase = Idt,
            IdtrLimit = IdtLimit,
        };
        s.Gpr[(int)Gp.Rsp] = Window(1) + StackOffset;
        BitConverter.TryWriteBytes(s.Xsave, (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        Prepare(s);
        return s;
    }

    /// <summary>What the technique needs switched on.</summary>
    protected abstract void Prepare(CpuState state);

    public void Dispose() => Memory.Dispose();
}
