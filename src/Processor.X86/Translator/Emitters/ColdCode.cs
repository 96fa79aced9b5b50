namespace Bunraku.Processor.X86;

/// <summary>What a piece of <see cref="ColdCode"/> does.</summary>
internal enum ColdKind
{
    Miss, Prediction, Mirror, Mapping, Operation, Link, SideExit, BackwardSideExit, Attention, Simd, X87, Record, Return,
    Call, FullReturnStack,
}

/// <summary>Code that is rarely reached.</summary>
/// <param name="Label">Leads there.</param>
/// <param name="Back">Where execution goes on; null: not in this translation.</param>
/// <param name="Number">Of the operation, or the link.</param>
internal readonly record struct ColdPiece(ColdKind Kind, HostLabel Label, HostLabel? Back, int Number, GuestAddress Address = default, int Size = 0,
    bool Write = false, bool Aligned = false)
{
    /// <summary>Address of a <see cref="PagePrediction"/>.</summary>
    public int Prediction { get; init; }

    /// <summary>The address is in its register; <see cref="Address"/> does not tell it.</summary>
    public bool IsAddressKnown { get; init; }

    /// <summary>One more than what <see cref="FlagsPlan.Recovery"/> was; 0: the flags are there.</summary>
    public int Flags { get; init; }

    /// <summary>To which it belongs: a <see cref="TranslatedBlock"/>.</summary>
    public nint Part { get; init; }
}

/// <summary>
/// Everything that is rarely reached. It stands in a part of the code cache of its own, so that what the host's instruction cache holds is what runs.
/// </summary>
internal sealed unsafe class ColdCode(Emission e)
{
    private readonly List<ColdPiece> _pieces = [];

    public int Count => _pieces.Count;

    public void Clear() => _pieces.Clear();

    public void Add(in ColdPiece piece) => _pieces.Add(piece with { Part = (nint)e.Translation, Flags = e.Plan.Recovery + 1 });

    /// <summary>Takes back what was added since there were so many.</summary>
    public void GoBack(int count) => _pieces.RemoveRange(count, _pieces.Count - count);

    /// <summary>A label whose code lets the interpreter execute operation <paramref name="number"/>.</summary>
    public HostLabel OperationExit(int number)
    {
        HostLabel label = e.NewLabel();
        Add(new ColdPiece(ColdKind.Operation, label, null, number));
        return label;
    }

    public void Emit()
    {
        for (int n = 0; n < _pieces.Count && !e.Asm.Full; n++)
        {
            ColdPiece c = _pieces[n];
            e.SelectPart((TranslatedBlock*)c.Part);
            e.Asm.Place(c.Label);
            if (c.Flags != 0 && c.Kind != ColdKind.Record) e.Plan.Recover(c.Flags - 1);
            switch (c.Kind)
            {
                case ColdKind.Miss:
                    if (!c.IsAddressKnown) e.Addresses.Materialise(c.Address, HostRegisters.Address);
                    e.Asm.Lea(HostRegisters.Addend, HostRegisters.Address, c.Size - 1);
                    CallAndReturn(e.Runtime.Misses[e.MissRoutine + (c.Write ? 1 : 0)], c);
                    break;
                case ColdKind.Mapping:
                    // In front of a loop's exchange.
                    e.Asm.Call(e.Runtime.MappingMiss);
                    e.Asm.Jump(c.Back!);
                    e.Record(c.Number);
                    break;
                case ColdKind.Prediction:
                    e.Predictor.EmitPrediction(c);
                    break;
                case ColdKind.Mirror:
                    e.Predictor.EmitMirror(c);
                    break;
                case ColdKind.Simd:
                    CallAndReturn(e.Runtime.LoadSimd, c);
                    break;
                case ColdKind.X87:
                    CallAndReturn(e.Runtime.LoadX87, c);
                    break;
                case ColdKind.Call:
                    HostLabel attention = e.NewLabel();
                    e.Asm.LoadState(Host.Rcx, StateOffsets.Quiet);
                    e.Asm.JumpIfRcxZero(attention);
                    e.Asm.MoveImmediate(Host.Rsp, e.ReturnStacks.BaseOf(e.Translation->TargetTable));
                    e.Asm.Jump(c.Back!);
                    e.Asm.Place(attention);
                    e.Exit(TranslatedExit.Attention, c.Number);
                    break;
                case ColdKind.FullReturnStack:
                    e.Asm.MoveImmediate(Host.Rsp, e.ReturnStacks.BaseOf(e.Translation->TargetTable));
                    e.Asm.Jump(c.Back!);
                    break;
                case ColdKind.Record:
                    e.Record(c.Number);
                    break;
                case ColdKind.Operation:
                    e.Loop.ExchangeOut();
                    e.Exit(TranslatedExit.Operation, c.Number);
                    break;
                case ColdKind.Link:
                    e.Head->Links[c.Number].Stub = (byte*)e.Asm.Here;
                    e.Exit(TranslatedExit.Link, c.Number);
                    break;
                case ColdKind.SideExit:
                    e.Loop.ExchangeOut();
                    e.Branches.EmitLinkJump(c.Number);
                    break;
                case ColdKind.BackwardSideExit:
                    e.Loop.ExchangeOut();
                    HostLabel quiet = e.NewLabel();
                    e.Branches.ReadAttention();
                    e.Asm.JumpIfRcxZero(quiet);
                    e.Exit(TranslatedExit.Attention, c.Number);
                    e.Asm.Place(quiet);
                    e.Branches.EmitLinkJump(c.Number);
                    break;
                case ColdKind.Attention:
                    e.Loop.ExchangeOut();
                    e.Exit(TranslatedExit.Attention, c.Number);
                    break;
                case ColdKind.Return:
                    e.Translation->Resume[c.Number] = (int)(e.Asm.Here - (ulong)e.Translation->Main);
                    e.Loop.ExchangeIn();
                    e.Asm.Jump(c.Back!);
                    break;
            }
        }
    }

    /// <summary>
    /// A call that comes back, or leaves for the interpreter: behind it are the jump and the record that <see cref="TranslatorRuntime.Misses"/> expects.
    /// </summary>
    private void CallAndReturn(ulong routine, in ColdPiece c)
    {
        e.Loop.ExchangeOut();
        e.Asm.Call(routine);
        if (!e.Loop.IsExchanged)
        {
            e.Asm.Jump(c.Back!);
            e.Record(c.Number);
            return;
        }
        HostLabel exchange = e.NewLabel();
        e.Asm.Jump(exchange);
        e.Record(c.Number);
        e.Asm.Place(exchange);
        e.Loop.ExchangeIn();
        e.Asm.Jump(c.Back!);
    }

    /// <summary>Where the interpreter has executed an operation of a loop with exchanged registers, code goes on by way of the exchange.</summary>
    public void AddReturn(int operation)
    {
        HostLabel back = e.NewLabel();
        e.Asm.Place(back);
        Add(new ColdPiece(ColdKind.Return, e.NewLabel(), back, operation));
    }

    /// <summary>Has registers of the guest loaded unless the host has them: the state's word <paramref name="isLoaded"/> is not zero then.</summary>
    public void EmitGuard(int isLoaded, ColdKind load, int number)
    {
        HostLabel cold = e.NewLabel(), loaded = e.NewLabel();
        e.Plan.MayLeave();
        e.Asm.LoadState(Host.Rcx, isLoaded, wide: false);
        e.Near.LeaveIfZero(cold);
        e.Asm.Place(loaded);
        Add(new ColdPiece(load, cold, loaded, number));
    }

    /// <summary>A label whose code leaves on the way to a link's target, since something wants attention.</summary>
    public HostLabel AttentionExit(int link)
    {
        HostLabel label = e.NewLabel();
        Add(new ColdPiece(ColdKind.Attention, label, null, link));
        return label;
    }
}
