using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3C, "Instructions That Cause VM Exits" and "Information for VM Exits Due to Instruction Execution": each basic exit reason that an
/// instruction has; and that there is a test for each of the others.
/// </summary>
public sealed class VmxExitReasonTests
{
    /// <param name="Primary">Primary controls beside those that must be set.</param>
    /// <param name="Emit">Code of the guest, whose last instruction exits.</param>
    /// <param name="Information">The VM-exit instruction information; null: not looked at.</param>
    private sealed record Case(
        VmxExitReason Reason, Action<Assembler> Emit, ProcessorControls Primary = 0, SecondaryControls Secondary = 0, ulong Qualification = 0,
        uint? Information = null);

    private const ulong Operand = VmxGuest.GuestStackTop; // RSP, which memory operands below are relative to

    private static readonly Dictionary<string, Case> s_cases = new()
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        ["CPUID"]    = new(VmxExitReason.Cpuid, a => a.cpuid()),
        ["HLT"]      = new(VmxExitReason.Hlt, a => a.hlt(), ProcessorControls.HltExiting),
        ["INVD"]     = new(VmxExitReason.Invd, a => a.invd()),
        ["INVLPG"]   = new(VmxExitReason.Invlpg, a => a.invlpg(__byte_ptr[rsp - 0x1000]), ProcessorControls.InvlpgExiting, 0, Operand - 0x1000),
        ["RDPMC"]    = new(VmxExitReason.Rdpmc, a => a.rdpmc(), ProcessorControls.RdpmcExiting),
        ["RDTSC"]    = new(VmxExitReason.Rdtsc, a => a.rdtsc(), ProcessorControls.RdtscExiting),
        ["VMCALL"]   = new(VmxExitReason.Vmcall, a => a.vmcall()),
        ["VMCLEAR"]  = new(VmxExitReason.Vmclear, a => a.vmclear(__qword_ptr[rsp - 16]), 0, 0, unchecked((ulong)-16)),
        ["VMLAUNCH"] = new(VmxExitReason.Vmlaunch, a => a.vmlaunch()),
        ["VMPTRLD"]  = new(VmxExitReason.Vmptrld, a => a.vmptrld(__qword_ptr[rsp - 16]), 0, 0, unchecked((ulong)-16)),
        ["VMPTRST"]  = new(VmxExitReason.Vmptrst, a => a.vmptrst(__qword_ptr[rsp - 16]), 0, 0, unchecked((ulong)-16)),
        ["VMREAD"]   = new(VmxExitReason.Vmread, a => a.vmread(rdx, rcx), 0, 0, 0, 1u << 10 | 2u << 3 | 1u << 28),
        ["VMRESUME"] = new(VmxExitReason.Vmresume, a => a.vmresume()),
        ["VMWRITE"]  = new(VmxExitReason.Vmwrite, a => a.vmwrite(rdx, rcx), 0, 0, 0, 1u << 10 | 1u << 3 | 2u << 28),
        ["VMXOFF"]   = new(VmxExitReason.Vmxoff, a => a.vmxoff()),
        ["VMXON"]    = new(VmxExitReason.Vmxon, a => a.vmxon(__qword_ptr[rsp + 8]), 0, 0, 8),
        ["CR0"]      = new(VmxExitReason.CrAccess, a => { a.mov(rdx, cr0); a.btc(rdx, 3); a.mov(cr0, rdx); }, 0, 0, 2 << 8),
        ["CR3"]      = new(VmxExitReason.CrAccess, a => a.mov(cr3, rdx), ProcessorControls.Cr3LoadExiting, 0, 3 | 2 << 8),
        ["from CR3"] = new(VmxExitReason.CrAccess, a => a.mov(rsi, cr3), ProcessorControls.Cr3StoreExiting, 0, 3 | 1 << 4 | 6 << 8),
        ["CR8"]      = new(VmxExitReason.CrAccess, a => a.mov(cr8, rdx), ProcessorControls.Cr8LoadExiting, 0, 8 | 2 << 8),
        ["from CR8"] = new(VmxExitReason.CrAccess, a => a.mov(r9, cr8), ProcessorControls.Cr8StoreExiting, 0, 8 | 1 << 4 | 9 << 8),
        ["CLTS"]     = new(VmxExitReason.CrAccess, a => a.clts(), 0, 0, 2 << 4),
        ["LMSW"]     = new(VmxExitReason.CrAccess, a => { a.mov(edx, 1); a.lmsw(dx); }, 0, 0, 3 << 4 | 1 << 16),
        ["DR"]       = new(VmxExitReason.MovDr, a => a.mov(dr7, rdx), ProcessorControls.MovDrExiting, 0, 7 | 2 << 8),
        ["from DR"]  = new(VmxExitReason.MovDr, a => a.mov(rdx, dr3), ProcessorControls.MovDrExiting, 0, 3 | 1 << 4 | 2 << 8),
        ["OUT"]      = new(VmxExitReason.Io, a => a.@out(0x80, al), ProcessorControls.UnconditionalIoExiting, 0, 1 << 6 | 0x80 << 16),
        ["IN"]       = new(VmxExitReason.Io, a => { a.mov(edx, 0x1F0); a.@in(eax, dx); }, ProcessorControls.UnconditionalIoExiting, 0,
                           3 | 1 << 3 | 0x1F0 << 16),
        ["REP OUTS"] = new(VmxExitReason.Io, a => { a.mov(edx, 0x1F0); a.mov(ecx, 4); a.mov(rsi, Operand); a.rep.outsw(); },
                           ProcessorControls.UnconditionalIoExiting, 0, 1 | 1 << 4 | 1 << 5 | 0x1F0 << 16, 2 << 7 | 3 << 15),
        ["RDMSR"]    = new(VmxExitReason.Rdmsr, a => { a.mov(ecx, 0x1234_5678); a.rdmsr(); }),
        ["WRMSR"]    = new(VmxExitReason.Wrmsr, a => { a.mov(ecx, 0x1234_5678); a.wrmsr(); }),
        ["MWAIT"]    = new(VmxExitReason.Mwait, a => { a.xor(ecx, ecx); a.mwait(); }, ProcessorControls.MwaitExiting),
        ["MONITOR"]  = new(VmxExitReason.Monitor, a => { a.mov(rax, rsp); a.xor(ecx, ecx); a.monitorq(); }, ProcessorControls.MonitorExiting),
        ["PAUSE"]    = new(VmxExitReason.Pause, a => a.pause(), ProcessorControls.PauseExiting),
        ["SGDT"]     = new(VmxExitReason.GdtrOrIdtr, a => a.sgdt(__[rsp - 16]), 0, SecondaryControls.DescriptorTableExiting, unchecked((ulong)-16)),
        ["LIDT"]     = new(VmxExitReason.GdtrOrIdtr, a => a.lidt(__[rsp - 16]), 0, SecondaryControls.DescriptorTableExiting, unchecked((ulong)-16)),
        ["STR"]      = new(VmxExitReason.LdtrOrTr, a => a.str(ebx), 0, SecondaryControls.DescriptorTableExiting, 0, 1u << 10 | 3u << 3 | 1u << 28),
        ["LLDT"]     = new(VmxExitReason.LdtrOrTr, a => a.lldt(bx), 0, SecondaryControls.DescriptorTableExiting, 0, 1u << 10 | 3u << 3 | 2u << 28),
        ["INVEPT"]   = new(VmxExitReason.Invept, a => a.invept(rdx, __xmmword_ptr[rsp + 8]), 0, 0, 8),
        ["RDTSCP"]   = new(VmxExitReason.Rdtscp, a => a.rdtscp(), ProcessorControls.RdtscExiting, SecondaryControls.EnableRdtscp),
        ["INVVPID"]  = new(VmxExitReason.Invvpid, a => a.invvpid(rdx, __xmmword_ptr[rsp + 8]), 0, 0, 8),
        ["WBINVD"]   = new(VmxExitReason.Wbinvd, a => a.wbinvd(), 0, SecondaryControls.WbinvdExiting),
        ["XSETBV"]   = new(VmxExitReason.Xsetbv, a => a.xsetbv()),
        ["RDRAND"]   = new(VmxExitReason.Rdrand, a => a.rdrand(edx), 0, SecondaryControls.RdrandExiting, 0, 2 << 3 | 1 << 11),
        ["INVPCID"]  = new(VmxExitReason.Invpcid, a => a.invpcid(rdx, __xmmword_ptr[rsp + 8]), ProcessorControls.InvlpgExiting,
                           SecondaryControls.EnableInvpcid, 8),
        ["VMFUNC"]   = new(VmxExitReason.Vmfunc, a => { a.mov(eax, 1); a.vmfunc(); }, 0, SecondaryControls.EnableVmFunctions | SecondaryControls.EnableEpt),
        ["RDSEED"]   = new(VmxExitReason.Rdseed, a => a.rdseed(r9), 0, SecondaryControls.RdseedExiting, 0, 9 << 3 | 2 << 11),
#pragma warning restore IDE0055
    };

    /// <summary>Reasons of no instruction, or whose tests need more, by the tests.</summary>
    private static readonly Dictionary<VmxExitReason, string> s_elsewhere = new()
    {
        [VmxExitReason.ExceptionOrNmi] = nameof(VmxTests.The_exception_bitmap_takes_exceptions_and_the_error_code_mask_and_match_page_faults),
        [VmxExitReason.ExternalInterrupt] = nameof(VmxStateTests.An_external_interrupt_exits_and_is_acknowledged_if_the_exit_controls_say_so),
        [VmxExitReason.TripleFault] = nameof(VmxTests.A_triple_fault_exits),
        [VmxExitReason.Init] = nameof(VmxVirtualInterruptTests.INIT_exits_from_a_guest_and_waits_in_VMX_root_operation),
        [VmxExitReason.StartupIpi] = nameof(VmxVirtualInterruptTests.A_guest_in_wait_for_SIPI_exits_with_the_vector_of_the_start_up_IPI),
        [VmxExitReason.ApicAccess] = nameof(VmxApicTests.APIC_access_VM_exits_have_the_offset_and_the_type_of_the_access),
        [VmxExitReason.ApicWrite] =
            nameof(VmxApicTests.APIC_register_virtualization_has_these_registers_to_write_and_APIC_write_VM_exits_follow),
        [VmxExitReason.VirtualizedEoi] = nameof(VmxVirtualInterruptTests.EOI_exit_bitmaps),
        [VmxExitReason.InterruptWindow] = nameof(VmxTests.Interrupt_window_exiting_waits_for_IF_and_the_end_of_blocking_by_STI),
        [VmxExitReason.NmiWindow] = nameof(VmxStateTests.NMI_window_exiting_with_virtual_NMIs),
        [VmxExitReason.TaskSwitch] = nameof(VmxStateTests.A_task_switch_exits_with_its_source),
        [VmxExitReason.EntryInvalidGuestState] = nameof(VmxTests.Checks_on_guest_state_end_in_an_exit_of_a_failed_entry),
        [VmxExitReason.EntryMsrLoading] = nameof(VmxTests.An_MSR_that_an_entry_cannot_load_is_named_by_its_place_in_the_list),
        [VmxExitReason.MonitorTrapFlag] = nameof(VmxTests.The_monitor_trap_flag_exits_after_one_instruction),
        [VmxExitReason.TprBelowThreshold] = nameof(VmxFeatureTests.The_TPR_shadow_is_the_guests_CR8_and_an_exit_follows_when_it_falls_below_the_threshold),
        [VmxExitReason.EptViolation] = nameof(VmxTests.EPT_violations),
        [VmxExitReason.EptMisconfiguration] = nameof(VmxTests.EPT_misconfigurations),
        [VmxExitReason.PreemptionTimer] = nameof(VmxTests.A_preemption_timer_of_0_exits_before_the_first_instruction),
        [VmxExitReason.PmlFull] =
            nameof(VmxFeatureTests.Page_modification_logging_notes_each_page_whose_dirty_flag_is_set_and_exits_when_the_log_is_full),
    };

    /// <summary>Reasons that no guest of this processor exits for.</summary>
    private static readonly Dictionary<VmxExitReason, string> s_absent = new()
    {
        [VmxExitReason.Rsm] = "RSM raises #UD outside system management mode, which there is not",
        [VmxExitReason.EntryMachineCheck] = "there are no machine checks",
        [VmxExitReason.Xsaves] = "IA32_XSS has no bits, so that no component can be chosen",
        [VmxExitReason.Xrstors] = "IA32_XSS has no bits, so that no component can be chosen",
    };

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class EveryCaseAttribute : Xunit.Sdk.DataAttribute
    {
        public override IEnumerable<object?[]> GetData(System.Reflection.MethodInfo testMethod) =>
            new EnginesAttribute().GetData(testMethod).SelectMany(e => s_cases.Keys.Where(n => (string)e[0]! != "check" || !IsRandom(n))
                .Select(n => (object?[])[e[0], n]));

        /// <summary>Guests of two engines at once get no random numbers, and their hypervisors no control over them.</summary>
        private static bool IsRandom(string name) => name is "RDRAND" or "RDSEED";
    }

    [Theory, EveryCase]
    public void Instructions_exit_before_any_effect_with_their_reason_qualification_and_length(string engine, string name)
    {
        Case c = s_cases[name];
        using var v = new VmxGuest("max,+vmx,+monitor");
        if ((c.Secondary & SecondaryControls.EnableEpt) != 0) v.WithEpt();
        v.Fields[VmField.Primary] |= (uint)c.Primary;
        v.Fields[VmField.Cr0Mask] = v.Fields[VmField.Cr0Shadow] = 8; // TS
        v.Fields[VmField.GuestCr4] |= 0x4_0000; // OSXSAVE
        if (c.Secondary != 0)
        {
            v.Fields[VmField.Primary] |= VmControl.Secondary;
            v.Fields[VmField.Secondary] = (ulong)c.Secondary;
        }
        v.Guest(a =>
        {
            c.Emit(a);
            v.G.Mark(a, "next");
            a.nop();
        });
        VmxExitResult r = v.Run(engine).Is((uint)c.Reason, c.Qualification);
        Assert.Equal(v.G["next"], r[VmField.GuestRip] + r[VmField.Length]);
        Assert.Equal((0ul, 0ul), (r[VmField.Interruption], r[VmField.Vectoring]));
        Assert.Equal(Operand, r[VmField.GuestRsp]);
        if (c.Information is { } information) Assert.Equal(information, (uint)r[VmField.Information]);
    }

    /// <summary>Bits 29:28 say which instruction it is, bit 11 the operand size outside 64-bit mode.</summary>
    [Theory]
    [Engines(0u), Engines(1u), Engines(2u), Engines(3u)]
    public void Instruction_information_of_descriptor_tables_has_the_memory_operand(string engine, uint identity)
    {
        using var v = new VmxGuest();
        v.Fields[VmField.Primary] |= VmControl.Secondary;
        v.Fields[VmField.Secondary] = VmControl.DescriptorTables;
        v.Guest(a =>
        {
            if (identity == 0) a.sgdt(__[rbx + 0x12]);
            else if (identity == 1) a.sidt(__[rbx + 0x12]);
            else if (identity == 2) a.lgdt(__[rbx + 0x12]);
            else a.lidt(__[rbx + 0x12]);
        });
        VmxExitResult r = v.Run(engine).Is((uint)VmxExitReason.GdtrOrIdtr, 0x12, 4);
        Assert.Equal(2u << 7 | 3u << 15 | 1u << 22 | 3u << 23 | identity << 28, (uint)r[VmField.Information] & ~(1u << 11));
    }

    [Fact]
    public void Every_exit_reason_has_a_test_or_a_cause_for_none()
    {
        var tested = s_cases.Values.Select(c => c.Reason).Concat(s_elsewhere.Keys).Concat(s_absent.Keys).ToHashSet();
        Assert.Empty(Enum.GetValues<VmxExitReason>().Except(tested));
        Assert.Empty(s_absent.Keys.Intersect(s_cases.Values.Select(c => c.Reason).Concat(s_elsewhere.Keys)));
    }
}
