using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.DeviceFuzz;

/// <summary>Where a hostile hypervisor and its guest have what, by physical address; linear addresses are the same, pages of 2 MiB.</summary>
internal static class NestedLayout
{
    public const uint MemorySize = 4 << 20;

    // The hypervisor's own, which nobody spoils.
    public const uint Gdt = 0x1000, Idt = 0x2000, Stub = 0x3000, Code = 0x4000, Stack = 0x7000, Scribbler = 0x8000, ScribblerStack = 0xA000, Tables = 0xB000,
        FixedEnd = 0xE000;

    /// <summary>What chance and the other processor write to: all from here to the end.</summary>
    public const uint Open = 0x10_0000, OpenSize = 0x4_0000;

    // Pages in it.
    public const uint Operation = Open, Vmcs = Open + 0x1000, OtherVmcs = Open + 0x2000, Vmcb = Open + 0x1000, HostSave = Open + 0x3000, Zeros = Open + 0x4000,
        Bitmaps = Open + 0x5000, VirtualApic = Open + 0x8000, Lists = Open + 0x9000, SecondStage = Open + 0x1_0000, GuestTables = Open + 0x2_0000,
        GuestCode = Open + 0x2_8000, GuestStack = Open + 0x2_A000, GuestGdt = Open + 0x2_B000, GuestIdt = Open + 0x2_C000, Fields = Open + 0x3_0000,
        Pointers = Open + 0x3_8000;

    /// <summary>Entries of the list of fields that the hypervisor writes before each entry.</summary>
    public const int MostFields = 200;

    private const int WritesOfABurst = 100;

    private const ulong Rights = 7, LargePage = 1 << 7;

    /// <summary>The parts that stay: tables that map all memory to itself, descriptors, handlers that end the round.</summary>
    public static void WriteFixed(GuestMemory memory)
    {
        memory.TryWrite(Gdt + GuestParts.CodeSelector, GuestParts.CodeDescriptor64);
        memory.TryWrite(Gdt + GuestParts.DataSelector, GuestParts.DataDescriptor);
        // A TSS of 64 bits, which exits of VMX load by selector.
        memory.TryWrite(Gdt + 0x18, 0x0000_8B00_A000_0067ul);
        for (uint vector = 0; vector < 256; vector++)
        {
            memory.TryWrite(Idt + vector * 16, (ulong)(Stub & 0xFFFF) | (ulong)GuestParts.CodeSelector << 16 | 0x8Eul << 40 | (ulong)(Stub >> 16) << 48);
            memory.TryWrite(Idt + vector * 16 + 8, 0ul);
        }
        memory.TryWrite<byte>(Stub, 0xF4);
        memory.TryWrite(Tables, Tables + 0x1000ul | Rights);
        memory.TryWrite(Tables + 0x1000, Tables + 0x2000ul | Rights);
        for (uint n = 0; n < 512; n++) memory.TryWrite(Tables + 0x2000 + n * 8, (ulong)n << 21 | Rights | LargePage);
        memory.Write(Scribbler, GuestParts.Assemble(64, Scribbler, Scribble, out _));
    }

    /// <summary>A processor that writes anywhere into the open part, some hundred times a millisecond, and then says that it may rest; for ever.</summary>
    private static void Scribble(Assembler a)
    {
        Label again = a.CreateLabel(), next = a.CreateLabel(), wait = a.CreateLabel(), bytes = a.CreateLabel();
        a.Label(ref again);
        a.mov(edx, WritesOfABurst);
        a.Label(ref next);
        a.mov(rax, rbx);
        a.shl(rax, 13);
        a.xor(rbx, rax);
        a.mov(rax, rbx);
        a.shr(rax, 7);
        a.xor(rbx, rax);
        a.mov(rax, rbx);
        a.shl(rax, 17);
        a.xor(rbx, rax);
        a.mov(edi, ebx);
        a.and(edi, OpenSize - 8);
        a.mov(rax, rbx);
        a.shr(rax, 32);
        a.test(ebx, 1 << 30);
        a.jz(bytes);
        a.mov(__qword_ptr[rdi + Open], rax);
        a.Label(ref bytes);
        a.mov(__byte_ptr[rdi + Open + 3], al);
        a.mov(ecx, 1000);
        a.Label(ref wait);
        a.dec(ecx);
        a.jnz(wait);
        a.dec(edx);
        a.jnz(next);
        a.hlt();
        a.jmp(again);
    }

    /// <summary>A processor in 64-bit mode that begins at <paramref name="rip"/>.</summary>
    public static CpuState StartAt(ulong rip, uint stack)
    {
        CpuState s = GuestParts.FlatState(rip, 0xA09B);
        s.Cr0 = 0x8001_0033;
        s.Cr3 = Tables;
        s.Cr4 = 0x620;
        s.Efer = 0xD01;
        (s.GdtrBase, s.GdtrLimit, s.IdtrBase, s.IdtrLimit) = (Gdt, 0x7F, Idt, 0xFFF);
        s.Tr = new SegmentState(0x18, 0xA000, 0x67, 0x8B);
        s.Gpr[4] = stack;
        s.Gpr[3] = 0x9E37_79B9_7F4A_7C15;
        return s;
    }
}
