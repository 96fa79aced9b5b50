using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>What the host knows of a file: struct statx of linux/stat.h, as far as it is used.</summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
public struct HostFileStatus
{
    /// <summary>Bytes that are best transferred at a time.</summary>
    [FieldOffset(4)] public uint BlockSize;
    /// <summary>Names that it has.</summary>
    [FieldOffset(16)] public uint Links;
    /// <summary>Number of the user.</summary>
    [FieldOffset(20)] public uint Owner;
    /// <summary>Number of the group.</summary>
    [FieldOffset(24)] public uint Group;
    /// <summary>Kind and permissions: inode(7).</summary>
    [FieldOffset(28)] public ushort Mode;
    /// <summary>Its number in its file system.</summary>
    [FieldOffset(32)] public ulong Inode;
    /// <summary>Bytes.</summary>
    [FieldOffset(40)] public ulong Size;
    /// <summary>Units of 512 bytes that it takes.</summary>
    [FieldOffset(48)] public ulong Blocks;
    /// <summary>When it was read.</summary>
    [FieldOffset(64)] public HostFileTime Accessed;
    /// <summary>When it was made; zero where the file system does not know.</summary>
    [FieldOffset(80)] public HostFileTime Born;
    /// <summary>When its status was changed.</summary>
    [FieldOffset(96)] public HostFileTime Changed;
    /// <summary>When its contents were changed.</summary>
    [FieldOffset(112)] public HostFileTime Modified;
    /// <summary>Of a device node: what it stands for.</summary>
    [FieldOffset(128)] public uint NodeMajor;
    /// <summary>See <see cref="NodeMajor"/>.</summary>
    [FieldOffset(132)] public uint NodeMinor;
    /// <summary>What the file system is on.</summary>
    [FieldOffset(136)] public uint DeviceMajor;
    /// <summary>See <see cref="DeviceMajor"/>.</summary>
    [FieldOffset(140)] public uint DeviceMinor;
}

/// <summary>A time of a file, from the beginning of 1970 on, UTC.</summary>
[StructLayout(LayoutKind.Sequential, Size = 16)]
public record struct HostFileTime
{
    /// <summary>Whole seconds; may be negative.</summary>
    public long Seconds;
    /// <summary>0 to 999,999,999, or <see cref="Now"/> or <see cref="Keep"/> where a time is set.</summary>
    public uint Nanoseconds;

    /// <summary>In <see cref="Nanoseconds"/>: the present time, and the time that it has (utimensat(2)).</summary>
    public const uint Now = 0x3FFF_FFFF, Keep = 0x3FFF_FFFE;
}
