using System.Numerics;
using System.Runtime.CompilerServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>What a page walk found.</summary>
internal readonly struct Translation
{
    /// <summary>Guest-physical address of the 4 KiB page that contains the linear address.</summary>
    public ulong Page { get; init; }
    /// <summary>A write with the same privilege would be allowed and its dirty flag is already set.</summary>
    public bool WriteReady { get; init; }
    /// <summary>Mapped by an entry that covers more than 4 KiB.</summary>
    public bool Large { get; init; }
    /// <summary>-1, -2, or the #PF error code.</summary>
    public long Error { get; init; }
    public bool Ok => Error == -1;
    /// <summary>Another processor changed an entry while its flags were to be set: the walk means nothing.</summary>
    public bool Void => Error == -2;
}

/// <summary>
/// Address translation by the guest's own tables. Intel SDM vol. 3A ch. 4 "Paging" (edition 2023): all modes, reserved bits, access rights,
/// accessed and dirty flags, protection keys.
/// </summary>
public sealed unsafe partial class Processor
{
    private const ulong Present = 1, Writable = 2, UserPage = 4, Accessed = 0x20, Dirty = 0x40, PageSizeBit = 0x80, ExecuteDisable = 1ul << 63;

    /// <summary>Access kinds, in the bits of a #PF error code.</summary>
    internal const uint ReadAccess = 0, WriteAccess = (uint)PageFaultError.Write, UserAccess = (uint)PageFaultError.User, FetchAccess = (uint)PageFaultError.Fetch;
    /// <summary>A supervisor access that the instruction did not ask for (descriptor tables, TSS): SMAP ignores RFLAGS.AC for it when CPL is 3.</summary>
    internal const uint ImplicitAccess = 1u << 31;

    /// <summary>What the CPU model decides about walks, looked up once.</summary>
    private readonly struct PagingModel(CpuModel model)
    {
        /// <summary>Reserved physical address bits of a paging-structure entry.</summary>
        public readonly ulong ReservedPhysical = 0x000F_FFFF_FFFF_F000ul & ~((1ul << model.PhysicalAddressBits) - 1);
        public readonly bool GigabytePages = model.Has(CpuFeature.Pdpe1gb);
        public readonly bool Pse36 = model.Has(CpuFeature.Pse36);
    }

    private readonly PagingModel _paging;

    /// <summary>All ones but bit 20 when the A20 line is masked.</summary>
    internal ulong A20Mask { get; private set; } = ulong.MaxValue;

    private volatile bool _a20 = true;

    /// <summary>The A20M# pin. Any thread; takes effect before the next block.</summary>
    internal void SetA20(bool pass)
    {
        if (_a20 == pass) return;
        _a20 = pass;
        Signal(Attention.Event);
    }

    private void ApplyA20()
    {
        ulong mask = _a20 ? ulong.MaxValue : ~(1ul << 20);
        if (mask == A20Mask) return;
        A20Mask = mask;
        FlushTlb(includeGlobal: true);
    }

    /// <summary>Translates one linear address; never throws. Sets accessed and dirty flags as the processor would.</summary>
    internal Translation Walk(ulong linear, uint access)
    {
        Translation t;
        do t = WalkOnce(linear, access);
        while (t.Void);
        return t;
    }

    private Translation WalkOnce(ulong linear, uint access)
    {
        ProcessorState* s = State;
        if ((s->Cr0 & (ulong)Cr0.Pg) == 0) return new Translation { Page = linear & 0xFFFF_F000 & A20Mask, WriteReady = true, Error = -1 };
        if ((s->Cr4 & (ulong)Cr4.Pae) == 0) return Walk32(linear, access);
        if ((s->Efer & (ulong)Efer.Lma) == 0) return WalkPae(linear, access);
        return Walk64(linear, access);
    }

    /// <summary>Rights collected along a walk: the AND of R/W and U/S, the OR of XD.</summary>
    private ref struct Rights
    {
        public ulong And, Or;
    }

    private Translation Walk64(ulong linear, uint access)
    {
        ProcessorState* s = State;
        ulong table = s->Cr3 & 0x000F_FFFF_FFFF_F000;
        var rights = new Rights { And = ulong.MaxValue };
        int level = (s->Cr4 & (ulong)Cr4.La57) != 0 ? 5 : 4;
        for (; ; level--)
        {
            int shift = 3 + 9 * level;
            ulong* slot = Entry64(table + (((linear >> shift) & 0x1FF) << 3), out ulong entry);
            if ((entry & Present) == 0) return Miss(access, 0);
            bool leaf = level == 1 || ((entry & PageSizeBit) != 0 && level is 2 or 3);
            ulong reserved = _paging.ReservedPhysical | ((s->Efer & (ulong)Efer.Nxe) == 0 ? ExecuteDisable : 0);
            if (level >= 4 || (level == 3 && !_paging.GigabytePages)) reserved |= PageSizeBit;
            if (leaf && level > 1) reserved |= ((1ul << shift) - 1) & ~0x1FFFul; // bit 12 is PAT
            if (level == 3 && !_paging.GigabytePages) leaf = false;
            if ((entry & reserved) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
            rights.And &= entry;
            rights.Or |= entry;
            if (leaf) return Finish64(linear, access, slot, entry, rights, shift);
            if (!SetFlags(slot, entry, Accessed)) return VoidWalk;
            table = entry & 0x000F_FFFF_FFFF_F000;
        }
    }

    private Translation WalkPae(ulong linear, uint access)
    {
        ProcessorState* s = State;
        ulong pdpte = (&s->Pdpte0)[(linear >> 30) & 3];
        if ((pdpte & Present) == 0) return Miss(access, 0);
        ulong reserved = _paging.ReservedPhysical | 0x7FF0_0000_0000_0000 | ((s->Efer & (ulong)Efer.Nxe) == 0 ? ExecuteDisable : 0);
        var rights = new Rights { And = ulong.MaxValue };
        ulong* slot = Entry64((pdpte & 0x000F_FFFF_FFFF_F000) + (((linear >> 21) & 0x1FF) << 3), out ulong entry);
        if ((entry & Present) == 0) return Miss(access, 0);
        bool large = (entry & PageSizeBit) != 0;
        if ((entry & (large ? reserved | 0x1F_E000 : reserved)) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
        rights.And &= entry;
        rights.Or |= entry;
        if (large) return Finish64(linear, access, slot, entry, rights, 21);
        if (!SetFlags(slot, entry, Accessed)) return VoidWalk;
        slot = Entry64((entry & 0x000F_FFFF_FFFF_F000) + (((linear >> 12) & 0x1FF) << 3), out entry);
        if ((entry & Present) == 0) return Miss(access, 0);
        if ((entry & reserved) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
        rights.And &= entry;
        rights.Or |= entry;
        return Finish64(linear, access, slot, entry, rights, 12);
    }

    private Translation Walk32(ulong linear, uint access)
    {
        ProcessorState* s = State;
        uint* slot = Entry32((s->Cr3 & 0xFFFF_F000) + (((linear >> 22) & 0x3FF) << 2), out uint entry);
        if ((entry & Present) == 0) return Miss(access, 0);
        var rights = new Rights { And = entry, Or = 0 };
        ulong frame;
        bool large = (entry & PageSizeBit) != 0 && (s->Cr4 & (ulong)Cr4.Pse) != 0;
        if (large)
        {
            // PSE-36: bits 20:13 hold physical address bits 39:32, bit 21 is reserved.
            ulong high = _paging.Pse36 ? (ulong)(entry >> 13 & 0xFF) << 32 : 0;
            ulong reserved = _paging.Pse36 ? 0x20_0000ul : 0x3F_E000ul;
            if ((entry & reserved) != 0 || (high & ~((1ul << Model.PhysicalAddressBits) - 1)) != 0) return Miss(access, PageFaultError.Present | PageFaultError.Reserved);
            frame = high | (entry & 0xFFC0_0000) | (linear & 0x3F_F000);
        }
        else
        {
            if (!SetFlags(slot, entry, (uint)Accessed)) return VoidWalk;
            slot = Entry32((entry & 0xFFFF_F000) + (((linear >> 12) & 0x3FF) << 2), out entry);
            if ((entry & Present) == 0) return Miss(access, 0);
            rights.And &= entry;
            frame = entry & 0xFFFF_F000;
        }
        PageFaultError error = CheckRights(access, rights.And, 0, -1, out bool writable);
        if (error != 0) return Miss(access, error);
        bool write = (access & WriteAccess) != 0;
        if (!SetFlags(slot, entry, (uint)(write ? Accessed | Dirty : Accessed))) return VoidWalk;
        return new Translation { Page = frame & A20Mask, Large = large, WriteReady = writable && (write || (entry & Dirty) != 0), Error = -1 };
    }

    private Translation Finish64(ulong linear, uint access, ulong* slot, ulong entry, Rights rights, int shift)
    {
        bool longMode = (State->Efer & (ulong)Efer.Lma) != 0;
        PageFaultError error = CheckRights(access, rights.And, rights.Or, longMode ? (int)(entry >> 59) & 0xF : -1, out bool writable);
        if (error != 0) return Miss(access, error);
        bool write = (access & WriteAccess) != 0;
        if (!SetFlags(slot, entry, write ? Accessed | Dirty : Accessed)) return VoidWalk;
        ulong mask = (1ul << shift) - 1;
        ulong page = (entry & 0x000F_FFFF_FFFF_F000 & ~mask) | (linear & mask & ~0xFFFul);
        return new Translation { Page = page & A20Mask, Large = shift > 12, WriteReady = writable && (write || (entry & Dirty) != 0), Error = -1 };
    }

    /// <summary>SDM vol. 3A "Determination of Access Rights" and "Protection Keys". <paramref name="key"/> is -1 where keys do not exist.</summary>
    private PageFaultError CheckRights(uint access, ulong and, ulong or, int key, out bool writable)
    {
        ProcessorState* s = State;
        bool userPage = (and & UserPage) != 0, userAccess = (access & UserAccess) != 0;
        writable = (and & Writable) != 0 || (!userAccess && (s->Cr0 & (ulong)Cr0.Wp) == 0);
        if (userAccess && !userPage) return PageFaultError.Present;
        if ((access & FetchAccess) != 0)
        {
            if ((or & ExecuteDisable) != 0 && (s->Efer & (ulong)Efer.Nxe) != 0) return PageFaultError.Present;
            if (!userAccess && userPage && (s->Cr4 & (ulong)Cr4.Smep) != 0) return PageFaultError.Present;
            return 0;
        }
        bool write = (access & WriteAccess) != 0;
        bool allowed = !write || writable;
        if (!userAccess && userPage && (s->Cr4 & (ulong)Cr4.Smap) != 0)
        {
            bool implicitAccess = (access & ImplicitAccess) != 0 && s->Cpl == 3;
            if (implicitAccess || (s->FlagsOther & (uint)Rflags.Ac) == 0) allowed = false;
        }
        if (key >= 0 && userPage && (s->Cr4 & (ulong)Cr4.Pke) != 0)
        {
            // The error code tells of the key whatever else forbids the access.
            uint bits = s->Pkru >> (2 * key);
            bool writeDisable = (bits & 2) != 0 && (userAccess || (s->Cr0 & (ulong)Cr0.Wp) != 0);
            if ((bits & 1) != 0 || (write && writeDisable)) return PageFaultError.Present | PageFaultError.ProtectionKey;
            writable &= !writeDisable;
        }
        return allowed ? 0 : PageFaultError.Present;
    }

    private Translation Miss(uint access, PageFaultError cause)
    {
        uint error = (uint)cause | (access & (WriteAccess | UserAccess));
        // I/D exists only where execution can be forbidden by paging.
        bool canForbid = (State->Cr4 & (ulong)Cr4.Smep) != 0 || ((State->Cr4 & (ulong)Cr4.Pae) != 0 && (State->Efer & (ulong)Efer.Nxe) != 0);
        if ((access & FetchAccess) != 0 && canForbid) error |= FetchAccess;
        return new Translation { Error = error };
    }

    /// <summary>A paging-structure entry outside RAM reads as all ones and cannot be updated.</summary>
    private ulong* Entry64(ulong address, out ulong value)
    {
        byte* page = Memory.PagePointer(address & A20Mask);
        if (page == null)
        {
            value = ulong.MaxValue;
            return null;
        }
        var slot = (ulong*)(page + (address & 0xFF8));
        value = Volatile.Read(ref *slot);
        return slot;
    }

    private uint* Entry32(ulong address, out uint value)
    {
        byte* page = Memory.PagePointer(address & A20Mask);
        if (page == null)
        {
            value = uint.MaxValue;
            return null;
        }
        var slot = (uint*)(page + (address & 0xFFC));
        value = Volatile.Read(ref *slot);
        return slot;
    }

    private static Translation VoidWalk => new() { Error = -2 };

    /// <summary>
    /// Sets accessed and dirty flags if they are not set yet. Another processor may change the entry at the same time, and flags must not get into what it
    /// wrote, which may be no present entry any more: false, with nothing changed.
    /// </summary>
    /// <remarks>Intel SDM vol. 3A, "Accessed and Dirty Flags", and "Automatic Locking".</remarks>
    private bool SetFlags<T>(T* slot, T entry, T flags) where T : unmanaged, IBinaryInteger<T>
    {
        if ((entry & flags) == flags || slot == null) return true;
        if (_beforeWrite != null) NoteWrite((byte*)slot, null);
        if (Interlocked.CompareExchange(ref *slot, entry | flags, entry) != entry) return false;
        // Page tables may lie beside code.
        if (IsCodePage((byte*)slot)) AfterWrite((byte*)slot, sizeof(T));
        return true;
    }
}
