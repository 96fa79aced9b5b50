using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Firmware;

/// <summary>Keeps what is written to a flash memory.</summary>
public interface IFlashStore
{
    /// <summary>Bytes have changed. With the device's lock held, on a vCPU's thread.</summary>
    /// <param name="offset">From the beginning of the flash memory.</param>
    void Write(int offset, ReadOnlySpan<byte> bytes);
}

/// <summary>
/// The part of the ROM in which firmware keeps its variables: a flash memory with Intel's command set, as far as edk2's driver for QEMU's goes (OVMF,
/// QemuFlashFvbServicesRuntimeDxe). Reads of the array come here as well: software engines let a write to a device exit behind the instructions that follow it,
/// and one of those could read ROM that the write has made a device.
/// </summary>
/// <remarks>
/// Common Flash Interface Specification; Intel StrataFlash Embedded Memory (P30) data sheet, "Command Set": bytes are programmed after 40h or 10h, and can only
/// lose ones there in silicon. Like QEMU's, this takes the byte as it is, which the driver relies on in no case.
/// </remarks>
internal sealed class Flash : IMmioDevice, IDevice, IStateful<FlashState>
{
    /// <summary>Bytes of a block, which are erased together.</summary>
    public const int BlockSize = 4 << 10;

    private const byte Program = 0x10, Erase = 0x20, ProgramToo = 0x40, ClearStatus = 0x50, ReadStatus = 0x70, Confirm = 0xD0, ReadArray = 0xFF;
    private const byte Ready = 1 << 7, SequenceError = 1 << 4 | 1 << 5;

    private enum Mode { Array, Status, Programming, Erasing }

    private readonly GuestMemory _memory;
    private readonly IFlashStore? _store;
    private readonly MemoryRegion _own;
    private readonly bool[] _changed;
    private Mode _mode;
    private byte _status = Ready;

    /// <param name="own">Where it is.</param>
    /// <param name="store">Null: what is written is gone at the end.</param>
    public Flash(GuestMemory memory, in MemoryRegion own, IFlashStore? store)
    {
        (_memory, _store, _own) = (memory, store, own);
        _changed = new bool[_own.Length / BlockSize];
    }

    public ulong Start => _own.Start;
    public ulong Length => _own.Length;

    /// <inheritdoc/>
    public string Id => "flash";

    /// <summary>The power-on state; the contents stay.</summary>
    public void Reset()
    {
        _status = Ready;
        Enter(Mode.Array);
    }

    public ulong ReadMmio(ulong offset, int size)
    {
        ulong value = 0;
        ReadOnlySpan<byte> array = _memory.ReadBacking(_own.Offset + offset, size);
        for (int n = 0; n < size; n++) value |= (ulong)(_mode == Mode.Array ? array[n] : _status) << 8 * n;
        return value;
    }

    public void WriteMmio(ulong offset, int size, ulong value)
    {
        byte command = (byte)value;
        switch (_mode)
        {
            case Mode.Programming:
                Span<byte> bytes = stackalloc byte[sizeof(ulong)];
                for (int n = 0; n < size; n++) bytes[n] = (byte)(value >> 8 * n);
                _memory.WriteBacking(_own.Offset + offset, bytes[..size]);
                _changed[offset / BlockSize] = true;
                _status |= Ready;
                Enter(Mode.Status);
                break;
            case Mode.Erasing:
                if (command == Confirm) EraseBlock(offset / BlockSize);
                else _status |= SequenceError;
                _status |= Ready;
                Enter(Mode.Status);
                break;
            default:
                Begin(command);
                break;
        }
    }

    private void Begin(byte command)
    {
        switch (command)
        {
            case Program or ProgramToo:
                Enter(Mode.Programming);
                break;
            case Erase:
                Enter(Mode.Erasing);
                break;
            case ReadStatus:
                Enter(Mode.Status);
                break;
            case ClearStatus:
                _status = 0;
                Enter(Mode.Array);
                break;
            default:
                // Read array; what else is no command leads there as well.
                Enter(Mode.Array);
                break;
        }
    }

    private void EraseBlock(ulong block)
    {
        byte[] ones = new byte[BlockSize];
        ones.AsSpan().Fill(0xFF);
        _memory.WriteBacking(_own.Offset + block * BlockSize, ones);
        _changed[block] = true;
    }

    private void Enter(Mode mode)
    {
        _mode = mode;
        if (mode != Mode.Array || _store is null) return;
        for (int block = 0; block < _changed.Length; block++)
        {
            if (!_changed[block]) continue;
            _changed[block] = false;
            _store.Write(block * BlockSize, _memory.ReadBacking(_own.Offset + (ulong)block * BlockSize, BlockSize));
        }
    }

    public FlashState Save() => new((int)_mode, _status);

    public void Restore(FlashState state)
    {
        _mode = StateCheck.Defined((Mode)state.Mode, Id);
        _status = state.Status;
    }
}

/// <summary>State of a <see cref="Firmware.Flash"/>; its contents are saved with RAM.</summary>
[StateRecord("flash", version: 1)]
internal sealed record FlashState(int Mode, byte Status);

/// <summary><see cref="Firmware.Flash"/> on a board.</summary>
/// <param name="own">Where it is.</param>
/// <param name="store">Keeps what is written; null: nobody.</param>
internal sealed class FlashPart(GuestMemory memory, MemoryRegion own, IFlashStore? store) : IBoardPart
{
    private const int BehindDevices = -2;

    public void AttachTo(IBoard board)
    {
        var flash = new Flash(memory, own, store);
        var @lock = new DeviceLock(flash.Id);
        board.Machine.Mmio.Add(flash.Start, flash.Length, flash, @lock, BehindDevices);
        board.Machine.Add(flash, @lock);
    }
}
