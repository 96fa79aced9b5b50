using static Bunraku.Engines.X86.PagingBits;

namespace Bunraku.Engines.X86;

/// <summary>Formats of paging-structure entries.</summary>
public enum PagingFormat
{
    /// <summary>32-bit paging: entries of 4 bytes.</summary>
    Legacy,
    /// <summary>PAE, 4-level and 5-level paging; AMD's nested page tables of such hosts, too.</summary>
    Long,
    /// <summary>Extended page tables.</summary>
    Extended,
}

/// <summary>One entry of a paging structure that a walk has read.</summary>
/// <param name="Stage">1: the guest's own tables; 2: those of the hypervisor inside the guest, for the guest-physical address <paramref name="For"/>.</param>
/// <param name="Level">5 PML5E, 4 PML4E, 3 PDPTE, 2 PDE, 1 PTE.</param>
/// <param name="Address">Where it lies: for the first stage guest-physical, for the second in the memory of the machine. 0: a PDPTE register.</param>
/// <param name="For">What is being translated.</param>
/// <param name="IsLeaf">It maps a page.</param>
public readonly record struct PagingStep(int Stage, int Level, PagingFormat Format, ulong Address, ulong Entry, ulong For, bool IsLeaf)
{
    /// <summary>The manuals' name of an entry of this level.</summary>
    public string Name => Level switch { 5 => "PML5E", 4 => "PML4E", 3 => "PDPTE", 2 => "PDE", _ => "PTE" };
}

/// <summary>
/// A page walk for people who debug, in one or two dimensions: no permission checks, no accessed or dirty bits, no engine. The vCPU that the state belongs to
/// must stand still.
/// </summary>
/// <remarks>Intel SDM vol. 3A, "Paging"; vol. 3C, "The Extended Page Table Mechanism (EPT)"; AMD APM vol. 2, "Nested Paging".</remarks>
public sealed class PagingWalk
{
    private const ulong Cr0Paging = 1ul << 31, Cr4Pse = 1ul << 4, Cr4Pae = 1ul << 5, Cr4La57 = 1ul << 12, EferLma = 1ul << 10;

    private readonly GuestMemory _memory;
    private readonly List<PagingStep>? _steps;
    private readonly Tables? _first, _second;

    /// <summary>Tables that a walk goes through.</summary>
    /// <param name="Levels">5, 4: long mode; 3: PAE; 2: entries of 4 bytes.</param>
    /// <param name="Registers">PDPTEs that the processor holds; null: they are in memory.</param>
    private sealed record Tables(int Stage, PagingFormat Format, ulong Root, int Levels, bool LargePages, ulong[]? Registers)
    {
        /// <summary>Addresses that are translated have so many bits.</summary>
        public int AddressBits => Levels switch { 2 or 3 => 32, _ => 12 + 9 * Levels };
    }

    private PagingWalk(GuestMemory memory, CpuState state, List<PagingStep>? steps)
    {
        (_memory, _steps) = (memory, steps);
        _second = SecondStage(state);
        // With nested page tables PDPTEs are read from memory, as AMD's processors do.
        if ((state.Cr0 & Cr0Paging) != 0)
            _first = OfRegisters(1, state.Cr3, state.Cr4, state.Efer, state.Svm is { HasNestedPaging: true } ? null : state.Pdptes);
    }

    private static Tables OfRegisters(int stage, ulong cr3, ulong cr4, ulong efer, ulong[]? pdptes)
    {
        if ((efer & EferLma) != 0) return new Tables(stage, PagingFormat.Long, cr3 & AddressMask, (cr4 & Cr4La57) != 0 ? 5 : 4, true, null);
        if ((cr4 & Cr4Pae) != 0) return new Tables(stage, PagingFormat.Long, cr3 & PdptAddressMask, 3, true, pdptes);
        return new Tables(stage, PagingFormat.Legacy, cr3 & AddressMask32, 2, (cr4 & Cr4Pse) != 0, null);
    }

    private static Tables? SecondStage(CpuState state)
    {
        if (state.Vmx?.EptPointer is { } pointer) return new Tables(2, PagingFormat.Extended, pointer & AddressMask, 4, true, null);
        return state.Svm is { HasNestedPaging: true } svm ? OfRegisters(2, svm.NestedCr3, svm.HostCr4, svm.HostEfer, null) : null;
    }

    /// <summary>The entries in the order in which they were read.</summary>
    public IReadOnlyList<PagingStep> Steps => _steps ?? [];

    /// <summary>Levels of the guest's own tables: 5, 4, 3 (PAE), 2 (32-bit); 0: paging is off.</summary>
    public int Levels => _first?.Levels ?? 0;

    /// <summary>Where the guest's own tables begin; 0 without paging.</summary>
    public ulong Root => _first?.Root ?? 0;

    /// <summary>The format of the second stage; null: there is none.</summary>
    public PagingFormat? SecondFormat => _second?.Format;

    /// <summary>Where the tables of the second stage begin; 0 without.</summary>
    public ulong SecondRoot => _second?.Root ?? 0;

    /// <summary>What the guest's own tables lead to; null: nothing is mapped.</summary>
    public ulong? GuestPhysical { get; private set; }

    /// <summary>The address in the memory of the machine; null: nothing is mapped.</summary>
    public ulong? Physical { get; private set; }

    /// <summary>Why the walk ended; null: it came to the end.</summary>
    public string? Failure { get; private set; }

    /// <summary>Walks for a linear address, and keeps every entry.</summary>
    public static PagingWalk Of(GuestMemory memory, CpuState state, ulong linear)
    {
        var walk = new PagingWalk(memory, state, []);
        walk.Run(state, linear);
        return walk;
    }

    /// <summary>As <see cref="Of"/>, for the result alone.</summary>
    internal static ulong? Translate(GuestMemory memory, CpuState state, ulong linear)
    {
        var walk = new PagingWalk(memory, state, null);
        walk.Run(state, linear);
        return walk.Physical;
    }

    private void Run(CpuState state, ulong linear)
    {
        if ((state.Efer & EferLma) == 0) linear &= uint.MaxValue;
        ulong address = linear;
        if (_first is { } first)
        {
            int unused = 64 - first.AddressBits;
            if (first.Levels > 3 && (ulong)((long)(linear << unused) >> unused) != linear)
            {
                Failure = "the address is not canonical";
                return;
            }
            if (!Walk(first, linear, out address)) return;
        }
        GuestPhysical = address;
        if (_second is { } second && !Walk(second, address, out address)) return;
        Physical = address;
    }

    private bool Walk(Tables t, ulong address, out ulong result)
    {
        result = 0;
        ulong table = t.Root;
        bool wide = t.Format != PagingFormat.Legacy;
        if (t.Stage == 2 && address >> t.AddressBits != 0) return Fail($"{address:x} has more than {t.AddressBits} bits");
        for (int level = t.Levels; ; level--)
        {
            int shift = wide ? 3 + 9 * level : 2 + 10 * level;
            bool isRegister = level == 3 && t.Levels == 3;
            ulong index = address >> shift & (isRegister ? 3u : wide ? 0x1FFu : 0x3FFu), at = table + index * (wide ? 8u : 4u), entry;
            if (isRegister && t.Registers is { } pdptes) (at, entry) = (0, pdptes[index]);
            else if (!TryRead(t, at, wide, out entry)) return false;
            bool present = (entry & (t.Format == PagingFormat.Extended ? EptBits.AnyAccess : Present)) != 0;
            bool leaf = level == 1 || (!isRegister && level <= (wide ? 3 : 2) && t.LargePages && (entry & LargePage) != 0);
            _steps?.Add(new PagingStep(t.Stage, level, t.Format, at, entry, address, leaf && present));
            if (!present) return Fail(t.Format == PagingFormat.Extended ? "no right is given" : "not present");
            if (leaf)
            {
                ulong offset = (1ul << shift) - 1, frame = entry & AddressMask;
                if (!wide) frame = entry & AddressMask32 | (level == 2 ? HighAddress32(entry) : 0);
                result = frame & ~offset | address & offset;
                return true;
            }
            table = wide ? entry & AddressMask : entry & AddressMask32;
        }
    }

    private bool Fail(string why)
    {
        Failure = why;
        return false;
    }

    private bool TryRead(Tables t, ulong at, bool wide, out ulong entry)
    {
        entry = 0;
        ulong machine = at;
        if (t.Stage == 1 && _second is { } second && !Walk(second, at, out machine)) return false;
        bool isRead = wide ? _memory.TryRead(machine, out entry) : _memory.TryRead(machine, out uint narrow) && (entry = narrow) == narrow;
        return isRead || Fail($"its entry at {machine:x} lies outside RAM");
    }
}
