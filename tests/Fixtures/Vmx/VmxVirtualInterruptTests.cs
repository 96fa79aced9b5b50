using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.VmxApicGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3C, "Evaluation of Pending Virtual Interrupts", "Virtual-Interrupt Delivery", "EOI Virtualization", "Self-IPI Virtualization" and
/// "Posted-Interrupt Processing"; and INIT and start-up IPIs, which are no interrupts of an APIC that is virtual.
/// </summary>
public sealed class VmxVirtualInterruptTests
{
    private const byte Low = 0x41, Middle = 0x52, High = 0xE3, Notification = 0xF2;
    private const int Marker = 0x55;
    private const uint Hlt = 12, Vmcall = 18;

    /// <summary>The guest is in the handler of a vector, which has halted and exited.</summary>
    private static VmxExitResult IsIn(VmxExitResult r, byte vector)
    {
        Assert.Equal((ulong)Guest.Stub(vector), r.Is(Hlt)[VmField.GuestRip]);
        return r;
    }

    /// <summary>VISR has it and VIRR has it no more; RVI is the next, SVI and VPPR are its own.</summary>
    [Theory, Engines]
    public void A_virtual_interrupt_that_waits_is_delivered_behind_the_entry(string engine)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        Request(v, High);
        v.Guest(a => a.vmcall());
        VmxExitResult r = IsIn(v.Run(engine), High);
        Assert.Equal((ulong)High << 8 | Low, r[VmField.InterruptStatus]);
        Assert.Equal(([High], [Low], 0xE0u), (Vectors(v, 0x100), Vectors(v, 0x200), v.G.Read<uint>(Page + 0xA0)), Equal);
        Assert.Equal((ulong)VmxGuest.GuestCode, v.G.Read<ulong>(r[VmField.GuestRsp]));

        static bool Equal((byte[], byte[], uint) a, (byte[], byte[], uint) b) =>
            a.Item1.SequenceEqual(b.Item1) && a.Item2.SequenceEqual(b.Item2) && a.Item3 == b.Item3;
    }

    [Theory, Engines]
    public void It_waits_for_IF_and_the_end_of_blocking_by_STI(string engine)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        v.Guest(a =>
        {
            a.nop();
            a.sti();
            a.nop();
            v.G.Mark(a, "open");
            a.vmcall();
        });
        v.Fields[VmField.GuestRflags] = 2;
        Assert.Equal(v.G["open"], v.G.Read<ulong>(IsIn(v.Run(engine), Low)[VmField.GuestRsp]));
    }

    /// <summary>TPR virtualization by MOV to CR8, by the page and by WRMSR.</summary>
    [Theory]
    [Engines(0), Engines(1), Engines(2)]
    public void It_waits_for_the_task_priority(string engine, int door)
    {
        using VmxGuest v = WithInterrupts(door == 2 ? X2Apic : Accesses, Low);
        v.G.Write(Page + 0x80, 0x40u);
        v.Guest(a =>
        {
            a.mov(eax, door == 0 ? 3 : 0x3F);
            a.mov(ecx, 0x808);
            a.xor(edx, edx);
            if (door == 0) a.mov(cr8, rax);
            else if (door == 1) a.mov(__dword_ptr[AccessPage + 0x80], eax);
            else a.wrmsr();
            v.G.Mark(a, "open");
            a.vmcall();
        });
        Assert.Equal(v.G["open"], v.G.Read<ulong>(IsIn(v.Run(engine), Low)[VmField.GuestRsp]));
        Assert.Equal(door == 0 ? 0x30u : 0x3F, v.G.Read<uint>(Page + 0x80));
    }

    /// <summary>VPPR is the higher one of task priority and interrupt in service.</summary>
    [Theory]
    [Engines(0x7Au, 0x51u, 0x7Au), Engines(0x3Au, 0x51u, 0x50u), Engines(0x5Au, 0x51u, 0x5Au)]
    public void PPR_virtualization_at_an_entry(string engine, uint task, uint served, uint expected)
    {
        using VmxGuest v = WithInterrupts();
        v.Guest(a => a.vmcall());
        v.G.Write(Page + 0x80, task);
        v.Fields[VmField.InterruptStatus] = served << 8;
        v.Run(engine).Is(Vmcall);
        Assert.Equal(expected, v.G.Read<uint>(Page + 0xA0));
    }

    /// <summary>The interrupt that was in service before is in service again, and what its end lets through is delivered.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void EOI_virtualization(string engine, bool byMsr)
    {
        using VmxGuest v = WithInterrupts(byMsr ? X2Apic : Accesses, Middle);
        v.G.Write(Page + 0x100 + (High & 0xE0u) / 2, 1u << (High & 31));
        v.G.Write(Page + 0x100 + (Low & 0xE0u) / 2, 1u << (Low & 31));
        v.Fields[VmField.InterruptStatus] |= (ulong)High << 8;
        v.G.Write(Page + 0xB0, 0xFFFF_FFFFu);
        v.Guest(a => End(a, v, byMsr));
        VmxExitResult r = IsIn(v.Run(engine), Middle);
        Assert.Equal((v.G["ended"], (ulong)Middle << 8, 0u), (v.G.Read<ulong>(r[VmField.GuestRsp]), r[VmField.InterruptStatus], v.G.Read<uint>(Page + 0xB0)));
        Assert.Equal([Low, Middle], Vectors(v, 0x100));
    }

    private static void End(Assembler a, VmxGuest v, bool byMsr)
    {
        a.xor(eax, eax);
        a.xor(edx, edx);
        a.mov(ecx, 0x80B);
        if (byMsr) a.wrmsr();
        else a.mov(__dword_ptr[AccessPage + 0xB0], 0x1234);
        v.G.Mark(a, "ended");
        a.vmcall();
    }

    /// <summary>Before another interrupt is delivered; each of the four bitmaps has 64 vectors.</summary>
    [Theory]
    [Engines(0x31u, false), Engines(0x71u, true), Engines(0xB1u, false), Engines(0xF1u, true)]
    public void EOI_exit_bitmaps(string engine, uint vector, bool byMsr)
    {
        using VmxGuest v = WithInterrupts(byMsr ? X2Apic : Accesses, 0x21);
        v.G.Write(Page + 0x100 + (vector & 0xE0) / 2, 1u << (int)(vector & 31));
        v.Fields[VmField.InterruptStatus] |= (ulong)vector << 8;
        v.Fields[VmField.EoiExitBitmap + (vector >> 6) * 2] = 1ul << (int)(vector & 63);
        v.Guest(a => End(a, v, byMsr));
        VmxExitResult r = v.Run(engine).Is(45, vector);
        Assert.Equal((v.G["ended"], 0x21ul), (r[VmField.GuestRip], r[VmField.InterruptStatus]));
        Assert.Empty(Vectors(v, 0x100));
        IsIn(v.Run(engine), 0x21);
    }

    [Theory]
    [Engines(0x52u, true), Engines(0x52u, false), Engines(0x0Fu, true), Engines(0x0Fu, false)]
    public void Self_IPI_virtualization(string engine, uint vector, bool byMsr)
    {
        using VmxGuest v = WithInterrupts(byMsr ? X2Apic : Accesses);
        v.Guest(a =>
        {
            a.mov(eax, byMsr ? vector : 1 << 18 | vector);
            a.xor(edx, edx);
            a.mov(ecx, 0x83F);
            if (byMsr) a.wrmsr();
            else a.mov(__dword_ptr[AccessPage + 0x300], eax);
            v.G.Mark(a, "sent");
            a.vmcall();
        });
        VmxExitResult r = v.Run(engine);
        if (vector >= 16) Assert.Equal(v.G["sent"], v.G.Read<ulong>(IsIn(r, (byte)vector)[VmField.GuestRsp]));
        else Assert.Equal(v.G["sent"], r.Is(56, byMsr ? 0x3F0u : 0x300)[VmField.GuestRip]);
    }

    /// <summary>Another shorthand, delivery mode, trigger mode, the delivery status, reserved bits.</summary>
    [Theory]
    [Engines(0x0052u), Engines(0xC_0052u), Engines(0x4_0152u), Engines(0x4_8052u), Engines(0x4_1052u), Engines(0x14_0052u), Engines(0x4_2052u)]
    public void Other_interrupt_commands_exit(string engine, uint command)
    {
        using VmxGuest v = WithInterrupts(Accesses);
        v.Guest(a => a.mov(__dword_ptr[AccessPage + 0x300], command));
        v.Run(engine).Is(56, 0x300);
        Assert.Equal(command, v.G.Read<uint>(Page + 0x300));
    }

    /// <summary>As an activity state, and by the instruction, which an interrupt ends that IF alone has held back.</summary>
    [Theory]
    [Engines(true), Engines(false)]
    public void HLT_ends_with_a_virtual_interrupt(string engine, bool asActivity)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        v.Fields[VmField.Primary] &= ~(ulong)ProcessorControls.HltExiting;
        v.Guest(a =>
        {
            if (!asActivity)
            {
                a.sti();
                a.hlt();
            }
            v.G.Mark(a, "halted");
            a.vmcall();
        });
        if (asActivity) v.Fields[VmField.Activity] = 1;
        else v.Fields[VmField.GuestRflags] = 2;
        v.G.Place(0x14_2000, 64, a => a.cpuid());
        v.G.Idt(Low, Desc.Gate(Sel.Code64, 0x14_2000, Desc.IntGate, 0, 0));
        VmxExitResult r = v.Run(engine).Is(10);
        Assert.Equal((v.G["halted"], 0ul), (v.G.Read<ulong>(r[VmField.GuestRsp]), r[VmField.Activity]));
    }

    [Theory, Engines]
    public void With_interrupt_window_exiting_nothing_is_recognized(string engine)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        v.Fields[VmField.Primary] |= VmControl.InterruptWindow;
        v.Guest(a => a.vmcall());
        Assert.Equal((ulong)Low, v.Run(engine).Is(7)[VmField.InterruptStatus]);
    }

    /// <summary>It is in service already, and the hypervisor injects it.</summary>
    [Theory, Engines]
    public void An_exit_during_the_delivery_of_a_virtual_interrupt_tells_of_it(string engine)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        v.Guest(a => a.vmcall());
        v.Fields[VmField.GuestIdt] = 0x8000_0000_0000; // no address
        v.Fields[VmField.ExceptionBitmap] = 1 << X.GP;
        v.Fields[VmField.GuestIdt] = 0x50_0000; // not mapped
        v.Fields[VmField.ExceptionBitmap] = 1 << X.PF;
        VmxExitResult r = v.Run(engine);
        Assert.Equal((0ul, 1u << 31 | Low, (ulong)Low << 8), (r[VmField.Reason], (uint)r[VmField.Vectoring], r[VmField.InterruptStatus]));
    }

    [Theory, Engines]
    public void The_monitor_trap_flag_traps_after_the_delivery(string engine)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        v.Fields[VmField.Primary] |= VmControl.MonitorTrap;
        v.Guest(a => a.vmcall());
        Assert.Equal((ulong)Guest.Stub(Low), v.Run(engine).Is(37)[VmField.GuestRip]);
    }

    // ---- posted interrupts

    private static VmxGuest WithPosted(SecondaryControls secondary = 0)
    {
        VmxGuest v = WithInterrupts(secondary);
        v.Fields[VmField.Pin] |= (ulong)PinControls.ProcessPostedInterrupts;
        v.Fields[VmField.Exit] |= (ulong)ExitControls.AcknowledgeInterruptOnExit;
        v.Fields[VmField.NotificationVector] = Notification;
        v.Fields[VmField.PostedDescriptor] = Descriptor;
        return v;
    }

    private static void Post(VmxGuest v, params byte[] vectors)
    {
        foreach (byte vector in vectors)
        {
            uint at = Descriptor + (uint)(vector >> 5) * 4;
            v.G.Write(at, v.G.Read<uint>(at) | 1u << (vector & 31));
        }
        v.G.Write(Descriptor + 32, 0x1234_5671u); // what is not ON stays
    }

    /// <summary>The notification is acknowledged and ended by the processor; requests are taken; one that can be is delivered, without any exit.</summary>
    [Theory, Engines]
    public void A_notification_is_processed_while_the_guest_runs(string engine)
    {
        using VmxGuest v = WithPosted();
        v.Guest(a =>
        {
            a.@out(Marker, al);
            v.G.Mark(a, "told");
            a.vmcall();
        });
        var source = new OfferedInterrupts(Notification);
        v.G.OnExit = e =>
        {
            if (e is not { Reason: ExitReason.Io, Address: Marker }) return false;
            Post(v, Low, High);
            v.G.Cpu.OfferInterrupt(source);
            return false;
        };
        VmxExitResult r = IsIn(v.Run(engine), High);
        Assert.Equal((1, 1), (source.Asked, source.Ended));
        Assert.Equal((v.G["told"], (ulong)High << 8 | Low, 0x1234_5670u, 0ul),
            (v.G.Read<ulong>(r[VmField.GuestRsp]), r[VmField.InterruptStatus], v.G.Read<uint>(Descriptor + 32), v.G.Read<ulong>(Descriptor + 8)));
        Assert.Equal([Low], Vectors(v, 0x200));
    }

    [Theory, Engines]
    public void Another_interrupt_than_the_notification_exits_and_is_not_ended(string engine)
    {
        using VmxGuest v = WithPosted();
        v.Guest(a =>
        {
            a.@out(Marker, al);
            a.vmcall();
        });
        var source = new OfferedInterrupts(Low);
        v.G.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Io, Address: Marker }) v.G.Cpu.OfferInterrupt(source);
            return false;
        };
        Assert.Equal(1u << 31 | Low, (uint)v.Run(engine).Is(1)[VmField.Interruption]);
        Assert.Equal((1, 0), (source.Asked, source.Ended));
    }

    /// <summary>A request that the task priority holds back leaves the guest halted.</summary>
    [Theory, Engines]
    public void A_notification_in_HLT_ends_it_with_an_interrupt_alone(string engine)
    {
        using VmxGuest v = WithPosted();
        v.Fields[VmField.Primary] &= ~(ulong)ProcessorControls.HltExiting;
        v.Fields[VmField.Activity] = 1;
        v.G.Write(Page + 0x80, 0x50u);
        v.Guest(a => a.vmcall());
        v.G.Place(0x14_2000, 64, a => a.cpuid());
        v.G.Idt(High, Desc.Gate(Sel.Code64, 0x14_2000, Desc.IntGate, 0, 0));
        Assert.Equal(ExitReason.Hlt, v.Begin(engine).Reason);
        foreach (byte vector in (byte[])[Low, Middle])
        {
            Assert.Equal(CpuActivity.Halted, v.G.Cpu.Activity);
            Post(v, vector);
            v.G.Cpu.OfferInterrupt(new OfferedInterrupts(Notification));
            Assert.Equal(ExitReason.Hlt, v.G.Run(engine).Reason);
            Assert.Contains(vector, Vectors(v, 0x200));
        }
        var state = new CpuState();
        v.G.Cpu.ReadState(state);
        Assert.True(state.Vmx is { InGuest: true, IsHalted: true });
        Post(v, High);
        v.G.Cpu.OfferInterrupt(new OfferedInterrupts(Notification));
        v.G.Run(engine).Done();
        Assert.Equal((ulong)VmxGuest.GuestCode, v.G.Read<ulong>(v.Result().Is(10)[VmField.GuestRsp]));
    }

    /// <summary>An interrupt that is recognized while IF is clear is part of the state.</summary>
    [Theory]
    [Engines("interp"), Engines("bt")]
    public void A_recognized_interrupt_moves_to_another_engine(string engine, string other)
    {
        using VmxGuest v = WithInterrupts(requested: Low);
        v.Fields[VmField.GuestRflags] = 2;
        v.Guest(a =>
        {
            a.@out(Marker, al);
            a.sti();
            a.nop();
            a.vmcall();
        });
        v.G.OnExit = e => e is { Reason: ExitReason.Io, Address: Marker };
        v.Begin(engine);
        var state = new CpuState();
        v.G.Cpu.ReadState(state);
        Assert.True(state.Vmx is { InGuest: true, RecognizesInterrupt: true });
        v.G.Write(Page + 0xA0, 0xF0u); // nobody evaluates it again
        using IX86Vm vm = TestedEngines.Find(other).CreateVm(v.G.Memory, v.G.Model, new VirtualClock());
        using IX86Cpu cpu = vm.CreateCpu(0);
        cpu.WriteState(state);
        Assert.Equal(ExitReason.Hlt, cpu.Enter().Reason);
        IsIn(v.Result(), Low);
    }

    // ---- INIT and start-up IPIs

    [Theory, Engines]
    public void INIT_exits_from_a_guest_and_waits_in_VMX_root_operation(string engine)
    {
        using var v = new VmxGuest();
        v.Before = a => a.@out(Marker + 1, al);
        v.Guest(a =>
        {
            a.@out(Marker, al);
            v.G.Mark(a, "next");
            a.vmcall();
        });
        var responses = new List<InitResponse>();
        v.G.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Io, Address: Marker or Marker + 1 } or { Reason: ExitReason.Kicked }) responses.Add(v.G.Cpu.TakeInit());
            return false;
        };
        Assert.Equal((ulong)VmxGuest.GuestCode, v.Run(engine).Is(3)[VmField.GuestRip]);
        // Blocked, then kicked when the guest was entered; who has an INIT that waits is kicked more often on an engine that is two.
        Assert.Equal([InitResponse.Blocked, InitResponse.Taken], responses.Distinct());
        Assert.Equal(InitResponse.Taken, responses[^1]);
        v.Run(engine).Is(3);
        Assert.Equal(InitResponse.Blocked, v.G.Cpu.TakeInit());
        using var plain = new Guest(Mode.Long, model: VmxGuest.Model);
        Assert.Equal(InitResponse.Initialize, plain.On(engine).Cpu.TakeInit());
    }

    [Theory, Engines]
    public void A_guest_in_wait_for_SIPI_exits_with_the_vector_of_the_start_up_IPI(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.vmcall());
        v.Fields[VmField.Activity] = 3;
        v.Begin(engine);
        Assert.Equal((CpuActivity.WaitForStartUp, InitResponse.Blocked), (v.G.Cpu.Activity, v.G.Cpu.TakeInit()));
        Assert.True(v.G.Cpu.TakeStartUp(0x9A));
        v.G.Run(engine).Done();
        Assert.Equal(3ul, v.Result().Is(4, 0x9A)[VmField.Activity]);
        Assert.False(v.G.Cpu.TakeStartUp(0x9A));
        v.Fields[VmField.Activity] = 0;
        v.Run(engine).Is(Vmcall);
    }

    [Theory, Engines]
    public void Nothing_is_injected_in_wait_for_SIPI(string engine)
    {
        using var v = new VmxGuest();
        v.Guest(a => a.vmcall());
        v.Fields[VmField.Activity] = 3;
        v.Fields[VmField.Inject] = 1u << 31 | 2 << 8 | X.NMI;
        v.Run(engine).Is(1u << 31 | 33);
    }
}
