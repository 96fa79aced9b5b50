using BenchmarkDotNet.Attributes;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Micro;

/// <summary>Blocks of nine instructions, which jump from one to the next: run as they are known, and run after their code was written again.</summary>
public class Blocks : EngineBenchmark
{
    private const int Count = 1000;

    private byte[] _code = [];

    private protected override void Prepare(MicroGuest guest)
    {
        guest.State.Gpr[3] = MicroGuest.Free;
        _code = guest.Place(MicroGuest.Code, a =>
        {
            Label start = a.CreateLabel();
            a.Label(ref start);
            for (int i = 0; i < Count; i++)
            {
                a.add(rax, rcx);
                a.mov(rsi, __qword_ptr[rbx + i * 8]);
                a.lea(rdi, __[rsi + rax * 4 + i]);
                a.xor(rdi, i + 1);
                a.mov(__qword_ptr[rbx + i * 8], rdi);
                a.shr(rdi, 3);
                a.inc(rcx);
                a.cmp(rdi, rax);
                Label next = a.CreateLabel();
                a.jmp(next);
                a.Label(ref next);
            }
            a.xor(edx, edx);
            a.@out(dx, al);
            a.jmp(start);
        });
    }

    /// <summary>Time for one block that the engine knows.</summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void Known() => Guest.Run(ExitReason.Io);

    /// <summary>
    /// The same for one block that a device has overwritten since the last time: it is forgotten, decoded, and, by a translator at once, translated.
    /// </summary>
    [Benchmark(OperationsPerInvoke = Count)]
    public void WrittenAgain()
    {
        Guest.Memory.Write(MicroGuest.Code, _code);
        Guest.Run(ExitReason.Io);
    }
}
