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

/// <summary>
/// Segments: checks of accesses through them, descriptor tables, loading of segment registers, and the stacks in the TSS. Intel SDM vol. 3A, "Protection",
/// sections "Limit Checking" and "Type Checking"; vol. 2, MOV "Operation".
/// </summary>
internal sealed unsafe class Segmentation(Processor p)
{
    /// <summary>
    /// Linear address of <paramref name="size"/> bytes (1 to 4096) at <paramref name="offset"/> (already truncated to the address size) in a segment, after
    /// every check that segmentation makes in the current mode.
    /// </summary>
    /// <exception cref="GuestFault">#SS(0) for the stack segment, else #GP(0).</exception>
    public ulong LinearAddress(Seg seg, ulong offset, int size, AccessKind kind)
    {
        ProcessorState* s = p.State;
        SegmentRegister* r = ProcessorState.Segment(s, seg);
        if ((s->Mode & ModeKey.CodeSizeMask) == ModeKey.Code64)
        {
            ulong linear = seg is Seg.Fs or Seg.Gs ? r->Base + offset : offset;
            if (!p.IsCanonical(linear) || !p.IsCanonical(linear + (ulong)(size - 1))) throw SegmentFault(seg);
            return linear;
        }
        if (!SegmentAllows(s, r, offset, size, kind))
        {
            int piece = p.Mmu.FirstPiece();
            // Fields that are accessed one by one: the first one's page fault comes first.
            if (piece > 0 && piece < size && SegmentAllows(s, r, offset, piece, kind))
                p.Mmu.CheckRange((uint)(r->Base + offset), piece,
                    p.Mmu.CurrentPrivilege | (kind == AccessKind.Write ? PageWalker.WriteAccess : PageWalker.ReadAccess));
            throw SegmentFault(seg);
        }
        return (uint)(r->Base + offset);
    }

    private GuestFault SegmentFault(Seg seg) => p.Fault(seg == Seg.Ss ? Vector.Ss : Vector.Gp, 0);

    /// <summary>Limit and type check of one access outside 64-bit mode. Real and virtual-8086 mode check the limit alone.</summary>
    private bool SegmentAllows(ProcessorState* s, SegmentRegister* r, ulong offset, int size, AccessKind kind)
    {
        if (CpuMode.IsProtected(s))
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
    public bool WithinLimit(SegmentRegister* r, ulong offset, int size)
    {
        ulong last = offset + (ulong)(size - 1);
        if (!r->IsCode && r->ExpandDownOrConforming)
            return offset > r->Limit && last <= (r->Default32 ? 0xFFFF_FFFFul : 0xFFFFul);
        return last <= r->Limit || (r->Limit == uint.MaxValue && r->Base == 0 && p.Model.Behavior.FlatSegmentsWrap);
    }

    /// <summary>The null selectors: GDT, index 0, any RPL.</summary>
    public static bool IsNull(ushort selector) => (selector & 0xFFFC) == 0;

    /// <summary>Linear address of a descriptor of <paramref name="size"/> bytes, or null when it lies outside its table (or the LDT is unusable).</summary>
    public ulong? DescriptorAddress(ushort selector, int size = 8)
    {
        ProcessorState* s = p.State;
        uint offset = selector & 0xFFF8u;
        ulong tableBase;
        uint limit;
        if ((selector & 4) != 0)
        {
            if (s->Ldtr.IsUnusable) return null;
            tableBase = s->Ldtr.Base;
            limit = s->Ldtr.Limit;
        }
        else
        {
            tableBase = s->GdtrBase;
            limit = s->GdtrLimit;
        }
        if (offset + (uint)size - 1 > limit) return null;
        ulong linear = tableBase + offset;
        return CpuMode.IsLong(s) ? linear : (uint)linear;
    }

    /// <summary>Reads a descriptor; <paramref name="outside"/> is raised with the selector when there is none.</summary>
    public Descriptor ReadDescriptor(ushort selector, Vector outside = Vector.Gp)
    {
        if (DescriptorAddress(selector) is not { } address) throw p.SelectorFault(outside, selector);
        return new Descriptor(p.Mmu.ReadSystem<ulong>(address));
    }

    /// <summary>Reads a descriptor if it lies inside its table.</summary>
    public bool TryReadDescriptor(ushort selector, out Descriptor descriptor)
    {
        descriptor = default;
        if (DescriptorAddress(selector) is not { } address) return false;
        descriptor = new Descriptor(p.Mmu.ReadSystem<ulong>(address));
        return true;
    }

    /// <summary>The upper half of a 16-byte system descriptor of long mode. Its type field must be zero.</summary>
    public ulong ReadUpperHalf(ushort selector, Vector outside = Vector.Gp)
    {
        if (DescriptorAddress(selector, 16) is not { } address) throw p.SelectorFault(outside, selector);
        ulong upper = p.Mmu.ReadSystem<ulong>(address + 8);
        if (((upper >> 40) & 0x1F) != 0) throw p.SelectorFault(Vector.Gp, selector);
        return upper;
    }

    /// <summary>Sets the accessed bit in memory if it is clear and returns the descriptor with it set.</summary>
    public Descriptor MarkAccessed(ushort selector, Descriptor d)
    {
        if (!d.Accessed) WriteDescriptorType(selector, d, d.Type | 1);
        return new Descriptor(d.Raw | 1ul << 40);
    }

    private void WriteDescriptorType(ushort selector, Descriptor d, int type) =>
        p.Mmu.WriteSystem(DescriptorAddress(selector)!.Value + 5, (byte)((d.Raw >> 40) & 0xF0 | (uint)type));

    /// <summary>Loads ES, SS, DS, FS or GS as MOV, POP and Lxx do, in any mode. The caller has to call <see cref="Processor.ModeChanged"/>.</summary>
    public void LoadSegment(Seg seg, ushort selector)
    {
        ProcessorState* s = p.State;
        SegmentRegister* r = ProcessorState.Segment(s, seg);
        if (!CpuMode.IsProtected(s))
        {
            LoadRealSegment(r, selector, CpuMode.IsVirtual8086(s));
            return;
        }
        if (seg == Seg.Ss) LoadStackSegment(selector, s->Cpl, Vector.Gp);
        else LoadDataSegment(r, selector, s->Cpl, Vector.Gp);
    }

    /// <summary>
    /// Real mode changes selector and base only: limit and attributes keep what protected mode left ("unreal mode").
    /// Virtual-8086 mode always has 64 KiB segments at DPL 3.
    /// </summary>
    public static void LoadRealSegment(SegmentRegister* r, ushort selector, bool virtual8086)
    {
        r->Selector = selector;
        r->Base = (ulong)selector << 4;
        if (virtual8086)
        {
            r->Limit = 0xFFFF;
            r->Attributes = Virtual8086Attributes;
        }
    }

    /// <summary>Present, DPL 3, writable data, accessed.</summary>
    private const uint Virtual8086Attributes = 0xF3;

    public static void SetNull(SegmentRegister* r, ushort selector, int dpl = 0)
    {
        r->Selector = selector;
        r->Base = 0;
        r->Limit = 0;
        r->Attributes = SegmentRegister.Unusable | (uint)dpl << 5;
    }

    /// <summary>Loads SS for privilege level <paramref name="cpl"/>; <paramref name="bad"/> is #GP, or #TS when the selector comes from a TSS.</summary>
    private void LoadStackSegment(ushort selector, int cpl, Vector bad)
    {
        ProcessorState* s = p.State;
        if (IsNull(selector))
        {
            if (!CpuMode.Is64Bit(s) || cpl == 3 || (selector & 3) != cpl) throw p.SelectorFault(bad, bad == Vector.Gp ? (ushort)0 : selector);
            SetNull(&s->Ss, selector, cpl);
            return;
        }
        CheckStackSegment(selector, cpl, bad, Vector.Ss).CopyTo(&s->Ss, selector);
    }

    /// <summary>All checks of a non-null SS for <paramref name="cpl"/>, with the accessed bit set in memory.</summary>
    public Descriptor CheckStackSegment(ushort selector, int cpl, Vector bad, Vector notPresent)
    {
        Descriptor d = ReadDescriptor(selector, bad);
        if ((selector & 3) != cpl || !d.IsData || !d.ReadWrite || d.Dpl != cpl) throw p.SelectorFault(bad, selector);
        if (!d.Present) throw p.SelectorFault(notPresent, selector);
        return MarkAccessed(selector, d);
    }

    public void LoadDataSegment(SegmentRegister* r, ushort selector, int cpl, Vector bad)
    {
        if (IsNull(selector))
        {
            SetNull(r, selector);
            return;
        }
        Descriptor d = ReadDescriptor(selector, bad);
        bool code = d.IsCode;
        if (d.IsSystem || (code && !d.ReadWrite)) throw p.SelectorFault(bad, selector);
        if ((!code || !d.Conforming) && d.Dpl < Math.Max(selector & 3, cpl)) throw p.SelectorFault(bad, selector);
        if (!d.Present) throw p.SelectorFault(Vector.Np, selector);
        MarkAccessed(selector, d).CopyTo(r, selector);
    }

    /// <summary>LLDT. Intel SDM vol. 2, LLDT "Operation".</summary>
    public void LoadLdtr(ushort selector)
    {
        ProcessorState* s = p.State;
        if (IsNull(selector))
        {
            SetNull(&s->Ldtr, selector);
            return;
        }
        if ((selector & 4) != 0) throw p.SelectorFault(Vector.Gp, selector);
        Descriptor d = ReadDescriptor(selector);
        if (!d.IsSystem || d.Type != SystemType.Ldt) throw p.SelectorFault(Vector.Gp, selector);
        if (!d.Present) throw p.SelectorFault(Vector.Np, selector);
        ulong upper = CpuMode.IsLong(s) ? ReadUpperHalf(selector) : 0;
        ulong tableBase = d.Base | upper << 32;
        if (!p.IsCanonicalBase(tableBase)) throw p.SelectorFault(Vector.Gp, selector);
        d.CopyTo(&s->Ldtr, selector);
        s->Ldtr.Base = tableBase;
    }

    /// <summary>LTR. Intel SDM vol. 2, LTR "Operation".</summary>
    public void LoadTr(ushort selector)
    {
        ProcessorState* s = p.State;
        if (IsNull(selector)) throw p.GeneralProtection();
        if ((selector & 4) != 0) throw p.SelectorFault(Vector.Gp, selector);
        Descriptor d = ReadDescriptor(selector);
        bool longMode = CpuMode.IsLong(s);
        if (!d.IsSystem || !(d.Type == SystemType.TssAvailable || (d.Type == SystemType.Tss16Available && !longMode)))
            throw p.SelectorFault(Vector.Gp, selector);
        if (!d.Present) throw p.SelectorFault(Vector.Np, selector);
        ulong upper = longMode ? ReadUpperHalf(selector) : 0;
        ulong tssBase = d.Base | upper << 32;
        if (!p.IsCanonicalBase(tssBase)) throw p.SelectorFault(Vector.Gp, selector);
        WriteDescriptorType(selector, d, d.Type | 2);
        new Descriptor(d.Raw | 2ul << 40).CopyTo(&s->Tr, selector);
        s->Tr.Base = tssBase;
    }

    /// <summary>
    /// After a return to an outer level: data segments that the new privilege may not use become null. Intel SDM vol. 2, RET "Operation",
    /// RETURN-TO-OUTER-PRIVILEGE-LEVEL.
    /// </summary>
    public void DropPrivilegedSegments()
    {
        ProcessorState* s = p.State;
        for (int n = 0; n < 4; n++)
        {
            SegmentRegister* r = ProcessorState.Segment(s, n switch { 0 => Seg.Es, 1 => Seg.Ds, 2 => Seg.Fs, _ => Seg.Gs });
            bool conforming = r->IsCode && r->ExpandDownOrConforming;
            if (r->IsUnusable || r->Dpl >= s->Cpl || conforming) continue;
            // Null and unusable, but the base stays, as on real processors: 64-bit code goes on using that of FS and GS.
            r->Selector = 0;
            r->Attributes |= SegmentRegister.Unusable;
        }
    }

    public StackWriter CurrentStack()
    {
        ProcessorState* s = p.State;
        return CpuMode.Is64Bit(s)
            ? new StackWriter(p, null, s->Rsp, ulong.MaxValue, s->Cpl != 3, 0)
            : new StackWriter(p, &s->Ss, s->Rsp, Stacks.Mask(&s->Ss), s->Cpl != 3, 0);
    }

    /// <summary>Reads a field of the current TSS; #TS(TR) beyond its limit.</summary>
    public T ReadTss<T>(uint offset) where T : unmanaged
    {
        ProcessorState* s = p.State;
        if (s->Tr.IsUnusable || offset + (uint)sizeof(T) - 1 > s->Tr.Limit) throw p.SelectorFault(Vector.Ts, s->Tr.Selector);
        return p.Mmu.ReadSystem<T>(s->Tr.Base + offset);
    }

    /// <summary>SS:ESP for an inner privilege level from the current 16- or 32-bit TSS.</summary>
    public (ushort Selector, ulong Pointer) ReadTssStack(int cpl)
    {
        if ((p.State->Tr.Type & 8) == 0)
        {
            uint at = 2 + (uint)cpl * 4;
            return (ReadTss<ushort>(at + 2), ReadTss<ushort>(at));
        }
        else
        {
            uint at = 4 + (uint)cpl * 8;
            return (ReadTss<ushort>(at + 4), ReadTss<uint>(at));
        }
    }
}
