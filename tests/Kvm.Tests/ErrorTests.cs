using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Platform;
using Bunraku.Processor.X86;

namespace Bunraku.Kvm.Tests;

/// <summary>Every failure names the request, the error and what to do.</summary>
public sealed class ErrorTests
{
    [Theory]
    [InlineData("KVM_GET_REGS"), InlineData("KVM_GET_SREGS"), InlineData("KVM_GET_DEBUGREGS"), InlineData("KVM_GET_XCRS"), InlineData("KVM_GET_VCPU_EVENTS"),
        InlineData("KVM_GET_XSAVE"), InlineData("KVM_GET_MSRS")]
    public void Reading_state(string request) => Fails(request, Errno.BadAddress, kvm => kvm.Cpu.ReadState(new CpuState()));

    [Theory]
    [InlineData("KVM_SET_REGS"), InlineData("KVM_SET_SREGS"), InlineData("KVM_SET_DEBUGREGS"), InlineData("KVM_SET_XCRS"), InlineData("KVM_SET_VCPU_EVENTS"),
        InlineData("KVM_SET_XSAVE"), InlineData("KVM_SET_MSRS")]
    public void Writing_state(string request) => Fails(request, Errno.Invalid, kvm =>
    {
        var state = new CpuState();
        state.Msrs[0xC000_0082] = 5;
        kvm.Cpu.WriteState(state);
    });

    [Fact]
    public void Injecting_an_NMI() => Fails("KVM_NMI", Errno.Invalid, kvm => kvm.Cpu.InjectNmi());

    [Fact]
    public void Creating_a_vCPU() => Assert.Contains("more processors", KvmFile.Failed(KvmRequest.CreateVcpu, Errno.Invalid).Message, StringComparison.Ordinal);

    private static void Fails(string request, int errno, Action<FakeVcpu> action)
    {
        using var kvm = new FakeVcpu();
        kvm.Failing[request] = errno;
        KvmException e = Assert.Throws<KvmException>(() => action(kvm));
        Assert.Contains(request, e.Message, StringComparison.Ordinal);
        Assert.Contains(Errno.Name(errno), e.Message, StringComparison.Ordinal);
        Assert.Contains(';', e.Message);
        Assert.DoesNotContain('\n', e.Message);
    }

    [Theory, InlineData(Errno.BadAddress, "EFAULT"), InlineData(Errno.NoMemory, "ENOMEM")]
    public void Entering_the_guest_ends_it_with_a_message(int errno, string name)
    {
        using var kvm = new FakeVcpu();
        kvm.Failing["KVM_RUN"] = errno;
        X86Exit e = kvm.Cpu.Enter();
        Assert.Equal(ExitReason.InternalError, e.Reason);
        Assert.StartsWith($"KVM_RUN failed: {name}; ", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Even_when_the_state_cannot_be_read_there_is_a_message()
    {
        using var kvm = new FakeVcpu();
        kvm.Failing["KVM_RUN"] = Errno.Io;
        kvm.Failing["KVM_GET_REGS"] = Errno.Io;
        Assert.Contains("KVM_GET_REGS failed: EIO", kvm.Cpu.Enter().Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Controls_that_KVM_has_not_are_refused()
    {
        using var kvm = new FakeVcpu();
        Assert.Throws<NotSupportedException>(() => kvm.Cpu.Controls = new ExecutionControls(InterceptedInstructions.Cpuid));
        Assert.Throws<NotSupportedException>(() => kvm.Cpu.Controls = new ExecutionControls(ExceptionBitmap: 1 << 14));
    }

    // ---- the probe

    [Theory]
    [InlineData(Errno.NoEntry, KvmBackingName.None, "neither VT-x nor AMD-V")]
    [InlineData(Errno.NoEntry, KvmBackingName.Vmx, "modprobe kvm_intel")]
    [InlineData(Errno.NoEntry, KvmBackingName.Svm, "modprobe kvm_amd")]
    [InlineData(Errno.AccessDenied, KvmBackingName.Vmx, "usermod -aG kvm")]
    [InlineData(Errno.TooManyFiles, KvmBackingName.Vmx, "EMFILE")]
    public void A_device_that_does_not_open_comes_with_the_remedy(int errno, KvmBackingName backing, string remedy) =>
        Assert.Contains(remedy, KvmHost.CannotOpen(errno, (KvmBacking)backing), StringComparison.Ordinal);

    public enum KvmBackingName { None, Vmx, Svm }

    [Fact]
    public void Missing_capabilities_are_named()
    {
        using var kvm = new FakeVcpu();
        foreach (KvmCapability c in Enum.GetValues<KvmCapability>()) kvm.Capabilities[c] = 1;
        Assert.Null(KvmHost.Unsuitable(kvm));
        kvm.Capabilities[KvmCapability.UserSpaceMsr] = 0;
        Assert.Contains("UserSpaceMsr", KvmHost.Unsuitable(kvm), StringComparison.Ordinal);
        kvm.Failing["KVM_GET_API_VERSION"] = Errno.NotATypewriter;
        Assert.Contains("API version", KvmHost.Unsuitable(kvm), StringComparison.Ordinal);
    }

    [Fact]
    public void A_KVM_that_emulates_is_available_but_not_chosen()
    {
        using var kvm = new FakeVcpu();
        EngineProbe emulated = KvmHost.Describe(kvm, KvmBacking.None, null), hardware = KvmHost.Describe(kvm, KvmBacking.Svm, true);
        Assert.Equal((true, false, false), (emulated.Available, emulated.Hardware, emulated.Chosen));
        Assert.Contains("emulates", emulated.Detail, StringComparison.Ordinal);
        Assert.Equal((true, true, true), (hardware.Available, hardware.Hardware, hardware.Chosen));
        Assert.Contains("AMD-V, nested paging", hardware.Detail, StringComparison.Ordinal);
        Assert.Contains("shadow page tables", KvmHost.Describe(kvm, KvmBacking.Vmx, false).Detail, StringComparison.Ordinal);
    }
}

public sealed class CpuidTests
{
    private static CpuModel Model => CpuModels.All.First(m => m.Name == "x86-64-v3");

    private static KvmCpuidEntry Leaf(uint function, uint index = 0, uint eax = 0, uint ebx = 0, uint ecx = 0, uint edx = 0) =>
        new() { Function = function, Index = index, Flags = KvmCpuidEntry.SignificantIndex, Eax = eax, Ebx = ebx, Ecx = ecx, Edx = edx };

    /// <summary>A host with everything, whose PKRU lies behind AVX-512 state.</summary>
    private static KvmCpuidEntry[] Everything =>
        [
        .. CpuidFeatureBits.Rows.Select(r => (r.Leaf, r.Subleaf)).Distinct().Where(l => l.Leaf != 0x8000_0008).Select(l => Leaf(l.Leaf, l.Subleaf, ~0u, ~0u,
        ~0u, ~0u)),
        Leaf(0x8000_0008, 0, 0x302D, ~0u), Leaf(0xD, 0, 0x2E7), Leaf(0xD, 9, 8, 2432),
    ];

    [Fact]
    public void A_host_with_everything_gives_the_model_as_it_is_but_for_the_width_of_addresses()
    {
        var cpuid = new KvmCpuid(Everything, Model);
        Assert.Empty(cpuid.Missing);
        Assert.Equal(45, cpuid.Model.PhysicalAddressBits);
    }

    [Fact]
    public void A_feature_that_the_host_lacks_is_missing_in_the_guest_and_nothing_else_is()
    {
        foreach (CpuidFeatureBit row in CpuidFeatureBits.Rows.Where(r => Model.Has(r.Feature) && r.Feature != CpuFeature.Hypervisor))
        {
            KvmCpuidEntry[] host = Everything;
            ref KvmCpuidEntry e = ref host[Array.FindIndex(host, h => h.Function == row.Leaf && h.Index == row.Subleaf)];
            uint mask = ~(1u << row.Bit);
            switch (row.Register)
            {
                case CpuidRegister.Eax: e.Eax &= mask; break;
                case CpuidRegister.Ebx: e.Ebx &= mask; break;
                case CpuidRegister.Ecx: e.Ecx &= mask; break;
                default: e.Edx &= mask; break;
            }
            Assert.Equal([row.Feature], new KvmCpuid(host, Model).Missing);
        }
    }

    [Fact]
    public void XSAVE_areas_have_the_hosts_layout()
    {
        KvmCpuidEntry[] guest = new KvmCpuid(Everything, Model).Entries(0, 1, 1_000_000_000);
        KvmCpuidEntry Of(uint index) => guest.Single(e => e.Function == 0xD && e.Index == index);
        Assert.Equal((0x207u, 2440u, 2440u), (Of(0).Eax, Of(0).Ebx, Of(0).Ecx));
        Assert.Equal((8u, 2432u), (Of(9).Eax, Of(9).Ebx));
        Assert.Equal((256u, 576u), (Of(2).Eax, Of(2).Ebx));
    }

    [Theory]
    [InlineData(5000ul, 1000ul, 9000ul, 1ul, 1ul, 13000ul)]
    [InlineData(5000ul, 1000ul, 9000ul, 2ul, 1ul, 11000ul)]
    [InlineData(500ul, 1000ul, 9000ul, 1ul, 2ul, 8000ul)]
    [InlineData(0ul, 10_000ul, 9000ul, 1ul, 1ul, 1ul)]
    [InlineData(ulong.MaxValue, 0ul, 9000ul, 1ul, 5ul, ulong.MaxValue)]
    public void A_deadline_keeps_its_distance_from_now(ulong value, ulong now, ulong otherNow, ulong frequency, ulong otherFrequency, ulong expected) =>
        Assert.Equal(expected, KvmCpu.Scale(value, now, otherNow, frequency, otherFrequency));
}
