namespace Bunraku.Machine.Virtio;

/// <summary>Device types: Virtual I/O Device (VIRTIO) Version 1.3, chapter 5 "Device Types".</summary>
public enum VirtioType : ushort
{
    /// <summary>Section 5.1.</summary>
    Network = 1,
    /// <summary>Section 5.2.</summary>
    Block = 2,
    /// <summary>Section 5.3.</summary>
    Console = 3,
    /// <summary>Section 5.4.</summary>
    Entropy = 4,
    /// <summary>Section 5.5.</summary>
    Balloon = 5,
    /// <summary>The 9P transport, which has a number alone.</summary>
    NineP = 9,
    /// <summary>Section 5.8.</summary>
    Input = 18,
    /// <summary>Section 5.10.</summary>
    Socket = 19,
    /// <summary>Section 5.11.</summary>
    FileSystem = 26,
}

/// <summary>Device status: section 2.1 "Device Status Field".</summary>
[Flags]
internal enum VirtioStatus : byte
{
    /// <summary>The guest has seen the device.</summary>
    Acknowledge = 1,
    /// <summary>It has a driver for it.</summary>
    Driver = 2,
    /// <summary>The driver is ready: queues may be used.</summary>
    DriverOk = 4,
    /// <summary>Both agree on the features.</summary>
    FeaturesOk = 8,
    /// <summary>The device met something from which only a reset helps.</summary>
    NeedsReset = 64,
    /// <summary>The driver has given up.</summary>
    Failed = 128,
}

/// <summary>Features that do not depend on the kind of device: section 6 "Reserved Feature Bits".</summary>
[Flags]
public enum VirtioFeatures : ulong
{
    /// <summary>Descriptors may lie in a table of their own.</summary>
    IndirectDescriptors = 1ul << 28,
    /// <summary>Both sides say behind which entry they want to be told.</summary>
    EventIndex = 1ul << 29,
    /// <summary>Not a legacy device. Required.</summary>
    Version1 = 1ul << 32,
    /// <summary>Queues have the packed layout.</summary>
    RingPacked = 1ul << 34,
    /// <summary>Buffers come back in the order in which they were made available.</summary>
    InOrder = 1ul << 35,
    /// <summary>A queue can be reset by itself.</summary>
    RingReset = 1ul << 40,
}

/// <summary>Descriptor flags of both layouts: sections 2.7.5 and 2.8.</summary>
[Flags]
internal enum DescriptorFlags : ushort
{
    Next = 1,
    /// <summary>The device writes it.</summary>
    Write = 2,
    /// <summary>It names a table of descriptors.</summary>
    Indirect = 4,
    /// <summary>Packed: equals the driver's wrap counter when the descriptor is available.</summary>
    Available = 1 << 7,
    /// <summary>Packed: equals the device's wrap counter when it is used.</summary>
    Used = 1 << 15,
}
