using System.CommandLine;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Cli.CommandLine;

/// <summary>What <c>bunraku image</c> is asked for.</summary>
/// <param name="Path">The image.</param>
internal abstract record ImageRequest(string Path)
{
    internal sealed record Create(string Path, ImageFormat Format, ulong? Size, Qcow2CreateOptions Options) : ImageRequest(Path);

    internal sealed record Info(string Path, ImageFormat? Format, bool Json) : ImageRequest(Path);

    internal sealed record Check(string Path, bool Repair) : ImageRequest(Path);

    internal sealed record Convert(DiskOptions Source, string Target, ImageFormat Format, Qcow2CreateOptions Options, bool Compress)
        : ImageRequest(Source.Path);

    /// <param name="Relative">-1, 1: the size is taken away from, or added to, what the disk has.</param>
    internal sealed record Resize(string Path, ImageFormat? Format, ulong Size, int Relative, bool Shrink) : ImageRequest(Path);

    internal sealed record Snapshot(string Path, SnapshotAction Action, string Name) : ImageRequest(Path);
}

/// <summary>What is done with a snapshot inside an image.</summary>
internal enum SnapshotAction { List, Create, Apply, Delete }

/// <summary><c>bunraku image</c>: disk images.</summary>
internal sealed class ImageCommand : Command
{
    private static readonly string[] s_formats = ["raw", "qcow2"];

    private readonly Command _create = new("create", "Make an empty image");
    private readonly Command _info = new("info", "Say what an image is");
    private readonly Command _check = new("check", "Look whether a qcow2 image is right");
    private readonly Command _convert = new("convert", "Copy a disk into a new image, with its backing files and without what is zero");
    private readonly Command _resize = new("resize", "Make a disk larger or smaller");
    private readonly Command _snapshot = new("snapshot", "List the snapshots inside a qcow2 image, or make, apply or delete one");

    private readonly Argument<string?> _file = new("FILE") { Arity = ArgumentArity.ZeroOrOne, Description = "the image" };
    private readonly Argument<string?> _target = new("TARGET") { Arity = ArgumentArity.ZeroOrOne, Description = "the new image" };
    private readonly Argument<string?> _size =
        new("SIZE") { Arity = ArgumentArity.ZeroOrOne, Description = "of the disk, for example 10G or 512M; without a unit it is bytes" };
    private readonly Argument<string?> _newSize =
        new("SIZE") { Arity = ArgumentArity.ZeroOrOne, Description = "of the disk, for example 10G; with + or - before it, how much larger or smaller" };
    private readonly Option<ImageFormat?> _format = Format("--format", "format of the image (default: what it is)");
    private readonly Option<ImageFormat?> _newFormat = Format("--format", "format of the new image (default qcow2)");
    private readonly Option<ImageFormat?> _sourceFormat = Format("--source-format", "format of the image that is copied (default: what it is)");
    private readonly Option<string?> _backing = SingleValue.Text("--backing", "FILE", "what the disk has where nothing was written yet");
    private readonly Option<ImageFormat?> _backingFormat = Format("--backing-format", "its format; needed with --backing");
    private readonly Option<ulong?> _clusterSize =
        SingleValue.Parsed<ulong?>("--cluster-size", "SIZE", "of a qcow2 image: a power of two from 512 to 2M (default 64K)", t => ParseSize(t));
    private readonly Option<int?> _refcountBits =
        SingleValue.Parsed<int?>("--refcount-bits", "N", "of a qcow2 image: 1, 2, 4, 8, 16, 32 or 64 (default 16)", t => ParseNumber(t));
    private readonly Option<int?> _version = SingleValue.Parsed<int?>("--qcow2-version", "N", "2 or 3 (default 3)", t => ParseNumber(t), "2", "3");
    private readonly Option<bool> _compress = SingleValue.Flag("--compress", "compress clusters of the copy (zstd)");
    private readonly Option<bool> _trust =
        SingleValue.Flag("--allow-backing", "open the backing files that the image names; an image from elsewhere could name any file of yours");
    private readonly Option<bool> _repair = SingleValue.Flag("--repair", "set reference counts right");
    private readonly Option<bool> _shrink = SingleValue.Flag("--shrink", "allow a smaller disk: what is behind its new end is lost");
    private readonly Option<bool> _json = SingleValue.Flag("--json", "as JSON");
    private readonly Option<string?> _make = SingleValue.Text("--create", "NAME", "take a snapshot");
    private readonly Option<string?> _apply = SingleValue.Text("--apply", "NAME", "make the disk what it was then; what was written since is lost");
    private readonly Option<string?> _delete = SingleValue.Text("--delete", "NAME", "forget a snapshot");

    public ImageCommand() : base("image", "Make and change disk images")
    {
        Add(_create, [_file, _size], [_newFormat, _backing, _backingFormat, _clusterSize, _refcountBits, _version]);
        Add(_info, [_file], [_format, _json]);
        Add(_check, [_file], [_repair]);
        Add(_convert, [_file, _target], [_newFormat, _sourceFormat, _compress, _trust, _clusterSize, _version]);
        Add(_resize, [_file, _newSize], [_format, _shrink]);
        Add(_snapshot, [_file], [_make, _apply, _delete]);
    }

    private void Add(Command command, Argument[] arguments, Option[] options)
    {
        foreach (Argument argument in arguments) command.Arguments.Add(argument);
        foreach (Option option in options) command.Options.Add(option);
        Subcommands.Add(command);
    }

    private static Option<ImageFormat?> Format(string name, string description) => SingleValue.Parsed<ImageFormat?>(name, "raw|qcow2", description,
        t => DiskImage.ParseFormat(t) ?? throw new UsageException(Nearest.Message("format", t, s_formats)), s_formats);

    /// <exception cref="UsageException">Words are missing or do not go together.</exception>
    public ImageRequest Read(ParseResult parsed)
    {
        Command asked = parsed.CommandResult.Command;
        string path = Needed(_file);
        if (asked == _create)
        {
            string? backing = parsed.GetValue(_backing);
            if (backing is not null && parsed.GetValue(_backingFormat) is null)
                throw new UsageException("--backing needs --backing-format: a disk whose format is guessed could lead to files of yours");
            ulong? size = parsed.GetValue(_size) is { } text ? ParseSize(text) : null;
            if (size is null && backing is null) throw new UsageException("a size is missing, for example 10G");
            return new ImageRequest.Create(path, parsed.GetValue(_newFormat) ?? ImageFormat.Qcow2, size,
                Options() with { Backing = backing, BackingFormat = parsed.GetValue(_backingFormat) ?? ImageFormat.Raw });
        }
        if (asked == _info) return new ImageRequest.Info(path, parsed.GetValue(_format), parsed.GetValue(_json));
        if (asked == _check) return new ImageRequest.Check(path, parsed.GetValue(_repair));
        if (asked == _convert)
        {
            var source = new DiskOptions(path)
            {
                Format = parsed.GetValue(_sourceFormat),
                ReadOnly = true,
                AllowBacking = parsed.GetValue(_trust),
                BackingAdvice = "--allow-backing opens it",
            };
            return new ImageRequest.Convert(source, Needed(_target), parsed.GetValue(_newFormat) ?? ImageFormat.Qcow2, Options(), parsed.GetValue(_compress));
        }
        if (asked == _resize)
        {
            string size = Needed(_newSize);
            int relative = size[0] switch { '+' => 1, '-' => -1, _ => 0 };
            return new ImageRequest.Resize(path, parsed.GetValue(_format), ParseSize(relative == 0 ? size : size[1..]), relative, parsed.GetValue(_shrink));
        }
        (SnapshotAction Action, string? Name)[] wanted =
        [
            (SnapshotAction.Create, parsed.GetValue(_make)), (SnapshotAction.Apply, parsed.GetValue(_apply)), (SnapshotAction.Delete, parsed.GetValue(_delete)),
        ];
        wanted = [.. wanted.Where(w => w.Name is not null)];
        if (wanted.Length > 1) throw new UsageException("give one of --create, --apply and --delete");
        return wanted is [(var action, { } name)] ? new ImageRequest.Snapshot(path, action, name)
            : new ImageRequest.Snapshot(path, SnapshotAction.List, "");

        string Needed(Argument<string?> argument) =>
            parsed.GetValue(argument) is { Length: > 0 } value ? value : throw new UsageException($"{argument.Name} is missing: bunraku image {asked.Name} "
                + string.Join(' ', asked.Arguments.Select(a => a.Name)));

        Qcow2CreateOptions Options() => new()
        {
            ClusterSize = parsed.GetValue(_clusterSize) is { } size ? (int)Math.Min(size, int.MaxValue) : 1 << 16,
            RefcountBits = asked == _create ? parsed.GetValue(_refcountBits) ?? 16 : 16,
            Version = parsed.GetValue(_version) ?? 3,
        };
    }

    private static int ParseNumber(string text) =>
        int.TryParse(text, System.Globalization.NumberStyles.None, null, out int n) ? n : throw new UsageException($"'{text}' is not a number");

    private static ulong ParseSize(string text) => Quantities.ParseBytes(text);
}
