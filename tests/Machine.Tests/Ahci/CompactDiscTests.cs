using System.Buffers.Binary;
using Bunraku.Machine.Ahci;
using static Bunraku.Machine.Tests.Ahci.AhciDriver;

namespace Bunraku.Machine.Tests.Ahci;

/// <summary>The drive behind PACKET: MMC-6 and SPC-4 over ACS-3's PACKET feature set.</summary>
public sealed class CompactDiscTests
{
    private const byte Packet = 0xA0;
    private const int Blocks = 100;
    private const uint Good = 1, Failed = 1u << 30 | 1;

    private readonly MemoryDisk _disc = new(Blocks * 4) { IsReadOnly = true };

    private AhciDriver New(bool empty = false)
    {
        new Random(3).NextBytes(_disc.Bytes);
        var driver = new AhciDriver(0, SataDrive.CompactDisc(empty ? null : _disc));
        driver.Start();
        return driver;
    }

    private static uint Send(AhciDriver d, byte[] cdb, int length = 0, bool dma = false)
    {
        uint interrupts = d.Run(Packet, 0xFFFE00, 0, (ushort)(dma ? 1 : 0), [.. cdb, .. new byte[16 - cdb.Length]], length == 0 ? [] : [(Data, length)]);
        if ((interrupts & 1u << 30) != 0) d.Restart();
        return interrupts;
    }

    private static (byte Key, byte Code, byte Qualifier) Sense(AhciDriver d)
    {
        Assert.Equal(Good, Send(d, [3, 0, 0, 0, 18, 0], 18));
        byte[] s = d.Read(Data, 18);
        return (s[2], s[12], s[13]);
    }

    [Fact]
    public void After_a_reset_a_unit_attention_is_told_once()
    {
        using AhciDriver d = New();
        Assert.Equal(Failed, Send(d, [0, 0, 0, 0, 0, 0]));
        Assert.Equal(0x60_51u, d[Tfd] | 0x51);
        Assert.Equal(((byte)6, (byte)0x29, (byte)0), Sense(d));
        Assert.Equal(Good, Send(d, [0, 0, 0, 0, 0, 0]));
        Assert.Equal(((byte)0, (byte)0, (byte)0), Sense(d));
    }

    [Theory, InlineData(false), InlineData(true)]
    public void READ_10_and_12_and_CD_give_blocks_of_2048_bytes_by_PIO_and_DMA(bool dma)
    {
        using AhciDriver d = New();
        Sense(d);
        byte[][] commands = [[0x28, 0, 0, 0, 0, 7, 0, 0, 3, 0], [0xA8, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0], [0xBE, 0, 0, 0, 0, 7, 0, 0, 3, 0x10, 0, 0]];
        foreach (byte[] cdb in commands)
        {
            d.Write(Data, new byte[3 * 2048]);
            Assert.Equal(Good, Send(d, cdb, 3 * 2048, dma));
            Assert.Equal(_disc.Bytes.AsSpan(7 * 2048, 3 * 2048).ToArray(), d.Read(Data, 3 * 2048));
            Assert.Equal((3 * 2048u, (byte)3), (d.Int(List + 4), d.Read(Fis + 0x4C, 1)[0])); // interrupt reason: over
        }
    }

    [Fact]
    public void Capacity_contents_and_configuration()
    {
        using AhciDriver d = New();
        Sense(d);
        Assert.Equal(Good, Send(d, [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8));
        Assert.Equal([0, 0, 0, Blocks - 1, 0, 0, 8, 0], d.Read(Data, 8));
        Assert.Equal(Good, Send(d, [0x43, 0, 0, 0, 0, 0, 0, 0, 20, 0], 20));
        Assert.Equal([0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0, Blocks], d.Read(Data, 20));
        Assert.Equal(Good, Send(d, [0x43, 2, 0, 0, 0, 0, 0xAA, 0, 12, 0], 12));
        Assert.Equal([0, 0, 3, 25], d.Read(Data + 8, 4)); // block 100 behind 150 frames is 0:03.25 by the definition of MSF
        Assert.Equal(Good, Send(d, [0x46, 0, 0, 0, 0, 0, 0, 0, 8, 0], 8));
        Assert.Equal(8, BinaryPrimitives.ReadInt16BigEndian(d.Read(Data + 6, 2))); // CD-ROM
        Assert.Equal(Good, Send(d, [0x12, 0, 0, 0, 36, 0], 36));
        Assert.Equal([5, 0x80], d.Read(Data, 2));
        Assert.Equal(Good, Send(d, [0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 40, 0], 40));
        Assert.Equal((26, 0x2A), (BinaryPrimitives.ReadInt16BigEndian(d.Read(Data, 2)), d.Read(Data + 8, 1)[0]));
        Assert.Equal(Good, Send(d, [0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8, 0], 8));
        Assert.Equal([0, 6, 4, 0x10, 0, 2, 0, 0], d.Read(Data, 8));
    }

    [Fact]
    public void What_is_refused_has_its_sense()
    {
        using AhciDriver d = New();
        Sense(d);
        Assert.Equal(Failed, Send(d, [0x28, 0, 0, 0, 0, Blocks - 1, 0, 0, 2, 0], 4096));
        Assert.Equal(((byte)5, (byte)0x21, (byte)0), Sense(d));
        Assert.Equal(Failed, Send(d, [0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0])); // WRITE (10)
        Assert.Equal(((byte)5, (byte)0x20, (byte)0), Sense(d));
        _disc.Fails = true;
        Assert.Equal(Failed, Send(d, [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], 2048));
        Assert.Equal(((byte)3, (byte)0x11, (byte)0), Sense(d));
        Assert.Equal(Good, Send(d, [0x1E, 0, 0, 0, 1, 0])); // PREVENT
        Assert.Equal(Failed, Send(d, [0x1B, 0, 0, 0, 2, 0])); // eject
        Assert.Equal(((byte)5, (byte)0x53, (byte)2), Sense(d));
        Assert.Equal(Good, Send(d, [0x1E, 0, 0, 0, 0, 0]));
        Assert.Equal(Good, Send(d, [0x1B, 0, 0, 0, 2, 0]));
        Assert.Equal(Failed, Send(d, [0, 0, 0, 0, 0, 0]));
        Assert.Equal(((byte)2, (byte)0x3A, (byte)0), Sense(d));
    }

    [Fact]
    public void An_empty_drive_is_not_ready_and_IDENTIFY_DEVICE_tells_what_it_is()
    {
        using AhciDriver d = New(empty: true);
        Sense(d);
        Assert.Equal(Failed, Send(d, [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], 8));
        Assert.Equal(((byte)2, (byte)0x3A, (byte)0), Sense(d));
        Assert.Equal(Failed, d.Run(0xEC, descriptors: [(Data, 512)]));
        byte[] fis = d.Read(Fis + 0x40, 20);
        Assert.Equal((1, 1, 0x14, 0xEB), (fis[12], fis[4], fis[5], fis[6])); // section 7.12.2: count and LBA are the signature
        d.Restart();
        Assert.Equal(2u, d.Run(0xA1, descriptors: [(Data, 512)]));
        Assert.Equal(0x85C0, BinaryPrimitives.ReadUInt16LittleEndian(d.Read(Data, 2)));
    }
}
