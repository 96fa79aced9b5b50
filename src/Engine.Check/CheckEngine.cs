using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>
/// The <c>check</c> engine: a subject runs the guest, and a reference follows it on a memory of its own. At each exit, and at least once an interval,
/// registers, exits, counts of instructions and memory are compared; the first difference ends the VM with a report.
/// </summary>
/// <param name="subject">What is examined.</param>
/// <param name="reference">What is believed; its vCPUs are <see cref="IFollowingCpu"/>s.</param>
/// <remarks>For finding defects of engines: several times slower than the reference.</remarks>
public sealed class CheckEngine(IX86Engine subject, IX86Engine reference) : IX86Engine
{
    /// <inheritdoc/>
    public string Name => "check";

    /// <summary>How long the subject runs at most before it is compared.</summary>
    public CheckInterval Interval { get; init; } = CheckInterval.Default;

    /// <summary>What both can make exit.</summary>
    public ExecutionControls Intercepts => subject.Intercepts with
    {
        Instructions = subject.Intercepts.Instructions & reference.Intercepts.Instructions,
        ExceptionBitmap = subject.Intercepts.ExceptionBitmap & reference.Intercepts.ExceptionBitmap,
    };

    /// <inheritdoc/>
    public string? WhyNoDebugger => subject.WhyNoDebugger;

    /// <inheritdoc/>
    public EngineProbe Probe()
    {
        if (subject.Probe() is { Available: false } s) return s;
        if (reference.Probe() is { Available: false } r) return r;
        return new EngineProbe(true, $"{subject.Name} and {reference.Name} in lock step, to find where they differ; slow", Chosen: false);
    }

    /// <inheritdoc/>
    public IX86Vm CreateVm(GuestMemory memory, CpuModel model, VirtualClock clock) => new CheckVm(subject, reference, Interval, memory, model, clock);
}

/// <summary>Subject and reference of one VM. They share a clock that stands still while one of them runs, so that both see the same time.</summary>
internal sealed class CheckVm : IX86Vm, IMemoryMapObserver
{
    private readonly IX86Engine _subject, _reference;
    private readonly CheckInterval _interval;
    private readonly GuestMemory _memory, _shadow;
    private readonly VirtualClock _clock;
    private readonly SteppedCounter _time;
    private readonly IX86Vm _subjectVm, _referenceVm;
    private CheckedCpu? _cpu;

    public CheckVm(IX86Engine subject, IX86Engine reference, CheckInterval interval, GuestMemory memory, CpuModel model, VirtualClock clock)
    {
        (_subject, _reference, _interval, _memory, _clock) = (subject, reference, interval, memory, clock);
        // Their results are different each time.
        CpuModel reproducible = model with { Features = model.Features.Where(f => f is not (CpuFeature.Rdrand or CpuFeature.Rdseed)).ToHashSet() };
        _time = new SteppedCounter(clock.CounterFrequency);
        var stepped = new VirtualClock(_time, clock.CounterFrequency);
        _shadow = new GuestMemory(memory.InitialRegions, rights: memory.Rights);
        _shadow.Map(memory.Regions);
        _subjectVm = subject.CreateVm(memory, reproducible, stepped);
        NarrowedModel = _subjectVm.NarrowedModel ?? reproducible;
        _referenceVm = reference.CreateVm(_shadow, NarrowedModel, stepped);
        memory.Add(this);
    }

    /// <inheritdoc/>
    public void MapChanged(IReadOnlyList<MemoryRegion> before) => _shadow.Map(_memory.Regions);

    public CpuModel? NarrowedModel { get; }

    public bool HonoursPageRights => _subjectVm.HonoursPageRights && _referenceVm.HonoursPageRights;

    /// <summary>The reference would find them gone at another instruction than the subject did.</summary>
    public bool LosesRightsAnyTime => false;

    public IX86Cpu CreateCpu(int index)
    {
        if (_cpu != null)
            throw new NotSupportedException("the engine 'check' runs one vCPU: what several do to each other has no order that could be followed");
        IX86Cpu subject = _subjectVm.CreateCpu(index);
        IFollowingCpu reference = _referenceVm.CreateCpu(index) as IFollowingCpu
            ?? throw new NotSupportedException($"the engine '{_reference.Name}' cannot follow another");
        return _cpu = new CheckedCpu(subject, reference, _memory, _shadow, _clock, _time, _interval, $"{_subject.Name} and {_reference.Name}");
    }

    public bool SetA20(bool pass)
    {
        bool a = _subjectVm.SetA20(pass), b = _referenceVm.SetA20(pass);
        return a && b;
    }

    public void Dispose()
    {
        _memory.Remove(this);
        _cpu?.Dispose();
        _subjectVm.Dispose();
        _referenceVm.Dispose();
        _shadow.Dispose();
    }
}
