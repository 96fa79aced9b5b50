using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Sessions;

// The guest's memory balloon.
public sealed partial class Vm
{
    /// <summary>So long a guest that runs may take to tell of its memory.</summary>
    private const int LongestAnswer = 500; // ms

    private Balloon OwnBalloon => _balloon ?? throw new MonitorException($"the machine has no balloon; {Option(nameof(VmOptions.Balloon))} gives it one");

    /// <summary>Asks the guest to make do with so many bytes of memory; it may take its time, or not do it at all.</summary>
    /// <exception cref="MonitorException">The machine has no balloon.</exception>
    public void SetBalloon(ulong bytes) => OwnBalloon.SetTarget(bytes);

    /// <summary>
    /// How much the guest has given back, and what it tells of its memory. A guest that runs is asked, and waited for a moment; else it is what it last told.
    /// </summary>
    /// <exception cref="MonitorException">The machine has no balloon.</exception>
    public BalloonState LookAtBalloon() => OwnBalloon.Look(State == VmState.Running ? LongestAnswer : 0);
}
