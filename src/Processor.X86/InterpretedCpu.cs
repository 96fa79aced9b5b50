using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The exit boundary's view of one <see cref="Processor"/>.</summary>
internal sealed class InterpretedCpu(int index, Processor processor) : IFollowingCpu
{
    private bool _disposed;

    public int Index => index;

    public VmExit Enter() => processor.Enter();

    public VmExit EnterUntil(ulong retired) => processor.EnterUntil(retired);

    public VmExit FollowTo(Place place, bool beyond) => processor.FollowTo(place, beyond);

    public void WatchWrites(Action<ulong>? beforeWrite) => processor.WatchWrites(beforeWrite);

    public void WatchAnew() => processor.WatchAnew();

    public bool TakeHeldNmi() => processor.TakeHeldNmi();

    public bool IterateUntil(ulong rcx) => processor.IterateUntil(rcx);

    public void Kick() => processor.Kick();

    /// <summary>Any thread; takes effect before the next block.</summary>
    internal void SetA20(bool pass) => processor.SetA20(pass);

    public ExecutionControls Controls
    {
        get => processor.Controls;
        set => processor.Controls = value;
    }

    public CpuActivity Activity
    {
        get => processor.Activity;
        set => processor.Activity = value;
    }

    public ulong TscOffset => processor.TscOffset;

    public void FlushTlb() => processor.FlushTlb();

    public bool InterruptWindowOpen => processor.InterruptWindowOpen;

    public bool NmiWindowOpen => processor.NmiWindowOpen;

    public bool NmiBlocked => processor.NmiBlocked || processor.NmiInjected;

    public void InjectInterrupt(byte vector) => processor.InjectInterrupt(vector);

    public bool OfferInterrupt(IInterruptAcknowledge source)
    {
        processor.OfferInterrupt(source);
        return true;
    }

    public void InjectNmi() => processor.InjectNmi();

    public void InjectException(byte vector, uint? errorCode) => processor.InjectException((Vector)vector, errorCode);

    public void ReadState(CpuState state) => processor.ReadState(state);

    public void WriteState(CpuState state) => processor.WriteState(state);

    public void Reset()
    {
        processor.AbandonInstruction();
        processor.Reset();
    }

    public EngineCounters Counters => processor.Counters;

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        processor.Dispose();
    }
}
