using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// VMX's further capabilities, after Intel SDM vol. 3C: page-modification logging, VM functions, the TPR shadow, VMCS shadowing, PAUSE-loop exiting, TSC
/// scaling; and the state of a processor whose guest runs.
/// </summary>
public sealed class VmxFeatureTests
{
    private const uint PauseLoop = 1 << 10, VmFunctions = 1 << 13, Shadowing = 1 << 14, Pml = 1 << 17, TscScaling = 1 << 25, TprShadow = 1 << 21;
    private const uint Page = VmxGuest.ZerosToo;

    private static VmxGuest With(uint secondary)
    {
        var v = new VmxGuest();
        v.Fields[VmField.Primary] |= VmControl.Secondary;
        v.Fields[VmField.Secondary] = secondary;
        return v;
    }

    [Theory, Engines]
    public void Page_modification_logging_notes_each_page_whose_dirty_flag_is_set_and_exits_when_the_log_is_full(string engine)
    {
        using VmxGuest v = With(Pml).WithEpt(accessedDirty: true);
        v.Guest(a =>
        {
            a.mov(__dword_ptr[Layout.Spare + 0x10], eax);
            a.mov(__dword_ptr[Layout.Spare + 0x20], eax);
            a.cpuid();
            a.mov(__dword_ptr[Layout.Spare + 0x1000], eax);
        });
        v.Fields[0x200E] = Page;
        v.Fields[0x812] = 511;
        v.Run(engine).Is(10);
        ulong[] log = [.. Enumerable.Range(0, 512).Select(n => v.G.Read<ulong>(Page + (uint)n * 8)).Where(e => e != 0)];
        Assert.Single(log, e => e == Layout.Spare);
        Assert.Contains(v.G.State.Cr3, log); // the guest's paging structures count, too
        v.Fields[0x812] = 0xFFFF;
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 16;
        v.Run(engine).Is(62);
    }

    [Theory, Engines]
    public void EPTP_switching(string engine)
    {
        using VmxGuest v = With(VmFunctions).WithEpt();
        const uint other = VmxGuest.EptTables + 0x6000;
        for (uint level = 0; level < 3; level++) v.G.Write(other + level * 0x1000, other + (level + 1) * 0x1000ul | 7);
        for (uint n = 0; n < 512; n++) v.G.Write(other + 0x3000 + n * 8, v.G.Read<ulong>(VmxGuest.EptEntry(n << 12)));
        v.G.Write(other + 0x3000 + (Layout.Spare >> 12) * 8, Layout.Spare + 0x1000ul | 7 | 6 << 3);
        v.G.Write(Layout.Spare, 0x1111);
        v.G.Write(Layout.Spare + 0x1000, 0x2222);
        v.G.Write<ulong>(Page + 8, other | 6 | 3 << 3);
        v.Guest(a =>
        {
            a.mov(edx, __dword_ptr[Layout.Spare]);
            a.xor(eax, eax);
            a.mov(ecx, 1);
            a.vmfunc();
            a.mov(eax, __dword_ptr[Layout.Spare]);
            a.vmcall();
            a.mov(eax, 1);
            a.vmfunc();
        });
        v.Fields[0x2018] = 1;
        v.Fields[0x2024] = Page;
        VmxExitResult r = v.Run(engine).Is(18);
        Assert.Equal((0x1111ul, 0x2222ul), (r.Rdx, r.Rax));
        v.Fields[VmField.GuestRip] = r[VmField.GuestRip] + 3;
        v.Run(engine).Is(59, length: 3);
    }

    [Theory, Engines]
    public void The_TPR_shadow_is_the_guests_CR8_and_an_exit_follows_when_it_falls_below_the_threshold(string engine)
    {
        using var v = new VmxGuest();
        v.Fields[VmField.Primary] |= TprShadow;
        v.Fields[0x2012] = Page;
        v.Fields[0x401C] = 5;
        v.G.Write<byte>(Page + 0x80, 0x70);
        v.Guest(a =>
        {
            a.mov(rdx, cr8);
            a.mov(eax, 6);
            a.mov(cr8, rax);
            a.mov(eax, 3);
            a.mov(cr8, rax);
            a.nop();
        });
        VmxExitResult r = v.Run(engine).Is(43);
        Assert.Equal((7ul, (byte)0x30, VmxGuest.GuestCode + 22ul), (r.Rdx, v.G.Read<byte>(Page + 0x80), r[VmField.GuestRip]));
    }

    [Theory, Engines]
    public void A_TPR_threshold_above_the_shadow_is_no_valid_control(string engine)
    {
        using var v = new VmxGuest();
        v.Fields[VmField.Primary] |= TprShadow;
        v.Fields[0x2012] = Page;
        v.Fields[0x401C] = 5;
        v.Run(engine).FailedWith(7);
    }

    [Theory, Engines]
    public void VMCS_shadowing_reads_and_writes_the_shadow_without_an_exit(string engine)
    {
        using VmxGuest v = With(Shadowing);
        v.G.Write(VmxGuest.OtherVmcs, 0x8042_0001u);
        v.G.Write<byte>(Page + 0x681C / 8, 1 << (0x681C & 7));
        v.Guest(a =>
        {
            a.mov(ecx, 0x681E);
            a.mov(edx, 0x1234);
            a.vmwrite(rcx, rdx);
            a.vmread(rax, rcx);
            a.mov(ecx, 0x681C);
            a.vmread(rax, rcx);
        });
        v.Fields[VmField.Link] = VmxGuest.OtherVmcs;
        v.Fields[0x2026] = Page;
        v.Fields[0x2028] = VmxGuest.Zeros;
        Assert.Equal(0x1234ul, v.Run(engine).Is(23, length: 3).Rax);
    }

    /// <summary>VMfailValid puts its number into the current VMCS, which the guest has none of its own for.</summary>
    [Theory]
    [Engines(true), Engines(false)]
    public void A_shadowed_access_to_no_field_fails_with_the_number_in_the_current_VMCS(string engine, bool write)
    {
        using VmxGuest v = With(Shadowing);
        v.G.Write(VmxGuest.OtherVmcs, 0x8042_0001u);
        v.Guest(a =>
        {
            a.mov(ecx, 1); // the upper half of a 16-bit field
            if (write) a.vmwrite(rcx, rdx);
            else a.vmread(rdx, rcx);
            a.pushfq();
            a.pop(rax);
            a.vmcall();
        });
        v.Fields[VmField.Link] = VmxGuest.OtherVmcs;
        v.Fields[0x2026] = VmxGuest.Zeros;
        v.Fields[0x2028] = VmxGuest.Zeros;
        VmxExitResult r = v.Run(engine).Is(18);
        Assert.Equal((0x40ul, 12ul), (r.Rax & 0x41, r[VmField.Error]));
    }

    [Theory, Engines]
    public void PAUSE_loop_exiting(string engine)
    {
        using VmxGuest v = With(PauseLoop);
        v.Guest(a =>
        {
            a.pause();
            a.pause();
            a.vmcall();
        });
        v.Fields[0x4020] = uint.MaxValue;
        v.Fields[0x4022] = 0;
        v.Run(engine).Is(40, length: 2);
    }

    [Theory, Engines]
    public void TSC_scaling_multiplies_before_it_adds_the_offset(string engine)
    {
        using VmxGuest v = With(TscScaling);
        v.Guest(a =>
        {
            a.rdtsc();
            a.vmcall();
        });
        v.Fields[VmField.Primary] |= VmControl.TscOffsetting;
        v.Fields[0x2032] = 1; // 2^-48: what comes of the TSC is 0
        v.Fields[VmField.TscOffset] = 0x1234_5678_9ABC_DEF0;
        VmxExitResult r = v.Run(engine).Is(18);
        Assert.Equal((0x9ABC_DEF0ul, 0x1234_5678ul), (r.Rax, r.Rdx));
    }

    [Theory]
    [Engines("interp"), Engines("bt")]
    public void The_state_of_a_processor_whose_guest_runs_moves_to_another_engine(string engine, string other)
    {
        using VmxGuest v = With(0).WithEpt();
        v.Guest(a =>
        {
            a.mov(edx, 0x77);
            a.@out(0x55, al);
            a.cpuid();
        });
        v.G.OnExit = e => e is { Reason: ExitReason.Io, Address: 0x55 };
        v.Begin(engine);
        var state = new CpuState();
        v.G.Cpu.ReadState(state);
        Assert.True(state.Vmx is { InOperation: true, InGuest: true });
        using IX86Vm vm = TestedEngines.Find(other).CreateVm(v.G.Memory, v.G.Model, new VirtualClock());
        using IX86Cpu cpu = vm.CreateCpu(0);
        cpu.WriteState(state);
        Assert.Equal(ExitReason.Hlt, cpu.Enter().Reason);
        Assert.Equal(0x77ul, v.Result().Is(10, length: 2).Rdx);
        cpu.ReadState(state);
        Assert.True(state.Vmx is { InOperation: true, InGuest: false });
    }
}
