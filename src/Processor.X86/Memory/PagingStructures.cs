using System.Numerics;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>A paging-structure entry that a walk has read.</summary>
internal readonly unsafe struct TableEntry<T> where T : unmanaged
{
    /// <summary>Where it lies, behind the second stage of a hypervisor inside the guest and behind A20.</summary>
    public ulong Address { get; init; }
    /// <summary>The entry in the host; null outside RAM, where entries cannot be updated.</summary>
    public T* Slot { get; init; }
    public T Value { get; init; }
    /// <summary>
    /// Where the second stage of a hypervisor inside the guest lets it be read and not written: its address in front of that stage. Else null.
    /// </summary>
    public ulong? ReadOnlyAddress { get; init; }
}

/// <summary>What became of an attempt to set flags in a paging-structure entry.</summary>
internal enum FlagUpdate : byte
{
    /// <summary>They are set.</summary>
    Done,
    /// <summary>Another processor has changed the entry: the walk means nothing.</summary>
    Void,
    /// <summary>Our second stage forbids writing there: <see cref="PagingStructures.Refusal"/>.</summary>
    Refused,
}

/// <summary>
/// Entries of paging structures in the memory of the machine: those of the first stage and, where a hypervisor inside the guest has one, those of its second.
/// Addresses are the machine's, so that a first stage behind a second one translates them before.
/// </summary>
internal sealed unsafe class PagingStructures(Processor p)
{
    /// <summary>What was refused last.</summary>
    public Refusal Refusal { get; private set; }

    /// <summary>Entries that were read.</summary>
    public ulong References { get; private set; }

    /// <summary>Reads an entry; outside RAM it reads as all ones. False: <see cref="Refusal"/>.</summary>
    /// <param name="address">A multiple of the entry's size.</param>
    public bool TryRead<T>(ulong address, out TableEntry<T> entry) where T : unmanaged, IBinaryInteger<T>
    {
        References++;
        if (p.Physical.Unwatched(ref address) is var host && host != null)
        {
            // One access, which other processors' updates cannot tear.
            entry = new TableEntry<T> { Address = address, Slot = (T*)host, Value = *(T*)host };
            return true;
        }
        return TryReadWatched(address, out entry);
    }

    private bool TryReadWatched<T>(ulong address, out TableEntry<T> entry) where T : unmanaged, IBinaryInteger<T>
    {
        PhysicalPage page = p.Physical.Resolve(address, PageRights.Read);
        if (page.Kind == PhysicalKind.Refused)
        {
            Refusal = new Refusal(page.Address | address & 0xFFF, PageRights.Read, IsTableAccess: true);
            entry = default;
            return false;
        }
        var slot = (T*)(page.Host == null ? null : page.Host + (address & 0xFFF));
        entry = new TableEntry<T> { Address = page.Address | address & 0xFFF, Slot = slot, Value = slot == null ? T.AllBitsSet : *slot };
        return true;
    }

    /// <summary>
    /// Sets accessed and dirty flags if they are not set yet. Another processor may change the entry at the same time, and flags must not get into what it
    /// wrote, which may be no present entry any more: nothing has changed then.
    /// </summary>
    /// <remarks>Intel SDM vol. 3A, "Accessed and Dirty Flags", and "Automatic Locking".</remarks>
    public FlagUpdate TrySetFlags<T>(in TableEntry<T> entry, T flags) where T : unmanaged, IBinaryInteger<T>
    {
        T* slot = entry.Slot;
        if ((entry.Value & flags) == flags || slot == null) return FlagUpdate.Done;
        if ((p.Memory.Rights[p.Code.BackingOffset((byte*)slot)] & PageRights.Write) == 0)
        {
            Refusal = new Refusal(entry.Address, PageRights.Write, IsTableAccess: true);
            return FlagUpdate.Refused;
        }
        if (p.Physical.IsReadOnly(entry.Address)) return FlagUpdate.Done; // the write vanishes
        if (p.WriteWatch.IsOn) p.WriteWatch.Note((byte*)slot, null);
        if (Interlocked.CompareExchange(ref *slot, entry.Value | flags, entry.Value) != entry.Value) return FlagUpdate.Void;
        // Page tables may lie beside code.
        if (p.Code.IsCodePage((byte*)slot)) p.Code.AfterWrite((byte*)slot, sizeof(T));
        return FlagUpdate.Done;
    }
}
