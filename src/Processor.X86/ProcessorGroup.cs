namespace Bunraku.Processor.X86;

/// <summary>The processors of one VM, and what they share. Thread-safe.</summary>
internal sealed class ProcessorGroup
{
    /// <summary>How many vCPUs a VM can have.</summary>
    public const int MostMembers = 32;
    /// <summary>A vCPU that is running leaves the guest within a few microseconds; longer takes only one that the host keeps waiting.</summary>
    private const int QuickLooks = 100;

    private readonly object _bus = new();
    private volatile Processor[] _members = [];
    private volatile Processor? _busOwner; // changes with _bus held

    /// <summary>Processors of the host that vCPUs keep to for moments.</summary>
    public Platform.LeasedProcessors LeasedProcessors { get; } = new();

    /// <summary>How many processors the VM has.</summary>
    public int Count => _members.Length;

    /// <summary>The processor with this number, which is its APIC ID; null: there is none.</summary>
    public Processor? Find(uint id) => Array.Find(_members, m => (uint)m.CpuIndex == id);

    /// <summary>Before the VM runs.</summary>
    public void Add(Processor processor) => _members = [.. _members, processor];

    /// <summary>
    /// LOCK# for an operand that no host atomic reaches: in two pages, or not in RAM. Returns when no other vCPU is inside the guest, and none enters before
    /// <see cref="UnlockBus"/>. For a vCPU inside the guest, in the middle of an instruction that has changed nothing yet.
    /// </summary>
    /// <remarks>
    /// Intel SDM vol. 3A, "Bus Locking": the integrity of a bus lock is not affected by the alignment of the memory field. The other vCPUs have to stand still,
    /// since their plain accesses and host atomics know nothing of any lock of ours.
    /// </remarks>
    public void LockBus(Processor processor)
    {
        processor.Shootdown.WaitsForBus(true); // who waits for the bus keeps nobody waiting
        lock (_bus)
        {
            while (_busOwner != null) Monitor.Wait(_bus);
            _busOwner = processor;
        }
        processor.Shootdown.WaitsForBus(false);
        foreach (Processor other in _members)
        {
            if (other == processor) continue;
            if (other.Shootdown.AccessesMemory) other.Signal(Attention.Event);
            for (int looks = 0; other.Shootdown.AccessesMemory; looks++)
            {
                if (looks < QuickLooks) Thread.SpinWait(4);
                else processor.PauseLoops.WaitForOthers();
            }
        }
    }

    public void UnlockBus()
    {
        lock (_bus)
        {
            _busOwner = null;
            Monitor.PulseAll(_bus);
        }
    }

    /// <summary>Another vCPU has the bus or waits for it. To be asked after <see cref="Shootdown.AccessesMemory"/> became true.</summary>
    public bool MustWaitForBus(Processor processor) => _busOwner is { } owner && owner != processor;

    /// <summary>For a vCPU outside the guest.</summary>
    public void WaitForBus(Processor processor)
    {
        lock (_bus)
        {
            while (MustWaitForBus(processor)) Monitor.Wait(_bus);
        }
    }
}
