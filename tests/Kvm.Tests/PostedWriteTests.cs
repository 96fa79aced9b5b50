using System.Runtime.InteropServices;
using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Kvm.Tests;

/// <summary>Writes that KVM gathers in a ring come before what followed them, whoever shows them.</summary>
public sealed unsafe class PostedWriteTests : IDisposable
{
    private readonly KvmCoalescedRing* _ring = (KvmCoalescedRing*)NativeMemory.AlignedAlloc(KvmCoalescedRing.PageSize, KvmCoalescedRing.PageSize);
    private readonly PostedWrites _posted;

    public PostedWriteTests()
    {
        new Span<byte>(_ring, KvmCoalescedRing.PageSize).Clear();
        _posted = new PostedWrites(_ring);
    }

    public void Dispose() => NativeMemory.AlignedFree(_ring);

    /// <summary>What the kernel does in the guest's write.</summary>
    private void Post(ulong address, uint length, ulong data, bool port = true)
    {
        ((KvmCoalescedRing.Entry*)(_ring + 1))[_ring->Last] = new() { Address = address, Length = length, IsPort = port ? 1u : 0, Data = data };
        _ring->Last = (_ring->Last + 1) % KvmCoalescedRing.Capacity;
    }

    private static (ExitReason, ulong, int, ulong) Of(X86Exit e) => (e.Reason, e.Address, e.Size, e.Data);

    [Fact]
    public void They_come_in_order_before_the_exit_that_brought_them_to_light()
    {
        using var kvm = new FakeVcpu(posted: _posted);
        kvm.ThenExit(KvmExit.Hlt, () =>
        {
            Post(0x80, 1, 0xFFFF_FF05);
            Post(0xB_8000, 8, 0x0102_0304_0506_0708, port: false);
        });
        Assert.Equal((ExitReason.Io, 0x80ul, 1, 5ul), Of(kvm.Cpu.Enter()));
        kvm.Cpu.ReadState(new CpuState()); // does not run the guest, nor lose anything
        Assert.False(kvm.Cpu.InterruptWindowOpen);
        Assert.Equal((ExitReason.Mmio, 0xB_8000ul, 8, 0x0102_0304_0506_0708ul), Of(kvm.Cpu.Enter()));
        Assert.Equal(ExitReason.Hlt, kvm.Cpu.Enter().Reason);
        Assert.Single(kvm.Log, "KVM_RUN");
    }

    [Fact]
    public void A_kick_comes_after_them()
    {
        using var kvm = new FakeVcpu(posted: _posted);
        kvm.Then(_ =>
        {
            Post(0x80, 1, 7);
            kvm.Cpu.Kick();
            return -Errno.Interrupted;
        });
        Assert.Equal(ExitReason.Io, kvm.Cpu.Enter().Reason);
        Assert.Equal(ExitReason.Kicked, kvm.Cpu.Enter().Reason);
    }

    [Fact]
    public void The_ring_wraps()
    {
        using var kvm = new FakeVcpu(posted: _posted);
        for (ulong round = 0; round < 5; round++)
        {
            ulong first = round * KvmCoalescedRing.Capacity;
            kvm.ThenExit(KvmExit.Hlt, () =>
            {
                for (ulong n = 0; n < KvmCoalescedRing.Capacity - 1; n++) Post(0x80, 4, first + n);
            });
            for (uint n = 0; n < KvmCoalescedRing.Capacity - 1; n++) Assert.Equal((ExitReason.Io, 0x80ul, 4, first + n), Of(kvm.Cpu.Enter()));
            Assert.Equal(ExitReason.Hlt, kvm.Cpu.Enter().Reason);
        }
    }

    [Fact]
    public void While_one_vCPU_shows_them_another_one_waits_and_a_kick_ends_its_wait_but_not_its_exit()
    {
        using FakeVcpu one = new(posted: _posted), other = new(posted: _posted, index: 1);
        one.ThenExit(KvmExit.Hlt, () => Post(0x80, 1, 5));
        Assert.Equal(ExitReason.Io, one.Cpu.Enter().Reason);
        other.ThenExit(KvmExit.Shutdown);
        other.Cpu.Kick();
        other.Run->ImmediateExit = 0; // the kick comes when the guest has just left by itself
        Assert.Equal(ExitReason.Kicked, other.Cpu.Enter().Reason); // the first one has not handled the write yet
        Assert.Equal(ExitReason.Hlt, one.Cpu.Enter().Reason);
        Assert.Equal(ExitReason.TripleFault, other.Cpu.Enter().Reason);
        Assert.Single(other.Log, "KVM_RUN");
    }

    [Fact]
    public void A_new_state_drops_what_was_not_shown_but_the_writes()
    {
        using var kvm = new FakeVcpu(posted: _posted);
        kvm.ThenExit(KvmExit.Io, () =>
        {
            Post(0x80, 1, 5);
            Post(0x80, 1, 6);
            (kvm.Run->IoPort, kvm.Run->IoSize, kvm.Run->IoCount, kvm.Run->IoIsWrite, kvm.Run->IoDataOffset) = (0x60, 1, 1, 0, FakeVcpu.IoData);
        });
        Assert.Equal(5ul, kvm.Cpu.Enter().Data);
        kvm.ThenReturn(); // KVM gets an answer to the read, so that it does not finish it in the new state
        kvm.Cpu.WriteState(new CpuState());
        kvm.ThenExit(KvmExit.Hlt);
        Assert.Equal(6ul, kvm.Cpu.Enter().Data);
        Assert.Equal(ExitReason.Hlt, kvm.Cpu.Enter().Reason);
    }

    // ---- where KVM has no such thing

    [Fact]
    public void Without_the_capabilities_exits_come_as_ever()
    {
        using EventDescriptor e = new();
        var shortcuts = new KvmShortcuts(new FakeVm(), () => null);
        Assert.False(shortcuts.TryAddDoorbell(new Doorbell(true, 0x500, 1), e));
        shortcuts.RemoveDoorbell(new Doorbell(true, 0x500, 1), e);
        Assert.False(shortcuts.TryPostWrites(true, 0x80, 1));
        Assert.False(shortcuts.TryPostWrites(false, 0xB_8000, 0x8000));
        Assert.False(shortcuts.TryConnectInterrupt(e, default));
        shortcuts.DisconnectInterrupt(e);
    }

    [Fact]
    public void Where_KVM_has_no_room_left_exits_come_as_ever()
    {
        using EventDescriptor e = new();
        FakeVm vm = Capable();
        (vm.Results["KVM_IOEVENTFD"], vm.Results["KVM_REGISTER_COALESCED_MMIO"]) = (-Errno.NoSpace, -Errno.NoSpace);
        var shortcuts = new KvmShortcuts(vm, () => null);
        Assert.False(shortcuts.TryAddDoorbell(new Doorbell(true, 0x500, 1), e));
        Assert.False(shortcuts.TryPostWrites(true, 0x80, 1));
    }

    [Fact]
    public void A_request_that_fails_is_named_and_leaves_nothing_behind()
    {
        using EventDescriptor e = new();
        FakeVm vm = Capable();
        (vm.Results["KVM_IOEVENTFD"], vm.Results["KVM_REGISTER_COALESCED_MMIO"], vm.Results["KVM_IRQFD"]) = (-Errno.Exists, -Errno.Invalid, -Errno.BadAddress);
        KvmApics apics = KvmApics.TryCreate(vm)!;
        var shortcuts = new KvmShortcuts(vm, () => apics);
        Assert.Contains("KVM_IOEVENTFD failed: EEXIST; ",
            Assert.Throws<KvmException>(() => shortcuts.TryAddDoorbell(new Doorbell(true, 0x500, 1), e)).Message, StringComparison.Ordinal);
        Assert.Contains("KVM_REGISTER_COALESCED_MMIO failed: EINVAL; ",
            Assert.Throws<KvmException>(() => shortcuts.TryPostWrites(true, 0x80, 1)).Message, StringComparison.Ordinal);
        Assert.Contains("KVM_IRQFD failed: EFAULT; ",
            Assert.Throws<KvmException>(() => shortcuts.TryConnectInterrupt(e, default)).Message, StringComparison.Ordinal);
        Assert.Equal(KvmApics.Pins, apics.AddRoute(default)); // the failed one's number is free
    }

    private static FakeVm Capable()
    {
        FakeVm vm = FakeVm.WithApics();
        foreach (KvmCapability c in (KvmCapability[])[KvmCapability.Ioeventfd, KvmCapability.Irqfd,
            KvmCapability.CoalescedMmio, KvmCapability.CoalescedPio]) vm.Capabilities[c] = 1;
        return vm;
    }
}
