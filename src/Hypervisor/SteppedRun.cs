using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// Runs a paused machine by hand and reproducibly: the vCPUs one after the other on the caller's thread, each for a stretch of instructions, with a clock that
/// moves only between the stretches. Timers come, and interrupts are taken, between stretches and while a vCPU waits only. Two machines in the same state, run
/// so from the same seed, stay in the same state, whichever software engines they have.
/// </summary>
/// <remarks>
/// What may come at other places in two machines has no effect before the end of the stretch: kicks, and writes to device memory, which wait for the end of a
/// block. A reset by the guest ends the stretch and is made here.
/// </remarks>
public sealed class SteppedRun
{
    /// <summary>The last instructions of a stretch are executed one by one, so that it ends where it shall; no block is as long.</summary>
    private const ulong Approach = 2048;

    private readonly VirtualMachine _vm;
    private readonly Random _random;
    private readonly (CpuThread Thread, ISteppedCpu Cpu)[] _cpus;

    /// <param name="vm">Paused, and left alone by others meanwhile.</param>
    /// <param name="seed">Of the lengths of the stretches.</param>
    /// <exception cref="NotSupportedException">The engine cannot stop at a given instruction.</exception>
    public SteppedRun(VirtualMachine vm, int seed)
    {
        _vm = vm;
        _random = new Random(seed);
        _cpus = [.. vm.Cpus.Select(c => (c, c.Cpu as ISteppedCpu
            ?? throw new NotSupportedException($"the engine of cpu{c.Cpu.Index} cannot stop at a given instruction")))];
    }

    /// <summary>Longest stretch, in instructions.</summary>
    public int LongestStretch { get; init; } = 20_000;

    /// <summary>Nanoseconds of virtual time that an instruction takes.</summary>
    public double NanosecondsPerInstruction { get; init; } = 1;

    /// <summary>Instructions that all vCPUs together have retired here.</summary>
    public ulong Retired { get; private set; }

    /// <summary>
    /// Runs on until so many instructions have retired here, or the machine stopped, or waits for nothing that time would bring. True in the first case.
    /// </summary>
    public bool RunTo(ulong retired)
    {
        lock (_vm.PauseLock) return Run(retired);
    }

    private bool Run(ulong retired)
    {
        if (_vm.ResetPending) _vm.Reset();
        while (Retired < retired && !_vm.Stopped.IsCompleted)
        {
            int stretch = _random.Next(1, LongestStretch);
            bool ran = false;
            foreach ((CpuThread thread, ISteppedCpu cpu) in _cpus) ran |= Run(thread, cpu, (ulong)stretch);
            long now = _vm.Clock.Nanoseconds, end = now + (long)(stretch * NanosecondsPerInstruction) + 1;
            if (!ran)
            {
                if (_vm.Timers.NextDeadline is not { } deadline) return false;
                end = Math.Max(end, deadline);
            }
            _vm.Clock.Step(_vm.Clock.ToTicks(end - now) + 1);
            _vm.Timers.RunDue();
            if (_vm.ResetPending) _vm.Reset();
        }
        return Retired >= retired;
    }

    /// <summary>One stretch of one vCPU. False when it waits.</summary>
    private bool Run(CpuThread thread, ISteppedCpu cpu, ulong stretch)
    {
        if (_vm.ResetPending) return false;
        if (!thread.TakeEventsBetweenSteps()) return false;
        ulong start = cpu.Counters.InstructionsRetired, end = start + stretch;
        thread.BeforeEntry();
        bool inside = true; // AfterExit is still to come
        while (cpu.Activity == CpuActivity.Active && !_vm.Stopped.IsCompleted && !_vm.ResetPending)
        {
            thread.CloseWindows(); // who took an interrupt at the entry wants to see the next one
            bool near = end - cpu.Counters.InstructionsRetired <= Approach;
            VmExit exit = near ? cpu.FollowTo(new Place(end, 0), beyond: false) : cpu.EnterUntil(end - Approach);
            if (cpu.Counters.InstructionsRetired > end) throw new InvalidOperationException("a block is longer than the approach to the end of a stretch");
            bool anywhere = exit.IsAsynchronous || exit is { Kind: ExitKind.Access, IsWrite: true };
            if (inside && !anywhere)
            {
                inside = false;
                thread.AfterExit();
            }
            if (exit.Kind == ExitKind.Kicked && cpu.Counters.InstructionsRetired == end) break;
            thread.Handle(exit);
        }
        if (inside) thread.AfterExit();
        Retired += cpu.Counters.InstructionsRetired - start;
        return true;
    }
}
