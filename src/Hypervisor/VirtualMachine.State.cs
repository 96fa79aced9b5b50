using Bunraku.Engines;

namespace Bunraku.Hypervisor;

// The tree of everything that has state: saved, restored and reset as a whole.
public abstract partial class VirtualMachine
{
    private readonly List<IDevice> _devices = [];
    private readonly Dictionary<string, DeviceLock> _locks = []; // of the devices, by name

    /// <summary>The devices, in the order in which they were added.</summary>
    public IReadOnlyList<IDevice> Devices => _devices;

    /// <summary>Makes a device part of the machine: it is saved, restored, reset, paused and resumed with it. Before the start.</summary>
    /// <param name="lock">Held for all of that; the one that the device has on the buses and for its timers. Null: it has neither timers nor callers beside the
    /// guest.</param>
    /// <exception cref="InvalidOperationException">The machine has a part of that name.</exception>
    public void Add(IDevice device, DeviceLock? @lock = null)
    {
        if (!_locks.TryAdd(device.Id, @lock ?? new DeviceLock(device.Id))) throw new InvalidOperationException($"the machine has a {device.Id} already");
        _devices.Add(device);
    }

    private T WithLock<T>(IStateful part, Func<T> action)
    {
        if (!_locks.TryGetValue(part.Id, out DeviceLock? @lock)) return action();
        lock (@lock) return action();
    }

    private void WithLock(IStateful part, Action action) => WithLock(part, () =>
    {
        action();
        return 0;
    });

    /// <summary>
    /// All parts in the order in which they are restored: time first, since timers are armed in it; the vCPUs last, since they look at memory and interrupt
    /// controllers.
    /// </summary>
    private IEnumerable<IStateful> Parts()
    {
        yield return new ShapePart(this);
        yield return Clock;
        foreach (IDevice device in _devices) yield return device;
        foreach (IStateful part in ArchitectureParts) yield return part;
        foreach (CpuThread cpu in _cpus) yield return cpu.Cpu;
    }

    /// <summary>Copies the machine's state out, RAM included. While it is paused. Any thread but a vCPU's.</summary>
    /// <exception cref="CannotSaveException">A part cannot be saved; the message names it.</exception>
    /// <exception cref="InvalidOperationException">The machine is not paused.</exception>
    /// <exception cref="ObjectDisposedException">It has come to its end.</exception>
    public MachineState Save()
    {
        lock (_pauseLock)
        {
            IReadOnlyList<SavedState> parts = SaveParts();
            if (!Memory.CompleteCheck()) throw new CannotSaveException("the memory", "it is not what it should be");
            return new MachineState(parts, MemoryImage.Of(Memory));
        }
    }

    /// <summary>The same without RAM, which is not to be looked at before: a reset that was under way is done here, and writes there.</summary>
    /// <inheritdoc cref="Save"/>
    public IReadOnlyList<SavedState> SaveParts()
    {
        lock (_pauseLock)
        {
            RequirePause();
            if (_resetPending) Reset(); // the guest was told to begin anew: it must not go on where the state is restored
            return [.. Parts().Select(p => WithLock(p, () => StateSerializer.Save(p)))];
        }
    }

    /// <summary>
    /// Lets <see cref="SaveParts"/> be quick from now on: the first one takes a tenth of a second, in which the runtime compiles what reads and writes the
    /// records. One thread at a time.
    /// </summary>
    /// <param name="whileStill">Does something while the machine is paused: many short moments, between which it may run.</param>
    /// <exception cref="CannotSaveException">A part cannot be saved; the message names it.</exception>
    public void PrepareSave(Action<Action> whileStill)
    {
        if (_isPrepared) return;
        foreach (IStateful part in Parts().DistinctBy(p => p.StateType))
        {
            object state = part; // until the next line has it
            whileStill(() =>
            {
                lock (_pauseLock)
                {
                    RequirePause();
                    state = WithLock(part, part.Save);
                }
            });
            StateSerializer.Write(part, state);
        }
        _isPrepared = true;
    }

    private volatile bool _isPrepared;

    /// <summary>
    /// Makes this machine what the saved one was. While it is paused; it may be new, or have run. It must have the same shape: RAM, number of vCPUs, devices,
    /// counter frequency, and a CPU model that has all features of the other one. Engines may differ.
    /// </summary>
    /// <exception cref="StateFormatException">The state does not fit; the machine is of no use any more if the message names a device or a vCPU.</exception>
    /// <exception cref="InvalidOperationException">The machine is not paused.</exception>
    /// <exception cref="ObjectDisposedException">It has come to its end.</exception>
    public void Restore(MachineState state) => Restore(state.Parts, state.Memory);

    /// <summary>The same from parts that were kept apart.</summary>
    /// <param name="saved">The parts.</param>
    /// <param name="memory">What the RAM is to hold.</param>
    /// <inheritdoc cref="Restore(MachineState)"/>
    public void Restore(IReadOnlyList<SavedState> saved, IMemoryContent memory) => Restore(saved, () => memory.CopyTo(Memory));

    /// <summary>The same, for who has written the RAM already, as a device writes.</summary>
    /// <param name="saved">See <see cref="SaveParts"/>.</param>
    /// <inheritdoc cref="Restore(MachineState)"/>
    public void RestoreParts(IReadOnlyList<SavedState> saved) => Restore(saved, Memory.Code.AllWritten);

    private void Restore(IReadOnlyList<SavedState> saved, Action restoreMemory)
    {
        lock (_pauseLock)
        {
            RequirePause();
            _resetPending = false; // of the guest that was here
            IStateful[] parts = [.. Parts()];
            Dictionary<string, SavedState> states = [];
            foreach (SavedState part in saved)
            {
                if (!states.TryAdd(part.Id, part)) throw new StateFormatException($"the saved machine has {part.Id} twice");
            }
            string[] missing = [.. parts.Where(p => !states.ContainsKey(p.Id)).Select(p => p.Id)], unknown = [.. states.Keys.Except(parts.Select(p => p.Id))];
            if (missing.Length > 0) throw new StateFormatException($"the saved machine has no {string.Join(", ", missing)}");
            if (unknown.Length > 0) throw new StateFormatException($"this machine has no {string.Join(", ", unknown)}, the saved one has");
            // All before anything is changed. On two threads: the first look at each type of record takes most of it.
            int half = parts.Length / 2;
            Task<object[]> others = Task.Run(() => Read(parts[half..]));
            object[] records = [.. Read(parts[..half]), .. others.GetAwaiter().GetResult()];
            parts[0].Restore(records[0]); // the shape, before the rest
            restoreMemory();
            for (int n = 1; n < parts.Length; n++)
            {
                (IStateful part, object record) = (parts[n], records[n]);
                WithLock(part, () => part.Restore(record));
            }

            object[] Read(IStateful[] some) => [.. some.Select(p => StateSerializer.Read(p, states[p.Id]))];
        }
    }

    /// <summary>
    /// Asked when the guest resets the machine: true, and it boots again (<see cref="AfterReset"/>); false, and it ends with <see cref="StopReason.Reset"/>, as
    /// without this. On the thread that resets, with the lock of the device held that the guest used for it. Set before the start.
    /// </summary>
    public Func<bool>? RebootsOnReset { get; set; }

    /// <summary>
    /// Firmware's and the loader's work after a reset, in the order in which they were added: tables, the kernel, the state in which the bootstrap processor
    /// enters it. No vCPU runs. An exception ends the machine with <see cref="StopReason.EngineError"/>.
    /// </summary>
    public Action? AfterReset { get; set; }

    /// <summary>A reset was asked for and is still to be done: no vCPU enters its guest.</summary>
    public bool ResetPending => _resetPending;

    private volatile bool _resetPending;

    /// <summary>
    /// The guest resets the machine: returns at once, and no vCPU executes another instruction of the old guest once it has left it. Any thread, with devices'
    /// locks held too.
    /// </summary>
    public void RequestReset()
    {
        if (_resetPending) return;
        if (RebootsOnReset?.Invoke() != true)
        {
            Stop(new StopCause(StopReason.Reset));
            return;
        }
        _resetPending = true;
        foreach (CpuThread cpu in _cpus) cpu.Wake();
        // Not here: vCPUs must stand still for it, and this may be one's thread.
        ThreadPool.UnsafeQueueUserWorkItem(static vm => vm.ResetNow(), this, preferLocal: false);
    }

    /// <summary>Several requests are one reset.</summary>
    private void ResetNow()
    {
        try
        {
            lock (_pauseLock)
            {
                if (_resetPending) Reset();
            }
        }
        catch (Exception)
        {
            // The machine has ended by it and says so.
        }
    }

    /// <summary>
    /// RESET, as from the button: devices and vCPUs are as after power-on, and what was pending is gone. RAM stays as it is, as on a PC, but for what
    /// <see cref="AfterReset"/> writes. Virtual time goes on. Not on a vCPU's thread, nor with a device's lock held; paused or not. Nothing once the machine
    /// has stopped. What <see cref="AfterReset"/> throws ends the machine and comes out here.
    /// </summary>
    /// <remarks>Timers and I/O threads are held as well: neither calls a device that is half reset.</remarks>
    public void Reset() => WhileHeld(() =>
    {
        if (_stopped.Task.IsCompleted) return;
        HoldOthers(true);
        try
        {
            ResetParts();
            AfterReset?.Invoke();
            _resetPending = false;
        }
        catch (Exception e)
        {
            Stop(new StopCause(StopReason.EngineError, Message: $"the machine could not be reset: {e.Message}"));
            throw;
        }
        finally
        {
            HoldOthers(_paused);
        }
    });

    /// <summary>Holds what calls devices beside the vCPUs, or lets it go on. While the vCPUs are held.</summary>
    private void HoldOthers(bool hold)
    {
        Timers.Pause(hold);
        foreach (IoThread thread in _ioThreads) thread.Pause(hold);
    }

    private void ResetParts()
    {
        foreach (IDevice device in _devices) WithLock(device, device.Reset);
        foreach (CpuThread cpu in _cpus) cpu.Reset();
    }

    private void RequirePause()
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        if (!_paused) throw new InvalidOperationException("the machine must be paused");
    }

    private sealed class ShapePart(VirtualMachine vm) : IStateful<MachineShape>
    {
        public string Id => "machine";

        public MachineShape Save() => new(vm.Architecture, vm.Memory.Size, vm.Cpus.Count, [.. vm.Features.Order(StringComparer.Ordinal)]);

        public void Restore(MachineShape state)
        {
            MachineShape own = Save();
            if (state.Architecture != own.Architecture)
                throw new StateFormatException($"the saved machine is of the architecture {state.Architecture}, this one of {own.Architecture}");
            if (state.Memory != own.Memory) throw new StateFormatException($"the saved machine has {state.Memory} bytes of RAM, this one {own.Memory}");
            if (state.Cpus != own.Cpus) throw new StateFormatException($"the saved machine has {state.Cpus} vCPUs, this one {own.Cpus}");
            string[] missing = [.. state.Features.Except(own.Features)];
            if (missing.Length > 0) throw new StateFormatException($"the saved machine's processor has {string.Join(", ", missing)}, this one's has not");
        }
    }
}
