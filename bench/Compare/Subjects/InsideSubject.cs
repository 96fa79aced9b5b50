using System.Diagnostics;
using System.Globalization;
using Bunraku.Machine;

namespace Bunraku.Compare;

/// <summary>The workloads one level further in: the monitor's guest is a hypervisor, KVM with QEMU, and its guest runs them.</summary>
internal sealed class InsideSubject : Subject
{
    /// <summary>Names end with it.</summary>
    public const string Vmx = "-vmx", Svm = "-svm";

    private readonly Func<BenchGuest, string, (string Program, string[] Arguments)> _command;
    private readonly Subject _outside;

    private InsideSubject(Subject outside, string kind, Func<BenchGuest, string, (string, string[])> command)
        : base(outside.Name + kind, $"{outside.Title} L2{(kind == Vmx ? " VMX" : " SVM")}")
    {
        _outside = outside;
        _command = command;
    }

    /// <summary>One of Bunraku's engines.</summary>
    public static InsideSubject OfBunraku(string root, string engine, string kind) => new(BunrakuSubject.Create(root, engine), kind, (guest, append) =>
        (Path.Combine(root, "bunraku"),
        [
            "run", "--no-reboot", "--engine", engine, "--nested", kind[1..], "--memory", Memory(guest) + "M", "--kernel", guest.Kernel,
            "--initrd", guest.HypervisorInitrd!, "--timeout", "900s", "--append", append,
        ]));

    /// <summary>QEMU's TCG, which has SVM.</summary>
    public static InsideSubject OfQemu() => new(new QemuSubject(), Svm, (guest, append) => (QemuSubject.Program,
    [
        "-accel", "tcg", "-cpu", "max,+svm", "-smp", "1", "-m", Memory(guest), "-nographic", "-no-reboot", "-kernel", guest.Kernel,
        "-initrd", guest.HypervisorInitrd!, "-append", append,
    ]));

    public override TimeSpan Patience => TimeSpan.FromMinutes(3);

    private static string Memory(BenchGuest guest) => (guest.Megabytes + HypervisorGuest.OwnMegabytes).ToString(CultureInfo.InvariantCulture);

    public override string? Missing(CancellationToken cancel) => _outside.Missing(cancel);

    public override RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations)
    {
        (string program, string[] arguments) = _command(guest, guest.CommandLine(workloads, milliseconds, mitigations));
        long started = Stopwatch.GetTimestamp();
        return new Running(HostProgram.Start(new ProcessStartInfo(program, arguments)), started);
    }

    private sealed class Running(Process process, long started) : RunningSubject(process, started, ConsoleLines.OfOutput(process))
    {
        /// <summary>What is timed as the boot of its kernel begins with the start of QEMU inside.</summary>
        public override bool IsBootLoadersLastWord(string line) => line.Contains(HypervisorGuest.LaunchLine, StringComparison.Ordinal);
    }
}
