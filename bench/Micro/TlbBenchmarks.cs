using BenchmarkDotNet.Attributes;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Micro;

/// <summary>A load from each of many pages, one after the other.</summary>
public abstract class TlbBenchmark : EngineBenchmark
{
    private protected const int Pages = 512;

    /// <summary>What happens between two rounds.</summary>
    private protected abstract void Between(Assembler a);

    private protected override void Prepare(MicroGuest guest) => guest.Place(MicroGuest.Code, a =>
    {
        Label round = a.CreateLabel(), page = a.CreateLabel();
        a.Label(ref round);
        Between(a);
        a.mov(rbx, (ulong)MicroGuest.Free);
        a.mov(ecx, Pages);
        a.Label(ref page);
        a.mov(rax, __qword_ptr[rbx]);
        a.add(rbx, (int)MicroGuest.PageSize);
        a.dec(ecx);
        a.jne(page);
        a.xor(edx, edx);
        a.@out(dx, al);
        a.jmp(round);
    });

    [Benchmark(OperationsPerInvoke = Pages)]
    public void Page() => Guest.Run(ExitReason.Io);
}

/// <summary>The TLB holds the pages.</summary>
public class TlbHit : TlbBenchmark
{
    private protected override void Between(Assembler a) => a.nop();
}

/// <summary>CR3 is written before each round: each load walks the page tables.</summary>
public class TlbFill : TlbBenchmark
{
    private protected override void Between(Assembler a)
    {
        a.mov(rax, cr3);
        a.mov(cr3, rax);
    }
}
