using System.Diagnostics;
using System.Globalization;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>
/// Many short connections between Linux's AF_VSOCK and the host, both ways at once, with half-closes, slow readers and ends in the middle, while the VM is
/// paused and saved. BUNRAKU_STRESS has more of it: a factor.
/// </summary>
public sealed class VsockStressTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private const uint There = 5000, InGuest = 1234;
    private const int Workers = 3;

    private enum Kind : uint { Whole, Slow, CallerGoes, AnswererGoes }

    /// <summary>As vsock-work.c has it.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct Header(Kind Kind, uint There, uint Back);

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-stress").FullName;
    private readonly Lock _lock = new();
    private readonly Dictionary<int, string> _underWay = [];
    private int _number, _done;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Place => Path.Combine(_folder, "v");

    private static int Factor => int.TryParse(Environment.GetEnvironmentVariable("BUNRAKU_STRESS"), CultureInfo.InvariantCulture, out int n) ? n : 1;

    [Theory]
    [InlineData("bt", 1, 30)]
    [InlineData("bt", 2, 30)]
    [InlineData("interp", 2, 10)]
    public async Task Connections_end_as_their_ends_say(string engine, int cpus, int count)
    {
        count *= Factor;
        string work = Path.Combine(_folder, "work"), saved = Path.Combine(_folder, "saved");
        using (var gcc = new TestProcess(new ProcessStartInfo("gcc", ["-static", "-O1", "-o", work, Path.Combine(AppContext.BaseDirectory, "vsock-work.c")])))
            gcc.WaitForExit();
        var output = new GuestOutput();
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint($"{Place}_{There}"));
        listener.Listen(16);
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Cpus = cpus,
            Memory = 256 << 20,
            Vsock = new VmVsock(Place),
            Copies = [new VmCopy(work) { At = "/bin/" }],
            Command = ["sh", "-c", $"""
                work answer {InGuest} & all=
                for n in {string.Join(' ', Enumerable.Range(1, Workers))}; do work call 2 {There} {count} $n & all="$all $!"; done
                status=0; for n in $all; do wait $n || status=1; done; echo over; read line; exit $status
                """],
            Input = new Later(() => Volatile.Read(ref _done) == Workers),
            Output = output,
            Timeout = TimeSpan.FromMinutes(6 * Factor),
        }.Build();
        Task<VmResult> run = vm.RunAsync();
        await output.Until("answers", run);
        Task answers = Answer(listener, run);
        Task[] callers = [.. Enumerable.Range(0, Workers).Select(n => Call(count, 100 + n))];
        Task all = Task.WhenAll(callers).ContinueWith(_ => Volatile.Write(ref _done, Workers), TaskScheduler.Default);
        var random = new Random(1);
        while (!run.IsCompleted && !(all.IsCompleted && output.Text.Contains("over", StringComparison.Ordinal)))
        {
            await Task.Delay(random.Next(300));
            if (random.Next(3) > 0) continue;
            try
            {
                if (random.Next(4) == 0)
                {
                    await vm.SaveAsync(saved);
                    File.Delete(saved);
                    continue;
                }
                vm.Pause();
                await Task.Delay(random.Next(100));
                vm.Resume();
            }
            catch (InvalidOperationException) when (vm.Ended)
            {
                break; // between the look and the request
            }
        }
        string left;
        lock (_lock) left = string.Join(", ", _underWay.Values);
        if (callers.FirstOrDefault(c => c.IsFaulted) is { } faulted) await faulted;
        VmResult result = await run;
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}, {result.Cause}: under way: {left}; the guest: {output.Text}");
        listener.Dispose();
        await answers;
    }

    private async Task Answer(Socket listener, Task end)
    {
        var all = new List<Task>();
        while (!end.IsCompleted)
        {
            Task<Socket> next = listener.AcceptAsync();
            if (await Task.WhenAny(next, end) != next) break;
            Socket socket = await next;
            all.Add(Task.Run(() => Tracked("answers", async tell =>
            {
                byte[] bytes = new byte[Marshal.SizeOf<Header>()];
                await using var stream = new NetworkStream(socket, ownsSocket: true);
                await stream.ReadExactlyAsync(bytes);
                Header header = MemoryMarshal.Read<Header>(bytes);
                tell(header);
                await Play(stream, header, called: false);
            })));
        }
        await Task.WhenAll(all);
    }

    private async Task Call(int count, int seed)
    {
        var random = new Random(seed);
        for (int n = 0; n < count; n++)
        {
            await Tracked("calls", async tell =>
            {
                var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await socket.ConnectAsync(new UnixDomainSocketEndPoint(Place));
                await using var stream = new NetworkStream(socket, ownsSocket: true);
                await stream.WriteAsync(Encoding.ASCII.GetBytes($"CONNECT {InGuest}\n"));
                byte[] one = new byte[1];
                do await stream.ReadExactlyAsync(one);
                while (one[0] != '\n');
                var header = new Header((Kind)random.Next(4), (uint)random.Next(1 << random.Next(20)), (uint)random.Next(1 << random.Next(20)));
                tell(header);
                byte[] bytes = new byte[Marshal.SizeOf<Header>()];
                MemoryMarshal.Write(bytes, header);
                await stream.WriteAsync(bytes);
                await Play(stream, header, called: true);
            });
        }
    }

    private async Task Tracked(string what, Func<Action<Header>, Task> work)
    {
        int number = Interlocked.Increment(ref _number);
        void Tell(object? more)
        {
            lock (_lock) _underWay[number] = $"{what} {more}";
        }
        Tell(null);
        await work(header => Tell(header));
        lock (_lock) _underWay.Remove(number);
    }

    private static async Task Play(NetworkStream stream, Header header, bool called)
    {
        if (header.Kind == (called ? Kind.CallerGoes : Kind.AnswererGoes))
        {
            try
            {
                await stream.ReadAtLeastAsync(new byte[4096], 1, throwOnEndOfStream: false);
            }
            catch (IOException)
            {
                // The other end may be quicker.
            }
            return;
        }
        (uint send, uint awaited) = called ? (header.There, header.Back) : (header.Back, header.There);
        bool mayFail = header.Kind is Kind.CallerGoes or Kind.AnswererGoes;
        Task sent = Task.Run(async () =>
        {
            try
            {
                await stream.WriteAsync(new byte[send]);
                stream.Socket.Shutdown(SocketShutdown.Send);
            }
            catch (Exception e) when (mayFail && e is IOException or SocketException)
            {
                // Nobody reads any more.
            }
        });
        uint seen = 0;
        byte[] buffer = new byte[header.Kind == Kind.Slow && called ? 1000 : 1 << 16];
        try
        {
            while (await stream.ReadAsync(buffer) is > 0 and { } got)
            {
                seen += (uint)got;
                if (header.Kind == Kind.Slow && called && seen % 7 == 0) await Task.Delay(1);
            }
        }
        catch (IOException) when (mayFail)
        {
            await sent;
            return;
        }
        await sent;
        if (!mayFail) Assert.Equal(awaited, seen);
    }

    /// <summary>A line, when it is time.</summary>
    private sealed class Later(Func<bool> isTime) : MemoryStream
    {
        private bool _given;

        public override async ValueTask<int> ReadAsync(Memory<byte> buffer, CancellationToken cancellationToken = default)
        {
            while (_given || !isTime()) await Task.Delay(50, cancellationToken);
            _given = true;
            "go\n"u8.CopyTo(buffer.Span);
            return 3;
        }
    }
}
