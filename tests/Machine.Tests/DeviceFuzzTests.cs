using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Input;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Serial;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests;

/// <summary>
/// The guest is hostile: whatever it does to a device's registers, nothing is thrown, and each access returns. Seeds are fixed and named by the test.
/// </summary>
public sealed class DeviceFuzzTests : IDisposable
{
    private const int Accesses = 300_000;

    private readonly TestTime _time = new();
    private readonly PortBus _ports = new();
    private readonly TestLine _line = new(), _otherLine = new();
    private readonly GuestMemory _memory = new(1 << 20);

    public void Dispose() => _memory.Dispose();

    /// <summary>Random accesses of random widths to ports [first, last], with time moving on by up to a second between them.</summary>
    private void Fuzz(int seed, ushort first, ushort last, Action<Random>? between = null, long largestStep = 1_000_000)
    {
        Random random = new(seed);
        for (int n = 0; n < Accesses; n++)
        {
            ushort port = (ushort)random.Next(first, last + 1);
            int size = 1 << random.Next(3);
            uint value = random.Next(4) switch
            {
                0 => (uint)random.Next(4),
                1 => uint.MaxValue,
                _ => (uint)random.NextInt64(1L << 32),
            };
            if (random.Next(2) == 0) _ports.Read(port, size);
            else _ports.Write(port, size, value);
            if (random.Next(8) == 0) _time.Advance(random.NextInt64(largestStep));
            if (random.Next(1000) == 0) _time.Stall(random.NextInt64(2_000_000_000));
            between?.Invoke(random);
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void Uart(int seed)
    {
        long sent = 0;
        Uart16550A uart = new(_line, bytes => sent += bytes.Length, _time, new DeviceLock("test"));
        uart.AttachTo(_ports);
        Fuzz(seed, 0x3F8, 0x3FF, random =>
        {
            switch (random.Next(16))
            {
                case 0 when uart.QueuedInput < 1000:
                    uart.Enqueue(new byte[random.Next(40)]);
                    break;
                case 1 when uart.QueuedInput < 1000:
                    uart.EnqueueBreak();
                    break;
                case 2:
                    uart.SetModemLines((UartModemLines)(random.Next(16) << 4));
                    break;
            }
        });
        Assert.True(sent > 0);
    }

    [Theory]
    [InlineData(3)]
    [InlineData(4)]
    public void Pic(int seed)
    {
        Pic8259Pair pic = new(_line);
        pic.AttachTo(_ports);
        int taken = 0;
        void Between(Random random)
        {
            pic.Line(random.Next(16)).Set(random.Next(2) == 0);
            Assert.Equal(pic.Output, _line.Asserted);
            if (!_line.Asserted || random.Next(4) != 0) return;
            pic.Acknowledge();
            taken++;
        }
        Fuzz(seed, 0x20, 0x21, Between);
        Fuzz(seed, 0xA0, 0xA1, Between);
        Fuzz(seed, 0x4D0, 0x4D1, Between);
        Assert.True(taken > 0);
    }

    [Theory]
    [InlineData(5)]
    [InlineData(6)]
    public void Pit(int seed)
    {
        new Pit8254(_line, _time).AttachTo(_ports);
        Fuzz(seed, 0x40, 0x43, random => _ports.Out(0x61, random.Next(256)), largestStep: 100_000);
        Assert.True(_line.Edges > 0);
    }

    [Theory]
    [InlineData(7)]
    [InlineData(8)]
    public void Rtc(int seed)
    {
        new Rtc146818(_line, _time, new DateTime(2024, 2, 28, 23, 59, 59, DateTimeKind.Utc), 1 << 30).AttachTo(_ports);
        Fuzz(seed, 0x70, 0x71, random =>
        {
            if (random.Next(2) == 0) _ports.Out(0x70, random.Next(16));
        }, largestStep: 10_000_000);
        Assert.True(_line.Edges > 0);
    }

    [Theory]
    [InlineData(9)]
    [InlineData(10)]
    public void KeyboardController(int seed)
    {
        A20Gate a20 = new(_ => { });
        I8042 controller = new(_line, _otherLine, a20, () => { }, new DeviceLock("test"));
        controller.AttachTo(_ports);
        new Port92(a20, () => { }).AttachTo(_ports);
        Fuzz(seed, 0x60, 0x64, random =>
        {
            if (random.Next(4) == 0) controller.Type([0xF0, (byte)random.Next(256)]);
            if (random.Next(4) == 0) _ports.Out(0x92, random.Next(256));
        });
        Assert.True(_line.Edges > 0 && _otherLine.Edges > 0);
    }

    [Theory]
    [InlineData(11)]
    [InlineData(12)]
    public void Pci(int seed)
    {
        PciHost host = new(() => { });
        host.AttachTo(_ports);
        host.Add(0, 0, PciHost.CreateHostBridge());
        PciFunction device = new(0x1AF4, 0x1041, 0x020000);
        device.AddBar(0, PciBarKind.Io, 64);
        device.AddBar(1, PciBarKind.Memory32, 1 << 20);
        device.AddBar(2, PciBarKind.Memory64, 1ul << 40);
        device.AddBar(4, PciBarKind.Memory64Prefetchable, 16);
        device.AddCapability(0x11, new byte[100]);
        host.Add(1, 0, device);
        Fuzz(seed, 0xCF8, 0xCFF, random =>
        {
            if (random.Next(2) == 0) _ports.Write(0xCF8, 4, 0x8000_0000 | (uint)random.Next(2) << 11 | (uint)random.Next(256));
            foreach (PciBar bar in device.BaseAddresses)
                if (bar.Address is { } address) Assert.Equal(0ul, address % bar.Length);
        });
    }

    [Theory]
    [InlineData(13)]
    [InlineData(14)]
    public void FirmwareConfiguration(int seed)
    {
        FwCfg device = new(_memory, 1);
        device.AddFile("etc/writable", new byte[100], writable: true);
        device.AttachTo(_ports);
        byte[] command = new byte[16];
        Fuzz(seed, 0x510, 0x51B, random =>
        {
            random.NextBytes(command);
            // Half of the commands are small ones to memory, so that they do something.
            if (random.Next(2) == 0) command.AsSpan(4, 9).Clear();
            ulong at = (ulong)random.Next(1 << 19);
            _memory.Write(at, command);
            if (random.Next(8) != 0) return;
            _ports.Write(0x514, 4, 0);
            _ports.Write(0x518, 4, System.Buffers.Binary.BinaryPrimitives.ReverseEndianness((uint)at));
        });
    }

    [Fact]
    public void SmallDevices()
    {
        int exits = 0;
        new DebugExit(_ => exits++).AttachTo(_ports);
        new DebugConsole(_ => { }).AttachTo(_ports);
        new PostCode().AttachTo(_ports);
        Fuzz(15, 0x80, 0xF7);
        Assert.True(exits > 0);
    }
}
