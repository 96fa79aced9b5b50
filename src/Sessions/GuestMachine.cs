using System.Runtime.InteropServices;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Board;
using Bunraku.Machine.Display;
using Bunraku.Machine.Firmware;
using Bunraku.Machine.Input;
using Bunraku.Machine.Serial;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Ports;
using Bunraku.Sessions.Migration;

namespace Bunraku.Sessions;

/// <summary>The board around a VM with its guest loaded, and the guest's serial ports wired to a console.</summary>
internal sealed class GuestMachine
{
    private const int MostQueuedInput = 1 << 16, MostPortInput = 1 << 20, KeptMessages = 1 << 14;

    private readonly IGuestConsole _console;
    private readonly GuestConsole _wiring;
    private readonly X86Machine _vm;
    private readonly GuestImage? _bootAgain; // what a reset boots; null: it ends the run
    private readonly bool _holdsInput;
    private GuestMessages? _messages;
    private readonly PcBoard _board;
    private readonly Uart16550A _inputPort;
    private readonly Task _stopped;
    /// <summary>
    /// Guards how input goes in. Taken with the first port's lock held, or with none; inside it the second port's lock is taken, and the first port's only by
    /// who holds it.
    /// </summary>
    private readonly Lock _inputLock = new();
    /// <summary>Held while input is given to the guest, and while that is moved; before the others.</summary>
    private readonly Lock _moveLock = new();
    private volatile StreamRelay? _elsewhere; // input goes there; null: to the guest that is here
    private readonly CommandInput? _frames;
    private readonly List<byte> _passed = [], _kernelMessages = [], _line = [];
    /// <summary>Input that waits until the guest's terminal is set up for it, which would lose or echo it; null from then on.</summary>
    private List<byte>? _held;
    private uint _commandOutput; // bytes that COM2 sent
    private readonly InputWatch _watch = new();
    private readonly ConsolePort? _commandInput; // with ports
    private readonly ConsolePort? _command, _copy; // of a guest that waits for its command
    private readonly ConsolePort? _size; // of a guest with a terminal
    private (int Columns, int Rows)? _newSize; // with the input lock held: for a guest that has no command yet
    private readonly ManualResetEventSlim _handedOver = new(); // the command, where it waits for one

    /// <param name="devices">Parts that the options ask for; the caller's own come behind them.</param>
    /// <param name="warn">Told in one line what the guest does not get of what it asks for.</param>
    /// <param name="flash">Keeps the firmware's variables; null: they are gone at the end.</param>
    /// <exception cref="BootException">The guest is no kernel or does not fit.</exception>
    public GuestMachine(
        X86Machine vm, GuestImage image, VmBuilder options, IReadOnlyList<IBoardPart> devices, IGuestConsole console, Action<string>? warn,
        IFlashStore? flash = null)
    {
        _console = console;
        _wiring = image.Linux?.Console ?? GuestConsole.Shell;
        _vm = vm;
        bool waits = image.Linux is { Waits: true };
        ConsolePort?[] ports = [];
        if (_wiring == GuestConsole.CommandOnPorts || waits)
        {
            _commandInput = new ConsolePort("org.bunraku.stdin");
            var output = new ConsolePort("org.bunraku.stdout") { Output = console.Write };
            var errors = new ConsolePort("org.bunraku.stderr") { Output = console.WriteError };
            if (waits) (_command, _copy) = (new ConsolePort("org.bunraku.command"), new ConsolePort("org.bunraku.copy"));
            ports = [null, _commandInput, output, errors, .. waits ? (ConsolePort?[])[_command, _copy] : []];
        }
        if (image.Linux is { FollowsSize: true })
        {
            _size = new ConsolePort("org.bunraku.size");
            ports = [.. ports, .. new ConsolePort?[LinuxGuest.SizePort - ports.Length], _size];
        }
        if (image.Linux is { LoadsModules: true })
        {
            var cache = new GuestCache();
            var modules = new ModuleRequests(version => KernelModules.Open(cache, version), vm.Stopped);
            ports = [.. ports, .. new ConsolePort?[LinuxGuest.ModulePort - ports.Length], modules.Port];
        }
        if (ports.Length > 0) devices = [.. devices, new VirtioPart(new ConsoleDevice("streams", ports))];
        if (_wiring == GuestConsole.Command) _frames = new CommandInput();
        else if (_wiring != GuestConsole.CommandOnPorts) _holdsInput = image.Linux is not null && !StartsAnotherInit(options.Append) && options.Init is null;
        Tablet? tablet = options.HasTablet ? new Tablet("tablet") : null;
        if (tablet is not null) devices = [.. devices, new VirtioPart(tablet)];
        PcBoard board = _board = new PcBoard(vm, new PcBoardOptions
        {
            SerialOutput = FirstPort,
            SecondSerialOutput = image.Linux is { SerialPorts: > 1 } ? SecondPort : null,
            Firmware = image.Firmware,
            BootDevices = options.BootDevices,
            Identity = options.Identity,
            StartTime = options.ClockStart ?? DateTime.UtcNow,
            FlashStore = flash,
            FirmwareLog = options.FirmwareLog,
            DisplayRom = options.HasDisplay ? DisplayRom.Read(options.Bios is not null) : null,
            IsMicroVm = options.Board == BoardKind.MicroVm,
            DebugExit = options.DebugExit,
            TestDevice = options.TestDevice,
            TakesState = image.Again is not null,
            Parts = [.. devices, .. options.Parts],
        });
        Input = board.CreateUserInput(tablet);
        _inputPort = board.SecondSerial ?? board.Serial;
        if (image.Firmware is null) board.FwCfg.AddString(FwCfgKey.CommandLineData, FwCfgKey.CommandLineSize, image.Append);
        vm.Add(new Session(this));
        if (image.Again is not null) Begin(image);
        else Boot(image, warn);
        if (options.Command is null && !options.NoReboot)
        {
            _bootAgain = image;
            vm.RebootsOnReset = MayReboot;
            vm.AfterReset += () => Boot((image.AfterReset ?? image.Again)?.Invoke() ?? image);
        }
        _stopped = vm.Stopped;
    }

    /// <summary>A panic must not go round and round: our kernel parameters make it ask for a warm reset.</summary>
    private bool MayReboot() => _bootAgain is { } image && !(image.Linux is not null && _board.WantsWarmReset);

    /// <summary>Loads the guest, for the first time or after a reset. No vCPU runs.</summary>
    private void Boot(GuestImage image, Action<string>? warn = null)
    {
        Begin(image);
        if (image.Firmware is not null) return; // a reset leads into it
        var request = new BootRequest(_vm.Memory, _vm.Model, _board.MemoryMap, image.Kernel, image.KernelName)
        {
            Modules = image.Modules,
            CommandLine = image.Append,
            RsdpAddress = MemoryLayout.Rsdp,
            Warn = warn,
        };
        if (KernelLoader.Detect(image.Kernel.Span, image.KernelName) == BootProtocol.Multiboot) _board.PrepareAsBios();
        _vm.Cpus[0].Cpu.WriteState(KernelLoader.Load(request));
    }

    /// <summary>The host's side of a guest that begins anew.</summary>
    private void Begin(GuestImage image)
    {
        if (image.Linux is { } linux)
        {
            if (_messages is not null) Finish();
            _messages = new GuestMessages(linux.Token, linux.Console);
            if (linux.Waits || linux.EndsWithStatus) _messages.Received += Said;
        }
        if (_holdsInput)
        {
            lock (_inputLock) _held ??= [];
        }
    }

    /// <summary>A guest that waits for its command has said something.</summary>
    private void Said(string message)
    {
        if (message == GuestMessages.WaitsMessage && WaitsForCommand) WaitsNow?.Invoke(); // the command could say so as well
        // It has nothing that outlives it: how it would switch itself off is of no interest to anybody who does not see it.
        if (_wiring != GuestConsole.Shell && _messages!.ExitStatus is not null) _vm.Stop(new StopCause(StopReason.PowerOff));
    }

    /// <summary>What the host knows of the guest's console, as a part of the machine: the guest at the other end goes on with it.</summary>
    private sealed class Session(GuestMachine owner) : IDevice, IStateful<SessionState>
    {
        public string Id => "session";

        /// <summary>A boot begins anew: <see cref="Begin"/>.</summary>
        public void Reset()
        {
        }

        public SessionState Save()
        {
            lock (owner._inputLock)
            {
                // What was typed ahead is for a command that the saved guest does not have yet.
                byte[]? held = owner.WaitsForCommand ? null : owner._held?.ToArray();
                return new SessionState(owner._messages?.Save(), owner._frames?.Save(), owner._watch.Save(), held, owner._commandOutput,
                    [.. owner._kernelMessages], owner._handedOver.IsSet);
            }
        }

        public void Restore(SessionState state)
        {
            if (state.Messages is null != owner._messages is null) throw new StateFormatException($"{Id}: the saved guest is another kind of guest");
            if (state.Frames is null != owner._frames is null) throw new StateFormatException($"{Id}: the saved guest's streams are wired in another way");
            lock (owner._inputLock)
            {
                if (state.Messages is not null) owner._messages!.Restore(state.Messages, Id);
                if (state.Frames is not null) owner._frames!.Restore(state.Frames, Id);
                owner._watch.Restore(state.Watch);
                if (state.HandedOver) owner._handedOver.Set();
                if (!owner.WaitsForCommand) owner._held = state.Held is null ? null : [.. state.Held];
                owner._commandOutput = state.CommandOutput;
                owner._kernelMessages.Clear();
                owner._kernelMessages.AddRange(state.KernelMessages);
            }
        }
    }

    /// <summary>Status of the command inside the guest, once it ended.</summary>
    public int? CommandStatus => _wiring == GuestConsole.Shell ? null : _messages!.ExitStatus;

    /// <summary>The guest has booted, and has no command yet.</summary>
    public bool WaitsForCommand => _command is not null && _messages!.Waits && !_handedOver.IsSet;

    /// <summary>The guest begins to wait for its command. On a vCPU's thread with a port's lock held: does not wait. Set before the start.</summary>
    public Action? WaitsNow { get; set; }

    /// <summary>The guest may be a copy, and stood still: it gets the time of day and random numbers of its own, where it takes them.</summary>
    public void BecomeCopy()
    {
        Generation.Renew();
        _copy?.Send(LinuxGuest.CopyInput(DateTimeOffset.UtcNow));
    }

    /// <summary>Gives a guest that waits its command; input goes to it from now on. Once; nothing where the guest does not wait.</summary>
    /// <param name="script">From <see cref="LinuxGuest.Handover"/>.</param>
    public void HandOver(ReadOnlySpan<byte> script)
    {
        if (_command is null || _handedOver.IsSet) return;
        _command.Send(script);
        _command.End();
        _handedOver.Set();
        (int Columns, int Rows)? size;
        lock (_inputLock) (size, _newSize) = (_newSize, null);
        if (size is var (columns, rows)) ResizeTerminal(columns, rows);
    }

    /// <summary>The terminal that the guest has, has another size. Nothing where it has none, or nobody in it takes sizes.</summary>
    public void ResizeTerminal(int columns, int rows)
    {
        const int most = 4096; // bytes of a guest that takes none
        if (_elsewhere is { } elsewhere)
        {
            elsewhere.SendSize(columns, rows);
            return;
        }
        if (_size is null || _wiring is not (GuestConsole.Shell or GuestConsole.CommandOnTerminal)) return;
        lock (_inputLock)
        {
            // What the guest has before its command would go on with every copy of it.
            if (_command is not null && !_handedOver.IsSet)
            {
                _newSize = (columns, rows);
                return;
            }
        }
        if (_size.AwaitRoom(most, 0)) _size.Send(LinuxGuest.SizeInput(_wiring == GuestConsole.Shell, columns, rows));
    }

    /// <summary>What the guest's kernel last printed where nobody saw it, because a command has the console.</summary>
    public string HiddenMessages => Encoding.UTF8.GetString([.. _kernelMessages]);

    /// <summary>
    /// Why the guest cannot go on in another process: what its console, or a command's streams, have under way is in this one. Null: it can.
    /// </summary>
    public string? WhyItStays
    {
        get
        {
            if (_wiring != GuestConsole.Shell && _command is not null && !_handedOver.IsSet) return "it has not got its command yet";
            lock (_inputLock) return _held is null ? null : "it is still booting, and what was typed waits here";
        }
    }

    /// <summary>The guest's generation.</summary>
    public VmGeneration Generation => _board.Generation;

    /// <summary>Keyboard and pointer for a person.</summary>
    public UserInput Input { get; }

    /// <summary>The screen; null: the machine has none.</summary>
    public VgaController? Display => _board.Display;

    /// <summary>Asks the guest to shut down.</summary>
    public void PressPowerButton() => _board.PressPowerButton();

    /// <summary>A pulse on the machine's NMI wire.</summary>
    public void PulseNmi() => _board.PulseNmi();

    /// <summary>A break on the console's line, which Linux takes for the SysRq key.</summary>
    public void SendBreak() => _board.Serial.EnqueueBreak();

    /// <summary>Types on the first serial port at once, for the kernel behind a break.</summary>
    public void SendConsole(ReadOnlySpan<byte> bytes) => _board.Serial.Enqueue(bytes);

    /// <summary>Ctrl-C on the terminal of a command while the guest boots: there is no command yet that it could interrupt.</summary>
    public bool IsEarlyInterrupt(ReadOnlySpan<byte> bytes)
    {
        const byte controlC = 0x03;
        if (_wiring != GuestConsole.CommandOnTerminal || !bytes.Contains(controlC)) return false;
        lock (_inputLock) return _held is not null;
    }

    /// <summary>Does something while no input comes to the guest: what it was sent before is in its state.</summary>
    public void WhileInputWaits(Action action)
    {
        lock (_moveLock) action();
    }

    /// <summary>The guest was moved: that is where input goes from now on. In <see cref="WhileInputWaits"/>.</summary>
    public void SendElsewhere(StreamRelay relay) => _elsewhere = relay;

    /// <summary>Types for the guest; waits while much is queued.</summary>
    public void Send(ReadOnlySpan<byte> bytes)
    {
        if (_elsewhere is null) AwaitRoom();
        StreamRelay? elsewhere;
        lock (_moveLock)
        {
            elsewhere = _elsewhere;
            if (elsewhere is null) Enqueue(bytes);
        }
        elsewhere?.Send(bytes);
    }

    private void AwaitRoom()
    {
        if (_wiring == GuestConsole.CommandOnPorts)
        {
            const int look = 100; // ms
            AwaitHandover();
            while (!_commandInput!.AwaitRoom(MostPortInput, look) && !_stopped.IsCompleted)
            {
            }
            return;
        }
        // Nobody tells when the guest has read; looking again now and then is enough for a flood of input.
        while (Waiting > MostQueuedInput && !_stopped.Wait(1))
        {
        }
    }

    private void Enqueue(ReadOnlySpan<byte> bytes)
    {
        if (_wiring == GuestConsole.CommandOnPorts)
        {
            _commandInput!.Send(bytes);
            return;
        }
        lock (_inputLock)
        {
            if (_frames is not null)
            {
                _frames.Add(bytes);
                SendFrames();
                return;
            }
            if (_held is not null)
            {
                _held.AddRange(bytes);
                return;
            }
        }
        _inputPort.Enqueue(bytes);
    }

    /// <summary>What the guest has before its command would go on with every copy of it.</summary>
    private void AwaitHandover()
    {
        const int look = 100; // ms
        if (_command is null) return;
        while (!_handedOver.Wait(look) && !_stopped.IsCompleted)
        {
        }
    }

    /// <summary>The end of input: for a terminal's reader that is Ctrl-D.</summary>
    public void SendEnd()
    {
        if (_wiring == GuestConsole.CommandOnPorts && _elsewhere is null) AwaitHandover();
        StreamRelay? elsewhere;
        lock (_moveLock)
        {
            elsewhere = _elsewhere;
            if (elsewhere is null) EnqueueEnd();
        }
        elsewhere?.SendEnd();
    }

    private void EnqueueEnd()
    {
        if (_wiring == GuestConsole.CommandOnPorts)
        {
            _commandInput!.End();
            return;
        }
        if (_frames is null)
        {
            Enqueue([0x04]);
            return;
        }
        lock (_inputLock)
        {
            _frames.End();
            SendFrames();
        }
    }

    /// <summary>Bytes that are not on their way to the guest yet.</summary>
    private int Waiting
    {
        get
        {
            lock (_inputLock)
            {
                if (_frames is not null) return _frames.Waiting;
                if (_held is not null) return _held.Count;
            }
            return _inputPort.QueuedInput;
        }
    }

    /// <summary>With the lock held. What the guest says at this moment comes here again behind us.</summary>
    private void SendFrames()
    {
        if (!_messages!.InputReady) return;
        _line.Clear();
        _frames!.Acknowledge(_messages.FramesTaken);
        _frames.Take(_line);
        if (_line.Count == 0) return;
        _watch.Sent(_line.Count);
        _inputPort.Enqueue(CollectionsMarshal.AsSpan(_line));
    }

    /// <summary>The guest takes input. On the vCPU's thread.</summary>
    private void ReleaseInput()
    {
        lock (_inputLock)
        {
            if (_frames is not null) SendFrames();
            if (_held is null) return;
            _inputPort.Enqueue(CollectionsMarshal.AsSpan(_held));
            _held = null;
        }
    }

    /// <summary>The user's kernel parameters name an init of their own; it never tells when it is ready.</summary>
    private static bool StartsAnotherInit(string? parameters) =>
        parameters?.Split(' ').Any(p => p.StartsWith("init=", StringComparison.Ordinal) || p.StartsWith("rdinit=", StringComparison.Ordinal)) ?? false;

    /// <summary>
    /// What the guest's kernel counted on the command's streams against what came over the line, in words; null when all came whole, or when
    /// the guest did not say. After the end.
    /// </summary>
    public string? StreamDamage
    {
        get
        {
            if (_watch.Damage is { } lost) return lost;
            if (_messages?.Line is not { } line) return null;
            if (InputWatch.Counted(line) is { } damage) return damage;
            return line.Sent == _commandOutput ? null : $"the guest sent {line.Sent} bytes of the command's output and {_commandOutput} came";
        }
    }

    /// <summary>Shows what a message that never came to its end held back. After the end.</summary>
    public void Finish()
    {
        if (_messages is null) return;
        _passed.Clear();
        _messages.Flush(_passed);
        ShowFirst([.. _passed]);
    }

    /// <summary>COM2: the command's output.</summary>
    private void SecondPort(ReadOnlySpan<byte> bytes)
    {
        _commandOutput += (uint)bytes.Length;
        _console.Write(bytes);
    }

    /// <summary>COM1: the console with our init's messages in it.</summary>
    private void FirstPort(ReadOnlySpan<byte> bytes)
    {
        if (_messages is null)
        {
            _console.Write(bytes);
            return;
        }
        _passed.Clear();
        _messages.Filter(bytes, _passed);
        if (_messages.InputReady) ReleaseInput();
        if (_frames is not null) WatchInput();
        ShowFirst(CollectionsMarshal.AsSpan(_passed));
    }

    /// <summary>
    /// A command whose input has lost bytes may wait for them for ever. The end is as if the guest had switched off: what it printed so far comes out.
    /// </summary>
    private void WatchInput()
    {
        lock (_inputLock)
        {
            if (_watch.Damage is null && _watch.Look(_messages!, _inputPort)) _vm.Stop(new StopCause(StopReason.PowerOff));
        }
    }

    private void ShowFirst(ReadOnlySpan<byte> bytes)
    {
        if (_wiring == GuestConsole.Shell)
        {
            if (!bytes.IsEmpty) _console.Write(bytes);
            return;
        }
        _kernelMessages.AddRange(bytes);
        if (_kernelMessages.Count > 2 * KeptMessages) _kernelMessages.RemoveRange(0, _kernelMessages.Count - KeptMessages);
    }
}

/// <summary>What the host knows of a guest's console.</summary>
/// <param name="Messages">What our init said; null: it is another guest's.</param>
/// <param name="Frames">The command's input where it goes over a serial line.</param>
/// <param name="Watch">What that line has seen.</param>
/// <param name="Held">Input that waits until the guest's terminal is set up for it; null: it is.</param>
/// <param name="CommandOutput">Bytes of the command's output that came over a serial line, modulo 2^32.</param>
/// <param name="KernelMessages">The last of what the kernel printed where nobody saw it.</param>
/// <param name="HandedOver">The guest has its command, where it waits for one.</param>
[StateRecord("session", version: 1)]
internal sealed record SessionState(
    GuestMessagesState? Messages, CommandInputState? Frames, InputWatchState Watch, byte[]? Held, uint CommandOutput, byte[] KernelMessages,
    bool HandedOver);
