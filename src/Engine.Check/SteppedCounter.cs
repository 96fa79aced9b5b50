using Bunraku.Platform;

namespace Bunraku.Engine.Check;

/// <summary>A counter that only moves when it is told to.</summary>
/// <param name="frequency">Hz.</param>
internal sealed class SteppedCounter(ulong frequency) : HostCounter
{
    private ulong _value;

    /// <summary>Goes on to <paramref name="value"/>; never back.</summary>
    public void AdvanceTo(ulong value) => Volatile.Write(ref _value, Math.Max(_value, value));

    public override bool IsTimeStampCounter => false;

    public override ulong Read() => Volatile.Read(ref _value);

    public override CounterSample Sample() => new(Read(), (long)((UInt128)Read() * 1_000_000_000 / frequency));

    public override double MeasureFrequency() => frequency;
}
