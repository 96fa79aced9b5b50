using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>What all vCPUs of a VM share.</summary>
/// <param name="XsaveSize">Bytes that KVM_GET_XSAVE fills.</param>
internal sealed record KvmShared(GuestMemory Memory, VirtualClock Clock, KvmCpuid Cpuid, int XsaveSize)
{
    /// <summary>TSC offset that the first vCPU got; the others take the same, so that all TSCs agree to the tick.</summary>
    public ulong? TscOffset { get; set; }

    /// <summary>KVM can keep the guest from paravirtual features that its CPUID does not name.</summary>
    public bool CanEnforceParavirtualCpuid { get; init; }

    /// <summary>The most bytes of <see cref="KvmNestedState"/>; 0: guests have no hypervisors.</summary>
    public int NestedStateSize { get; init; }

    /// <summary>How many vCPUs there are so far.</summary>
    public int CpuCount { get; set; } = 1;

    /// <summary>The local APICs, when the kernel holds them. Set before the first vCPU.</summary>
    public KvmApics? Apics { get; set; }

    /// <summary>Writes that KVM gathers; null where it does not.</summary>
    public PostedWrites? Posted { get; set; }
}

/// <summary>One KVM virtual machine: memory slots over the guest's regions, and what all vCPUs share.</summary>
internal sealed unsafe class KvmVm : IX86Vm, IDirtyPageLog, IMemoryMapObserver
{
    /// <summary>Three pages for VT-x without unrestricted guests, and one for its identity map: below the local APICs, where no device lies.</summary>
    private const ulong TssAddress = 0xFEDF_D000, IdentityMapAddress = 0xFEDF_C000;
    /// <summary>KVM_MSR_EXIT_REASON_INVAL, _UNKNOWN and _FILTER.</summary>
    private const ulong MsrExits = 1 | 2 | 4;

    private readonly KvmDescriptor _vm;
    private readonly GuestMemory _memory;
    private readonly KvmShared _shared;
    private readonly List<KvmCpu> _cpus = [];
    private readonly int _runSize;
    private readonly bool _readOnlyMemory, _hasClock;
    private KvmClockData? _stoppedClock;
    private bool _disposed;

    /// <exception cref="KvmException">KVM refuses something.</exception>
    public KvmVm(KvmDescriptor kvm, GuestMemory memory, CpuModel model, VirtualClock clock)
    {
        _memory = memory;
        _readOnlyMemory = kvm.Check(KvmCapability.ReadOnlyMemory) != 0;
        _runSize = (int)kvm.Request(KvmRequest.GetVcpuMapSize);
        _vm = kvm.Create(KvmRequest.CreateVm);
        try
        {
            var cpuid = new KvmCpuid(kvm, model);
            _shared = new KvmShared(memory, clock, cpuid, Math.Max(KvmRequest.XsaveSize, _vm.Check(KvmCapability.Xsave2)))
            {
                CanEnforceParavirtualCpuid = kvm.Check(KvmCapability.EnforceParavirtualCpuid) != 0,
                NestedStateSize = cpuid.Model.Has(CpuFeature.Vmx) || cpuid.Model.Has(CpuFeature.Svm) ? _vm.Check(KvmCapability.NestedState) : 0,
            };
            if (kvm.Check(KvmCapability.SetIdentityMapAddress) != 0)
            {
                ulong address = IdentityMapAddress;
                _vm.Request(KvmRequest.SetIdentityMapAddress, &address);
            }
            if (kvm.Check(KvmCapability.SetTssAddress) != 0) _vm.Request(KvmRequest.SetTssAddress, unchecked((nuint)TssAddress));
            SetMemory([], _memory.Regions);
            _memory.Add(this);
            Shortcuts = new KvmShortcuts(_vm, () => _shared.Apics);
            _hasClock = kvm.Check(KvmCapability.AdjustClock) != 0;
            if (_hasClock) SetClock((ulong)clock.Nanoseconds);
        }
        catch
        {
            _vm.Dispose();
            throw;
        }
    }

    public CpuModel? NarrowedModel => _shared.Cpuid.Model;

    public IEngineShortcuts Shortcuts { get; }

    public IDirtyPageLog DirtyPages => this;

    /// <summary>This KVM's local APICs are good enough.</summary>
    public bool MayHoldApics { get; init; } = true;

    public IEngineApics? HoldLocalApics()
    {
        if (!MayHoldApics) return null;
        if (_cpus.Count != 0) throw new InvalidOperationException("there are vCPUs already");
        return _shared.Apics ??= KvmApics.TryCreate(_vm);
    }

    public IX86Cpu CreateCpu(int index)
    {
        if (_cpus.Count == 0) LetMsrsExit();
        KvmDescriptor file = _vm.Create(KvmRequest.CreateVcpu, (nuint)index);
        KvmRun* run = null;
        try
        {
            run = file.Map(_runSize);
            _shared.Posted ??= Ring(run);
            var cpu = new KvmCpu(_shared, index, file, run, _runSize);
            _shared.CpuCount = Math.Max(_shared.CpuCount, index + 1);
            cpu.PowerOn();
            foreach (KvmCpu other in _cpus) other.SetCpuid();
            _cpus.Add(cpu);
            return cpu;
        }
        catch
        {
            if (run != null) KvmDescriptor.Unmap(run, _runSize);
            file.Dispose();
            throw;
        }
    }

    /// <summary>
    /// KVM says how many pages behind the run structure the ring lies; all vCPUs have the same one. It stays mapped as long as the first vCPU's structure.
    /// </summary>
    private PostedWrites? Ring(KvmRun* run)
    {
        int page = _vm.Check(KvmCapability.CoalescedMmio);
        return page > 0 && (page + 1) * KvmCoalescedRing.PageSize <= _runSize
            ? new PostedWrites((KvmCoalescedRing*)((byte*)run + page * KvmCoalescedRing.PageSize)) : null;
    }

    // ---- time

    private void SetClock(ulong nanoseconds)
    {
        var clock = new KvmClockData { Nanoseconds = nanoseconds };
        _vm.Request(KvmRequest.SetClock, &clock);
    }

    public void SuspendTime()
    {
        if (_disposed) return;
        if (_hasClock && _stoppedClock == null)
        {
            KvmClockData clock;
            _vm.Request(KvmRequest.GetClock, &clock);
            _stoppedClock = clock;
        }
        foreach (KvmCpu cpu in _cpus) cpu.SuspendTime();
    }

    public void ResumeTime()
    {
        if (_disposed) return;
        if (_stoppedClock is { } clock) SetClock(clock.Nanoseconds);
        _stoppedClock = null;
        foreach (KvmCpu cpu in _cpus) cpu.ResumeTime();
    }

    // ---- memory

    private readonly List<MemoryRegion?> _slots = []; // what each slot of KVM shows; null: it is free
    private bool _log;

    /// <summary>Slots of regions that there are no more go before others come, since KVM refuses an overlap. A region that stays keeps its slot.</summary>
    private void SetMemory(IReadOnlyList<MemoryRegion> before, IReadOnlyList<MemoryRegion> after)
    {
        foreach (MemoryRegion r in before.Except(after))
        {
            int slot = _slots.IndexOf(r);
            // Nobody can ask for its log any more: what was written there is told as the devices' writes are.
            if (_log) _memory.MarkWritten(r, ReadLog(slot, r));
            SetSlot(slot, r with { Length = 0 });
            _slots[slot] = null;
        }
        foreach (MemoryRegion r in after.Except(before))
        {
            int slot = _slots.IndexOf(null);
            if (slot < 0)
            {
                slot = _slots.Count;
                _slots.Add(null);
            }
            SetSlot(slot, r);
            _slots[slot] = r;
        }
    }

    private void SetSlot(int slot, MemoryRegion r)
    {
        if (r.IsReadOnly && !_readOnlyMemory)
            throw new InvalidOperationException("this KVM has no read-only memory, which the machine's ROM needs; use the engine interp");
        var request = new KvmMemoryRegion
        {
            Slot = (uint)slot,
            Flags = (r.IsReadOnly ? KvmMemoryRegion.ReadOnly : 0) | (_log && !r.IsReadOnly ? KvmMemoryRegion.LogDirtyPages : 0),
            GuestAddress = r.Start,
            Size = r.Length,
            HostAddress = (ulong)(_memory.Backing.Pointer + r.Offset),
        };
        _vm.Request(KvmRequest.SetMemoryRegion, &request);
    }

    /// <inheritdoc/>
    public void MapChanged(IReadOnlyList<MemoryRegion> before) => SetMemory(before, _memory.Regions);

    public void Enable(bool on)
    {
        _log = on;
        for (int slot = 0; slot < _slots.Count; slot++)
        {
            if (_slots[slot] is { } r) SetSlot(slot, r);
        }
    }

    public ulong[] Take(int region)
    {
        MemoryRegion r = _memory.Regions[region];
        return ReadLog(_slots.IndexOf(r), r);
    }

    private ulong[] ReadLog(int slot, MemoryRegion r)
    {
        var bitmap = new ulong[((r.Length >> GuestMemory.PageShift) + 63) / 64];
        if (slot < 0 || r.IsReadOnly) return bitmap; // nobody writes to ROM
        fixed (ulong* p = bitmap)
        {
            var log = new KvmDirtyLog { Slot = (uint)slot, Bitmap = p };
            _vm.Request(KvmRequest.GetDirtyLog, &log);
        }
        return bitmap;
    }

    /// <summary>
    /// MSRs that KVM does not know, and those of the local APIC if it is not the kernel's, come to us. x2APIC MSRs cannot be filtered, but without an APIC in
    /// the kernel it does not know them.
    /// </summary>
    private void LetMsrsExit()
    {
        _vm.Enable(KvmCapability.UserSpaceMsr, MsrExits);
        if (_shared.Apics != null) return;
        byte denied = 0; // one MSR a range, its bit clear
        var filter = default(KvmMsrFilter);
        ReadOnlySpan<uint> ours = [MsrIndex.ApicBase, MsrIndex.TscDeadline];
        for (int n = 0; n < ours.Length; n++)
            filter.Ranges[n] = new KvmMsrFilterRange { Flags = KvmMsrFilterRange.Read | KvmMsrFilterRange.Write, First = ours[n], Count = 1, Bitmap = &denied };
        _vm.Request(KvmRequest.SetMsrFilter, &filter);
    }

    public void Dispose()
    {
        if (_disposed) return;
        _disposed = true;
        _memory.Remove(this);
        foreach (KvmCpu cpu in _cpus) cpu.Release();
        _vm.Dispose();
    }
}
