using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Check;

/// <summary>Kicks a vCPU again and again while it runs. <see cref="Begin"/> and <see cref="End"/> are for the vCPU's thread.</summary>
internal sealed class Kicker : IDisposable
{
    /// <summary>Intervals without a running vCPU after which the thread sleeps until there is one.</summary>
    private const int Patience = 20;

    private readonly IX86Cpu _cpu;
    private readonly long _nanoseconds;
    private readonly Alarm _alarm = new();
    private readonly Thread _thread;
    private volatile bool _running, _asleep, _stop;

    public Kicker(IX86Cpu cpu, TimeSpan interval)
    {
        (_cpu, _nanoseconds) = (cpu, (long)interval.TotalNanoseconds);
        _thread = new Thread(Run) { Name = "check", IsBackground = true };
        _thread.Start();
    }

    private void Run()
    {
        Alarm.MakePunctual();
        for (int idle = 0; !_stop;)
        {
            if (idle < Patience)
            {
                _alarm.Sleep(_nanoseconds);
            }
            else
            {
                _asleep = true;
                // Either this sees it running, or who starts it sees that this sleeps.
                Interlocked.MemoryBarrier();
                if (!_running && !_stop) _alarm.Sleep(-1);
                _asleep = false;
            }
            idle = _running ? 0 : idle + 1;
            if (_running) _cpu.Kick();
        }
    }

    public void Begin()
    {
        _running = true;
        Interlocked.MemoryBarrier();
        if (_asleep) _alarm.Ring();
    }

    public void End() => _running = false;

    public void Dispose()
    {
        _stop = true;
        _alarm.Ring();
        _thread.Join();
        _alarm.Dispose();
    }
}
