using System.Buffers.Binary;

namespace Bunraku.Machine.Tests;

/// <summary>Small kernel files that are valid and hold nothing to run.</summary>
internal static class SyntheticKernels
{
    public static IReadOnlyList<byte[]> All => [BzImage(), Pvh(false), Pvh(true), MultibootElf(), MultibootAddresses(), HeadersFirst(), HelloGuest.Build()];

    public static byte[] BzImage(uint load = 1 << 20, uint initSize = 1 << 20, uint initrdMaximum = 0x7FFF_FFFF, ushort version = 0x20F)
    {
        byte[] file = new byte[2 * 512 + 0x400];
        file[0x1F1] = 1;
        U32(file, 0x1F4, 0x400 / 16);
        U16(file, 0x1FE, 0xAA55);
        file[0x200] = 0xEB;
        file[0x201] = 0x6C - 2;
        "HdrS"u8.CopyTo(file.AsSpan(0x202));
        U16(file, 0x206, version);
        file[0x211] = 1;
        U32(file, 0x22C, initrdMaximum);
        U32(file, 0x230, 1 << 20);
        file[0x234] = 1;
        U16(file, 0x236, 1);
        U32(file, 0x238, 2047);
        U32(file, 0x258, load);
        U32(file, 0x260, initSize);
        return file;
    }

    /// <summary>ELF with one loadable segment of 64 bytes in the file and 4096 in memory at 1 MiB, and the given notes and start of the segment.</summary>
    public static byte[] Elf(bool is64 = true, ushort type = 2, ushort machine = 62, byte[]? notes = null, byte[]? segment = null)
    {
        int header = is64 ? 64 : 52, entry = is64 ? 56 : 32, notesAt = header + 2 * entry, dataAt = notesAt + 64;
        byte[] file = new byte[dataAt + 64];
        new byte[] { 0x7F, (byte)'E', (byte)'L', (byte)'F', (byte)(is64 ? 2 : 1), 1, 1 }.CopyTo(file, 0);
        U16(file, 16, type);
        U16(file, 18, machine);
        U32(file, 24, 0x10_0000);
        U32(file, is64 ? 32 : 28, (uint)header);
        U16(file, is64 ? 54 : 42, (ushort)entry);
        U16(file, is64 ? 56 : 44, 2);
        notes?.CopyTo(file, notesAt);
        segment?.CopyTo(file, dataAt);
        void Segment(int n, uint kind, int offset, uint address, uint size, uint memorySize)
        {
            int at = header + n * entry;
            U32(file, at, kind);
            int[] fields = is64 ? [8, 16, 24, 32, 40] : [4, 8, 12, 16, 20];
            uint[] values = [(uint)offset, address, address, size, memorySize];
            for (int f = 0; f < 5; f++) U32(file, at + fields[f], values[f]);
        }
        Segment(0, 1, dataAt, 0x10_0000, 64, 4096);
        Segment(1, 4, notesAt, 0, (uint)(notes?.Length ?? 0), 0);
        return file;
    }

    public static byte[] Pvh(bool is64)
    {
        byte[] notes = new byte[20];
        U32(notes, 0, 4);
        U32(notes, 4, 4);
        U32(notes, 8, 18);
        "Xen\0"u8.CopyTo(notes.AsSpan(12));
        U32(notes, 16, 0x10_0000);
        return Elf(is64, machine: (ushort)(is64 ? 62 : 3), notes: notes);
    }

    public static byte[] MultibootElf(uint flags = 3) => Elf(is64: false, machine: 3, segment: MultibootHeader(flags, []));

    /// <summary>
    /// As a linker makes it: one segment that begins with the file's headers in the page below 1 MiB, and ends with the multiboot header and code above.
    /// </summary>
    /// <param name="inRom">A byte of the part below 1 MiB that is no header.</param>
    public static byte[] HeadersFirst(byte inRom = 0)
    {
        byte[] elf = MultibootElf(), file = new byte[0x1000 + 64];
        const int headers = 52 + 2 * 32;
        elf.AsSpan(0, headers).CopyTo(file);
        MultibootHeader(3, []).CopyTo(file, 0x1000);
        file[0xFFF] = inRom;
        uint[] segment = [1, 0, 0xF_F000, 0xF_F000, (uint)file.Length, (uint)file.Length + 64];
        for (int n = 0; n < segment.Length; n++) U32(file, 52 + n * 4, segment[n]);
        U32(file, 52 + 32, 0); // no notes
        return file;
    }

    public static byte[] MultibootAddresses() => [.. MultibootHeader(1 << 16 | 3, [0x10_0000, 0x10_0000, 0x10_0080, 0x10_2000, 0x10_0020]), .. new byte[96]];

    private static byte[] MultibootHeader(uint flags, uint[] more)
    {
        byte[] header = new byte[12 + more.Length * 4];
        U32(header, 0, 0x1BAD_B002);
        U32(header, 4, flags);
        U32(header, 8, unchecked(0u - 0x1BAD_B002 - flags));
        for (int n = 0; n < more.Length; n++) U32(header, 12 + n * 4, more[n]);
        return header;
    }

    private static void U16(byte[] bytes, int at, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(at), value);
    private static void U32(byte[] bytes, int at, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), value);
}
