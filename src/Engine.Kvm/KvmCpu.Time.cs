using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

// The TSC: it runs on the host's, with KVM's offset and, where the host can, scaled to the virtual clock's frequency.
internal sealed unsafe partial class KvmCpu
{
    private const long NanosecondsPerSecond = 1_000_000_000;

    private ulong _tscFrequency;  // Hz, as the guest sees it
    private bool _hasTscOffset;   // KVM_VCPU_TSC_OFFSET works
    private long _behindHost;     // standstill that the TSC has been set back for

    /// <summary>Gives the guest the virtual clock's TSC, as far as this host can.</summary>
    private void SetUpTsc()
    {
        // Without scaling KVM still accepts a frequency that is the host's own within its tolerance.
        _ = _file.TryRequest(KvmRequest.SetTscFrequency, (nuint)(_vm.Clock.CounterFrequency / 1000));
        long kilohertz = _file.TryRequest(KvmRequest.GetTscFrequency, 0);
        _tscFrequency = kilohertz > 0 ? (ulong)kilohertz * 1000 : _vm.Clock.CounterFrequency;
        ulong offset;
        KvmDeviceAttribute attribute = TscOffsetAttribute(&offset);
        _hasTscOffset = _file.TryRequest(KvmRequest.HasDeviceAttribute, &attribute) >= 0;
    }

    private static KvmDeviceAttribute TscOffsetAttribute(ulong* value) =>
        new() { Group = KvmDeviceAttribute.VcpuTscControl, Attribute = KvmDeviceAttribute.VcpuTscOffset, Address = value };

    /// <summary>Power-on: the TSC counts from the clock's zero, alike on all vCPUs.</summary>
    private void StartTsc()
    {
        _behindHost = _vm.Clock.BehindHost;
        if (_hasTscOffset && _vm.TscOffset is { } common)
        {
            SetTscOffset(common);
            return;
        }
        SetTsc((ulong)((UInt128)(ulong)_vm.Clock.Nanoseconds * _tscFrequency / NanosecondsPerSecond));
        if (_hasTscOffset) _vm.TscOffset = GetTscOffset();
    }

    private ulong GetTscOffset()
    {
        ulong offset;
        KvmDeviceAttribute attribute = TscOffsetAttribute(&offset);
        _file.Request(KvmRequest.GetDeviceAttribute, &attribute);
        return offset;
    }

    private void SetTscOffset(ulong offset)
    {
        KvmDeviceAttribute attribute = TscOffsetAttribute(&offset);
        _file.Request(KvmRequest.SetDeviceAttribute, &attribute);
    }

    /// <summary>The guest's TSC now.</summary>
    private ulong GetTsc()
    {
        long result = AccessMsr(KvmRequest.GetMsrs, MsrIndex.Tsc, 0, out ulong tsc);
        return result == 1 ? tsc : throw MsrFailed(KvmRequest.GetMsrs, MsrIndex.Tsc, result);
    }

    /// <remarks>
    /// By the offset where KVM has it: a write of the MSR that comes near what another vCPU has is taken by KVM for an attempt to synchronise, and altered.
    /// </remarks>
    private void SetTsc(ulong value)
    {
        if (_hasTscOffset) SetTscOffset(GetTscOffset() + (value - GetTsc()));
        else SetMsr(MsrIndex.Tsc, value);
    }

    /// <summary>While virtual time stood still the guest's TSC went on: it is set back by as much.</summary>
    private void KeepTime()
    {
        long behind = _vm.Clock.BehindHost;
        if (behind == _behindHost) return;
        long stood = behind - _behindHost;
        _behindHost = behind;
        ulong ticks = (ulong)((Int128)stood * _tscFrequency / NanosecondsPerSecond);
        if (_hasTscOffset) SetTscOffset(GetTscOffset() - ticks);
        else SetMsr(MsrIndex.Tsc, GetTsc() - ticks);
    }

    /// <summary>
    /// IA32_TSC_DEADLINE outside is in ticks of the virtual clock, inside in ticks of the guest's TSC, which has an offset and on some hosts another frequency.
    /// </summary>
    private void ConvertDeadline(bool answer)
    {
        X86Exit e = _last;
        if (e.Reason != ExitReason.Msr || e.Address != MsrIndex.TscDeadline || e.Fault || e.IsWrite == answer || e.Data == 0) return;
        ulong guest = GetTsc(), clock = _vm.Clock.Counter;
        e.Data = answer ? Scale(e.Data, clock, guest, _vm.Clock.CounterFrequency, _tscFrequency)
            : Scale(e.Data, guest, clock, _tscFrequency, _vm.Clock.CounterFrequency);
    }

    /// <summary>A point on one scale, as far from "now" on the other; never 0, which would disarm.</summary>
    internal static ulong Scale(ulong value, ulong now, ulong otherNow, ulong frequency, ulong otherFrequency) =>
        Beyond(otherNow, ScaleTicks((Int128)value - now, frequency, otherFrequency));

    private static Int128 ScaleTicks(Int128 ticks, ulong frequency, ulong otherFrequency) =>
        frequency == otherFrequency ? ticks : ticks * otherFrequency / frequency;

    /// <summary>The point that is so many ticks later, at least 1; saturates.</summary>
    private static ulong Beyond(ulong now, Int128 distance) => (ulong)Int128.Clamp(now + distance, 1, ulong.MaxValue);
}
