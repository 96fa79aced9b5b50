using Bunraku.Machine;

namespace Bunraku.Sessions;

/// <summary>Paths of the files that a Linux guest of ours is made of.</summary>
/// <param name="Modules">Drivers of the kernel, in the order in which they are loaded.</param>
/// <param name="HavePorts">A command can have ports of a virtio console, and a terminal its size by one.</param>
internal sealed record GuestFiles(string Kernel, string Busybox, IReadOnlyList<string> Modules, bool HavePorts)
{
    /// <summary>Those of a guest that may be kept.</summary>
    /// <inheritdoc cref="Find"/>
    public static GuestFiles Of(VmOptions options, VmWords words, Action<string>? progress, CancellationToken cancel) =>
        options.Debian is { } debian ? new(debian.Kernel, debian.Busybox, [debian.Initramfs, debian.Disk], HavePorts: true)
            : Find(options, words, progress, cancel);

    /// <summary>Finds the files, or downloads them.</summary>
    /// <exception cref="BootException">They cannot be had.</exception>
    public static GuestFiles Find(VmOptions options, VmWords words, Action<string>? progress, CancellationToken cancel)
    {
        var packages = new DebianPackages(new GuestCache(), progress, alternatives: words.GuestAdvice);
        string kernel = packages.FindKernel(options.Guest, cancel, options.KernelVersion), busybox = packages.FindBusybox(cancel);
        // A kernel of the distribution has drivers for what is not in every PC as modules.
        GuestDrivers drivers = (options.Disks.Count > 0 ? GuestDrivers.Disk : 0) | (options.Rng ? GuestDrivers.Rng : 0)
            | (options.Networks.Count > 0 ? GuestDrivers.Net : 0)
            | (options.Networks.Any(n => n.Model == NetworkModel.E1000) ? GuestDrivers.E1000 : 0)
            | (options.Shares.Any(s => s.Kind == ShareKind.VirtioFs) ? GuestDrivers.Share : 0)
            | (options.Shares.Any(s => s.Kind == ShareKind.NineP) ? GuestDrivers.NineP : 0)
            | (options.Vsock is not null ? GuestDrivers.Vsock : 0) | (options.Balloon is not null ? GuestDrivers.Balloon : 0);
        if (options.Board == BoardKind.MicroVm) drivers |= GuestDrivers.Mmio;
        bool wantsPorts = KeptGuests.Fit(options) || !options.SerialStreams && (options.Command is not null || options.Terminal is not null);
        IReadOnlyList<string> modules = FindModules(packages, kernel, drivers, wantsPorts, cancel);
        Lacks(GuestDrivers.E1000, DebianPackages.E1000Module, "for the card e1000");
        Lacks(GuestDrivers.NineP, DebianPackages.NinePModule, "for 9p");
        return new GuestFiles(kernel, busybox, modules, wantsPorts && Has(DebianPackages.ConsoleModule));

        bool Has(string module) => modules.Any(m => Path.GetFileNameWithoutExtension(m) == module) || packages.HasBuiltIn(kernel, module);

        void Lacks(GuestDrivers driver, string module, string what)
        {
            if (drivers.HasFlag(driver) && !Has(module))
                progress?.Invoke($"the kernel of the guest '{options.Guest}' has no driver {what}; that of 'linux-generic' has");
        }
    }

    /// <summary>Finds or downloads whatever a guest of that name can need.</summary>
    /// <exception cref="BootException">They cannot be had.</exception>
    public static void FindAll(VmOptions options, VmWords words, Action<string>? progress, CancellationToken cancel)
    {
        var packages = new DebianPackages(new GuestCache(), progress, alternatives: words.GuestAdvice);
        string kernel = packages.FindKernel(options.Guest, cancel);
        packages.FindBusybox(cancel);
        packages.FindModules(kernel, Enum.GetValues<GuestDrivers>().Aggregate((all, one) => all | one), cancel);
    }

    /// <summary>A command's streams go over serial ports where the driver for faster ones cannot be had.</summary>
    private static IReadOnlyList<string> FindModules(
        DebianPackages packages, string kernel, GuestDrivers drivers, bool wantsPorts, CancellationToken cancel)
    {
        try
        {
            if (wantsPorts) return packages.FindModules(kernel, drivers | GuestDrivers.Console, cancel);
        }
        catch (BootException) when (drivers == 0)
        {
            return [];
        }
        return drivers == 0 ? [] : packages.FindModules(kernel, drivers, cancel);
    }
}
