using System.Reflection;
using Bunraku.Engine.Check;
using Bunraku.Engine.Kvm;
using Bunraku.Engines;

namespace Bunraku.Fixtures;

/// <summary>Fixtures that an engine cannot run on this host, and why. They yield no test for it, so that none of them counts as passed.</summary>
internal static class NotRun
{
    /// <summary>
    /// KVM without hardware runs the guest in the kernel's instruction emulator, which is made for instructions that touch devices: it lacks INT n outside
    /// real mode, BOUND, WAIT, most of x87 and SSE, paging outside long mode (MOV to CR0 raises #GP there), locks across cache lines, and the rules for a
    /// second fault. These fixtures keep to what it does. With hardware behind it, KVM runs all of them.
    /// </summary>
    private static readonly HashSet<string> s_withinReachOfTheEmulator =
    [
        nameof(DebugTests.DR4_and_DR5_are_DR6_and_DR7_without_CR4_DE),
        nameof(DebugTests.DR7_GD_makes_any_access_to_a_debug_register_fault_with_BD_and_is_cleared),
        nameof(DebugTests.IRET_that_sets_TF_traps_after_the_instruction_that_it_returns_to),
        nameof(DebugTests.POPF_that_sets_TF_traps_after_the_following_instruction),
        nameof(DebugTests.TF_traps_after_each_instruction_with_BS),
        nameof(DebugTests.The_upper_half_of_DR6_and_DR7_is_reserved),
        nameof(DoubleFaultTests.A_fault_while_delivering_a_double_fault_is_shutdown),
        nameof(DoubleFaultTests.An_empty_IDT_is_shutdown),
        nameof(DoubleFaultTests.Third_fault_after_a_serial_one_is_a_double_fault),
        nameof(ExceptionTests.A_change_of_level_in_long_mode_loads_a_null_SS_with_the_new_CPL),
        nameof(ExceptionTests.In_64_bit_mode_SS_and_RSP_are_always_pushed_on_a_stack_aligned_to_16),
        nameof(ExceptionTests.Instructions_of_more_than_15_bytes_raise_GP),
        nameof(ExceptionTests.Interrupt_11_Segment_Not_Present_has_the_selector),
        nameof(ExceptionTests.Interrupt_12_Stack_Fault_for_a_non_canonical_stack_address_has_error_code_0),
        nameof(ExceptionTests.Interrupt_12_Stack_Fault_for_an_absent_stack_segment_has_the_selector),
        nameof(ExceptionTests.Interrupt_13_General_Protection_for_a_non_canonical_address_has_error_code_0),
        nameof(ExceptionTests.Interrupt_17_Alignment_Check_only_at_level_3_with_AM_and_AC),
        nameof(ExceptionTests.Interrupt_Stack_Table_switches_the_stack_without_a_change_of_level),
        nameof(ExceptionTests.Interrupt_gates_clear_IF_and_trap_gates_do_not),
        nameof(FastSystemCallTests.SYSCALL_in_compatibility_mode_is_AMDs),
        nameof(FastSystemCallTests.SYSENTER_and_SYSEXIT_in_protected_mode),
        nameof(FastSystemCallTests.SYSENTER_with_a_null_CS_raises_GP),
        nameof(FastSystemCallTests.SYSRET_at_level_3_raises_GP),
        nameof(HostileGuestTests.A_data_breakpoint_that_the_handler_hits_again_and_again_stops),
        nameof(HostileGuestTests.A_flood_of_exits_stops),
        nameof(HostileGuestTests.A_loop_with_interrupts_off_stops),
        nameof(HostileGuestTests.A_stack_that_runs_into_nothing_ends_in_a_double_fault),
        nameof(HostileGuestTests.A_string_instruction_without_end_stops),
        nameof(HostileGuestTests.An_endless_exception_stops),
        nameof(HostileGuestTests.An_endless_single_step_trap_stops),
        nameof(HostileGuestTests.Code_that_unmaps_everything_is_shutdown),
        nameof(HostileGuestTests.HLT_with_interrupts_off_stops),
        nameof(HostileGuestTests.Page_tables_outside_of_memory_read_as_all_ones),
        nameof(LifetimeTests.A_VM_that_never_started_or_is_stopped_in_the_middle_leaves_nothing_behind),
        nameof(LifetimeTests.A_hundred_VMs_come_and_go_and_leave_nothing_behind),
        nameof(LifetimeTests.Kick_and_DMA_after_the_end_of_a_vCPU_do_nothing),
        nameof(LifetimeTests.Several_VMs_run_at_the_same_time_and_do_not_meet),
        nameof(MemoryMapTests.A_write_to_ROM_by_a_bus_master_is_refused),
        nameof(MemoryMapTests.ROM_is_read_and_executed_and_a_write_to_it_is_an_access_to_a_device),
        nameof(MemoryMapTests.What_the_map_says_holds_from_the_next_instruction_on),
        nameof(PagingTests.A_write_after_a_read_sets_the_dirty_flag_though_the_translation_is_cached),
        nameof(PagingTests.An_access_that_rights_forbid_leaves_the_dirty_flag_alone),
        nameof(PagingTests.SMEP_forbids_supervisor_fetches_from_user_pages),
        nameof(SegmentTests.A_base_that_makes_the_linear_address_wrap_at_4_GiB_is_no_violation),
        nameof(SegmentTests.A_near_jump_of_16_bits_wraps_its_target_at_64_KiB),
        nameof(SegmentTests.A_null_selector_can_be_loaded_into_ES_but_not_be_used),
        nameof(SegmentTests.A_null_selector_for_SS_raises_GP_0),
        nameof(SegmentTests.A_null_selector_in_a_data_segment_does_not_matter_in_64_bit_mode),
        nameof(SegmentTests.A_selector_beyond_its_table_raises_GP_with_the_selector_and_TI),
        nameof(SegmentTests.Limit_checking_counts_every_byte_of_the_operand),
        nameof(SegmentTests.Limit_checking_of_a_small_expand_down_segment),
        nameof(SegmentTests.Limit_checking_of_an_expand_up_segment),
        nameof(SegmentTests.Loading_DS_with_what_cannot_be_read_raises_GP_with_the_selector),
        nameof(SegmentTests.Real_mode_checks_the_limit_of_64_KiB),
        nameof(SegmentTests.SS_needs_writable_data_with_RPL_and_DPL_equal_to_CPL),
        nameof(SegmentTests.Type_checking_of_reads_and_writes),
        nameof(TaskSwitchTests.LTR_marks_the_TSS_busy_and_refuses_a_busy_one),
        nameof(TransferTests.IRETQ_with_NT_raises_GP_in_long_mode),
        nameof(TransferTests.IRET_to_a_null_SS_is_allowed_at_levels_below_3_of_64_bit_mode_only),
        nameof(TransferTests.Real_mode_goes_to_protected_mode_to_long_mode_and_back),
        nameof(TranslationCacheTests.A_page_fault_for_a_write_that_the_tables_now_allow_is_not_repeated),
        nameof(TranslationCacheTests.A_page_that_becomes_present_needs_no_invalidation),
    ];

    /// <summary>Fixtures of other classes than those of <see cref="SmpTests"/> with several vCPUs.</summary>
    private static readonly HashSet<string> s_needSeveralCpus =
    [
        nameof(SecondStageTests.When_the_right_to_write_has_been_taken_no_vCPU_writes_any_more),
        nameof(LifetimeTests.Split_locked_operations_of_two_vCPUs_are_one_after_another),
        nameof(VmxMovedTests.A_VMCS_moves_between_processors),
        nameof(ParavirtualTests.Msr_KVM_SYSTEM_TIME_is_not_stable_while_the_TSCs_of_two_vCPUs_differ),
    ];

    /// <summary>
    /// Fixtures in which another thread writes to what the guest looks at in the same moment, or takes its rights away. The engine that compares two learns of
    /// it, but not between which two instructions of its subject it came. So with a kick that comes when the subject has fetched an instruction, the accessed
    /// flag of whose page is set by it, and not executed it: a fixture that goes to pages for the first time all the while meets that often.
    /// </summary>
    private static readonly HashSet<string> s_needNoOrder = [
        nameof(DirtyPageTests.A_copy_that_follows_the_log_is_whole),
        nameof(MovedCodeTests.Where_other_code_is_mapped_in_between_each_is_executed_as_mapped)];

    /// <summary>Fixtures of controls: classes whose engines must be able to make any instruction exit.</summary>
    private static readonly HashSet<Type> s_needIntercepts = [typeof(ExecutionControlTests), typeof(EventExitTests)];

    /// <summary>Fixtures of the paravirtual interface that the hypervisor offers: engines must let hypercalls exit.</summary>
    private static readonly HashSet<Type> s_needHypercalls = [typeof(ParavirtualTests)];

    /// <summary>Fixtures of rights to guest-physical pages, which engines must honour.</summary>
    private static readonly HashSet<Type> s_needPageRights = [typeof(SecondStageTests)];

    /// <summary>Fixtures of hypervisors inside the guest.</summary>
    private static readonly HashSet<Type> s_needSvm = [typeof(SvmEntryTests), typeof(SvmEventTests), typeof(SvmInterceptTests), typeof(NestedPagingTests),
        typeof(SvmStateTests), typeof(NestedObservationTests)];

    /// <summary>KVM without hardware behind it.</summary>
    public static bool IsEmulatedByKernel(IX86Engine engine) => engine is KvmEngine && engine.Probe() is { Available: true, Hardware: false, Chosen: false };

    /// <summary>Null when the engine runs the fixture.</summary>
    public static string? Reason(IX86Engine engine, MethodInfo fixture)
    {
        if (engine.MaxCpus < 2 && (fixture.DeclaringType == typeof(SmpTests) || s_needSeveralCpus.Contains(fixture.Name)))
            return "the engine has one virtual processor";
        if (engine is CheckEngine && s_needNoOrder.Contains(fixture.Name))
            return "what another thread does has no place among the instructions that the reference could follow";
        if (s_needIntercepts.Contains(fixture.DeclaringType!) && engine.Intercepts.ExceptionBitmap == 0)
            return "the engine lets no instruction or exception exit";
        if (s_needHypercalls.Contains(fixture.DeclaringType!) && (engine.Intercepts.Instructions & InterceptedInstructions.Hypercall) == 0)
            return "the engine lets no hypercall exit";
        if (s_needPageRights.Contains(fixture.DeclaringType!) && !HonoursPageRights(engine)) return "the engine knows no rights to guest-physical pages";
        if (fixture.DeclaringType == typeof(HostDebuggerTests) && engine.WhyNoDebugger is { } undebugged) return undebugged;
        if (s_needSvm.Contains(fixture.DeclaringType!) && engine is KvmEngine) return "its virtualization hardware would be the host's own";
        if (fixture.DeclaringType!.Name.StartsWith("Vmx", StringComparison.Ordinal) && engine is KvmEngine)
            return "the engine passes VMX on only where the host has it";
        if (fixture.DeclaringType == typeof(VendorBehaviorTests) && engine is KvmEngine) return "the host's processor is of one vendor";
        return IsEmulatedByKernel(engine) && !s_withinReachOfTheEmulator.Contains(fixture.Name)
            ? "the kernel's instruction emulator does not get that far" : null;
    }

    private static bool HonoursPageRights(IX86Engine engine)
    {
        using var memory = new GuestMemory(Layout.MemorySize);
        using IX86Vm vm = engine.CreateVm(memory, CpuModels.Parse("max"), new VirtualClock());
        return vm.HonoursPageRights;
    }
}
