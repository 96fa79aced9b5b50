using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>Kicks a vCPU again and again while it runs. Thread-safe.</summary>
internal sealed class Kicker : IDisposable
{
    private readonly IVirtualCpu _cpu;
    private readonly TimeSpan _interval;
    private readonly ManualResetEventSlim _running = new();
    private readonly Thread _thread;
    private volatile bool _stop;

    public Kicker(IVirtualCpu cpu, TimeSpan interval)
    {
        (_cpu, _interval) = (cpu, interval);
        _thread = new Thread(Run) { Name = "check", IsBackground = true };
        _thread.Start();
    }

    private void Run()
    {
        while (true)
        {
            _running.Wait();
            if (_stop) return;
            Thread.Sleep(_interval);
            if (_running.IsSet) _cpu.Kick();
        }
    }

    public void Begin() => _running.Set();

    public void End() => _running.Reset();

    public void Dispose()
    {
        _stop = true;
        _running.Set();
        _thread.Join();
        _running.Dispose();
    }
}
