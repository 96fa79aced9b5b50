namespace Bunraku.Machine.Interrupts;

/// <summary>
/// Registers of a local APIC. The value is bits 11:4 of the offset in the xAPIC page and the distance of the x2APIC MSR from 800h.
/// </summary>
/// <remarks>Intel SDM vol. 3A, "Local APIC Register Address Map" and "x2APIC Register Address Space".</remarks>
internal enum LocalApicRegister
{
    Id = 0x02,
    Version = 0x03,
    TaskPriority = 0x08,
    ArbitrationPriority = 0x09, // xAPIC only
    ProcessorPriority = 0x0A,
    EndOfInterrupt = 0x0B,
    RemoteRead = 0x0C, // xAPIC only
    LogicalDestination = 0x0D,
    DestinationFormat = 0x0E, // xAPIC only
    SpuriousVector = 0x0F,
    InService = 0x10, // eight words
    TriggerMode = 0x18, // eight words
    InterruptRequest = 0x20, // eight words
    ErrorStatus = 0x28,
    InterruptCommand = 0x30,
    InterruptCommandHigh = 0x31, // xAPIC only
    LvtTimer = 0x32,
    LvtThermal = 0x33,
    LvtPerformance = 0x34,
    LvtLint0 = 0x35,
    LvtLint1 = 0x36,
    LvtError = 0x37,
    InitialCount = 0x38,
    CurrentCount = 0x39,
    DivideConfiguration = 0x3E,
    SelfIpi = 0x3F, // x2APIC only
}

/// <summary>States of a local APIC as IA32_APIC_BASE selects them.</summary>
/// <remarks>Intel SDM vol. 3A, "Local APIC State Transitions with IA32_APIC_BASE, x2APIC".</remarks>
internal enum LocalApicMode
{
    Disabled,
    XApic,
    X2Apic,
}

/// <summary>Timer mode, bits 18:17 of the timer's LVT entry.</summary>
internal enum ApicTimerMode
{
    OneShot = 0,
    Periodic = 1,
    TscDeadline = 2,
    Reserved = 3,
}

/// <summary>Bits of the error status register.</summary>
/// <remarks>Intel SDM vol. 3A, "Error Handling".</remarks>
[Flags]
internal enum ApicErrors : uint
{
    None = 0,
    SendIllegalVector = 1 << 5,
    ReceivedIllegalVector = 1 << 6,
    IllegalRegisterAddress = 1 << 7,
}

/// <summary>An entry of the local vector table.</summary>
/// <remarks>Intel SDM vol. 3A, figure "Local Vector Table (LVT)".</remarks>
internal readonly record struct LvtEntry(uint Value)
{
    public const uint VectorBits = 0xFF, ModeBits = 7 << 8, DeliveryStatus = 1 << 12, Polarity = 1 << 13, RemoteIrrBit = 1 << 14,
        Trigger = 1 << 15, MaskBit = 1 << 16, TimerModeBits = 3 << 17;

    public byte Vector => (byte)Value;
    public DeliveryMode Mode => (DeliveryMode)(Value >> 8 & 7);
    public bool RemoteIrr => (Value & RemoteIrrBit) != 0;
    public bool IsLevel => (Value & Trigger) != 0;
    public bool IsMasked => (Value & MaskBit) != 0;
    public ApicTimerMode TimerMode => (ApicTimerMode)(Value >> 17 & 3);
}

/// <summary>Low half of the interrupt command register.</summary>
/// <remarks>Intel SDM vol. 3A, figures "Interrupt Command Register (ICR)" and "… in x2APIC Mode".</remarks>
internal readonly record struct InterruptCommand(uint Value)
{
    /// <summary>Bits that software may set in xAPIC mode; the delivery status is always idle here.</summary>
    public const uint Writable = 0x000C_CFFF;

    public byte Vector => (byte)Value;
    public DeliveryMode Mode => (DeliveryMode)(Value >> 8 & 7);
    public bool IsLogical => (Value & 1 << 11) != 0;
    public bool IsAssert => (Value & 1 << 14) != 0;
    public bool IsLevel => (Value & 1 << 15) != 0;
    public DestinationShorthand Shorthand => (DestinationShorthand)(Value >> 18 & 3);
}

/// <summary>Destination shorthand, bits 19:18 of the ICR.</summary>
internal enum DestinationShorthand
{
    None = 0,
    Self = 1,
    AllIncludingSelf = 2,
    AllExcludingSelf = 3,
}
