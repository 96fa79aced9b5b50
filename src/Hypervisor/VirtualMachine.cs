using System.Diagnostics;
using Bunraku.Engines;

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

/// <param name="Status">Process status that the guest asked for, where it has one.</param>
public sealed record StopCause(StopReason Reason, int Status = 0, string? Message = null, int Cpu = 0);

/// <summary>
/// One virtual machine: memory, buses, vCPUs with their threads, timers. Engines come in through <see cref="IEngine"/>, devices through the buses;
/// neither knows the other. Thread-safe where it says so.
/// </summary>
/// <remarks>Lock order: <see cref="DeviceLock"/> first, then the vCPU's own wake lock; the engine takes no lock of ours.</remarks>
public sealed class VirtualMachine : IDisposable
{
    private readonly IEngineVm _engineVm;
    private readonly List<CpuThread> _cpus = [];
    private readonly TaskCompletionSource<StopCause> _stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private bool _disposed;

    /// <param name="memorySize">Bytes of RAM, a multiple of 4096.</param>
    public VirtualMachine(IEngine engine, CpuModel model, ulong memorySize, int cpus = 1)
    {
        Memory = new GuestMemory(memorySize);
        Clock = new VirtualClock();
        Timers = new TimerQueue(Clock, DeviceLock);
        _engineVm = engine.CreateVm(Memory, model, Clock);
        Model = _engineVm.NarrowedModel ?? model;
        for (int n = 0; n < cpus; n++) _cpus.Add(new CpuThread(this, _engineVm.CreateCpu(n)));
    }

    /// <summary>The processor as the guest sees it: what boots it and what stands around it must not use more.</summary>
    public CpuModel Model { get; }
    public GuestMemory Memory { get; }
    public VirtualClock Clock { get; }
    public TimerQueue Timers { get; }
    public PortBus Ports { get; } = new();
    public MmioBus Mmio { get; } = new();
    /// <summary>MSRs outside the processor; asked in order until one answers.</summary>
    public IList<IMsrDevice> Msrs { get; } = [];

    /// <summary>Where FERR# of the processors leads; null: nowhere. Set by the board before the start.</summary>
    public IInterruptLine? FloatingPointError { get; set; }

    /// <summary>The machine lock: devices run with it held, one at a time.</summary>
    public object DeviceLock { get; } = new();

    public IReadOnlyList<CpuThread> Cpus => _cpus;

    /// <summary>Completes when the VM stopped for good. Thread-safe.</summary>
    public Task<StopCause> Stopped => _stopped.Task;

    /// <summary>Starts all vCPU threads. Once.</summary>
    public void Start()
    {
        foreach (CpuThread cpu in _cpus) cpu.Start();
    }

    /// <summary>Ends the VM. Any thread; the first cause wins.</summary>
    public void Stop(StopCause cause)
    {
        _stopped.TrySetResult(cause);
        foreach (CpuThread cpu in _cpus) cpu.RequestStop();
    }

    /// <summary>Returns when no vCPU runs any more, so that state and memory can be looked at. After <see cref="Stopped"/>; not from a vCPU's thread.</summary>
    public void Join()
    {
        foreach (CpuThread cpu in _cpus) cpu.Join();
    }

    /// <summary>Stops virtual time and all vCPUs, and returns when they stand still. Any thread but a vCPU's. Idempotent.</summary>
    public void Pause()
    {
        foreach (CpuThread cpu in _cpus) cpu.Pause();
        Clock.Stop();
        Timers.Pause(true);
    }

    /// <summary>Goes on after <see cref="Pause"/>.</summary>
    public void Resume()
    {
        Clock.Start();
        Timers.Pause(false);
        foreach (CpuThread cpu in _cpus) cpu.Resume();
    }

    /// <summary>Tells a vCPU that its interrupt source has something for it. Any thread.</summary>
    public void WakeCpu(int index) => _cpus[index].Wake();

    /// <summary>Masks (false) or passes address line 20 for all vCPUs. Any thread.</summary>
    public void SetA20(bool pass) => _engineVm.SetA20(pass);

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        Stop(new StopCause(StopReason.HostRequest));
        foreach (CpuThread cpu in _cpus) cpu.Dispose();
        Timers.Dispose();
        _engineVm.Dispose();
        Memory.Dispose();
    }
}
