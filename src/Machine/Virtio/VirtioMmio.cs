using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Virtio;

/// <summary>
/// A virtio device whose registers lie in memory: Virtual I/O Device (VIRTIO) Version 1.3, section 4.2 "Virtio Over MMIO". No legacy interface. It interrupts
/// by one wire, and masters the bus always.
/// </summary>
/// <param name="device">What it is; it serves this one place alone.</param>
internal sealed class VirtioMmio(VirtioDevice device) : IVirtioTransport, IMmioDevice, IDevice
{
    /// <summary>Bytes of its registers, the configuration space of the device included.</summary>
    public const uint Length = 0x200;

    private const uint Magic = 0x7472_6976, Version = 2, Vendor = 0x4B52_4E42; // "virt", and "BNRK": a vendor chooses
    private const uint QueueInterrupt = 1, ConfigurationInterrupt = 2;

    private IInterruptLine? _pin;
    private DmaSpace? _dma;
    private uint _deviceFeatureSelect, _driverFeatureSelect, _queueSelect, _interrupts;

    /// <inheritdoc/>
    public string Id => device.Id;

    private DeviceLock Lock { get; } = new(device.Id);

    DmaSpace IVirtioTransport.Dma => _dma!;

    /// <summary>Puts it on a board. Before the guest runs, once.</summary>
    /// <param name="address">Guest-physical, of its registers.</param>
    /// <param name="pin">Its wire, which others may share.</param>
    public void AttachTo(X86Machine machine, ulong address, IInterruptLine pin)
    {
        (_pin, _dma) = (pin, new DmaSpace(machine.Memory, enabled: true));
        machine.Mmio.Add(address, Length, this, Lock);
        machine.Add(this, Lock);
        device.Connect(this);
        device.AttachTo(machine, Lock);
    }

    void IVirtioTransport.InterruptForQueue(int queue) => Interrupt(QueueInterrupt);

    void IVirtioTransport.InterruptForConfiguration() => Interrupt(ConfigurationInterrupt);

    private void Interrupt(uint cause)
    {
        _interrupts |= cause;
        _pin!.Set(true);
    }

    /// <summary>The wire falls for a moment where something is left, so that who waits for its edge finds one.</summary>
    private void Acknowledge(uint causes)
    {
        _interrupts &= ~causes;
        _pin!.Set(false);
        if (_interrupts != 0) _pin.Set(true);
    }

    /// <summary>The queue that is selected; null: there is no such queue.</summary>
    private QueueRegisters? Selected => _queueSelect < (uint)device.QueueCount ? device.Queue((int)_queueSelect) : null;

    /// <inheritdoc/>
    public ulong ReadMmio(ulong offset, int size)
    {
        if (offset >= MmioRegister.Configuration) return device.ReadConfiguration((int)(offset - MmioRegister.Configuration), size);
        return size == 4 && (offset & 3) == 0 ? ReadRegister((uint)offset) : 0; // section 4.2.2.2: other widths are the driver's mistake
    }

    /// <inheritdoc/>
    public void WriteMmio(ulong offset, int size, ulong value)
    {
        if (offset >= MmioRegister.Configuration) device.WriteConfiguration((int)(offset - MmioRegister.Configuration), size, value);
        else if (size == 4 && (offset & 3) == 0) WriteRegister((uint)offset, (uint)value);
    }

    private uint ReadRegister(uint offset) => offset switch
    {
        MmioRegister.Magic => Magic,
        MmioRegister.Version => Version,
        MmioRegister.DeviceId => (uint)device.Type,
        MmioRegister.VendorId => Vendor,
        MmioRegister.DeviceFeatures => VirtioDevice.Half(device.OfferedFeatures, _deviceFeatureSelect),
        MmioRegister.QueueSizeMax => Selected?.MaxSize ?? 0u,
        MmioRegister.QueueReady => Selected?.Live is null ? 0u : 1u,
        MmioRegister.InterruptStatus => _interrupts,
        MmioRegister.Status => (uint)device.Status,
        // Section 4.2.2, "SHMLenLow": all ones are no region. There are none.
        >= MmioRegister.SharedMemoryLength and < MmioRegister.QueueReset => uint.MaxValue,
        MmioRegister.ConfigurationGeneration => device.ConfigurationGeneration,
        _ => 0,
    };

    private void WriteRegister(uint offset, uint value)
    {
        QueueRegisters? queue = Selected is { Live: null } idle ? idle : null; // addresses and size of a live queue stay
        switch (offset)
        {
            case MmioRegister.DeviceFeatureSelect: _deviceFeatureSelect = value; break;
            case MmioRegister.DriverFeatureSelect: _driverFeatureSelect = value; break;
            case MmioRegister.DriverFeatures: device.AcceptFeatures(_driverFeatureSelect, value); break;
            case MmioRegister.QueueSelect: _queueSelect = value; break;
            case MmioRegister.QueueSize: queue?.Size = (ushort)uint.Min(value, ushort.MaxValue); break;
            case MmioRegister.QueueReady: SetReady(value); break;
            case MmioRegister.QueueNotify: device.Notify((int)uint.Min(value, int.MaxValue)); break;
            case MmioRegister.InterruptAcknowledge: Acknowledge(value); break;
            case MmioRegister.Status: WriteStatus((byte)value); break;
            case MmioRegister.QueueDescriptors: queue?.Descriptors = Low(queue.Descriptors, value); break;
            case MmioRegister.QueueDescriptors + 4: queue?.Descriptors = High(queue.Descriptors, value); break;
            case MmioRegister.QueueDriver: queue?.Driver = Low(queue.Driver, value); break;
            case MmioRegister.QueueDriver + 4: queue?.Driver = High(queue.Driver, value); break;
            case MmioRegister.QueueDevice: queue?.Device = Low(queue.Device, value); break;
            case MmioRegister.QueueDevice + 4: queue?.Device = High(queue.Device, value); break;
            case MmioRegister.QueueReset when value == 1 && Selected is not null && device.Features.HasFlag(VirtioFeatures.RingReset):
                device.ResetQueue((int)_queueSelect); break;
        }
    }

    private static ulong Low(ulong before, uint value) => before & ~0xFFFF_FFFFul | value;

    private static ulong High(ulong before, uint value) => before & 0xFFFF_FFFF | (ulong)value << 32;

    /// <summary>Linux takes a queue back by writing 0 when it forgets the device.</summary>
    private void SetReady(uint value)
    {
        if (Selected is not { } queue) return;
        if (value == 1 && queue.Live is null) device.EnableQueue((int)_queueSelect);
        else if (value == 0 && queue.Live is not null) device.ResetQueue((int)_queueSelect);
    }

    private void WriteStatus(byte value)
    {
        device.WriteStatus(value);
        if (value == 0) ResetRegisters();
    }

    private void ResetRegisters()
    {
        (_deviceFeatureSelect, _driverFeatureSelect, _queueSelect) = (0, 0, 0);
        Acknowledge(uint.MaxValue);
    }

    /// <inheritdoc/>
    public void Reset()
    {
        device.Reset();
        ResetRegisters();
    }

    /// <inheritdoc/>
    public void Resume() => device.Resume();

    /// <inheritdoc/>
    public Type StateType => typeof(VirtioMmioState);

    /// <inheritdoc/>
    public object Save() => new VirtioMmioState(_deviceFeatureSelect, _driverFeatureSelect, _queueSelect, _interrupts, device.SaveCommon());

    /// <inheritdoc/>
    public void Restore(object state)
    {
        VirtioMmioState saved = StateCheck.Record<VirtioMmioState>(state, Id);
        (_deviceFeatureSelect, _driverFeatureSelect, _queueSelect) = (saved.DeviceFeatureSelect, saved.DriverFeatureSelect, saved.QueueSelect);
        _interrupts = saved.Causes; // the wire has a state of its own
        device.RestoreCommon(saved.Device);
    }
}

/// <summary>Offsets: section 4.2.2 "MMIO Device Register Layout".</summary>
internal static class MmioRegister
{
    public const uint Magic = 0x000, Version = 0x004, DeviceId = 0x008, VendorId = 0x00C, DeviceFeatures = 0x010, DeviceFeatureSelect = 0x014,
        DriverFeatures = 0x020, DriverFeatureSelect = 0x024, QueueSelect = 0x030, QueueSizeMax = 0x034, QueueSize = 0x038, QueueReady = 0x044,
        QueueNotify = 0x050, InterruptStatus = 0x060, InterruptAcknowledge = 0x064, Status = 0x070, QueueDescriptors = 0x080, QueueDriver = 0x090,
        QueueDevice = 0x0A0, SharedMemorySelect = 0x0AC, SharedMemoryLength = 0x0B0, QueueReset = 0x0C0, ConfigurationGeneration = 0x0FC, Configuration = 0x100;
}

/// <summary>State of a virtio device over MMIO.</summary>
/// <param name="Causes">The interrupt status register.</param>
[StateRecord("virtio-mmio", version: 1)]
internal sealed record VirtioMmioState(uint DeviceFeatureSelect, uint DriverFeatureSelect, uint QueueSelect, uint Causes, VirtioState Device);

/// <summary>Where a board without PCI has its virtio devices: one behind the other in memory, each with an ACPI device that says so.</summary>
/// <param name="board">Whose they are.</param>
public sealed class VirtioMmioSlots(IBoard board)
{
    /// <summary>How many there are.</summary>
    public const int Most = 32;

    private int _count;

    /// <summary>Gives a device the next place.</summary>
    /// <exception cref="InvalidOperationException">All are taken.</exception>
    internal void Add(VirtioDevice device)
    {
        if (_count == Most) throw new InvalidOperationException($"no place is left for {device.Id}: the board has {Most} for virtio devices");
        int number = _count++;
        uint address = (uint)MemoryLayout.VirtioMmio + (uint)number * VirtioMmio.Length;
        new VirtioMmio(device).AttachTo(board.Machine, address, board.PciInterrupt(number, 0));
        // "LNRO0005" is what Linux's driver is known by, and QEMU's boards have.
        board.Acpi.AddSystemDevice($"VR{number:D2}", d => d.Name("_HID", "LNRO0005").Name("_UID", (ulong)number)
            .Name("_CRS", new Acpi.ResourceTemplate().Memory(address, VirtioMmio.Length).Interrupt((uint)Acpi.Dsdt.PciInterruptInput(number, 0))));
    }
}
