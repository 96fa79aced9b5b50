using Bunraku.Engines;

namespace Bunraku.Fixtures;

/// <summary>A guest with a virtual APIC: where its pages are, and what its tests look at.</summary>
internal static class VmxApicGuest
{
    /// <summary>The virtual-APIC page, the page that stands for the APIC, a posted-interrupt descriptor.</summary>
    public const uint Page = VmxGuest.ZerosToo, AccessPage = Layout.Spare + 0x2000, Descriptor = 0x10_6040;

    public const SecondaryControls Accesses = SecondaryControls.VirtualizeApicAccesses, X2Apic = SecondaryControls.VirtualizeX2Apic,
        Registers = SecondaryControls.ApicRegisterVirtualization, Delivery = SecondaryControls.VirtualInterruptDelivery;

    /// <summary>A guest whose interrupts may come.</summary>
    public const ulong InterruptFlag = 0x202;

    public static VmxGuest With(SecondaryControls secondary, ProcessorControls primary = ProcessorControls.UseTprShadow, bool ept = false)
    {
        var v = new VmxGuest();
        if (ept) v.WithEpt();
        v.Fields[VmField.Primary] |= VmControl.Secondary | (uint)primary;
        v.Fields[VmField.Secondary] = (ulong)secondary | (v.Fields.TryGetValue(VmField.Secondary, out ulong old) ? old : 0);
        v.Fields[VmField.VirtualApic] = Page;
        v.Fields[VmField.ApicAccess] = AccessPage;
        v.G.Write(AccessPage, 0x6666_6666u); // what nobody sees
        return v;
    }

    /// <summary>With virtual-interrupt delivery; a vector's handler is a HLT, which exits.</summary>
    public static VmxGuest WithInterrupts(SecondaryControls secondary = 0, byte requested = 0)
    {
        VmxGuest v = With(secondary | Delivery, ProcessorControls.UseTprShadow | ProcessorControls.HltExiting);
        v.Fields[VmField.Pin] |= VmControl.ExternalInterrupt;
        v.Fields[VmField.GuestRflags] = InterruptFlag;
        Request(v, requested);
        return v;
    }

    /// <summary>A virtual interrupt waits.</summary>
    public static void Request(VmxGuest v, byte vector)
    {
        if (vector == 0) return;
        uint at = Page + 0x200 + (vector & 0xE0u) / 2;
        v.G.Write(at, v.G.Read<uint>(at) | 1u << (vector & 31));
        v.Fields[VmField.InterruptStatus] = vector;
    }

    /// <summary>Vectors of VISR (100H) or VIRR (200H).</summary>
    public static byte[] Vectors(VmxGuest v, uint register) =>
        [.. Enumerable.Range(0, 256).Where(n => (v.G.Read<uint>(Page + register + ((uint)n & 0xE0) / 2) >> (n & 31) & 1) != 0).Select(n => (byte)n)];
}
