using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Engine.Kvm;

/// <summary>CPUID of a model as a KVM guest can have it: the model's leaves, with the features that this KVM supports.</summary>
internal sealed unsafe class KvmCpuid
{
    private const int XsaveLeaf = 0xD, HeaderSize = 8, MostEntries = 4096;
    /// <summary>Leaves whose answer depends on ECX, and how many subleaves the models use.</summary>
    private static readonly (uint Leaf, uint Subleaves)[] s_indexed = [(4, 5), (7, 1), (0xB, 3), (0x8000_001D, 5)];

    private readonly KvmCpuidEntry[] _supported;
    private readonly bool _hasTscDeadline;

    /// <exception cref="KvmException">KVM_GET_SUPPORTED_CPUID failed.</exception>
    public KvmCpuid(KvmFile kvm, CpuModel model) : this(ReadSupported(kvm), model, kvm.Check(KvmCapability.TscDeadlineTimer) != 0)
    {
    }

    internal KvmCpuid(KvmCpuidEntry[] supported, CpuModel model, bool hasTscDeadline = false)
    {
        _hasTscDeadline = hasTscDeadline;
        _supported = supported;
        HashSet<CpuFeature> features = [.. model.Features.Where(IsSupported)];
        Missing = [.. model.Features.Where(f => !features.Contains(f)).Order()];
        int physicalBits = (int)(Find(0x8000_0008, 0)?.Eax & 0xFF ?? 0);
        // Wider than the host's, a guest could name addresses that its page tables cannot hold.
        Model = model with
        {
            Features = features,
            PhysicalAddressBits = physicalBits > 0
            ? Math.Min(model.PhysicalAddressBits, physicalBits) : model.PhysicalAddressBits
        };
        // XSAVE runs on the host's own units, in the host's own layout.
        PkruOffset = (int)(Find(XsaveLeaf, XsaveLayout.PkruComponent)?.Ebx ?? XsaveLayout.PkruOffset);
        KvmCpuidEntry? components = Find(XsaveLeaf, 0);
        Components = components is { } c ? c.Eax | (ulong)c.Edx << 32 : XsaveLayout.X87 | XsaveLayout.Sse;
    }

    /// <summary>The model that guests really get.</summary>
    public CpuModel Model { get; }

    /// <summary>Features of the wanted model that this KVM does not give.</summary>
    public IReadOnlyList<CpuFeature> Missing { get; }

    /// <summary>Where PKRU lies in the host's standard-format XSAVE area.</summary>
    public int PkruOffset { get; }

    /// <summary>XSAVE state components that KVM keeps for a guest.</summary>
    public ulong Components { get; }

    private static KvmCpuidEntry[] ReadSupported(KvmFile kvm)
    {
        for (int room = 128; ; room *= 2)
        {
            byte[] buffer = new byte[HeaderSize + room * sizeof(KvmCpuidEntry)];
            fixed (byte* p = buffer)
            {
                *(uint*)p = (uint)room;
                long result = kvm.TryRequest(KvmRequest.GetSupportedCpuid, p);
                if (result == -Errno.TooBig && room < MostEntries) continue;
                if (result < 0) throw KvmFile.Failed(KvmRequest.GetSupportedCpuid, (int)-result);
                return new ReadOnlySpan<KvmCpuidEntry>(p + HeaderSize, (int)Math.Min(*(uint*)p, (uint)room)).ToArray();
            }
        }
    }

    private KvmCpuidEntry? Find(uint leaf, uint subleaf)
    {
        foreach (KvmCpuidEntry e in _supported)
        {
            if (e.Function == leaf && ((e.Flags & KvmCpuidEntry.SignificantIndex) == 0 || e.Index == subleaf)) return e;
        }
        return null;
    }

    private bool IsSupported(CpuFeature feature)
    {
        // Nothing in the processor: it only says that there is a hypervisor.
        if (feature == CpuFeature.Hypervisor) return true;
        // Not in the list of older kernels: it depends on who holds the local APIC.
        if (feature == CpuFeature.TscDeadline && _hasTscDeadline) return true;
        foreach (CpuidFeatureBit row in CpuidFeatureBits.Rows)
        {
            if (row.Feature != feature) continue;
            if (Find(row.Leaf, row.Subleaf) is not { } entry) return false;
            uint register = row.Register switch
            {
                CpuidRegister.Eax => entry.Eax,
                CpuidRegister.Ebx => entry.Ebx,
                CpuidRegister.Ecx => entry.Ecx,
                _ => entry.Edx
            };
            return (register >> row.Bit & 1) != 0;
        }
        return false;
    }

    /// <summary>The table for one vCPU. What follows CR4 and XCR0 KVM keeps up to date itself.</summary>
    /// <param name="hasApic">The kernel holds the local APIC.</param>
    public KvmCpuidEntry[] Entries(int cpu, int cpus, ulong tscFrequency, bool hasApic = false)
    {
        var subject = new CpuidSubject(Model, cpu, cpus, tscFrequency, Xcr0: XsaveLayout.Allowed(Model) & Components);
        var entries = new List<KvmCpuidEntry>();
        for (uint leaf = 0; leaf <= CpuidLeaves.MaxBasic(Model); leaf++) AddLeaf(leaf);
        if (Model.Has(CpuFeature.Hypervisor)) AddHypervisor();
        for (uint leaf = CpuidLeaves.ExtendedFirst; leaf <= CpuidLeaves.MaxExtended(Model); leaf++) AddLeaf(leaf);
        return [.. entries];

        void AddHypervisor()
        {
            if (!ReferenceEquals(Model.Hypervisor, HypervisorInterface.OfEngine) || !AddParavirtual(entries, hasApic)) AddLeaf(CpuidLeaves.HypervisorFirst);
            AddLeaf(CpuidLeaves.HypervisorTiming);
        }

        void AddLeaf(uint leaf)
        {
            if (leaf == XsaveLeaf)
            {
                AddXsave(entries, subject);
                return;
            }
            uint subleaves = Array.Find(s_indexed, i => i.Leaf == leaf).Subleaves;
            if (subleaves == 0) entries.Add(Entry(leaf, 0, 0, CpuidLeaves.Query(subject, leaf, 0)));
            for (uint n = 0; n < subleaves; n++) entries.Add(Entry(leaf, n, KvmCpuidEntry.SignificantIndex, CpuidLeaves.Query(subject, leaf, n)));
        }
    }

    // KVM_FEATURE_*, bits of leaf 4000_0001h EAX.
    private const uint ClockSource = 1 << 0, NoIoDelay = 1 << 1, ClockSource2 = 1 << 3, StealTime = 1 << 5, EndOfInterrupt = 1 << 6, Unhalt = 1 << 7,
        TlbFlush = 1 << 9,
        SendIpi = 1 << 11, PollControl = 1 << 12, SchedYield = 1 << 13, ClockIsStable = 1 << 24;
    /// <summary>Asynchronous page faults are left out: an event that is under way there is in no state that could move.</summary>
    private const uint Offered = ClockSource | NoIoDelay | ClockSource2 | StealTime | EndOfInterrupt | Unhalt | TlbFlush
        | SendIpi | PollControl | SchedYield | ClockIsStable;
    private const uint NeedsApic = EndOfInterrupt | Unhalt | SendIpi | SchedYield;

    /// <summary>KVM's paravirtual interface, as far as this KVM has it. False when there is nothing to offer.</summary>
    /// <remarks>Linux Documentation/virt/kvm/x86/cpuid.rst.</remarks>
    private bool AddParavirtual(List<KvmCpuidEntry> entries, bool hasApic)
    {
        const uint features = CpuidLeaves.HypervisorFirst + 1;
        ReadOnlySpan<byte> name = "KVMKVMKVM\0\0\0"u8;
        uint offered = (Find(features, 0)?.Eax ?? 0) & Offered & ~(hasApic ? 0 : NeedsApic);
        if (offered == 0) return false;
        entries.Add(Entry(CpuidLeaves.HypervisorFirst, 0, 0,
            new(CpuidLeaves.HypervisorTiming, BitConverter.ToUInt32(name), BitConverter.ToUInt32(name[4..]), BitConverter.ToUInt32(name[8..]))));
        entries.Add(Entry(features, 0, 0, new(offered, 0, 0, 0)));
        return true;
    }

    /// <summary>Leaf 0Dh: the model's components and features at the host's offsets.</summary>
    private void AddXsave(List<KvmCpuidEntry> entries, in CpuidSubject subject)
    {
        ulong allowed = Model.Has(CpuFeature.Xsave) ? XsaveLayout.Allowed(Model) & Components : 0;
        foreach (uint n in (ReadOnlySpan<uint>)[0, 1, XsaveLayout.AvxComponent, XsaveLayout.PkruComponent])
        {
            CpuidResult r = CpuidLeaves.Query(subject, XsaveLeaf, n);
            if (n == XsaveLayout.PkruComponent && (allowed & XsaveLayout.Pkru) != 0) r = r with { Ebx = (uint)PkruOffset };
            if (n == 0 && (allowed & XsaveLayout.Pkru) != 0)
                r = r with { Ebx = (uint)(PkruOffset + XsaveLayout.PkruSize), Ecx = (uint)(PkruOffset + XsaveLayout.PkruSize) };
            if (n == 0) r = r with { Eax = (uint)allowed, Edx = (uint)(allowed >> 32) };
            entries.Add(Entry(XsaveLeaf, n, KvmCpuidEntry.SignificantIndex, r));
        }
    }

    private static KvmCpuidEntry Entry(uint leaf, uint subleaf, uint flags, CpuidResult r) =>
        new() { Function = leaf, Index = subleaf, Flags = flags, Eax = r.Eax, Ebx = r.Ebx, Ecx = r.Ecx, Edx = r.Edx };

    /// <exception cref="KvmException">KVM_SET_CPUID2 failed.</exception>
    public void Apply(KvmFile cpu, KvmCpuidEntry[] entries)
    {
        byte[] buffer = new byte[HeaderSize + entries.Length * sizeof(KvmCpuidEntry)];
        fixed (byte* p = buffer)
        {
            *(uint*)p = (uint)entries.Length;
            entries.CopyTo(new Span<KvmCpuidEntry>(p + HeaderSize, entries.Length));
            cpu.Request(KvmRequest.SetCpuid, p);
        }
    }
}
