using Bunraku.Machine.Firmware;

namespace Bunraku.Machine.Board;

/// <summary>What a board is built with.</summary>
public sealed record PcBoardOptions
{
    /// <summary>Receives what the guest sends on COM1, with its lock held: it must not wait for anything. Null: it is lost.</summary>
    public Action<ReadOnlySpan<byte>>? SerialOutput { get; init; }

    /// <summary>Receives what the guest sends on COM2, like <see cref="SerialOutput"/>. Null: there is no COM2.</summary>
    public Action<ReadOnlySpan<byte>>? SecondSerialOutput { get; init; }

    /// <summary>Receives what the guest writes to the debug console at port E9h, like <see cref="SerialOutput"/>. Null: there is no such port.</summary>
    public Action<ReadOnlySpan<byte>>? DebugOutput { get; init; }

    /// <summary>The ROM that the processor begins in; null: there is none, and a boot protocol enters a kernel.</summary>
    public FirmwareImage? Firmware { get; init; }

    /// <summary>Keeps what the firmware writes to its flash memory, where it has one; null: it is gone at the end.</summary>
    public IFlashStore? FlashStore { get; init; }

    /// <summary>Receives the firmware's log, which it writes to port 402h, like <see cref="SerialOutput"/>. Null: there is no such port.</summary>
    public Action<ReadOnlySpan<byte>>? FirmwareLog { get; init; }

    /// <summary>Open Firmware paths of what the firmware is to boot from, the first first; empty: it has its own order.</summary>
    public IReadOnlyList<string> BootOrder { get; init; } = [];

    /// <summary>
    /// With a machine whose memory has a display's region: the display's option ROM, by which firmware uses it; null: it has none.
    /// </summary>
    public byte[]? DisplayRom { get; init; }

    /// <summary>
    /// Kinds of devices that the firmware is to try, where <see cref="BootOrder"/> names none, the first first; empty: disks, discs, network.
    /// </summary>
    public IReadOnlyList<BootDevice> BootDevices { get; init; } = [];

    /// <summary>There is no PCI: virtio devices lie in memory, and there are no other ones. Not with firmware or a display.</summary>
    public bool IsMicroVm { get; init; }

    /// <summary>What the machine tells of itself.</summary>
    public MachineIdentity Identity { get; init; } = new();

    /// <summary>isa-debug-exit at port F4h.</summary>
    public bool DebugExit { get; init; }

    /// <summary><see cref="Machine.TestDevice"/>.</summary>
    public bool TestDevice { get; init; }

    /// <summary>Parts that the caller adds to those of every PC; they are attached last, in this order.</summary>
    public IReadOnlyList<IBoardPart> Parts { get; init; } = [];

    /// <summary>What the guest reads as the generation of its VM at first.</summary>
    public Guid Generation { get; init; } = Guid.NewGuid();

    /// <summary>What the real-time clock shows at the start.</summary>
    public DateTime StartTime { get; init; } = DateTime.UtcNow;

    /// <summary>The state of another machine comes before the start: nothing is made ready for a first instruction.</summary>
    public bool TakesState { get; init; }
}
