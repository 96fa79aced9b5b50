using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>Running to an exact place: blocks while the largest one cannot go past it, then single instructions, all interpreted. And running to about a place, in any way.</summary>
public sealed unsafe partial class Processor
{
    private Place? _runUntil; // where Enter stops; null: it does not
    private bool _following, _runBeyond;

    /// <inheritdoc cref="IFollowingCpu.EnterUntil"/>
    internal VmExit EnterUntil(ulong retired) => EnterUntil(new Place(retired, 0), following: false, beyond: false);

    /// <inheritdoc cref="IFollowingCpu.FollowTo"/>
    internal VmExit FollowTo(Place place, bool beyond) => EnterUntil(place, following: true, beyond);

    private VmExit EnterUntil(Place place, bool following, bool beyond)
    {
        _runUntil = place;
        _following = following;
        _runBeyond = beyond;
        try
        {
            return Enter();
        }
        finally
        {
            _runUntil = null;
            _following = false;
            Interlocked.And(ref State->AttentionFlags, ~(int)Attention.BlockEnd);
        }
    }

    /// <summary>The loop of <see cref="Run"/> for <see cref="EnterUntil(ulong)"/> and <see cref="FollowTo"/>.</summary>
    private void RunUntil(Place place)
    {
        ProcessorState* s = State;
        for (; ; )
        {
            s->Current = null;
            s->LinkFrom = null;
            // Every block comes back here, and a repeated instruction after each piece.
            if (s->AttentionFlags != (int)Attention.BlockEnd || s->Retired >= place.Retired)
            {
                if (!_reexecuting && !CompletionPending && (_following ? AttendFollowing(place) : AttendUntil(place))) return;
                Interlocked.Or(ref s->AttentionFlags, (int)Attention.BlockEnd);
            }
            const uint stepping = (uint)(Rflags.Tf | Rflags.Rf);
            if ((_following && s->Retired + BlockDecoder.MaxInstructions > place.Retired)
                || InterruptShadow | ((s->FlagsOther & stepping) != 0) | _instructionBreakpoints | _dataBreakpoints | _reexecuting | CompletionPending)
            {
                if (Step()) return;
                continue;
            }
            if (RunBlocks(s, Find(s))) return;
        }
    }

    /// <summary><see cref="Attend"/>, and the stop after enough instructions.</summary>
    private bool AttendUntil(Place place)
    {
        if (Attend()) return true;
        if (State->Retired < place.Retired) return false;
        UpdateWindowAttention();
        Exit.Reason = ExitReason.Kicked;
        return true;
    }

    /// <summary><see cref="Attend"/> for <see cref="FollowTo"/>: true when <see cref="Exit"/> must be returned now.</summary>
    private bool AttendFollowing(Place place)
    {
        ProcessorState* s = State;
        Interlocked.Exchange(ref s->AttentionFlags, 0);
        AttendToCode();
        // Where a posted write and a debug trap wait together, the write exits first.
        bool there = s->Retired >= place.Retired && ExceptionsDelivered >= place.Exceptions;
        if (there && TakePostedMmio()) return true;
        if (TakeDebugTrap() && ExitPending)
        {
            ExitPending = false;
            return true;
        }
        ulong exceptions = _runBeyond ? place.Exceptions + 1 : place.Exceptions;
        if (s->Retired < place.Retired || (s->Retired == place.Retired && ExceptionsDelivered < exceptions)) return false;
        if (TakePostedMmio()) return true;
        Exit.Reason = ExitReason.Kicked;
        return true;
    }

    /// <inheritdoc cref="IFollowingCpu.IterateUntil"/>
    internal bool IterateUntil(ulong rcx)
    {
        ProcessorState* s = State;
        if (_reexecuting || CompletionPending || (s->FlagsOther & (uint)Rflags.Tf) != 0) return false;
        (ulong rip, ulong retired) = (s->Rip, s->Retired);
        (uint mode, uint resume) = (s->Mode, s->FlagsOther & (uint)Rflags.Rf);
        try
        {
            s->Mode |= ModeKey.Single;
            Insn* instruction = FindSlow(s, rip + CodeBase(s));
            s->Mode = mode;
            if ((instruction->Flags & (InsnFlags.Rep | InsnFlags.Repne)) == 0 || !((Code)instruction->Code).IsStringInstruction()) return false;
            ulong mask = Implicit.AddressMask(instruction), count = s->Rcx & mask, kept = s->Rcx & ~mask;
            ulong remaining = rcx & mask;
            if (count <= remaining) return false;
            s->Rcx = kept | (count - remaining);
            Interlocked.Exchange(ref s->AttentionFlags, 0);
            do
            {
                if (Step()) return false;
            }
            while (s->Rip == rip && s->Retired == retired);
            s->Rcx = (s->Rcx & ~mask) | (((s->Rcx & mask) + remaining) & mask);
            s->Rip = rip;
            s->Retired = retired;
            s->FlagsOther |= resume;
            InterruptShadow = false;
            Interlocked.Or(ref s->AttentionFlags, (int)Attention.Event);
            return true;
        }
        catch (GuestFault)
        {
            s->Mode = mode;
            s->Current = null;
            s->Rip = rip;
            return false;
        }
    }
}
