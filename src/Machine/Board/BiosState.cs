using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Board;

/// <summary>
/// What a BIOS leaves behind: interrupt vectors, a few entry points in ROM, and for boot protocols that promise it 8259A with vectors 08h and 70h and the
/// timer running at 18.2 Hz. Its interrupt is the only one that is not masked. Services are to end an interrupt and to reset the machine, nothing else.
/// </summary>
/// <remarks>
/// Multiboot Specification 0.6.96, section "Machine state": what it does not name is "as initialized by the BIOS". Addresses and values: IBM PC AT Technical
/// Reference, BIOS listing. An operating system that restarts through the BIOS jumps to F000:FFF0 or FFFF:0000 in real mode, where a PC's processor begins
/// after a reset, and a program that wants to boot anew calls INT 19h.
/// </remarks>
internal static class BiosState
{
    private const ushort RomSegment = (ushort)(MemoryLayout.Rom >> 4), PowerOn = 0xE05B, TimerInterrupt = 0xFEA5, DummyReturn = 0xFF53, ResetVector = 0xFFF0;
    private const byte TimerVector = 0x08, BootstrapVector = 0x19, SlaveVector = 0x70;

    /// <summary>Writes interrupt vectors and ROM.</summary>
    /// <param name="reset">Where a write resets the machine.</param>
    public static void WriteRom(GuestMemory memory, ResetRegister reset)
    {
        for (uint vector = 0; vector < 256; vector++)
            memory.TryWrite(vector * 4, (uint)RomSegment << 16 | vector switch { TimerVector => TimerInterrupt, BootstrapVector => PowerOn, _ => DummyReturn });
        // CLI; MOV DX, port; MOV AL, value; OUT DX, AL; HLT; JMP to the HLT
        Write(memory, PowerOn, [0xFA, 0xBA, (byte)reset.Port, (byte)(reset.Port >> 8), 0xB0, reset.Value, 0xEE, 0xF4, 0xEB, 0xFD]);
        // PUSH AX; MOV AL, 20h; OUT 20h, AL; POP AX; IRET
        Write(memory, TimerInterrupt, [0x50, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF]);
        Write(memory, DummyReturn, [0xCF]);
        // JMP F000:E05B
        Write(memory, ResetVector, [0xEA, PowerOn & 0xFF, PowerOn >> 8, RomSegment & 0xFF, RomSegment >> 8]);
    }

    private static void Write(GuestMemory memory, ushort offset, ReadOnlySpan<byte> code) => memory.Write(MemoryLayout.Rom + offset, code);

    /// <summary>Sets up 8259A and timer.</summary>
    public static void PrepareDevices(PortBus ports)
    {
        InitializePic(ports, Pic8259Pair.MasterPort, TimerVector, cascade: 1 << 2, mask: 0xFA);
        InitializePic(ports, Pic8259Pair.SlavePort, SlaveVector, cascade: 2, mask: 0xFF);

        // Channel 0, both bytes, mode 3, divisor 65536.
        ports.Write(Pit8254.FirstPort + 3, 1, 0x36);
        ports.Write(Pit8254.FirstPort, 1, 0);
        ports.Write(Pit8254.FirstPort, 1, 0);
    }

    private static void InitializePic(PortBus ports, ushort port, byte vector, byte cascade, byte mask)
    {
        ports.Write(port, 1, 0x11); // ICW1: edge triggered, cascaded, ICW4 follows
        ports.Write((ushort)(port + 1), 1, vector);
        ports.Write((ushort)(port + 1), 1, cascade);
        ports.Write((ushort)(port + 1), 1, 1); // ICW4: 8086 mode
        ports.Write((ushort)(port + 1), 1, mask);
    }
}
