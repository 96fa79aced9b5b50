using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3C, "Loading Guest State", "Saving Guest State", "Loading Host State", "Loading MSRs", "Saving MSRs"; events that are no exceptions.
/// </summary>
public sealed class VmxStateTests
{
    private const uint Valid = 1u << 31, Marker = 0x55;

    /// <summary>Values of the guest-state area that differ from the host's and that a guest may have.</summary>
    public static IReadOnlyDictionary<VmcsField, ulong> GuestValues { get; } = new Dictionary<VmcsField, ulong>
    {
        [VmcsField.GuestCr0] = 0x8001_0031, // without MP
        [VmcsField.GuestCr4] = 0x2220, // without OSXMMEXCPT
        [VmcsField.GuestEsSelector] = 0,
        [VmcsField.GuestEsRights] = 0x1_0000,
        [VmcsField.GuestEsLimit] = 0x1_2345,
        [VmcsField.GuestEsBase] = 0x77,
        [VmcsField.GuestCsSelector] = Sel.Code64,
        [VmcsField.GuestCsRights] = 0xA09B,
        [VmcsField.GuestCsLimit] = uint.MaxValue,
        [VmcsField.GuestCsBase] = 0,
        [VmcsField.GuestSsSelector] = Sel.Data16,
        [VmcsField.GuestSsRights] = 0xC093,
        [VmcsField.GuestSsLimit] = uint.MaxValue,
        [VmcsField.GuestSsBase] = 0,
        [VmcsField.GuestDsSelector] = Sel.Data32,
        [VmcsField.GuestDsRights] = 0x4093,
        [VmcsField.GuestDsLimit] = 0x4_5678,
        [VmcsField.GuestDsBase] = 0x1234,
        [VmcsField.GuestFsSelector] = Sel.Data16,
        [VmcsField.GuestFsRights] = 0xC093,
        [VmcsField.GuestFsLimit] = 0x7FFF_FFFF,
        [VmcsField.GuestFsBase] = 0x7FFF_1234_5678,
        [VmcsField.GuestGsSelector] = Sel.Data32,
        [VmcsField.GuestGsRights] = 0x93,
        [VmcsField.GuestGsLimit] = 0xFFFF,
        [VmcsField.GuestGsBase] = 0xFFFF_8000_0000_1000,
        [VmcsField.GuestLdtrSelector] = Sel.Ldt,
        [VmcsField.GuestLdtrRights] = 0x82,
        [VmcsField.GuestLdtrLimit] = 0x17,
        [VmcsField.GuestLdtrBase] = 0x9000,
        [VmcsField.GuestTrSelector] = Sel.Free,
        [VmcsField.GuestTrRights] = 0x8B,
        [VmcsField.GuestTrLimit] = 0x67,
        [VmcsField.GuestTrBase] = 0xA000,
        [VmcsField.GuestGdtrBase] = 0xB000,
        [VmcsField.GuestGdtrLimit] = 0x1FF,
        [VmcsField.GuestIdtrBase] = 0xC000,
        [VmcsField.GuestIdtrLimit] = 0xFF7,
        [VmcsField.GuestDr7] = 0x405,
        [VmcsField.GuestRsp] = 0x12_3456,
        [VmcsField.GuestRflags] = 0xCD7 & ~0x100u,
        [VmcsField.GuestSysenterCs] = 0x1111,
        [VmcsField.GuestSysenterEsp] = 0x2222,
        [VmcsField.GuestSysenterEip] = 0x3333,
        [VmcsField.GuestPat] = 0x0001_0406_0007_0406,
        [VmcsField.GuestDebugCtl] = 2,
        [VmcsField.GuestInterruptibility] = 8,
    };

    [Theory, Engines]
    public void Guest_state_is_loaded_by_an_entry_and_saved_by_an_exit(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.@out((byte)Marker, al);
            a.vmcall();
        });
        foreach ((VmcsField field, ulong value) in GuestValues) v.Fields[(uint)field] = value;
        v.Fields[VmField.Exit] |= (ulong)(ExitControls.SavePat | ExitControls.SaveEfer | ExitControls.SaveDebugControls);
        v.Fields[VmField.Entry] |= (ulong)(EntryControls.LoadPat | EntryControls.LoadDebugControls);
        v.G.OnExit = e => e is { Reason: ExitReason.Io, Address: Marker };
        CpuState s = v.Begin(engine).State;
        ulong Of(VmcsField field) => GuestValues[field];
        Assert.Equal((Of(VmcsField.GuestCr0), Of(VmcsField.GuestCr4), Of(VmcsField.GuestRsp), Of(VmcsField.GuestRflags), Of(VmcsField.GuestDr7), true),
            (s.Cr0, s.Cr4, s.Gpr[4], s.Rflags, s.Dr7, s.NmiBlocked));
        SegmentState[] segments = [s.Es, s.Cs, s.Ss, s.Ds, s.Fs, s.Gs, s.Ldtr, s.Tr];
        for (uint n = 0; n < 8; n++)
        {
            if (n == 0) continue; // unusable: what it holds beside that does not matter
            Assert.Equal(((ushort)Of(VmcsField.GuestEsSelector + (ushort)(2 * n)), Of(VmcsField.GuestEsBase + (ushort)(2 * n)),
                (uint)Of(VmcsField.GuestEsLimit + (ushort)(2 * n)), (uint)Of(VmcsField.GuestEsRights + (ushort)(2 * n))),
                (segments[n].Selector, segments[n].Base, segments[n].Limit, segments[n].Attributes));
        }
        Assert.Equal((Of(VmcsField.GuestGdtrBase), Of(VmcsField.GuestGdtrLimit), Of(VmcsField.GuestIdtrBase), Of(VmcsField.GuestIdtrLimit)),
            (s.GdtrBase, s.GdtrLimit, s.IdtrBase, s.IdtrLimit));
        Assert.Equal((Of(VmcsField.GuestSysenterCs), Of(VmcsField.GuestSysenterEsp), Of(VmcsField.GuestSysenterEip), Of(VmcsField.GuestPat)),
            (s.Msrs[0x174], s.Msrs[0x175], s.Msrs[0x176], s.Msrs[0x277]));
        v.G.OnExit = null;
        CpuState end = v.G.Run(engine).Done().State;
        v.Result().Is(18);
        Assert.All(GuestValues, f => Assert.Equal((f.Key, f.Value), (f.Key, end.Vmx![f.Key])));
        Assert.Equal(v.G.State.Efer, end.Vmx![VmcsField.GuestEfer]);
        Assert.Equal((v.G.State.Cr3, VmxGuest.GuestCode + 2ul), (end.Vmx[VmcsField.GuestCr3], end.Vmx[VmcsField.GuestRip]));
    }

    [Theory, Engines]
    public void Host_state_is_loaded_by_an_exit(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        byte[] gdt = new byte[Layout.GdtSize], idt = new byte[0x1000];
        Assert.True(v.G.Memory.Read(Layout.Gdt, gdt) && v.G.Memory.Read(Layout.Idt, idt));
        v.G.Write(VmxGuest.ZerosToo, gdt);
        v.G.Write(0x17_0000, idt);
        var values = new Dictionary<VmcsField, ulong>
        {
            [VmcsField.HostCr0] = 0x8001_0031,
            [VmcsField.HostCr3] = v.G.State.Cr3,
            [VmcsField.HostCr4] = v.G.State.Cr4 | 0x80,
            [VmcsField.HostFsBase] = 0x1_2345_6789,
            [VmcsField.HostGsBase] = 0xFFFF_8000_0000_2000,
            [VmcsField.HostTrBase] = 0x1_0000_3000,
            [VmcsField.HostGdtrBase] = VmxGuest.ZerosToo,
            [VmcsField.HostIdtrBase] = 0x17_0000,
            [VmcsField.HostSysenterCs] = 0x44,
            [VmcsField.HostSysenterEsp] = 0x55,
            [VmcsField.HostSysenterEip] = 0x66,
            [VmcsField.HostPat] = 0x0006_0406_0007_0406,
            [VmcsField.HostEfer] = v.G.State.Efer | 1,
            [VmcsField.HostEsSelector] = Sel.Data16,
            [VmcsField.HostDsSelector] = Sel.Data32,
            [VmcsField.HostFsSelector] = 0,
            [VmcsField.HostGsSelector] = Sel.Data16,
            [VmcsField.HostSsSelector] = Sel.Data32,
            [VmcsField.HostCsSelector] = Sel.Code64,
            [VmcsField.HostTrSelector] = Sel.Tss,
            [VmcsField.HostRsp] = Layout.StackTop - 64,
            [VmcsField.HostRip] = 0, // the hypervisor's own
        };
        Assert.Equal(VmcsFields.All.Where(f => VmcsFields.Group(f) == VmcsGroup.Host), values.Keys.Order());
        foreach ((VmcsField field, ulong value) in values) v.Fields[(uint)field] = value;
        v.Fields.Remove((uint)VmcsField.HostRip);
        v.Fields[VmField.Exit] |= (ulong)ExitControls.LoadPat;
        CpuState s = v.Begin(engine).Done().State;
        v.Result().Is(10);
        Assert.Equal((values[VmcsField.HostCr0], values[VmcsField.HostCr4], values[VmcsField.HostEfer], 2ul, values[VmcsField.HostRsp]),
            (s.Cr0, s.Cr4, s.Efer, s.Rflags & ~0x8D5ul, s.Gpr[4])); // flags have changed since
        Assert.Equal(new SegmentState(0, values[VmcsField.HostFsBase], 0, 0x1_0000), s.Fs);
        Assert.Equal(new SegmentState(Sel.Data16, values[VmcsField.HostGsBase], uint.MaxValue, 0xC093), s.Gs);
        Assert.Equal(new SegmentState(Sel.Code64, 0, uint.MaxValue, 0xA09B), s.Cs);
        Assert.Equal((Sel.Data16, Sel.Data32, Sel.Data32), (s.Es.Selector, s.Ds.Selector, s.Ss.Selector));
        Assert.Equal(new SegmentState(Sel.Tss, values[VmcsField.HostTrBase], 0x67, 0x8B), s.Tr);
        Assert.Equal(0x1_0000u, s.Ldtr.Attributes & 0x1_0000);
        Assert.Equal((values[VmcsField.HostGdtrBase], 0xFFFF, values[VmcsField.HostIdtrBase], 0xFFFF, 0x400ul),
            (s.GdtrBase, s.GdtrLimit, s.IdtrBase, s.IdtrLimit, s.Dr7));
        Assert.Equal((0x44ul, 0x55ul, 0x66ul, values[VmcsField.HostPat]), (s.Msrs[0x174], s.Msrs[0x175], s.Msrs[0x176], s.Msrs[0x277]));
    }

    [Theory, Engines]
    public void Lists_of_MSRs_are_loaded_and_stored(string engine)
    {
        using var v = new VmxGuest();
        const uint entry = VmxGuest.ZerosToo, store = entry + 0x100, exit = entry + 0x200;
        v.G.Write(entry, 0xC000_0102ul); // IA32_KERNEL_GS_BASE
        v.G.Write(entry + 8, 0x1111ul);
        v.G.Write(store, 0xC000_0102ul);
        v.G.Write(exit, 0xC000_0102ul);
        v.G.Write(exit + 8, 0x3333ul);
        v.Guest(a =>
        {
            a.swapgs(); // the loaded value is the base of GS, and GS's the other
            a.cpuid();
        });
        v.Fields[(uint)VmcsField.GuestGsBase] = 0x2222;
        (v.Fields[(uint)VmcsField.EntryMsrLoadCount], v.Fields[(uint)VmcsField.EntryMsrLoadAddress]) = (1, entry);
        (v.Fields[(uint)VmcsField.ExitMsrStoreCount], v.Fields[(uint)VmcsField.ExitMsrStoreAddress]) = (1, store);
        (v.Fields[(uint)VmcsField.ExitMsrLoadCount], v.Fields[(uint)VmcsField.ExitMsrLoadAddress]) = (1, exit);
        CpuState s = v.Begin(engine).Done().State;
        v.Result().Is(10);
        Assert.Equal((0x1111ul, 0x2222ul, 0x3333ul), (s.Vmx![VmcsField.GuestGsBase], v.G.Read<ulong>(store + 8), s.Msrs[0xC000_0102]));
    }

    [Theory]
    [Engines(false), Engines(true)]
    public void An_external_interrupt_exits_and_is_acknowledged_if_the_exit_controls_say_so(string engine, bool acknowledges)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.@out((byte)Marker, al);
            a.nop();
            a.vmcall();
        });
        v.Fields[VmField.Pin] |= VmControl.ExternalInterrupt;
        if (acknowledges) v.Fields[VmField.Exit] |= (ulong)ExitControls.AcknowledgeInterruptOnExit;
        var source = new OfferedInterrupts(0x41);
        v.G.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Io, Address: Marker }) v.G.Cpu.OfferInterrupt(source);
            return false;
        };
        // RFLAGS.IF is clear: the control makes it exit all the same.
        VmxExitResult r = v.Run(engine).Is(1);
        Assert.Equal((VmxGuest.GuestCode + 2ul, acknowledges ? Valid | 0x41ul : 0, acknowledges ? 1 : 0),
            (r[VmField.GuestRip], r[VmField.Interruption], source.Asked));
    }

    [Theory, Engines]
    public void An_NMI_exits_and_blocks_NMIs_of_the_host(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.@out((byte)Marker, al);
            a.nop();
            a.vmcall();
        });
        v.Fields[VmField.Pin] |= VmControl.Nmi;
        v.G.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Io, Address: Marker }) v.G.Cpu.InjectNmi();
            return false;
        };
        CpuState s = v.Begin(engine).Done().State;
        Assert.Equal(Valid | 2ul << 8 | 2, v.Result().Is(0)[VmField.Interruption]);
        Assert.True(s.NmiBlocked);
    }

    [Theory, Engines]
    public void NMI_window_exiting_with_virtual_NMIs(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            Label target = a.CreateLabel();
            a.mov(rax, rsp);
            a.push((int)Sel.Data32);
            a.push(rax);
            a.pushfq();
            a.push((int)Sel.Code64);
            a.lea(rdx, __[target]);
            a.push(rdx);
            a.iretq();
            a.Label(ref target);
            a.nop();
            v.G.Mark(a, "behind the target");
            a.nop();
        });
        v.Fields[VmField.Pin] |= VmControl.Nmi | VmControl.VirtualNmis;
        v.Fields[VmField.Primary] |= (uint)ProcessorControls.NmiWindowExiting;
        v.Fields[VmField.Interruptibility] = 8;
        Assert.Equal(v.G["behind the target"] - 1, v.Run(engine).Is(8)[VmField.GuestRip]); // IRET has ended the blocking
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        Assert.Equal((ulong)VmxGuest.GuestCode, v.Run(engine).Is(8)[VmField.GuestRip]);
    }

    /// <summary>A guest of 32-bit code without paging, which an unrestricted guest may be.</summary>
    private static VmxGuest Protected(Action<Assembler> emit)
    {
        VmxGuest v = new VmxGuest().WithEpt();
        v.Fields[VmField.Secondary] |= VmControl.Unrestricted;
        v.Fields[VmField.Entry] &= ~(ulong)EntryControls.Ia32eModeGuest;
        v.Fields[VmField.GuestCr0] = 0x31;
        v.Fields[VmField.GuestEfer] = 0;
        v.Fields[(uint)VmcsField.GuestCsRights] = 0xC09B;
        v.Fields[(uint)VmcsField.GuestCsSelector] = Sel.Code32;
        v.G.Place(VmxGuest.GuestCode, 32, emit);
        return v;
    }

    [Theory, Engines]
    public void A_task_switch_exits_with_its_source(string engine)
    {
        using VmxGuest v = Protected(a => a.db(0xEA, 0, 0, 0, 0, (byte)Sel.Free, 0)); // JMP far
        v.G.Gdt(Sel.Free, Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32));
        VmxExitResult r = v.Run(engine).Is(9, Sel.Free | 2ul << 30, 7);
        Assert.Equal((ulong)VmxGuest.GuestCode, r[VmField.GuestRip]);
    }

    /// <summary>Intel SDM vol. 3C, "Loading Page-Directory-Pointer-Table Entries": with EPT they are in the VMCS.</summary>
    [Theory, Engines]
    public void PDPTEs_of_a_guest_with_EPT_are_those_of_the_VMCS(string engine)
    {
        using VmxGuest v = Protected(a =>
        {
            a.mov(eax, __dword_ptr[Layout.Spare]);
            a.mov(edx, __dword_ptr[0xC000_0000 + Layout.Spare]);
            a.vmcall();
        });
        const uint directory = VmxGuest.ZerosToo, other = 0x17_0000;
        v.G.Write(directory, Pte.P | Pte.W | Pte.Ps);
        v.G.Write(other, 0x20_0000 | Pte.P | Pte.W | Pte.Ps);
        v.G.Write(Layout.Spare, 0x1111);
        v.G.Write(0x20_0000 + Layout.Spare, 0x2222);
        v.Fields[VmField.GuestCr0] = 0x8000_0031;
        v.Fields[VmField.GuestCr3] = 0; // whatever is there is not looked at
        ulong[] pdptes = [directory | 1, 0, 0x1234_5000, other | 1];
        for (uint n = 0; n < 4; n++) v.Fields[(uint)VmcsField.GuestPdpte0 + 2 * n] = pdptes[n];
        CpuState s = v.Begin(engine).Done().State;
        VmxExitResult r = v.Result().Is(18);
        Assert.Equal((0x1111ul, 0x2222ul), (r.Rax, r.Rdx));
        Assert.Equal(pdptes, Enumerable.Range(0, 4).Select(n => s.Vmx![VmcsField.GuestPdpte0 + (ushort)(2 * n)]));
    }

    [Theory]
    [Engines(2), Engines(3)]
    public void EPT_maps_large_pages(string engine, int level)
    {
        using VmxGuest v = new VmxGuest().WithEpt();
        // 2 MiB: the second one is the first once more. 1 GiB: all of it.
        if (level == 2) v.G.Write(VmxGuest.EptTables + 0x2008, 7ul | 6 << 3 | 1 << 7);
        else v.G.Write(VmxGuest.EptTables + 0x1000, 7ul | 6 << 3 | 1 << 7);
        v.G.Write(Layout.Spare, 0x1111);
        v.G.Write(0x20_0000 + Layout.Spare, 0x2222);
        v.Guest(a =>
        {
            a.mov(eax, __dword_ptr[0x20_0000 + Layout.Spare]);
            a.cpuid();
        });
        v.G.Tables[0x20_0000 + Layout.Spare] = 0x20_0000 + Layout.Spare | Pte.P;
        VmxExitResult r = v.Run(engine).Is(10);
        Assert.Equal(level == 2 ? 0x1111ul : 0x2222ul, r.Rax);
    }

    /// <summary>Intel SDM vol. 3C, "RDTSCP", "INVPCID", "RDPID": #UD where the guest's controls do not enable them.</summary>
    [Theory]
    [Engines("RDTSCP"), Engines("RDPID"), Engines("INVPCID"), Engines("XSAVES"), Engines("VMFUNC")]
    public void Instructions_that_secondary_controls_do_not_enable_raise_UD(string engine, string name)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            if (name == "RDTSCP") a.rdtscp();
            else if (name == "RDPID") a.rdpid(rax);
            else if (name == "INVPCID") a.invpcid(rax, __xmmword_ptr[rsp - 16]);
            else if (name == "XSAVES") a.xsaves(__[rsp]);
            else a.vmfunc();
        });
        v.Fields[VmField.ExceptionBitmap] = 1 << X.UD;
        Assert.Equal(Valid | 3ul << 8 | X.UD, v.Run(engine).Is(0)[VmField.Interruption]);
    }

    /// <summary>Intel SDM vol. 3C, "Save VMX-preemption timer value".</summary>
    [Theory, Engines]
    public void What_is_left_of_the_preemption_timer_is_saved(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.cpuid());
        v.Fields[VmField.Pin] |= VmControl.Timer;
        v.Fields[VmField.Exit] |= (ulong)ExitControls.SavePreemptionTimer;
        v.Fields[VmField.Timer] = uint.MaxValue;
        Assert.InRange(v.Run(engine).Is(10)[VmField.Timer], 1ul, uint.MaxValue);
    }

    [Theory, Engines]
    public void An_exit_of_a_repeated_OUTS_saves_its_registers(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.mov(edx, 0x1F0);
            a.mov(ecx, 4);
            a.mov(esi, Layout.Spare);
            a.mov(edi, 0x1234);
            v.G.Mark(a, "at");
            a.rep.outsw();
        });
        v.Fields[VmField.Primary] |= VmControl.UnconditionalIo;
        CpuState s = v.Begin(engine).Done().State;
        VmxExitResult r = v.Result().Is(30, 1 | 1 << 4 | 1 << 5 | 0x1F0 << 16);
        Assert.Equal((4ul, (ulong)Layout.Spare, 0x1234ul, v.G["at"], (ulong)Layout.Spare), (s.Vmx![VmcsField.IoRcx], s.Vmx[VmcsField.IoRsi],
            s.Vmx[VmcsField.IoRdi], s.Vmx[VmcsField.IoRip], r[VmField.Linear]));
    }
}
