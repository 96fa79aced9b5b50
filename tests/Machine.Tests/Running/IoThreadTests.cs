using Bunraku.Hypervisor;
using Bunraku.Machine.Tests.Board;

namespace Bunraku.Machine.Tests.Running;

/// <summary>Threads for back ends.</summary>
public sealed class IoThreadTests : IDisposable
{
    private const int Milliseconds = 30_000;

    private readonly X86Machine _vm = new(new IdleEngine(), IdleEngine.Model, 1 << 20);

    public void Dispose() => _vm.Dispose();

    [Fact]
    public void WorkIsDoneInOrderAndAllOfItBeforeTheEnd()
    {
        var done = new List<int>();
        IoThread thread = _vm.CreateIoThread("test");
        for (int n = 0; n < 1000; n++)
        {
            int number = n;
            thread.Post(() => done.Add(number));
        }
        _vm.Dispose();
        Assert.Equal(Enumerable.Range(0, 1000), done);
        thread.Post(() => done.Add(-1)); // after the end: dropped
        Assert.Equal(1000, done.Count);
    }

    [Fact]
    public void NothingIsUnderWayWhileTheMachineIsPaused()
    {
        using var inside = new ManualResetEventSlim();
        using var resumed = new ManualResetEventSlim();
        int done = 0;
        IoThread thread = _vm.CreateIoThread("test");
        thread.Post(() =>
        {
            inside.Set();
            Thread.Sleep(20);
            Interlocked.Increment(ref done);
        });
        inside.Wait();
        _vm.Pause();
        Assert.Equal(1, Volatile.Read(ref done));
        thread.Post(() => Interlocked.Increment(ref done));
        IoThread later = _vm.CreateIoThread("another"); // stands still from the beginning
        later.Post(() => Interlocked.Increment(ref done));
        Thread.Sleep(20);
        Assert.Equal(1, Volatile.Read(ref done));
        _vm.Resume();
        thread.Post(resumed.Set);
        Assert.True(resumed.Wait(Milliseconds));
        Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref done) == 3, Milliseconds));
    }

    [Fact]
    public async Task WhatFailsEndsTheMachineWithAMessage()
    {
        _vm.CreateIoThread("test").Post(() => throw new InvalidOperationException("the disk is gone"));
        StopCause cause = await _vm.Stopped.WaitAsync(TimeSpan.FromMilliseconds(Milliseconds));
        Assert.Equal(StopReason.EngineError, cause.Reason);
        Assert.Contains("the disk is gone", cause.Message);
    }

    /// <summary>Work that waits for somebody to do something about it holds up neither a pause nor the end, and goes on when the machine does.</summary>
    [Fact]
    public void WorkCanWaitUntilTheMachineGoesOnAgain()
    {
        using var inside = new SemaphoreSlim(0);
        var answers = new List<bool>();
        IoThread thread = _vm.CreateIoThread("test");
        for (int n = 0; n < 2; n++)
        {
            thread.Post(() =>
            {
                inside.Release();
                bool goesOn = _vm.AwaitResume();
                lock (answers) answers.Add(goesOn);
            });
        }
        Assert.True(inside.Wait(Milliseconds));
        _vm.Pause();
        Assert.Empty(answers);
        _vm.Resume();
        Assert.True(inside.Wait(Milliseconds)); // the second one's turn
        lock (answers) Assert.Equal([true], answers);
        _vm.Dispose();
        Assert.Equal([true, false], answers);
        Assert.False(_vm.AwaitResume()); // no thread of the machine's
    }
}
