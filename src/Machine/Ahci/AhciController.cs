using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Ata;
using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;

namespace Bunraku.Machine.Ahci;

/// <summary>
/// A SATA controller of the Advanced Host Controller Interface 1.3.1, with a device on each of its first ports. It interrupts by its pin. Commands are taken
/// with the device's lock held, and what waits for the host's disks is done on a thread for each port.
/// </summary>
public sealed class AhciController : PciDevice, IDoublewordDevice
{
    /// <summary>Ports that it has, with something behind them or not.</summary>
    public const int Ports = 6;

    private const int Bar = 5;
    private readonly AhciPort[] _ports = new AhciPort[Ports];
    private GlobalControl _control;
    private uint _interrupts; // IS

    /// <param name="id">Its name in the machine.</param>
    /// <param name="devices">At most <see cref="Ports"/>.</param>
    internal AhciController(string id, IReadOnlyList<AtaDevice> devices) : base(id, PciHost.Intel, 0x2922, classCode: 0x010601, revision: 2,
        PciHost.QemuVendor, PciHost.QemuSubsystem)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(devices.Count, Ports);
        for (int n = 0; n < Ports; n++) _ports[n] = new AhciPort(this, n, n < devices.Count ? devices[n] : null);
        AddMemory(Bar, PciBarKind.Memory32, HbaRegister.Length, this);
        AddMsi();
    }

    internal DmaSpace Memory => Dma;

    /// <inheritdoc/>
    protected override void Attached()
    {
        foreach (AhciPort port in _ports)
        {
            if (port.HasDevice) port.Thread = Machine.CreateIoThread($"{Id}.{port.Number}");
            port.Reset();
        }
    }

    // ---- registers

    /// <summary>Narrower writes than a doubleword do nothing (section 3, "Register accesses").</summary>
    public uint ReadRegister(int offset)
    {
        if (offset >= HbaRegister.FirstPort)
        {
            int port = (offset - HbaRegister.FirstPort) / HbaRegister.PortLength;
            return port < Ports ? _ports[port].Read((offset - HbaRegister.FirstPort) % HbaRegister.PortLength) : 0;
        }
        return offset switch
        {
            HbaRegister.Capabilities => (uint)(HbaCapabilities.PartialState | HbaCapabilities.SlumberState | HbaCapabilities.AhciOnly
                | HbaCapabilities.Generation3 | HbaCapabilities.CommandListOverride | HbaCapabilities.NativeCommandQueuing | HbaCapabilities.Address64)
                | Ports - 1 | (AhciPort.Slots - 1) << 8,
            HbaRegister.GlobalControl => (uint)(_control | GlobalControl.AhciEnable),
            HbaRegister.InterruptStatus => _interrupts,
            HbaRegister.PortsImplemented => (1u << Ports) - 1,
            HbaRegister.Version => HbaRegister.Version131,
            _ => 0,
        };
    }

    /// <inheritdoc/>
    public void WriteRegister(int offset, uint value)
    {
        if (offset >= HbaRegister.FirstPort)
        {
            int port = (offset - HbaRegister.FirstPort) / HbaRegister.PortLength;
            if (port < Ports) _ports[port].Write((offset - HbaRegister.FirstPort) % HbaRegister.PortLength, value);
        }
        else if (offset == HbaRegister.GlobalControl)
        {
            if (((GlobalControl)value).HasFlag(GlobalControl.Reset)) ResetHba();
            else _control = (GlobalControl)value & GlobalControl.InterruptEnable;
        }
        else if (offset == HbaRegister.InterruptStatus)
        {
            _interrupts &= ~value;
            if (UsesMessages) SetPin(false); // another message where something is left, or has come meanwhile
        }
        UpdateInterrupts();
    }

    /// <summary>A port's interrupt stays in IS until it is cleared there, and comes back while the port has one.</summary>
    internal void UpdateInterrupts()
    {
        foreach (AhciPort port in _ports)
        {
            if (port.Interrupts) _interrupts |= 1u << port.Number;
        }
        SetPin(_control.HasFlag(GlobalControl.InterruptEnable) && _interrupts != 0);
    }

    /// <summary>Section 10.4.3 "HBA Reset".</summary>
    private void ResetHba()
    {
        (_control, _interrupts) = (0, 0);
        foreach (AhciPort port in _ports) port.Reset();
    }

    /// <inheritdoc/>
    public override void Reset()
    {
        ResetHba();
        base.Reset();
    }

    /// <inheritdoc/>
    public override void Resume()
    {
        foreach (AhciPort port in _ports) port.Resume();
        UpdateInterrupts();
    }

    // ---- state

    /// <inheritdoc/>
    public override Type StateType => typeof(AhciState);

    /// <inheritdoc/>
    public override object Save() => new AhciState(SaveInterrupts(), (uint)_control, _interrupts, [.. _ports.Select(p => p.Save())]);

    /// <inheritdoc/>
    public override void Restore(object state)
    {
        AhciState s = StateCheck.Record<AhciState>(state, Id);
        StateCheck.Length(s.Ports, Ports, Id);
        RestoreInterrupts(s.Interrupts);
        (_control, _interrupts) = ((GlobalControl)s.Control & GlobalControl.InterruptEnable, s.InterruptStatus);
        for (int n = 0; n < Ports; n++) _ports[n].Restore(s.Ports[n], Id);
    }
}

/// <summary>State of an <see cref="AhciController"/>.</summary>
[StateRecord("ahci", version: 1)]
internal sealed record AhciState(PciDeviceState Interrupts, uint Control, uint InterruptStatus, AhciPortState[] Ports);

/// <summary>State of a port. Commands that are under way are in <paramref name="CommandIssue"/> still, and are done again.</summary>
/// <param name="Device">Of the device behind it; null: there is none.</param>
internal sealed record AhciPortState(ulong CommandList, ulong ReceivedFis, uint InterruptStatus, uint InterruptEnable, uint Command, uint TaskFile,
    uint Signature, uint SataControl, uint SataError, uint SataActive, uint CommandIssue, bool Failed, bool SoftReset, byte[]? Device);

/// <summary>An <see cref="AhciController"/> with disks and compact discs in a slot of a board.</summary>
/// <param name="drives">At most six, in the order of their ports.</param>
/// <param name="slot">Device number on bus 0; null: the first that is free.</param>
public sealed class AhciPart(IReadOnlyList<SataDrive> drives, int? slot = null) : IBoardPart
{
    /// <inheritdoc/>
    public void AttachTo(IBoard board) => new AhciController("ahci", [.. drives.Select(d => d.Device)]).AttachTo(board, slot ?? board.Pci.FindFreeSlot());
}

/// <summary>What a port of an <see cref="AhciController"/> can have.</summary>
public sealed class SataDrive
{
    private SataDrive(AtaDevice device) => Device = device;

    internal AtaDevice Device { get; }

    /// <summary>A disk.</summary>
    /// <param name="disk">Closed by who opened it, after the machine's end.</param>
    /// <param name="serial">Up to 20 ASCII characters.</param>
    public static SataDrive Disk(Storage.IBlockBackend disk, string serial) => new(new AtaDisk(disk, serial));

    /// <summary>A drive for compact discs and DVDs.</summary>
    /// <param name="disc">An image of sectors of 2048 bytes; closed by who opened it. Null: the drive is empty.</param>
    public static SataDrive CompactDisc(Storage.IBlockBackend? disc) => new(new AtapiCompactDisc(disc, "BUNRAKU-CD"));
}
