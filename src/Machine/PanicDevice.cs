using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>
/// QEMU's pvpanic on the ISA bus (docs/specs/pvpanic): a port that says by its bits which events it takes, and where the guest's kernel writes the one that
/// happened. With its lock held.
/// </summary>
/// <param name="happened">Told of an event: the guest has panicked, or has loaded a kernel for a crash, which deals with it.</param>
internal sealed class PanicDevice(Action<GuestPanic> happened) : IDevice, IStateful<NoState>
{
    /// <summary>Where QEMU puts it where nothing else is said.</summary>
    public const ushort DefaultPort = 0x505;

    /// <inheritdoc/>
    public string Id => "pvpanic";

    /// <inheritdoc/>
    public void Reset()
    {
    }

    NoState IStateful<NoState>.Save() => new();

    void IStateful<NoState>.Restore(NoState state)
    {
    }

    public void AttachTo(PortBus ports, ushort port) => ports.Add(port, 1, new ByteRegisters(_ => (byte)(GuestPanic.Panicked | GuestPanic.CrashLoaded),
        (_, value) =>
    {
        if ((GuestPanic)value is var which && (which & (GuestPanic.Panicked | GuestPanic.CrashLoaded)) != 0) happened(which);
    }));
}

/// <summary>What a guest tells of a panic.</summary>
[Flags]
public enum GuestPanic : byte
{
    /// <summary>Nothing.</summary>
    None = 0,
    /// <summary>It has panicked.</summary>
    Panicked = 1,
    /// <summary>It has panicked and goes on with a kernel for that case.</summary>
    CrashLoaded = 2,
}

/// <summary>pvpanic, by which a guest's kernel tells that it has panicked.</summary>
/// <param name="happened">Called on the vCPU's thread, without waiting for anything.</param>
/// <param name="port">Where it is.</param>
public sealed class PanicPart(Action<GuestPanic> happened, ushort port = PanicDevice.DefaultPort) : IBoardPart
{
    /// <inheritdoc/>
    public void AttachTo(IBoard board)
    {
        var device = new PanicDevice(happened);
        device.AttachTo(board.Machine.Ports, port);
        board.Machine.Add(device);
        board.Acpi.AddIsaDevice("PEVT", d => d.Name("_HID", "QEMU0001").Name("_CRS", new ResourceTemplate().Ports(port, 1)));
    }
}
