using Bunraku.Engines;

namespace Bunraku.Hypervisor;

/// <summary>
/// Keeps a VM's clock with the host's: the rate of the host's counter, as first measured, is good to some parts in a million, and the host's own clock is bent
/// by NTP. Looks again after growing spans and lets the clock correct its rate, for which the vCPUs are held for a moment.
/// </summary>
internal sealed class ClockDiscipline : IDisposable
{
    private static readonly TimeSpan[] s_spans = [TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(5), TimeSpan.FromSeconds(20), TimeSpan.FromSeconds(60)];

    private readonly VirtualMachine _vm;
    private readonly Timer _timer;
    private int _looks;

    public ClockDiscipline(VirtualMachine vm)
    {
        _vm = vm;
        _timer = new Timer(_ => Look());
    }

    /// <summary>Time until the next look.</summary>
    private TimeSpan Span => s_spans[Math.Min(_looks, s_spans.Length - 1)];

    public void Start() => _timer.Change(Span, Timeout.InfiniteTimeSpan);

    private void Look()
    {
        _looks++;
        if (_vm.Stopped.IsCompleted) return;
        if (_vm.Clock.Measure(Span) is { } correction) _vm.WhileHeld(() => _vm.Clock.Correct(correction));
        try
        {
            _timer.Change(Span, Timeout.InfiniteTimeSpan);
        }
        catch (ObjectDisposedException)
        {
            // The VM came to its end meanwhile.
        }
    }

    /// <summary>Returns when nothing is under way any more.</summary>
    public void Dispose()
    {
        using var done = new ManualResetEvent(false);
        if (_timer.Dispose(done)) done.WaitOne();
    }
}
