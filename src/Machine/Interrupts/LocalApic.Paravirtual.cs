namespace Bunraku.Machine.Interrupts;

// The end of an interrupt that the guest does not write to a register: KVM's PV EOI.
internal sealed partial class LocalApic
{
    private bool _silentEoi; // the vCPU may have ended its interrupt in service by now

    public bool IsInService => _isr.Highest >= 0;

    public bool TryOfferSilentEoi()
    {
        int vector = _isr.Highest;
        return _silentEoi = vector >= 0 && _irr.Highest < 0 && !_tmr.Contains(vector);
    }

    public void WithdrawSilentEoi(bool ended)
    {
        if (!_silentEoi) return;
        _silentEoi = false;
        if (ended) EndOfInterrupt();
    }
}
