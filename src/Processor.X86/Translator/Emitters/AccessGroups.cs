using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Accesses near each other through the same register need one check. It covers the first byte to the last, and the addend is kept in the state, so that the
/// others are the access alone. When the range is not in one page, or not all of it may be accessed, the interpreter executes the rest of the block; a block to
/// which that happens often is translated again without groups.
/// </summary>
internal sealed unsafe class AccessGroups(Emission e)
{
    /// <summary>Bytes that a group may span: the wider, the more often it reaches across a page.</summary>
    private const int WidestGroup = 512;

    /// <param name="Base">Guest register.</param>
    /// <param name="Part">To which the first access belongs.</param>
    /// <param name="First">The operation that makes it.</param>
    public record struct AccessGroup(int Base, long Minimum, long Maximum, bool Write, int Members, int Part, int First);

    /// <summary>
    /// An access that belongs to a group; its register is <paramref name="Moved"/> bytes away from where the group's displacements count from.
    /// </summary>
    private readonly record struct GroupMember(int Operation, int Group, long Displacement, int Size, long Moved);

    private readonly AccessGroup[] _groups = new AccessGroup[TranslatorState.MostGroups];
    private int _groupCount;
    private bool _stack, _others; // accesses by RSP, by others, may form groups
    /// <summary>The number of RSP.</summary>
    private const int StackPointer = 4;
    private readonly List<GroupMember> _members = [];
    private readonly int[] _openGroups = new int[16];
    private int _addendGroup; // whose addend is in its register, or -1

    /// <summary>
    /// The operation being emitted has a group's check: execution does not go on behind it in this translation when the interpreter executes it.
    /// </summary>
    public bool IsHead { get; private set; }

    /// <summary>The same, and the group is checked for writing though the operation reads.</summary>
    public bool IsReadingHead { get; private set; }

    /// <summary>It is one of RSP.</summary>
    public bool IsStackHead { get; private set; }

    /// <summary>Bit n: the check of group n was made. For who may have to go back to this state, too.</summary>
    public uint Established { get; set; }

    /// <summary><see cref="HostRegisters.Addend"/> gets another value.</summary>
    public void LoseAddend() => _addendGroup = -1;

    public void BeginOperation() => IsHead = IsReadingHead = IsStackHead = false;

    /// <summary>Finds the groups of all parts.</summary>
    public void Begin(bool stack, bool others)
    {
        _groupCount = 0;
        Established = 0;
        _members.Clear();
        _addendGroup = -1;
        (_stack, _others) = (stack, others);
        if (!(stack || others) || !e.Wide) return;
        Array.Fill(_openGroups, -1);
        long moved = 0; // RSP since the beginning, or the last call
        for (int n = 0; n < e.InstructionCount; n++)
        {
            ref Instruction g = ref e.Instructions[n];
            int part = e.PartOf(n), number = e.KeyOf(part, e.InstructionOperations[n]);
            Insn* operation = e.OperationOf(n);
            TranslationKind kind = (operation->Flags & InsnFlags.OtherHandler) != 0 ? TranslationKind.Interpret : TranslationTable.Get(g.Code).Kind;
            if (kind != TranslationKind.Interpret) AddExplicit(g, operation, number, part, kind, moved);
            switch (kind)
            {
                case TranslationKind.Push or TranslationKind.PushFlags:
                    AddAccess(StackPointer, -8, 8, true, number, part, moved);
                    moved -= 8;
                    continue;
                case TranslationKind.Call or TranslationKind.CallIndirect:
                    AddAccess(StackPointer, -8, 8, true, number, part, moved);
                    // Behind it nothing is as it was.
                    Array.Fill(_openGroups, -1);
                    moved = 0;
                    continue;
                case TranslationKind.Pop when g.Op0Register != Iced.Intel.Register.RSP && g.GetOpKind(0) == OpKind.Register:
                    AddAccess(StackPointer, 0, 8, false, number, part, moved);
                    moved += 8;
                    _openGroups[Operands.NumberOf(g.Op0Register)] = -1;
                    continue;
                case TranslationKind.Return or TranslationKind.PopFlags:
                    AddAccess(StackPointer, 0, 8, false, number, part, moved);
                    return;
                case TranslationKind.Leave:
                    AddAccess(5, 0, 8, false, number, part, 0);
                    break;
                default:
                    break;
            }
            if (MovesStack(g, out long by))
            {
                moved += by;
                continue;
            }
            foreach (UsedRegister used in e.Information.GetInfo(g, InstructionInfoOptions.NoMemoryUsage).GetUsedRegisters())
            {
                if (Operands.Writes(used.Access) && used.Register.IsGPR()) _openGroups[Operands.NumberOf(used.Register)] = -1;
            }
        }
    }

    /// <summary>ADD, SUB and LEA that move RSP by a constant.</summary>
    private static bool MovesStack(in Instruction g, out long by)
    {
        by = 0;
        if (g.OpCount != 2 || g.GetOpKind(0) != OpKind.Register || g.Op0Register != Iced.Intel.Register.RSP) return false;
        switch (g.Code)
        {
            case Code.Add_rm64_imm8 or Code.Add_rm64_imm32:
                by = (long)g.GetImmediate(1);
                return true;
            case Code.Sub_rm64_imm8 or Code.Sub_rm64_imm32:
                by = -(long)g.GetImmediate(1);
                return true;
            case Code.Lea_r64_m when g.MemoryBase == Iced.Intel.Register.RSP && g.MemoryIndex == Iced.Intel.Register.None:
                by = (long)g.MemoryDisplacement64;
                return true;
            default:
                return false;
        }
    }

    private void AddExplicit(in Instruction g, Insn* operation, int number, int part, TranslationKind kind, long moved)
    {
        if (kind is TranslationKind.Lea or TranslationKind.Nop || !GuestAddress.TryGet(operation, e.Rip, out GuestAddress a)) return;
        if (a.Base < 0 || a.Index >= 0 || a.SegmentBase != 0 || !a.Wide || (TranslationTable.Get(g.Code).Flags & TranslationFlags.Aligned) != 0
            || Operands.MustNotSplit(g) || Operands.IsBitString(g)) return;
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) != OpKind.Memory) continue;
            int size = g.MemorySize.GetSize();
            if (size is 0 or > 64) return;
            AddAccess(a.Base, a.Displacement, size,
                Operands.Writes(e.Information.GetInfo(g, InstructionInfoOptions.NoMemoryUsage | InstructionInfoOptions.NoRegisterUsage).GetOpAccess(n)), number,
                part, a.Base == StackPointer ? moved : 0);
            return;
        }
    }

    private void AddAccess(int register, long displacement, int size, bool write, int number, int part, long moved)
    {
        if (!(register == StackPointer ? _stack : _others)) return;
        long first = displacement + moved, end = first + size;
        int k = _openGroups[register];
        if (k >= 0)
        {
            ref AccessGroup open = ref _groups[k];
            long minimum = Math.Min(open.Minimum, first), maximum = Math.Max(open.Maximum, end);
            // What is read for certain may not be there to be written, as long as it is not certain that it will be.
            if (maximum - minimum <= WidestGroup && (open.Write || !write || open.Part == part))
            {
                open = open with { Minimum = minimum, Maximum = maximum, Write = open.Write | write, Members = open.Members + 1 };
                _members.Add(new GroupMember(number, k, displacement, size, moved));
                return;
            }
        }
        if (_groupCount == TranslatorState.MostGroups)
        {
            _openGroups[register] = -1;
            return;
        }
        _groups[_groupCount] = new AccessGroup(register, first, end, write, 1, part, number);
        _openGroups[register] = _groupCount;
        _members.Add(new GroupMember(number, _groupCount++, displacement, size, moved));
    }

    /// <summary>The accesses of instruction <paramref name="n"/> belong to groups whose check another one has.</summary>
    public bool IsCovered(int n)
    {
        int key = e.KeyOf(e.PartOf(n), e.InstructionOperations[n]);
        bool covered = false;
        foreach (GroupMember m in _members)
        {
            if (m.Operation != key) continue;
            if (_groups[m.Group].Members < 2 || _groups[m.Group].First == key) return false;
            covered = true;
        }
        return covered;
    }

    /// <summary>The operand, when the access belongs to a group.</summary>
    public bool TryGroup(in GuestAddress g, int size, bool write, int number, out Addresses.HostOperand operand)
    {
        operand = default;
        if (g.Base < 0 || g.Index >= 0 || g.SegmentBase != 0 || !g.Wide) return false;
        int key = e.KeyOf(number);
        foreach (GroupMember m in _members)
        {
            if (m.Operation != key || m.Displacement != g.Displacement || m.Size != size) continue;
            ref AccessGroup group = ref _groups[m.Group];
            if (group.Base != g.Base || group.Members < 2) continue;
            if ((Established & 1u << m.Group) == 0)
            {
                GuestAddress whole = g with { Displacement = group.Minimum - m.Moved };
                e.Addresses.CheckOne(whole, (int)(group.Maximum - group.Minimum), group.Write, aligned: false, number);
                e.Asm.StoreState(GroupAddend(m.Group), HostRegisters.Addend);
                Established |= 1u << m.Group;
                IsHead = true;
                IsReadingHead |= group.Write && !write;
                IsStackHead |= group.Base == StackPointer;
            }
            else if (_addendGroup != m.Group)
            {
                e.Asm.LoadState(HostRegisters.Addend, GroupAddend(m.Group));
            }
            _addendGroup = m.Group;
            Host @base = e.Loop.Of(g.Base);
            if (@base == Host.None) e.Asm.LoadState(@base = HostRegisters.Address, StateOffsets.Gpr(g.Base));
            operand = new Addresses.HostOperand(@base, (int)g.Displacement);
            return true;
        }
        return false;
    }

    private static int GroupAddend(int group) => StateOffsets.GroupAddends + group * sizeof(ulong);

    /// <summary>Nothing is known any more: the interpreter executes something, which may change mappings.</summary>
    public void Forget()
    {
        Established = 0;
        _addendGroup = -1;
        BeginOperation();
    }
}
