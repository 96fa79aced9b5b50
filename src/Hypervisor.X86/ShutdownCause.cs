using Bunraku.Engines;

namespace Bunraku.Hypervisor.X86;

/// <summary>Tells a processor that was shut down on purpose from one that crashed. A PC's chipset answers both with a reset.</summary>
internal static class ShutdownCause
{
    /// <summary>
    /// The guest asked for a reset: operating systems that know no other way load an interrupt table without any gate and execute an interrupt
    /// instruction. Nothing but a wish to be reset gives the table register a limit of 0; before a guest loads it, it is larger.
    /// </summary>
    /// <param name="cpu">Has left with <see cref="ExitReason.TripleFault"/>; its instruction pointer is still at the instruction.</param>
    /// <remarks>Intel SDM vol. 3A, "Interrupt 8—Double Fault Exception (#DF)": a fault while #DF is delivered puts the processor into shutdown.</remarks>
    public static bool IsReset(GuestMemory memory, IX86Cpu cpu)
    {
        var state = new CpuState();
        cpu.ReadState(state);
        if (state.IdtrLimit != 0) return false;
        Span<byte> code = stackalloc byte[1];
        if (LinearMemory.Read(memory, state, state.InstructionAddress, code) < 1) return false;
        return code[0] is 0xCC or 0xCD or 0xCE or 0xF1; // INT3, INT n, INTO, INT1
    }
}
