using System.Numerics;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Pci;

/// <summary>
/// A function that is a device: its base address registers answer on the machine's buses where and while the guest lets them, it masters the bus through
/// <see cref="Dma"/> while the guest lets it, and it interrupts by MSI-X messages, or by its pin while the guest has not enabled those.
/// With <see cref="Lock"/> held, which accesses to its configuration space take, too.
/// </summary>
/// <remarks>
/// Where the guest puts a range upon another device's, the board's own devices answer, then who came there first: that is the guest's affair and ends nothing.
/// </remarks>
public abstract class PciDevice : PciFunction, IDevice
{
    private const int BehindTheBoard = -1; // priority of ranges whose place the guest chooses

    private readonly List<Range> _ranges = [];
    private MsixTable? _msix;
    private MsiCapability? _msi;
    private int _msixControl;
    private IInterruptLine? _pin;
    private bool _wantsPin;

    /// <param name="id">Its name in the machine.</param>
    /// <inheritdoc cref="PciFunction(ushort, ushort, uint, byte, ushort, ushort)"/>
    protected PciDevice(string id, ushort vendor, ushort device, uint classCode, byte revision = 0, ushort subsystemVendor = 0, ushort subsystem = 0)
        : base(vendor, device, classCode, revision, subsystemVendor, subsystem)
    {
        Id = id;
        Lock = new DeviceLock(id);
        Config.Bytes[PciRegister.InterruptPin] = 1; // INTA
    }

    /// <inheritdoc/>
    public string Id { get; }

    /// <summary>That of registers, timers and what back ends deliver.</summary>
    public DeviceLock Lock { get; }

    /// <summary>Guest memory, while the guest lets the device master the bus.</summary>
    protected DmaSpace Dma => _dma ?? throw NotAttached();

    private DmaSpace? _dma;

    /// <summary>The machine that it is in.</summary>
    protected X86Machine Machine => _machine ?? throw NotAttached();

    private X86Machine? _machine;

    private InvalidOperationException NotAttached() => new($"{Id} is on no board yet");

    /// <summary>Puts it on a board. Before the guest runs, once.</summary>
    /// <param name="slot">Device number on bus 0, 0 to 31.</param>
    /// <exception cref="InvalidOperationException">The slot is taken.</exception>
    public void AttachTo(IBoard board, int slot)
    {
        board.Pci.Add(slot, 0, this);
        _machine = board.Machine;
        _dma = new DmaSpace(board.Machine.Memory, enabled: false);
        _pin = board.PciInterrupt(slot, 0);
        if (_msix is not null) _msix.Send = board.SendMessage;
        if (_msi is not null) _msi.Send = board.SendMessage;
        board.Machine.Add((IDevice)this, Lock);
        Attached();
    }

    /// <summary>The device is on its board: time to ask for timers and threads.</summary>
    protected virtual void Attached()
    {
    }

    /// <summary>A base address register whose memory is <paramref name="memory"/>, with offsets from its beginning. Before <see cref="AttachTo"/>.</summary>
    /// <inheritdoc cref="PciFunction.AddBar"/>
    protected PciBar AddMemory(int index, PciBarKind kind, ulong length, IMmioDevice memory)
    {
        PciBar bar = AddBar(index, kind, length);
        _ranges.Add(new Range(bar, (machine, first) => machine.Mmio.Add(first, length, memory, Lock, BehindTheBoard)));
        return bar;
    }

    /// <summary>A base address register whose ports are <paramref name="ports"/>, with offsets from the first. Before <see cref="AttachTo"/>.</summary>
    /// <inheritdoc cref="PciFunction.AddBar"/>
    protected PciBar AddPorts(int index, int count, IPortDevice ports)
    {
        PciBar bar = AddBar(index, PciBarKind.Io, (ulong)count);
        _ranges.Add(new Range(bar, (machine, first) => machine.Ports.Add((ushort)first, count, ports, Lock, BehindTheBoard)));
        return bar;
    }

    /// <summary>An expansion ROM, which firmware copies and runs. Before <see cref="AttachTo"/>, once.</summary>
    /// <param name="contents">At most 16 MiB.</param>
    protected void AddRom(byte[] contents)
    {
        const uint least = 2 << 10;
        ulong length = Math.Max(BitOperations.RoundUpToPowerOf2((uint)contents.Length), least);
        _ranges.Add(new Range(AddRomBar(length), (machine, first) => machine.Mmio.Add(first, length, new Rom(contents), Lock, BehindTheBoard)));
    }

    private sealed class Rom(byte[] contents) : IMmioDevice
    {
        public ulong ReadMmio(ulong offset, int size)
        {
            ulong value = 0;
            for (int n = 0; n < size; n++) value |= (ulong)(offset + (ulong)n < (ulong)contents.Length ? contents[offset + (ulong)n] : 0xFF) << 8 * n;
            return value;
        }

        public void WriteMmio(ulong offset, int size, ulong value)
        {
        }
    }

    /// <summary>An MSI-X table in a base address register of its own. Before <see cref="AttachTo"/>, once.</summary>
    /// <param name="bar">Index of the register.</param>
    /// <param name="vectors">1 to 128.</param>
    protected void AddMsix(int bar, int vectors)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(vectors, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(vectors, MsixTable.MaxVectors);
        _msix = new MsixTable(vectors);
        AddMemory(bar, PciBarKind.Memory32, MsixTable.Length, _msix.Memory);
        int capability = AddCapability(MsixTable.CapabilityId, _msix.Capability(bar));
        Config.AllowWrites(capability, MsixTable.WritableControl);
        _msixControl = capability + 2;
    }

    /// <summary>One message in place of the pin, for a device without a table: <see cref="SetPin"/> sends it. Before <see cref="AttachTo"/>, once.</summary>
    protected void AddMsi() => _msi = new MsiCapability(this);

    /// <summary>The guest has messages instead of the pin.</summary>
    protected bool UsesMessages => _msix is { Enabled: true } || _msi is { Enabled: true };

    /// <summary>Vectors of the MSI-X table; 0 without one.</summary>
    protected int Vectors => _msix?.Vectors ?? 0;

    /// <summary>Sends the message of a vector, if the guest has enabled messages and the table has the vector.</summary>
    protected void SendMessage(int vector) => _msix?.Trigger(vector);

    /// <summary>
    /// The level that the device wants its pin to have. Messages in its place, and the disable bit, keep the wire low. With
    /// <see cref="AddMsi"/> a level that rises is a message.
    /// </summary>
    protected void SetPin(bool asserted)
    {
        bool rises = asserted && !_wantsPin;
        _wantsPin = asserted;
        MovePin();
        if (rises) _msi?.Trigger();
    }

    private void MovePin() => _pin?.Set(_wantsPin && !UsesMessages && !Command.HasFlag(PciCommand.InterruptDisable));

    /// <inheritdoc/>
    public override uint ReadConfig(int offset, int size)
    {
        lock (Lock)
        {
            uint value = base.ReadConfig(offset, size);
            if (!_wantsPin || UsesMessages) return value;
            int shift = 8 * (PciRegister.Status - offset);
            return shift is >= 0 and < 32 && shift < 8 * size ? value | (uint)PciStatus.Interrupt << shift : value;
        }
    }

    /// <inheritdoc/>
    public override void WriteConfig(int offset, int size, uint value)
    {
        lock (Lock) base.WriteConfig(offset, size, value);
    }

    /// <inheritdoc/>
    protected override void ConfigChanged(bool restored)
    {
        _dma?.Enabled = Command.HasFlag(PciCommand.BusMaster);
        if (_msix is not null && restored) _msix.RestoreControl(Config.Word(_msixControl));
        else _msix?.SetControl(Config.Word(_msixControl));
        if (!restored) _msi?.SendPending();
        if (!restored) MovePin();
    }

    /// <inheritdoc/>
    protected sealed override void BarMoved(PciBar bar, ulong? before)
    {
        _ranges.Find(r => r.Bar == bar)?.Place(_machine, bar.Address);
        BarPlaced(bar);
    }

    /// <summary>A base address register begins, ceases or moves decoding, and what was added with it has followed.</summary>
    protected virtual void BarPlaced(PciBar bar)
    {
    }

    /// <inheritdoc/>
    public virtual void Reset()
    {
        _msix?.Reset();
        SetPin(false);
    }

    /// <inheritdoc/>
    public virtual void Pause()
    {
    }

    /// <inheritdoc/>
    public virtual void Resume()
    {
    }

    /// <inheritdoc/>
    public abstract Type StateType { get; }

    /// <inheritdoc/>
    public abstract object Save();

    /// <inheritdoc/>
    public abstract void Restore(object state);

    /// <summary>What this class has of the device's state; its configuration space is in the bus's.</summary>
    internal PciDeviceState SaveInterrupts() => new(_wantsPin, _msix?.Save());

    /// <exception cref="StateFormatException">It is the state of another device.</exception>
    internal void RestoreInterrupts(PciDeviceState state)
    {
        if (state.Msix is null != _msix is null)
            throw new StateFormatException($"{Id}: the saved device {(state.Msix is null ? "has no" : "has an")} MSI-X table");
        _wantsPin = state.WantsPin;
        if (state.Msix is { } msix) _msix!.Restore(msix, Id);
    }

    /// <summary>What answers at a base address register.</summary>
    private sealed class Range(PciBar bar, Func<X86Machine, ulong, IBusMapping> map)
    {
        private IBusMapping? _mapping;

        public PciBar Bar => bar;

        public void Place(X86Machine? machine, ulong? address)
        {
            if (machine is null) return;
            if (address is not { } first) _mapping?.Remove();
            else if (_mapping is null) _mapping = map(machine, first);
            else _mapping.Move(first);
        }
    }
}

/// <summary>Interrupts of a <see cref="PciDevice"/>.</summary>
/// <param name="WantsPin">The device asserts its pin, or would without messages.</param>
/// <param name="Msix">Null without a table.</param>
internal sealed record PciDeviceState(bool WantsPin, MsixState? Msix);
