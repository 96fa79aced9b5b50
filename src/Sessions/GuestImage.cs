using Bunraku.Machine;
using Bunraku.Machine.Firmware;
using Bunraku.Machine.Virtio.Files;

namespace Bunraku.Sessions;

/// <summary>What is to be booted: files in memory, not yet in a VM.</summary>
/// <param name="Append">Kernel command line.</param>
/// <param name="Linux">Set when our own init runs in the guest and reports.</param>
public sealed record GuestImage(ReadOnlyMemory<byte> Kernel, string KernelName, IReadOnlyList<BootModule> Modules, string Append, LinuxGuest? Linux)
{
    /// <summary>Firmware, which is all that there is then; null: a boot protocol enters the kernel.</summary>
    public FirmwareImage? Firmware { get; init; }

    /// <summary>
    /// What a reset boots; the guest itself is there already, with memory and state that come from elsewhere. Null: this image is loaded, at the start and
    /// after a reset.
    /// </summary>
    public Func<GuestImage>? Again { get; init; }

    /// <summary>What a reset boots in place of this image, which is loaded at the start. Null: the same.</summary>
    public Func<GuestImage>? AfterReset { get; init; }

    /// <summary>Names that <c>run</c> takes, the default first.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. DebianPackages.KernelNames.Select(k => k.Name), .. DebianImages.Names, HelloGuest.Name];

    /// <summary>A kernel's file may hold more than is loaded, as symbols for a debugger.</summary>
    private const ulong LargestKernel = 1ul << 30;

    /// <summary>Reads or downloads what the options name.</summary>
    /// <param name="options">What is wanted.</param>
    /// <param name="words">How messages name options.</param>
    /// <param name="progress">Told in a few words what takes long.</param>
    /// <param name="separateErrors">A command's standard error is wanted apart from its output.</param>
    /// <exception cref="VmOptionException">An unknown guest, or options that do not go with it.</exception>
    /// <exception cref="BootException">A file or package is missing or unusable.</exception>
    public static GuestImage Prepare(
        VmOptions options, VmWords words, Action<string>? progress, CancellationToken cancel = default, bool separateErrors = false)
        => Prepare(options, words, progress, cancel, separateErrors, files: null);

    /// <param name="files">Those of a guest of ours, where they were found already.</param>
    /// <inheritdoc cref="Prepare(VmOptions, VmWords, Action{string}?, CancellationToken, bool)"/>
    internal static GuestImage Prepare(
        VmOptions options, VmWords words, Action<string>? progress, CancellationToken cancel, bool separateErrors, GuestFiles? files)
    {
        Func<string, string> o = words.Option;
        if (options.Bios is { } bios) return new GuestImage(default, bios, [], "", null) { Firmware = FirmwareImage.Read(bios) };
        if (options.Kernel is { } path)
        {
            byte[] own = BootFile.Read(path, "kernel", Math.Max(options.Memory, LargestKernel));
            return new GuestImage(own, path, ReadModules(options, words, KernelLoader.Detect(own, path)), options.Append ?? "", null);
        }
        if (options.Initrd is not null)
            throw Wrong(nameof(VmOptions.Initrd),
            $"{o(nameof(VmOptions.Initrd))} goes with {o(nameof(VmOptions.Kernel))}; the guest '{options.Guest}' has its own");
        if (options.Modules.Count > 0) throw Wrong(nameof(VmOptions.Modules), $"{o(nameof(VmOptions.Modules))} goes with {o(nameof(VmOptions.Kernel))}");
        if (options.Guest == HelloGuest.Name)
        {
            if (options.Command is not null)
                throw Wrong(nameof(VmOptions.Command), $"the guest '{HelloGuest.Name}' runs no commands; leave out {o(nameof(VmOptions.Command))}");
            return new GuestImage(HelloGuest.Build(), HelloGuest.Name, [], options.Append ?? "", null);
        }

        if (DebianImages.Names.Contains(options.Guest)) return Debian(options, separateErrors);
        files ??= GuestFiles.Find(options, words, progress, cancel);
        byte[] kernel = BootFile.Read(files.Kernel, "kernel", options.Memory), busybox = BootFile.Read(files.Busybox, "busybox", options.Memory);
        var guest = LinuxGuest.Create(kernel, files.Kernel, busybox, Describe(options, separateErrors) with
        {
            StreamPorts = files.HavePorts,
            FindsDrivers = options.CompactDiscs.Count > 0 || options.Disks.Any(d => d.Bus == DiskBus.Ahci),
            Waits = KeptGuests.Fit(options),
            Files = GuestCopies.Read(options),
            Init = options.Init is { } init ? (ReadOnlyMemory<byte>?)BootFile.Read(init, words.Option(nameof(VmOptions.Init)), options.Memory) : null,
            Modules = [.. files.Modules.Select(m => (ReadOnlyMemory<byte>)BootFile.Read(m, "kernel module", options.Memory))],
        });
        string append = options.Append is { Length: > 0 } more ? $"{guest.Append} {more}" : guest.Append;
        return new GuestImage(guest.Kernel, guest.KernelName, [new BootModule(guest.Initrd, "initramfs")], append, guest);
    }

    private static GuestImage Debian(VmOptions options, bool separateErrors)
    {
        // One that goes on from a snapshot and is reset has not looked for them.
        DebianFiles files = options.Debian ?? new DebianImages(new GuestCache(), null, "", guest: options.Guest).Find()
            ?? throw new BootException($"the image of the guest '{options.Guest}' is not in the cache any more");
        byte[] kernel = BootFile.Read(files.Kernel, "kernel", options.Memory), initramfs = BootFile.Read(files.Initramfs, "initramfs", options.Memory);
        byte[] busybox = BootFile.Read(files.Busybox, "busybox", options.Memory);
        LinuxGuestOptions wanted = Describe(options, separateErrors) with
        {
            StreamPorts = true,
            Waits = KeptGuests.Fit(options),
            Files = GuestCopies.Read(options),
        };
        LinuxGuest guest = DebianImages.Guest(kernel, files.Kernel, initramfs, busybox, wanted,
            grows: options.DiskSize is not null, lasts: options.KeepDisk is not null);
        string append = options.Append is { Length: > 0 } more ? $"{guest.Append} {more}" : guest.Append;
        return new GuestImage(guest.Kernel, guest.KernelName, [new BootModule(guest.Initrd, "initramfs")], append, guest);
    }

    /// <summary>What the user space of our guest is to do, but for its drivers.</summary>
    internal static LinuxGuestOptions Describe(VmOptions options, bool separateErrors) => new()
    {
        Command = options.Command ?? [],
        Terminal = options.Terminal is not null,
        Columns = options.Terminal?.Columns ?? 0,
        Rows = options.Terminal?.Rows ?? 0,
        Term = options.Terminal?.Term,
        SeparateErrors = separateErrors,
        Environment = options.Environment,
        WorkingFolder = options.WorkingFolder,
        User = options.User,
        Networks = [.. options.Networks.Select(n => n is UserNetwork)],
        HasOwnAddress = [.. options.Networks.Select(n => n.Mac is not null)],
        Shares = [.. options.Shares.Select((s, n) => new LinuxGuestShare(s.TagOf(n), s.Place, s.ReadOnly, !s.ReadOnly && s.Cache == FileCache.Always)
        {
            NinePCache = s.Kind == ShareKind.VirtioFs ? null : s.Cache switch { FileCache.Always => "loose", FileCache.None => "none", _ => "mmap" },
        })],
    };

    private static VmOptionException Wrong(string option, string message) => new(option, message);

    /// <summary>Reads what goes with a kernel of the user's own. For a multiboot kernel --initrd is a list, as with QEMU; for others it is one file.</summary>
    private static IReadOnlyList<BootModule> ReadModules(VmOptions options, VmWords words, BootProtocol protocol)
    {
        if (options.Modules.Count > 0 && protocol == BootProtocol.Linux)
            throw Wrong(nameof(VmOptions.Modules),
                $"{words.Option(nameof(VmOptions.Modules))} is for multiboot and PVH kernels; a Linux kernel takes {words.Option(nameof(VmOptions.Initrd))}");
        if (options.Initrd is not { } initrd) return [.. options.Modules.Select(m => Read(m, "module"))];
        if (protocol == BootProtocol.Multiboot) return [.. BootModule.SplitList(initrd).Select(m => Read(m, "module"))];
        return [new BootModule(BootFile.Open(initrd, "initrd", options.Memory), initrd)];

        BootModule Read(string text, string role)
        {
            (string path, string arguments) = BootModule.Parse(text);
            return new BootModule(BootFile.Open(path, role, options.Memory), path, arguments);
        }
    }
}
