using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>Loads an ELF kernel by the x86/HVM direct boot protocol (PVH).</summary>
/// <remarks>Xen documentation, "x86/HVM direct boot ABI", and the structures hvm_start_info, hvm_modlist_entry and hvm_memmap_table_entry, version 1.</remarks>
internal static class PvhLoader
{
    private const uint Magic = 0x336E_C578;
    private const int StartInfoSize = 56, ModuleSize = 32, MapEntrySize = 24;
    private const int Rbx = 3;

    public static CpuState Load(BootRequest request)
    {
        ReadOnlySpan<byte> file = request.Kernel.Span;
        ElfImage elf = ElfImage.Parse(file, request.KernelName);
        var memory = new BootMemory(request);
        uint entry = elf.FindPvhEntry(file) ?? throw memory.Failure("no PVH note");
        elf.LoadSegments(memory, file);

        Span<byte> info = stackalloc byte[StartInfoSize];
        info.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(info, Magic);
        BinaryPrimitives.WriteUInt32LittleEndian(info[4..], 1);
        if (request.Modules.Count > 0)
        {
            byte[] list = new byte[request.Modules.Count * ModuleSize];
            for (int n = 0; n < request.Modules.Count; n++)
            {
                BootModule module = request.Modules[n];
                ulong address = memory.AllocateHigh(module.Content.Length, BootMemory.FourGiB, $"the module {module.Name}");
                memory.Write(address, module.Content);
                Span<byte> item = list.AsSpan(n * ModuleSize, ModuleSize);
                BinaryPrimitives.WriteUInt64LittleEndian(item, address);
                BinaryPrimitives.WriteUInt64LittleEndian(item[8..], module.Content.Length);
                if (module.Arguments.Length > 0)
                    BinaryPrimitives.WriteUInt64LittleEndian(item[16..], memory.PlaceString(module.Arguments, $"the command line of module {module.Name}"));
            }
            BinaryPrimitives.WriteUInt32LittleEndian(info[12..], (uint)request.Modules.Count);
            BinaryPrimitives.WriteUInt64LittleEndian(info[16..], memory.Place(list, "the module list"));
        }
        BinaryPrimitives.WriteUInt64LittleEndian(info[24..], memory.PlaceString(request.CommandLine, "the command line"));
        BinaryPrimitives.WriteUInt64LittleEndian(info[32..], request.RsdpAddress);
        byte[] map = new byte[request.MemoryMap.Count * MapEntrySize];
        for (int n = 0; n < request.MemoryMap.Count; n++)
        {
            E820Entry e = request.MemoryMap[n];
            BinaryPrimitives.WriteUInt64LittleEndian(map.AsSpan(n * MapEntrySize), e.Address);
            BinaryPrimitives.WriteUInt64LittleEndian(map.AsSpan(n * MapEntrySize + 8), e.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(map.AsSpan(n * MapEntrySize + 16), (uint)e.Type);
        }
        BinaryPrimitives.WriteUInt64LittleEndian(info[40..], memory.Place(map, "the memory map"));
        BinaryPrimitives.WriteUInt32LittleEndian(info[48..], (uint)request.MemoryMap.Count);

        CpuState state = InitialState.Protected32(memory, request.Model, entry);
        state.Gpr[Rbx] = memory.Place(info, "the start info");
        return state;
    }
}
