using System.Buffers.Binary;

namespace Bunraku.Machine;

/// <summary>The setup header of a Linux bzImage, checked against the file.</summary>
/// <remarks>
/// Linux kernel documentation, "The Linux/x86 Boot Protocol", sections "The Real-Mode Kernel Header" and "Details of Header Fields". Offsets are those of the
/// file and of boot_params alike.
/// </remarks>
internal sealed record BzImageHeader
{
    public const int SetupSects = 0x1F1, SysSize = 0x1F4, BootFlag = 0x1FE, Jump = 0x200, Magic = 0x202, VersionField = 0x206, TypeOfLoader = 0x210,
        LoadFlags = 0x211,
        Code32Start = 0x214, RamdiskImage = 0x218, RamdiskSize = 0x21C, HeapEndPointer = 0x224, CommandLinePointer = 0x228, InitrdAddressMaximum = 0x22C,
        KernelAlignment = 0x230, Relocatable = 0x234, XLoadFlags = 0x236, CommandLineSize = 0x238, PreferredAddress = 0x258, InitSize = 0x260;

    private const uint HdrS = 0x5372_6448;
    private const byte LoadedHigh = 1;
    private const ushort Kernel64 = 1, CanBeAbove4G = 2;
    private const int SectorSize = 512;
    private const uint DefaultLoadAddress = 0x10_0000;

    /// <summary>Protocol version, major in bits 15:8.</summary>
    public required ushort Version { get; init; }
    /// <summary>One past the last byte of the header, as an offset in file and boot_params.</summary>
    public required int HeaderEnd { get; init; }
    /// <summary>Offset of the protected-mode kernel in the file.</summary>
    public required int CodeOffset { get; init; }
    /// <summary>Where the protected-mode kernel is loaded, 1 MiB or above.</summary>
    public required ulong LoadAddress { get; init; }
    /// <summary>Bytes from <see cref="LoadAddress"/> on that the kernel uses before it reads the memory map.</summary>
    public required ulong MemorySize { get; init; }
    /// <summary>One past the last address where an initrd may lie.</summary>
    public required ulong InitrdLimit { get; init; }
    /// <summary>Longest command line in bytes, without the terminating 0.</summary>
    public required uint CommandLineMaximum { get; init; }
    /// <summary>Has the 64-bit entry point at offset 0x200.</summary>
    public required bool Has64BitEntry { get; init; }

    public static bool HasMagic(ReadOnlySpan<byte> file) =>
        file.Length >= VersionField + 2 && BinaryPrimitives.ReadUInt32LittleEndian(file[Magic..]) == HdrS
            && BinaryPrimitives.ReadUInt16LittleEndian(file[BootFlag..]) == 0xAA55;

    /// <exception cref="BootException">Truncated, contradictory, or a protocol older than 2.02 (kernel 2.4.0).</exception>
    public static BzImageHeader Parse(ReadOnlySpan<byte> file, string name)
    {
        ushort version = BinaryPrimitives.ReadUInt16LittleEndian(file[VersionField..]);
        if (version < 0x202)
            throw new BootException($"{name}: a Linux kernel with boot protocol {version >> 8}.{version & 0xFF:d2}; 2.02 (kernel 2.4.0) is the oldest "
                + "that can be booted");
        int headerEnd = Magic + file[Jump + 1];
        // Each version appended fields; a header that ends before the fields of its version lies.
        int least =
            version switch
            {
                >= 0x20A => InitSize + 4,
                >= 0x206 => CommandLineSize + 4,
                >= 0x205 => Relocatable + 1,
                >= 0x203 => InitrdAddressMaximum + 4,
                _ => CommandLinePointer + 4
            };
        if (headerEnd < least)
            throw new BootException($"{name}: malformed Linux kernel: its header ends at 0x{headerEnd:x}, boot protocol "
                + $"{version >> 8}.{version & 0xFF:d2} needs 0x{least:x}");
        int setupSectors = file[SetupSects] == 0 ? 4 : file[SetupSects];
        int codeOffset = (setupSectors + 1) * SectorSize;
        if (file.Length < headerEnd || file.Length <= codeOffset)
            throw new BootException($"{name}: truncated Linux kernel: {file.Length} bytes, the setup code alone has {codeOffset}");
        if ((file[LoadFlags] & LoadedHigh) == 0) throw new BootException($"{name}: a Linux zImage that loads below 1 MiB; only bzImage can be booted");

        uint paragraphs = version >= 0x204 ? BinaryPrimitives.ReadUInt32LittleEndian(file[SysSize..])
            : BinaryPrimitives.ReadUInt16LittleEndian(file[SysSize..]);
        ulong stated = (ulong)codeOffset + (ulong)paragraphs * 16;
        // The field counts paragraphs of 16 bytes; the last one may be begun only.
        if (version >= 0x204 && (ulong)file.Length + 15 < stated) throw new BootException($"{name}: truncated Linux kernel: {file.Length} bytes of {stated}");

        ushort xloadflags = version >= 0x20C ? BinaryPrimitives.ReadUInt16LittleEndian(file[XLoadFlags..]) : (ushort)0;
        bool has64 = (xloadflags & Kernel64) != 0;
        ulong codeSize = (ulong)(file.Length - codeOffset);
        if (has64 && codeSize <= BzImageLoader.Entry64Offset) throw new BootException($"{name}: truncated Linux kernel: no code at its 64-bit entry point");

        // From 2.10 on a kernel names the address at which it runs without moving itself, and how much memory it needs there.
        ulong load = DefaultLoadAddress, size = codeSize;
        if (version >= 0x20A)
        {
            load = BinaryPrimitives.ReadUInt64LittleEndian(file[PreferredAddress..]);
            size = Math.Max(size, BinaryPrimitives.ReadUInt32LittleEndian(file[InitSize..]));
            if (load is < DefaultLoadAddress or >= BootMemory.FourGiB || (load & 0xFFF) != 0)
                throw new BootException($"{name}: malformed Linux kernel: preferred load address 0x{load:x}");
        }
        bool above4G = (xloadflags & CanBeAbove4G) != 0;
        return new()
        {
            Version = version,
            HeaderEnd = headerEnd,
            CodeOffset = codeOffset,
            LoadAddress = load,
            MemorySize = size,
            Has64BitEntry = has64,
            // Boot page tables reach to 4 GiB at least; kernels before 2.03 know only the direct mapping of a 32-bit kernel.
            InitrdLimit = above4G ? BootMemory.FourGiB : version >= 0x203 ? BinaryPrimitives.ReadUInt32LittleEndian(file[InitrdAddressMaximum..]) + 1ul
                : 0x3800_0000,
            CommandLineMaximum = version >= 0x206 ? BinaryPrimitives.ReadUInt32LittleEndian(file[CommandLineSize..]) : 255,
        };
    }
}
