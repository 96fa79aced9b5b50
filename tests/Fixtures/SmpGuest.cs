using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Runs several vCPUs of one guest at the same time, each from a mark in the code on, until each has said that it is done.</summary>
internal sealed class SmpGuest : IDisposable
{
    private const int DonePort = 0xE1;
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(2);

    private readonly X86Machine _vm;
    private readonly TaskCompletionSource _done = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private Action<X86Machine> _meanwhile = _ => { };
    private int _left;

    private SmpGuest(string engine, Guest g, int cpus)
    {
        _left = cpus;
        _vm = new X86Machine(TestedEngines.Find(engine), g.Model, Layout.MemorySize, cpus);
        _vm.Ports.Add(DonePort, 1, new Done(this));
        var memory = new byte[Layout.MemorySize];
        Assert.True(g.Memory.Read(0, memory));
        Assert.True(_vm.Memory.Write(0, memory));
    }

    public X86Machine Machine => _vm;

    /// <summary>One vCPU for each mark; each has a page of stack of its own and its number in EDI.</summary>
    public static SmpGuest Run(string engine, Guest g, params string[] marks) => Run(engine, g, _ => { }, marks);

    /// <inheritdoc cref="Run(string, Guest, string[])"/>
    /// <param name="meanwhile">What the caller does while they run.</param>
    public static SmpGuest Run(string engine, Guest g, Action<X86Machine> meanwhile, params string[] marks)
    {
        var run = new SmpGuest(engine, g, marks.Length) { _meanwhile = meanwhile };
        for (int n = 0; n < marks.Length; n++)
        {
            g.State.Rip = g[marks[n]];
            g.State.Gpr[4] = Layout.StackTop - (uint)n * 0x1000;
            g.State.Gpr[7] = (ulong)n;
            run._vm.Cpus[n].Cpu.WriteState(g.State);
        }
        run.Finish();
        return run;
    }

    /// <summary>A board; vCPU 0 starts at a mark, the others wait for their start-up IPI. The guest counts <paramref name="ends"/> ends.</summary>
    public static SmpGuest RunOnBoard(string engine, Guest g, int cpus, string mark, int ends)
    {
        var run = new SmpGuest(engine, g, cpus) { _left = ends };
        _ = new PcBoard(run._vm, new PcBoardOptions());
        g.State.Rip = g[mark];
        run._vm.Cpus[0].Cpu.WriteState(g.State);
        run.Finish();
        return run;
    }

    /// <summary>A board whose guest ends by itself.</summary>
    public static StopCause RunToStop(string engine, Guest g, int cpus, string mark)
    {
        using var run = new SmpGuest(engine, g, cpus);
        _ = new PcBoard(run._vm, new PcBoardOptions());
        g.State.Rip = g[mark];
        run._vm.Cpus[0].Cpu.WriteState(g.State);
        run._vm.Start();
        Assert.True(new Patience(s_longest, run._vm).Await(run._vm.Stopped));
        return run._vm.Stopped.Result;
    }

    /// <summary>Emits: this vCPU has come to its end.</summary>
    public static void End(Assembler a)
    {
        a.@out(DonePort, al);
        a.cli();
        a.hlt();
    }

    public T Read<T>(ulong physical) where T : unmanaged
    {
        Assert.True(_vm.Memory.TryRead(physical, out T value));
        return value;
    }

    private void Finish()
    {
        _vm.Start();
        _meanwhile(_vm);
        bool ended = new Patience(s_longest, _vm).Await(Task.WhenAny(_done.Task, _vm.Stopped));
        StopCause? early = _vm.Stopped.IsCompleted ? _vm.Stopped.Result : null;
        _vm.Stop(new StopCause(StopReason.HostRequest));
        _vm.Join();
        Assert.True(early == null, $"the machine stopped: {early}");
        Assert.True(ended, "the vCPUs did not come to their end: " + string.Join("; ", _vm.Cpus.Select(Describe)));
    }

    private static string Describe(X86CpuThread cpu)
    {
        var s = new CpuState();
        cpu.Cpu.ReadState(s);
        return $"CPU {cpu.Cpu.Index} {cpu.Activity} RIP {s.Rip:X} RAX {s.Gpr[0]:X}";
    }

    public void Dispose() => _vm.Dispose();

    private sealed class Done(SmpGuest owner) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size) => 0xFF;

        public void WritePort(ushort offset, int size, uint value)
        {
            if (--owner._left == 0) owner._done.TrySetResult();
        }
    }
}
