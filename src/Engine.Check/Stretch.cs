using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>What is needed to run the stretch since the last stop once more: the state there, the hypervisor's answer, and events.</summary>
internal sealed class Stretch
{
    private readonly List<Action<IX86Cpu>> _events = [];

    /// <summary>State at the stop, before the answer and the events.</summary>
    public CpuState State { get; } = new();

    public Place Place { get; private set; }

    /// <summary>The exit that the stretch completes, with the answer; null when it completes none.</summary>
    public X86Exit? Open { get; private set; }

    public IReadOnlyList<Action<IX86Cpu>> Events => _events;

    /// <summary>The subject has stopped with <paramref name="exit"/>, and nothing differed.</summary>
    public void Begin(Follower follower, X86Exit exit)
    {
        State.CopyFrom(follower.SubjectState);
        Place = follower.Place;
        Open = Follower.IsHalfDone(exit) ? new X86Exit { Reason = exit.Reason } : null;
        _events.Clear();
    }

    public void Restart(IX86Cpu subject)
    {
        subject.ReadState(State);
        Place = Place.Of(subject);
        Open = null;
        _events.Clear();
    }

    public void Answered(X86Exit exit)
    {
        if (Open == null) return;
        (Open.Data, Open.Fault, Open.Eax, Open.Ebx, Open.Ecx, Open.Edx) = (exit.Data, exit.Fault, exit.Eax, exit.Ebx, exit.Ecx, exit.Edx);
    }

    public void Injected(Action<IX86Cpu> inject) => _events.Add(inject);
}
