using System.Diagnostics;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Linux's AF_VSOCK on our socket device, with programs of the host at Unix sockets.</summary>
public sealed class LinuxVsockTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-vsock").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Place => Path.Combine(_folder, "v");

    private VmBuilder Builder(string engine, int cpus, string script, Stream output)
    {
        string work = Path.Combine(_folder, "work");
        if (!File.Exists(work))
        {
            string source = Path.Combine(AppContext.BaseDirectory, "vsock-work.c");
            using var gcc = new TestProcess(new ProcessStartInfo("gcc", ["-static", "-O1", "-Wall", "-o", work, source]) { RedirectStandardError = true });
            string errors = gcc.StandardError.ReadToEnd();
            gcc.WaitForExit();
            Assert.True(gcc.ExitCode == 0, errors);
        }
        return new(KnownEngines.All)
        {
            Engine = engine,
            Cpus = cpus,
            Memory = 256 << 20,
            Vsock = new VmVsock(Place),
            Copies = [new VmCopy(work) { At = "/bin/" }],
            Command = ["sh", "-ec", script],
            Output = output,
            Timeout = TimeSpan.FromMinutes(6),
        };
    }

    private Socket Listen(uint port, string? place = null)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint($"{place ?? Place}_{port}"));
        socket.Listen(4);
        return socket;
    }

    private async Task<NetworkStream?> Connect(uint port)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        await socket.ConnectAsync(new UnixDomainSocketEndPoint(Place));
        var stream = new NetworkStream(socket, ownsSocket: true);
        await stream.WriteAsync(Encoding.ASCII.GetBytes($"CONNECT {port}\n"));
        var line = new StringBuilder();
        byte[] one = new byte[1];
        while (line.Length == 0 || line[^1] != '\n')
        {
            if (await stream.ReadAsync(one) == 0)
            {
                await stream.DisposeAsync();
                return null;
            }
            line.Append((char)one[0]);
        }
        Assert.StartsWith("OK ", line.ToString(), StringComparison.Ordinal);
        return stream;
    }

    /// <summary>What is waited for, or a failure with what the guest has said when it ends first; it ends by its time limit at the latest.</summary>
    private static async Task<T> Before<T>(Task<VmResult> end, GuestOutput output, Task<T> awaited)
    {
        if (await Task.WhenAny(awaited, end) == end && !awaited.IsCompleted) Assert.Fail($"the guest has ended ({(await end).Cause}): {output.Text}");
        try
        {
            return await awaited;
        }
        catch (Exception e) when (e is IOException or SocketException)
        {
            // A connection ends with its machine, which is to be told then.
            if (await Task.WhenAny(end, Task.Delay(TimeSpan.FromSeconds(10))) == end) Assert.Fail($"the guest has ended ({(await end).Cause}): {output.Text}");
            throw;
        }
    }

    private static async Task<byte[]> ReadAll(Stream stream)
    {
        var all = new MemoryStream();
        await stream.CopyToAsync(all);
        return all.ToArray();
    }

    private static string Sum(byte[] bytes) => Convert.ToHexStringLower(SHA256.HashData(bytes));

    /// <summary>Megabytes in both directions at once, slow readers included, with an end of its own for each; who is not there refuses.</summary>
    [Theory]
    [InlineData("bt", 2, 24 << 20)]
    [InlineData("interp", 1, 3 << 20)]
    [InlineData("check", 1, 1 << 20)]
    public async Task Streams_go_both_ways(string engine, int cpus, int length)
    {
        var output = new GuestOutput();
        byte[] there = new byte[length], back = new byte[length];
        new Random(1).NextBytes(there);
        new Random(2).NextBytes(back);
        using Socket listener = Listen(5000);
        await using Vm vm = Builder(engine, cpus, $"""
            work connect 2 6000 </dev/null || echo refused
            head -c {length} /dev/zero >/tmp/data
            work connect 2 5000 </tmp/data >/tmp/back; sha256sum </tmp/back
            work serve 1234
            """, output).Build();
        Task<VmResult> run = vm.RunAsync();

        using (var guest = new NetworkStream(await Before(run, output, listener.AcceptAsync()), ownsSocket: true))
        {
            await guest.WriteAsync(back.AsMemory(0, length / 2)); // before anything is read
            Task rest = Task.Run(async () =>
            {
                await guest.WriteAsync(back.AsMemory(length / 2));
                guest.Socket.Shutdown(SocketShutdown.Send);
            });
            Assert.Equal(Sum(new byte[length]), Sum(await Before(run, output, ReadAll(guest))));
            await rest;
        }
        await output.Until("serves", run);
        Assert.Null(await Before(run, output, Connect(1235))); // nobody
        for (int n = 0; n < 3; n++)
        {
            await using NetworkStream stream = (await Before(run, output, Connect(1234)))!;
            Task sent = Task.Run(async () =>
            {
                await stream.WriteAsync(there);
                stream.Socket.Shutdown(SocketShutdown.Send);
            });
            Assert.Equal(Sum(there), Sum(await Before(run, output, ReadAll(stream))));
            await sent;
        }
        vm.End(HostEnd.Quit);
        await run;
        Assert.Equal($"connect: Connection reset by peer\nrefused\n{Sum(back)}  -\nserves\n", output.Text);
    }

    /// <summary>A guest that is restored finds its connections ended, and makes new ones; its server still serves.</summary>
    [Fact]
    public async Task A_restored_guest_begins_anew()
    {
        const string script = "work serve 1234 & work connect 2 5000 </dev/null || echo ended; work connect 2 5000 </dev/null; work cid; wait";
        string saved = Path.Combine(_folder, "saved");
        var output = new GuestOutput();
        using (Socket listener = Listen(5000))
        {
            await using Vm vm = (Builder("bt", 1, script, output) with { Vsock = new VmVsock(Place) { Cid = 9 } }).Build();
            Task<VmResult> run = vm.RunAsync();
            using Socket guest = await Before(run, output, listener.AcceptAsync());
            guest.Send("first\n"u8);
            await output.Until("first", run);
            await vm.SaveAsync(saved);
            guest.Send("more\n"u8);
            await output.Until("more", run); // the saved one goes on as if nothing had been
        }
        string other = Path.Combine(_folder, "other");
        var rest = new GuestOutput();
        using (Socket listener = Listen(5000, other))
        {
            await using Vm copy = (Builder("bt", 1, script, rest) with { RestoreFrom = saved, Vsock = new VmVsock(other) }).Build();
            Task<VmResult> run = copy.RunAsync();
            await rest.Until("ended", run);
            using (Socket guest = await Before(run, rest, listener.AcceptAsync())) guest.Send("second\n"u8);
            await rest.Until("second", run);
            await rest.Until("cid 9", run); // it keeps its own
            Assert.Contains("read: Connection reset by peer", rest.Text, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void A_socket_that_cannot_be_had_is_told()
    {
        CannotStartException e = Assert.Throws<CannotStartException>(() =>
            new VmBuilder(KnownEngines.All) { Guest = "hello", Vsock = new VmVsock(Path.Combine(_folder, "missing", "v")) }.Build());
        Assert.Equal($"socket {_folder}/missing/v: it cannot be listened on: there is no such folder", e.Message);
        VmOptionException wrong = Assert.Throws<VmOptionException>(() =>
            new VmBuilder(KnownEngines.All) { Guest = "hello", Vsock = new VmVsock(Place) { Cid = 2 } }.Build());
        Assert.Contains("2 is no context ID of a guest", wrong.Message, StringComparison.Ordinal);
    }
}
