using System.Globalization;
using System.Text.Json;
using System.Text.Json.Serialization;
using Bunraku.Cli.CommandLine;
using Bunraku.Platform;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Cli;

/// <summary><c>bunraku image</c>: what is done with disk images.</summary>
internal static class ImageCommands
{
    private static readonly JsonSerializerOptions s_json = new(ImageJson.Default.Options)
    {
        Converters = { new JsonStringEnumConverter<ImageFormat>(JsonNamingPolicy.SnakeCaseLower) },
    };

    /// <exception cref="DiskException">What went wrong, in one line.</exception>
    public static int Run(ImageRequest request, TextWriter output)
    {
        try
        {
            return Do(request, output);
        }
        catch (IOException e) when (e is not DiskException)
        {
            throw new DiskException($"disk {request.Path}: {HostError.Reason(e)}", e);
        }
    }

    private static int Do(ImageRequest request, TextWriter output)
    {
        switch (request)
        {
            case ImageRequest.Create create:
                ImageTools.Create(create.Path, create.Format, create.Size, create.Options);
                return ExitStatus.Success;
            case ImageRequest.Info info:
                ImageInfo found = ImageTools.Info(info.Path, info.Format);
                output.Write(info.Json ? JsonSerializer.Serialize(found, s_json) + "\n" : Text(found));
                return ExitStatus.Success;
            case ImageRequest.Check check:
                return Check(ImageTools.Check(check.Path, check.Repair), output);
            case ImageRequest.Convert convert:
                Convert(convert);
                return ExitStatus.Success;
            case ImageRequest.Resize resize:
                ulong size = resize.Size;
                if (resize.Relative != 0)
                {
                    ulong now = ImageTools.Info(resize.Path, resize.Format).Size;
                    if (resize.Relative < 0 && size >= now) throw new DiskException($"disk {resize.Path}: has only {now} bytes");
                    size = resize.Relative > 0 ? checked(now + size) : now - size;
                }
                ImageTools.Resize(resize.Path, size, resize.Shrink, resize.Format);
                return ExitStatus.Success;
            case ImageRequest.Snapshot { Action: SnapshotAction.List } list:
                output.Write(Table(ImageTools.Info(list.Path).Snapshots));
                return ExitStatus.Success;
            case ImageRequest.Snapshot snapshot:
                ImageTools.WithSnapshots(snapshot.Path, disk =>
                {
                    if (snapshot.Action == SnapshotAction.Create) disk.TakeSnapshot(snapshot.Name, DateTime.UtcNow);
                    else if (snapshot.Action == SnapshotAction.Apply) disk.ApplySnapshot(snapshot.Name);
                    else disk.DeleteSnapshot(snapshot.Name);
                });
                return ExitStatus.Success;
            default:
                return ExitStatus.InternalError;
        }
    }

    private static void Convert(ImageRequest.Convert convert)
    {
        bool shows = !Console.IsErrorRedirected;
        int shown = -1;
        ImageTools.Convert(convert.Source, convert.Target, convert.Format, convert.Options, convert.Compress, (done, all) =>
        {
            int percent = (int)(100.0 * done / all);
            if (!shows || percent == shown) return;
            shown = percent;
            Console.Error.Write($"\r{percent} %");
        });
        if (shows) Console.Error.Write("\r\e[K");
    }

    private static int Check(CheckResult result, TextWriter output)
    {
        foreach (string message in result.Messages) output.WriteLine("error: " + message);
        if (result.Errors > result.Messages.Count) output.WriteLine($"and {result.Errors - result.Messages.Count} more errors");
        if (result.Repaired > 0) output.WriteLine($"{result.Repaired} errors and leaks were mended");
        output.WriteLine(result.Errors == 0 && result.Leaks == 0 ? "no errors"
            : $"{result.Errors} errors, {result.Leaks} clusters that nobody uses; --repair sets counts right");
        return result.Errors == 0 && result.Leaks == 0 ? ExitStatus.Success : ExitStatus.Failure;
    }

    private static string Text(ImageInfo info)
    {
        var lines = new List<(string, string)>
        {
            ("image", info.Path),
            ("format", info.Format == ImageFormat.Raw ? "raw" : $"qcow2, version {info.Version}"),
            ("size", $"{ByteSize.Format(info.Size)} ({info.Size} bytes)"),
            ("on the host", ByteSize.Format(info.Allocated)),
        };
        if (info.Backing is { } backing) lines.Add(("backing file", $"{backing} ({info.BackingFormat ?? "no format recorded"})"));
        if (info.Format == ImageFormat.Qcow2)
        {
            lines.Add(("clusters", $"{ByteSize.Format((ulong)info.ClusterSize)}, reference counts of {info.RefcountBits} bits"
                + $"{(info.LazyRefcounts ? ", lazy" : "")}, {info.Compression}"));
        }
        if (info.Dirty) lines.Add(("state", "was not closed: reference counts are set right when it is written the next time"));
        if (info.Corrupt) lines.Add(("state", "marked as damaged: it can only be read"));
        int width = lines.Max(l => l.Item1.Length) + 2;
        string text = string.Concat(lines.Select(l => (l.Item1 + ":").PadRight(width) + l.Item2 + "\n"));
        return info.Snapshots.Count == 0 ? text : text + "snapshots:\n" + Table(info.Snapshots);
    }

    private static string Table(IReadOnlyList<DiskSnapshot> snapshots) =>
        snapshots.Count == 0 ? "no snapshots\n" : "ID    TAKEN (UTC)          SIZE        NAME\n" + string.Concat(snapshots.Select(s => string.Create(
            CultureInfo.InvariantCulture, $"{s.Id,-5} {s.Taken:yyyy-MM-dd HH:mm:ss}  {ByteSize.Format(s.DiskSize),-10}  {s.Name}\n")));
}

/// <summary>Made when the program is compiled.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, WriteIndented = true)]
[JsonSerializable(typeof(ImageInfo))]
internal sealed partial class ImageJson : JsonSerializerContext;
