namespace Bunraku.Storage;

/// <summary>How the bytes of a disk lie in its file.</summary>
public enum ImageFormat
{
    /// <summary>As they are.</summary>
    Raw,
    /// <summary>QEMU's format with clusters, backing files and snapshots, versions 2 and 3.</summary>
    Qcow2,
}

/// <summary>How a disk image is opened.</summary>
/// <param name="Path">As the user wrote it.</param>
public sealed record DiskOptions(string Path)
{
    /// <summary>What the file is; null: it is looked at once, and what it is is remembered with it.</summary>
    public ImageFormat? Format { get; init; }

    /// <summary>It can only be read.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Other files that the image names are opened, to be read. An image from elsewhere can name any file.</summary>
    public bool AllowBacking { get; init; }

    /// <summary>What the guest discards gives room back on the host.</summary>
    public bool Discard { get; init; } = true;

    /// <summary>How a message asks for <see cref="AllowBacking"/>.</summary>
    public string BackingAdvice { get; init; } = "AllowBacking opens it";

    /// <summary>What a user can do where the file is not there: the end of the message. Null: it says no more.</summary>
    public string? MissingAdvice { get; init; }
}
