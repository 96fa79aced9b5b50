namespace Bunraku.Machine;

/// <summary>Selector keys of fw_cfg: QEMU docs/specs/fw_cfg.rst and include/standard-headers/linux/qemu_fw_cfg.h.</summary>
public enum FwCfgKey : ushort
{
    /// <summary>The text QEMU, four bytes.</summary>
    Signature = 0x00,
    /// <summary>Bits of what the interface can do, 32 bits: 0 the traditional ports, 1 DMA.</summary>
    Id = 0x01,
    /// <summary>UUID of the machine, 16 bytes.</summary>
    Uuid = 0x02,
    /// <summary>Bytes of RAM, 64 bits.</summary>
    RamSize = 0x03,
    /// <summary>Whether the machine has no display, 16 bits.</summary>
    NoGraphic = 0x04,
    /// <summary>Processors that run, 16 bits.</summary>
    CpuCount = 0x05,
    /// <summary>Guest-physical address for the kernel, 32 bits.</summary>
    KernelAddress = 0x07,
    /// <summary>Bytes of the kernel, 32 bits.</summary>
    KernelSize = 0x08,
    /// <summary>Guest-physical address for the initial RAM disk, 32 bits.</summary>
    InitrdAddress = 0x0A,
    /// <summary>Bytes of the initial RAM disk, 32 bits.</summary>
    InitrdSize = 0x0B,
    /// <summary>The letter of the boot device, 16 bits.</summary>
    BootDevice = 0x0C,
    /// <summary>Nodes of memory and the processors in them, words of 64 bits.</summary>
    Numa = 0x0D,
    /// <summary>Whether firmware shows a menu, 16 bits.</summary>
    BootMenu = 0x0E,
    /// <summary>Processors that there can be, 16 bits.</summary>
    MaximumCpuCount = 0x0F,
    /// <summary>Guest-physical address of the kernel's entry, 32 bits.</summary>
    KernelEntry = 0x10,
    /// <summary>The kernel.</summary>
    KernelData = 0x11,
    /// <summary>The initial RAM disk.</summary>
    InitrdData = 0x12,
    /// <summary>Guest-physical address for the kernel's command line, 32 bits.</summary>
    CommandLineAddress = 0x13,
    /// <summary>Bytes of the command line with its terminating zero, 32 bits.</summary>
    CommandLineSize = 0x14,
    /// <summary>The command line with a terminating zero.</summary>
    CommandLineData = 0x15,
    /// <summary>Guest-physical address for a Linux kernel's real-mode part, 32 bits.</summary>
    SetupAddress = 0x16,
    /// <summary>Bytes of that part, 32 bits.</summary>
    SetupSize = 0x17,
    /// <summary>That part.</summary>
    SetupData = 0x18,
    /// <summary>The directory of named items.</summary>
    FileDirectory = 0x19,
    /// <summary>The first key of a named item.</summary>
    FirstFile = 0x20,
}
