using System.Runtime.InteropServices;
using Bunraku.Engine.Kvm;
using Bunraku.Engines;
using Bunraku.Platform;
using Bunraku.Processor.X86;

namespace Bunraku.Kvm.Tests;

/// <summary>Local APICs in the kernel, their routes, and what happens where KVM lacks them.</summary>
public sealed unsafe class ApicTests
{
    private readonly FakeVm _vm = FakeVm.WithApics();

    private KvmApics Apics => KvmApics.TryCreate(_vm)!;

    private FakeVcpu NewCpu(int index = 0) => new(apics: Apics, index: index);

    private static ref T State<T>(FakeVcpu cpu, KvmRequest set) where T : unmanaged => ref MemoryMarshal.AsRef<T>(cpu.State(set));

    private static LocalApicState Lapic(FakeVcpu cpu)
    {
        var apic = new LocalApicState();
        cpu.State(KvmRequest.SetLapic).CopyTo(apic.Registers);
        return apic;
    }

    private static void SetLapic(FakeVcpu cpu, Action<LocalApicState> change)
    {
        LocalApicState apic = Lapic(cpu);
        change(apic);
        apic.Registers.CopyTo(cpu.State(KvmRequest.SetLapic));
    }

    // ---- falling back

    [Theory, InlineData(nameof(KvmCapability.SplitIrqChip)), InlineData(nameof(KvmCapability.SignalMsi)), InlineData(nameof(KvmCapability.InterruptRouting)),
        InlineData(nameof(KvmCapability.MultiprocessingState))]
    public void Without_a_capability_the_boards_local_APICs_are_used(string missing)
    {
        _vm.Capabilities[Enum.Parse<KvmCapability>(missing)] = 0;
        Assert.Null(KvmApics.TryCreate(_vm));
        Assert.Empty(_vm.Log);
        Assert.Contains(missing, KvmHost.Describe(_vm, KvmBacking.Vmx, true).Detail, StringComparison.Ordinal);
    }

    [Fact]
    public void When_KVM_refuses_the_boards_local_APICs_are_used()
    {
        _vm.Results["KVM_ENABLE_CAP"] = -Errno.Invalid;
        Assert.Null(KvmApics.TryCreate(_vm));
    }

    // ---- messages and routes

    [Theory, InlineData(1, true), InlineData(3, true), InlineData(0, false), InlineData(-Errno.NotPermitted, false)]
    public void A_message_is_accepted_or_not(long result, bool accepted)
    {
        _vm.Results["KVM_SIGNAL_MSI"] = result;
        KvmMsi seen = default;
        _vm.Observe = (request, argument) => seen = request == KvmRequest.SignalMsi ? *(KvmMsi*)argument : seen;
        Assert.Equal(accepted, Apics.Deliver(new MsiMessage(0x1_FEE0_1004, 0x8051)));
        Assert.Equal((0xFEE0_1004u, 1u, 0x8051u, 0u), (seen.AddressLow, seen.AddressHigh, seen.Data, seen.Flags));
    }

    [Theory, InlineData("KVM_SIGNAL_MSI"), InlineData("KVM_SET_GSI_ROUTING")]
    public void A_request_that_fails_is_named(string request)
    {
        _vm.Results[request] = -Errno.Invalid;
        KvmApics apics = Apics;
        KvmException e = Assert.Throws<KvmException>(() =>
        {
            apics.Deliver(new MsiMessage(0xFEE0_0000, 0x51));
            apics.SetRoute(3, new MsiMessage(0xFEE0_0000, 0x51));
        });
        Assert.StartsWith($"{request} failed: EINVAL; ", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_routing_table_has_the_pins_and_the_events_behind_them()
    {
        var table = new List<(uint Gsi, uint Address, uint Data)>();
        _vm.Observe = (request, argument) =>
        {
            if (request != KvmRequest.SetRouting) return;
            table.Clear();
            var entry = (KvmMsiRoute*)((byte*)argument + 8);
            for (uint n = 0; n < *(uint*)argument; n++, entry++)
            {
                Assert.Equal((KvmMsiRoute.Msi, 0u), (entry->Type, entry->Flags));
                table.Add((entry->Gsi, entry->AddressLow, entry->Data));
            }
        };
        KvmApics apics = Apics;
        apics.SetRoute(10, new MsiMessage(0xFEE0_0000, 0x8041));
        int? first = apics.AddRoute(new MsiMessage(0xFEE0_1000, 0x52)), second = apics.AddRoute(new MsiMessage(0xFEE0_2000, 0x53));
        Assert.Equal((24, 25), (first, second));
        Assert.Equal([(10u, 0xFEE0_0000u, 0x8041u), (24u, 0xFEE0_1000u, 0x52u), (25u, 0xFEE0_2000u, 0x53u)], table);

        int requests = _vm.Log.Count;
        apics.SetRoute(10, new MsiMessage(0xFEE0_0000, 0x8041)); // nothing new
        apics.SetRoute(11, null);
        Assert.Equal(requests, _vm.Log.Count);
        apics.SetRoute(10, new MsiMessage(0xFEE0_0000, 0x8042));
        Assert.Equal(0x8042u, table[0].Data);
        apics.SetRoute(10, null);
        apics.RemoveRoute(24);
        Assert.Equal([(25u, 0xFEE0_2000u, 0x53u)], table);
        Assert.Equal(24, apics.AddRoute(default));
        for (int n = 0; n < 24; n++) Assert.NotNull(apics.AddRoute(default));
        Assert.Null(apics.AddRoute(default)); // 26 are all that this KVM has
        Assert.Throws<ArgumentOutOfRangeException>(() => apics.SetRoute(24, null));
        Assert.Throws<ArgumentOutOfRangeException>(() => apics.SetRoute(-1, null));
    }

    // ---- the vCPU

    [Fact]
    public void The_end_of_a_level_triggered_interrupt_is_an_exit()
    {
        using FakeVcpu kvm = NewCpu();
        kvm.ThenExit(KvmExit.IoApicEoi, () => kvm.Run->EoiVector = 0x41);
        X86Exit e = kvm.Cpu.Enter();
        Assert.Equal((ExitReason.VirtualizedEoi, 0x41ul), (e.Reason, e.Address));
    }

    [Fact]
    public void The_task_priority_is_the_kernels_affair()
    {
        using FakeVcpu kvm = NewCpu();
        kvm.ThenExit(KvmExit.Hlt, () => kvm.Run->Cr8 = 9);
        Assert.Equal(ExitReason.Hlt, kvm.Cpu.Enter().Reason);
        kvm.Cpu.SetTaskPriority(3);
        Assert.Equal(9ul, kvm.Run->Cr8);
    }

    [Fact]
    public void An_interrupt_of_the_8259A_shows_in_the_state_until_it_is_delivered_and_ends_HLT()
    {
        using FakeVcpu kvm = NewCpu();
        State<uint>(kvm, KvmRequest.SetMpState) = (uint)KvmMpState.Halted;
        kvm.Cpu.Controls = new ExecutionControls(InterruptWindowExiting: true);
        Assert.False(kvm.Cpu.InterruptWindowOpen); // only KVM knows what LINT0 lets through
        kvm.ThenExit(KvmExit.InterruptWindowOpen, () => kvm.Run->ReadyForInterruptInjection = 1);
        Assert.Equal(ExitReason.InterruptWindow, kvm.Cpu.Enter().Reason);
        kvm.Cpu.InjectInterrupt(0x30);
        Assert.DoesNotContain("KVM_INTERRUPT", kvm.Log);
        var state = new CpuState();
        kvm.Cpu.ReadState(state);
        Assert.Equal(new PendingEvent(EventKind.ExternalInterrupt, 0x30), state.Pending);
        Assert.Equal(CpuActivity.Active, state.Activity);
    }

    [Fact]
    public void The_local_APIC_is_part_of_the_state()
    {
        using FakeVcpu from = NewCpu(), to = NewCpu();
        SetLapic(from, a => (a[LocalApicOffset.InService + 0x20], a[LocalApicOffset.InterruptRequest + 0x30], a[LocalApicOffset.InitialCount],
            a[LocalApicOffset.CurrentCount]) = (2, 4, 100, 60));
        State<uint>(from, KvmRequest.SetMpState) = (uint)KvmMpState.Halted;
        State<KvmSystemRegisters>(from, KvmRequest.SetSystemRegisters).ApicBase = 0xFEE0_0900;
        var state = new CpuState();
        from.Cpu.ReadState(state);
        Assert.Equal((CpuActivity.Halted, false, 0xFEE0_0900ul), (state.Activity, state.Apic!.WaitsForStartUp, state.Apic.Base));
        to.Cpu.WriteState(state);
        Assert.Equal(Lapic(from).Registers, Lapic(to).Registers);
        Assert.Equal((uint)KvmMpState.Halted, State<uint>(to, KvmRequest.SetMpState));
        Assert.Equal(0xFEE0_0900ul, State<KvmSystemRegisters>(to, KvmRequest.SetSystemRegisters).ApicBase);

        state.Apic.WaitsForStartUp = true;
        to.Cpu.WriteState(state);
        Assert.Equal((uint)KvmMpState.InitReceived, State<uint>(to, KvmRequest.SetMpState));

        // A loader's state says nothing of the APIC: it stays.
        to.Cpu.WriteState(new CpuState());
        Assert.Equal(Lapic(from).Registers, Lapic(to).Registers);
        Assert.Equal((uint)KvmMpState.InitReceived, State<uint>(to, KvmRequest.SetMpState));
    }

    [Fact]
    public void A_state_without_an_APIC_in_the_kernel_has_none()
    {
        using var kvm = new FakeVcpu();
        var state = new CpuState { Apic = new LocalApicState(), Activity = CpuActivity.Halted };
        kvm.Cpu.WriteState(state);
        kvm.Cpu.ReadState(state);
        Assert.Null(state.Apic);
        Assert.Equal(CpuActivity.Halted, state.Activity); // kept beside KVM
        Assert.DoesNotContain("KVM_SET_LAPIC", kvm.Log);
        Assert.DoesNotContain("KVM_SET_MP_STATE", kvm.Log);
    }

    [Theory, InlineData("KVM_GET_LAPIC"), InlineData("KVM_GET_MP_STATE")]
    public void Reading_the_APIC_fails_with_a_name(string request)
    {
        using FakeVcpu kvm = NewCpu();
        kvm.Failing[request] = Errno.Invalid;
        Assert.Contains(request, Assert.Throws<KvmException>(() => kvm.Cpu.ReadState(new CpuState())).Message, StringComparison.Ordinal);
    }

    [Theory, InlineData("KVM_SET_LAPIC"), InlineData("KVM_SET_MP_STATE")]
    public void Writing_the_APIC_fails_with_a_name(string request)
    {
        using FakeVcpu kvm = NewCpu();
        kvm.Failing[request] = Errno.Invalid;
        var state = new CpuState { Apic = new LocalApicState() };
        Assert.Contains(request, Assert.Throws<KvmException>(() => kvm.Cpu.WriteState(state)).Message, StringComparison.Ordinal);
    }

    // ---- time

    [Fact]
    public void While_time_stands_still_the_timer_is_out_of_the_kernel_and_what_comes_meanwhile_stays()
    {
        using FakeVcpu kvm = NewCpu();
        SetLapic(kvm, a => (a[LocalApicOffset.InitialCount], a[LocalApicOffset.CurrentCount]) = (1000, 400));
        kvm.Clock.Stop();
        kvm.Cpu.SuspendTime();
        Assert.Equal((0u, 0u), (Lapic(kvm)[LocalApicOffset.InitialCount], Lapic(kvm)[LocalApicOffset.CurrentCount]));
        kvm.Cpu.SuspendTime(); // once more changes nothing
        SetLapic(kvm, a => a[LocalApicOffset.InterruptRequest + 0x20] = 2);

        // Who looks sees the timer as it stood.
        var state = new CpuState();
        kvm.Cpu.ReadState(state);
        Assert.Equal((1000u, 400u), (state.Apic![LocalApicOffset.InitialCount], state.Apic[LocalApicOffset.CurrentCount]));

        kvm.Clock.Start();
        kvm.Cpu.ResumeTime();
        LocalApicState after = Lapic(kvm);
        Assert.Equal((1000u, 400u, 2u), (after[LocalApicOffset.InitialCount],
            after[LocalApicOffset.CurrentCount], after[LocalApicOffset.InterruptRequest + 0x20]));
        kvm.Log.Clear();
        kvm.Cpu.ResumeTime();
        Assert.DoesNotContain("KVM_SET_LAPIC", kvm.Log);
    }

    [Fact]
    public void A_state_that_is_written_while_time_stands_still_has_its_timer_when_it_goes_on()
    {
        using FakeVcpu kvm = NewCpu();
        SetLapic(kvm, a => (a[LocalApicOffset.InitialCount], a[LocalApicOffset.CurrentCount]) = (1000, 400));
        kvm.Clock.Stop();
        kvm.Cpu.SuspendTime();
        var state = new CpuState { Apic = new LocalApicState() };
        (state.Apic[LocalApicOffset.InitialCount], state.Apic[LocalApicOffset.CurrentCount]) = (70, 30);
        kvm.Cpu.WriteState(state);
        Assert.Equal(0u, Lapic(kvm)[LocalApicOffset.InitialCount]);
        kvm.Clock.Start();
        kvm.Cpu.ResumeTime();
        Assert.Equal((70u, 30u), (Lapic(kvm)[LocalApicOffset.InitialCount], Lapic(kvm)[LocalApicOffset.CurrentCount]));
    }

    [Fact]
    public void A_count_that_has_ended_is_left_to_the_kernel()
    {
        using FakeVcpu kvm = NewCpu();
        SetLapic(kvm, a => a[LocalApicOffset.InitialCount] = 1000);
        kvm.Log.Clear();
        kvm.Clock.Stop();
        kvm.Cpu.SuspendTime();
        Assert.DoesNotContain("KVM_SET_LAPIC", kvm.Log);
    }

    // ---- the NMI window

    [Fact]
    public void The_NMI_window_is_looked_for_by_single_steps_while_KVM_holds_an_NMI()
    {
        using var kvm = new FakeVcpu();
        kvm.Cpu.InjectNmi();
        Assert.Throws<InvalidOperationException>(kvm.Cpu.InjectNmi);
        kvm.Cpu.Controls = new ExecutionControls(NmiWindowExiting: true);
        uint Debug() => State<KvmGuestDebug>(kvm, KvmRequest.SetGuestDebug).Control;
        const uint step = KvmGuestDebug.Enable | KvmGuestDebug.SingleStep;
        kvm.ThenExit(KvmExit.Debug, () => Assert.Equal(step, Debug()));
        kvm.ThenExit(KvmExit.Debug, () => (State<KvmVcpuEvents>(kvm, KvmRequest.SetVcpuEvents).NmiPending,
            State<KvmVcpuEvents>(kvm, KvmRequest.SetVcpuEvents).NmiMasked) = (0, 1));
        Assert.Equal(ExitReason.NmiWindow, kvm.Cpu.Enter().Reason);
        Assert.Equal(0u, Debug());
        Assert.Equal(2, kvm.Log.Count(r => r == "KVM_RUN"));
        Assert.Equal(3, kvm.Log.Count(r => r == "KVM_SET_GUEST_DEBUG"));

        kvm.Cpu.Controls = new ExecutionControls();
        kvm.ThenExit(KvmExit.Hlt);
        Assert.Equal(ExitReason.Hlt, kvm.Cpu.Enter().Reason);
        Assert.Equal(3, kvm.Log.Count(r => r == "KVM_SET_GUEST_DEBUG"));
    }

    [Fact]
    public void An_exit_for_debugging_that_nobody_asked_for_is_an_error()
    {
        using var kvm = new FakeVcpu();
        kvm.ThenExit(KvmExit.Debug);
        Assert.Equal(ExitReason.InternalError, kvm.Cpu.Enter().Reason);
    }

    // ---- CPUID

    private static KvmCpuidEntry[] Guest(uint offered, bool hasApic, HypervisorInterface hypervisor)
    {
        CpuModel model = CpuModels.All.First(m => m.Name == "x86-64-v3") with { Hypervisor = hypervisor };
        model = model with { Features = model.Features.Append(CpuFeature.Hypervisor).ToHashSet() };
        return new KvmCpuid([new KvmCpuidEntry { Function = 0x4000_0001, Eax = offered }], model).Entries(0, 1, 1_000_000_000, hasApic);
    }

    /// <summary>
    /// Linux Documentation/virt/kvm/x86/cpuid.rst: clock 0, 3, 24; steal time 5; PV EOI 6, unhalt 7, IPIs 11, yield 13 need an APIC in the kernel; asynchronous
    /// page faults 4, 10, 14.
    /// </summary>
    [Theory]
    [InlineData(uint.MaxValue, true, 0x0100_3AEBu)]
    [InlineData(uint.MaxValue, false, 0x0100_122Bu)]
    [InlineData(0x28u, true, 0x28u)]
    public void Of_the_paravirtual_interface_guests_get_what_KVM_has_and_what_works(uint offered, bool hasApic, uint expected)
    {
        KvmCpuidEntry[] guest = Guest(offered, hasApic, HypervisorInterface.OfEngine);
        Assert.Equal(0x4B4D_564Bu, guest.Single(e => e.Function == 0x4000_0000).Ebx); // KVMK
        Assert.Equal(expected, guest.Single(e => e.Function == 0x4000_0001).Eax);
    }

    [Fact]
    public void Where_it_is_not_wanted_or_not_there_it_is_not_offered()
    {
        foreach (KvmCpuidEntry[] guest in (KvmCpuidEntry[][])[Guest(uint.MaxValue, true, HypervisorInterface.None),
            Guest(0, true, HypervisorInterface.OfEngine)])
        {
            Assert.Equal(0x726E_7542u, guest.Single(e => e.Function == 0x4000_0000).Ebx); // Bunr
            Assert.DoesNotContain(guest, e => e.Function == 0x4000_0001 && e.Eax != 0);
        }
    }

    [Fact]
    public void CPUID_tells_how_many_processors_there_are()
    {
        KvmCpuidEntry[] guest = new KvmCpuid([], FakeVcpu.Model).Entries(2, 4, 1_000_000_000);
        KvmCpuidEntry leaf1 = guest.Single(e => e.Function == 1);
        Assert.Equal((4u, 2u), (leaf1.Ebx >> 16 & 0xFF, leaf1.Ebx >> 24));
    }
}
