using System.CommandLine;
using System.Globalization;
using Bunraku.Engine.Check;
using Bunraku.Hypervisor.Scheduling;
using Bunraku.Machine;
using Bunraku.Machine.Firmware;
using Bunraku.Processor.X86;
using Bunraku.Sessions.Debugging;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.CommandLine;

/// <summary>The options of <c>bunraku run</c> and how they become <see cref="RunOptions"/>.</summary>
internal sealed class RunCommand : Command
{
    /// <summary>The command's own name.</summary>
    public const string Word = "run";

    /// <summary>Bytes of memory of the guest 'debian' where nothing else is said.</summary>
    private const ulong DebianMemory = 1ul << 30;

    private const string NoNetwork = "none";

    /// <summary>The value that lists what an option can have.</summary>
    public const string HelpWord = "help";

    private readonly Argument<string?> _guest = new("GUEST")
    {
        Arity = ArgumentArity.ZeroOrOne,
        Description = "linux (default, unless a disk or CD is given that boots), linux-generic, debian (a whole system on a disk), debian-generic or hello",
    };
    private readonly Option<string?> _bios = SingleValue.Text("--bios", "NAME|FILE",
        "firmware that boots from a disk by itself: seabios, ovmf (UEFI), or a ROM's contents",
        [.. FirmwareImage.Names]);
    private readonly Option<string?> _efiVars =
        SingleValue.Text("--efi-vars", "FILE", "with --bios ovmf: where the firmware keeps its variables (default: gone at the end)");
    private readonly Option<string?> _kernel = SingleValue.Text("--kernel", "FILE", "a kernel of your own: bzImage, ELF with a PVH note, or multiboot");
    private readonly Option<string?> _initrd =
        SingleValue.Text("--initrd", "FILE",
        "its initial RAM disk; for a multiboot kernel a list of modules: \"FILE ARGUMENTS,FILE ARGUMENTS\", with ,, for a comma");
    private readonly Option<string[]?> _modules = new("--module")
    {
        HelpName = "\"FILE ARGUMENTS\"",
        Description = "a module of a multiboot or PVH kernel with its command line, as one word; once for each module",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };
    private readonly Option<string?> _append = SingleValue.Text("--append", "STRING", "added to the kernel's command line");
    private readonly Option<string?> _name = SharedOptions.Name();
    private readonly Option<BoardKind?> _machine =
        SingleValue.Parsed<BoardKind?>("--machine", "pc|microvm",
        "the board: a PC (default), or one without PCI, whose virtio devices lie in memory", t => t switch
        {
            "pc" => BoardKind.Pc,
            "microvm" => BoardKind.MicroVm,
            _ => throw new UsageException(Nearest.Message("machine", t, ["pc", "microvm"])),
        }, "pc", "microvm");
    private readonly Option<ulong?> _memory =
        SingleValue.Parsed<ulong?>("--memory", "SIZE", "RAM of the guest, for example 512M, 2G or 1.5G (default 512M; debian 1G)",
        t => Quantities.ParseSize(t));
    private readonly Option<int?> _cpus =
        SingleValue.Parsed<int?>("--cpus", "N", "virtual processors (default 1); how many an engine can have, it says when there are too many",
        t => ParseCpus(t));
    private readonly Option<string?> _engine = SharedOptions.Engine();
    private readonly Option<ApicHolder?> _localApic =
        SingleValue.Parsed<ApicHolder?>("--local-apic", "engine|board",
        "who holds the local APICs: the engine where it can (kvm), or the board (default engine)", ParseLocalApic, "engine", "board");
    private readonly Option<CheckInterval?> _checkInterval =
        SingleValue.Parsed<CheckInterval?>("--check-interval", "N",
        "how often the engine 'check' compares at least: a number of instructions, or a time such as 20us or 1ms (default 100us)", t => ParseInterval(t));
    private readonly Option<DirectChoice?> _direct =
        SingleValue.Parsed<DirectChoice?>("--direct", "auto|on|off",
        "run computing programs of the guest on the host's processor as they are: where possible (auto, the default), or else not at all (on)",
        ParseDirect, "auto", "on", "off");
    private readonly Option<string?> _cpu =
        SingleValue.Text("--cpu", "MODEL[,+FEATURE,-FEATURE]",
        $"the processor that the guest sees (default {CpuModels.Default}); help lists models and features", [.. CpuModels.All.Select(m => m.Name), HelpWord]);
    private readonly Option<NestedVirtualization?> _nested =
        SingleValue.Parsed<NestedVirtualization?>("--nested", "vmx|svm|off",
        "virtualization that hypervisors inside the guest find: Intel's VMX, AMD's SVM, or none (default off)",
        ParseNested, "vmx", "svm", "off");
    private readonly Option<Switch?> _paravirtual =
        SingleValue.Parsed<Switch?>("--pv", "on|off", "offer KVM's paravirtual interface to the guest: clock, steal time, hypercalls (default on)",
        t => Quantities.ParseSwitch(t), "on", "off");
    private readonly Option<ulong?> _tscFrequency =
        SingleValue.Parsed<ulong?>("--tsc-frequency", "HZ", "rate of the guest's time stamp counter, for example 1GHz or 2600MHz (default the host's)",
        t => Quantities.ParseFrequency(t));
    private readonly Option<double?> _cpuCap =
        SingleValue.Parsed<double?>("--cpu-cap", "PERCENT", "most processor time of all virtual processors together; 100 is one of the host's",
        t => Quantities.ParsePercent(t));
    private readonly Option<int?> _cpuWeight =
        SingleValue.Parsed<int?>("--cpu-weight", "N", "share against others on a busy host, 1 to 10000 (default 100)", t => Quantities.ParseWeight(t));
    private readonly Option<IReadOnlyList<int>?> _pin =
        SingleValue.Parsed<IReadOnlyList<int>?>("--pin", "LIST", "processors of the host for the virtual ones, in turn, for example 0,1 or 2-5",
        Quantities.ParseProcessors);
    private readonly Option<bool> _realtime =
        SingleValue.Flag("--realtime", "real-time scheduling and locked memory, for short latencies; needs the privileges");
    private readonly Option<SerialTarget?> _serial = SharedOptions.Serial();
    private readonly Option<string[]?> _disks = new("--disk")
    {
        HelpName = "FILE[,NAME=VALUE]...",
        Description = "a disk image, raw or qcow2; once for each disk (vda, vdb, ...). NAME: format, readonly, serial, snapshot, backing, discard, full, bus",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };
    private readonly Option<ulong?> _diskSize =
        SingleValue.Parsed<ulong?>("--disk-size", "SIZE", "with the guest debian: its disk's size (default 8G)", t => Quantities.ParseSize(t));
    private readonly Option<string?> _keep =
        SingleValue.Text("--keep", "FILE", "with the guest debian: what it writes stays in FILE, a qcow2 image over its own; else it is gone at the end");
    private readonly Option<string[]?> _compactDiscs = new("--cdrom")
    {
        HelpName = "FILE",
        Description = "an image of a CD or DVD; once for each drive",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };
    private readonly Option<string[]?> _networks = new("--net")
    {
        HelpName = "KIND[,NAME=VALUE]...",
        Description = "a network card; once for each (eth0, eth1, ...). "
            + "KIND: user (needs nothing), tap:NAME, cables to another VM (unix:PATH, listen:PORT and connect:PORT, udp:PORT-PORT), mcast:GROUP:PORT, or none. "
            + "NAME: mac, mtu, queues, model=virtio|e1000; for user also hostfwd=[tcp|udp]:[ADDRESS:]PORT-[ADDRESS]:PORT, restrict, loopback, ipv6",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };
    private readonly Option<string[]?> _shares = SharedOptions.Shares();
    private readonly Option<VmVsock?> _vsock = SharedOptions.Vsock();
    private readonly Option<BalloonArgument?> _balloon = SingleValue.Parsed<BalloonArgument?>("--balloon", "on[,NAME=on|off]",
        "a virtio balloon, by which the guest gives memory back: free memory by itself, more when the monitor's 'balloon' asks. "
        + "NAME: deflate-on-oom, reporting (both on)", BalloonArgument.Parse, "on", "off");
    private readonly Option<DisplayKind?> _vga =
        SingleValue.Parsed<DisplayKind?>("--vga", "std|none", "the display: a VGA as QEMU's standard one, or none (default std with --bios, else none)",
        t => t switch
        {
            "std" => DisplayKind.Standard,
            "none" => DisplayKind.None,
            _ => throw new UsageException(Nearest.Message("display", t, ["std", "none"])),
        }, "std", "none");
    private readonly Option<VncEndpoint?> _vnc = SharedOptions.Vnc();
    private readonly Option<string?> _screenshot = SingleValue.Text("--screenshot", "FILE", "at the end, write a picture of the screen to a PNG file");
    private readonly Option<string[]?> _environment = new("--env")
    {
        HelpName = "NAME[=VALUE]",
        Description = "a variable for the command or shell of a built-in guest; without a value that of this process; once for each",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };
    private readonly Option<string?> _workingFolder =
        SingleValue.Text("--cwd", "FOLDER", "where it starts in the guest: a path from / on, or within the first shared folder");
    private readonly Option<string?> _user = SingleValue.Text("--user", "NAME|UID[:GID]", "as whom it runs (default root)");
    private readonly Option<string[]?> _copies = new("--copy")
    {
        HelpName = "FILE[,at=PATH]",
        Description = "a file or folder of which a built-in guest gets a copy; PATH in the guest (default /root/); once for each",
        Arity = ArgumentArity.OneOrMore,
        AllowMultipleArgumentsPerToken = false,
    };
    private readonly Option<string?> _clock =
        SingleValue.Text("--rtc", "utc|localtime|DATE", "what the clock begins with; DATE as 2026-01-31T12:30:00 (default utc)", "utc", "localtime");
    /// <summary>Read before the others: <see cref="ConfigurationFile"/>.</summary>
    private readonly Option<string?> _configuration =
        SingleValue.Text(ConfigurationFile.Option, "FILE", "options from a file, a line each: 'memory = 2G'; those on the command line count more");
    private readonly Option<bool> _detach = SharedOptions.Detach();
    private readonly Option<bool> _quiet = SharedOptions.Quiet();
    private readonly Option<byte?> _escape =
        SingleValue.Parsed<byte?>("--escape", "KEY", "the key before commands on the terminal, in place of Ctrl-A: ^B, or none", ParseEscape, "^A", "^B",
            "none");
    private readonly Option<string?> _pidFile = SingleValue.Text("--pidfile", "FILE", "write this process's number there, for as long as it runs");
    private readonly Option<bool> _rng = SingleValue.Flag("--rng", "a virtio device with random numbers of the host");
    private readonly Option<ulong?> _seed =
        SingleValue.Parsed<ulong?>("--seed", "N", "as --rng, with numbers that follow from N: the same each time, and no secret",
        t => ulong.TryParse(t, NumberStyles.None, CultureInfo.InvariantCulture, out ulong n) ? n : throw new UsageException($"--seed: '{t}' is no number"));
    private readonly Option<string?> _kernelVersion =
        SingleValue.Text("--kernel-version", "VERSION", "of the guests linux and linux-generic: which of the distribution's kernels, for example 6.1.0-57");
    private readonly Option<string?> _init =
        SingleValue.Text("--init", "FILE", "of these guests: a program or script of your own as the first process; sh and busybox are in /bin");
    private readonly Option<bool> _debugExit = SingleValue.Flag("--debug-exit", "isa-debug-exit on port 0xf4: the guest ends with status value*2+1");
    private readonly Option<bool> _testDevice =
        SingleValue.Flag("--test-device", "ports, interrupt wires and device memory of QEMU's pc-testdev, for test kernels");
    private readonly Option<bool> _noReboot =
        SingleValue.Flag("--no-reboot", "end with status 4 when the guest resets the machine, instead of booting it again; with a COMMAND it is always so");
    private readonly Option<TimeSpan?> _timeout = SharedOptions.Timeout();
    private readonly Option<bool> _stats = SharedOptions.Stats();
    private readonly Option<string?> _statsJson = SingleValue.Text("--stats-json", "FILE", "write the same figures as JSON");
    private readonly Option<TraceTarget?> _trace =
        SingleValue.Parsed<TraceTarget?>("--trace", "KIND[:FILE]",
        "one line for each VM exit (exits), or for each entry and exit of a guest inside the guest (nested), to FILE or stderr", TraceTarget.Parse,
        "exits", "nested");

    private readonly Option<bool> _fresh = SingleValue.Flag("--fresh", "boot the guest, where one that was booted before is kept");
    private readonly Option<string?> _saveTo = SharedOptions.SaveTo();
    private readonly Option<bool> _compress = SharedOptions.Compress();
    private readonly Option<DebugEndpoint?> _gdb =
        SingleValue.Parsed<DebugEndpoint?>("--gdb", "127.0.0.1:PORT|unix:PATH",
        "listen for gdb or lldb (target remote), which stops the guest when it connects", ParseEndpoint, "127.0.0.1:1234", "unix:");
    private readonly Option<bool> _stopped = SingleValue.Flag("--stopped", "with --gdb: the guest waits before its first instruction");

    private readonly Option<bool> _perfMap = SingleValue.Flag("--perf-map", "write /tmp/perf-PID.map, by which Linux's perf names translated code");

    public RunCommand() : base(Word, "Boot a guest, or run one COMMAND inside it (after --)")
    {
        _guest.CompletionSources.Add([.. GuestImage.Names]);
        Arguments.Add(_guest);
        foreach (Option option in (Option[])[_bios, _efiVars, _kernel, _initrd, _modules, _append, _name, _machine, _memory, _cpus, _engine,
            _localApic, _checkInterval, _direct, _cpu, _nested, _paravirtual, _tscFrequency, _cpuCap, _cpuWeight,
            _pin, _realtime, _serial, _disks, _diskSize, _keep,
            _compactDiscs, _networks, _shares, _vsock, _balloon, _environment, _workingFolder, _user, _copies, _vga, _vnc, _screenshot, _rng, _seed,
            _kernelVersion, _init, _clock, _configuration, _escape,
            _quiet, _detach, _pidFile, _debugExit, _testDevice, _noReboot, _timeout, _saveTo, _compress, _fresh, _stats, _statsJson, _trace, _gdb, _stopped,
            _perfMap])
            Options.Add(option);
    }

    /// <summary>The CPU models are asked for, not a run.</summary>
    public bool AsksForCpus(ParseResult parsed) => parsed.GetValue(_cpu) == HelpWord;

    /// <summary>The engines are asked for, not a run.</summary>
    public bool AsksForEngines(ParseResult parsed) => parsed.GetValue(_engine) == HelpWord;

    /// <summary>What <see cref="Read"/> makes of no options at all.</summary>
    public static RunOptions WithDefaults(IReadOnlyList<string> command) => new() { Command = command, KeepBooted = true };

    /// <param name="command">What stood behind <c>--</c>, or null.</param>
    /// <exception cref="UsageException">Options that do not go together.</exception>
    public RunOptions Read(ParseResult parsed, IReadOnlyList<string>? command)
    {
        string? guest = parsed.GetValue(_guest), kernel = parsed.GetValue(_kernel), initrd = parsed.GetValue(_initrd);
        if (guest is not null && kernel is not null) throw new UsageException($"give either the guest '{guest}' or --kernel, not both");
        string? bios = parsed.GetValue(_bios);
        if (guest is not null && bios is not null) throw new UsageException($"give either the guest '{guest}' or --bios, not both");
        if (bios == "") throw new UsageException("the firmware's name is empty");
        if (guest == "") throw new UsageException("the guest's name is empty");
        if (initrd is not null && parsed.GetValue(_modules) is { Length: > 0 })
            throw new UsageException("give the files either with --initrd or with --module, not both: a kernel goes by their order");
        string engine = parsed.GetValue(_engine) ?? "auto";
        if (parsed.GetValue(_stopped) && parsed.GetValue(_gdb) is null) throw new UsageException("--stopped goes with --gdb: nobody else lets the guest run");
        if (parsed.GetValue(_checkInterval) is not null && engine != "check") throw new UsageException("--check-interval is for --engine check");
        DirectUse direct = ChooseDirect(parsed.GetValue(_direct) ?? DirectChoice.Auto, engine);
        if (command is { Count: 0 }) throw new UsageException("a command is missing behind --");
        if (command is not null && kernel is not null)
            throw new UsageException("a command behind -- needs a guest that can run it; with --kernel, use --append");
        if (parsed.GetValue(_detach) && (parsed.GetValue(_serial) is not null || parsed.GetValue(_stats) || parsed.GetValue(_trace) is { Path: null }))
            throw new UsageException("--detach does not go with --serial, --stats and a trace on the terminal: what the VM prints is in its log");
        bool isDebian = guest is not null && DebianImages.Names.Contains(guest);
        var options = new RunOptions
        {
            Guest = guest ?? "linux",
            Bios = bios,
            EfiVars = parsed.GetValue(_efiVars),
            Kernel = kernel,
            Initrd = initrd,
            Modules = parsed.GetValue(_modules) is { Length: > 0 } modules ? modules : [],
            Append = parsed.GetValue(_append),
            Board = parsed.GetValue(_machine) ?? BoardKind.Pc,
            Memory = parsed.GetValue(_memory) ?? (isDebian ? DebianMemory : RunOptions.DefaultMemory),
            Cpus = parsed.GetValue(_cpus) ?? 1,
            Engine = engine,
            EngineApics = parsed.GetValue(_localApic) != ApicHolder.Board,
            CheckInterval = parsed.GetValue(_checkInterval) ?? CheckInterval.Default,
            Direct = direct,
            Cpu = parsed.GetValue(_cpu),
            Nested = parsed.GetValue(_nested),
            Paravirtual = parsed.GetValue(_paravirtual) != Switch.Off,
            TscFrequency = parsed.GetValue(_tscFrequency) ?? 0,
            CpuTime = new CpuTimeOptions
            {
                Cap = parsed.GetValue(_cpuCap),
                Weight = parsed.GetValue(_cpuWeight),
                Pins = parsed.GetValue(_pin) ?? [],
                Realtime = parsed.GetValue(_realtime),
            },
            Serial = parsed.GetValue(_serial) ?? new SerialTarget(SerialKind.Stdio),
            Disks = parsed.GetValue(_disks) is { Length: > 0 } disks ? [.. disks.Select(DiskArgument.Parse)] : [],
            DiskSize = parsed.GetValue(_diskSize),
            KeepDisk = parsed.GetValue(_keep),
            CompactDiscs = parsed.GetValue(_compactDiscs) is { Length: > 0 } discs ? discs : [],
            Networks = Networks(parsed.GetValue(_networks) ?? [], isDebian),
            Shares = SharedOptions.ParseShares(parsed.GetValue(_shares)),
            Vsock = parsed.GetValue(_vsock),
            Balloon = parsed.GetValue(_balloon)?.Balloon,
            Environment = parsed.GetValue(_environment) is { Length: > 0 } variables ? [.. variables.SelectMany(Variable)] : [],
            WorkingFolder = parsed.GetValue(_workingFolder),
            User = parsed.GetValue(_user),
            Copies = parsed.GetValue(_copies) is { Length: > 0 } copies ? [.. copies.Select(Copy)] : [],
            ClockStart = parsed.GetValue(_clock) is { } clock ? Quantities.ParseStartTime("--rtc ", clock) : null,
            Quiet = parsed.GetValue(_quiet),
            Detach = parsed.GetValue(_detach),
            Escape = parsed.GetValue(_escape) ?? Terminals.ConsoleKeys.DefaultEscape,
            PidFile = parsed.GetValue(_pidFile),
            Rng = parsed.GetValue(_rng) || parsed.GetValue(_seed) is not null,
            Seed = parsed.GetValue(_seed),
            KernelVersion = parsed.GetValue(_kernelVersion),
            Init = parsed.GetValue(_init),
            Display = parsed.GetValue(_vga) ?? DisplayKind.Automatic,
            Vnc = parsed.GetValue(_vnc),
            Screenshot = parsed.GetValue(_screenshot),
            DebugExit = parsed.GetValue(_debugExit),
            TestDevice = parsed.GetValue(_testDevice),
            NoReboot = parsed.GetValue(_noReboot),
            Timeout = parsed.GetValue(_timeout),
            Debugger = parsed.GetValue(_gdb),
            StartsStopped = parsed.GetValue(_stopped),
            Stats = parsed.GetValue(_stats),
            StatsJson = parsed.GetValue(_statsJson),
            Trace = parsed.GetValue(_trace),
            SampleWork = parsed.GetValue(_stats),
            PerfMap = parsed.GetValue(_perfMap),
            Command = command,
            KeepBooted = !parsed.GetValue(_fresh) && engine != "check",
            SaveTo = parsed.GetValue(_saveTo),
            Compress = SharedOptions.RequiredFor(parsed.GetValue(_saveTo), parsed.GetValue(_compress)),
            Name = parsed.GetValue(_name),
        };
        // The same with a firmware would be refused where a built-in guest is meant by something else than its name.
        bool meansOurs = options is not
        {
            Kernel: null, Bios: null, Command: null, Init: null, KernelVersion: null, Append: null, Initrd: null, Modules.Count: 0, Environment.Count: 0,
            WorkingFolder: null, User: null, Copies.Count: 0, Shares.Count: 0, Board: BoardKind.Pc,
        };
        return options with { BootsDisk = guest is null && !meansOurs && options.Disks.Count + options.CompactDiscs.Count > 0 };
    }

    /// <summary>A whole system has a network, where nothing else is said and the host can give one.</summary>
    private static IReadOnlyList<VmNetwork> Networks(string[] given, bool isDebian)
    {
        if (given is [NoNetwork]) return [];
        if (given.Contains(NoNetwork)) throw new UsageException($"--net {NoNetwork} goes with no other network");
        if (given.Length > 0) return [.. given.Select(NetworkArgument.Parse)];
        return isDebian ? [NetworkArgument.Parse("user")] : [];
    }

    /// <summary>A variable as it was given, or this process's; nothing, where it has none.</summary>
    private static IEnumerable<KeyValuePair<string, string>> Variable(string text)
    {
        int at = text.IndexOf('=');
        if (at == 0) throw new UsageException($"--env {text}: a name is missing");
        if (at > 0) return [new(text[..at], text[(at + 1)..])];
        return Environment.GetEnvironmentVariable(text) is { } value ? [new(text, value)] : [];
    }

    private static VmCopy Copy(string text)
    {
        (string source, IReadOnlyList<(string Name, string Value)> words) = WordList.Parse(text);
        var copy = new VmCopy(source);
        foreach ((string name, string value) in words)
            copy = name == "at" ? copy with { At = value } : throw new UsageException(Nearest.Message("word behind --copy", name, ["at"]));
        return copy;
    }

    private static byte? ParseEscape(string text)
    {
        if (text == "none") return 0;
        string key = text.StartsWith("ctrl-", StringComparison.OrdinalIgnoreCase) ? "^" + text[5..] : text;
        return key is ['^', var letter] && char.ToUpperInvariant(letter) is >= 'A' and <= 'Z' and var upper and not ('C' or 'J' or 'M')
            ? (byte)(upper - '@') : throw new UsageException($"'{text}' is no escape key; write for example ^B, or none");
    }

    /// <summary>Whose the local APICs are.</summary>
    private enum ApicHolder { Engine, Board }

    private static ApicHolder? ParseLocalApic(string text) => text switch
    {
        "engine" => ApicHolder.Engine,
        "board" => ApicHolder.Board,
        _ => throw new UsageException(Nearest.Message("holder of the local APICs", text, ["engine", "board"])),
    };

    private static DebugEndpoint ParseEndpoint(string text)
    {
        try
        {
            return DebugEndpoint.Parse(text);
        }
        catch (FormatException e)
        {
            throw new UsageException($"--gdb: {e.Message}");
        }
    }

    private enum DirectChoice { Auto, On, Off }

    private static DirectChoice? ParseDirect(string text) => text switch
    {
        "auto" => DirectChoice.Auto,
        "on" => DirectChoice.On,
        "off" => DirectChoice.Off,
        _ => throw new UsageException(Nearest.Message("direct execution", text, ["auto", "on", "off"])),
    };

    /// <summary>Whether it is wanted and works; where it was asked for by name and cannot be had, a message says why.</summary>
    private static DirectUse ChooseDirect(DirectChoice choice, string engine)
    {
        if (choice == DirectChoice.Off) return DirectUse.None;
        if (choice == DirectChoice.Auto) return DirectUse.WherePays;
        if (engine is not ("auto" or "bt")) throw new UsageException($"--direct on is for --engine bt, not for {engine}");
        return TranslatorEngine.WhyNotDirect() is { } reason ? throw new UsageException($"--direct on does not work here: {reason}") : DirectUse.WherePays;
    }

    private static NestedVirtualization? ParseNested(string text) => text switch
    {
        "vmx" => NestedVirtualization.Vmx,
        "svm" => NestedVirtualization.Svm,
        "off" => NestedVirtualization.Off,
        _ => throw new UsageException(Nearest.Message("nested virtualization", text, ["vmx", "svm", "off"])),
    };

    private static CheckInterval ParseInterval(string text)
    {
        (string digits, ulong microseconds) = text.EndsWith("us", StringComparison.Ordinal) ? (text[..^2], 1ul) : text.EndsWith("ms", StringComparison.Ordinal)
            ? (text[..^2], 1000ul) : (text, 0ul);
        if (!uint.TryParse(digits, System.Globalization.NumberStyles.None, null, out uint n) || n == 0 || n * microseconds > 1_000_000)
            throw new UsageException($"'{text}' is no interval; write for example 20us, 1ms (at most 1000ms), or 5000 for instructions");
        return microseconds == 0 ? CheckInterval.Every(n) : CheckInterval.Every(TimeSpan.FromMicroseconds(n * microseconds));
    }

    private static int ParseCpus(string text)
    {
        if (!int.TryParse(text, System.Globalization.NumberStyles.None, null, out int n) || n < 1)
            throw new UsageException($"'{text}' is not a number of processors");
        return n;
    }
}
