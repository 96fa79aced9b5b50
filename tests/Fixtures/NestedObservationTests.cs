using System.Text.RegularExpressions;
using Bunraku.Engines;
using Bunraku.Sessions;
using Bunraku.Sessions.Monitoring;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>What people see of guests inside the guest: entries and exits, page walks in two dimensions, code, the TLB, the VMCS.</summary>
public sealed class NestedObservationTests
{
    private sealed class Recorder : INestedObserver
    {
        public List<string> Lines { get; } = [];

        public void Crossed(in NestedCrossing crossing) => Lines.Add(crossing.ToString().Trim());
    }

    [Theory, Engines]
    public void VM_entries_and_exits_of_VMX_are_told_in_order(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a =>
        {
            a.nop();
            a.nop();
            a.vmcall();
        });
        var seen = new Recorder();
        v.G.On(engine);
        Assert.True(v.G.Cpu.ObserveNested(seen));
        v.Run(engine).Is(18);
        v.Fields[VmField.GuestRflags] = 0;
        v.Run(engine).Is(0x8000_0021);
        string vmcs = $"vmcs {VmxGuest.Vmcs:x}", first = $"{VmxGuest.GuestCode:x16}", last = $"{VmxGuest.GuestCode + 2:x16}";
        Assert.Equal([$"cpu0 entry rip {first} {vmcs}", $"cpu0 exit  rip {last} {vmcs} Vmcall qualification 0",
            $"cpu0 exit  rip {last} {vmcs} EntryInvalidGuestState qualification 0 (the entry failed: RFLAGS reserved bits)"], seen.Lines.Select(WithoutCount));
        Assert.Equal(2ul, Count(seen.Lines[1]) - Count(seen.Lines[0])); // the two NOPs
    }

    [Theory, Engines]
    public void VMRUN_and_VMEXIT_are_told_in_order(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(SvmGuest.NestedEntry(Layout.Spare), 0ul);
        g.Code(a => a.mov(eax, __dword_ptr[Layout.Spare + 8]));
        var seen = new Recorder();
        g.Host.On(engine); // writes the state
        Assert.True(g.Host.Cpu.ObserveNested(seen));
        g.Run(engine).Done();
        string place = $"rip {SvmGuest.GuestCode:x16} vmcb {SvmGuest.Vmcb:x}";
        Assert.Equal([$"cpu0 entry {place}", $"cpu0 exit  {place} NestedPageFault exitinfo1 100000004 exitinfo2 {Layout.Spare + 8:x}"],
            seen.Lines.Select(WithoutCount));
    }

    private static string WithoutCount(string line) => Regex.Replace(line, @"^\d+ ", "");

    private static ulong Count(string line) => ulong.Parse(line[..line.IndexOf(' ')], System.Globalization.CultureInfo.InvariantCulture);

    /// <summary>The guest's page lies elsewhere in the hypervisor's memory: who reads by linear address finds it there, entry by entry.</summary>
    [Theory, Engines]
    public void Linear_addresses_of_a_guest_go_through_both_stages_EPT(string engine)
    {
        using VmxGuest v = new VmxGuest().WithEpt();
        v.Fields[VmField.Secondary] |= VmControl.Vpid;
        v.Fields[VmField.Vpid] = 7;
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Spare + 0x1000ul | 7 | 6 << 3);
        v.G.Place(Layout.Spare + 0x1000, 64, AtSpare, Layout.Spare);
        v.Guest(a => { a.mov(rax, (ulong)Layout.Spare); a.jmp(rax); });
        v.G.OnExit = e => e is { Reason: ExitReason.Io, Address: 0x55 };
        Outcome o = v.Begin(engine);
        SeesTheGuest(v.G, o.State, 5 * 4);
        Assert.Contains(v.G.Cpu.ReadTlb()!, m => m is { Tag: 7, Linear: Layout.Spare, Physical: Layout.Spare + 0x1000 } && (m.Rights & PageRights.Read) != 0);
        Assert.Matches(@"(?m)^VPID or ASID 7, second stage 180000, PCID 0: \d+ entries$", PagingReport.Tlb(v.G.Cpu.ReadTlb()!));
        string report = VmxReport.Write(o.State)!;
        Assert.Contains("VMX non-root operation: a guest runs", report);
        Assert.Contains($"current VMCS {VmxGuest.Vmcs:x}, launched", report);
        Assert.Matches(@"EPT pointer 000000000018001e\n    PML4 at 180000, 4 levels", report);
        Assert.Matches(@"Secondary processor-based VM-execution controls 00000022\n    Enable EPT, Enable VPID\n", report);
        Assert.All(report.Split('\n'), line => Assert.InRange(line.Length, 0, 80));
    }

    /// <inheritdoc cref="Linear_addresses_of_a_guest_go_through_both_stages_EPT"/>
    [Theory, Engines]
    public void Linear_addresses_of_a_guest_go_through_both_stages_NPT(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(SvmGuest.NestedEntry(Layout.Spare), Layout.Spare + 0x1000ul | Pte.P | Pte.W | Pte.U);
        g.Host.Place(Layout.Spare + 0x1000, 64, AtSpare, Layout.Spare);
        g.Code(a => { a.mov(rax, (ulong)Layout.Spare); a.jmp(rax); });
        g.Host.OnExit = e => e is { Reason: ExitReason.Io, Address: 0x55 };
        SeesTheGuest(g.Host, g.Run(engine).State, 5 * 4);
        Assert.Contains(g.Host.Cpu.ReadTlb()!, m => m is { Tag: 1, Linear: Layout.Spare, Physical: Layout.Spare + 0x1000 });
    }

    private static void AtSpare(Assembler a)
    {
        a.mov(ecx, __dword_ptr[Layout.Spare]);
        a.@out(0x55, al);
        a.vmcall();
    }

    private static void SeesTheGuest(Guest g, CpuState state, int secondStageEntries)
    {
        PagingWalk walk = PagingWalk.Of(g.Memory, state, Layout.Spare + 1);
        Assert.Equal((Layout.Spare + 1ul, Layout.Spare + 0x1001ul), (walk.GuestPhysical, walk.Physical));
        Assert.Equal((4, secondStageEntries), (walk.Steps.Count(s => s.Stage == 1), walk.Steps.Count(s => s.Stage == 2)));
        Assert.Contains("vmcall", StateReport.Disassembly(g.Memory, state));
        string report = PagingReport.Walk(g.Memory, state, Layout.Spare + 1);
        Assert.Contains($"guest-physical {Layout.Spare + 1:x16}\nphysical       {Layout.Spare + 0x1001:x16}  RAM, ", report);
        Assert.EndsWith("; second stage RWX\n", report);
        Assert.Equal(4, Regex.Count(report, "(?m)^  P[A-Z0-9]+ "));
    }

    /// <summary>Without a hypervisor inside: each kind of paging of the guest's own.</summary>
    [Theory]
    [InlineData(Mode.Long5, 5), InlineData(Mode.Long, 4), InlineData(Mode.Pae, 3), InlineData(Mode.Paged32, 2), InlineData(Mode.Real, 0)]
    internal void A_walk_of_a_plain_guest_has_the_entries_of_its_own_tables(Mode mode, int levels)
    {
        using var g = new Guest(mode);
        PagingWalk walk = PagingWalk.Of(g.Memory, g.State, Layout.Data + 4);
        Assert.Equal((levels, Layout.Data + 4ul, null), (walk.Levels, walk.Physical!.Value, walk.Failure));
        Assert.Equal(levels > 0 ? levels : 0, walk.Steps.Count);
        Assert.Contains("RAM", PagingReport.Walk(g.Memory, g.State, Layout.Data + 4));
        if (levels < 4) return;
        g.Tables[Layout.Data] = 0;
        Assert.EndsWith("not mapped: not present\n", PagingReport.Walk(g.Memory, g.State, Layout.Data + 4));
        Assert.EndsWith("not mapped: the address is not canonical\n", PagingReport.Walk(g.Memory, g.State, 1ul << 60));
    }

    /// <summary>Intel SDM vol. 3D, "Field Encoding in VMCS": the report has every field once, under its name.</summary>
    [Fact]
    public void The_report_of_a_VMCS_names_each_field()
    {
        var state = new CpuState { Vmx = new VmxState { InOperation = true, CurrentPointer = 0x1000, Fields = new ulong[VmcsFields.All.Length] } };
        string report = VmxReport.Write(state)!;
        string[] names = [.. VmcsFields.All.Select(VmxNames.Of)];
        Assert.Equal(names.Length, names.Distinct().Count());
        Assert.All(names, n => Assert.Single(Regex.Matches(report, $@"(?m)(^|  ){Regex.Escape(n)} [0-9a-f]{{4,16}}( |$)")));
        string[] some = ["Guest ES selector", "Guest TR access rights", "Host IA32_SYSENTER_CS", "Guest IA32_DEBUGCTL", "Host IA32_EFER",
            "Guest IA32_SYSENTER_EIP", "Virtual-APIC address", "EOI-exit bitmap 2", "CR0 guest/host mask", "I/O RCX", "Host GDTR base",
            "Guest interruptibility state", "TSC offset", "TPR threshold", "VMCS link pointer", "Guest PDPTE3", "PML index",
            "EPTP index", "Exit qualification", "Guest RFLAGS", "Guest interrupt status"];
        Assert.All(some, n => Assert.Contains(n, names));
    }

    /// <summary>AMD APM vol. 2, appendix "Layout of VMCB": each intercept by its exit code's name, and the state save area from memory.</summary>
    [Fact]
    public void The_report_of_a_VMCB_names_each_intercept_and_field()
    {
        using var g = new SvmGuest();
        g.Intercept(SvmGuest.Field.Intercepts1, 18);
        g.Intercept(SvmGuest.Field.CrWrites, 3);
        g.Intercept(SvmGuest.Field.Exceptions, 14);
        g.Intercept(SvmGuest.Field.Intercepts3, 2);
        g.Set(SvmGuest.Field.Lstar, 0xFFFF_8000_1234_5678ul);
        g.Code(a => a.@out(0x55, al));
        g.Host.OnExit = e => e is { Reason: ExitReason.Io, Address: 0x55 };
        CpuState state = g.Run("interp").State;
        string report = SvmReport.Write(state, g.Host.Memory)!;
        Assert.Contains($"a guest runs; its VMCB is at {SvmGuest.Vmcb:x}\n", report);
        Assert.Contains("  intercepts of CR writes 0008\n    WriteCr3\n", report);
        Assert.Contains("  intercepts of exceptions 00004000\n    Exception14\n", report);
        Assert.Contains("  intercepts 00Ch 80040000\n    Cpuid, Shutdown\n", report);
        Assert.Contains("  intercepts 010h 00000003\n    Vmrun, Vmmcall\n", report);
        Assert.Contains("  intercepts 014h 00000004\n    Invpcid\n", report);
        string[] control = ["IOPM_BASE_PA", "MSRPM_BASE_PA", "TSC_OFFSET", "guest ASID", "TLB_CONTROL", "INTERRUPT_SHADOW", "EXITCODE", "EXITINFO1",
            "EXITINFO2", "EXITINTINFO", "NP_ENABLE", "AVIC APIC_BAR", "EVENTINJ", "N_CR3", "VMCB clean bits", "nRIP", "AVIC backing page",
            "EFER", "G_PAT", "KernelGsBase"];
        Assert.All(control, n => Assert.Single(Regex.Matches(report, $"(?m)(^|  ){n} [0-9a-f]+( |$)")));
        Assert.Matches($"  MSRPM_BASE_PA {SvmGuest.Msrpm:x16}( |\n)", report);
        Assert.Contains("LSTAR ffff800012345678", report);
        Assert.Matches($"  CS   selector {state.Cs.Selector:x4} attributes 0[0-9a-f]{{3}} limit ffffffff base 0000000000000000\n", report);
        Assert.All(report.Split('\n'), line => Assert.InRange(line.Length, 0, 80));
    }
}
