using System.Buffers.Binary;

namespace Bunraku.Machine.Pci;

/// <summary>
/// The MSI capability of a function: one message with a 64-bit address, which can be masked and waits then. All of its state is in configuration space. With
/// the device's lock held. PCI Local Bus Specification 3.0, section 6.8.1 "MSI Capability Structure".
/// </summary>
internal sealed class MsiCapability
{
    private const byte CapabilityId = 0x05;
    private const int Control = 2, Address = 4, AddressHigh = 8, Data = 12, Mask = 16, Pending = 20, Length = 24; // from its beginning
    private const ushort Enable = 1, Is64Bit = 1 << 7, CanMask = 1 << 8;
    private const uint Vector = 1; // the only one

    private readonly PciConfigSpace _config;
    private readonly int _at;

    /// <summary>Appends it to a function's list.</summary>
    public MsiCapability(PciFunction function)
    {
        Span<byte> body = stackalloc byte[Length - Control];
        BinaryPrimitives.WriteUInt16LittleEndian(body, Is64Bit | CanMask);
        (_config, _at) = (function.Config, function.AddCapability(CapabilityId, body));
        _config.AllowWrites(_at + Control, Enable, sizeof(ushort));
        _config.AllowWrites(_at + Address, ~3u);
        _config.AllowWrites(_at + AddressHigh, uint.MaxValue);
        _config.AllowWrites(_at + Data, ushort.MaxValue, sizeof(ushort));
        _config.AllowWrites(_at + Mask, Vector);
        _config.ChangesByItself(_at + Pending, Vector);
    }

    /// <summary>Where messages go: address and data.</summary>
    public Action<ulong, uint>? Send { get; set; }

    /// <summary>The function interrupts by messages and not by its pin.</summary>
    public bool Enabled => (_config.Word(_at + Control) & Enable) != 0;

    /// <summary>Sends the message, or remembers it while it is masked.</summary>
    public void Trigger()
    {
        if (!Enabled) return;
        _config.SetLong(_at + Pending, Vector);
        SendPending();
    }

    /// <summary>Sends what waits, where it may be sent.</summary>
    public void SendPending()
    {
        if (!Enabled || _config.Long(_at + Pending) == 0 || (_config.Long(_at + Mask) & Vector) != 0) return;
        _config.SetLong(_at + Pending, 0);
        Send?.Invoke(_config.Long(_at + Address) | (ulong)_config.Long(_at + AddressHigh) << 32, _config.Word(_at + Data));
    }
}
