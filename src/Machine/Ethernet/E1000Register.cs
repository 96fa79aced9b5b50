namespace Bunraku.Machine.Ethernet;

/// <summary>
/// Offsets of registers that do something here: Intel, "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual" (317453, revision 4.0),
/// section 13.3 "Main Register Descriptions". Statistics are cleared when they are read: section 13.7.
/// </summary>
internal static class E1000Register
{
    public const int DeviceControl = 0x0000, DeviceStatus = 0x0008, EepromControl = 0x0010, EepromRead = 0x0014, ExtendedControl = 0x0018,
        PhyControl = 0x0020, FlowControlLow = 0x0028, FlowControlHigh = 0x002C, FlowControlType = 0x0030, VlanType = 0x0038,
        Causes = 0x00C0, Throttling = 0x00C4, CausesSet = 0x00C8, MaskSet = 0x00D0, MaskClear = 0x00D8,
        ReceiveControl = 0x0100, FlowControlTimer = 0x0170, TransmitControl = 0x0400, TransmitGap = 0x0410, AdaptiveSpacing = 0x0458, Leds = 0x0E00,
        PacketBuffer = 0x1000, FlowThresholdLow = 0x2160, FlowThresholdHigh = 0x2168,
        ReceiveBaseLow = 0x2800, ReceiveBaseHigh = 0x2804, ReceiveLength = 0x2808, ReceiveHead = 0x2810, ReceiveTail = 0x2818, ReceiveDelay = 0x2820,
        ReceiveDescriptorControl = 0x2828, ReceiveAbsoluteDelay = 0x282C,
        TransmitBaseLow = 0x3800, TransmitBaseHigh = 0x3804, TransmitLength = 0x3808, TransmitHead = 0x3810, TransmitTail = 0x3818, TransmitDelay = 0x3820,
        TransmitDescriptorControl = 0x3828, TransmitAbsoluteDelay = 0x382C, SegmentationPad = 0x3830,
        MissedPackets = 0x4010, GoodReceived = 0x4074, BroadcastReceived = 0x4078, MulticastReceived = 0x407C, GoodSent = 0x4080,
        OctetsReceived = 0x4088, OctetsSent = 0x4090, Oversized = 0x40AC, TotalOctetsReceived = 0x40C0, TotalOctetsSent = 0x40C8, TotalReceived = 0x40D0,
        TotalSent = 0x40D4, FirstStatistic = 0x4000, LastStatistic = 0x40FC,
        ReceiveChecksum = 0x5000, MulticastTable = 0x5200, ReceiveAddresses = 0x5400, VlanTable = 0x5600, WakeUpControl = 0x5800, WakeUpFilter = 0x5808,
        Management = 0x5820;

    public const int MulticastWords = 128, Addresses = 16, VlanWords = 128;

    /// <summary>Bytes of the registers that are kept, and of all.</summary>
    public const int Kept = 0x5900, Length = 0x2_0000;

    /// <summary>Registers that the driver writes and reads back, with the bits that stay.</summary>
    public static IEnumerable<(int Offset, uint Mask)> Plain =>
    [
        (ExtendedControl, 0x00FF_FFFF), (FlowControlLow, uint.MaxValue), (FlowControlHigh, 0xFFFF), (FlowControlType, 0xFFFF), (VlanType, 0xFFFF),
        (Throttling, 0xFFFF), (FlowControlTimer, 0xFFFF), (TransmitControl, uint.MaxValue), (TransmitGap, uint.MaxValue), (AdaptiveSpacing, 0xFFFF),
        (Leds, uint.MaxValue), (PacketBuffer, 0xFFFF), (FlowThresholdLow, uint.MaxValue), (FlowThresholdHigh, uint.MaxValue),
        (ReceiveControl, uint.MaxValue), (ReceiveBaseLow, ~15u), (ReceiveBaseHigh, uint.MaxValue), (ReceiveLength, 0xF_FF80), (ReceiveHead, 0xFFFF),
        (ReceiveTail, 0xFFFF), (ReceiveDelay, 0xFFFF), (ReceiveDescriptorControl, uint.MaxValue), (ReceiveAbsoluteDelay, 0xFFFF),
        (TransmitBaseLow, ~15u), (TransmitBaseHigh, uint.MaxValue), (TransmitLength, 0xF_FF80), (TransmitHead, 0xFFFF), (TransmitTail, 0xFFFF),
        (TransmitDelay, 0xFFFF), (TransmitDescriptorControl, uint.MaxValue), (TransmitAbsoluteDelay, 0xFFFF), (SegmentationPad, uint.MaxValue),
        (ReceiveChecksum, 0xFFFF), (WakeUpControl, 0xFFFF), (WakeUpFilter, uint.MaxValue), (Management, uint.MaxValue),
        .. Enumerable.Range(0, MulticastWords).Select(n => (MulticastTable + 4 * n, uint.MaxValue)),
        .. Enumerable.Range(0, Addresses).Select(n => (ReceiveAddresses + 8 * n, uint.MaxValue)),
        .. Enumerable.Range(0, Addresses).Select(n => (ReceiveAddresses + 8 * n + 4, 0x8003_FFFFu)),
        .. Enumerable.Range(0, VlanWords).Select(n => (VlanTable + 4 * n, uint.MaxValue)),
    ];
}

/// <summary>Device Control Register: section 13.4.1.</summary>
[Flags]
internal enum E1000Control : uint { FullDuplex = 1, SetLinkUp = 1 << 6, Reset = 1 << 26, VlanMode = 1 << 30, PhyReset = 1u << 31 }

/// <summary>Device Status Register: section 13.4.2. The link is one of 1000 Mb/s.</summary>
[Flags]
internal enum E1000Status : uint { FullDuplex = 1, LinkUp = 1 << 1, Speed1000 = 1 << 7, DetectedSpeed1000 = 1 << 9 }

/// <summary>Interrupt causes: section 13.4.17 "Interrupt Cause Read Register".</summary>
[Flags]
internal enum E1000Cause : uint
{
    TransmitWritten = 1, TransmitEmpty = 1 << 1, LinkChanged = 1 << 2, ReceiveFew = 1 << 4, ReceiveOverrun = 1 << 6, Received = 1 << 7, PhyAccess = 1 << 9,
    All = 0x1_FFFF,
}

/// <summary>Receive Control Register: section 13.4.22.</summary>
[Flags]
internal enum E1000Receive : uint
{
    Enable = 1 << 1, AllUnicast = 1 << 3, AllMulticast = 1 << 4, LongPackets = 1 << 5, Broadcast = 1 << 15, VlanFilter = 1 << 18, SizeExtension = 1 << 25,
    StripChecksum = 1 << 26,
}
