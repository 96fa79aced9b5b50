using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.Board;

namespace Bunraku.Machine.Tests;

public sealed class VirtualMachineTests
{
    /// <summary>For what comes when all is well.</summary>
    private const int Milliseconds = 30_000;

    /// <summary>For what comes soon only when something is wrong.</summary>
    private const int Moment = 300;

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
        var vm = new X86Machine(engine, IdleEngine.Model, 64 << 20, cpus: 2);
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

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void TheEndWaitsForAResetUnderWay(bool dispose)
    {
        using ManualResetEventSlim began = new(), ended = new(), reset = new();
        bool disposed = false, endedMeanwhile = false;
        using var vm = new X86Machine(new IdleEngine(onDispose: _ => disposed = true), IdleEngine.Model, 64 << 20);
        vm.RebootsOnReset = () => true;
        vm.AfterReset = () =>
        {
            began.Set();
            endedMeanwhile = ended.Wait(Moment) || disposed;
            reset.Set();
        };
        vm.RequestReset();
        Assert.True(began.Wait(Milliseconds));
        if (dispose)
        {
            vm.Dispose();
        }
        else
        {
            vm.Stop(new StopCause(StopReason.HostRequest));
            vm.Join();
        }
        ended.Set();
        Assert.True(reset.Wait(Milliseconds));
        Assert.False(endedMeanwhile);
    }

    [Fact]
    public void AVcpuThatIsToEndIsWaitedForByWhoPauses()
    {
        using ManualResetEventSlim entered = new(), leave = new(), paused = new();
        using var vm = new X86Machine(new IdleEngine(onEnter: _ =>
        {
            entered.Set();
            leave.Wait();
        }), IdleEngine.Model, 64 << 20);
        vm.Start();
        Assert.True(entered.Wait(Milliseconds));
        vm.Stop(new StopCause(StopReason.HostRequest));
        var pausing = new Thread(() =>
        {
            vm.Pause();
            paused.Set();
        });
        pausing.Start();
        bool early = paused.Wait(Moment);
        leave.Set();
        pausing.Join();
        Assert.False(early);
    }

    [Fact]
    public void AVcpuThatIsStoppedWhileItIsPausedDoesNotEnterItsGuest()
    {
        int entries = 0;
        using var vm = new X86Machine(new IdleEngine(onEnter: _ => entries++), IdleEngine.Model, 64 << 20);
        vm.Pause();
        vm.Start();
        vm.Pause(); // returns when the thread waits
        vm.Stop(new StopCause(StopReason.HostRequest));
        vm.Join();
        Assert.Equal(0, entries);
    }

    [Fact]
    public void ADisposedMachineIsNeitherPausedNorResumed()
    {
        int kicks = 0;
        var vm = new X86Machine(new IdleEngine(_ => kicks++), IdleEngine.Model, 64 << 20);
        vm.Dispose();
        int before = kicks;
        vm.Pause();
        vm.Resume();
        Assert.Equal(before, kicks);
    }

    [Fact]
    public void WhatAFailedConstructorHadMadeIsDisposedOf()
    {
        List<int> disposed = [];
        var engine = new IdleEngine(onDispose: disposed.Add, cpus: 2);
        Assert.Throws<InvalidOperationException>(() => new X86Machine(engine, IdleEngine.Model, 64 << 20, cpus: 3));
        Assert.Equal([0, 1, -1], disposed);
    }
}
