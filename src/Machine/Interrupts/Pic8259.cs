using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Interrupts;

/// <summary>
/// One 8259A programmable interrupt controller (Intel data sheet 231468-003) with the edge/level control of the PIIX family in place of LTIM.
/// With <see cref="VirtualMachine.InterruptLock"/> held.
/// </summary>
internal sealed class Pic8259
{
    private const int Inputs = 8, SpuriousInput = 7;

    // OCW2, bits 7:5: R, SL, EOI
    private const int RotateInAutoEoiClear = 0, NonSpecificEoi = 1, SpecificEoi = 3, RotateInAutoEoiSet = 4, RotateOnNonSpecificEoi = 5, SetPriority = 6,
        RotateOnSpecificEoi = 7;

    private enum InitializationStep { Ready, Icw2, Icw3, Icw4, PowerOn }

    private readonly Action _outputChanged;
    private readonly byte _levelCapable;
    private InitializationStep _step = InitializationStep.PowerOn;
    private byte _lines, _edges, _mask, _inService, _levelTriggered, _icw1, _icw2, _icw3;
    private int _lowest = SpuriousInput; // the input of lowest priority; the next one has the highest
    private bool _icw4Needed, _single, _autoEoi, _rotateInAutoEoi, _specialMask, _specialFullyNested, _microprocessor86, _readInService, _poll;

    /// <param name="levelCapable">Inputs that ELCR may make level-triggered.</param>
    /// <param name="outputChanged">INT may have changed: see <see cref="Output"/>.</param>
    public Pic8259(byte levelCapable, Action outputChanged)
    {
        _levelCapable = levelCapable;
        _outputChanged = outputChanged;
    }

    /// <summary>As after power-on: silent until it is initialized. The levels of its inputs are the devices'.</summary>
    public void Reset()
    {
        _step = InitializationStep.PowerOn;
        _edges = _mask = _inService = _levelTriggered = _icw1 = _icw2 = _icw3 = 0;
        _lowest = SpuriousInput;
        _icw4Needed = _single = _autoEoi = _rotateInAutoEoi = _specialMask = _specialFullyNested = _microprocessor86 = _readInService = _poll = false;
        _outputChanged();
    }

    public PicChipState Save() => new(
        (int)_step, _lines, _edges, _mask, _inService, _levelTriggered, _icw1, _icw2, _icw3, _lowest, _icw4Needed, _single, _autoEoi, _rotateInAutoEoi,
            _specialMask, _specialFullyNested,
        _microprocessor86, _readInService, _poll);

    public void Restore(PicChipState state, string id)
    {
        _step = StateCheck.Defined((InitializationStep)state.Step, id);
        _lowest = StateCheck.Range(state.Lowest, 0, Inputs - 1, id);
        (_lines, _edges, _mask, _inService, _levelTriggered) = (state.Lines, state.Edges, state.Mask, state.InService, state.LevelTriggered);
        (_icw1, _icw2, _icw3, _icw4Needed, _single, _autoEoi) = (state.Icw1, state.Icw2, state.Icw3, state.Icw4Needed, state.Single, state.AutoEoi);
        (_rotateInAutoEoi, _specialMask, _specialFullyNested) = (state.RotateInAutoEoi, state.SpecialMask, state.SpecialFullyNested);
        (_microprocessor86, _readInService, _poll) = (state.Microprocessor86, state.ReadInService, state.Poll);
    }

    /// <summary>The INT pin.</summary>
    public bool Output => Highest() >= 0;

    /// <summary>Edge/level control register: a set bit makes the input level-triggered.</summary>
    public byte EdgeLevelControl
    {
        get => _levelTriggered;
        set
        {
            _levelTriggered = (byte)(value & _levelCapable);
            _outputChanged();
        }
    }

    /// <summary>Cascade inputs of a master (ICW3); none while it is alone.</summary>
    public byte Slaves => _single ? (byte)0 : _icw3;

    /// <summary>Identification of a slave, ICW3 bits 2:0.</summary>
    public int SlaveId => _icw3 & 7;

    /// <summary>IRR: in edge mode the latch counts only while the input is still high ("Interrupt request must stay until INTA").</summary>
    private byte Requests => (byte)(_lines & (_edges | _levelTriggered));

    /// <summary>The level of an input. Needs no lock where only the caller moves it.</summary>
    public bool IsAsserted(int input) => (_lines & (1 << input)) != 0;

    public void SetLine(int input, bool asserted)
    {
        byte bit = (byte)(1 << input);
        if (asserted == ((_lines & bit) != 0)) return;
        if (asserted)
        {
            _lines |= bit;
            _edges |= bit;
        }
        else
        {
            _lines &= (byte)~bit;
            _edges &= (byte)~bit;
        }
        _outputChanged();
    }

    /// <summary>
    /// The INTA sequence as far as this chip takes part: the input that goes into service; with none the chip answers as if IR7 had asked, and nothing is in
    /// service.
    /// </summary>
    public int Acknowledge(out bool spurious)
    {
        int input = Highest();
        spurious = input < 0;
        if (spurious) return SpuriousInput;
        byte bit = (byte)(1 << input);
        _edges &= (byte)~bit;
        if (!_autoEoi) _inService |= bit;
        else if (_rotateInAutoEoi) _lowest = input;
        return input;
    }

    /// <summary>
    /// What the chip drives onto the data bus for an input: in MCS-80 mode the low byte of the call address, which an x86 takes for the vector.
    /// </summary>
    public byte Vector(int input)
    {
        if (_microprocessor86) return (byte)((_icw2 & 0xF8) | input);
        return (_icw1 & 4) != 0 ? (byte)((_icw1 & 0xE0) | (input << 2)) : (byte)((_icw1 & 0xC0) | (input << 3));
    }

    public byte Read(int a0)
    {
        if (_poll)
        {
            // OCW3 P: the next read is the acknowledge.
            _poll = false;
            int input = Acknowledge(out bool spurious);
            _outputChanged();
            return spurious ? (byte)0 : (byte)(0x80 | input);
        }
        if (a0 != 0) return _mask;
        return _readInService ? _inService : Requests;
    }

    public void Write(int a0, byte value)
    {
        if (a0 == 0)
        {
            if ((value & 0x10) != 0) WriteIcw1(value);
            else if ((value & 0x08) != 0) WriteOcw3(value);
            else WriteOcw2(value);
        }
        else WriteA1(value);
        _outputChanged();
    }

    private void WriteIcw1(byte value)
    {
        _icw1 = value;
        _icw4Needed = (value & 1) != 0;
        _single = (value & 2) != 0;
        _edges = 0; // the edge sense circuit is reset: an input must rise again
        _mask = _inService = 0;
        _lowest = SpuriousInput;
        _specialMask = _readInService = _poll = _rotateInAutoEoi = false;
        if (!_icw4Needed) WriteIcw4(0);
        _step = InitializationStep.Icw2;
    }

    private void WriteIcw4(byte value)
    {
        _microprocessor86 = (value & 1) != 0;
        _autoEoi = (value & 2) != 0;
        _specialFullyNested = (value & 0x10) != 0;
    }

    private void WriteA1(byte value)
    {
        switch (_step)
        {
            case InitializationStep.Icw2:
                _icw2 = value;
                _step = !_single ? InitializationStep.Icw3 : _icw4Needed ? InitializationStep.Icw4 : InitializationStep.Ready;
                break;
            case InitializationStep.Icw3:
                _icw3 = value;
                _step = _icw4Needed ? InitializationStep.Icw4 : InitializationStep.Ready;
                break;
            case InitializationStep.Icw4:
                WriteIcw4(value);
                _step = InitializationStep.Ready;
                break;
            default:
                _mask = value; // OCW1
                break;
        }
    }

    private void WriteOcw2(byte value)
    {
        int level = value & 7;
        switch (value >> 5)
        {
            case RotateInAutoEoiClear:
                _rotateInAutoEoi = false;
                break;
            case RotateInAutoEoiSet:
                _rotateInAutoEoi = true;
                break;
            case SetPriority:
                _lowest = level;
                break;
            case SpecificEoi:
                EndOfInterrupt(level);
                break;
            case RotateOnSpecificEoi:
                EndOfInterrupt(level);
                _lowest = level;
                break;
            case NonSpecificEoi or RotateOnNonSpecificEoi:
                // In special mask mode a masked level's bit is not cleared by a non-specific EOI.
                int highest = First((byte)(_inService & ~(_specialMask ? _mask : 0)));
                if (highest < 0) break;
                EndOfInterrupt(highest);
                if (value >> 5 == RotateOnNonSpecificEoi) _lowest = highest;
                break;
        }
    }

    private void EndOfInterrupt(int level) => _inService &= (byte)~(1 << level);

    private void WriteOcw3(byte value)
    {
        if ((value & 0x40) != 0) _specialMask = (value & 0x20) != 0;
        if ((value & 4) != 0) _poll = true; // overrides a register read command in the same word
        else if ((value & 2) != 0) _readInService = (value & 1) != 0;
    }

    /// <summary>The input that INT stands for, −1 with none: above everything in service, or beside it as the modes allow.</summary>
    private int Highest()
    {
        if (_step != InitializationStep.Ready) return -1; // it does not operate before or during its initialisation
        int requested = First((byte)(Requests & ~_mask));
        if (requested < 0) return -1;
        byte blocking = _inService;
        if (_specialMask) blocking &= (byte)~_mask;
        if (_specialFullyNested) blocking &= (byte)~Slaves; // a slave in service may ask again
        int serving = First(blocking);
        return serving < 0 || Priority(requested) < Priority(serving) ? requested : -1;
    }

    private int Priority(int input) => (input - _lowest - 1) & (Inputs - 1);

    /// <summary>The set bit of highest priority, −1 with none.</summary>
    private int First(byte inputs)
    {
        for (int n = 1; n <= Inputs && inputs != 0; n++)
        {
            int input = (_lowest + n) & (Inputs - 1);
            if ((inputs & (1 << input)) != 0) return input;
        }
        return -1;
    }
}

/// <summary>State of one <see cref="Pic8259"/>.</summary>
/// <param name="Step">Which initialization command word comes next: 0 none, 1 to 3 ICW2 to ICW4, 4 it was never initialized.</param>
internal sealed record PicChipState(
    int Step, byte Lines, byte Edges, byte Mask, byte InService, byte LevelTriggered, byte Icw1, byte Icw2, byte Icw3, int Lowest, bool Icw4Needed, bool Single,
        bool AutoEoi, bool RotateInAutoEoi,
    bool SpecialMask, bool SpecialFullyNested, bool Microprocessor86, bool ReadInService, bool Poll);
