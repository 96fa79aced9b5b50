using System.ComponentModel;
using System.Diagnostics;
using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Hypervisor.Scheduling;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Machine.Display;
using Bunraku.Machine.Firmware;
using Bunraku.Machine.Input;
using Bunraku.Machine.Virtio;
using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Platform;
using Bunraku.Sessions.Debugging;
using Bunraku.Sessions.Migration;
using Bunraku.Sessions.Monitoring;
using Bunraku.Sessions.Screens;
using Bunraku.Sessions.Snapshots;

namespace Bunraku.Sessions;

/// <summary>One VM from its description to its end. Made by <see cref="VmBuilder.Build"/>; several may live in one process.</summary>
/// <remarks>
/// Members are for any thread but the VM's own, on which observers and devices are called, unless they say otherwise. Disposal ends the guest and every thread
/// that the VM has started; afterwards only <see cref="State"/>, <see cref="Ended"/>, <see cref="EngineName"/> and results that were taken before are of use.
/// </remarks>
public sealed partial class Vm : IAsyncDisposable, IDisposable
{
    private const int Sigint = 2, UefiAddressBits = 40, ThrottleMilliseconds = 10;

    private readonly VmOptions _options;
    private readonly VmWords _words;
    private readonly IGuestConsole _console;
    private readonly StreamConsole? _streams; // the console, when it is made of streams
    private readonly RelayedConsole? _relayed; // the console, when it is in another process
    private readonly Observers? _observers; // null: there is none, and exits cost nothing for them
    private readonly X86Machine _vm;
    private readonly GuestMachine _machine;
    private readonly GuestDisks _disks;
    private readonly GuestNetworks _networks;
    private readonly GuestShares _shares;
    private readonly GuestSockets _sockets;
    private readonly Balloon? _balloon;
    private readonly EfiVariables? _variables;
    private readonly IX86Engine _engine;
    private readonly GuestImage _image;
    private readonly Action<string>? _toldKept;
    private readonly string? _saveTo;
    private readonly bool _compressesSaves; // where it is ended from outside
    private readonly bool _separateErrors; // of a command
    private readonly bool _measures; // the result has statistics
    private readonly string? _keepAt; // where the guest is kept when it has booted; null: it is not
    private readonly ExitLog _log;
    /// <summary>Guards how the run ends; nothing waits with it held.</summary>
    private readonly Lock _lock = new();
    /// <summary>Guards who pauses the VM; may be held for as long as a vCPU needs to stand still. Before <see cref="_lock"/>.</summary>
    private readonly Lock _pauseLock = new();
    private readonly DateTime _begun;
    private readonly TimeSpan _created;
    private Timer? _timeout;
    private WorkSampler? _sampler; // null: no samples are taken
    private TimeSpan _entered, _ended;
    private Task<VmResult>? _run; // from the start on; set with the lock held, never fails
    private Task? _saving; // the VM before it ends; set with the lock held, never fails
    private HostEnd _hostEnd;
    private int _signal;
    private SessionException? _failure;
    private volatile bool _paused; // written with the pause lock held
    private volatile bool _started;
    private volatile DebugServer? _debugger; // null: nobody was asked to listen
    private bool _disposed; // guarded by the lock

    /// <exception cref="SessionException">As <see cref="VmBuilder.Build"/> says.</exception>
    internal Vm(VmBuilder builder, CancellationToken cancel)
    {
        _begun = builder.Started ?? DateTime.UtcNow;
        (_words, _progress) = (builder.Words, builder.Progress);
        builder.Check(_words);
        using SnapshotFile? saved = builder.RestoreFrom is { } path ? SnapshotFile.Open(path) : null;
        if (saved is not null) (builder = WithItsDisk(Fit(builder, saved), saved)).Check(_words);
        Commands = new MonitorCommands(builder.Commands.All);
        _engine = ChooseEngine(builder.Engine, builder.Debugger is null ? builder.Engines : DebugServer.Preferred(builder.Engines), _words);
        if (builder.Debugger is not null && _engine.WhyNoDebugger is { } reason) throw Wrong(nameof(VmOptions.Debugger), $": {reason}");
        if (_engine.Probe().Warning is { } warning) builder.Progress?.Invoke($"engine '{_engine.Name}': {warning}");
        if (builder.Cpus > _engine.MaxCpus)
            throw Wrong(nameof(VmOptions.Cpus),
                $" {builder.Cpus}: the engine '{_engine.Name}' has at most {_engine.MaxCpus} virtual processor{(_engine.MaxCpus == 1 ? "" : "s")}");
        CpuModel model = ParseModel(builder.Cpu, builder.Nested);
        if (builder.Memory > HostProcess.TotalMemory)
            throw new CannotStartException($"{Option(nameof(VmOptions.Memory))} {ByteSize.Format(builder.Memory)}: this host has only "
                + $"{ByteSize.Format(HostProcess.TotalMemory)}");
        (_toldKept, _saveTo, _compressesSaves, _measures) = (builder.Kept, builder.SaveTo, builder.CompressSaves, builder.Measures);
        _separateErrors = builder.Console is not null || builder.Errors is not null;
        GuestFiles? files = saved is null && KeptGuests.Fit(builder) ? Guarded(() => GuestFiles.Of(builder, _words, builder.Progress, cancel)) : null;
        if (files is { HavePorts: true } && builder.Parts.Count == 0) _keepAt = KeptGuests.PathOf(builder, files, model, _engine);
        using SnapshotFile? kept = _keepAt is null ? null : KeptGuests.Open(_keepAt);
        if (kept is not null) builder = GoingOn(builder, kept.Manifest.Waits!);
        SnapshotFile? snapshot = saved ?? kept;
        _options = builder;
        GuestImage image = _image = builder.Incoming is { } incoming
            ? incoming.ToImage(() => GuestImage.Prepare(builder, _words, null, separateErrors: _separateErrors))
            : Guarded(() => snapshot is not null ? ImageOf(snapshot, builder, _separateErrors, cancel)
                : GuestImage.Prepare(builder, _words, builder.Progress, cancel, _separateErrors, files));
        if (image.Linux is { Waits: true } && image.Again is null) image = _image = image with { AfterReset = () => Rebooted(builder, _separateErrors) };

        if (builder.EfiVars is { } variables && image.Firmware is { FlashLength: > 0 and int flash } firmware && snapshot is null && builder.Incoming is null)
        {
            _variables = new EfiVariables(variables, firmware.Bytes.AsSpan(0, flash));
            image = _image = image with { Firmware = firmware with { Bytes = [.. _variables.Contents, .. firmware.Bytes.AsSpan(flash)] } };
        }

        IVmObserver[] observers = builder.OnExit is { } hook ? [.. builder.Observers, new ExitHook(hook)] : [.. builder.Observers];
        if (observers.Length > 0) _observers = new Observers(this, observers);
        try
        {
            Action<DiskError>? failed = _observers is null ? null : _observers.DiskFailed;
            _disks = new GuestDisks(builder, builder.Incoming?.DiskShapes) { AwaitRoom = AwaitRoom, Failed = failed };
        }
        catch
        {
            _variables?.Dispose();
            throw;
        }
        try
        {
            _networks = new GuestNetworks(builder);
        }
        catch
        {
            _variables?.Dispose();
            _disks.Dispose();
            throw;
        }
        try
        {
            _shares = new GuestShares(builder);
            _sockets = new GuestSockets(builder);
        }
        catch
        {
            _variables?.Dispose();
            _disks.Dispose();
            _networks.Dispose();
            _shares?.Dispose();
            throw;
        }
        if (builder.Balloon is { } balloon) _balloon = new Balloon("balloon", balloon.DeflateOnOom, balloon.Reporting);
        try
        {
            _vm = MakeMachine(model, image.Firmware,
                isPrivate: snapshot is { IsMapped: true } && builder.MemoryBacking == MemoryBacking.Lazy, isFork: snapshot?.Manifest.Fork is not null);
        }
        catch
        {
            CloseBackends();
            throw;
        }
        _log = new ExitLog(builder.Cpus);
        if (builder.HostCode is { } code && _vm.Cpus.Count(c => c.Cpu.ObserveCode(code)) == 0)
            builder.Progress?.Invoke($"{Option(nameof(VmBuilder.HostCode))}: the engine '{_engine.Name}' makes no host code, so there is nothing to be told");
        if (builder.Nesting is { } nesting && _vm.Cpus.Count(c => ((IX86Cpu)c.Cpu).ObserveNested(nesting)) == 0)
            builder.Progress?.Invoke($"{Option(nameof(VmBuilder.Nesting))}: there is nothing to be told: "
                + (model.Has(CpuFeature.Vmx) || model.Has(CpuFeature.Svm)
                    ? $"the engine '{_engine.Name}' does not see guests inside the guest"
                    : $"the guest's processor has neither VMX nor SVM; {Option(nameof(VmOptions.Nested))} gives it one"));
        try
        {
            if (builder.Console is null) _streams = new StreamConsole(builder.Input, builder.Output, builder.Errors, Fail);
            _console = _streams ?? builder.Console!;
            _relayed = _console as RelayedConsole;
            _machine = Guarded(() => MakeBoard(image, builder));
            if (snapshot is not null) Restore(snapshot, isKept: kept is not null);
            else if (image.Linux is { Waits: true })
                _machine.WaitsNow = () => ThreadPool.UnsafeQueueUserWorkItem(static vm => vm.KeepAndHandOver(), this, false);
            if (_observers is not null) _vm.AfterReset += _observers.Reset; // behind the board's, which boots the guest
            foreach (X86CpuThread cpu in _vm.Cpus) cpu.OnExit = OnExit;
            if (builder.Vnc is { } viewers)
            {
                Vnc = new VncServer(Display!, Input, viewers, "Bunraku");
                if (viewers.Address is { Port: 0 }) builder.Progress?.Invoke($"for viewers of VNC: {Vnc.EndPoint}");
            }
            _description = builder.Parts.Count > 0 ? null : MachineDescription.Of(builder, image, _vm, _engine.Name, _disks.Shapes);
            if (builder.Debugger is { } endpoint)
            {
                DebugServer server = ServeDebugger(endpoint);
                // Else the user knows.
                if (builder.StartsStopped || endpoint.Address is { Port: 0 }) builder.Progress?.Invoke($"for the debugger: target remote {server.Endpoint}");
            }
        }
        catch
        {
            _streams?.Dispose();
            Vnc?.Dispose();
            _vm.Dispose();
            CloseBackends();
            _check?.Dispose();
            throw;
        }
        _created = SinceBeginning();
    }

    /// <summary>What a guest goes on with that was kept.</summary>
    private VmBuilder GoingOn(VmBuilder builder, WaitingGuest waits)
    {
        builder = builder with { TscFrequency = waits.TscFrequency };
        if (builder.Disks.Count == 0) return builder;
        string disk = KeptGuests.DiskOf(_keepAt!, waits.Token);
        if (!File.Exists(disk)) throw new KeptGuestException(_keepAt!, new CannotStartException($"its disk {disk} is not there"));
        return builder with { Disks = [builder.Disks[0] with { Begun = disk }] };
    }

    /// <summary>A disk whose contents are in no file that it names goes with a guest that was kept alone, and lies beside it.</summary>
    private static VmBuilder WithItsDisk(VmBuilder builder, SnapshotFile saved)
    {
        if (!builder.Disks.Any(d => d.Throwaway) || saved.Manifest.Fork is not null) return builder;
        string? disk = saved.Manifest.Waits is { } waits ? KeptGuests.DiskOf(saved.Path, waits.Token) : null;
        if (disk is null || builder.Disks.Count != 1 || !File.Exists(disk))
            throw new CannotStartException($"snapshot {saved.Path}: what its guest wrote to its disk is not beside it" + (disk is null ? "" : $", in {disk}"));
        return builder with { Disks = [builder.Disks[0] with { Begun = disk }] };
    }

    private void CloseBackends()
    {
        _disks.Dispose();
        _networks.Dispose();
        _shares.Dispose();
        _sockets.Dispose();
        _variables?.Dispose();
    }

    /// <param name="isFork">Copies share memory for as long as they live.</param>
    private X86Machine MakeMachine(CpuModel model, FirmwareImage? firmware, bool isPrivate, bool isFork)
    {
        // UEFI firmware maps all that the processor can address in pages of 2 MiB. Of a processor with 40 bits it thinks that nobody has chosen them, as QEMU
        // has it, and maps what there is: with 48 bits, its tables would take all of a small machine's memory, and a minute.
        if (firmware is { FlashLength: > 0 }) model = model with { PhysicalAddressBits = Math.Min(model.PhysicalAddressBits, UefiAddressBits) };
        ulong display = _options.HasDisplay ? VgaController.MemorySize : 0;
        IReadOnlyList<MemoryRegion> memory = firmware is null ? MemoryLayout.Regions(_options.Memory, display)
            : MemoryLayout.WithFirmware(_options.Memory, (ulong)firmware.Bytes.Length, display);
        try
        {
            var machine = new X86Machine(_engine, model, memory, _options.Cpus, new X86MachineOptions
            {
                Paravirtual = _options.Paravirtual,
                EngineApics = _options.EngineApics,
                TscFrequency = _options.TscFrequency,
                CpuTime = _options.CpuTime,
                PrivateMemory = isPrivate,
                StaysPrivate = isFork,
            });
            // Any other feature may be missing; without these the guest's hypervisor would find nothing at all.
            CpuFeature[] missing = [.. new[] { CpuFeature.Vmx, CpuFeature.Svm }.Where(f => model.Has(f) && !machine.Model.Has(f))];
            if (missing.Length == 0) return machine;
            machine.Dispose();
            throw new CannotStartException($"the engine '{_engine.Name}' cannot give the guest {missing[0].ToString().ToUpperInvariant()}: "
                + "it passes on what the host has, and this host has none for guests; the engines in software have their own");
        }
        catch (Exception e) when (e is CpuTimeException or EngineException)
        {
            throw new CannotStartException(e.Message, e);
        }
        catch (Exception e) when (e is Win32Exception or OutOfMemoryException)
        {
            string smaller = $"try a smaller {Option(nameof(VmOptions.Memory))}";
            throw new CannotStartException($"the host gives no {ByteSize.Format(_options.Memory)} of memory for the guest: {e.Message}; {smaller}", e);
        }
    }

    private GuestMachine MakeBoard(GuestImage image, VmBuilder builder)
    {
        try
        {
            IGuestConsole console = _observers is null ? _console : new ObservedConsole(_console, _observers);
            // Network cards have slots of their own, which nothing else may have taken by then.
            List<IBoardPart> parts = [.. _networks.Parts, .. _disks.Parts, .. _shares.Parts, .. _sockets.Parts];
            if (_balloon is not null) parts.Add(new VirtioPart(_balloon));
            return new GuestMachine(_vm, image, builder, parts, console, builder.Progress, _variables);
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException && builder.Parts.Count > 0)
        {
            throw Wrong(nameof(VmBuilder.Parts), ": " + e.Message.ReplaceLineEndings(" "), e);
        }
    }

    private string Option(string name) => _words.Option(name);

    private VmOptionException Wrong(string option, string problem, Exception? inner = null) => new(option, Option(option) + problem, inner);

    /// <summary>What the user can act on is told to the user as it is.</summary>
    private T Guarded<T>(Func<T> make)
    {
        try
        {
            return make();
        }
        catch (BootException e)
        {
            string advice = e.MemoryNeeded is { } bytes ? $" ({Option(nameof(VmOptions.Memory))} {bytes >> 20}M or more)" : "";
            throw new CannotStartException(e.Message + advice, e);
        }
    }

    private void OnExit(X86CpuThread cpu, X86Exit exit)
    {
        ExitRecord record = ExitRecord.From(_vm.Clock.Nanoseconds, cpu.Cpu.Index, exit);
        _log.Add(record);
        _observers?.Exit(record);
        // Whoever wants the guest to stand still need not read what it prints.
        while (!_console.Throttle(ThrottleMilliseconds) && !cpu.IsAwaited)
        {
        }
    }

    /// <summary>The engine that was chosen.</summary>
    public string EngineName => _engine.Name;

    /// <summary>The machine: memory, buses, vCPUs, clock, saving and restoring.</summary>
    public X86Machine Machine => _vm;

    /// <summary>The screen; null: the VM has none.</summary>
    public VgaController? Display => _machine.Display;

    /// <summary>A command runs in it that came from another process, with which its streams have stayed.</summary>
    public bool HasStreamsElsewhere => _relayed is not null;

    /// <summary>Keyboard and pointer for a person.</summary>
    public UserInput Input => _machine.Input;

    /// <summary>Who shows the screen to viewers; null: nobody.</summary>
    public VncServer? Vnc { get; }

    /// <summary>The monitor's commands for this VM. More can be added at any time.</summary>
    public MonitorCommands Commands { get; }

    /// <summary>The last exits of all vCPUs, oldest first.</summary>
    public IReadOnlyList<ExitRecord> LastExits => _log.Last;

    /// <summary>The guest has come to its end.</summary>
    public bool Ended => _vm.Stopped.IsCompleted;

    /// <summary>
    /// Virtual time and all vCPUs stand still. Takes no lock: who draws the monitor's prompt may be what a vCPU waits for that is to be paused.
    /// </summary>
    public bool Paused => _paused;

    /// <summary>What the VM does at this moment. Any thread.</summary>
    public VmState State => Ended ? VmState.Ended : _paused ? VmState.Paused : _started ? VmState.Running : VmState.Created;

    /// <summary>Runs the guest to its end. Once for each VM.</summary>
    /// <param name="cancel">Ends the guest, and gives up output that is not written yet; the task is over when all vCPUs stand still.</param>
    /// <returns>How it ended. All output is written then: a reader that does not read holds this up, after <see cref="VmOptions.Timeout"/> too.</returns>
    /// <exception cref="OperationCanceledException">It was ended by <paramref name="cancel"/>.</exception>
    /// <exception cref="ObserverException">An observer threw an exception.</exception>
    /// <exception cref="CannotWriteException">The output cannot be written, or a disk.</exception>
    /// <exception cref="CannotReadException">The input cannot be read.</exception>
    /// <exception cref="InvalidOperationException">It was started before, or is disposed of.</exception>
    public async Task<VmResult> RunAsync(CancellationToken cancel = default)
    {
        Start();
        VmResult result;
        await using (cancel.UnsafeRegister(_ => Cancel(), null).ConfigureAwait(false)) result = await _run!.ConfigureAwait(false);
        if (_failure is { } failure) throw failure;
        // Cancelled behind the guest's own end, too, when that cut its output off.
        if (result.HostEnd == HostEnd.Cancelled || cancel.IsCancellationRequested && _streams is { GaveUp: true })
            throw new OperationCanceledException("the VM was ended by its caller", cancel);
        return result;
    }

    /// <summary>Lets the guest run, and returns at once. Once; <see cref="RunAsync"/> does it too.</summary>
    /// <exception cref="InvalidOperationException">It was started before, or is disposed of.</exception>
    public void Start()
    {
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_started) throw new InvalidOperationException("a VM runs once; build another one");
            _started = true;
        }
        _entered = SinceBeginning();
        _observers?.StateChanged(VmState.Running);
        if (_options.StartsStopped) Pause();
        lock (_pauseLock)
            lock (_lock)
            {
                ObjectDisposedException.ThrowIf(_disposed, this);
                if (_options.Timeout is { } timeout) _timeout = new Timer(_ => End(HostEnd.TimedOut), null, timeout, System.Threading.Timeout.InfiniteTimeSpan);
                _vm.Start();
                GoOnFromState();
                if (_options.SampleWork) _sampler = WorkSampler.Begin(_vm, () => _paused);
                _relayed?.Start(this);
                _run = Task.Run(FinishAsync);
            }
        _streams?.StartReading(Send, EndInput);
    }

    /// <summary>Waits for the end of the guest. The vCPUs stand still when it returns. After <see cref="Start"/>.</summary>
    /// <exception cref="SessionException">Something of the caller's failed, as in <see cref="RunAsync"/>.</exception>
    public VmResult Wait()
    {
        VmResult result = (_run ?? throw new InvalidOperationException("the VM was not started")).GetAwaiter().GetResult();
        return _failure is { } failure ? throw failure : result;
    }

    /// <summary>Waits for the VM's end and makes the result. Throws nothing.</summary>
    private async Task<VmResult> FinishAsync()
    {
        StopCause cause = await _vm.Stopped.ConfigureAwait(false);
        if (_saving is { } saving) await saving.ConfigureAwait(false);
        _ended = SinceBeginning();
        _vm.Join();
        _sampler?.Dispose();
        RelayEnd? elsewhere = await RelayedAsync().ConfigureAwait(false);
        _streams?.StopReading();
        _machine.Finish();
        _sockets.GuestEnded();
        _streams?.Flush();
        if (_variables?.Flush() is { } unwritten) Interlocked.CompareExchange(ref _failure, unwritten, null);
        if (_disks.Flush() is { } lost) Interlocked.CompareExchange(ref _failure, lost, null);
        VmResult result;
        lock (_lock)
        {
            HostEnd end = cause.Reason == StopReason.HostRequest ? _hostEnd : HostEnd.None;
            result = new VmResult(cause, end, _signal, elsewhere is null ? _machine.CommandStatus : elsewhere.CommandStatus, _options.Command is not null)
            {
                StreamDamage = elsewhere is null ? _machine.StreamDamage : elsewhere.Damage,
                StatusElsewhere = elsewhere?.Status,
                Statistics = _measures ? Statistics : null,
            };
        }
        _relayed?.End(result);
        _debugger?.GuestEnded(result.ExitStatus);
        _observers?.StateChanged(VmState.Ended);
        _observers?.End(result);
        return result;
    }

    private void Cancel()
    {
        End(HostEnd.Cancelled);
        _streams?.Abandon();
        _relayed?.Abandon();
    }

    /// <summary>Something of the caller's threw an exception on one of our threads. The first one counts.</summary>
    internal void Fail(SessionException failure)
    {
        Interlocked.CompareExchange(ref _failure, failure, null);
        End(HostEnd.Failed);
    }

    /// <summary>Ends the guest from outside, and returns at once; the first end wins. Any thread.</summary>
    /// <param name="reason">Is told in the result.</param>
    /// <param name="signal">The number, for <see cref="HostEnd.Signal"/>.</param>
    public void End(HostEnd reason, int signal = 0)
    {
        lock (_lock)
        {
            if (EndRelay(reason, signal) || _hostEnd != HostEnd.None || _disposed) return;
            (_hostEnd, _signal) = (reason, signal);
            if (_saveTo is { } path && _run is not null && reason is HostEnd.TimedOut or HostEnd.Signal or HostEnd.Quit)
            {
                // Not here: this may be a thread that the guest waits for.
                _saving = Task.Run(() => SaveAndStop(path));
                return;
            }
            Stop();
        }
    }

    private void Stop()
    {
        if (_relay is null) LetGo(); // a relay goes on waiting for who reads
        _vm.Stop(new StopCause(StopReason.HostRequest));
    }

    /// <summary>Nobody waits for who does not read what the guest has printed.</summary>
    private void LetGo()
    {
        _console.Release();
        _relayed?.AbandonSoon();
    }

    /// <summary>Types for the guest; waits while it is far behind. One thread.</summary>
    /// <param name="bytes">As a terminal or a pipe gives them.</param>
    public void Send(ReadOnlySpan<byte> bytes)
    {
        if (_machine.IsEarlyInterrupt(bytes)) End(HostEnd.Signal, Sigint);
        else _machine.Send(bytes);
    }

    /// <summary>There is no more input. Same thread as <see cref="Send"/>.</summary>
    public void SendEnd() => _machine.SendEnd();

    /// <summary>The end of the input. Without any of it nobody meant to type, and a shell goes on without.</summary>
    private void EndInput(bool any)
    {
        if (any || _options.Command is not null) SendEnd();
    }

    /// <summary>Types on the guest's first serial port, where its kernel listens, whoever has the console.</summary>
    /// <param name="bytes">What is typed.</param>
    public void SendConsole(ReadOnlySpan<byte> bytes) => _machine.SendConsole(bytes);

    /// <summary>
    /// Stops virtual time and the vCPUs, and returns when they stand still. Idempotent. A guest that has printed more than its reader has read waits for the
    /// reader first, so the thread that reads must not be the one that pauses.
    /// </summary>
    public void Pause()
    {
        lock (_pauseLock)
        {
            if (_paused) return;
            _vm.Pause();
            _paused = true;
            if (!Ended) _observers?.StateChanged(VmState.Paused);
        }
    }

    /// <summary>Goes on after <see cref="Pause"/>. Idempotent.</summary>
    public void Resume()
    {
        lock (_pauseLock)
        {
            if (!_paused) return;
            (_paused, _lacksRoom) = (false, 0);
            if (!Ended && _started) _observers?.StateChanged(VmState.Running);
            _vm.Resume();
        }
    }

    /// <summary>
    /// Listens for a debugger, GDB or LLDB, until the VM ends or the server is disposed of. One that comes stops the guest. Once for each VM at a time, before
    /// the start or while it runs; <see cref="VmOptions.Debugger"/> does it too.
    /// </summary>
    /// <param name="where">A loopback address or a Unix socket.</param>
    /// <exception cref="CannotStartException">It cannot listen there, or the engine cannot be debugged.</exception>
    /// <exception cref="InvalidOperationException">It listens already, or the VM has ended.</exception>
    public DebugServer ServeDebugger(DebugEndpoint where)
    {
        if (_engine.WhyNoDebugger is { } reason) throw new CannotStartException(reason);
        lock (_lock)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (Ended) throw new InvalidOperationException("the VM has ended");
            if (_debugger is { IsOver: false }) throw new InvalidOperationException("the VM listens for a debugger already");
            return _debugger = new DebugServer(this, where);
        }
    }

    /// <summary>Who listens for debuggers; null: nobody.</summary>
    public DebugServer? Debugger => _debugger is { IsOver: false } server ? server : null;

    /// <summary>A vCPU's state. It is held for the moment when it runs.</summary>
    /// <param name="cpu">Its number, from 0.</param>
    /// <exception cref="ArgumentOutOfRangeException">There is no such vCPU.</exception>
    public CpuState ReadState(int cpu = 0)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(cpu);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(cpu, _vm.Cpus.Count);
        return ReadStates(cpu, 1)[0];
    }

    /// <summary>What a vCPU's TLB holds; null: the engine cannot tell. It is held for the moment when it runs.</summary>
    /// <param name="cpu">Its number, from 0.</param>
    public IReadOnlyList<TlbMapping>? ReadTlb(int cpu)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(cpu);
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(cpu, _vm.Cpus.Count);
        return WhileStill(() => _vm.Cpus[cpu].Cpu.ReadTlb());
    }

    /// <summary>The states of all vCPUs at one moment.</summary>
    public IReadOnlyList<CpuState> ReadStates() => ReadStates(0, _vm.Cpus.Count);

    private CpuState[] ReadStates(int first, int count)
    {
        CpuState[] states = [.. Enumerable.Range(0, count).Select(_ => new CpuState())];
        return WhileStill(() =>
        {
            for (int n = 0; n < count; n++) _vm.Cpus[first + n].Cpu.ReadState(states[n]);
            return states;
        });
    }

    /// <summary>Reads something of the vCPUs while none of them runs.</summary>
    private T WhileStill<T>(Func<T> read)
    {
        lock (_pauseLock)
        {
            if (_vm.Stopped.IsCompleted) _vm.Join();
            bool hold = !_paused && !_vm.Stopped.IsCompleted;
            if (hold) _vm.Pause();
            try
            {
                return read();
            }
            finally
            {
                if (hold) _vm.Resume();
            }
        }
    }

    /// <summary>The figures up to now.</summary>
    public VmStatistics Statistics
    {
        get
        {
            TimeSpan end = _ended != default ? _ended : SinceBeginning();
            EngineCounters counters = VmStatistics.Sum(_vm.Cpus.Select(c => c.Cpu.Counters));
            (ulong touched, ulong monitor) = VmStatistics.Memory(_vm);
            double seconds = (end - _entered).TotalSeconds;
            long firstUser = _vm.Cpus.Select(c => c.Cpu.Counters.FirstUserTimestamp).Where(t => t != 0).DefaultIfEmpty().Min();
            return new VmStatistics(
                _engine.Name, _vm.Model.Name,
                _created.TotalMilliseconds, _entered.TotalMilliseconds,
                firstUser == 0 ? null : (SinceBeginning() - Stopwatch.GetElapsedTime(firstUser)).TotalMilliseconds,
                end.TotalMilliseconds,
                counters.InstructionsRetired, seconds > 0 ? counters.InstructionsRetired / seconds / 1e6 : 0,
                VmStatistics.SumExits(_vm), counters,
                _vm.Clock.Nanoseconds / 1e9, _vm.Clock.AheadOfHost / 1e3,
                _vm.Cpus.Sum(c => c.HostTime.Run) / 1e6, _vm.Cpus.Sum(c => c.HostTime.Wait) / 1e6, _vm.Cpus.Sum(c => c.WithheldNanoseconds) / 1e6,
                _vm.Memory.RamSize, touched, monitor,
                ExecutionReport.Sum(_vm.Cpus.Select(c => c.Cpu.Execution)), _sampler?.Times);
        }
    }

    /// <summary>What the guest's kernel last printed while a command had the console.</summary>
    public string HiddenMessages => _machine.HiddenMessages;

    /// <summary>What a person needs to see after the guest crashed the processor: registers, code, last exits. After the end.</summary>
    /// <param name="cpu">The vCPU's number, from 0.</param>
    public string CrashReport(int cpu)
    {
        CpuState state = ReadState(cpu);
        var text = new StringBuilder();
        text.Append(StateReport.Registers(state)).Append("code:\n").Append(StateReport.Disassembly(_vm.Memory, state)).Append("last exits:\n");
        foreach (ExitRecord exit in LastExits) text.Append("  ").Append(exit).Append('\n');
        return text.ToString();
    }

    /// <summary>The engine that runs a VM whose options name none; null: none can.</summary>
    /// <param name="engines">In the order in which they are preferred.</param>
    public static IX86Engine? ChosenEngine(IReadOnlyList<IX86Engine> engines) => engines.FirstOrDefault(e => e.Probe() is { Available: true, Chosen: true });

    /// <summary>The engine that a name means.</summary>
    /// <exception cref="VmOptionException">There is none of that name.</exception>
    /// <exception cref="CannotStartException">It cannot run here, or none can.</exception>
    internal static IX86Engine ChooseEngine(string name, IReadOnlyList<IX86Engine> engines, VmWords words)
    {
        if (name == VmOptions.AutomaticEngine)
        {
            return ChosenEngine(engines)
                ?? throw new CannotStartException($"no engine can run on this host; {words.EnginesAdvice}");
        }
        IX86Engine engine = engines.FirstOrDefault(e => e.Name == name)
            ?? throw new VmOptionException(nameof(VmOptions.Engine),
                Nearest.Message("engine", name, [.. engines.Select(e => e.Name), VmOptions.AutomaticEngine]));
        EngineProbe probe = engine.Probe();
        return probe.Available ? engine : throw new CannotStartException($"the engine '{name}' cannot run here: {probe.Detail}");
    }

    private CpuModel ParseModel(string? text, NestedVirtualization? nested)
    {
        try
        {
            return CpuModels.Parse(text, nested);
        }
        catch (FormatException e)
        {
            throw Wrong(nameof(VmOptions.Cpu), ": " + e.Message, e);
        }
    }

    private TimeSpan SinceBeginning() => DateTime.UtcNow - _begun;

    /// <summary>Ends the guest and all threads that the VM has started; what is not written of its output yet is given up. Not on a thread of the VM.</summary>
    public void Dispose()
    {
        Task<VmResult>? run;
        lock (_lock)
        {
            if (_disposed) return;
            // A signal or the timer may still call.
            _disposed = true;
            if (_hostEnd == HostEnd.None) _hostEnd = HostEnd.Quit;
            run = _run;
        }
        _timeout?.Dispose();
        _console.Release();
        _debugger?.Dispose();
        Vnc?.Dispose();
        _vm.Stop(new StopCause(StopReason.HostRequest));
        _relay?.Dispose();
        _streams?.Abandon();
        _relayed?.Abandon();
        try
        {
            run?.Wait();
        }
        finally
        {
            _streams?.Dispose();
            _relayed?.Dispose();
            _check?.Dispose(); // it tells the memory when it is done
            _vm.Dispose();
            CloseBackends();
        }
    }

    /// <summary>The same, on a thread of the pool.</summary>
    public ValueTask DisposeAsync() => new(Task.Run(Dispose));
}
