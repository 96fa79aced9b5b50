using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Hypervisor.Paravirtual;
using Bunraku.Hypervisor.Scheduling;

namespace Bunraku.Hypervisor;

/// <summary>How a VM came to its end.</summary>
public enum StopReason
{
    /// <summary>The guest powered the machine off (ACPI S5), or a controller asked for it.</summary>
    PowerOff,
    /// <summary>The guest reset the machine.</summary>
    Reset,
    /// <summary>isa-debug-exit: see <see cref="StopCause.Status"/>.</summary>
    DebugExit,
    /// <summary>The processor is in shutdown.</summary>
    TripleFault,
    /// <summary>The engine failed; see <see cref="StopCause.Message"/>.</summary>
    EngineError,
    /// <summary>The host asked (quit, timeout, disposal).</summary>
    HostRequest,
}

/// <summary>What a VM is made with beyond engine, CPU model and memory.</summary>
public sealed record VirtualMachineOptions
{
    /// <summary>Offer KVM's paravirtual interface, where the model says that there is a hypervisor: ours when the engine lets hypercalls exit, else the engine's own if it has one.</summary>
    public bool Paravirtual { get; init; } = true;

    /// <summary>Hz of the guest's TSC; 0: the host's.</summary>
    public ulong TscFrequency { get; init; }

    /// <summary>What the VM gets of the host's processors.</summary>
    public CpuTimeOptions CpuTime { get; init; } = new();

    /// <summary>Where the guest's wall clock comes from.</summary>
    public TimeProvider TimeOfDay { get; init; } = TimeProvider.System;

    /// <summary>The engine holds the local APICs, if it can: see <see cref="VirtualMachine.EngineApics"/>. For boards that know what to do then.</summary>
    public bool EngineApics { get; init; }
}

/// <param name="Status">Process status that the guest asked for, where it has one.</param>
public sealed record StopCause(StopReason Reason, int Status = 0, string? Message = null, int Cpu = 0);

/// <summary>
/// One virtual machine: memory, buses, vCPUs with their threads, timers. Engines come in through <see cref="IEngine"/>, devices through the buses;
/// neither knows the other. Thread-safe where it says so.
/// </summary>
/// <remarks>Lock order: see <see cref="DeviceLock"/>; the engine takes no lock of ours.</remarks>
public sealed partial class VirtualMachine : IDisposable
{
    private readonly IEngineVm _engineVm;
    private readonly List<CpuThread> _cpus = [];
    private readonly List<IoThread> _ioThreads = [];
    private readonly Lock _pauseLock = new(); // who holds the vCPUs; before every other
    private readonly ClockDiscipline _discipline;
    private readonly CpuTimeControl? _cpuTime;
    private bool _paused, _disposed; // guarded by _pauseLock
    private readonly TaskCompletionSource<StopCause> _stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <param name="memorySize">Bytes of RAM, a multiple of 4096.</param>
    /// <exception cref="CpuTimeException">The host does not give what <see cref="VirtualMachineOptions.CpuTime"/> asks for.</exception>
    public VirtualMachine(IEngine engine, CpuModel model, ulong memorySize, int cpus = 1, VirtualMachineOptions? options = null)
    {
        options ??= new VirtualMachineOptions();
        TimeOfDay = options.TimeOfDay;
        Memory = new GuestMemory(memorySize, shared: !engine.UsesHostPaging);
        try
        {
            if (!options.CpuTime.IsDefault) _cpuTime = new CpuTimeControl(options.CpuTime, Memory, () => _cpus);
            Clock = new VirtualClock(options.TscFrequency);
            Timers = new TimerQueue(Clock, Fail, _cpuTime is null ? null : _cpuTime.BeginTimers);
            _discipline = new ClockDiscipline(this);
            KvmFeatures features = ParavirtualInterface.Offered;
            bool paravirtual = options.Paravirtual && model.Has(CpuFeature.Hypervisor) && (engine.Intercepts.Instructions & InterceptedInstructions.Hypercall) != 0;
            if (paravirtual) model = model with { Hypervisor = ParavirtualInterface.Describe(features, options.CpuTime.Realtime ? KvmHints.Realtime : KvmHints.None) };
            else if (options.Paravirtual) model = model with { Hypervisor = HypervisorInterface.OfEngine };
            _engineVm = engine.CreateVm(Memory, model, Clock);
            Model = _engineVm.NarrowedModel ?? model;
            if (_engineVm.DirtyPages is { } dirty) DirtyPages = new DirtyPageLog(dirty, Memory);
            if (options.EngineApics) EngineApics = _engineVm.HoldLocalApics();
            for (int n = 0; n < cpus; n++) _cpus.Add(new CpuThread(this, _engineVm.CreateCpu(n)));
            if (!paravirtual) return;
            Paravirtual = new ParavirtualInterface(this, features);
            Msrs.Add(Paravirtual);
            Add(Paravirtual);
            foreach (CpuThread cpu in _cpus)
            {
                cpu.Paravirtual = Paravirtual.Add(cpu);
                cpu.Cpu.Controls = cpu.Cpu.Controls with { Instructions = cpu.Cpu.Controls.Instructions | InterceptedInstructions.Hypercall };
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>A defect of ours on one of the VM's threads: it ends this VM with a message, never the process. Any thread.</summary>
    private void Fail(Exception e) => Stop(new StopCause(StopReason.EngineError, Message: e.ToString()));

    /// <summary>The processor as the guest sees it: what boots it and what stands around it must not use more.</summary>
    public CpuModel Model { get; }
    public GuestMemory Memory { get; }
    public VirtualClock Clock { get; }
    public TimerQueue Timers { get; }
    public PortBus Ports { get; } = new();
    public MmioBus Mmio { get; } = new();
    /// <summary>MSRs outside the processor.</summary>
    public MsrBus Msrs { get; } = new();

    /// <summary>KVM's interface for the guest; null when the guest is offered none.</summary>
    public ParavirtualInterface? Paravirtual { get; }

    internal TimeProvider TimeOfDay { get; }

    /// <summary>How the host is to schedule the vCPUs; null when it just does.</summary>
    internal CpuTimeControl? CpuTime => _cpuTime;

    /// <summary>The local APICs, when the engine holds them; null: they are the board's.</summary>
    public IEngineApics? EngineApics { get; }

    /// <summary>Ways around exits; null when the engine has none.</summary>
    public IEngineShortcuts? Shortcuts => _engineVm.Shortcuts;

    /// <summary>Which pages the guest's processors and its devices write to; null when the engine does not say.</summary>
    public IDirtyPageLog? DirtyPages { get; }

    /// <summary>
    /// Makes a thread for what a back end does while the guest runs on. It stands still while the VM is paused and ends with it. Before the guest runs, or when a device is added.
    /// </summary>
    /// <param name="name">For people who look at the process.</param>
    public IoThread CreateIoThread(string name)
    {
        var thread = new IoThread(name, Fail);
        lock (_pauseLock)
        {
            if (_paused) thread.Pause(true);
            _ioThreads.Add(thread);
        }
        return thread;
    }

    /// <summary>
    /// Answers accesses that <see cref="GuestMemory.Rights"/> refuse: true when the guest may try again, as a rule with the rights that it lacked. Set before the start; called on the vCPU's
    /// thread, without any lock. Null, or false: the VM ends.
    /// </summary>
    public Func<CpuThread, VmExit, bool>? PageViolation { get; set; }

    /// <summary>A local APIC of the engine broadcasts an EOI: the vector. Set by the board before the start; called with <see cref="InterruptLock"/> held.</summary>
    public Action<byte>? EndOfInterrupt { get; set; }

    /// <summary>Where FERR# of the processors leads; null: nowhere. Set by the board before the start.</summary>
    public IInterruptLine? FloatingPointError { get; set; }

    /// <summary>
    /// The lock that all interrupt controllers share, local APICs, I/O APICs and 8259As, since a message, an acknowledge cycle or an EOI passes from one to the other. Moments only.
    /// </summary>
    public DeviceLock InterruptLock { get; } = new("interrupt controllers");

    public IReadOnlyList<CpuThread> Cpus => _cpus;

    /// <summary>Completes when the VM stopped for good. Thread-safe.</summary>
    public Task<StopCause> Stopped => _stopped.Task;

    /// <summary>Starts all vCPU threads. Once.</summary>
    public void Start()
    {
        foreach (CpuThread cpu in _cpus) cpu.Start();
        _cpuTime?.Start();
        _discipline.Start();
    }

    /// <summary>Ends the VM. Any thread; the first cause wins.</summary>
    public void Stop(StopCause cause)
    {
        _stopped.TrySetResult(cause);
        foreach (CpuThread cpu in _cpus) cpu.RequestStop();
    }

    /// <summary>
    /// Returns when no vCPU runs any more and no reset is under way, so that state and memory can be looked at. After <see cref="Stopped"/>; not from a vCPU's thread, nor from
    /// <see cref="AfterReset"/>.
    /// </summary>
    public void Join()
    {
        foreach (CpuThread cpu in _cpus) cpu.Join();
        // A reset holds this lock and writes memory and vCPUs; one that is still to come sees that the VM has stopped.
        lock (_pauseLock)
        {
        }
    }

    /// <summary>Stops virtual time and all vCPUs, and returns when they stand still. Any thread but a vCPU's, with no device's lock held. Idempotent; nothing after disposal.</summary>
    public void Pause()
    {
        lock (_pauseLock)
        {
            if (_disposed) return;
            foreach (CpuThread cpu in _cpus) cpu.Pause();
            bool paused = _paused;
            _paused = true;
            Clock.Stop();
            Timers.Pause(true);
            foreach (IoThread thread in _ioThreads) thread.Pause(true);
            _engineVm.SuspendTime();
            if (paused) return;
            foreach (IDevice device in _devices) WithLock(device, device.Pause);
        }
    }

    /// <summary>Goes on after <see cref="Pause"/>; nothing after disposal.</summary>
    public void Resume()
    {
        lock (_pauseLock)
        {
            if (_disposed) return;
            bool paused = _paused;
            if (paused)
            {
                foreach (IDevice device in _devices) WithLock(device, device.Resume);
                Paravirtual?.Resumed();
            }
            _paused = false;
            Clock.Start();
            if (paused) _engineVm.ResumeTime();
            foreach (IoThread thread in _ioThreads) thread.Pause(false);
            Timers.Pause(false);
            foreach (CpuThread cpu in _cpus) cpu.Resume();
        }
    }

    /// <summary>Does something while no vCPU runs and virtual time goes on. Not on a vCPU's thread, nor with a device's lock held. Nothing after disposal.</summary>
    internal void WhileHeld(Action action)
    {
        lock (_pauseLock)
        {
            if (_disposed) return;
            if (!_paused) foreach (CpuThread cpu in _cpus) cpu.Pause();
            action();
            if (!_paused) foreach (CpuThread cpu in _cpus) cpu.Resume();
        }
    }

    /// <summary>Tells a vCPU that its interrupt source has something for it. Any thread.</summary>
    public void WakeCpu(int index) => _cpus[index].Wake();

    /// <summary>Masks (false) or passes address line 20 for all vCPUs. Any thread.</summary>
    public void SetA20(bool pass) => _engineVm.SetA20(pass);

    public void Dispose()
    {
        // Who pauses the VM or resets it comes to an end first; who comes later finds it disposed.
        lock (_pauseLock)
        {
            if (_disposed) return;
            _disposed = true;
        }
        _discipline?.Dispose(); // the constructor comes here too when it failed half-way
        Stop(new StopCause(StopReason.HostRequest));
        Join();
        // All that calls a vCPU by itself comes to its end before the vCPUs do: a timer's interrupt would wake one that is no more.
        foreach (IoThread thread in _ioThreads) thread.Dispose();
        Timers?.Dispose();
        _cpuTime?.Dispose();
        foreach (CpuThread cpu in _cpus) cpu.Dispose();
        _engineVm?.Dispose();
        Memory.Dispose();
    }
}
