using BenchmarkDotNet.Attributes;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Micro;

/// <summary>One exit, and the next entry that completes it.</summary>
public abstract class ExitBenchmark : EngineBenchmark
{
    private protected abstract void Access(Assembler a);

    private protected override void Prepare(MicroGuest guest) => guest.Place(MicroGuest.Code, a =>
    {
        a.mov(rbx, (ulong)MicroGuest.Mmio);
        a.xor(edx, edx);
        Label again = a.CreateLabel();
        a.Label(ref again);
        Access(a);
        a.jmp(again);
    });
}

public class PortWrite : ExitBenchmark
{
    private protected override void Access(Assembler a) => a.@out(dx, al);

    [Benchmark]
    public void Exit() => Guest.Run(ExitReason.Io);
}

public class PortRead : ExitBenchmark
{
    private protected override void Access(Assembler a) => a.@in(al, dx);

    [Benchmark]
    public void Exit() => Guest.Run(ExitReason.Io).Data = 1;
}

public class MmioWrite : ExitBenchmark
{
    private protected override void Access(Assembler a) => a.mov(__dword_ptr[rbx], eax);

    [Benchmark]
    public void Exit() => Guest.Run(ExitReason.Mmio);
}

public class MmioRead : ExitBenchmark
{
    private protected override void Access(Assembler a) => a.mov(eax, __dword_ptr[rbx]);

    [Benchmark]
    public void Exit() => Guest.Run(ExitReason.Mmio).Data = 1;
}
