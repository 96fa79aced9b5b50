using Bunraku.Engines;
using Iced.Intel;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>
/// Addresses. The check of a memory operand needs no flags: the entry's number by PEXT, the negated tag is added to the address of the last byte, PEXT leaves
/// zero if that is in the page, and a branch decides (<see cref="NearExits"/>). Where it may use them (<see cref="FlagsPlan"/>), a comparison of the sum does
/// the same sooner. Afterwards the addend is in <see cref="HostRegisters.Addend"/>.
/// </summary>
internal sealed unsafe class Addresses(Emission e)
{
    /// <summary>Where a checked operand is: [<paramref name="Base"/> + Addend + <paramref name="Displacement"/>].</summary>
    public readonly record struct HostOperand(Host Base, int Displacement);

    /// <summary>Computes a linear address. RCX is lost; guest registers are not.</summary>
    public void Materialise(in GuestAddress g, Host to)
    {
        if (g.Base < 0 && g.Index < 0)
        {
            if (g.IsRelative) e.Asm.MoveAddress(to, g.Constant);
            else e.Asm.MoveImmediate(to, g.Constant);
        }
        else
        {
            Host @base = Host.None, index = Host.None;
            if (g.Base >= 0)
            {
                @base = e.Loop.Of(g.Base);
                // Not through a guest's register, which may be the index.
                if (@base == Host.None) e.Asm.LoadState(@base = HostRegisters.IsGuests(to) ? HostRegisters.Address : to, StateOffsets.Gpr(g.Base));
            }
            if (g.Index >= 0)
            {
                index = e.Loop.Of(g.Index);
                if (index == Host.None) e.Asm.LoadState(index = HostRegisters.Scratch, StateOffsets.Gpr(g.Index));
            }
            if (index == Host.None && g.Displacement == 0 && g.Wide)
            {
                if (@base != to) e.Asm.Move(to, @base);
            }
            else
            {
                e.Asm.Lea(to, @base, index, g.Scale, (int)g.Displacement, g.Wide);
            }
        }
        if (g.SegmentBase == 0) return;
        e.Asm.LoadState(HostRegisters.Scratch, g.SegmentBase);
        e.Asm.Lea(to, to, HostRegisters.Scratch, 0, 0);
    }

    /// <summary>
    /// Checks that <paramref name="size"/> bytes may be accessed; what fails ends in the interpreter's hands at operation <paramref name="number"/>.
    /// </summary>
    /// <param name="aligned">The operand must be aligned to its size, a power of two up to 64.</param>
    public HostOperand Check(in GuestAddress g, int size, bool write, bool aligned, int number)
    {
        if (!aligned && e.Groups.TryGroup(g, size, write, number, out HostOperand grouped)) return grouped;
        bool predicted = e.Predictor.TryPredict(g, size, write, aligned, number);
        if (!predicted)
        {
            CheckOne(g, size, write, aligned, number);
            e.Predictor.PredictAddend(g, number);
        }
        // One register that the host has, too, and a displacement: the host's instruction can use it as it is.
        if (IsSimple(g)) return new HostOperand(e.Loop.Of(g.Base), (int)g.Displacement);
        if (g.IsConstant && (long)g.Constant == (int)g.Constant)
        {
            e.Asm.IsFixed |= g.IsRelative;
            return new HostOperand(Host.None, (int)g.Constant);
        }
        return new HostOperand(HostRegisters.Address, 0);
    }

    public bool IsSimple(in GuestAddress g) => g.Base >= 0 && g.Index < 0 && g.SegmentBase == 0 && g.Wide && e.Loop.Of(g.Base) != Host.None;

    /// <summary>Where the address of an operand is after its check: in the register that is its base, or computed.</summary>
    public Host AddressRegister(in GuestAddress g) => IsSimple(g) && g.Displacement == 0 ? e.Loop.Of(g.Base) : HostRegisters.Address;

    /// <summary>The check itself. Addend and address are in their registers afterwards (<see cref="AddressRegister"/>); RCX is lost.</summary>
    public void CheckOne(in GuestAddress g, int size, bool write, bool aligned, int number)
    {
        e.Groups.LoseAddend();
        bool flags = e.Plan.TryUse();
        HostLabel retry = e.NewLabel(), miss = e.NewLabel();
        (int tag, int addend) = Tables(write);
        e.Cold.Add(new ColdPiece(ColdKind.Miss, miss, retry, number, g, size, write));
        e.Asm.Place(retry);
        if (g.IsConstant && IsInOnePage(g.Constant, size) && (!aligned || (g.Constant & (ulong)(size - 1)) == 0))
        {
            int entry = (int)(g.Constant >> 12) & (TranslatorState.FirstLevelSize - 1);
            LoadEntry(HostRegisters.Scratch, tag, entry, g.IsRelative);
            if (g.IsRelative) e.Asm.MoveAddress(HostRegisters.Address, g.Constant);
            else e.Asm.MoveImmediate(HostRegisters.Address, g.Constant);
            LoadEntry(HostRegisters.Addend, addend, entry, g.IsRelative);
            e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Address, 0, -(int)(g.Constant & 0xFFF));
        }
        else
        {
            Host address = AddressRegister(g);
            if (address == HostRegisters.Address) Materialise(g, address);
            if (flags) LookUpByFlags(address, size, write, aligned, number);
            else LookUp(address, size, write, aligned, number);
        }
        if (flags) LeaveUnlessInPageByFlags(miss);
        else LeaveUnlessInPage(miss);
    }

    /// <summary>As <see cref="LookUp"/>.</summary>
    private void LookUpByFlags(Host address, int size, bool write, bool aligned, int number)
    {
        (int tag, int addend) = Tables(write);
        if (aligned)
        {
            e.Asm.Test(address, size - 1);
            e.Asm.JumpIf(5 /* NE */, e.Cold.OperationExit(number));
        }
        e.Asm.Pext(HostRegisters.Addend, address, e.Runtime.Constant(TranslatorRuntime.IndexMask));
        if (aligned || size == 1) e.Asm.Move(HostRegisters.Scratch, address);
        else e.Asm.Lea(HostRegisters.Scratch, address, size - 1);
        e.Asm.AddTable(HostRegisters.Scratch, HostRegisters.Addend, tag);
        e.Asm.LoadTable(HostRegisters.Addend, HostRegisters.Addend, addend);
    }

    private void LeaveUnlessInPageByFlags(HostLabel miss)
    {
        e.Asm.Calculate(HostOperator.Compare, HostRegisters.Scratch, (int)GuestMemory.PageSize, sizeof(ulong));
        e.Asm.JumpIf(3 /* AE */, miss);
    }

    /// <summary>Where the first level has tags and addends for reading or writing.</summary>
    private (int Tag, int Addend) Tables(bool write)
    {
        int table = e.FirstLevelTable;
        return write ? (table + TranslatorState.WriteTag, table + TranslatorState.WriteAddend)
            : (table + TranslatorState.ReadTag, table + TranslatorState.ReadAddend);
    }

    /// <summary>The end of a check, behind which everything from bit 12 on in RCX is zero.</summary>
    private void LeaveUnlessInPage(HostLabel miss)
    {
        e.Asm.Pext(HostRegisters.Scratch, HostRegisters.Scratch, e.Runtime.Constant(TranslatorRuntime.PageMask));
        e.Near.LeaveUnlessZero56(miss);
    }

    /// <summary>The addend goes to its register; of RCX no bit from 12 on is set if it is right.</summary>
    private void LookUp(Host address, int size, bool write, bool aligned, int number)
    {
        (int tag, int addend) = Tables(write);
        if (aligned)
        {
            e.Asm.Pext(HostRegisters.Scratch, address, e.Runtime.Constant((ulong)(size - 1)));
            e.Near.LeaveUnlessZero32(e.Cold.OperationExit(number));
        }
        e.Asm.Pext(HostRegisters.Addend, address, e.Runtime.Constant(TranslatorRuntime.IndexMask));
        e.Asm.LoadTable(HostRegisters.Scratch, HostRegisters.Addend, tag);
        e.Asm.LoadTable(HostRegisters.Addend, HostRegisters.Addend, addend);
        // The last byte is looked for in the page of the first byte's entry, so that an access across pages never matches.
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, address, 0, aligned ? 0 : size - 1);
    }

    /// <summary>
    /// Checks the operand of a bit string: the <paramref name="size"/> bytes in which the bit lies that register <paramref name="bit"/> counts from
    /// <paramref name="g"/> on. Addend and address are in their registers afterwards; RCX is lost.
    /// </summary>
    public void CheckBit(in GuestAddress g, int bit, int size, bool write, bool aligned, int number)
    {
        e.Groups.LoseAddend();
        HostLabel retry = e.NewLabel(), miss = e.NewLabel();
        e.Cold.Add(new ColdPiece(ColdKind.Miss, miss, retry, number, g, size, write) { IsAddressKnown = true });
        e.Asm.Place(retry);
        Materialise(g, HostRegisters.Address);
        Host from = e.Loop.Of(bit);
        if (from == Host.None) e.Asm.LoadState(from = HostRegisters.Scratch, StateOffsets.Gpr(bit));
        HostRegister count = Operands.Sized(from, size);
        e.Encode(Instruction.Create(size == 8 ? Code.Mov_r64_rm64 : Code.Movsxd_r64_rm32, HostRegister.RCX, count));
        e.Asm.MoveImmediate(HostRegisters.Addend, size == 8 ? 6u : 5u);
        e.Encode(Instruction.Create(Code.VEX_Sarx_r64_rm64_r64, HostRegister.RCX, HostRegister.RCX, HostRegister.R14));
        e.Asm.Lea(HostRegisters.Address, HostRegisters.Address, HostRegisters.Scratch, size == 8 ? 3 : 2, 0);
        LookUp(HostRegisters.Address, size, write, aligned, number);
        LeaveUnlessInPage(miss);
    }

    /// <summary>
    /// Checks a descriptor of the GDT: its selector, with the lowest three bits zero, is in <see cref="StateOffsets.Temporary0"/>. Addend and address are in
    /// their registers afterwards; RCX is lost.
    /// </summary>
    public void CheckDescriptor(int number)
    {
        const int size = sizeof(ulong);
        e.Groups.LoseAddend();
        HostLabel retry = e.NewLabel(), miss = e.NewLabel();
        e.Cold.Add(new ColdPiece(ColdKind.Miss, miss, retry, number, default, size) { IsAddressKnown = true });
        e.Asm.Place(retry);
        e.Asm.LoadState(HostRegisters.Address, StateOffsets.GdtrBase);
        e.Asm.LoadState(HostRegisters.Scratch, StateOffsets.Temporary0);
        e.Asm.Lea(HostRegisters.Address, HostRegisters.Address, HostRegisters.Scratch, 0, 0);
        LookUp(HostRegisters.Address, size, write: false, aligned: false, number);
        LeaveUnlessInPage(miss);
    }

    private void LoadEntry(Host to, int table, int entry, bool relative)
    {
        if (relative) e.Asm.LoadFirstLevel(to, table, entry);
        else e.Asm.LoadState(to, table + entry * sizeof(ulong));
    }

    private static bool IsInOnePage(ulong address, int size) => (address & 0xFFF) + (ulong)size <= GuestMemory.PageSize;

    public void LoadOperand(Host to, HostOperand o, bool wide)
    {
        if (o.Base == Host.None) e.Asm.Load(to, HostRegisters.Addend, Host.None, o.Displacement, wide);
        else e.Asm.Load(to, o.Base, HostRegisters.Addend, o.Displacement, wide);
    }

    public void StoreOperand(HostOperand o, Host from, bool wide)
    {
        if (o.Base == Host.None) e.Asm.Store(HostRegisters.Addend, Host.None, o.Displacement, from, wide);
        else e.Asm.Store(o.Base, HostRegisters.Addend, o.Displacement, from, wide);
    }

    public void StoreOperandImmediate(HostOperand o, int value, bool wide)
    {
        if (o.Base == Host.None) e.Asm.StoreImmediate(HostRegisters.Addend, Host.None, o.Displacement, value, wide);
        else e.Asm.StoreImmediate(o.Base, HostRegisters.Addend, o.Displacement, value, wide);
    }
}
