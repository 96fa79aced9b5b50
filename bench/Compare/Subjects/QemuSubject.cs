using System.Diagnostics;

namespace Bunraku.Compare;

/// <summary>QEMU's Tiny Code Generator.</summary>
internal sealed class QemuSubject() : Subject("qemu", "TCG")
{
    internal const string Program = "qemu-system-x86_64";

    public override string? Missing(CancellationToken cancel) =>
        HostProgram.Find(Program) is null ? $"{Program} is not installed (apt-get install qemu-system-x86)" : null;

    public override RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations)
    {
        long started = Stopwatch.GetTimestamp();
        return new Running(HostProgram.Start(Command(guest, guest.Initrd, guest.CommandLine(workloads, milliseconds, mitigations))), started);
    }

    public override ProcessStartInfo? StartTrue(BenchGuest guest, bool mitigations) => guest.TrueInitrd is not { } initrd ? null :
        Command(guest, initrd, "console=ttyS0 quiet panic=-1" + (mitigations ? "" : " mitigations=off"));

    private static ProcessStartInfo Command(BenchGuest guest, string initrd, string append) => new(Program,
    [
        "-accel", "tcg", "-cpu", guest.QemuCpu, "-smp", $"{guest.Cpus}", "-m", $"{guest.Megabytes}", "-nographic", "-no-reboot", "-kernel", guest.Kernel,
        "-initrd", initrd, "-append", append,
    ]);

    private sealed class Running(Process process, long started) : RunningSubject(process, started, ConsoleLines.OfOutput(process))
    {
        public override bool IsBootLoadersLastWord(string line) => line.Contains("Booting from ROM", StringComparison.Ordinal);
    }
}
