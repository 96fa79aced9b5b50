using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// A fixture's guest on a whole virtual machine, with the hypervisor's run loop and a board around it. Ends when its first processor halts with interrupts
/// off, be it in the code's last HLT or in an exception's stub.
/// </summary>
internal sealed class ParavirtualGuest : IDisposable
{
    public const ushort ReportPort = 0xE0;
    private static readonly TimeSpan s_longest = TimeSpan.FromSeconds(30);

    private readonly Guest _guest;
    private readonly List<uint> _reports = [];

    public ParavirtualGuest(string engine, Action<Guest, Assembler> emit, Mode mode = Mode.Long, int cpl = 0, int cpus = 1, X86MachineOptions? options = null,
        Action<Guest>? prepare = null)
    {
        _guest = new Guest(mode, cpl, "max,+hypervisor");
        _guest.Code(a => emit(_guest, a));
        prepare?.Invoke(_guest);
        Machine = new X86Machine(TestedEngines.Find(engine), _guest.Model, Layout.MemorySize, cpus, options);
        Board = new PcBoard(Machine, new PcBoardOptions());
        var low = new byte[Layout.Spare];
        Assert.True(_guest.Memory.Read(0, low));
        Assert.True(Machine.Memory.Write(0, low));
        Machine.Ports.Add(ReportPort, 4, new Reporter(_reports));
        Machine.Cpus[0].Cpu.WriteState(_guest.State);
    }

    public X86Machine Machine { get; }
    public PcBoard Board { get; }

    /// <summary>What the guest wrote to the report port, 32 bits each.</summary>
    public IReadOnlyList<uint> Reports => _reports;

    private sealed class Reporter(List<uint> reports) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size) => 0;
        public void WritePort(ushort offset, int size, uint value) => reports.Add(value);
    }

    /// <summary>Lets the guest run to its end.</summary>
    /// <returns>The exception that ended it; null: its own HLT.</returns>
    public int? Run()
    {
        Machine.Start();
        return WaitForEnd();
    }

    /// <summary>Waits until the first processor has halted for good.</summary>
    public int? WaitForEnd()
    {
        var state = new CpuState();
        bool ended = new Patience(s_longest, Machine).Await(() =>
        {
            Assert.False(Machine.Stopped.IsCompleted, Machine.Stopped.IsCompleted ? Machine.Stopped.Result.ToString() : "");
            if (Machine.Cpus[0].Activity != CpuActivity.Halted) return false;
            Machine.Pause();
            Machine.Cpus[0].Cpu.ReadState(state);
            Machine.Resume();
            return (state.Rflags & 0x200) == 0;
        });
        Assert.True(ended, "the guest did not come to its end");
        ulong at = state.Cs.Base + state.Rip - 1 - Layout.Stubs;
        return at < 0x1000 && (at & 15) == 0 && at >> 4 != X.Done ? (int)(at >> 4) : null;
    }

    /// <summary>Waits until the guest has reported so often.</summary>
    public void WaitForReports(int count) =>
        Assert.True(new Patience(s_longest, Machine).Await(() => _reports.Count >= count), $"only {_reports.Count} reports");

    public T Read<T>(ulong physical) where T : unmanaged
    {
        Assert.True(Machine.Memory.TryRead(physical, out T value));
        return value;
    }

    /// <summary>Emits WRMSR.</summary>
    public static void Wrmsr(Assembler a, uint index, ulong value)
    {
        a.mov(ecx, index);
        a.mov(eax, (uint)value);
        a.mov(edx, (uint)(value >> 32));
        a.wrmsr();
    }

    /// <summary>Emits: report EAX.</summary>
    public static void Report(Assembler a)
    {
        a.mov(edx, ReportPort);
        a.@out(dx, eax);
    }

    public void Dispose()
    {
        Machine.Dispose();
        _guest.Dispose();
    }
}
