namespace Bunraku.Sessions.Snapshots;

/// <summary>By what one sees that a file was changed.</summary>
/// <param name="Length">Bytes.</param>
/// <param name="Changed">Time of the last change of its contents, UTC.</param>
internal sealed record FileMark(long Length, DateTime Changed)
{
    /// <summary>Of a file that nobody can change: it is not looked at. Only a fork's throwaway disk may have it.</summary>
    public static FileMark None { get; } = new(-1, default);

    public static FileMark Of(string path)
    {
        var file = new FileInfo(path);
        return new FileMark(file.Length, file.LastWriteTimeUtc);
    }

    /// <summary>Why the file is not what it was; null: it is. The guest has in its memory what it read from it.</summary>
    public string? Problem(string path) => !File.Exists(path) ? $"the VM's disk {path} is not there"
        : Of(path) != this ? $"the VM's disk {path} was changed since; a copy of that time, with its time of change, would fit" : null;
}
