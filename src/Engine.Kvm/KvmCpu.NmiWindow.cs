using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

// KVM has no exit for an NMI window. It holds one NMI itself until the guest can take it, so the window is open while it holds none; to see when it has
// delivered the one that it holds, the guest goes on by single steps.
internal sealed unsafe partial class KvmCpu
{
    private bool _stepping;

    /// <summary>KVM has room for an NMI: it delivers it when the guest can take it.</summary>
    public bool NmiWindowOpen
    {
        get
        {
            KvmVcpuEvents events;
            _file.Request(KvmRequest.GetVcpuEvents, &events);
            return events.NmiPending == 0 && !_pieces.HasNext && !_resultWaits;
        }
    }

    public void InjectNmi()
    {
        if (!NmiWindowOpen) throw new InvalidOperationException("the NMI window is closed");
        _file.Request(KvmRequest.Nmi);
        _interruptsDelivered++;
    }

    /// <summary>True when the window that is asked for is open; else the guest goes on one instruction at a time until it is.</summary>
    private bool NmiWindowOpens()
    {
        bool step = _controls.NmiWindowExiting && !NmiWindowOpen;
        // Once more for each step: KVM wants to know where the guest stands.
        if (step || _stepping) Step(step);
        return _controls.NmiWindowExiting && !step;
    }

    private void Step(bool on)
    {
        if (!on && !_stepping) return;
        var debug = new KvmGuestDebug { Control = on ? KvmGuestDebug.Enable | KvmGuestDebug.SingleStep : 0 };
        _file.Request(KvmRequest.SetGuestDebug, &debug);
        _stepping = on;
    }
}
