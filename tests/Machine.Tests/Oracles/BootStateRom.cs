using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Machine.Board;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Machine.Tests;

/// <summary>
/// Hands what a loader made to QEMU: a ROM in the BIOS's place that brings the processor into a given <see cref="CpuState"/>, and the content of guest
/// memory as files. What QEMU's processor makes of page tables, descriptors and boot parameters is then the judge of the loader.
/// </summary>
internal static class BootStateRom
{
    private const uint RomSize = 0x1_0000, RomBase = 0xF_0000;
    private const int Gdt = 0x80, GdtPointer = 0xA0, Code32 = 0x100, Code64 = 0x400, Target = 0x800;

    /// <summary>Writes ROM and memory into <paramref name="folder"/> and returns the arguments for QEMU.</summary>
    public static string[] Prepare(CpuState state, GuestMemory memory, string folder)
    {
        string rom = Path.Combine(folder, "rom");
        File.WriteAllBytes(rom, Build(state));
        // The boundary between low and high RAM is ours.
        List<string> arguments = ["-machine", "pc,max-ram-below-4g=3G", "-bios", rom, "-m", $"{memory.Size >> 20}M"];
        byte[] chunk = new byte[0x1000];
        FileStream? file = null;
        ulong end = Math.Min(memory.Size, MemoryLayout.LowMemoryEnd);
        for (ulong address = 0; address < end; address += (ulong)chunk.Length)
        {
            if (!memory.Read(address, chunk)) throw new InvalidOperationException();
            if (!chunk.AsSpan().ContainsAnyExcept((byte)0))
            {
                file?.Dispose();
                file = null;
                continue;
            }
            if (file is null)
            {
                file = File.Create(Path.Combine(folder, $"ram-{address:x}"));
                arguments.AddRange(["-device", $"loader,file={file.Name},addr=0x{address:x},force-raw=on"]);
            }
            file.Write(chunk);
        }
        file?.Dispose();
        return [.. arguments];
    }

    private static byte[] Build(CpuState state)
    {
        bool long64 = (state.Efer & 0x400) != 0;
        byte[] rom = new byte[RomSize];
        void Put(int at, ReadOnlySpan<byte> bytes) => bytes.CopyTo(rom.AsSpan(at));

        Put((int)RomSize - 16, [0xEA, 0x00, 0x00, 0x00, 0xF0]); // jmp F000:0000
        var real = new Assembler(16);
        real.cli();
        real.db([0x2E, 0x66, 0x0F, 0x01, 0x16, GdtPointer, 0x00]); // lgdt cs:[GdtPointer], 32-bit base
        real.mov(eax, cr0);
        real.or(al, 1);
        real.mov(cr0, eax);
        real.db([0x66, 0xEA, Code32 & 0xFF, Code32 >> 8, 0x0F, 0x00, 0x08, 0x00]); // jmp 0008:000F0100
        Put(0, Bytes(real, 0));
        BinaryPrimitives.WriteUInt64LittleEndian(rom.AsSpan(Gdt + 8), 0x00CF_9B00_0000_FFFF);
        BinaryPrimitives.WriteUInt64LittleEndian(rom.AsSpan(Gdt + 16), 0x00CF_9300_0000_FFFF);
        BinaryPrimitives.WriteUInt16LittleEndian(rom.AsSpan(GdtPointer), 23);
        BinaryPrimitives.WriteUInt32LittleEndian(rom.AsSpan(GdtPointer + 2), RomBase + Gdt);
        BinaryPrimitives.WriteUInt16LittleEndian(rom.AsSpan(GdtPointer + 8), state.GdtrLimit);
        BinaryPrimitives.WriteUInt32LittleEndian(rom.AsSpan(GdtPointer + 10), (uint)state.GdtrBase);

        var c = new Assembler(32);
        c.mov(eax, 0x10);
        c.mov(ds, eax);
        c.lgdt(__[RomBase + GdtPointer + 8]);
        foreach ((AssemblerRegisterSegment register, SegmentState segment) in new[] { (ds, state.Ds), (es, state.Es), (ss, state.Ss), (fs, state.Fs),
            (gs, state.Gs) })
        {
            c.mov(eax, (uint)segment.Selector);
            c.mov(register, eax);
        }
        foreach ((uint index, ulong value) in state.Msrs.Append(new(0xC000_0080, state.Efer & ~0x400ul)))
        {
            c.mov(ecx, index);
            c.mov(eax, (uint)value);
            c.mov(edx, (uint)(value >> 32));
            c.wrmsr();
        }
        c.mov(eax, (uint)state.Cr4);
        c.mov(cr4, eax);
        c.mov(eax, (uint)state.Cr3);
        c.mov(cr3, eax);
        c.mov(eax, (uint)state.Cr0);
        c.mov(cr0, eax);
        AssemblerRegister32[] narrow = [eax, ecx, edx, ebx, esp, ebp, esi, edi];
        if (!long64) for (int n = 0; n < narrow.Length; n++) c.mov(narrow[n], (uint)state.Gpr[n]);
        // jmp m16:32: to the kernel itself, or to the 64-bit part.
        c.db([0xFF, 0x2D]);
        c.dd(RomBase + Target);
        Put(Code32, Bytes(c, RomBase + Code32));
        BinaryPrimitives.WriteUInt32LittleEndian(rom.AsSpan(Target), long64 ? RomBase + Code64 : (uint)state.Rip);
        BinaryPrimitives.WriteUInt16LittleEndian(rom.AsSpan(Target + 4), state.Cs.Selector);
        BinaryPrimitives.WriteUInt64LittleEndian(rom.AsSpan(Target + 8), state.Rip);

        var d = new Assembler(64);
        AssemblerRegister64[] wide = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        for (int n = 0; n < wide.Length; n++) d.mov(wide[n], state.Gpr[n]);
        d.jmp(__qword_ptr[(ulong)(RomBase + Target + 8)]);
        Put(Code64, Bytes(d, RomBase + Code64));
        return rom;
    }

    internal static byte[] Bytes(Assembler assembler, ulong address)
    {
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), address);
        return stream.ToArray();
    }
}
