using System.Runtime.InteropServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>Reset, and conversion to and from <see cref="CpuState"/>. What lies in components they save and restore themselves.</summary>
internal sealed unsafe partial class Processor
{
    // FXSAVE image.
    private const int MxcsrOffset = 24, MxcsrMaskOffset = 28, XmmOffset = 160, XstateBvOffset = XsaveLayout.HeaderOffset;
    private const uint MxcsrInitial = 0x1F80;

    /// <summary>RESET. Intel SDM vol. 3A, "Processor State After Reset", its table.</summary>
    public void Reset()
    {
        ProcessorState* s = State;
        new Span<ulong>(&s->Rax, 16).Clear();
        s->Rdx = CpuidLeaves.Query(CpuidSubject, 1, 0).Eax;
        s->Rip = 0xFFF0;
        Flags.Set(s, (uint)Rflags.Fixed1);
        s->Cr0 = (ulong)(Cr0.Cd | Cr0.Nw | Cr0.Et);
        s->Cr2 = s->Cr3 = s->Cr4 = s->Efer = s->Xss = 0;
        s->Xcr0 = XsaveLayout.X87;
        s->Pkru = 0;
        s->Cpl = 0;
        const uint code = 0x9B, data = 0x93;
        s->Cs = new SegmentRegister { Selector = 0xF000, Base = 0xFFFF_0000, Limit = 0xFFFF, Attributes = code };
        s->Ds = s->Es = s->Fs = s->Gs = s->Ss = new SegmentRegister { Limit = 0xFFFF, Attributes = data };
        s->Ldtr = new SegmentRegister { Limit = 0xFFFF, Attributes = 0x82 };
        s->Tr = new SegmentRegister { Limit = 0xFFFF, Attributes = 0x8B };
        s->GdtrBase = s->IdtrBase = 0;
        s->GdtrLimit = s->IdtrLimit = 0xFFFF;
        s->Dr0 = s->Dr1 = s->Dr2 = s->Dr3 = 0;
        s->Dr6 = DebugUnit.Dr6Fixed;
        s->Dr7 = DebugUnit.Dr7Fixed;
        ResetVectorState();
        Svm?.Reset();
        Msrs.Reset();
        Vmx?.Reset();
        StateReplaced();
    }

    /// <summary>Nothing that hung on the old state is left.</summary>
    private void StateReplaced()
    {
        Events.Reset();
        Debug.Reset();
        Walker.Reset();
        Exits.DropCompletion();
        Tlb.FlushAll(); // guests inside the guest had mappings, too
        ModeChanged();
    }

    private void ResetVectorState()
    {
        X87.Reset(State);
        State->Mxcsr = MxcsrInitial;
        new Span<byte>(State->Simd, 16 * 32).Clear();
    }

    /// <inheritdoc cref="IX86Cpu.ReadState"/>
    public void ReadState(CpuState state)
    {
        ProcessorState* s = State;
        new ReadOnlySpan<ulong>(&s->Rax, 16).CopyTo(state.Gpr);
        state.Rip = s->Rip;
        state.Rflags = Flags.Get(s);
        state.Cr0 = s->Cr0;
        state.Cr2 = s->Cr2;
        state.Cr3 = s->Cr3;
        state.Cr4 = s->Cr4;
        state.Xcr0 = s->Xcr0;
        state.Efer = s->Efer;
        state.Es = ToSegmentState(s->Es);
        state.Cs = ToSegmentState(s->Cs);
        state.Ss = ToSegmentState(s->Ss);
        state.Ds = ToSegmentState(s->Ds);
        state.Fs = ToSegmentState(s->Fs);
        state.Gs = ToSegmentState(s->Gs);
        state.Ldtr = ToSegmentState(s->Ldtr);
        state.Tr = ToSegmentState(s->Tr);
        state.GdtrBase = s->GdtrBase;
        state.IdtrBase = s->IdtrBase;
        state.GdtrLimit = (ushort)s->GdtrLimit;
        state.IdtrLimit = (ushort)s->IdtrLimit;
        new ReadOnlySpan<ulong>(&s->Dr0, 4).CopyTo(state.Dr);
        state.Dr6 = s->Dr6;
        state.Dr7 = s->Dr7;
        ReadXsave(state.Xsave);
        Msrs.Save(state.Msrs);
        (state.X87Cs, state.X87Ds, state.FerrAsserted, state.ApicDisabled) = (s->X87Cs, s->X87Ds, s->FerrAsserted != 0, Msrs.ApicDisabled);
        state.Vmx = Vmx?.Save();
        Walker.Save(state);
        Exits.Save(state);
        Mmio.Save(state);
        Events.Save(state);
        Debug.Save(state);
        state.Svm = Svm?.Save();
        state.KernelNested = null;
    }

    /// <summary>Takes everything over unchecked except what would break an invariant of ours; the privilege level is that of SS, as in the VMCS.</summary>
    public void WriteState(CpuState state)
    {
        if (state.KernelNested is not null)
            throw new StateFormatException($"cpu{CpuIndex}: a hypervisor is at work in the guest, on the VMX or SVM that KVM gave it, "
                + "which only the engine kvm takes over");
        ProcessorState* s = State;
        Svm?.LeaveGuest();
        state.Gpr.CopyTo(new Span<ulong>(&s->Rax, 16));
        s->Rip = state.Rip;
        Flags.Set(s, (uint)state.Rflags);
        s->Cr0 = state.Cr0 | (ulong)Cr0.Et;
        s->Cr2 = state.Cr2;
        s->Cr3 = state.Cr3;
        s->Cr4 = state.Cr4;
        s->Xcr0 = state.Xcr0 & ControlRegisters.Xcr0Allowed | XsaveLayout.X87;
        s->Efer = state.Efer;
        s->Es = ToSegmentRegister(state.Es);
        s->Cs = ToSegmentRegister(state.Cs);
        s->Ss = ToSegmentRegister(state.Ss);
        s->Ds = ToSegmentRegister(state.Ds);
        s->Fs = ToSegmentRegister(state.Fs);
        s->Gs = ToSegmentRegister(state.Gs);
        s->Ldtr = ToSegmentRegister(state.Ldtr);
        s->Tr = ToSegmentRegister(state.Tr);
        s->GdtrBase = state.GdtrBase;
        s->IdtrBase = state.IdtrBase;
        s->GdtrLimit = state.GdtrLimit;
        s->IdtrLimit = state.IdtrLimit;
        state.Dr.CopyTo(new Span<ulong>(&s->Dr0, 4));
        s->Dr6 = state.Dr6;
        s->Dr7 = state.Dr7;
        s->Cpl = (s->Cr0 & (ulong)Cr0.Pe) == 0 ? 0 : CpuMode.IsVirtual8086(s) ? 3 : s->Ss.Dpl;
        WriteXsave(state.Xsave);
        // FS and GS bases are in the segments; MSRs, if given, say the same.
        Msrs.Restore(state.Msrs);
        Vmx?.Restore(state.Vmx);
        StateReplaced();
        AbandonInstruction();
        Walker.Restore(state); // before the exits: where tables are refused it leaves its traces in the exit
        Exits.Restore(state);
        Mmio.Restore(state);
        Events.Restore(state);
        Debug.Restore(state);
        Svm?.Restore(state.Svm);
        (s->X87Cs, s->X87Ds, s->FerrAsserted, Msrs.ApicDisabled) = (state.X87Cs, state.X87Ds, state.FerrAsserted ? (byte)1 : (byte)0, state.ApicDisabled);
        Direct?.ReturnedToUser();
        // What waits is looked at before the next block.
        WantAttention();
    }

    private static SegmentState ToSegmentState(in SegmentRegister r) => new(r.Selector, r.Base, r.Limit, r.Attributes);

    private static SegmentRegister ToSegmentRegister(in SegmentState r) =>
        new() { Selector = r.Selector, Base = r.Base, Limit = r.Limit, Attributes = r.Attributes & (0xF0FF | SegmentRegister.Unusable) };

    /// <summary>Standard-format XSAVE image of x87, SSE, AVX and PKRU state.</summary>
    private void ReadXsave(Span<byte> image)
    {
        ProcessorState* s = State;
        image.Clear();
        new ReadOnlySpan<byte>(s->Fxsave, XmmOffset).CopyTo(image);
        MemoryMarshal.Write(image[MxcsrOffset..], s->Mxcsr);
        MemoryMarshal.Write(image[MxcsrMaskOffset..], Simd.MxcsrMask);
        for (int n = 0; n < 16; n++)
        {
            byte* register = ProcessorState.SimdRegister(s, n);
            new ReadOnlySpan<byte>(register, 16).CopyTo(image[(XmmOffset + n * 16)..]);
            new ReadOnlySpan<byte>(register + 16, 16).CopyTo(image[(XsaveLayout.AvxOffset + n * 16)..]);
        }
        MemoryMarshal.Write(image[XsaveLayout.PkruOffset..], s->Pkru);
        MemoryMarshal.Write(image[XstateBvOffset..], ControlRegisters.Xcr0Allowed);
    }

    /// <summary>Components whose XSTATE_BV bit is clear get their initial state.</summary>
    private void WriteXsave(ReadOnlySpan<byte> image)
    {
        ProcessorState* s = State;
        ulong present = MemoryMarshal.Read<ulong>(image[XstateBvOffset..]) & ControlRegisters.Xcr0Allowed;
        ResetVectorState();
        s->Pkru = 0;
        if ((present & XsaveLayout.X87) != 0)
        {
            image[..MxcsrOffset].CopyTo(new Span<byte>(s->Fxsave, MxcsrOffset)); // the image's own MXCSR field is the host's
            image[X87.RegisterOffset..XmmOffset].CopyTo(new Span<byte>(s->Fxsave + X87.RegisterOffset, XmmOffset - X87.RegisterOffset));
            X87.SetControl(s, X87.Control(s));
        }
        else
        {
            X87.Initialise(s);
        }
        if ((present & (XsaveLayout.Sse | XsaveLayout.Avx)) != 0) s->Mxcsr = MemoryMarshal.Read<uint>(image[MxcsrOffset..]) & Simd.MxcsrMask;
        for (int n = 0; n < 16; n++)
        {
            byte* register = ProcessorState.SimdRegister(s, n);
            if ((present & XsaveLayout.Sse) != 0) image.Slice(XmmOffset + n * 16, 16).CopyTo(new Span<byte>(register, 16));
            if ((present & XsaveLayout.Avx) != 0) image.Slice(XsaveLayout.AvxOffset + n * 16, 16).CopyTo(new Span<byte>(register + 16, 16));
        }
        if ((present & XsaveLayout.Pkru) != 0) s->Pkru = MemoryMarshal.Read<uint>(image[XsaveLayout.PkruOffset..]);
    }
}
