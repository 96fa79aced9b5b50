namespace Bunraku.Processor.X86;

/// <summary>The MSRs that the processor holds. Intel SDM vol. 4; AMD APM vol. 2, "System Resources".</summary>
internal sealed unsafe class MsrFile(Processor p)
{
    private readonly ulong[] _msrs = new ulong[MsrTable.Rows.Length];

    // Read by SYSCALL, SYSRET, SWAPGS, RDTSCP: fields instead of table slots.
    public ulong Star { get; private set; }

    public ulong Lstar { get; private set; }

    public ulong Cstar { get; private set; }

    public ulong Fmask { get; private set; }


    public ref ulong TscAux => ref p.State->TscAux;

    public ref ulong KernelGsBase => ref p.State->KernelGsBase;

    public ulong SysenterCs { get; private set; }

    public ulong SysenterEsp { get; private set; }

    public ulong SysenterEip { get; private set; }

    public ulong DebugCtl { get; set; }

    /// <summary>Guest TSC minus the clock's TSC, modulo 2^64.</summary>
    public ref ulong TscOffset => ref p.State->TscOffset;
    private ulong _tscAdjust;

    /// <summary>The guest cleared IA32_APIC_BASE.EN: CPUID then denies the APIC.</summary>
    public bool ApicDisabled { get; set; }

    /// <summary>What RDTSC returns now.</summary>
    public ulong GuestTsc => p.Svm is { ScalesTsc: true } svm ? svm.ScaledTsc(UnscaledTsc) : UnscaledTsc;

    /// <summary>The same outside a guest whose counter is scaled.</summary>
    private ulong UnscaledTsc => p.Clock.Counter + TscOffset;

    /// <summary>EFER bits that a WRMSR may set on this model.</summary>
    public ulong EferAllowed => p.Svm is { } svm && (svm.VmCr & SvmMsrs.Disable) == 0 ? _eferOfModel | (ulong)Efer.Svme : _eferOfModel;

    private readonly ulong _eferOfModel =
        (p.Model.Has(CpuFeature.Syscall) ? (ulong)Efer.Sce : 0)
        | (p.Model.Has(CpuFeature.Lm) ? (ulong)(Efer.Lme | Efer.Lma) : 0)
        | (p.Model.Has(CpuFeature.Nx) ? (ulong)Efer.Nxe : 0)
        | (p.Model.Has(CpuFeature.AutoIbrs) ? EferAutomaticIbrs : 0);

    /// <summary>EFER.AIBRSE. It has no effect: indirect branches are never predicted from other privilege levels here.</summary>
    private const ulong EferAutomaticIbrs = 1ul << 21;

    /// <summary>RESET.</summary>
    public void Reset()
    {
        for (int n = 0; n < _msrs.Length; n++) _msrs[n] = MsrTable.Rows[n].Reset;
        TscOffset = 0; // the clock counts from power-on, for all vCPUs alike
        _tscAdjust = 0;
        if (!p.Model.IsAmd) _msrs[MsrTable.Slots[MsrIndex.PatchLevel]] = MsrTable.IntelUpdateSignature;
        if (p.Model.Has(CpuFeature.Vmx)) _msrs[s_featureControl] = 0; // unlocked, for whoever boots the machine
        ApicDisabled = false;
        TscAux = 0;
        Star = Lstar = Cstar = Fmask = KernelGsBase = 0;
        SysenterCs = SysenterEsp = SysenterEip = 0;
        DebugCtl = 0;
        SystemCallsChanged();
    }

    /// <summary>STAR, LSTAR, FMASK or EFER.SCE changed: code that was emitted with their values stops using them.</summary>
    public void SystemCallsChanged()
    {
        // The same values have the same number, so that code of a host and of its guest is good for both.
        var setting = new SystemCallValues(Star, Lstar, Fmask, (p.State->Efer & (ulong)Efer.Sce) != 0);
        int known = _systemCalls.IndexOf(setting);
        if (known < 0)
        {
            if (_systemCalls.Count == MostSystemCalls)
            {
                _systemCalls.Clear();
                _firstSystemCalls += MostSystemCalls;
            }
            known = _systemCalls.Count;
            _systemCalls.Add(setting);
        }
        p.State->Translator.SystemCalls = _firstSystemCalls + (uint)known;
        HearOfReturns(_hearsOfReturns);
    }

    private bool _hearsOfReturns;

    /// <summary>Whether each SYSRET goes through its handler, or may be translated.</summary>
    public void HearOfReturns(bool hear)
    {
        _hearsOfReturns = hear;
        uint version = p.State->Translator.SystemCalls;
        p.State->Translator.SystemReturns = hear ? ~version : version;
    }

    private readonly record struct SystemCallValues(ulong Star, ulong Lstar, ulong Fmask, bool Enabled);

    private const int MostSystemCalls = 16;
    private readonly List<SystemCallValues> _systemCalls = [];
    private uint _firstSystemCalls;

    /// <summary>VMLOAD: the values are what a WRMSR would accept.</summary>
    public void LoadSystemCalls(ulong star, ulong lstar, ulong cstar, uint fmask)
    {
        bool changed = (Star, Lstar, Fmask) != (star, lstar, fmask);
        (Star, Lstar, Cstar, Fmask) = (star, lstar, cstar, fmask);
        if (changed) SystemCallsChanged();
    }

    /// <inheritdoc cref="LoadSystemCalls"/>
    public void LoadSysenter(ulong cs, ulong esp, ulong eip) => (SysenterCs, SysenterEsp, SysenterEip) = ((uint)cs, esp, eip);

    /// <summary>IA32_PAT.</summary>
    public ulong Pat
    {
        get => _msrs[s_pat];
        set => _msrs[s_pat] = value;
    }

    /// <summary>LASTBRANCHFROMIP, LASTBRANCHTOIP, LASTINTFROMIP, LASTINTTOIP.</summary>
    public ulong LastBranchFrom
    {
        get => _msrs[s_lastBranch];
        set => _msrs[s_lastBranch] = value;
    }

    /// <inheritdoc cref="LastBranchFrom"/>
    public ulong LastBranchTo
    {
        get => _msrs[s_lastBranch + 1];
        set => _msrs[s_lastBranch + 1] = value;
    }

    /// <inheritdoc cref="LastBranchFrom"/>
    public ulong LastInterruptFrom
    {
        get => _msrs[s_lastBranch + 2];
        set => _msrs[s_lastBranch + 2] = value;
    }

    /// <inheritdoc cref="LastBranchFrom"/>
    public ulong LastInterruptTo
    {
        get => _msrs[s_lastBranch + 3];
        set => _msrs[s_lastBranch + 3] = value;
    }

    private static readonly int s_pat = MsrTable.Slots[MsrIndex.Pat], s_lastBranch = MsrTable.Slots[0x1DB];

    /// <summary>The row of an MSR that this model has and the processor holds.</summary>
    private bool TryFind(uint index, out int slot) =>
        MsrTable.Slots.TryGetValue(index, out slot) && MsrTable.Rows[slot].ExistsOn(p.Model);

    /// <summary>False raises #GP.</summary>
    public bool TryRead(uint index, out ulong value)
    {
        value = 0;
        if (p.Svm is { } svm && SvmMsrs.IsOne(index)) return SvmMsrs.TryRead(svm, index, out value);
        if (!TryFind(index, out int slot)) return false;
        ProcessorState* s = p.State;
        value = index switch
        {
            MsrIndex.Tsc => GuestTsc,
            MsrIndex.TscAdjust => _tscAdjust,
            MsrIndex.SysenterCs => SysenterCs,
            MsrIndex.SysenterEsp => SysenterEsp,
            MsrIndex.SysenterEip => SysenterEip,
            MsrIndex.DebugCtl => DebugCtl,
            MsrIndex.Xss => s->Xss,
            MsrIndex.Efer => s->Efer,
            MsrIndex.Star => Star,
            MsrIndex.Lstar => Lstar,
            MsrIndex.Cstar => Cstar,
            MsrIndex.Fmask => Fmask,
            MsrIndex.FsBase => s->Fs.Base,
            MsrIndex.GsBase => s->Gs.Base,
            MsrIndex.KernelGsBase => KernelGsBase,
            MsrIndex.TscAux => TscAux,
            >= VmxCapabilities.Basic and <= VmxCapabilities.VmFunctions => VmxCapabilities.Read(index, p.Model, p.ControlRegisters.Cr4Allowed),
            _ => _msrs[slot],
        };
        return true;
    }

    /// <summary>WRMSR. False raises #GP; nothing has changed then.</summary>
    public bool TryWrite(uint index, ulong value)
    {
        if (p.Svm is { } svm && SvmMsrs.IsOne(index)) return SvmMsrs.TryWrite(svm, index, value, p.Model, p.State->Efer);
        if (!TryFind(index, out int slot)) return false;
        if (index == MsrIndex.Efer) return TryWriteEfer(value);
        if (index == VmxCapabilities.FeatureControl) return TryWriteFeatureControl(value);
        ref readonly MsrRow row = ref MsrTable.Rows[slot];
        switch (row.Write)
        {
            case MsrWrite.ReadOnly:
            case MsrWrite.Checked when (value & ~WritableBits(row)) != 0:
            case MsrWrite.Canonical when !p.IsCanonicalBase(value):
            case MsrWrite.AllOrNone when value is not (0 or ulong.MaxValue):
            case MsrWrite.MemoryTypes when !AreMemoryTypes(value, uncachedMinus: index == MsrIndex.Pat):
                return false;
            case MsrWrite.Masked:
                value = value & row.Writable | _msrs[slot] & ~row.Writable;
                break;
            default:
                break;
        }
        if (index is MsrIndex.MtrrDefType or >= 0x200 and < 0x200 + 2 * MsrTable.VariableMtrrs && !IsMtrrTypeValid(index, value)) return false;
        Store(index, slot, value);
        if (index is MsrIndex.Tsc or MsrIndex.TscAdjust) p.Kick(); // whoever told the guest about its TSC has to tell it anew
        return true;
    }

    /// <summary>Variable-range MTRRs have no bits above the physical address width.</summary>
    private ulong WritableBits(in MsrRow row) =>
        row.Index is >= 0x200 and < 0x200 + 2 * MsrTable.VariableMtrrs ? row.Writable & ((1ul << p.Model.PhysicalAddressBits) - 1) : row.Writable;

    private static bool IsMtrrTypeValid(uint index, ulong value) =>
        (index & 1) == 1 && index != MsrIndex.MtrrDefType || IsMemoryType((byte)value, uncachedMinus: false);

    private static bool IsMemoryType(byte type, bool uncachedMinus) => type is 0 or 1 or 4 or 5 or 6 || (uncachedMinus && type == 7);

    public static bool AreMemoryTypes(ulong value, bool uncachedMinus)
    {
        for (int n = 0; n < 64; n += 8)
        {
            if (!IsMemoryType((byte)(value >> n), uncachedMinus)) return false;
        }
        return true;
    }

    private void Store(uint index, int slot, ulong value)
    {
        ProcessorState* s = p.State;
        switch (index)
        {
            case MsrIndex.Tsc:
                {
                    // Writing the TSC moves IA32_TSC_ADJUST by the same amount (SDM vol. 3B, "IA32_TSC_ADJUST Register and TSC Writes").
                    // A guest inside the guest writes the counter that its offset is added to.
                    ulong delta = value - UnscaledTsc + (p.Svm is { InGuest: true, ScalesTsc: false } svm ? svm.TscOffset : 0);
                    TscOffset += delta;
                    _tscAdjust += delta;
                    break;
                }
            case MsrIndex.TscAdjust:
                TscOffset += value - _tscAdjust;
                _tscAdjust = value;
                break;
            case MsrIndex.SysenterCs: SysenterCs = value; break;
            case MsrIndex.SysenterEsp: SysenterEsp = value; break;
            case MsrIndex.SysenterEip: SysenterEip = value; break;
            case MsrIndex.DebugCtl: DebugCtl = value; break;
            case MsrIndex.Xss: s->Xss = value; break;
            case MsrIndex.Star: Star = value; SystemCallsChanged(); break;
            case MsrIndex.Lstar: Lstar = value; SystemCallsChanged(); break;
            case MsrIndex.Cstar: Cstar = value; break;
            case MsrIndex.Fmask: Fmask = value; SystemCallsChanged(); break;
            case MsrIndex.FsBase: s->Fs.Base = value; break;
            case MsrIndex.GsBase: s->Gs.Base = value; break;
            case MsrIndex.KernelGsBase: KernelGsBase = value; break;
            case MsrIndex.TscAux: TscAux = value; break;
            default: _msrs[slot] = value; break;
        }
    }

    private static readonly int s_featureControl = MsrTable.Slots[VmxCapabilities.FeatureControl];

    /// <summary>Registers that VM entries and exits load together, with values that have been checked.</summary>
    public void SetSysenter(ulong cs, ulong esp, ulong eip, ulong debugCtl) => (SysenterCs, SysenterEsp, SysenterEip, DebugCtl) = (cs, esp, eip, debugCtl);

    /// <summary>Until it is locked, and where there is VMX. Intel SDM vol. 3C, "Enabling and Entering VMX Operation".</summary>
    private bool TryWriteFeatureControl(ulong value)
    {
        const ulong bits = VmxCapabilities.FeatureControlLock | VmxCapabilities.FeatureControlVmxOutsideSmx;
        ref ulong register = ref _msrs[s_featureControl];
        if (!p.Model.Has(CpuFeature.Vmx) || (register & VmxCapabilities.FeatureControlLock) != 0 || (value & ~bits) != 0) return false;
        register = value;
        return true;
    }

    /// <summary>A VM entry or exit may load this value by its list of MSRs: LME does not change while paging is on.</summary>
    public bool IsEferLoadable(ulong value) => (value & ~EferAllowed) == 0;

    private bool TryWriteEfer(ulong value)
    {
        ProcessorState* s = p.State;
        if ((value & ~EferAllowed) != 0) return false;
        ulong changed = s->Efer ^ value;
        if ((changed & (ulong)Efer.Lme) != 0 && (s->Cr0 & (ulong)Cr0.Pg) != 0) return false;
        // LMA is a status bit: writes to it are ignored.
        s->Efer = value & ~(ulong)Efer.Lma | s->Efer & (ulong)Efer.Lma;
        if ((changed & (ulong)Efer.Sce) != 0) SystemCallsChanged();
        if ((changed & ~value & (ulong)Efer.Svme) != 0) p.Svm!.GlobalInterruptFlag = true;
        if ((changed & (ulong)Efer.Nxe) != 0) p.Tlb.Flush();
        p.ModeChanged();
        return true;
    }

    /// <summary>Every MSR that the processor holds and its value, for <see cref="CpuState.Msrs"/>.</summary>
    public void Save(Dictionary<uint, ulong> msrs)
    {
        msrs.Clear();
        foreach (MsrRow row in MsrTable.Rows)
        {
            if (TryRead(row.Index, out ulong value)) msrs[row.Index] = row.Index == MsrIndex.Tsc ? UnscaledTsc : value;
        }
    }

    /// <summary>Restores MSRs without the checks of WRMSR; unknown ones are ignored. TSC_ADJUST is set after TSC, which would move it.</summary>
    public void Restore(Dictionary<uint, ulong> msrs)
    {
        SystemCallsChanged(); // EFER is another part of the state
        foreach ((uint index, ulong value) in msrs)
        {
            if (index is MsrIndex.Efer or MsrIndex.TscAdjust || !TryFind(index, out int slot)) continue;
            Store(index, slot, value);
        }
        if (msrs.TryGetValue(MsrIndex.TscAdjust, out ulong adjust)) _tscAdjust = adjust;
    }
}
