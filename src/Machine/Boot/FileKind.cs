using System.Buffers.Binary;

namespace Bunraku.Machine;

/// <summary>Names what a file is, for messages about files that are no kernel.</summary>
internal static class FileKind
{
    private static readonly (int Offset, byte[] Magic, string What)[] Signatures =
    [
#pragma warning disable IDE0055 // table
        (0x00,   [0x1F, 0x8B],                         "gzip-compressed data (unpack it first: gzip -d)"),
        (0x00,   [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00], "xz-compressed data (unpack it first: xz -d)"),
        (0x00,   [0x28, 0xB5, 0x2F, 0xFD],             "zstd-compressed data (unpack it first: zstd -d)"),
        (0x00,   [0x04, 0x22, 0x4D, 0x18],             "lz4-compressed data (unpack it first: lz4 -d)"),
        (0x00,   [0x42, 0x5A, 0x68],                   "bzip2-compressed data (unpack it first: bzip2 -d)"),
        (0x00,   "070701"u8.ToArray(),                 "a cpio archive (an initial RAM disk? give it as the initrd)"),
        (0x00,   "070702"u8.ToArray(),                 "a cpio archive (an initial RAM disk? give it as the initrd)"),
        (0x00,   "!<arch>\n"u8.ToArray(),              "an ar archive (a Debian package? unpack it with dpkg-deb -x)"),
        (0x00,   [0xED, 0xAB, 0xEE, 0xDB],             "an RPM package"),
        (0x00,   "QFI"u8.ToArray(),                    "a QCOW disk image"),
        (0x00,   "KDMV"u8.ToArray(),                   "a VMDK disk image"),
        (0x00,   [0x27, 0x05, 0x19, 0x56],             "a U-Boot image"),
        (0x38,   "ARMd"u8.ToArray(),                   "a Linux kernel for AArch64"),
        (0x38,   "RSC\x05"u8.ToArray(),                "a Linux kernel for RISC-V"),
        (0x8001, "CD001"u8.ToArray(),                  "an ISO 9660 CD image"),
        (0x101,  "ustar"u8.ToArray(),                  "a tar archive"),
        (0x00,   "#!"u8.ToArray(),                     "a script"),
        (0x00,   "MZ"u8.ToArray(),                     "an EFI or Windows program"),
        (0x1FE,  [0x55, 0xAA],                         "a boot sector or disk image"),
#pragma warning restore IDE0055
    ];

    /// <summary>One noun phrase.</summary>
    public static string Describe(ReadOnlySpan<byte> file)
    {
        if (file.IsEmpty) return "an empty file";
        if (ElfImage.HasMagic(file)) return DescribeElf(file);
        foreach ((int offset, byte[] magic, string what) in Signatures)
            if (file.Length >= offset + magic.Length && file.Slice(offset, magic.Length).SequenceEqual(magic)) return what;
        ReadOnlySpan<byte> start = file[..Math.Min(file.Length, 4096)];
        if (!start.ContainsAnyExcept((byte)0)) return "zeros";
        bool text = true;
        foreach (byte b in start) text &= b is >= 0x20 and not 0x7F or (byte)'\n' or (byte)'\r' or (byte)'\t' or (byte)'\f' or 0x1B;
        return text ? "text" : "unknown data";
    }

    private static string DescribeElf(ReadOnlySpan<byte> file)
    {
        if (file.Length < 20) return "a truncated ELF file";
        bool little = file[5] != 2;
        ushort type = Half(file, 16, little), machine = Half(file, 18, little);
        string kind =
            type switch
            {
                1 => "relocatable object",
                2 => "executable",
                3 => "shared object or position-independent executable",
                4 => "core dump",
                _ => $"file of type {type}"
            };
        string cpu = machine switch
        {
            3 => "i386",
            6 => "i486",
            8 => "MIPS",
            20 => "PowerPC",
            21 => "PowerPC64",
            22 => "S/390",
            40 => "ARM",
            43 => "SPARC V9",
            62 => "x86-64",
            183 => "AArch64",
            243 => "RISC-V",
            258 => "LoongArch",
            _ => $"machine {machine}",
        };
        return $"an ELF {kind} for {cpu}";
    }

    private static ushort Half(ReadOnlySpan<byte> file, int offset, bool little) =>
        little ? BinaryPrimitives.ReadUInt16LittleEndian(file[offset..]) : BinaryPrimitives.ReadUInt16BigEndian(file[offset..]);
}
