using System.Text;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Interrupts;

namespace Bunraku.Machine.Tests.Board;

/// <summary>The board as the exit handlers see it: each access is an exit that the test makes up.</summary>
public sealed class PcBoardTests : IDisposable
{
    private readonly X86Machine _vm = new(new IdleEngine(), IdleEngine.Model, 64 << 20, cpus: 2);
    private readonly List<byte> _serial = [];
    private readonly PcBoard _board;

    public PcBoardTests() =>
        _board = new PcBoard(_vm, new PcBoardOptions { SerialOutput = bytes => _serial.AddRange(bytes), DebugExit = true, TestDevice = true });

    public void Dispose() => _vm.Dispose();

    [Fact]
    public void SoftOffThroughTheRegistersThatTheFadtNames()
    {
        byte[] fadt = _board.Tables.Tables.Single(t => t.Signature == "FACP").Bytes;
        Out(BitConverter.ToUInt16(fadt, 64), 2, 0x2000); // PM1a_CNT_BLK: SLP_EN, SLP_TYP of \_S5
        Assert.Equal(StopReason.PowerOff, Cause().Reason);
    }

    [Fact]
    public void ResetThroughTheRegisterThatTheFadtNames()
    {
        byte[] fadt = _board.Tables.Tables.Single(t => t.Signature == "FACP").Bytes;
        Assert.Equal(1, fadt[116]); // RESET_REG: system I/O
        Out(BitConverter.ToUInt16(fadt, 120), 1, fadt[128]);
        Assert.Equal(StopReason.Reset, Cause().Reason);
    }

    [Theory]
    [InlineData(0x64, 0xFE)] // keyboard controller: pulse output port bit 0
    [InlineData(0x92, 0x01)]
    public void LegacyResets(int port, uint value)
    {
        Out((ushort)port, 1, value);
        Assert.Equal(StopReason.Reset, Cause().Reason);
    }

    [Fact]
    public void DebugExitStatus()
    {
        Out(0xF4, 1, 3);
        Assert.Equal(new StopCause(StopReason.DebugExit, 7), Cause());
    }

    [Fact]
    public void RsdpIsFoundBySearching()
    {
        // ACPI 6.3, section 5.2.5.1: first KiB of the EBDA, then E0000h to FFFFFh, on 16-byte boundaries.
        byte[] at = new byte[8];
        ulong found = 0;
        for (ulong address = 0xE0000; address < 0x10_0000 && found == 0; address += 16)
        {
            Assert.True(_vm.Memory.Read(address, at));
            if (Encoding.ASCII.GetString(at) == "RSD PTR ") found = address;
        }
        Assert.Equal(MemoryLayout.Rsdp, found);
        Assert.True(_vm.Memory.TryRead(0x40E, out ushort ebda));
        Assert.Equal(MemoryLayout.Ebda, (ulong)ebda << 4);
    }

    /// <summary>Microsoft, "Virtual Machine Generation ID": the ID is in reserved memory, 8-byte aligned, and changes before the notification.</summary>
    [Fact]
    public void ANewGenerationIsInMemoryAndRaisesItsEvent()
    {
        ulong address = BitConverter.ToUInt32(_board.Tables.Tables.Single(t => t.Signature == "SSDT").Bytes.AsSpan()[^5..]);
        Assert.Equal(0ul, address % 8);
        Assert.Contains(_board.MemoryMap, e => e.Type == E820Type.Reserved && e.Address <= address && e.End >= address + 16);
        byte[] id = new byte[16];
        Assert.True(_vm.Memory.Read(address, id));
        Assert.Equal(_board.Generation.Current, new Guid(id));
        byte[] fadt = _board.Tables.Tables.Single(t => t.Signature == "FACP").Bytes;
        var events = (ushort)BitConverter.ToUInt32(fadt, 80); // GPE0_BLK
        Assert.Equal((0u, 4), (In(events, 2), fadt[92])); // GPE0_BLK_LEN
        _vm.Memory.DeviceWrites.Enable(true);

        var next = Guid.NewGuid();
        _board.Generation.Renew(next);
        Assert.True(_vm.Memory.Read(address, id));
        Assert.Equal((next, 1u << 5), (new Guid(id), In(events, 2)));
        Assert.NotEqual(0ul, _vm.Memory.DeviceWrites.Take(_vm.Memory.Regions[0])[address >> 12 >> 6] & 1ul << (int)(address >> 12 & 63));
        _board.Generation.Renew();
        Assert.NotEqual(next, _board.Generation.Current);
    }

    [Fact]
    public void EachVcpuFindsItsOwnLocalApic()
    {
        Assert.Equal(0ul, Mmio(0xFEE0_0020, cpu: 0));
        Assert.Equal(1ul << 24, Mmio(0xFEE0_0020, cpu: 1));
        Wrmsr(0x1B, 0xFED4_0800, cpu: 1);
        Assert.Equal(1ul << 24, Mmio(0xFED4_0020, cpu: 1));
        Assert.Equal(uint.MaxValue, Mmio(0xFEE0_0020, cpu: 1));
        Assert.Equal(0ul, Mmio(0xFEE0_0020, cpu: 0));
        Assert.Equal(uint.MaxValue, Mmio(0xFED4_0020, cpu: 0));
    }

    [Fact]
    public void UnknownMsrFaults()
    {
        Assert.True(Wrmsr(0x808, 0, cpu: 0)); // x2APIC register in xAPIC mode
        Assert.False(Wrmsr(0x1B, 0xFEE0_0D00, cpu: 0));
        Assert.False(Wrmsr(0x808, 0, cpu: 0));
        Assert.True(Wrmsr(0xC000_1234, 0, cpu: 0));
    }

    [Fact]
    public void Cr8IsTheTaskPriority()
    {
        Handle(new X86Exit { Reason = ExitReason.CrAccess, Address = 8, IsWrite = true, Data = 5 }, 0);
        Assert.Equal(0x50ul, Mmio(0xFEE0_0080, cpu: 0));
    }

    [Fact]
    public void TheNmiWireLeadsToLint1OfEveryLocalApic()
    {
        _board.PulseNmi();
        Assert.True(_vm.Cpus[0].Interrupts!.TakeNmi()); // as firmware has set LINT1 up
        Assert.False(_vm.Cpus[0].Interrupts!.TakeNmi());
        Assert.False(_vm.Cpus[1].Interrupts!.NmiPending); // masked after power-up
    }

    [Fact]
    public void IsaInterruptThroughThePicInVirtualWireMode()
    {
        InitializePic();
        IInterruptSource cpu0 = _vm.Cpus[0].Interrupts!, cpu1 = _vm.Cpus[1].Interrupts!;
        _board.Interrupts[4].Set(true);
        Assert.True(cpu0.InterruptPending);
        Assert.False(cpu1.InterruptPending); // its LINT0 is masked
        Assert.Equal((byte)0x34, cpu0.AcknowledgeInterrupt());
    }

    [Fact]
    public void IsaInterruptThroughTheIoApic()
    {
        WriteMmio(0xFEC0_0000, 0x10 + 2 * 4);
        WriteMmio(0xFEC0_0010, 0x44);
        WriteMmio(0xFEC0_0000, 0x10 + 2 * 2); // ISA IRQ 0 arrives at input 2
        WriteMmio(0xFEC0_0010, 0x40);
        _board.Interrupts[4].Set(true);
        _board.Interrupts[0].Set(true);
        IInterruptSource cpu = _vm.Cpus[0].Interrupts!;
        Assert.Equal((byte)0x44, cpu.AcknowledgeInterrupt());
        WriteMmio(0xFEE0_00B0, 0);
        Assert.Equal((byte)0x40, cpu.AcknowledgeInterrupt());
    }

    [Fact]
    public void SerialPortSends()
    {
        Out(0x3FB, 1, 3); // 8 bits a character
        foreach (byte b in "hi"u8.ToArray()) Out(0x3F8, 1, b);
        Assert.Equal("hi"u8.ToArray(), _serial);
    }

    [Fact]
    public void PciBusHasHostAndIsaBridge()
    {
        Assert.Equal(0x060000u, ConfigRead(0, 8) >> 8);
        Assert.Equal(0x060100u, ConfigRead(1, 8) >> 8);
        Assert.Equal(uint.MaxValue, ConfigRead(31, 0));
    }

    [Fact]
    public void PowerButtonRaisesTheSci()
    {
        WriteMmio(0xFEC0_0000, 0x10 + 2 * 9);
        WriteMmio(0xFEC0_0010, 0x49 | 1 << 15);
        Out(0x602, 2, 1 << 8);
        _board.PressPowerButton();
        Assert.Equal((byte)0x49, _vm.Cpus[0].Interrupts!.AcknowledgeInterrupt());
    }

    [Fact]
    public void FirmwareConfigurationTellsTheNumberOfProcessors()
    {
        Out(0x510, 2, 5);
        Assert.Equal(2u, In(0x511, 1) | In(0x511, 1) << 8);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void RandomPortAndMemoryAccessesNeverThrow(int seed)
    {
        var random = new Random(seed);
        for (int n = 0; n < 300_000; n++)
        {
            int cpu = random.Next(2), size = 1 << random.Next(3);
            var value = (uint)random.Next();
            switch (random.Next(4))
            {
                case 0:
                    Handle(new X86Exit
                    {
                        Reason = ExitReason.Io,
                        IsWrite = random.Next(2) == 0,
                        Address = (ushort)random.Next(0x1000),
                        Size = size,
                        Data = value
                    }, cpu);
                    break;
                case 1:
                    Handle(new X86Exit
                    {
                        Reason = ExitReason.Io,
                        IsWrite = random.Next(2) == 0,
                        Address = (ushort)random.Next(0x10000),
                        Size = size,
                        Data = value
                    }, cpu);
                    break;
                case 2:
                    ulong page = random.Next(2) == 0 ? MemoryLayout.IoApic : MemoryLayout.LocalApic;
                    Handle(new X86Exit
                    {
                        Reason = ExitReason.Mmio,
                        IsWrite = random.Next(2) == 0,
                        Address = page + (ulong)(random.Next(0x1000) & -size),
                        Size = size,
                        Data = value
                    }, cpu);
                    break;
                default:
                    Handle(new X86Exit { Reason = ExitReason.Msr, IsWrite = random.Next(2) == 0, Address = (uint)random.Next(0x900), Data = value }, cpu);
                    break;
            }
            lock (_vm.InterruptLock)
            {
                if (_vm.Cpus[cpu].Interrupts is { InterruptPending: true } source) source.AcknowledgeInterrupt();
            }
        }
    }

    [Fact]
    public void AfterABiosOnlyTheTimerInterruptsWithVector08h()
    {
        _board.PrepareAsBios();
        Assert.Equal((0xFAu, 0xFFu), (In(0x21, 1), In(0xA1, 1)));
        Out(0x43, 1, 0xE2); // read-back: status of channel 0
        Assert.Equal(0x36u, In(0x40, 1) & 0x3F);
        _board.Interrupts[0].Set(true);
        Assert.True(_vm.Cpus[0].Interrupts!.InterruptPending);
        Assert.Equal((byte)8, _vm.Cpus[0].Interrupts!.AcknowledgeInterrupt());
        Assert.True(_vm.Memory.TryRead(8 * 4, out uint handler));
        Assert.True(_vm.Memory.TryRead((handler >> 16 << 4) + (handler & 0xFFFF), out ulong code));
        Assert.Equal(0xCF_5820_E620_B050ul, code & 0xFF_FFFF_FFFF_FFFF); // PUSH AX; MOV AL, 20h; OUT 20h, AL; POP AX; IRET
    }

    [Fact]
    public void TestDeviceMovesTheWireThatItsPortNamesAndKeepsBytes()
    {
        InitializePic();
        Out(0x200B, 4, 1);
        Assert.Equal((byte)0x3B, _vm.Cpus[0].Interrupts!.AcknowledgeInterrupt());
        Out(0xE0, 4, 0x1122_3344);
        Out(0xE1, 2, 0x5566);
        Assert.Equal(0x1155_6644u, In(0xE0, 4));
        WriteMmio(0xFF00_FFFC, 0x1234_5678);
        Assert.Equal(0x1234_5678u, Mmio(0xFF00_FFFC, cpu: 1));
    }

    private StopCause Cause()
    {
        Assert.True(_vm.Stopped.IsCompleted);
        return _vm.Stopped.Result;
    }

    private X86Exit Handle(X86Exit exit, int cpu)
    {
        _vm.Cpus[cpu].Handle(exit);
        return exit;
    }

    private void Out(ushort port, int size, uint value) =>
        Handle(new X86Exit { Reason = ExitReason.Io, IsWrite = true, Address = port, Size = size, Data = value }, 0);

    private uint In(ushort port, int size) => (uint)Handle(new X86Exit { Reason = ExitReason.Io, Address = port, Size = size }, 0).Data;

    private ulong Mmio(ulong address, int cpu) => (uint)Handle(new X86Exit { Reason = ExitReason.Mmio, Address = address, Size = 4 }, cpu).Data;

    private void WriteMmio(ulong address, uint value) =>
        Handle(new X86Exit { Reason = ExitReason.Mmio, IsWrite = true, Address = address, Size = 4, Data = value }, 0);

    /// <returns>True when it faults.</returns>
    private bool Wrmsr(uint index, ulong value, int cpu) =>
        Handle(new X86Exit { Reason = ExitReason.Msr, IsWrite = true, Address = index, Data = value }, cpu).Fault;

    private uint ConfigRead(int slot, int register)
    {
        Out(0xCF8, 4, 1u << 31 | (uint)slot << 11 | (uint)register);
        return In(0xCFC, 4);
    }

    private void InitializePic()
    {
        foreach ((ushort port, uint value) in ((ushort, uint)[])[(0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1), (0xA0, 0x11), (0xA1, 0x38), (0xA1, 2),
            (0xA1, 1), (0x21, 0), (0xA1, 0)])
            Out(port, 1, value);
    }
}
