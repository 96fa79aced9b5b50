using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Ahci;
using static Bunraku.Machine.Tests.Ahci.AhciDriver;

namespace Bunraku.Machine.Tests.Ahci;

/// <summary>Serial ATA AHCI 1.3.1 with disks of ACS-3.</summary>
public sealed class AhciTests
{
    private const int Sectors = 4096;
    private const uint DeviceToHost = 1, PioSetup = 2, SetDeviceBits = 8, Overflow = 1 << 24, BusData = 1 << 28, BusFatal = 1 << 29, TaskFileError = 1 << 30;
    private const byte Identify = 0xEC, ReadDma = 0x25, WriteDma = 0x35, ReadQueued = 0x60, WriteQueued = 0x61, ReadLog = 0x2F, Flush = 0xEA, Trim = 0x06;

    private static AhciDriver NewDisk(out MemoryDisk disk)
    {
        disk = new MemoryDisk(Sectors);
        new Random(7).NextBytes(disk.Bytes);
        var driver = new AhciDriver(1, SataDrive.CompactDisc(null), SataDrive.Disk(disk, "serial-7"));
        driver.Start();
        return driver;
    }

    [Fact]
    public void Section_3_registers_say_what_is_there()
    {
        using AhciDriver d = NewDisk(out _);
        uint capabilities = d.Hba(0);
        Assert.Equal((5u, 31u, 3u), (capabilities & 31, capabilities >> 8 & 31, capabilities >> 20 & 15));
        Assert.Equal((1u, 1u), (capabilities >> 30 & 1, capabilities >> 31)); // queuing, 64 bits
        Assert.Equal((0x3Fu, 0x0001_0301u, 1u << 31 | 2), (d.Hba(0xC), d.Hba(0x10), d.Hba(4)));
        Assert.Equal((0x133u, 0x101u, 0x50u), (d[Ssts], d[Sig], d[Tfd] & 0xFF));
        Assert.Equal((0x133u, 0xEB14_0101u), (d.Hba(0x100 + Ssts), d.Hba(0x100 + Sig)));
        Assert.Equal((0u, 0x7Fu, uint.MaxValue), (d.Hba(0x200 + Ssts), d.Hba(0x200 + Tfd), d.Hba(0x200 + Sig)));
    }

    [Fact]
    public void IDENTIFY_comes_by_PIO_with_its_status_in_the_setup_FIS()
    {
        using AhciDriver d = NewDisk(out _);
        Assert.Equal(PioSetup, d.Run(Identify, descriptors: [(Data, 100), (Data + 0x1000, 412)]));
        byte[] id = [.. d.Read(Data, 100), .. d.Read(Data + 0x1000, 412)];
        Assert.Equal(0, id.Sum(b => b) & 0xFF);
        Assert.Equal((ulong)Sectors, BinaryPrimitives.ReadUInt64LittleEndian(id.AsSpan(200)));
        Assert.Equal("esirla7-", Encoding.ASCII.GetString(id, 20, 8)); // the bytes of each word exchanged
        Assert.Equal(31, id[150]);
        byte[] setup = d.Read(Fis + 0x20, 20);
        Assert.Equal((0x5F, 0x58, 0x50), (setup[0], setup[2], setup[15]));
        Assert.Equal((512u, 0u, 0x50u), (d.Int(List + 4), d[Ci], d[Tfd]));
    }

    [Fact]
    public void Data_go_through_all_descriptors_both_ways_and_interrupts_stay_until_both_registers_are_cleared()
    {
        using AhciDriver d = NewDisk(out MemoryDisk disk);
        d.Prepare(0, ReadDma, 5, 3, 0, null, 0x40, (Data, 512), (Data + 0x2000, 2), (Data + 0x3000, 4096));
        d.Issue(1);
        Until(() => d[Ci] == 0);
        byte[] moved = [.. d.Read(Data, 512), .. d.Read(Data + 0x2000, 2), .. d.Read(Data + 0x3000, 1022)];
        Assert.Equal(disk.Bytes.AsSpan(5 * 512, 3 * 512).ToArray(), moved);
        Assert.Equal((DeviceToHost, 1u << 1, 1536u), (d[Pr], d.Hba(8), d.Int(List + 4)));
        d.Hba(8, 2);
        Assert.Equal(2u, d.Hba(8)); // the port has it still
        d[Pr] = DeviceToHost;
        Assert.Equal(2u, d.Hba(8));
        d.Hba(8, 2);
        Assert.Equal(0u, d.Hba(8));
        byte[] written = new byte[1024];
        new Random(8).NextBytes(written);
        d.Write(Data, written);
        Assert.Equal(DeviceToHost, d.Run(WriteDma, 100, 2, descriptors: [(Data, 1024)]));
        Assert.Equal(written, disk.Bytes.AsSpan(100 * 512, 1024).ToArray());
        d.Run(Flush);
        Assert.Equal(1, disk.Flushes);
        byte[] ranges = new byte[512];
        BinaryPrimitives.WriteUInt64LittleEndian(ranges, 7ul << 48 | 200);
        d.Write(Data, ranges);
        d.Run(Trim, 0, 1, 1, descriptors: [(Data, 512)]);
        Assert.Equal([(200ul * 512, 7ul * 512)], disk.Discarded);
    }

    [Fact]
    public void Queued_commands_end_by_Set_Device_Bits_each_with_its_own_data()
    {
        using AhciDriver d = NewDisk(out MemoryDisk disk);
        for (int n = 0; n < 32; n++)
            d.Prepare(n, ReadQueued, (ulong)(n * 8), (ushort)(n << 3), 8, null, 0x40, (Data + (ulong)n * 0x1000, 4096));
        d.Issue(uint.MaxValue, queued: true);
        Until(() => d[Sact] == 0);
        Assert.Equal((0u, SetDeviceBits), (d[Ci], d[Pr]));
        Assert.Equal(disk.Bytes.AsSpan(0, 32 * 4096).ToArray(), d.Read(Data, 32 * 4096));
        Assert.Equal(0xA1, d.Read(Fis + 0x58, 1)[0]);
    }

    [Fact]
    public void A_queued_command_that_fails_stops_the_port_and_the_log_has_its_tag()
    {
        using AhciDriver d = NewDisk(out MemoryDisk disk);
        d.Prepare(3, ReadQueued, Sectors - 1, 3 << 3, 2, null, 0x40, (Data, 1024));
        d.Issue(1 << 3, queued: true);
        Until(() => (d[Pr] & TaskFileError) != 0);
        Assert.Equal((1u << 3, 0x10_51u), (d[Sact], d[Tfd]));
        d.Prepare(0, Flush);
        d.Issue(1);
        Assert.NotEqual(0u, d[Ci] & 1); // nothing is done before the driver has restarted the port
        d.Restart();
        Assert.Equal((0u, 0u), (d[Ci], d[Sact]));
        Assert.Equal(PioSetup, d.Run(ReadLog, 0x10, 1, descriptors: [(Data, 512)]));
        byte[] log = d.Read(Data, 512);
        Assert.Equal((3, 0x51, 0x10, 0), (log[0], log[2], log[3], log.Sum(b => b) & 0xFF));
        Assert.Equal(Sectors - 1, BinaryPrimitives.ReadInt16LittleEndian(log.AsSpan(4)));
        Assert.Equal(0, disk.Flushes);
    }

    [Theory]
    [InlineData("beyond the end", TaskFileError | DeviceToHost)]
    [InlineData("a broken disk", TaskFileError | DeviceToHost)]
    [InlineData("no such command", TaskFileError | DeviceToHost)]
    [InlineData("a queued command that is not active", TaskFileError | DeviceToHost)]
    [InlineData("too few descriptors", Overflow)]
    [InlineData("data that are not in RAM", BusData)]
    [InlineData("a table that is not in RAM", BusFatal)]
    public void What_cannot_be_done_is_told_and_the_port_works_again_after_a_restart(string what, uint interrupts)
    {
        using AhciDriver d = NewDisk(out MemoryDisk disk);
        disk.Fails = what == "a broken disk";
        (ulong lba, byte opcode, (ulong Address, int Length) data) = what switch
        {
            "beyond the end" => ((ulong)Sectors, ReadDma, (Data, 512)),
            "no such command" => (0ul, (byte)0xF0, (Data, 512)),
            "a queued command that is not active" => (0ul, ReadQueued, (Data, 512)),
            "too few descriptors" => (0ul, ReadDma, (Data, 510)),
            "data that are not in RAM" => (0ul, ReadDma, (0xD000_0000ul, 512)),
            _ => (0ul, ReadDma, (Data, 512)),
        };
        d.Prepare(0, opcode, lba, 1, 1, null, 0x40, data);
        if (what == "a table that is not in RAM") d.Write(List + 8, BitConverter.GetBytes(0xD000_0000ul));
        d.Issue(1);
        Until(() => d[Pr] != 0);
        Assert.Equal((interrupts, 1u), (d[Pr], d[Ci]));
        disk.Fails = false;
        d.Restart();
        Assert.Equal(DeviceToHost, d.Run(ReadDma, 1, 1, descriptors: [(Data, 512)]));
        Assert.Equal(disk.Bytes.AsSpan(512, 512).ToArray(), d.Read(Data, 512));
    }

    /// <summary>Section 10.4: each kind of reset drops what is under way, and no old data come behind it.</summary>
    [Theory, InlineData("stop"), InlineData("COMRESET"), InlineData("HBA"), InlineData("machine"), InlineData("software")]
    public void No_old_command_outlives_a_reset(string reset)
    {
        using AhciDriver d = NewDisk(out MemoryDisk disk);
        disk.Hold = new SemaphoreSlim(0);
        d.Write(Data, new byte[4096]);
        d.Prepare(0, ReadQueued, 8, 0 << 3, 1, null, 0x40, (Data, 512));
        d.Prepare(1, WriteQueued, 16, 1 << 3, 1, null, 0x40, (Data, 512));
        d.Issue(3, queued: true);
        Until(() => disk.Begun == 1);
        switch (reset)
        {
            case "stop":
                d[Cmd] = 1 << 4;
                break;
            case "COMRESET":
                d[Sctl] = 1;
                Assert.Equal(0u, d[Ssts]);
                d[Sctl] = 0;
                Assert.Equal((0x133u, 0x101u), (d[Ssts], d[Sig]));
                d[Cmd] = 1 << 4;
                break;
            case "HBA":
                d.Hba(4, 1);
                Assert.Equal((0u, 0u, 0x101u), (d[Cmd] & 1, d[Ie], d[Sig]));
                break;
            case "machine":
                disk.Hold.Release(10); // a reset waits for what the thread does
                d.Rig.Machine.Pause();
                d.Rig.Machine.RebootsOnReset = () => true;
                d.Rig.Machine.Reset();
                d.Rig.Machine.Resume();
                return;
            default:
                d[Cmd] = 1 << 4;
                d[Cmd] = 1 << 4 | 1;
                SoftwareReset(d);
                break;
        }
        byte[] before = disk.Bytes.AsSpan(16 * 512, 512).ToArray();
        disk.Hold.Release(10);
        d.Start();
        Assert.Equal(DeviceToHost, d.Run(ReadDma, 30, 1, descriptors: [(Data + 0x1000, 512)]));
        Assert.Equal(disk.Bytes.AsSpan(30 * 512, 512).ToArray(), d.Read(Data + 0x1000, 512));
        Assert.All(d.Read(Data, 512), b => Assert.Equal(0, b));
        Assert.Equal(before, disk.Bytes.AsSpan(16 * 512, 512).ToArray()); // the write had not begun
    }

    /// <summary>Section 10.4.1: two FISes with the C bit clear, SRST set and clear.</summary>
    private static void SoftwareReset(AhciDriver d)
    {
        for (int slot = 0; slot < 2; slot++)
        {
            d.Prepare(slot, 0);
            byte[] fis = new byte[20];
            (fis[0], fis[15]) = (0x27, (byte)(slot == 0 ? 4 : 0));
            d.Write(Table(slot), fis);
            if (slot == 0) d.Write(List, BitConverter.GetBytes(5u | 1 << 8 | 1 << 10));
            d[Pr] = uint.MaxValue;
            d.Issue(1u << slot);
            Assert.Equal(0u, d[Ci]);
        }
        Assert.Equal(DeviceToHost, d[Pr]);
        Assert.Equal((0x34, 0x50, 1, 1), (d.Read(Fis + 0x40, 1)[0], d.Read(Fis + 0x42, 1)[0], d.Read(Fis + 0x43, 1)[0], d.Read(Fis + 0x44, 1)[0]));
    }

    [Fact]
    public void What_is_under_way_is_done_in_the_copy()
    {
        using AhciDriver d = NewDisk(out MemoryDisk disk);
        d.Rig.Machine.Pause(); // the port's thread stands still
        for (int n = 0; n < 4; n++) d.Prepare(n, ReadQueued, (ulong)(n * 8), (ushort)(n << 3), 8, null, 0x40, (Data + (ulong)n * 0x1000, 4096));
        d.Issue(15, queued: true);
        Assert.Equal((15u, 15u, 0), (d[Sact], d[Ci], disk.Begun));
        MachineState saved = d.Rig.Machine.Save();
        using AhciDriver copy = NewDisk(out MemoryDisk other);
        copy.Rig.Machine.Pause();
        copy.Rig.Machine.Restore(saved);
        Assert.Equal(15u, copy[Sact]);
        foreach ((AhciDriver driver, MemoryDisk behind) in ((AhciDriver, MemoryDisk)[])[(copy, other), (d, disk)])
        {
            driver.Rig.Machine.Resume();
            Until(() => driver[Sact] == 0);
            Assert.Equal((0u, SetDeviceBits), (driver[Ci], driver[Pr]));
            Assert.Equal(behind.Bytes.AsSpan(0, 4 * 4096).ToArray(), driver.Read(Data, 4 * 4096));
        }
    }

    /// <summary>Any access to registers, anything in memory where lists and tables are. Nothing is thrown, and the port works after a reset.</summary>
    [Theory, InlineData(1), InlineData(2), InlineData(3), InlineData(4)]
    public void A_hostile_driver_harms_itself_alone(int seed)
    {
        var disk = new MemoryDisk(Sectors);
        var disc = new MemoryDisk(Sectors) { IsReadOnly = true };
        using var d = new AhciDriver(seed & 1, SataDrive.Disk(disk, "x"), SataDrive.CompactDisc(disc));
        var random = new Random(seed);
        byte[] opcodes = [0x25, 0x35, 0x60, 0x61, 0xEC, 0xA0, 0xA1, 0x2F, 0x47, 0xEF, 0xC6, 0x06, 0xEA, 0x08, 0x42, 0xC8];
        for (int round = 0; round < 3000; round++)
        {
            if (round % 50 == 0) d.Start();
            switch (random.Next(8))
            {
                case 0:
                    d[random.Next(32) * 4] = (uint)random.NextInt64();
                    break;
                case 1:
                    d.Rig.Mmio(0, Bar + (ulong)random.Next(0x1000 - 8), 1 << random.Next(3), random.Next(2) == 0, (ulong)random.NextInt64());
                    break;
                case 2:
                    byte[] junk = new byte[64];
                    random.NextBytes(junk);
                    d.Write((random.Next(2) == 0 ? List : Tables) + (ulong)random.Next(0x1000), junk);
                    break;
                case 3:
                    d.Hba(4, (uint)random.Next(16) == 0 ? 3u : 2u);
                    break;
                default:
                    int slot = random.Next(32);
                    byte[] packet = new byte[16];
                    random.NextBytes(packet);
                    packet[0] = (byte)random.Next(256);
                    byte opcode = random.Next(4) == 0 ? (byte)random.Next(256) : opcodes[random.Next(opcodes.Length)];
                    var pieces = new (ulong, int)[random.Next(5)];
                    for (int n = 0; n < pieces.Length; n++)
                        pieces[n] = (random.Next(8) == 0 ? (ulong)random.NextInt64() : Data, random.Next(1, 1 << 22));
                    ulong lba = random.Next(3) == 0 ? (ulong)random.NextInt64() : (ulong)random.Next(Sectors);
                    var count = (ushort)(random.Next(2) == 0 ? slot << 3 : random.Next(65536));
                    d.Prepare(
                        slot, opcode, lba, count, (ushort)random.Next(300), random.Next(2) == 0 ? packet : null, (byte)random.Next(256), pieces);
                    d.Issue(1u << slot, queued: random.Next(3) == 0);
                    break;
            }
        }
        d.Hba(4, 1);
        d.Start();
        Assert.Equal(PioSetup, d.Run((seed & 1) == 0 ? Identify : (byte)0xA1, descriptors: [(Data, 512)]));
        Assert.Equal(0, d.Read(Data, 512).Sum(b => b) & 0xFF);
    }
}
