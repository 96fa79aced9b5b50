namespace Bunraku.Machine.Input;

/// <summary>
/// The PS/2 mouse: commands of the IBM Personal System/2 Mouse Technical Reference. It reports motion in stream mode alone; who reads it in remote mode finds
/// it lying still.
/// </summary>
internal sealed class Ps2Mouse(Action changed) : Ps2Device(changed)
{
    private static class Command
    {
        public const byte ResetScaling = 0xE6, SetScaling = 0xE7, SetResolution = 0xE8, StatusRequest = 0xE9, SetStream = 0xEA, ReadData = 0xEB,
            ResetWrap = 0xEC, SetWrap = 0xEE, SetRemote = 0xF0, ReadId = 0xF2, SetSampleRate = 0xF3, Enable = 0xF4, Disable = 0xF5, SetDefault = 0xF6,
            Reset = 0xFF;
    }

    private const byte DeviceId = 0x00, DefaultResolution = 2, DefaultSampleRate = 100;
    private byte _resolution = DefaultResolution, _sampleRate = DefaultSampleRate;
    private bool _scaling, _enabled, _remote, _wrap;

    /// <summary>
    /// A packet of three bytes, while the guest wants them: buttons, signs and overflows; motion. False when it was not sent.
    /// </summary>
    /// <param name="right">Counts, cut to what a packet holds.</param>
    /// <param name="up">Counts, likewise.</param>
    /// <param name="buttons">Bit 0 the left one, bit 1 the right one, bit 2 the middle one.</param>
    public bool Move(int right, int up, byte buttons)
    {
        const int most = 255;
        const byte always = 1 << 3, negativeX = 1 << 4, negativeY = 1 << 5;
        if (!_enabled || _remote || _wrap) return false;
        (right, up) = (Math.Clamp(right, -most, most), Math.Clamp(up, -most, most));
        byte first = (byte)(always | buttons & 7 | (right < 0 ? negativeX : 0) | (up < 0 ? negativeY : 0));
        return Report([first, (byte)right, (byte)up]);
    }

    public override void Reset()
    {
        base.Reset();
        SetDefaults();
    }

    public Ps2MouseState Save() => new(SaveCommon(), _resolution, _sampleRate, _scaling, _enabled, _remote, _wrap);

    public void Restore(Ps2MouseState state)
    {
        RestoreCommon(state.Common);
        (_resolution, _sampleRate, _scaling, _enabled, _remote, _wrap) =
            (state.Resolution, state.SampleRate, state.Scaling, state.Enabled, state.Remote, state.Wrap);
    }

    protected override bool TakeArgument(byte command, byte value)
    {
        switch (command)
        {
            case Command.SetResolution when value <= 3:
                _resolution = value;
                break;
            case Command.SetSampleRate when value is 10 or 20 or 40 or 60 or 80 or 100 or 200:
                _sampleRate = value;
                break;
            default:
                return false;
        }
        Respond(Acknowledge);
        return true;
    }

    protected override void Execute(byte command)
    {
        if (_wrap && command is not (Command.ResetWrap or Command.Reset))
        {
            Respond(command);
            return;
        }
        switch (command)
        {
            case Command.ResetScaling or Command.SetScaling:
                _scaling = command == Command.SetScaling;
                break;
            case Command.SetResolution or Command.SetSampleRate:
                Awaiting = command;
                break;
            case Command.StatusRequest:
                Respond(Acknowledge, (byte)((_remote ? 0x40 : 0) | (_enabled ? 0x20 : 0) | (_scaling ? 0x10 : 0)), _resolution, _sampleRate);
                return;
            case Command.ReadData:
                Respond(Acknowledge, 0x08, 0, 0); // bit 3 of the first byte is always set
                return;
            case Command.SetStream or Command.SetRemote:
                _remote = command == Command.SetRemote;
                break;
            case Command.ResetWrap or Command.SetWrap:
                _wrap = command == Command.SetWrap;
                break;
            case Command.ReadId:
                Respond(Acknowledge, DeviceId);
                return;
            case Command.Enable or Command.Disable:
                _enabled = command == Command.Enable;
                break;
            case Command.SetDefault:
                SetDefaults();
                break;
            case Command.Reset:
                SetDefaults();
                Respond(Acknowledge, SelfTestPassed, DeviceId);
                return;
            case ResendCommand:
                Resend();
                return;
            default:
                Respond(ResendRequest);
                return;
        }
        Respond(Acknowledge);
    }

    private void SetDefaults()
    {
        (_resolution, _sampleRate) = (DefaultResolution, DefaultSampleRate);
        _scaling = _enabled = _remote = _wrap = false;
    }
}

/// <summary>State of a <see cref="Ps2Mouse"/>.</summary>
internal sealed record Ps2MouseState(Ps2DeviceState Common, byte Resolution, byte SampleRate, bool Scaling, bool Enabled, bool Remote, bool Wrap);
