namespace Bunraku.Machine.Firmware;

/// <summary>The contents of the ROM that ends at 4 GiB, where the processor begins after a reset.</summary>
/// <param name="Name">As the user named it.</param>
/// <param name="Bytes">A multiple of 4096, from <see cref="Smallest"/> to <see cref="Largest"/>.</param>
public sealed record FirmwareImage(string Name, byte[] Bytes)
{
    /// <summary>A PC shows the last 64 KiB below 1 MiB as well.</summary>
    public const int Smallest = 64 << 10;

    /// <summary>What lies between the local APICs and 4 GiB.</summary>
    public const int Largest = 16 << 20;

    /// <summary>Bytes with which the ROM begins and that are a flash memory for the firmware's variables, a multiple of 4096; 0: there is none.</summary>
    public int FlashLength { get; init; }

    /// <summary>A BIOS.</summary>
    public const string SeaBios = "seabios";

    /// <summary>UEFI.</summary>
    public const string Ovmf = "ovmf";

    /// <summary>Firmware that a name stands for: the name, where its Debian package puts it and its variables as they are at first, and the package.</summary>
    private static readonly (string Name, string Path, string? Variables, string Package)[] s_known =
    [
        (SeaBios, "/usr/share/seabios/bios-256k.bin", null, "seabios"),
        (Ovmf, "/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd", "ovmf"),
    ];

    /// <summary>Names that <see cref="Read"/> takes beside paths of files.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. s_known.Select(k => k.Name)];

    /// <summary>Whether a firmware of this name keeps variables in a flash memory.</summary>
    public static bool HasVariables(string nameOrPath) => Array.Exists(s_known, k => k.Name == nameOrPath && k.Variables is not null);

    /// <summary>The name of the firmware with variables whose code a file is; null: of none.</summary>
    public static string? NameOfCode(string path) => Array.Find(s_known, k => k.Variables is not null && k.Path == Path.GetFullPath(path)).Name;

    /// <summary>Reads firmware by its name, or a file.</summary>
    /// <exception cref="BootException">It is missing, or cannot be a PC's ROM.</exception>
    public static FirmwareImage Read(string nameOrPath)
    {
        (string? name, string path, string? variables, string package) = Array.Find(s_known, k => k.Name == nameOrPath);
        foreach (string file in name is null ? [] : variables is null ? (string[])[path] : [path, variables])
        {
            if (!File.Exists(file))
                throw new BootException($"firmware {name}: {file} is missing (install the Debian package {package}, or name a file)");
        }
        byte[] bytes = BootFile.Read(name is null ? nameOrPath : path, "firmware", Largest);
        if (variables is not null)
        {
            byte[] flash = BootFile.Read(variables, "firmware's variables", Largest);
            if (flash.Length % Flash.BlockSize != 0 || bytes.Length % Flash.BlockSize != 0 || flash.Length + bytes.Length > Largest)
                throw new BootException($"firmware {name}: {path} and {variables} do not make a ROM");
            return new FirmwareImage(nameOrPath, [.. flash, .. bytes]) { FlashLength = flash.Length };
        }
        if (bytes.Length < Smallest || bytes.Length % (4 << 10) != 0)
        {
            throw new BootException($"firmware {nameOrPath}: {bytes.Length} bytes are no PC's ROM, which has a whole number of 4 KiB pages and at least "
                + $"{Smallest >> 10} KiB");
        }
        return new FirmwareImage(nameOrPath, bytes);
    }
}
