using System.Text.Json.Nodes;
using Bunraku.Cli.Qemu.Characters;
using Bunraku.Cli.Terminals;
using Bunraku.Engine.Check;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Machine.Board.Parts;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Ports;
using Bunraku.Network;
using Bunraku.Network.Slirp;
using Bunraku.Platform;
using Bunraku.Processor.X86;
using Bunraku.Sessions.Monitoring;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.Qemu;

/// <summary>Runs a machine that a command line of QEMU's describes: opens its character devices, wires its ports, and explains its end as QEMU would.</summary>
internal sealed class QemuRun : IGuestConsole, IVmObserver, IQemuControl, IDisposable
{
    private const int MostQueuedInput = 1 << 16;

    private readonly QemuMachine _machine;
    private readonly Dictionary<string, CharacterDevice> _devices = new(StringComparer.Ordinal);
    private readonly List<QmpServer> _protocols = [];
    private readonly List<(VirtioPortSpec Spec, ConsolePort Port)> _ports = [];
    private readonly EndingSignals _signals;
    private readonly CancellationTokenSource _interrupted = new();
    private readonly ManualResetEventSlim _quit = new();
    private CharacterDevice[] _throttled = [];
    private ShowBytes? _console; // of COM1
    private SerialPart? _second;
    private volatile Vm? _vm;
    private volatile bool _shutDown;
    private volatile string? _reason;

    private QemuRun(QemuMachine machine)
    {
        _machine = machine;
        _signals = new EndingSignals(OnSignal);
    }

    /// <summary>Runs it to its end; the process's status.</summary>
    /// <param name="lost">What could not be written.</param>
    /// <exception cref="SessionException">It came to no run.</exception>
    public static int Run(QemuMachine machine, List<CannotWriteException> lost)
    {
        foreach (string note in machine.Notes) Console.Error.WriteLine("bunraku: " + note);
        using var run = new QemuRun(machine);
        using PidFile? pid = machine.PidFile is { } path ? new PidFile(path) : null;
        int status = run.Run();
        foreach (CannotWriteException e in lost) Console.Error.WriteLine("bunraku: " + e.Message);
        return status;
    }

    private int Run()
    {
        try
        {
            foreach (CharacterSpec spec in _machine.Characters.Values) _devices.Add(spec.Id, Open(spec));
        }
        catch (OperationCanceledException) when (_signals.First != 0)
        {
            return Terminated();
        }
        _throttled = [.. PortCharacters().Distinct().Select(id => _devices[id])];
        Vm? built = Build();
        if (built is null) return Terminated();
        using Vm vm = built;
        try
        {
            return Run(vm);
        }
        finally
        {
            // A monitor may be in a command: first it ends, and then what it looks at.
            if (!vm.Ended) vm.End(HostEnd.Failed);
            DisposeDevices();
        }
    }

    private int Run(Vm vm)
    {
        _vm = vm;
        Wire(vm);
        DescriptorCharacters? stdio = _devices.Values.OfType<DescriptorCharacters>().FirstOrDefault(d => d.Terminal is not null);
        _signals.Terminal = stdio?.Terminal;
        using var jobControl = new JobControl(vm, stdio?.Terminal, _ => stdio?.EnterRaw());
        try
        {
            stdio?.EnterRaw();
            if (_signals.First is not 0 and int signal) vm.End(HostEnd.Signal, signal);
            Background.Ready();
            vm.Start();
            foreach (CharacterDevice device in _devices.Values) device.Start();
            VmResult result = vm.Wait();
            if (_machine.NoShutdown && result.Cause.Reason == StopReason.PowerOff)
            {
                _shutDown = true;
                _quit.Wait();
            }
            foreach (CharacterDevice device in _devices.Values) device.Flush();
            stdio?.Terminal?.Restore();
            return Explain(result, vm);
        }
        finally
        {
            stdio?.Terminal?.Restore();
        }
    }

    /// <summary>Whose readers may hold the guest up. A monitor's may not: <see cref="CharacterDevice.AwaitRoom"/> holds up whoever asks it.</summary>
    private IEnumerable<string> PortCharacters() =>
    [
        .. _machine.Serials.OfType<string>(), .. _machine.DebugConsoles.Select(c => c.Character),
        .. _machine.VirtioSerials.SelectMany(s => s.Ports).Select(p => p.Character),
    ];

    private CharacterDevice Open(CharacterSpec spec) => spec.Kind switch
    {
        CharacterKind.Stdio => DescriptorCharacters.Stdio(spec),
        CharacterKind.File => new FileCharacters(spec),
        CharacterKind.Pipe => DescriptorCharacters.Pipe(spec),
        CharacterKind.Pty => DescriptorCharacters.Pty(spec),
        CharacterKind.Unix or CharacterKind.Tcp => new SocketCharacters(spec, _interrupted.Token),
        _ => new NullCharacters(spec),
    };

    private void OnSignal(int number)
    {
        _reason ??= "host-signal";
        if (_vm is { } vm) vm.End(HostEnd.Signal, number);
        else _interrupted.Cancel();
        _quit.Set();
    }

    /// <summary>Null when a signal asked for the end before.</summary>
    private Vm? Build()
    {
        var options = new VmOptions
        {
            Kernel = _machine.Kernel,
            Initrd = _machine.Initrd,
            Append = _machine.Append,
            Bios = _machine.Bios,
            EfiVars = _machine.EfiVars,
            Display = _machine.Display,
            Vnc = _machine.Vnc,
            Tablet = _machine.Tablet ? true : null,
            BootDevices = _machine.BootOrder,
            Identity = _machine.Identity,
            ClockStart = _machine.StartTime,
            Board = _machine.Board,
            Memory = _machine.Memory,
            Cpus = _machine.Cpus,
            Engine = _machine.Engine,
            Cpu = _machine.Cpu,
            Paravirtual = _machine.Paravirtual,
            TscFrequency = _machine.TscFrequency,
            Disks = _machine.Disks,
            CompactDiscs = _machine.CompactDiscs,
            Networks = Networks(),
            Shares = _machine.Shares,
            Rng = _machine.Rng,
            Balloon = _machine.Balloon,
            Vsock = _machine.Vsock,
            NoReboot = _machine.NoReboot,
            Debugger = _machine.Debugger,
            StartsStopped = _machine.Stopped,
        };
        try
        {
            return new VmBuilder(KnownEngines.With(CheckInterval.Default, DirectUse.WherePays), options)
            {
                Console = this,
                Observers = _machine.Monitors.Any(m => m.IsProtocol) || _machine.PanicPort is not null ? [this] : [],
                Parts = [.. Parts()],
                Commands = new MonitorCommands([.. StandardCommands.All.Where(c => c.Name is not "quit"), .. MonitorCommands()]),
                Progress = text => Console.Error.WriteLine("bunraku: " + text),
                Words = QemuOptionWords.Words,
            }.Build(_interrupted.Token);
        }
        catch (Exception e) when (_signals.First != 0 && e is (OperationCanceledException or SessionException))
        {
            return null;
        }
    }

    /// <summary>The card that nobody asked for is left out where the host cannot give one.</summary>
    private IReadOnlyList<VmNetwork> Networks()
    {
        if (!_machine.HasDefaultNetwork) return _machine.Networks;
        try
        {
            new SlirpNetwork(new SlirpOptions()).Dispose();
            return _machine.Networks;
        }
        catch (NetworkException e)
        {
            Console.Error.WriteLine($"bunraku: the machine has no network card: {e.Message}");
            return [];
        }
    }

    private IEnumerable<IBoardPart> Parts()
    {
        if (_machine.Serials.ElementAtOrDefault(1) is { } second)
        {
            CharacterDevice device = _devices[second];
            device.MayLose = true;
            yield return _second = new SerialPart(2, bytes => Output(device, bytes));
        }
        foreach ((ushort port, int size) in _machine.DebugExits) yield return new DebugExitPart(port, size);
        foreach ((ushort port, string character) in _machine.DebugConsoles)
        {
            CharacterDevice device = _devices[character];
            yield return new DebugConsolePart(device.Write, $"debugcon.{port:x}", port);
        }
        if (_machine.PanicPort is { } panic) yield return new PanicPart(Panicked, panic);
        if (_machine.FirmwareItems.Count > 0) yield return new FirmwareItems(_machine.FirmwareItems);
        foreach (VirtioSerialSpec serial in _machine.VirtioSerials) yield return new VirtioPart(new ConsoleDevice(serial.Id, PortsOf(serial)));
    }

    private sealed class FirmwareItems(IReadOnlyList<(string Name, byte[] Data)> items) : IBoardPart
    {
        public void AttachTo(IBoard board)
        {
            foreach ((string name, byte[] data) in items) board.FwCfg.AddFile(name, data);
        }
    }

    /// <summary>Port 0 is a console's, or nobody's; the others follow in the order of the command line.</summary>
    private ConsolePort?[] PortsOf(VirtioSerialSpec serial)
    {
        const int most = 31;
        var ports = new List<ConsolePort?> { null };
        foreach (VirtioPortSpec spec in serial.Ports)
        {
            int number = spec.Number ?? (spec.IsConsole && ports[0] is null ? 0 : ports.Count);
            if (number >= most) throw new UsageException($"-device: a virtio-serial has {most} ports");
            while (ports.Count <= number) ports.Add(null);
            if (ports[number] is not null) throw new UsageException($"-device: port {number} of '{serial.Id}' is there twice");
            CharacterDevice device = _devices[spec.Character];
            var port = new ConsolePort(spec.Name, spec.IsConsole) { Output = bytes => Output(device, bytes) };
            ports[number] = port;
            _ports.Add((spec, port));
        }
        return [.. ports];
    }

    private readonly Dictionary<string, SharedTerminal> _shared = new(StringComparer.Ordinal);

    /// <summary>What a port of the guest prints; a monitor may share the place.</summary>
    private void Output(CharacterDevice device, ReadOnlySpan<byte> bytes)
    {
        if (_shared.TryGetValue(device.Spec.Id, out SharedTerminal? shared)) shared.GuestWrote(bytes);
        else device.Write(bytes);
    }

    /// <summary>The machine is made, and nothing runs: what comes in finds its way.</summary>
    private void Wire(Vm vm)
    {
        if (_machine.VncPassword is { } word) vm.Vnc?.SetPassword(word);
        if (_machine.Serials.FirstOrDefault() is { } first)
        {
            CharacterDevice device = _devices[first];
            device.MayLose = device.Spec.Kind is CharacterKind.Unix or CharacterKind.Tcp or CharacterKind.Pty;
            _console = bytes => Output(device, bytes);
            Connect(vm, device, vm.Send);
        }
        if (_second is { } second) Connect(vm, _devices[_machine.Serials[1]!], bytes => Enqueue(vm, second, bytes));
        foreach ((VirtioPortSpec spec, ConsolePort port) in _ports) Connect(vm, _devices[spec.Character], bytes => Enqueue(vm, port, bytes));
        foreach (MonitorSpec monitor in _machine.Monitors)
        {
            CharacterDevice device = _devices[monitor.Character];
            if (monitor.IsProtocol) _protocols.Add(new QmpServer(vm, device, this, monitor.IsPretty));
            else if (device.Received is null) _ = new MonitorSession(vm, device, () => Columns(device));
        }
        foreach ((string _, CharacterDevice device) in _devices) device.Received ??= static _ => { };
    }

    private static int Columns(CharacterDevice device) => (device as DescriptorCharacters)?.Terminal?.Size?.Columns ?? TextLayout.DefaultWidth;

    /// <summary>A port's input: straight, or behind the escape key where a monitor shares the place.</summary>
    private void Connect(Vm vm, CharacterDevice device, ShowBytes send)
    {
        bool hasMonitor = _machine.Monitors.Any(m => m.Character == device.Spec.Id);
        if (!hasMonitor)
        {
            device.Received = send;
            return;
        }
        var shared = new SharedTerminal(vm, device.Write, () => Columns(device), MonitorSession.PromptName, _machine.EscapeKey, send);
        _shared.Add(device.Spec.Id, shared);
        // At a terminal the escape key is heard whatever waits to be shown; the user is the one who does not read.
        device.Received = device.Spec.Kind == CharacterKind.Stdio ? shared.Feed : bytes =>
        {
            foreach (byte b in bytes)
            {
                if (!device.AwaitRoom()) return;
                shared.Feed([b]);
            }
        };
    }

    private static void Enqueue(Vm vm, SerialPart part, ReadOnlySpan<byte> bytes)
    {
        while (part.Port.QueuedInput > MostQueuedInput && !vm.Ended) Thread.Sleep(1);
        part.Port.Enqueue(bytes);
    }

    private static void Enqueue(Vm vm, ConsolePort port, ReadOnlySpan<byte> bytes)
    {
        const int look = 100; // ms
        while (!port.AwaitRoom(MostQueuedInput, look) && !vm.Ended)
        {
        }
        port.Send(bytes);
    }

    private IEnumerable<MonitorCommand> MonitorCommands()
    {
        yield return new MonitorCommand("system_powerdown", "", "press the power button", (c, _) => Silently(c.Vm.PressPowerButton));
        yield return new MonitorCommand("system_reset", "", "reset the machine", (c, _) => Silently(c.Vm.Machine.RequestReset));
        yield return new MonitorCommand("screendump", "FILE", "write a picture of the screen to a PNG file",
            (c, words) => Silently(() => QmpServer.DumpScreen(c.Vm, words[0])));
        yield return new MonitorCommand("change", "vnc password WORD", "viewers of the screen must know this word (8 bytes of it)",
            (c, words) => Silently(() => SetPassword(c.Vm, words is ["vnc", "password" or "passwd", _] ? "vnc" : $"{words[0]} {words[1]}", words[2])));
        yield return new MonitorCommand("set_password", "vnc WORD [CONNECTED]", "the same",
            (c, words) => Silently(() => SetPassword(c.Vm, words[0], words[1])));
        yield return new MonitorCommand("set_link", "NAME on|off", "plug the cable of a network card in or out",
            (c, words) => Silently(() => c.Vm.SetLink(CardOf(words[0]), words[1] switch
            {
                "on" => true,
                "off" => false,
                _ => throw new MonitorException($"'{words[1]}' is neither on nor off"),
            })));
        yield return new MonitorCommand("block_resize", "DRIVE SIZE", "make a disk larger, and tell the guest; without a unit, SIZE is in megabytes",
            (c, words) => Silently(() => c.Vm.GrowDisk(DiskOf(words[0]), SizeOf(words[1]))));
        yield return new MonitorCommand("info name", "", "the machine's name", (_, _) => _machine.Name is { } name ? name + "\n" : "");
        yield return new MonitorCommand("info uuid", "", "the machine's UUID", (_, _) => $"{Uuid:D}\n");
        yield return new MonitorCommand("info version", "", "QEMU's version, as far as it goes", (_, _) => $"{QemuCommand.Version} {QemuCommand.Package}\n");
        yield return new MonitorCommand("quit", "", "end the machine", (_, _) => Silently(() => Quit("host-ui"))) { Alias = "q" };
    }

    private static ulong SizeOf(string text)
    {
        string withUnit = text.Length > 0 && char.IsAsciiDigit(text[^1]) ? text + "M" : text.TrimEnd('B', 'b');
        return ByteSize.TryParse(withUnit, out ulong size) && size > 0 && size % 512 == 0 ? size
            : throw new MonitorException($"'{text}' is no size of a disk; write for example 20G");
    }

    /// <inheritdoc/>
    public int DiskOf(string name)
    {
        IEnumerable<DriveName> disks = _machine.DriveNames.Take(_machine.Disks.Count);
        return Find("drive", name, [.. disks.Select(d => d.Drive.Length > 0 ? d.Drive : d.Node ?? "")], [.. disks.Select(d => d.Node ?? "")]);
    }

    /// <inheritdoc/>
    public IReadOnlyList<DriveName> Drives => _machine.DriveNames;

    /// <inheritdoc/>
    public int CardOf(string name) =>
        Find("network", name, [.. _machine.NetworkNames.Select(n => n.Backend)], [.. _machine.NetworkNames.Select(n => n.Card ?? "")]);

    private static int Find(string what, string name, string[] names, string[] otherNames)
    {
        for (int n = 0; n < names.Length && name.Length > 0; n++)
        {
            if (names[n] == name || otherNames[n] == name) return n;
        }
        string[] known = [.. names.Where(n => n.Length > 0)];
        throw new MonitorException($"there is no {what} '{name}'" + (known.Length > 0 ? $"; there are {string.Join(", ", known)}" : ", and none has a name"));
    }

    /// <summary>What viewers must know from now on.</summary>
    /// <param name="protocol">Theirs: vnc.</param>
    /// <exception cref="MonitorException">They are not asked for a password.</exception>
    public static void SetPassword(Vm vm, string protocol, string word)
    {
        if (protocol != "vnc") throw new MonitorException($"'{protocol}' has no password; 'change vnc password WORD' sets that of the screen's viewers");
        VncServer viewers = vm.Vnc ?? throw new MonitorException("the screen is not shown to viewers; -vnc HOST:N,password=on does so");
        if (!viewers.AsksForPassword) throw new MonitorException("viewers are not asked for a password; -vnc HOST:N,password=on does so");
        viewers.SetPassword(word);
    }

    private static string Silently(Action action)
    {
        action();
        return "";
    }

    private void Panicked(GuestPanic what)
    {
        if ((what & GuestPanic.Panicked) == 0)
        {
            foreach (QmpServer protocol in _protocols) protocol.Tell("GUEST_CRASHLOADED", new JsonObject { ["action"] = "run" });
            return;
        }
        foreach (QmpServer protocol in _protocols) protocol.Tell("GUEST_PANICKED", new JsonObject { ["action"] = "poweroff" });
        _reason ??= "guest-panic";
        _vm?.End(HostEnd.Quit);
    }

    /// <inheritdoc/>
    public void Quit(string reason)
    {
        _reason ??= reason;
        _vm?.End(HostEnd.Quit);
        _quit.Set();
    }

    /// <inheritdoc/>
    public bool IsShutDown => _shutDown;

    /// <inheritdoc/>
    public string? Name => _machine.Name;

    /// <inheritdoc/>
    public Guid Uuid => _machine.Identity.Uuid ?? Guid.Empty;

    /// <inheritdoc/>
    public IEnumerable<(string Id, string What)> Characters => _machine.Characters.Values.Select(c => (c.Id, c.Kind switch
    {
        CharacterKind.File => "file",
        CharacterKind.Unix => $"unix:{c.Path}{(c.IsServer ? ",server=on" : "")}",
        CharacterKind.Tcp => $"tcp:{c.Address}{(c.IsServer ? ",server=on" : "")}",
        CharacterKind.Pipe => "pipe",
        { } kind => kind.ToString().ToLowerInvariant(),
    }));

    void IVmObserver.OnStateChanged(Vm vm, VmState state)
    {
        // The first time it runs is no news.
        _hasRun |= state == VmState.Running && _wasPaused;
        string? name = state switch { VmState.Paused => "STOP", VmState.Running when _wasPaused => "RESUME", _ => null };
        _wasPaused = state == VmState.Paused;
        if (name is null) return;
        foreach (QmpServer protocol in _protocols) protocol.Tell(name);
    }

    private bool _wasPaused, _hasRun;

    /// <inheritdoc/>
    public bool HasRun => !_machine.Stopped || _hasRun;

    void IVmObserver.OnDiskError(Vm vm, DiskError error)
    {
        DriveName name = _machine.DriveNames[error.Disk];
        foreach (QmpServer protocol in _protocols)
        {
            var data = new JsonObject { ["device"] = name.Drive };
            if (name.Node is { } node) data["node-name"] = node;
            data["operation"] = error.IsRead ? "read" : "write";
            data["action"] = error.Stops ? "stop" : "report";
            data["nospace"] = error.LacksRoom;
            data["reason"] = error.Reason;
            protocol.Tell("BLOCK_IO_ERROR", data);
        }
    }

    void IVmObserver.OnReset(Vm vm)
    {
        foreach (QmpServer protocol in _protocols) protocol.Tell("RESET", new JsonObject { ["guest"] = true, ["reason"] = "guest-reset" });
    }

    void IVmObserver.OnEnd(Vm vm, VmResult result)
    {
        string reason = _reason ?? result.Cause.Reason switch { StopReason.Reset => "guest-reset", StopReason.HostRequest => "host-ui", _ => "guest-shutdown" };
        var data = new JsonObject { ["guest"] = reason.StartsWith("guest", StringComparison.Ordinal), ["reason"] = reason };
        foreach (QmpServer protocol in _protocols) protocol.Tell("SHUTDOWN", (JsonObject)data.DeepClone());
    }

    /// <inheritdoc/>
    public void Write(ReadOnlySpan<byte> bytes) => _console?.Invoke(bytes);

    /// <inheritdoc/>
    public bool Throttle(int milliseconds) => _throttled.All(device => device.Throttle(milliseconds));

    /// <inheritdoc/>
    public void Release()
    {
        foreach (CharacterDevice device in _throttled) device.Release();
    }

    private int Terminated()
    {
        Console.Error.WriteLine($"bunraku: terminating on signal {_signals.First}");
        return ExitStatus.Success;
    }

    /// <summary>QEMU's statuses: 0 for every end that somebody wanted.</summary>
    private int Explain(VmResult result, Vm vm)
    {
        switch (result.Cause.Reason)
        {
            case StopReason.DebugExit:
                return result.ExitStatus;
            case StopReason.Shutdown or StopReason.EngineError:
                foreach (string reason in RunGuest.Reasons(result)) Console.Error.WriteLine("bunraku: " + reason);
                Console.Error.Write(vm.CrashReport(result.Cause.Cpu));
                return result.ExitStatus;
            case StopReason.HostRequest when result.HostEnd == HostEnd.Signal:
                return Terminated();
            case StopReason.HostRequest when result.HostEnd is HostEnd.Failed or HostEnd.OutputFailed:
                return ExitStatus.Failure;
            default:
                return ExitStatus.Success;
        }
    }

    public void Dispose()
    {
        _signals.Dispose();
        DisposeDevices();
        _interrupted.Dispose();
        _quit.Dispose();
    }

    /// <summary>Their threads have ended when it returns. Twice is once.</summary>
    private void DisposeDevices()
    {
        foreach (CharacterDevice device in _devices.Values) device.Dispose();
        _devices.Clear();
    }
}

/// <summary>How messages name things where QEMU's words are typed.</summary>
internal static class QemuOptionWords
{
    public static VmWords Words { get; } = new()
    {
        Option = name => name switch
        {
            nameof(VmOptions.Memory) => "-m",
            nameof(VmOptions.Cpus) => "-smp",
            nameof(VmOptions.Cpu) => "-cpu",
            nameof(VmOptions.Engine) => "-accel",
            nameof(VmOptions.Kernel) => "-kernel",
            nameof(VmOptions.Initrd) => "-initrd",
            nameof(VmOptions.Append) => "-append",
            nameof(VmOptions.Bios) => "-bios",
            nameof(VmOptions.EfiVars) => "-pflash",
            nameof(VmOptions.Display) => "-vga",
            nameof(VmOptions.Vnc) => "-vnc",
            nameof(VmOptions.Rng) => "-device virtio-rng-pci",
            nameof(VmOptions.Balloon) => "-device virtio-balloon-pci",
            nameof(VmOptions.Vsock) => "-device vhost-vsock-pci",
            nameof(VmOptions.ClockStart) => "-rtc",
            nameof(VmOptions.StartsStopped) => "-S",
            nameof(VmOptions.NoReboot) => "-no-reboot",
            nameof(VmOptions.Disks) => "-drive",
            nameof(VmOptions.CompactDiscs) => "-cdrom",
            nameof(VmOptions.Networks) => "-netdev",
            nameof(VmOptions.Shares) => "-fsdev",
            nameof(VmOptions.Board) => "-machine",
            nameof(VmOptions.Debugger) => "-gdb",
            nameof(VmOptions.Identity) => "-smbios",
            nameof(VmOptions.BootDevices) => "-boot",
            nameof(VmOptions.TscFrequency) => "-cpu tsc-frequency=",
            nameof(VmBuilder.Parts) => "-device",
            _ => name,
        },
        EnginesAdvice = "'bunraku engines' says why",
        GuestAdvice = "-kernel FILE boots any kernel",
    };
}
