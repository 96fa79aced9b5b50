using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>VMX, after the chapters of Intel SDM vol. 3C: entries, non-root operation, exits, EPT. What KVM and kvm-unit-tests rely on agrees.</summary>
public sealed class VmxTests
{
    private const uint Valid = 1u << 31;

    [Theory, Engines]
    public void Instructions_that_cause_VM_exits_unconditionally(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.cpuid();
            a.invd();
            a.vmcall();
        });
        v.Run(engine).Is(10, length: 2);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 2;
        Assert.Equal(VmxGuest.GuestCode + 2ul, v.Run(engine).Is(13, length: 2)[VmField.GuestRip]);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 4;
        v.Run(engine).Is(18, length: 3);
    }

    [Theory, Engines]
    public void VMXON_raises_UD_without_CR4_VMXE_and_GP_while_the_feature_control_does_not_enable_it(string engine)
    {
        using var g = new Guest(Mode.Long, model: VmxGuest.Model);
        g.Write<ulong>(VmxGuest.Pointers, VmxGuest.OperationRegion);
        g.Write(VmxGuest.OperationRegion, 0x42_0001u);
        g.Code(a =>
        {
            g.Mark(a, "first");
            a.vmxon(__qword_ptr[VmxGuest.Pointers]);
            g.End(a);
        });
        g.Run(engine).Raised(X.UD, null, g["first"]);
        using var second = new Guest(Mode.Long, model: VmxGuest.Model);
        second.Write<ulong>(VmxGuest.Pointers, VmxGuest.OperationRegion);
        second.Write(VmxGuest.OperationRegion, 0x42_0001u);
        second.State.Cr4 |= 0x2000;
        second.Code(a =>
        {
            second.Mark(a, "first");
            a.vmxon(__qword_ptr[VmxGuest.Pointers]);
            second.End(a);
        });
        second.Run(engine).Raised(X.GP, 0, second["first"]);
    }

    [Theory]
    [Engines(VmField.Pin, 0ul, 7u), Engines(VmField.Primary, 0ul, 7u), Engines(VmField.Exit, 0ul, 7u), Engines(VmField.Entry, 0ul, 7u),
        Engines(VmField.Cr3Targets, 5ul, 7u), Engines(VmField.MsrBitmaps, 0x123ul, 7u), Engines(VmField.Inject, 0x8000_0100ul, 7u)]
    [Engines(0x6C00u, 0ul, 8u), Engines(0x6C04u, 0ul, 8u), Engines(0x6C02u, 1ul << 60, 8u), Engines(0x0C02u, 0ul, 8u), Engines(0x0C0Cu, 7ul, 8u),
        Engines(0x6C16u, 1ul << 60, 8u), Engines(0x6C10u, 1ul << 60, 8u), Engines(VmField.HostEfer, 0ul, 8u)]
    public void Checks_on_VMX_controls_and_host_state_area_fail_the_instruction(string engine, uint field, ulong value, uint error)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        v.Fields[field] = value;
        v.Run(engine).FailedWith(error);
    }

    [Theory]
    [Engines(VmField.GuestCr0, 0x8000_0001ul), Engines(VmField.GuestCr4, 0x20ul), Engines(VmField.GuestCr3, 1ul << 60), Engines(VmField.GuestEfer, 0ul),
        Engines(VmField.GuestRflags, 0ul), Engines(VmField.GuestRip, 1ul << 60), Engines(VmField.Activity, 2ul), Engines(VmField.Interruptibility, 3ul),
        Engines(VmField.GuestRights + 2, 0ul), Engines(VmField.GuestRights + 14, 0x83ul), Engines(VmField.GuestSelector + 14, 4ul), Engines(0x6816u, 1ul << 60),
        Engines(0x4810u, 0x1_0000ul), Engines(VmField.PendingDebug, 0x10ul), Engines(VmField.GuestBase + 2, 1ul << 40)]
    public void Checks_on_guest_state_end_in_an_exit_of_a_failed_entry(string engine, uint field, ulong value)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        v.Fields[field] = value;
        v.Run(engine).Is(0x8000_0021);
    }

    /// <summary>What an earlier entry has found valid is looked at again when it was written.</summary>
    [Theory]
    [Engines(VmField.GuestRights + 2, 0ul, 0x8000_0021u), Engines(VmField.GuestRflags, 0x2_0002ul, 0x8000_0021u),
        Engines(VmField.GuestRip, 1ul << 60, 0x8000_0021u),
        Engines(VmField.GuestCr0, 0x8000_0001ul, 0x8000_0021u), Engines(VmField.Primary, 0ul, 7u), Engines(0x6C00u, 0ul, 8u), Engines(0x2012u, 0ul, 0u)]
    public void A_later_entry_checks_what_was_written_since(string engine, uint field, ulong value, uint outcome)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        ulong valid = v.Fields.GetValueOrDefault(field);
        v.Run(engine).Is(10);
        v.Run(engine).Is(10);
        v.Fields[field] = value;
        VmxExitResult r = v.Run(engine);
        if (outcome == 0) r.Is(10);
        else if (outcome < 16) r.FailedWith(outcome);
        else r.Is(outcome);
        v.Fields[field] = valid;
        v.Run(engine).Is(10);
    }

    [Theory, Engines]
    public void A_link_pointer_that_names_no_shadow_VMCS_fails_with_qualification_4(string engine)
    {
        using var v = new VmxGuest();
        v.Fields[VmField.Link] = 0x123;
        v.Run(engine).Is(0x8000_0021, 4);
    }

    [Theory, Engines]
    public void An_MSR_that_an_entry_cannot_load_is_named_by_its_place_in_the_list(string engine)
    {
        using var v = new VmxGuest();
        v.G.Write(VmxGuest.ZerosToo, 0x174ul);
        v.G.Write(VmxGuest.ZerosToo + 16, 0xC000_0100ul); // IA32_FS_BASE
        v.Fields[0x200A] = VmxGuest.ZerosToo;
        v.Fields[VmField.EntryMsrCount] = 2;
        v.Run(engine).Is(0x8000_0022, 2);
    }

    [Theory, Engines]
    public void VMRESUME_needs_a_launched_VMCS_and_VMLAUNCH_a_clear_one(string engine)
    {
        using var v = new VmxGuest { Resumes = true };
        v.Guest(a => a.cpuid());
        v.Run(engine).FailedWith(5);
        v.Resumes = false;
        v.Run(engine).Is(10);
        v.Resumes = false;
        v.Run(engine).FailedWith(4);
        v.Run(engine).Is(10);
    }

    [Theory, Engines]
    public void The_exception_bitmap_takes_exceptions_and_the_error_code_mask_and_match_page_faults(string engine)
    {
        using var v = new VmxGuest();
        v.G.Tables[Layout.Spare] = 0;
        v.Guest(a =>
        {
            a.mov(__dword_ptr[Layout.Spare], eax);
            a.ud2();
        });
        v.Fields[VmField.ExceptionBitmap] = 1 << X.PF | 1 << X.UD;
        VmxExitResult r = v.Run(engine).Is(0, Layout.Spare);
        Assert.Equal((Valid | 1u << 11 | 3 << 8 | X.PF, 2ul, (ulong)VmxGuest.GuestCode),
            ((uint)r[VmField.Interruption], r[VmField.InterruptionError], r[VmField.GuestRip]));
        // Only page faults of reads: a write's is delivered, and the handler's HLT exits.
        v.Fields[VmField.ErrorMask] = 2;
        v.Fields[VmField.ErrorMatch] = 0;
        v.Fields[VmField.Primary] = VmControl.PrimaryDefault | VmControl.MsrBitmaps | VmControl.Hlt;
        r = v.Run(engine).Is(12, length: 1);
        Assert.Equal((ulong)Bunraku.Fixtures.Guest.Stub(X.PF), r[VmField.GuestRip]);
    }

    [Theory, Engines]
    public void Event_injection_of_an_exception_pushes_its_error_code(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.nop());
        v.Fields[VmField.Inject] = Valid | 1 << 11 | 3 << 8 | X.GP;
        v.Fields[VmField.InjectError] = 0x1238;
        v.Fields[VmField.Primary] |= VmControl.Hlt;
        VmxExitResult r = v.Run(engine).Is(12);
        Assert.Equal((ulong)Bunraku.Fixtures.Guest.Stub(X.GP), r[VmField.GuestRip]);
        Assert.Equal((0x1238ul, (ulong)VmxGuest.GuestCode), (v.G.Read<ulong>(r[VmField.GuestRsp]), v.G.Read<ulong>(r[VmField.GuestRsp] + 8)));
        Assert.Equal(0u, (uint)r[VmField.Inject] & Valid); // cleared by the exit
    }

    [Theory]
    [Engines(4u, 0x30u, 2u), Engines(6u, 3u, 1u)]
    public void Event_injection_of_software_events_pushes_the_address_behind_the_instruction(string engine, uint type, uint vector, uint length)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.nop());
        v.Fields[VmField.Inject] = Valid | type << 8 | vector;
        v.Fields[VmField.InjectLength] = length;
        v.Fields[VmField.Primary] |= VmControl.Hlt;
        VmxExitResult r = v.Run(engine).Is(12);
        Assert.Equal((ulong)Bunraku.Fixtures.Guest.Stub((int)vector), r[VmField.GuestRip]);
        Assert.Equal((ulong)VmxGuest.GuestCode + length, v.G.Read<ulong>(r[VmField.GuestRsp]));
    }

    [Theory, Engines]
    public void An_exit_during_event_delivery_tells_of_the_event(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.@int(0x30));
        v.G.Idt(0x30, 0); // not present, and no gate
        v.Fields[VmField.ExceptionBitmap] = 1 << X.GP;
        VmxExitResult r = v.Run(engine).Is(0, length: 2);
        Assert.Equal((Valid | 1u << 11 | 3 << 8 | X.GP, 0x30ul << 3 | 2), ((uint)r[VmField.Interruption], r[VmField.InterruptionError]));
        Assert.Equal(Valid | 4u << 8 | 0x30, (uint)r[VmField.Vectoring]);
    }

    [Theory, Engines]
    public void A_triple_fault_exits(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.ud2());
        v.Fields[0x4812] = 0;
        v.Run(engine).Is(2);
    }

    [Theory, Engines]
    public void Guest_host_masks_and_read_shadows(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.mov(rax, cr0);
            a.mov(rdx, cr4);
            a.mov(cr0, rax);
            a.btc(rax, 3);
            a.mov(cr0, rax);
        });
        v.Fields[VmField.Cr0Mask] = 8;
        v.Fields[VmField.Cr0Shadow] = 8; // TS as the guest sees it
        v.Fields[VmField.Cr4Mask] = 0x2000;
        VmxExitResult r = v.Run(engine).Is(28, 0, 3);
        Assert.Equal((0ul, 0ul), (r[VmField.GuestCr0] & 8, r.Rdx & 0x2000));
    }

    [Theory, Engines]
    public void MOV_to_CR3_exits_unless_the_value_is_a_target(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.mov(rax, cr3);
            a.mov(cr3, rax);
            a.bts(rax, 3);
            a.mov(cr3, rax);
        });
        v.Fields[VmField.Primary] |= VmControl.Cr3Load;
        v.Fields[VmField.Cr3Targets] = 1;
        v.Fields[VmField.Cr3Target0] = v.G.State.Cr3;
        v.Run(engine).Is(28, 3, 3);
    }

    [Theory, Engines]
    public void IO_bitmaps_and_the_qualification_of_IO_instructions(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.@out(0x80, al);
            a.mov(edx, 0x1F7);
            a.@in(ax, dx);
        });
        v.G.Write<byte>(VmxGuest.ZerosToo + 0x1F8 / 8, 1); // the second byte of the access
        v.Fields[VmField.Primary] |= VmControl.IoBitmaps;
        v.Fields[VmField.IoBitmapA] = VmxGuest.ZerosToo;
        v.Fields[VmField.IoBitmapB] = VmxGuest.Zeros;
        v.Run(engine).Is(30, 1 | 1 << 3 | 0x1F7 << 16, 2);
    }

    [Theory, Engines]
    public void MSR_bitmaps(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.mov(ecx, 0x174);
            a.rdmsr();
            a.wrmsr();
        });
        v.G.Write<byte>(VmxGuest.ZerosToo + 2048 + 0x174 / 8, 1 << (0x174 % 8));
        v.Fields[VmField.MsrBitmaps] = VmxGuest.ZerosToo;
        Assert.Equal(VmxGuest.GuestCode + 7ul, v.Run(engine).Is(32, length: 2)[VmField.GuestRip]);
    }

    [Theory, Engines]
    public void The_monitor_trap_flag_exits_after_one_instruction(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.mov(eax, 5);
            a.nop();
        });
        v.Fields[VmField.Primary] |= VmControl.MonitorTrap;
        Assert.Equal(VmxGuest.GuestCode + 5ul, v.Run(engine).Is(37)[VmField.GuestRip]);
        Assert.Equal(VmxGuest.GuestCode + 6ul, v.Run(engine).Is(37)[VmField.GuestRip]);
    }

    [Theory, Engines]
    public void Interrupt_window_exiting_waits_for_IF_and_the_end_of_blocking_by_STI(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.nop();
            a.sti();
            a.nop();
            a.nop();
        });
        v.Fields[VmField.Primary] |= VmControl.InterruptWindow;
        Assert.Equal(VmxGuest.GuestCode + 3ul, v.Run(engine).Is(7)[VmField.GuestRip]);
    }

    [Theory, Engines]
    public void A_preemption_timer_of_0_exits_before_the_first_instruction(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        v.Fields[VmField.Pin] = VmControl.PinDefault | VmControl.Timer;
        v.Fields[VmField.Timer] = 0;
        Assert.Equal((ulong)VmxGuest.GuestCode, v.Run(engine).Is(52)[VmField.GuestRip]);
    }

    [Theory]
    // What the entry allows, what the guest does, and the qualification without the bits for a valid linear address.
    [Engines(0ul, "read", 1u), Engines(1ul, "write", 2u | 1 << 3), Engines(3ul, "fetch", 4u | 3 << 3), Engines(4ul, "read", 1u | 4 << 3)]
    public void EPT_violations(string engine, ulong rights, string kind, uint qualification)
    {
        using var v = new VmxGuest();
        v.WithEpt();
        v.Guest(a =>
        {
            a.mov(ebx, Layout.Spare + 8);
            if (kind == "read") a.mov(eax, __dword_ptr[rbx]);
            else if (kind == "write") a.mov(__dword_ptr[rbx], eax);
            else a.jmp(rbx);
        });
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Spare | rights | 6 << 3);
        VmxExitResult r = v.Run(engine).Is(48, qualification | 3 << 7);
        Assert.Equal((Layout.Spare + 8ul, Layout.Spare + 8ul), (r[VmField.GuestPhysical], r[VmField.Linear]));
    }

    [Theory, Engines]
    public void An_EPT_violation_of_a_paging_structure_has_bit_8_clear(string engine)
    {
        using var v = new VmxGuest();
        v.WithEpt();
        v.Guest(a => a.cpuid());
        v.G.Write(VmxGuest.EptEntry(v.G.State.Cr3), 0ul);
        VmxExitResult r = v.Run(engine).Is(48, 1 | 1 << 7);
        Assert.Equal((v.G.State.Cr3, (ulong)VmxGuest.GuestCode), (r[VmField.GuestPhysical] & ~0xFFFul, r[VmField.Linear]));
    }

    /// <summary>Without accessed and dirty flags of EPT. Intel SDM vol. 3C, "Exit Qualification for EPT Violations".</summary>
    [Theory]
    [Engines(0ul, false, true), Engines(Pte.A, false, false), Engines(Pte.A, true, true), Engines(Pte.A | Pte.D, true, false)]
    public void Flags_of_a_paging_structure_that_EPT_lets_only_be_read_are_not_set(string engine, ulong flags, bool writes, bool violates)
    {
        const ulong linear = 0x8000_0000;
        using var v = new VmxGuest();
        v.WithEpt();
        uint entry = v.G.Tables.EntryAddress(linear);
        v.G.Write(entry, Layout.Spare | Pte.P | Pte.W | flags);
        v.G.Write(VmxGuest.EptEntry(entry), entry & ~0xFFFul | 1 | 6 << 3);
        v.Guest(a =>
        {
            a.mov(rbx, linear);
            if (writes) a.mov(__dword_ptr[rbx], eax);
            else a.mov(eax, __dword_ptr[rbx]);
            a.cpuid();
        });
        VmxExitResult r = v.Run(engine);
        if (violates) Assert.Equal((entry, linear), (r.Is(48, 3 | 1 << 3 | 1 << 7)[VmField.GuestPhysical], r[VmField.Linear]));
        else r.Is(10);
        Assert.Equal(flags, v.G.Read<ulong>(entry) & (Pte.A | Pte.D));
    }

    [Theory]
    [Engines(2ul | 6 << 3), Engines(6ul | 6 << 3), Engines(7ul | 2 << 3), Engines(7ul | 6 << 3 | 1ul << 51)]
    public void EPT_misconfigurations(string engine, ulong entry)
    {
        using var v = new VmxGuest();
        v.WithEpt();
        v.Guest(a => a.mov(eax, __dword_ptr[Layout.Spare]));
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Spare | entry);
        Assert.Equal((ulong)Layout.Spare, v.Run(engine).Is(49)[VmField.GuestPhysical]);
    }

    [Theory, Engines]
    public void Accessed_and_dirty_flags_for_EPT(string engine)
    {
        using var v = new VmxGuest();
        v.WithEpt(accessedDirty: true);
        v.Guest(a =>
        {
            a.mov(eax, __dword_ptr[Layout.Spare]);
            a.mov(__dword_ptr[Layout.Spare + 0x1000], eax);
            a.cpuid();
        });
        v.Run(engine).Is(10);
        const ulong accessed = 1 << 8, dirty = 1 << 9;
        ulong Flags(ulong page) => v.G.Read<ulong>(VmxGuest.EptEntry(page)) & (accessed | dirty);
        Assert.Equal((accessed, accessed | dirty, 0ul), (Flags(Layout.Spare), Flags(Layout.Spare + 0x1000), Flags(Layout.Spare + 0x2000)));
        // Accesses to the guest's paging structures count as writes.
        Assert.Equal(accessed | dirty, Flags(v.G.State.Cr3));
    }

    [Theory, Engines]
    public void Neither_entry_nor_exit_drops_mappings_of_a_VPID_and_INVEPT_does(string engine)
    {
        using var v = new VmxGuest();
        v.WithEpt();
        v.Fields[VmField.Secondary] |= VmControl.Vpid;
        v.Fields[VmField.Vpid] = 5;
        v.Guest(a =>
        {
            a.mov(eax, __dword_ptr[Layout.Spare]);
            a.vmcall();
            a.jmp(rsp);
        });
        v.G.Write(Layout.Spare, 0x1111);
        v.G.Write(Layout.Spare + 0x1000, 0x2222);
        Assert.Equal(0x1111ul, v.Run(engine).Is(18).Rax);
        // The mapping changes in memory: what is cached may still be used, and whatever is read is one of both.
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Spare + 0x1000ul | 7 | 6 << 3);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        Assert.Contains(v.Run(engine).Is(18).Rax, (ulong[])[0x1111, 0x2222]);
    }

    /// <summary>
    /// Intel SDM vol. 3C, "Operations that Invalidate Cached Mappings": of a page of the guest, and of one that holds its paging structures.
    /// </summary>
    [Theory, Engines(1), Engines(2)]
    public void INVEPT_drops_guest_physical_mappings(string engine, int type)
    {
        const uint routine = Layout.Code + 0x3000, copy = Layout.Spare + 0x4000;
        using VmxGuest v = new VmxGuest().WithEpt();
        v.Fields[VmField.Secondary] |= VmControl.Vpid;
        v.Fields[VmField.Vpid] = 5;
        v.Guest(a =>
        {
            a.mov(eax, __dword_ptr[Layout.Spare]);
            a.mov(edx, __dword_ptr[Layout.Spare + 0x1000]);
            a.vmcall();
        });
        for (uint n = 0; n < 4; n++) v.G.Write(Layout.Spare + n * 0x1000, n);
        VmxExitResult first = v.Run(engine).Is(18);
        Assert.Equal((0ul, 1ul), (first.Rax, first.Rdx));
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Spare + 0x2000ul | 7 | 6 << 3);
        uint table = v.G.Tables.EntryAddress(Layout.Spare + 0x1000) & ~0xFFFu;
        for (uint at = 0; at < 0x1000; at += 8) v.G.Write(copy + at, v.G.Read<ulong>(table + at));
        v.G.Write(copy + (v.G.Tables.EntryAddress(Layout.Spare + 0x1000) & 0xFFF), Layout.Spare + 0x3000ul | Pte.P | Pte.W);
        v.G.Write(VmxGuest.EptEntry(table), copy | 7ul | 6 << 3);
        v.G.Write(VmxGuest.ZerosToo, VmxGuest.EptTables | 3ul << 3 | 6);
        v.G.Place(routine, 64, a =>
        {
            a.mov(ecx, type);
            a.invept(rcx, __xmmword_ptr[VmxGuest.ZerosToo]);
            a.jmp(v.G["again"]);
        });
        v.G.Write<ulong>(VmxGuest.Continuation, routine);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        VmxExitResult second = v.Run(engine).Is(18);
        Assert.Equal((2ul, 3ul), (second.Rax, second.Rdx));
    }

    [Theory, Engines]
    public void HLT_as_an_activity_state_and_HLT_exiting(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.hlt());
        v.Fields[VmField.Primary] |= VmControl.Hlt;
        Assert.Equal((ulong)VmxGuest.GuestCode, v.Run(engine).Is(12, length: 1)[VmField.GuestRip]);
        v.Fields[VmField.Activity] = 1;
        v.Fields[VmField.Primary] = VmControl.PrimaryDefault | VmControl.MsrBitmaps | VmControl.InterruptWindow;
        v.Fields[VmField.GuestRflags] = 0x202;
        Assert.Equal(1ul, v.Run(engine).Is(7)[VmField.Activity]);
    }

    [Theory, Engines]
    public void VMX_instructions_in_the_guest_exit_with_their_operands(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.vmread(rdi, r9);
            a.vmptrld(__qword_ptr[rbx + rcx * 4 + 0x1234]);
        });
        VmxExitResult r = v.Run(engine).Is(23, length: 4);
        Assert.Equal(1u << 10 | 7 << 3 | 9u << 28, (uint)r[VmField.Information]);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 4;
        r = v.Run(engine).Is(21, 0x1234);
        Assert.Equal(2u | 2 << 7 | 3 << 15 | 1 << 18 | 3 << 23, (uint)r[VmField.Information]);
    }

    [Theory, Engines]
    public void TSC_offsetting_and_RDTSC_exiting(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.rdtsc();
            a.vmcall();
        });
        v.Fields[VmField.Primary] |= VmControl.TscOffsetting;
        v.Fields[VmField.TscOffset] = 0xFFul << 56;
        Assert.Equal(0xFFul, v.Run(engine).Is(18).Rdx >> 24);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        v.Fields[VmField.Primary] = VmControl.PrimaryDefault | VmControl.MsrBitmaps | VmControl.Rdtsc;
        v.Run(engine).Is(16, length: 2);
    }
}
