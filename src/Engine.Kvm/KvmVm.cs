using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>What all vCPUs of a VM share.</summary>
/// <param name="XsaveSize">Bytes that KVM_GET_XSAVE fills.</param>
internal sealed record KvmShared(GuestMemory Memory, VirtualClock Clock, KvmCpuid Cpuid, int XsaveSize)
{
    /// <summary>TSC offset that the first vCPU got; the others take the same, so that all TSCs agree to the tick.</summary>
    public ulong? TscOffset { get; set; }
}

/// <summary>One KVM virtual machine: memory slots over the guest's regions, and what all vCPUs share.</summary>
internal sealed unsafe class KvmVm : IEngineVm
{
    /// <summary>Three pages for VT-x without unrestricted guests, and one for its identity map: in the hole below 4 GiB where no device of ours lies.</summary>
    private const ulong TssAddress = 0xFFFB_D000, IdentityMapAddress = 0xFFFB_C000;
    /// <summary>KVM_MSR_EXIT_REASON_INVAL, _UNKNOWN and _FILTER.</summary>
    private const ulong MsrExits = 1 | 2 | 4;

    private readonly KvmDescriptor _vm;
    private readonly GuestMemory _memory;
    private readonly KvmShared _shared;
    private readonly List<KvmCpu> _cpus = [];
    private readonly int _runSize;
    private readonly bool _readOnlyMemory;
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
            _shared = new KvmShared(memory, clock, new KvmCpuid(kvm, model), Math.Max(KvmRequest.XsaveSize, _vm.Check(KvmCapability.Xsave2)));
            if (kvm.Check(KvmCapability.SetIdentityMapAddress) != 0)
            {
                ulong address = IdentityMapAddress;
                _vm.Request(KvmRequest.SetIdentityMapAddress, &address);
            }
            if (kvm.Check(KvmCapability.SetTssAddress) != 0) _vm.Request(KvmRequest.SetTssAddress, unchecked((nuint)TssAddress));
            SetMemory(log: false);
            LetMsrsExit();
        }
        catch
        {
            _vm.Dispose();
            throw;
        }
    }

    public CpuModel? NarrowedModel => _shared.Cpuid.Model;

    public IVirtualCpu CreateCpu(int index)
    {
        KvmDescriptor file = _vm.Create(KvmRequest.CreateVcpu, (nuint)index);
        KvmRun* run = null;
        try
        {
            run = file.Map(_runSize);
            var cpu = new KvmCpu(_shared, index, file, run, _runSize);
            cpu.PowerOn();
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

    /// <summary>Slot n is region n of the guest's memory.</summary>
    private void SetMemory(bool log)
    {
        IReadOnlyList<MemoryRegion> regions = _memory.Regions;
        for (int n = 0; n < regions.Count; n++)
        {
            MemoryRegion r = regions[n];
            if (r.IsReadOnly && !_readOnlyMemory) throw new InvalidOperationException("this KVM has no read-only memory, which the machine's ROM needs; use the engine interp");
            var slot = new KvmMemoryRegion
            {
                Slot = (uint)n,
                Flags = (r.IsReadOnly ? KvmMemoryRegion.ReadOnly : 0) | (log ? KvmMemoryRegion.LogDirtyPages : 0),
                GuestAddress = r.Start,
                Size = r.Length,
                HostAddress = (ulong)(_memory.Backing.Pointer + r.Offset),
            };
            _vm.Request(KvmRequest.SetMemoryRegion, &slot);
        }
    }

    /// <summary>Switches the log of pages that the guest writes to on or off. While no vCPU runs.</summary>
    public void LogDirtyPages(bool on) => SetMemory(on);

    /// <summary>Pages of a region written since the last call, one bit each; the log must be on.</summary>
    public ulong[] TakeDirtyPages(int region)
    {
        var bitmap = new ulong[((_memory.Regions[region].Length >> GuestMemory.PageShift) + 63) / 64];
        fixed (ulong* p = bitmap)
        {
            var log = new KvmDirtyLog { Slot = (uint)region, Bitmap = p };
            _vm.Request(KvmRequest.GetDirtyLog, &log);
        }
        return bitmap;
    }

    /// <summary>MSRs that KVM does not know, and those of the local APIC, come to us. x2APIC MSRs cannot be filtered, but without an APIC in the kernel it does not know them.</summary>
    private void LetMsrsExit()
    {
        var capability = new KvmEnableCapability { Capability = (uint)KvmCapability.UserSpaceMsr };
        capability.Arguments[0] = MsrExits;
        _vm.Request(KvmRequest.EnableCapability, &capability);

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
        foreach (KvmCpu cpu in _cpus) cpu.Release();
        _vm.Dispose();
    }
}
