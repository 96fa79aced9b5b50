using System.Buffers.Binary;
using Bunraku.Engines;

namespace Bunraku.Machine.Display;

/// <summary>
/// What the processor does with display memory through the window at A0000h to BFFFFh: the graphics controller with its latches, read and write modes, and the
/// sequencer's choice of planes. IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem", sections "Video Memory Read/Write Operations"
/// and "Video Memory Organization". With the lock held of who owns it.
/// </summary>
/// <remarks>
/// The byte at address A of plane P lies at 4 * A + P of display memory, and where the two low address bits choose the plane, address A lies at A: then the
/// window shows the linear frame buffer.
/// </remarks>
internal sealed class VgaPlanes(VgaRegisters registers, BochsDisplay bochs, GuestMemory memory, ulong start, uint length)
{
    /// <summary>Where the window begins, and its length.</summary>
    public const ulong Window = 0xA_0000, WindowLength = 0x2_0000;
    /// <summary>What of it graphics have as a rule.</summary>
    public const uint GraphicsLength = 0x1_0000;

    private const byte RamEnable = 1 << 1, PageSelect = 1 << 5; // of the miscellaneous output register
    private const int Planes = 4;

    /// <summary>What the last read has found: a byte for each plane.</summary>
    public uint Latches { get; set; }

    /// <summary>
    /// Display memory may take the window's place, from this offset on, since an access does nothing but reach a byte there. Null: it does more.
    /// </summary>
    public uint? Linear
    {
        get
        {
            if (MapSelect != 1 || (registers.Miscellaneous & RamEnable) == 0) return null;
            if (bochs is not { IsOn: true, IsPlanar: false } && !(registers.IsChain4 && registers.Sequencer[SequencerRegister.MapMask] == 0xF)) return null;
            return bochs.BankOffset + GraphicsLength <= length ? bochs.BankOffset : null;
        }
    }

    private int MapSelect => registers.Graphics[GraphicsRegister.Miscellaneous] >> 2 & 3;

    /// <summary>The offset in the chosen part of the window, with the bank; null: nothing answers.</summary>
    private uint? Locate(ulong offset)
    {
        if ((registers.Miscellaneous & RamEnable) == 0) return null;
        (uint first, uint size) = MapSelect switch
        {
            0 => (0u, (uint)WindowLength),
            1 => (0u, GraphicsLength),
            2 => (0x1_0000u, 0x8000u),
            _ => (0x1_8000u, 0x8000u),
        };
        uint at = (uint)offset - first;
        return at < size ? at + bochs.BankOffset : null;
    }

    private bool IsLinear => bochs is { IsOn: true, IsPlanar: false } || registers.IsChain4;

    private bool IsOddEven => (registers.Graphics[GraphicsRegister.Mode] & GraphicsRegister.OddEven) != 0
        || (registers.Sequencer[SequencerRegister.MemoryMode] & SequencerRegister.Sequential) == 0;

    /// <summary>Address in a plane where bit 0 chooses between even and odd planes: another bit comes in its place.</summary>
    private uint OddEvenAddress(uint at)
    {
        if ((registers.Graphics[GraphicsRegister.Miscellaneous] & GraphicsRegister.ChainOddEven) == 0) return at & ~1u;
        uint replaced = MapSelect == 0 ? at >> 16 & 1 : (registers.Miscellaneous & PageSelect) != 0 ? 0u : 1;
        return at & ~1u & 0xFFFF | replaced;
    }

    public byte Read(ulong offset)
    {
        if (Locate(offset) is not { } at) return 0xFF;
        if (IsLinear) return at < length ? ReadByte(at) : (byte)0xFF;
        bool oddEven = (registers.Graphics[GraphicsRegister.Mode] & GraphicsRegister.OddEven) != 0;
        uint address = oddEven ? OddEvenAddress(at) : at;
        if (address >= length / Planes) return 0xFF;
        Latches = ReadAll(address);
        int plane = registers.Graphics[GraphicsRegister.ReadMapSelect];
        if (oddEven) plane = plane & 2 | (int)(at & 1);
        if ((registers.Graphics[GraphicsRegister.Mode] & GraphicsRegister.ReadCompares) == 0) return (byte)(Latches >> 8 * plane);
        // Read mode 1: a bit of the answer is 1 where the planes that count have the colour.
        uint differs = (Latches ^ Spread(registers.Graphics[GraphicsRegister.ColorCompare])) & Spread(registers.Graphics[GraphicsRegister.ColorDontCare]);
        differs |= differs >> 16;
        return (byte)~(differs | differs >> 8);
    }

    public void Write(ulong offset, byte value)
    {
        if (Locate(offset) is not { } at) return;
        byte mask = registers.Sequencer[SequencerRegister.MapMask];
        if (IsLinear)
        {
            bool allowed = bochs is { IsOn: true, IsPlanar: false } || (mask >> (int)(at & 3) & 1) != 0;
            if (allowed && at < length) memory.WriteBacking(start + at, [value]);
            return;
        }
        uint address = at;
        if (IsOddEven)
        {
            address = OddEvenAddress(at);
            mask &= (byte)((at & 1) != 0 ? 0b1010 : 0b0101);
        }
        if (address >= length / Planes || mask == 0) return;
        uint planes = Spread(mask), old = mask == 0xF ? 0 : ReadAll(address);
        Span<byte> bytes = stackalloc byte[Planes];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, old & ~planes | Shape(value) & planes);
        memory.WriteBacking(start + Planes * (ulong)address, bytes);
    }

    /// <summary>What the graphics controller makes of a byte for all planes, by write mode.</summary>
    private uint Shape(byte value)
    {
        ReadOnlySpan<byte> g = registers.Graphics;
        int rotate = g[GraphicsRegister.DataRotate] & 7;
        byte rotated = (byte)(value >> rotate | value << 8 - rotate);
        byte bits = g[GraphicsRegister.BitMask];
        uint result;
        switch (g[GraphicsRegister.Mode] & 3)
        {
            case 0:
                uint enable = Spread(g[GraphicsRegister.EnableSetReset]);
                result = rotated * 0x0101_0101u & ~enable | Spread(g[GraphicsRegister.SetReset]) & enable;
                break;
            case 1:
                return Latches;
            case 2:
                result = Spread((byte)(value & 0xF));
                break;
            default:
                result = Spread(g[GraphicsRegister.SetReset]);
                bits &= rotated;
                break;
        }
        result = (g[GraphicsRegister.DataRotate] >> 3 & 3) switch
        {
            1 => result & Latches,
            2 => result | Latches,
            3 => result ^ Latches,
            _ => result,
        };
        uint mask = bits * 0x0101_0101u;
        return result & mask | Latches & ~mask;
    }

    /// <summary>Bit n becomes byte n: all ones or zero.</summary>
    private static uint Spread(byte planes) => ((planes & 1u) | (planes & 2u) << 7 | (planes & 4u) << 14 | (planes & 8u) << 21) * 0xFF;

    private byte ReadByte(uint at) => memory.ReadBacking(start + at, 1)[0];

    private uint ReadAll(uint address) => BinaryPrimitives.ReadUInt32LittleEndian(memory.ReadBacking(start + Planes * (ulong)address, Planes));
}
