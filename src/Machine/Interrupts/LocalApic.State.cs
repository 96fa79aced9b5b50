using Bunraku.Engines;

namespace Bunraku.Machine.Interrupts;

// The state in the form in which engines that hold local APICs themselves have it, so that a guest can move between them and this one.
public sealed partial class LocalApic
{
    private const int Stride = 16; // bytes from one register to the next

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
