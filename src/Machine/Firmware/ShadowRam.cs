using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;

namespace Bunraku.Machine.Firmware;

/// <summary>
/// The host bridge of a board with firmware, like the Intel 440FX: its PAM registers say for each piece of C0000h to FFFFFh whether reads and writes go to RAM,
/// or to the ISA bus, where E0000h to FFFFFh show the end of the ROM. After a reset all goes to the bus. Firmware copies itself into the RAM behind and makes
/// that read-only. There is no SMM and no SMRAM: their register is hard-wired to closed.
/// </summary>
/// <remarks>
/// Intel 440FX PCIset data sheet (290549-001), "PAM[6:0] - Programmable Attribute Map Registers": a nibble for each 16 KiB and for the last 64 KiB; bit 0 lets
/// reads go to RAM, bit 1 writes.
/// </remarks>
internal sealed class HostBridge440Fx : PciFunction
{
    /// <summary>PAM0, whose upper nibble is for F0000h; six more follow, each for 32 KiB from C0000h on.</summary>
    public const int FirstAttributeMap = 0x59;
    private const int AttributeMaps = 7, SmramControl = 0x72;
    private const byte Attributes = 0x33, FirstMapAttributes = 0x30, CompatibleSmram = 0x02;

    private readonly ShadowRam _shadow;

    public HostBridge440Fx(ShadowRam shadow)
        : base(PciHost.Intel, PciHost.HostBridge, classCode: 0x060000, revision: 2, PciHost.QemuVendor, PciHost.QemuSubsystem)
    {
        _shadow = shadow;
        for (int n = 0; n < AttributeMaps; n++) Config.AllowWrites(FirstAttributeMap + n, n == 0 ? FirstMapAttributes : Attributes, size: 1);
        Config.Bytes[SmramControl] = CompatibleSmram;
        _shadow.Update(Config.Bytes.Slice(FirstAttributeMap, AttributeMaps));
    }

    protected override void ConfigChanged(bool restored) => _shadow.Update(Config.Bytes.Slice(FirstAttributeMap, AttributeMaps));
}

/// <summary>RAM and ROM of a board with firmware, and what of the two shows where below 1 MiB.</summary>
internal sealed class ShadowRam : IMmioDevice
{
    public const ulong Start = 0xC_0000, Length = MemoryLayout.HighMemory - Start;
    private const ulong Segment = 16 << 10, Bios = 0xE_0000;

    [Flags]
    private enum Attribute
    {
        ReadsRam = 1,
        WritesRam = 2,
    }

    private readonly GuestMemory _memory;
    private readonly MemoryMap _map;
    private readonly ulong _romEnd, _shown; // offset of the ROM's end in the backing memory, and how much of it shows below 1 MiB
    private readonly Attribute[] _attributes = new Attribute[Length / Segment];

    /// <param name="memory">With the regions of <see cref="MemoryLayout.WithFirmware"/>.</param>
    /// <param name="map">Shows what this says.</param>
    public ShadowRam(GuestMemory memory, MemoryMap map)
    {
        (_memory, _map) = (memory, map);
        MemoryRegion rom = memory.InitialRegions.First(r => r.End == MemoryLayout.FirmwareEnd);
        _romEnd = rom.Offset + rom.Length;
        _shown = Math.Min(rom.Length, MemoryLayout.HighMemory - Bios);
    }

    /// <summary>Shows what the attribute map registers say.</summary>
    /// <param name="registers">PAM0 to PAM6.</param>
    public void Update(ReadOnlySpan<byte> registers)
    {
        for (int n = 0; n < _attributes.Length; n++)
        {
            // The last four pieces are PAM0's upper nibble; the others follow each other in nibbles from PAM1 on.
            int nibble = n < _attributes.Length - 4 ? registers[1 + n / 2] >> 4 * (n & 1) : registers[0] >> 4;
            _attributes[n] = (Attribute)(nibble & 3);
        }
        List<MemoryRegion> map = [new(0, MemoryLayout.VideoHole, 0, false)];
        for (ulong at = Start; at < MemoryLayout.HighMemory; at += Segment)
        {
            if (Shown(at) is not { } region) continue;
            MemoryRegion last = map[^1];
            if (last.End == region.Start && last.Offset + last.Length == region.Offset && last.IsReadOnly == region.IsReadOnly)
                map[^1] = last with { Length = last.Length + region.Length };
            else map.Add(region);
        }
        _map.ShowLow(map);
    }

    private MemoryRegion? Shown(ulong at)
    {
        Attribute attribute = _attributes[(at - Start) / Segment];
        if (attribute.HasFlag(Attribute.ReadsRam)) return new(at, Segment, at, !attribute.HasFlag(Attribute.WritesRam));
        ulong before = MemoryLayout.HighMemory - at; // the end
        return before <= _shown ? new(at, Segment, _romEnd - before, true) : null;
    }

    /// <summary>Nothing shows there.</summary>
    public ulong ReadMmio(ulong offset, int size) => ulong.MaxValue;

    /// <summary>
    /// Writes to what shows as ROM or as nothing; they reach RAM where the map says so, as firmware that copies itself into its shadow expects.
    /// </summary>
    public void WriteMmio(ulong offset, int size, ulong value)
    {
        Attribute attribute = _attributes[offset / Segment];
        if (attribute != Attribute.WritesRam) return;
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        _memory.WriteBacking(Start + offset, bytes[..size]);
    }
}
