using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>How arithmetic flags that a check has overwritten are made once more.</summary>
internal enum FlagSource
{
    /// <summary>From themselves, which were kept.</summary>
    Kept,
    /// <summary>A register was made zero by itself.</summary>
    Zero,
    /// <summary>CMP, or TEST of both operands, which it does not change.</summary>
    Compare, Test,
    /// <summary>From the result and the other operand.</summary>
    Add, Subtract, Negate,
}

/// <summary>
/// Where checks may use the arithmetic flags, which makes them shorter. The flags are the guest's wherever anybody can see them. But in front of an
/// instruction that sets all of them and reads none, back to the last one that has to do with them, only who leaves the code in the middle sees them: there
/// they are made once more, from operands that are still there or were kept, or from the flags themselves, which were kept in front of the first check. Where a
/// call, a return or a jump through a register comes first, they are made once more behind its own check, if that is still worth it.
/// </summary>
internal sealed unsafe class FlagsPlan(Emission e)
{
    /// <param name="Index">Of the instruction in the translation.</param>
    /// <param name="Size">Of its operands.</param>
    /// <param name="First">Guest register.</param>
    /// <param name="Second">The same, or -1: <paramref name="Immediate"/>.</param>
    private readonly record struct Producer(FlagSource Source, int Index = -1, int Size = 8, int First = -1, int Second = -1, int Immediate = 0);

    /// <param name="KeepsFirst">The operand changes, and has to be kept.</param>
    /// <param name="Last">The last instruction where that is early enough.</param>
    private readonly record struct Region(Producer Producer, bool KeepsFirst, bool KeepsSecond, int Last);

    private enum Effect { None, Reads, SetsAll, Leaves, Other }

    private const RflagsBits Arithmetic = RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF;

    /// <summary>Host operations that a check has less; in loops, where checks are shorter anyway.</summary>
    private const int Gain = 4, GainInLoops = 2;

    private readonly List<Region> _regions = [];
    private readonly int[] _regionOf = new int[BlockDecoder.MaxInstructions];
    private readonly bool[] _checks = new bool[BlockDecoder.MaxInstructions];
    private int _instruction, _region = -1;

    /// <summary>The host's flags are not the guest's here.</summary>
    public bool IsClobbered { get; private set; }

    /// <summary>By what the flags are made once more, for <see cref="Recover(int)"/>; -1: they are there.</summary>
    public int Recovery => IsClobbered ? _region : -1;

    /// <summary>Finds out where checks may use the flags; after the groups of accesses are known.</summary>
    public void Begin()
    {
        _regions.Clear();
        EnterCold();
        int start = 0;
        Producer producer = default;
        for (int n = 0; n < e.InstructionCount; n++)
        {
            _regionOf[n] = -1;
            if (e.IsReturnedTo(n)) (start, producer) = (n, default);
            Effect effect = EffectOf(n);
            if (effect == Effect.None) continue;
            if (effect is Effect.SetsAll or Effect.Leaves) AddRegion(start, n, producer, leaves: effect == Effect.Leaves);
            if (effect == Effect.SetsAll) producer = ProducerOf(n);
            else if (effect is Effect.Other or Effect.Leaves) producer = default;
            start = n + 1;
        }
    }

    /// <summary>Emission has come to an instruction.</summary>
    public void Select(int instruction)
    {
        _instruction = instruction;
        // The instruction at the end of a region has set them.
        if (_regionOf[instruction] != _region) IsClobbered = false;
        _region = _regionOf[instruction];
    }

    /// <summary>The same instruction is emitted once more, or left to the interpreter.</summary>
    public void GoBack(bool clobbered) => (_region, IsClobbered) = (_regionOf[_instruction], clobbered);

    /// <summary>
    /// The instruction may be left here for the interpreter, in front of its check: nothing can begin to be kept by that, since what comes behind it would
    /// not find it.
    /// </summary>
    public void MayLeave()
    {
        if (!IsClobbered) _region = -1;
    }

    /// <summary>What is emitted now leaves the flags alone.</summary>
    public void EnterCold() => (_region, IsClobbered) = (-1, false);

    private Effect EffectOf(int n)
    {
        ref Instruction g = ref e.Instructions[n];
        if ((e.OperationOf(n)->Flags & InsnFlags.OtherHandler) != 0) return Effect.Other;
        _checks[n] = false;
        switch (TranslationTable.Get(g.Code).Kind)
        {
            case TranslationKind.Lea or TranslationKind.Nop:
                return Effect.None;
            case TranslationKind.Push or TranslationKind.Pop or TranslationKind.Leave:
                _checks[n] = !e.Groups.IsCovered(n);
                return Effect.None;
            case TranslationKind.Jump:
                return e.TransitionBehind(n) == Transition.Taken ? Effect.None : Effect.Other;
            case TranslationKind.JumpConditional:
                return Effect.Reads;
            case TranslationKind.Call or TranslationKind.Return:
                _checks[n] = !e.Groups.IsCovered(n);
                return Effect.Leaves;
            case TranslationKind.CallIndirect or TranslationKind.JumpIndirect:
                // What CALL pushes comes behind a look for the target, which needs the flags.
                _checks[n] = g.GetOpKind(0) == OpKind.Memory && !e.Groups.IsCovered(n);
                return Effect.Leaves;
            case TranslationKind.Same or TranslationKind.Simd or TranslationKind.X87:
                _checks[n] = (e.OperationOf(n)->Flags & InsnFlags.HasMemory) != 0 && !e.Groups.IsCovered(n);
                if (((g.RflagsModified | g.RflagsRead) & Arithmetic) == 0) return Effect.None;
                if (SetsAll(g)) return Effect.SetsAll;
                return (g.RflagsModified & Arithmetic) == 0 ? Effect.Reads : Effect.Other;
            default:
                return Effect.Other;
        }
    }

    /// <summary>Sets all arithmetic flags whatever they were. FCOMI does so on newer processors only.</summary>
    private static bool SetsAll(in Instruction g)
    {
        if ((g.RflagsRead & Arithmetic) != 0 || TranslationTable.Get(g.Code).Kind == TranslationKind.X87) return false;
        if (((g.RflagsWritten | g.RflagsCleared | g.RflagsSet) & Arithmetic) == Arithmetic) return true;
        switch (g.Mnemonic)
        {
            case Mnemonic.And or Mnemonic.Or or Mnemonic.Xor or Mnemonic.Test:
                return true; // AF is undefined, and zero on all processors
            case Mnemonic.Shl or Mnemonic.Shr or Mnemonic.Sar when g.GetOpKind(1) == OpKind.Immediate8:
                // By known rules also what is undefined depends on the operands alone.
                return SiliconFlags.Shifts != FlagRule.Ask && (g.Immediate8 & 31) != 0 && (g.Immediate8 & 63) < 8 * SizeOf(g);
            case Mnemonic.Imul:
                return SiliconFlags.Products == FlagRule.Intel;
            default:
                return false;
        }
    }

    private static int SizeOf(in Instruction g) => g.Op0Kind == OpKind.Register ? g.Op0Register.GetSize() : g.MemorySize.GetSize();

    private Producer ProducerOf(int n)
    {
        ref Instruction g = ref e.Instructions[n];
        if (!IsOperand(g, 0)) return default;
        int size = g.Op0Register.GetSize(), first = Operands.NumberOf(g.Op0Register);
        Mnemonic mnemonic = g.Mnemonic;
        if (mnemonic == Mnemonic.Neg) return new Producer(FlagSource.Negate, n, size, first);
        bool register = IsOperand(g, 1), same = register && g.Op1Register == g.Op0Register;
        if (same && mnemonic is Mnemonic.Xor or Mnemonic.Sub) return new Producer(FlagSource.Zero, n);
        if (mnemonic is not (Mnemonic.Add or Mnemonic.Sub or Mnemonic.Cmp or Mnemonic.And or Mnemonic.Or or Mnemonic.Xor or Mnemonic.Test)) return default;
        if (mnemonic is Mnemonic.And or Mnemonic.Or or Mnemonic.Xor) return new Producer(FlagSource.Test, n, size, first, first);
        if (!register && (g.Op1Kind == OpKind.Register || g.Op1Kind == OpKind.Memory)) return default;
        int second = register ? Operands.NumberOf(g.Op1Register) : -1, immediate = register ? 0 : (int)g.GetImmediate(1);
        switch (mnemonic)
        {
            case Mnemonic.Cmp:
                return new Producer(FlagSource.Compare, n, size, first, second, immediate);
            case Mnemonic.Test:
                return new Producer(FlagSource.Test, n, size, first, second, immediate);
            default:
                if (second == first) return default;
                return new Producer(mnemonic == Mnemonic.Add ? FlagSource.Add : FlagSource.Subtract, n, size, first, second, immediate);
        }
    }

    /// <summary>A general register, and not AH to BH.</summary>
    private static bool IsOperand(in Instruction g, int n) =>
        g.GetOpKind(n) == OpKind.Register && g.GetOpRegister(n).IsGPR() && !Operands.IsHigh(g.GetOpRegister(n));

    /// <summary>Instructions that do nothing with the flags, if any, and one behind them that sets all.</summary>
    /// <param name="leaves">The last one does not set them: they are made once more there.</param>
    private void AddRegion(int start, int end, Producer producer, bool leaves)
    {
        int first = -1, checks = 0;
        for (int n = start; n <= end; n++)
        {
            if (!_checks[n]) continue;
            if (checks++ == 0) first = n;
        }
        if (checks == 0) return;
        bool keepsFirst = false, keepsSecond = false;
        int last = end;
        if (producer.Source is not (FlagSource.Kept or FlagSource.Zero))
        {
            for (int n = producer.Index + 1; n < end; n++)
            {
                bool changesFirst = Changes(n, producer.First), changesSecond = producer.Second >= 0 && Changes(n, producer.Second);
                if (changesFirst || changesSecond) last = Math.Min(last, n);
                keepsFirst |= changesFirst;
                keepsSecond |= changesSecond;
            }
            if (last < first) (producer, keepsFirst, keepsSecond, last) = (default, false, false, end);
        }
        int cost = CostToKeep(producer, keepsFirst, keepsSecond) + (leaves ? CostToRecover(producer) : 0);
        if ((e.Near.Taken ? GainInLoops : Gain) * checks <= cost) return;
        for (int n = start; n <= end; n++) _regionOf[n] = _regions.Count;
        _regions.Add(new Region(producer, keepsFirst, keepsSecond, last));
    }

    /// <summary>In host operations, like the gain.</summary>
    private static int CostToKeep(in Producer producer, bool first, bool second) => producer.Source == FlagSource.Kept ? 6 : (first ? 1 : 0) + (second ? 1 : 0);

    private static int CostToRecover(in Producer producer) => producer.Source switch
    {
        FlagSource.Kept => 5,
        FlagSource.Zero => 1,
        FlagSource.Compare or FlagSource.Test => 2,
        _ => 3,
    };

    private bool Changes(int n, int register)
    {
        foreach (UsedRegister used in e.Information.GetInfo(e.Instructions[n], InstructionInfoOptions.NoMemoryUsage).GetUsedRegisters())
        {
            if (Operands.Writes(used.Access) && used.Register.IsGPR() && Operands.NumberOf(used.Register) == register) return true;
        }
        return false;
    }

    /// <summary>The check that comes next may use the flags: what is needed to make them once more is kept. RCX is lost.</summary>
    public bool TryUse()
    {
        if (_region < 0) return false;
        if (IsClobbered) return true;
        Region region = _regions[_region];
        if (_instruction > region.Last) return false;
        if (region.Producer.Source == FlagSource.Kept) KeepFlags();
        if (region.KeepsFirst) KeepOperand(region.Producer.First, StateOffsets.KeptFirst);
        if (region.KeepsSecond) KeepOperand(region.Producer.Second, StateOffsets.KeptSecond);
        IsClobbered = true;
        return true;
    }

    private void KeepOperand(int register, int place)
    {
        Host from = e.Loop.Of(register);
        if (from == Host.None) e.Asm.LoadState(from = HostRegisters.Scratch, StateOffsets.Gpr(register));
        e.Asm.StoreState(place, from);
    }

    private void KeepFlags()
    {
        e.Asm.Move(HostRegisters.Scratch, Host.Rax);
        e.Asm.FlagsToAx();
        e.Asm.StoreStateAx(StateOffsets.KeptFlags);
        e.Asm.Move(Host.Rax, HostRegisters.Scratch);
    }

    /// <summary>The flags are the guest's from here on. RCX is lost.</summary>
    public void Restore()
    {
        if (!IsClobbered) return;
        Recover(_region);
        IsClobbered = false;
    }

    /// <summary>Makes the flags once more. RCX is lost.</summary>
    public void Recover(int region)
    {
        (Producer p, bool keepsFirst, bool keepsSecond, _) = _regions[region];
        switch (p.Source)
        {
            case FlagSource.Kept:
                e.Asm.Move(HostRegisters.Scratch, Host.Rax);
                e.Asm.LoadState(Host.Rax, StateOffsets.KeptFlags, wide: false);
                e.Asm.FlagsFromAx();
                e.Asm.Move(Host.Rax, HostRegisters.Scratch);
                return;
            case FlagSource.Zero:
                e.Asm.Calculate(HostOperator.Xor, HostRegisters.Scratch, HostRegisters.Scratch, 4);
                return;
            default:
                break;
        }
        Host first = keepsFirst ? Host.None : e.Loop.Of(p.First);
        if (first != Host.None) e.Asm.Move(HostRegisters.Scratch, first);
        else e.Asm.LoadState(HostRegisters.Scratch, keepsFirst ? StateOffsets.KeptFirst : StateOffsets.Gpr(p.First));
        switch (p.Source)
        {
            case FlagSource.Compare:
                Calculate(HostOperator.Compare);
                break;
            case FlagSource.Test when p.First == p.Second:
                e.Asm.Calculate(HostOperator.Or, HostRegisters.Scratch, HostRegisters.Scratch, p.Size);
                break;
            case FlagSource.Test:
                Calculate(HostOperator.And);
                break;
            case FlagSource.Add:
                Calculate(HostOperator.Subtract);
                Calculate(HostOperator.Add);
                break;
            case FlagSource.Subtract:
                Calculate(HostOperator.Add);
                Calculate(HostOperator.Subtract);
                break;
            case FlagSource.Negate:
                e.Asm.NegateScratch(p.Size);
                e.Asm.NegateScratch(p.Size);
                break;
            default:
                break;
        }

        void Calculate(HostOperator what)
        {
            Host second = p.Second < 0 || keepsSecond ? Host.None : e.Loop.Of(p.Second);
            if (p.Second < 0) e.Asm.Calculate(what, HostRegisters.Scratch, p.Immediate, p.Size);
            else if (second != Host.None) e.Asm.Calculate(what, HostRegisters.Scratch, second, p.Size);
            else e.Asm.CalculateState(what, HostRegisters.Scratch, keepsSecond ? StateOffsets.KeptSecond : StateOffsets.Gpr(p.Second), p.Size);
        }
    }
}
