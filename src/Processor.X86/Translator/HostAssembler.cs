using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>General host registers by their number in machine code.</summary>
internal enum Host : sbyte
{
    None = -1, Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi, R8, R9, R10, R11, R12, R13, R14, R15,
}

/// <summary>Two-operand arithmetic by its number in machine code.</summary>
internal enum HostOperator
{
    Add = 0, Or = 1, And = 4, Subtract = 5, Xor = 6, Compare = 7,
}

/// <summary>What changes with the linear address for which code was emitted.</summary>
internal enum RelocationKind
{
    /// <summary>A constant of 8 bytes, which grows with the address, or shrinks.</summary>
    Address, NegativeAddress,
    /// <summary>The place of an entry in a table of the first-level TLB: an absolute address of 4 bytes.</summary>
    FirstLevelEntry,
    /// <summary>The number of the mapping of the block's first page, negated, and where the one in force is.</summary>
    Mapping, MappingSlot,
    /// <summary>The same for its second page.</summary>
    SecondMapping, SecondMappingSlot,
}

/// <summary>A place in emitted code that changes with the linear address.</summary>
/// <param name="Offset">In the buffer.</param>
/// <param name="Table">Absolute address of the table, for <see cref="RelocationKind.FirstLevelEntry"/>.</param>
internal readonly record struct Relocation(int Offset, RelocationKind Kind, int Table = 0);

/// <summary>A place in emitted code that jumps lead to, before or after it is known.</summary>
internal sealed class HostLabel
{
    /// <summary>Offset in the buffer; negative: not placed yet.</summary>
    public int Offset = -1;
    /// <summary>Offsets of the relative operands that wait for the place; a short one is kept as its complement.</summary>
    public readonly List<int> Waiting = [];

    public void Reset()
    {
        Offset = -1;
        Waiting.Clear();
    }
}

/// <summary>
/// Writes host machine code for the address where it will run. It knows the few forms that emitted code needs around guest instructions, none of which
/// touches the arithmetic flags unless it says so; whole instructions are encoded by Iced.
/// </summary>
/// <remarks>Invariant: nothing is written beyond <see cref="Capacity"/>; <see cref="Full"/> tells that something did not fit.</remarks>
internal sealed unsafe class HostAssembler : CodeWriter
{
    public const int Capacity = 1 << 16;
    private const int Reserve = 64;

    private readonly byte[] _buffer = new byte[Capacity + Reserve];
    private readonly Encoder _encoder;
    private ulong _address, _coldAddress;
    /// <summary>Where the cold part begins in the buffer.</summary>
    private int _cold;

    private readonly int _state;
    private readonly List<Relocation> _relocations = [];

    /// <param name="state">Where the processor state lies, below 2 GiB: emitted code reaches it by absolute addresses.</param>
    public HostAssembler(ProcessorState* state)
    {
        _state = checked((int)state);
        _encoder = Encoder.Create(64, this);
    }

    /// <summary>A field of the processor state as an operand for Iced.</summary>
    public MemoryOperand State(int offset, Iced.Intel.Register index = Iced.Intel.Register.None) =>
        new(Iced.Intel.Register.None, index, 1, _state + offset, 8, false, Iced.Intel.Register.None);

    /// <summary>Bytes written.</summary>
    public int Length { get; private set; }

    /// <summary>What in the code changes with the linear address of the block.</summary>
    public IReadOnlyList<Relocation> Relocations => _relocations;

    /// <summary>The code contains its linear address in a form that other addresses may not have.</summary>
    public bool IsFixed { get; set; }

    public bool Full => Length >= Capacity;

    /// <summary>What was written before <see cref="BeginCold"/>.</summary>
    public ReadOnlySpan<byte> Code => _buffer.AsSpan(0, Math.Min(Length, _cold));

    /// <summary>What was written behind it.</summary>
    public ReadOnlySpan<byte> ColdCode => _buffer.AsSpan(Code.Length, Length - Code.Length);

    /// <summary>Where the next byte will run.</summary>
    public ulong Here => AddressOf(Length);

    /// <summary>Where the byte at an offset in the buffer will run.</summary>
    public ulong AddressOf(int offset) => offset < _cold ? _address + (ulong)offset : _coldAddress + (ulong)(offset - _cold);

    /// <summary>Begins anew for code that will run at <paramref name="address"/>, and code that is rarely needed at <paramref name="cold"/>.</summary>
    public void Begin(ulong address, ulong cold = 0)
    {
        _address = address;
        _coldAddress = cold;
        Length = 0;
        _cold = int.MaxValue;
        _relocations.Clear();
        IsFixed = false;
    }

    /// <summary>From here on the code is rarely needed, and runs elsewhere. No label is here that belongs to what was written before.</summary>
    public void BeginCold() => _cold = Length;

    /// <summary>Forgets what was written behind the first <paramref name="length"/> bytes.</summary>
    public void Rewind(int length)
    {
        Length = length;
        while (_relocations.Count > 0 && _relocations[^1].Offset >= length) _relocations.RemoveAt(_relocations.Count - 1);
    }

    /// <summary>The last bytes that were written change with the linear address.</summary>
    public void Relocate(RelocationKind kind, int bytes, int table = 0) => _relocations.Add(new Relocation(Length - bytes, kind, table));

    public override void WriteByte(byte value)
    {
        _buffer[Length] = value;
        if (Length < Capacity + Reserve - 1) Length++;
    }

    public void Bytes(params ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes) WriteByte(b);
    }

    public void Int32(int value)
    {
        for (int n = 0; n < 32; n += 8) WriteByte((byte)(value >> n));
    }

    public void Int64(ulong value)
    {
        Int32((int)value);
        Int32((int)(value >> 32));
    }

    /// <summary>The 32-bit absolute address of a field of the processor state.</summary>
    public void StateAddress(int offset) => Int32(_state + offset);

    /// <summary>
    /// One instruction by Iced. False: it has no encoding in 64-bit mode (an 8-bit register AH to BH beside a REX prefix, a form of 32-bit mode).
    /// </summary>
    public bool TryEncode(in Instruction instruction)
    {
        int before = Length;
        if (_encoder.TryEncode(instruction, Here, out _, out _)) return true;
        Length = before;
        return false;
    }

    // ModRM, SIB and displacement for a register operand and a memory operand without RIP-relative addressing.
    private void Memory(int register, Host @base, Host index, int scale, int displacement)
    {
        int reg = (register & 7) << 3;
        if (@base == Host.None)
        {
            Bytes((byte)(reg | 4), (byte)(scale << 6 | (index == Host.None ? 4 : (int)index & 7) << 3 | 5));
            Int32(displacement);
            return;
        }
        int mod = displacement == 0 && ((int)@base & 7) != 5 ? 0 : displacement is >= -128 and <= 127 ? 0x40 : 0x80;
        if (index != Host.None || ((int)@base & 7) == 4)
            Bytes((byte)(mod | reg | 4), (byte)(scale << 6 | (index == Host.None ? 4 : (int)index & 7) << 3 | (int)@base & 7));
        else
            WriteByte((byte)(mod | reg | (int)@base & 7));
        if (mod == 0x40) WriteByte((byte)displacement);
        else if (mod == 0x80) Int32(displacement);
    }

    private void Rex(bool wide, int register, Host index, Host @base)
    {
        int rex = (wide ? 8 : 0) | (register >> 3 & 1) << 2 | (index == Host.None ? 0 : (int)index >> 3) << 1 | (@base == Host.None ? 0 : (int)@base >> 3);
        if (rex != 0) WriteByte((byte)(0x40 | rex));
    }

    /// <summary>MOV between registers.</summary>
    public void Move(Host to, Host from, bool wide = true)
    {
        Rex(wide, (int)from, Host.None, to);
        Bytes(0x89, (byte)(0xC0 | ((int)from & 7) << 3 | (int)to & 7));
    }

    /// <summary>The shortest MOV of a constant that leaves the flags alone.</summary>
    public void MoveImmediate(Host to, ulong value)
    {
        if (value <= uint.MaxValue)
        {
            Rex(false, 0, Host.None, to);
            WriteByte((byte)(0xB8 | (int)to & 7));
            Int32((int)value);
        }
        else if ((long)value == (int)value)
        {
            Rex(true, 0, Host.None, to);
            Bytes(0xC7, (byte)(0xC0 | (int)to & 7));
            Int32((int)value);
        }
        else
        {
            Rex(true, 0, Host.None, to);
            WriteByte((byte)(0xB8 | (int)to & 7));
            Int64(value);
        }
    }

    /// <summary>LEA of 32 bits with a displacement of 4 bytes, whatever its value.</summary>
    public void LeaFar(Host to, Host @base, int displacement)
    {
        Rex(false, (int)to, Host.None, @base);
        Bytes(0x8D, (byte)(0x80 | ((int)to & 7) << 3 | (int)@base & 7));
        Int32(displacement);
    }

    /// <summary>The same for a constant that grows (or shrinks, if <paramref name="negative"/>) with the linear address of the block.</summary>
    public void MoveAddress(Host to, ulong value, bool negative = false)
    {
        MoveImmediate(to, value);
        if (value <= uint.MaxValue || (long)value == (int)value) IsFixed = true;
        else Relocate(negative ? RelocationKind.NegativeAddress : RelocationKind.Address, sizeof(ulong));
    }

    public void Lea(Host to, Host @base, Host index, int scale, int displacement, bool wide = true)
    {
        Rex(wide, (int)to, index, @base);
        WriteByte(0x8D);
        Memory((int)to, @base, index, scale, displacement);
    }

    public void Lea(Host to, Host @base, int displacement) => Lea(to, @base, Host.None, 0, displacement);

    /// <summary>MOV from memory, 8 or (zero-extended) 4 bytes.</summary>
    public void Load(Host to, Host @base, Host index, int displacement, bool wide = true)
    {
        Rex(wide, (int)to, index, @base);
        WriteByte(0x8B);
        Memory((int)to, @base, index, 0, displacement);
    }

    public void Store(Host @base, Host index, int displacement, Host from, bool wide = true)
    {
        Rex(wide, (int)from, index, @base);
        WriteByte(0x89);
        Memory((int)from, @base, index, 0, displacement);
    }

    /// <summary>MOV of a constant to memory, sign-extended to 8 bytes where <paramref name="wide"/>.</summary>
    public void StoreImmediate(Host @base, Host index, int displacement, int value, bool wide = true)
    {
        Rex(wide, 0, index, @base);
        WriteByte(0xC7);
        Memory(0, @base, index, 0, displacement);
        Int32(value);
    }

    /// <summary>MOV from the processor state.</summary>
    public void LoadState(Host to, int offset, bool wide = true)
    {
        Load(to, Host.None, Host.None, _state + offset, wide);
    }

    /// <summary>MOVSXD from the processor state.</summary>
    public void LoadStateSigned32(Host to, int offset)
    {
        Rex(true, (int)to, Host.None, Host.None);
        WriteByte(0x63);
        Memory((int)to, Host.None, Host.None, 0, _state + offset);
    }

    /// <summary>MOV from an entry of a table of the first level, whose number changes with the linear address.</summary>
    public void LoadFirstLevel(Host to, int table, int entry)
    {
        LoadState(to, table + entry * sizeof(ulong));
        Relocate(RelocationKind.FirstLevelEntry, sizeof(int), _state + table);
    }

    public void StoreState(int offset, Host from, bool wide = true)
    {
        Store(Host.None, Host.None, _state + offset, from, wide);
    }

    public void StoreStateImmediate(int offset, int value, bool wide)
    {
        StoreImmediate(Host.None, Host.None, _state + offset, value, wide);
    }

    /// <summary>MOVZX from a byte of the processor state.</summary>
    public void LoadStateByte(Host to, int offset)
    {
        Rex(false, (int)to, Host.None, Host.None);
        Bytes(0x0F, 0xB6);
        Memory((int)to, Host.None, Host.None, 0, _state + offset);
    }

    /// <summary>MOV of a low byte to the processor state.</summary>
    public void StoreStateByte(int offset, Host from)
    {
        WriteByte((byte)(0x40 | ((int)from >> 3) << 2));
        WriteByte(0x88);
        Memory((int)from, Host.None, Host.None, 0, _state + offset);
    }

    public void StoreStateByteImmediate(int offset, byte value)
    {
        WriteByte(0xC6);
        Memory(0, Host.None, Host.None, 0, _state + offset);
        WriteByte(value);
    }

    /// <summary>MOV of an element of a table of 8-byte words in the processor state.</summary>
    public void LoadTable(Host to, Host index, int offset)
    {
        Rex(true, (int)to, index, Host.None);
        WriteByte(0x8B);
        Memory((int)to, Host.None, index, 3, _state + offset);
    }

    public void StoreTable(int offset, Host index, Host from)
    {
        Rex(true, (int)from, index, Host.None);
        WriteByte(0x89);
        Memory((int)from, Host.None, index, 3, _state + offset);
    }

    /// <summary>JMP through an element of a table of addresses in the processor state.</summary>
    public void JumpTable(Host index, int offset)
    {
        Rex(false, 4, index, Host.None);
        WriteByte(0xFF);
        Memory(4, Host.None, index, 3, _state + offset);
    }

    /// <summary>CALL through a word of the processor state.</summary>
    public void CallState(int offset)
    {
        WriteByte(0xFF);
        Memory(2, Host.None, Host.None, 0, _state + offset);
    }

    public void JumpState(int offset)
    {
        WriteByte(0xFF);
        Memory(4, Host.None, Host.None, 0, _state + offset);
    }

    /// <summary>PEXT with a mask that lies at <paramref name="mask"/>, near the code.</summary>
    public void Pext(Host to, Host from, ulong mask)
    {
        Bytes(0xC4, (byte)(((int)to >> 3 ^ 1) << 7 | 0x62), (byte)(0x80 | (~(int)from & 15) << 3 | 2), 0xF5, (byte)(((int)to & 7) << 3 | 5));
        Int32(checked((int)((long)mask - (long)(Here + 4))));
    }

    /// <summary>PEXT with a mask in the processor state.</summary>
    public void PextState(Host to, Host from, int offset)
    {
        Bytes(0xC4, (byte)(((int)to >> 3 ^ 1) << 7 | 0x62), (byte)(0x80 | (~(int)from & 15) << 3 | 2), 0xF5, (byte)(((int)to & 7) << 3 | 4), 0x25);
        StateAddress(offset);
    }

    /// <summary>LEA of a place in the code.</summary>
    public void Lea(Host to, HostLabel label)
    {
        Rex(true, (int)to, Host.None, Host.None);
        Bytes(0x8D, (byte)(((int)to & 7) << 3 | 5));
        Near(label);
    }

    private void Operation(HostOperator what, Host to, Host from, int size)
    {
        if (size == 2) WriteByte(0x66);
        // SPL to DIL need a prefix, whatever is in it.
        if (size == 1 && from is >= Host.Rsp and <= Host.Rdi) WriteByte((byte)(0x40 | ((int)to >> 3) << 2));
        else Rex(size == 8, (int)to, Host.None, from);
        WriteByte((byte)((int)what << 3 | (size == 1 ? 2 : 3)));
    }

    /// <summary>An operation of <paramref name="size"/> bytes on two registers. The flags change.</summary>
    public void Calculate(HostOperator what, Host to, Host from, int size)
    {
        Operation(what, to, from, size);
        WriteByte((byte)(0xC0 | ((int)to & 7) << 3 | (int)from & 7));
    }

    /// <summary>The same with a word of the processor state.</summary>
    public void CalculateState(HostOperator what, Host to, int offset, int size) => Calculate(what, to, Host.None, 0, _state + offset, size);

    /// <summary>The same with memory.</summary>
    public void Calculate(HostOperator what, Host to, Host index, int scale, int address, int size)
    {
        if (size == 2) WriteByte(0x66);
        Rex(size == 8, (int)to, index, Host.None);
        WriteByte((byte)((int)what << 3 | (size == 1 ? 2 : 3)));
        Memory((int)to, Host.None, index, scale, address);
    }

    /// <summary>The same with a constant, sign-extended to 8 bytes.</summary>
    public void Calculate(HostOperator what, Host to, int value, int size)
    {
        if (size == 2) WriteByte(0x66);
        if (size == 1 && to is >= Host.Rsp and <= Host.Rdi) WriteByte(0x40);
        else Rex(size == 8, 0, Host.None, to);
        bool small = size == 1 || value == (sbyte)value;
        Bytes((byte)(size == 1 ? 0x80 : small ? 0x83 : 0x81), (byte)(0xC0 | (int)what << 3 | (int)to & 7));
        if (small) WriteByte((byte)value);
        else if (size == 2) Bytes((byte)value, (byte)(value >> 8));
        else Int32(value);
    }

    /// <summary>ADD of an element of a table of 8-byte words in the processor state. The flags change.</summary>
    public void AddTable(Host to, Host index, int offset) => Calculate(HostOperator.Add, to, index, 3, _state + offset, sizeof(ulong));

    /// <summary>TEST with a constant below 2^31. The flags change.</summary>
    public void Test(Host register, int value)
    {
        Rex(false, 0, Host.None, register);
        Bytes(0xF7, (byte)(0xC0 | (int)register & 7));
        Int32(value);
    }

    /// <summary>NEG RCX, of <paramref name="size"/> bytes.</summary>
    public void NegateScratch(int size)
    {
        if (size == 2) WriteByte(0x66);
        if (size == 8) WriteByte(0x48);
        Bytes((byte)(size == 1 ? 0xF6 : 0xF7), 0xD9);
    }

    /// <summary>MOV of AL and of AH to the processor state, one by one: together they would have to be joined first.</summary>
    public void StoreStateAx(int offset)
    {
        Bytes(0x88, 0x04, 0x25);
        StateAddress(offset);
        Bytes(0x88, 0x24, 0x25);
        StateAddress(offset + 1);
    }

    /// <summary>LAHF, SETO AL: the arithmetic flags in AX as <see cref="TranslatorState.HostFlags"/> has them.</summary>
    public void FlagsToAx() => Bytes(0x9F, 0x0F, 0x90, 0xC0);

    /// <summary>ADD AL, 7Fh, which makes OF of bit 0, and SAHF.</summary>
    public void FlagsFromAx() => Bytes(0x04, 0x7F, 0x9E);

    public void Push(Host register)
    {
        Rex(false, 0, Host.None, register);
        WriteByte((byte)(0x50 | (int)register & 7));
    }

    public void Pop(Host register)
    {
        Rex(false, 0, Host.None, register);
        WriteByte((byte)(0x58 | (int)register & 7));
    }

    /// <summary>RORX RCX, RCX.</summary>
    public void RotateScratchRight(int bits) => Bytes(0xC4, 0xE3, 0xFB, 0xF0, 0xC9, (byte)bits);

    /// <summary>JRCXZ, which the label must follow within 127 bytes.</summary>
    public void JumpIfRcxZero(HostLabel label)
    {
        WriteByte(0xE3);
        Short(label);
    }

    public void Jump(HostLabel label)
    {
        WriteByte(0xE9);
        Near(label);
    }

    /// <summary>JMP within 127 bytes.</summary>
    public void ShortJump(HostLabel label)
    {
        WriteByte(0xEB);
        Short(label);
    }

    public void Call(HostLabel label)
    {
        WriteByte(0xE8);
        Near(label);
    }

    public void Return() => WriteByte(0xC3);

    /// <summary>Bytes of a conditional jump and one without a condition.</summary>
    public const int LongestJumps = 11;

    public void JumpIf(int condition, HostLabel label)
    {
        Bytes(0x0F, (byte)(0x80 | condition));
        Near(label);
    }

    public void ShortJumpIf(int condition, HostLabel label)
    {
        WriteByte((byte)(0x70 | condition));
        Short(label);
    }

    public void Jump(ulong target)
    {
        WriteByte(0xE9);
        Int32(checked((int)((long)target - (long)(Here + 4))));
    }

    public void Call(ulong target)
    {
        WriteByte(0xE8);
        Int32(checked((int)((long)target - (long)(Here + 4))));
    }

    /// <summary>What a relative operand of 32 bits at offset <paramref name="from"/> must be to lead to offset <paramref name="to"/>.</summary>
    private int Distance(int from, int to) => checked((int)((long)AddressOf(to) - (long)(AddressOf(from) + 4)));

    private void Near(HostLabel label)
    {
        if (label.Offset >= 0)
        {
            Int32(Distance(Length, label.Offset));
            return;
        }
        label.Waiting.Add(Length);
        Int32(0);
    }

    private void Short(HostLabel label)
    {
        if (label.Offset >= 0)
        {
            WriteByte((byte)checked((sbyte)(Distance(Length, label.Offset) + 3)));
            return;
        }
        label.Waiting.Add(~Length);
        WriteByte(0);
    }

    /// <summary>What the short relative operand at offset <paramref name="site"/> leads to is here.</summary>
    public void PlaceShort(int site)
    {
        if (!Full) _buffer[site] = (byte)checked((sbyte)(Distance(site, Length) + 3));
    }

    /// <summary>The label is here.</summary>
    public void Place(HostLabel label)
    {
        label.Offset = Length;
        if (Full) return;
        foreach (int waiting in label.Waiting)
        {
            if (waiting < 0) _buffer[~waiting] = (byte)checked((sbyte)(Distance(~waiting, Length) + 3));
            else BitConverter.TryWriteBytes(_buffer.AsSpan(waiting), Distance(waiting, Length));
        }
        label.Waiting.Clear();
    }
}
