using System.Runtime.CompilerServices;

namespace Bunraku.Processor.X86;

/// <summary>What an access through a segment does.</summary>
internal enum AccessKind
{
    Read,
    /// <summary>Write, or read and write.</summary>
    Write,
    /// <summary>Instruction fetch through CS.</summary>
    Execute,
}

/// <summary>Segmentation of memory accesses. Intel SDM vol. 3A, "Protection", sections "Limit Checking" and "Type Checking".</summary>
public sealed unsafe partial class Processor
{
    /// <summary>
    /// Linear address of <paramref name="size"/> bytes (1 to 4096) at <paramref name="offset"/> (already truncated to the address size) in a segment, after every check that segmentation makes in the current mode.
    /// </summary>
    /// <exception cref="GuestFault">#SS(0) for the stack segment, else #GP(0).</exception>
    internal ulong LinearAddress(Seg seg, ulong offset, int size, AccessKind kind)
    {
        ProcessorState* s = State;
        SegmentRegister* r = ProcessorState.Segment(s, seg);
        if ((s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64)
        {
            ulong linear = seg is Seg.Fs or Seg.Gs ? r->Base + offset : offset;
            if (!IsCanonical(linear) || !IsCanonical(linear + (ulong)(size - 1))) throw SegmentFault(seg);
            return linear;
        }
        if (!SegmentAllows(s, r, offset, size, kind))
        {
            int piece = FirstPiece();
            // Fields that are accessed one by one: the first one's page fault comes first.
            if (piece > 0 && piece < size && SegmentAllows(s, r, offset, piece, kind))
                CheckRange((uint)(r->Base + offset), piece, CurrentPrivilege | (kind == AccessKind.Write ? WriteAccess : ReadAccess));
            throw SegmentFault(seg);
        }
        return (uint)(r->Base + offset);
    }

    private GuestFault SegmentFault(Seg seg) => Fault(seg == Seg.Ss ? Vector.Ss : Vector.Gp, 0);

    /// <summary>Limit and type check of one access outside 64-bit mode. Real and virtual-8086 mode check the limit alone.</summary>
    private bool SegmentAllows(ProcessorState* s, SegmentRegister* r, ulong offset, int size, AccessKind kind)
    {
        if (IsProtected(s))
        {
            if (r->IsUnusable || !r->Present) return false;
            bool allowed = kind switch
            {
                AccessKind.Read => !r->IsCode || r->ReadWrite,
                AccessKind.Write => !r->IsCode && r->ReadWrite,
                _ => r->IsCode,
            };
            if (!allowed) return false;
        }
        return WithinLimit(r, offset, size);
    }

    /// <summary>True when all bytes lie inside the limit, expand-down segments included.</summary>
    internal bool WithinLimit(SegmentRegister* r, ulong offset, int size)
    {
        ulong last = offset + (ulong)(size - 1);
        if (!r->IsCode && r->ExpandDownOrConforming)
            return offset > r->Limit && last <= (r->Default32 ? 0xFFFF_FFFFul : 0xFFFFul);
        return last <= r->Limit || (r->Limit == uint.MaxValue && r->Base == 0 && Model.Behavior.FlatSegmentsWrap);
    }

    /// <summary>CR0.PE set and RFLAGS.VM clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal static bool IsProtected(ProcessorState* s) => (s->Cr0 & (ulong)Cr0.Pe) != 0 && (s->FlagsOther & (uint)Rflags.Vm) == 0;

    /// <summary>CR0.PE and RFLAGS.VM set.</summary>
    internal static bool IsVirtual8086(ProcessorState* s) => (s->Cr0 & (ulong)Cr0.Pe) != 0 && (s->FlagsOther & (uint)Rflags.Vm) != 0;

    /// <summary>EFER.LMA: compatibility or 64-bit mode.</summary>
    internal static bool IsLongMode(ProcessorState* s) => (s->Efer & (ulong)Efer.Lma) != 0;

    /// <summary>64-bit mode: EFER.LMA and CS.L.</summary>
    internal static bool Is64Bit(ProcessorState* s) => (s->Efer & (ulong)Efer.Lma) != 0 && s->Cs.Long;

    /// <summary>Bits 63 down to the top implemented linear-address bit are equal: 48 bits, or 57 with CR4.LA57.</summary>
    internal bool IsCanonical(ulong address)
    {
        int shift = (State->Cr4 & (ulong)Cr4.La57) != 0 ? 64 - 57 : 64 - 48;
        return (ulong)((long)(address << shift) >> shift) == address;
    }

    /// <summary>
    /// As <see cref="IsCanonical"/> for values loaded into MSRs and bases of segments and descriptor tables: what counts there is the width that the processor supports,
    /// whatever CR4.LA57 says (SDM vol. 1, "Canonical Addressing").
    /// </summary>
    internal bool IsCanonicalBase(ulong address)
    {
        int shift = Model.Has(CpuFeature.La57) ? 64 - 57 : 64 - 48;
        return (ulong)((long)(address << shift) >> shift) == address;
    }

    /// <summary>#TS, #NP, #SS or #GP with a selector as the error code.</summary>
    internal GuestFault SelectorFault(Vector vector, ushort selector) => Fault(vector, selector & 0xFFFCu);
}
