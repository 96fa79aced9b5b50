namespace Bunraku.Machine;

/// <summary>Selector keys of fw_cfg: QEMU docs/specs/fw_cfg.rst and include/standard-headers/linux/qemu_fw_cfg.h.</summary>
public enum FwCfgKey : ushort
{
    Signature = 0x00,
    Id = 0x01,
    Uuid = 0x02,
    /// <summary>Bytes of RAM, 64 bits.</summary>
    RamSize = 0x03,
    NoGraphic = 0x04,
    /// <summary>Processors that run, 16 bits.</summary>
    CpuCount = 0x05,
    KernelAddress = 0x07,
    KernelSize = 0x08,
    InitrdAddress = 0x0A,
    InitrdSize = 0x0B,
    BootDevice = 0x0C,
    Numa = 0x0D,
    BootMenu = 0x0E,
    /// <summary>Processors that there can be, 16 bits.</summary>
    MaximumCpuCount = 0x0F,
    KernelEntry = 0x10,
    KernelData = 0x11,
    InitrdData = 0x12,
    CommandLineAddress = 0x13,
    CommandLineSize = 0x14,
    CommandLineData = 0x15,
    SetupAddress = 0x16,
    SetupSize = 0x17,
    SetupData = 0x18,
    FileDirectory = 0x19,
    FirstFile = 0x20,
}
