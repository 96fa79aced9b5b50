using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Tests;

/// <summary>QEMU docs/specs/fw_cfg.rst.</summary>
public sealed class FwCfgTests : IDisposable
{
    private readonly PortBus _ports = new();
    private readonly GuestMemory _memory = new(4 << 20);
    private readonly FwCfg _device;

    public FwCfgTests()
    {
        _device = new FwCfg(_memory, cpus: 3);
        _device.AttachTo(_ports);
    }

    public void Dispose() => _memory.Dispose();

    private byte[] Read(int key, int count)
    {
        _ports.Write(0x510, 2, (uint)key);
        return [.. Enumerable.Range(0, count).Select(_ => _ports.In(0x511))];
    }

    private uint Dma(uint control, uint length, ulong address)
    {
        Span<byte> command = stackalloc byte[16];
        BinaryPrimitives.WriteUInt32BigEndian(command, control);
        BinaryPrimitives.WriteUInt32BigEndian(command[4..], length);
        BinaryPrimitives.WriteUInt64BigEndian(command[8..], address);
        _memory.Write(0x1000, command);
        _ports.Write(0x514, 4, 0);
        _ports.Write(0x518, 4, BinaryPrimitives.ReverseEndianness(0x1000u));
        _memory.Read(0x1000, command);
        return BinaryPrimitives.ReadUInt32BigEndian(command);
    }

    private Dictionary<string, (int Key, int Size)> Directory()
    {
        int count = BinaryPrimitives.ReadInt32BigEndian(Read(0x19, 4));
        byte[] bytes = Read(0x19, 4 + 64 * count);
        Dictionary<string, (int, int)> files = [];
        for (int n = 0; n < count; n++)
        {
            Span<byte> entry = bytes.AsSpan(4 + 64 * n, 64);
            files[Encoding.ASCII.GetString(entry[8..]).TrimEnd('\0')] =
                (BinaryPrimitives.ReadUInt16BigEndian(entry[4..]), BinaryPrimitives.ReadInt32BigEndian(entry));
        }
        return files;
    }

    [Fact]
    public void Signature_and_revision_bits()
    {
        Assert.Equal("QEMU"u8.ToArray(), Read(0, 4));
        Assert.Equal([3, 0, 0, 0], Read(1, 4));
        Assert.Equal(0x554D4551u, _ports.Read(0x514, 4)); // "QEMU CFG", big-endian, as bytes in order
        Assert.Equal(0x47464320u, _ports.Read(0x518, 4));
    }

    [Fact]
    public void Counts_of_processors_and_memory()
    {
        Assert.Equal([3, 0], Read(0x05, 2));
        Assert.Equal([3, 0], Read(0x0F, 2));
        Assert.Equal(4ul << 20, BinaryPrimitives.ReadUInt64LittleEndian(Read(0x03, 8)));
    }

    [Fact]
    public void Reading_past_the_end_or_an_unknown_item_gives_zeros()
    {
        Assert.Equal([(byte)'U', 0, 0], Read(0, 6)[3..]);
        Assert.Equal([0, 0], Read(0x3FFF, 2));
    }

    [Fact]
    public void Selecting_rewinds()
    {
        Assert.Equal((byte)'Q', Read(0, 1)[0]);
        Assert.Equal((byte)'E', _ports.In(0x511));
        Assert.Equal((byte)'Q', Read(0, 1)[0]);
    }

    /// <summary>Locked, and VMX enabled outside SMX: bits 0 and 2.</summary>
    [Fact]
    public void Firmware_finds_what_to_write_to_IA32_FEATURE_CONTROL()
    {
        _device.AddFeatureControl();
        (int key, int size) = Directory()["etc/msr_feature_control"];
        Assert.Equal((8, 5ul), (size, BinaryPrimitives.ReadUInt64LittleEndian(Read(key, 8))));
    }

    [Fact]
    public void Files_are_listed_with_big_endian_sizes_and_keys()
    {
        _device.AddE820([new E820Entry(0, 0x9FC00, E820Type.Memory), new E820Entry(0x10_0000, 0x1234_5678, E820Type.Reserved)]);
        _device.AddFile("opt/org.example/note", "hello"u8.ToArray());
        Dictionary<string, (int Key, int Size)> files = Directory();
        Assert.Equal(["etc/e820", "opt/org.example/note"], files.Keys.Order());
        Assert.All(files.Values, f => Assert.True(f.Key >= 0x20));
        Assert.Equal("hello"u8.ToArray(), Read(files["opt/org.example/note"].Key, 5));
        byte[] e820 = Read(files["etc/e820"].Key, 40);
        Assert.Equal(40, files["etc/e820"].Size);
        Assert.Equal(0x9FC00ul, BinaryPrimitives.ReadUInt64LittleEndian(e820.AsSpan(8)));
        Assert.Equal(0x1234_5678ul, BinaryPrimitives.ReadUInt64LittleEndian(e820.AsSpan(28)));
        Assert.Equal(2u, BinaryPrimitives.ReadUInt32LittleEndian(e820.AsSpan(36)));
    }

    [Fact]
    public void Kernel_command_line_has_its_size_with_the_terminator()
    {
        _device.AddString(FwCfgKey.CommandLineData, FwCfgKey.CommandLineSize, "quiet");
        Assert.Equal([6, 0, 0, 0], Read(0x14, 4));
        Assert.Equal("quiet\0"u8.ToArray(), Read(0x15, 6));
    }

    [Fact]
    public void DMA_selects_reads_and_skips()
    {
        Assert.Equal(0u, Dma(0x0000_000A, 4, 0x2000)); // select 0, read
        Assert.True(_memory.TryRead(0x2000, out uint signature));
        Assert.Equal(0x554D4551u, signature);
        Assert.Equal(0u, Dma(0x0000_000C, 2, 0)); // select 0, skip 2
        _memory.TryWrite(0x2000, uint.MaxValue);
        Assert.Equal(0u, Dma(0x0000_0002, 4, 0x2000));
        Assert.True(_memory.TryRead(0x2000, out signature));
        Assert.Equal(0x0000_554Du, signature); // the rest is filled with zeros
    }

    [Fact]
    public void DMA_to_nowhere_reports_an_error()
    {
        Assert.Equal(1u, Dma(0x0000_000A, 4, 0xFFFF_FFFF_FFFF_F000));
        Assert.Equal(1u, Dma(0x0000_000A, uint.MaxValue, 0x2000));
    }

    [Fact]
    public void DMA_writes_only_what_is_writable()
    {
        byte[] file = new byte[8];
        _device.AddFile("etc/writable", file, writable: true);
        _device.AddFile("etc/fixed", new byte[8]);
        Dictionary<string, (int Key, int Size)> files = Directory();
        _memory.TryWrite(0x2000, 0x1122_3344_5566_7788ul);
        Assert.Equal(1u, Dma((uint)files["etc/fixed"].Key << 16 | 0x18, 8, 0x2000));
        Assert.Equal(0u, Dma((uint)files["etc/writable"].Key << 16 | 0x18, 8, 0x2000));
        Assert.Equal(0x1122_3344_5566_7788ul, BinaryPrimitives.ReadUInt64LittleEndian(file));
        Assert.Equal(1u, Dma((uint)files["etc/writable"].Key << 16 | 0x18, 9, 0x2000)); // too long
    }

    [Theory]
    [InlineData(9u), InlineData(uint.MaxValue)]
    public void DMA_writes_nothing_behind_an_items_end(uint skipped)
    {
        byte[] file = new byte[8];
        _device.AddFile("etc/writable", file, writable: true);
        Assert.Equal(0u, Dma((uint)Directory()["etc/writable"].Key << 16 | 0xC, skipped, 0));
        Assert.Equal(0u, Dma(0x10, 0, 0x2000)); // nothing to write
        Assert.Equal(1u, Dma(0x10, 1, 0x2000));
        Assert.Equal(1u, Dma(0x10, uint.MaxValue, 0x2000));
        Assert.Equal(new byte[8], file);
    }

    [Fact]
    public void File_names_have_at_most_55_characters()
    {
        Assert.Throws<ArgumentException>(() => _device.AddFile(new string('x', 56), []));
        Assert.Throws<ArgumentException>(() => _device.AddFile("", []));
        _device.AddFile(new string('x', 55), []);
        Assert.Contains(new string('x', 55), Directory().Keys);
    }
}
