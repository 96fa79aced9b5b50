using System.Buffers.Binary;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>Loads a Linux bzImage by the 64-bit boot protocol, or by the 32-bit one where kernel or processor have no 64-bit mode.</summary>
/// <remarks>Linux kernel documentation, "The Linux/x86 Boot Protocol", sections "32-bit Boot Protocol" and "64-bit Boot Protocol"; "Zero Page".</remarks>
internal static class BzImageLoader
{
    public const int Entry64Offset = 0x200;

    // boot_params fields outside the setup header.
    private const int ParametersSize = 4096, AcpiRsdp = 0x70, RamdiskImageHigh = 0xC0, RamdiskSizeHigh = 0xC4, E820Count = 0x1E8, E820Table = 0x2D0,
        E820EntrySize = 20, E820Maximum = 128;
    private const byte UndefinedLoader = 0xFF;
    private const int Rsi = 6;

    public static CpuState Load(BootRequest request)
    {
        ReadOnlySpan<byte> file = request.Kernel.Span;
        BzImageHeader header = BzImageHeader.Parse(file, request.KernelName);
        var memory = new BootMemory(request);

        memory.Claim(header.LoadAddress, header.MemorySize, "the kernel");
        memory.Write(header.LoadAddress, file[header.CodeOffset..]);

        Span<byte> parameters = stackalloc byte[ParametersSize];
        parameters.Clear();
        file[BzImageHeader.SetupSects..header.HeaderEnd].CopyTo(parameters[BzImageHeader.SetupSects..]);
        parameters[BzImageHeader.TypeOfLoader] = UndefinedLoader;
        BinaryPrimitives.WriteUInt32LittleEndian(parameters[BzImageHeader.Code32Start..], (uint)header.LoadAddress);

        byte[] commandLine = [.. Encoding.UTF8.GetBytes(request.CommandLine), 0];
        if (commandLine.Length - 1 > header.CommandLineMaximum)
            throw memory.Failure($"the command line has {commandLine.Length - 1} bytes, this kernel takes {header.CommandLineMaximum}");
        BinaryPrimitives.WriteUInt32LittleEndian(parameters[BzImageHeader.CommandLinePointer..], (uint)memory.Place(commandLine, "the command line"));

        if (request.Modules.Count > 1) throw memory.Failure($"a Linux kernel takes one initrd, and there are {request.Modules.Count} files");
        if (request.Modules is [BootModule initrd])
        {
            ulong length = initrd.Content.Length, address = memory.AllocateHigh(length, header.InitrdLimit, $"the initrd {initrd.Name}");
            memory.Write(address, initrd.Content);
            WriteSplit(parameters, BzImageHeader.RamdiskImage, RamdiskImageHigh, address);
            WriteSplit(parameters, BzImageHeader.RamdiskSize, RamdiskSizeHigh, length);
        }
        WriteMemoryMap(parameters, request.MemoryMap);
        BinaryPrimitives.WriteUInt64LittleEndian(parameters[AcpiRsdp..], request.RsdpAddress);

        bool long64 = header.Has64BitEntry && request.Model.Has(CpuFeature.Lm);
        ulong parametersAddress = memory.AllocateLow(ParametersSize, "the boot parameters");
        memory.Write(parametersAddress, parameters);
        CpuState state = long64 ? InitialState.Long64(memory, request.Model, header.LoadAddress + Entry64Offset)
            : InitialState.Protected32(memory, request.Model, (uint)header.LoadAddress);
        state.Gpr[Rsi] = parametersAddress;
        return state;
    }

    private static void WriteSplit(Span<byte> parameters, int low, int high, ulong value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(parameters[low..], (uint)value);
        BinaryPrimitives.WriteUInt32LittleEndian(parameters[high..], (uint)(value >> 32));
    }

    private static void WriteMemoryMap(Span<byte> parameters, IReadOnlyList<E820Entry> map)
    {
        int count = Math.Min(map.Count, E820Maximum);
        parameters[E820Count] = (byte)count;
        for (int n = 0; n < count; n++)
        {
            Span<byte> entry = parameters.Slice(E820Table + n * E820EntrySize, E820EntrySize);
            BinaryPrimitives.WriteUInt64LittleEndian(entry, map[n].Address);
            BinaryPrimitives.WriteUInt64LittleEndian(entry[8..], map[n].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], (uint)map[n].Type);
        }
    }
}
