using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.Board;

namespace Bunraku.Machine.Tests.Running;

/// <summary>Timers whose callbacks wait for their devices' locks.</summary>
public sealed class TimerQueueTests : IDisposable
{
    private const int Milliseconds = 30_000;

    private readonly X86Machine _vm = new(new IdleEngine(), IdleEngine.Model, 1 << 20);
    private readonly DeviceLock _lock = new("test");

    public void Dispose() => _vm.Dispose();

    /// <summary>Holds the device's lock until the timer's thread waits for it with a callback.</summary>
    private void WhileDue(IMachineTimer timer, Action action)
    {
        lock (_lock)
        {
            timer.Arm(0);
            Assert.True(SpinWait.SpinUntil(() => timer.Deadline == null, Milliseconds));
            action();
        }
    }

    /// <summary>Returns when the thread has gone on to later timers. The deadline is the latest of these tests, since the earliest comes first.</summary>
    private void Settle()
    {
        using var called = new ManualResetEventSlim();
        IMachineTimer last = _vm.Timers.Create(called.Set, _lock);
        lock (_lock) last.Arm(2);
        Assert.True(called.Wait(Milliseconds));
    }

    [Fact]
    public void ATimerThatIsCancelledBeforeItsLockIsFreeDoesNotCallBack()
    {
        int calls = 0;
        IMachineTimer timer = _vm.Timers.Create(() => calls++, _lock);
        WhileDue(timer, timer.Cancel);
        Settle();
        Assert.Equal(0, calls);
    }

    [Fact]
    public void ATimerThatIsArmedAnewBeforeItsLockIsFreeCallsBackOnce()
    {
        int calls = 0;
        IMachineTimer timer = _vm.Timers.Create(() => calls++, _lock);
        WhileDue(timer, () => timer.Arm(1));
        Settle();
        Assert.Equal(1, calls);
    }

    [Fact]
    public async Task ACallbackThatThrowsEndsItsVirtualMachineOnly()
    {
        IMachineTimer timer = _vm.Timers.Create(() => throw new InvalidOperationException("a defect"), _lock);
        lock (_lock) timer.Arm(0);
        StopCause cause = await _vm.Stopped.WaitAsync(TimeSpan.FromMilliseconds(Milliseconds));
        Assert.Equal(StopReason.EngineError, cause.Reason);
        Assert.Contains("a defect", cause.Message);
        _vm.Pause(); // waits for no callback
    }

    [Fact]
    public void ADeviceAtWorkDoesNotHoldUpTimersOfOthersForGood()
    {
        using var called = new ManualResetEventSlim();
        IMachineTimer own = _vm.Timers.Create(() => { }, _lock), other = _vm.Timers.Create(called.Set, new DeviceLock("other"));
        WhileDue(own, () =>
        {
            other.Arm(0); // needs no callback to end
            Assert.False(called.IsSet); // the timers' one thread waits for the device
        });
        Assert.True(called.Wait(Milliseconds)); // and goes on when the device is done
    }

    [Fact]
    public void NoCallbackIsUnderWayWhenTheMachineIsPaused()
    {
        using var inside = new ManualResetEventSlim();
        bool done = false;
        IMachineTimer timer = _vm.Timers.Create(() =>
        {
            inside.Set();
            Thread.Sleep(20);
            Volatile.Write(ref done, true);
        }, _lock);
        lock (_lock) timer.Arm(0);
        inside.Wait();
        _vm.Pause();
        Assert.True(Volatile.Read(ref done));
        _vm.Resume();
    }
}
