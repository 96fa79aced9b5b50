using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Input;
using Bunraku.Machine.Interrupts;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Serial;

namespace Bunraku.Machine.Tests;

/// <summary>
/// Random register programs on our devices and on QEMU's. Each generator says what it leaves out because QEMU is known to deviate from the data sheet there;
/// the tests named after the data sheets cover that.
/// </summary>
public sealed class DevicesOnQemuTests : IDisposable
{
    private const int Steps = 20_000;

    private readonly TestTime _time = new();
    private readonly TestLine _line = new(), _otherLine = new();
    private readonly PortBus _ports = new();
    private readonly GuestMemory _memory = new(32 << 20);
    private readonly QemuRegisters _both;

    public DevicesOnQemuTests() => _both = new QemuRegisters(_ports);

    public void Dispose() => _memory.Dispose();

    /// <summary>
    /// Each chip alone, acknowledged through poll commands. Left out: a request that falls before it is acknowledged (QEMU keeps it), so also the cascade;
    /// non-specific EOI in special mask mode (QEMU clears masked levels); P together with RR (QEMU obeys both).
    /// </summary>
    [Theory]
    [InlineData("device[6]", 0x20, 0, 0x4D0, 21)]
    [InlineData("device[7]", 0xA0, 8, 0x4D1, 22)]
    public void Pic8259(string device, int basePort, int firstIrq, int elcr, int seed)
    {
        Pic8259Pair pic = new(_line);
        pic.AttachTo(_ports);
        Random random = new(seed);
        ushort a0 = (ushort)basePort, a1 = (ushort)(basePort + 1);
        int levelTriggered = 0, high = 0;
        bool specialMask = false;
        void Initialise()
        {
            _both.Out(a0, 0x13);
            _both.Out(a1, random.Next(256));
            _both.Out(a1, random.Next(4) == 0 ? 0x03 : 0x01);
            specialMask = false;
        }
        void Line(int input, bool level)
        {
            pic.Line(firstIrq + input).Set(level);
            _both.SetInput(device, input, level);
            high = level ? high | 1 << input : high & ~(1 << input);
        }
        void Poll()
        {
            _both.Out(a0, 0x0C);
            _both.In(a0);
        }
        Initialise();
        for (int n = 0; n < Steps; n++)
        {
            int level = random.Next(8);
            switch (random.Next(14))
            {
                case 0 or 1 or 2:
                    if (basePort == 0x20 && level == 2) break; // the cascade
                    _both.Out(a0, 0x0A);
                    uint requests = _both.In(a0);
                    bool waits = (requests >> level & 1) != 0, isLevel = (levelTriggered >> level & 1) != 0;
                    if ((high >> level & 1) == 0) Line(level, true);
                    else if (isLevel || !waits) Line(level, false);
                    break;
                case 3 or 4 or 5:
                    Poll();
                    break;
                case 6:
                    _both.Out(a0, 0x0B);
                    _both.In(a0);
                    break;
                case 7:
                    _both.Out(a1, random.Next(256));
                    _both.In(a1);
                    break;
                case 8 or 9:
                    _both.Out(a0, (specialMask ? 0x60 : random.Next(2) == 0 ? 0x20 : 0xA0) | level);
                    break;
                case 10:
                    _both.Out(a0, random.Next(4) switch { 0 => 0x60, 1 => 0xC0, 2 => 0xE0, _ => 0x40 } | level);
                    break;
                case 11:
                    _both.Out(a0, random.Next(2) == 0 ? 0x00 : 0x80);
                    break;
                case 12:
                    specialMask = random.Next(2) == 0;
                    _both.Out(a0, specialMask ? 0x68 : 0x48);
                    break;
                case 13 when random.Next(20) == 0:
                    // Quiet lines, then another triggering and a new initialisation.
                    for (int input = 0; input < 8; input++)
                        if ((high >> input & 1) != 0) Line(input, false);
                    _both.Out((ushort)elcr, 0);
                    Initialise();
                    _both.Out((ushort)elcr, random.Next(256));
                    levelTriggered = (int)_both.In((ushort)elcr);
                    break;
            }
        }
        _both.Compare();
    }

    /// <summary>
    /// Registers and the loopback. Left out: the transmitter's interrupt, which QEMU also raises when FIFOs are reset, and the modem deltas, which it does
    /// not have in the loopback; word lengths below eight bits, which it ignores; reads of an empty receiver.
    /// </summary>
    [Fact]
    public void Uart16550A()
    {
        new Uart16550A(_line, _ => { }, _time, new DeviceLock("test")).AttachTo(_ports);
        Random random = new(23);
        const ushort com1 = 0x3F8;
        _both.Out(com1 + 3, 0x03);
        _both.Out(com1 + 4, 0x1B);
        for (int n = 0; n < Steps; n++)
        {
            switch (random.Next(12))
            {
                case 0 or 1 or 2 or 3:
                    _both.Out(com1, random.Next(256));
                    break;
                case 4 or 5:
                    if ((_both.In(com1 + 5) & 1) != 0) _both.In(com1);
                    break;
                case 6:
                    _both.Out(com1 + 1, random.Next(2) | random.Next(2) << 2);
                    _both.In(com1 + 1);
                    break;
                case 7:
                    _both.In(com1 + 2);
                    break;
                case 8 when random.Next(8) == 0:
                    _both.Out(com1 + 2, random.Next(4) == 0 ? 0 : 0x01 | random.Next(4) << 6 | random.Next(2) << 1);
                    break;
                case 9:
                    _both.Out(com1 + 3, 0x83);
                    _both.Out(com1, random.Next(1, 256));
                    _both.Out(com1 + 1, random.Next(256));
                    _both.In(com1);
                    _both.In(com1 + 1);
                    _both.Out(com1 + 3, 0x03 | random.Next(8) << 3);
                    _both.In(com1 + 3);
                    break;
                case 10:
                    _both.Out(com1 + 4, 0x10 | random.Next(16));
                    _both.In(com1 + 4);
                    _both.In(com1 + 6, mask: 0xF0);
                    break;
                case 11:
                    _both.Out(com1 + 7, random.Next(256));
                    _both.In(com1 + 7);
                    break;
            }
        }
        _both.Compare();
    }

    /// <summary>
    /// Whole commands, each drained. Left out: status bit 3, which QEMU keeps set, the output port's interrupt bits, and IBM's commands that QEMU does not
    /// have.
    /// </summary>
    [Fact]
    public void I8042()
    {
        new I8042(_line, _otherLine, new A20Gate(_ => { }), () => { }, new DeviceLock("test")).AttachTo(_ports);
        Random random = new(24);
        const ushort data = 0x60, command = 0x64;
        byte[] keyboard = [0xED, 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFF];
        byte[] mouse = [0xE6, 0xE7, 0xE9, 0xEA, 0xF2, 0xF4, 0xF5, 0xF6, 0xFF];
        void Drain()
        {
            while ((_both.In(command, mask: 0x21) & 1) != 0) _both.In(data);
        }
        void Mouse(int value)
        {
            _both.Out(command, 0xD4);
            _both.Out(data, value);
            Drain();
        }
        _both.Out(command, 0x60);
        _both.Out(data, 0x47);
        Drain();
        for (int n = 0; n < Steps / 5; n++)
        {
            switch (random.Next(8))
            {
                case 0:
                    _both.Out(command, 0xAA + random.Next(2));
                    break;
                case 1:
                    _both.Out(command, 0xA9);
                    break;
                case 2:
                    _both.Out(command, 0x60);
                    _both.Out(data, 0x07 | random.Next(2) << 6);
                    _both.Out(command, 0x20);
                    break;
                case 3:
                    _both.Out(command, 0xD2 + random.Next(2));
                    _both.Out(data, random.Next(256));
                    break;
                case 4:
                    _both.Out(data, 0xF0);
                    Drain();
                    _both.Out(data, random.Next(4));
                    break;
                case 5:
                    byte value = keyboard[random.Next(keyboard.Length)];
                    _both.Out(data, value);
                    Drain();
                    if (value is 0xED or 0xF3) _both.Out(data, random.Next(8));
                    break;
                case 6:
                    Mouse(mouse[random.Next(mouse.Length)]);
                    break;
                case 7:
                    Mouse(0xE8);
                    Mouse(random.Next(4));
                    Mouse(0xF3);
                    Mouse(new[] { 10, 20, 40, 60 }[random.Next(4)]);
                    break;
            }
            Drain();
        }
        _both.Compare();
    }

    /// <summary>
    /// The identification of the host bridge and the ISA bridge, and the rules of the two ports. Their chip-specific registers are not compared.
    /// </summary>
    [Fact]
    public void PciConfiguration()
    {
        PciHost host = new(() => { });
        host.AttachTo(_ports);
        host.Add(0, 0, PciHost.CreateHostBridge());
        Random random = new(25);
        const ushort address = 0xCF8, data = 0xCFC;
        for (int n = 0; n < Steps; n++)
        {
            // Device 0 and devices that neither machine has; enabled or not.
            uint device = random.Next(2) == 0 ? 0 : (uint)random.Next(8, 32);
            int register = new[] { 0x00, 0x08, 0x10, 0x14, 0x24, 0x30 }[random.Next(6)];
            uint enable = random.Next(4) == 0 ? 0 : 0x8000_0000;
            _both.Out(address, 4, enable | device << 11 | (uint)register);
            _both.In(address, 4);
            if (random.Next(3) == 0) _both.Out(data, 4, (uint)random.NextInt64(1L << 32));
            int size = 1 << random.Next(3);
            _both.In((ushort)(data + random.Next(4 / size) * size), size);
        }
        _both.Compare();
    }

    [Fact]
    public void FirmwareConfiguration()
    {
        new FwCfg(_memory, 1).AttachTo(_ports);
        Random random = new(26);
        int[] keys = [0x00, 0x01, 0x03, 0x05, 0x0F, 0x3FFF];
        for (int n = 0; n < Steps; n++)
        {
            if (random.Next(8) == 0) _both.Out(0x510, 2, (uint)keys[random.Next(keys.Length)]);
            else _both.In(0x511);
        }
        _both.In(0x514, 4);
        _both.In(0x518, 4);
        _both.Compare();
    }
}
