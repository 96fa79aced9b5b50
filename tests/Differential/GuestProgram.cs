using System.Text;
using Iced.Intel;
using Decoder = Iced.Intel.Decoder;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>How the bytes at a fix-up depend on where things come to lie.</summary>
internal enum FixupKind
{
    /// <summary>32-bit distance to a unit from the end of the instruction.</summary>
    Relative,
    /// <summary>32-bit linear address of a unit.</summary>
    Absolute,
    /// <summary>Displacement of a RIP-relative operand, encoded as if the instruction began at 0.</summary>
    RipRelative,
}

/// <param name="At">Offset of the four bytes in the unit.</param>
/// <param name="End">Relative kinds: offset of the first byte behind the instruction; RipRelative: of its first byte.</param>
/// <param name="Target">Where to; null is patched in later.</param>
/// <param name="Addend">Added to the target's address.</param>
internal readonly record struct Fixup(FixupKind Kind, int At, int End, Unit? Target, int Addend);

/// <summary>A branch that ends a unit, as short as it may be. <see cref="Long"/> is empty for LOOP and JCXZ, which are short or nothing.</summary>
internal sealed record Branch(byte[] Long, byte[] Short, Unit Target, bool PreferShort);

/// <summary>Instructions that stay together; branches lead to the first one.</summary>
internal sealed class Unit
{
    public List<byte> Bytes { get; } = [];
    /// <summary>Offset of each instruction's first byte.</summary>
    public List<int> Starts { get; } = [];
    public List<Fixup> Fixups { get; } = [];
    public Branch? Branch { get; set; }
    /// <summary>Units of one group are removed together when a program is reduced; 0: may not be removed.</summary>
    public int Group { get; set; }
    /// <summary>Begin of a function: it gets a place of its own.</summary>
    public bool Placed { get; set; }
    /// <summary>Linear address, once laid out.</summary>
    public uint Address { get; set; }
    /// <summary>Where a placed unit should begin, as an offset from the program's base.</summary>
    public uint Place { get; set; }
    public bool IsShort { get; set; }

    public int BranchLength => Branch == null ? 0 : IsShort ? Branch.Short.Length + 1 : Branch.Long.Length == 0 ? 0 : Branch.Long.Length + 4;
    public int Length => Bytes.Count + BranchLength;
}

/// <summary>Byte of a unit that self-modifying code may change, and how.</summary>
internal enum PatchKind { Immediate, Opcode, Condition }

internal readonly record struct PatchSite(Unit Unit, int Offset, PatchKind Kind);

/// <summary>A word in the control page that holds a unit's address.</summary>
internal readonly record struct TableEntry(uint Linear, Unit Target);

/// <summary>A program in units, before it has addresses.</summary>
internal sealed class GuestProgram
{
    public required ProgramMode Mode { get; init; }
    public required ulong Seed { get; init; }
    public bool CodeWritable { get; init; }
    public int Iterations { get; init; }
    public uint StackTop { get; init; }
    public ulong InitialFlags { get; init; }
    public bool AlignmentMask { get; init; }
    /// <summary>Interrupts or bare stops at arbitrary counts of instructions, by the program's own random numbers.</summary>
    public bool Steered { get; init; }
    public List<Unit> Units { get; init; } = [];
    public List<TableEntry> Tables { get; init; } = [];
    public List<PatchSite> Sites { get; init; } = [];
    /// <summary>The unit where a lost program goes on.</summary>
    public required Unit Recovery { get; init; }

    public GuestProgram Without(HashSet<int> groups) => new()
    {
        Mode = Mode,
        Seed = Seed,
        CodeWritable = CodeWritable,
        Iterations = Iterations,
        StackTop = StackTop,
        InitialFlags = InitialFlags,
        AlignmentMask = AlignmentMask,
        Steered = Steered,
        Units = [.. Units.Where(u => u.Group == 0 || !groups.Contains(u.Group))],
        Tables = Tables,
        Sites = [.. Sites.Where(s => !groups.Contains(s.Unit.Group))],
        Recovery = Recovery,
        _all = _all ?? Units,
    };

    private List<Unit>? _all; // before anything was removed: where a target's successor is found

    /// <summary>
    /// Gives every unit an address and writes code, table of lengths and control page into an image of the guest's memory. False when the code is too long.
    /// </summary>
    public bool TryPlace(byte[] image)
    {
        Dictionary<Unit, Unit> heirs = Heirs();
        Unit Of(Unit target) => heirs.GetValueOrDefault(target, target);
        foreach (Unit u in Units) u.IsShort = false;
        for (int pass = 0; pass < 3; pass++)
        {
            if (!TryAssignAddresses()) return false;
            foreach (Unit u in Units)
            {
                if (u.Branch is not { } b || u.IsShort || !(b.PreferShort || b.Long.Length == 0)) continue;
                long distance = (long)Of(b.Target).Address - (u.Address + u.Length);
                u.IsShort = Math.Abs(distance) < 110;
            }
        }
        if (!TryAssignAddresses()) return false;
        foreach (Unit u in Units) Write(image, u, Of);
        foreach (TableEntry e in Tables) Supervisor.Store(image, e.Linear - G.Program, (ulong)Of(e.Target).Address);
        return true;
    }

    private Dictionary<Unit, Unit> Heirs()
    {
        var heirs = new Dictionary<Unit, Unit>();
        if (_all == null) return heirs;
        var kept = Units.ToHashSet();
        Unit next = Recovery;
        for (int n = _all.Count - 1; n >= 0; n--)
        {
            if (kept.Contains(_all[n])) next = _all[n];
            else heirs[_all[n]] = next;
        }
        return heirs;
    }

    private bool TryAssignAddresses()
    {
        uint at = G.Program + G.Code;
        foreach (Unit u in Units)
        {
            if (u.Placed)
            {
                // A place already taken is left for the next one behind it.
                uint wanted = G.Program + u.Place;
                at = Math.Max(at, wanted);
                if (u.Place == G.Variant && at != wanted) return false;
            }
            u.Address = at;
            at += (uint)u.Length;
        }
        return at <= G.Program + G.OtherVariant && Units.All(u => u.Placed || u.Address + u.Length <= G.Program + G.OtherVariant);
    }

    private static void Write(byte[] image, Unit u, Func<Unit, Unit> of)
    {
        uint offset = u.Address - G.Program;
        var bytes = image.AsSpan((int)offset, u.Length);
        u.Bytes.CopyTo(bytes);
        foreach (Fixup f in u.Fixups)
        {
            uint target = (f.Target != null ? of(f.Target).Address : Slot.TablesEnd - 16) + (uint)f.Addend;
            uint value = f.Kind switch
            {
                FixupKind.Absolute => target,
                FixupKind.Relative => target - (u.Address + (uint)f.End),
                _ => BitConverter.ToUInt32(bytes[f.At..]) - (u.Address + (uint)f.End),
            };
            BitConverter.TryWriteBytes(bytes[f.At..], value);
        }
        foreach (int start in u.Starts) image[G.Lengths + offset - G.Code + (uint)start] = (byte)LengthAt(u, start);
        if (u.Branch is not { } b || u.BranchLength == 0) return;
        Span<byte> tail = bytes[u.Bytes.Count..];
        uint distance = of(b.Target).Address - (u.Address + (uint)u.Length);
        byte[] opcode = u.IsShort ? b.Short : b.Long;
        opcode.CopyTo(tail);
        if (u.IsShort) tail[opcode.Length] = (byte)distance;
        else BitConverter.TryWriteBytes(tail[opcode.Length..], distance);
        image[G.Lengths + offset - G.Code + (uint)u.Bytes.Count] = (byte)u.BranchLength;
    }

    private static int LengthAt(Unit u, int start)
    {
        int index = u.Starts.BinarySearch(start);
        return (index + 1 < u.Starts.Count ? u.Starts[index + 1] : u.Bytes.Count) - start;
    }

    /// <summary>The code as placed in <paramref name="image"/>, with a mark at each label that something leads to.</summary>
    public string Disassemble(byte[] image)
    {
        var text = new StringBuilder();
        var formatter = new NasmFormatter();
        var output = new StringOutput();
        uint expected = 0;
        foreach (Unit u in Units.Where(u => u.Length > 0))
        {
            if (u.Address != expected) text.Append('\n');
            uint offset = u.Address - G.Program;
            var decoder = Decoder.Create(Mode.Bits(), image.AsSpan((int)offset, u.Length).ToArray(), u.Address);
            while (decoder.IP < u.Address + (uint)u.Length)
            {
                int at = (int)(decoder.IP - G.Program);
                Instruction i = decoder.Decode();
                formatter.Format(i, output);
                text.Append($"  {i.IP:X8}  {Convert.ToHexString(image, at, i.Length),-24} {output.ToStringAndReset()}\n");
            }
            expected = u.Address + (uint)u.Length;
        }
        return text.ToString();
    }
}
