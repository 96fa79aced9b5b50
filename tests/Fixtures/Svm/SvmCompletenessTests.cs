using System.Reflection;
using Bunraku.Processor.X86;

namespace Bunraku.Fixtures;

/// <summary>
/// Every field of a VMCB and every exit code is named here, with the test that looks at it, or the reason why none can. What is added to the processor and
/// forgotten here fails by its name. Intercepts: <see cref="SvmInterceptTests.Every_intercept_has_a_test_or_a_reason"/>.
/// </summary>
public sealed class SvmCompletenessTests
{
    private const string Absent = "not offered: ";
    private const string Save = nameof(SvmStateTests.The_save_area_is_loaded_by_VMRUN_and_saved_by_VMEXIT);
    private const string Carried = nameof(SvmEntryTests.VMSAVE_and_VMLOAD_carry_what_VMRUN_does_not);
    private const string Intercepted = nameof(SvmInterceptTests.Exits_before_any_effect_with_RIP_on_the_instruction);
    private const string NestedFault = nameof(NestedPagingTests.A_nested_page_fault_tells_the_access_and_its_address);
    private const string Branches = nameof(SvmStateTests.LBR_virtualization_gives_the_guest_its_own_branch_records);

    private static readonly Dictionary<string, string> s_fields = new()
    {
        [nameof(VmcbControl.CrReads)] = Intercepted,
        [nameof(VmcbControl.CrWrites)] = Intercepted,
        [nameof(VmcbControl.DrReads)] = Intercepted,
        [nameof(VmcbControl.DrWrites)] = Intercepted,
        [nameof(VmcbControl.Exceptions)] = nameof(SvmEventTests.An_intercepted_page_fault_leaves_CR2_alone_and_tells_its_address),
        [nameof(VmcbControl.Intercepts1)] = Intercepted,
        [nameof(VmcbControl.Intercepts2)] = Intercepted,
        [nameof(VmcbControl.Intercepts3)] = Intercepted,
        [nameof(VmcbControl.PauseFilterThreshold)] = nameof(SvmInterceptTests.PAUSEs_far_apart_fill_the_filter_again),
        [nameof(VmcbControl.PauseFilterCount)] = nameof(SvmInterceptTests.PAUSE_exits_when_the_filter_is_used_up),
        [nameof(VmcbControl.IopmBase)] = nameof(SvmInterceptTests.Ports_exit_by_the_permission_map),
        [nameof(VmcbControl.MsrpmBase)] = nameof(SvmInterceptTests.MSRs_exit_by_the_permission_map),
        [nameof(VmcbControl.TscOffset)] = nameof(SvmEntryTests.The_guests_time_stamp_counter_has_its_offset),
        [nameof(VmcbControl.Asid)] = nameof(SvmEntryTests.Inconsistent_state_is_VMEXIT_INVALID),
        [nameof(VmcbControl.TlbControl)] = nameof(NestedPagingTests.TLB_CONTROL_drops_what_it_names_and_another_ASID_knows_nothing),
        [nameof(VmcbControl.VirtualInterrupt)] = nameof(SvmEventTests.A_virtual_interrupt_is_delivered_when_its_priority_is_above_V_TPR),
        [nameof(VmcbControl.InterruptShadow)] = nameof(SvmEventTests.An_exit_in_an_interrupt_shadow_saves_it),
        [nameof(VmcbControl.ExitCode)] = Intercepted,
        [nameof(VmcbControl.ExitInfo1)] = Intercepted,
        [nameof(VmcbControl.ExitInfo2)] = NestedFault,
        [nameof(VmcbControl.ExitIntInfo)] = nameof(SvmEventTests.A_fault_of_an_injected_event_tells_of_it_in_EXITINTINFO),
        [nameof(VmcbControl.NestedControl)] = NestedFault,
        [nameof(VmcbControl.AvicApicBar)] = nameof(SvmAvicTests.Guest_vAPIC_register_reads),
        [nameof(VmcbControl.EventInjection)] = nameof(SvmEventTests.An_injected_event_is_delivered_before_the_first_instruction),
        [nameof(VmcbControl.NestedCr3)] = NestedFault,
        [nameof(VmcbControl.VirtualExtensions)] = Branches,
        [nameof(VmcbControl.Clean)] = Absent + "nothing is cached between two entries, so that any value does",
        [nameof(VmcbControl.NextRip)] = Intercepted,
        [nameof(VmcbControl.FetchedBytes)] = NestedFault,
        [nameof(VmcbControl.Instruction)] = NestedFault,
        [nameof(VmcbControl.AvicBackingPage)] = nameof(SvmAvicTests.A_requested_interrupt_is_delivered_behind_VMRUN),
        [nameof(VmcbControl.AvicLogicalTable)] = nameof(SvmAvicTests.An_interrupt_to_itself_is_delivered),
        [nameof(VmcbControl.AvicPhysicalTable)] = nameof(SvmAvicTests.An_interrupt_to_another_processor_is_left_in_its_backing_page),
        [nameof(VmcbSave.Es)] = Save,
        [nameof(VmcbSave.Cs)] = Save,
        [nameof(VmcbSave.Ss)] = Save,
        [nameof(VmcbSave.Ds)] = Save,
        [nameof(VmcbSave.Fs)] = Carried,
        [nameof(VmcbSave.Gs)] = Carried,
        [nameof(VmcbSave.Gdtr)] = Save,
        [nameof(VmcbSave.Ldtr)] = Carried,
        [nameof(VmcbSave.Idtr)] = Save,
        [nameof(VmcbSave.Tr)] = Carried,
        [nameof(VmcbSave.Cpl)] = Save,
        [nameof(VmcbSave.Efer)] = Save,
        [nameof(VmcbSave.Cr4)] = Save,
        [nameof(VmcbSave.Cr3)] = Save,
        [nameof(VmcbSave.Cr0)] = Save,
        [nameof(VmcbSave.Dr7)] = Save,
        [nameof(VmcbSave.Dr6)] = Save,
        [nameof(VmcbSave.Rflags)] = Save,
        [nameof(VmcbSave.Rip)] = Save,
        [nameof(VmcbSave.Rsp)] = Save,
        [nameof(VmcbSave.Rax)] = Save,
        [nameof(VmcbSave.Star)] = Carried,
        [nameof(VmcbSave.Lstar)] = Carried,
        [nameof(VmcbSave.Cstar)] = Carried,
        [nameof(VmcbSave.Sfmask)] = Carried,
        [nameof(VmcbSave.KernelGsBase)] = Carried,
        [nameof(VmcbSave.SysenterCs)] = Carried,
        [nameof(VmcbSave.SysenterEsp)] = Carried,
        [nameof(VmcbSave.SysenterEip)] = Carried,
        [nameof(VmcbSave.Cr2)] = Save,
        [nameof(VmcbSave.GuestPat)] = Save,
        [nameof(VmcbSave.DebugCtl)] = Branches,
        [nameof(VmcbSave.BranchFrom)] = Branches,
        [nameof(VmcbSave.BranchTo)] = Branches,
        [nameof(VmcbSave.LastExceptionFrom)] = Branches,
        [nameof(VmcbSave.LastExceptionTo)] = Branches,
    };

    /// <summary>Exit codes that no intercept of <see cref="SvmInterceptTests"/> stands for.</summary>
    private static readonly Dictionary<SvmExit, string> s_exits = new()
    {
        [SvmExit.Exception0] = nameof(SvmEventTests.An_intercepted_page_fault_leaves_CR2_alone_and_tells_its_address),
        [SvmExit.EferWriteTrap] = Absent + "encrypted state",
        [SvmExit.Cr0WriteTrap] = Absent + "encrypted state",
        [SvmExit.NestedPageFault] = NestedFault,
        [SvmExit.AvicIncompleteIpi] = nameof(SvmAvicTests.An_incomplete_IPI_exits_with_its_cause),
        [SvmExit.AvicNoAccelerate] = nameof(SvmAvicTests.Guest_vAPIC_register_reads),
        [SvmExit.Invalid] = nameof(SvmEntryTests.Inconsistent_state_is_VMEXIT_INVALID),
    };

    [Fact]
    public void Every_field_of_a_VMCB_has_a_test_or_a_reason_for_none()
    {
        string[] fields = [.. ((Type[])[typeof(VmcbControl), typeof(VmcbSave)]).SelectMany(t => t.GetFields(BindingFlags.Public | BindingFlags.Instance))
            .Select(f => f.Name)];
        Assert.Empty(fields.Except(s_fields.Keys));
        HashSet<string> tests = [.. typeof(SvmCompletenessTests).Assembly.GetTypes().SelectMany(t => t.GetMethods())
            .Where(m => m.IsDefined(typeof(FactAttribute), inherit: true)).Select(m => m.Name)];
        Assert.Empty(s_fields.Values.Concat(s_exits.Values).Where(t => !t.StartsWith(Absent, StringComparison.Ordinal)).Except(tests));
    }

    [Fact]
    public void Every_exit_code_has_a_test_or_a_reason_for_none() =>
        Assert.Empty(Enum.GetValues<SvmExit>().Except(s_exits.Keys).Except(SvmInterceptTests.ExitCodes));
}
