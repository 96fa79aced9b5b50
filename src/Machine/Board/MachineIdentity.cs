namespace Bunraku.Machine.Board;

/// <summary>
/// What a machine tells of itself to its operating system (SMBIOS). Null: what every machine of ours says, or nothing. Immutable.
/// </summary>
/// <remarks>DMTF DSP0134, System Management BIOS Reference Specification 3.6, sections 7.1 "BIOS Information" to 7.4 and 7.12 "OEM Strings".</remarks>
public sealed record MachineIdentity
{
    /// <summary>Longest of the texts, in characters, and most strings that are the machine's own.</summary>
    public const int LongestText = 8192, MostStrings = 255;

    /// <summary>Most characters of all texts together.</summary>
    public const int MostText = 40_000;

    /// <summary>The machine's UUID.</summary>
    public Guid? Uuid { get; init; }

    /// <summary>Manufacturer of the machine.</summary>
    public string? Manufacturer { get; init; }

    /// <summary>The machine's name.</summary>
    public string? Product { get; init; }

    /// <summary>Its version.</summary>
    public string? Version { get; init; }

    /// <summary>Its serial number.</summary>
    public string? Serial { get; init; }

    /// <summary>What it is ordered by.</summary>
    public string? Sku { get; init; }

    /// <summary>The family of machines that it is of.</summary>
    public string? Family { get; init; }

    /// <summary>Vendor of the BIOS, where firmware does not say it itself.</summary>
    public string? BiosVendor { get; init; }

    /// <summary>Its version.</summary>
    public string? BiosVersion { get; init; }

    /// <summary>Its date, as month/day/year.</summary>
    public string? BiosDate { get; init; }

    /// <summary>Strings for who knows them (type 11), such as credentials for systemd.</summary>
    public IReadOnlyList<string> Strings { get; init; } = [];

    /// <summary>Something is said of the machine.</summary>
    public bool IsGiven => this with { Strings = s_none } != new MachineIdentity { Strings = s_none } || Strings.Count > 0;

    private static readonly string[] s_none = [];

    /// <summary>Why it cannot be told; null: it can.</summary>
    public string? Problem
    {
        get
        {
            string[] all = [.. ((string?[])[Manufacturer, Product, Version, Serial, Sku, Family, BiosVendor, BiosVersion, BiosDate]).OfType<string>(),
                .. Strings];
            if (Strings.Count > MostStrings) return $"{Strings.Count} strings are too many; the most are {MostStrings}";
            if (all.FirstOrDefault(t => t.Length is 0 or > LongestText || t.Contains('\0')) is { } text)
                return $"'{(text.Length > 40 ? text[..40] + "..." : text)}': a text has 1 to {LongestText} characters, none of them a zero";
            return all.Sum(System.Text.Encoding.UTF8.GetByteCount) > MostText ? $"all texts together have more than {MostText} bytes" : null;
        }
    }
}

/// <summary>A kind of devices that firmware boots from.</summary>
public enum BootDevice
{
    /// <summary>Disks.</summary>
    Disk,
    /// <summary>CD and DVD drives.</summary>
    CompactDisc,
    /// <summary>Network cards.</summary>
    Network,
}
