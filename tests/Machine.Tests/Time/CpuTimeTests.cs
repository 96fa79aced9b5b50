using Bunraku.Hypervisor;
using Bunraku.Hypervisor.Scheduling;
using Bunraku.Machine.Tests.Board;
using Bunraku.Platform;

namespace Bunraku.Machine.Tests.Time;

/// <summary>Processor time: accounts of the host, cgroups (Linux, Documentation/admin-guide/cgroup-v2.rst), and what a host refuses.</summary>
public sealed class CpuTimeTests : IDisposable
{
    private readonly string _cgroup = Directory.CreateTempSubdirectory("bunraku-cgroup-").FullName;

    public void Dispose() => Directory.Delete(_cgroup, recursive: true);

    [Theory]
    [InlineData("memory pids")]
    [InlineData("")]
    public void A_cgroup_without_the_CPU_controller_is_not_used(string controllers)
    {
        File.WriteAllText(Path.Combine(_cgroup, "cgroup.controllers"), controllers + "\n");
        Assert.Null(CpuCgroup.TryCreate(_cgroup, new CpuTimeOptions { Cap = 50 }));
    }

    [Fact]
    public void A_cgroup_that_cannot_be_set_up_is_not_used_and_nothing_stays()
    {
        // No kernel is behind this folder: a new group has no files to write to.
        File.WriteAllText(Path.Combine(_cgroup, "cgroup.controllers"), "cpuset cpu io\n");
        Assert.Null(CpuCgroup.TryCreate(_cgroup, new CpuTimeOptions { Cap = 50, Weight = 200 }));
        Assert.Empty(Directory.GetDirectories(_cgroup));
    }

    [Fact]
    public void A_processor_that_the_host_does_not_give_is_refused_before_the_start()
    {
        var e = Assert.Throws<CpuTimeException>(() =>
            new X86Machine(new IdleEngine(), IdleEngine.Model, 1 << 20, options: new X86MachineOptions { CpuTime = new CpuTimeOptions { Pins = [8000] } }));
        Assert.StartsWith("--pin 8000: ", e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void The_hosts_accounts_of_a_thread_grow_with_what_it_does()
    {
        using ThreadAccounting accounts = ThreadAccounting.OfCurrentThread()!;
        long before = HostScheduling.ProcessorTime(HostScheduling.CurrentThread);
        long end = HostCounter.MonotonicNanoseconds + 20_000_000;
        while (HostCounter.MonotonicNanoseconds < end || HostScheduling.ProcessorTime(HostScheduling.CurrentThread) - before < 1_000_000)
        {
        }
        (long run, long wait) = accounts.Read();
        Assert.True(HostScheduling.ProcessorTime(HostScheduling.CurrentThread) > before);
        Assert.True(run >= 0 && wait >= 0);
        Thread.Sleep(20); // having slept, the thread's account is settled
        Assert.True(accounts.Read().Run >= run && accounts.Read().Wait >= wait);
        Assert.True(accounts.Read().Run >= 1_000_000);
    }

    [Fact]
    public void The_accounts_of_a_thread_that_ended_are_empty()
    {
        ThreadAccounting? accounts = null;
        int number = 0;
        var thread = new Thread(() => (accounts, number) = (ThreadAccounting.OfCurrentThread(), HostScheduling.CurrentThread));
        thread.Start();
        thread.Join();
        while (Directory.Exists($"/proc/self/task/{number}")) Thread.Sleep(1); // the kernel's part of it ends a little later
        Assert.Equal((0, 0), accounts!.Read());
        Assert.Equal(0, HostScheduling.ProcessorTime(number));
        accounts.Dispose();
    }

    [Fact]
    public void Processors_of_this_process_are_known() => Assert.NotEmpty(HostScheduling.AllowedProcessors);
}
