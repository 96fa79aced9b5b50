using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;

namespace Bunraku.Machine.Virtio;

/// <summary>A virtio device on PCI: Virtual I/O Device (VIRTIO) Version 1.3, section 4.1 "Virtio Over PCI Bus". No legacy interface.</summary>
/// <remarks>
/// Base address register 0 has the structures, each on a page of its own; 1 has the MSI-X table with a vector for each queue and one for changes of
/// configuration.
/// </remarks>
public sealed class VirtioPci : PciDevice, IVirtioTransport
{
    private const ushort Vendor = 0x1AF4, FirstDeviceId = 0x1040;
    private const byte VendorCapability = 0x09;
    private const int Structures = 0, MessageTable = 1;
    private const uint Page = 0x1000, CommonAt = 0, InterruptAt = Page, DeviceAt = 2 * Page, NotifyAt = 3 * Page, StructuresLength = 4 * Page;
    private const uint NotifyMultiplier = 4;
    private const byte QueueInterrupt = 1, ConfigurationInterrupt = 2;

    /// <summary>cfg_type: section 4.1.4 "Virtio Structure PCI Capabilities".</summary>
    private enum Structure : byte { Common = 1, Notify = 2, Interrupt = 3, Device = 4, Access = 5 }

    private readonly VirtioDevice _device;
    private readonly int _accessCapability;
    private uint _deviceFeatureSelect, _driverFeatureSelect;
    private ushort _queueSelect, _configurationVector = QueueRegisters.NoVector;
    private byte _interrupts;

    /// <param name="device">What it is; it serves this one place alone.</param>
    public VirtioPci(VirtioDevice device)
        : base(device.Id, Vendor, (ushort)(FirstDeviceId + (ushort)device.Type), ClassCode(device.Type), revision: 1, Vendor,
            (ushort)(FirstDeviceId + (ushort)device.Type))
    {
        _device = device;
        AddMemory(Structures, PciBarKind.Memory32, StructuresLength, new Registers(this));
        AddMsix(MessageTable, Math.Min(device.QueueCount + 1, 128));
        AddStructure(Structure.Common, CommonAt, CommonRegisters.Length);
        AddStructure(Structure.Interrupt, InterruptAt, 1);
        AddStructure(Structure.Device, DeviceAt, Page);
        AddStructure(Structure.Notify, NotifyAt, (uint)device.QueueCount * NotifyMultiplier, NotifyMultiplier);
        _accessCapability = AddStructure(Structure.Access, 0, 0, 0);
        // bar, offset and length of what is to be accessed, and the window itself: the driver writes them.
        Config.AllowWrites(_accessCapability + 4, 0xFF);
        Config.AllowWrites(_accessCapability + 8, uint.MaxValue);
        Config.AllowWrites(_accessCapability + 12, uint.MaxValue);
    }

    private static uint ClassCode(VirtioType type) => type switch
    {
        VirtioType.Network => 0x020000,
        VirtioType.Block or VirtioType.FileSystem => 0x018000,
        VirtioType.NineP => 0x000200,
        VirtioType.Console => 0x078000,
        VirtioType.Input => 0x098000,
        _ => 0x00FF00,
    };

    private int AddStructure(Structure type, uint offset, uint length, uint? more = null)
    {
        byte[] body = new byte[more is null ? 14 : 18];
        (body[0], body[1], body[2]) = ((byte)(body.Length + 2), (byte)type, Structures);
        BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(6), offset);
        BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(10), length);
        if (more is { } value) BinaryPrimitives.WriteUInt32LittleEndian(body.AsSpan(14), value);
        return AddCapability(VendorCapability, body);
    }

    DmaSpace IVirtioTransport.Dma => Dma;

    /// <inheritdoc/>
    protected override void Attached()
    {
        _device.Connect(this);
        _device.AttachTo(Machine, Lock);
    }

    void IVirtioTransport.InterruptForQueue(int queue) => Interrupt(QueueInterrupt, _device.Queue(queue).Vector);

    void IVirtioTransport.InterruptForConfiguration() => Interrupt(ConfigurationInterrupt, _configurationVector);

    private void Interrupt(byte cause, ushort vector)
    {
        if (UsesMessages)
        {
            SendMessage(vector);
            return;
        }
        _interrupts |= cause;
        SetPin(true);
    }

    /// <summary>Section 4.1.4.5 "ISR status capability": reading it takes the interrupt back.</summary>
    private byte TakeInterrupts()
    {
        byte causes = _interrupts;
        _interrupts = 0;
        SetPin(false);
        return causes;
    }

    private ulong ReadRegister(ulong offset, int size) => ((uint)offset / Page) switch
    {
        0 => ReadCommon((int)offset, size),
        1 => (uint)offset == InterruptAt ? TakeInterrupts() : 0u,
        2 => _device.ReadConfiguration((int)((uint)offset - DeviceAt), size),
        _ => 0,
    };

    private void WriteRegister(ulong offset, int size, ulong value)
    {
        switch ((uint)offset / Page)
        {
            case 0: WriteCommon((int)offset, size, value); break;
            case 2: _device.WriteConfiguration((int)((uint)offset - DeviceAt), size, value); break;
            case 3: _device.Notify((int)(((uint)offset - NotifyAt) / NotifyMultiplier)); break;
        }
    }

    /// <summary>The queue that is selected; null: there is no such queue.</summary>
    private QueueRegisters? Selected => _queueSelect < _device.QueueCount ? _device.Queue(_queueSelect) : null;

    private ulong ReadCommon(int offset, int size)
    {
        Span<byte> all = stackalloc byte[CommonRegisters.Length + 8]; // an access may reach beyond the end
        all.Clear();
        Put32(all, CommonRegisters.DeviceFeatureSelect, _deviceFeatureSelect);
        Put32(all, CommonRegisters.DeviceFeature, VirtioDevice.Half(_device.OfferedFeatures, _deviceFeatureSelect));
        Put32(all, CommonRegisters.DriverFeatureSelect, _driverFeatureSelect);
        Put32(all, CommonRegisters.DriverFeature, VirtioDevice.Half(_device.Features, _driverFeatureSelect));
        Put16(all, CommonRegisters.ConfigurationVector, _configurationVector);
        Put16(all, CommonRegisters.QueueCount, (ushort)_device.QueueCount);
        all[CommonRegisters.Status] = (byte)_device.Status;
        all[CommonRegisters.ConfigurationGeneration] = _device.ConfigurationGeneration;
        Put16(all, CommonRegisters.QueueSelect, _queueSelect);
        if (Selected is { } queue)
        {
            Put16(all, CommonRegisters.QueueSize, queue.Size);
            Put16(all, CommonRegisters.QueueVector, queue.Vector);
            Put16(all, CommonRegisters.QueueEnable, (ushort)(queue.Live is null ? 0 : 1));
            Put16(all, CommonRegisters.QueueNotifyOffset, _queueSelect);
            BinaryPrimitives.WriteUInt64LittleEndian(all[CommonRegisters.QueueDescriptors..], queue.Descriptors);
            BinaryPrimitives.WriteUInt64LittleEndian(all[CommonRegisters.QueueDriver..], queue.Driver);
            BinaryPrimitives.WriteUInt64LittleEndian(all[CommonRegisters.QueueDevice..], queue.Device);
            Put16(all, CommonRegisters.QueueNotifyData, _queueSelect);
        }
        if (offset > CommonRegisters.Length) return 0;
        ulong value = BinaryPrimitives.ReadUInt64LittleEndian(all[offset..(offset + 8)]);
        return size == 8 ? value : value & ((1ul << (8 * size)) - 1);

        static void Put16(Span<byte> all, int at, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(all[at..], value);
        static void Put32(Span<byte> all, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(all[at..], value);
    }

    /// <summary>Section 4.1.3.1: a driver uses the width of each field; 64-bit ones may be written in halves. Anything else is lost.</summary>
    private void WriteCommon(int offset, int size, ulong value)
    {
        QueueRegisters? queue = Selected is { Live: null } idle ? idle : null; // addresses and size of a live queue stay
        switch (offset, size)
        {
            case (CommonRegisters.DeviceFeatureSelect, 4): _deviceFeatureSelect = (uint)value; break;
            case (CommonRegisters.DriverFeatureSelect, 4): _driverFeatureSelect = (uint)value; break;
            case (CommonRegisters.DriverFeature, 4): _device.AcceptFeatures(_driverFeatureSelect, (uint)value); break;
            case (CommonRegisters.ConfigurationVector, 2): _configurationVector = Vector((ushort)value); break;
            case (CommonRegisters.Status, 1): WriteStatus((byte)value); break;
            case (CommonRegisters.QueueSelect, 2): _queueSelect = (ushort)value; break;
            case (CommonRegisters.QueueSize, 2): queue?.Size = (ushort)value; break;
            case (CommonRegisters.QueueVector, 2): Selected?.Vector = Vector((ushort)value); break;
            case (CommonRegisters.QueueEnable, 2) when value == 1 && queue is not null: _device.EnableQueue(_queueSelect); break;
            case (CommonRegisters.QueueReset, 2) when value == 1 && Selected is not null
                && _device.Features.HasFlag(VirtioFeatures.RingReset):
                _device.ResetQueue(_queueSelect); break;
            case ( >= CommonRegisters.QueueDescriptors and < CommonRegisters.QueueNotifyData, 4 or 8) when queue is not null
                && offset % size == 0:
                WriteAddress(queue, offset, size, value); break;
        }
    }

    private static void WriteAddress(QueueRegisters queue, int offset, int size, ulong value)
    {
        int field = offset & ~7;
        ulong before = field switch { CommonRegisters.QueueDescriptors => queue.Descriptors, CommonRegisters.QueueDriver => queue.Driver, _ => queue.Device };
        ulong now = size == 8 ? value : (offset & 4) == 0 ? before & ~0xFFFF_FFFFul | (uint)value : before & 0xFFFF_FFFF | value << 32;
        if (field == CommonRegisters.QueueDescriptors) queue.Descriptors = now;
        else if (field == CommonRegisters.QueueDriver) queue.Driver = now;
        else queue.Device = now;
    }

    /// <summary>A vector that the table does not have reads back as none: section 4.1.5.1.2.</summary>
    private ushort Vector(ushort wanted) => wanted < Vectors ? wanted : QueueRegisters.NoVector;

    private void WriteStatus(byte value)
    {
        _device.WriteStatus(value);
        if (value == 0) ResetRegisters();
    }

    private void ResetRegisters()
    {
        (_deviceFeatureSelect, _driverFeatureSelect, _queueSelect, _configurationVector) = (0, 0, 0, QueueRegisters.NoVector);
        TakeInterrupts();
    }

    /// <summary>
    /// Section 4.1.4.9 "PCI configuration access capability": a driver without memory access, firmware, reaches the structures through a window in
    /// configuration space.
    /// </summary>
    public override uint ReadConfig(int offset, int size)
    {
        lock (Lock)
        {
            if (Window(offset, size) is { } at) return (uint)ReadRegister(at, size);
            return base.ReadConfig(offset, size);
        }
    }

    /// <inheritdoc cref="ReadConfig"/>
    public override void WriteConfig(int offset, int size, uint value)
    {
        lock (Lock)
        {
            if (Window(offset, size) is { } at) WriteRegister(at, size, value);
            else base.WriteConfig(offset, size, value);
        }
    }

    /// <summary>Where in the structures an access to the window goes; null: it is none, or none that the driver has described.</summary>
    private ulong? Window(int offset, int size)
    {
        if (offset != _accessCapability + 16) return null;
        uint at = Config.Long(_accessCapability + 8), length = Config.Long(_accessCapability + 12);
        return Config.Bytes[_accessCapability + 4] == Structures && length == (uint)size && at % (uint)size == 0 && at < StructuresLength ? at : null;
    }

    /// <inheritdoc/>
    public override void Reset()
    {
        base.Reset();
        _device.Reset();
        ResetRegisters();
    }

    /// <inheritdoc/>
    public override void Resume() => _device.Resume();

    /// <inheritdoc/>
    public override Type StateType => typeof(VirtioPciState);

    /// <inheritdoc/>
    public override object Save() => new VirtioPciState(
        SaveInterrupts(), _deviceFeatureSelect, _driverFeatureSelect, _queueSelect, _configurationVector, _interrupts, _device.SaveCommon());

    /// <inheritdoc/>
    public override void Restore(object state)
    {
        VirtioPciState saved = StateCheck.Record<VirtioPciState>(state, Id);
        RestoreInterrupts(saved.Interrupts);
        (_deviceFeatureSelect, _driverFeatureSelect, _queueSelect) = (saved.DeviceFeatureSelect, saved.DriverFeatureSelect, saved.QueueSelect);
        (_configurationVector, _interrupts) = (saved.ConfigurationVector, saved.Causes);
        _device.RestoreCommon(saved.Device);
    }

    private sealed class Registers(VirtioPci owner) : IMmioDevice
    {
        public ulong ReadMmio(ulong offset, int size) => owner.ReadRegister(offset, size);

        public void WriteMmio(ulong offset, int size, ulong value) => owner.WriteRegister(offset, size, value);
    }

    /// <summary>Offsets: section 4.1.4.3 "Common configuration structure layout".</summary>
    private static class CommonRegisters
    {
        public const int DeviceFeatureSelect = 0, DeviceFeature = 4, DriverFeatureSelect = 8, DriverFeature = 12, ConfigurationVector = 16, QueueCount = 18,
            Status = 20,
            ConfigurationGeneration = 21, QueueSelect = 22, QueueSize = 24, QueueVector = 26, QueueEnable = 28, QueueNotifyOffset = 30, QueueDescriptors = 32,
                QueueDriver = 40,
            QueueDevice = 48, QueueNotifyData = 56, QueueReset = 58, Length = 64;
    }
}

/// <summary>State of a virtio device on PCI.</summary>
/// <param name="Causes">The interrupt status register.</param>
[StateRecord("virtio-pci", version: 2)]
internal sealed record VirtioPciState(
    PciDeviceState Interrupts, uint DeviceFeatureSelect, uint DriverFeatureSelect, ushort QueueSelect, ushort ConfigurationVector, byte Causes,
        VirtioState Device);
