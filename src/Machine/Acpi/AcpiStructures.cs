using System.Runtime.InteropServices;

namespace Bunraku.Machine.Acpi;

// The layouts of the ACPI Specification 6.3, chapter 5 "ACPI Software Programming Model". Fields that this machine leaves 0 are
// gathered in reserved stretches only where the specification does so too.

/// <summary>Root System Description Pointer, section 5.2.5.3. 36 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal unsafe struct Rsdp
{
    public fixed byte Signature[8];
    /// <summary>Makes the first 20 bytes sum to 0.</summary>
    public byte Checksum;
    public fixed byte OemId[6];
    public byte Revision;
    public uint RsdtAddress;
    public uint Length;
    public ulong XsdtAddress;
    /// <summary>Makes all bytes sum to 0.</summary>
    public byte ExtendedChecksum;
    public fixed byte Reserved[3];

    public const int FirstPart = 20;
}

/// <summary>System Description Table Header, section 5.2.6. 36 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal unsafe struct TableHeader
{
    public fixed byte Signature[4];
    public uint Length;
    public byte Revision;
    public byte Checksum;
    public fixed byte OemId[6];
    public fixed byte OemTableId[8];
    public uint OemRevision;
    public fixed byte CreatorId[4];
    public uint CreatorRevision;
}

/// <summary>Generic Address Structure, section 5.2.3.2. 12 bytes.</summary>
/// <param name="AddressSpace">0 memory, 1 system I/O.</param>
/// <param name="AccessSize">1 byte, 2 word, 3 double word; 0 undefined.</param>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct GenericAddress(byte AddressSpace, byte BitWidth, byte BitOffset, byte AccessSize, ulong Address)
{
    public static GenericAddress Memory(ulong address, byte bytes) => new(0, (byte)(8 * bytes), 0, 0, address);

    public static GenericAddress Port(ushort port, byte bytes) => new(1, (byte)(8 * bytes), 0, (byte)(bytes == 4 ? 3 : bytes), port);
}

/// <summary>Feature flags of the FADT, section 5.2.9, table "Fixed ACPI Description Table Fixed Feature Flags".</summary>
[Flags]
internal enum FadtFlags : uint
{
    Wbinvd = 1 << 0,
    ProcC1 = 1 << 2,
    /// <summary>There is no sleep button among the fixed features.</summary>
    NoFixedSleepButton = 1 << 5,
    /// <summary>The PM timer has 32 bits.</summary>
    TimerExtended = 1 << 8,
    ResetRegister = 1 << 10,
}

/// <summary>IA-PC boot architecture flags, section 5.2.9.3.</summary>
[Flags]
internal enum BootArchitecture : ushort
{
    LegacyDevices = 1 << 0,
    I8042 = 1 << 1,
    NoVga = 1 << 2,
    NoPcieAspm = 1 << 4,
}

/// <summary>Fixed ACPI Description Table, section 5.2.9. 276 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct Fadt
{
    public TableHeader Header;
    public uint FirmwareControl;
    public uint Dsdt;
    public byte Reserved0;
    public byte PreferredPmProfile;
    public ushort SciInterrupt;
    public uint SmiCommand;
    public byte AcpiEnable;
    public byte AcpiDisable;
    public byte S4BiosRequest;
    public byte PstateControl;
    public uint Pm1aEventBlock;
    public uint Pm1bEventBlock;
    public uint Pm1aControlBlock;
    public uint Pm1bControlBlock;
    public uint Pm2ControlBlock;
    public uint PmTimerBlock;
    public uint Gpe0Block;
    public uint Gpe1Block;
    public byte Pm1EventLength;
    public byte Pm1ControlLength;
    public byte Pm2ControlLength;
    public byte PmTimerLength;
    public byte Gpe0BlockLength;
    public byte Gpe1BlockLength;
    public byte Gpe1Base;
    public byte CstControl;
    public ushort C2Latency;
    public ushort C3Latency;
    public ushort FlushSize;
    public ushort FlushStride;
    public byte DutyOffset;
    public byte DutyWidth;
    public byte DayAlarm;
    public byte MonthAlarm;
    public byte Century;
    public BootArchitecture BootArchitecture;
    public byte Reserved1;
    public FadtFlags Flags;
    public GenericAddress ResetRegister;
    public byte ResetValue;
    public ushort ArmBootArchitecture;
    public byte MinorVersion;
    public ulong XFirmwareControl;
    public ulong XDsdt;
    public GenericAddress XPm1aEventBlock;
    public GenericAddress XPm1bEventBlock;
    public GenericAddress XPm1aControlBlock;
    public GenericAddress XPm1bControlBlock;
    public GenericAddress XPm2ControlBlock;
    public GenericAddress XPmTimerBlock;
    public GenericAddress XGpe0Block;
    public GenericAddress XGpe1Block;
    public GenericAddress SleepControl;
    public GenericAddress SleepStatus;
    public ulong HypervisorVendor;
}

/// <summary>Firmware ACPI Control Structure, section 5.2.10. 64 bytes, aligned to 64.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal unsafe struct Facs
{
    public fixed byte Signature[4];
    public uint Length;
    public uint HardwareSignature;
    public uint WakingVector;
    public uint GlobalLock;
    public uint Flags;
    public ulong XWakingVector;
    public byte Version;
    public fixed byte Reserved0[3];
    public uint OspmFlags;
    public fixed byte Reserved1[24];

    public const int Alignment = 64;
}

/// <summary>Multiple APIC Description Table up to its entries, section 5.2.12.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct Madt
{
    public TableHeader Header;
    public uint LocalApicAddress;
    /// <summary>Bit 0: the machine also has the two 8259As.</summary>
    public uint Flags;
}

/// <summary>HPET Description Table: IA-PC HPET Specification 1.0a, section 3.2.4 "The ACPI 2.0 HPET Description Table". 56 bytes.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal struct HpetTable
{
    public TableHeader Header;
    /// <summary>Lower half of the capability register.</summary>
    public uint BlockId;
    public GenericAddress Address;
    public byte Number;
    /// <summary>Ticks of the shortest period that loses no interrupt.</summary>
    public ushort MinimumTick;
    public byte PageProtection;
}

/// <summary>Type and length that begin each MADT entry.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtEntry(byte Type, byte Length);

/// <summary>Processor local APIC, section 5.2.12.2.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtLocalApic(MadtEntry Entry, byte ProcessorUid, byte ApicId, uint Flags);

/// <summary>Processor local x2APIC, section 5.2.12.12.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtLocalX2Apic(MadtEntry Entry, ushort Reserved, uint ApicId, uint Flags, uint ProcessorUid);

/// <summary>I/O APIC, section 5.2.12.3.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtIoApic(MadtEntry Entry, byte Id, byte Reserved, uint Address, uint FirstGsi);

/// <summary>Interrupt source override, section 5.2.12.5. Flags: polarity 1:0, trigger mode 3:2.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtSourceOverride(MadtEntry Entry, byte Bus, byte Source, uint Gsi, ushort Flags);

/// <summary>Local APIC NMI, section 5.2.12.7.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtLocalApicNmi(MadtEntry Entry, byte ProcessorUid, ushort Flags, byte Lint);

/// <summary>Local x2APIC NMI, section 5.2.12.13.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal readonly record struct MadtLocalX2ApicNmi(MadtEntry Entry, ushort Flags, uint ProcessorUid, byte Lint, byte Reserved0, ushort Reserved1);
