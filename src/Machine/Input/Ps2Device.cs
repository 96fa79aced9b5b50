namespace Bunraku.Machine.Input;

/// <summary>A device at the other end of a PS/2 cable: takes command bytes, answers with bytes in a buffer of its own. With its lock held.</summary>
internal abstract class Ps2Device
{
    protected const byte Acknowledge = 0xFA, ResendRequest = 0xFE, SelfTestPassed = 0xAA;
    protected const byte ResendCommand = 0xFE;
    private const int BufferSize = 16; // reports that the device holds while the host is busy

    private readonly Queue<byte> _responses = new(); // to the last command; they go out before reports
    private readonly Queue<byte> _reports = new();
    private readonly Action _changed;
    private byte _last;

    /// <param name="changed">There is something new to take.</param>
    protected Ps2Device(Action changed) => _changed = changed;

    /// <summary>What every such device remembers.</summary>
    protected Ps2DeviceState SaveCommon() => new([.. _responses], [.. _reports], _last, Awaiting);

    /// <inheritdoc cref="SaveCommon"/>
    protected void RestoreCommon(Ps2DeviceState state)
    {
        _responses.Clear();
        _reports.Clear();
        foreach (byte b in state.Responses) _responses.Enqueue(b);
        foreach (byte b in state.Reports) _reports.Enqueue(b);
        (_last, Awaiting) = (state.Last, state.Awaiting);
    }

    /// <summary>As after power-on; nothing is sent.</summary>
    public virtual void Reset() => RestoreCommon(new Ps2DeviceState([], [], 0, 0));

    /// <summary>The command whose argument byte comes next, 0 for none.</summary>
    protected byte Awaiting { get; set; }

    /// <summary>A byte from the host. It aborts the response that is under way.</summary>
    public void Receive(byte value)
    {
        byte command = Awaiting;
        Awaiting = 0;
        _responses.Clear();
        if (command == 0 || !TakeArgument(command, value)) Execute(value);
    }

    /// <summary>The next byte to the host, if there is one.</summary>
    public bool TryTake(out byte value)
    {
        if (!_responses.TryDequeue(out value) && !_reports.TryDequeue(out value)) return false;
        _last = value;
        return true;
    }

    protected void Respond(params ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes) _responses.Enqueue(b);
        _changed();
    }

    /// <summary>Something that the device tells by itself; lost as a whole when the buffer has no room for it.</summary>
    protected bool Report(ReadOnlySpan<byte> bytes)
    {
        if (_reports.Count + bytes.Length > BufferSize) return false;
        foreach (byte b in bytes) _reports.Enqueue(b);
        _changed();
        return true;
    }

    protected void Resend() => Respond(_last);

    protected void ClearReports() => _reports.Clear();

    /// <summary>False when <paramref name="value"/> is no argument but a new command.</summary>
    protected abstract bool TakeArgument(byte command, byte value);

    protected abstract void Execute(byte command);
}

/// <summary>State that every <see cref="Ps2Device"/> has.</summary>
internal sealed record Ps2DeviceState(byte[] Responses, byte[] Reports, byte Last, byte Awaiting);
