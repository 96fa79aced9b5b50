using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The exit boundary's view of one <see cref="Processor"/>.</summary>
internal sealed class InterpretedCpu(int index, Processor processor) : IFollowingCpu
{
    private bool _disposed;

    public int Index => index;

    public X86Exit Enter() => processor.Enter();

    public X86Exit EnterUntil(ulong retired) => processor.Following.EnterUntil(retired);

    public X86Exit FollowTo(Place place, bool beyond) => processor.Following.FollowTo(place, beyond);

    public void WatchWrites(Action<ulong>? beforeWrite) => processor.WriteWatch.Begin(beforeWrite);

    public void WatchAnew() => processor.WriteWatch.BeginAnew();

    public bool TakeHeldNmi() => processor.Events.TakeHeldNmi();

    public bool IterateUntil(ulong rcx) => processor.Following.IterateUntil(rcx);

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
        get => processor.Events.Activity;
        set => processor.Events.Activity = value;
    }

    public ulong TscOffset => processor.Msrs.TscOffset;

    public void FlushTlb() => processor.Tlb.Flush();

    public bool InterruptWindowOpen => processor.Events.InterruptWindowOpen;

    public bool NmiWindowOpen => processor.Events.NmiWindowOpen;

    public bool NmiBlocked => processor.Events.NmiBlocked || processor.Events.NmiInjected;

    public void InjectInterrupt(byte vector) => processor.Events.InjectInterrupt(vector);

    public bool OfferInterrupt(IInterruptAcknowledge source)
    {
        processor.Events.OfferInterrupt(source);
        return true;
    }

    public InitResponse TakeInit() => processor.Vmx?.TakeInit() ?? processor.Svm?.TakeInit() ?? InitResponse.Initialize;

    public bool TakeStartUp(byte vector) => processor.Vmx?.TakeStartUp(vector) ?? false;

    public void InjectNmi() => processor.Events.InjectNmi();

    public void InjectException(byte vector, uint? errorCode) => processor.Events.InjectException((Vector)vector, errorCode);

    public void ReadState(CpuState state) => processor.ReadState(state);

    public void WriteState(CpuState state) => processor.WriteState(state);

    public void Reset()
    {
        processor.AbandonInstruction();
        processor.Reset();
    }

    public EngineCounters Counters => processor.Counters;

    public CpuWork? Work => processor.Work;

    public ExecutionReport? Execution => processor.Execution;

    public bool ObserveNested(INestedObserver observer) => processor.ObserveNested(observer);

    public void SetDebugControls(DebugControls? controls) => processor.Debugger.Set(controls);

    public IReadOnlyList<TlbMapping> ReadTlb() => processor.Tlb.Read();

    public (long Run, long Wait) HelperTime => processor.Direct?.Time.Read() ?? default;

    public IReadOnlyList<ShadowTable>? ReadShadows() => processor.Direct?.Read();

    public bool ObserveCode(IHostCodeObserver observer) => processor.ObserveCode(observer);

    public void ObserveMemoryWish(Action wish)
    {
        if (processor.Direct is { } direct) direct.WishForMemory = wish;
    }

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        processor.Dispose();
    }
}
