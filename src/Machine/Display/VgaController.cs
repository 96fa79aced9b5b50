using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Display;

/// <summary>
/// A VGA with the Bochs display registers, as a function on PCI: QEMU's "standard VGA" (docs/specs/standard-vga.rst), 1234:1111. Its memory is a region of the
/// machine's that is a device's; it shows where base address register 0 says, and in the window at A0000h in modes in which that does nothing but show it.
/// Register 2 has the monitor's description, the VGA's ports and the Bochs registers once more. There is no interrupt.
/// </summary>
public sealed class VgaController : PciDevice
{
    /// <summary>Bytes of display memory that a VM's has.</summary>
    public const ulong MemorySize = 16 << 20;

    private const ushort Vendor = 0x1234, Device = 0x1111;
    private const int FrameBufferBar = 0, RegistersBar = 2;
    private const ushort BochsIndexPort = 0x1CE;
    private const int BochsPorts = 3; // index, data at an odd port, and once more behind it
    private const uint VgaClass = 0x030000;

    private readonly VgaRegisters _registers = new();
    private readonly BochsDisplay _bochs;
    private readonly VgaPlanes _planes;
    private readonly GuestMemory _memory;
    private readonly MemoryRegion _own;
    private readonly byte[] _monitor = Edid.Make(1280, 800);
    private readonly PciBar _frameBuffer;
    private MemoryMap? _map;
    private ITimeSource? _time;
    private ushort _bochsIndex;

    /// <param name="memory">With a region that is a device's.</param>
    /// <param name="rom">The option ROM, by which firmware can use the screen; null: there is none.</param>
    internal VgaController(GuestMemory memory, byte[]? rom) : base("vga", Vendor, Device, VgaClass, revision: 2, PciHost.QemuVendor, PciHost.QemuSubsystem)
    {
        _memory = memory;
        _own = memory.InitialRegions.First(r => r.IsDevice);
        _bochs = new BochsDisplay((uint)_own.Length);
        _planes = new VgaPlanes(_registers, _bochs, memory, _own.Offset, (uint)_own.Length);
        Config.Bytes[PciRegister.InterruptPin] = 0;
        AllowCommand(PciCommand.IoSpace); // by which firmware tells a VGA that answers at its ports; ours does always
        // What answers there answers only where the guest has put the memory upon something else.
        _frameBuffer = AddMemory(FrameBufferBar, PciBarKind.Memory32Prefetchable, _own.Length, new FrameBuffer(this));
        AddMemory(RegistersBar, PciBarKind.Memory32, RegisterWindow.Length, new RegisterWindow(this));
        if (rom is not null) AddRom(rom);
    }

    /// <summary>Puts it on a board, with the ports and the window that a VGA has wherever it is.</summary>
    /// <param name="map">Shows its memory.</param>
    internal void AttachTo(IBoard board, int slot, MemoryMap map)
    {
        _map = map;
        _time = board.CreateTime(Lock);
        X86Machine vm = board.Machine;
        vm.Mmio.Add(VgaPlanes.Window, VgaPlanes.WindowLength, new Window(this), Lock);
        var ports = new ByteRegisters(n => Read((ushort)(VgaPort.First + n)), (n, value) => Write((ushort)(VgaPort.First + n), value));
        vm.Ports.Add(VgaPort.First, VgaPort.Count, ports, Lock);
        foreach (ushort first in (ReadOnlySpan<ushort>)[VgaPort.MonochromeCrtc, VgaPort.ColorCrtc]) AddPorts(vm, first, 2);
        foreach (ushort first in (ReadOnlySpan<ushort>)[VgaPort.MonochromeStatus, VgaPort.ColorStatus]) AddPorts(vm, first, 1);
        vm.Ports.Add(BochsIndexPort, BochsPorts, new BochsRegisters(this), Lock);
        AttachTo(board, slot);
    }

    private void AddPorts(X86Machine vm, ushort first, int count) =>
        vm.Ports.Add(first, count, new ByteRegisters(n => Read((ushort)(first + n)), (n, value) => Write((ushort)(first + n), value)), Lock);

    /// <summary>A picture of the screen. Any thread, while the guest runs as well: what it draws meanwhile may be there in part.</summary>
    /// <param name="reuse">An earlier one, which is overwritten where the screen has its size still.</param>
    public ScreenImage Paint(ScreenImage? reuse = null) => Contents.Paint(reuse);

    /// <summary>The characters that are shown; null: there are pixels, or nothing. Any thread.</summary>
    public ScreenText? ReadText() => Contents is { HasText: true } contents ? contents.ReadText() : null;

    /// <summary>What is shown at this moment.</summary>
    private ScreenContents Contents
    {
        get
        {
            lock (Lock) return new ScreenContents(_registers, _bochs, _memory, _own);
        }
    }

    // ---- registers

    private byte Read(ushort port) => _registers.Read(port, _time!.Nanoseconds, _bochs.HasWideDac);

    private void Write(ushort port, byte value)
    {
        _registers.Write(port, value);
        // What says how the window answers.
        if (port is VgaPort.MiscellaneousWrite or VgaPort.SequencerData or VgaPort.GraphicsData) UpdateMap();
    }

    private void WriteBochs(int index, ushort value)
    {
        if (_bochs.Write(index, value)) Clear();
        if (index is BochsDisplay.Enable or BochsDisplay.Bank or BochsDisplay.BitsPerPixel) UpdateMap();
    }

    /// <summary>A mode begins with a dark screen.</summary>
    private void Clear()
    {
        ulong length = Math.Min((ulong)_bochs.LineBytes * (ulong)_bochs.Height * (_bochs.IsPlanar ? 4u : 1u), _own.Length);
        Span<byte> zeros = stackalloc byte[(int)GuestMemory.PageSize];
        zeros.Clear();
        for (ulong at = 0; at < length; at += GuestMemory.PageSize)
            _memory.WriteBacking(_own.Offset + at, zeros[..(int)Math.Min(GuestMemory.PageSize, length - at)]);
    }

    private void UpdateMap()
    {
        if (_map is null) return;
        MemoryRegion? frameBuffer = _frameBuffer.Address is { } address ? _own with { Start = address } : null;
        MemoryRegion? window = _planes.Linear is { } offset
            ? new(VgaPlanes.Window, VgaPlanes.GraphicsLength, _own.Offset + offset, IsReadOnly: false, IsDevice: true) : null;
        _map.ShowDisplay(frameBuffer, window);
    }

    /// <inheritdoc/>
    protected override void BarPlaced(PciBar bar)
    {
        if (bar == _frameBuffer) UpdateMap();
    }

    /// <inheritdoc/>
    public override void Reset()
    {
        _registers.Reset();
        _bochs.Reset();
        _planes.Latches = 0;
        _bochsIndex = 0;
        UpdateMap();
        base.Reset();
    }

    // ---- state

    /// <inheritdoc/>
    public override Type StateType => typeof(VgaState);

    /// <inheritdoc/>
    public override object Save() => new VgaState(_registers.Save(), _bochs.Save(), _bochsIndex, _planes.Latches);

    /// <inheritdoc/>
    public override void Restore(object state)
    {
        VgaState s = StateCheck.Record<VgaState>(state, Id);
        _registers.Restore(s.Registers, Id);
        _bochs.Restore(s.Bochs, Id);
        (_bochsIndex, _planes.Latches) = (s.BochsIndex, s.Latches);
        UpdateMap();
    }

    // ---- what answers on the buses

    private sealed class Window(VgaController vga) : IMmioDevice
    {
        public ulong ReadMmio(ulong offset, int size)
        {
            ulong value = 0;
            for (int n = 0; n < size; n++) value |= (ulong)vga._planes.Read(offset + (ulong)n) << 8 * n;
            return value;
        }

        public void WriteMmio(ulong offset, int size, ulong value)
        {
            for (int n = 0; n < size; n++) vga._planes.Write(offset + (ulong)n, (byte)(value >> 8 * n));
        }
    }

    private sealed class FrameBuffer(VgaController vga) : IMmioDevice
    {
        public ulong ReadMmio(ulong offset, int size)
        {
            ulong value = 0;
            ReadOnlySpan<byte> bytes = vga._memory.ReadBacking(vga._own.Offset + offset, size);
            for (int n = 0; n < size; n++) value |= (ulong)bytes[n] << 8 * n;
            return value;
        }

        public void WriteMmio(ulong offset, int size, ulong value) => vga._memory.WriteBacking(vga._own.Offset + offset, BitConverter.GetBytes(value)[..size]);
    }

    /// <summary>Index and data, words each; what is narrower has no meaning there.</summary>
    private sealed class BochsRegisters(VgaController vga) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size) => size < 2 ? 0xFFu : offset == 0 ? vga._bochsIndex : vga._bochs.Read(vga._bochsIndex);

        public void WritePort(ushort offset, int size, uint value)
        {
            if (size < 2) return;
            if (offset == 0) vga._bochsIndex = (ushort)value;
            else vga.WriteBochs(vga._bochsIndex, (ushort)value);
        }
    }

    /// <summary>Base address register 2: docs/specs/standard-vga.rst, "Memory-mapped I/O".</summary>
    private sealed class RegisterWindow(VgaController vga) : IMmioDevice
    {
        public const ulong Length = 0x1000;
        private const ulong Ports = 0x400, Bochs = 0x500, Extended = 0x600, ByteOrder = Extended + 4;
        private const uint ExtendedLength = 8, LittleEndian = 0x1E1E_1E1E;

        public ulong ReadMmio(ulong offset, int size)
        {
            if (offset is >= Bochs and < Bochs + 2 * BochsDisplay.Count) return Words(offset, size);
            ulong value = 0;
            for (int n = 0; n < size; n++) value |= (ulong)Byte(offset + (ulong)n) << 8 * n;
            return value;
        }

        private ulong Words(ulong offset, int size)
        {
            ulong value = 0;
            for (int n = 0; n < size; n += 2) value |= (ulong)vga._bochs.Read((int)((offset + (ulong)n - Bochs) / 2)) << 8 * n;
            return value >> 8 * (int)(offset & 1);
        }

        private byte Byte(ulong at) => at switch
        {
            < Edid.Length => vga._monitor[at],
            >= Ports and < Ports + VgaPort.End - VgaPort.First => vga.Read((ushort)(VgaPort.First + (at - Ports))),
            >= Extended and < ByteOrder => (byte)(ExtendedLength >> 8 * (int)(at - Extended)),
            >= ByteOrder and < ByteOrder + 4 => (byte)(LittleEndian >> 8 * (int)(at - ByteOrder)),
            _ => 0,
        };

        public void WriteMmio(ulong offset, int size, ulong value)
        {
            if (offset is >= Bochs and < Bochs + 2 * BochsDisplay.Count)
            {
                if ((offset & 1) != 0) return;
                for (int n = 0; n + 1 < size; n += 2) vga.WriteBochs((int)((offset + (ulong)n - Bochs) / 2), (ushort)(value >> 8 * n));
                return;
            }
            for (int n = 0; n < size; n++)
            {
                ulong at = offset + (ulong)n - Ports;
                if (at < VgaPort.End - VgaPort.First) vga.Write((ushort)(VgaPort.First + at), (byte)(value >> 8 * n));
            }
        }
    }
}

/// <summary>State of a <see cref="VgaController"/>; what its memory holds is saved with RAM, and its configuration space with the bus's.</summary>
/// <param name="Bochs">The Bochs display registers.</param>
[StateRecord("vga", version: 1)]
internal sealed record VgaState(VgaRegisterState Registers, ushort[] Bochs, ushort BochsIndex, uint Latches);
