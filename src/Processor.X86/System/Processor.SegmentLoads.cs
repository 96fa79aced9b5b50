namespace Bunraku.Processor.X86;

/// <summary>Descriptor tables and loading of segment registers. Intel SDM vol. 3A, "Protection"; vol. 2, MOV "Operation".</summary>
public sealed unsafe partial class Processor
{
    /// <summary>The null selectors: GDT, index 0, any RPL.</summary>
    internal static bool IsNull(ushort selector) => (selector & 0xFFFC) == 0;

    /// <summary>Linear address of a descriptor of <paramref name="size"/> bytes, or null when it lies outside its table (or the LDT is unusable).</summary>
    private ulong? DescriptorAddress(ushort selector, int size = 8)
    {
        ProcessorState* s = State;
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
        return IsLongMode(s) ? linear : (uint)linear;
    }

    /// <summary>Reads a descriptor; <paramref name="outside"/> is raised with the selector when there is none.</summary>
    internal Descriptor ReadDescriptor(ushort selector, Vector outside = Vector.Gp)
    {
        if (DescriptorAddress(selector) is not { } address) throw SelectorFault(outside, selector);
        return new Descriptor(ReadSystem<ulong>(address));
    }

    /// <summary>Reads a descriptor if it lies inside its table.</summary>
    internal bool TryReadDescriptor(ushort selector, out Descriptor descriptor)
    {
        descriptor = default;
        if (DescriptorAddress(selector) is not { } address) return false;
        descriptor = new Descriptor(ReadSystem<ulong>(address));
        return true;
    }

    /// <summary>The upper half of a 16-byte system descriptor of long mode. Its type field must be zero.</summary>
    private ulong ReadUpperHalf(ushort selector, Vector outside = Vector.Gp)
    {
        if (DescriptorAddress(selector, 16) is not { } address) throw SelectorFault(outside, selector);
        ulong upper = ReadSystem<ulong>(address + 8);
        if (((upper >> 40) & 0x1F) != 0) throw SelectorFault(Vector.Gp, selector);
        return upper;
    }

    /// <summary>Sets the accessed bit in memory if it is clear and returns the descriptor with it set.</summary>
    private Descriptor MarkAccessed(ushort selector, Descriptor d)
    {
        if (!d.Accessed) WriteDescriptorType(selector, d, d.Type | 1);
        return new Descriptor(d.Raw | 1ul << 40);
    }

    private void WriteDescriptorType(ushort selector, Descriptor d, int type) =>
        WriteSystem(DescriptorAddress(selector)!.Value + 5, (byte)((d.Raw >> 40) & 0xF0 | (uint)type));

    /// <summary>Loads ES, SS, DS, FS or GS as MOV, POP and Lxx do, in any mode. The caller has to call <see cref="ModeChanged"/>.</summary>
    internal void LoadSegment(Seg seg, ushort selector)
    {
        ProcessorState* s = State;
        SegmentRegister* r = ProcessorState.Segment(s, seg);
        if (!IsProtected(s))
        {
            LoadRealSegment(r, selector, IsVirtual8086(s));
            return;
        }
        if (seg == Seg.Ss) LoadStackSegment(selector, s->Cpl, Vector.Gp);
        else LoadDataSegment(r, selector, s->Cpl, Vector.Gp);
    }

    /// <summary>
    /// Real mode changes selector and base only: limit and attributes keep what protected mode left ("unreal mode").
    /// Virtual-8086 mode always has 64 KiB segments at DPL 3.
    /// </summary>
    private static void LoadRealSegment(SegmentRegister* r, ushort selector, bool virtual8086)
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

    private static void SetNull(SegmentRegister* r, ushort selector, int dpl = 0)
    {
        r->Selector = selector;
        r->Base = 0;
        r->Limit = 0;
        r->Attributes = SegmentRegister.Unusable | (uint)dpl << 5;
    }

    /// <summary>Loads SS for privilege level <paramref name="cpl"/>; <paramref name="bad"/> is #GP, or #TS when the selector comes from a TSS.</summary>
    private void LoadStackSegment(ushort selector, int cpl, Vector bad)
    {
        ProcessorState* s = State;
        if (IsNull(selector))
        {
            if (!Is64Bit(s) || cpl == 3 || (selector & 3) != cpl) throw SelectorFault(bad, bad == Vector.Gp ? (ushort)0 : selector);
            SetNull(&s->Ss, selector, cpl);
            return;
        }
        CheckStackSegment(selector, cpl, bad, Vector.Ss).CopyTo(&s->Ss, selector);
    }

    /// <summary>All checks of a non-null SS for <paramref name="cpl"/>, with the accessed bit set in memory.</summary>
    private Descriptor CheckStackSegment(ushort selector, int cpl, Vector bad, Vector notPresent)
    {
        Descriptor d = ReadDescriptor(selector, bad);
        if ((selector & 3) != cpl || !d.IsData || !d.ReadWrite || d.Dpl != cpl) throw SelectorFault(bad, selector);
        if (!d.Present) throw SelectorFault(notPresent, selector);
        return MarkAccessed(selector, d);
    }

    private void LoadDataSegment(SegmentRegister* r, ushort selector, int cpl, Vector bad)
    {
        if (IsNull(selector))
        {
            SetNull(r, selector);
            return;
        }
        Descriptor d = ReadDescriptor(selector, bad);
        bool code = d.IsCode;
        if (d.IsSystem || (code && !d.ReadWrite)) throw SelectorFault(bad, selector);
        if ((!code || !d.Conforming) && d.Dpl < Math.Max(selector & 3, cpl)) throw SelectorFault(bad, selector);
        if (!d.Present) throw SelectorFault(Vector.Np, selector);
        MarkAccessed(selector, d).CopyTo(r, selector);
    }

    /// <summary>LLDT. Intel SDM vol. 2, LLDT "Operation".</summary>
    internal void LoadLdtr(ushort selector)
    {
        ProcessorState* s = State;
        if (IsNull(selector))
        {
            SetNull(&s->Ldtr, selector);
            return;
        }
        if ((selector & 4) != 0) throw SelectorFault(Vector.Gp, selector);
        Descriptor d = ReadDescriptor(selector);
        if (!d.IsSystem || d.Type != SystemType.Ldt) throw SelectorFault(Vector.Gp, selector);
        if (!d.Present) throw SelectorFault(Vector.Np, selector);
        ulong upper = IsLongMode(s) ? ReadUpperHalf(selector) : 0;
        ulong tableBase = d.Base | upper << 32;
        if (!IsCanonicalBase(tableBase)) throw SelectorFault(Vector.Gp, selector);
        d.CopyTo(&s->Ldtr, selector);
        s->Ldtr.Base = tableBase;
    }

    /// <summary>LTR. Intel SDM vol. 2, LTR "Operation".</summary>
    internal void LoadTr(ushort selector)
    {
        ProcessorState* s = State;
        if (IsNull(selector)) throw GeneralProtection();
        if ((selector & 4) != 0) throw SelectorFault(Vector.Gp, selector);
        Descriptor d = ReadDescriptor(selector);
        bool longMode = IsLongMode(s);
        if (!d.IsSystem || !(d.Type == SystemType.TssAvailable || (d.Type == SystemType.Tss16Available && !longMode))) throw SelectorFault(Vector.Gp, selector);
        if (!d.Present) throw SelectorFault(Vector.Np, selector);
        ulong upper = longMode ? ReadUpperHalf(selector) : 0;
        ulong tssBase = d.Base | upper << 32;
        if (!IsCanonicalBase(tssBase)) throw SelectorFault(Vector.Gp, selector);
        WriteDescriptorType(selector, d, d.Type | 2);
        new Descriptor(d.Raw | 2ul << 40).CopyTo(&s->Tr, selector);
        s->Tr.Base = tssBase;
    }

    /// <summary>
    /// After a return to an outer level: data segments that the new privilege may not use become null.
    /// Intel SDM vol. 2, RET "Operation", RETURN-TO-OUTER-PRIVILEGE-LEVEL.
    /// </summary>
    private void DropPrivilegedSegments()
    {
        ProcessorState* s = State;
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
}
