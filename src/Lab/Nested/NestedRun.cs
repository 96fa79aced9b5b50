using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Lab.Nested;

/// <summary>One image on one engine. For one thread.</summary>
internal sealed class NestedRun : IDisposable
{
    /// <summary>Nothing that a guest does here takes so long; an image that is wrong may never end.</summary>
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(60);

    private readonly HypervisorImage _image;
    private readonly IX86Vm _vm;
    private readonly IX86Cpu _cpu;
    private readonly List<NestedStep> _steps = [];
    private X86Exit _question;
    private bool _isRecording;

    private sealed class Recorder(NestedRun run) : INestedObserver
    {
        public void Crossed(in NestedCrossing crossing)
        {
            if (run._isRecording) run.Record(crossing);
        }
    }

    /// <param name="image">Is disposed of with this object.</param>
    /// <param name="observed">Crossings are recorded, which takes time.</param>
    /// <exception cref="InvalidOperationException">The engine cannot do it, or shows no guests inside the guest; the message is one line.</exception>
    public NestedRun(IX86Engine engine, HypervisorImage image, bool observed)
    {
        _image = image;
        CpuModel model = CpuModels.Parse(image.Model);
        _vm = engine.CreateVm(image.Memory, model, new VirtualClock());
        try
        {
            _cpu = _vm.CreateCpu(0);
        }
        catch
        {
            _vm.Dispose();
            throw;
        }
        if (observed && !_cpu.ObserveNested(new Recorder(this)))
        {
            Dispose();
            throw new InvalidOperationException($"engine '{engine.Name}' does not show guests inside the guest");
        }
        _cpu.Controls = new ExecutionControls(InterceptedInstructions.Cpuid);
        _cpu.WriteState(image.State());
        _question = Next();
    }

    /// <summary>What happens from one exit of the guest to its next one, which is the last step: the third of four, and the fourth.</summary>
    /// <exception cref="InvalidOperationException">The guest got another answer than it should have.</exception>
    public IReadOnlyList<NestedStep> Observe()
    {
        _isRecording = true;
        Ask(4);
        _isRecording = false;
        int[] exits = [.. Enumerable.Range(0, _steps.Count).Where(n => _steps[n] is { IsExit: true } s && s.Level == _image.Levels)];
        if (exits.Length != 4) throw new InvalidOperationException($"the guest at level {_image.Levels} exited {exits.Length} times, not 4");
        ulong begin = _steps[exits[2]].Instructions;
        return [.. _steps[exits[2]..(exits[3] + 1)].Select(s => s with { Instructions = s.Instructions - begin })];
    }

    /// <summary>Lets the guest exit so often.</summary>
    /// <returns>Nanoseconds of processor time, or of wall time where the host does not tell it.</returns>
    public double Ask(uint count)
    {
        using ThreadAccounting? account = ThreadAccounting.OfCurrentThread();
        long run = account?.Read().Run ?? 0, start = Stopwatch.GetTimestamp();
        _question.Data = count;
        _question = Next();
        double time = account?.Read().Run - run ?? Stopwatch.GetElapsedTime(start).TotalNanoseconds;
        return time;
    }

    /// <summary>Which level has answered the guest's last CPUID.</summary>
    public int Answered
    {
        get
        {
            var state = new CpuState();
            _cpu.ReadState(state);
            return (int)state.Gpr[0];
        }
    }

    private X86Exit Next()
    {
        long begun = Stopwatch.GetTimestamp();
        using var watchdog = new Timer(_ => _cpu.Kick(), null, s_patience, s_patience);
        while (true)
        {
            X86Exit exit = _cpu.Enter();
            switch (exit)
            {
                case { Reason: ExitReason.Kicked } when Stopwatch.GetElapsedTime(begun) < s_patience:
                    break;
                case { Reason: ExitReason.Cpuid }:
                    if (_isRecording) _steps.Add(new NestedStep(1, IsExit: true, "CPUID", Counted()));
                    (exit.Eax, exit.Ebx, exit.Ecx, exit.Edx) = (0, 0, 0, 0);
                    break;
                case { Reason: ExitReason.Io, IsWrite: false, Address: HypervisorImage.NextPort }:
                    return exit;
                default:
                    throw new InvalidOperationException($"the guest ended with {exit.Reason} at {exit.Address:X} {exit.Message}".TrimEnd());
            }
        }
    }

    private ulong Counted() => _cpu.Counters.InstructionsRetired;

    private void Record(in NestedCrossing crossing) => _steps.Add(new NestedStep(_image.LevelOf(crossing.Control), !crossing.IsEntry,
        crossing.IsEntry ? "" : _image.NameOf(crossing.Reason), crossing.Instructions));

    public void Dispose()
    {
        _cpu?.Dispose();
        _vm.Dispose();
        _image.Dispose();
    }
}
