using System.Security.Cryptography;

namespace Bunraku.Machine;

/// <summary>How the user's terminal or streams are wired to a Linux guest.</summary>
public enum GuestConsole
{
    /// <summary>A shell on COM1, with the kernel's messages: the user's terminal, raw. One serial port.</summary>
    Shell,
    /// <summary>
    /// One command. COM2 carries its standard output and error as they are, and its standard input in frames (<see cref="CommandInput"/>). COM1 has the
    /// kernel's messages. Two serial ports.
    /// </summary>
    Command,
    /// <summary>
    /// One command whose standard input, output and error have a port of a virtio console each: <see cref="LinuxGuest.InputPort"/>. COM1 has the kernel's
    /// messages. One serial port.
    /// </summary>
    CommandOnPorts,
    /// <summary>
    /// One command that has COM2 as its terminal: the user's terminal, raw, both ways as it is. COM1 has the kernel's messages. Two serial ports.
    /// </summary>
    CommandOnTerminal,
}

/// <summary>What the guest's user space is to do.</summary>
public sealed record LinuxGuestOptions
{
    /// <summary>Command and arguments to run, each passed exactly as it is; empty for a shell.</summary>
    public IReadOnlyList<string> Command { get; init; } = [];

    /// <summary>The user's standard input and output are both a terminal, and a command shall have one too.</summary>
    public bool Terminal { get; init; }

    /// <summary>Size of the user's terminal in characters, 0 when unknown.</summary>
    public int Columns { get; init; }
    /// <summary>The other size, 0 when unknown.</summary>
    public int Rows { get; init; }

    /// <summary>TERM for the guest, null when unknown.</summary>
    public string? Term { get; init; }

    /// <summary>
    /// Network cards, eth0 and so on: true where a DHCP server is sure to answer, so that nothing runs before; the others get their address when they get it.
    /// </summary>
    public IReadOnlyList<bool> Networks { get; init; } = [];

    /// <summary>Network cards whose addresses were chosen by somebody, and stay as they are in a copy of the guest.</summary>
    public IReadOnlyList<bool> HasOwnAddress { get; init; } = [];

    /// <summary>Shared folders, which are mounted before anything runs; the command starts in the first of them.</summary>
    public IReadOnlyList<LinuxGuestShare> Shares { get; init; } = [];

    /// <summary>Variables of the environment that it starts with, in this order; names of letters, digits and underscores.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> Environment { get; init; } = [];

    /// <summary>Where it starts, from / on or from the first shared folder on; null: there, or where a login would.</summary>
    public string? WorkingFolder { get; init; }

    /// <summary>As whom it runs: a name, or UID[:GID]; null: root.</summary>
    public string? User { get; init; }

    /// <summary>Files that the guest has beside its own.</summary>
    public IReadOnlyList<LinuxGuestFile> Files { get; init; } = [];

    /// <summary>A program or script that is the first process in place of ours; null: ours is.</summary>
    public ReadOnlyMemory<byte>? Init { get; init; }

    /// <summary>The machine has a virtio console, and the modules have its driver.</summary>
    public bool StreamPorts { get; init; }

    /// <summary>It has devices whose drivers it is to look for itself, with <see cref="StreamPorts"/>.</summary>
    public bool FindsDrivers { get; init; }

    /// <summary>See <see cref="LinuxGuest.Waits"/>; with <see cref="StreamPorts"/>, and whatever the command and its terminal are.</summary>
    public bool Waits { get; init; }

    /// <summary>With ports, the command's standard error comes apart from its output; else both come by the output's.</summary>
    public bool SeparateErrors { get; init; }

    /// <summary>Kernel modules that are loaded before anything runs, in this order.</summary>
    public IReadOnlyList<ReadOnlyMemory<byte>> Modules { get; init; } = [];
}

/// <summary>A shared folder of a guest.</summary>
/// <param name="Tag">Of the virtio device.</param>
/// <param name="At">Where it is mounted: a path from / on.</param>
/// <param name="IsReadOnly">Nothing in it can be changed.</param>
/// <param name="WritesLater">What programs write may wait in the guest.</param>
public sealed record LinuxGuestShare(string Tag, string At, bool IsReadOnly, bool WritesLater)
{
    /// <summary>It is mounted by 9p, with this word for its cache; null: by virtio-fs.</summary>
    public string? NinePCache { get; init; }

    /// <summary>Words for mount.</summary>
    internal string Options => NinePCache is null ? $"-t virtiofs -o {Rights}"
        : $"-t 9p -o {Rights},trans=virtio,version=9p2000.L,msize={LargestMessage},cache={NinePCache}";

    /// <summary>As much as Linux's driver has in one request of virtio.</summary>
    private const int LargestMessage = 512_000;

    private string Rights => IsReadOnly ? "ro" : "rw";
}

/// <summary>A Linux guest ready to be booted.</summary>
/// <param name="Kernel">The kernel file.</param>
/// <param name="Initrd">Our initramfs.</param>
/// <param name="Append">Kernel command line; the user's own additions come behind it.</param>
/// <param name="Token">For <see cref="GuestMessages"/> on COM1: the command's exit status comes there, in every mode.</param>
public sealed record LinuxGuest(ReadOnlyMemory<byte> Kernel, string KernelName, ReadOnlyMemory<byte> Initrd, string Append, GuestConsole Console, string Token)
{
    /// <summary>16550A ports that the guest needs: COM1 at 3F8 IRQ 4, and COM2 at 2F8 IRQ 3.</summary>
    public int SerialPorts => Console == GuestConsole.Shell || Console == GuestConsole.CommandOnPorts && !Waits ? 1 : 2;

    /// <summary>
    /// It boots up to where it takes its command, and takes that by <see cref="CommandPort"/>: a <see cref="Handover"/>. It has COM2 and all ports, and only
    /// then is it decided whether the command has a terminal.
    /// </summary>
    public bool Waits { get; init; }

    /// <summary>The machine is of no use to anybody when the command's status is there: the host ends it.</summary>
    public bool EndsWithStatus { get; init; }

    /// <summary>Numbers of the ports in <see cref="GuestConsole.CommandOnPorts"/>: 0 is left to terminals.</summary>
    public const int InputPort = 1, OutputPort = 2, ErrorPort = 3, CommandPort = 4, CopyPort = 5, SizePort = 6, ModulePort = 7;

    /// <summary>
    /// A program in the guest takes the size of the terminal by <see cref="SizePort"/>, each time that it changes: <see cref="SizeInput"/>.
    /// </summary>
    public bool FollowsSize { get; init; }

    /// <summary>It loads modules of its kernel when it wants one, by <see cref="ModulePort"/>: <see cref="ModuleRequests"/>.</summary>
    public bool LoadsModules { get; init; }

    /// <summary>What it is sent: a line with the terminal, that of the shell or of the command, its columns and rows.</summary>
    public static byte[] SizeInput(bool isShell, int columns, int rows) =>
        System.Text.Encoding.ASCII.GetBytes(string.Create(System.Globalization.CultureInfo.InvariantCulture, $"ttyS{(isShell ? 0 : 1)} {columns} {rows}\n"));

    /// <summary>Linux, Documentation/admin-guide/kernel-parameters.txt, "reboot=": the mode of a reboot after a panic, where panic=N asks for one.</summary>
    internal const string PanicMark = "reboot=panic_warm";

    /// <summary>Makes the guest of a kernel file and a statically linked busybox.</summary>
    public static LinuxGuest Create(ReadOnlyMemory<byte> kernel, string kernelName, ReadOnlySpan<byte> busybox, LinuxGuestOptions options)
    {
        string token = RandomNumberGenerator.GetHexString(8, lowercase: true);
        GuestConsole console = options.Command.Count == 0 ? GuestConsole.Shell : options.Terminal ? GuestConsole.CommandOnTerminal
            : options.StreamPorts ? GuestConsole.CommandOnPorts : GuestConsole.Command;
        // Before the kernel has its console it prints on the port as it is: what kills it there would be seen by nobody.
        bool waits = options is { Waits: true, StreamPorts: true };
        string append = "console=ttyS0 earlyprintk=serial,ttyS0,115200";
        // A command's caller wants an end in any case: a panic resets at once.
        // With a shell the machine boots again when it is reset, but not after a panic, which would come again and again: the kernel is told to mark that reset
        // as a warm one.
        append += console == GuestConsole.Shell ? " " + PanicMark : " quiet panic=-1";
        if (options.Init is not null) append += $" rdinit={InitramfsBuilder.OtherInit}";
        return new(kernel, kernelName, InitramfsBuilder.Build(busybox, options with { Waits = waits }, console, token), append, console, token)
        {
            Waits = waits,
            FollowsSize = TakesSizes(options, console),
            LoadsModules = options.StreamPorts,
        };
    }

    /// <summary>See <see cref="FollowsSize"/>: the guest has ports, and a terminal or may get one.</summary>
    internal static bool TakesSizes(LinuxGuestOptions options, GuestConsole console) =>
        options.StreamPorts && (options.Waits || console is GuestConsole.CommandOnTerminal or GuestConsole.Shell);

    /// <summary>What a guest that <see cref="Waits"/> is sent by <see cref="CommandPort"/>, UTF-8.</summary>
    /// <param name="options">The command and its terminal.</param>
    /// <param name="isCopy">It waits until <see cref="CopyInput"/> has come by <see cref="CopyPort"/>.</param>
    /// <param name="isDebian">It is the guest 'debian'.</param>
    public static byte[] Handover(LinuxGuestOptions options, bool isCopy, bool isDebian = false) =>
        isDebian ? DebianBoot.Handover(options, isCopy) : InitramfsBuilder.Handover(options, isCopy);

    /// <summary>What a guest with <see cref="CopyPort"/> is sent by that when it may be a copy, and stood still for who knows how long.</summary>
    /// <param name="time">The time of day; random numbers of its own come with it.</param>
    public static byte[] CopyInput(DateTimeOffset time) => CopyProgram.Input(time);
}
