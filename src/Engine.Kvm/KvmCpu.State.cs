using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

// The architectural state, both ways.
internal sealed unsafe partial class KvmCpu
{
    private const ulong RflagsIf = 1 << 9, Cr0Paging = 1ul << 31, Cr4Pae = 1 << 5, EferLme = 1 << 8, EferLma = 1 << 10;
    private const ulong ApicEnabled = 1 << 11;
    private const uint Unusable = 1 << 16;
    private const int LegacyState = XsaveLayout.LegacySize, XstateBv = XsaveLayout.HeaderOffset;

    private CpuState? _powerOn;
    private uint[] _msrs = [];
    private bool _unwatched; // the guest ran: others that keep decoded code know nothing of what it wrote

    /// <summary>First time: CPUID, TSC, and the state that KVM calls reset.</summary>
    public void PowerOn()
    {
        SetUpTsc();
        // The guest gets of KVM's paravirtual interface what its CPUID names, and nothing else.
        if (_vm.CanEnforceParavirtualCpuid) _file.Enable(KvmCapability.EnforceParavirtualCpuid, 1);
        KvmCpuidEntry[] cpuid = SetCpuid();
        IEnumerable<uint> msrs = _vm.NestedStateSize > 0 ? StateMsrs.All.Concat(StateMsrs.OfHypervisors) : StateMsrs.All;
        _msrs = [.. msrs.Where(index => TryGetMsr(index, out _))];
        StartTsc();

        _powerOn = new CpuState();
        ReadState(_powerOn);
        _powerOn.Gpr[2] = cpuid.First(e => e.Function == 1).Eax; // EDX at reset is the signature
        _powerOn.Msrs.Remove(MsrIndex.Tsc); // goes on with the clock
        WriteState(_powerOn);
    }

    /// <summary>Again when the VM has got one more vCPU: CPUID tells how many there are. Before the guest runs.</summary>
    public KvmCpuidEntry[] SetCpuid()
    {
        KvmCpuidEntry[] cpuid = _vm.Cpuid.Entries(Index, _vm.CpuCount, _tscFrequency, HasApic);
        _vm.Cpuid.Apply(_file, cpuid);
        return cpuid;
    }

    public void Reset()
    {
        WriteState(_powerOn!);
        StartTsc();
    }

    // ---- reading

    public void ReadState(CpuState state)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        // A write has been made: its instruction is over. One that waits for an answer has not begun.
        if (!_pieces.AwaitsAnswer) FinishInstruction();
        KvmRegisters r;
        KvmSystemRegisters s;
        KvmDebugRegisters d;
        KvmXcrs x;
        KvmVcpuEvents v;
        if (HasApic) _ = GetMpState(); // makes KVM take INIT and SIPI, which change the registers
        _file.Request(KvmRequest.GetRegisters, &r);
        _file.Request(KvmRequest.GetSystemRegisters, &s);
        _file.Request(KvmRequest.GetDebugRegisters, &d);
        _file.Request(KvmRequest.GetXcrs, &x);
        _file.Request(KvmRequest.GetVcpuEvents, &v);

        ulong[] g = state.Gpr;
        (g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]) = (r.Rax, r.Rcx, r.Rdx, r.Rbx, r.Rsp, r.Rbp, r.Rsi, r.Rdi);
        (g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]) = (r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15);
        (state.Rip, state.Rflags) = (r.Rip, r.Rflags);
        (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8, state.Efer) = (s.Cr0, s.Cr2, s.Cr3, s.Cr4, s.Cr8, s.Efer);
        (state.Es, state.Cs, state.Ss, state.Ds) = (FromKvm(s.Es), FromKvm(s.Cs), FromKvm(s.Ss), FromKvm(s.Ds));
        (state.Fs, state.Gs, state.Ldtr, state.Tr) = (FromKvm(s.Fs), FromKvm(s.Gs), FromKvm(s.Ldt), FromKvm(s.Tr));
        (state.GdtrBase, state.GdtrLimit, state.IdtrBase, state.IdtrLimit) = (s.Gdt.Base, s.Gdt.Limit, s.Idt.Base, s.Idt.Limit);
        for (int n = 0; n < 4; n++) state.Dr[n] = d.Db[n];
        (state.Dr6, state.Dr7) = (d.Dr6, d.Dr7);
        state.Xcr0 = x.Count > 0 ? x.Value0 : XsaveLayout.X87;
        state.InterruptShadow = v.InterruptShadow != 0;
        state.MovSsShadow = (v.InterruptShadow & KvmVcpuEvents.ShadowMovSs) != 0;
        state.NmiBlocked = v.NmiMasked != 0;
        state.NmiPending = v.NmiPending != 0;
        state.Pending = Pending(v);
        ReadXsave(state.Xsave);
        // KVM has no place for these, or does not show them.
        (state.X87Cs, state.X87Ds, state.FerrAsserted, state.PendingDebug, state.Pdptes, state.HalfDone) = (0, 0, false, 0, null, null);
        state.MmioValues.Clear();
        state.PostedWrites.Clear();
        state.ApicDisabled = (s.ApicBase & ApicEnabled) == 0;
        state.Msrs.Clear();
        foreach (uint index in _msrs)
        {
            if (TryGetMsr(index, out ulong value)) state.Msrs[index] = value;
        }
        state.Msrs[MsrIndex.Tsc] = GetTsc();
        (state.Vmx, state.Svm, state.KernelNested) = (null, null, _nested.Read());
        ReadApic(state, s.ApicBase);

        if (!_unwatched) return;
        _unwatched = false;
        _vm.Memory.Code.AllWritten();
    }

    private static SegmentState FromKvm(in KvmSegment s) => new(s.Selector, s.Base, s.Limit,
        s.Type | (uint)s.S << 4 | (uint)s.Dpl << 5 | (uint)s.Present << 7 | (uint)s.Avl << 12 | (uint)s.L << 13 | (uint)s.Db << 14 | (uint)s.G << 15
        | (s.Unusable != 0 ? Unusable : 0));

    private static KvmSegment ToKvm(SegmentState s) => new()
    {
        Base = s.Base,
        Limit = s.Limit,
        Selector = s.Selector,
        Type = (byte)(s.Attributes & 0xF),
        S = Bit(s.Attributes, 4),
        Dpl = (byte)(s.Attributes >> 5 & 3),
        Present = Bit(s.Attributes, 7),
        Avl = Bit(s.Attributes, 12),
        L = Bit(s.Attributes, 13),
        Db = Bit(s.Attributes, 14),
        G = Bit(s.Attributes, 15),
        Unusable = Bit(s.Attributes, 16),
    };

    private static byte Bit(uint value, int bit) => (byte)(value >> bit & 1);

    /// <summary>Software interrupts are left out: their instruction begins again.</summary>
    private static PendingEvent? Pending(in KvmVcpuEvents v)
    {
        if (v.ExceptionInjected != 0 || v.ExceptionPending != 0)
            return new PendingEvent(EventKind.HardwareException, v.ExceptionNumber, v.ExceptionHasErrorCode != 0 ? v.ExceptionErrorCode : null);
        if (v.NmiInjected != 0) return new PendingEvent(EventKind.Nmi, 2);
        return v.InterruptInjected != 0 && v.InterruptSoft == 0 ? new PendingEvent(EventKind.ExternalInterrupt, v.InterruptNumber) : null;
    }

    private static void SetPending(ref KvmVcpuEvents v, PendingEvent? pending)
    {
        if (pending is not { } p) return;
        switch (p.Kind)
        {
            case EventKind.HardwareException:
                v.ExceptionInjected = 1;
                v.ExceptionNumber = p.Vector;
                v.ExceptionHasErrorCode = p.ErrorCode is null ? (byte)0 : (byte)1;
                v.ExceptionErrorCode = p.ErrorCode ?? 0;
                break;
            case EventKind.Nmi:
                // Blocked already: its delivery has begun, and goes on.
                if (v.NmiMasked != 0) v.NmiInjected = 1;
                else v.NmiPending = 1;
                v.Flags |= KvmVcpuEvents.ValidNmiPending;
                break;
            default:
                v.InterruptInjected = 1;
                v.InterruptNumber = p.Vector;
                break;
        }
    }

    private void ReadXsave(Span<byte> image)
    {
        byte[] buffer = new byte[_vm.XsaveSize];
        fixed (byte* p = buffer) _file.Request(buffer.Length > KvmRequest.XsaveSize ? KvmRequest.GetXsave2 : KvmRequest.GetXsave, p);
        image.Clear();
        ulong present = BinaryPrimitives.ReadUInt64LittleEndian(buffer.AsSpan(XstateBv));
        ulong kept = XsaveLayout.X87 | XsaveLayout.Sse | XsaveLayout.Avx | XsaveLayout.Pkru;
        buffer.AsSpan(0, LegacyState).CopyTo(image);
        BinaryPrimitives.WriteUInt64LittleEndian(image[XstateBv..], present & kept);
        if ((present & XsaveLayout.Avx) != 0) buffer.AsSpan(XsaveLayout.AvxOffset, XsaveLayout.AvxSize).CopyTo(image[XsaveLayout.AvxOffset..]);
        if ((present & XsaveLayout.Pkru) != 0) buffer.AsSpan(_vm.Cpuid.PkruOffset, XsaveLayout.PkruSize).CopyTo(image[XsaveLayout.PkruOffset..]);
    }

    // ---- writing

    public void WriteState(CpuState state)
    {
        ObjectDisposedException.ThrowIf(_disposed, this);
        RefuseUnfinished(state);
        DropInstruction();
        KvmSystemRegisters s;
        _file.Request(KvmRequest.GetSystemRegisters, &s);
        ulong[] g = state.Gpr;
        var r = new KvmRegisters
        {
            Rax = g[0],
            Rcx = g[1],
            Rdx = g[2],
            Rbx = g[3],
            Rsp = g[4],
            Rbp = g[5],
            Rsi = g[6],
            Rdi = g[7],
            R8 = g[8],
            R9 = g[9],
            R10 = g[10],
            R11 = g[11],
            R12 = g[12],
            R13 = g[13],
            R14 = g[14],
            R15 = g[15],
            Rip = state.Rip,
            Rflags = state.Rflags | 2,
        };
        (s.Es, s.Cs, s.Ss, s.Ds) = (ToKvm(state.Es), ToKvm(state.Cs), ToKvm(state.Ss), ToKvm(state.Ds));
        (s.Fs, s.Gs, s.Ldt, s.Tr) = (ToKvm(state.Fs), ToKvm(state.Gs), ToKvm(state.Ldtr), ToKvm(state.Tr));
        s.Gdt = new KvmDescriptorTable { Base = state.GdtrBase, Limit = state.GdtrLimit };
        s.Idt = new KvmDescriptorTable { Base = state.IdtrBase, Limit = state.IdtrLimit };
        (s.Cr0, s.Cr2, s.Cr3, s.Cr4, s.Cr8, s.Efer) = (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8 & 0xF, state.Efer);
        if (HasApic) s.ApicBase = state.Apic?.Base ?? s.ApicBase;
        else s.ApicBase = state.ApicDisabled ? s.ApicBase & ~ApicEnabled : s.ApicBase | ApicEnabled;
        for (int n = 0; n < 4; n++) s.InterruptBitmap[n] = 0;
        var d = new KvmDebugRegisters { Dr6 = state.Dr6, Dr7 = state.Dr7 };
        for (int n = 0; n < 4; n++) d.Db[n] = state.Dr[n];
        var x = new KvmXcrs { Count = 1, Value0 = state.Xcr0 | XsaveLayout.X87 };

        try
        {
            _nested.Leave();
            _file.Request(KvmRequest.SetSystemRegisters, &s);
            _nested.Write(state.KernelNested);
            _file.Request(KvmRequest.SetXcrs, &x);
            WriteXsave(state.Xsave);
            WriteMsrs(state.Msrs);
            WriteApic(state);
            _file.Request(KvmRequest.SetDebugRegisters, &d);
            _file.Request(KvmRequest.SetRegisters, &r);
        }
        catch (KvmException e) when (e.Error == Errno.Invalid && _vm.Cpuid.Missing.Count > 0)
        {
            throw new KvmException(e.Request, e.Error,
                $"the state does not suit a processor without {string.Join(", ", _vm.Cpuid.Missing)}, "
                + "which this KVM does not give; choose a smaller CPU model, or the engine interp");
        }

        var v = new KvmVcpuEvents { Flags = KvmVcpuEvents.ValidNmiPending | KvmVcpuEvents.ValidShadow };
        v.NmiMasked = state.NmiBlocked ? (byte)1 : (byte)0;
        // VT-x allows blocking by STI only together with IF.
        if (state.InterruptShadow)
            v.InterruptShadow = (state.Rflags & RflagsIf) != 0 && !state.MovSsShadow ? KvmVcpuEvents.ShadowSti : KvmVcpuEvents.ShadowMovSs;
        v.NmiPending = state.NmiPending ? (byte)1 : (byte)0;
        SetPending(ref v, state.Pending);
        _file.Request(KvmRequest.SetVcpuEvents, &v);

        _activity = HasApic ? CpuActivity.Active : state.Activity;
        _run->Cr8 = _cr8 = s.Cr8;
        // With an APIC in the kernel it counts too what LINT0 lets through: KVM will say.
        _ready = !HasApic && (state.Rflags & RflagsIf) != 0 && !state.InterruptShadow && state.Pending is null;
    }

    /// <summary>KVM takes no instruction over in its middle, no trap that waits, and no VMX or SVM that is not its own.</summary>
    private void RefuseUnfinished(CpuState state)
    {
        if (state.Vmx is { InOperation: true } || state.Svm is { InGuest: true } or { GlobalInterruptFlag: false } or { HostSaveArea: not 0 })
            throw new StateFormatException($"cpu{Index}: a hypervisor is at work in the guest, on the {(state.Vmx is { InOperation: true } ? "VMX" : "SVM")} "
                + "of an engine in software, which KVM does not take over; restore it on the engine bt, interp or check");
        if (state.HalfDone is null && state.MmioValues.Count == 0 && state.PostedWrites.Count == 0 && state.PendingDebug == 0) return;
        throw new StateFormatException($"cpu{Index}: the state is in the middle of {Unfinished(state)}, "
            + "with which KVM cannot begin; let it come to the end of its instruction before it is moved");
    }

    private static string Unfinished(CpuState state) =>
        state.HalfDone is { } half ? $"an instruction with the exit {half.Reason}" : state.MmioValues.Count > 0 ? "a read of device memory"
        : state.PostedWrites.Count > 0 ? "a write to device memory" : "a debug trap";

    /// <summary>KVM must not finish an instruction of the old state in the new one.</summary>
    private void DropInstruction()
    {
        if (_resultWaits)
        {
            _resultWaits = false;
            if (_result >= 0) _ = _pieces.Begin();
        }
        _vm.Posted?.Release(Index);
        while (_pieces.AwaitsEntry)
        {
            while (_pieces.HasNext)
            {
                _pieces.Next().Data = ulong.MaxValue;
                _pieces.Answer();
            }
            FinishInstruction();
        }
        _pieces.Clear();
        _presented = _cr8Presented = false;
        _apicBase = null;
    }

    private void WriteXsave(ReadOnlySpan<byte> image)
    {
        byte[] buffer = new byte[_vm.XsaveSize];
        ulong given = BinaryPrimitives.ReadUInt64LittleEndian(image[XstateBv..]);
        ulong present = given & (XsaveLayout.Allowed(_vm.Cpuid.Model) | XsaveLayout.X87 | XsaveLayout.Sse)
            & (_vm.Cpuid.Components | XsaveLayout.X87 | XsaveLayout.Sse);
        image[..LegacyState].CopyTo(buffer);
        if ((given & (XsaveLayout.Sse | XsaveLayout.Avx)) == 0) BinaryPrimitives.WriteUInt32LittleEndian(buffer.AsSpan(24), 0x1F80);
        BinaryPrimitives.WriteUInt32LittleEndian(buffer.AsSpan(28), 0); // MXCSR_MASK is not state
        BinaryPrimitives.WriteUInt64LittleEndian(buffer.AsSpan(XstateBv), present);
        if ((present & XsaveLayout.Avx) != 0) image.Slice(XsaveLayout.AvxOffset, XsaveLayout.AvxSize).CopyTo(buffer.AsSpan(XsaveLayout.AvxOffset));
        else if ((given & XsaveLayout.Avx) != 0 && image.Slice(XsaveLayout.AvxOffset, XsaveLayout.AvxSize).IndexOfAnyExcept((byte)0) >= 0)
            throw Lost("upper halves of YMM registers");
        if ((present & XsaveLayout.Pkru) != 0) image.Slice(XsaveLayout.PkruOffset, XsaveLayout.PkruSize).CopyTo(buffer.AsSpan(_vm.Cpuid.PkruOffset));
        else if ((given & XsaveLayout.Pkru) != 0 && BinaryPrimitives.ReadUInt32LittleEndian(image[XsaveLayout.PkruOffset..]) != 0) throw Lost("PKRU");
        fixed (byte* p = buffer) _file.Request(KvmRequest.SetXsave, p);

        static KvmException Lost(string what) =>
            new(KvmRequest.SetXsave.Name, Errno.Invalid, $"the state has {what}, which this KVM cannot hold; choose a smaller CPU model, or the engine interp");
    }

    // ---- MSRs

    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Sequential)]
    private struct OneMsr
    {
        public uint Count, Padding;
        public KvmMsrEntry Entry;
    }

    /// <summary>1 when KVM has the MSR and takes the value, 0 when not, or minus the error number.</summary>
    private long AccessMsr(KvmRequest request, uint index, ulong value, out ulong read)
    {
        var one = new OneMsr { Count = 1, Entry = { Index = index, Value = value } };
        long result = _file.TryRequest(request, &one);
        read = one.Entry.Value;
        return result;
    }

    private static KvmException MsrFailed(KvmRequest request, uint index, long result) =>
        new($"{request.Name} of MSR 0x{index:X}", result < 0 ? (int)-result : Errno.Invalid,
            "this KVM does not have the register or refuses the value; choose a smaller CPU model, or the engine interp");

    private bool TryGetMsr(uint index, out ulong value) => AccessMsr(KvmRequest.GetMsrs, index, 0, out value) == 1;

    private void SetMsr(uint index, ulong value)
    {
        long result = AccessMsr(KvmRequest.SetMsrs, index, value, out _);
        if (result != 1) throw MsrFailed(KvmRequest.SetMsrs, index, result);
    }

    private void WriteMsrs(Dictionary<uint, ulong> msrs)
    {
        foreach (uint index in _msrs)
        {
            if (!msrs.TryGetValue(index, out ulong value) || (TryGetMsr(index, out ulong now) && now == value)) continue;
            if (StateMsrs.IsEssential(index)) SetMsr(index, value);
            else _ = AccessMsr(KvmRequest.SetMsrs, index, value, out _); // tells of the host's processor model rather than of the guest
        }
        if (msrs.TryGetValue(MsrIndex.Tsc, out ulong tsc)) SetTsc(tsc);
    }

    // ---- IA32_APIC_BASE: the local APIC holds it, but KVM's CPUID shows whether the APIC is enabled

    private ulong? _apicBase;

    private void NoteApicBase()
    {
        if (_last is { Reason: ExitReason.Msr, IsWrite: true, Fault: false, Address: MsrIndex.ApicBase } e) _apicBase = e.Data;
        if (_apicBase is not { } value) return;
        FinishInstruction();
        _apicBase = null;
        KvmSystemRegisters s;
        _file.Request(KvmRequest.GetSystemRegisters, &s);
        s.ApicBase = value;
        _file.Request(KvmRequest.SetSystemRegisters, &s);
    }
}
