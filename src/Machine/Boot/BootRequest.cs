using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>All that a boot protocol needs. The loaders read it, write guest memory, and do nothing else.</summary>
/// <param name="Memory">RAM of the machine, not yet running.</param>
/// <param name="Model">Decides between 64-bit and 32-bit entry and the size of boot pages.</param>
/// <param name="MemoryMap">Sorted by address, without overlap; only <see cref="E820Type.Memory"/> is written.</param>
/// <param name="Kernel">The kernel file.</param>
/// <param name="KernelName">Its name, for messages and for protocols whose command line begins with it.</param>
public sealed record BootRequest(GuestMemory Memory, CpuModel Model, IReadOnlyList<E820Entry> MemoryMap, ReadOnlyMemory<byte> Kernel, string KernelName)
{
    /// <summary>Initial RAM disk of a Linux kernel (at most one), modules of others, in their order.</summary>
    public IReadOnlyList<BootModule> Modules { get; init; } = [];

    /// <summary>Kernel command line, written as UTF-8.</summary>
    public string CommandLine { get; init; } = "";

    /// <summary>Guest-physical address of the ACPI RSDP, 0 when there is none.</summary>
    public ulong RsdpAddress { get; init; }

    /// <summary>Told in one line what the kernel asks for and does not get, where it may run without.</summary>
    public Action<string>? Warn { get; init; }
}
