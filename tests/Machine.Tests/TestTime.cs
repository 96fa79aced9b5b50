using Bunraku.Hypervisor;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests;

/// <summary>Virtual time that only tests move. Timers fire in the order of their deadlines, each at its own, or late when time jumps.</summary>
internal sealed class TestTime : ITimeSource
{
    private readonly List<Timer> _timers = [];

    public long Nanoseconds { get; private set; }
    public ulong TscFrequency => 1_000_000_000;

    public IMachineTimer CreateTimer(Action callback)
    {
        Timer timer = new(callback);
        _timers.Add(timer);
        return timer;
    }

    /// <summary>Moves time on; every timer fires punctually.</summary>
    public void Advance(long nanoseconds)
    {
        long end = Nanoseconds + nanoseconds;
        while (_timers.Where(t => t.DueAt <= end).MinBy(t => t.DueAt) is { } next)
        {
            Nanoseconds = Math.Max(Nanoseconds, next.DueAt);
            next.Fire();
        }
        Nanoseconds = end;
    }

    /// <summary>Moves time on as a host does that was busy: no timer fires until <see cref="Advance"/>.</summary>
    public void Stall(long nanoseconds) => Nanoseconds += nanoseconds;

    private sealed class Timer(Action callback) : IMachineTimer
    {
        public long DueAt { get; private set; } = long.MaxValue;

        public long? Deadline => DueAt == long.MaxValue ? null : DueAt;

        public void Arm(long deadline) => DueAt = deadline;
        public void Cancel() => DueAt = long.MaxValue;

        public void Fire()
        {
            Cancel();
            callback();
        }
    }
}

/// <summary>An interrupt wire that remembers its level and counts rising edges.</summary>
internal sealed class TestLine : IInterruptLine
{
    public bool Asserted { get; private set; }
    public int Edges { get; private set; }

    public void Set(bool asserted)
    {
        if (asserted && !Asserted) Edges++;
        Asserted = asserted;
    }
}

internal static class PortAccess
{
    public static byte In(this PortBus ports, ushort port) => (byte)ports.Read(port, 1);
    public static void Out(this PortBus ports, ushort port, int value) => ports.Write(port, 1, (byte)value);
}
