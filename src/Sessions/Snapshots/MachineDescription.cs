using Bunraku.Hypervisor.Scheduling;
using Bunraku.Machine;
using Bunraku.Storage;

namespace Bunraku.Sessions.Snapshots;

/// <summary>What a machine has to be made of before the state of a saved one is restored in it: what of <see cref="VmOptions"/> the guest can tell.</summary>
/// <param name="Guest">Name of a guest, for another boot.</param>
/// <param name="Bios">Firmware, as in the options.</param>
/// <param name="Kernel">Full path of a kernel of the user's own, and so on, as in the options; for another boot.</param>
/// <param name="Cpu">The processor, as in the options.</param>
/// <param name="TscFrequency">Hz of the machine's counter.</param>
/// <param name="Realtime">The guest was told that its processors are its own.</param>
/// <param name="CommandLine">Of the kernel that was booted.</param>
/// <param name="Console">How streams or terminal are wired; null: no guest of ours.</param>
/// <param name="Token">See <see cref="LinuxGuest.Token"/>.</param>
/// <param name="Waits">The guest has booted and waits for a command.</param>
internal sealed record MachineDescription(
    string Guest, string? Bios, string? Kernel, string? Initrd, string[] Modules, string? Append, ulong Memory, int Cpus, string? Cpu,
    NestedVirtualization? Nested, bool Paravirtual, ulong TscFrequency, bool Realtime, bool DebugExit, bool TestDevice, DiscDescription[] CompactDiscs,
    DiskDescription[] Disks, bool Rng, bool NoReboot, string[]? Command, string CommandLine, GuestConsole? Console, string Token, bool Waits)
{
    private const int MostCpus = 4096;

    /// <summary>Describes a machine.</summary>
    /// <exception cref="CannotSaveException">It has something that cannot go on elsewhere.</exception>
    public static MachineDescription Of(VmOptions options, X86Machine machine, GuestImage image, bool waits)
    {
        if (options.Networks.Count > 0) throw new CannotSaveException("the VM", "the connections of its network are not the VM's alone");
        foreach (VmDisk disk in options.Disks)
        {
            if (disk.Throwaway)
                throw new CannotSaveException($"disk {disk.Image.Path}", "what the guest wrote to it is in no file; run it without 'snapshot=on'");
        }
        return new MachineDescription(
            options.Guest, options.Bios is { } bios && File.Exists(bios) ? Path.GetFullPath(bios) : options.Bios, Full(options.Kernel), Full(options.Initrd),
            [.. options.Modules], options.Append, options.Memory, options.Cpus, options.Cpu, options.Nested, options.Paravirtual,
            machine.Clock.CounterFrequency, options.CpuTime.Realtime, options.DebugExit, options.TestDevice,
            [.. options.CompactDiscs.Select(DiscDescription.Of)], [.. options.Disks.Select(DiskDescription.Of)], options.Rng, options.NoReboot,
            options.Command is { } command ? [.. command] : null, image.Append, image.Linux?.Console, image.Linux?.Token ?? "", waits);
    }

    private static string? Full(string? path) => path is null ? null : Path.GetFullPath(path);

    /// <summary>Checks what a file says before anything is made of it; the rest is checked as the user's own options are.</summary>
    /// <param name="problem">Makes the exception.</param>
    public void Check(Func<string, Exception> problem)
    {
        if (Cpus is < 1 or > MostCpus) throw problem($"is damaged: it has {Cpus} processors");
        if (Console is { } console && !Enum.IsDefined(console) || Nested is { } nested && !Enum.IsDefined(nested))
            throw problem("is damaged: its description has a value that means nothing");
        foreach (DiscDescription disc in CompactDiscs) disc.Check(problem);
        foreach (DiskDescription disk in Disks) disk.Check(problem);
    }

    /// <summary>The options of a machine that can take the state.</summary>
    /// <param name="builder">Whose choice the rest is: engine, console, observers, time limits.</param>
    public VmBuilder Apply(VmBuilder builder) => builder with
    {
        Guest = Guest,
        Bios = Bios,
        Kernel = Kernel,
        Initrd = Initrd,
        Modules = Modules,
        Append = Append,
        Memory = Memory,
        Cpus = Cpus,
        Cpu = Cpu,
        Nested = Nested,
        Paravirtual = Paravirtual,
        TscFrequency = TscFrequency,
        CpuTime = builder.CpuTime with { Realtime = Realtime },
        DebugExit = DebugExit,
        TestDevice = TestDevice,
        CompactDiscs = [.. CompactDiscs.Select(d => d.Path)],
        Disks = [.. Disks.Select(d => d.Options)],
        Networks = [],
        Rng = Rng,
        NoReboot = NoReboot,
        Command = Waits ? builder.Command : Command,
        Terminal = Console == GuestConsole.CommandOnTerminal || Waits ? builder.Terminal : null,
    };

    /// <summary>The guest as far as a machine needs it that does not boot it.</summary>
    public GuestImage Image(VmBuilder builder, CancellationToken cancel)
    {
        LinuxGuest? linux = Console is not { } console ? null
            : new LinuxGuest(default, Guest, default, CommandLine, !Waits ? console : builder.Terminal is null ? GuestConsole.CommandOnPorts
            : GuestConsole.CommandOnTerminal, Token) { Waits = Waits };
        Machine.Firmware.FirmwareImage? firmware = Bios is { } bios ? Machine.Firmware.FirmwareImage.Read(bios) : null;
        return new GuestImage(default, Kernel ?? Guest, [], CommandLine, linux)
        {
            Firmware = firmware,
            Again = () => GuestImage.Prepare(builder, builder.Words, null, cancel),
        };
    }
}

/// <summary>A disk in a drive.</summary>
/// <param name="Path">Full path.</param>
/// <param name="File">The file as it was when the VM was saved.</param>
internal sealed record DiscDescription(string Path, FileMark File)
{
    public static DiscDescription Of(string path) => new(System.IO.Path.GetFullPath(path), FileMark.Of(path));

    public void Check(Func<string, Exception> problem) => File.Check(Path, problem);
}

/// <summary>A disk: see <see cref="VmDisk"/>.</summary>
/// <param name="Path">Full path.</param>
/// <param name="File">The file as it was when the VM was saved.</param>
internal sealed record DiskDescription(
    string Path, ImageFormat? Format, bool ReadOnly, bool AllowBacking, bool Discard, string Serial, DiskBus Bus, FileMark File)
{
    public static DiskDescription Of(VmDisk disk) => new(System.IO.Path.GetFullPath(disk.Image.Path), disk.Image.Format, disk.Image.ReadOnly,
        disk.Image.AllowBacking, disk.Image.Discard, disk.Serial, disk.Bus, FileMark.Of(disk.Image.Path));

    public void Check(Func<string, Exception> problem)
    {
        if (Format is { } format && !Enum.IsDefined(format) || !Enum.IsDefined(Bus)) throw problem("is damaged: its description has a value that means nothing");
        File.Check(Path, problem);
    }

    public VmDisk Options => new(new DiskOptions(Path) { Format = Format, ReadOnly = ReadOnly, AllowBacking = AllowBacking, Discard = Discard })
    {
        Serial = Serial,
        Bus = Bus,
    };
}

/// <summary>By what one sees that a file was changed.</summary>
/// <param name="Length">Bytes.</param>
/// <param name="Changed">Time of the last change of its contents, UTC.</param>
internal sealed record FileMark(long Length, DateTime Changed)
{
    public static FileMark Of(string path)
    {
        var file = new FileInfo(path);
        return new FileMark(file.Length, file.LastWriteTimeUtc);
    }

    /// <summary>The file must be as it was: the guest has in its memory what it read from it.</summary>
    public void Check(string path, Func<string, Exception> problem)
    {
        if (!System.IO.File.Exists(path)) throw problem($"the VM's disk {path} is not there");
        if (Of(path) != this) throw problem($"the VM's disk {path} was changed since; a copy of that time, with its time of change, would fit");
    }
}
