using Bunraku.Engines;

namespace Bunraku.Machine.Input;

/// <summary>State of an <see cref="I8042"/> with its keyboard and mouse.</summary>
/// <param name="Answers">
/// Bytes of the controller itself that wait for the output buffer: the byte in bits 7:0, whose it is (0 controller, 1 keyboard, 2 auxiliary device) in 15:8.
/// </param>
/// <param name="Output">The output buffer.</param>
/// <param name="PolledInput">What C1h or C2h shows in status bits 7:4; -1: nothing.</param>
/// <param name="Released">The translation has seen the prefix of a released key.</param>
[StateRecord("i8042", version: 1)]
internal sealed record I8042State(
    byte[] Ram, ushort[] Answers, byte Output, byte OutputSource, bool OutputFull, byte PendingCommand, bool LastWasCommand, bool A20Pass, int PolledInput,
        bool Released,
    Ps2KeyboardState Keyboard, Ps2MouseState Mouse);

internal sealed partial class I8042
{
    /// <inheritdoc/>
    public string Id => "i8042";

    /// <inheritdoc/>
    public void Reset()
    {
        _answers.Clear();
        _keyboard.Reset();
        _mouse.Reset();
        Array.Clear(_ram);
        Control = FirmwareControl;
        (_output, _outputSource, _outputFull, _pendingCommand, _lastWasCommand, _polledInput) = (0, Source.Controller, false, 0, false, -1);
        _translation = default;
        _a20Pass = true; // the gate itself is reset, too
        UpdateInterrupts();
    }

    I8042State IStateful<I8042State>.Save() => new(
        [.. _ram], [.. _answers.Select(a => (ushort)(a.Value | (int)a.Source << 8))], _output, (byte)_outputSource, _outputFull, _pendingCommand,
            _lastWasCommand, _a20Pass, _polledInput,
        _translation.Released, _keyboard.Save(), _mouse.Save());

    void IStateful<I8042State>.Restore(I8042State state)
    {
        StateCheck.Length(state.Ram, RamSize, Id).CopyTo(_ram, 0);
        _answers.Clear();
        foreach (ushort answer in state.Answers) _answers.Enqueue(((byte)answer, StateCheck.Defined((Source)(answer >> 8), Id)));
        (_output, _outputSource, _outputFull) = (state.Output, StateCheck.Defined((Source)state.OutputSource, Id), state.OutputFull);
        (_pendingCommand, _lastWasCommand, _a20Pass, _polledInput) = (state.PendingCommand, state.LastWasCommand, state.A20Pass, state.PolledInput);
        _translation.Released = state.Released;
        _keyboard.Restore(state.Keyboard);
        _mouse.Restore(state.Mouse);
    }
}
