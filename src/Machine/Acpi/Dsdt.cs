using Bunraku.Machine.Board;
using Bunraku.Machine.Serial;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Acpi;

/// <summary>The AML of the board: what its operating system cannot find by probing.</summary>
internal static class Dsdt
{
    /// <summary>PCI INTx pins lead to the I/O APIC inputs from here on, by <see cref="PciInterruptInput"/>.</summary>
    private const int FirstPciInput = 16, PciInputs = 8;
    private const int PciSlots = 32, PciPins = 4;

    /// <summary>I/O APIC input of a slot's INTA (0) to INTD (3): neighbours use different ones.</summary>
    public static int PciInterruptInput(int slot, int pin) => FirstPciInput + (slot + pin) % PciInputs;

    public static byte[] Build(int cpus, bool secondSerial)
    {
        var aml = new AmlBuilder();
        aml.NamePackage("_S5", 4, p => p.Integer(PowerManagement.SleepTypeS5).Integer(0).Integer(0).Integer(0));
        // The operating system says which interrupt controllers it uses: 0 the 8259As, 1 the APICs.
        aml.Name("PICM", 0);
        aml.Method("_PIC", 1, serialized: false, m => m.StoreArgument(0, "PICM"));
        aml.Scope("_SB", sb =>
        {
            for (int n = 0; n < cpus; n++)
            {
                int uid = n;
                sb.Device($"C{n:X3}", d => d.Name("_HID", "ACPI0007").Name("_UID", (ulong)uid));
            }
            IsaDevice(sb, "HPET", "PNP0103", r => r.Memory((uint)MemoryLayout.Hpet, (uint)Hpet.Length), uid: 0);
            sb.Device("PCI0", bridge => HostBridge(bridge, secondSerial));
        });
        return aml.Bytes.ToArray();
    }

    private static void HostBridge(AmlBuilder bridge, bool secondSerial)
    {
        bridge.NameEisaId("_HID", "PNP0A03").Name("_UID", 0);
        bridge.Name("_CRS", new ResourceTemplate()
            .BusRangeProduced(0, 0xFF)
            .Ports(0xCF8, 8)
            .PortRangeProduced(0, 0xCF7)
            .PortRangeProduced(0xD00, 0xFFFF)
            .MemoryRangeProduced((uint)MemoryLayout.PciWindow, (uint)(MemoryLayout.PciWindowEnd - 1)));
        bridge.NamePackage("_PRT", PciSlots * PciPins, RoutingTable);

        bridge.Device("ISA", isa =>
        {
            isa.Name("_ADR", PcBoard.IsaBridgeSlot << 16);
            IsaDevices(isa, secondSerial);
        });
    }

    private static void IsaDevices(AmlBuilder isa, bool secondSerial)
    {
        IsaDevice(isa, "PIC", "PNP0000", r => r.Ports(0x20, 2).Ports(0xA0, 2).Ports(0x4D0, 2).Irq(2));
        IsaDevice(isa, "PIT", "PNP0100", r => r.Ports(0x40, 4).Irq(0));
        IsaDevice(isa, "SPKR", "PNP0800", r => r.Ports(0x61, 1));
        IsaDevice(isa, "RTC", "PNP0B00", r => r.Ports(0x70, 2).Irq(8));
        IsaDevice(isa, "KBD", "PNP0303", r => r.Ports(0x60, 1).Ports(0x64, 1).Irq(1));
        IsaDevice(isa, "MOU", "PNP0F13", r => r.Irq(12));
        IsaDevice(isa, "COM1", "PNP0501", r => r.Ports(Uart16550A.Com1, 8).Irq(4), uid: 1);
        if (secondSerial) IsaDevice(isa, "COM2", "PNP0501", r => r.Ports(Uart16550A.Com2, 8).Irq(3), uid: 2);
        isa.Device("FWCF", d => d.Name("_HID", "QEMU0002").Name("_CRS", new ResourceTemplate().Ports(FwCfg.SelectorPort, 12)));
        // Motherboard resources: what no driver claims but must not be given to anybody else. The I/O APIC is in the MADT.
        IsaDevice(isa, "MBRD", "PNP0C02", r => r
            .Ports(0x92, 1)
            .Ports(PowerManagement.FirstPort, PowerManagement.Ports)
            .Memory((uint)MemoryLayout.LocalApic, 0x10_0000));
    }

    private static void IsaDevice(AmlBuilder parent, string name, string id, Action<ResourceTemplate> resources, ulong? uid = null)
    {
        parent.Device(name, d =>
        {
            d.NameEisaId("_HID", id);
            if (uid is { } u) d.Name("_UID", u);
            var template = new ResourceTemplate();
            resources(template);
            d.Name("_CRS", template);
        });
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
