using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;

namespace Bunraku.Machine.Board.Parts;

/// <summary>The VM generation ID, its ACPI device, and the general-purpose event that notifies it.</summary>
internal sealed class VmGenerationPart : IBoardPart
{
    /// <summary>As on QEMU's boards.</summary>
    private const int Event = 5;
    private const byte Changed = 0x80;

    private readonly LegacyTimers _timers;
    private readonly ulong? _address; // of the ID; null: the firmware finds a place

    /// <param name="timers">Have the event's registers.</param>
    /// <param name="id">What the guest reads at first.</param>
    public VmGenerationPart(GuestMemory memory, LegacyTimers timers, Guid id, bool hasFirmware)
    {
        _timers = timers;
        _address = hasFirmware ? null : MemoryLayout.VmGeneration + VmGeneration.IdOffset;
        Device = new VmGeneration(memory, id, _address, Notify, new DeviceLock("VM generation"));
    }

    public VmGeneration Device { get; }

    public void AttachTo(IBoard board)
    {
        board.Machine.Add(Device, Device.Lock);
        if (_address is null)
        {
            board.FwCfg.AddFile(VmGeneration.IdFile, Device.IdPage);
            board.FwCfg.AddFile(VmGeneration.AddressFile, Device.AddressOfId, writable: true);
        }
        Describe(board.Acpi, (uint?)_address);
    }

    private void Notify()
    {
        lock (_timers.PowerLock) _timers.Power.RaiseGeneralEvent(Event);
    }

    /// <param name="address">Null: an offset in the file, to which the firmware adds where it has put that.</param>
    internal static void Describe(AcpiDescription acpi, uint? address)
    {
        var aml = new AmlBuilder();
        aml.Scope("\\_GPE", e => e.Method($"_E{Event:X2}", 0, serialized: false, m => m.Notify("\\_SB.VGEN", Changed)));
        aml.Scope("\\_SB", sb => sb.Device("VGEN", d => d.Name("_HID", "BNRK0001").Name("_CID", "VM_Gen_Counter").Name("_DDN", "VM_Gen_Counter")
            .NamePackage("ADDR", 2, p => p.DWord(address ?? VmGeneration.IdOffset).Integer(0))));
        // The package is the last thing in the table, and its second element, the upper half, has one byte.
        int place = aml.Bytes.Length - 1 - sizeof(uint);
        acpi.AddTable("SSDT", 1, aml.Bytes, address is null ? new AcpiPointer(place, sizeof(uint), VmGeneration.IdFile) : null);
    }
}
