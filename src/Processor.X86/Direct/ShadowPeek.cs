using Bunraku.Engines;
using static Bunraku.Engines.X86.PagingBits;

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
    /// <summary>A quadword of the kernel's, read without leaving a trace. False: it is not there.</summary>
    /// <param name="linear">A multiple of 8.</param>
    public bool TryRead(ulong linear, out ulong value)
    {
        bool isThere = TryWalk(linear, out Mapping found);
        value = isThere ? *(ulong*)(found.Host + (found.Physical & (GuestMemory.PageSize - 8))) : 0;
        return isThere;
    }

    /// <summary>What a processor may have cached of a page.</summary>
    /// <param name="linear">An address in it.</param>
    public ShadowSource Find(ulong linear)
    {
        ProcessorState* s = p.State;
        if (!TryWalk(linear, out Mapping found) || (found.And & (User | Accessed)) != (User | Accessed)
            || ((found.Entry & ProtectionKeyMask) != 0 && (s->Cr4 & (ulong)Cr4.Pke) != 0)) return default;
        HelperProtection rights = HelperProtection.Read;
        bool isReadOnly = !p.Memory.TryFind(found.Physical, out MemoryRegion region) || region.IsReadOnly;
        if ((found.And & Writable) != 0 && (found.Entry & Dirty) != 0 && !isReadOnly) rights |= HelperProtection.Write;
        if ((found.Or & ExecuteDisable) == 0 || (s->Efer & (ulong)Efer.Nxe) == 0) rights |= HelperProtection.Execute;
        return new ShadowSource(p.Code.BackingOffset(found.Host), rights, found.Length);
    }

    /// <summary>Where the tables lead to, whatever they allow.</summary>
    private ref struct Mapping
    {
        /// <summary>The last entry, and all of them together.</summary>
        public ulong Entry, And, Or;
        /// <summary>The guest-physical address, and the bytes that the last entry maps.</summary>
        public ulong Physical, Length;
        /// <summary>The page of the address.</summary>
        public byte* Host;
    }

    /// <summary>False: nothing is mapped there, or an entry or the page lies outside RAM.</summary>
    private bool TryWalk(ulong linear, out Mapping found)
    {
        found = new Mapping { And = ulong.MaxValue };
        ulong table = p.State->Cr3 & AddressMask;
        for (int level = 4; ; level--)
        {
            int shift = 3 + 9 * level;
            if (!p.PagingStructures.TryRead(table + ((linear >> shift & 0x1FF) << 3), out TableEntry<ulong> slot) || slot.Slot == null) return false;
            ulong entry = slot.Value;
            if ((entry & Present) == 0) return false;
            (found.Entry, found.And, found.Or) = (entry, found.And & entry, found.Or | entry);
            table = entry & AddressMask;
            if (level > 1 && (level == 4 || (entry & LargePage) == 0)) continue;
            found.Length = 1ul << shift;
            found.Physical = (table & ~(found.Length - 1)) | (linear & (found.Length - 1));
            found.Host = p.Physical.PageOf(found.Physical);
            return found.Host != null;
        }
    }
}
