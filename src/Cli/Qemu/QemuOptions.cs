namespace Bunraku.Cli.Qemu;

/// <summary>How an option of QEMU's behaves here.</summary>
internal enum Likeness
{
    /// <summary>As QEMU's manual says.</summary>
    Same,
    /// <summary>It works, with a difference that the note tells.</summary>
    Different,
    /// <summary>It is taken and means nothing here; a line says so where somebody could have wanted something by it.</summary>
    Ignored,
    /// <summary>It is refused with a line.</summary>
    Absent,
}

/// <summary>One option.</summary>
/// <param name="Name">Without the dash.</param>
/// <param name="Argument">What stands behind it, for the help; null: nothing does.</param>
/// <param name="Note">What it does, or what differs, for docs/qemu-options.md.</param>
/// <param name="Read">What the reader does with it; null where it is ignored or refused.</param>
internal sealed record QemuOption(string Name, string? Argument, Likeness Likeness, string Note, Action<QemuReader, string>? Read = null)
{
    /// <summary>A line is printed when it is ignored.</summary>
    public bool TellsOfIgnoring { get; init; } = true;
}

/// <summary>All options of qemu-system-x86_64 7.2, each with what becomes of it. docs/qemu-options.md is checked against this table.</summary>
internal static class QemuOptions
{
    /// <summary>In the order of QEMU's manual: machine, disks, display, network, boot, characters, monitors, the rest.</summary>
    public static IReadOnlyList<QemuOption> All { get; } =
    [
        new("h", null, Likeness.Same, "a list of the options", (r, _) => r.Ask(QemuQuestion.Help)),
        new("help", null, Likeness.Same, "as -h", (r, _) => r.Ask(QemuQuestion.Help)),
        new("version", null, Likeness.Same,
            "says 'QEMU emulator version 7.2.0', for tools that look for it, and Bunraku's own", (r, _) => r.Ask(QemuQuestion.Version)),
        new("machine", "[type=]NAME[,prop=value...]", Likeness.Different,
            "pc and q35, with or without a version, are both Bunraku's PC, and microvm is the same without PCI, for -kernel alone; isapc and Xen's are "
            + "refused. accel= as -accel; the other properties are passed over", (r, t) => r.Machine(t)),
        new("M", "[type=]NAME", Likeness.Different, "as -machine", (r, t) => r.Machine(t)),
        new("cpu", "MODEL[,+feature,-feature,feature=on|off]", Likeness.Different,
            "each of QEMU's models becomes the nearest of Bunraku's: x86-64-v1, v2, v3, x86-64-v3-intel or max (host, max). Features that the processor "
            + "does not have are told and left out, with 'enforce' refused. kvm=off hides the paravirtual interface. Without -cpu it is x86-64-v3",
            (r, t) => r.Cpu(t)),
        new("accel", "NAME[,prop=value...]", Likeness.Different,
            "kvm is the best engine that works here, which is kvm where it is fast and bt otherwise; tcg is bt; bt, interp and check are Bunraku's own "
            + "names. Several, or kvm:tcg, mean the first that is there. Without any it is the best engine", (r, t) => r.Accelerator(t)),
        new("enable-kvm", null, Likeness.Different, "as -accel kvm", (r, _) => r.Accelerator("kvm")),
        new("smp", "[cpus=]N[,maxcpus=][,sockets=][,dies=][,cores=][,threads=]", Likeness.Different,
            "the number of processors; each is a socket of its own, and none is plugged in", (r, t) => r.Smp(t)),
        new("numa", "node[,...]", Likeness.Ignored, "all memory is one node"),
        new("m", "[size=]SIZE[,slots=N,maxmem=SIZE]", Likeness.Different, "the default is 128 MiB; no memory is plugged in", (r, t) => r.Memory(t)),
        new("mem-path", "FILE", Likeness.Ignored, "memory is anonymous, in huge pages where the host gives them"),
        new("mem-prealloc", null, Likeness.Ignored, "memory is taken as the guest touches it"),
        new("k", "LANGUAGE", Likeness.Ignored, "keys of a US keyboard") { TellsOfIgnoring = false },
        new("audio", "...", Likeness.Ignored, "there is no sound"),
        new("audiodev", "...", Likeness.Ignored, "there is no sound"),
        new("audio-help", null, Likeness.Absent, "there is no sound"),
        new("device", "KIND[,prop=value...]", Likeness.Different, "see the table of devices", (r, t) => r.Device(t)),
        new("name", "NAME[,process=,debug-threads=]", Likeness.Same, "told by query-name; 'bunraku run --name' is another one", (r, t) => r.Name(t)),
        new("uuid", "UUID", Likeness.Same, "in SMBIOS, with and without firmware", (r, t) => r.Uuid(t)),

        new("hda", "FILE", Likeness.Different, "a disk on SATA, not IDE: Linux calls it sda with both", (r, t) => r.Drives.AddNumbered("-hda", t, 0)),
        new("hdb", "FILE", Likeness.Different, "as -hda", (r, t) => r.Drives.AddNumbered("-hdb", t, 1)),
        new("hdc", "FILE", Likeness.Different, "as -hda", (r, t) => r.Drives.AddNumbered("-hdc", t, 2)),
        new("hdd", "FILE", Likeness.Different, "as -hda", (r, t) => r.Drives.AddNumbered("-hdd", t, 3)),
        new("cdrom", "FILE", Likeness.Different, "a CD drive on SATA", (r, t) => r.Drives.AddNumbered("-cdrom", t, 2, isCompactDisc: true)),
        new("drive", "[file=FILE][,if=virtio|ide|none][,format=raw|qcow2][,...]", Likeness.Different,
            "if=ide (the default) is on SATA; pflash as -pflash; scsi, floppy, sd and mtd are refused. snapshot, readonly, media, index, serial, "
            + "discard=unmap and werror are there: as with QEMU the machine is stopped where the host has no room, until 'cont', unless werror=report; cache "
            + "and aio change nothing, since what is flushed is always safe", (r, t) => r.Drives.Add(t)),
        new("blockdev", "driver=file|raw|qcow2,node-name=NAME[,...]", Likeness.Different,
            "nodes of files and of the two formats, also as JSON", (r, t) => r.Drives.AddNode(t)),
        new("snapshot", null, Likeness.Same, "what is written to disks is gone at the end", (r, _) => r.Drives.Throwaway = true),
        new("fda", "FILE", Likeness.Absent, "there are no floppies"),
        new("fdb", "FILE", Likeness.Absent, "there are no floppies"),
        new("mtdblock", "FILE", Likeness.Absent, "disks are on virtio or SATA"),
        new("sd", "FILE", Likeness.Absent, "disks are on virtio or SATA"),
        new("pflash", "FILE", Likeness.Different, "the first is the code of Debian's package ovmf (OVMF_CODE_4M.fd), the second the file of its variables",
            (r, t) => r.Pflash(null, t, isReadOnly: false)),
        new("iscsi", "...", Likeness.Absent, "images are files of this host"),
        new("fsdev", "local,id=NAME,path=FOLDER[,security_model=][,readonly=on]", Likeness.Different,
            "security_model none and mapped-xattr: files are root's in the guest, and what else it says of owners is in extended attributes of our own; "
            + "passthrough: the host's numbers, for root. Links, devices and FIFOs of the host are never followed or opened. proxy and synth are refused",
            (r, t) => r.Folders.AddBackend(t)),
        new("virtfs", "local,path=FOLDER,mount_tag=TAG[,...]", Likeness.Different, "as -fsdev with -device virtio-9p-pci", (r, t) => r.Folders.AddPair(t)),

        new("usb", null, Likeness.Ignored, "there is no USB"),
        new("usbdevice", "NAME", Likeness.Ignored, "there is no USB"),
        new("display", "none|vnc=DISPLAY|...", Likeness.Different, "none and vnc=; any other is as none, with a line: there is no window",
            (r, t) => r.Display(t)),
        new("nographic", null, Likeness.Same,
            "the first serial port and the monitor share the terminal; Ctrl-A X, C, B, H as there", (r, _) => r.IsNoGraphic = true),
        new("spice", "...", Likeness.Absent, "-vnc shows the screen"),
        new("portrait", null, Likeness.Ignored, "there is no window"),
        new("rotate", "DEGREES", Likeness.Ignored, "there is no window"),
        new("vga", "std|none|...", Likeness.Different, "std and none; any other is as std, with a line. Without it: std with firmware or -vnc, else none",
            (r, t) => r.Vga(t)),
        new("full-screen", null, Likeness.Ignored, "there is no window"),
        new("g", "WxH[xDEPTH]", Likeness.Ignored, "the guest chooses"),
        new("vnc", "[HOST]:N|unix:PATH|none[,password=on][,password-secret=ID]", Likeness.Different,
            "port 5900+N, on loopback if no host is named, and on other hosts only with a password: that of the secret, or the one that 'change vnc "
            + "password', 'set_password' or QMP's set_password has set; until then nobody is let in. There is no TLS or SASL, and VNC goes by 8 bytes of a "
            + "password", (r, t) => r.Vnc(t)),
        new("win2k-hack", null, Likeness.Ignored, "there is no IDE"),
        new("no-fd-bootchk", null, Likeness.Ignored, "there are no floppies") { TellsOfIgnoring = false },
        new("no-acpi", null, Likeness.Absent, "the machine has ACPI; Linux leaves it alone with acpi=off"),
        new("no-hpet", null, Likeness.Ignored, "the machine has an HPET; Linux leaves it alone with hpet=disable"),
        new("acpitable", "...", Likeness.Absent, "tables are the machine's own"),
        new("smbios", "type=N[,...]|file=FILE", Likeness.Different,
            "types 0, 1 and 11 (OEM strings; value= and path=); what else stands in them is passed over with a line, as are types 2, 3, 4 and 17; file= "
            + "is refused", (r, t) => r.Smbios(t)),

        new("netdev", "user|tap|socket|stream|dgram,id=NAME[,...]", Likeness.Different,
            "user: hostfwd, restrict, net, host, dns, dhcpstart, ipv6; hostfwd without an address listens on 127.0.0.1 alone, not on all. 10.0.2.2 "
            + "reaches the host's loopback, as with QEMU. tap: ifname. socket: listen=, connect=, mcast= and udp=; listen= without an address is "
            + "127.0.0.1, and frames of one's own do not come back from a group. stream: inet, and unix, where the first one that comes listens. dgram: inet "
            + "to inet, or to a group. fd=, tftp, smb and guestfwd are refused", (r, t) => r.Networks.AddBackend(t)),
        new("nic", "user|tap|socket|none[,model=][,mac=][,...]", Likeness.Different,
            "as -netdev with a card; there are virtio's and e1000, and a line says so where another one was asked for", (r, t) => r.Networks.AddPair(t)),
        new("net", "nic|user|none[,...]", Likeness.Different,
            "one card and one network; a machine of which nothing is said has a card with the user-mode network, where the host has libslirp",
            (r, t) => r.Networks.AddToHub(t)),

        new("chardev", "KIND,id=NAME[,mux=on][,logfile=FILE][,...]", Likeness.Different,
            "null, stdio, file, pipe, pty, socket (Unix and TCP, server and client, wait, reconnect). Servers listen on loopback alone. A mux is for one "
            + "port and a monitor", (r, t) => r.Characters.Add(t)),
        new("tpmdev", "...", Likeness.Absent, "there is no TPM"),

        new("bios", "FILE", Likeness.Different,
            "a ROM's contents; names of SeaBIOS's files are SeaBIOS. With -kernel the kernel is entered without firmware, and SeaBIOS's names are passed "
            + "over", (r, t) => r.BiosFile = t),
        new("pidfile", "FILE", Likeness.Same, "the process ID, gone at the end", (r, t) => r.Result.PidFile = t),
        new("daemonize", null, Likeness.Same, "the process goes into the background when the machine is made", (r, _) => r.Result.Daemonize = true),
        new("kernel", "FILE", Likeness.Different,
            "bzImage, ELF with a PVH note, multiboot; entered directly, in a few milliseconds, not through SeaBIOS", (r, t) => r.Result.Kernel = t),
        new("append", "TEXT", Likeness.Same, "the kernel's command line", (r, t) => r.Result.Append = t),
        new("initrd", "FILE", Likeness.Same, "for a multiboot kernel the list of its modules", (r, t) => r.Result.Initrd = t),
        new("dtb", "FILE", Likeness.Absent, "a PC has no device tree"),
        new("boot", "[order=]LETTERS[,once=][,menu=][,strict=]", Likeness.Different,
            "order: c, d and n, for SeaBIOS; a is passed over. menu, splash, strict and reboot-timeout are passed over", (r, t) => r.Boot(t)),
        new("option-rom", "FILE", Likeness.Absent, "ROMs are those of the machine's cards"),
        new("L", "FOLDER", Likeness.Ignored, "firmware is found where its packages put it") { TellsOfIgnoring = false },
        new("fw_cfg", "[name=]NAME,file=FILE|string=TEXT", Likeness.Same, "an item of fw_cfg", (r, t) => r.FirmwareItem(t)),

        new("serial", "WHERE", Likeness.Different,
            "two ports: COM1 and COM2. stdio, mon:stdio, null, none, file:, pipe:, pty, unix:, tcp:, chardev:; vc is null; COM1 is there with none as "
            + "well", (r, t) => r.Serials.Add(t)),
        new("parallel", "WHERE", Likeness.Ignored, "there is no parallel port") { TellsOfIgnoring = false },
        new("debugcon", "WHERE", Likeness.Same, "port E9h", (r, t) => r.DebugConsole(t)),
        new("monitor", "WHERE", Likeness.Different,
            "Bunraku's monitor behind QEMU's prompt: stop, cont, quit, system_powerdown, system_reset, nmi, info status, info registers, "
            + "block_resize, set_link, change vnc password, set_password and its own; disks and cards do not come and go while the machine runs",
            (r, t) => r.Monitors.Add((t, false, false))),
        new("qmp", "WHERE", Likeness.Different, "the commands that start, stop and ask: see the list of them", (r, t) => r.Monitors.Add((t, true, false))),
        new("qmp-pretty", "WHERE", Likeness.Different, "as -qmp, on several lines", (r, t) => r.Monitors.Add((t, true, true))),
        new("mon", "[chardev=]NAME[,mode=readline|control][,pretty=]", Likeness.Different, "as -monitor and -qmp", (r, t) => r.Monitor(t)),
        new("echr", "NUMBER", Likeness.Same, "the escape key in place of Ctrl-A (1)", (r, t) => r.EscapeKey(t)),
        new("gdb", "tcp:HOST:PORT|unix:PATH", Likeness.Different, "listens on loopback alone", (r, t) => r.Debugger(t)),
        new("s", null, Likeness.Same, "as -gdb tcp::1234", (r, _) => r.Debugger("tcp::1234")),
        new("S", null, Likeness.Same, "the machine waits for 'cont'", (r, _) => r.Result.Stopped = true),

        new("no-reboot", null, Likeness.Same, "a reset ends the machine, with status 0", (r, _) => r.Result.NoReboot = true),
        new("no-shutdown", null, Likeness.Same,
            "the process stays when the guest has switched off, until a monitor says quit", (r, _) => r.Result.NoShutdown = true),
        new("action", "EVENT=WHAT[,...]", Likeness.Different,
            "reboot=reset|shutdown, shutdown=poweroff|pause; panic=shutdown is what there is; watchdog is passed over", (r, t) => r.Action(t)),
        new("rtc", "[base=utc|localtime|DATE][,clock=][,driftfix=]", Likeness.Different,
            "base; the clock is the host's, and never steps back", (r, t) => r.Clock(t)),
        new("object", "KIND,id=NAME[,...]", Likeness.Different,
            "secret (data= or file=, raw or base64), for -vnc; rng-random, rng-builtin, memory-backend-*, iothread, throttle-group and can-bus are taken and "
            + "mean nothing beside what devices have; others are refused", (r, t) => r.Object(t)),
        new("global", "DRIVER.PROP=VALUE", Likeness.Ignored, "properties of devices are ours"),
        new("set", "GROUP.ID.ARG=VALUE", Likeness.Absent, "write it where the thing is named"),
        new("nodefaults", null, Likeness.Same, "no default serial port, monitor and network card", (r, _) => r.NoDefaults = true),
        new("no-user-config", null, Likeness.Same, "there is none", (_, _) => { }),
        new("readconfig", "FILE", Likeness.Absent, "there are no configuration files of QEMU's"),
        new("overcommit", "...", Likeness.Ignored, "memory is taken as the guest touches it") { TellsOfIgnoring = false },
        new("msg", "...", Likeness.Ignored, "messages are as they are") { TellsOfIgnoring = false },
        new("compat", "...", Likeness.Ignored, "there is no interface to be deprecated") { TellsOfIgnoring = false },
        new("only-migratable", null, Likeness.Ignored, "a machine of QEMU's words stays here"),
        new("watchdog-action", "WHAT", Likeness.Ignored, "there is no watchdog"),
        new("watchdog", "MODEL", Likeness.Ignored, "there is no watchdog"),
        new("d", "ITEMS", Likeness.Ignored, "'bunraku run --trace' has a line for each exit"),
        new("D", "FILE", Likeness.Ignored, "there is no such log"),
        new("dfilter", "RANGE", Likeness.Ignored, "there is no such log"),
        new("trace", "...", Likeness.Ignored, "'bunraku run --trace' has a line for each exit"),
        new("singlestep", null, Likeness.Ignored, "-accel interp interprets instruction by instruction"),
        new("seed", "NUMBER", Likeness.Ignored, "the guest's random numbers are the host's"),
        new("perfmap", null, Likeness.Ignored, "'bunraku run --perf-map' writes it"),
        new("async-teardown", null, Likeness.Ignored, "memory goes with the process") { TellsOfIgnoring = false },
        new("enable-sync-profile", null, Likeness.Ignored, "for QEMU's developers"),
        new("sandbox", "on|off[,...]", Likeness.Ignored, "the process has the rights that it was started with"),
        new("chroot", "FOLDER", Likeness.Absent, "the process stays where it was started"),
        new("runas", "USER", Likeness.Absent, "start it as that user"),
        new("add-fd", "...", Likeness.Absent, "files are named"),
        new("icount", "...", Likeness.Absent, "time is the host's"),
        new("incoming", "...", Likeness.Absent, "'bunraku receive' takes a machine that moves"),
        new("loadvm", "TAG", Likeness.Absent, "'bunraku restore' goes on from a file"),
        new("preconfig", null, Likeness.Absent, "the machine is made of its words alone"),
        new("plugin", "...", Likeness.Absent, "there are no plugins of QEMU's"),
        new("dump-vmstate", "FILE", Likeness.Absent, "for QEMU's developers"),
        new("xen-domid", "ID", Likeness.Absent, "there is no Xen below"),
        new("xen-attach", null, Likeness.Absent, "there is no Xen below"),
        new("xen-domid-restrict", null, Likeness.Absent, "there is no Xen below"),
    ];

    /// <summary>An option by its name.</summary>
    public static QemuOption? Find(string name) => All.FirstOrDefault(o => o.Name == name);
}
