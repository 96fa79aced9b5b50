using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.DeviceFuzz;

/// <summary>How one machine of a hostile hypervisor fared.</summary>
/// <param name="Entries">Into its guest.</param>
/// <param name="Exits">From its guest, entries that failed included.</param>
/// <param name="Reasons">How often each reason came.</param>
/// <param name="Failure">What the monitor did wrong; null: nothing.</param>
public sealed record NestedFuzzResult(ulong Entries, ulong Exits, IReadOnlyDictionary<ulong, ulong> Reasons, string? Failure);

/// <summary>
/// Runs <see cref="HostileHypervisor"/> again and again on one processor, while another processor of the machine writes to what it works on. The monitor must
/// neither fail nor stand still, whatever the two do, and a state that is taken in the middle must be one that can be given back.
/// </summary>
public sealed class NestedFuzzer(IX86Engine engine, bool isVmx)
{
    private const ulong InstructionsOfARound = 800;
    private const int MostExits = 300; // to us, in a round
    private const int LookMilliseconds = 20;
    private const int MostKicks = 40, MostIdleKicks = 2; // in a round; idle: nothing was executed since the one before
    private const int ScribblerRestMilliseconds = 1;
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(5);

    private static CpuModel ModelOf(bool isVmx) => CpuModels.Parse(isVmx ? "max,+vmx,+monitor" : "max,+svm,+monitor");

    private sealed class Counter : INestedObserver
    {
        public ulong Entries, Exits;
        public readonly Dictionary<ulong, ulong> Reasons = [];

        public void Crossed(in NestedCrossing crossing)
        {
            if (crossing.IsEntry)
            {
                Entries++;
                return;
            }
            Exits++;
            Reasons[crossing.Reason] = Reasons.GetValueOrDefault(crossing.Reason) + 1;
        }
    }

    private sealed class Interrupt(byte vector) : IInterruptAcknowledge
    {
        byte? IInterruptAcknowledge.Acknowledge(out bool more)
        {
            more = false;
            return vector;
        }

        void IInterruptAcknowledge.EndOfInterrupt(out bool more) => more = false;
    }

    /// <summary>One machine for so many rounds.</summary>
    /// <param name="scribbles">The other processor runs meanwhile: what happens then cannot be repeated.</param>
    /// <param name="first">The round to begin with.</param>
    public NestedFuzzResult Run(ulong seed, int rounds, bool scribbles, int first = 0)
    {
        CpuModel model = ModelOf(isVmx);
        using var memory = new GuestMemory(NestedLayout.MemorySize);
        using IX86Vm vm = engine.CreateVm(memory, model, new VirtualClock());
        scribbles &= engine.MaxCpus > 1;
        using IX86Cpu cpu = vm.CreateCpu(0);
        using IX86Cpu? other = scribbles ? vm.CreateCpu(1) : null;
        var hypervisor = new HostileHypervisor(memory, isVmx, model);
        var counter = new Counter();
        cpu.ObserveNested(counter);
        bool ends = false;
        string? trouble = null;
        var scribbler = new Thread(() =>
        {
            try
            {
                while (!Volatile.Read(ref ends))
                {
                    // The guest of the hostile hypervisor may reach its code and tables.
                    other!.WriteState(NestedLayout.StartAt(NestedLayout.Scribbler, NestedLayout.ScribblerStack));
                    X86Exit exit;
                    do
                    {
                        exit = other.Enter();
                        // It leaves most of a small host's processors to the hypervisor.
                        if (exit.Reason == ExitReason.Hlt) Thread.Sleep(ScribblerRestMilliseconds);
                    }
                    while (exit.Reason is ExitReason.Kicked or ExitReason.Hlt && !Volatile.Read(ref ends));
                    if (exit.Reason == ExitReason.InternalError) throw new InvalidOperationException($"the monitor failed: {exit.Message}");
                }
            }
            catch (Exception e)
            {
                Volatile.Write(ref trouble, e.ToString());
            }
        });
        hypervisor.Prepare();
        if (scribbles) scribbler.Start();
        string? failure = null;
        int round = first;
        long started = Environment.TickCount64;
        using var watchdog = new Timer(_ =>
        {
            // The round's own end is counted in instructions, where the engine can; a guest that executes none is ended here.
            if (Environment.TickCount64 - Volatile.Read(ref started) >= LookMilliseconds) cpu.Kick();
            if (Environment.TickCount64 - Volatile.Read(ref started) > s_patience.TotalMilliseconds)
                Environment.FailFast($"seed {seed}, round {round} on {engine.Name}: the processor does not return");
        }, null, LookMilliseconds, LookMilliseconds);
        try
        {
            for (; round < first + rounds && failure == null; round++)
            {
                Volatile.Write(ref started, Environment.TickCount64);
                failure = Round(new Random((int)(seed * 1_000_003 + (ulong)round)), memory, hypervisor, cpu) ?? Volatile.Read(ref trouble);
            }
        }
        catch (Exception e)
        {
            failure = e.ToString();
        }
        Volatile.Write(ref ends, true);
        if (scribbles)
        {
            while (!scribbler.Join(10)) other!.Kick();
        }
        if (failure != null) failure = $"round {round}: {failure}";
        return new NestedFuzzResult(counter.Entries, counter.Exits, counter.Reasons, failure);
    }

    private static string? Round(Random random, GuestMemory memory, HostileHypervisor hypervisor, IX86Cpu cpu)
    {
        hypervisor.Prepare();
        hypervisor.Write(random);
        cpu.WriteState(hypervisor.Start());
        ulong end = cpu.Counters.InstructionsRetired + InstructionsOfARound;
        int kicks = 0, idle = 0;
        ulong executed = 0;
        for (int exits = 0; exits < MostExits; exits++)
        {
            ulong until = Math.Min(end, cpu.Counters.InstructionsRetired + (ulong)random.Next(1, 400));
            X86Exit exit = cpu is IFollowingCpu counted ? counted.EnterUntil(until) : cpu.Enter();
            switch (exit.Reason)
            {
                case ExitReason.InternalError:
                    return $"the monitor failed: {exit.Message}";
                case ExitReason.TripleFault:
                    return Check(cpu, memory);
                case ExitReason.Hlt:
                    if (random.Next(2) == 0) return Check(cpu, memory);
                    break;
                case ExitReason.Kicked:
                    ulong now = cpu.Counters.InstructionsRetired;
                    if (now == executed) idle++;
                    executed = now;
                    if (now >= end || ++kicks > MostKicks || idle > MostIdleKicks) return Check(cpu, memory);
                    break;
                case ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess:
                    exit.Data = (ulong)random.NextInt64();
                    exit.Fault = exit.Reason == ExitReason.Msr && random.Next(2) == 0;
                    break;
                default:
                    break;
            }
            if (random.Next(4) == 0 && cpu.InterruptWindowOpen)
                cpu.OfferInterrupt(new Interrupt(random.Next(2) == 0 ? HostileHypervisor.NotificationVector : (byte)random.Next(16, 256)));
            else if (random.Next(16) == 0 && cpu.NmiWindowOpen) cpu.InjectNmi();
            // The state is complete, and may be given back at any place.
            if (random.Next(8) == 0 && Move(cpu) is { } wrong) return wrong;
        }
        return Check(cpu, memory);
    }

    private static string? Move(IX86Cpu cpu)
    {
        var state = new CpuState();
        cpu.ReadState(state);
        try
        {
            state.Check(((IStateful)cpu).Id);
        }
        catch (StateFormatException e)
        {
            return $"a state that the processor gave is not valid: {e.Message}";
        }
        cpu.WriteState(state);
        return null;
    }

    /// <summary>What people look at must not fail either.</summary>
    private static string? Check(IX86Cpu cpu, GuestMemory memory)
    {
        if (Move(cpu) is { } wrong) return wrong;
        var state = new CpuState();
        cpu.ReadState(state);
        _ = PagingWalk.Of(memory, state, state.Rip);
        _ = cpu.ReadTlb();
        return null;
    }
}
