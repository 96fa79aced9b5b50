using Bunraku.Engines;
using Bunraku.Silicon;
using Iced.Intel;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>
/// Makes random programs: a loop of 20 to 200 iterations over a body of instructions, branches, bounded loops and calls, with functions elsewhere. Which
/// unusual things a program does is drawn first, so that most programs do a few of them often.
/// </summary>
internal sealed partial class ProgramGenerator
{
    /// <summary>What a program may contain besides plain code; each program has its own choice.</summary>
    [Flags]
    private enum Feature
    {
        None = 0, Vector = 1, Strings = 2, Calls = 4, Indirect = 8, Mismatched = 0x10, SelfModifying = 0x20, Remapping = 0x40, Flags = 0x80,
        SystemCalls = 0x100, Stepping = 0x200, Devices = 0x400,
        Interrupts = 0x800, Mmio = 0x1000, Wild = 0x2000, Segments = 0x4000, Control = 0x8000, Unbalanced = 0x1_0000, Alias = 0x2_0000, InnerLoops = 0x4_0000,
        All = 0x7_FFFF,
    }

    private readonly CpuModel _model;
    private readonly Dictionary<ProgramMode, InstructionPool> _pools = [];
    private readonly InstructionInfoFactory _infos = new();
    private readonly UnitWriter _writer32 = new(32), _writer64 = new(64);

    // Of the program being made.
    private Rng _rng = new(0);
    private ProgramMode _mode;
    private Feature _features;
    private InstructionPool _pool = null!;
    private FormBuilder _forms = null!;
    private UnitWriter _w = null!;
    private readonly List<PatchSite> _sites = [];
    private readonly List<(Unit Unit, int Fixup, PatchSite Near)> _patches = []; // that still need a site
    private readonly List<TableEntry> _tables = [];
    private readonly List<Unit> _functions = [];
    private uint _nextTable, _nextCounter;
    private int _group;
    private bool _codeWritable;

    public ProgramGenerator(CpuModel model) => _model = model;

    /// <summary>See <see cref="InstructionPool"/>.</summary>
    public bool Interrupted { get; init; }

    private bool Is64 => _mode.Bits() == 64;
    private int WordSize => Is64 ? 8 : 4;
    private int Registers => Is64 ? 16 : 8;

    private bool Has(Feature feature) => (_features & feature) != 0;

    public GuestProgram Generate(ulong seed, ProgramMode? mode = null)
    {
        _rng = new Rng(seed * 0x9E37_79B9_7F4A_7C15 + 0x1234_5678);
        Rng r = _rng;
        _mode = mode ?? r.Below(10) switch
        {
            < 3 => ProgramMode.Long3,
            < 6 => ProgramMode.Long0,
            6 => ProgramMode.Compatibility3,
            7 => ProgramMode.Protected0,
            _ => ProgramMode.Protected3
        };
        if (!_pools.TryGetValue(_mode, out InstructionPool? pool)) _pools[_mode] = pool = new InstructionPool(_model, _mode, Interrupted);
        _pool = pool;
        _w = Is64 ? _writer64 : _writer32;
        _forms = new FormBuilder(r, null!, FormList.Options(_model));
        _features = Choose();
        _sites.Clear();
        _patches.Clear();
        _tables.Clear();
        _functions.Clear();
        _nextTable = Slot.Tables;
        _nextCounter = Slot.Counters;
        _group = 0;
        _codeWritable = r.OneIn(2);
        uint stackTop = G.Program + G.Stack + G.StackSize - 0x100 - (uint)r.Below(64) * (r.OneIn(8) ? 1u : 16);

        int functions = Has(Feature.Calls) ? 1 + r.Below(5) : 0;
        for (int n = 0; n < functions; n++) _functions.Add(new Unit { Placed = true });
        Unit start = new() { Placed = true, Place = Somewhere() }, tail = new(), end = new();
        Header(start, stackTop);
        List<Unit> units = [start];
        units.AddRange(Body(0, -1, 8 + r.Below(r.OneIn(4) ? 160 : 50), 0, tail));
        Tail(tail, start);
        units.Add(tail);
        End(end);
        units.Add(end);
        for (int n = 0; n < functions; n++) units.AddRange(Function(n));
        AssignPatches();
        Place(units);
        return new GuestProgram
        {
            Mode = _mode,
            Seed = seed,
            CodeWritable = _codeWritable,
            Iterations = 20 + r.Below(r.OneIn(3) ? 180 : 60),
            StackTop = stackTop,
            InitialFlags = InitialFlags(),
            AlignmentMask = r.OneIn(24),
            Steered = r.OneIn(6),
            Units = units,
            Tables = [.. _tables],
            Sites = [.. _sites],
            Recovery = tail,
        };
    }

    private Feature Choose()
    {
        if (_rng.OneIn(12)) return Feature.All;
        var chosen = Feature.None;
        for (int n = 0; 1 << n <= (int)Feature.All; n++)
        {
            var feature = (Feature)(1 << n);
            int oneIn =
                feature switch
                {
                    Feature.Vector or Feature.Calls or Feature.InnerLoops => 2,
                    Feature.Strings or Feature.Indirect => 3,
                    Feature.Wild => 8,
                    _ => 6
                };
            if (_rng.OneIn(oneIn)) chosen |= feature;
        }
        return chosen;
    }

    private ulong InitialFlags()
    {
        ulong flags = 2 | _rng.Next() & 0x8D5;
        if (Has(Feature.Interrupts) || _rng.OneIn(2)) flags |= 0x200;
        if (_rng.OneIn(6)) flags |= 0x400;
        if (_mode.IsUser() && _rng.OneIn(2)) flags |= 0x3000;
        if (_rng.OneIn(8)) flags |= 0x4_0000; // AC
        return flags;
    }

    private uint Somewhere() => G.Code + (uint)_rng.Below(4) * 0x1000 + (_rng.OneIn(2) ? (uint)_rng.Below(0x1000) : 0xF00 + (uint)_rng.Below(0x100));

    /// <summary>Places functions one behind the other, some across pages; the last may live in the page that is exchanged.</summary>
    private void Place(List<Unit> units)
    {
        uint at = 0;
        foreach (Unit u in units.Where(u => u.Placed))
        {
            if (u.Place == 0) u.Place = at + (uint)_rng.Below(0x1800);
            at = u.Place;
        }
        if (_functions.Count > 0 && Has(Feature.Remapping)) _functions[^1].Place = G.Variant;
    }

    /// <summary>Begin of each iteration: a fresh stack pointer and fresh random numbers in some registers.</summary>
    private void Header(Unit u, uint stackTop)
    {
        _w.Load(u, 4, stackTop);
        _w.Memory(u, [0x69], 0, Slot.Seed, BitConverter.GetBytes(0x0019_660Du)); // IMUL EAX, [seed], …
        _w.Raw(u, [0x05, .. BitConverter.GetBytes(0x3C6E_F35Fu)]);
        _w.Memory(u, [0x89], 0, Slot.Seed);
        for (int n = _rng.Below(4); n >= 0; n--)
        {
            int register = OtherRegister(0);
            Instruction copy = Is64
                ? Instruction.Create(Code.Imul_r64_rm64_imm32, Register.RAX + register, Register.RAX, (int)_rng.Next())
                : Instruction.Create(Code.Imul_r32_rm32_imm32, Register.EAX + register, Register.EAX, (int)_rng.Next());
            _w.Add(u, copy);
        }
        if (Has(Feature.Vector) && _rng.OneIn(3))
        {
            _w.Add(u, Instruction.Create(Code.Movd_xmm_rm32, Register.XMM0 + _rng.Below(8), Register.EAX));
            if (_rng.OneIn(2)) _w.Raw(u, 0xDB, 0xE3); // FNINIT
        }
        if (_rng.OneIn(4)) _w.Raw(u, 0xFC); // CLD
        if (_rng.OneIn(3)) _w.Raw(u, 0xFB); // STI
    }

    private void Tail(Unit u, Unit start)
    {
        _w.Memory(u, [0xFF], 1, Slot.Iterations);
        u.Branch = new Branch([0x0F, 0x85], [0x75], start, true);
    }

    private void End(Unit u)
    {
        _w.Raw(u, 0xCD, G.DoneVector);
        _w.Raw(u, 0x0F, 0x0B);
    }

    private List<Unit> Function(int index)
    {
        Unit entry = _functions[index], exit = new();
        bool variant = Has(Feature.Remapping) && index == _functions.Count - 1;
        var units = new List<Unit> { entry };
        if (_rng.OneIn(2))
        {
            int saved = OtherRegister(0);
            Push(entry, saved);
            Unit restore = new();
            Pop(restore, saved);
            units.AddRange(Body(1, index, 1 + _rng.Below(14), 0, restore, variant));
            units.Add(restore);
        }
        else
        {
            units.AddRange(Body(1, index, 1 + _rng.Below(14), 0, exit, variant));
        }
        if (Has(Feature.Mismatched) && _rng.OneIn(3))
        {
            // The return address is taken out and put back.
            int register = OtherRegister(0);
            Pop(exit, register);
            Push(exit, register);
        }
        if (_rng.OneIn(6)) _w.Raw(exit, 0xC2, (byte)(WordSize * _rng.Below(3)), 0);
        else if (_rng.OneIn(10)) _w.Raw(exit, 0xF3, 0xC3);
        else _w.Raw(exit, 0xC3);
        units.Add(exit);
        return units;
    }

    private void Push(Unit u, int register) => _w.Raw(u, register < 8 ? [(byte)(0x50 + register)] : [0x41, (byte)(0x50 + register - 8)]);

    private void Pop(Unit u, int register) => _w.Raw(u, register < 8 ? [(byte)(0x58 + register)] : [0x41, (byte)(0x58 + register - 8)]);

    /// <summary>A register other than RSP and the locked ones.</summary>
    private int OtherRegister(uint locked, int below = 16)
    {
        for (; ; )
        {
            int n = _rng.Below(Math.Min(Registers, below));
            if (n != 4 && (locked >> n & 1) == 0) return n;
        }
    }

    private uint AnyAlias() => _rng.OneIn(3) ? G.LargeAlias : G.Alias;

    private Unit NewUnit() => new() { Group = ++_group };

    /// <summary>
    /// A bounded piece of program. Branches inside lead forward to elements of it or to its end; nothing outside leads into it but to its begin.
    /// </summary>
    /// <param name="function">Index of the function that it belongs to, -1 for the main loop: calls go to higher ones.</param>
    /// <param name="locked">Registers that must not be written.</param>
    private List<Unit> Body(int depth, int function, int length, uint locked, Unit end, bool patchable = false)
    {
        var elements = new List<List<Unit>>();
        var forward = new List<(Unit Unit, int Element, Action<Unit> Set)>();
        for (int n = 0; n < length; n++)
        {
            if (patchable && _rng.OneIn(2)) elements.Add([Patchable(locked).Unit]);
            else elements.Add(Element(depth, function, locked, set => forward.Add((null!, n, set))));
        }
        foreach ((_, int element, Action<Unit> set) in forward)
        {
            int target = element + 1 + _rng.Below(Math.Min(6, length - element));
            set(target < length ? elements[target][0] : end);
        }
        return [.. elements.SelectMany(e => e)];
    }

    private List<Unit> Element(int depth, int function, uint locked, Action<Action<Unit>> forward)
    {
        Rng r = _rng;
        int kind = r.Below(100);
        switch (kind)
        {
            case < 58: return [Plain(locked)];
            case < 68: return [ConditionalBranch(forward)];
            case < 71 when Has(Feature.InnerLoops) && depth < 3 && (function < 0 || depth < 2):
                return r.OneIn(2) ? InnerLoop(depth, function, locked)
                : TightLoop(depth, locked);
            case < 76 when _functions.Count > function + 1: return [Call(function)];
            case < 79: return [Stack(function, locked)];
            case < 82 when Has(Feature.Strings) && (locked & 0xC3) == 0: return [String()];
            case < 84 when Has(Feature.Indirect): return [IndirectJump(locked, forward)];
            case < 85 when Has(Feature.Mismatched): return [ReturnForward(forward)];
            case < 89 when Has(Feature.SelfModifying): return SelfModification(locked);
            case < 92: return [Rare(locked, forward)];
            default: return [Plain(locked)];
        }
    }

    private Unit ConditionalBranch(Action<Action<Unit>> forward)
    {
        Unit u = NewUnit();
        if (_rng.OneIn(3)) _w.Memory(u, [0xF7], 0, Slot.Seed, BitConverter.GetBytes(1u << _rng.Below(32))); // TEST [seed], bit
        byte condition = (byte)_rng.Below(16);
        int kind = _rng.Below(24);
        bool preferShort = !_rng.OneIn(3);
        forward(target => u.Branch = kind switch
        {
            0 => new Branch([0xE9], [0xEB], target, preferShort),
            1 => new Branch([], [0xE3], target, true), // JRCXZ, JECXZ
            _ => new Branch([0x0F, (byte)(0x80 | condition)], [(byte)(0x70 | condition)], target, preferShort),
        });
        return u;
    }

    /// <summary>A loop that runs a small number of times, with its counter in memory or in a register that its body leaves alone.</summary>
    private List<Unit> InnerLoop(int depth, int function, uint locked)
    {
        Unit init = NewUnit(), tail = new() { Group = init.Group };
        int times = 1 + _rng.Below(depth == 0 ? 20 : 6), length = 1 + _rng.Below(8);
        bool inRegister = _rng.OneIn(2) && _nextCounter < Slot.Tables;
        int callable = inRegister ? int.MaxValue - 1 : function; // a function could write the register
        List<Unit> body;
        if (inRegister)
        {
            bool loop = _rng.OneIn(4) && (locked & 2) == 0;
            int register = loop ? 1 : OtherRegister(locked, 8);
            body = Body(depth + 1, callable, length, locked | 1u << register, tail);
            _w.Load(init, register, (uint)times);
            if (loop)
            {
                // LOOP itself only when it reaches; else nothing, and the body runs once.
                tail.Branch = new Branch([], [0xE2], body[0], true);
            }
            else
            {
                if (Is64 || _rng.OneIn(2)) _w.Raw(tail, [0xFF, (byte)(0xC8 + register)]);
                else _w.Raw(tail, [(byte)(0x48 + register)]);
                tail.Branch = new Branch([0x0F, 0x85], [0x75], body[0], true);
            }
        }
        else
        {
            uint counter = _nextCounter;
            _nextCounter = Math.Min(_nextCounter + 8, Slot.Tables - 8);
            body = Body(depth + 1, callable, length, locked, tail);
            _w.Memory(init, [0xC7], 0, counter, BitConverter.GetBytes(times));
            _w.Memory(tail, [0xFF], 1, counter);
            tail.Branch = new Branch([0x0F, 0x85], [0x75], body[0], true);
        }
        return [init, .. body, tail];
    }

    /// <summary>A loop of one block, without branches inside: mostly instructions on general and vector registers.</summary>
    private List<Unit> TightLoop(int depth, uint locked)
    {
        Unit init = NewUnit(), tail = new() { Group = init.Group };
        int counter = OtherRegister(locked), pointer = OtherRegister(locked | 1u << counter);
        locked |= 1u << counter | 1u << pointer;
        _w.Load(init, counter, 1 + (uint)_rng.Below(depth == 0 ? 40 : 8));
        // The pointer walks across pages.
        _w.Load(init, pointer, (Area(8) & ~0xFFFu) + 0x1000 - (uint)_rng.Below(0x100));
        List<Unit> body = [];
        for (int n = 1 + _rng.Below(10); n > 0; n--)
        {
            Unit u;
            for (; ; )
            {
                u = NewUnit();
                Code code = _pool.Next(_rng, Has(Feature.Vector));
                if ((IsGeneralOrVector(code) || _rng.OneIn(64)) && (_rng.OneIn(3) ? TryThrough(u, code, pointer, locked) : TryPlain(u, code, locked))) break;
                _group--;
            }
            body.Add(u);
        }
        Register moved = (Is64 ? Register.RAX : Register.EAX) + pointer;
        _w.Add(tail, Instruction.Create(Is64 ? Code.Lea_r64_m : Code.Lea_r32_m, moved, new MemoryOperand(moved, _rng.Below(0x60) - 0x10)));
        _w.Add(tail, Is64 ? Instruction.Create(Code.Dec_rm64, Register.RAX + counter) : Instruction.Create(Code.Dec_rm32, Register.EAX + counter));
        tail.Branch = new Branch([0x0F, 0x85], [0x75], body[0], true);
        return [init, .. body, tail];

        static bool IsGeneralOrVector(Code code)
        {
            OpCodeInfo info = code.ToOpCode();
            if (info.IsPrivileged || info.IsInputOutput || info.CanUseRepPrefix || info.Mnemonic is Mnemonic.Div or Mnemonic.Idiv) return false;
            for (int n = 0; n < info.OpCount; n++)
            {
                string kind = info.GetOpKind(n).ToString();
                if (kind.StartsWith("mm_", StringComparison.Ordinal) || kind.StartsWith("st", StringComparison.Ordinal)
                    || kind.StartsWith("seg", StringComparison.Ordinal)) return false;
            }
            return info.OpCount > 0;
        }
    }

    private Unit Call(int function)
    {
        Unit u = NewUnit(), target = _functions[function + 1 + _rng.Below(_functions.Count - function - 1)];
        switch (_rng.Below(Has(Feature.Indirect) ? 6 : 3))
        {
            case 3:
                uint entry = Table([target]);
                _w.Memory(u, [0xFF], 2, entry);
                break;
            case 4:
                _w.LoadAddress(u, 0, target);
                _w.Raw(u, 0xFF, 0xD0);
                break;
            case 5:
                // One of four, by data.
                uint table = Table([.. Enumerable.Range(0, 4).Select(_ => _functions[function + 1 + _rng.Below(_functions.Count - function - 1)])]);
                Selected(u, table, 2);
                break;
            default:
                u.Branch = new Branch([0xE8], [0xE8], target, false);
                break;
        }
        return u;
    }

    /// <summary>Units' addresses in the control page; words of 8 bytes.</summary>
    private uint Table(ReadOnlySpan<Unit> targets)
    {
        // old entries are replaced: then two tables share targets, all of which exist
        if (_nextTable + targets.Length * 8 > Slot.TablesEnd - 64) _nextTable = Slot.Tables;
        uint table = _nextTable;
        foreach (Unit t in targets)
        {
            _tables.Add(new TableEntry(_nextTable, t));
            _nextTable += 8;
        }
        return table;
    }

    /// <summary>JMP (4) or CALL (2) through an entry of a table of four that a random number selects.</summary>
    private void Selected(Unit u, uint table, int operation)
    {
        int register = OtherRegister(0, 8);
        _w.Memory(u, [0x8B], register, Slot.Seed + (uint)_rng.Below(4));
        _w.Raw(u, [0x83, (byte)(0xE0 + register), 3]);
        _w.Raw(u, [0xFF, (byte)(operation << 3 | 4), (byte)(0xC0 | register << 3 | 5), .. BitConverter.GetBytes(table)]);
    }

    /// <summary>What compilers put around a function with local variables.</summary>
    private void Frame(Unit u, int register)
    {
        ReadOnlySpan<byte> wide = Is64 ? [0x48] : [];
        byte size = (byte)(WordSize * (1 + _rng.Below(6)));
        if (_rng.OneIn(6))
        {
            _w.Raw(u, 0xC8, size, 0, (byte)_rng.Below(3)); // ENTER
        }
        else
        {
            _w.Raw(u, 0x55);
            _w.Raw(u, [.. wide, 0x89, 0xE5]);
            _w.Raw(u, [.. wide, 0x83, 0xEC, size]);
        }
        if (register < 8 && register != 5)
        {
            _w.Raw(u, [.. wide, 0x89, (byte)(0x45 | register << 3), (byte)-WordSize]);
            _w.Raw(u, 0x8B, (byte)(0x45 | register << 3), (byte)-WordSize);
        }
        _w.Raw(u, 0xC9);
    }

    private Unit IndirectJump(uint locked, Action<Action<Unit>> forward)
    {
        Unit u = NewUnit();
        uint before = _nextTable;
        if (before + 32 > Slot.TablesEnd - 64 || locked != 0 || _rng.OneIn(3))
        {
            if ((locked & 1) != 0) return Plain(locked);
            int at = -1;
            _w.WithAddress(u, [0xB8], u, Has(Feature.Alias) && _rng.OneIn(3) ? (int)AnyAlias() : 0);
            at = u.Fixups.Count - 1;
            _w.Raw(u, 0xFF, 0xE0);
            forward(target => u.Fixups[at] = u.Fixups[at] with { Target = target });
            return u;
        }
        _nextTable += 32;
        for (int n = 0; n < 4; n++)
        {
            uint entry = before + (uint)n * 8;
            forward(target => _tables.Add(new TableEntry(entry, target)));
        }
        Selected(u, before, 4);
        return u;
    }

    /// <summary>RET without CALL.</summary>
    private Unit ReturnForward(Action<Action<Unit>> forward)
    {
        Unit u = NewUnit();
        _w.WithAddress(u, [0x68], u);
        int at = u.Fixups.Count - 1;
        forward(target => u.Fixups[at] = u.Fixups[at] with { Target = target });
        _w.Raw(u, 0xC3);
        return u;
    }

    private Unit Stack(int function, uint locked)
    {
        Unit u = NewUnit();
        int a = OtherRegister(locked), b = OtherRegister(locked);
        if (function < 0 && Has(Feature.Unbalanced) && _rng.OneIn(2))
        {
            switch (_rng.Below(6))
            {
                case 0: Pop(u, a); break;
                case 1: _w.Raw(u, 0x6A, (byte)_rng.Next()); break;
                case 2: _w.Raw(u, [0x68, .. BitConverter.GetBytes((int)_rng.Next())]); break;
                case 3: _w.Raw(u, [.. Is64 ? (ReadOnlySpan<byte>)[0x48] : [], 0x83, 0xEC, (byte)(_rng.Below(8) * WordSize)]); break;
                default: Push(u, a); break;
            }
            return u;
        }
        switch (_rng.Below(10))
        {
            case 2 when (locked >> 5 & 1) == 0: // a frame
                Frame(u, a);
                break;
            case 3 when !Is64 && locked == 0:
                _w.Raw(u, 0x60); // PUSHA
                _w.Raw(u, 0x61);
                break;
            case 4:
                _w.Raw(u, [0x66, 0x68, .. BitConverter.GetBytes((short)_rng.Next())]);
                _w.Raw(u, a < 8 ? [0x66, (byte)(0x58 + a)] : [0x66, 0x41, (byte)(0x58 + a - 8)]);
                break;
            case 5: // PUSH and POP of memory
                _w.Memory(u, [0xFF], 6, Area(8));
                _w.Memory(u, [0x8F], 0, Area(8));
                break;
            case 0:
                _w.Raw(u, 0x9C); // PUSHF
                Pop(u, a);
                break;
            case 1: // read the instruction pointer
                _w.Raw(u, 0xE8, 0, 0, 0, 0);
                Pop(u, a);
                break;
            default:
                Push(u, _rng.Below(Registers));
                Push(u, _rng.Below(Registers));
                Pop(u, a);
                Pop(u, b);
                break;
        }
        return u;
    }
}
