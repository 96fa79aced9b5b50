using Bunraku.Engines;

namespace Bunraku.Fixtures;

/// <summary>Bits of paging-structure entries. Intel SDM vol. 3A, "Paging".</summary>
internal static class Pte
{
    public const ulong P = 1, W = 2, U = 4, Pwt = 8, Pcd = 0x10, A = 0x20, D = 0x40, Ps = 0x80, G = 0x100, Nx = 1ul << 63;

    public static ulong Key(int key) => (ulong)key << 59;
}

/// <summary>Builds the guest's paging structures of any mode in its memory; tables are made as needed, writable and for the user.</summary>
internal sealed class PageTables
{
    private readonly GuestMemory _memory;
    private readonly int _levels, _entrySize;
    private uint _next = Layout.PageTables;

    public PageTables(GuestMemory memory, Mode mode)
    {
        _memory = memory;
        (_levels, _entrySize) = mode switch { Mode.Paged32 => (2, 4), Mode.Pae => (3, 8), Mode.Long5 => (5, 8), _ => (4, 8) };
        Root = Allocate();
    }

    public uint Root { get; }

    /// <summary>Physical address of a new empty table.</summary>
    public uint Allocate()
    {
        uint table = _next;
        _next += 0x1000;
        if (_next > Layout.PageTablesEnd) throw new InvalidOperationException("no room for page tables");
        return table;
    }

    /// <summary>
    /// Physical address of a second root, of four levels, whose tables are the same as now but for the 4 KiB page at <paramref name="linear"/>, which has
    /// another entry.
    /// </summary>
    public uint RootWith(ulong linear, ulong entry)
    {
        for (int level = 1; level <= 4; level++)
        {
            uint at = EntryAddress(linear, level), old = at & ~0xFFFu, copy = Allocate();
            for (uint n = 0; n < 0x1000; n += 8) Write(copy + n, Read(old + n));
            Write(copy + (at & 0xFFF), entry);
            entry = copy | Pte.P | Pte.W | Pte.U;
        }
        return (uint)entry & ~0xFFFu;
    }

    private int BitsPerLevel => _entrySize == 4 ? 10 : 9;

    /// <summary>Physical address of the entry for a linear address; level 1 is that of 4 KiB pages.</summary>
    public uint EntryAddress(ulong linear, int level = 1)
    {
        uint table = Root;
        for (int l = _levels; ; l--)
        {
            int shift = 12 + BitsPerLevel * (l - 1);
            uint at = table + (uint)((linear >> shift) & ((1ul << BitsPerLevel) - 1)) * (uint)_entrySize;
            if (l == level) return at;
            ulong entry = Read(at);
            if ((entry & Pte.P) == 0)
            {
                // PDPTEs of PAE have no access rights.
                entry = Allocate() | (_levels == 3 && l == 3 ? Pte.P : Pte.P | Pte.W | Pte.U);
                Write(at, entry);
            }
            table = (uint)entry & ~0xFFFu;
        }
    }

    private ulong Read(uint at)
    {
        if (_entrySize == 4)
        {
            Assert.True(_memory.TryRead(at, out uint narrow));
            return narrow;
        }
        Assert.True(_memory.TryRead(at, out ulong value));
        return value;
    }

    private void Write(uint at, ulong value)
    {
        if (_entrySize == 4) Assert.True(_memory.TryWrite(at, (uint)value));
        else Assert.True(_memory.TryWrite(at, value));
    }

    public ulong this[ulong linear, int level = 1]
    {
        get => Read(EntryAddress(linear, level));
        set => Write(EntryAddress(linear, level), value);
    }
}
