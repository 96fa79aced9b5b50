using System.ComponentModel;
using System.Diagnostics;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Hypervisor.Scheduling;
using Bunraku.Machine;
using Bunraku.Machine.Board;
using Bunraku.Platform;

namespace Bunraku.Sessions;

/// <summary>
/// One VM from its options to its end, without a console: the command line program is one user of it, a test another.
/// Members are thread-safe from <see cref="Start"/> on, unless they say otherwise.
/// </summary>
public sealed class RunSession : IDisposable
{
    private const int Sigint = 2;

    private readonly RunOptions _options;
    private readonly IGuestConsole _console;
    private readonly X86Machine _vm;
    private readonly GuestMachine _machine;
    private readonly IX86Engine _engine;
    private readonly ExitLog _log;
    private readonly ExitTrace? _trace;
    /// <summary>Guards how the run ends; nothing waits with it held.</summary>
    private readonly Lock _lock = new();
    /// <summary>Guards who pauses the VM; may be held for as long as a vCPU needs to stand still. Before <see cref="_lock"/>.</summary>
    private readonly Lock _pauseLock = new();
    private readonly DateTime _processStart;
    private readonly TimeSpan _vmCreated;
    private Timer? _timeout;
    private TimeSpan _entered, _ended;
    private HostEnd _hostEnd;
    private int _signal;
    private volatile bool _paused; // written with the pause lock held
    private bool _disposed;

    /// <summary>Makes the machine and loads the guest; nothing runs yet.</summary>
    /// <param name="engines">What <c>--engine</c> can choose from, the best first.</param>
    /// <param name="parseModel">Makes a CPU model of the text behind <c>--cpu</c>, or the default one; a FormatException is wrong usage.</param>
    /// <param name="console">Takes what the guest prints.</param>
    /// <param name="progress">Told in a few words what takes long before the start, and what the guest does not get.</param>
    /// <param name="cancel">Ends a download with an OperationCanceledException.</param>
    /// <exception cref="UsageException">An option names something unknown.</exception>
    /// <exception cref="CannotStartException">This host, a file or a package does not allow it.</exception>
    public RunSession(RunOptions options, IReadOnlyList<IX86Engine> engines, Func<string?, CpuModel> parseModel, IGuestConsole console, Action<string>? progress = null, CancellationToken cancel = default)
    {
        (_options, _console) = (options, console);
        _processStart = options.Started ?? HostProcess.StartTime;
        _engine = ChooseEngine(options.Engine, engines);
        if (_engine.Probe().Warning is { } warning) progress?.Invoke($"engine '{_engine.Name}': {warning}");
        if (options.Cpus > _engine.MaxCpus)
            throw new UsageException($"--cpus {options.Cpus}: the engine '{_engine.Name}' has at most {_engine.MaxCpus} virtual processor{(_engine.MaxCpus == 1 ? "" : "s")}");
        CpuModel model = ParseModel(options.Cpu, parseModel);
        if (options.Memory > HostProcess.TotalMemory)
            throw new CannotStartException($"--memory {ByteSize.Format(options.Memory)}: this host has only {ByteSize.Format(HostProcess.TotalMemory)}");
        GuestImage image = Guarded(() => GuestImage.Prepare(options, progress, cancel));
        _trace = options.Trace is { } target ? new ExitTrace(target) : null;
        try
        {
            _vm = new X86Machine(_engine, model, MemoryLayout.Regions(options.Memory), options.Cpus, new X86MachineOptions
            {
                Paravirtual = options.Paravirtual,
                EngineApics = options.EngineApics,
                TscFrequency = options.TscFrequency,
                CpuTime = options.CpuTime,
            });
        }
        catch (Exception e) when (e is CpuTimeException or EngineException)
        {
            _trace?.Dispose();
            throw new CannotStartException(e.Message, e);
        }
        catch (Exception e) when (e is Win32Exception or OutOfMemoryException)
        {
            _trace?.Dispose();
            throw new CannotStartException($"the host gives no {ByteSize.Format(options.Memory)} of memory for the guest: {e.Message}; try a smaller --memory", e);
        }
        _log = new ExitLog(options.Cpus, _trace);
        try
        {
            _machine = Guarded(() => new GuestMachine(_vm, image, options, console, progress));
        }
        catch
        {
            _vm.Dispose();
            _log.Dispose();
            throw;
        }
        foreach (X86CpuThread cpu in _vm.Cpus) cpu.OnExit = OnExit;
        _vmCreated = SinceProcessStart();
    }

    /// <summary>What the user can act on is told to the user as it is.</summary>
    private static T Guarded<T>(Func<T> make)
    {
        try
        {
            return make();
        }
        catch (BootException e)
        {
            throw new CannotStartException(e.Message, e);
        }
    }

    private void OnExit(X86CpuThread cpu, X86Exit exit)
    {
        _log.Add(ExitRecord.From(_vm.Clock.Nanoseconds, cpu.Cpu.Index, exit));
        _console.Throttle();
    }

    /// <summary>The engine that was chosen.</summary>
    public string EngineName => _engine.Name;

    /// <summary>The VM, for who embeds one.</summary>
    public X86Machine Machine => _vm;

    /// <summary>The last exits, oldest first.</summary>
    public IReadOnlyList<ExitRecord> LastExits => _log.Last;

    /// <summary>Why the trace broke off; null while it is whole. Final after <see cref="Wait"/>.</summary>
    public CannotWriteException? TraceError => _trace?.Error;

    /// <summary>The guest has come to its end.</summary>
    public bool Ended => _vm.Stopped.IsCompleted;

    /// <summary>Virtual time and all vCPUs stand still. Takes no lock: who draws the monitor's prompt may be what a vCPU waits for that is to be paused.</summary>
    public bool Paused => _paused;

    /// <summary>Lets the guest run. Once.</summary>
    public void Start()
    {
        _entered = SinceProcessStart();
        if (_options.Timeout is { } timeout) _timeout = new Timer(_ => End(HostEnd.TimedOut), null, timeout, Timeout.InfiniteTimeSpan);
        _vm.Start();
    }

    /// <summary>Waits for the end of the guest. The vCPUs stand still when it returns.</summary>
    public RunResult Wait()
    {
        StopCause cause = _vm.Stopped.GetAwaiter().GetResult();
        _ended = SinceProcessStart();
        _vm.Join();
        _machine.Finish();
        _trace?.End();
        lock (_lock)
        {
            HostEnd end = cause.Reason == StopReason.HostRequest ? _hostEnd : HostEnd.None;
            return new RunResult(cause, end, _signal, _machine.CommandStatus, _options.Command is not null) { StreamDamage = _machine.StreamDamage };
        }
    }

    /// <summary>Ends the guest from outside; the first end wins.</summary>
    /// <param name="signal">The number, for <see cref="HostEnd.Signal"/>.</param>
    public void End(HostEnd reason, int signal = 0)
    {
        lock (_lock)
        {
            if (_hostEnd != HostEnd.None || _disposed) return;
            (_hostEnd, _signal) = (reason, signal);
            _console.Release();
            _vm.Stop(new StopCause(StopReason.HostRequest));
        }
    }

    /// <summary>Types for the guest; waits while it is far behind. One thread, not a vCPU's.</summary>
    public void Send(ReadOnlySpan<byte> bytes)
    {
        if (_machine.IsEarlyInterrupt(bytes)) End(HostEnd.Signal, Sigint);
        else _machine.Send(bytes);
    }

    /// <summary>Types on the guest's first serial port, where its kernel listens, whoever has the console.</summary>
    public void SendConsole(ReadOnlySpan<byte> bytes) => _machine.SendConsole(bytes);

    /// <summary>There is no more input. Same thread as <see cref="Send"/>.</summary>
    public void SendEnd() => _machine.SendEnd();

    /// <summary>Sends the guest an NMI, as the button of a server does.</summary>
    public void PulseNmi() => _machine.PulseNmi();

    /// <summary>Sends a break on the guest's first serial port: Linux takes it for the SysRq key.</summary>
    public void SendBreak() => _machine.SendBreak();

    /// <summary>Stops virtual time and the vCPUs. Idempotent; not from a vCPU's thread.</summary>
    public void Pause()
    {
        lock (_pauseLock)
        {
            if (_paused) return;
            _vm.Pause();
            _paused = true;
        }
    }

    /// <summary>Goes on after <see cref="Pause"/>. Idempotent.</summary>
    public void Resume()
    {
        lock (_pauseLock)
        {
            if (!_paused) return;
            _paused = false;
            _vm.Resume();
        }
    }

    /// <summary>A vCPU's state. It is held for the moment when it runs. Not from a vCPU's thread.</summary>
    public CpuState ReadState(int cpu = 0) => ReadStates(cpu, 1)[0];

    /// <summary>The states of all vCPUs at one moment. Not from a vCPU's thread.</summary>
    public IReadOnlyList<CpuState> ReadStates() => ReadStates(0, _vm.Cpus.Count);

    private CpuState[] ReadStates(int first, int count)
    {
        CpuState[] states = [.. Enumerable.Range(0, count).Select(_ => new CpuState())];
        lock (_pauseLock)
        {
            if (_vm.Stopped.IsCompleted) _vm.Join();
            bool hold = !_paused && !_vm.Stopped.IsCompleted;
            if (hold) _vm.Pause();
            for (int n = 0; n < count; n++) _vm.Cpus[first + n].Cpu.ReadState(states[n]);
            if (hold) _vm.Resume();
        }
        return states;
    }

    /// <summary>The figures up to now.</summary>
    public RunStatistics Statistics
    {
        get
        {
            TimeSpan end = _ended != default ? _ended : SinceProcessStart();
            EngineCounters counters = RunStatistics.Sum(_vm.Cpus.Select(c => c.Cpu.Counters));
            (ulong touched, ulong monitor) = RunStatistics.Memory(_vm);
            double seconds = (end - _entered).TotalSeconds;
            long firstUser = _vm.Cpus.Select(c => c.Cpu.Counters.FirstUserTimestamp).Where(t => t != 0).DefaultIfEmpty().Min();
            return new RunStatistics(
                _engine.Name, _vm.Model.Name,
                _vmCreated.TotalMilliseconds, _entered.TotalMilliseconds,
                firstUser == 0 ? null : (SinceProcessStart() - Stopwatch.GetElapsedTime(firstUser)).TotalMilliseconds,
                end.TotalMilliseconds,
                counters.InstructionsRetired, seconds > 0 ? counters.InstructionsRetired / seconds / 1e6 : 0,
                RunStatistics.SumExits(_vm), counters,
                _vm.Clock.Nanoseconds / 1e9, _vm.Clock.AheadOfHost / 1e3,
                _vm.Cpus.Sum(c => c.HostTime.Run) / 1e6, _vm.Cpus.Sum(c => c.HostTime.Wait) / 1e6, _vm.Cpus.Sum(c => c.WithheldNanoseconds) / 1e6,
                _vm.Memory.Size, touched, monitor);
        }
    }

    /// <summary>What the guest's kernel last printed while a command had the console.</summary>
    public string HiddenMessages => _machine.HiddenMessages;

    /// <summary>What a person needs to see after the guest crashed the processor. After <see cref="Wait"/>.</summary>
    public string CrashReport(int cpu)
    {
        CpuState state = ReadState(cpu);
        var text = new StringBuilder();
        text.Append(StateReport.Registers(state)).Append("code:\n").Append(StateReport.Disassembly(_vm.Memory, state)).Append("last exits:\n");
        foreach (ExitRecord exit in LastExits) text.Append("  ").Append(exit).Append('\n');
        return text.ToString();
    }

    /// <summary>The engine that <c>--engine</c> means.</summary>
    public static IX86Engine ChooseEngine(string name, IReadOnlyList<IX86Engine> engines)
    {
        if (name == "auto")
        {
            return engines.FirstOrDefault(e => e.Probe() is { Available: true, Chosen: true })
                ?? throw new CannotStartException("no engine can run on this host; 'bunraku engines' says why");
        }
        IX86Engine engine = engines.FirstOrDefault(e => e.Name == name)
            ?? throw new UsageException(Nearest.Message("engine", name, [.. engines.Select(e => e.Name), "auto"]));
        EngineProbe probe = engine.Probe();
        return probe.Available ? engine : throw new CannotStartException($"the engine '{name}' cannot run here: {probe.Detail}");
    }

    private static CpuModel ParseModel(string? text, Func<string?, CpuModel> parse)
    {
        try
        {
            return parse(text);
        }
        catch (FormatException e)
        {
            throw new UsageException("--cpu: " + e.Message);
        }
    }

    private TimeSpan SinceProcessStart() => DateTime.UtcNow - _processStart;

    public void Dispose()
    {
        _timeout?.Dispose();
        // A signal or the timer may still call.
        lock (_lock) _disposed = true;
        _console.Release();
        _vm.Dispose();
        _log.Dispose();
    }
}
