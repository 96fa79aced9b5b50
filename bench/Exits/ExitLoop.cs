using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Bench.Exits;

/// <summary>A guest in flat protected mode that repeats one instruction, at the exit boundary alone: nobody handles the exits.</summary>
internal sealed class ExitLoop : IDisposable
{
    private const uint Code = 0x1000;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly IX86Vm _vm;
    private readonly IX86Cpu _cpu;
    private readonly EventDescriptor _event = new();

    private ExitLoop(IX86Engine engine, CpuModel model)
    {
        _vm = engine.CreateVm(_memory, model, new VirtualClock());
        _cpu = _vm.CreateCpu(0);
    }

    /// <summary>Null when the engine has no such way around exits.</summary>
    public static ExitLoop? TryCreate(IX86Engine engine, CpuModel model, MeasuredExit kind)
    {
        var loop = new ExitLoop(engine, model);
        if (loop.Prepare(kind)) return loop;
        loop.Dispose();
        return null;
    }

    private bool Prepare(MeasuredExit kind)
    {
        if (kind.Doorbell is { } bell && _vm.Shortcuts?.TryAddDoorbell(bell, _event) != true) return false;
        return !kind.Posted || _vm.Shortcuts?.TryPostWrites(true, MeasuredExit.Port, 1) == true;
    }

    /// <summary>Nanoseconds for each of <paramref name="count"/> repetitions.</summary>
    public double Measure(MeasuredExit kind, int count)
    {
        var a = new Assembler(32);
        Label again = a.CreateLabel();
        a.mov(ecx, count);
        a.mov(dx, MeasuredExit.Port);
        a.Label(ref again);
        kind.Emit(a);
        a.dec(ecx);
        a.jnz(again);
        a.hlt();
        var bytes = new MemoryStream();
        a.Assemble(new StreamCodeWriter(bytes), Code);
        if (!_memory.Write(Code, bytes.ToArray())) throw new InvalidOperationException("the code does not fit");
        _cpu.WriteState(State());
        long start = Stopwatch.GetTimestamp();
        for (; ; )
        {
            X86Exit exit = _cpu.Enter();
            if (exit.Reason == ExitReason.Hlt) break;
            if (exit.Reason is not (ExitReason.Io or ExitReason.Mmio or ExitReason.Kicked))
                throw new InvalidOperationException($"exit {exit.Reason}: {exit.Message}");
        }
        return Stopwatch.GetElapsedTime(start).TotalNanoseconds / count;
    }

    public static CpuState State()
    {
        const uint code = 0xC09B, data = 0xC093;
        var s = new CpuState { Rip = Code, Rflags = 2, Cr0 = 0x31, Dr6 = 0xFFFF_0FF0, Dr7 = 0x400, Xcr0 = 1 };
        s.Cs = new SegmentState(8, 0, uint.MaxValue, code);
        s.Ds = s.Es = s.Fs = s.Gs = s.Ss = new SegmentState(16, 0, uint.MaxValue, data);
        s.Tr = new SegmentState(0, 0, 0xFFFF, 0x8B);
        s.Ldtr = new SegmentState(0, 0, 0xFFFF, 0x1_0082);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        return s;
    }

    public void Dispose()
    {
        _cpu.Dispose();
        _vm.Dispose();
        _memory.Dispose();
        _event.Dispose();
    }
}
