using System.Buffers.Binary;
using Bunraku.Engines;

namespace Bunraku.Machine.Ethernet;

/// <summary>
/// The card's EEPROM, a serial Microwire one of 64 words: the manual's section 5 "EEPROM Interface". It is read by EERD, or bit by bit through EECD
/// (sections 13.4.3 and 13.4.4); what is written to it is lost.
/// </summary>
internal sealed class E1000Eeprom
{
    public const int Words = 64;
    private const int ChecksumWord = 0x3F;
    private const ushort Sum = 0xBABA; // section 5.6.35: of all words

    [Flags]
    private enum Lines : uint { Clock = 1, Select = 2, ToChip = 4, FromChip = 8, Request = 1 << 6, Grant = 1 << 7, Present = 1 << 8 }

    // A command of the chip: a start bit, two bits of opcode, six of address.
    private const int CommandBits = 9, WordBits = 16;
    private const int Read = 0b110;

    private readonly ushort[] _words = new ushort[Words];
    private Lines _lines;
    private int _count; // bits since the start bit
    private uint _command;

    /// <param name="mac">6 bytes.</param>
    public E1000Eeprom(ReadOnlySpan<byte> mac, ushort device)
    {
        for (int n = 0; n < 3; n++) _words[n] = BinaryPrimitives.ReadUInt16LittleEndian(mac[(2 * n)..]);
        // Section 5.6: image version, initialization control, identification.
        foreach ((int word, ushort value) in (ReadOnlySpan<(int, ushort)>)[(3, 0x0210), (5, 0xFFFF), (0x0A, 0x4408), (0x0B, device), (0x0C, 0x8086),
            (0x0D, device), (0x0E, 0x8086), (0x0F, 0x3040), (0x21, 0x7863)]) _words[word] = value;
        ushort sum = Sum;
        foreach (ushort word in _words) sum -= word;
        _words[ChecksumWord] = sum;
    }

    /// <summary>A word; 0 beyond the end.</summary>
    public ushort this[int address] => (uint)address < Words ? _words[address] : (ushort)0;

    public uint Control
    {
        get
        {
            bool granted = _lines.HasFlag(Lines.Request);
            return (uint)(_lines & ~Lines.FromChip | Lines.Present | (granted ? Lines.Grant : 0) | (Output ? Lines.FromChip : 0));
        }
        set
        {
            Lines now = (Lines)value & (Lines.Clock | Lines.Select | Lines.ToChip | Lines.Request), before = _lines;
            _lines = now;
            if (!now.HasFlag(Lines.Select)) (_count, _command) = (0, 0);
            else if (now.HasFlag(Lines.Clock) && !before.HasFlag(Lines.Clock)) Step(now.HasFlag(Lines.ToChip));
        }
    }

    private void Step(bool bit)
    {
        if (_count == 0 && !bit) return; // it waits for the start bit
        if (_count < CommandBits) _command = _command << 1 | (bit ? 1u : 0);
        _count++;
        // The next words follow without another command.
        if (_count > CommandBits + WordBits) (_count, _command) = (CommandBits + 1, _command & ~(Words - 1u) | _command + 1 & Words - 1);
    }

    /// <summary>A zero comes before the first bit of a word, which is the highest; without a command the chip says that it is ready.</summary>
    private bool Output
    {
        get
        {
            if (_count < CommandBits || _command >> 6 != Read) return true;
            return _count > CommandBits && (_words[_command & Words - 1] >> (WordBits - (_count - CommandBits)) & 1) != 0;
        }
    }

    public (byte Lines, byte Count, ushort Command) State => ((byte)_lines, (byte)_count, (ushort)_command);

    /// <exception cref="StateFormatException">It is none.</exception>
    public void Restore((byte Lines, byte Count, ushort Command) state, string id)
    {
        (_lines, _command) = ((Lines)state.Lines, (uint)state.Command & (1 << CommandBits) - 1);
        _count = StateCheck.Range(state.Count, (byte)0, (byte)(CommandBits + WordBits), id);
    }

    public void Reset() => (_lines, _count, _command) = (0, 0, 0);
}
