using System.Buffers.Binary;

namespace Bunraku.Machine;

/// <summary>The header by which a file says that it is a multiboot kernel.</summary>
/// <param name="Offset">Where in the file it begins.</param>
/// <param name="HeaderAddress">Physical address of the header itself; this and what follows hold when <see cref="HasAddresses"/>.</param>
/// <param name="LoadEnd">End of what is loaded from the file, 0 for the whole file.</param>
/// <param name="BssEnd">End of what is cleared, 0 for none.</param>
/// <remarks>Multiboot Specification 0.6.96, section "OS image format".</remarks>
internal sealed record MultibootHeader(int Offset, uint Flags, uint HeaderAddress, uint LoadAddress, uint LoadEnd, uint BssEnd, uint Entry)
{
    private const uint Magic = 0x1BAD_B002;
    private const uint SecondMagic = 0xE852_50D6;
    private const int SecondSearchLimit = 32768, SecondMinimum = 16;
    private const int SearchLimit = 8192, Minimum = 12, WithAddresses = 32;

    private const uint VideoMode = 1 << 2;

    /// <summary>
    /// Requirements that a loader must know or refuse: modules on page boundaries (kept always), memory information (given always), and a video mode.
    /// Kernels that ask for a mode do without, so they boot, as they do on QEMU.
    /// </summary>
    private const uint MandatoryMask = 0xFFFF, KnownMandatory = 3 | VideoMode;

    /// <summary>The kernel asks for a video mode and for what is known about it.</summary>
    public bool WantsVideoMode => (Flags & VideoMode) != 0;

    public bool HasAddresses => (Flags & 1 << 16) != 0;

    /// <summary>Requirement bits that no loader of ours fulfils, 0 when there are none.</summary>
    public uint UnknownRequirements => Flags & MandatoryMask & ~KnownMandatory;

    /// <summary>Looks for the header in the first 8192 bytes; null when there is none.</summary>
    public static MultibootHeader? Find(ReadOnlySpan<byte> file)
    {
        for (int at = 0; at + Minimum <= Math.Min(file.Length, SearchLimit); at += 4)
        {
            ReadOnlySpan<byte> h = file[at..];
            if (U32(h, 0) != Magic) continue;
            uint flags = U32(h, 4);
            if (Magic + flags + U32(h, 8) != 0) continue;
            return h.Length >= WithAddresses
                ? new(at, flags, U32(h, 12), U32(h, 16), U32(h, 20), U32(h, 24), U32(h, 28))
                : new(at, flags & ~(1u << 16), 0, 0, 0, 0, 0);
        }
        return null;
    }

    /// <summary>The file has the header of the second version, in its first 32768 bytes.</summary>
    /// <remarks>Multiboot2 Specification 2.0, section "OS image format".</remarks>
    public static bool IsSecondVersion(ReadOnlySpan<byte> file)
    {
        for (int at = 0; at + SecondMinimum <= Math.Min(file.Length, SecondSearchLimit); at += 8)
            if (U32(file, at) == SecondMagic && SecondMagic + U32(file, at + 4) + U32(file, at + 8) + U32(file, at + 12) == 0) return true;
        return false;
    }

    private static uint U32(ReadOnlySpan<byte> b, int at) => BinaryPrimitives.ReadUInt32LittleEndian(b[at..]);
}
