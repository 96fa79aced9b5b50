namespace Bunraku.Processor.X86;

/// <summary>What a guest's 4-level tables say about a page of a program, as far as a processor may have cached it already.</summary>
/// <param name="Offset">Of the page in the backing memory.</param>
/// <param name="Rights">Reading only if the accessed flag is set, writing only if the dirty flag is, too. None: no RAM, or nothing may be cached.</param>
/// <param name="Length">Bytes that the entry maps, from a multiple of that on.</param>
internal readonly record struct ShadowSource(ulong Offset, HelperProtection Rights, ulong Length);

/// <summary>
/// Walks the tables of a program in 64-bit mode without setting a flag: what it finds usable another walk has made so. Intel SDM vol. 3A, "4-Level Paging".
/// </summary>
internal sealed unsafe class ShadowPeek(Processor p)
{
    private const ulong Present = 1, Writable = 2, User = 4, Accessed = 0x20, Dirty = 0x40, Large = 0x80, ExecuteDisable = 1ul << 63;
    private const ulong ProtectionKey = 0xFul << 59;
    private const ulong Frame = 0x000F_FFFF_FFFF_F000;

    /// <summary>A quadword of the kernel's, read without leaving a trace. False: it is not there.</summary>
    /// <param name="linear">A multiple of 8.</param>
    public bool TryRead(ulong linear, out ulong value)
    {
        ulong table = p.State->Cr3 & Frame;
        value = 0;
        for (int level = 4; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!p.PagingStructures.TryRead(table + ((linear >> shift & 0x1FF) << 3), out TableEntry<ulong> slot) || slot.Slot == null
                || (slot.Value & Present) == 0) return false;
            if (level == 1 || (level < 4 && (slot.Value & Large) != 0))
            {
                ulong rest = (1ul << shift) - 1;
                ulong physical = (slot.Value & Frame & ~rest) | (linear & rest);
                byte* host = p.Physical.PageOf(physical);
                if (host == null) return false;
                value = *(ulong*)(host + (physical & 0xFF8));
                return true;
            }
            table = slot.Value & Frame;
        }
    }

    public ShadowSource Find(ulong linear)
    {
        ProcessorState* s = p.State;
        ulong table = s->Cr3 & Frame, and = ulong.MaxValue, or = 0;
        for (int level = 4; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!p.PagingStructures.TryRead(table + ((linear >> shift & 0x1FF) << 3), out TableEntry<ulong> slot) || slot.Slot == null) return default;
            ulong entry = slot.Value;
            if ((entry & (Present | Accessed)) != (Present | Accessed)) return default;
            and &= entry;
            or |= entry;
            bool leaf = level == 1 || (level < 4 && (entry & Large) != 0);
            if (!leaf)
            {
                table = entry & Frame;
                continue;
            }
            if ((and & User) == 0 || ((entry & ProtectionKey) != 0 && (s->Cr4 & (ulong)Cr4.Pke) != 0)) return default;
            ulong length = 1ul << shift, physical = (entry & Frame & ~(length - 1)) | (linear & (length - 1) & ~0xFFFul);
            byte* host = p.Physical.PageOf(physical);
            if (host == null) return default;
            HelperProtection rights = HelperProtection.Read;
            bool isReadOnly = !p.Memory.TryFind(physical, out Engines.MemoryRegion region) || region.IsReadOnly;
            if ((and & Writable) != 0 && (entry & Dirty) != 0 && !isReadOnly) rights |= HelperProtection.Write;
            if ((or & ExecuteDisable) == 0 || (s->Efer & (ulong)Efer.Nxe) == 0) rights |= HelperProtection.Execute;
            return new ShadowSource(p.Code.BackingOffset(host), rights, length);
        }
    }
}
