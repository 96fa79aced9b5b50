using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Every field of a VMCS and every setting that the capability MSRs offer is named here, with the test that looks at it, or the reason why none can. What is
/// added to the processor and forgotten here fails by its name.
/// </summary>
public sealed class VmxCompletenessTests
{
    private const string Absent = "not offered: ";
    private const string Instructions = nameof(VmxExitReasonTests.Instructions_exit_before_any_effect_with_their_reason_qualification_and_length);
    private const string GuestState = nameof(VmxStateTests.Guest_state_is_loaded_by_an_entry_and_saved_by_an_exit);
    private const string MsrLists = nameof(VmxStateTests.Lists_of_MSRs_are_loaded_and_stored);
    private const string Logging = nameof(VmxFeatureTests.Page_modification_logging_notes_each_page_whose_dirty_flag_is_set_and_exits_when_the_log_is_full);
    private const string Shadowing = nameof(VmxFeatureTests.VMCS_shadowing_reads_and_writes_the_shadow_without_an_exit);
    private const string Bitmap = nameof(VmxTests.The_exception_bitmap_takes_exceptions_and_the_error_code_mask_and_match_page_faults);
    private const string Windows = nameof(VmxStateTests.NMI_window_exiting_with_virtual_NMIs);
    private const string Acknowledge = nameof(VmxStateTests.An_external_interrupt_exits_and_is_acknowledged_if_the_exit_controls_say_so);
    private const string Tpr = nameof(VmxFeatureTests.The_TPR_shadow_is_the_guests_CR8_and_an_exit_follows_when_it_falls_below_the_threshold);
    private const string Targets = nameof(VmxTests.MOV_to_CR3_exits_unless_the_value_is_a_target);
    private const string Masks = nameof(VmxTests.Guest_host_masks_and_read_shadows);
    private const string Undefined = nameof(VmxStateTests.Instructions_that_secondary_controls_do_not_enable_raise_UD);
    private const string Delivery = nameof(VmxTests.An_exit_during_event_delivery_tells_of_the_event);

    private const string Posted = nameof(VmxVirtualInterruptTests.A_notification_is_processed_while_the_guest_runs);
    private const string ApicAccesses = nameof(VmxApicTests.APIC_access_VM_exits_have_the_offset_and_the_type_of_the_access);
    private const string EoiExits = nameof(VmxVirtualInterruptTests.EOI_exit_bitmaps);
    private const string VirtualInterrupts = nameof(VmxVirtualInterruptTests.A_virtual_interrupt_that_waits_is_delivered_behind_the_entry);

    private static readonly Dictionary<VmcsField, string> s_fields = Fields();

    private static Dictionary<VmcsField, string> Fields()
    {
        var fields = new Dictionary<VmcsField, string>
        {
            [VmcsField.VirtualProcessorIdentifier] = nameof(VmxTests.Neither_entry_nor_exit_drops_mappings_of_a_VPID_and_INVEPT_does),
            [VmcsField.PostedInterruptNotificationVector] = Posted,
            [VmcsField.PostedInterruptDescriptor] = Posted,
            [VmcsField.EptpIndex] = nameof(VmxMemoryTests.An_EPT_violation_whose_entry_allows_it_is_an_exception_of_the_guest),
            [VmcsField.VirtualizationExceptionAddress] = nameof(VmxMemoryTests.An_EPT_violation_whose_entry_allows_it_is_an_exception_of_the_guest),
            [VmcsField.ApicAccessAddress] = ApicAccesses,
            [VmcsField.EoiExitBitmap0] = EoiExits,
            [VmcsField.EoiExitBitmap1] = EoiExits,
            [VmcsField.EoiExitBitmap2] = EoiExits,
            [VmcsField.EoiExitBitmap3] = EoiExits,
            [VmcsField.GuestInterruptStatus] = VirtualInterrupts,
            [VmcsField.XssExitingBitmap] = Absent + "components of IA32_XSS",
            [VmcsField.ExecutiveVmcsPointer] = Absent + "system management mode",
            [VmcsField.GuestSmbase] = Absent + "system management mode",
            [VmcsField.PmlIndex] = Logging,
            [VmcsField.PmlAddress] = Logging,
            [VmcsField.IoBitmapA] = nameof(VmxTests.IO_bitmaps_and_the_qualification_of_IO_instructions),
            [VmcsField.IoBitmapB] = nameof(VmxTests.IO_bitmaps_and_the_qualification_of_IO_instructions),
            [VmcsField.MsrBitmaps] = nameof(VmxTests.MSR_bitmaps),
            [VmcsField.ExitMsrStoreAddress] = MsrLists,
            [VmcsField.ExitMsrLoadAddress] = MsrLists,
            [VmcsField.EntryMsrLoadAddress] = MsrLists,
            [VmcsField.ExitMsrStoreCount] = MsrLists,
            [VmcsField.ExitMsrLoadCount] = MsrLists,
            [VmcsField.EntryMsrLoadCount] = MsrLists,
            [VmcsField.TscOffset] = nameof(VmxTests.TSC_offsetting_and_RDTSC_exiting),
            [VmcsField.TscMultiplier] = nameof(VmxFeatureTests.TSC_scaling_multiplies_before_it_adds_the_offset),
            [VmcsField.VirtualApicAddress] = Tpr,
            [VmcsField.TprThreshold] = Tpr,
            [VmcsField.VmFunctionControls] = nameof(VmxFeatureTests.EPTP_switching),
            [VmcsField.EptpListAddress] = nameof(VmxFeatureTests.EPTP_switching),
            [VmcsField.EptPointer] = nameof(VmxTests.EPT_violations),
            [VmcsField.VmreadBitmap] = Shadowing,
            [VmcsField.VmwriteBitmap] = Shadowing,
            [VmcsField.VmcsLinkPointer] = Shadowing,
            [VmcsField.GuestPhysicalAddress] = nameof(VmxTests.EPT_violations),
            [VmcsField.PinBasedControls] = Acknowledge,
            [VmcsField.ProcessorBasedControls] = Instructions,
            [VmcsField.SecondaryControls] = Instructions,
            [VmcsField.ExitControls] = Acknowledge,
            [VmcsField.EntryControls] = GuestState,
            [VmcsField.ExceptionBitmap] = Bitmap,
            [VmcsField.PageFaultErrorCodeMask] = Bitmap,
            [VmcsField.PageFaultErrorCodeMatch] = Bitmap,
            [VmcsField.Cr3TargetCount] = Targets,
            [VmcsField.Cr3Target0] = Targets,
            [VmcsField.Cr3Target1] = nameof(Each_CR3_target_value_counts),
            [VmcsField.Cr3Target2] = nameof(Each_CR3_target_value_counts),
            [VmcsField.Cr3Target3] = nameof(Each_CR3_target_value_counts),
            [VmcsField.EntryInterruptionInformation] = nameof(VmxTests.Event_injection_of_an_exception_pushes_its_error_code),
            [VmcsField.EntryExceptionErrorCode] = nameof(VmxTests.Event_injection_of_an_exception_pushes_its_error_code),
            [VmcsField.EntryInstructionLength] = nameof(VmxTests.Event_injection_of_software_events_pushes_the_address_behind_the_instruction),
            [VmcsField.PleGap] = nameof(VmxFeatureTests.PAUSE_loop_exiting),
            [VmcsField.PleWindow] = nameof(VmxFeatureTests.PAUSE_loop_exiting),
            [VmcsField.InstructionError] = nameof(VmxTests.Checks_on_VMX_controls_and_host_state_area_fail_the_instruction),
            [VmcsField.ExitReason] = Instructions,
            [VmcsField.ExitQualification] = Instructions,
            [VmcsField.ExitInstructionLength] = Instructions,
            [VmcsField.ExitInstructionInformation] = Instructions,
            [VmcsField.ExitInterruptionInformation] = Bitmap,
            [VmcsField.ExitInterruptionErrorCode] = Bitmap,
            [VmcsField.IdtVectoringInformation] = Delivery,
            [VmcsField.IdtVectoringErrorCode] = nameof(The_error_code_of_an_exception_whose_delivery_exits),
            [VmcsField.IoRcx] = nameof(VmxStateTests.An_exit_of_a_repeated_OUTS_saves_its_registers),
            [VmcsField.IoRsi] = nameof(VmxStateTests.An_exit_of_a_repeated_OUTS_saves_its_registers),
            [VmcsField.IoRdi] = nameof(VmxStateTests.An_exit_of_a_repeated_OUTS_saves_its_registers),
            [VmcsField.IoRip] = nameof(VmxStateTests.An_exit_of_a_repeated_OUTS_saves_its_registers),
            [VmcsField.GuestLinearAddress] = nameof(VmxTests.EPT_violations),
            [VmcsField.Cr0Mask] = Masks,
            [VmcsField.Cr4Mask] = Masks,
            [VmcsField.Cr0Shadow] = Masks,
            [VmcsField.Cr4Shadow] = Masks,
            [VmcsField.GuestActivity] = nameof(VmxTests.HLT_as_an_activity_state_and_HLT_exiting),
            [VmcsField.PreemptionTimer] = nameof(VmxStateTests.What_is_left_of_the_preemption_timer_is_saved),
            [VmcsField.GuestPendingDebug] = nameof(A_pending_debug_exception_is_delivered_before_the_first_instruction),
            [VmcsField.GuestCr3] = GuestState,
            [VmcsField.GuestRip] = GuestState,
            [VmcsField.GuestEfer] = GuestState,
        };
        foreach (VmcsField field in VmxStateTests.GuestValues.Keys) fields.TryAdd(field, GuestState);
        foreach (VmcsField field in (VmcsField[])[VmcsField.GuestPdpte0, VmcsField.GuestPdpte1, VmcsField.GuestPdpte2, VmcsField.GuestPdpte3])
            fields.Add(field, nameof(VmxStateTests.PDPTEs_of_a_guest_with_EPT_are_those_of_the_VMCS));
        // That test has a value for each.
        foreach (VmcsField field in VmcsFields.All)
        {
            if (VmcsFields.Group(field) == VmcsGroup.Host) fields.Add(field, nameof(VmxStateTests.Host_state_is_loaded_by_an_exit));
        }
        return fields;
    }

    private static readonly Dictionary<Enum, string> s_controls = new()
    {
        [PinControls.ExternalInterruptExiting] = Acknowledge,
        [PinControls.NmiExiting] = nameof(VmxStateTests.An_NMI_exits_and_blocks_NMIs_of_the_host),
        [PinControls.VirtualNmis] = Windows,
        [PinControls.PreemptionTimer] = nameof(VmxTests.A_preemption_timer_of_0_exits_before_the_first_instruction),
        [PinControls.ProcessPostedInterrupts] = Posted,
        [ProcessorControls.InterruptWindowExiting] = nameof(VmxTests.Interrupt_window_exiting_waits_for_IF_and_the_end_of_blocking_by_STI),
        [ProcessorControls.UseTscOffsetting] = nameof(VmxTests.TSC_offsetting_and_RDTSC_exiting),
        [ProcessorControls.HltExiting] = Instructions,
        [ProcessorControls.InvlpgExiting] = Instructions,
        [ProcessorControls.MwaitExiting] = Instructions,
        [ProcessorControls.RdpmcExiting] = Instructions,
        [ProcessorControls.RdtscExiting] = Instructions,
        [ProcessorControls.Cr3LoadExiting] = Instructions,
        [ProcessorControls.Cr3StoreExiting] = Instructions,
        [ProcessorControls.Cr8LoadExiting] = Instructions,
        [ProcessorControls.Cr8StoreExiting] = Instructions,
        [ProcessorControls.UseTprShadow] = Tpr,
        [ProcessorControls.NmiWindowExiting] = Windows,
        [ProcessorControls.MovDrExiting] = Instructions,
        [ProcessorControls.UnconditionalIoExiting] = Instructions,
        [ProcessorControls.UseIoBitmaps] = nameof(VmxTests.IO_bitmaps_and_the_qualification_of_IO_instructions),
        [ProcessorControls.MonitorTrapFlag] = nameof(VmxTests.The_monitor_trap_flag_exits_after_one_instruction),
        [ProcessorControls.UseMsrBitmaps] = nameof(VmxTests.MSR_bitmaps),
        [ProcessorControls.MonitorExiting] = Instructions,
        [ProcessorControls.PauseExiting] = Instructions,
        [ProcessorControls.ActivateSecondaryControls] = Instructions,
        [SecondaryControls.VirtualizeApicAccesses] = ApicAccesses,
        [SecondaryControls.VirtualizeX2Apic] = nameof(VmxApicTests.RDMSR_in_virtual_x2APIC_mode),
        [SecondaryControls.ApicRegisterVirtualization] = nameof(VmxApicTests.APIC_register_virtualization_has_these_registers_to_read),
        [SecondaryControls.VirtualInterruptDelivery] = VirtualInterrupts,
        [SecondaryControls.EnableEpt] = nameof(VmxTests.EPT_violations),
        [SecondaryControls.DescriptorTableExiting] = Instructions,
        [SecondaryControls.EnableRdtscp] = Undefined,
        [SecondaryControls.EnableVpid] = nameof(VmxTests.Neither_entry_nor_exit_drops_mappings_of_a_VPID_and_INVEPT_does),
        [SecondaryControls.WbinvdExiting] = Instructions,
        [SecondaryControls.UnrestrictedGuest] = nameof(VmxStateTests.A_task_switch_exits_with_its_source),
        [SecondaryControls.PauseLoopExiting] = nameof(VmxFeatureTests.PAUSE_loop_exiting),
        [SecondaryControls.RdrandExiting] = Instructions,
        [SecondaryControls.EnableInvpcid] = Undefined,
        [SecondaryControls.EnableVmFunctions] = nameof(VmxFeatureTests.EPTP_switching),
        [SecondaryControls.VmcsShadowing] = Shadowing,
        [SecondaryControls.RdseedExiting] = Instructions,
        [SecondaryControls.EnablePml] = Logging,
        [SecondaryControls.EptViolationVe] = nameof(VmxMemoryTests.An_EPT_violation_whose_entry_allows_it_is_an_exception_of_the_guest),
        [SecondaryControls.ModeBasedExecute] = nameof(VmxMemoryTests.Mode_based_execute_control_tells_user_mode_addresses_from_the_others),
        [SecondaryControls.EnableXsaves] = Undefined,
        [SecondaryControls.UseTscScaling] = nameof(VmxFeatureTests.TSC_scaling_multiplies_before_it_adds_the_offset),
        [ExitControls.SaveDebugControls] = GuestState,
        [ExitControls.HostAddressSpaceSize] = nameof(VmxTests.Checks_on_VMX_controls_and_host_state_area_fail_the_instruction),
        [ExitControls.AcknowledgeInterruptOnExit] = Acknowledge,
        [ExitControls.SavePat] = GuestState,
        [ExitControls.LoadPat] = nameof(VmxStateTests.Host_state_is_loaded_by_an_exit),
        [ExitControls.SaveEfer] = GuestState,
        [ExitControls.LoadEfer] = nameof(VmxStateTests.Host_state_is_loaded_by_an_exit),
        [ExitControls.SavePreemptionTimer] = nameof(VmxStateTests.What_is_left_of_the_preemption_timer_is_saved),
        [EntryControls.LoadDebugControls] = GuestState,
        [EntryControls.Ia32eModeGuest] = nameof(VmxStateTests.A_task_switch_exits_with_its_source),
        [EntryControls.LoadPat] = GuestState,
        [EntryControls.LoadEfer] = GuestState,
    };

    /// <summary>Bits of IA32_VMX_MISC and IA32_VMX_EPT_VPID_CAP that are no numbers.</summary>
    private static readonly Dictionary<(uint Msr, int Bit), string> s_bits = new()
    {
        [(0x485, 5)] = GuestState, // IA-32e mode guest is saved
        [(0x485, 6)] = nameof(VmxTests.HLT_as_an_activity_state_and_HLT_exiting),
        [(0x485, 8)] = nameof(VmxVirtualInterruptTests.A_guest_in_wait_for_SIPI_exits_with_the_vector_of_the_start_up_IPI),
        [(0x485, 29)] = nameof(VMWRITE_to_a_read_only_field),
        [(0x485, 30)] = nameof(Injection_with_instruction_length_0),
        [(0x48C, 0)] = nameof(VmxTests.EPT_violations),
        [(0x48C, 6)] = nameof(VmxTests.EPT_violations),
        [(0x48C, 8)] = nameof(Memory_types_of_the_EPT_pointer),
        [(0x48C, 14)] = nameof(Memory_types_of_the_EPT_pointer),
        [(0x48C, 16)] = nameof(VmxStateTests.EPT_maps_large_pages),
        [(0x48C, 17)] = nameof(VmxStateTests.EPT_maps_large_pages),
        [(0x48C, 20)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 21)] = nameof(VmxTests.Accessed_and_dirty_flags_for_EPT),
        [(0x48C, 25)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 26)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 32)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 40)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 41)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 42)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x48C, 43)] = nameof(INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other),
        [(0x491, 0)] = nameof(VmxFeatureTests.EPTP_switching),
    };

    [Fact]
    public void Every_field_has_a_test_or_a_reason_for_none()
    {
        Assert.Empty(VmcsFields.All.Except(s_fields.Keys));
        HashSet<string> tests = Tests();
        Assert.Empty(s_fields.Values.Concat(s_controls.Values).Concat(s_bits.Values).Where(t => !t.StartsWith(Absent, StringComparison.Ordinal))
            .Except(tests));
    }

    /// <summary>Names of all fixtures of VMX.</summary>
    private static HashSet<string> Tests() => [.. typeof(VmxCompletenessTests).Assembly.GetTypes()
        .Where(t => t.Name.StartsWith("Vmx", StringComparison.Ordinal))
        .SelectMany(t => t.GetMethods()).Where(m => m.IsDefined(typeof(FactAttribute), inherit: true)).Select(m => m.Name)];

    [Theory]
    [Engines(0x481u, typeof(PinControls)), Engines(0x482u, typeof(ProcessorControls)), Engines(0x48Bu, typeof(SecondaryControls)),
        Engines(0x483u, typeof(ExitControls)), Engines(0x484u, typeof(EntryControls))]
    public void Every_control_that_is_offered_has_a_test(string engine, uint msr, Type controls)
    {
        var offered = (uint)(ReadMsr(engine, msr) >> 32);
        foreach (Enum value in Enum.GetValues(controls))
        {
            uint bit = Convert.ToUInt32(value, null);
            if (System.Numerics.BitOperations.IsPow2(bit) && (offered & bit) != 0) Assert.True(s_controls.ContainsKey(value), $"no test for {value}");
        }
    }

    [Theory]
    [Engines(0x485u, 0x6000_01E0ul), Engines(0x48Cu, ulong.MaxValue), Engines(0x491u, ulong.MaxValue)]
    public void Every_capability_that_is_offered_has_a_test(string engine, uint msr, ulong bits)
    {
        ulong offered = ReadMsr(engine, msr) & bits;
        for (int bit = 0; bit < 64; bit++)
        {
            if ((offered >> bit & 1) != 0) Assert.True(s_bits.ContainsKey((msr, bit)), $"no test for bit {bit} of MSR {msr:X}");
        }
    }

    private static ulong ReadMsr(string engine, uint msr)
    {
        using var g = new Guest(Mode.Long, model: VmxGuest.Model);
        g.Code(a =>
        {
            a.mov(ecx, msr);
            a.rdmsr();
            g.End(a);
        });
        CpuState s = g.Run(engine).Done().State;
        return s.Gpr[0] | s.Gpr[2] << 32;
    }

    [Theory]
    [Engines(1), Engines(2), Engines(3)]
    public void Each_CR3_target_value_counts(string engine, int number)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.mov(rax, cr3);
            a.mov(cr3, rax);
            a.vmcall();
        });
        v.Fields[VmField.Primary] |= VmControl.Cr3Load;
        v.Fields[VmField.Cr3Targets] = (ulong)number + 1;
        v.Fields[VmField.Cr3Target0 + 2 * (uint)number] = v.G.State.Cr3;
        v.Run(engine).Is(18);
        v.Fields[VmField.Cr3Targets] = (ulong)number;
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        v.Run(engine).Is(28, 3, 3);
    }

    [Theory, Engines]
    public void The_error_code_of_an_exception_whose_delivery_exits(string engine)
    {
        using VmxGuest v = new VmxGuest().WithEpt();
        v.Guest(a => a.mov(ds, ax));
        v.Fields[VmField.Inject] = 1u << 31 | 1 << 11 | 3 << 8 | X.GP;
        v.Fields[VmField.InjectError] = 0x1238;
        v.G.Write(VmxGuest.EptEntry(Layout.Idt), 0ul);
        VmxExitResult r = v.Run(engine).Is(48, 1 | 3 << 7);
        Assert.Equal((1u << 31 | 1 << 11 | 3 << 8 | X.GP, 0x1238ul), ((uint)r[VmField.Vectoring], r[VmField.VectoringError]));
    }

    [Theory, Engines]
    public void A_pending_debug_exception_is_delivered_before_the_first_instruction(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        v.Fields[VmField.PendingDebug] = 1 << 12 | 1;
        v.Fields[VmField.ExceptionBitmap] = 1 << X.DB;
        VmxExitResult r = v.Run(engine).Is(0, 1);
        Assert.Equal((1u << 31 | 3 << 8 | X.DB, (ulong)VmxGuest.GuestCode), ((uint)r[VmField.Interruption], r[VmField.GuestRip]));
    }

    [Theory, Engines]
    public void VMWRITE_to_a_read_only_field(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        v.Fields[VmField.Information] = 0x1234;
        v.Fields[VmField.Error] = 0x77;
        Assert.Equal(0x77ul, v.Run(engine).Is(10)[VmField.Error]);
    }

    [Theory, Engines]
    public void Injection_with_instruction_length_0(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.nop());
        v.Fields[VmField.Inject] = 1u << 31 | 4 << 8 | 0x30;
        v.Fields[VmField.InjectLength] = 0;
        v.Fields[VmField.Primary] |= VmControl.Hlt;
        VmxExitResult r = v.Run(engine).Is(12);
        Assert.Equal((ulong)VmxGuest.GuestCode, v.G.Read<ulong>(r[VmField.GuestRsp]));
    }

    [Theory]
    [Engines(0u, true), Engines(6u, true), Engines(1u, false), Engines(4u, false), Engines(5u, false), Engines(7u, false)]
    public void Memory_types_of_the_EPT_pointer(string engine, uint type, bool valid)
    {
        using VmxGuest v = new VmxGuest().WithEpt();
        v.Guest(a => a.cpuid());
        v.Fields[VmField.EptPointer] = VmxGuest.EptTables | 3 << 3 | type;
        VmxExitResult r = v.Run(engine);
        if (valid) r.Is(10);
        else r.FailedWith(7);
    }

    /// <summary>Intel SDM vol. 3C, "INVEPT", "INVVPID": types 1 and 2, and 0 to 3; VMfailValid with error 28 for others, for VPID 0, for an EPT pointer that no
    /// entry takes, for an address that is not canonical.</summary>
    [Theory, Engines]
    public void INVEPT_and_INVVPID_take_the_types_that_are_offered_and_no_other(string engine)
    {
        const ulong pointer = VmxGuest.EptTables | 3 << 3 | 6;
        (bool Ept, int Type, ulong First, ulong Second, bool Valid)[] cases =
        [
            (true, 1, pointer, 0, true), (true, 2, 0, 0, true), (true, 0, pointer, 0, false), (true, 3, pointer, 0, false), (true, 1, pointer | 1, 0, false),
            (false, 0, 1, 0x1000, true), (false, 1, 1, 0, true), (false, 2, 0, 0, true), (false, 3, 1, 0, true), (false, 4, 1, 0, false),
            (false, 0, 0, 0, false), (false, 1, 0, 0, false), (false, 3, 0, 0, false), (false, 0, 1, 1ul << 60, false), (false, 1, 0x1_0001, 0, false),
        ];
        using var v = new VmxGuest();
        v.Before = a =>
        {
            for (int n = 0; n < cases.Length; n++)
            {
                a.mov(ecx, cases[n].Type);
                AssemblerMemoryOperand at = __xmmword_ptr[VmxGuest.ZerosToo + 16 * n];
                if (cases[n].Ept) a.invept(rcx, at);
                else a.invvpid(rcx, at);
                a.pushfq();
                a.pop(rax);
                a.@out(Guest.ReportPort, eax);
            }
        };
        for (int n = 0; n < cases.Length; n++)
        {
            v.G.Write(VmxGuest.ZerosToo + 16u * (uint)n, cases[n].First);
            v.G.Write(VmxGuest.ZerosToo + 16u * (uint)n + 8, cases[n].Second);
        }
        v.Guest(a => a.cpuid());
        ulong[] flags = v.Begin(engine).Done().Reports;
        v.Result().Is(10);
        Assert.Equal(cases.Select(c => c.Valid ? 0ul : 0x40), flags.Select(f => f & 0x41)); // CF, ZF
    }
}
