using Bunraku.Engines;

namespace Bunraku.Machine.Interrupts;

/// <summary>State of a <see cref="LocalApic"/>: registers, and what a processor's view of them does not show.</summary>
/// <param name="Lvt">The local vector table, timer to error, in the order of their addresses.</param>
/// <param name="Nmis">NMIs that wait for the processor.</param>
/// <param name="StartUp">Vector of the start-up IPI that waits.</param>
/// <param name="CountStart">ns at which the current count last was the initial count.</param>
/// <param name="Timer">ns at which the timer calls back.</param>
[StateRecord("lapic", version: 1)]
internal sealed record LocalApicRecord(
    ulong Base, byte Identifier, uint[] Isr, uint[] Tmr, uint[] Irr, byte TaskPriority, uint Ldr, uint Dfr, uint Svr, ulong Icr, uint Errors, uint ErrorStatus,
        bool ErrorInterruptArmed, uint[] Lvt,
    uint InitialCount, uint DivideConfiguration, bool Counting, long CountStart, ulong TscDeadline, long? Timer, int Nmis, bool InitPending,
        bool WaitsForStartUp, byte? StartUp, bool ExtIntReceived,
    bool Lint0, bool Lint1, bool SilentEoi);

// The state in the form in which engines that hold local APICs themselves have it, so that a guest can move between them and this one.
internal sealed partial class LocalApic
{
    private const int Stride = 16; // bytes from one register to the next

    /// <inheritdoc/>
    public string Id => $"cpu{Index}.apic";

    LocalApicRecord IStateful<LocalApicRecord>.Save() => new(
        _base, _id, Words(_isr), Words(_tmr), Words(_irr), _tpr, _ldr, _dfr, _svr, _icr, (uint)_errors, (uint)_errorStatus, _errorInterruptArmed,
            [.. _lvt.Select(l => l.Value)], _initialCount,
        _divideConfiguration, _counting, _countStart, _tscDeadline, _timer.Deadline, _nmis, _initPending, _waitsForStartUp, _startUp, _extIntReceived, _lint0,
            _lint1, _silentEoi);

    void IStateful<LocalApicRecord>.Restore(LocalApicRecord state)
    {
        StateCheck.Length(state.Lvt, _lvt.Length, Id);
        (_base, _id) = (state.Base, state.Identifier);
        MapPage();
        SetWords(ref _isr, state.Isr);
        SetWords(ref _tmr, state.Tmr);
        SetWords(ref _irr, state.Irr);
        (_tpr, _ldr, _dfr, _svr, _icr) = (state.TaskPriority, state.Ldr, state.Dfr, state.Svr, state.Icr);
        (_errors, _errorStatus, _errorInterruptArmed) = ((ApicErrors)state.Errors, (ApicErrors)state.ErrorStatus, state.ErrorInterruptArmed);
        for (int n = 0; n < _lvt.Length; n++) _lvt[n] = new LvtEntry(state.Lvt[n]);
        (_initialCount, _divideConfiguration, _counting, _countStart, _tscDeadline) =
            (state.InitialCount, state.DivideConfiguration, state.Counting, state.CountStart, state.TscDeadline);
        _timer.Restore(state.Timer);
        _nmis = StateCheck.Range(state.Nmis, 0, MostNmis, Id);
        (_initPending, _waitsForStartUp, _startUp) = (state.InitPending, state.WaitsForStartUp, state.StartUp);
        (_extIntReceived, _lint0, _lint1, _silentEoi) = (state.ExtIntReceived, state.Lint0, state.Lint1, state.SilentEoi);
        UpdatePriority();
    }

    private static uint[] Words(VectorSet set) => [.. Enumerable.Range(0, VectorSet.Words).Select(set.Word)];

    private void SetWords(ref VectorSet set, uint[] words)
    {
        StateCheck.Length(words, VectorSet.Words, Id);
        for (int n = 0; n < words.Length; n++) set.SetWord(n, words[n]);
    }

    /// <summary>Copies the registers out. The vCPU stands still.</summary>
    public LocalApicState ReadState()
    {
        bool x2 = Mode == LocalApicMode.X2Apic;
        var state = new LocalApicState { Base = _base, TscDeadline = ReadTscDeadline(), WaitsForStartUp = _waitsForStartUp };
        for (int offset = 0; offset < LocalApicState.Size; offset += Stride)
        {
            if (TryRead((LocalApicRegister)(offset / Stride), x2, out uint value)) state[offset] = value;
        }
        state[LocalApicOffset.DestinationFormat] = _dfr;
        state[LocalApicOffset.InterruptCommandHigh] = (uint)(_icr >> 32);
        return state;
    }

    /// <summary>Takes registers over. The vCPU stands still; it looks for what is pending when it goes on.</summary>
    public void WriteState(LocalApicState state)
    {
        _base = state.Base;
        MapPage();
        _id = Mode == LocalApicMode.X2Apic ? (byte)Index : (byte)(state[LocalApicOffset.Id] >> 24);
        _waitsForStartUp = state.WaitsForStartUp;
        _startUp = null;
        StopCounting();
        for (int word = 0; word < 8; word++)
        {
            _isr.SetWord(word, state[LocalApicOffset.InService + word * Stride]);
            _tmr.SetWord(word, state[LocalApicOffset.TriggerMode + word * Stride]);
            _irr.SetWord(word, state[LocalApicOffset.InterruptRequest + word * Stride]);
        }
        _tpr = (byte)state[LocalApicOffset.TaskPriority];
        _ldr = Mode == LocalApicMode.X2Apic ? 0 : state[LocalApicOffset.LogicalDestination];
        _dfr = state[LocalApicOffset.DestinationFormat] | 0x0FFF_FFFF;
        _svr = state[LocalApicOffset.SpuriousVector] & SvrWritable;
        _icr = state[LocalApicOffset.InterruptCommand] | (ulong)state[LocalApicOffset.InterruptCommandHigh] << 32;
        _errors = ApicErrors.None;
        _errorStatus = (ApicErrors)state[LocalApicOffset.ErrorStatus];
        _errorInterruptArmed = true;
        for (LocalApicRegister r = LocalApicRegister.LvtTimer; r <= LocalApicRegister.LvtError; r++) Lvt(r) = new(state[(int)r * Stride]);

        _divideConfiguration = state[LocalApicOffset.DivideConfiguration] & DivideWritable;
        _initialCount = state[LocalApicOffset.InitialCount];
        uint current = Math.Min(state[LocalApicOffset.CurrentCount], _initialCount);
        if (current != 0 && TimerMode != ApicTimerMode.TscDeadline)
        {
            _counting = true;
            _countStart = _time.Nanoseconds - ((long)(_initialCount - current) << DivideShift);
            _timer.Arm(_countStart + Period);
        }
        _tscDeadline = TimerMode == ApicTimerMode.TscDeadline ? state.TscDeadline : 0;
        if (_tscDeadline != 0) ArmTscDeadline();
        UpdatePriority();
    }
}
