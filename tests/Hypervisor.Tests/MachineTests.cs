using Bunraku.Engines;
using Bunraku.Hypervisor.Tests.Toy;

namespace Bunraku.Hypervisor.Tests;

/// <summary>A machine's reset, save and restore, whatever its architecture.</summary>
public sealed class MachineTests
{
    private static readonly TimeSpan s_long = TimeSpan.FromMinutes(2);

    /// <summary>A device whose reset a test writes.</summary>
    private sealed class Resetting(Action onReset) : IDevice, IStateful<Resetting.State>
    {
        [StateRecord("resetting", version: 1)]
        internal sealed record State;

        public string Id => "resetting";

        public void Reset() => onReset();

        State IStateful<State>.Save() => new();

        void IStateful<State>.Restore(State state)
        {
        }
    }

    [Fact]
    public void Reset_waits_for_timers_and_IO_threads_and_holds_them_until_it_is_done()
    {
        using var vm = new ToyMachine([]);
        using var inTimer = new ManualResetEventSlim();
        using var inWork = new ManualResetEventSlim();
        using var late = new CountdownEvent(2);
        int busy = 0, busyInReset = -1, cameInReset = -1;
        IoThread thread = vm.CreateIoThread("test");
        var @lock = new DeviceLock("other");
        IMachineTimer second = vm.Timers.Create(() => late.Signal(), @lock);
        IMachineTimer first = vm.Timers.Create(() => Work(inTimer), @lock);
        vm.Add(new Resetting(() =>
        {
            busyInReset = Volatile.Read(ref busy);
            second.Arm(0);
            thread.Post(() => late.Signal());
            Thread.Sleep(50); // time enough for both to come
            cameInReset = late.InitialCount - late.CurrentCount;
        }));
        first.Arm(0);
        thread.Post(() => Work(inWork));
        inTimer.Wait();
        inWork.Wait();

        vm.Reset();

        Assert.Equal((0, 0), (busyInReset, cameInReset));
        Assert.True(late.Wait(s_long), "what was held does not go on");

        void Work(ManualResetEventSlim begun)
        {
            Interlocked.Increment(ref busy);
            begun.Set();
            Thread.Sleep(50);
            Interlocked.Decrement(ref busy);
        }
    }

    [Fact]
    public void A_reset_of_a_paused_machine_leaves_it_paused()
    {
        using var vm = new ToyMachine([]);
        bool called = false;
        IMachineTimer timer = vm.Timers.Create(() => called = true, new DeviceLock("other"));
        vm.Pause();
        vm.Reset();
        timer.Arm(0);
        Thread.Sleep(50);
        Assert.False(called);
        vm.Resume();
        Assert.True(SpinWait.SpinUntil(() => Volatile.Read(ref called), s_long));
    }

    [Fact]
    public void A_state_with_a_part_twice_is_refused()
    {
        using var vm = new ToyMachine([]);
        vm.Pause();
        MachineState state = vm.Save();
        Assert.Equal("the saved machine has toy twice",
            Assert.Throws<StateFormatException>(() => vm.Restore(state with { Parts = [.. state.Parts, state.Parts.Single(p => p.Id == "toy")] })).Message);
        vm.Restore(state);
    }

    [Fact]
    public void A_machine_that_has_ended_is_neither_saved_nor_restored()
    {
        var vm = new ToyMachine([]);
        vm.Pause();
        MachineState state = vm.Save();
        vm.Dispose();
        Assert.Throws<ObjectDisposedException>(vm.Save);
        Assert.Throws<ObjectDisposedException>(() => vm.Restore(state));
    }

    [Fact]
    public void A_state_of_another_architecture_is_refused()
    {
        using var vm = new ToyMachine([]);
        vm.Pause();
        MachineState state = vm.Save();
        SavedState shape = state.Parts[0];
        string json = System.Text.Encoding.UTF8.GetString(shape.Data.Span).Replace("toy", "x86", StringComparison.Ordinal);
        MachineState other = state with { Parts = [shape with { Data = System.Text.Encoding.UTF8.GetBytes(json) }, .. state.Parts.Skip(1)] };
        Assert.Equal("the saved machine is of the architecture x86, this one of toy", Assert.Throws<StateFormatException>(() => vm.Restore(other)).Message);
    }

    [Fact]
    public async Task An_unanswered_refusal_ends_the_machine_and_an_answered_one_does_not()
    {
        using var vm = new ToyMachine([]);
        var exit = new ToyExit { Address = 0x5123, Violation = new(PageRights.Write, 0, false) };
        exit.Set(ExitKind.Refused);
        var seen = new List<ulong>();
        vm.PageViolation = (_, e) =>
        {
            seen.Add(e.Address);
            return seen.Count == 1;
        };
        Assert.Equal(ExitAction.Continue, vm.Cpus[0].Handle(exit));
        Assert.Equal(ExitAction.Stop, vm.Cpus[0].Handle(exit));
        Assert.Equal([0x5123ul, 0x5123ul], seen);
        Assert.Contains("5000", (await vm.Stopped).Message, StringComparison.Ordinal);
    }
}
