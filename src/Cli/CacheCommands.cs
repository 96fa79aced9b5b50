using System.Globalization;
using Bunraku.Cli.CommandLine;
using Bunraku.Machine;

namespace Bunraku.Cli;

/// <summary><c>bunraku cache</c>: what is kept between runs.</summary>
internal static class CacheCommands
{
    /// <exception cref="CannotStartException">The folder cannot be found.</exception>
    /// <exception cref="CannotWriteException">Something cannot be removed.</exception>
    public static int Run(CacheRequest request, IReadOnlyList<string> guests, TextWriter output)
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
        if (request == CacheRequest.Fetch) return Fetch(guests, output);
        IReadOnlyList<FileInfo> kept = KeptGuests.All(cache);
        if (request == CacheRequest.List) List(cache, kept, output);
        else Clean(cache, kept, all: request == CacheRequest.CleanAll);
        return ExitStatus.Success;
    }

    /// <summary>All that the guests can need: with disks, networks, folders and commands as well.</summary>
    private static int Fetch(IReadOnlyList<string> guests, TextWriter output)
    {
        foreach (string guest in guests)
        {
            var builder = new VmBuilder(KnownEngines.All)
            {
                Guest = guest,
                Memory = 1 << 30,
                Progress = text => Console.Error.WriteLine("bunraku: " + text),
                Words = OptionWords.CommandLine,
            };
            builder.FetchGuest();
            output.WriteLine($"{guest}: all there");
        }
        return ExitStatus.Success;
    }

    /// <summary>The folders with what was downloaded: not the programs that were built, nor the guests.</summary>
    private static IEnumerable<DirectoryInfo> Downloaded(GuestCache cache) => !Directory.Exists(cache.Root) ? []
        : new DirectoryInfo(cache.Root).EnumerateDirectories().Where(d => d.Name is not ("build" or KeptGuests.Folder) && !d.Name.StartsWith('.'))
            .OrderBy(d => d.Name, StringComparer.Ordinal);

    private static void List(GuestCache cache, IReadOnlyList<FileInfo> kept, TextWriter output)
    {
        FileInfo[] downloaded = [.. Downloaded(cache).SelectMany(d => cache.Files(d.Name)).Select(f => new FileInfo(f))];
        Write("booted guests, which later runs go on from", kept, f => f.LastAccessTimeUtc);
        Write("from packages", downloaded, f => f.LastWriteTimeUtc);
        if (kept.Count + downloaded.Length == 0) output.WriteLine($"{cache.Root} is empty");

        void Write(string title, IReadOnlyList<FileInfo> files, Func<FileInfo, DateTime> time)
        {
            if (files.Count == 0) return;
            ulong sum = files.Aggregate(0ul, (all, f) => all + (ulong)f.Length);
            output.WriteLine($"{title}: {ByteSize.Format(sum)} in {cache.Root}");
            foreach (FileInfo file in files)
            {
                string when = time(file).ToLocalTime().ToString("yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture);
                output.WriteLine($"  {when}  {ByteSize.Format((ulong)file.Length),9}  {file.Directory!.Name}/{file.Name}");
            }
        }
    }

    private static void Clean(GuestCache cache, IReadOnlyList<FileInfo> kept, bool all)
    {
        foreach (FileInfo file in kept) Remove(file.FullName, file.Delete);
        if (!all || !Directory.Exists(cache.Root)) return;
        // Nobody stores there meanwhile, nor makes what would be stored.
        using IDisposable making = new DebianImages(cache, Console.Error.WriteLine, "").Hold(default),
            makingGeneric = new DebianImages(cache, Console.Error.WriteLine, "", guest: DebianImages.GenericName).Hold(default), held = cache.Hold();
        // The folders, too: one without files says that a package has none.
        foreach (DirectoryInfo folder in Downloaded(cache)) Remove(folder.FullName, () => folder.Delete(recursive: true));

        static void Remove(string path, Action remove)
        {
            try
            {
                remove();
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new CannotWriteException(path, Platform.HostError.Reason(e), e);
            }
        }
    }
}
