namespace Bunraku.Engines.X86;

/// <summary>
/// Reads guest memory by linear address for people who debug: no permission checks, no accessed or dirty bits, no engine.
/// The vCPU that the state belongs to must stand still.
/// </summary>
/// <remarks>Intel SDM vol. 3A, "Paging": 32-bit, PAE, 4-level and 5-level paging.</remarks>
public static class LinearMemory
{
    private const ulong Cr0Paging = 1ul << 31, Cr4Pse = 1ul << 4, Cr4Pae = 1ul << 5, Cr4La57 = 1ul << 12, EferLma = 1ul << 10;
    private const ulong Present = 1, LargePage = 0x80, AddressMask = 0x000F_FFFF_FFFF_F000;

    /// <summary>Copies bytes from <paramref name="linear"/> on; returns how many could be read before an unmapped page.</summary>
    public static int Read(GuestMemory memory, CpuState state, ulong linear, Span<byte> destination)
    {
        int done = 0;
        while (done < destination.Length)
        {
            if (!TryTranslate(memory, state, linear, out ulong physical)) break;
            int n = Math.Min(destination.Length - done, (int)(GuestMemory.PageSize - (linear & (GuestMemory.PageSize - 1))));
            if (!memory.Read(physical, destination.Slice(done, n))) break;
            done += n;
            linear += (ulong)n;
        }
        return done;
    }

    /// <summary>The guest-physical address behind <paramref name="linear"/>; false when it is not mapped.</summary>
    public static bool TryTranslate(GuestMemory memory, CpuState state, ulong linear, out ulong physical)
    {
        physical = linear;
        bool longMode = (state.Efer & EferLma) != 0;
        if (!longMode) linear &= uint.MaxValue;
        if ((state.Cr0 & Cr0Paging) == 0)
        {
            physical = linear;
            return true;
        }
        if ((state.Cr4 & Cr4Pae) == 0) return Walk32(memory, state, (uint)linear, out physical);

        // PAE paging has a first level of only four entries, which never map a page themselves.
        (ulong table, int shift) = longMode
            ? (state.Cr3 & AddressMask, (state.Cr4 & Cr4La57) != 0 ? 48 : 39)
            : (state.Cr3 & 0xFFFF_FFE0, 30);
        for (; ; shift -= 9)
        {
            ulong index = longMode || shift < 30 ? (linear >> shift) & 0x1FF : (linear >> shift) & 3;
            if (!memory.TryRead(table + index * 8, out ulong entry) || (entry & Present) == 0) return false;
            bool mayBeLarge = shift == 21 || (shift == 30 && longMode);
            if (shift == 12 || (mayBeLarge && (entry & LargePage) != 0))
            {
                ulong offsetMask = (1ul << shift) - 1;
                physical = (entry & AddressMask & ~offsetMask) | (linear & offsetMask);
                return true;
            }
            table = entry & AddressMask;
        }
    }

    private static bool Walk32(GuestMemory memory, CpuState state, uint linear, out ulong physical)
    {
        physical = 0;
        if (!memory.TryRead((state.Cr3 & 0xFFFF_F000) + (linear >> 22) * 4, out uint directory) || (directory & Present) == 0) return false;
        if ((directory & LargePage) != 0 && (state.Cr4 & Cr4Pse) != 0)
        {
            // PSE-36: bits 20:13 of the entry are bits 39:32 of the address.
            physical = (directory & 0xFFC0_0000) | ((ulong)(directory >> 13 & 0xFF) << 32) | (linear & 0x3F_FFFF);
            return true;
        }
        if (!memory.TryRead((directory & 0xFFFF_F000) + (linear >> 12 & 0x3FF) * 4, out uint page) || (page & Present) == 0) return false;
        physical = (page & 0xFFFF_F000) | (linear & 0xFFF);
        return true;
    }
}
