using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.SvmGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// AMD APM vol. 2, "VMRUN Instruction", "Canonicalization and Consistency Checks", "#VMEXIT", "VMSAVE and VMLOAD Instructions", "Enabling SVM".
/// </summary>
public sealed class SvmEntryTests
{
    private static readonly Dictionary<string, Action<SvmGuest>> s_illegal = new()
    {
        ["EFER.SVME is clear"] = g => g.Set(Field.Efer, g.Get<ulong>(Field.Efer) & ~0x1000ul),
        ["EFER has a reserved bit"] = g => g.Set(Field.Efer, g.Get<ulong>(Field.Efer) | 1ul << 16),
        ["CR0.NW without CD"] = g => g.Set(Field.Cr0, g.Get<ulong>(Field.Cr0) | 0x2000_0000),
        ["CR0 above 32 bits"] = g => g.Set(Field.Cr0, g.Get<ulong>(Field.Cr0) | 1ul << 32),
        ["CR3 above the physical addresses"] = g => g.Set(Field.Cr3, g.Get<ulong>(Field.Cr3) | 1ul << 52),
        ["CR4 has a reserved bit"] = g => g.Set(Field.Cr4, g.Get<ulong>(Field.Cr4) | 1ul << 15),
        ["DR6 above 32 bits"] = g => g.Set(Field.Dr6, 1ul << 32),
        ["DR7 above 32 bits"] = g => g.Set(Field.Dr7, 1ul << 32),
        ["long mode without PAE"] = g => g.Set(Field.Cr4, g.Get<ulong>(Field.Cr4) & ~0x20ul),
        ["long mode without protection"] = g => g.Set(Field.Cr0, g.Get<ulong>(Field.Cr0) & ~1ul),
        ["CS.L and CS.D"] = g => g.Set(Field.CsAttributes, (ushort)(g.Get<ushort>(Field.CsAttributes) | 0x600)),
        ["VMRUN is not intercepted"] = g => g.Set(Field.Intercepts2, 2u),
        ["ASID 0"] = g => g.Set(Field.Asid, 0u),
        ["an MSR map beyond the physical addresses"] = g => { g.Intercept(Field.Intercepts1, 28); g.Set(Field.MsrpmBase, 1ul << 46); },
        ["an I/O map beyond the physical addresses"] = g => { g.Intercept(Field.Intercepts1, 27); g.Set(Field.IopmBase, (1ul << 46) - 0x2000); },
        ["nested tables beyond the physical addresses"] = g => { g.Set(Field.NestedControl, 1ul); g.Set(Field.NestedCr3, 1ul << 46); },
        ["virtual NMIs without their intercept"] = g => g.Set(Field.VirtualInterrupt, 1ul << 26),
    };

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class EveryIllegalStateAttribute : Xunit.Sdk.DataAttribute
    {
        public override IEnumerable<object?[]> GetData(System.Reflection.MethodInfo testMethod) =>
            new EnginesAttribute().GetData(testMethod).SelectMany(e => s_illegal.Keys.Select(n => (object?[])[e[0], n]));
    }

    [Theory, EveryIllegalState]
    public void Inconsistent_state_is_VMEXIT_INVALID(string engine, string name)
    {
        using var g = new SvmGuest();
        s_illegal[name](g);
        g.Code(a => a.vmmcall());
        g.Run(engine).Done();
        Assert.Equal(ulong.MaxValue, g.ExitCode);
    }

    [Theory, Engines]
    public void VMRUN_loads_the_guest_and_VMEXIT_the_host(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.Rax, 0x1111ul);
        g.Set(Field.Cr2, 0x2222ul);
        g.Set(Field.Rflags, 0x8D7ul);
        g.Enter = a =>
        {
            a.mov(ebx, 0x3333);
            a.mov(rcx, 0x4444ul);
            a.mov(cr2, rcx);
            a.xor(ecx, ecx);
        };
        g.Code(a =>
        {
            a.inc(rax);
            a.pushfq();
            a.pop(rdx);
            a.mov(rsi, cr2);
            a.vmmcall();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(0x81ul, g.ExitCode);
        Assert.Equal((0x1112ul, (ulong)GuestStack), (g.Get<ulong>(Field.Rax), g.Get<ulong>(Field.Rsp)));
        Assert.Equal((Vmcb, 0x3333ul, 0x2222ul, (ulong)Layout.StackTop), ((uint)o.State.Gpr[0], o.State.Gpr[3], o.State.Gpr[6], o.State.Gpr[4]));
        Assert.False(o.State.Svm!.GlobalInterruptFlag);
        Assert.False(o.State.Svm.InGuest);
        Assert.Equal(0x46ul, o.State.Rflags & 0xFFul); // of XOR, from before VMRUN
    }

    [Theory, Engines]
    public void SVM_instructions_are_undefined_without_EFER_SVME(string engine)
    {
        using var g = new SvmGuest();
        g.Host.State.Efer &= ~0x1000ul;
        g.Host.Code(a => a.vmrunq());
        g.Host.Run(engine).Raised(X.UD, null, Layout.Code);
    }

    [Theory, Engines]
    public void VMRUN_raises_GP_for_an_address_that_is_no_page(string engine)
    {
        using var g = new SvmGuest();
        g.Host.State.Gpr[0] = Vmcb + 8;
        g.Host.Code(a => a.vmrunq());
        g.Host.Run(engine).Raised(X.GP, 0, Layout.Code);
    }

    [Theory, Engines]
    public void SVM_is_not_there_unless_it_is_asked_for(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(ecx, 0xC0000080);
            a.rdmsr();
            a.or(eax, 0x1000);
            g.Mark(a, "write");
            a.wrmsr();
        });
        g.Run(engine).Raised(X.GP, 0, g["write"]);
    }

    [Theory, Engines]
    public void VMSAVE_and_VMLOAD_carry_what_VMRUN_does_not(string engine)
    {
        using var g = new SvmGuest();
        g.Host.Write(OtherVmcb + 0x600, 0x0023_0010_0000_0000ul); // STAR
        g.Host.Write(OtherVmcb + 0x608, 0x0000_8000_0000_0000ul); // LSTAR, not canonical
        g.Host.Write(OtherVmcb + 0x620, 0x1234ul); // KernelGSBase
        g.Host.Write(OtherVmcb + 0x448, 0x5678ul); // FS.base
        g.Host.Write(OtherVmcb + 0x628, 0x10ul); // SYSENTER_CS
        g.Host.Code(a =>
        {
            a.mov(eax, OtherVmcb);
            a.vmloadq();
            a.mov(eax, Vmcb);
            a.vmsaveq();
            a.hlt();
        });
        g.Host.Run(engine).Done();
        bool wide = g.Host.Model.Has(CpuFeature.La57);
        Assert.Equal(0x0023_0010_0000_0000ul, g.Get<ulong>(Field.Star));
        Assert.Equal(wide ? 0x0000_8000_0000_0000ul : 0xFFFF_8000_0000_0000ul, g.Get<ulong>(Field.Lstar));
        Assert.Equal((0x1234ul, 0x5678ul, 0x10ul), (g.Get<ulong>(Field.KernelGsBase), g.Get<ulong>(0x448), g.Get<ulong>(Field.SysenterCs)));
    }

    [Theory, Engines]
    public void The_guests_time_stamp_counter_has_its_offset(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.TscOffset, 1ul << 60);
        g.Code(a =>
        {
            a.rdtsc();
            a.mov(ebx, edx);
            a.vmmcall();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(1u << 28, (uint)o.State.Gpr[3] & 0xF000_0000);
    }

    [Theory, Engines]
    public void The_TSC_ratio_scales_the_guests_counter(string engine)
    {
        using var g = new SvmGuest();
        g.Host.State.Svm!.TscRatio = 0;
        g.Set(Field.TscOffset, 0x77ul);
        g.Code(a =>
        {
            a.rdtsc();
            a.mov(ebx, eax);
            a.vmmcall();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(0x77ul, o.State.Gpr[3]);
    }

    [Theory, Engines]
    public void A_hosts_single_step_traps_behind_VMRUN(string engine)
    {
        using var g = new SvmGuest();
        g.Code(a => { a.nop(); a.vmmcall(); });
        g.Enter = a =>
        {
            a.mov(rax, (ulong)Vmcb);
            a.push(0x102);
            a.popfq();
            g.Host.Mark(a, "stepped");
            a.vmrunq();
            g.Host.Mark(a, "trap");
        };
        Outcome o = g.Run(engine);
        Assert.Equal((ExitReason.Hlt, (int?)X.DB, g.Host["trap"], 0x81ul), (o.Reason, o.Vector, o.Frame.Rip, g.ExitCode));
    }

    [Theory, Engines]
    public void State_that_is_carried_on_in_the_middle_of_a_guest_goes_on_there(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Code(a =>
        {
            a.mov(ebx, 1);
            a.@out(Guest.ReportPort, al);
            a.add(ebx, 1);
            a.mov(ecx, __dword_ptr[Layout.Data]);
            a.vmmcall();
        });
        g.Host.Write(Layout.Data, 0x1234_5678u);
        g.Host.OnExit = exit =>
        {
            if (exit is not { Reason: ExitReason.Io, Address: Guest.ReportPort }) return false;
            var state = new CpuState();
            g.Host.Cpu.ReadState(state);
            Assert.True(state.Svm!.InGuest);
            var copy = new CpuState();
            copy.CopyFrom(state);
            g.Host.Cpu.WriteState(copy);
            return false;
        };
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x81ul, 2ul, 0x1234_5678ul), (g.ExitCode, o.State.Gpr[3], o.State.Gpr[1]));
    }
}
