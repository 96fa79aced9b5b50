using System.Diagnostics;

namespace Bunraku.Compare;

/// <summary>The workloads as an ordinary program of this host.</summary>
internal sealed class NativeSubject() : Subject(Id, Id)
{
    public const string Id = "native";

    public override bool Boots => false;

    public override RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations)
    {
        long started = Stopwatch.GetTimestamp();
        Process process = HostProgram.Start(guest.Native(workloads, milliseconds));
        return new RunningSubject(process, started, ConsoleLines.OfOutput(process));
    }
}
