using System.Numerics;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// In a loop an access mostly stays in the page where it was last time. What is known of that page lies at a fixed place then, so that the addend does not depend on the
/// address: a chain of dependent loads takes as long as on the host. Operands that are not aligned to their size never match, since they might reach across the
/// page. What fails goes to the usual check, which enters the new page; a loop that fails often is translated again without predictions.
/// </summary>
internal sealed unsafe partial class BlockTranslator
{
    private readonly PredictionArena _predictions;
    private bool _predicts, _mirrors;

    /// <summary>Checks an operand. The addend is in its register afterwards, and unless a host register and a displacement make the address, <see cref="HostRegisters.Address"/> has it.</summary>
    private bool TryPredict(in GuestAddress g, int size, bool write, bool aligned, int number)
    {
        if (!_predicts || g.IsConstant || !BitOperations.IsPow2(size)) return false;
        PagePrediction* prediction = _predictions.Add();
        if (prediction == null) return false;
        if (_translation->PredictionCount++ == 0) _translation->Predictions = prediction;
        _addendGroup = -1;
        HostLabel miss = NewLabel(), join = NewLabel();
        Host address = HostRegisters.Address;
        if (IsSimple(g) && g.Displacement == 0) address = Of(g.Base);
        else Materialise(g, address);
        _a.Pext(HostRegisters.Scratch, address, _runtime.Constant(TranslatorRuntime.PageMask | (uint)(size - 1)));
        LoadPrediction(HostRegisters.Addend, &prediction->Tag);
        _a.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Addend, 0, 0);
        JumpIfCountNotZero(miss);
        LoadPrediction(HostRegisters.Addend, &prediction->Addend);
        _a.Place(join);
        _cold.Add(new Cold(ColdKind.Prediction, miss, join, number, g, size, write, aligned) { Prediction = (int)prediction });
        return true;
    }

    /// <summary>
    /// Behind the usual check of an operand whose address comes from memory: its addend must be the predicted one, which is known without the address. Pages come to have the same addend through
    /// <see cref="LinearMirror"/>.
    /// </summary>
    private void PredictAddend(in GuestAddress g, int number)
    {
        if (!_mirrors || !IsLoaded(g.Base) && !IsLoaded(g.Index)) return;
        PagePrediction* prediction = _predictions.Add();
        if (prediction == null) return;
        if (_translation->PredictionCount++ == 0) _translation->Predictions = prediction;
        HostLabel other = NewLabel();
        LoadPrediction(HostRegisters.Scratch, &prediction->Tag);
        _a.Lea(HostRegisters.Scratch, HostRegisters.Scratch, HostRegisters.Addend, 0, 0);
        JumpIfCountNotZero(other);
        LoadPrediction(HostRegisters.Addend, &prediction->Addend);
        _cold.Add(new Cold(ColdKind.Mirror, other, null, number, g, 1, false) { Prediction = (int)prediction });
    }

    /// <summary>The loop loads the register from memory: an address made of it waits for a load, and what it leads to may be the next address.</summary>
    private bool IsLoaded(int register)
    {
        if (register < 0) return false;
        for (int n = 0; n < _instructionCount; n++)
        {
            ref Instruction g = ref _instructions[n];
            if (g.Op0Kind == OpKind.Register && g.Op1Kind == OpKind.Memory && g.Mnemonic != Mnemonic.Lea && g.Op0Register.IsGPR() && NumberOf(g.Op0Register) == register) return true;
        }
        return false;
    }

    private void EmitMirror(in Cold c)
    {
        Materialise(c.Address, HostRegisters.Address);
        _a.StoreState(StateOffsets.MissAddress, HostRegisters.Address);
        _a.StoreStateImmediate(StateOffsets.MissLast, c.Prediction, wide: true);
        ExchangeOut();
        _a.Call(_runtime.Exits[(int)TranslatedExit.Mirror]);
        Record(c.Number);
    }

    /// <summary>The usual check, and what it found becomes the prediction.</summary>
    private void EmitPrediction(in Cold c)
    {
        var prediction = (PagePrediction*)c.Prediction;
        HostLabel exhausted = NewLabel(), fresh = NewLabel(), enter = NewLabel();
        CheckOne(c.Address, c.Size, c.Write, c.Aligned, c.Number);
        LoadPrediction(HostRegisters.Scratch, &prediction->Budget);
        _a.Lea(HostRegisters.Scratch, HostRegisters.Scratch, -1);
        StorePrediction(&prediction->Budget, HostRegisters.Scratch);
        _a.JumpIfRcxZero(exhausted);
        LoadPrediction(HostRegisters.Scratch, &prediction->Tag);
        _a.Lea(HostRegisters.Scratch, HostRegisters.Scratch, -(int)PagePrediction.Empty);
        _a.JumpIfRcxZero(fresh);
        _a.ShortJump(enter);
        _a.Place(fresh);
        _a.LoadState(HostRegisters.Scratch, StateOffsets.Predictions);
        StorePrediction(&prediction->Next, HostRegisters.Scratch);
        _a.StoreStateImmediate(StateOffsets.Predictions, c.Prediction, wide: true);
        _a.Place(enter);
        // The page's number is in the address register; NOT of one less is the negative.
        int shift = BitOperations.Log2((uint)c.Size);
        if (shift > 3) _a.Lea(HostRegisters.Address, Host.None, HostRegisters.Address, 3, 0);
        _a.Lea(HostRegisters.Scratch, Host.None, HostRegisters.Address, shift > 3 ? shift - 3 : shift, -1);
        _a.Bytes(0x48, 0xF7, 0xD1); // NOT RCX
        StorePrediction(&prediction->Tag, HostRegisters.Scratch);
        StorePrediction(&prediction->Addend, HostRegisters.Addend);
        if (!IsSimple(c.Address)) Materialise(c.Address, HostRegisters.Address);
        _a.Jump(c.Back!);
        _a.Place(exhausted);
        ExchangeOut();
        _a.Call(_runtime.Exits[(int)TranslatedExit.Predictions]);
        Record(c.Number);
    }

    private void LoadPrediction(Host to, ulong* field) => _a.Load(to, Host.None, Host.None, (int)field);

    private void StorePrediction(ulong* field, Host from) => _a.Store(Host.None, Host.None, (int)field, from);
}
