using Bunraku.Hypervisor;
using Bunraku.Machine.Pci;

namespace Bunraku.Machine.Tests;

/// <summary>
/// PCI Local Bus Specification 3.0: section 3.2.2.3.2 "Software generation of configuration transactions" and chapter 6 "Configuration space".
/// </summary>
public class PciTests
{
    private const ushort Address = 0xCF8, Data = 0xCFC;
    private const uint Enable = 0x8000_0000;

    private readonly PortBus _ports = new();
    private readonly PciHost _host;
    private int _resets;

    public PciTests()
    {
        _host = new PciHost(() => _resets++);
        _host.AttachTo(_ports);
        _host.Add(0, 0, PciHost.CreateHostBridge());
    }

    private uint Read(int device, int function, int register)
    {
        _ports.Write(Address, 4, Enable | (uint)(device << 11 | function << 8 | register & 0xFC));
        return _ports.Read(Data, 4);
    }

    private void Write(int device, int register, uint value)
    {
        _ports.Write(Address, 4, Enable | (uint)(device << 11 | register & 0xFC));
        _ports.Write(Data, 4, value);
    }

    private sealed class Recorder() : PciFunction(0x1AF4, 0x1041, 0x020000, 1, 0x1AF4, 0x1100)
    {
        public List<(int Bar, ulong? Before, ulong? Now)> Moves { get; } = [];

        protected override void BarMoved(PciBar bar, ulong? before) => Moves.Add((bar.Index, before, bar.Address));
    }

    [Fact]
    public void The_host_bridge_answers_at_0_and_nothing_elsewhere()
    {
        Assert.Equal(0x1237_8086u, Read(0, 0, 0));
        Assert.Equal(0x0600_0002u, Read(0, 0, 8));
        Assert.Equal(0x00u, Read(0, 0, 0x0C) >> 16 & 0xFF);
        Assert.Equal(uint.MaxValue, Read(1, 0, 0));
        _ports.Write(Address, 4, Enable | 1 << 16); // bus 1
        Assert.Equal(uint.MaxValue, _ports.Read(Data, 4));
        _ports.Write(Address, 4, 0); // not enabled
        Assert.Equal(uint.MaxValue, _ports.Read(Data, 4));
    }

    [Fact]
    public void CONFIG_ADDRESS_takes_doublewords_only()
    {
        _ports.Write(Address, 4, Enable | 0x10);
        Assert.Equal(Enable | 0x10, _ports.Read(Address, 4));
        _ports.Out(Address, 0x20);
        _ports.Write(Address, 2, 0x1234);
        Assert.Equal(Enable | 0x10, _ports.Read(Address, 4));
        _ports.Write(Address, 4, uint.MaxValue);
        Assert.Equal(0x80FF_FFFCu, _ports.Read(Address, 4)); // reserved bits read 0
    }

    [Fact]
    public void CONFIG_DATA_takes_bytes_words_and_doublewords()
    {
        Read(0, 0, 0);
        Assert.Equal(0x8086u, _ports.Read(Data, 2));
        Assert.Equal(0x1237u, _ports.Read(Data + 2, 2));
        Assert.Equal(0x3780u, _ports.Read(Data + 1, 2));
        Assert.Equal(0x12, _ports.In(Data + 3));
    }

    [Fact]
    public void Reset_control_register_resets_when_bit_2_rises()
    {
        _ports.Out(0xCF9, 0x02);
        Assert.Equal(0, _resets);
        _ports.Out(0xCF9, 0x06);
        Assert.Equal(1, _resets);
        Assert.Equal(0x06, _ports.In(0xCF9));
        _ports.Write(Address, 4, Enable); // a doubleword goes to CONFIG_ADDRESS
        Assert.Equal(0x06, _ports.In(0xCF9));
        Assert.Equal(1, _resets);
    }

    [Fact]
    public void Section_6_2_5_1_writing_all_ones_reads_back_the_size()
    {
        PciFunction device = new(0x1AF4, 0x1041, 0x020000);
        device.AddBar(0, PciBarKind.Io, 32);
        device.AddBar(1, PciBarKind.Memory32, 4096);
        device.AddBar(4, PciBarKind.Memory64Prefetchable, 16384);
        _host.Add(3, 0, device);
        for (int bar = 0; bar < 6; bar++) Write(3, 0x10 + 4 * bar, uint.MaxValue);
        Assert.Equal(0xFFFF_FFE1u, Read(3, 0, 0x10));
        Assert.Equal(0xFFFF_F000u, Read(3, 0, 0x14));
        Assert.Equal(0u, Read(3, 0, 0x18)); // not implemented
        Assert.Equal(0xFFFF_C00Cu, Read(3, 0, 0x20));
        Assert.Equal(uint.MaxValue, Read(3, 0, 0x24));
    }

    [Fact]
    public void Section_6_2_2_command_bits_gate_decoding()
    {
        Recorder device = new();
        device.AddBar(0, PciBarKind.Memory32, 0x1000);
        device.AddBar(2, PciBarKind.Io, 0x20);
        _host.Add(3, 0, device);
        Write(3, 0x10, 0xE000_0123);
        Write(3, 0x18, 0xC001);
        Assert.Empty(device.Moves);
        Write(3, 0x04, 0x3);
        Write(3, 0x10, 0xE100_0000);
        Write(3, 0x04, 0x1);
        Write(3, 0x18, uint.MaxValue); // sizing with decoding on
        Assert.Equal([(0, null, 0xE000_0000ul), (2, null, 0xC000ul), (0, 0xE000_0000ul, 0xE100_0000ul), (0, 0xE100_0000ul, null), (2, 0xC000ul, null)],
            device.Moves);
    }

    [Fact]
    public void Section_6_1_identification_is_read_only()
    {
        Write(0, 0, 0);
        Write(0, 8, 0);
        Assert.Equal(0x1237_8086u, Read(0, 0, 0));
        Assert.Equal(0x0600_0002u, Read(0, 0, 8));
        Write(0, 0x3C, 0xFFFF_FF0B);
        Assert.Equal(0x0000_000Bu, Read(0, 0, 0x3C));
    }

    [Fact]
    public void Section_6_7_capabilities_form_a_list()
    {
        PciFunction device = new(0x1AF4, 0x1041, 0x020000);
        int first = device.AddCapability(0x09, [1, 2, 3]);
        int second = device.AddCapability(0x11, new byte[10]);
        _host.Add(3, 0, device);
        Assert.Equal(1u, Read(3, 0, 4) >> 20 & 1);
        Assert.Equal((uint)first, Read(3, 0, 0x34) & 0xFF);
        Assert.Equal(0x0201_0009u | (uint)second << 8, Read(3, 0, first));
        Assert.Equal(0x11u, Read(3, 0, second) & 0xFFFF);
        Assert.Equal(0, first & 3 | second & 3);
    }

    [Fact]
    public void Section_6_2_1_header_type_shows_several_functions()
    {
        _host.Add(1, 0, PciHost.CreateIsaBridge());
        Assert.Equal(0u, Read(1, 0, 0x0C) >> 23 & 1);
        _host.Add(1, 3, new PciFunction(0x8086, 0x7113, 0x068000));
        Assert.Equal(1u, Read(1, 0, 0x0C) >> 23 & 1);
        Assert.Equal(0x7113_8086u, Read(1, 3, 0));
    }

    private const ulong FunctionSpace = 0x1000;

    private static PciFunction NetworkFunction()
    {
        PciFunction function = new(0x1AF4, 0x1041, 0x020000, 1, 0x1AF4, 0x1100);
        function.AddBar(1, PciBarKind.Memory32, 4096);
        function.AddCapability(0x11, new byte[10]);
        return function;
    }

    /// <summary>PCI Express Base Specification 5.0, section 7.2.2: both ways lead to the same registers.</summary>
    [Fact]
    public void Configuration_space_in_memory_is_what_the_ports_show()
    {
        var ecam = new PciEcam(_host);
        _host.Add(5, 2, NetworkFunction());
        foreach ((int device, int function) in ((int, int)[])[(0, 0), (5, 2), (5, 0), (31, 7)])
        {
            ulong at = (ulong)(device << 3 | function) * FunctionSpace;
            for (int register = 0; register < 256; register += 4)
            {
                uint expected = Read(device, function, register);
                Assert.Equal(expected, (uint)ecam.ReadMmio(at + (ulong)register, 4));
                for (int n = 0; n < 4; n++) Assert.Equal(expected >> 8 * n & 0xFF, ecam.ReadMmio(at + (ulong)(register + n), 1));
                for (int n = 0; n < 4; n += 2) Assert.Equal(expected >> 8 * n & 0xFFFF, ecam.ReadMmio(at + (ulong)(register + n), 2));
            }
        }
        ulong network = (5 << 3 | 2) * FunctionSpace;
        ecam.WriteMmio(network + PciRegister.FirstBar + 4, 4, 0xE123_4567);
        Assert.Equal(0xE123_4000u, Read(5, 2, PciRegister.FirstBar + 4));
        ecam.WriteMmio(network + PciRegister.Command, 2, (ulong)PciCommand.BusMaster);
        Assert.Equal((uint)PciCommand.BusMaster, Read(5, 2, PciRegister.Command) & 0xFFFF);
        ecam.WriteMmio(network + PciRegister.InterruptLine, 1, 0x5A);
        Assert.Equal(0x5Au, Read(5, 2, PciRegister.InterruptLine) & 0xFF);
    }

    /// <summary>A conventional function has 256 bytes: behind them nobody answers. Accesses of any width are made of what lies in each doubleword.</summary>
    [Fact]
    public void What_is_behind_the_registers_of_a_function_reads_as_ones_and_takes_nothing()
    {
        var ecam = new PciEcam(_host);
        Assert.Equal(uint.MaxValue, ecam.ReadMmio(0x100, 4));
        Assert.Equal(ulong.MaxValue, ecam.ReadMmio(FunctionSpace - 8, 8));
        Assert.Equal(ulong.MaxValue, ecam.ReadMmio(PciEcam.Length - 8, 8));
        Assert.Equal(0xFFu, ecam.ReadMmio(PciEcam.Length - 1, 1));
        Assert.Equal(0x0000_1237_8086ul | (ulong)Read(0, 0, 4) << 32, ecam.ReadMmio(0, 8));
        Assert.Equal(Read(0, 0, 0) >> 8 | (ulong)(Read(0, 0, 4) & 0xFF) << 24 | (ulong)(Read(0, 0, 4) >> 8 & 0xFF) << 32, ecam.ReadMmio(1, 5));
        byte[] before = [.. Enumerable.Range(0, 64).SelectMany(n => BitConverter.GetBytes(Read(0, 0, 4 * n)))];
        ecam.WriteMmio(0x100, 4, 0);
        ecam.WriteMmio(0xFD, 3, ulong.MaxValue);
        ecam.WriteMmio(0, 8, 0);
        ecam.WriteMmio(PciEcam.Length - 8, 8, 0);
        Assert.Equal(before, Enumerable.Range(0, 64).SelectMany(n => BitConverter.GetBytes(Read(0, 0, 4 * n))));
    }

    /// <summary>Section 6.8.1: a message goes where the guest said, and waits while it is masked or not enabled at all.</summary>
    [Fact]
    public void Section_6_8_1_a_masked_message_is_pending()
    {
        const int control = 2, address = 4, addressHigh = 8, data = 12, mask = 16, pending = 20;
        PciFunction function = new(0x8086, 0x2922, 0x010601);
        List<(ulong, uint)> sent = [];
        var msi = new MsiCapability(function) { Send = (where, what) => sent.Add((where, what)) };
        _host.Add(4, 0, function);
        int at = (int)(Read(4, 0, PciRegister.Capabilities) & 0xFF);
        Assert.Equal(0x0180_0005u, Read(4, 0, at));
        Write(4, at + address, 0xFEE0_1007);
        Write(4, at + addressHigh, 1);
        Write(4, at + data, 0xFFFF_4031);
        Assert.Equal((0xFEE0_1004u, 1u, 0x4031u), (Read(4, 0, at + address), Read(4, 0, at + addressHigh), Read(4, 0, at + data)));
        msi.Trigger();
        Assert.Empty(sent); // not enabled
        Write(4, at, 1 << 8 * control);
        Assert.True(msi.Enabled);
        Write(4, at + mask, uint.MaxValue);
        Assert.Equal(1u, Read(4, 0, at + mask)); // there is one vector
        msi.Trigger();
        Write(4, at + pending, 0); // read-only
        Assert.Equal(1u, Read(4, 0, at + pending));
        byte[] saved = function.Config.Bytes.ToArray();
        Assert.Empty(sent);
        Write(4, at + mask, 0);
        msi.SendPending();
        Assert.Equal([(0x1_FEE0_1004ul, 0x4031u)], sent);
        Assert.Equal(0u, Read(4, 0, at + pending));
        msi.SendPending();
        msi.Trigger();
        Assert.Equal(2, sent.Count);
        function.RestoreConfig(saved, "it");
        Assert.Equal(1u, Read(4, 0, at + pending));
        function.ResetConfig();
        Assert.Equal((0u, false), (Read(4, 0, at + pending), msi.Enabled));
    }
}
