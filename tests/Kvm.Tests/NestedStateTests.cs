using System.Buffers.Binary;
using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Kvm.Tests;

/// <summary>What the kernel keeps of a guest's hypervisor moves with the state. Linux Documentation/virt/kvm/api.rst, "KVM_GET_NESTED_STATE".</summary>
/// <remarks>The layout: struct kvm_nested_state of arch/x86/include/uapi/asm/kvm.h.</remarks>
public sealed class NestedStateTests
{
    private const int Size = 128 + 2 * 4096;

    /// <summary>VMX operation with a current VMCS whose guest runs: flags KVM_STATE_NESTED_GUEST_MODE, format 0, both pointers, VMCS.</summary>
    private static byte[] Guest()
    {
        byte[] state = new byte[128 + 4096];
        state[0] = 1;
        BinaryPrimitives.WriteInt32LittleEndian(state.AsSpan(4), state.Length);
        BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(8), 0x1000);
        BinaryPrimitives.WriteUInt64LittleEndian(state.AsSpan(16), 0x2000);
        state.AsSpan(128).Fill(0x5A);
        return state;
    }

    /// <summary>SVM with GIF set or clear: format 1, flag KVM_STATE_NESTED_GIF_SET.</summary>
    private static byte[] Svm(bool globalInterruptFlag) => [0, globalInterruptFlag ? (byte)1 : (byte)0, 1, 0, 128, 0, 0, 0, .. new byte[120]];

    private static CpuState Read(FakeVcpu vcpu)
    {
        var state = new CpuState();
        vcpu.Cpu.ReadState(state);
        return state;
    }

    [Fact]
    public void The_requests_are_the_kernels()
    {
        Assert.Equal((0xC080_AEBEu, 0x4080_AEBFu), (KvmRequest.GetNestedState.Number, KvmRequest.SetNestedState.Number));
        Assert.Equal(157u, (uint)KvmCapability.NestedState);
    }

    [Fact]
    public void A_vcpu_without_a_hypervisor_has_none_and_is_not_told_of_any()
    {
        using var vcpu = new FakeVcpu(nested: Size);
        CpuState state = Read(vcpu);
        Assert.Null(state.KernelNested);
        vcpu.Cpu.WriteState(state);
        Assert.DoesNotContain("KVM_SET_NESTED_STATE", vcpu.Log);
        vcpu.Nested = Svm(true);
        Assert.Null(Read(vcpu).KernelNested);
    }

    [Fact]
    public void A_KVM_that_gives_guests_no_hypervisors_is_not_asked()
    {
        using var vcpu = new FakeVcpu();
        vcpu.Cpu.WriteState(Read(vcpu));
        Assert.DoesNotContain(vcpu.Log, r => r.EndsWith("NESTED_STATE", StringComparison.Ordinal));
    }

    [Fact]
    public void It_moves_after_the_system_registers_and_before_the_MSRs()
    {
        using FakeVcpu source = new(nested: Size), target = new(nested: Size);
        source.Nested = Guest();
        CpuState state = Read(source);
        Assert.Equal(Guest(), state.KernelNested);
        state.Msrs[MsrIndex.Lstar] = 0x1234;
        target.Cpu.WriteState(state);
        Assert.Equal(Guest(), target.Nested);
        Assert.Equal(["KVM_SET_SREGS", "KVM_SET_NESTED_STATE", "KVM_SET_MSRS"],
            target.Log.Where(r => r is "KVM_SET_SREGS" or "KVM_SET_NESTED_STATE" or "KVM_SET_MSRS").Distinct());
    }

    [Fact]
    public void GIF_that_is_clear_moves()
    {
        using FakeVcpu source = new(nested: Size), target = new(nested: Size);
        source.Nested = Svm(false);
        target.Cpu.WriteState(Read(source));
        Assert.Equal(Svm(false), target.Nested);
    }

    [Theory, InlineData(true), InlineData(false)]
    public void What_was_there_ends_before_the_registers_of_another_state_come(bool isVmx)
    {
        using var vcpu = new FakeVcpu(nested: Size);
        byte[] off = isVmx ? vcpu.Nested : Svm(true);
        CpuState state = Read(vcpu);
        vcpu.Nested = isVmx ? Guest() : Svm(false);
        vcpu.Log.Clear();
        vcpu.Cpu.WriteState(state);
        Assert.Equal(off, vcpu.Nested);
        Assert.True(vcpu.Log.IndexOf("KVM_SET_NESTED_STATE") < vcpu.Log.IndexOf("KVM_SET_SREGS"));
        vcpu.Nested = isVmx ? Guest() : Svm(false);
        vcpu.Cpu.Reset();
        Assert.Equal(off, vcpu.Nested);
    }

    [Fact]
    public void The_MSRs_that_belong_to_it_move()
    {
        using FakeVcpu with = new(nested: Size), without = new();
        uint[] own = [0x3A, 0xC001_0114, 0xC001_0117];
        Assert.Equal(own, own.Where(Read(with).Msrs.ContainsKey));
        Assert.DoesNotContain(own, Read(without).Msrs.ContainsKey);
    }

    public static TheoryData<string, int, Action<CpuState>> Refused => new()
    {
        { "neither VMX nor SVM", 0, s => s.KernelNested = Guest() },
        { "is damaged", Size, s => s.KernelNested = Guest()[..^1] },
        { "is damaged", Size, s => s.KernelNested = new byte[16] },
        { "the VMX of an engine in software", Size, s => s.Vmx = new VmxState { InOperation = true } },
        { "the SVM of an engine in software", Size, s => s.Svm = new SvmState { InGuest = true } },
        { "the SVM of an engine in software", Size, s => s.Svm = new SvmState { GlobalInterruptFlag = false } },
        { "the SVM of an engine in software", Size, s => s.Svm = new SvmState { HostSaveArea = 0x1000 } },
    };

    [Theory, MemberData(nameof(Refused))]
    public void What_it_cannot_be_is_refused_in_one_line(string what, int size, Action<CpuState> change)
    {
        using var vcpu = new FakeVcpu(nested: size);
        CpuState state = Read(vcpu);
        change(state);
        string message = Assert.Throws<StateFormatException>(() => vcpu.Cpu.WriteState(state)).Message;
        Assert.StartsWith("cpu0: ", message, StringComparison.Ordinal);
        Assert.Contains(what, message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void KVM_that_refuses_it_is_named()
    {
        using var vcpu = new FakeVcpu(nested: Size);
        CpuState state = Read(vcpu);
        state.KernelNested = Guest();
        vcpu.Failing["KVM_SET_NESTED_STATE"] = Errno.Invalid;
        string message = Assert.Throws<KvmException>(() => vcpu.Cpu.WriteState(state)).Message;
        Assert.StartsWith("KVM_SET_NESTED_STATE failed: EINVAL; ", message, StringComparison.Ordinal);
    }
}
