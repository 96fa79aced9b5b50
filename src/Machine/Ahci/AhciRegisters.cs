namespace Bunraku.Machine.Ahci;

// Serial ATA Advanced Host Controller Interface (AHCI) 1.3.1, chapter 3 "HBA Memory Registers" and 4 "System Memory Structures".

/// <summary>Generic host control, offsets in bytes: section 3.1.</summary>
internal static class HbaRegister
{
    public const int Capabilities = 0x00, GlobalControl = 0x04, InterruptStatus = 0x08, PortsImplemented = 0x0C, Version = 0x10, Capabilities2 = 0x24,
        FirstPort = 0x100, PortLength = 0x80, Length = 0x1000;

    public const uint Version131 = 0x0001_0301;
}

/// <summary>CAP, section 3.1.1; the number of ports less one is in bits 4:0, of slots less one in 12:8, the interface's speed in 23:20.</summary>
[Flags]
internal enum HbaCapabilities : uint
{
    PartialState = 1 << 13,
    SlumberState = 1 << 14,
    AhciOnly = 1 << 18,
    /// <summary>6 Gb/s.</summary>
    Generation3 = 3 << 20,
    CommandListOverride = 1 << 24,
    NativeCommandQueuing = 1 << 30,
    Address64 = 1u << 31,
}

/// <summary>GHC, section 3.1.2.</summary>
[Flags]
internal enum GlobalControl : uint
{
    Reset = 1 << 0,
    InterruptEnable = 1 << 1,
    AhciEnable = 1u << 31,
}

/// <summary>Offsets in a port: section 3.3.</summary>
internal static class PortRegister
{
    public const int CommandList = 0x00, CommandListHigh = 0x04, ReceivedFis = 0x08, ReceivedFisHigh = 0x0C, InterruptStatus = 0x10, InterruptEnable = 0x14,
        Command = 0x18, TaskFile = 0x20, Signature = 0x24, SataStatus = 0x28, SataControl = 0x2C, SataError = 0x30, SataActive = 0x34, CommandIssue = 0x38;
}

/// <summary>PxIS and PxIE, sections 3.3.5 and 3.3.6.</summary>
[Flags]
internal enum PortInterrupt : uint
{
    None = 0,
    /// <summary>DHRS: a D2H Register FIS came.</summary>
    DeviceToHost = 1 << 0,
    /// <summary>PSS: a PIO Setup FIS.</summary>
    PioSetup = 1 << 1,
    /// <summary>SDBS: a Set Device Bits FIS.</summary>
    SetDeviceBits = 1 << 3,
    /// <summary>DPS: a descriptor with its interrupt bit is done.</summary>
    DescriptorProcessed = 1 << 5,
    /// <summary>PCS: PxSERR.DIAG.X.</summary>
    PortConnectChange = 1 << 6,
    /// <summary>OFS: a PRD table is shorter than the data.</summary>
    Overflow = 1 << 24,
    /// <summary>HBDS: data memory cannot be accessed.</summary>
    HostBusData = 1 << 28,
    /// <summary>HBFS: a structure in memory cannot be accessed.</summary>
    HostBusFatal = 1 << 29,
    /// <summary>TFES: the device's status has its error bit set.</summary>
    TaskFileError = 1 << 30,
    Writable = DeviceToHost | PioSetup | SetDeviceBits | DescriptorProcessed | Overflow | HostBusData | HostBusFatal | TaskFileError,
    Enables = Writable | PortConnectChange | 1 << 2 | 1 << 4 | 1 << 7 | 1 << 22 | 1 << 23 | 1 << 26 | 1 << 27,
}

/// <summary>PxCMD, section 3.3.7; the slot at hand is in bits 12:8.</summary>
[Flags]
internal enum PortCommand : uint
{
    Start = 1 << 0,
    SpinUp = 1 << 1,
    PowerOn = 1 << 2,
    CommandListOverride = 1 << 3,
    FisReceiveEnable = 1 << 4,
    FisReceiveRunning = 1 << 14,
    CommandListRunning = 1 << 15,
    IsAtapi = 1 << 24,
    AtapiLed = 1 << 25,
    Writable = Start | FisReceiveEnable | IsAtapi | AtapiLed,
    Fixed = SpinUp | PowerOn,
}

/// <summary>Where the FISes of a device go: section 4.2.1.</summary>
internal static class ReceivedFis
{
    public const int PioSetup = 0x20, DeviceToHost = 0x40, SetDeviceBits = 0x58;
}

/// <summary>FIS types: Serial ATA Revision 3.2, section 10.5.</summary>
internal enum FisType : byte
{
    HostToDevice = 0x27,
    DeviceToHost = 0x34,
    PioSetup = 0x5F,
    SetDeviceBits = 0xA1,
}

/// <summary>A command header: section 4.2.2. 32 bytes.</summary>
/// <param name="Flags">CFL in bits 4:0, A 5, W 6, C 10; PRDTL in bits 31:16.</param>
/// <param name="Table">Where the command table is.</param>
internal readonly record struct CommandHeader(uint Flags, ulong Table)
{
    public const int Size = 32, ByteCountOffset = 4, TableOffset = 8;
    private const uint Atapi = 1 << 5, ClearBusy = 1 << 10;

    public bool IsAtapi => (Flags & Atapi) != 0;

    /// <summary>The device answers with nothing but R_OK: half of a software reset.</summary>
    public bool ClearsBusy => (Flags & ClearBusy) != 0;

    public int Descriptors => (int)(Flags >> 16);
}

/// <summary>A command table: section 4.2.3.</summary>
internal static class CommandTable
{
    public const int FisLength = 20, PacketOffset = 0x40, PacketLength = 16, DescriptorsOffset = 0x80, DescriptorSize = 16;
    public const uint ByteCountMask = 0x3F_FFFF, InterruptOnCompletion = 1u << 31;
}
