using System.Numerics;

namespace Bunraku.Machine.Interrupts;

/// <summary>A set of interrupt vectors: one of the 256-bit registers ISR, TMR, IRR.</summary>
internal struct VectorSet
{
    private ulong _0, _1, _2, _3; // vectors 0-63, 64-127, 128-191, 192-255

    /// <summary>The highest vector, -1 when empty.</summary>
    public readonly int Highest =>
        _3 != 0 ? 255 - BitOperations.LeadingZeroCount(_3)
        : _2 != 0 ? 191 - BitOperations.LeadingZeroCount(_2)
        : _1 != 0 ? 127 - BitOperations.LeadingZeroCount(_1)
        : 63 - BitOperations.LeadingZeroCount(_0);

    public readonly bool Contains(int vector) => (Quarter(vector >> 6) >> (vector & 63) & 1) != 0;

    public void Set(int vector, bool value)
    {
        ulong bit = 1ul << (vector & 63);
        switch (vector >> 6)
        {
            case 0: _0 = value ? _0 | bit : _0 & ~bit; break;
            case 1: _1 = value ? _1 | bit : _1 & ~bit; break;
            case 2: _2 = value ? _2 | bit : _2 & ~bit; break;
            default: _3 = value ? _3 | bit : _3 & ~bit; break;
        }
    }

    /// <summary>32-bit words of the register.</summary>
    public const int Words = 8;

    /// <summary>The register's 32-bit word number <paramref name="index"/>, 0 to 7.</summary>
    public readonly uint Word(int index) => (uint)(Quarter(index >> 1) >> (32 * (index & 1)));

    public void SetWord(int index, uint value)
    {
        for (int n = 0; n < 32; n++) Set(index * 32 + n, (value >> n & 1) != 0);
    }

    private readonly ulong Quarter(int index) => index switch { 0 => _0, 1 => _1, 2 => _2, _ => _3 };
}
