using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Machine.Virtio.Sockets;
using Bunraku.Processor.X86;
using Bunraku.Testing;

namespace Bunraku.DeviceFuzz;

/// <summary>How one hostile guest fared.</summary>
/// <param name="Accesses">How many it made.</param>
/// <param name="Interrupts">How many interrupts and NMIs it took.</param>
/// <param name="Cause">What ended its VM; null: it could not be ended.</param>
/// <param name="Failure">What the monitor did wrong; null: nothing.</param>
public sealed record DeviceFuzzResult(ulong Seed, ulong Accesses, ulong Interrupts, StopCause? Cause, string? Failure);

/// <summary>
/// Runs <see cref="HostileGuest"/> on a full board, one VM for each seed, while somebody types, presses the power button, pulses NMI, and pauses the VM. The
/// guest may end its VM as guests can; the monitor must neither fail nor stand still.
/// </summary>
public sealed class DeviceFuzzer(IX86Engine engine, int cpus = 1)
{
    private const int LastExits = 24;
    private static readonly TimeSpan s_joinPatience = TimeSpan.FromSeconds(30);

    /// <summary>Without a single access for so long, the guest or the monitor hangs.</summary>
    public TimeSpan LongestPause { get; init; } = TimeSpan.FromSeconds(30);

    /// <summary>Called with the VM and its board before the start.</summary>
    public Action<X86Machine, PcBoard>? Prepare { get; init; }

    /// <summary>What the hostile guest and its bystander see for a processor.</summary>
    public static CpuModel Model => CpuModels.Parse("max,+hypervisor");

    /// <summary>Runs the guest of a seed until it has made so many accesses or has ended its VM. A VM that hangs is left behind.</summary>
    public DeviceFuzzResult Run(ulong seed, ulong accesses)
    {
        using var sockets = new SocketDevice("vsock", 3, host: null);
        using var place = new TemporaryFolder();
        using var folder = new SharedFolder(place.Path);
        using var files = new NinePDevice("9p", folder, "tag");
        var vm = new X86Machine(engine, Model, HostileGuest.MemorySize, cpus);
        var board = new PcBoard(vm, new PcBoardOptions
        {
            DebugExit = true,
            TestDevice = true,
            SerialOutput = _ => { },
            SecondSerialOutput = _ => { },
            DebugOutput = _ => { },
            Parts = [new PlacedVirtio(sockets, 8, HostilePlan.Sockets), new PlacedVirtio(new Balloon("balloon"), 9, HostilePlan.Balloon),
                new PlacedInMemory(new Entropy("rng"), 10, HostilePlan.InMemory),
                new PlacedVirtio(files, 11, HostilePlan.Folder)],
        });
        board.FwCfg.AddFile("opt/writable", new byte[1000], writable: true);
        HostileGuest.Load(vm, seed | 1ul << 63);
        Prepare?.Invoke(vm, board);
        var trace = new ExitTrace(cpus);
        foreach (X86CpuThread cpu in vm.Cpus) cpu.OnExit = trace.Add;

        var random = new Random((int)(seed * 2654435761 >> 3));
        var patience = new Patience(LongestPause, vm);
        ulong last = 0;
        vm.Start();
        while (!vm.Stopped.IsCompleted)
        {
            if (!Within(s_joinPatience, vm, () => Disturb(vm, board, random)))
                return Hung(vm, trace, seed, "the host's own requests (keys, power button, NMI, pause) do not return");
            vm.Stopped.Wait(1);
            ulong now = Sum(vm, HostileGuest.Counter);
            // A guest that gives away what makes it the bootstrap processor (IA32_APIC_BASE) and sends itself INIT has nobody left to start it.
            if (now >= accesses || (now == last && vm.Cpus.All(c => c.Activity == CpuActivity.WaitForStartUp))) break;
            if (now != last) patience = new Patience(LongestPause, vm);
            last = now;
            if (patience.IsOver) return Hung(vm, trace, seed, $"no access for {LongestPause.TotalSeconds:F0} s");
        }
        vm.Stop(new StopCause(StopReason.HostRequest));
        if (!Within(s_joinPatience, vm, vm.Join)) return Hung(vm, trace, seed, "the vCPUs do not stop");
        StopCause cause = vm.Stopped.Result;
        string? failure = cause.Reason switch
        {
            StopReason.EngineError => Describe(vm, trace, $"the monitor failed: {cause.Message}"),
            // Nothing that one processor does here spoils its tables; several start each other anywhere.
            StopReason.Shutdown when cpus == 1 => Describe(vm, trace, "the guest's processor is in shutdown, which it gave no reason for"),
            _ => null,
        };
        var result = new DeviceFuzzResult(seed, Sum(vm, HostileGuest.Counter), Sum(vm, HostileGuest.Interrupts), cause, failure);
        if (!Within(s_joinPatience, vm, vm.Dispose)) return result with { Failure = failure ?? "the VM cannot be disposed of" };
        return result;
    }

    private static bool Within(TimeSpan limit, X86Machine vm, Action action) =>
        new Patience(limit, vm).Await(Task.Factory.StartNew(action, TaskCreationOptions.LongRunning));

    private static ulong Sum(X86Machine vm, Func<int, ulong> address)
    {
        ulong sum = 0;
        for (int n = 0; n < HostileGuest.MostCpus; n++)
        {
            vm.Memory.TryRead(address(n), out ulong value);
            sum += value;
        }
        return sum;
    }

    /// <summary>What comes from outside while the guest runs.</summary>
    private static void Disturb(X86Machine vm, PcBoard board, Random random)
    {
        switch (random.Next(12))
        {
            case 0:
                board.PulseNmi();
                break;
            case 1:
                board.PressPowerButton();
                break;
            case 2:
                board.Keyboard.Type([(byte)random.Next(256), 0xF0, (byte)random.Next(256)]);
                break;
            case 3 when board.Serial.QueuedInput < 1000:
                board.Serial.Enqueue(new byte[random.Next(40)]);
                break;
            case 4 when board.SecondSerial!.QueuedInput < 1000:
                board.SecondSerial.EnqueueBreak();
                break;
            case 5 when random.Next(8) == 0:
                vm.Pause();
                vm.Resume();
                break;
            default:
                break;
        }
    }

    private DeviceFuzzResult Hung(X86Machine vm, ExitTrace trace, ulong seed, string what)
    {
        if (!Within(TimeSpan.FromSeconds(5), vm, vm.Pause)) what += "; the vCPUs cannot be held, what follows may be torn";
        string failure = Describe(vm, trace, what);
        vm.Stop(new StopCause(StopReason.HostRequest));
        return new(seed, Sum(vm, HostileGuest.Counter), Sum(vm, HostileGuest.Interrupts), null, failure);
    }

    private static string Describe(X86Machine vm, ExitTrace trace, string what)
    {
        var text = new StringBuilder(what).AppendLine();
        foreach (X86CpuThread cpu in vm.Cpus)
        {
            var s = new CpuState();
            try
            {
                cpu.Cpu.ReadState(s);
            }
            catch (Exception e) when (e is InvalidOperationException or ObjectDisposedException)
            {
                text.AppendLine(e.Message);
            }
            text.AppendLine($"CPU {cpu.Cpu.Index} {cpu.Activity} CS:RIP {s.Cs.Selector:X4}:{s.Rip:X} RFLAGS {s.Rflags:X} RSP {s.Gpr[4]:X} RAX {s.Gpr[0]:X} " +
                $"RBX {s.Gpr[3]:X} RCX {s.Gpr[1]:X} RDX {s.Gpr[2]:X} RSI {s.Gpr[6]:X} RDI {s.Gpr[7]:X} CR2 {s.Cr2:X}, last exits:");
            foreach (string exit in trace.Last(cpu.Cpu.Index)) text.AppendLine($"  {exit}");
        }
        return text.ToString();
    }

    /// <summary>A folder of the host that is gone at the end.</summary>
    private sealed class TemporaryFolder : IDisposable
    {
        public string Path { get; } = Directory.CreateTempSubdirectory("bunraku-fuzz").FullName;

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }

    /// <summary>The last exits of each vCPU.</summary>
    private sealed class ExitTrace(int cpus)
    {
        private readonly record struct Entry(ExitReason Reason, bool IsWrite, int Size, ulong Address, ulong Data, bool Fault);

        private readonly Entry[,] _entries = new Entry[cpus, LastExits];
        private readonly long[] _counts = new long[cpus];

        public void Add(X86CpuThread cpu, X86Exit exit)
        {
            int n = cpu.Cpu.Index;
            _entries[n, _counts[n]++ % LastExits] = new(exit.Reason, exit.IsWrite, exit.Size, exit.Address, exit.Data, exit.Fault);
        }

        public IEnumerable<string> Last(int cpu)
        {
            for (long n = Math.Max(0, _counts[cpu] - LastExits); n < _counts[cpu]; n++)
            {
                Entry e = _entries[cpu, n % LastExits];
                yield return e.Reason is ExitReason.Io or ExitReason.Mmio or ExitReason.Msr or ExitReason.CrAccess
                    ? $"{e.Reason} {(e.IsWrite ? "write" : "read")} {e.Address:X} size {e.Size} data {e.Data:X}{(e.Fault ? " #GP" : "")}" : e.Reason.ToString();
            }
        }
    }
}
