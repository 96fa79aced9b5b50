using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

// The local APIC when the kernel holds it: then HLT, INIT, SIPI and the APIC's timer are the kernel's too, and the APIC moves with the state.
internal sealed unsafe partial class KvmCpu
{
    /// <summary>The APIC's timer while virtual time stands still. The deadline is as many guest ticks away; null: not armed.</summary>
    private sealed record StoppedTimer(uint InitialCount, uint CurrentCount, Int128? Deadline);

    private CpuActivity _activity; // while the board holds the local APICs
    private StoppedTimer? _stoppedTimer;
    private bool HasApic => _vm.Apics != null;

    private void ReadApic(CpuState state, ulong apicBase)
    {
        state.Apic = null;
        state.Activity = _activity;
        if (!HasApic) return;
        KvmMpState activity = GetMpState();
        state.Activity = activity switch
        {
            KvmMpState.Halted => CpuActivity.Halted,
            KvmMpState.Uninitialized or KvmMpState.InitReceived => CpuActivity.WaitForStartUp,
            _ => CpuActivity.Active,
        };
        var apic = new LocalApicState { Base = apicBase, WaitsForStartUp = activity is KvmMpState.Uninitialized or KvmMpState.InitReceived };
        GetLapic(apic);
        Int128? distance = DeadlineDistance();
        if (_stoppedTimer is { } t)
        {
            (apic[LocalApicOffset.InitialCount], apic[LocalApicOffset.CurrentCount], distance) = (t.InitialCount, t.CurrentCount, t.Deadline);
        }
        apic.TscDeadline = distance is { } d ? Beyond(_vm.Clock.Counter, ScaleTicks(d, _tscFrequency, _vm.Clock.CounterFrequency)) : 0;
        state.Apic = apic;
    }

    /// <summary>After the system registers, which hold IA32_APIC_BASE.</summary>
    private void WriteApic(CpuState state)
    {
        if (!HasApic) return;
        if (state.Apic is { } apic)
        {
            Int128? distance = apic.TscDeadline == 0 ? null
                : ScaleTicks((Int128)apic.TscDeadline - _vm.Clock.Counter, _vm.Clock.CounterFrequency, _tscFrequency);
            if (_stoppedTimer == null)
            {
                SetLapic(apic);
                SetDeadline(distance);
            }
            else
            {
                var page = new LocalApicState();
                apic.Registers.CopyTo(page.Registers, 0);
                _stoppedTimer = new(page[LocalApicOffset.InitialCount], page[LocalApicOffset.CurrentCount], distance);
                page[LocalApicOffset.InitialCount] = page[LocalApicOffset.CurrentCount] = 0;
                SetLapic(page);
            }
        }
        // Uninitialized, KVM takes a start-up IPI only after INIT; a processor that waits takes it at once.
        if (state.Apic != null || state.Activity == CpuActivity.Halted)
            SetMpState(state.Apic is { WaitsForStartUp: true } ? KvmMpState.InitReceived
                : state.Activity == CpuActivity.Halted ? KvmMpState.Halted : KvmMpState.Runnable);
    }

    private void GetLapic(LocalApicState apic)
    {
        fixed (byte* p = apic.Registers) _file.Request(KvmRequest.GetLapic, p);
    }

    private void SetLapic(LocalApicState apic)
    {
        fixed (byte* p = apic.Registers) _file.Request(KvmRequest.SetLapic, p);
    }

    /// <summary>How far IA32_TSC_DEADLINE is away, in guest ticks; null: not armed, or the model has none.</summary>
    private Int128? DeadlineDistance() => TryGetMsr(MsrIndex.TscDeadline, out ulong value) && value != 0 ? (Int128)value - GetTsc() : null;

    private void SetDeadline(Int128? distance)
    {
        if (distance is { } d) SetMsr(MsrIndex.TscDeadline, Beyond(GetTsc(), d));
        else if (DeadlineDistance() != null) SetMsr(MsrIndex.TscDeadline, 0);
    }

    private KvmMpState GetMpState()
    {
        uint state;
        _file.Request(KvmRequest.GetMpState, &state);
        return (KvmMpState)state;
    }

    private void SetMpState(KvmMpState value)
    {
        uint state = (uint)value;
        _file.Request(KvmRequest.SetMpState, &state);
    }

    /// <summary>
    /// ExtINT. Not by KVM_INTERRUPT: that would keep the vector where no state request shows it until the guest is entered, and a move would lose it.
    /// </summary>
    private void InjectExternal(byte vector)
    {
        KvmVcpuEvents events;
        _file.Request(KvmRequest.GetVcpuEvents, &events);
        (events.InterruptInjected, events.InterruptNumber, events.InterruptSoft, events.Flags) = (1, vector, 0, 0);
        _file.Request(KvmRequest.SetVcpuEvents, &events);
        if (GetMpState() == KvmMpState.Halted) SetMpState(KvmMpState.Runnable);
    }

    /// <summary>
    /// Virtual time stands still: the timer is taken out of the kernel, where it would go on. A count that has come to its end is left alone, since the
    /// kernel may not have made its interrupt yet.
    /// </summary>
    public void SuspendTime()
    {
        if (!HasApic || _stoppedTimer != null || _disposed) return;
        var page = new LocalApicState();
        lock (_vm.Apics!.Delivery)
        {
            GetLapic(page);
            var timer = new StoppedTimer(page[LocalApicOffset.InitialCount], page[LocalApicOffset.CurrentCount], DeadlineDistance());
            if (timer is { CurrentCount: 0, Deadline: null }) return;
            _stoppedTimer = timer;
            page[LocalApicOffset.InitialCount] = page[LocalApicOffset.CurrentCount] = 0;
            SetLapic(page);
            SetDeadline(null);
        }
    }

    /// <summary>Virtual time goes on: first the TSC, then what is compared with it.</summary>
    public void ResumeTime()
    {
        if (_disposed) return;
        KeepTime();
        _ = _file.TryRequest(KvmRequest.KvmClockControl, 0); // EINVAL: the guest has no kvmclock
        if (_stoppedTimer is not { } timer) return;
        _stoppedTimer = null;
        var page = new LocalApicState();
        lock (_vm.Apics!.Delivery)
        {
            GetLapic(page);
            (page[LocalApicOffset.InitialCount], page[LocalApicOffset.CurrentCount]) = (timer.InitialCount, timer.CurrentCount);
            SetLapic(page);
        }
        SetDeadline(timer.Deadline);
    }
}
