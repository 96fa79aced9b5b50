using Bunraku.Storage;

namespace Bunraku.Cli.CommandLine;

/// <summary>What stands behind <c>--disk</c>: a file and words about it.</summary>
internal static class DiskArgument
{
    private static readonly string[] s_names = ["format", "readonly", "serial", "snapshot", "backing", "discard", "bus", "full"];

    /// <exception cref="UsageException">It is no description of a disk.</exception>
    public static VmDisk Parse(string text)
    {
        (string path, IReadOnlyList<(string, string)> words) = WordList.Parse(text);
        if (path.StartsWith("file=", StringComparison.Ordinal)) path = path["file=".Length..];
        if (path.Length == 0) throw new UsageException("--disk needs a file");
        var image = new DiskOptions(path)
        {
            BackingAdvice = "backing=on behind --disk opens it",
            MissingAdvice = "'bunraku image create' makes an empty one",
        };
        var disk = new VmDisk(image);
        foreach ((string name, string value) in words)
        {
            switch (name)
            {
                case "format":
                    image = image with
                    {
                        Format = DiskImage.ParseFormat(value) ?? throw new UsageException(Nearest.Message("format of a disk", value, ["raw", "qcow2"]))
                    };
                    break;
                case "readonly": image = image with { ReadOnly = Quantities.IsOn("--disk", name, value) }; break;
                case "backing": image = image with { AllowBacking = Quantities.IsOn("--disk", name, value) }; break;
                case "discard": image = image with { Discard = Quantities.IsOn("--disk", name, value) }; break;
                case "bus": disk = disk with { Bus = ParseBus(value) }; break;
                case "full":
                    disk = disk with
                    {
                        StopsWhenFull = value switch
                        {
                            "pause" => true,
                            "report" => false,
                            _ => throw new UsageException(Nearest.Message("answer to a full host", value, ["pause", "report"])),
                        }
                    };
                    break;
                case "serial": disk = disk with { Serial = value }; break;
                case "snapshot": disk = disk with { Throwaway = Quantities.IsOn("--disk", name, value) }; break;
                default: throw new UsageException(Nearest.Message("word behind --disk", name, s_names));
            }
        }
        if (disk.Throwaway && image.ReadOnly) throw new UsageException($"--disk {path}: give either snapshot or readonly, not both");
        return disk with { Image = image };
    }

    private static DiskBus ParseBus(string value) => value switch
    {
        "virtio" => DiskBus.Virtio,
        "ahci" => DiskBus.Ahci,
        _ => throw new UsageException(Nearest.Message("bus of a disk", value, ["virtio", "ahci"])),
    };
}
