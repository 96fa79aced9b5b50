using Bunraku.Machine;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;

namespace Bunraku.DeviceFuzz;

/// <summary>Where the hostile guest reaches: a start and the bits that chance adds to it.</summary>
internal readonly record struct Target(ulong Start, ulong Mask);

/// <summary>What the hostile guest picks from: entries that occur more than once are picked more often. Each table has a power of two of entries.</summary>
internal static class HostilePlan
{
    private const ulong HighMemory = 1ul << 32;

    /// <summary>Registers of virtio devices.</summary>
    public const uint Sockets = 0xE000_0000, Balloon = 0xE001_0000, InMemory = 0xE002_0000, Folder = 0xE003_0000;

    /// <summary>A quarter of them anywhere, the rest at devices. What ends the VM (F4h, 92h, CF9h, 604h, 64h) has few.</summary>
    public static readonly Target[] Ports =
    [
        .. Times(8, new(0, 0xFFFF)), new(0, 0xFF), .. Times(2, new(0, 0x7FF)), new(0xFFFC, 3),
        .. Times(3, new(0x3F8, 7)), .. Times(3, new(0x2F8, 7)), .. Times(4, new(0x40, 3)), new(0x61, 0),
        .. Times(3, new(0x20, 1)), .. Times(3, new(0xA0, 1)), new(0x4D0, 1),
        .. Times(4, new(0x70, 1)), .. Times(2, new(0x60, 0)), new(0x60, 4), new(0x64, 0),
        .. Times(6, new(PciHost.FirstPort, 4)), .. Times(2, new(PciHost.FirstPort + 4, 3)),
        .. Times(3, new(FwCfg.SelectorPort, 1)), .. Times(3, new(FwCfg.SelectorPort + 4, 7)),
        new(PowerManagement.FirstPort, 3), .. Times(2, new(PowerManagement.FirstPort + 8, 3)),
        new(0x80, 15), new(0xE0, 7), new(0xE9, 0), new(0xF0, 0), .. Times(4, new(TestDevice.InterruptPort, 15)), new(0x10, 3),
    ];

    /// <summary>
    /// Local APIC (as a page and by register), I/O APIC, configuration space, HPET, PCI window, test device, and the seams between RAM, devices and nothing.
    /// </summary>
    public static readonly Target[] Mmio =
    [
        .. Times(7, new(MemoryLayout.LocalApic, 0xFFF)), .. Times(6, new(MemoryLayout.LocalApic, 0x3F0)),
        .. Times(5, new(MemoryLayout.IoApic, 0x10)), new(MemoryLayout.IoApic, 0xFFF),
        new(MemoryLayout.PciEcam, 0xF_FFFF), new(MemoryLayout.PciEcam, 0x2_81FF),
        .. Times(8, new(MemoryLayout.Hpet, 0x1F8)), .. Times(3, new(MemoryLayout.Hpet, 0x3FF)),
        .. Times(4, new(Sockets, 0x3F)), new(Sockets, 0x7FFF), .. Times(4, new(Balloon, 0x3F)), new(Balloon, 0x7FFF), new(Balloon + 0x2000, 7),
        new(Balloon + 0x3000, 0x1F), .. Times(5, new(InMemory, 0xFC)), new(InMemory, 0x1FF),
        .. Times(2, new(Folder, 0x3F)), new(Folder, 0x7FFF), new(Folder + 0x3000, 0x1F),
        new(MemoryLayout.PciWindow, 0x3FFF_FFFF), new(TestDevice.MemoryBase, 0x1_FFFF), new(TestDevice.MemoryBase + TestDevice.MemoryLength - 16, 31),
        new(MemoryLayout.LocalApic - 16, 31), new(MemoryLayout.LocalApic + 0xFF0, 31), new(MemoryLayout.Hpet - 16, 31),
        new(HostileGuest.MemorySize - 16, 31), new(MemoryLayout.VideoHole, 0x1_FFFF), new(HighMemory, 0x3F_FFFF_FFFF), new(HighMemory - 16, 31),
    ];

    public static readonly Target[] Msrs =
    [
        .. Times(6, new(0x800, 0x3F)), .. Times(2, new(0x800, 0x3FF)), .. Times(6, new(0x4B56_4D00, 7)), new(0x4B56_4D00, 0xFF), new(0x11, 1),
        new(0x10, 0), new(0x3B, 0), .. Times(3, new(0x6E0, 0)), .. Times(2, new(0x1B, 0)),
        new(0x200, 0xF), new(0x250, 0x1F), new(0x268, 7), new(0x2FF, 0), new(0x277, 0), new(0, 0x1FF), new(0xC000_0000, 0x1FF),
        new(0xC001_0000, 0x1FF), new(0, uint.MaxValue),
    ];

    private static IEnumerable<Target> Times(int count, Target target) => Enumerable.Repeat(target, count);
}
