using Bunraku.Engines;

namespace Bunraku.Engine.Check;

/// <summary>What is needed to run the stretch since the last stop once more: the state there, the hypervisor's answer, and events.</summary>
internal sealed class Stretch
{
    private readonly List<Action<IVirtualCpu>> _events = [];

    /// <summary>State at the stop, before the answer and the events.</summary>
    public CpuState State { get; } = new();

    public Place Place { get; private set; }

    /// <summary>The exit that the stretch completes, with the answer; null when it completes none.</summary>
    public VmExit? Open { get; private set; }

    public IReadOnlyList<Action<IVirtualCpu>> Events => _events;

    /// <summary>The subject has stopped with <paramref name="exit"/>, and nothing differed.</summary>
    public void Begin(Follower follower, VmExit exit)
    {
        Copy(follower.SubjectState, State);
        Place = follower.Place;
        Open = Follower.IsHalfDone(exit) ? new VmExit { Reason = exit.Reason } : null;
        _events.Clear();
    }

    public void Restart(IVirtualCpu subject)
    {
        subject.ReadState(State);
        Place = Place.Of(subject);
        Open = null;
        _events.Clear();
    }

    public void Answered(VmExit exit)
    {
        if (Open == null) return;
        (Open.Data, Open.Fault, Open.Eax, Open.Ebx, Open.Ecx, Open.Edx) = (exit.Data, exit.Fault, exit.Eax, exit.Ebx, exit.Ecx, exit.Edx);
    }

    public void Injected(Action<IVirtualCpu> inject) => _events.Add(inject);

    private static void Copy(CpuState from, CpuState to)
    {
        from.Gpr.CopyTo(to.Gpr, 0);
        from.Dr.CopyTo(to.Dr, 0);
        from.Xsave.CopyTo(to.Xsave, 0);
        (to.Rip, to.Rflags, to.Cr0, to.Cr2, to.Cr3, to.Cr4, to.Cr8, to.Xcr0, to.Efer) = (from.Rip, from.Rflags, from.Cr0, from.Cr2, from.Cr3, from.Cr4, from.Cr8, from.Xcr0, from.Efer);
        (to.Es, to.Cs, to.Ss, to.Ds, to.Fs, to.Gs, to.Ldtr, to.Tr) = (from.Es, from.Cs, from.Ss, from.Ds, from.Fs, from.Gs, from.Ldtr, from.Tr);
        (to.GdtrBase, to.IdtrBase, to.GdtrLimit, to.IdtrLimit, to.Dr6, to.Dr7) = (from.GdtrBase, from.IdtrBase, from.GdtrLimit, from.IdtrLimit, from.Dr6, from.Dr7);
        (to.InterruptShadow, to.NmiBlocked, to.NmiPending, to.Pending, to.Halted) = (from.InterruptShadow, from.NmiBlocked, from.NmiPending, from.Pending, from.Halted);
        to.Msrs.Clear();
        foreach ((uint index, ulong value) in from.Msrs) to.Msrs[index] = value;
    }
}
