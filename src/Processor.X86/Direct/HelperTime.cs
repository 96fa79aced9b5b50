namespace Bunraku.Processor.X86;

/// <summary>
/// What the host's scheduler gave the helpers of a vCPU. At each turn the vCPU's thread and the helper wait for each other to leave the processor, which the
/// scheduler counts as waiting; nobody has taken anything from the guest by that, so what it usually takes is taken off.
/// </summary>
/// <remarks>
/// The vCPU's thread says which helper runs; any thread reads. The other helpers stand still, so that their accounts do, too: they are part of a sum.
/// </remarks>
internal sealed class HelperTime
{
    private readonly Lock _gate = new();
    private (long Run, long Wait) _others;
    private DirectHelper? _helper;

    /// <summary>
    /// What one turn adds to what the scheduler counts as waiting, of helper and thread together, in nanoseconds. Set once, while none is selected.
    /// </summary>
    public long HandOver { get; set; }

    /// <summary>This helper runs next, if any. Before the one that was selected is disposed of.</summary>
    public void Select(DirectHelper? helper)
    {
        if (helper == _helper) return;
        lock (_gate)
        {
            _others = Sum();
            if (_helper != null) _helper.Counted = Measure(_helper);
            _helper = helper;
            if (helper != null) _others = (_others.Run - helper.Counted.Run, _others.Wait - helper.Counted.Wait);
        }
    }

    private (long Run, long Wait) Measure(DirectHelper helper)
    {
        (long run, long wait) = helper.Accounting?.Read() ?? default;
        return (run, wait - helper.Process.Turns * HandOver);
    }

    private (long Run, long Wait) Sum()
    {
        if (_helper == null) return _others;
        (long run, long wait) = Measure(_helper);
        return (_others.Run + run, _others.Wait + wait);
    }

    /// <inheritdoc cref="Engines.IVirtualCpu.HelperTime"/>
    public (long Run, long Wait) Read()
    {
        lock (_gate) return Sum();
    }
}
