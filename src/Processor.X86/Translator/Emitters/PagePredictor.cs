using System.Numerics;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// In a loop an access mostly stays in the page where it was last time. What is known of that page lies at a fixed place then, so that the addend does not
/// depend on the address: a chain of dependent loads takes as long as on the host. Operands that are not aligned to their size never match, since they might
/// reach across the page. What fails goes to the usual check, which enters the new page; a loop that fails often is translated again without predictions.
/// </summary>
internal sealed unsafe class PagePredictor(Emission e)
{
    private LoopPredictions _wanted;

    /// <param name="wanted">What the accesses of the block predict.</param>
    public void Begin(LoopPredictions wanted) => _wanted = wanted;

    /// <summary>
    /// Checks an operand. The addend is in its register afterwards, and unless a host register and a displacement make the address,
    /// <see cref="HostRegisters.Address"/> has it.
    /// </summary>
    public bool TryPredict(in GuestAddress g, int size, bool write, bool aligned, int number)
    {
        if (_wanted != LoopPredictions.Pages || g.IsConstant || !BitOperations.IsPow2(size)) return false;
        PagePrediction* prediction = e.Generation.Predictions.Add();
        if (prediction == null) return false;
        if (e.Head->PredictionCount++ == 0) e.Head->Predictions = prediction;
        e.Groups.LoseAddend();
        bool flags = e.Plan.TryUse();
        HostLabel miss = e.NewLabel(), join = e.NewLabel();
        Host address = HostRegisters.Address;
        if (e.Addresses.IsSimple(g) && g.Displacement == 0) address = e.Loop.Of(g.Base);
        else e.Addresses.Materialise(g, address);
        e.Asm.Pext(HostRegisters.Scratch, address, e.Runtime.Constant(TranslatorRuntime.PageMask | (uint)(size - 1)));
        if (flags)
        {
            e.Asm.Calculate(HostOperator.Add, HostRegisters.Scratch, Host.None, 0, (int)&prediction->Tag, sizeof(ulong));
            e.Asm.JumpIf(5 /* NE */, miss);
        }
        else
        {
            LoadPrediction(HostRegisters.Addend, &prediction->Tag);
            e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Addend, 0, 0);
            e.JumpIfCountNotZero(miss);
        }
        LoadPrediction(HostRegisters.Addend, &prediction->Addend);
        e.Asm.Place(join);
        e.Cold.Add(new ColdPiece(ColdKind.Prediction, miss, join, number, g, size, write, aligned) { Prediction = (int)prediction });
        return true;
    }

    /// <summary>
    /// Behind the usual check of an operand whose address comes from memory: its addend must be the predicted one, which is known without the address. Pages
    /// come to have the same addend through
    /// <see cref="LinearMirror"/>.
    /// </summary>
    public void PredictAddend(in GuestAddress g, int number)
    {
        if (_wanted != LoopPredictions.Addends || !IsLoaded(g.Base) && !IsLoaded(g.Index)) return;
        PagePrediction* prediction = e.Generation.Predictions.Add();
        if (prediction == null) return;
        if (e.Head->PredictionCount++ == 0) e.Head->Predictions = prediction;
        HostLabel other = e.NewLabel();
        bool flags = e.Plan.TryUse();
        LoadPrediction(HostRegisters.Scratch, &prediction->Tag);
        if (flags)
        {
            e.Asm.Calculate(HostOperator.Add, HostRegisters.Scratch, HostRegisters.Addend, sizeof(ulong));
            e.Asm.JumpIf(5 /* NE */, other);
        }
        else
        {
            e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Addend, 0, 0);
            e.JumpIfCountNotZero(other);
        }
        LoadPrediction(HostRegisters.Addend, &prediction->Addend);
        e.Cold.Add(new ColdPiece(ColdKind.Mirror, other, null, number, g, 1, false) { Prediction = (int)prediction });
    }

    /// <summary>The loop loads the register from memory: an address made of it waits for a load, and what it leads to may be the next address.</summary>
    private bool IsLoaded(int register)
    {
        if (register < 0) return false;
        for (int n = 0; n < e.InstructionCount; n++)
        {
            ref Instruction g = ref e.Instructions[n];
            if (g.Op0Kind == OpKind.Register && g.Op1Kind == OpKind.Memory && g.Mnemonic != Mnemonic.Lea && g.Op0Register.IsGPR()
                && Operands.NumberOf(g.Op0Register) == register) return true;
        }
        return false;
    }

    public void EmitMirror(in ColdPiece c)
    {
        e.Addresses.Materialise(c.Address, HostRegisters.Address);
        e.Asm.StoreState(StateOffsets.MissAddress, HostRegisters.Address);
        e.Asm.StoreStateImmediate(StateOffsets.MissLast, c.Prediction, wide: true);
        e.Loop.ExchangeOut();
        e.Exit(TranslatedExit.Mirror, c.Number);
    }

    /// <summary>The usual check, and what it found becomes the prediction.</summary>
    public void EmitPrediction(in ColdPiece c)
    {
        var prediction = (PagePrediction*)c.Prediction;
        HostLabel exhausted = e.NewLabel(), fresh = e.NewLabel(), enter = e.NewLabel();
        e.Addresses.CheckOne(c.Address, c.Size, c.Write, c.Aligned, c.Number);
        LoadPrediction(HostRegisters.Scratch, &prediction->Budget);
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, -1);
        StorePrediction(&prediction->Budget, HostRegisters.Scratch);
        e.Asm.JumpIfRcxZero(exhausted);
        LoadPrediction(HostRegisters.Scratch, &prediction->Tag);
        e.Asm.Lea(HostRegisters.Scratch, HostRegisters.Scratch, -(int)PagePrediction.Empty);
        e.Asm.JumpIfRcxZero(fresh);
        e.Asm.ShortJump(enter);
        e.Asm.Place(fresh);
        e.Asm.LoadState(HostRegisters.Scratch, StateOffsets.Predictions);
        StorePrediction(&prediction->Next, HostRegisters.Scratch);
        e.Asm.StoreStateImmediate(StateOffsets.Predictions, c.Prediction, wide: true);
        e.Asm.Place(enter);
        e.Asm.Pext(HostRegisters.Address, e.Addresses.AddressRegister(c.Address), e.Runtime.Constant(TranslatorRuntime.PageMask));
        // NOT of one less is the negative.
        int shift = BitOperations.Log2((uint)c.Size);
        if (shift > 3) e.Asm.Lea(HostRegisters.Address, Host.None, HostRegisters.Address, 3, 0);
        e.Asm.Lea(HostRegisters.Scratch, Host.None, HostRegisters.Address, shift > 3 ? shift - 3 : shift, -1);
        e.Asm.Bytes(0x48, 0xF7, 0xD1); // NOT RCX
        StorePrediction(&prediction->Tag, HostRegisters.Scratch);
        StorePrediction(&prediction->Addend, HostRegisters.Addend);
        if (!e.Addresses.IsSimple(c.Address)) e.Addresses.Materialise(c.Address, HostRegisters.Address);
        e.Asm.Jump(c.Back!);
        e.Asm.Place(exhausted);
        e.Loop.ExchangeOut();
        e.Exit(TranslatedExit.Predictions, c.Number);
    }

    private void LoadPrediction(Host to, ulong* field) => e.Asm.Load(to, Host.None, Host.None, (int)field);

    private void StorePrediction(ulong* field, Host from) => e.Asm.Store(Host.None, Host.None, (int)field, from);
}
