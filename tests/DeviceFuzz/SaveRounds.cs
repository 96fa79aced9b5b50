using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Processor.X86;

namespace Bunraku.DeviceFuzz;

/// <summary>
/// Linux boots and works, is saved at a random instruction, and continues in another machine: the saved one and its copy go on for a million instructions each,
/// and must be equal then in each register, each byte of RAM and each device. Round after round, the saved machine runs freely in between.
/// </summary>
public sealed class SaveRounds : IDisposable
{
    private const ulong Memory = 96 << 20;
    private const string Work = "while :; do ls -lR /proc/self /sys/class > /tmp/list 2>&1; dd if=/dev/zero of=/tmp/block bs=64k count=20 2>/dev/null; " +
        "sha256sum /tmp/block /tmp/list; sleep 0.03; done";

    private readonly IX86Engine _engine, _second;
    private readonly int _cpus;
    private readonly CpuModel _model;
    private readonly LinuxGuest _guest;
    private readonly Random _random;
    private Box? _box;
    private int _lived;

    /// <param name="second">The engine of the copies; another one than the saved machine's shows that states move between engines.</param>
    public SaveRounds(IX86Engine engine, IX86Engine second, int cpus, int seed)
    {
        (_engine, _second, _cpus, _random) = (engine, second, cpus, new Random(seed));
        CpuModel model = CpuModels.Parse(CpuModels.Default);
        // Their results are different each time.
        _model = model with { Features = model.Features.Where(f => f is not (CpuFeature.Rdrand or CpuFeature.Rdseed)).ToHashSet() };
        var packages = new DebianPackages(new GuestCache());
        string kernel = packages.FindKernel("linux"), busybox = packages.FindBusybox();
        _guest = LinuxGuest.Create(BootFile.Read(kernel, "kernel", Memory), kernel, BootFile.Read(busybox, "busybox", Memory),
            new LinuxGuestOptions { Command = ["sh", "-c", Work] });
    }

    /// <summary>Rounds that one guest lives: then the next one boots.</summary>
    public int RoundsPerBoot { get; init; } = 30;

    /// <summary>Instructions that saved machine and copy go on for.</summary>
    public ulong Instructions { get; init; } = 1_000_000;

    /// <summary>What was in the middle of something when it was saved, by what.</summary>
    public SortedDictionary<string, int> Moments { get; } = [];

    /// <summary>One round. What differs, or null.</summary>
    public string? Run()
    {
        if (_box is { Vm.Stopped.IsCompleted: true } ended) return $"the guest came to its end: {ended.Vm.Stopped.Result}; it said {ended.Said}";
        if (_box is null || _lived++ >= RoundsPerBoot)
        {
            _box?.Dispose();
            _box = new Box(this, _engine);
            _box.Load(_guest);
            _box.Vm.Start();
            _lived = 0;
        }
        // Short while it boots: much happens then.
        Thread.Sleep(_random.Next(1, 2 + 10 * Math.Min(_lived, 20)));
        int seed = _random.Next();
        _box.Vm.Pause();
        try
        {
            return Compare(_box, seed);
        }
        finally
        {
            _box.Vm.Resume();
        }
    }

    private string? Compare(Box box, int seed)
    {
        MachineState saved = box.Vm.Save();
        Note(box.Vm);
        using var copy = new Box(this, _second);
        copy.Vm.Pause();
        copy.Vm.Restore(saved);
        MachineState again = copy.Vm.Save();
        if (Differences(saved, again, box, copy) is { } first) return $"right after the restore: {first}";
        int told = box.Output.Count;
        SteppedRun mine = new(box.Vm, seed), theirs = new(copy.Vm, seed);
        bool a = mine.RunTo(Instructions), b = theirs.RunTo(Instructions);
        if ((a, mine.Retired) != (b, theirs.Retired)) return $"the saved machine went on for {mine.Retired} instructions, the copy for {theirs.Retired}; " +
            $"{Differences(box.Vm.Save(), copy.Vm.Save(), box, copy)}";
        if (Differences(box.Vm.Save(), copy.Vm.Save(), box, copy) is { } second) return $"after {mine.Retired} instructions: {second}";
        return box.Output.Skip(told).SequenceEqual(copy.Output) ? null : "the machines have sent different characters";
    }

    private static string? Differences(MachineState a, MachineState b, Box first, Box second)
    {
        IReadOnlyList<string> lines = a.Differences(b);
        if (lines.Count == 0) return null;
        var text = new List<string>();
        for (int n = 0; n < first.Vm.Cpus.Count; n++)
        {
            CpuState x = new(), y = new();
            first.Vm.Cpus[n].Cpu.ReadState(x);
            second.Vm.Cpus[n].Cpu.ReadState(y);
            text.Add($"cpu{n} at {x.Rip:X} and {y.Rip:X}");
        }
        return string.Join(Environment.NewLine, text.Concat(lines.Select(l => l.Length > 3000 ? l[..3000] : l)));
    }

    private void Note(X86Machine vm)
    {
        foreach (X86CpuThread cpu in vm.Cpus)
        {
            var state = new CpuState();
            cpu.Cpu.ReadState(state);
            string what = state.HalfDone is { } half ? $"half-done {half.Reason}" : state.MmioValues.Count > 0 ? "a device memory read"
                : state.PostedWrites.Count > 0 ? "a posted write"
                : state.Pending is { } pending ? $"pending {pending.Kind}" : state.InterruptShadow ? "an interrupt shadow" : state.Activity.ToString();
            Moments[what] = Moments.GetValueOrDefault(what) + 1;
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _box?.Dispose();

    /// <summary>One machine and its board.</summary>
    private sealed class Box : IDisposable
    {
        private readonly PcBoard _board;

        public Box(SaveRounds owner, IX86Engine engine)
        {
            Vm = new X86Machine(engine, owner._model, Memory, owner._cpus, new X86MachineOptions { TscFrequency = 2_000_000_000, TimeOfDay = new NoTime() });
            _board = new PcBoard(Vm, new PcBoardOptions
            {
                SerialOutput = Add,
                SecondSerialOutput = Add,
                StartTime = new DateTime(2026, 3, 4, 5, 6, 7, DateTimeKind.Utc)
            });
        }

        public X86Machine Vm { get; }

        public List<byte> Output { get; } = [];

        public string Said => System.Text.Encoding.UTF8.GetString([.. Output.TakeLast(2000)]);

        private void Add(ReadOnlySpan<byte> bytes)
        {
            lock (Output) Output.AddRange(bytes);
        }

        public void Load(LinuxGuest guest)
        {
            var request = new BootRequest(Vm.Memory, Vm.Model, _board.MemoryMap, guest.Kernel, guest.KernelName)
            {
                Modules = [new BootModule(guest.Initrd, "initramfs")],
                CommandLine = guest.Append,
                RsdpAddress = MemoryLayout.Rsdp,
            };
            Vm.Cpus[0].Cpu.WriteState(KernelLoader.Load(request));
        }

        public void Dispose() => Vm.Dispose();
    }

    /// <summary>The time of day stands still: it is the host's, and would be another one for each machine.</summary>
    private sealed class NoTime : TimeProvider
    {
        public override DateTimeOffset GetUtcNow() => new(2026, 3, 4, 5, 6, 7, TimeSpan.Zero);
    }
}
