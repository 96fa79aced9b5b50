using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Bunraku.Cli.Tests;
using Bunraku.Hypervisor;
using Bunraku.Sessions;
using Bunraku.Sessions.Debugging;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fuzz;

/// <summary>
/// Hostile debuggers: random packets for the protocol, and bytes for the socket, some of them damaged. None ends a VM but by what it writes into the guest, and
/// the next debugger is served.
/// </summary>
internal static class DebuggerCommand
{
    private const string Usage = "usage: fuzz-debugger [--count PACKETS] [--seed N]";
    private const int PacketsOfOne = 400;
    private const uint Data = 0x20_0000;
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(5);
    // Registers and memory have random contents in the end.
    private static readonly StopReason[] s_ends = [StopReason.Shutdown, StopReason.DebugExit, StopReason.Reset, StopReason.PowerOff];

    public static int Run(string[] args)
    {
        if (Options.Read("fuzz-debugger", Usage, args, 200_000) is not var (count, seed)) return 2;
        string folder = Directory.CreateTempSubdirectory("bunraku-fuzz-debugger-").FullName;
        try
        {
            long resumed = 0, ended = 0, vms = (count + 2 * PacketsOfOne - 1) / (2 * PacketsOfOne);
            Console.WriteLine($"{vms:N0} VMs, {PacketsOfOne} packets for the protocol and {PacketsOfOne} for the socket of each, seed {seed}");
            string kernel = Path.Combine(folder, "kernel");
            File.WriteAllBytes(kernel, Kernel());
            var rounds = new ParallelRounds(vms, ("packets", 2 * PacketsOfOne), shown: 50);
            bool right = rounds.Run(worker => Path.Combine(folder, $"socket-{worker}"), (socket, n) =>
            {
                int own = unchecked((int)seed + (int)n);
                Task<(int Resumed, bool Ended)> one = Task.Run(() => One(kernel, socket, own));
                try
                {
                    if (!one.Wait(s_longest)) throw new TimeoutException("it hangs");
                    Interlocked.Add(ref resumed, one.Result.Resumed);
                    if (one.Result.Ended) Interlocked.Increment(ref ended);
                    return null;
                }
                catch (Exception e)
                {
                    return $"seed {own}: {(e as AggregateException)?.InnerException ?? e}";
                }
            });
            if (!right) return 1;
            Console.WriteLine($"{vms * 2 * PacketsOfOne:N0} packets without trouble, {rounds.Elapsed}; guests went on "
                + $"{resumed:N0} times by the protocol, {ended:N0} of {vms:N0} came to their end, "
                + $"{Process.GetCurrentProcess().PeakWorkingSet64 >> 20:N0} MiB at most");
            return 0;
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static (int Resumed, bool Ended) One(string kernel, string socket, int seed)
    {
        using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = seed % 2 == 0 ? "bt" : "interp",
            Kernel = kernel,
            Memory = 16 << 20,
            Cpus = 1 + seed / 2 % 2,
            DebugExit = true,
            StartsStopped = true,
        }.Build();
        Task<VmResult> run = vm.RunAsync();
        var fuzzer = new RemoteFuzzer(vm, seed);
        var random = new Random(seed);
        using (DebugServer server = vm.ServeDebugger(DebugEndpoint.Unix(socket)))
        {
            using (Socket wire = Connect(socket))
            {
                Task reads = Task.Run(() => Drain(wire));
                for (int n = 0; n < PacketsOfOne; n++) Send(wire, Damage(Frame(fuzzer.Packet(registers: 600)), random));
                wire.Shutdown(SocketShutdown.Send);
                reads.Wait();
            }
            // The next debugger is served, unless the guest has come to its end.
            while (!vm.Ended && !Answers(socket)) Thread.Sleep(1);
        }
        if (!vm.Ended) fuzzer.Run(PacketsOfOne);
        if (!vm.Ended) return (fuzzer.Resumed, false);
        StopReason reason = run.GetAwaiter().GetResult().Cause.Reason;
        return s_ends.Contains(reason) ? (fuzzer.Resumed, true) : throw new InvalidOperationException($"the VM ended by {reason}");
    }

    /// <summary>A request: it has escapes but no run lengths.</summary>
    private static byte[] Frame(byte[] payload)
    {
        byte[] escaped = [.. payload.SelectMany(b => b is (byte)'$' or (byte)'#' or (byte)'}' ? [(byte)'}', (byte)(b ^ 0x20)] : (byte[])[b])];
        return [(byte)'$', .. escaped, .. Encoding.ASCII.GetBytes($"#{escaped.Sum(b => b) & 0xFF:x2}")];
    }

    /// <summary>As it is mostly; else damaged, or with bytes that no packet has. Ctrl-C in any case now and then: a guest that runs has no other ear.</summary>
    private static byte[] Damage(byte[] frame, Random random)
    {
        switch (random.Next(8))
        {
            case 0: frame[random.Next(frame.Length)] = (byte)random.Next(256); break;
            case 1: frame = frame[..random.Next(frame.Length)]; break;
            case 2: frame = [.. frame, (byte)random.Next(256), .. frame[random.Next(frame.Length)..]]; break;
            case 3: frame = [.. frame, (byte)'-']; break;
            default: break;
        }
        return random.Next(3) == 0 ? [.. frame, 3] : frame;
    }

    private static Socket Connect(string path)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(path));
        return socket;
    }

    private static void Send(Socket socket, ReadOnlySpan<byte> bytes)
    {
        try
        {
            while (!bytes.IsEmpty) bytes = bytes[socket.Send(bytes)..];
        }
        catch (SocketException)
        {
            // The guest has ended.
        }
    }

    private static void Drain(Socket socket)
    {
        byte[] buffer = new byte[1 << 16];
        try
        {
            while (socket.Receive(buffer) > 0) { }
        }
        catch (SocketException)
        {
            // As above.
        }
    }

    /// <summary>Whether a new debugger is told why the guest stands still; false: it was turned away, since the one before has not parted yet.</summary>
    private static bool Answers(string path)
    {
        try
        {
            using Socket socket = Connect(path);
            socket.Send("$?#3f"u8);
            byte[] answer = new byte[2];
            for (int got = 0, more; got < answer.Length; got += more)
            {
                more = socket.Receive(answer.AsSpan(got));
                if (more == 0) return false;
            }
            return answer.AsSpan().SequenceEqual("+$"u8);
        }
        catch (SocketException)
        {
            return false;
        }
    }

    /// <summary>Counts, and does the same again and again, until a word in memory says otherwise.</summary>
    private static byte[] Kernel() => TestKernel.Assemble(a =>
    {
        Label again = a.CreateLabel();
        a.mov(ebx, Data);
        a.Label(ref again);
        a.inc(eax);
        a.add(__dword_ptr[ebx + 4], 0x11);
        a.cmp(__dword_ptr[ebx], 1);
        a.jne(again);
        TestKernel.Out(a, 0xF4, 5);
        TestKernel.Loop(a);
    });
}
