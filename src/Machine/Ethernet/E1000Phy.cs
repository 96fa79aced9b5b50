namespace Bunraku.Machine.Ethernet;

/// <summary>
/// The transceiver, reached through MDIC: the manual's sections 13.4.8 "MDI Control Register" and 13.5 "PHY Registers". It has always come to terms with its
/// partner about 1000 Mb/s, as soon as there is one.
/// </summary>
internal sealed class E1000Phy
{
    private const int Registers = 32;
    private const int Control = 0, Status = 1, Identifier = 2, Identifier2 = 3, Advertisement = 4, Partner = 5, Expansion = 6, Control1000 = 9, Status1000 = 10,
        SpecificStatus = 17;
    private const ushort ResetBit = 0x8000, RestartNegotiation = 0x0200;

    private readonly ushort[] _registers = new ushort[Registers];

    public E1000Phy() => Reset();

    public void Reset()
    {
        Array.Clear(_registers);
        (_registers[Control], _registers[Advertisement], _registers[Control1000]) = (0x1140, 0x0DE1, 0x0E00);
        (_registers[16], _registers[20]) = (0x0360, 0x0D60);
    }

    public ushort Read(int register, bool linkIsUp) => register switch
    {
        Status => (ushort)(0x7949 | (linkIsUp ? 0x0024 : 0)),
        Identifier => 0x0141,
        Identifier2 => 0x0C20,
        Partner => (ushort)(linkIsUp ? 0x45E1 : 0),
        Expansion => (ushort)(linkIsUp ? 3 : 0),
        Status1000 => (ushort)(linkIsUp ? 0x3C00 : 0),
        SpecificStatus => (ushort)(linkIsUp ? 0xAC00 : 0x8000),
        _ => _registers[register],
    };

    public void Write(int register, ushort value)
    {
        if (register == Control && (value & ResetBit) != 0)
        {
            Reset();
            return;
        }
        _registers[register] = register == Control ? (ushort)(value & ~RestartNegotiation) : value;
    }

    public ushort[] Save() => [.. _registers];

    public void Restore(ReadOnlySpan<ushort> state) => state[..Registers].CopyTo(_registers);
}
