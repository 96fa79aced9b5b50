using BenchmarkDotNet.Attributes;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Micro;

/// <summary>An event through the IDT, and the IRETQ of its handler.</summary>
public abstract class EventBenchmark : EngineBenchmark
{
    private const int Count = 100;

    private protected abstract void Raise(Assembler a);

    private protected override void Prepare(MicroGuest guest)
    {
        guest.Place(MicroGuest.Code, a =>
        {
            Label round = a.CreateLabel(), again = a.CreateLabel();
            a.Label(ref round);
            a.mov(rbx, MicroGuest.Unmapped);
            a.mov(ecx, Count);
            a.Label(ref again);
            Raise(a);
            a.dec(ecx);
            a.jne(again);
            a.xor(edx, edx);
            a.@out(dx, al);
            a.jmp(round);
        });
        guest.Place(MicroGuest.Handlers, a => a.iretq());
        guest.Handle(0x80, MicroGuest.Handlers);
        const uint pageFault = MicroGuest.Handlers + 0x100;
        guest.Place(pageFault, a =>
        {
            a.add(rsp, 8); // the error code
            a.add(__qword_ptr[rsp], 3); // over the instruction, MOV RAX, [RBX]
            a.iretq();
        });
        guest.Handle(14, pageFault);
    }

    [Benchmark(OperationsPerInvoke = Count)]
    public void Event() => Guest.Run(ExitReason.Io);
}

public class SoftwareInterrupt : EventBenchmark
{
    private protected override void Raise(Assembler a) => a.@int(0x80);
}

public class PageFault : EventBenchmark
{
    private protected override void Raise(Assembler a) => a.mov(rax, __qword_ptr[rbx]);
}
