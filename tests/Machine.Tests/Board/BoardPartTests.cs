using System.Text;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Board.Parts;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Tests.Board;

/// <summary>Parts that a caller adds to a board.</summary>
public sealed class BoardPartTests : IDisposable
{
    private const ushort Port = 0x620;
    private const ulong Memory = 0xFD00_0000;

    private readonly X86Machine _vm = new(new IdleEngine(), IdleEngine.Model, 64 << 20);

    public void Dispose() => _vm.Dispose();

    /// <summary>A device with everything that a board has for one.</summary>
    private sealed class Part : IBoardPart, IPortDevice, IMmioDevice
    {
        public readonly DeviceLock Lock = new("part");
        public IInterruptLine Isa = null!, Pci = null!;
        public IMachineTimer Timer = null!;
        public IBoard Board = null!;
        public IBusMapping Mapping = null!;
        public readonly ManualResetEventSlim Called = new();

        public void AttachTo(IBoard board)
        {
            Board = board;
            board.Machine.Ports.Add(Port, 4, this, Lock);
            Mapping = board.Machine.Mmio.Add(Memory, 0x1000, this, Lock);
            (Isa, Pci) = (board.IsaInterrupt(5), board.PciInterrupt(3, 0));
            Timer = board.CreateTime(Lock).CreateTimer(Called.Set);
            board.Acpi.AddIsaDevice("OWN0", "PNP0A05", r => r.Ports(Port, 4).Irq(5));
            board.Acpi.AddTable("OWNT", 1, [1, 2, 3, 4]);
            board.FwCfg.AddFile("opt/own", [1]);
        }

        public uint ReadPort(ushort offset, int size) => 0xA0u + offset;

        public void WritePort(ushort offset, int size, uint value)
        {
        }

        public ulong ReadMmio(ulong offset, int size) => 0xB0 + offset;

        public void WriteMmio(ulong offset, int size, ulong value)
        {
        }
    }

    [Fact]
    public void APartOfTheCallersHasPortsMemoryInterruptsTimersAndAPlaceInAcpi()
    {
        var part = new Part();
        var board = new PcBoard(_vm, new PcBoardOptions { Parts = [part] });
        Assert.Equal((0xA1u, 0xB8ul), (_vm.Ports.Read(Port + 1, 1), _vm.Mmio.Read(Memory + 8, 4)));
        part.Mapping.Move(Memory + 0x1000);
        Assert.Equal((ulong.MaxValue, 0xB8ul), (_vm.Mmio.Read(Memory + 8, 4), _vm.Mmio.Read(Memory + 0x1008, 4)));

        lock (part.Lock) part.Timer.Arm(0);
        Assert.True(part.Called.Wait(30_000));

        part.Isa.Set(true);
        Assert.True(board.Pic.IsAsserted(5));
        Redirect(19, 0x55); // slot 3, INTA
        part.Pci.Set(true);
        _vm.Mmio.Write(0xFEC0_0000, 4, 0x10 + 2 * 19);
        _vm.Cpus[0].LocalMmio.Write(0xFEE0_00F0, 4, 0x1FF);
        part.Pci.Set(false);
        part.Pci.Set(true);
        Assert.Equal(1ul << 21, _vm.Cpus[0].LocalMmio.Read(0xFEE0_0220, 4)); // IRR, vector 55h
        part.Board.SendMessage(0xFEE0_0000, 0x56);
        Assert.Equal(3ul << 21, _vm.Cpus[0].LocalMmio.Read(0xFEE0_0220, 4));

        Assert.Equal([1, 2, 3, 4], board.Tables.Tables.Single(t => t.Signature == "OWNT").Bytes[36..]);
        Assert.Contains("OWN0", Encoding.ASCII.GetString(board.Tables.Tables.Single(t => t.Signature == "DSDT").Bytes));
    }

    private void Redirect(int pin, uint entry)
    {
        _vm.Mmio.Write(0xFEC0_0000, 4, (ulong)(0x10 + 2 * pin));
        _vm.Mmio.Write(0xFEC0_0010, 4, entry);
    }

    private sealed class Intruder(Action<IBoard> attach) : IBoardPart
    {
        public void AttachTo(IBoard board) => attach(board);
    }

    private string Refusal(IBoardPart part) => Assert.ThrowsAny<Exception>(() => new PcBoard(_vm, new PcBoardOptions { Parts = [part] })).Message;

    [Fact]
    public void APartThatWantsWhatAnotherHasIsRefused() =>
        Assert.Equal("port 03F8 of Part is taken by ByteRegisters", Refusal(new Intruder(b => b.Machine.Ports.Add(0x3F8, 1, new Part()))));

    [Fact]
    public void APartInAnothersMemoryIsRefused() =>
        Assert.Equal("guest-physical address FED00000 of Part is taken by Hpet",
            Refusal(new Intruder(b => b.Machine.Mmio.Add(0xFED0_0000, 0x1000, new Part()))));

    [Fact]
    public void APartWithAnothersNameIsRefused() => Assert.Contains("com1", Refusal(new SerialPart(1, _ => { })));

    [Fact]
    public void APartWithAnothersNameInAcpiIsRefused() =>
        Assert.Contains("COM1", Refusal(new Intruder(b => b.Acpi.AddIsaDevice("COM1", "PNP0501", r => r.Irq(4)))));
}
