using System.IO.Pipelines;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Bunraku.Sessions.Migration;

namespace Bunraku.Cli.Tests;

/// <summary>Guests that go to another machine while a command runs in them: its streams and its status stay with the VM that was asked for them.</summary>
public sealed class MigratedCommandTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-moved-").FullName;
    private readonly CancellationTokenSource _cancel = new(TimeSpan.FromMinutes(3));

    public void Dispose()
    {
        _cancel.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    /// <summary>A command's VM, and what it is connected with.</summary>
    private sealed record Started(Vm Vm, Task<VmResult> Run, PipeWriter Input, GuestOutput Output, GuestOutput Errors);

    private Started Start(string script, string engine = "bt", bool terminal = false)
    {
        var pipe = new Pipe();
        GuestOutput output = new(), errors = new();
        Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Memory = 128 << 20,
            Command = ["sh", "-c", script],
            Input = pipe.Reader.AsStream(),
            Output = output,
            Errors = errors,
            Terminal = terminal ? new TerminalInfo(80, 25, "vt100") : null,
        }.Build();
        return new Started(vm, vm.RunAsync(_cancel.Token), pipe.Writer, output, errors);
    }

    private (NetworkStream One, NetworkStream Other) Pair(bool tcp)
    {
        AddressFamily family = tcp ? AddressFamily.InterNetwork : AddressFamily.Unix;
        ProtocolType protocol = tcp ? ProtocolType.Tcp : ProtocolType.Unspecified;
        using var listener = new Socket(family, SocketType.Stream, protocol);
        listener.Bind(tcp ? new IPEndPoint(IPAddress.Loopback, 0) : new UnixDomainSocketEndPoint(Path.Combine(_folder, Guid.NewGuid().ToString("N")[..8])));
        listener.Listen(1);
        var one = new Socket(family, SocketType.Stream, protocol);
        one.Connect(listener.LocalEndPoint!);
        return (new NetworkStream(one, ownsSocket: true), new NetworkStream(listener.Accept(), ownsSocket: true));
    }

    /// <summary>Moves it to a machine that runs then, whose own streams nobody is to use.</summary>
    private async Task<(Vm Vm, Task<VmResult> Run, Stream Connection)> Move(Vm vm, string to, GuestOutput unused, bool tcp = false)
    {
        (NetworkStream one, NetworkStream other) = Pair(tcp);
        var builder = new VmBuilder(KnownEngines.All) { Engine = to, Output = unused, Errors = unused, Input = new MemoryStream("wrong\n"u8.ToArray()) };
        Task<Vm> receiving = Vm.ReceiveAsync(other, builder, cancel: _cancel.Token);
        await vm.MigrateAsync(one, null, _cancel.Token);
        Vm next = await receiving;
        Assert.True(next.HasStreamsElsewhere);
        return (next, next.RunAsync(_cancel.Token), one);
    }

    [Theory]
    [InlineData("bt", "interp", "bt")]
    [InlineData("interp", "bt", "interp")]
    public async Task A_command_goes_on_elsewhere_and_its_streams_stay(string from, string to, string then)
    {
        Started first = Start("echo one; read a; echo \"two $a\"; echo problem >&2; read b; echo \"three $b\"; cat | wc -c; exit 5", from);
        await using Vm vm = first.Vm;
        await first.Output.Await("one\n", _cancel.Token);
        var unused = new GuestOutput();
        (Vm second, Task<VmResult> secondRun, _) = await Move(vm, to, unused);
        await using Vm owned = second;
        await first.Input.WriteAsync("words\n"u8.ToArray(), _cancel.Token);
        await first.Output.Await("two words\n", _cancel.Token);
        await first.Errors.Await("problem\n", _cancel.Token);

        // It may go on and on: each process passes on what comes from the next one.
        (Vm third, Task<VmResult> thirdRun, _) = await Move(second, then, unused);
        await using Vm ownedToo = third;
        await first.Input.WriteAsync("more\n"u8.ToArray(), _cancel.Token);
        await first.Output.Await("three more\n", _cancel.Token);
        byte[] much = new byte[300_000];
        await first.Input.WriteAsync(much, _cancel.Token);
        await first.Input.CompleteAsync();
        VmResult result = await first.Run;
        Assert.Equal((HostEnd.Migrated, 5, 5), (result.HostEnd, result.ExitStatus, result.CommandStatus));
        Assert.Equal(("one\ntwo words\nthree more\n300000\n", "problem\n", ""), (first.Output.Text, first.Errors.Text, unused.Text));
        Assert.Equal((HostEnd.Migrated, 5), ((await secondRun).HostEnd, (await secondRun).ExitStatus));
        Assert.Equal((5, 5), ((await thirdRun).ExitStatus, (await thirdRun).CommandStatus));
    }

    /// <summary>What flows both ways while the guest goes over is neither lost nor doubled.</summary>
    [Fact]
    public async Task A_stream_through_the_command_comes_whole()
    {
        Started first = Start("cat; exit 3");
        await using Vm vm = first.Vm;
        int lines = 0;
        using var moved = new CancellationTokenSource();
        Task writing = Task.Run(async () =>
        {
            for (int left = 20; left > 0; left -= moved.IsCancellationRequested ? 1 : 0)
            {
                await first.Input.WriteAsync(Encoding.ASCII.GetBytes(string.Concat(Enumerable.Range(lines, 100).Select(k => $"{k}\n"))), _cancel.Token);
                lines += 100;
                await Task.Delay(1, _cancel.Token);
            }
            await first.Input.CompleteAsync();
        });
        await first.Output.Await("\n500\n", _cancel.Token);
        var unused = new GuestOutput();
        (Vm second, Task<VmResult> secondRun, _) = await Move(vm, "bt", unused);
        await using Vm owned = second;
        await moved.CancelAsync();
        await writing;
        Assert.Equal(3, (await first.Run).ExitStatus);
        Assert.Equal(3, (await secondRun).ExitStatus);
        Assert.Equal(string.Concat(Enumerable.Range(0, lines).Select(k => $"{k}\n")), first.Output.Text);
    }

    [Theory, InlineData(true), InlineData(false)]
    public async Task A_command_whose_process_is_gone_ends(bool cut)
    {
        Started first = Start("echo one; sleep 1000");
        await using Vm vm = first.Vm;
        await first.Output.Await("one\n", _cancel.Token);
        (Vm second, Task<VmResult> secondRun, Stream connection) = await Move(vm, "bt", new GuestOutput());
        await using Vm owned = second;
        if (cut) await connection.DisposeAsync();
        else vm.End(HostEnd.Signal, 15);
        Assert.Equal((HostEnd.OutputClosed, VmResult.OutputClosedStatus), ((await secondRun).HostEnd, (await secondRun).ExitStatus));
        if (cut) Assert.Contains("the connection", (await Assert.ThrowsAsync<MigrationException>(() => first.Run)).Message, StringComparison.Ordinal);
        else Assert.Equal(128 + 15, (await first.Run).ExitStatus);
    }

    [Fact]
    public async Task A_guest_that_ends_without_its_command_says_so_here()
    {
        Started first = Start("echo one; sleep 1000");
        await using Vm vm = first.Vm;
        await first.Output.Await("one\n", _cancel.Token);
        (Vm second, Task<VmResult> secondRun, _) = await Move(vm, "bt", new GuestOutput());
        await using Vm owned = second;
        second.End(HostEnd.TimedOut);
        await secondRun;
        VmResult result = await first.Run;
        Assert.Equal((HostEnd.Migrated, ExitStatus.TimedOut, null), (result.HostEnd, result.ExitStatus, result.CommandStatus));
        Assert.Single(RunGuest.Reasons(result));
    }

    /// <summary>The input that the command leaves unread does not cost its last words and its status, by TCP either.</summary>
    [Fact]
    public async Task A_status_comes_behind_unread_input()
    {
        for (int n = 0; n < 3; n++)
        {
            Started first = Start("echo one; read a; sleep 0.3; seq 20000; exit 7");
            await using Vm vm = first.Vm;
            await first.Output.Await("one\n", _cancel.Token);
            (Vm second, Task<VmResult> secondRun, _) = await Move(vm, "bt", new GuestOutput(), tcp: true);
            await using Vm owned = second;
            await first.Input.WriteAsync(Encoding.ASCII.GetBytes("a\n" + new string('x', 8 << 20)), _cancel.Token);
            await first.Input.CompleteAsync();
            Assert.Equal(7, (await first.Run).ExitStatus);
            Assert.EndsWith("\n20000\n", first.Output.Text, StringComparison.Ordinal);
            Assert.Equal(7, (await secondRun).ExitStatus);
        }
    }

    /// <summary>A reader that does not read: the VM that prints for it can be ended all the same.</summary>
    [Theory, InlineData("quit"), InlineData("cancel"), InlineData("dispose")]
    public async Task A_command_whose_output_nobody_takes_can_be_ended(string how)
    {
        var stuck = new StuckOutput();
        string[] command = ["sh", "-c", "echo one; read a; yes"];
        await using Vm vm = new VmBuilder(KnownEngines.All) { Engine = "bt", Memory = 128 << 20, Command = command, Output = stuck }.Build();
        Task<VmResult> run = vm.RunAsync(_cancel.Token);
        await stuck.Came.WaitAsync(_cancel.Token);
        (NetworkStream one, NetworkStream other) = Pair(tcp: false);
        Task<Vm> receiving = Vm.ReceiveAsync(other, new VmBuilder(KnownEngines.All) { Engine = "bt" }, cancel: _cancel.Token);
        await vm.MigrateAsync(one, null, _cancel.Token);
        Vm second = await receiving;
        using var cancel = new CancellationTokenSource();
        Task<VmResult> secondRun = second.RunAsync(cancel.Token);
        await Task.Delay(1500, _cancel.Token); // all there is on the way is full
        if (how == "quit") second.End(HostEnd.Quit);
        else if (how == "cancel") await cancel.CancelAsync();
        else await second.DisposeAsync().AsTask().WaitAsync(_cancel.Token);
        Task<VmResult> inTime = secondRun.WaitAsync(_cancel.Token);
        if (how == "cancel") await Assert.ThrowsAnyAsync<OperationCanceledException>(() => inTime);
        else Assert.Equal(HostEnd.Quit, (await inTime).HostEnd);
        Assert.False(_cancel.IsCancellationRequested);
        await second.DisposeAsync();
        vm.End(HostEnd.Quit);
    }

    private sealed class StuckOutput : MemoryStream
    {
        private readonly TaskCompletionSource _came = new();

        public Task Came => _came.Task;

        public override ValueTask WriteAsync(ReadOnlyMemory<byte> buffer, CancellationToken cancellationToken = default)
        {
            _came.TrySetResult();
            return new ValueTask(Task.Delay(Timeout.Infinite, cancellationToken));
        }
    }

    /// <summary>Whoever cancels when the other end has the guest already is late: the command goes on there, with its streams.</summary>
    [Fact]
    public async Task A_move_is_not_cancelled_behind_its_last_word()
    {
        Started first = Start("echo one; read a; echo \"two $a\"; exit 6");
        await using Vm vm = first.Vm;
        await first.Output.Await("one\n", _cancel.Token);
        (NetworkStream one, NetworkStream other) = Pair(tcp: false);
        using var cancel = new CancellationTokenSource();
        Task<Vm> receiving = Vm.ReceiveAsync(other, new VmBuilder(KnownEngines.All) { Engine = "bt" }, null, kind =>
        {
            if (kind != MigrationMessage.Running) return;
            cancel.Cancel();
            Thread.Sleep(200); // the other end would have given up by now
        }, cancel.Token);
        await vm.MigrateAsync(one, null, cancel.Token);
        await using Vm second = await receiving;
        Task<VmResult> secondRun = second.RunAsync(_cancel.Token);
        await first.Input.WriteAsync("words\n"u8.ToArray(), _cancel.Token);
        Assert.Equal(6, (await first.Run).ExitStatus);
        Assert.Equal("one\ntwo words\n", first.Output.Text);
        Assert.Equal(6, (await secondRun).ExitStatus);
    }

    [Fact]
    public async Task The_terminal_is_as_large_as_where_it_is()
    {
        Started first = Start("trap 'stty size' WINCH; echo one; while :; do sleep 0.1; done", terminal: true);
        await using Vm vm = first.Vm;
        await first.Output.Await("one", _cancel.Token);
        (Vm second, Task<VmResult> secondRun, _) = await Move(vm, "bt", new GuestOutput());
        await using Vm owned = second;
        vm.ResizeTerminal(101, 37);
        await first.Output.Await("37 101", _cancel.Token);
        (Vm third, Task<VmResult> thirdRun, _) = await Move(second, "bt", new GuestOutput());
        await using Vm ownedToo = third;
        vm.ResizeTerminal(102, 38);
        await first.Output.Await("38 102", _cancel.Token);
        vm.End(HostEnd.Quit);
        await Task.WhenAll(first.Run, secondRun, thirdRun);
    }

    /// <summary>Whatever comes by the connection, this end ends with one line.</summary>
    [Fact]
    public async Task What_is_no_message_ends_the_relay()
    {
        var random = new Random(3);
        byte[] good = [103, 0, 0, 0, 12, 0, 0, 0, .. new byte[12]];
        for (int n = 0; n < 2000; n++)
        {
            byte[] bytes = [.. good];
            if (n > 0) bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            using var relay = new StreamRelay(new MemoryStream(n % 3 == 1 ? bytes[..random.Next(bytes.Length)] : bytes), new NoConsole());
            RelayEnd? end = await relay.Ended.WaitAsync(_cancel.Token);
            if (n == 0) Assert.Equal(new RelayEnd(0, null, null), end);
        }
    }

    private sealed class NoConsole : IGuestConsole
    {
        public void Write(ReadOnlySpan<byte> bytes)
        {
        }

        public bool Throttle(int milliseconds) => true;

        public void Release()
        {
        }
    }
}
