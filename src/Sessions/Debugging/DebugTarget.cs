using Bunraku.Hypervisor;

namespace Bunraku.Sessions.Debugging;

/// <summary>
/// A VM as a debugger sees it: vCPUs that stand still and go on, their registers, memory, breakpoints. It knows no protocol. One thread but for
/// <see cref="Stopped"/>; what reads or changes anything is for while the guest stands still.
/// </summary>
/// <remarks>
/// While the debugger has stopped the guest, the VM is paused and each vCPU is held besides: should somebody resume the VM, none runs under the debugger's
/// eyes.
/// </remarks>
internal sealed class DebugTarget
{
    private readonly Vm _vm;
    private readonly X86Machine _machine;
    private readonly DebugPoints _points = new();
    private readonly CpuState?[] _states; // what was read since the guest stands still
    private readonly CpuOrder[] _orders;
    private readonly Lock _lock = new(); // of what vCPUs' threads write
    private readonly DebugStop?[] _met; // what a vCPU has stopped for, and nobody was told of yet; under the lock
    private TaskCompletionSource _stopped = NewSignal(); // under the lock

    public DebugTarget(Vm vm)
    {
        _vm = vm;
        _machine = vm.Machine;
        _states = new CpuState?[CpuCount];
        _met = new DebugStop?[CpuCount];
        _orders = new CpuOrder[CpuCount];
    }

    private static TaskCompletionSource NewSignal() => new(TaskCreationOptions.RunContinuationsAsynchronously);

    public int CpuCount => _machine.Cpus.Count;

    /// <summary>The debugger has stopped the guest.</summary>
    public bool HasStopped { get; private set; }

    /// <summary>Addresses of memory are those behind the page tables.</summary>
    public bool Physical { get; set; }

    /// <summary>Completes when a vCPU has stopped since the guest went on; then <see cref="Stop"/> is to be called.</summary>
    public Task Stopped
    {
        get
        {
            lock (_lock) return _stopped.Task;
        }
    }

    /// <summary>A debugger comes: the guest stands still when this returns.</summary>
    public void Attach()
    {
        Physical = false;
        _machine.DebugStop = OnStop;
        Halt();
    }

    /// <summary>The debugger goes: nothing of it is left, and the guest goes on.</summary>
    public void Detach()
    {
        Halt();
        _machine.DebugStop = null; // not before: what a vCPU has exited for would have no handler
        _points.Clear();
        lock (_lock) Array.Clear(_met);
        foreach (X86CpuThread cpu in _machine.Cpus)
        {
            cpu.Cpu.SetDebugControls(null);
            cpu.HoldsInterrupts = false;
        }
        GoOn();
    }

    /// <summary>On a vCPU's thread.</summary>
    private void OnStop(CpuThread thread, VmExit exit)
    {
        int cpu = thread.Cpu.Index;
        DebugStop stop;
        if (exit.Kind == ExitKind.Halt)
        {
            if (_orders[cpu] != CpuOrder.Step) return;
            stop = new DebugStop(cpu, DebugStopKind.Step);
        }
        else
        {
            stop = exit.DebugCause switch
            {
                DebugCause.Breakpoint => new DebugStop(cpu, DebugStopKind.HardwareBreakpoint, exit.Address),
                DebugCause.Watchpoint => new DebugStop(cpu, DebugStopKind.AccessWatch, exit.Address),
                _ => new DebugStop(cpu, DebugStopKind.Step),
            };
        }
        thread.Hold();
        lock (_lock)
        {
            _met[cpu] = stop;
            _stopped.TrySetResult();
        }
    }

    /// <summary>Stops all vCPUs, if they do not stand still already, and returns why.</summary>
    /// <param name="preferred">The vCPU to name when the debugger asked for it.</param>
    public DebugStop Stop(int preferred)
    {
        Halt();
        return TakeMet(_ => true) ?? new DebugStop(preferred, DebugStopKind.Interrupted);
    }

    private void Halt()
    {
        if (HasStopped) return;
        foreach (X86CpuThread cpu in _machine.Cpus) cpu.Hold();
        _vm.Pause();
        Array.Clear(_states);
        HasStopped = true;
    }

    /// <summary>
    /// What one of the vCPUs has met. Others at breakpoints meet them again when they go on, or not, should the breakpoint be gone; a watchpoint that another
    /// one has met is kept until that is told to go on.
    /// </summary>
    private DebugStop? TakeMet(Func<int, bool> isAskedFor)
    {
        lock (_lock)
        {
            DebugStop? told = null;
            // A step is what the debugger waits for most.
            foreach (int cpu in Enumerable.Range(0, CpuCount).OrderBy(c => _orders[c] == CpuOrder.Step ? 0 : 1))
            {
                if (_met[cpu] is not { } met || !isAskedFor(cpu)) continue;
                DebugStopKind? kind = met.Kind switch
                {
                    DebugStopKind.HardwareBreakpoint => _points.BreakpointAt(met.Address),
                    DebugStopKind.AccessWatch => _points.WatchpointAt(met.Address),
                    _ => met.Kind,
                };
                if (kind is not { } known || (told is not null && met.Kind != DebugStopKind.AccessWatch))
                {
                    _met[cpu] = null;
                    continue;
                }
                if (told is not null) continue;
                told = met with { Kind = known };
                _met[cpu] = null;
            }
            return told;
        }
    }

    /// <summary>Lets the guest go on.</summary>
    /// <param name="orders">For each vCPU.</param>
    /// <returns>What one that was to go on had met before; the guest stands still then. Null: it goes on.</returns>
    public DebugStop? Resume(IReadOnlyList<CpuOrder> orders)
    {
        if (TakeMet(cpu => orders[cpu] != CpuOrder.Hold) is { } met) return met;
        for (int n = 0; n < CpuCount; n++)
        {
            X86CpuThread cpu = _machine.Cpus[n];
            _orders[n] = orders[n];
            cpu.Cpu.SetDebugControls(_points.Controls(step: orders[n] == CpuOrder.Step));
            cpu.HoldsInterrupts = orders[n] == CpuOrder.Step;
        }
        lock (_lock)
        {
            if (_stopped.Task.IsCompleted) _stopped = NewSignal();
        }
        GoOn(orders);
        return null;
    }

    private void GoOn(IReadOnlyList<CpuOrder>? orders = null)
    {
        HasStopped = false;
        for (int n = 0; n < CpuCount; n++)
        {
            if (orders is null || orders[n] != CpuOrder.Hold) _machine.Cpus[n].Release();
        }
        _vm.Resume();
    }

    // ---- registers

    /// <summary>A vCPU's state, which must not be changed but by <see cref="Change"/>.</summary>
    public CpuState StateOf(int cpu)
    {
        if (_states[cpu] is { } known) return known;
        CpuState state = _vm.ReadState(cpu);
        if (_machine.Cpus[cpu].Interrupts is { } interrupts)
        {
            lock (_machine.InterruptLock) state.Cr8 = interrupts.Cr8; // the local APIC's
        }
        return _states[cpu] = state;
    }

    /// <summary>Changes a vCPU's state. False: the change says that it cannot be; nothing has changed then.</summary>
    public bool Change(int cpu, Func<CpuState, bool> change)
    {
        var state = new CpuState();
        state.CopyFrom(StateOf(cpu));
        ulong priority = state.Cr8;
        if (!change(state)) return false;
        if (_vm.Ended) return true; // nobody runs it any more
        if (state.Cr8 != priority && _machine.Cpus[cpu].Interrupts is { } interrupts)
        {
            lock (_machine.InterruptLock) interrupts.Cr8 = state.Cr8;
        }
        _machine.Cpus[cpu].Cpu.WriteState(state);
        ForgetStates();
        return true;
    }

    /// <summary>Something else may have changed states.</summary>
    public void ForgetStates() => Array.Clear(_states);

    /// <summary>What the vCPU does, in a few words.</summary>
    public string Describe(int cpu)
    {
        const string waits = "waits for its start";
        if (_machine.Cpus[cpu].Interrupts is { } interrupts)
        {
            lock (_machine.InterruptLock)
            {
                if (interrupts.WaitsForStartUp) return waits; // the vCPU itself may not know yet
            }
        }
        return _machine.Cpus[cpu].Activity switch
        {
            CpuActivity.Halted => "halted",
            CpuActivity.WaitForStartUp => waits,
            CpuActivity.Shutdown => "shut down",
            _ => "running",
        };
    }

    // ---- memory

    /// <summary>Reads memory through the page tables of a vCPU, whatever they allow, and leaves them as they are.</summary>
    /// <returns>Bytes that could be read, up to the first that is no memory.</returns>
    public int ReadMemory(int cpu, ulong address, Span<byte> bytes)
    {
        if (!Physical) return LinearMemory.Read(_machine.Memory, StateOf(cpu), address, bytes);
        int done = 0;
        while (done < bytes.Length)
        {
            int n = Math.Min(bytes.Length - done, (int)(GuestMemory.PageSize - (address & (GuestMemory.PageSize - 1))));
            if (!_machine.Memory.Read(address, bytes.Slice(done, n))) break;
            done += n;
            address += (ulong)n;
        }
        return done;
    }

    /// <summary>Writes memory as <see cref="ReadMemory"/> reads it. False: not all of it is RAM; what comes before is written.</summary>
    public bool WriteMemory(int cpu, ulong address, ReadOnlySpan<byte> bytes) =>
        Physical ? _machine.Memory.Write(address, bytes) : LinearMemory.Write(_machine.Memory, StateOf(cpu), address, bytes) == bytes.Length;

    // ---- breakpoints

    /// <inheritdoc cref="DebugPoints.Add"/>
    public string? AddPoint(PointKind kind, ulong address, ulong length) => _points.Add(kind, address, length);

    /// <inheritdoc cref="DebugPoints.Remove"/>
    public void RemovePoint(PointKind kind, ulong address, ulong length) => _points.Remove(kind, address, length);

    // ---- the rest

    /// <summary>Ends the guest.</summary>
    public void Kill() => _vm.End(HostEnd.Quit);

    /// <summary>The VM, for the monitor's commands.</summary>
    public Vm Vm => _vm;
}
