using System.Diagnostics;
using System.Text;
using Bunraku.Machine;
using Bunraku.Platform;
using Bunraku.Storage;
using Bunraku.Storage.Qcow2;

namespace Bunraku.Sessions;

/// <summary>The guests 'debian' and 'debian-generic': makes its image where there is none, and gives a VM its disk.</summary>
internal static class DebianGuest
{
    /// <summary>The options are about this guest.</summary>
    public static bool Is(VmOptions o) => o is { Kernel: null, Bios: null } && DebianImages.Names.Contains(o.Guest);

    /// <summary>What the VM has beside what was asked for: files to boot from, and the disk.</summary>
    /// <exception cref="SessionException">It cannot be had.</exception>
    public static VmBuilder Expand(VmBuilder builder, CancellationToken cancel)
    {
        if (!Is(builder) || builder is not { RestoreFrom: null, Incoming: null, Debian: null }) return builder;
        builder.Check(builder.Words);
        try
        {
            DebianFiles files = FindOrMake(builder, cancel);
            return builder with { Debian = files, Disks = [DiskOf(builder, files), .. builder.Disks] };
        }
        catch (Exception e) when (e is BootException or IOException or UnauthorizedAccessException)
        {
            throw new CannotStartException(e.Message.ReplaceLineEndings(" "), e);
        }
    }

    /// <summary>The disk of a run: a throwaway one over the image, or one that stays.</summary>
    internal static VmDisk DiskOf(VmBuilder builder, DebianFiles files)
    {
        ulong? size = builder.DiskSize;
        var image = new DiskOptions(files.Disk) { Format = ImageFormat.Qcow2 };
        if (builder.KeepDisk is not { } path) return new VmDisk(image) { Throwaway = true, Size = size };
        if (!File.Exists(path))
        {
            ImageTools.Create(path, ImageFormat.Qcow2, size, new Qcow2CreateOptions { Backing = files.Disk, BackingFormat = ImageFormat.Qcow2 });
        }
        else
        {
            ImageInfo info = ImageTools.Info(path);
            // Another image has other bytes, and another kernel: nothing on the disk would be right.
            if (info.Backing is not { } backing)
                throw new CannotStartException($"disk {path}: is none of the guest '{builder.Guest}'; "
                    + $"{builder.Words.Option(nameof(VmOptions.Disks))} takes other disks");
            if (Path.GetFileName(backing) != Path.GetFileName(files.Disk))
                throw new CannotStartException($"disk {path}: was begun with another image of the guest '{builder.Guest}' ({backing}), and goes with that "
                    + $"one alone; the one that is there is {files.Disk}");
            if (size < info.Size)
                throw new CannotStartException($"disk {path}: has {ByteSize.Format(info.Size)} already, and is not made smaller");
            if (size > info.Size) ImageTools.Resize(path, size.Value, shrink: false, ImageFormat.Qcow2);
        }
        return new VmDisk(new DiskOptions(path) { Format = ImageFormat.Qcow2, AllowBacking = true });
    }

    private static DebianFiles FindOrMake(VmBuilder builder, CancellationToken cancel)
    {
        var images = new DebianImages(new GuestCache(), builder.Progress, builder.Words.GuestAdvice, guest: builder.Guest);
        if (images.Find() is { } found) return found;
        using IDisposable held = images.Hold(cancel);
        return images.Find() ?? Make(images, builder, cancel);
    }

    /// <summary>Makes the image in a VM of its own. With the image held.</summary>
    /// <exception cref="BootException">It cannot be made; the message says why.</exception>
    internal static DebianFiles Make(DebianImages images, VmBuilder builder, CancellationToken cancel)
    {
        long start = Stopwatch.GetTimestamp();
        builder.Progress?.Invoke($"making the guest '{builder.Guest}', once; this takes some minutes");
        DebianMaking making = images.Prepare(cancel);
        try
        {
            ImageTools.Create(making.Disk, ImageFormat.Qcow2, DebianImages.DiskSize, new Qcow2CreateOptions());
            var console = new MakingConsole(making, builder.Progress);
            var description = new VmBuilder(builder.Engines)
            {
                Kernel = making.Kernel,
                Initrd = making.Initrd,
                Append = DebianImages.MakersAppend,
                Memory = Math.Min(DebianImages.MakersMemory, HostProcess.TotalMemory),
                Cpus = Math.Clamp(Environment.ProcessorCount, 1, MostCpus),
                Disks =
                [
                    new VmDisk(new DiskOptions(making.Disk) { Format = ImageFormat.Qcow2 }),
                    new VmDisk(new DiskOptions(making.Tree) { Format = ImageFormat.Raw, ReadOnly = true }),
                ],
                NoReboot = true,
                Console = console,
                Words = builder.Words,
            };
            using (Vm vm = description.Build(cancel)) vm.RunAsync(cancel).GetAwaiter().GetResult();
            if (!console.Done) throw images.Failed(console.Reason, making, console.Lines);
            DebianFiles files = images.Store(making);
            builder.Progress?.Invoke($"the guest '{builder.Guest}' is made in {Stopwatch.GetElapsedTime(start).TotalSeconds:0} s: "
                + $"{ByteSize.Format((ulong)new FileInfo(files.Disk).Length)} in {files.Disk}");
            return files;
        }
        catch (Exception e)
        {
            BootException? failure = e is SessionException or IOException ? images.Failed(e.Message, making) : null;
            images.Discard(making);
            if (failure is not null) throw failure;
            throw;
        }
    }

    private const int MostCpus = 4;

    /// <summary>Reads what the making guest prints. On threads of its VM.</summary>
    private sealed class MakingConsole(DebianMaking making, Action<string>? progress) : IGuestConsole
    {
        private const int KeptLines = 1000, LongestLine = 500;

        private static readonly Dictionary<string, string> s_stages = new()
        {
            ["format"] = "starting a guest that installs them",
            ["unpack"] = "copying them to the disk",
            ["finish"] = "finishing",
        };

        private readonly List<byte> _line = [];
        private readonly Queue<string> _last = new();
        private string? _failed;
        private int _configured;

        /// <summary>All is made.</summary>
        public bool Done { get; private set; }

        /// <summary>Why not, in a few words. After the guest's end.</summary>
        public string Reason => _failed ?? "the guest that makes it ended early";

        /// <summary>What it said before, a line each.</summary>
        public IEnumerable<string> Lines => _last;

        public void Write(ReadOnlySpan<byte> bytes)
        {
            foreach (byte b in bytes)
            {
                if (b != '\n')
                {
                    if (_line.Count < LongestLine) _line.Add(b);
                    continue;
                }
                Take(Encoding.UTF8.GetString([.. _line]).Trim());
                _line.Clear();
            }
        }

        public void WriteError(ReadOnlySpan<byte> bytes) => Write(bytes);

        public bool Throttle(int milliseconds) => true;

        public void Release()
        {
        }

        private void Take(string line)
        {
            if (making.Said(line) is { } word)
            {
                if (word == "done") Done = true;
                else if (word.StartsWith("failed ", StringComparison.Ordinal)) _failed ??= word["failed ".Length..] + " failed";
                else if (word == "configure") Told();
                else if (s_stages.TryGetValue(word, out string? text)) progress?.Invoke(text);
                return;
            }
            _last.Enqueue(line);
            if (_last.Count > KeptLines) _last.Dequeue();
            if (!line.StartsWith("Setting up ", StringComparison.Ordinal)) return;
            const int parts = 4;
            int before = _configured++ * parts / Math.Max(making.Packages, 1);
            if (_configured * parts / Math.Max(making.Packages, 1) > before && _configured < making.Packages) Told();
        }

        private void Told() => progress?.Invoke($"configuring packages: {_configured} of {making.Packages}");
    }
}
