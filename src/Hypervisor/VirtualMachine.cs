using System.ComponentModel;
using System.Numerics;
using Bunraku.Engines;
using Bunraku.Hypervisor.Scheduling;

namespace Bunraku.Hypervisor;

/// <summary>How a VM came to its end.</summary>
public enum StopReason
{
    /// <summary>The guest powered the machine off, or a controller asked for it.</summary>
    PowerOff,
    /// <summary>The guest reset the machine.</summary>
    Reset,
    /// <summary>The guest ended the run with a status, by a device that is made for that: see <see cref="StopCause.Status"/>.</summary>
    DebugExit,
    /// <summary>A processor is in shutdown (x86: a triple fault).</summary>
    Shutdown,
    /// <summary>The engine failed; see <see cref="StopCause.Message"/>.</summary>
    EngineError,
    /// <summary>The host asked (quit, timeout, disposal).</summary>
    HostRequest,
}

/// <summary>What a VM is made with beyond engine, processor and memory.</summary>
public record VirtualMachineOptions
{
    /// <summary>Hz of virtual time's counter, which is the guest's own; 0: the host's.</summary>
    public ulong CounterFrequency { get; init; }

    /// <summary>What the VM gets of the host's processors.</summary>
    public CpuTimeOptions CpuTime { get; init; } = new();

    /// <summary>Where the guest's wall clock comes from.</summary>
    public TimeProvider TimeOfDay { get; init; } = TimeProvider.System;

    /// <summary>
    /// The RAM can show a file's pages (<see cref="GuestMemory.Load"/>), so that a machine is restored without reading it. Engines do without what needs its
    /// pages at other addresses of the host.
    /// </summary>
    public bool PrivateMemory { get; init; }

    /// <summary>Private memory stays private: pages that nobody writes to are never copied, however much engines would gain from that.</summary>
    public bool StaysPrivate { get; init; }
}

/// <summary>Why a VM ended.</summary>
/// <param name="Reason">The kind of end.</param>
/// <param name="Status">Process status that the guest asked for, where it has one.</param>
/// <param name="Message">More about it in words, for a person; null: the reason says all.</param>
/// <param name="Cpu">0-based number of the vCPU that it came from; 0 when it came from elsewhere.</param>
public sealed record StopCause(StopReason Reason, int Status = 0, string? Message = null, int Cpu = 0);

/// <summary>
/// One virtual machine of any architecture: memory, the memory bus, vCPUs with their threads, timers. A derived class is the architecture's part: it makes the
/// engine's VM and the vCPUs, and adds what its architecture has beside. Devices come in through the buses; engines and devices do not know each other.
/// Thread-safe where it says so.
/// </summary>
/// <remarks>Lock order: see <see cref="DeviceLock"/>; the engine takes no lock of ours.</remarks>
public abstract partial class VirtualMachine : IDisposable
{
    private readonly List<CpuThread> _cpus = [];
    private readonly List<IoThread> _ioThreads = [];
    private readonly Lock _pauseLock = new(); // who holds the vCPUs; before every other

    /// <summary>For who runs a paused machine by hand: nobody else resets it, or lets it go on, meanwhile.</summary>
    internal Lock PauseLock => _pauseLock;

    private readonly ClockDiscipline _discipline;
    private readonly CpuTimeControl? _cpuTime;
    private readonly TaskCompletionSource<StopCause> _stopped = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private IEngineVm? _engineVm;
    private ProtectedPageLog? _protectedPages; // null: the engine has a log of its own
    private readonly bool _staysPrivate;
    private bool _paused, _disposed; // guarded by _pauseLock

    /// <summary>
    /// Memory, clock and timers. The derived class goes on with <see cref="Use"/> and <see cref="Add(CpuThread)"/>, and disposes of the machine when it fails.
    /// </summary>
    /// <param name="engine">What will run the vCPUs.</param>
    /// <param name="memory">Where RAM lies in guest-physical address space.</param>
    /// <param name="options">The rest.</param>
    /// <exception cref="CpuTimeException">The host does not give what <see cref="VirtualMachineOptions.CpuTime"/> asks for.</exception>
    protected VirtualMachine(IEngine engine, IReadOnlyList<MemoryRegion> memory, VirtualMachineOptions options)
    {
        TimeOfDay = options.TimeOfDay;
        _staysPrivate = options.StaysPrivate;
        Memory = new GuestMemory(memory, shared: !engine.UsesHostPaging && !options.PrivateMemory);
        try
        {
            if (!options.CpuTime.IsDefault) _cpuTime = new CpuTimeControl(options.CpuTime, Memory, () => _cpus);
            Clock = new VirtualClock(options.CounterFrequency);
            Timers = new TimerQueue(Clock, Fail, _cpuTime is null ? null : _cpuTime.BeginTimers);
            _discipline = new ClockDiscipline(this);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Gives the machine its engine's part. Once, before the first vCPU is added; the machine disposes of it.</summary>
    /// <param name="vm">Made over <see cref="Memory"/> and <see cref="Clock"/>.</param>
    protected void Use(IEngineVm vm)
    {
        _engineVm = vm;
        if (vm.DirtyPages is null && vm.LosesRightsAnyTime) _protectedPages = new ProtectedPageLog(Memory);
        if ((vm.DirtyPages ?? _protectedPages) is { } dirty) DirtyPages = new DirtyPageLog(dirty, Memory);
    }

    /// <summary>Adds the next vCPU. Before the start; the machine disposes of it.</summary>
    /// <param name="cpu">Its number is that of the vCPUs so far.</param>
    protected void Add(CpuThread cpu)
    {
        _cpus.Add(cpu);
        cpu.Cpu.ObserveMemoryWish(() => ThreadPool.UnsafeQueueUserWorkItem(static vm => vm.ShareMemory(), this, false));
    }

    /// <summary>A vCPU would gain from it: the guest stands still for the time that copying its memory takes, and does not notice.</summary>
    private void ShareMemory()
    {
        lock (_pauseLock)
        {
            if (_disposed || _staysPrivate || Memory.Backing.IsShared) return;
            bool paused = _paused;
            Pause();
            try
            {
                if (!Memory.CompleteCheck()) return;
                Memory.Backing.Share();
            }
            catch (Exception e) when (e is Win32Exception or IOException)
            {
                // The host has no room for it: the guest goes on as it is.
            }
            catch (Exception e)
            {
                Fail(e);
            }
            finally
            {
                if (!paused) Resume();
            }
        }
    }

    /// <summary>A defect of ours on one of the VM's threads: it ends this VM with a message, never the process. Any thread.</summary>
    private void Fail(Exception e) => Stop(new StopCause(StopReason.EngineError, Message: e.ToString()));

    /// <summary>The guest's memory.</summary>
    public GuestMemory Memory { get; }

    /// <summary>Virtual time.</summary>
    public VirtualClock Clock { get; }

    /// <summary>Timers in virtual time.</summary>
    public TimerQueue Timers { get; }

    /// <summary>Devices in guest-physical address space.</summary>
    public MmioBus Mmio { get; } = new();

    /// <summary>Where the guest's wall clock comes from.</summary>
    public TimeProvider TimeOfDay { get; }

    /// <summary>How the host is to schedule the vCPUs; null when it just does.</summary>
    internal CpuTimeControl? CpuTime => _cpuTime;

    /// <summary>
    /// Which pages the guest's processors and its devices write to; null when the engine neither says it nor honours rights to pages. It uses those of
    /// <see cref="GuestMemory.Rights"/> where the engine has no log: nobody else changes them while it is on.
    /// </summary>
    public IDirtyPageLog? DirtyPages { get; private set; }

    /// <summary>
    /// Takes from <see cref="DirtyPages"/>, which must be there and on, all pages of the backing memory that were written since the last call: their numbers,
    /// ascending, each once. Any thread but one inside <see cref="IVirtualCpu.Enter"/>.
    /// </summary>
    public IReadOnlyList<ulong> TakeDirtyPages()
    {
        const int pagesPerWord = 64;
        var pages = new List<ulong>();
        bool sorted = true;
        IReadOnlyList<MemoryRegion> regions = Memory.Regions;
        for (int n = 0; n < regions.Count; n++)
        {
            ulong[] bits = DirtyPages!.Take(n);
            ulong first = regions[n].Offset >> GuestMemory.PageShift;
            for (int word = 0; word < bits.Length; word++)
            {
                for (ulong left = bits[word]; left != 0; left &= left - 1)
                {
                    ulong page = first + (ulong)(word * pagesPerWord + BitOperations.TrailingZeroCount(left));
                    sorted &= pages.Count == 0 || pages[^1] < page;
                    pages.Add(page);
                }
            }
        }
        // What devices have written where nothing shows it at this moment.
        ulong[] hidden = Memory.DeviceWrites.Take(new MemoryRegion(0, Memory.Size, 0, IsReadOnly: false));
        for (int word = 0; word < hidden.Length; word++)
        {
            for (ulong left = hidden[word]; left != 0; left &= left - 1)
            {
                pages.Add((ulong)(word * pagesPerWord + BitOperations.TrailingZeroCount(left)));
                sorted = false;
            }
        }
        // Memory that shows at several addresses is in several regions.
        return sorted ? pages : [.. pages.Order().Distinct()];
    }

    /// <summary>
    /// Makes a thread for what a back end does while the guest runs on. It stands still while the VM is paused and ends with it. Before the guest runs, or when
    /// a device is added.
    /// </summary>
    /// <param name="name">For people who look at the process.</param>
    /// <param name="wake">
    /// Makes work that waits for the host return soon, on any thread: it is called when the VM is paused or ends. Null: work waits for nothing long.
    /// </param>
    public IoThread CreateIoThread(string name, Action? wake = null)
    {
        var thread = new IoThread(name, Fail, wake);
        lock (_pauseLock)
        {
            if (_paused) thread.Pause(true);
            _ioThreads.Add(thread);
        }
        return thread;
    }

    /// <summary>
    /// For work on an <see cref="IoThread"/> that cannot go on before somebody has paused the VM, done something and let it go on: waits until then, and
    /// counts as standing still. With no lock held. False: the VM has ended, or this is no such work.
    /// </summary>
    public bool AwaitResume()
    {
        // Threads are made before the guest runs, and work comes from it.
        IoThread? current = _ioThreads.Find(t => t.IsCurrent);
        return current?.AwaitResume() == true;
    }

    /// <summary>
    /// Answers accesses that <see cref="GuestMemory.Rights"/> refuse: true when the guest may try again, as a rule with the rights that it lacked. Set before
    /// the start; called on the vCPU's thread, without any lock. Null, or false: the VM ends.
    /// </summary>
    public Func<CpuThread, VmExit, bool>? PageViolation { get; set; }

    /// <summary>Answers a refused access by the log of pages, or as <see cref="PageViolation"/> says.</summary>
    internal bool Allows(CpuThread cpu, VmExit exit) => _protectedPages?.Note(exit) == true || PageViolation?.Invoke(cpu, exit) == true;

    /// <summary>
    /// Called for what a debugger has asked a vCPU for (<see cref="IVirtualCpu.SetDebugControls"/>), and for halts, since a step may end with one. On the
    /// vCPU's thread, without any lock; it may <see cref="CpuThread.Hold"/> the vCPU. Null: there is no debugger.
    /// </summary>
    public Action<CpuThread, VmExit>? DebugStop { get; set; }

    /// <summary>
    /// The lock that all interrupt controllers share, those of the vCPUs and those of the board, since a message or an acknowledge passes from one to the
    /// other. Moments only.
    /// </summary>
    public DeviceLock InterruptLock { get; } = new("interrupt controllers");

    /// <summary>The vCPUs, by number.</summary>
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
    /// Returns when no vCPU runs any more and no reset is under way, so that state and memory can be looked at. After <see cref="Stopped"/>; not from a vCPU's
    /// thread, nor from
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

    /// <summary>
    /// Stops virtual time and all vCPUs, and returns when they stand still. Any thread but a vCPU's, with no device's lock held. Idempotent; nothing after
    /// disposal.
    /// </summary>
    public void Pause()
    {
        lock (_pauseLock)
        {
            if (_disposed) return;
            foreach (CpuThread cpu in _cpus) cpu.Pause();
            bool paused = _paused;
            _paused = true;
            Clock.Stop();
            HoldOthers(true);
            _engineVm?.SuspendTime();
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
                BeforeResume();
            }
            _paused = false;
            Clock.Start();
            if (paused) _engineVm?.ResumeTime();
            HoldOthers(false);
            foreach (CpuThread cpu in _cpus) cpu.Resume();
        }
    }

    /// <summary>
    /// Does something while no vCPU runs and virtual time goes on. Not on a vCPU's thread, nor with a device's lock held. Nothing after disposal.
    /// </summary>
    internal void WhileHeld(Action action)
    {
        lock (_pauseLock)
        {
            if (_disposed) return;
            if (!_paused) foreach (CpuThread cpu in _cpus) cpu.Pause();
            try
            {
                action();
            }
            finally
            {
                if (!_paused) foreach (CpuThread cpu in _cpus) cpu.Resume();
            }
        }
    }

    /// <summary>Tells a vCPU that something waits for it. Any thread.</summary>
    /// <param name="index">Number of the vCPU.</param>
    public void WakeCpu(int index) => _cpus[index].Wake();

    // ---- the architecture's part

    /// <summary>The word for the architecture in saved states.</summary>
    protected abstract string Architecture { get; }

    /// <summary>What the processors have: a state can only be restored where all that the saved machine had is there.</summary>
    protected virtual IEnumerable<string> Features => [];

    /// <summary>What has state beside the devices and the vCPUs; restored between them.</summary>
    protected virtual IEnumerable<IStateful> ArchitectureParts => [];

    /// <summary>The machine is about to go on; virtual time still stands.</summary>
    protected virtual void BeforeResume()
    {
    }

    /// <summary>Ends the machine and gives back all that it has. Not on a vCPU's thread. Idempotent.</summary>
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
        foreach (IoThread thread in _ioThreads) thread.End(); // one's work may wait for another's
        foreach (IoThread thread in _ioThreads) thread.Dispose();
        Timers?.Dispose();
        _cpuTime?.Dispose();
        foreach (CpuThread cpu in _cpus) cpu.Dispose();
        _engineVm?.Dispose();
        Memory.Dispose();
        GC.SuppressFinalize(this);
    }
}
