using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.DeviceFuzz;

/// <summary>
/// A guest that minds its own business in the same process: it computes, prints each result on COM1, sleeps until its APIC timer wakes it, and ends with a
/// status. What it prints is known beforehand.
/// </summary>
public static class Bystander
{
    private const uint LoadAddress = 0x10_0000, Handler = LoadAddress, Entry = LoadAddress + 64, Idt = 0x1_0000, Gdt = 0x1_1000, Stack = 0x2_0000;
    private const byte TimerVector = 0x40;
    private const uint Steps = 20_000, SleepCount = 1_000_000; // ns
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(2);

    /// <summary>One life of so many rounds. Null when all went as it should.</summary>
    public static string? Run(IX86Engine engine, int rounds)
    {
        var printed = new StringBuilder();
        using var vm = new X86Machine(engine, DeviceFuzzer.Model, 4 << 20);
        _ = new PcBoard(vm, new PcBoardOptions { DebugExit = true, SerialOutput = bytes => printed.Append(Encoding.ASCII.GetString(bytes)) });
        Load(vm, rounds);
        vm.Start();
        if (!new Patience(s_longest, vm).Await(vm.Stopped)) return $"the bystander did not come to its end; it printed {printed}";
        vm.Join();
        StopCause cause = vm.Stopped.Result;
        if (cause is not { Reason: StopReason.DebugExit, Status: 3 }) return $"the bystander ended with {cause}";
        string expected = Expected(rounds);
        return printed.ToString() == expected ? null : $"the bystander printed\n{printed}\nand not\n{expected}";
    }

    /// <summary>Eight letters and a line's end for each round.</summary>
    private static string Expected(int rounds)
    {
        var text = new StringBuilder();
        uint value = 1;
        for (int round = 0; round < rounds; round++)
        {
            for (uint n = 0; n < Steps; n++) value = uint.RotateLeft(value * 1_664_525 + 1_013_904_223, 7) ^ n;
            for (int shift = 28; shift >= 0; shift -= 4) text.Append((char)('a' + (value >> shift & 15)));
            text.Append('\n');
        }
        return text.ToString();
    }

    private static void Load(X86Machine vm, int rounds)
    {
        GuestMemory memory = vm.Memory;
        memory.TryWrite(Gdt + GuestParts.CodeSelector, GuestParts.CodeDescriptor32);
        memory.TryWrite(Gdt + GuestParts.DataSelector, GuestParts.DataDescriptor);
        memory.TryWrite(Idt + TimerVector * 8u, (ulong)(Handler & 0xFFFF) | (ulong)GuestParts.CodeSelector << 16 | 0x8Eul << 40 | (ulong)(Handler >> 16) << 48);
        memory.Write(Handler, GuestParts.Assemble(32, Handler, a =>
        {
            a.mov(__dword_ptr[(long)MemoryLayout.LocalApic + 0xB0], 0);
            a.iretd();
        }, out _));
        memory.Write(Entry, GuestParts.Assemble(32, Entry, a => Program(a, rounds), out _));
        CpuState state = GuestParts.FlatState(Entry, 0xC09B);
        (state.GdtrBase, state.GdtrLimit) = (Gdt, 0x17);
        (state.IdtrBase, state.IdtrLimit) = (Idt, 0x7FF);
        state.Gpr[4] = Stack;
        vm.Cpus[0].Cpu.WriteState(state);
    }

    private static void Program(Assembler a, int rounds)
    {
        Label round = a.CreateLabel(), step = a.CreateLabel(), letter = a.CreateLabel(), put = a.CreateLabel(), wait = a.CreateLabel();
        a.mov(__dword_ptr[(long)MemoryLayout.LocalApic + 0xF0], 0x1FF);
        a.mov(__dword_ptr[(long)MemoryLayout.LocalApic + 0x3E0], 0xB); // divide by 1
        a.mov(__dword_ptr[(long)MemoryLayout.LocalApic + 0x320], TimerVector); // one-shot
        a.mov(edx, 0x3FB);
        a.mov(al, 3); // 8 data bits
        a.@out(dx, al);
        a.mov(esi, 1);
        a.mov(edi, rounds);
        a.Label(ref round);
        a.xor(ecx, ecx);
        a.Label(ref step);
        a.imul(esi, esi, 1_664_525);
        a.add(esi, 1_013_904_223);
        a.rol(esi, 7);
        a.xor(esi, ecx);
        a.inc(ecx);
        a.cmp(ecx, Steps);
        a.jb(step);
        a.mov(ebx, esi);
        a.mov(ecx, 8);
        a.Label(ref letter);
        a.rol(ebx, 4);
        a.mov(ah, bl);
        a.and(ah, 15);
        a.add(ah, (byte)'a');
        a.call(put);
        a.dec(ecx);
        a.jnz(letter);
        a.mov(ah, (byte)'\n');
        a.call(put);
        a.mov(__dword_ptr[(long)MemoryLayout.LocalApic + 0x380], SleepCount);
        a.sti();
        a.hlt();
        a.cli();
        a.dec(edi);
        a.jnz(round);
        a.mov(al, 1);
        a.@out(0xF4, al);
        a.hlt();

        // put: the character in AH, once the transmitter takes it.
        a.Label(ref put);
        a.mov(edx, 0x3FD);
        a.Label(ref wait);
        a.@in(al, dx);
        a.test(al, 0x20);
        a.jz(wait);
        a.mov(edx, 0x3F8);
        a.mov(al, ah);
        a.@out(dx, al);
        a.ret();
    }
}
