namespace Bunraku.Machine.Timers;

/// <summary>Addresses of the MC146818A (data sheet, figure 12 "Address map") and of what PC firmware keeps in its RAM.</summary>
internal static class CmosAddress
{
    public const int Seconds = 0x00, SecondsAlarm = 0x01, Minutes = 0x02, MinutesAlarm = 0x03, Hours = 0x04, HoursAlarm = 0x05;
    public const int DayOfWeek = 0x06, DayOfMonth = 0x07, Month = 0x08, Year = 0x09;
    public const int RegisterA = 0x0A, RegisterB = 0x0B, RegisterC = 0x0C, RegisterD = 0x0D;

    /// <summary>Why the firmware's start-up code runs; 0 after power-on.</summary>
    public const int ShutdownStatus = 0x0F;
    public const int Equipment = 0x14;
    /// <summary>KiB below 640 K, two bytes.</summary>
    public const int BaseMemory = 0x15;
    /// <summary>KiB above 1 MiB, two bytes, at most 65535; and its copy.</summary>
    public const int ExtendedMemory = 0x17, ExtendedMemoryCopy = 0x30;
    /// <summary>The checksum's range, and its place: high byte first.</summary>
    public const int ChecksumFirst = 0x10, ChecksumLast = 0x2D, ChecksumHigh = 0x2E, ChecksumLow = 0x2F;
    public const int Century = 0x32;
    /// <summary>64-KiB blocks above 16 MiB, two bytes, at most 65535.</summary>
    public const int MemoryAbove16M = 0x34;
    /// <summary>
    /// The order of booting for Bochs's and QEMU's firmware, a nibble each: first and second in the former, third in the latter's upper half; whose bit 0 lets
    /// it boot a diskette without a signature.
    /// </summary>
    public const int BootOrder = 0x3D, BootOrderThird = 0x38;
    /// <summary>How many processors there are beside the first.</summary>
    public const int OtherCpus = 0x5F;
    /// <summary>64-KiB blocks above 4 GiB, three bytes.</summary>
    public const int MemoryAbove4G = 0x5B;
}

/// <summary>Register A below its read-only UIP bit.</summary>
[Flags]
internal enum RtcRegisterA : byte
{
    RateSelect = 0x0F,
    Divider = 0x70,
    /// <summary>DV2 to DV0 = 010: the time base is the 32.768 kHz crystal, the only one that a PC has.</summary>
    Divider32Khz = 0x20,
    UpdateInProgress = 0x80,
}

[Flags]
internal enum RtcRegisterB : byte
{
    DaylightSaving = 1 << 0,
    Hours24 = 1 << 1,
    Binary = 1 << 2,
    SquareWave = 1 << 3,
    UpdateInterrupt = 1 << 4,
    AlarmInterrupt = 1 << 5,
    PeriodicInterrupt = 1 << 6,
    Set = 1 << 7,
}

/// <summary>Register C: the flags stand at the places of their enable bits in register B.</summary>
[Flags]
internal enum RtcRegisterC : byte
{
    UpdateEnded = 1 << 4,
    Alarm = 1 << 5,
    Periodic = 1 << 6,
    Request = 1 << 7,
    Sources = UpdateEnded | Alarm | Periodic,
}
