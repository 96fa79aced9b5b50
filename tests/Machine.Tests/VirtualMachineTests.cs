using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.Board;

namespace Bunraku.Machine.Tests;

public sealed class VirtualMachineTests
{
    [Fact]
    public void NothingWakesAProcessorAfterItsEnd()
    {
        using var kicked = new SemaphoreSlim(0);
        int kicksAfterTheEnd = 0;
        var engine = new IdleEngine(_ => kicked.Release(), _ =>
        {
            // A timer that still ran would wake the vCPU again soon: the wait ends early only then.
            while (kicked.Wait(0))
            {
            }
            if (kicked.Wait(200)) kicksAfterTheEnd++;
        });
        var vm = new VirtualMachine(engine, IdleEngine.Model, 64 << 20, cpus: 2);
        var @lock = new DeviceLock("test");
        IMachineTimer timer = null!;
        timer = vm.Timers.Create(() =>
        {
            vm.WakeCpu(0);
            timer.Arm(vm.Clock.Nanoseconds + 50_000);
        }, @lock);
        lock (@lock) timer.Arm(0);
        kicked.Wait();
        vm.Dispose();
        Assert.Equal(0, kicksAfterTheEnd);
    }
}
