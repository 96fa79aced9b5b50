using Bunraku.Machine.Board;
using Bunraku.Machine.Board.Parts;

namespace Bunraku.Machine.Acpi;

/// <summary>The AML of the board: what its operating system cannot find by probing.</summary>
internal static class Dsdt
{
    /// <summary>PCI INTx pins lead to the I/O APIC inputs from here on, by <see cref="PciInterruptInput"/>.</summary>
    public const int FirstPciInput = 16;
    private const int PciInputs = 8;
    private const int PciSlots = 32, PciPins = 4;

    /// <summary>I/O APIC input of a slot's INTA (0) to INTD (3): neighbours use different ones.</summary>
    public static int PciInterruptInput(int slot, int pin) => FirstPciInput + (slot + pin) % PciInputs;

    public static byte[] Build(AcpiDescription description)
    {
        var aml = new AmlBuilder();
        aml.NamePackage("_S5", 4, p => p.Integer(PowerManagement.SleepTypeS5).Integer(0).Integer(0).Integer(0));
        // The operating system says which interrupt controllers it uses: 0 the 8259As, 1 the APICs.
        aml.Name("PICM", 0);
        aml.Method("_PIC", 1, serialized: false, m => m.StoreArgument(0, "PICM"));
        aml.Scope("_SB", sb =>
        {
            for (int n = 0; n < description.Cpus; n++)
            {
                int uid = n;
                sb.Device($"C{n:X3}", d => d.Name("_HID", "ACPI0007").Name("_UID", (ulong)uid));
            }
            foreach ((string name, Action<AmlBuilder> contents) in description.SystemDevices) sb.Device(name, contents);
            if (description.HasPci) sb.Device("PCI0", bridge => HostBridge(bridge, description));
            else LegacyDevices(sb, description);
        });
        return aml.Bytes.ToArray();
    }

    private static void HostBridge(AmlBuilder bridge, AcpiDescription description)
    {
        bridge.NameEisaId("_HID", "PNP0A03").Name("_UID", 0);
        bridge.Name("_CRS", new ResourceTemplate()
            .BusRangeProduced(0, 0)
            .Ports(0xCF8, 8)
            .PortRangeProduced(0, 0xCF7)
            .PortRangeProduced(0xD00, 0xFFFF)
            .MemoryRangeProduced((uint)MemoryLayout.PciWindow, (uint)(MemoryLayout.PciWindowEnd - 1)));
        bridge.NamePackage("_PRT", PciSlots * PciPins, RoutingTable);

        bridge.Device("ISA", isa =>
        {
            isa.Name("_ADR", PciPart.IsaBridgeSlot << 16);
            LegacyDevices(isa, description);
        });
    }

    private static void LegacyDevices(AmlBuilder parent, AcpiDescription description)
    {
        foreach ((string name, Action<AmlBuilder> contents) in description.IsaDevices) parent.Device(name, contents);
        // Motherboard resources: what no driver claims but must not be given to anybody else. The I/O APIC is in the MADT.
        parent.Device("MBRD", AcpiDescription.DeviceOf("PNP0C02", description.Reserved, uid: null));
    }

    /// <summary>Each slot's four pins: address (slot, any function), pin, no link device, global system interrupt.</summary>
    private static void RoutingTable(AmlBuilder table)
    {
        for (int slot = 0; slot < PciSlots; slot++)
        {
            for (int pin = 0; pin < PciPins; pin++)
            {
                ulong address = (ulong)slot << 16 | 0xFFFF, gsi = (ulong)PciInterruptInput(slot, pin), number = (ulong)pin;
                table.Package(4, p => p.Integer(address).Integer(number).Integer(0).Integer(gsi));
            }
        }
    }
}
