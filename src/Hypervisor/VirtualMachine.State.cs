using Bunraku.Engines;

namespace Bunraku.Hypervisor;

// The tree of everything that has state: saved, restored and reset as a whole.
public sealed partial class VirtualMachine
{
    private readonly List<IDevice> _devices = [];
    private readonly HashSet<string> _ids = [];

    /// <summary>The devices, in the order in which they were added.</summary>
    public IReadOnlyList<IDevice> Devices => _devices;

    /// <summary>Makes a device part of the machine: it is saved, restored, reset, paused and resumed with it. Before the start.</summary>
    /// <exception cref="InvalidOperationException">The machine has a part of that name.</exception>
    public void Add(IDevice device)
    {
        if (!_ids.Add(device.Id)) throw new InvalidOperationException($"the machine has a {device.Id} already");
        _devices.Add(device);
    }

    /// <summary>All parts in the order in which they are restored: time first, since timers are armed in it; the vCPUs last, since they look at memory and APICs.</summary>
    private IEnumerable<IStateful> Parts()
    {
        yield return new ShapePart(this);
        yield return Clock;
        foreach (IDevice device in _devices) yield return device;
        if (Paravirtual is { } paravirtual)
        {
            foreach (IStateful cpu in paravirtual.Cpus) yield return cpu;
        }
        foreach (CpuThread cpu in _cpus) yield return new CpuPart(cpu.Cpu);
    }

    /// <summary>Copies the machine's state out, RAM included. While it is paused. Any thread but a vCPU's.</summary>
    /// <exception cref="CannotSaveException">A part cannot be saved; the message names it.</exception>
    /// <exception cref="InvalidOperationException">The machine is not paused.</exception>
    public MachineState Save()
    {
        lock (_pauseLock)
        {
            RequirePause();
            return new MachineState([.. Parts().Select(StateSerializer.Save)], MemoryImage.Of(Memory));
        }
    }

    /// <summary>
    /// Makes this machine what the saved one was. While it is paused; it may be new, or have run. It must have the same shape: RAM, number of vCPUs, devices, TSC frequency, and a CPU model that has
    /// all features of the other one. Engines may differ.
    /// </summary>
    /// <exception cref="StateFormatException">The state does not fit; the machine is of no use any more if the message names a device or a vCPU.</exception>
    /// <exception cref="InvalidOperationException">The machine is not paused.</exception>
    public void Restore(MachineState state)
    {
        lock (_pauseLock)
        {
            RequirePause();
            IStateful[] parts = [.. Parts()];
            Dictionary<string, SavedState> saved = state.Parts.ToDictionary(p => p.Id);
            string[] missing = [.. parts.Where(p => !saved.ContainsKey(p.Id)).Select(p => p.Id)], unknown = [.. saved.Keys.Except(parts.Select(p => p.Id))];
            if (missing.Length > 0) throw new StateFormatException($"the saved machine has no {string.Join(", ", missing)}");
            if (unknown.Length > 0) throw new StateFormatException($"this machine has no {string.Join(", ", unknown)}, the saved one has");
            StateSerializer.Restore(parts[0], saved[parts[0].Id]); // before anything is changed
            state.Memory.CopyTo(Memory);
            foreach (IStateful part in parts.Skip(1)) StateSerializer.Restore(part, saved[part.Id]);
        }
    }

    /// <summary>
    /// RESET, as from the button: devices and vCPUs are as after power-on, and what was pending is gone. RAM stays as it is, as on a PC: who boots the machine writes firmware's tables and the kernel
    /// anew. While no vCPU runs.
    /// </summary>
    private void ResetParts()
    {
        foreach (IDevice device in _devices) device.Reset();
        foreach (CpuThread cpu in _cpus)
        {
            cpu.Cpu.Reset();
            cpu.UnhaltPending = false;
            cpu.LookForEvents();
        }
    }

    private void RequirePause()
    {
        if (!_paused) throw new InvalidOperationException("the machine must be paused");
    }

    /// <summary>A vCPU's state, whichever engine has it.</summary>
    private sealed class CpuPart(IVirtualCpu cpu) : IStateful<CpuState>
    {
        public string Id => $"cpu{cpu.Index}";

        public CpuState Save()
        {
            var state = new CpuState();
            cpu.ReadState(state);
            return state;
        }

        public void Restore(CpuState state)
        {
            state.Check(Id);
            cpu.WriteState(state);
        }
    }

    private sealed class ShapePart(VirtualMachine vm) : IStateful<MachineShape>
    {
        public string Id => "machine";

        public MachineShape Save() => new(vm.Memory.Size, vm.Cpus.Count, [.. vm.Model.Features.Select(f => f.ToString()).Order(StringComparer.Ordinal)]);

        public void Restore(MachineShape state)
        {
            MachineShape own = Save();
            if (state.Memory != own.Memory) throw new StateFormatException($"the saved machine has {state.Memory} bytes of RAM, this one {own.Memory}");
            if (state.Cpus != own.Cpus) throw new StateFormatException($"the saved machine has {state.Cpus} vCPUs, this one {own.Cpus}");
            string[] missing = [.. state.Features.Except(own.Features)];
            if (missing.Length > 0) throw new StateFormatException($"the saved machine's processor has {string.Join(", ", missing)}, this one's has not");
        }
    }
}
