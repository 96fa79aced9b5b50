using Bunraku.Engines;
using Bunraku.Hypervisor.Tests.Toy;
using Bunraku.Testing;
using static Bunraku.Hypervisor.Tests.Toy.ToyOp;

namespace Bunraku.Hypervisor.Tests;

/// <summary>A second architecture runs on the hypervisor as it is, through the neutral contract alone.</summary>
public sealed class ToyArchitectureTests
{
    private static readonly TimeSpan s_long = TimeSpan.FromMinutes(2);

    /// <summary>A program from address 0 on.</summary>
    private static ulong[] Program(params (ToyOp Op, ulong Operand)[] code) => [.. code.SelectMany(i => new[] { (ulong)i.Op, i.Operand })];

    /// <summary>Address of an instruction.</summary>
    private static ulong At(int instruction) => (ulong)instruction * ToyCpu.InstructionSize;

    private static async Task<StopCause> RunAsync(ToyMachine vm)
    {
        vm.Start();
        StopCause cause = await vm.Stopped.WaitAsync(s_long);
        vm.Join();
        return cause;
    }

    private static void Until(ToyMachine vm, Func<bool> condition) => Assert.True(new Patience(s_long, vm).Await(condition));

    private static ulong Word(ToyMachine vm, ulong address) =>
        vm.Memory.TryRead(address, out ulong value) ? value : throw new InvalidOperationException($"no memory at {address:X}");

    [Fact]
    public async Task Accesses_without_RAM_behind_them_reach_a_device_and_a_read_gets_its_answer()
    {
        using var vm = new ToyMachine(Program((Set, 40), (Store, ToyDevice.Base), (Set, 2), (Store, ToyDevice.Base), (Load, ToyDevice.Base),
            (Store, ToyMachine.HighMemory + 8), (Off, 0)));
        Assert.Equal(StopReason.Shutdown, (await RunAsync(vm)).Reason);
        Assert.Equal((42ul, 42ul), (vm.Device.Sum, Word(vm, ToyMachine.HighMemory + 8)));
        Assert.Equal((3ul, 1ul), (vm.Cpus[0].Exits[(byte)ToyReason.Access], vm.Cpus[0].Exits[(byte)ToyReason.Off]));
    }

    [Fact]
    public async Task Where_nothing_answers_reads_are_ones_and_writes_are_lost()
    {
        using var vm = new ToyMachine(Program((Store, 0x9000_0000), (Load, 0x9000_0000), (Store, 0x8000), (Off, 0)));
        await RunAsync(vm);
        Assert.Equal(ulong.MaxValue, Word(vm, 0x8000));
    }

    [Fact]
    public async Task A_halted_vCPU_sleeps_until_a_timer_wakes_it()
    {
        using var vm = new ToyMachine(Program((Set, 1_000_000), (Store, ToyDevice.TimerRegister), (Halt, 0), (Events, 0), (Store, 0x8000), (Off, 0)));
        await RunAsync(vm);
        Assert.Equal(1ul, Word(vm, 0x8000));
        Assert.True(vm.Clock.Nanoseconds >= 1_000_000, "it did not wait");
        Assert.Equal(1ul, vm.Cpus[0].Exits[(byte)ToyReason.Halt]);
    }

    [Fact]
    public async Task A_vCPU_that_waits_to_be_started_is_started_by_another()
    {
        // Both begin at 0; the second one finds the flag set.
        using var vm = new ToyMachine(Program((Load, 0x8000), (JumpUnlessZero, At(6)), (Set, 1), (Store, 0x8000), (Call, 1), (Halt, 0), (Off, 0)), cpus: 2);
        StopCause cause = await RunAsync(vm);
        Assert.Equal((StopReason.Shutdown, 1), (cause.Reason, cause.Cpu));
    }

    [Fact]
    public async Task What_only_the_architecture_knows_goes_to_its_handler_and_comes_back()
    {
        using var vm = new ToyMachine(Program((Set, 21), (Call, 7), (Store, 0x8000), (Off, 0)));
        await RunAsync(vm);
        Assert.Equal([(0, 7ul, 21ul)], vm.Calls);
        Assert.Equal(42ul, Word(vm, 0x8000));
    }

    /// <summary>Counts in memory for ever.</summary>
    private static ulong[] Counting => Program((Load, 0x8000), (Add, 1), (Store, 0x8000), (JumpUnlessZero, At(0)));

    [Fact]
    public void Pause_stands_still_and_resume_goes_on()
    {
        using var vm = new ToyMachine(Counting);
        vm.Start();
        Until(vm, () => Word(vm, 0x8000) > 100);
        vm.Pause();
        (ulong count, long time) = (Word(vm, 0x8000), vm.Clock.Nanoseconds);
        Thread.Sleep(20);
        Assert.Equal((count, time), (Word(vm, 0x8000), vm.Clock.Nanoseconds));
        vm.Resume();
        Until(vm, () => Word(vm, 0x8000) > count);
    }

    [Fact]
    public async Task The_engines_failure_ends_the_machine_with_its_message()
    {
        using var vm = new ToyMachine(Program((Set, 1), (JumpUnlessZero, 0x9000_0000)));
        StopCause cause = await RunAsync(vm);
        Assert.Equal((StopReason.EngineError, "no instruction at 90000000"), (cause.Reason, cause.Message));
    }

    [Fact]
    public async Task A_reset_boots_again()
    {
        using var vm = new ToyMachine(Program((Halt, 0), (Off, 0))) { RebootsOnReset = () => true };
        vm.AfterReset = () => vm.Memory.TryWrite(0, (ulong)Off);
        vm.Start();
        Until(vm, () => vm.Cpus[0].Activity == CpuActivity.Halted);
        vm.RequestReset();
        Assert.Equal(StopReason.Shutdown, (await vm.Stopped.WaitAsync(s_long)).Reason);
    }

    private sealed class ResetButton(ToyMachine vm) : IMmioDevice
    {
        public const ulong Address = ToyDevice.Base + 0x1000;

        public ulong ReadMmio(ulong offset, int size) => 0;

        public void WriteMmio(ulong offset, int size, ulong value) => vm.RequestReset();
    }

    [Fact]
    public void A_machine_that_is_run_by_hand_is_reset_by_nobody_else()
    {
        for (int seed = 0; seed < 50; seed++)
        {
            using var vm = new ToyMachine(Program((Set, 1), (Add, 1), (Store, ResetButton.Address), (JumpUnlessZero, At(1)))) { RebootsOnReset = () => true };
            vm.Mmio.Add(ResetButton.Address, 8, new ResetButton(vm), new DeviceLock("button"));
            var threads = new List<int>();
            vm.AfterReset = () => threads.Add(Environment.CurrentManagedThreadId);
            vm.Pause();
            Assert.True(new SteppedRun(vm, seed) { LongestStretch = 50 }.RunTo(1000));
            Assert.Equal((1000 / 3 - 1, true), (Math.Min(threads.Count, 1000 / 3 - 1), threads.TrueForAll(t => t == Environment.CurrentManagedThreadId)));
            Assert.False(vm.Stopped.IsCompleted);
        }
    }

    [Fact]
    public async Task What_comes_after_a_reset_and_fails_ends_the_machine()
    {
        using var vm = new ToyMachine(Program((Halt, 0), (Off, 0)));
        vm.AfterReset = () => throw new InvalidOperationException("there is no kernel any more");
        vm.Start();
        Assert.Throws<InvalidOperationException>(vm.Reset);
        StopCause cause = await vm.Stopped.WaitAsync(s_long);
        Assert.Equal(StopReason.EngineError, cause.Reason);
        Assert.Contains("there is no kernel any more", cause.Message);
        vm.Reset(); // it has ended
    }

    /// <summary>Works, asks the device, arms its timer and waits, again and again.</summary>
    private static ulong[] Busy => Program(
        (Load, 0x8000), (Add, 3), (Store, 0x8000), (Store, ToyDevice.Base), (Load, ToyDevice.Base), (Store, 0x8008), (Set, 700),
        (Store, ToyDevice.TimerRegister), (Halt, 0), (Events, 0), (JumpUnlessZero, At(0)));

    [Fact]
    public void A_machine_saved_anywhere_goes_on_in_another_one_alike()
    {
        for (int seed = 0; seed < 50; seed++)
        {
            using var vm = new ToyMachine(Busy);
            using var copy = new ToyMachine([]);
            vm.Pause();
            copy.Pause();
            var random = new Random(seed);
            Assert.True(new SteppedRun(vm, seed) { LongestStretch = 50 }.RunTo((ulong)random.Next(1, 500)));
            copy.Restore(vm.Save());
            Assert.Empty(vm.Save().Differences(copy.Save()));
            Assert.True(new SteppedRun(vm, seed) { LongestStretch = 50 }.RunTo(2000));
            Assert.True(new SteppedRun(copy, seed) { LongestStretch = 50 }.RunTo(2000));
            Assert.Empty(vm.Save().Differences(copy.Save()));
            Assert.NotEqual(0ul, vm.Device.Sum);
        }
    }

    [Fact]
    public void A_state_of_another_shape_is_refused()
    {
        using var one = new ToyMachine([]);
        using var two = new ToyMachine([], cpus: 2);
        one.Pause();
        two.Pause();
        Assert.Contains("cpu1", Assert.Throws<StateFormatException>(() => one.Restore(two.Save())).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Nothing_of_x86_was_needed() =>
        Assert.Equal(["Bunraku.Engines", "Bunraku.Hypervisor"],
            typeof(ToyMachine).Assembly.GetReferencedAssemblies().Select(a => a.Name!).Where(n => n.StartsWith("Bunraku.",
            StringComparison.Ordinal)).Order(StringComparer.Ordinal));
}
