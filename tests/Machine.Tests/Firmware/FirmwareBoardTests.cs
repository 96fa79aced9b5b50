using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Firmware;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Tests.Board;

namespace Bunraku.Machine.Tests.Firmware;

/// <summary>A board with a ROM: Intel 440FX data sheet, "PAM[6:0]", and what firmware takes from fw_cfg.</summary>
public sealed class FirmwareBoardTests : IDisposable
{
    private const ulong Ram = 64 << 20;
    private const uint RomLength = 256 << 10, Low = 0xF_0000, Top = 0xFFFF_0000;

    private readonly X86Machine _vm;
    private readonly byte[] _rom = new byte[RomLength];

    public FirmwareBoardTests()
    {
        for (int n = 0; n < _rom.Length; n += 4) BinaryPrimitives.WriteInt32LittleEndian(_rom.AsSpan(n), n | 0x4000_0000);
        _vm = NewMachine();
    }

    public void Dispose() => _vm.Dispose();

    private X86Machine NewMachine()
    {
        var vm = new X86Machine(new IdleEngine(), IdleEngine.Model, MemoryLayout.WithFirmware(Ram, RomLength), cpus: 3);
        vm.Pause();
        _ = new PcBoard(vm, new PcBoardOptions { Firmware = new FirmwareImage("pattern", _rom), BootOrder = ["/a", "/b"] });
        return vm;
    }

    private static void Pam(X86Machine vm, int register, byte value)
    {
        vm.Ports.Write(PciHost.FirstPort, 4, 0x8000_0000u | (uint)(register & ~3));
        vm.Ports.Write((ushort)(PciHost.FirstPort + 4 + (register & 3)), 1, value);
    }

    private static int At(X86Machine vm, ulong address) => vm.Memory.TryRead(address, out int value) ? value : -1;

    private int Rom(uint fromTheEnd) => BinaryPrimitives.ReadInt32LittleEndian(_rom.AsSpan((int)(RomLength - fromTheEnd)));

    [Fact]
    public void After_a_reset_the_end_of_the_ROM_shows_below_1_MiB_as_well()
    {
        Assert.Equal((Rom(0x1_0000), Rom(0x1_0000), Rom(16), Rom(16)), (At(_vm, Top), At(_vm, Low), At(_vm, 0xFFFF_FFF0), At(_vm, 0xF_FFF0)));
        Assert.Equal((Rom(0x2_0000), Rom(RomLength)), (At(_vm, 0xE_0000), At(_vm, 0x1_0000_0000ul - RomLength)));
        Assert.Equal((-1, -1, -1), (At(_vm, 0xD_FFFC), At(_vm, 0xC_0000), At(_vm, 0xA_0000))); // the ISA bus, where nobody answers
        Assert.Equal((0, 0), (At(_vm, 0x9_FFFC), At(_vm, 0x10_0000)));
        Assert.False(_vm.Memory.TryWrite(Low, 1));
    }

    [Fact]
    public void Each_attribute_of_a_PAM_register_does_what_it_says()
    {
        Pam(_vm, 0x59, 0x20); // writes to RAM, reads from the bus
        _vm.Mmio.Write(Low, 4, 0x1234);
        Assert.Equal(Rom(0x1_0000), At(_vm, Low));
        Pam(_vm, 0x59, 0x10); // reads from RAM, writes to the bus
        _vm.Mmio.Write(Low, 4, 0x5678);
        Assert.Equal((0x1234, Rom(0x1_0000)), (At(_vm, Low), At(_vm, Top)));
        Assert.False(_vm.Memory.TryWrite(Low, 1));
        Pam(_vm, 0x59, 0x33); // bits of what PAM0 has not are not there
        Assert.True(_vm.Memory.TryWrite(Low, 0x9ABC));
        Assert.Equal((0x9ABC, 0), (At(_vm, Low), At(_vm, 0xF_FFFC)));
        Pam(_vm, 0x59, 0);
        _vm.Mmio.Write(Low, 4, 1);
        Pam(_vm, 0x59, 0x30);
        Assert.Equal(0x9ABC, At(_vm, Low));
    }

    [Fact]
    public void Each_PAM_register_has_two_pieces_of_16_KiB()
    {
        for (int n = 0; n < 12; n++)
        {
            Pam(_vm, 0x5A + n / 2, (byte)(3 << 4 * (n & 1)));
            for (int k = 0; k < 12; k++)
            {
                ulong address = 0xC_0000ul + (ulong)k * 0x4000;
                Assert.Equal(k == n, _vm.Memory.TryWrite(address + 0x3FFC, n + 1));
            }
            Pam(_vm, 0x5A + n / 2, 0);
        }
        for (int register = 0x5A; register <= 0x5F; register++) Pam(_vm, register, 0x33);
        Assert.Equal(Enumerable.Range(1, 12), Enumerable.Range(0, 12).Select(k => At(_vm, 0xC_0000ul + (ulong)k * 0x4000 + 0x3FFC)));
        Assert.Equal(3, _vm.Memory.Regions.Count(r => r.Start < 0x10_0000)); // what lies below the hole, one piece of RAM, the ROM behind it
    }

    [Fact]
    public void A_reset_shows_the_ROM_again_and_a_restored_machine_what_the_saved_one_showed()
    {
        Pam(_vm, 0x59, 0x30);
        Pam(_vm, 0x5A, 0x31);
        Assert.True(_vm.Memory.TryWrite(Low, 0x4321));
        MachineState saved = _vm.Save();
        using X86Machine other = NewMachine();
        other.Restore(saved);
        Assert.Equal(_vm.Memory.Regions, other.Memory.Regions);
        Assert.Equal(0x4321, At(other, Low));
        other.RebootsOnReset = () => true;
        other.Reset();
        Assert.Equal(Rom(0x1_0000), At(other, Low));
    }

    [Fact]
    public void The_bus_master_that_reads_shadow_RAM_while_it_goes_away_comes_to_an_end()
    {
        Pam(_vm, 0x59, 0x30);
        var dma = new DmaSpace(_vm.Memory);
        Assert.True(dma.TryOpen(Low, 0x1_0000, writes: true, out DmaTransfer transfer));
        Pam(_vm, 0x59, 0);
        int pieces = 0;
        foreach (Span<byte> _ in transfer) pieces++;
        Assert.Equal(0, pieces);
        Assert.False(dma.TryOpen(Low, 16, writes: true, out _));
        Assert.True(dma.TryOpen(Low, 16, writes: false, out _));
    }

    private byte[] ReadItem(int key, int count)
    {
        _vm.Ports.Write(0x510, 2, (uint)key);
        return [.. Enumerable.Range(0, count).Select(_ => (byte)_vm.Ports.Read(0x511, 1))];
    }

    private Dictionary<string, byte[]> Files()
    {
        int count = BinaryPrimitives.ReadInt32BigEndian(ReadItem(0x19, 4));
        byte[] directory = ReadItem(0x19, 4 + 64 * count);
        return Enumerable.Range(0, count).Select(n => directory[(4 + 64 * n)..(68 + 64 * n)]).ToDictionary(
            e => Encoding.ASCII.GetString(e, 8, 56).TrimEnd('\0'),
            e => ReadItem(BinaryPrimitives.ReadUInt16BigEndian(e.AsSpan(4)), BinaryPrimitives.ReadInt32BigEndian(e)));
    }

    /// <summary>The script is carried out here as docs/specs of QEMU's loader say, at addresses of our own; then ACPI's own rules must hold.</summary>
    [Fact]
    public void The_table_loaders_script_makes_ACPI_tables_wherever_they_are_put()
    {
        Dictionary<string, byte[]> files = Files();
        var places = new Dictionary<string, uint>();
        byte[] script = files["etc/table-loader"];
        uint next = 0x7000;
        string Name(int at) => Encoding.ASCII.GetString(script, at, 56).TrimEnd('\0');
        for (int at = 0; at < script.Length; at += 128)
        {
            uint Int(int offset) => BinaryPrimitives.ReadUInt32LittleEndian(script.AsSpan(at + offset));
            switch (Int(0))
            {
                case 1:
                    next = (next + Int(60) - 1) & ~(Int(60) - 1);
                    places.Add(Name(at + 4), next);
                    next += (uint)files[Name(at + 4)].Length;
                    Assert.InRange(script[at + 64], 1, 2);
                    break;
                case 2:
                    Span<byte> field = files[Name(at + 4)].AsSpan((int)Int(116), script[at + 120]);
                    ulong value = places[Name(at + 60)];
                    for (int n = 0; n < field.Length; n++) value += (ulong)field[n] << (8 * n);
                    for (int n = 0; n < field.Length; n++) field[n] = (byte)(value >> (8 * n));
                    break;
                case 3:
                    byte[] file = files[Name(at + 4)];
                    Assert.Equal(0, file[Int(60)]);
                    file[Int(60)] = (byte)-file.AsSpan((int)Int(64), (int)Int(68)).ToArray().Sum(b => b);
                    break;
                case 4:
                    BitConverter.GetBytes((ulong)places[Name(at + 60)] + Int(120)).CopyTo(files[Name(at + 4)], Int(116));
                    Assert.Equal(8, script[at + 124]);
                    break;
                default:
                    Assert.Fail($"command {Int(0)}");
                    break;
            }
        }
        byte[] rsdp = files["etc/acpi/rsdp"];
        Assert.Equal("RSD PTR ", Encoding.ASCII.GetString(rsdp, 0, 8));
        Assert.Equal((0, 0), (Sum(rsdp.AsSpan(0, 20)), Sum(rsdp)));
        uint tables = places["etc/acpi/tables"];
        ReadOnlySpan<byte> Table(ulong address)
        {
            ReadOnlySpan<byte> rest = files["etc/acpi/tables"].AsSpan((int)(address - tables));
            ReadOnlySpan<byte> table = rest[..BinaryPrimitives.ReadInt32LittleEndian(rest[4..])];
            if (!table.StartsWith("FACS"u8)) Assert.Equal(0, Sum(table));
            return table;
        }
        ReadOnlySpan<byte> xsdt = Table(BinaryPrimitives.ReadUInt64LittleEndian(rsdp.AsSpan(24)));
        ReadOnlySpan<byte> rsdt = Table(BinaryPrimitives.ReadUInt32LittleEndian(rsdp.AsSpan(16)));
        List<string> found = [];
        for (int n = 0; 36 + 8 * n < xsdt.Length; n++)
        {
            ulong address = BinaryPrimitives.ReadUInt64LittleEndian(xsdt[(36 + 8 * n)..]);
            Assert.Equal(address, BinaryPrimitives.ReadUInt32LittleEndian(rsdt[(36 + 4 * n)..]));
            ReadOnlySpan<byte> table = Table(address);
            found.Add(Encoding.ASCII.GetString(table[..4]));
            // The generation ID: what the operating system finds in ADDR, and what the device is told of the same place.
            if (found[^1] == "SSDT")
                Assert.Equal(BinaryPrimitives.ReadUInt64LittleEndian(files["etc/vmgenid_addr"]), BinaryPrimitives.ReadUInt32LittleEndian(table[^5..]));
            if (found[^1] != "FACP") continue;
            Assert.True(Table(BinaryPrimitives.ReadUInt32LittleEndian(table[36..])).StartsWith("FACS"u8));
            Assert.True(Table(BinaryPrimitives.ReadUInt32LittleEndian(table[40..])).StartsWith("DSDT"u8));
            Assert.True(Table(BinaryPrimitives.ReadUInt64LittleEndian(table[140..])).StartsWith("DSDT"u8));
            Assert.Equal(0, (int)(BinaryPrimitives.ReadUInt32LittleEndian(table[36..]) % 64)); // section 5.2.10: the FACS is aligned to 64
        }
        Assert.Equal(["FACP", "APIC", "HPET", "MCFG", "SSDT"], found);
        Assert.Equal(places["etc/vmgenid_guid"] + 40ul, BinaryPrimitives.ReadUInt64LittleEndian(files["etc/vmgenid_addr"]));
    }

    private static int Sum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte b in bytes) sum += b;
        return sum;
    }

    /// <summary>DSP0134, sections 5.2.1 and 6.1: the structures follow each other to the last one, and each ends with two zeros.</summary>
    [Fact]
    public void SMBIOS_structures_are_complete()
    {
        Dictionary<string, byte[]> files = Files();
        byte[] anchor = files["etc/smbios/smbios-anchor"], tables = files["etc/smbios/smbios-tables"];
        Assert.Equal(31, anchor.Length);
        Assert.Equal((0, 0), (Sum(anchor), Sum(anchor.AsSpan(16))));
        Assert.Equal(tables.Length, BinaryPrimitives.ReadUInt16LittleEndian(anchor.AsSpan(22)));
        List<int> types = [];
        int largest = 0, at = 0;
        while (at < tables.Length)
        {
            types.Add(tables[at]);
            int end = at + tables[at + 1];
            while (tables[end] != 0 || tables[end + 1] != 0) end++;
            largest = Math.Max(largest, end + 2 - at);
            at = end + 2;
        }
        Assert.Equal([1, 3, 4, 4, 4, 16, 17, 19, 32, 127], types);
        Assert.Equal(types.Count, BinaryPrimitives.ReadUInt16LittleEndian(anchor.AsSpan(28)));
        Assert.Equal(largest, BinaryPrimitives.ReadUInt16LittleEndian(anchor.AsSpan(8)));
    }

    [Fact]
    public void Firmware_is_told_of_RAM_processors_and_the_order_of_booting()
    {
        Dictionary<string, byte[]> files = Files();
        Assert.Equal("/a\n/b\0", Encoding.ASCII.GetString(files["bootorder"]));
        // RAM, and what no firmware may give away: configuration space.
        byte[] ram = [.. new byte[8], .. BitConverter.GetBytes(Ram), 1, 0, 0, 0];
        Assert.Equal([.. ram, .. BitConverter.GetBytes(0xFEF0_0000ul), .. BitConverter.GetBytes(0x10_0000ul), 2, 0, 0, 0], files["etc/e820"]);
        Assert.Equal(Ram, BitConverter.ToUInt64(ReadItem(3, 8)));
        Assert.Equal((0x32, 0x41, 2, 0, 3), (Cmos(0x3D), Cmos(0x38), Cmos(0x5F), Cmos(0x34), Cmos(0x35)));
    }

    private int Cmos(byte index)
    {
        _vm.Ports.Write(0x70, 1, index);
        return (int)_vm.Ports.Read(0x71, 1);
    }

    [Theory]
    [InlineData(0, "the file is empty")]
    [InlineData(4096, "no PC's ROM")]
    [InlineData(70_000, "no PC's ROM")]
    [InlineData((16 << 20) + 4096, "too much")]
    public void What_is_no_ROM_is_refused(int length, string why)
    {
        string path = Path.GetTempFileName();
        try
        {
            File.WriteAllBytes(path, new byte[length]);
            Assert.Contains(why, Assert.Throws<BootException>(() => FirmwareImage.Read(path)).Message, StringComparison.Ordinal);
        }
        finally
        {
            File.Delete(path);
        }
    }
}
