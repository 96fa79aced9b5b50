using Iced.Intel;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>Appends instructions to units, by Iced or byte by byte where the encoding itself matters.</summary>
internal sealed class UnitWriter
{
    private readonly Encoder _encoder;
    private readonly Buffer _buffer = new();
    private readonly bool _long;

    public UnitWriter(int bits)
    {
        _encoder = Encoder.Create(bits, _buffer);
        _long = bits == 64;
    }

    private sealed class Buffer : CodeWriter
    {
        public readonly List<byte> Bytes = [];
        public override void WriteByte(byte value) => Bytes.Add(value);
    }

    /// <summary>Appends an instruction; false when it has no encoding.</summary>
    public bool TryAdd(Unit u, in Instruction instruction)
    {
        _buffer.Bytes.Clear();
        if (!_encoder.TryEncode(instruction, 0, out _, out _)) return false;
        int start = u.Bytes.Count;
        u.Starts.Add(start);
        if (instruction.IsIPRelativeMemoryOperand)
            u.Fixups.Add(new Fixup(FixupKind.RipRelative, start + (int)_encoder.GetConstantOffsets().DisplacementOffset, start, null, 0));
        u.Bytes.AddRange(_buffer.Bytes);
        return true;
    }

    public void Add(Unit u, in Instruction instruction)
    {
        if (!TryAdd(u, instruction)) throw new InvalidOperationException($"{instruction} has no encoding");
    }

    /// <summary>Appends one instruction's bytes.</summary>
    public void Raw(Unit u, params ReadOnlySpan<byte> bytes)
    {
        u.Starts.Add(u.Bytes.Count);
        u.Bytes.AddRange(bytes);
    }

    /// <summary>An instruction that ends with the 32-bit address of a unit plus <paramref name="addend"/>, and <paramref name="behind"/> that.</summary>
    public void WithAddress(Unit u, ReadOnlySpan<byte> opcode, Unit? target, int addend = 0, params ReadOnlySpan<byte> behind)
    {
        u.Starts.Add(u.Bytes.Count);
        u.Bytes.AddRange(opcode);
        u.Fixups.Add(new Fixup(FixupKind.Absolute, u.Bytes.Count, 0, target, addend));
        u.Bytes.AddRange([0, 0, 0, 0]);
        u.Bytes.AddRange(behind);
    }

    /// <summary>An instruction that ends with a 32-bit distance to a unit.</summary>
    public void WithDistance(Unit u, ReadOnlySpan<byte> opcode, Unit target)
    {
        u.Starts.Add(u.Bytes.Count);
        u.Bytes.AddRange(opcode);
        int at = u.Bytes.Count;
        u.Bytes.AddRange([0, 0, 0, 0]);
        u.Fixups.Add(new Fixup(FixupKind.Relative, at, at + 4, target, 0));
    }

    /// <summary>ModRM (and SIB) for an absolute 32-bit address with <paramref name="reg"/> in the reg field; the address follows.</summary>
    public byte[] Absolute(int reg) => _long ? [(byte)(reg << 3 | 4), 0x25] : [(byte)(reg << 3 | 5)];

    /// <summary>An instruction with an absolute memory operand.</summary>
    public void Memory(Unit u, ReadOnlySpan<byte> opcode, int reg, uint address, params ReadOnlySpan<byte> immediate) =>
        Raw(u, [.. opcode, .. Absolute(reg), .. BitConverter.GetBytes(address), .. immediate]);

    /// <summary>MOV r32, imm32 of one of the first eight registers.</summary>
    public void Load(Unit u, int register, uint value) => Raw(u, [(byte)(0xB8 + register), .. BitConverter.GetBytes(value)]);

    /// <summary>MOV r32, imm32 with a unit's address.</summary>
    public void LoadAddress(Unit u, int register, Unit target, int addend = 0) => WithAddress(u, [(byte)(0xB8 + register)], target, addend);

    /// <summary>Changes a page-table entry by the supervisor's service.</summary>
    public void Service(Unit u, uint page, uint toggle, bool reload)
    {
        Memory(u, [0xC7], 0, Slot.ServiceIndex, BitConverter.GetBytes(page >> 12));
        Memory(u, [0xC7], 0, Slot.ServiceToggle, BitConverter.GetBytes(toggle));
        Memory(u, [0xC7], 0, Slot.ServicePage, BitConverter.GetBytes(G.Program + page));
        Memory(u, [0xC7], 0, Slot.ServiceReload, BitConverter.GetBytes(reload ? 1u : 0));
        Raw(u, 0xCD, G.ServiceVector);
    }
}
