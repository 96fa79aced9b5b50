using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Firmware;

namespace Bunraku.Machine.Board.Parts;

/// <summary>The POST code port and the page registers beside it.</summary>
internal sealed class PostCodePart : IBoardPart
{
    public PostCode PostCode { get; } = new();

    public void AttachTo(IBoard board)
    {
        PostCode.AttachTo(board.Machine.Ports);
        board.Machine.Add(PostCode);
        board.Machine.Shortcuts?.TryPostWrites(isPort: true, PostCode.Port, 1); // what it does shows only when it is read
    }
}

/// <summary>FERR# of the processors, which raises IRQ 13, and the ports that take it back.</summary>
internal sealed class CoprocessorErrorPart : IBoardPart
{
    public void AttachTo(IBoard board)
    {
        IInterruptLine line = board.IsaInterrupt(CoprocessorError.Irq);
        board.Machine.FloatingPointError = line;
        var error = new CoprocessorError(line);
        error.AttachTo(board.Machine.Ports);
        board.Machine.Add(error);
    }
}

/// <summary>The debug console at port E9h.</summary>
/// <param name="output">Receives the bytes, with the port's lock held: it must not wait for anything.</param>
/// <param name="id">Its name in the machine.</param>
/// <param name="port">Where it is.</param>
public sealed class DebugConsolePart(Action<ReadOnlySpan<byte>> output, string id = "debugcon", ushort port = DebugConsole.Port) : IBoardPart
{
    /// <inheritdoc/>
    public void AttachTo(IBoard board)
    {
        var console = new DebugConsole(output) { Id = id };
        console.AttachTo(board.Machine.Ports, port);
        board.Machine.Add(console);
    }
}

/// <summary>QEMU's isa-debug-exit: what the guest writes there ends the VM with process status value × 2 + 1.</summary>
/// <param name="port">Its first port.</param>
/// <param name="count">Number of its ports, 1 to 4.</param>
public sealed class DebugExitPart(ushort port = DebugExit.FirstPort, int count = DebugExit.Ports) : IBoardPart
{
    /// <inheritdoc/>
    public void AttachTo(IBoard board)
    {
        var exit = new DebugExit(board.Machine.Stop) { Id = port == DebugExit.FirstPort ? DebugExit.Name : $"{DebugExit.Name}.{port:x}" };
        exit.AttachTo(board.Machine.Ports, port, count);
        board.Machine.Add(exit);
    }
}

/// <summary><see cref="TestDevice"/>.</summary>
internal sealed class TestDevicePart : IBoardPart
{
    public void AttachTo(IBoard board) => new TestDevice(board).Attach();
}

/// <summary>The ports of <see cref="IBoard.FwCfg"/>. Its items are added by whoever has some.</summary>
internal sealed class FwCfgPart : IBoardPart
{
    public void AttachTo(IBoard board)
    {
        var @lock = new DeviceLock("fw_cfg");
        board.FwCfg.AttachTo(board.Machine.Ports, @lock);
        board.Machine.Add(board.FwCfg, @lock);
        Describe(board.Acpi);
    }

    internal static void Describe(AcpiDescription acpi) =>
        acpi.AddIsaDevice("FWCF", d => d.Name("_HID", "QEMU0002").Name("_CRS", new ResourceTemplate().Ports(FwCfg.SelectorPort, FwCfg.Ports)));
}

/// <summary>Both ways into configuration space, host bridge and ISA bridge.</summary>
/// <param name="map">With firmware: the host bridge shows ROM and RAM there below 1 MiB as the firmware wants them.</param>
/// <param name="isEmpty">There are no bridges: a bus that nobody finds, whose ports reset the machine.</param>
internal sealed class PciPart(MemoryMap? map, bool isEmpty) : IBoardPart
{
    /// <summary>Slot of the bridge under which the legacy devices are described.</summary>
    public const int IsaBridgeSlot = 1;

    private const int PowerFunction = 3;

    public void AttachTo(IBoard board)
    {
        var @lock = new DeviceLock("pci");
        board.Pci.AttachTo(board.Machine.Ports, @lock);
        board.Machine.Add(board.Pci, @lock);
        if (isEmpty) return;
        new Pci.PciEcam(board.Pci).AttachTo(board, @lock);
        if (map is not null)
        {
            const int behindDevices = -2;
            var shadow = new ShadowRam(board.Machine.Memory, map);
            board.Machine.Mmio.Add(ShadowRam.Start, ShadowRam.Length, shadow, new DeviceLock("shadow RAM"), behindDevices);
            board.Pci.Add(0, 0, new HostBridge440Fx(shadow));
        }
        else
        {
            board.Pci.Add(0, 0, Pci.PciHost.CreateHostBridge());
        }
        board.Pci.Add(IsaBridgeSlot, 0, Pci.PciHost.CreateIsaBridge(answers: map is not null));
        if (map is not null) board.Pci.Add(IsaBridgeSlot, PowerFunction, Pci.PciHost.CreatePowerManagement());
    }
}
