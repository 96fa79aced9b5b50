using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Board;

/// <summary>
/// What a BIOS leaves behind, for boot protocols that promise it: interrupt vectors, 8259A with vectors 08h and 70h, and the timer running at 18.2 Hz.
/// Its interrupt is the only one that is not masked, and no other service than ending it exists.
/// </summary>
/// <remarks>Multiboot Specification 0.6.96, section "Machine state": what it does not name is "as initialized by the BIOS". Addresses and values: IBM PC AT Technical Reference, BIOS listing.</remarks>
internal static class BiosState
{
    private const ushort RomSegment = 0xF000, TimerInterrupt = 0xFEA5, DummyReturn = 0xFF53;
    private const byte TimerVector = 0x08, SlaveVector = 0x70;

    public static void Prepare(GuestMemory memory, PortBus ports)
    {
        for (uint vector = 0; vector < 256; vector++)
            memory.TryWrite(vector * 4, (uint)RomSegment << 16 | (vector == TimerVector ? TimerInterrupt : DummyReturn));
        // PUSH AX; MOV AL, 20h; OUT 20h, AL; POP AX; IRET
        memory.Write((RomSegment << 4) + TimerInterrupt, [0x50, 0xB0, 0x20, 0xE6, 0x20, 0x58, 0xCF]);
        memory.Write((RomSegment << 4) + DummyReturn, [0xCF]);

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
