using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Running to an exact place: blocks while the largest one cannot go past it, then single instructions, all interpreted. And running to about a place, in any
/// way.
/// </summary>
internal sealed unsafe class Following(Processor p)
{
    private bool _runBeyond;

    /// <summary>Where Enter stops; null: it does not.</summary>
    public Place? Until { get; private set; }

    /// <summary>The place is met exactly.</summary>
    public bool IsFollowing { get; private set; }

    /// <summary>The place that is followed to is reached.</summary>
    public bool IsThere => IsFollowing && Until is { } place && p.State->Retired >= place.Retired && p.Delivery.ExceptionsDelivered >= place.Exceptions;

    /// <inheritdoc cref="IFollowingCpu.EnterUntil"/>
    public X86Exit EnterUntil(ulong retired) => EnterUntil(new Place(retired, 0), following: false, beyond: false);

    /// <inheritdoc cref="IFollowingCpu.FollowTo"/>
    public X86Exit FollowTo(Place place, bool beyond) => EnterUntil(place, following: true, beyond);

    private X86Exit EnterUntil(Place place, bool following, bool beyond)
    {
        Until = place;
        IsFollowing = following;
        _runBeyond = beyond;
        p.Translator?.ForgetReturns(); // as many could be made one behind the other as calls were before
        try
        {
            return p.Enter();
        }
        finally
        {
            Until = null;
            IsFollowing = false;
            Interlocked.And(ref p.State->AttentionFlags, ~(int)Attention.BlockEnd);
        }
    }

    /// <summary>The loop of <see cref="Processor.Run"/> for <see cref="EnterUntil(ulong)"/> and <see cref="FollowTo"/>.</summary>
    public void RunUntil(Place place)
    {
        ProcessorState* s = p.State;
        for (; ; )
        {
            s->Current = null;
            s->LinkFrom = null;
            // Every block comes back here, and a repeated instruction after each piece.
            if (s->AttentionFlags != (int)Attention.BlockEnd || s->Retired >= place.Retired || p.Events.WindowIsDue)
            {
                if (!p.IsUnderWay && (IsFollowing ? AttendFollowing(place) : AttendUntil(place))) return;
                p.WantAttention(Attention.BlockEnd);
            }
            if (p.Debugger.MustLook && p.Debugger.IsDue && !p.IsUnderWay)
            {
                p.Debugger.TakeExit();
                return;
            }
            if ((IsFollowing && s->Retired + BlockDecoder.MaxInstructions > place.Retired) || p.Events.InterruptShadow || p.MustStep)
            {
                if (p.Step()) return;
                continue;
            }
            if (p.RunBlocks(s, p.Blocks.Find(s))) return;
        }
    }

    /// <summary><see cref="Processor.Attend"/>, and the stop after enough instructions.</summary>
    private bool AttendUntil(Place place)
    {
        if (p.Attend()) return true;
        if (p.State->Retired < place.Retired) return false;
        p.Events.UpdateWindowAttention();
        p.Exit.Reason = ExitReason.Kicked;
        return true;
    }

    /// <summary><see cref="Processor.Attend"/> for <see cref="FollowTo"/>: true when <see cref="Processor.Exit"/> must be returned now.</summary>
    private bool AttendFollowing(Place place)
    {
        ProcessorState* s = p.State;
        Interlocked.Exchange(ref s->AttentionFlags, 0);
        p.AttendToOthers();
        // Where a posted write and a debug trap wait together, the write exits first.
        bool there = s->Retired >= place.Retired && p.Delivery.ExceptionsDelivered >= place.Exceptions;
        if (there && p.Mmio.TakePosted()) return true;
        if (!there && p.GuestHypervisor is { } trapping && trapping.TakeTrap()) return p.Exits.Take() || AttendFollowing(place); // it may be there now
        if (p.Debug.TakeDebugTrap() && p.Exits.Take()) return true;
        // What a guest's hypervisor waits for comes about by instructions: the subject took it where it came about, unless it stopped there before, or had an
        // exit that was first. Then it is looked at after the next instruction.
        if (p.GuestHypervisor is { } hypervisor && hypervisor.Window != GuestWindow.None)
        {
            bool taken = !there && hypervisor.TakeWindow();
            p.Events.UpdateWindowAttention();
            if (taken)
            {
                p.WantAttention();
                return p.Exits.Take() || AttendFollowing(place);
            }
        }
        ulong exceptions = _runBeyond ? place.Exceptions + 1 : place.Exceptions;
        if (s->Retired < place.Retired || (s->Retired == place.Retired && p.Delivery.ExceptionsDelivered < exceptions)) return false;
        if (p.Mmio.TakePosted()) return true;
        p.Exit.Reason = ExitReason.Kicked;
        return true;
    }

    /// <inheritdoc cref="IFollowingCpu.IterateUntil"/>
    public bool IterateUntil(ulong rcx)
    {
        ProcessorState* s = p.State;
        if (p.IsCompleting || (s->FlagsOther & (uint)Rflags.Tf) != 0) return false;
        (ulong rip, ulong retired) = (s->Rip, s->Retired);
        (uint mode, uint resume) = (s->Mode, s->FlagsOther & (uint)Rflags.Rf);
        try
        {
            s->Mode |= ModeKey.Single;
            Insn* instruction = p.Blocks.FindSlow(s, rip + BlockFinder.CodeBase(s));
            s->Mode = mode;
            if ((instruction->Flags & (InsnFlags.Rep | InsnFlags.Repne)) == 0 || !((Code)instruction->Code).IsStringInstruction()) return false;
            ulong mask = Implicit.AddressMask(instruction), count = s->Rcx & mask, kept = s->Rcx & ~mask;
            ulong remaining = rcx & mask;
            if (count <= remaining) return false;
            s->Rcx = kept | (count - remaining);
            Interlocked.Exchange(ref s->AttentionFlags, 0);
            do
            {
                if (p.Step()) return false;
            }
            while (s->Rip == rip && s->Retired == retired);
            s->Rcx = (s->Rcx & ~mask) | (((s->Rcx & mask) + remaining) & mask);
            s->Rip = rip;
            s->Retired = retired;
            s->FlagsOther |= resume;
            p.Events.InterruptShadow = false;
            p.WantAttention();
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
