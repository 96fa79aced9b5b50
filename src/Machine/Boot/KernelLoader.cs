using Bunraku.Engines;

namespace Bunraku.Machine;

/// <summary>Boot protocols that <see cref="KernelLoader"/> knows.</summary>
public enum BootProtocol
{
    /// <summary>Linux bzImage.</summary>
    Linux,
    /// <summary>Multiboot 1, as an ELF file or with addresses in its header.</summary>
    Multiboot,
    /// <summary>ELF with a Xen PHYS32_ENTRY note.</summary>
    Pvh,
}

/// <summary>Loads a kernel file of any known format.</summary>
public static class KernelLoader
{
    /// <summary>Finds the protocol of a kernel file.</summary>
    /// <exception cref="BootException">The file is no kernel; the message says what it is.</exception>
    public static BootProtocol Detect(ReadOnlySpan<byte> kernel, string name)
    {
        if (kernel.IsEmpty) throw new BootException($"{name}: the file is empty");
        if (BzImageHeader.HasMagic(kernel)) return BootProtocol.Linux;
        // A file may be both multiboot and PVH; QEMU prefers multiboot too.
        if (MultibootHeader.Find(kernel) is not null) return BootProtocol.Multiboot;
        string? second = MultibootHeader.IsSecondVersion(kernel) ? "a multiboot 2 kernel; only multiboot 1 can be booted (many kernels can have both headers)"
            : null;
        if (ElfImage.HasMagic(kernel))
        {
            ElfImage elf = ElfImage.Parse(kernel, name);
            if (elf.IsX86 && elf.FindPvhEntry(kernel) is not null) return BootProtocol.Pvh;
            throw new BootException($"{name}: not a kernel that can be booted: "
                + $"{second ?? FileKind.Describe(kernel)}{(elf.IsX86 && second is null ? ", without a PVH note or a multiboot header" : "")}");
        }
        if (second is not null) throw new BootException($"{name}: not a kernel that can be booted: {second}");
        throw new BootException($"{name}: not a kernel: {FileKind.Describe(kernel)} (expected a Linux bzImage, an ELF file with a PVH note, or a "
            + "multiboot file)");
    }

    /// <summary>Loads the kernel, and returns the state in which vCPU 0 enters it. MSRs that the state does not name keep their value.</summary>
    /// <exception cref="BootException">The file is no kernel or does not fit; guest memory may then be partly written.</exception>
    public static CpuState Load(BootRequest request) => Detect(request.Kernel.Span, request.KernelName) switch
    {
        BootProtocol.Linux => BzImageLoader.Load(request),
        BootProtocol.Multiboot => MultibootLoader.Load(request),
        _ => PvhLoader.Load(request),
    };
}
