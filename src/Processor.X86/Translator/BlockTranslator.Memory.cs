namespace Bunraku.Processor.X86;

/// <summary>
/// Addresses. The check of a memory operand costs eight instructions and no flags: page and entry number by PEXT, the negated tag is added to the page, and
/// JRCXZ decides. Afterwards the addend is in <see cref="HostRegisters.Addend"/>.
/// </summary>
internal sealed unsafe partial class BlockTranslator
{
    /// <summary>Where a checked operand is: [<paramref name="Base"/> + Addend + <paramref name="Displacement"/>].</summary>
    private readonly record struct HostOperand(Host Base, int Displacement);

    /// <summary>Computes a linear address. RCX is lost; guest registers are not.</summary>
    private void Materialise(in GuestAddress g, Host to)
    {
        if (g.Base < 0 && g.Index < 0)
        {
            _a.MoveImmediate(to, g.Constant);
        }
        else
        {
            Host @base = Host.None, index = Host.None;
            if (g.Base >= 0)
            {
                @base = Of(g.Base);
                // Not through a guest's register, which may be the index.
                if (@base == Host.None) _a.LoadState(@base = HostRegisters.IsGuests(to) ? HostRegisters.Address : to, StateOffsets.Gpr(g.Base));
            }
            if (g.Index >= 0)
            {
                index = Of(g.Index);
                if (index == Host.None) _a.LoadState(index = HostRegisters.Scratch, StateOffsets.Gpr(g.Index));
            }
            if (index == Host.None && g.Displacement == 0 && g.Wide)
            {
                if (@base != to) _a.Move(to, @base);
            }
            else
            {
                _a.Lea(to, @base, index, g.Scale, (int)g.Displacement, g.Wide);
            }
        }
        if (g.SegmentBase == 0) return;
        _a.LoadState(HostRegisters.Scratch, g.SegmentBase);
        _a.Lea(to, to, HostRegisters.Scratch, 0, 0);
    }

    /// <summary>Checks that <paramref name="size"/> bytes may be accessed; what fails ends in the interpreter's hands at operation <paramref name="number"/>.</summary>
    /// <param name="aligned">The operand must be aligned to its size, a power of two up to 64.</param>
    private HostOperand Check(in GuestAddress g, int size, bool write, bool aligned, int number)
    {
        if (!aligned && TryGroup(g, size, write, number, out HostOperand grouped)) return grouped;
        bool predicted = TryPredict(g, size, write, aligned, number);
        if (!predicted)
        {
            CheckOne(g, size, write, aligned, number);
            PredictAddend(g, number);
        }
        // One register that the host has, too, and a displacement: the host's instruction can use it as it is.
        if (IsSimple(g)) return new HostOperand(Of(g.Base), (int)g.Displacement);
        if (g.IsConstant && (long)g.Constant == (int)g.Constant) return new HostOperand(Host.None, (int)g.Constant);
        if (!predicted) Materialise(g, HostRegisters.Address);
        return new HostOperand(HostRegisters.Address, 0);
    }

    private bool IsSimple(in GuestAddress g) => g.Base >= 0 && g.Index < 0 && g.SegmentBase == 0 && g.Wide && Of(g.Base) != Host.None;

    /// <summary>The check itself. The addend is in its register afterwards; RCX and the address are lost.</summary>
    private void CheckOne(in GuestAddress g, int size, bool write, bool aligned, int number)
    {
        _addendGroup = -1;
        HostLabel retry = NewLabel(), miss = NewLabel();
        int tag = _table + (write ? TranslatorState.WriteTag : TranslatorState.ReadTag), addend = _table + (write ? TranslatorState.WriteAddend : TranslatorState.ReadAddend);
        _cold.Add(new Cold(ColdKind.Miss, miss, retry, number, g, size, write));
        _a.Place(retry);
        if (g.IsConstant && IsInOnePage(g.Constant, size) && (!aligned || (g.Constant & (ulong)(size - 1)) == 0))
        {
            int entry = (int)(g.Constant >> 12) & (TranslatorState.FirstLevelSize - 1);
            _a.LoadState(HostRegisters.Scratch, tag + entry * sizeof(ulong));
            _a.MoveImmediate(HostRegisters.Address, g.Constant >> 12);
            _a.LoadState(HostRegisters.Addend, addend + entry * sizeof(ulong));
        }
        else
        {
            Materialise(g, HostRegisters.Address);
            if (aligned)
            {
                _a.Pext(HostRegisters.Scratch, HostRegisters.Address, _runtime.Constant((ulong)(size - 1)));
                JumpIfCountNotZero(OperationExit(number));
            }
            _a.Pext(HostRegisters.Addend, HostRegisters.Address, _runtime.Constant(TranslatorRuntime.IndexMask));
            // The last byte's page is compared with the first byte's entry, so that an access across pages never matches.
            if (size > 1 && !aligned) _a.Lea(HostRegisters.Address, HostRegisters.Address, size - 1);
            _a.Pext(HostRegisters.Address, HostRegisters.Address, _runtime.Constant(TranslatorRuntime.PageMask));
            _a.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, tag);
            _a.LoadTable(HostRegisters.Addend, HostRegisters.Addend, addend);
        }
        _a.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Address, 0, 0);
        JumpIfCountNotZero(miss);
    }

    private static bool IsInOnePage(ulong address, int size) => (address & 0xFFF) + (ulong)size <= 0x1000;

    private void LoadOperand(Host to, HostOperand o, bool wide)
    {
        if (o.Base == Host.None) _a.Load(to, HostRegisters.Addend, Host.None, o.Displacement, wide);
        else _a.Load(to, o.Base, HostRegisters.Addend, o.Displacement, wide);
    }

    private void StoreOperand(HostOperand o, Host from, bool wide)
    {
        if (o.Base == Host.None) _a.Store(HostRegisters.Addend, Host.None, o.Displacement, from, wide);
        else _a.Store(o.Base, HostRegisters.Addend, o.Displacement, from, wide);
    }

    private void StoreOperandImmediate(HostOperand o, int value, bool wide)
    {
        if (o.Base == Host.None) _a.StoreImmediate(HostRegisters.Addend, Host.None, o.Displacement, value, wide);
        else _a.StoreImmediate(o.Base, HostRegisters.Addend, o.Displacement, value, wide);
    }
}
