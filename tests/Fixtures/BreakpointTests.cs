using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3B, "Debug Exceptions"; AMD APM vol. 2, "Debug Breakpoints".</summary>
public sealed class BreakpointTests
{
    /// <summary>
    /// Intel SDM vol. 3A, "Masking Exceptions and Interrupts When Switching Stacks": Intel's processors inhibit instruction breakpoints on what follows MOV SS.
    /// AMD's do not; kvm-unit-tests' emulator test has both.
    /// </summary>
    [Theory]
    [Engines("max", true), Engines("x86-64-v3-intel", false)]
    public void Instruction_breakpoint_behind_MOV_SS(string engine, string model, bool fires)
    {
        using var g = new Guest(Mode.Long, 0, model);
        g.Code(a =>
        {
            a.mov(eax, ss);
            a.mov(ss, eax);
            g.Mark(a, "at");
            a.nop();
            a.nop();
            g.End(a);
        });
        g.State.Dr[0] = g["at"];
        g.State.Dr7 |= 2; // G0: execution, 1 byte
        Outcome o = g.Run(engine);
        if (fires) o.Raised(X.DB, null, g["at"]);
        else o.Done();
    }
}
