using Bunraku.Storage;

namespace Bunraku.Cli.Qemu;

/// <summary>
/// Drives and block nodes of a command line, and what devices make of them. A drive that says itself what it is connected to becomes a disk when all is read;
/// one of "none" waits for its device.
/// </summary>
internal sealed class QemuDrives(QemuMachine machine, Action<int?, string, bool> flash)
{
    private sealed record Drive(string Option, string Id, string Interface, int Index)
    {
        public string? File { get; init; }
        public ImageFormat? Format { get; init; }
        public bool IsCompactDisc { get; init; }
        public bool IsReadOnly { get; init; }
        public bool? Throwaway { get; init; }
        public bool Discard { get; init; }
        public bool ReportsWhenFull { get; init; }
        public string Serial { get; init; } = "";
        /// <summary>Of the node that the drive is; null: it has none that could be named.</summary>
        public string? Node { get; init; }
        public bool IsTaken { get; set; }
    }

    private sealed record Node(string Name, string Driver)
    {
        public string? File { get; init; }
        public string? Child { get; init; }
        public bool IsReadOnly { get; init; }
        public bool Discard { get; init; }
    }

    /// <summary>In place of a number: the next that is free.</summary>
    private const int Next = -1;

    private readonly List<Drive> _drives = [];
    private readonly Dictionary<string, Node> _nodes = new(StringComparer.Ordinal);
    private readonly List<(int Place, VmDisk Disk, DriveName Name)> _virtio = [], _sata = [];
    private readonly List<(int Place, string Path, DriveName Name)> _discs = [];
    private int _place;

    /// <summary>All disks are thrown away at the end (-snapshot).</summary>
    public bool Throwaway { get; set; }

    /// <summary>-hda to -hdd, -cdrom and a file that stands alone: drives of the first bus, by their number.</summary>
    public void AddNumbered(string option, string file, int index, bool isCompactDisc = false) =>
        _drives.Add(new Drive(option, "", "ide", index) { File = Plain(option, file), IsCompactDisc = isCompactDisc });

    /// <summary>-drive.</summary>
    public void Add(string text)
    {
        QemuWords words = QemuWords.Parse("-drive", text, "file");
        string kind = words.Take("if") ?? "ide", media = words.Take("media") ?? "disk";
        if (media is not ("disk" or "cdrom")) throw new UsageException($"-drive: media={media} is neither disk nor cdrom");
        int? unit = words.TakeNumber("unit"), bus = words.TakeNumber("bus");
        string? id = words.Take("id"), file = words.Take("file");
        string? driver = words.Take("driver");
        string? format = words.Take("format") ?? (driver == "file" ? "raw" : driver);
        if (words.Take("file.filename") is { } name) file = name;
        if (file is not null && words.Take("file.driver") is not (null or "file" or "host_device")) throw Absent("-drive", "file.driver other than file");
        int index = words.TakeNumber("index") ?? (kind == "ide" && (unit ?? bus) is not null ? 2 * (bus ?? 0) + (unit ?? 0) : Next);
        var drive = new Drive("-drive", id ?? "", kind, index)
        {
            File = file is null ? null : Plain("-drive", file),
            Format = FormatOf("-drive", format),
            IsCompactDisc = media == "cdrom",
            IsReadOnly = (words.TakeSwitch("readonly") ?? words.TakeSwitch("read-only")) == true,
            Throwaway = words.TakeSwitch("snapshot"),
            Discard = words.Take("discard") is "unmap" or "on",
            Serial = words.Take("serial") ?? "",
            Node = words.Take("node-name"),
        };
        // What is flushed is safe here in each of them; what is faster beside that, the host decides.
        words.Drop("cache", "aio", "copy-on-read", "detect-zeroes", "cache.writeback", "cache.direct", "cache.no-flush", "auto-read-only", "file.locking",
            "locking");
        words.Drop("l2-cache-size", "cache-size", "refcount-cache-size");
        drive = drive with { ReportsWhenFull = Policies("-drive", words) };
        foreach ((string key, string _) in (IEnumerable<(string, string)>)[.. words.TakeBeginning("throttling."), .. words.TakeBeginning("bps"),
            .. words.TakeBeginning("iops")])
            machine.Notes.Add($"-drive: '{key}' is passed over: disks are as fast as the host");
        words.Finish();
        switch (kind)
        {
            case "ide" or "sata" or "virtio" or "none":
                break;
            case "pflash":
                flash(unit, drive.File ?? throw new UsageException("-drive: if=pflash: file= is missing"), drive.IsReadOnly || drive.Throwaway == true);
                return;
            case "scsi" or "floppy" or "sd" or "mtd" or "xen":
                throw Absent("-drive", $"if={kind}: disks are on virtio or SATA (if=virtio, if=ide)");
            default:
                throw new UsageException(Nearest.Message("interface of -drive", kind, ["none", "virtio", "ide"]));
        }
        _drives.Add(drive);
    }

    /// <summary>What is to be done about errors of the host: the machine stops where there is no room, as QEMU's does without being told.</summary>
    /// <returns>The guest is told where there is no room.</returns>
    public bool Policies(string option, QemuWords words)
    {
        string? write = words.Take("werror"), read = words.Take("rerror");
        foreach ((string name, string? policy) in ((string, string?)[])[("werror", write), ("rerror", read)])
        {
            if (policy is not (null or "report" or "enospc" or "auto" or "stop" or "ignore"))
                throw new UsageException(Nearest.Message($"{name} of {option}", policy, ["report", "enospc", "stop", "ignore", "auto"]));
            if (policy is "ignore" || policy == "stop")
                machine.Notes.Add($"{option}: {name}={policy}: of other errors than a full file system the guest is told, and goes on");
        }
        return write is "report" or "ignore";
    }

    /// <summary>-blockdev: a node, which is the file or the format over it.</summary>
    public void AddNode(string text)
    {
        const string option = "-blockdev";
        QemuWords words = QemuWords.Parse(option, text, "driver");
        string driver = words.Need("driver");
        string name = words.Need("node-name");
        string? file = words.Take("filename") ?? words.Take("file.filename"), child = words.Take("file");
        if (words.Take("file.driver") is { } below and not ("file" or "host_device")) throw Absent(option, $"driver={below}");
        if (driver is not ("file" or "host_device" or "raw" or "qcow2")) throw Absent(option, $"driver={driver}");
        _nodes[name] = new Node(name, driver)
        {
            File = file,
            Child = child,
            IsReadOnly = words.TakeSwitch("read-only") == true,
            Discard = words.Take("discard") is "unmap" or "on",
        };
        words.Drop("cache.direct", "cache.no-flush", "aio", "auto-read-only", "detect-zeroes", "locking", "force-share", "pr-manager", "l2-cache-size",
            "cache-size",
            "refcount-cache-size", "lazy-refcounts", "pass-discard-request", "pass-discard-snapshot", "pass-discard-other", "overlap-check", "file.aio",
            "file.cache.direct", "file.locking", "file.node-name", "file.discard", "file.auto-read-only", "file.read-only", "x-check-cache-dropped",
            "file.cache.no-flush");
        words.Finish();
    }

    /// <summary>A device takes a drive or a node.</summary>
    /// <param name="option">For messages.</param>
    /// <param name="id">As its word drive= has it.</param>
    /// <param name="bus">Where the disk is; null: it is a CD drive.</param>
    /// <param name="serial">Of the device.</param>
    /// <param name="reportsWhenFull">See <see cref="Policies"/>: of the device.</param>
    public void Take(string option, string id, DiskBus? bus, string? serial, bool reportsWhenFull)
    {
        if (_drives.Find(d => d.Id == id || d.Node == id) is { } drive)
        {
            if (drive.Interface != "none")
                throw new UsageException($"{option}: the drive '{id}' is connected by if={drive.Interface} already; -drive if=none leaves it to a device");
            if (drive.IsTaken) throw new UsageException($"{option}: the drive '{id}' has a device already");
            drive.IsTaken = true;
            reportsWhenFull |= drive.ReportsWhenFull;
            Connect(drive with { Serial = serial ?? drive.Serial, ReportsWhenFull = reportsWhenFull }, bus, _place++);
            return;
        }
        if (!_nodes.TryGetValue(id, out Node? node)) throw new UsageException($"{option}: there is no drive and no node '{id}'");
        (string path, ImageFormat? format, bool isReadOnly, bool discard) = Resolve(option, node);
        var made = new Drive(option, "", "none", 0)
        {
            File = path,
            Format = format,
            IsReadOnly = isReadOnly,
            Discard = discard,
            Serial = serial ?? "",
            Node = id,
        };
        Connect(made with { ReportsWhenFull = reportsWhenFull }, bus, _place++);
    }

    /// <summary>What is at the bottom of nodes that stand on each other.</summary>
    private (string Path, ImageFormat? Format, bool IsReadOnly, bool Discard) Resolve(string option, Node top)
    {
        bool isReadOnly = false, discard = false;
        ImageFormat format = ImageFormat.Raw;
        var seen = new HashSet<string>(StringComparer.Ordinal);
        for (Node node = top; ;)
        {
            if (!seen.Add(node.Name)) throw new UsageException($"-blockdev: the node '{node.Name}' stands on itself");
            isReadOnly |= node.IsReadOnly;
            discard |= node.Discard;
            if (node.Driver == "qcow2") format = ImageFormat.Qcow2;
            if (node.File is { } path) return (path, format, isReadOnly, discard);
            if (node.Child is null) throw new UsageException($"{option}: the node '{node.Name}' has no file");
            node = _nodes.TryGetValue(node.Child, out Node? below) ? below : throw new UsageException($"-blockdev: there is no node '{node.Child}'");
        }
    }

    /// <summary>All is read: the rest becomes disks. A drive without a name gets that which QEMU gives it.</summary>
    public void Finish()
    {
        var used = new HashSet<int>();
        foreach (Drive drive in _drives.Where(d => d.Interface is "ide" or "sata" && d.Index >= 0))
        {
            if (!used.Add(drive.Index)) throw new UsageException($"{drive.Option}: drive {drive.Index} of the first bus is there already; index= names "
                + "another one");
        }
        for (int n = 0; n < _drives.Count; n++)
        {
            if (_drives[n] is not { Interface: "ide" or "sata", Index: Next }) continue;
            int free = 0;
            while (!used.Add(free)) free++;
            _drives[n] = _drives[n] with { Index = free };
        }
        int virtio = 0;
        for (int n = 0; n < _drives.Count; n++)
        {
            if (_drives[n].Interface == "virtio") _drives[n] = _drives[n] with { Id = Named(_drives[n], $"virtio{virtio++}") };
            else if (_drives[n] is { Interface: "ide" or "sata" } d) // two to a bus
                _drives[n] = d with { Id = Named(d, $"ide{d.Index / 2}-{(d.IsCompactDisc ? "cd" : "hd")}{d.Index % 2}") };
        }
        const int behindNumbered = 1000;
        foreach (Drive drive in _drives.Where(d => !d.IsTaken))
        {
            if (drive.Interface == "none") continue; // QEMU leaves it lying about, too
            if (drive.File is null or "")
            {
                if (!drive.IsCompactDisc) throw new UsageException($"{drive.Option}: a file is missing");
                continue; // a drive without a disc in it
            }
            DiskBus? bus = drive.IsCompactDisc ? null : drive.Interface == "virtio" ? DiskBus.Virtio : DiskBus.Ahci;
            Connect(drive, bus, drive.Index >= 0 ? drive.Index : behindNumbered + _place++);
        }
        foreach ((_, VmDisk disk, DriveName name) in _virtio.OrderBy(d => d.Place).Concat(_sata.OrderBy(d => d.Place)))
        {
            machine.Disks.Add(disk);
            machine.DriveNames.Add(name);
        }
        foreach ((_, string path, DriveName name) in _discs.OrderBy(d => d.Place))
        {
            machine.CompactDiscs.Add(path);
            machine.DriveNames.Add(name);
        }
    }

    private static string Named(Drive drive, string otherwise) => drive.Id.Length > 0 ? drive.Id : otherwise;

    private void Connect(Drive drive, DiskBus? bus, int place)
    {
        string path = drive.File is { Length: > 0 } some ? some : throw new UsageException($"{drive.Option}: the drive '{drive.Id}' has no file");
        var name = new DriveName(drive.Id, drive.Node);
        if (bus is not { } where)
        {
            _discs.Add((place, path, name));
            return;
        }
        var image = new DiskOptions(path) { Format = drive.Format, ReadOnly = drive.IsReadOnly, AllowBacking = true, Discard = drive.Discard };
        bool throwaway = (drive.Throwaway ?? Throwaway) && !drive.IsReadOnly;
        (where == DiskBus.Virtio ? _virtio : _sata).Add((place, new VmDisk(image)
        {
            Bus = where,
            Serial = drive.Serial,
            Throwaway = throwaway,
            StopsWhenFull = !drive.ReportsWhenFull,
        }, name));
    }

    private static ImageFormat? FormatOf(string option, string? format) => format is null ? null
        : DiskImage.ParseFormat(format) ?? throw Absent(option, $"format={format}: images are raw or qcow2");

    /// <summary>A file by its name; other places that QEMU can reach have a word before a colon.</summary>
    private static string Plain(string option, string file)
    {
        if (file.StartsWith("file:", StringComparison.Ordinal)) return file["file:".Length..];
        int colon = file.IndexOf(':');
        if (colon <= 0 || file[..colon].Contains('/') || File.Exists(file)) return file;
        string protocol = file[..colon];
        return protocol is "nbd" or "http" or "https" or "ftp" or "ssh" or "rbd" or "iscsi" or "json" or "fat" or "vvfat" or "nfs" or "gluster" or "blkdebug"
            ? throw Absent(option, $"'{protocol}:'; images are files of this host") : file;
    }

    private static UsageException Absent(string option, string what) => new($"{option}: not had: {what}");
}
