using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>Loads a multiboot 1 kernel: an ELF file, or any file whose header carries addresses.</summary>
/// <remarks>Multiboot Specification 0.6.96, sections "Machine state" and "Boot information format".</remarks>
internal static class MultibootLoader
{
    private const uint LoaderMagic = 0x2BAD_B002;
    private const int InfoSize = 88, ModuleSize = 16, MapEntrySize = 24;
    private const int Rax = 0, Rbx = 3;
    private const ulong MiB = 1 << 20, LowerMaximum = 640;

    // Which fields of the boot information are valid.
    private const uint HasMemory = 1 << 0, HasCommandLine = 1 << 2, HasModules = 1 << 3, HasMemoryMap = 1 << 6, HasLoaderName = 1 << 9;

    public static CpuState Load(BootRequest request)
    {
        ReadOnlySpan<byte> file = request.Kernel.Span;
        var memory = new BootMemory(request);
        MultibootHeader header = MultibootHeader.Find(file) ?? throw memory.Failure("no multiboot header");
        if (header.UnknownRequirements != 0)
            throw memory.Failure($"the multiboot header requires features 0x{header.UnknownRequirements:x} that are not available");
        if (header.WantsVideoMode)
            request.Warn?.Invoke($"{request.KernelName}: the multiboot header asks for a video mode; there is no display, the kernel gets none");

        uint entry = header.HasAddresses ? LoadByAddresses(memory, file, header) : LoadElf(memory, file, request.KernelName);

        Span<byte> info = stackalloc byte[InfoSize];
        info.Clear();
        uint flags = HasMemory | HasCommandLine | HasMemoryMap | HasLoaderName;
        ulong lower = request.MemoryMap.Where(e => e.Type == E820Type.Memory && e.Address == 0).Select(e => e.Length).FirstOrDefault() / 1024;
        ulong upper = request.MemoryMap.Where(e => e.Type == E820Type.Memory && e.Address == MiB).Select(e => e.Length).FirstOrDefault() / 1024;
        Put(info, 4, Math.Min(lower, LowerMaximum));
        Put(info, 8, upper);
        // As GRUB and QEMU do, the command line begins with the kernel's name: test kernels take it for argv[0].
        string commandLine = request.CommandLine.Length > 0 ? $"{request.KernelName} {request.CommandLine}" : request.KernelName;
        Put(info, 16, memory.PlaceString(commandLine, "the command line"));
        if (request.Modules.Count > 0)
        {
            Put(info, 20, (ulong)request.Modules.Count);
            Put(info, 24, PlaceModules(memory, request.Modules));
            flags |= HasModules;
        }
        byte[] map = new byte[request.MemoryMap.Count * MapEntrySize];
        for (int n = 0; n < request.MemoryMap.Count; n++)
        {
            Span<byte> e = map.AsSpan(n * MapEntrySize, MapEntrySize);
            Put(e, 0, MapEntrySize - 4); // the size field does not count itself
            BinaryPrimitives.WriteUInt64LittleEndian(e[4..], request.MemoryMap[n].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(e[12..], request.MemoryMap[n].Length);
            Put(e, 20, (uint)request.MemoryMap[n].Type);
        }
        Put(info, 44, (ulong)map.Length);
        Put(info, 48, memory.Place(map, "the memory map"));
        Put(info, 64, memory.PlaceString("bunraku", "the loader's name"));
        Put(info, 0, flags);

        CpuState state = InitialState.Protected32(memory, request.Model, entry);
        state.Gpr[Rax] = LoaderMagic;
        state.Gpr[Rbx] = memory.Place(info, "the boot information");
        return state;
    }

    /// <summary>
    /// Loads the modules, each on a page of its own, and returns the address of their list. A module's string begins with its name, as QEMU's does.
    /// </summary>
    private static ulong PlaceModules(BootMemory memory, IReadOnlyList<BootModule> modules)
    {
        byte[] list = new byte[modules.Count * ModuleSize];
        for (int n = 0; n < modules.Count; n++)
        {
            BootModule module = modules[n];
            ulong length = module.Content.Length, address = memory.AllocateHigh(length, BootMemory.FourGiB, $"the module {module.Name}");
            memory.Write(address, module.Content);
            Span<byte> entry = list.AsSpan(n * ModuleSize, ModuleSize);
            Put(entry, 0, address);
            Put(entry, 4, address + length);
            Put(entry, 8, memory.PlaceString(module.Text, $"the command line of module {module.Name}"));
        }
        return memory.Place(list, "the module list");
    }

    private static uint LoadElf(BootMemory memory, ReadOnlySpan<byte> file, string name)
    {
        if (!ElfImage.HasMagic(file)) throw memory.Failure($"a multiboot header without load addresses in a file that is not ELF: {FileKind.Describe(file)}");
        ElfImage elf = ElfImage.Parse(file, name);
        if (!elf.IsX86) throw memory.Failure($"not a kernel for this machine: {FileKind.Describe(file)}");
        elf.LoadSegments(memory, file);
        // Linkers leave the entry point virtual; the segment that holds it says where that is in memory.
        foreach (ElfSegment s in elf.Segments)
            if (s.Type == ElfSegment.Load && elf.Entry - s.VirtualAddress < s.MemorySize)
                return Narrow(memory, elf.Entry - s.VirtualAddress + s.PhysicalAddress);
        return Narrow(memory, elf.Entry);
    }

    private static uint Narrow(BootMemory memory, ulong entry) =>
        entry <= uint.MaxValue ? (uint)entry : throw memory.Failure($"the entry point 0x{entry:x} lies above 4 GiB, multiboot enters in 32-bit mode");

    private static uint LoadByAddresses(BootMemory memory, ReadOnlySpan<byte> file, MultibootHeader h)
    {
        uint before = h.HeaderAddress - h.LoadAddress;
        if (h.LoadAddress > h.HeaderAddress || before > h.Offset)
            throw memory.Failure($"malformed multiboot header: load address 0x{h.LoadAddress:x}, header at 0x{h.HeaderAddress:x}");
        int start = h.Offset - (int)before;
        ulong length = h.LoadEnd == 0 ? (ulong)(file.Length - start) : h.LoadEnd - (ulong)h.LoadAddress;
        if (h.LoadEnd != 0 && h.LoadEnd < h.LoadAddress)
            throw memory.Failure($"malformed multiboot header: load end 0x{h.LoadEnd:x} below load address 0x{h.LoadAddress:x}");
        if (length > (ulong)(file.Length - start)) throw memory.Failure($"truncated multiboot kernel: {file.Length - start} bytes of {length}");
        ulong end = h.LoadAddress + length, bssEnd = Math.Max(end, h.BssEnd);
        memory.Claim(h.LoadAddress, bssEnd - h.LoadAddress, "the kernel");
        memory.Write(h.LoadAddress, file.Slice(start, (int)length));
        memory.Clear(end, bssEnd - end);
        return h.Entry;
    }

    private static void Put(Span<byte> bytes, int at, ulong value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes[at..], (uint)value);
}
