using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Ata;

namespace Bunraku.Machine.Ahci;

/// <summary>
/// A port: its registers, the commands in its list, the FISes that its device answers with. With the controller's lock held. Data goes through memory of our
/// own, so that what ends after a reset writes nothing into guest memory; and one thread does a port's disk accesses in their order, so that no old write lands
/// upon a new one.
/// </summary>
internal sealed partial class AhciPort(AhciController owner, int number, AtaDevice? device)
{
    public const int Slots = 32;
    /// <summary>A driver can drop commands and issue others as often as it likes.</summary>
    private const int MostWork = 2 * Slots;
    private const uint NoDevice = 0x7F, Established = 0x133, SignatureOfNothing = uint.MaxValue, DetectMask = 0xF, ComReset = 1;
    /// <summary>PxSERR.DIAG.X: a device came.</summary>
    private const uint Exchanged = 1 << 26;
    private const byte Interrupt = 1 << 6, ToHost = 1 << 5, SoftwareReset = 1 << 2;

    private ulong _commandList, _receivedFis;
    private PortInterrupt _status, _enable;
    private PortCommand _command;
    private uint _taskFile, _signature, _sataControl, _sataError, _active, _issued;
    private uint _underWay; // slots whose command was taken and has not ended
    private int _current, _last = Slots - 1; // the slot at hand; the one that was taken last
    private bool _failed; // a command failed: nothing is done until the driver has stopped and started the port
    private bool _softReset; // the first half of a software reset came
    private int _generation; // goes up with whatever drops the commands that are under way
    // Of work that the thread has, dropped commands included.
    private long _bytesUnderWay;
    private int _workUnderWay;

    public int Number => number;

    public bool HasDevice => device is not null;

    /// <summary>Set when the controller is on its board.</summary>
    public IoThread? Thread { get; set; }

    /// <summary>Something is to be told.</summary>
    public bool Interrupts => (Status & _enable) != 0;

    private PortInterrupt Status => _status | ((_sataError & Exchanged) != 0 ? PortInterrupt.PortConnectChange : 0);

    private bool Runs => _command.HasFlag(PortCommand.Start) && !_failed;

    /// <summary>As after power-on, and the device tells what it is.</summary>
    public void Reset()
    {
        (_commandList, _receivedFis, _status, _enable, _command, _sataControl) = (0, 0, 0, 0, 0, 0);
        Drop();
        (_sataError, _failed) = (0, false);
        Connect();
    }

    /// <summary>COMRESET is over: a device that is there sends its signature (section 10.1).</summary>
    private void Connect()
    {
        (_taskFile, _signature, _softReset) = (NoDevice, SignatureOfNothing, false);
        if (device is null) return;
        device.Reset();
        _sataError |= Exchanged;
        SendSignature(PortInterrupt.None);
    }

    private void SendSignature(PortInterrupt interrupt)
    {
        _signature = device!.Signature;
        AtaStatus status = device is AtapiCompactDisc ? 0 : AtaStatus.Idle;
        var result = new AtaResult(status, (AtaError)1, _signature >> 8, (ushort)(_signature & 0xFF), 0);
        PostDeviceToHost(result, interrupts: interrupt != PortInterrupt.None);
    }

    /// <summary>Nothing of what is under way will be heard of.</summary>
    private void Drop()
    {
        _generation++;
        (_active, _issued, _underWay, _current, _last) = (0, 0, 0, 0, Slots - 1);
    }

    // ---- registers

    public uint Read(int offset) => offset switch
    {
        PortRegister.CommandList => (uint)_commandList,
        PortRegister.CommandListHigh => (uint)(_commandList >> 32),
        PortRegister.ReceivedFis => (uint)_receivedFis,
        PortRegister.ReceivedFisHigh => (uint)(_receivedFis >> 32),
        PortRegister.InterruptStatus => (uint)Status,
        PortRegister.InterruptEnable => (uint)_enable,
        PortRegister.Command => (uint)(_command | PortCommand.Fixed | (_command.HasFlag(PortCommand.FisReceiveEnable) ? PortCommand.FisReceiveRunning : 0)
            | (_command.HasFlag(PortCommand.Start) ? PortCommand.CommandListRunning : 0)) | (uint)_current << 8,
        PortRegister.TaskFile => _taskFile,
        PortRegister.Signature => _signature,
        PortRegister.SataStatus => device is null || (_sataControl & DetectMask) != 0 ? 0 : Established,
        PortRegister.SataControl => _sataControl,
        PortRegister.SataError => _sataError,
        PortRegister.SataActive => _active,
        PortRegister.CommandIssue => _issued,
        _ => 0,
    };

    public void Write(int offset, uint value)
    {
        const uint listAlignment = 1023, fisAlignment = 255;
        switch (offset)
        {
            case PortRegister.CommandList:
                _commandList = _commandList & ~0xFFFF_FFFFul | (value & ~listAlignment);
                break;
            case PortRegister.CommandListHigh:
                _commandList = _commandList & 0xFFFF_FFFF | (ulong)value << 32;
                break;
            case PortRegister.ReceivedFis:
                _receivedFis = _receivedFis & ~0xFFFF_FFFFul | (value & ~fisAlignment);
                break;
            case PortRegister.ReceivedFisHigh:
                _receivedFis = _receivedFis & 0xFFFF_FFFF | (ulong)value << 32;
                break;
            case PortRegister.InterruptStatus:
                _status &= ~(PortInterrupt)value;
                break;
            case PortRegister.InterruptEnable:
                _enable = (PortInterrupt)value & PortInterrupt.Enables;
                break;
            case PortRegister.Command:
                WriteCommand((PortCommand)value);
                break;
            case PortRegister.SataControl:
                bool was = (_sataControl & DetectMask) == ComReset;
                _sataControl = value & 0xFFF;
                if ((_sataControl & DetectMask) == ComReset && !was) (_taskFile, _signature) = (NoDevice, SignatureOfNothing);
                if (was && (_sataControl & DetectMask) == 0)
                {
                    Drop();
                    Connect();
                }
                break;
            case PortRegister.SataError:
                _sataError &= ~value;
                break;
            case PortRegister.SataActive when _command.HasFlag(PortCommand.Start):
                _active |= value;
                break;
            case PortRegister.CommandIssue when _command.HasFlag(PortCommand.Start):
                _issued |= value;
                TakeCommands();
                break;
        }
    }

    private void WriteCommand(PortCommand value)
    {
        bool ran = _command.HasFlag(PortCommand.Start);
        _command = value & PortCommand.Writable;
        if (value.HasFlag(PortCommand.CommandListOverride)) _taskFile &= ~(uint)(AtaStatus.Busy | AtaStatus.DataRequest);
        if (ran == _command.HasFlag(PortCommand.Start)) return;
        // Section 3.3.7, ST: when it is cleared, PxCI and PxSACT are, too; what was under way is no command any more.
        Drop();
        _failed = false;
    }

    // ---- state

    public AhciPortState Save() => new(
        _commandList, _receivedFis, (uint)_status, (uint)_enable, (uint)_command, _taskFile, _signature, _sataControl, _sataError,
        _active, _issued, _failed, _softReset, device?.Save());

    public void Restore(AhciPortState state, string id)
    {
        if (state.Device is null != device is null)
            throw new StateFormatException($"{id}: port {number} of the saved machine has {(state.Device is null ? "no" : "a")} device");
        if (state.Device is { } own) device!.Restore(own);
        Drop();
        (_commandList, _receivedFis) = (state.CommandList & ~1023ul, state.ReceivedFis & ~255ul);
        (_status, _enable) = ((PortInterrupt)state.InterruptStatus & PortInterrupt.Writable, (PortInterrupt)state.InterruptEnable & PortInterrupt.Enables);
        _command = (PortCommand)state.Command & PortCommand.Writable;
        (_taskFile, _signature, _sataControl, _sataError) = (state.TaskFile & 0xFFFF, state.Signature, state.SataControl & 0xFFF, state.SataError);
        (_active, _issued, _failed, _softReset) = (state.SataActive, state.CommandIssue, state.Failed, state.SoftReset);
        _goesOn = true;
    }

    private bool _goesOn; // commands of a restored state are to be taken

    /// <summary>The machine goes on: what a restored state had under way is done again.</summary>
    public void Resume()
    {
        if (!_goesOn) return;
        _goesOn = false;
        TakeCommands();
    }
}
