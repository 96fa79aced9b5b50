using System.Globalization;
using Bunraku.Engines;
using Bunraku.Machine;
using Bunraku.Sessions;

namespace Bunraku.Lab.Paging;

/// <summary>
/// One guest under nested paging and under shadow paging: Linux as a guest of KVM, which is itself in our guest. With nested paging the processor walks
/// the guest's tables and the hypervisor's in two dimensions, and the guest may write to its own as it likes; without it, KVM makes tables of both, which
/// the processor walks in one, and has to notice whatever the guest changes in its own.
/// </summary>
public static class PagingExperiment
{
    private const int InnerMegabytes = 256;

    /// <summary>Runs it: two guests for each vendor, one after the other, a minute or so each.</summary>
    /// <param name="engine">One in software.</param>
    /// <param name="techniques">Of VMX and SVM.</param>
    /// <param name="workloads">Names of bench/workloads; empty: all of them.</param>
    /// <param name="milliseconds">How long a workload is measured.</param>
    /// <param name="progress">Is told what happens.</param>
    /// <exception cref="BootException">The guest cannot be made; the message is one line.</exception>
    /// <exception cref="SessionException">It cannot run.</exception>
    /// <exception cref="InvalidOperationException">It did not do what it should; the message is one line.</exception>
    /// <exception cref="ArgumentException">There is no such workload; the message is one line.</exception>
    public static PagingReport Run(IX86Engine engine, IReadOnlyList<NestedVirtualization> techniques, IReadOnlyList<string> workloads, int milliseconds,
        Action<string>? progress, CancellationToken cancel)
    {
        var packages = new DebianPackages(new GuestCache(), progress);
        (IReadOnlyList<string> known, byte[] inner) = WorkloadProgram.Build(packages, cancel);
        if (workloads.FirstOrDefault(w => !known.Contains(w)) is { } unknown)
            throw new ArgumentException($"no workload '{unknown}'; there are {string.Join(", ", known)}");
        HypervisorGuest guest = HypervisorGuest.Build(packages, inner, InnerMegabytes, cancel);
        string initrd = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(initrd, guest.Initrd);
            string[] chosen = [.. workloads.Count > 0 ? workloads : known];
            PagingRun[] runs = [.. techniques.SelectMany(t => (bool[])[true, false], (t, nested) => (t, nested))
                .Select(r => Run(engine, r.t, r.nested, guest.Kernel, initrd, chosen, milliseconds, progress, cancel))];
            Compare(runs);
            return new PagingReport(engine.Name, Path.GetFileName(guest.Kernel), runs);
        }
        finally
        {
            File.Delete(initrd);
        }
    }

    private static PagingRun Run(IX86Engine engine, NestedVirtualization technique, bool isNested, string kernel, string initrd, string[] workloads,
        int milliseconds, Action<string>? progress, CancellationToken cancel)
    {
        bool isVmx = technique == NestedVirtualization.Vmx;
        string name = $"{(isVmx ? "VMX" : "SVM")}, {(isNested ? "nested paging" : "shadow paging")}";
        progress?.Invoke(name);
        var watch = new PagingWatch(isVmx) { Progress = w => progress?.Invoke($"{name}: {w}") };
        string parameter = (isVmx ? "ept=" : "npt=") + (isNested ? "1" : "0");
        HypervisorRun.Run(engine, technique, kernel, initrd, InnerMegabytes + HypervisorGuest.OwnMegabytes, watch, string.Create(CultureInfo.InvariantCulture,
            $"kvm.param={parameter} kvm.counts=1 bench.ms={milliseconds} bench.only={string.Join(',', workloads)}"), cancel);
        if (watch.Failure is { } failure) throw new InvalidOperationException($"{name}: {failure}");
        if (!watch.IsDone) throw new InvalidOperationException($"{name}: the guest inside did not come to its end; its last line: {watch.LastLine}");
        return new PagingRun(isVmx ? "VMX" : "SVM", isNested, watch.BootSeconds, watch.BootExits, watch.Rows);
    }

    /// <summary>The same work was done everywhere.</summary>
    private static void Compare(PagingRun[] runs)
    {
        foreach (IGrouping<string, PagingRow> rows in runs.SelectMany(r => r.Rows).GroupBy(r => r.Workload))
            if (rows.Select(r => r.Checksum).Distinct().Count() > 1)
                throw new InvalidOperationException($"{rows.Key}: its result is not the same under each paging");
    }
}
