using System.Runtime.CompilerServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>The dispatcher: between blocks, everything that is not the execution of an instruction happens here.</summary>
public sealed unsafe partial class Processor
{
    private readonly BlockDecoder _decoder;
    private ExecutionControls _controls = new();

    /// <summary>Blocking by STI or by MOV SS/POP SS is in force for the next instruction.</summary>
    internal bool InterruptShadow
    {
        get => State->Retired == State->ShadowAt;
        set => State->ShadowAt = value ? State->Retired : ulong.MaxValue;
    }

    private (Vector Vector, uint? ErrorCode)? _injectedException;
    private int _injectedInterrupt = -1;
    private bool _injectedNmi;
    private bool _heldNmi; // came with the state from an engine that holds a blocked NMI itself
    private bool _reexecuting; // the next instruction completes an MMIO read

    private VmExit RunToExit()
    {
        CompleteMmio();
        _reexecuting = _replay.Count > 0;
        _replayIndex = 0;
        _leftForExit = false;
        DeliverInjected();
        for (; ; )
        {
            try
            {
                if (TripleFaulted) return TripleFault();
                if (ExitPending)
                {
                    // What came up when an event was delivered, or an interrupt that went away.
                    ExitPending = false;
                    return Exit;
                }
                if (_runUntil is { } place) RunUntil(place);
                else Run();
                return Exit;
            }
            catch (GuestFault fault)
            {
                StepBack();
                ForgetReplay();
                _reexecuting = false;
                DropCompletion();
                ExitPending = false;
                if (Intercepts(fault.Vector)) return ExceptionExit(fault);
                _vectoring = null;
                DeliverException(fault.Vector, fault.ErrorCode);
            }
            catch (ExitRequest)
            {
                StepBack();
                _vectoring = null;
                ChooseExit();
                return Exit;
            }
        }
    }

    /// <summary>The current instruction is abandoned: RIP and the count go back to it.</summary>
    private void StepBack()
    {
        ProcessorState* s = State;
        if (s->Current == null) return; // a fetch fault: Rip is right
        s->Rip = (s->BlockRip + s->Current->Offset) & Flow.RipMask(s);
        s->Retired += s->Current->Ordinal;
        s->Current = null;
        s->LinkFrom = null;
    }

    /// <summary>The exception bitmap has this vector.</summary>
    internal bool Intercepts(Vector vector) => (_controls.ExceptionBitmap >> (int)vector & 1) != 0;

    private VmExit ExceptionExit(GuestFault fault)
    {
        FillExceptionExit(fault.Vector, fault.ErrorCode);
        return Exit;
    }

    private void FillExceptionExit(Vector vector, uint? errorCode)
    {
        Exit.Reason = ExitReason.Exception;
        Exit.Address = (ulong)vector;
        Exit.ErrorCode = errorCode ?? 0;
        Exit.Vectoring = _vectoring;
        _vectoring = null;
    }

    private VmExit TripleFault()
    {
        ExitPending = false;
        Exit.Reason = ExitReason.TripleFault;
        return Exit;
    }

    private void DeliverInjected()
    {
        if (_offeredInterrupt is { } source)
        {
            _offeredInterrupt = null;
            TakeInterrupt(source);
        }
        if (_injectedException is { } e)
        {
            _injectedException = null;
            DeliverException(e.Vector, e.ErrorCode);
        }
        else if (_injectedNmi)
        {
            _injectedNmi = false;
            DeliverNmi();
        }
        else if (_injectedInterrupt >= 0)
        {
            var vector = (byte)_injectedInterrupt;
            _injectedInterrupt = -1;
            InterruptsDelivered++;
            DeliverInterrupt(vector);
        }
    }

    /// <summary>The processor is about to take an external interrupt: acknowledges it.</summary>
    private void TakeInterrupt(IInterruptAcknowledge source)
    {
        // Something else was injected meanwhile.
        if (!InterruptWindowOpen) return;
        byte? vector = source.Acknowledge(out bool more);
        if (vector is { } taken)
        {
            _injectedInterrupt = taken;
        }
        else if (_offeredInHlt)
        {
            Activity = CpuActivity.Halted;
            Exit.Reason = ExitReason.Hlt;
            ExitPending = true;
        }
        if (_controls.InterruptWindowExiting != more) Controls = _controls with { InterruptWindowExiting = more };
    }

    /// <summary>Runs until <see cref="Exit"/> holds an exit.</summary>
    private void Run()
    {
        ProcessorState* s = State;
        const uint stepping = (uint)(Rflags.Tf | Rflags.Rf);
        for (; ; )
        {
            s->Current = null;
            bool single = false;
            // Rare things are behind one test each.
            if (s->AttentionFlags != 0 && !_reexecuting && !CompletionPending)
            {
                s->LinkFrom = null; // an event may be delivered instead of what the link leads to
                if (Attend()) return;
                single = InterruptShadow;
            }
            // A breakpoint's trap comes right after the instruction that met it.
            if (((s->FlagsOther & stepping) != 0) | _instructionBreakpoints | _dataBreakpoints | _reexecuting | CompletionPending) single = true;
            if (single)
            {
                if (Step()) return;
                continue;
            }
            if (RunBlocks(s, Find(s))) return;
        }
    }

    /// <summary>Executes operations, from block to block, until one leads to the dispatcher. True when there is an exit.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private bool RunBlocks(ProcessorState* s, Insn* operation)
    {
        Execute(s, operation);
        if (!ExitPending) return false;
        ExitPending = false;
        s->Current = null;
        return true;
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Execute(ProcessorState* s, Insn* operation)
    {
        do
        {
            s->Current = operation;
            operation = operation->Handler(this, s, operation);
        }
        while (operation != null);
    }

    /// <summary>Executes one instruction with everything that only single instructions need. True when there is an exit.</summary>
    private bool Step()
    {
        ProcessorState* s = State;
        bool trap = (s->FlagsOther & (uint)Rflags.Tf) != 0;
        bool resume = (s->FlagsOther & (uint)Rflags.Rf) != 0;
        if (_instructionBreakpoints && !resume && !_reexecuting && InstructionBreakpoint(s->Rip + s->Cs.Base)) throw Fault(Vector.Db);
        // Stays set while the instruction runs: no entry of the jump cache has this key, so that the instruction cannot lead into another block.
        s->Mode |= ModeKey.Single;
        try
        {
            Execute(s, FindSlow(s, s->Rip + CodeBase(s)));
        }
        finally
        {
            s->Mode &= ~ModeKey.Single;
        }
        s->LinkFrom = null;
        if (ExitPending && (CompletionPending || _leftForExit))
        {
            // Half done: nothing of what follows an instruction happens yet.
            ExitPending = false;
            s->Current = null;
            return true;
        }
        _reexecuting = false;
        ForgetReplay();
        s->Current = null;
        if (resume) ClearResumeFlag();
        if (trap) AfterSingleStep();
        if (!ExitPending) return false;
        ExitPending = false;
        return true;
    }

    /// <summary>Looks at what asked for attention. True when <see cref="Exit"/> must be returned now.</summary>
    private bool Attend()
    {
        ProcessorState* s = State;
        // Cleared before looking: what arrives meanwhile sets it again.
        int flags = Interlocked.Exchange(ref s->AttentionFlags, 0);
        AttendToCode();
        if (TakePostedMmio())
        {
            Interlocked.Or(ref s->AttentionFlags, flags | (int)Attention.Event);
            return true;
        }
        // A trap that its own handler runs into again must not keep a kick from being seen.
        if (TakeDebugTrap() && ExitPending)
        {
            Interlocked.Or(ref s->AttentionFlags, flags & (int)Attention.Kick);
            UpdateWindowAttention();
            ExitPending = false;
            return true;
        }
        if ((flags & (int)Attention.Kick) != 0)
        {
            UpdateWindowAttention();
            Exit.Reason = ExitReason.Kicked;
            return true;
        }
        if (TakeHeldNmi())
        {
            UpdateWindowAttention();
            Exit.Reason = ExitReason.Kicked;
            return true;
        }
        if (_controls.NmiWindowExiting && NmiWindowOpen)
        {
            UpdateWindowAttention();
            Exit.Reason = ExitReason.NmiWindow;
            return true;
        }
        if (_controls.InterruptWindowExiting && InterruptWindowOpen)
        {
            UpdateWindowAttention();
            Exit.Reason = ExitReason.InterruptWindow;
            return true;
        }
        UpdateWindowAttention();
        return false;
    }

    /// <summary>What others did to code, mappings and the bus, and what this vCPU left for a moment without running blocks.</summary>
    private void AttendToCode()
    {
        ProcessForeignWrites();
        ProcessRevocations();
        YieldBus();
        ApplyA20();
        if (_translatorIsFull) FlushCode();
    }

    /// <inheritdoc cref="IFollowingCpu.TakeHeldNmi"/>
    internal bool TakeHeldNmi()
    {
        if (!_heldNmi || !NmiWindowOpen) return false;
        _heldNmi = false;
        _injectedNmi = true;
        return true;
    }

    /// <summary>While a window is wanted, every block returns to the dispatcher.</summary>
    private void UpdateWindowAttention()
    {
        if (_controls.InterruptWindowExiting || _controls.NmiWindowExiting || _heldNmi) Interlocked.Or(ref State->AttentionFlags, (int)Attention.Event);
    }

    /// <summary>The instruction at hand has asked the hypervisor for something, and goes on at the next entry.</summary>
    private bool IsHalfDone => CompletionPending || _mmioReadPending || _replay.Count > 0;

    internal bool InterruptWindowOpen =>
        (State->FlagsOther & (uint)Rflags.If) != 0 && !InterruptShadow && !IsHalfDone && _injectedException == null && !_injectedNmi && _injectedInterrupt < 0;

    internal bool NmiWindowOpen =>
        !NmiBlocked && !InterruptShadow && !IsHalfDone && _injectedException == null && !_injectedNmi && _injectedInterrupt < 0;

    private static ulong CodeBase(ProcessorState* s) => (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64 ? 0 : s->Cs.Base;

    /// <summary>The operation at RIP: from the jump cache, or looked up and decoded. Fills the link that led here.</summary>
    private Insn* Find(ProcessorState* s)
    {
        // Taken now: should the look-up fault, the handler's code must not become the link's target.
        Insn* link = s->LinkFrom;
        s->LinkFrom = null;
        ulong linear = s->Rip + CodeBase(s);
        JumpEntry* e = Flow.JumpSlot(s, linear);
        Insn* first;
        if (e->LinearRip == linear && e->Key == Flow.JumpKey(s) && (e->First->Flags & InsnFlags.Stale) == 0)
        {
            first = e->First;
            s->BlockRip = s->Rip;
        }
        else
        {
            uint epoch = s->JumpEpoch;
            first = FindSlow(s, linear);
            // Both pages' mappings, or the CS limit, must be looked at each time, or the code itself.
            if (_mustLookUp || (s->Mode & ModeKey.Flat) == 0) return first;
            if (s->JumpEpoch != epoch) link = null; // the arena may have been given up, and the link with it
            e->LinearRip = linear;
            e->Key = Flow.JumpKey(s);
            e->First = first;
            NoteCodePage(linear);
        }
        // Within one linear page the mapping is the running block's own; nothing else guards a link.
        if (link != null && (link->Flags & InsnFlags.NoLink) == 0 && ((linear ^ (linear - (ulong)link->Imm)) & ~0xFFFul) == 0) link->Link = first;
        return first;
    }

    private bool _mustLookUp; // the block that was found last may not be entered from anywhere but the dispatcher

    /// <summary>Translates RIP, finds the block there or decodes it. Faults leave Rip as it is, with no current instruction.</summary>
    private Insn* FindSlow(ProcessorState* s, ulong linear)
    {
        bool flat = (s->Mode & ModeKey.Flat) != 0;
        bool code64 = (s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64;
        if (code64)
        {
            if (!IsCanonical(linear)) throw GeneralProtection();
        }
        else
        {
            s->Rip &= Flow.RipMask(s);
            linear = (uint)(s->Rip + s->Cs.Base);
            if (!flat && s->Rip > s->Cs.Limit) throw GeneralProtection();
        }
        byte* host = FetchPointer(linear);
        uint mode = s->Mode;
        ulong start = BackingOffset(host);
        DropOneShot();
        Block* block = FindBlock(start, mode);
        ulong room = !code64 && !flat ? s->Cs.Limit - s->Rip + 1 : 0x1000; // bytes that the CS limit allows
        if (block != null && block->Length <= room && (!block->Crosses || SecondPageMatches(block, linear)))
        {
            _mustLookUp = block->Crosses;
            s->BlockRip = s->Rip;
            return block->First;
        }
        return DecodeAt(s, linear, host, start, mode, room);
    }

    private bool SecondPageMatches(Block* block, ulong linear) =>
        BackingOffset(FetchPointer(Wrap((linear & ~0xFFFul) + 0x1000))) == block->SecondPage;

    private Insn* DecodeAt(ProcessorState* s, ulong linear, byte* host, ulong start, uint mode, ulong room)
    {
        if (!_arena.HasRoom(BlockDecoder.MaxOperations)) FlushCode();
        int inPage = (int)(0x1000 - (linear & 0xFFF));
        int available = (int)Math.Min((ulong)inPage, room);
        int maximum = (mode & ModeKey.Single) != 0 ? 1 : int.MaxValue;
        ulong second = Block.NoPage;
        bool keep = WatchCode(start & ~0xFFFul);
        // What is decoded for one run is not worth counting.
        bool counted = _translator != null && maximum > 1 && keep;
        if (!_decoder.Decode(host, available, s->Rip, mode & ~ModeKey.Single, maximum, crosses: false, counted))
        {
            // The instruction reaches into the next page, or beyond the CS limit.
            if (room <= (ulong)inPage) throw GeneralProtection();
            byte* next = FetchPointer(Wrap((linear & ~0xFFFul) + 0x1000));
            keep &= WatchCode(BackingOffset(next));
            counted &= keep;
            byte* bytes = stackalloc byte[32];
            int rest = (int)Math.Min(16, room - (ulong)inPage);
            CodeBytes.Copy(host, bytes, inPage);
            CodeBytes.Copy(next, bytes + inPage, rest);
            if (!_decoder.Decode(bytes, inPage + rest, s->Rip, mode & ~ModeKey.Single, 1, crosses: true, counted)) throw GeneralProtection();
            second = BackingOffset(next);
        }
        if (_decoder.OutOfThunks)
        {
            FlushCode();
            Thunks.Clear();
            return DecodeAt(s, linear, host, start, mode, room);
        }
        ReadOnlySpan<Insn> operations = _decoder.Operations;
        Block* block = _arena.AddBlock();
        *block = new Block
        {
            Start = start,
            SecondPage = second,
            Checksum = _decoder.Checksum,
            Mode = mode,
            Count = (ushort)operations.Length,
            Length = (ushort)_decoder.Length,
            First = _arena.Add(operations),
        };
        NoteBlock(block);
        Register(block);
        if (!keep) _oneShot = block;
        _mustLookUp = block->Crosses || !keep;
        s->BlockRip = s->Rip;
        return block->First;
    }

    /// <summary>Host address of an instruction byte.</summary>
    private byte* FetchPointer(ulong linear)
    {
        ProcessorState* s = State;
        TlbEntry* e = Access.Entry(s, linear);
        if (e->ExecTag == ((linear & ~0xFFFul) | s->TlbContext)) return (byte*)linear + e->Addend;
        Part part = Locate(linear, 1, CurrentPrivilege | FetchAccess);
        // Without memory a fetch reads all ones, and FF FF is an invalid opcode.
        return part.Host != null ? part.Host : throw InvalidOpcode();
    }
}
