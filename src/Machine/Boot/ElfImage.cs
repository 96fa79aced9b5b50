using System.Buffers.Binary;

namespace Bunraku.Machine;

/// <summary>A program header of an ELF file, widened to 64 bits.</summary>
internal readonly record struct ElfSegment(uint Type, ulong Offset, ulong VirtualAddress, ulong PhysicalAddress, ulong FileSize, ulong MemorySize,
    ulong Alignment)
{
    public const uint Load = 1, Interpreter = 3, Note = 4;
}

/// <summary>An ELF file's header and program headers, checked against the file: every segment's bytes lie inside it.</summary>
/// <remarks>System V ABI, chapters "Object Files" and "Program Loading and Dynamic Linking".</remarks>
internal sealed record ElfImage(bool Is64, ushort Machine, ulong Entry, IReadOnlyList<ElfSegment> Segments)
{
    private const ushort Machine386 = 3, Machine486 = 6, MachineX64 = 62;
    private const uint Phys32Entry = 18;
    /// <summary>More than any kernel has; keeps the check for overlaps short for hostile files.</summary>
    private const int MostSegments = 1024;

    public bool IsX86 => Machine is Machine386 or Machine486 or MachineX64;

    public static bool HasMagic(ReadOnlySpan<byte> file) => file.StartsWith("\x7F"u8) && file.Length >= 4 && file[1..4].SequenceEqual("ELF"u8);

    /// <exception cref="BootException">Truncated or malformed.</exception>
    public static ElfImage Parse(ReadOnlySpan<byte> file, string name)
    {
        if (file.Length < 52) throw new BootException($"{name}: truncated ELF file: {file.Length} bytes");
        bool is64 = file[4] == 2;
        if (file[4] is not (1 or 2) || is64 && file.Length < 64)
            throw new BootException($"{name}: malformed or truncated ELF file: class {file[4]}, {file.Length} bytes");
        if (file[5] != 1) throw new BootException($"{name}: not a kernel for this machine: {FileKind.Describe(file)}");
        ushort machine = BinaryPrimitives.ReadUInt16LittleEndian(file[18..]);
        ulong entry = is64 ? U64(file, 24) : U32(file, 24), table = is64 ? U64(file, 32) : U32(file, 28);
        int entrySize = U16(file, is64 ? 54 : 42), count = U16(file, is64 ? 56 : 44), least = is64 ? 56 : 32;
        if (count > 0 && entrySize < least) throw new BootException($"{name}: malformed ELF file: program headers of {entrySize} bytes");
        if (count > MostSegments) throw new BootException($"{name}: malformed ELF file: {count} program headers");
        ulong tableSize = (ulong)count * (ulong)entrySize;
        if (!Inside(file, table, tableSize))
            throw new BootException($"{name}: truncated ELF file: program headers at 0x{table:x}, {tableSize} bytes; the file has {file.Length}");

        var segments = new List<ElfSegment>(count);
        for (int n = 0; n < count; n++)
        {
            ReadOnlySpan<byte> h = file.Slice((int)table + n * entrySize, least);
            ElfSegment s = is64
                ? new(U32(h, 0), U64(h, 8), U64(h, 16), U64(h, 24), U64(h, 32), U64(h, 40), U64(h, 48))
                : new(U32(h, 0), U32(h, 4), U32(h, 8), U32(h, 12), U32(h, 16), U32(h, 20), U32(h, 28));
            if (s.Type is not (ElfSegment.Load or ElfSegment.Interpreter or ElfSegment.Note)) continue;
            if (!Inside(file, s.Offset, s.FileSize))
                throw new BootException($"{name}: truncated ELF file: segment {n} at 0x{s.Offset:x}, 0x{s.FileSize:x} bytes; the file has 0x{file.Length:x}");
            if (s.Type == ElfSegment.Load && s.FileSize > s.MemorySize)
                throw new BootException($"{name}: malformed ELF file: segment {n} has more bytes in the file than in memory");
            segments.Add(s);
        }
        return new(is64, machine, entry, segments);
    }

    /// <summary>Loads every PT_LOAD segment at its physical address.</summary>
    public void LoadSegments(BootMemory memory, ReadOnlySpan<byte> file)
    {
        int headers = HeadersEnd(file);
        var loads = new List<ElfSegment>();
        foreach (ElfSegment s in Segments)
            if (s.Type == ElfSegment.Load && WithoutHeaders(s, memory, file, headers) is { MemorySize: > 0 } needed) loads.Add(needed);
        // All claims come first: a file that asks for the impossible then costs no copying.
        foreach (ElfSegment s in loads) memory.Claim(s.PhysicalAddress, s.MemorySize, "a segment of the kernel");
        foreach (ElfSegment s in loads)
        {
            memory.Write(s.PhysicalAddress, file.Slice((int)s.Offset, (int)s.FileSize));
            memory.Clear(s.PhysicalAddress + s.FileSize, s.MemorySize - s.FileSize);
        }
    }

    /// <summary>
    /// What of a segment must be in memory. Linkers put the file's own headers before the first section: "-Ttext=0x100000" makes a segment that begins
    /// with them at 0xff000, where a PC has its ROM. That part, and the zeros between it and the first section, is left out where no RAM is.
    /// </summary>
    private static ElfSegment WithoutHeaders(ElfSegment s, BootMemory memory, ReadOnlySpan<byte> file, int headers)
    {
        if (s.Offset != 0) return s;
        ulong outside = memory.FirstUsableFrom(s.PhysicalAddress) - s.PhysicalAddress;
        if (outside == 0) return s;
        int content = file[Math.Min(headers, (int)s.FileSize)..(int)s.FileSize].IndexOfAnyExcept((byte)0);
        ulong needless = content < 0 ? s.FileSize : (ulong)(headers + content), cut = Math.Min(outside, s.MemorySize);
        if (cut > needless) return s;
        ulong fromFile = Math.Min(cut, s.FileSize);
        return s with { Offset = fromFile, PhysicalAddress = s.PhysicalAddress + cut, FileSize = s.FileSize - fromFile, MemorySize = s.MemorySize - cut };
    }

    /// <summary>End of the file header and of the program headers, where these follow it.</summary>
    private int HeadersEnd(ReadOnlySpan<byte> file)
    {
        int header = Is64 ? 64 : 52;
        ulong table = Is64 ? U64(file, 32) : U32(file, 28);
        return table == (ulong)header ? header + U16(file, Is64 ? 54 : 42) * U16(file, Is64 ? 56 : 44) : header;
    }

    /// <summary>The entry point of the PVH protocol, from the note XEN_ELFNOTE_PHYS32_ENTRY; null when there is none.</summary>
    public uint? FindPvhEntry(ReadOnlySpan<byte> file)
    {
        foreach (ElfSegment s in Segments)
        {
            if (s.Type != ElfSegment.Note) continue;
            ReadOnlySpan<byte> notes = file.Slice((int)s.Offset, (int)s.FileSize);
            int align = s.Alignment == 8 ? 8 : 4;
            while (notes.Length >= 12)
            {
                uint nameSize = U32(notes, 0), size = U32(notes, 4), type = U32(notes, 8);
                ulong start = Align(12ul + nameSize, align), next = Align(start + size, align);
                if (start + size > (ulong)notes.Length) break;
                if (type == Phys32Entry && nameSize == 4 && notes.Slice(12, 4).SequenceEqual("Xen\0"u8) && size is 4 or 8)
                {
                    ulong entry = size == 8 ? U64(notes, (int)start) : U32(notes, (int)start);
                    return entry <= uint.MaxValue ? (uint)entry : null;
                }
                if (next >= (ulong)notes.Length) break;
                notes = notes[(int)next..];
            }
        }
        return null;
    }

    private static bool Inside(ReadOnlySpan<byte> file, ulong offset, ulong length) => offset <= (ulong)file.Length && length <= (ulong)file.Length - offset;

    private static ulong Align(ulong value, int alignment) => (value + (ulong)alignment - 1) & ~((ulong)alignment - 1);

    private static ushort U16(ReadOnlySpan<byte> b, int at) => BinaryPrimitives.ReadUInt16LittleEndian(b[at..]);
    private static uint U32(ReadOnlySpan<byte> b, int at) => BinaryPrimitives.ReadUInt32LittleEndian(b[at..]);
    private static ulong U64(ReadOnlySpan<byte> b, int at) => BinaryPrimitives.ReadUInt64LittleEndian(b[at..]);
}
