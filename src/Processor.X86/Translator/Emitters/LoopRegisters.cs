using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// A block that jumps to itself is a loop, and in a loop it pays to give registers that live in memory the host's registers of guest registers that the loop
/// uses less: they are exchanged in front of the loop and back behind it. Wherever such code is left, also in the middle, everything is in its usual place.
/// </summary>
internal sealed unsafe class LoopRegisters(Emission e)
{
    private readonly Host[] _map = new Host[16];
    /// <summary>Guest registers that have changed places: one that usually lives in memory, and one that does meanwhile.</summary>
    private readonly List<(int Memory, int Register)> _exchanges = [];
    private readonly int[] _uses = new int[16];
    private readonly bool[] _pinned = new bool[16];

    /// <summary>Where the loop begins, behind the exchange; null: the block is no loop.</summary>
    public HostLabel? Start { get; private set; }

    public bool IsExchanged => _exchanges.Count > 0;

    /// <summary>Finds out whether the block is a loop, and which registers are exchanged if that is wanted.</summary>
    public void Begin(bool exchange)
    {
        Start = IsLoop() ? e.NewLabel() : null;
        FindExchanges(exchange && Start != null);
    }

    /// <summary>The host register of a guest register in this block, or None when it lives in memory.</summary>
    public Host Of(int number) => _map[number];

    /// <summary>The last part ends with a jump to the beginning of the first.</summary>
    private bool IsLoop()
    {
        if (e.Head->SecondPage != null || e.InstructionCount == 0) return false;
        for (int n = 0; n < e.InstructionCount; n++)
        {
            if (IsCall(TranslationTable.Get(e.Instructions[n].Code).Kind)) return false;
        }
        ref Instruction last = ref e.Instructions[e.InstructionCount - 1];
        return IsJump(TranslationTable.Get(last.Code).Kind) && last.NearBranchTarget == e.Head->Rip;
    }

    private static bool IsJump(TranslationKind kind) => kind is TranslationKind.JumpConditional or TranslationKind.Jump;

    private static bool IsCall(TranslationKind kind) => kind is TranslationKind.Call or TranslationKind.CallIndirect;

    /// <summary>Chooses the registers to exchange. None where an instruction needs the usual places.</summary>
    private void FindExchanges(bool wanted)
    {
        for (int n = 0; n < 16; n++) _map[n] = HostRegisters.Of(n);
        _exchanges.Clear();
        if (!wanted || !e.Wide) return;
        Array.Clear(_uses);
        Array.Clear(_pinned);
        for (int n = 0; n < e.InstructionCount; n++)
        {
            Insn* operation = e.OperationOf(n);
            (TranslationKind kind, TranslationFlags flags) = TranslationTable.Get(e.Instructions[n].Code);
            bool known = kind is TranslationKind.Same or TranslationKind.Simd or TranslationKind.Lea or TranslationKind.Nop || IsJump(kind);
            if (!known || (operation->Flags & InsnFlags.OtherHandler) != 0) return;
            if ((flags & (TranslationFlags.ReadsCount | TranslationFlags.WritesCount)) != 0) _pinned[1] = true;
            CountUses(e.Instructions[n]);
        }
        for (; ; )
        {
            int memory = -1, register = -1;
            for (int n = 0; n < 16; n++)
            {
                if (HostRegisters.Of(n) == Host.None)
                {
                    if (_map[n] == Host.None && (memory < 0 || _uses[n] > _uses[memory])) memory = n;
                }
                else if (_map[n] != Host.None && !_pinned[n] && (register < 0 || _uses[n] < _uses[register])) register = n;
            }
            if (memory < 0 || register < 0 || _uses[memory] <= _uses[register]) break;
            _exchanges.Add((memory, register));
            (_map[memory], _map[register]) = (_map[register], Host.None);
        }
    }

    /// <summary>Counts the registers that an instruction names; what it uses without naming it must stay where it is.</summary>
    private void CountUses(in Instruction g)
    {
        uint named = 0;
        for (int n = 0; n < g.OpCount; n++)
        {
            if (g.GetOpKind(n) == OpKind.Register) Name(g.GetOpRegister(n));
            else if (g.GetOpKind(n) == OpKind.Memory)
            {
                Name(g.MemoryBase);
                Name(g.MemoryIndex);
            }
        }
        bool hidden = false;
        foreach (UsedRegister used in e.Information.GetInfo(g, InstructionInfoOptions.NoMemoryUsage).GetUsedRegisters())
        {
            if (!used.Register.IsGPR() || (named & 1u << Operands.NumberOf(used.Register)) != 0) continue;
            _pinned[Operands.NumberOf(used.Register)] = hidden = true;
        }
        // One that is named may be used without its name as well.
        for (int n = 0; hidden && n < 16; n++) _pinned[n] |= (named & 1u << n) != 0;

        void Name(Iced.Intel.Register register)
        {
            if (!register.IsGPR()) return;
            int n = Operands.NumberOf(register);
            named |= 1u << n;
            _uses[n]++;
            _pinned[n] |= Operands.IsHigh(register);
        }
    }

    /// <summary>In front of the loop. Neither flags nor scratch registers change.</summary>
    public void ExchangeIn()
    {
        foreach ((int memory, int register) in _exchanges)
        {
            e.Asm.StoreState(StateOffsets.Gpr(register), HostRegisters.Of(register));
            e.Asm.LoadState(HostRegisters.Of(register), StateOffsets.Gpr(memory));
        }
    }

    /// <summary>Behind the loop, and wherever else it is left.</summary>
    public void ExchangeOut()
    {
        foreach ((int memory, int register) in _exchanges)
        {
            e.Asm.StoreState(StateOffsets.Gpr(memory), HostRegisters.Of(register));
            e.Asm.LoadState(HostRegisters.Of(register), StateOffsets.Gpr(register));
        }
    }

    /// <summary>The jump back to the loop's beginning.</summary>
    public void EmitLoopBack()
    {
        HostLabel attention = e.Cold.AttentionExit(e.AddLink(e.Head->Rip));
        e.Branches.ReadAttention();
        if (e.Asm.Length + 2 - Start!.Offset <= 128)
        {
            e.Asm.JumpIfRcxZero(Start);
            e.Asm.Jump(attention);
            return;
        }
        e.JumpIfCountNotZero(attention);
        e.Asm.Jump(Start);
    }
}
