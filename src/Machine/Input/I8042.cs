using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Input;

/// <summary>
/// The keyboard and auxiliary device controller (8042) at ports 60h and 64h, with a keyboard (IRQ 1) and a mouse (IRQ 12) plugged in: IBM Personal
/// System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller". It works through a byte the moment it is written, so the
/// input buffer is never seen full. With its lock held, except <see cref="Type"/>.
/// </summary>
internal sealed partial class I8042 : IDevice, IStateful<I8042State>
{
    [Flags]
    private enum Status : byte
    {
        OutputFull = 1 << 0,
        System = 1 << 2,
        Command = 1 << 3,
        NotInhibited = 1 << 4,
        AuxiliaryData = 1 << 5,
    }

    [Flags]
    private enum CommandByte : byte
    {
        KeyboardInterrupt = 1 << 0,
        AuxiliaryInterrupt = 1 << 1,
        System = 1 << 2,
        KeyboardDisabled = 1 << 4,
        AuxiliaryDisabled = 1 << 5,
        Translate = 1 << 6,
    }

    [Flags]
    private enum OutputPort : byte
    {
        NotReset = 1 << 0,
        A20 = 1 << 1,
        KeyboardInterrupt = 1 << 4,
        AuxiliaryInterrupt = 1 << 5,
        Unused = 0xCC,
    }

    private enum Source : byte { Controller, Keyboard, Auxiliary }

    /// <summary>
    /// Commands at port 64h. C0h to C2h, D0h to D4h are IBM's, A4h to A9h the PS/2's; DDh and DFh are the A20 shortcuts that common controllers add.
    /// </summary>
    private static class Command
    {
        public const byte ReadRam = 0x20, WriteRam = 0x60, TestPassword = 0xA4, DisableAuxiliary = 0xA7, EnableAuxiliary = 0xA8, TestAuxiliary = 0xA9,
            SelfTest = 0xAA, TestKeyboard = 0xAB, DisableKeyboard = 0xAD, EnableKeyboard = 0xAE, ReadInputPort = 0xC0, PollInputLow = 0xC1,
            PollInputHigh = 0xC2, ReadOutputPort = 0xD0, WriteOutputPort = 0xD1, WriteKeyboardOutput = 0xD2, WriteAuxiliaryOutput = 0xD3,
            WriteAuxiliary = 0xD4, DisableA20 = 0xDD, EnableA20 = 0xDF, ReadTestInputs = 0xE0, PulseOutputPort = 0xF0;
    }

    /// <summary>What firmware leaves behind.</summary>
    private const CommandByte FirmwareControl = CommandByte.KeyboardInterrupt | CommandByte.System | CommandByte.AuxiliaryDisabled | CommandByte.Translate;

    private const byte SelfTestPassed = 0x55, NoPassword = 0xF1, TestPassed = 0x00;
    private const byte InputPort = 0x80; // bit 7: the keyboard is not locked
    private const int RamSize = 32;

    private readonly IInterruptLine _irq1, _irq12;
    private readonly A20Gate _a20;
    private readonly Action _reset;
    private readonly DeviceLock _lock;
    private readonly Ps2Keyboard _keyboard;
    private readonly Ps2Mouse _mouse;
    private readonly byte[] _ram = new byte[RamSize];
    private readonly Queue<(byte Value, Source Source)> _answers = new(); // of the controller itself; before the devices' bytes

    private byte _output, _pendingCommand;
    private Source _outputSource;
    private bool _outputFull, _lastWasCommand, _a20Pass = true;
    private int _polledInput = -1; // C1h and C2h: half of the input port in status bits 7:4
    private ScanCodeTranslation _translation;

    /// <param name="irq1">Keyboard interrupt.</param>
    /// <param name="irq12">Auxiliary device interrupt.</param>
    /// <param name="a20">Follows output port bit 1.</param>
    /// <param name="reset">The guest resets the machine (output port bit 0, pulse command FEh).</param>
    /// <param name="lock">Held for the registers; whoever else uses <paramref name="a20"/> has the same.</param>
    public I8042(IInterruptLine irq1, IInterruptLine irq12, A20Gate a20, Action reset, DeviceLock @lock)
    {
        (_irq1, _irq12, _a20, _reset, _lock) = (irq1, irq12, a20, reset, @lock);
        _keyboard = new Ps2Keyboard(Fill);
        _mouse = new Ps2Mouse(Fill);
        Control = FirmwareControl;
    }

    /// <summary>The keyboard's indicators: bit 0 Scroll Lock, bit 1 Num Lock, bit 2 Caps Lock.</summary>
    public byte Indicators => _keyboard.Indicators;

    public void AttachTo(PortBus ports)
    {
        ports.Add(0x60, 1, new ByteRegisters(_ => ReadData(), (_, value) => WriteData(value)), _lock);
        ports.Add(0x64, 1, new ByteRegisters(_ => ReadStatus(), (_, value) => WriteCommand(value)), _lock);
    }

    /// <summary>
    /// A key goes down or up: its sequence in scan code set 2. Any thread. Lost when the keyboard's buffer of 16 bytes is full, and then false.
    /// </summary>
    public bool Type(ReadOnlySpan<byte> scanCodes)
    {
        lock (_lock) return _keyboard.Type(scanCodes);
    }

    /// <summary>The mouse moves, or a button of it goes down or up. Any thread. False: its buffer is full, or the guest does not listen.</summary>
    /// <inheritdoc cref="Ps2Mouse.Move"/>
    public bool MoveMouse(int right, int up, byte buttons)
    {
        lock (_lock) return _mouse.Move(right, up, buttons);
    }

    private CommandByte Control
    {
        get => (CommandByte)_ram[0];
        set => _ram[0] = (byte)value;
    }

    private byte ReadStatus()
    {
        Status status = Status.NotInhibited;
        if (_outputFull) status |= Status.OutputFull;
        if (_outputFull && _outputSource == Source.Auxiliary) status |= Status.AuxiliaryData;
        if (Control.HasFlag(CommandByte.System)) status |= Status.System;
        if (_lastWasCommand) status |= Status.Command;
        return _polledInput < 0 ? (byte)status : (byte)(((int)status & 0xF) | _polledInput);
    }

    private byte ReadData()
    {
        if (!_outputFull) return _output; // the latch keeps the last byte
        byte value = _output;
        _outputFull = false;
        UpdateInterrupts(); // falls before the next byte raises it again
        Fill();
        return value;
    }

    private void WriteCommand(byte command)
    {
        _lastWasCommand = true;
        _pendingCommand = 0;
        _polledInput = -1;
        switch (command)
        {
            case >= Command.ReadRam and < Command.ReadRam + RamSize:
                Answer(_ram[command - Command.ReadRam]);
                break;
            case (>= Command.WriteRam and < Command.WriteRam + RamSize) or (>= Command.WriteOutputPort and <= Command.WriteAuxiliary):
                _pendingCommand = command;
                break;
            case Command.TestPassword:
                Answer(NoPassword);
                break;
            case Command.DisableAuxiliary:
                Control |= CommandByte.AuxiliaryDisabled;
                break;
            case Command.EnableAuxiliary:
                Control &= ~CommandByte.AuxiliaryDisabled;
                break;
            case Command.TestAuxiliary or Command.TestKeyboard:
                Answer(TestPassed);
                break;
            case Command.SelfTest:
                Control |= CommandByte.System;
                Answer(SelfTestPassed);
                break;
            case Command.DisableKeyboard:
                Control |= CommandByte.KeyboardDisabled;
                break;
            case Command.EnableKeyboard:
                Control &= ~CommandByte.KeyboardDisabled;
                break;
            case Command.ReadInputPort:
                Answer(InputPort);
                break;
            case Command.PollInputLow:
                _polledInput = (InputPort << 4) & 0xF0;
                break;
            case Command.PollInputHigh:
                _polledInput = InputPort & 0xF0;
                break;
            case Command.ReadOutputPort:
                Answer((byte)ReadOutputPort());
                break;
            case Command.DisableA20 or Command.EnableA20:
                SetA20(command == Command.EnableA20);
                break;
            case Command.ReadTestInputs:
                Answer((byte)((Control.HasFlag(CommandByte.KeyboardDisabled) ? 0 : 1) | (Control.HasFlag(CommandByte.AuxiliaryDisabled) ? 0 : 2)));
                break;
            case >= Command.PulseOutputPort:
                // Bits 3:0 that are 0 pulse low; only the processor's reset notices.
                if ((command & (int)OutputPort.NotReset) == 0) _reset();
                break;
        }
        UpdateInterrupts();
        Fill();
    }

    private void WriteData(byte value)
    {
        byte command = _pendingCommand;
        _pendingCommand = 0;
        _lastWasCommand = false;
        _polledInput = -1;
        switch (command)
        {
            case 0:
                Control &= ~CommandByte.KeyboardDisabled; // sending needs the interface, which enables it
                _keyboard.Receive(value);
                break;
            case >= Command.WriteRam and < Command.WriteRam + RamSize:
                _ram[command - Command.WriteRam] = value;
                break;
            case Command.WriteOutputPort:
                SetA20(((OutputPort)value).HasFlag(OutputPort.A20));
                if (!((OutputPort)value).HasFlag(OutputPort.NotReset)) _reset();
                break;
            case Command.WriteKeyboardOutput:
                Answer(value, Source.Keyboard);
                break;
            case Command.WriteAuxiliaryOutput:
                Answer(value, Source.Auxiliary);
                break;
            case Command.WriteAuxiliary:
                _mouse.Receive(value);
                break;
        }
        UpdateInterrupts();
        Fill();
    }

    private void SetA20(bool pass)
    {
        _a20Pass = pass;
        _a20.SetKeyboardController(pass);
    }

    private OutputPort ReadOutputPort()
    {
        OutputPort port = OutputPort.NotReset | OutputPort.Unused;
        if (_a20Pass) port |= OutputPort.A20;
        if (KeyboardRequests) port |= OutputPort.KeyboardInterrupt;
        if (AuxiliaryRequests) port |= OutputPort.AuxiliaryInterrupt;
        return port;
    }

    /// <summary>
    /// An answer of the controller. A guest that never reads cannot pile them up: the newest one is dropped, as the single buffer would lose it.
    /// </summary>
    private void Answer(byte value, Source source = Source.Controller)
    {
        const int limit = 16;
        if (_answers.Count < limit) _answers.Enqueue((value, source));
    }

    /// <summary>Moves the next byte into the empty output buffer: the controller's answers first, then the keyboard's, then the mouse's.</summary>
    private void Fill()
    {
        while (!_outputFull)
        {
            if (_answers.TryDequeue(out (byte Value, Source Source) answer)) Put(answer.Value, answer.Source);
            else if (!Control.HasFlag(CommandByte.KeyboardDisabled) && _keyboard.TryTake(out byte code))
            {
                if (!Control.HasFlag(CommandByte.Translate) || _translation.TryTranslate(code, out code)) Put(code, Source.Keyboard);
            }
            else if (!Control.HasFlag(CommandByte.AuxiliaryDisabled) && _mouse.TryTake(out byte motion)) Put(motion, Source.Auxiliary);
            else return;
        }
    }

    private void Put(byte value, Source source)
    {
        (_output, _outputSource, _outputFull) = (value, source, true);
        UpdateInterrupts();
    }

    // Any byte that is not the mouse's raises IRQ 1, the controller's own too.
    private bool KeyboardRequests => _outputFull && _outputSource != Source.Auxiliary && Control.HasFlag(CommandByte.KeyboardInterrupt);
    private bool AuxiliaryRequests => _outputFull && _outputSource == Source.Auxiliary && Control.HasFlag(CommandByte.AuxiliaryInterrupt);

    private void UpdateInterrupts()
    {
        _irq1.Set(KeyboardRequests);
        _irq12.Set(AuxiliaryRequests);
    }
}
