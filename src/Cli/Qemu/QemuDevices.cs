namespace Bunraku.Cli.Qemu;

/// <summary>
/// <c>-device KIND,…</c>: what each kind becomes. Devices that a guest does without are passed over with a line, as those are that it would only see on a
/// screen; a device that holds what a guest needs (a disk, a file system) is refused.
/// </summary>
internal sealed class QemuDevices(QemuMachine machine, QemuDrives drives, QemuNetworks networks, QemuFolders folders)
{
    /// <summary>Words that say where a device is, and other things that are ours to choose.</summary>
    private static readonly string[] s_places =
        ["bus", "addr", "id", "multifunction", "rombar", "romfile", "bootindex", "disable-legacy", "disable-modern", "iommu_platform", "ats", "iothread",
            "acpi-index",
            "page-per-vq", "modern-pio-notify", "failover_pair_id", "bootdisk", "packed", "event_idx", "indirect_desc", "ioeventfd", "any_layout",
                "notify_on_empty"];

    private int _bootIndices;

    private enum Fate { Have, PassOver, Refuse }

    private sealed record Row(string[] Names, Fate Fate, string Note);

    /// <summary>The kinds that are known. docs/qemu-options.md has the same.</summary>
    private static readonly Row[] s_rows =
    [
        new(["virtio-blk-device", "virtio-net-device", "virtio-rng-device", "virtio-serial-device", "virtio-balloon-device", "virtio-9p-device",
            "vhost-vsock-device"], Fate.Have,
            "with -machine microvm: as the names that end in -pci, which are not for it"),
        new(["virtio-blk-pci", "virtio-blk", "virtio-blk-pci-non-transitional", "virtio-blk-pci-transitional"], Fate.Have, "a disk"),
        new(["ide-hd", "ide-drive"], Fate.Have, "a disk, on the SATA controller"),
        new(["ide-cd"], Fate.Have, "a CD drive, on the SATA controller"),
        new(["ahci", "ich9-ahci", "piix3-ide", "piix4-ide"], Fate.Have, "the SATA controller is there when a disk or a disc is on it"),
        new(["virtio-rng-pci", "virtio-rng", "virtio-rng-pci-non-transitional"], Fate.Have, "random numbers of the host"),
        new(["virtio-serial-pci", "virtio-serial", "virtio-serial-pci-non-transitional"], Fate.Have, "with virtconsole and virtserialport on it"),
        new(["virtconsole", "virtserialport"], Fate.Have, "a port of virtio-serial"),
        new(["isa-serial"], Fate.Have, "COM1 and COM2"),
        new(["isa-debug-exit"], Fate.Have, "a write ends the machine with status value*2+1"),
        new(["isa-debugcon"], Fate.Have, "a debug console"),
        new(["pvpanic"], Fate.Have, "a guest's panic ends the machine"),
        new(["vmgenid"], Fate.Have, "every machine has one, with an ID of its own"),
        new(["virtio-balloon-pci", "virtio-balloon", "virtio-balloon-pci-non-transitional"], Fate.Have,
            "a balloon: the monitor's balloon, QMP's balloon and query-balloon"),
        new(["vhost-vsock-pci", "vhost-vsock-pci-non-transitional"], Fate.Have,
            "with guest-cid= and path=PATH, which is a word of Bunraku's: sockets of the guest are with Unix sockets of the host, not with its AF_VSOCK"),
        new(["virtio-9p-pci", "virtio-9p", "virtio-9p-pci-transitional", "virtio-9p-pci-non-transitional"], Fate.Have,
            "a folder of -fsdev, by 9P2000.L without older dialects"),
        new(["i6300esb", "ib700", "vmcoreinfo", "sga", "hpet", "intel-iommu", "amd-iommu", "pvpanic-pci", "edu",
            "pci-testdev", "virtio-pmem-pci", "virtio-mem-pci", "virtio-crypto-pci", "virtio-iommu-pci", "smbus-eeprom", "tpm-tis", "tpm-crb"],
            Fate.PassOver,
            "the guest does without"),
        new(["VGA"], Fate.Have, "the display of -vga std"),
        new(["virtio-tablet-pci", "virtio-tablet"], Fate.Have, "a tablet; -vnc brings one along"),
        new(["cirrus-vga", "vmware-svga", "qxl", "qxl-vga", "bochs-display", "ramfb", "secondary-vga", "virtio-vga", "virtio-vga-gl", "virtio-gpu",
            "virtio-gpu-pci", "virtio-gpu-gl-pci"], Fate.PassOver,
            "the display is a VGA"),
        new(["virtio-keyboard-pci", "virtio-mouse-pci", "virtio-keyboard"], Fate.PassOver, "keyboard and mouse are PS/2's"),
        new(["usb-tablet", "usb-kbd", "usb-mouse", "usb-hub", "qemu-xhci", "nec-usb-xhci", "usb-ehci", "ich9-usb-ehci1", "ich9-usb-uhci1",
            "ich9-usb-uhci2", "ich9-usb-uhci3", "piix3-usb-uhci", "piix4-usb-uhci", "pci-ohci"], Fate.PassOver,
            "there is no USB"),
        new(["intel-hda", "ich9-intel-hda", "hda-output", "hda-duplex", "hda-micro", "AC97", "ES1370", "sb16", "adlib", "gus", "cs4231a",
            "virtio-sound-pci"], Fate.PassOver,
            "there is no sound"),
        new(["pcie-root-port", "pcie-pci-bridge", "pci-bridge", "ioh3420", "x3130-upstream", "xio3130-downstream", "pxb", "pxb-pcie",
            "i82801b11-bridge"], Fate.PassOver,
            "all devices are on bus 0"),
        new(["virtio-scsi-pci", "virtio-scsi", "scsi-hd", "scsi-cd", "scsi-block", "scsi-generic", "lsi", "lsi53c895a", "megasas", "mptsas1068",
            "pvscsi", "am53c974"], Fate.Refuse,
            "virtio-blk-pci is a disk, and ide-hd one on SATA"),
        new(["nvme", "nvme-ns", "sdhci-pci", "sd-card", "floppy", "isa-fdc", "usb-storage", "usb-bot", "usb-uas"], Fate.Refuse,
            "virtio-blk-pci is a disk, and ide-hd one on SATA"),
        new(["vhost-user-fs-pci", "vhost-user-fs"], Fate.Refuse, "vhost; 'bunraku run --share' gives a guest a folder by virtio-fs"),
        new(["vhost-user-blk-pci", "vhost-user-blk", "vhost-user-scsi-pci", "vhost-scsi-pci", "vhost-user-vsock-pci",
            "vhost-vdpa-device-pci", "vhost-user-gpu", "vhost-user-input-pci", "vhost-user-rng-pci", "vhost-user-i2c-pci", "vhost-user-gpio-pci"],
            Fate.Refuse,
            "vhost: devices are this process's own"),
        new(["vfio-pci", "usb-host", "loader", "guest-loader", "pc-dimm", "nvdimm", "ivshmem-plain", "ivshmem-doorbell", "max-x86_64-cpu",
            "qemu64-x86_64-cpu"], Fate.Refuse,
            "nothing of the host, and nothing that is plugged in"),
    ];

    /// <summary>Names and what becomes of them: for the help and the document.</summary>
    public static IEnumerable<(string Names, string What)> Explain() => s_rows.Select(r => (string.Join(", ", r.Names),
        r.Fate switch { Fate.Have => r.Note, Fate.PassOver => $"passed over with a line: {r.Note}", _ => $"refused: {r.Note}" }));

    /// <summary>Reads one.</summary>
    /// <exception cref="UsageException">It is none, or one that is refused.</exception>
    public void Add(string text)
    {
        QemuWords words = QemuWords.Parse("-device", text, "driver");
        string kind = words.Need("driver");
        string? id = words.Take("id"), bus = words.Take("bus");
        CheckBus(kind);
        if (QemuNetworks.IsCard(kind))
        {
            words.Drop(s_places);
            networks.AddCard(kind, words, id);
            words.Finish();
            return;
        }
        if (Array.Find(s_rows, r => r.Names.Contains(kind)) is not { } row)
            throw new UsageException(Nearest.Message("device", kind, [.. s_rows.Where(r => r.Fate == Fate.Have).SelectMany(r => r.Names), "virtio-net-pci"]));
        switch (row.Fate)
        {
            case Fate.PassOver:
                machine.Notes.Add($"-device: {kind} is passed over: {row.Note}");
                return;
            case Fate.Refuse:
                throw new UsageException($"-device: not had: {kind}: {row.Note}");
        }
        if (words.Take("bootindex") is not null && ++_bootIndices == 2)
            machine.Notes.Add("-device: bootindex= is passed over: firmware goes by the kinds of -boot, and by the order of the disks");
        words.Drop(s_places);
        switch (kind)
        {
            case "VGA":
                machine.Display = DisplayKind.Standard;
                words.Drop("vgamem_mb", "edid", "xres", "yres", "xmax", "ymax", "refresh_rate");
                break;
            case "virtio-tablet-pci" or "virtio-tablet":
                machine.Tablet = true;
                words.Drop("display", "head", "serial");
                break;
            case "ide-hd" or "ide-drive":
                TakeDisk(words, DiskBus.Ahci);
                break;
            case "ide-cd":
                if (words.Take("drive") is { } disc) drives.Take("-device", disc, null, null, reportsWhenFull: false);
                Disk(words);
                break;
            case "ahci" or "ich9-ahci" or "piix3-ide" or "piix4-ide" or "vmgenid":
                words.Drop("guid");
                break;
            case "isa-serial":
                int index = words.TakeNumber("index") ?? machine.Serials.Count;
                while (machine.Serials.Count <= index && index < QemuMachine.MostSerialPorts) machine.Serials.Add(null);
                if (index >= QemuMachine.MostSerialPorts) throw new UsageException($"-device: isa-serial: the board has {QemuMachine.MostSerialPorts} serial "
                    + "ports");
                machine.Serials[index] = words.Take("chardev");
                words.Drop("iobase", "irq");
                break;
            case "isa-debug-exit":
                machine.DebugExits.Add((Port(words, "iobase", 0x501), words.TakeNumber("iosize") ?? 2));
                if (machine.DebugExits[^1].Size is not (1 or 2 or 4)) throw new UsageException("-device: isa-debug-exit: iosize= is 1, 2 or 4");
                break;
            case "isa-debugcon":
                machine.DebugConsoles.Add((Port(words, "iobase", 0xE9), words.Need("chardev")));
                words.Drop("readback");
                break;
            case "pvpanic":
                machine.PanicPort = Port(words, "ioport", 0x505);
                words.Drop("events");
                break;
            case "virtconsole" or "virtserialport":
                AddPort(kind, words, id, bus);
                break;
            default:
                if (kind.StartsWith("virtio-blk", StringComparison.Ordinal)) TakeDisk(words, DiskBus.Virtio);
                else if (kind.StartsWith("virtio-rng", StringComparison.Ordinal)) AddRng(words);
                else if (kind.StartsWith("virtio-balloon", StringComparison.Ordinal)) AddBalloon(words);
                else if (kind.StartsWith("virtio-9p", StringComparison.Ordinal)) folders.AddDevice(words);
                else if (kind.StartsWith("vhost-vsock", StringComparison.Ordinal)) AddVsock(words);
                else AddSerial(words, id);
                break;
        }
        words.Finish();
    }

    /// <summary>Virtio devices are PCI functions, or lie in memory where there is no PCI; others that are PCI functions the machine itself refuses.</summary>
    private void CheckBus(string kind)
    {
        const string inMemory = "-device", onPci = "-pci";
        bool isMicroVm = machine.Board == BoardKind.MicroVm;
        if (kind.EndsWith(inMemory, StringComparison.Ordinal) && !isMicroVm)
            throw new UsageException($"-device: not had: {kind}: virtio over MMIO is -machine microvm's; take {kind[..^inMemory.Length]}{onPci}");
        if (isMicroVm && kind.Contains(onPci, StringComparison.Ordinal) && (kind.StartsWith("virtio-", StringComparison.Ordinal)
            || kind.StartsWith("vhost-vsock", StringComparison.Ordinal)))
        {
            string name = kind[..kind.IndexOf(onPci, StringComparison.Ordinal)];
            throw new UsageException($"-device: not had: {kind}: -machine microvm has no PCI; take {name}{inMemory}");
        }
    }

    private void TakeDisk(QemuWords words, DiskBus bus)
    {
        bool reportsWhenFull = drives.Policies("-device", words);
        drives.Take("-device", words.Need("drive"), bus, Disk(words), reportsWhenFull);
    }

    /// <summary>Words that disks have beside their drive; the serial number.</summary>
    private static string? Disk(QemuWords words)
    {
        words.Drop("werror", "rerror", "num-queues", "queue-size", "write-cache", "logical_block_size", "physical_block_size", "scsi", "config-wce",
            "share-rw", "discard", "write-zeroes", "unit", "model", "wwn", "ver", "rotation_rate", "min_io_size", "opt_io_size", "seg-max-adjust",
            "request-merging", "lun", "vectors",
            "discard_granularity", "device_id", "secs", "heads", "cyls", "bios-chs-trans", "max-discard-sectors", "max-write-zeroes-sectors", "drive");
        return words.Take("serial");
    }

    private void AddRng(QemuWords words)
    {
        words.Drop("rng", "max-bytes", "period", "vectors");
        machine.Rng = true;
    }

    private void AddBalloon(QemuWords words)
    {
        words.Drop("guest-stats-polling-interval", "free-page-hint", "qemu-4-0-config-size", "page-poison");
        machine.Balloon = new VmBalloon
        {
            DeflateOnOom = words.TakeSwitch("deflate-on-oom") ?? false,
            Reporting = words.TakeSwitch("free-page-reporting") ?? false,
        };
    }

    private void AddVsock(QemuWords words)
    {
        words.Drop("vectors", "seqpacket");
        int cid = words.TakeNumber("guest-cid") ?? throw new UsageException("-device: vhost-vsock-pci: guest-cid= is missing");
        string path = words.Take("path") ?? throw new UsageException(
            "-device: not had: vhost-vsock-pci with the host's AF_VSOCK; add path=PATH, a Unix socket by which programs reach the guest");
        machine.Vsock = new VmVsock(path) { Cid = (uint)cid };
    }

    private void AddSerial(QemuWords words, string? id)
    {
        words.Drop("max_ports", "vectors", "emergency-write");
        machine.VirtioSerials.Add(new VirtioSerialSpec(id ?? $"virtio-serial{machine.VirtioSerials.Count}"));
    }

    private void AddPort(string kind, QemuWords words, string? id, string? bus)
    {
        bool isConsole = kind == "virtconsole";
        VirtioSerialSpec? device = bus is { } name ? machine.VirtioSerials.Find(d => name == d.Id || name == d.Id + ".0")
            : machine.VirtioSerials.FirstOrDefault();
        if (bus is not null && device is null) throw new UsageException($"-device: {kind}: there is no virtio-serial '{bus}'");
        if (device is null) throw new UsageException($"-device: {kind}: a '-device virtio-serial-pci' is missing before it");
        device.Ports.Add(new VirtioPortSpec(words.Take("name") ?? (isConsole ? "" : id ?? ""), isConsole, words.Need("chardev"), words.TakeNumber("nr")));
    }

    private static ushort Port(QemuWords words, string key, ushort otherwise) => words.TakeNumber(key) switch
    {
        null => otherwise,
        > 0 and < 0x10000 and { } port => (ushort)port,
        { } other => throw new UsageException($"-device: {key}={other} is no port"),
    };
}
