using Bunraku.Hypervisor.Scheduling;
using Bunraku.Machine;
using Bunraku.Machine.Ahci;
using Bunraku.Machine.Board;
using Bunraku.Machine.Firmware;
using Bunraku.Sessions.Debugging;
using Bunraku.Sessions.Screens;

namespace Bunraku.Sessions;

/// <summary>What display a VM has.</summary>
public enum DisplayKind
{
    /// <summary>A standard one where something needs it: firmware, or who looks at it over a network; else none.</summary>
    Automatic,
    /// <summary>None.</summary>
    None,
    /// <summary>A VGA with the Bochs display registers: <see cref="Machine.Display.VgaController"/>.</summary>
    Standard,
}

/// <summary>What board a VM has.</summary>
public enum BoardKind
{
    /// <summary>A PC with PCI.</summary>
    Pc,
    /// <summary>The same without PCI: virtio devices lie in memory, and there is no other kind of disk, network card or display. For kernels that are entered
    /// without firmware.</summary>
    MicroVm,
}

/// <summary>What one VM is and how it runs, as plain data with defaults. Immutable.</summary>
public record VmOptions
{
    /// <summary>Guest RAM where nothing else is said, in bytes: 512 MiB.</summary>
    public const ulong DefaultMemory = 512ul << 20;

    /// <summary>Smallest RAM that a machine can have, in bytes.</summary>
    public const ulong SmallestMemory = 1ul << 20;

    /// <summary>The value of <see cref="Engine"/> that means the best engine that works on this host.</summary>
    public const string AutomaticEngine = "auto";

    /// <summary>A guest by name, one of <see cref="GuestImage.Names"/>; not used where there is a <see cref="Kernel"/>.</summary>
    public string Guest { get; init; } = "linux";

    /// <summary>
    /// Firmware that finds something to boot by itself: one of <see cref="FirmwareImage.Names"/>, or the path of a ROM's contents. Neither <see cref="Guest"/>
    /// nor <see cref="Kernel"/> is used then. Null: there is none.
    /// </summary>
    public string? Bios { get; init; }

    /// <summary>
    /// Path of a file where firmware with variables keeps them; made where there is none. Null: they are gone at the end. A VM that goes on from a snapshot has
    /// those of the snapshot, and keeps none.
    /// </summary>
    public string? EfiVars { get; init; }

    /// <summary>Path of a kernel: bzImage, ELF with a PVH note, or multiboot. Null: the <see cref="Guest"/>.</summary>
    public string? Kernel { get; init; }

    /// <summary>
    /// Of the guests 'linux' and 'linux-generic': the version of their kernel, or how it begins, for example 6.1.0-57. Null: the newest that is there, or that
    /// the distribution has.
    /// </summary>
    public string? KernelVersion { get; init; }

    /// <summary>
    /// Path of a program or script that these guests run as their first process, in place of ours: all else is its affair. There is a busybox in /bin.
    /// </summary>
    public string? Init { get; init; }

    /// <summary>Path of its initial RAM disk; for a multiboot kernel a list of modules, "FILE ARGUMENTS,FILE ARGUMENTS", with ",," for a comma.</summary>
    public string? Initrd { get; init; }

    /// <summary>
    /// Paths of files for a multiboot or PVH kernel, each with its command line behind the first space. Not together with <see cref="Initrd"/>.
    /// </summary>
    public IReadOnlyList<string> Modules { get; init; } = [];

    /// <summary>Added to the guest's kernel command line.</summary>
    public string? Append { get; init; }

    /// <summary>Bytes of guest RAM: at least <see cref="SmallestMemory"/>, a multiple of 4096.</summary>
    public ulong Memory { get; init; } = DefaultMemory;

    /// <summary>Number of vCPUs, from 1 to what the engine has.</summary>
    public int Cpus { get; init; } = 1;

    /// <summary>Name of an engine, or <see cref="AutomaticEngine"/>.</summary>
    public string Engine { get; init; } = AutomaticEngine;

    /// <summary>The engine holds the local APICs where it can; else the board does.</summary>
    public bool EngineApics { get; init; } = true;

    /// <summary>The processor that the guest sees, MODEL[,+feature,-feature]: see <see cref="CpuModels.Parse(string)"/>. Null: the default model.</summary>
    public string? Cpu { get; init; }

    /// <summary>Virtualization that hypervisors inside the guest find. Null: what <see cref="Cpu"/> says, which is none unless it asks.</summary>
    public NestedVirtualization? Nested { get; init; }

    /// <summary>Offer the guest KVM's paravirtual interface.</summary>
    public bool Paravirtual { get; init; } = true;

    /// <summary>Hz of the guest's TSC; 0: the host's.</summary>
    public ulong TscFrequency { get; init; }

    /// <summary>What the guest gets of the host's processors.</summary>
    public CpuTimeOptions CpuTime { get; init; } = new();

    /// <summary>The board.</summary>
    public BoardKind Board { get; init; }

    /// <summary>The display; what it shows is <see cref="Vm.Display"/>'s to tell.</summary>
    public DisplayKind Display { get; init; }

    /// <summary>Where viewers of VNC can see the screen and use keyboard and pointer, a tablet's; null: nowhere.</summary>
    public VncEndpoint? Vnc { get; init; }

    /// <summary>There is a tablet, by which a viewer's pointer is where the guest's is.</summary>
    public bool HasTablet => Tablet ?? Vnc is not null;

    /// <summary>A virtio tablet; null: where viewers can come.</summary>
    public bool? Tablet { get; init; }

    /// <summary>There is a display.</summary>
    public bool HasDisplay => Display == DisplayKind.Standard || Display == DisplayKind.Automatic && (Bios is not null || Vnc is not null);

    /// <summary>isa-debug-exit on port F4h: the guest ends the VM with status value*2+1.</summary>
    public bool DebugExit { get; init; }

    /// <summary>Ports, interrupt wires and device memory of QEMU's pc-testdev, for test kernels.</summary>
    public bool TestDevice { get; init; }

    /// <summary>Images of compact discs or DVDs, each in a drive of its own on a SATA controller; Linux calls the drives sr0, sr1 and so on.</summary>
    public IReadOnlyList<string> CompactDiscs { get; init; } = [];

    /// <summary>Disks, which Linux calls vda, vdb and so on.</summary>
    public IReadOnlyList<VmDisk> Disks { get; init; } = [];

    /// <summary>
    /// Bytes of the disk that the guest 'debian' has, at least <see cref="Machine.DebianImages.DiskSize"/>; its file system fills it. Null: as many as those,
    /// or as the disk has that was kept.
    /// </summary>
    public ulong? DiskSize { get; init; }

    /// <summary>
    /// Path of the image where the guest 'debian' keeps what it writes: a qcow2 overlay of its image, made where there is none. Null: it is gone at the end.
    /// </summary>
    public string? KeepDisk { get; init; }

    /// <summary>What the guest 'debian' is booted from; its disk is then the first of <see cref="Disks"/>. Null: it is still to be found.</summary>
    internal Machine.DebianFiles? Debian { get; init; }

    /// <summary>A virtio device that gives the guest random numbers of the host.</summary>
    public bool Rng { get; init; }

    /// <summary>Where there is <see cref="Rng"/>: its numbers follow from this one, and are no secret. Null: they are the host's.</summary>
    public ulong? Seed { get; init; }

    /// <summary>Network cards, which Linux calls eth0, eth1 and so on.</summary>
    public IReadOnlyList<VmNetwork> Networks { get; init; } = [];

    /// <summary>Folders of the host, each with a virtio device by which the guest mounts it.</summary>
    public IReadOnlyList<VmShare> Shares { get; init; } = [];

    /// <summary>A socket device; null: none.</summary>
    public VmVsock? Vsock { get; init; }

    /// <summary>A memory balloon; null: none.</summary>
    public VmBalloon? Balloon { get; init; }

    /// <summary>Kinds of devices that the firmware tries, the first first; empty: disks, discs, network.</summary>
    public IReadOnlyList<BootDevice> BootDevices { get; init; } = [];

    /// <summary>What the machine tells of itself. Without firmware, it tells nothing unless something is said here.</summary>
    public MachineIdentity Identity { get; init; } = new();

    /// <summary>What the real-time clock shows when the VM is made; null: the time of day, UTC.</summary>
    public DateTime? ClockStart { get; init; }

    /// <summary>A guest that resets the machine ends the VM, where it would boot again.</summary>
    public bool NoReboot { get; init; }

    /// <summary>Where it listens for a debugger (GDB, LLDB), which then has all of the guest; null: nowhere.</summary>
    public DebugEndpoint? Debugger { get; init; }

    /// <summary>The guest stands still before its first instruction, until a debugger lets it go on, or <see cref="Vm.Resume"/>.</summary>
    public bool StartsStopped { get; init; }

    /// <summary>The VM is ended after this time, more than zero; null: never.</summary>
    public TimeSpan? Timeout { get; init; }

    /// <summary>A command with its arguments to run inside the guest, each passed as it is; null boots to the guest's shell.</summary>
    public IReadOnlyList<string>? Command { get; init; }

    /// <summary>Variables of the environment of the command, or of the shell, of a guest of ours; of a name given twice the last one counts.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Environment { get; init; } = [];

    /// <summary>
    /// The folder where the command or the shell starts, from / on, or from the first of <see cref="Shares"/> on. Null: there, or where it starts by itself.
    /// </summary>
    public string? WorkingFolder { get; init; }

    /// <summary>As whom the command or the shell runs: a name that the guest knows, or UID[:GID]. Null: root.</summary>
    public string? User { get; init; }

    /// <summary>Files and folders of the host that a guest of ours gets a copy of before anything runs.</summary>
    public IReadOnlyList<VmCopy> Copies { get; init; } = [];

    /// <summary>
    /// A guest of ours is kept in the cache when it has booted, before its command or its shell, and the next one like it goes on from there: see
    /// <see cref="KeptGuests"/>. Else it is booted.
    /// </summary>
    public bool KeepBooted { get; init; }

    /// <summary>For tests: where guests are kept. Null: in the cache.</summary>
    internal string? KeptFolder { get; init; }

    /// <summary>For tests: a command's streams go over serial ports, as they do where the driver of the virtio console cannot be had.</summary>
    internal bool SerialStreams { get; init; }

    /// <summary>The user's terminal that the guest gets, or null for streams.</summary>
    public TerminalInfo? Terminal { get; init; }

    /// <summary>Look a thousand times a second what the vCPUs do, for <see cref="VmStatistics.Work"/>. Takes a thread a few microseconds each time.</summary>
    public bool SampleWork { get; init; }

    /// <summary>From when the statistics count, UTC; null: from when the VM is made.</summary>
    public DateTime? Started { get; init; }

    private static bool IsUser(string text)
    {
        const int longest = 32;
        string[] parts = text.Split(':');
        if (parts[0].Length > 0 && char.IsAsciiDigit(parts[0][0]))
            return parts.Length <= 2 && parts.All(p => uint.TryParse(p, System.Globalization.NumberStyles.None, null, out uint n) && n < uint.MaxValue);
        return parts.Length == 1 && text.Length is > 0 and <= longest && text[0] != '-'
            && text.All(c => char.IsAsciiLetterOrDigit(c) || c is '_' or '-' or '.');
    }

    /// <summary>Finds what is wrong with the options by themselves, whatever the host and the engine.</summary>
    /// <exception cref="VmOptionException">An option is wrong.</exception>
    internal void Check(VmWords words)
    {
        Func<string, string> o = words.Option;
        Require(Memory % GuestMemory.PageSize == 0, nameof(Memory), $"{Memory} bytes are not a whole number of 4 KiB pages");
        Require(Memory >= SmallestMemory, nameof(Memory), $"{Memory} bytes are too few; the least is {SmallestMemory}");
        Require(Cpus >= 1, nameof(Cpus), $"{Cpus} is not a number of processors; the least is 1");
        Require(TscFrequency == 0 || TscFrequency is >= VirtualClock.LowestFrequency and <= VirtualClock.HighestFrequency, nameof(TscFrequency),
            $"{TscFrequency} Hz; from {VirtualClock.LowestFrequency} to {VirtualClock.HighestFrequency} is possible");
        Require(Timeout is null || (Timeout > TimeSpan.Zero && Timeout <= TimeSpan.FromMilliseconds(int.MaxValue)), nameof(Timeout),
            $"{Timeout} is not a time to wait; from 1 ms to 24 days is possible");
        Require(Command is not { Count: 0 }, nameof(Command), "it is empty; without a command the guest has a shell");
        Require(Command is null
            || Kernel is null, nameof(Command), $"a command needs a guest that can run it; with {o(nameof(Kernel))}, use {o(nameof(Append))}");
        Require(Initrd is null || Modules.Count == 0, nameof(Modules),
            $"give the files either with {o(nameof(Initrd))} or with {o(nameof(Modules))}, not both: a kernel goes by their order");

        if (Kernel is null && Bios is null && !GuestImage.Names.Contains(Guest))
            throw new VmOptionException(nameof(Guest), Nearest.Message("guest", Guest, GuestImage.Names));
        bool isOurs = Kernel is null && Bios is null && Guest != HelloGuest.Name && !DebianGuest.Is(this);
        Require(KernelVersion is null || isOurs, nameof(KernelVersion), "it is for the guests 'linux' and 'linux-generic' alone");
        Require(KernelVersion is null || KernelVersion.Length > 0 && KernelVersion.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '-' or '+' or '~'),
            nameof(KernelVersion), $"'{KernelVersion}' is no version of a kernel; it is for example 6.1.0-57");
        Require(Init is null || isOurs && Command is null, nameof(Init), "it is for the guests 'linux' and 'linux-generic' alone, without a command");
        Require(Init is null || Shares.Count == 0 && Copies.Count == 0 && Environment.Count == 0 && WorkingFolder is null && User is null, nameof(Init),
            "what shared folders, copies, variables, folder and user mean is the affair of the first process, which is the user's own here");

        Require(DebianGuest.Is(this) || DiskSize is null, nameof(DiskSize), "it is for the guest 'debian' alone, whose disk is made for it");
        Require(DebianGuest.Is(this) || KeepDisk is null, nameof(KeepDisk), $"it is for the guest 'debian' alone; {o(nameof(Disks))} takes disks of your own");
        Require(KeepDisk is null or { Length: > 0 }, nameof(KeepDisk), "the file's name is empty");
        Require(DiskSize is null || DiskSize >= Machine.DebianImages.DiskSize && DiskSize % 512 == 0, nameof(DiskSize),
            $"{DiskSize} bytes; the disk has at least {Machine.DebianImages.DiskSize >> 30}G, of which it takes what is written alone, in sectors of 512");

        if (Board == BoardKind.MicroVm)
        {
            const string isAbsent = "is a PCI device, and the board microvm has none";
            Require(Bios is null, nameof(Bios), "firmware needs PCI, and the board microvm has none; it boots a kernel by itself");
            Require(!HasDisplay, Vnc is null ? nameof(Display) : nameof(Vnc), "the screen " + isAbsent);
            Require(CompactDiscs.Count == 0 && Disks.All(d => d.Bus == DiskBus.Virtio), CompactDiscs.Count > 0 ? nameof(CompactDiscs) : nameof(Disks),
                "the SATA controller " + isAbsent);
            Require(Networks.All(n => n.Model == NetworkModel.Virtio), nameof(Networks), "the card e1000 " + isAbsent);
        }
        Require(Vnc is null || HasDisplay, nameof(Vnc), $"there is no screen to be shown; leave out {o(nameof(Display))}");
        Require(!HasDisplay || Memory > SmallestMemory, nameof(Memory), "a machine with a display needs more than 1 MiB");
        if (Identity.Problem is { } problemOfIdentity) Require(false, nameof(Identity), problemOfIdentity);
        Require(BootDevices.Distinct().Count() == BootDevices.Count, nameof(BootDevices), "a kind of devices is named twice");
        Require(EfiVars is null || Bios is not null && FirmwareImage.HasVariables(Bios), nameof(EfiVars), $"it goes with {o(nameof(Bios))} ovmf");
        if (Bios is not null)
        {
            Require(Kernel is null && Command is null && Append is null && Initrd is null && Modules.Count == 0, nameof(Bios),
                $"the firmware boots by itself, so that {o(nameof(Kernel))}, {o(nameof(Initrd))}, {o(nameof(Modules))}, {o(nameof(Append))} and a command "
                + "are of no use");
            Require(Memory > SmallestMemory, nameof(Memory), "a machine with firmware needs more than 1 MiB");
        }

        foreach (VmDisk disk in Disks)
        {
            Require(disk.Serial.Length <= VmDisk.LongestSerial && !disk.Serial.AsSpan().ContainsAnyExceptInRange('!', '~'), nameof(Disks),
                $"'{disk.Serial}' is no serial number; it has up to {VmDisk.LongestSerial} printable characters without spaces");
        }
        int drives = CompactDiscs.Count + Disks.Count(d => d.Bus == DiskBus.Ahci);
        Require(drives <= AhciController.Ports, nameof(CompactDiscs),
            $"{drives} drives are too many for the SATA controller; with disks on it, it has {AhciController.Ports}");
        foreach (VmNetwork network in Networks)
        {
            Require(network.Mac is null || network.Mac.GetAddressBytes() is { Length: 6 } mac && (mac[0] & 1) == 0 && mac.AsSpan().ContainsAnyExcept((byte)0),
                nameof(Networks), $"{network.Mac} is no address of a network card; it has 6 bytes, the first of them even");
            Require(network.Model == NetworkModel.Virtio || network.Queues is null or 1, nameof(Networks), "the card e1000 has one queue, not several");
            Require(network.Mtu is null or >= VmNetwork.SmallestMtu and <= VmNetwork.LargestMtu, nameof(Networks),
                $"an MTU of {network.Mtu} bytes; from {VmNetwork.SmallestMtu} to {VmNetwork.LargestMtu} is possible");
            Require(network.Queues is null or >= 1 and <= VmNetwork.MostQueues, nameof(Networks),
                $"{network.Queues} queues; from 1 to {VmNetwork.MostQueues} are possible");
        }
        bool mounts = Kernel is null && Bios is null && Guest != HelloGuest.Name;
        if (VmShare.Problem(Shares, mounts) is { } problemOfShare) Require(false, nameof(Shares), problemOfShare);
        foreach ((string option, bool isGiven) in ((string, bool)[])[(nameof(Environment), Environment.Count > 0),
            (nameof(WorkingFolder), WorkingFolder is not null), (nameof(User), User is not null), (nameof(Copies), Copies.Count > 0)])
            Require(!isGiven || mounts, option, "it is for the built-in guests that are Linux alone: what runs in another one, nobody here can tell");
        foreach ((string name, string value) in Environment)
        {
            Require(name.Length > 0 && !char.IsAsciiDigit(name[0]) && name.All(c => char.IsAsciiLetterOrDigit(c) || c == '_'), nameof(Environment),
                $"'{name}' is no name of a variable; it has letters, digits and underscores");
            Require(!value.Contains('\0'), nameof(Environment), $"the value of '{name}' contains a zero");
        }
        Require(WorkingFolder is not "" && WorkingFolder?.Any(char.IsControl) != true, nameof(WorkingFolder), "the folder's name is empty, or no text");
        Require(User is null || !DebianGuest.Is(this) || Command is not null, nameof(User), "with the guest 'debian' it goes with a command");
        Require(User is null || IsUser(User), nameof(User), $"'{User}' is no user; write a name, or a number, or UID:GID");
        foreach (VmCopy copy in Copies)
        {
            Require(copy.Source.Length > 0, nameof(Copies), "the file's name is empty");
            if (copy.At is { } at && GuestCopies.Problem(at) is { } problemOfCopy) Require(false, nameof(Copies), problemOfCopy);
        }
        if (Vsock?.Problem is { } problemOfVsock) Require(false, nameof(Vsock), problemOfVsock);
        const int slots = 24;
        Require(Disks.Count <= slots, nameof(Disks), $"{Disks.Count} disks are too many; the board has slots for {slots}");
        Require(Disks.Count + Networks.Count <= slots, nameof(Networks), $"{Disks.Count} disks and {Networks.Count} network cards are too many; "
            + $"the board has slots for {slots}");
        Require(Disks.Count + Networks.Count + Shares.Count <= slots, nameof(Shares),
            $"{Disks.Count} disks, {Networks.Count} network cards and {Shares.Count} shared folders are too many; the board has slots for {slots}");

        void Require(bool holds, string option, string problem)
        {
            if (!holds) throw new VmOptionException(option, $"{o(option)}: {problem}");
        }
    }
}
