using System.Diagnostics;
using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>A subject and the reference that follows it, as one vCPU.</summary>
internal sealed class CheckedCpu : IX86Cpu
{
    /// <summary>A guest that goes to sleep is a good moment for comparing everything, but not too often.</summary>
    private static readonly TimeSpan s_atRest = TimeSpan.FromMilliseconds(200);

    private readonly IX86Cpu _subject;
    private readonly IFollowingCpu _reference;
    private readonly VirtualClock _clock;
    private readonly SteppedCounter _time;
    private readonly CheckInterval _interval;
    private readonly string _names;
    private readonly Follower _follower;
    private readonly ShadowMemory _memory;
    private readonly GuestMemory _real;
    private readonly Kicker? _kicker;
    private readonly Stretch _stretch = new();
    private readonly X86Exit _failure = new() { Reason = ExitReason.InternalError };
    private X86Exit? _last; // whose answer is still to be passed on
    private int _kicked;
    private ulong _tscOffset;
    private bool _initWaits; // a kick of the vCPU's own may mean that INIT waits no more
    private long _atRest; // when everything was compared because the guest rested
    private bool _started, _failed, _disposed;

    public CheckedCpu(IX86Cpu subject, IFollowingCpu reference, GuestMemory real, GuestMemory shadow, VirtualClock clock, SteppedCounter time,
        CheckInterval interval, string names)
    {
        (_subject, _reference, _real, _clock, _time, _interval, _names) = (subject, reference, real, clock, time, interval, names);
        _follower = new Follower(subject, reference);
        _memory = new ShadowMemory(real, shadow, reference);
        if (interval.Time is { } distance) _kicker = new Kicker(subject, distance);
    }

    public int Index => _subject.Index;

    public X86Exit Enter()
    {
        if (_failed) return _failure;
        if (!_started)
        {
            _started = true;
            _memory.CopyAll();
        }
        while (true)
        {
            if (_last != null)
            {
                _follower.Answer(_last);
                _stretch.Answered(_last);
            }
            Advance();
            _memory.Checkpoint();
            X86Exit exit = Run();
            _last = exit;
            IReadOnlyList<string> differences = Compare(exit);
            if (differences.Count > 0) return Fail(exit, differences);
            _stretch.Begin(_follower, exit);
            // Kicks of our own end here; a vCPU whose TSC has moved kicks itself, for others to see it.
            if (exit.Reason != ExitReason.Kicked || Interlocked.Exchange(ref _kicked, 0) != 0 || _subject.TscOffset != _tscOffset || _initWaits)
                return Leave(exit);
        }
    }

    /// <summary>Time goes on for both. Not while one of them runs.</summary>
    private void Advance() => _time.AdvanceTo(_clock.Counter);

    private X86Exit Leave(X86Exit exit)
    {
        _tscOffset = _subject.TscOffset;
        return exit;
    }

    private X86Exit Run()
    {
        if (_interval.Instructions is { } instructions && _subject is IFollowingCpu steered)
            return steered.EnterUntil(_subject.Counters.InstructionsRetired + instructions);
        _kicker?.Begin();
        try
        {
            return _subject.Enter();
        }
        finally
        {
            _kicker?.End();
        }
    }

    private IReadOnlyList<string> Compare(X86Exit exit)
    {
        IReadOnlyList<string> differences = _follower.Follow(exit);
        bool everything = exit.Reason is ExitReason.TripleFault or ExitReason.InternalError;
        if (exit.Reason == ExitReason.Hlt && Stopwatch.GetElapsedTime(_atRest) > s_atRest)
        {
            everything = true;
            _atRest = Stopwatch.GetTimestamp();
        }
        // In any case: what devices wrote meanwhile is passed on there.
        IReadOnlyList<string> memory = _memory.Compare(everything);
        return memory.Count == 0 ? differences : [.. differences, .. memory];
    }

    private X86Exit Fail(X86Exit exit, IReadOnlyList<string> differences)
    {
        _failed = true;
        _failure.Message = new DifferenceReport(_names, _subject, _reference, _follower, _memory, _real, _stretch).Write(exit, differences);
        _memory.End();
        return _failure;
    }

    public void Kick()
    {
        Interlocked.Exchange(ref _kicked, 1);
        _subject.Kick();
    }

    public ExecutionControls Controls
    {
        get => _subject.Controls;
        set
        {
            _subject.Controls = value;
            // Windows open for the subject; the reference is brought to where that was.
            ExecutionControls followed = value with { InterruptWindowExiting = false, NmiWindowExiting = false };
            if (_reference.Controls != followed) _reference.Controls = followed;
        }
    }

    public bool InterruptWindowOpen => _subject.InterruptWindowOpen;

    public bool NmiWindowOpen => _subject.NmiWindowOpen;

    public bool NmiBlocked => _subject.NmiBlocked;

    public void SetTaskPriority(ulong cr8)
    {
        _subject.SetTaskPriority(cr8);
        _reference.SetTaskPriority(cr8);
    }

    public CpuActivity Activity
    {
        get => _subject.Activity;
        set => _subject.Activity = _reference.Activity = value;
    }

    public ulong TscOffset => _subject.TscOffset;

    public void FlushTlb()
    {
        _subject.FlushTlb();
        _reference.FlushTlb();
    }

    /// <summary>The reference, which follows, finds the answer that the subject got; where the subject did not ask, neither does it.</summary>
    public bool OfferInterrupt(IInterruptAcknowledge source)
    {
        // What the acknowledgement writes to memory must be there before either runs.
        if (_subject is not IFollowingCpu || !LeavesInterruptsAlone())
        {
            byte? taken = source.Acknowledge(out bool more);
            if (taken is { } vector) InjectInterrupt(vector);
            if (Controls.InterruptWindowExiting != more) Controls = Controls with { InterruptWindowExiting = more };
            return taken != null;
        }
        var recorded = new RecordedAcknowledge(source);
        _subject.OfferInterrupt(recorded);
        ((IX86Cpu)_reference).OfferInterrupt(recorded.Again);
        return true;
    }

    public InitResponse TakeInit()
    {
        InitResponse response = _subject.TakeInit();
        ((IX86Cpu)_reference).TakeInit();
        _initWaits = response == InitResponse.Blocked;
        return response;
    }

    public bool TakeStartUp(byte vector)
    {
        ((IX86Cpu)_reference).TakeStartUp(vector);
        return _subject.TakeStartUp(vector);
    }

    private bool? _mayHaveGuests; // null: not known yet
    private readonly CpuState _offered = new();

    /// <summary>
    /// A guest inside the guest runs, whose hypervisor intercepts interrupts: they are not acknowledged, or not before the exit. AMD APM vol. 2, "INTR
    /// Intercept"; Intel SDM vol. 3C, "External-interrupt exiting".
    /// </summary>
    private bool LeavesInterruptsAlone()
    {
        if (_mayHaveGuests == false) return false;
        _subject.ReadState(_offered);
        _mayHaveGuests = _offered.Svm != null || _offered.Vmx != null;
        const int intercepts = 0xC, interrupts = 1;
        if (_offered.Vmx is { InGuest: true } vmx) return ((PinControls)vmx[VmcsField.PinBasedControls] & PinControls.ExternalInterruptExiting) != 0;
        return _offered.Svm is { InGuest: true } svm && (svm.Control[intercepts] & interrupts) != 0;
    }

    /// <summary>Notes what an interrupt's source answers, for a second one who asks.</summary>
    private sealed class RecordedAcknowledge(IInterruptAcknowledge source) : IInterruptAcknowledge
    {
        private byte? _vector;

        byte? IInterruptAcknowledge.Acknowledge(out bool more) => _vector = source.Acknowledge(out more);

        void IInterruptAcknowledge.EndOfInterrupt(out bool more) => source.EndOfInterrupt(out more);

        public IInterruptAcknowledge Again => new Answer(this);

        private sealed class Answer(RecordedAcknowledge recorded) : IInterruptAcknowledge
        {
            byte? IInterruptAcknowledge.Acknowledge(out bool more)
            {
                more = false; // windows are the subject's
                return recorded._vector;
            }

            void IInterruptAcknowledge.EndOfInterrupt(out bool more) => more = false;
        }
    }

    public void InjectInterrupt(byte vector) => Inject(c => c.InjectInterrupt(vector));

    public void InjectNmi() => Inject(c => c.InjectNmi());

    public void InjectException(byte vector, uint? errorCode) => Inject(c => c.InjectException(vector, errorCode));

    private void Inject(Action<IX86Cpu> inject)
    {
        inject(_subject);
        if (_failed) return;
        inject(_reference);
        _stretch.Injected(inject);
    }

    public void ReadState(CpuState state)
    {
        if (!_failed) Advance();
        _subject.ReadState(state);
    }

    public void WriteState(CpuState state)
    {
        Advance();
        _memory.CopyAll(); // PDPTEs are read now
        _subject.WriteState(state);
        _reference.WriteState(state);
        Restart();
    }

    public void Reset()
    {
        _subject.Reset();
        _reference.Reset();
        Restart();
    }

    private void Restart()
    {
        // A guest that comes from elsewhere has run there on this memory.
        _started = false;
        _last = null;
        _tscOffset = _subject.TscOffset;
        _follower.Restart();
        _stretch.Restart(_subject);
    }

    public EngineCounters Counters => _subject.Counters;

    public CpuWork? Work => _subject.Work;

    public ExecutionReport? Execution => _subject.Execution;

    public bool ObserveNested(INestedObserver observer) => _subject.ObserveNested(observer);

    /// <summary>The subject's alone; the reference is brought to where it stopped.</summary>
    public void SetDebugControls(DebugControls? controls) => _subject.SetDebugControls(controls);

    public IReadOnlyList<TlbMapping>? ReadTlb() => _subject.ReadTlb();

    public bool ObserveCode(IHostCodeObserver observer) => _subject.ObserveCode(observer);

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _kicker?.Dispose();
        _subject.Dispose();
        _reference.Dispose();
        _memory.Dispose();
    }
}
