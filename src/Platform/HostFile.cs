namespace Bunraku.Platform;

/// <summary>What .NET does not tell about a file.</summary>
public static unsafe class HostFile
{
    private const ushort TypeMask = 0xF000, CharacterDevice = 0x2000, BlockDevice = 0x6000;

    /// <summary>The path leads to a character or block device. False when there is no such file.</summary>
    /// <remarks>Linux manual page statx(2); asked without opening, for opening some devices waits or does something.</remarks>
    public static bool IsDevice(string path)
    {
        Libc.FileStatus status;
        return Libc.Statx(Libc.CurrentFolder, path, 0, Libc.StatxType, &status) == 0 && (status.Mode & TypeMask) is CharacterDevice or BlockDevice;
    }
}
