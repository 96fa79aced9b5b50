using System.Globalization;
using Bunraku.Cli.CommandLine;
using Bunraku.Machine;

namespace Bunraku.Cli;

/// <summary><c>bunraku cache</c>: what is kept between runs.</summary>
internal static class CacheCommands
{
    /// <exception cref="CannotStartException">The folder cannot be found.</exception>
    /// <exception cref="CannotWriteException">Something cannot be removed.</exception>
    public static int Run(CacheRequest request, TextWriter output)
    {
        GuestCache cache;
        try
        {
            cache = new GuestCache();
        }
        catch (BootException e)
        {
            throw new CannotStartException(e.Message, e);
        }
        IReadOnlyList<FileInfo> kept = KeptGuests.All(cache);
        FileInfo[] downloaded =
            [.. Folders(cache).SelectMany(f => cache.Files(f)).Select(f => new FileInfo(f)).OrderBy(f => f.FullName, StringComparer.Ordinal)];
        switch (request)
        {
            case CacheRequest.List:
                List(output, "booted guests, which later runs go on from", kept, f => f.LastAccessTimeUtc);
                List(output, "from packages", downloaded, f => f.LastWriteTimeUtc);
                if (kept.Count + downloaded.Length == 0) output.WriteLine($"{cache.Root} is empty");
                return ExitStatus.Success;
            default:
                Remove(kept);
                if (request == CacheRequest.CleanAll) Remove(downloaded);
                return ExitStatus.Success;
        }
    }

    /// <summary>The folders with files of packages: not the programs that were built, nor what others keep there.</summary>
    private static IEnumerable<string> Folders(GuestCache cache) =>
        !Directory.Exists(cache.Root) ? [] : Directory.EnumerateDirectories(cache.Root).Select(d => Path.GetFileName(d)!)
            .Where(name => name is not ("build" or "kept"));

    private static void List(TextWriter output, string title, IReadOnlyList<FileInfo> files, Func<FileInfo, DateTime> time)
    {
        if (files.Count == 0) return;
        ulong sum = files.Aggregate(0ul, (all, f) => all + (ulong)f.Length);
        output.WriteLine($"{title}: {ByteSize.Format(sum)} in {Path.GetDirectoryName(Path.GetDirectoryName(files[0].FullName))}");
        foreach (FileInfo file in files)
        {
            string when = time(file).ToLocalTime().ToString("yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture);
            output.WriteLine($"  {when}  {ByteSize.Format((ulong)file.Length),9}  {file.Directory!.Name}/{file.Name}");
        }
    }

    private static void Remove(IEnumerable<FileInfo> files)
    {
        foreach (FileInfo file in files)
        {
            try
            {
                file.Delete();
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new CannotWriteException(file.FullName, Platform.HostError.Reason(e), e);
            }
        }
    }
}
