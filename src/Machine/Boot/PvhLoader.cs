using System.Buffers.Binary;
using System.Text;
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
        if (!request.Initrd.IsEmpty)
        {
            ulong address = memory.AllocateHigh((ulong)request.Initrd.Length, BootMemory.FourGiB, $"the initrd {request.InitrdName}");
            memory.Write(address, request.Initrd.Span);
            Span<byte> module = stackalloc byte[ModuleSize];
            module.Clear();
            BinaryPrimitives.WriteUInt64LittleEndian(module, address);
            BinaryPrimitives.WriteUInt64LittleEndian(module[8..], (ulong)request.Initrd.Length);
            BinaryPrimitives.WriteUInt32LittleEndian(info[12..], 1);
            BinaryPrimitives.WriteUInt64LittleEndian(info[16..], memory.Place(module, "the module list"));
        }
        BinaryPrimitives.WriteUInt64LittleEndian(info[24..], memory.Place([.. Encoding.UTF8.GetBytes(request.CommandLine), 0], "the command line"));
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
