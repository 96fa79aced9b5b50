using Bunraku.Engines;

namespace Bunraku.Machine.Interrupts;

/// <summary>What a message does at its destination; the encoding of ICR, LVT, redirection entry and MSI data.</summary>
/// <remarks>Intel SDM vol. 3A, "Interrupt Command Register (ICR)" and "Local Vector Table".</remarks>
internal enum DeliveryMode
{
    Fixed = 0,
    LowestPriority = 1,
    Smi = 2,
    Reserved = 3,
    Nmi = 4,
    Init = 5,
    StartUp = 6,
    ExtInt = 7,
}

/// <summary>One message on the way to the local APICs.</summary>
/// <param name="Vector">0 to 255; for <see cref="DeliveryMode.StartUp"/> the number of the start page.</param>
/// <param name="IsLogical">Destination mode: logical, else physical.</param>
/// <param name="IsLevel">Level-triggered: EOI is broadcast to the I/O APICs.</param>
/// <param name="Destination">8 bits, or 32 when <paramref name="IsWide"/>.</param>
/// <param name="IsWide">Sent in x2APIC format.</param>
internal readonly record struct InterruptMessage(byte Vector, DeliveryMode Mode, bool IsLogical, bool IsLevel, uint Destination, bool IsWide)
{
    /// <summary>The destination means every processor, in either destination mode.</summary>
    public bool IsBroadcast => Destination == (IsWide ? uint.MaxValue : 0xFF);

    /// <summary>Decodes a message-signalled interrupt.</summary>
    /// <param name="address">FEExxxxxh: destination 19:12, redirection hint 3, destination mode 2.</param>
    /// <param name="data">Vector 7:0, delivery mode 10:8, level 14, trigger mode 15.</param>
    /// <remarks>Intel SDM vol. 3A, "Message Signalled Interrupts".</remarks>
    public static InterruptMessage FromMsi(ulong address, uint data) =>
        new((byte)data, (DeliveryMode)(data >> 8 & 7), IsLogical: (address & 4) != 0, IsLevel: (data & 0x8000) != 0, (byte)(address >> 12), IsWide: false);

    /// <summary>The same message-signalled; for destinations of 8 bits.</summary>
    public MsiMessage ToMsi() =>
        new(0xFEE0_0000 | (ulong)(byte)Destination << 12 | (IsLogical ? 4u : 0), Vector | (uint)Mode << 8 | 1 << 14 | (IsLevel ? 0x8000u : 0));
}
