using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Platform;

namespace Bunraku.Machine.Interrupts;

// The APIC timer. Its input clock runs at 1 GHz, so that one count at divisor 1 is one nanosecond of virtual time.
internal sealed partial class LocalApic
{
    /// <summary>Frequency of the clock that the divide configuration register divides, in Hz.</summary>
    public const uint TimerFrequency = CpuidLeaves.CrystalFrequency;

    /// <summary>A guest that asks for a periodic interrupt every few nanoseconds must not keep the machine's timer thread busy.</summary>
    private const long ShortestRepeat = 20_000;

    private readonly IMachineTimer _timer;
    private uint _initialCount, _divideConfiguration;
    private bool _counting; // the current count is not 0
    private long _countStart; // ns; when the current count last was the initial count
    private ulong _tscDeadline; // 0: not armed

    private ApicTimerMode TimerMode => Lvt(LocalApicRegister.LvtTimer).TimerMode;

    /// <summary>log2 of the divisor: bits 3, 1 and 0 say 2, 4, … 128 and, when all set, 1.</summary>
    /// <remarks>Intel SDM vol. 3A, figure "Divide Configuration Register".</remarks>
    private int DivideShift => (int)((_divideConfiguration >> 1 & 4 | _divideConfiguration & 3) + 1 & 7);

    private long Period => (long)_initialCount << DivideShift;

    private void ResetTimer()
    {
        StopCounting();
        _tscDeadline = 0;
        _initialCount = _divideConfiguration = 0;
    }

    private void StopCounting()
    {
        _counting = false;
        _timer.Cancel();
    }

    private void WriteInitialCount(uint value)
    {
        if (TimerMode == ApicTimerMode.TscDeadline) return;
        _initialCount = value;
        if (value == 0)
        {
            StopCounting();
            return;
        }
        _counting = true;
        _countStart = _time.Nanoseconds;
        _timer.Arm(_countStart + Period);
    }

    private uint ReadCurrentCount()
    {
        long now = _time.Nanoseconds;
        // The timer thread may be late: whoever sees the count at 0 must find the interrupt requested.
        if (_counting && now - _countStart >= Period) Expire(now);
        return CurrentCount(now);
    }

    private uint CurrentCount(long now) => _counting ? (uint)Math.Max(0, _initialCount - (now - _countStart >> DivideShift)) : 0;

    private void WriteDivideConfiguration(uint value)
    {
        long now = _time.Nanoseconds;
        if (_counting && now - _countStart >= Period) Expire(now);
        uint count = CurrentCount(now);
        _divideConfiguration = value;
        if (!_counting) return;
        // The count goes on from where it is, at another speed.
        _countStart = now - ((long)(_initialCount - count) << DivideShift);
        _timer.Arm(_countStart + Period);
    }

    private void WriteTimerLvt(LvtEntry value)
    {
        long now = _time.Nanoseconds;
        if (_counting && now - _countStart >= Period) Expire(now); // under the old mode
        ApicTimerMode before = TimerMode;
        Lvt(LocalApicRegister.LvtTimer) = value;
        ApicTimerMode after = value.TimerMode;
        // Between one-shot and periodic the count goes on; a change to or from TSC-deadline mode disarms the timer.
        if (before == after || (before != ApicTimerMode.TscDeadline && after != ApicTimerMode.TscDeadline)) return;
        StopCounting();
        _initialCount = 0;
        _tscDeadline = 0;
    }

    private void OnTimer()
    {
        if (_tscDeadline != 0)
        {
            ArmTscDeadline();
            return;
        }
        if (!_counting) return;
        long now = _time.Nanoseconds;
        if (now - _countStart >= Period) Expire(now);
        else _timer.Arm(_countStart + Period);
    }

    /// <summary>The count reached 0: in periodic mode it starts again, without drift.</summary>
    private void Expire(long now)
    {
        if (TimerMode == ApicTimerMode.Periodic)
        {
            long period = Period;
            _countStart += (now - _countStart) / period * period;
            _timer.Arm(Math.Max(_countStart + period, now + ShortestRepeat));
        }
        else
        {
            StopCounting();
        }
        TriggerLocal(LocalApicRegister.LvtTimer);
    }

    // ---- IA32_TSC_DEADLINE

    private ulong ReadTscDeadline()
    {
        if (_tscDeadline != 0 && _readTsc() >= _tscDeadline) ArmTscDeadline();
        return _tscDeadline;
    }

    /// <summary>Outside TSC-deadline mode the write has no effect.</summary>
    /// <remarks>Intel SDM vol. 3A, "TSC-Deadline Mode".</remarks>
    private bool WriteTscDeadline(ulong value)
    {
        if (TimerMode != ApicTimerMode.TscDeadline || Mode == LocalApicMode.Disabled) return true;
        _tscDeadline = value;
        if (value == 0) _timer.Cancel();
        else ArmTscDeadline();
        return true;
    }

    /// <summary>Arms the timer for the deadline, or expires when it has passed.</summary>
    private void ArmTscDeadline()
    {
        ulong tsc = _readTsc();
        if (tsc >= _tscDeadline)
        {
            _tscDeadline = 0;
            _timer.Cancel();
            TriggerLocal(LocalApicRegister.LvtTimer);
            return;
        }
        // Rounded up: at that time the guest reads at least the deadline.
        ulong wait = Math.Min(WideMath.MultiplyDivide(_tscDeadline - tsc, 1_000_000_000, _time.TscFrequency, _time.TscFrequency - 1), long.MaxValue / 2);
        _timer.Arm(_time.Nanoseconds + (long)wait);
    }
}
