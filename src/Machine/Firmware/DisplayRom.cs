namespace Bunraku.Machine.Firmware;

/// <summary>The option ROM of the display: a BIOS's services for it.</summary>
public static class DisplayRom
{
    private const string Path = "/usr/share/seabios/vgabios-stdvga.bin";
    private const int Largest = 1 << 20;

    /// <summary>Reads it from where its Debian package puts it.</summary>
    /// <param name="isNeeded">False: the machine does without where it is missing.</param>
    /// <exception cref="BootException">It is missing.</exception>
    public static byte[]? Read(bool isNeeded)
    {
        if (File.Exists(Path)) return BootFile.Read(Path, "option ROM of the display", Largest);
        return isNeeded ? throw new BootException($"the display: {Path} is missing (install the Debian package seabios)") : null;
    }
}
