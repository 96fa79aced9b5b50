using System.Collections.Concurrent;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Sessions.Monitoring;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>A program with VMs in it, on the software engine that a program gets where there is no other.</summary>
public sealed class EmbeddingTests : IDisposable
{
    private const ushort Port = 0x620;

    private sealed class Thermometer(byte degrees) : IBoardPart, IPortDevice
    {
        public void AttachTo(IBoard board) => board.Machine.Ports.Add(Port, 1, this, new DeviceLock("thermometer"));

        public uint ReadPort(ushort offset, int size) => degrees;

        public void WritePort(ushort offset, int size, uint value)
        {
        }
    }

    /// <summary>Keeps what it sees.</summary>
    private sealed class Recorder : IVmObserver
    {
        public ConcurrentQueue<VmState> States { get; } = new();
        public ConcurrentQueue<ExitRecord> Exits { get; } = new();
        public ConcurrentQueue<VmResult> Ends { get; } = new();
        public ConcurrentDictionary<Thread, bool> Threads { get; } = new();
        public MemoryStream Output { get; } = new();
        public int Resets;

        public void OnStateChanged(Vm vm, VmState state) => States.Enqueue(state);

        public void OnReset(Vm vm) => Resets++;

        public void OnExit(Vm vm, in ExitRecord exit)
        {
            Threads[Thread.CurrentThread] = true;
            Exits.Enqueue(exit);
        }

        public void OnOutput(Vm vm, ReadOnlySpan<byte> bytes) => Output.Write(bytes);

        public void OnEnd(Vm vm, VmResult result) => Ends.Enqueue(result);
    }

    /// <summary>Prints what the thermometer says, and ends with status 1.</summary>
    private readonly TemporaryFile _reads = new(TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, "T=");
        a.mov(dx, Port);
        a.@in(al, dx);
        a.mov(dx, (ushort)0x3F8);
        a.@out(dx, al);
        TestKernel.Out(a, 0xF4, 0);
        TestKernel.Loop(a);
    }));

    /// <summary>Prints a letter, and then sends back what it gets.</summary>
    private readonly TemporaryFile _echoes = new(TestKernel.Assemble(a =>
    {
        TestKernel.Print(a, ">");
        TestKernel.Out(a, 0x3FC, 3); // DTR and RTS
        Label next = a.CreateLabel();
        a.Label(ref next);
        TestKernel.Receive(a);
        a.@out(dx, al);
        a.jmp(next);
    }));

    public void Dispose()
    {
        _reads.Dispose();
        _echoes.Dispose();
    }

    private VmBuilder Builder(TemporaryFile kernel) => new(KnownEngines.All) { Engine = "bt", Kernel = kernel.Path, Memory = 16 << 20, DebugExit = true };

    [Fact]
    public async Task SeveralVmsInOneProcessEachWithDevicesOfItsOwn()
    {
        string[] outputs = await Task.WhenAll(Enumerable.Range(0, 4).Select(async n =>
        {
            var output = new MemoryStream();
            int reads = 0;
            var recorder = new Recorder();
            await using Vm vm = (Builder(_reads) with
            {
                Parts = [new Thermometer((byte)('a' + n))],
                Output = output,
                Observers = [recorder],
                OnExit = exit => reads += exit is { Reason: ExitReason.Io, Address: Port, IsWrite: false } ? 1 : 0,
            }).Build();
            Assert.Equal(VmState.Created, vm.State);
            VmResult result = await vm.RunAsync();
            Assert.Equal((StopReason.DebugExit, 1, HostEnd.None, 1), (result.Cause.Reason, result.ExitStatus, result.HostEnd, reads));
            Assert.True(result.Statistics!.Instructions > 0);
            Assert.Equal(VmState.Ended, vm.State);
            Assert.Equal([VmState.Running, VmState.Ended], recorder.States);
            Assert.Same(result, Assert.Single(recorder.Ends));
            Assert.Equal(output.ToArray(), recorder.Output.ToArray());
            return Encoding.ASCII.GetString(output.ToArray());
        }));
        Assert.Equal(["T=a", "T=b", "T=c", "T=d"], outputs);
    }

    [Fact]
    public async Task CancellingStopsTheGuestAndDisposalEndsItsThreads()
    {
        using var cancel = new CancellationTokenSource();
        var recorder = new Recorder();
        var input = new Waiting(new byte[] { (byte)'x' });
        var output = new Waiting([]) { Takes = 2 };
        Vm vm = (Builder(_echoes) with { Input = input, Output = output, Observers = [recorder] }).Build();
        Task<VmResult> run = vm.RunAsync(cancel.Token);
        await output.Stuck.Task; // the prompt and the echo came through, and nobody reads any further
        Assert.False(run.IsCompleted);
        cancel.Cancel();
        var e = await Assert.ThrowsAnyAsync<OperationCanceledException>(() => run);
        Assert.Equal(cancel.Token, e.CancellationToken);
        Assert.Equal(HostEnd.Cancelled, Assert.Single(recorder.Ends).HostEnd);
        await vm.DisposeAsync();
        Assert.NotEmpty(recorder.Threads);
        Assert.All(recorder.Threads.Keys.Concat(input.Threads).Concat(output.Threads), t => Assert.False(t.IsAlive, t.Name));
        Assert.Equal(">x", Encoding.ASCII.GetString(output.Written));
        Assert.Throws<ObjectDisposedException>(vm.Start);
    }

    /// <summary>A stream that gives or takes some bytes one by one, and then does not come back, whoever cancels.</summary>
    private sealed class Waiting(byte[] content) : Stream
    {
        private readonly MemoryStream _written = new();
        private readonly ConcurrentDictionary<Thread, bool> _threads = new();
        private int _next;

        /// <summary>How many bytes it takes before it is stuck.</summary>
        public int Takes { get; init; }

        /// <summary>It was asked for more.</summary>
        public TaskCompletionSource Stuck { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

        public byte[] Written => _written.ToArray();

        /// <summary>Who called.</summary>
        public ICollection<Thread> Threads => _threads.Keys;

        public override bool CanRead => true;
        public override bool CanSeek => false;
        public override bool CanWrite => true;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            _threads[Thread.CurrentThread] = true;
            if (_next == content.Length) return new(new TaskCompletionSource<int>().Task);
            buffer.Span[0] = content[_next++];
            return new(1);
        }

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            _threads[Thread.CurrentThread] = true;
            _written.Write(buffer.Span);
            if (_written.Length < Takes) return default;
            Stuck.TrySetResult();
            return new(new TaskCompletionSource().Task);
        }

        public override void Flush()
        {
        }

        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    }

    [Fact]
    public async Task InputComesFromAStreamAndItsEndIsCtrlD()
    {
        var output = new MemoryStream();
        await using Vm vm = (Builder(_echoes) with { Input = new MemoryStream("abc"u8.ToArray()), Output = output, Observers = [new EndsAt(0x04)] }).Build();
        VmResult result = await vm.RunAsync();
        Assert.Equal(HostEnd.Quit, result.HostEnd);
        Assert.Equal(">abc\x04", Encoding.ASCII.GetString(output.ToArray()));
    }

    /// <summary>Ends the VM when it prints a byte.</summary>
    private sealed class EndsAt(byte last) : IVmObserver
    {
        public void OnOutput(Vm vm, ReadOnlySpan<byte> bytes)
        {
            if (bytes.Contains(last)) vm.End(HostEnd.Quit);
        }
    }

    [Fact]
    public async Task ObserversSeeWhoStopsAndLetsGoOn()
    {
        Recorder first = new(), second = new();
        await using Vm vm = (Builder(_echoes) with { Observers = [first, second] }).Build();
        Task<VmResult> run = vm.RunAsync();
        vm.Pause();
        vm.Pause();
        Assert.Equal(VmState.Paused, vm.State);
        vm.Resume();
        vm.End(HostEnd.Quit);
        await run;
        foreach (Recorder recorder in (Recorder[])[first, second])
            Assert.Equal([VmState.Running, VmState.Paused, VmState.Running, VmState.Ended], recorder.States);
    }

    [Fact]
    public async Task AnObserverThatFailsEndsItsVmWithItsException()
    {
        var recorder = new Recorder();
        await using Vm vm = (Builder(_reads) with { OnExit = _ => throw new InvalidDataException("no\nway"), Observers = [recorder] }).Build();
        var e = await Assert.ThrowsAsync<ObserverException>(() => vm.RunAsync());
        Assert.Equal("the observer ExitHook failed in OnExit: no way", e.Message);
        Assert.IsType<InvalidDataException>(e.InnerException);
        Assert.Equal(HostEnd.Failed, Assert.Single(recorder.Ends).HostEnd);
    }

    [Fact]
    public async Task AStreamThatFailsEndsItsVmWithItsException()
    {
        await using Vm vm = (Builder(_reads) with { Output = new MemoryStream([], writable: false) }).Build();
        Assert.StartsWith("cannot write the guest's output: ", (await Assert.ThrowsAsync<CannotWriteException>(() => vm.RunAsync())).Message);
        var closed = new MemoryStream();
        closed.Close();
        await using Vm other = (Builder(_echoes) with { Input = closed }).Build();
        Assert.StartsWith("cannot read the guest's input: ", (await Assert.ThrowsAsync<CannotReadException>(() => other.RunAsync())).Message);
    }

    [Fact]
    public async Task DisposalEndsAGuestThatRuns()
    {
        Vm vm = Builder(_echoes).Build();
        Task<VmResult> run = vm.RunAsync();
        await vm.DisposeAsync();
        Assert.Equal(HostEnd.Quit, (await run).HostEnd);
        await vm.DisposeAsync();
    }

    [Fact]
    public async Task AVmRunsOnce()
    {
        await using Vm vm = Builder(_reads).Build();
        await vm.RunAsync();
        await Assert.ThrowsAsync<InvalidOperationException>(() => vm.RunAsync());
        using Vm other = Builder(_reads).Build();
        Assert.Throws<InvalidOperationException>(other.Wait);
    }

    public static TheoryData<string, VmOptions> WrongOptions => new()
    {
        { "Memory", new VmOptions { Memory = (16 << 20) + 1 } },
        { "Memory", new VmOptions { Memory = 4096 } },
        { "Cpus", new VmOptions { Cpus = 0 } },
        { "Cpus", new VmOptions { Cpus = 100_000 } },
        { "Cpu", new VmOptions { Cpu = "i9" } },
        { "Engine", new VmOptions { Engine = "q" } },
        { "Guest", new VmOptions { Guest = "windows" } },
        { "Guest", new VmOptions { Guest = "windows", KeepBooted = true } },
        { "Timeout", new VmOptions { Timeout = TimeSpan.Zero } },
        { "TscFrequency", new VmOptions { TscFrequency = 1 } },
        { "Command", new VmOptions { Command = [] } },
        { "Command", new VmOptions { Command = ["ls"], Guest = "hello" } },
        { "Command", new VmOptions { Command = ["ls"], Kernel = "k" } },
        { "Initrd", new VmOptions { Initrd = "i" } },
        { "Modules", new VmOptions { Modules = ["m"] } },
        { "Modules", new VmOptions { Kernel = "k", Initrd = "i", Modules = ["m"] } },
    };

    [Theory]
    [MemberData(nameof(WrongOptions))]
    public void AWrongOptionIsNamedInOneLine(string option, VmOptions options)
    {
        if (options.Engine == VmOptions.AutomaticEngine) options = options with { Engine = "bt" };
        var e = Assert.Throws<VmOptionException>(() => new VmBuilder(KnownEngines.All, options).Build());
        Assert.Equal(option, e.Option);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Fact]
    public void PartsThatWantTheSamePortAreAWrongOption()
    {
        var e = Assert.Throws<VmOptionException>(() => (Builder(_reads) with { Parts = [new Thermometer(1), new Thermometer(2)] }).Build());
        Assert.Equal("Parts", e.Option);
        Assert.Contains("port 0620 of Thermometer", e.Message);
    }

    [Fact]
    public async Task TheMonitorHasTheCommandsOfTheProgram()
    {
        VmBuilder builder = Builder(_echoes);
        builder.Commands.Add(new MonitorCommand("heat", "DEGREES", "make it warmer", (_, arguments) => $"{arguments[0]} degrees\n"));
        builder.Commands.Add(new MonitorCommand("fire", "", "fails", (_, _) => throw new InvalidDataException("too\nhot")));
        await using Vm vm = builder.Build();
        vm.Commands.Add(new MonitorCommand("info weather", "", "of this VM alone", (c, _) => $"engine {c.Vm.EngineName}\n"));
        var monitor = new MonitorShell(vm, () => 80);
        Assert.Equal("30 degrees\n", monitor.Execute("hea 30"));
        Assert.Equal("the command failed: too hot\n", monitor.Execute("fire"));
        Assert.Equal("engine bt\n", monitor.Execute("i w"));
        Assert.Contains("heat DEGREES", monitor.Execute("help"));
        Assert.DoesNotContain("Ctrl-A", monitor.Execute("help"));
        Assert.DoesNotContain(builder.Commands.All, c => c.Name == "info weather");
        foreach (string name in (string[])["heat", "info", "heat more", "?", "a b c", ""])
            Assert.Throws<ArgumentException>(() => vm.Commands.Add(new MonitorCommand(name, "", "", (_, _) => "")));
    }
}
