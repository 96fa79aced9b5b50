using Bunraku.Engine.Check;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>A state read while an exit is outstanding, with its answer, holds all of it: another vCPU goes on from there, and asks no device twice.</summary>
public sealed class HalfDoneTests
{
    private const uint Nothing = 0xF000_0000; // no RAM there
    private const int Exits = 45;

    /// <summary>Software engines, from and to.</summary>
    public static TheoryData<string, string> Pairs
    {
        get
        {
            var pairs = new TheoryData<string, string>();
            string[] names = [.. TestedEngines.Runnable.Where(e => !e.UsesHostPaging).Select(e => e.Name)];
            foreach (string from in names)
                foreach (string to in names) pairs.Add(from, to);
            return pairs;
        }
    }

    /// <summary>Reads and writes of ports, device memory and MSRs, alone, repeated and twice in one instruction, and events in between.</summary>
    private static Guest Program()
    {
        var g = new Guest(Mode.Protected32);
        g.State.Dr[0] = Layout.Data;
        g.State.Dr7 = 0x401 | 0xD_0000; // a data breakpoint, 4 bytes, reads and writes
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(ebp, 4);
            a.Label(ref loop);
            a.@in(eax, 0x71);
            a.mov(__dword_ptr[Layout.Data], eax);
            a.mov(ebx, Nothing);
            a.mov(ecx, __dword_ptr[ebx]);
            a.add(__dword_ptr[ebx + 8], ecx);            // a read and a write
            a.mov(__dword_ptr[ebx + 16], ecx);           // posted
            a.mov(__dword_ptr[ebx + 22], eax);           // two writes, across eight bytes
            a.push(__dword_ptr[ebx + 6]);                // two reads, across eight bytes
            a.pop(edx);
            a.mov(esi, Nothing + 0x100);
            a.mov(edi, Nothing + 0x200);
            a.mov(ecx, 3);
            a.rep.movsd();                               // reads and writes, iteration by iteration
            a.mov(edi, Layout.Data + 64);
            a.mov(dx, 0x1F0);
            a.mov(ecx, 3);
            a.rep.insb();
            a.mov(ecx, 0x1B);
            a.rdmsr();
            a.wrmsr();
            a.mov(eax, ss);
            a.mov(ss, eax);
            a.@in(al, 0x60);                             // behind MOV SS
            a.dec(ebp);
            a.jne(loop);
            g.End(a);
            g.Mark(a, "trap");
            a.iretd();
        });
        return g.Handle(1, "trap");
    }

    [Theory, MemberData(nameof(Pairs))]
    public void A_state_with_an_outstanding_exit_goes_on_elsewhere(string from, string to)
    {
        using Guest unmoved = Program();
        (List<string> expected, CpuState last, _) = Run(unmoved, from, from, moveAt: -1);
        var kinds = new HashSet<string>();
        int step = from == "interp" && to == "bt" ? 1 : 2;
        for (int move = 0; move < Math.Min(expected.Count, Exits); move += step)
        {
            using Guest g = Program();
            (List<string> log, CpuState state, string kind) = Run(g, from, to, move);
            Assert.Equal(expected, log);
            Assert.Empty(StateComparer.Differences(last, state));
            kinds.Add(kind);
        }
        Assert.Superset(new HashSet<string> { "answer", "device memory", "posted" }, kinds);
    }

    /// <summary>
    /// Runs to the guest's end with answers that depend on the number of the exit, and moves to a new vCPU on memory of its own after exit number
    /// <paramref name="moveAt"/>.
    /// </summary>
    private static (List<string> Log, CpuState State, string Kind) Run(Guest g, string from, string to, int moveAt)
    {
        var log = new List<string>();
        string kind = "nothing";
        var clock = new VirtualClock();
        clock.Stop();
        ((IStateful<ClockState>)clock).Restore(new ClockState(clock.CounterFrequency, 1_000_000)); // alike in each run
        using IX86Vm first = TestedEngines.Find(from).CreateVm(g.Memory, g.Model, clock);
        using IX86Cpu start = first.CreateCpu(0);
        using var other = new GuestMemory(g.Memory.Size);
        using IX86Vm second = TestedEngines.Find(to).CreateVm(other, g.Model, clock);
        using IX86Cpu end = second.CreateCpu(0);
        IX86Cpu cpu = start;
        cpu.WriteState(g.State);
        var state = new CpuState();
        while (log.Count < 1000)
        {
            X86Exit exit = cpu.Enter();
            if (exit.Reason == ExitReason.Kicked) continue;
            log.Add(Follower.Describe(exit));
            if (exit is { Reason: ExitReason.Io, IsWrite: true }) break;
            if (!exit.IsWrite) exit.Data = (ulong)(log.Count * 0x0101_0101) & (exit.Reason == ExitReason.Msr ? 0xFEE0_0900 : ulong.MaxValue);
            if (log.Count - 1 != moveAt) continue;
            // Through the serializer, as a machine's state goes.
            SavedState saved = StateSerializer.Save(new Part(cpu));
            MemoryImage.Of(g.Memory).CopyTo(other);
            StateSerializer.Restore(new Part(end), saved);
            Assert.True(saved.SameAs(StateSerializer.Save(new Part(end))), $"{saved} against {StateSerializer.Save(new Part(end))}");
            end.ReadState(state);
            kind = state.HalfDone is not null ? "answer" : state.MmioValues.Count > 0 ? "device memory" : state.PostedWrites.Count > 0 ? "posted" : kind;
            cpu = end;
        }
        cpu.ReadState(state);
        return (log, state, kind);
    }

    private sealed class Part(IX86Cpu cpu) : IStateful<CpuState>
    {
        public string Id => "cpu0";

        public CpuState Save()
        {
            var state = new CpuState();
            cpu.ReadState(state);
            return state;
        }

        public void Restore(CpuState state) => cpu.WriteState(state);
    }
}
