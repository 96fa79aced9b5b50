namespace Bunraku.Machine.Input;

/// <summary>
/// The 101-key keyboard: commands of the IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller",
/// section "Commands from the system". Keys come in as scan code set 2 and are sent as such; the guest's choice of another set is remembered and reported.
/// </summary>
internal sealed class Ps2Keyboard(Action changed) : Ps2Device(changed)
{
    private static class Command
    {
        public const byte SetIndicators = 0xED, Echo = 0xEE, ScanCodeSet = 0xF0, ReadId = 0xF2, Typematic = 0xF3, Enable = 0xF4, DefaultDisable = 0xF5,
            SetDefault = 0xF6, SetAllFirst = 0xF7, SetAllLast = 0xFA, SetKeyFirst = 0xFB, SetKeyLast = 0xFD, Reset = 0xFF;
    }

    private const int DefaultScanCodeSet = 2;
    private int _scanCodeSet = DefaultScanCodeSet;
    private bool _scanning = true;

    /// <summary>The indicators as the guest set them: bit 0 Scroll Lock, bit 1 Num Lock, bit 2 Caps Lock.</summary>
    public byte Indicators { get; private set; }

    /// <summary>
    /// A key goes down or up: one sequence of scan code set 2, lost as a whole when scanning is off or the buffer is full. False: it is full.
    /// </summary>
    public bool Type(ReadOnlySpan<byte> scanCodes) => !_scanning || Report(scanCodes);

    public override void Reset()
    {
        base.Reset();
        SetDefaults();
        _scanning = true;
    }

    public Ps2KeyboardState Save() => new(SaveCommon(), _scanCodeSet, _scanning, Indicators);

    public void Restore(Ps2KeyboardState state)
    {
        RestoreCommon(state.Common);
        (_scanCodeSet, _scanning, Indicators) = (state.ScanCodeSet, state.Scanning, state.Indicators);
    }

    protected override bool TakeArgument(byte command, byte value)
    {
        switch (command)
        {
            case Command.SetIndicators when value < 0x80:
                Indicators = (byte)(value & 7);
                break;
            case Command.Typematic when value < 0x80:
                break; // no key repeats by itself here
            case Command.ScanCodeSet when value == 0:
                Respond(Acknowledge, (byte)_scanCodeSet);
                return true;
            case Command.ScanCodeSet when value <= 3:
                _scanCodeSet = value;
                break;
            case >= Command.SetKeyFirst and <= Command.SetKeyLast when value < 0x80:
                Awaiting = command; // a list of keys, until the next command
                break;
            default:
                return false;
        }
        Respond(Acknowledge);
        return true;
    }

    protected override void Execute(byte command)
    {
        switch (command)
        {
            case Command.Echo:
                Respond(Command.Echo);
                return;
            case ResendCommand:
                Resend();
                return;
            case Command.ReadId:
                Respond(Acknowledge, 0xAB, 0x83);
                return;
            case Command.Reset:
                SetDefaults();
                _scanning = true;
                Respond(Acknowledge, SelfTestPassed);
                return;
            case Command.SetIndicators or Command.ScanCodeSet or Command.Typematic or (>= Command.SetKeyFirst and <= Command.SetKeyLast):
                Awaiting = command;
                break;
            case Command.Enable:
                _scanning = true;
                break;
            case Command.DefaultDisable:
                SetDefaults();
                _scanning = false;
                break;
            case Command.SetDefault:
                SetDefaults();
                break;
            case >= Command.SetAllFirst and <= Command.SetAllLast:
                break; // key types exist in set 3 only
            default:
                Respond(ResendRequest);
                return;
        }
        Respond(Acknowledge);
    }

    private void SetDefaults()
    {
        _scanCodeSet = DefaultScanCodeSet;
        Indicators = 0;
        ClearReports();
    }
}

/// <summary>State of a <see cref="Ps2Keyboard"/>.</summary>
internal sealed record Ps2KeyboardState(Ps2DeviceState Common, int ScanCodeSet, bool Scanning, byte Indicators);
