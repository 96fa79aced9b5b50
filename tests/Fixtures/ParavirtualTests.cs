using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Testing;
using Iced.Intel;
using static Bunraku.Fixtures.ParavirtualGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// KVM's interface for guests, on the engines that offer it. Linux, Documentation/virt/kvm/x86/cpuid.rst, msr.rst and hypercalls.rst (version 6.1).
/// </summary>
public sealed class ParavirtualTests
{
    private const uint WallClockNew = 0x4B56_4D00, SystemTimeNew = 0x4B56_4D01, AsyncPfEnable = 0x4B56_4D02, StealTime = 0x4B56_4D03, PvEoiEnable = 0x4B56_4D04,
        PollControl = 0x4B56_4D05, MigrationControl = 0x4B56_4D08, WallClockOld = 0x11, SystemTimeOld = 0x12;
    private const uint Page = 0x6_9000;

    private static void Query(Assembler a, uint leaf)
    {
        a.mov(eax, leaf);
        a.xor(ecx, ecx);
        a.cpuid();
        a.mov(esi, edx);
        Report(a);
        foreach (AssemblerRegister32 register in (AssemblerRegister32[])[ebx, ecx, esi])
        {
            a.mov(eax, register);
            Report(a);
        }
    }

    [Theory, Engines]
    public void Cpuid_KVM_CPUID_SIGNATURE_and_KVM_CPUID_FEATURES_tell_what_there_is(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Query(a, 0x4000_0000);
            Query(a, 0x4000_0001);
            Query(a, 0x4000_0010);
            a.hlt();
        });
        Assert.Null(g.Run());
        Assert.Equal([0x4000_0010, 0x4B4D_564B, 0x564B_4D56, 0x4Du], g.Reports.Take(4)); // "KVMKVMKVM\0\0\0"
        // Clock (0, 3, 24), no I/O delay (1), steal time (5), PV EOI (6), unhalt (7), TLB flush (9), IPI (11), poll control (12), yield (13); no page faults.
        Assert.Equal(0b1_0000_0000_0011_1010_1110_1011u, g.Reports[4]);
        Assert.Equal([(uint)(g.Machine.Clock.CounterFrequency / 1000), 1_000_000u], g.Reports.Skip(8).Take(2));
    }

    [Theory, Engines]
    public void Without_the_interface_its_MSRs_and_calls_are_not_there(string engine)
    {
        var off = new X86MachineOptions { Paravirtual = false };
        foreach (uint msr in (uint[])[WallClockNew, SystemTimeNew, StealTime, PvEoiEnable, PollControl, SystemTimeOld, WallClockOld])
        {
            using var g = new ParavirtualGuest(engine, (_, a) => Wrmsr(a, msr, 0), options: off);
            Assert.Equal(X.GP, g.Run());
        }
        using var call = new ParavirtualGuest(engine, (_, a) => a.vmcall(), options: off);
        Assert.Equal(X.UD, call.Run());
    }

    private static void AssertClockPage(ParavirtualGuest g, ulong timestamp, byte flags)
    {
        Assert.Equal(0u, g.Read<uint>(Page) & 1);
        double frequency = g.Machine.Clock.CounterFrequency, nanoseconds = g.Read<uint>(Page + 24) * Math.Pow(2, g.Read<sbyte>(Page + 28) - 32);
        Assert.InRange(nanoseconds * frequency / 1e9, 1 - 1e-9, 1 + 1e-9);
        Assert.Equal(timestamp, g.Read<ulong>(Page + 8));
        Assert.Equal(flags, g.Read<byte>(Page + 29));
    }

    [Theory]
    [Engines(SystemTimeNew, 1_000_000_000ul), Engines(SystemTimeOld, 2_600_000_000ul), Engines(SystemTimeNew, 999_999_937ul),
        Engines(SystemTimeNew, 1_000_000ul), Engines(SystemTimeNew, 0ul)]
    public void Msr_KVM_SYSTEM_TIME_describes_nanoseconds_as_a_function_of_the_TSC(string engine, uint msr, ulong frequency)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Wrmsr(a, msr, Page | 1);
            a.mov(ecx, msr);
            a.rdmsr();
            Report(a);
            a.hlt();
        }, options: new X86MachineOptions { TscFrequency = frequency });
        Assert.Null(g.Run());
        Assert.Equal([Page | 1], g.Reports);
        AssertClockPage(g, 0, 1);
        Assert.Equal(0ul, g.Read<ulong>(Page + 16));
    }

    [Theory, Engines]
    public void Msr_KVM_SYSTEM_TIME_follows_a_write_to_the_TSC(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Wrmsr(a, SystemTimeNew, Page | 1);
            Wrmsr(a, 0x3B, 1ul << 40); // IA32_TSC_ADJUST
            a.nop();
            a.mov(eax, __dword_ptr[Page + 12]);
            Report(a);
            a.hlt();
        });
        Assert.Null(g.Run());
        Assert.Equal([1u << 8], g.Reports); // bits 63:32 of the time stamp at which the clock was 0
        AssertClockPage(g, 1ul << 40, 1);
    }

    [Theory, Engines]
    public void Msr_KVM_SYSTEM_TIME_is_not_stable_while_the_TSCs_of_two_vCPUs_differ(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Wrmsr(a, SystemTimeNew, Page | 1);
            Wrmsr(a, 0x3B, 5);
            a.nop();
            a.hlt();
        }, cpus: 2);
        Assert.Null(g.Run());
        Assert.Equal(0, g.Read<byte>(Page + 29));
    }

    [Theory, Engines]
    public void Msr_KVM_SYSTEM_TIME_says_that_the_guest_was_stopped(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Label wait = a.CreateLabel();
            Wrmsr(a, SystemTimeNew, Page | 1);
            a.mov(eax, 1);
            Report(a);
            a.Label(ref wait);
            a.test(__byte_ptr[Page + 29], 2);
            a.je(wait);
            a.hlt();
        });
        g.Machine.Start();
        g.WaitForReports(1);
        g.Machine.Pause();
        long stoppedAt = g.Machine.Clock.Nanoseconds;
        Thread.Sleep(30);
        Assert.Equal(stoppedAt, g.Machine.Clock.Nanoseconds);
        g.Machine.Resume();
        Assert.Null(g.WaitForEnd());
        Assert.Equal(3, g.Read<byte>(Page + 29));
    }

    /// <summary>
    /// Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW: "guest vcpu has been paused by the host"; the guest clears the bit. A guest that goes on in
    /// another machine is told as well.
    /// </summary>
    [Theory, Engines]
    public void A_guest_that_goes_on_in_another_machine_is_told_once(string engine)
    {
        const uint stopped = 2, flags = 29;
        static void Code(Guest _, Assembler a)
        {
            Label wait = a.CreateLabel(), clear = a.CreateLabel();
            Wrmsr(a, SystemTimeNew, Page | 1);
            a.mov(eax, 1);
            Report(a);
            a.Label(ref wait);
            a.pause();
            a.test(__byte_ptr[Page + flags], stopped);
            a.je(wait);
            a.and(__byte_ptr[Page + flags], ~(int)stopped & 0xFF);
            a.mov(eax, 2);
            Report(a);
            a.Label(ref clear);
            a.pause();
            a.jmp(clear);
        }
        using var from = new ParavirtualGuest(engine, Code);
        from.Machine.Start();
        from.WaitForReports(1);
        from.Machine.Pause();
        MachineState state = from.Machine.Save();

        using var to = new ParavirtualGuest(engine, Code);
        to.Machine.Pause();
        to.Machine.Restore(state);
        to.Machine.Start();
        to.Machine.Resume();
        to.WaitForReports(1);
        Assert.Equal([2u], to.Reports);
        to.Machine.Pause();
        Assert.Equal(0u, to.Read<byte>(Page + flags) & stopped);
    }

    /// <summary>The host's time of day, in seconds.</summary>
    private static double TimeOfDay => (DateTime.UtcNow - DateTime.UnixEpoch).TotalSeconds;

    [Theory, Engines(WallClockNew), Engines(WallClockOld)]
    public void Msr_KVM_WALL_CLOCK_is_the_time_of_day_at_which_the_clock_was_zero(string engine, uint msr)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Wrmsr(a, msr, Page);
            a.hlt();
        });
        Assert.Null(g.Run());
        Assert.Equal(0u, g.Read<uint>(Page) & 1);
        double then = g.Read<uint>(Page + 4) + g.Read<uint>(Page + 8) / 1e9, earliest = TimeOfDay;
        Assert.InRange(then + g.Machine.Clock.Nanoseconds / 1e9, earliest - 0.2, TimeOfDay + 0.2);
    }

    /// <summary>msr.rst names the reserved bits; a value that has them set raises #GP, as does an MSR whose feature is not offered.</summary>
    [Theory]
    [Engines(StealTime, 0x3Eul), Engines(StealTime, (ulong)Page | 2), Engines(StealTime, (ulong)Page | 0x21)]
    [Engines(PvEoiEnable, 2ul), Engines(PvEoiEnable, (ulong)Page | 3), Engines(PvEoiEnable, 1ul << 40 | 1)]
    [Engines(PollControl, 2ul), Engines(PollControl, 1ul << 63)]
    [Engines(AsyncPfEnable, 0ul), Engines(AsyncPfEnable, 1ul), Engines(MigrationControl, 1ul), Engines(0x4B56_4D06u, 0ul), Engines(0x4B56_4D07u, 0ul),
        Engines(0x4B56_4DFFu, 0ul)]
    public void Msr_values_that_are_not_allowed_raise_GP(string engine, uint msr, ulong value)
    {
        using var g = new ParavirtualGuest(engine, (_, a) => Wrmsr(a, msr, value));
        Assert.Equal(X.GP, g.Run());
    }

    [Theory]
    [Engines(SystemTimeNew, 1ul << 40 | 1), Engines(SystemTimeNew, ulong.MaxValue), Engines(SystemTimeNew, (ulong)Layout.MemorySize - 31)]
    [Engines(WallClockNew, 1ul << 40), Engines(WallClockNew, ulong.MaxValue), Engines(WallClockNew, (ulong)Layout.MemorySize - 4)]
    [Engines(StealTime, 0xFFFF_FFFF_FFFF_FFC1ul), Engines(StealTime, (ulong)Layout.Mmio | 1)]
    public void Msr_addresses_without_memory_do_nothing(string engine, uint msr, ulong value)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Wrmsr(a, msr, value);
            a.nop();
            a.mov(ecx, msr);
            a.rdmsr();
            Report(a);
            a.hlt();
        });
        Assert.Null(g.Run());
        Assert.Equal([(uint)value], g.Reports);
    }

    /// <summary>Whatever a guest writes to whichever of these MSRs, it meets #GP or nothing. The seed is fixed.</summary>
    [Theory, Engines]
    public void Wild_values_to_all_MSRs_of_the_interface_harm_nobody(string engine)
    {
        const int writes = 400;
        const uint table = 0x6_A000; // 16 bytes a write: index, 0, value
        Random random = new(20);
        using var g = new ParavirtualGuest(engine, (guest, a) =>
        {
            Label loop = a.CreateLabel();
            a.mov(ebx, table);
            a.Label(ref loop);
            a.mov(ecx, __dword_ptr[rbx]);
            a.mov(eax, __dword_ptr[rbx + 8]);
            a.mov(edx, __dword_ptr[rbx + 12]);
            a.wrmsr();
            guest.Mark(a, "next");
            a.mov(eax, ecx);
            a.rdmsr();
            guest.Mark(a, "after");
            a.mov(eax, ebx);
            a.cpuid(); // leaves the block
            a.add(ebp, 16);
            a.mov(ebx, ebp);
            a.cmp(ebp, table + writes * 16);
            a.jb(loop);
            a.hlt();
            guest.Mark(a, "gp");
            a.add(rsp, 8);
            a.add(__qword_ptr[rsp], 2); // WRMSR and RDMSR are two bytes
            a.iretq();
        }, prepare: guest =>
        {
            guest.Handle(X.GP, "gp");
            guest.State.Gpr[5] = table;
            for (uint n = 0; n < writes; n++)
            {
                uint index = random.Next(8) == 0 ? (uint)random.Next(0x11, 0x13) : 0x4B56_4D00 + (uint)random.Next(random.Next(4) == 0 ? 256 : 9);
                ulong value = random.Next(5) switch
                {
                    0 => (ulong)random.NextInt64(),
                    1 => (ulong)random.NextInt64(Layout.MemorySize) | 1,
                    2 => Layout.MemorySize - (ulong)random.Next(70),
                    3 => (ulong)random.Next(2),
                    _ => Page + ((ulong)random.Next(16) << 6) + (uint)random.Next(2),
                };
                // Not into the guest's own tables and code, which it would not survive.
                if (value < 0x6_A000 + writes * 16 && value > 1) value = Layout.Spare + value;
                guest.Write(table + n * 16, (ulong)index);
                guest.Write(table + n * 16 + 8, value);
            }
        });
        Assert.Null(g.Run());
    }

    [Theory]
    [Engines(Mode.Long, false), Engines(Mode.Long, true), Engines(Mode.Protected32, false), Engines(Mode.Compatibility, true)]
    public void Hypercalls_that_do_not_exist_return_KVM_ENOSYS(string engine, Mode mode, bool amd)
    {
        foreach (uint number in (uint[])[0, 2, 3, 4, 6, 7, 8, 12, 13, uint.MaxValue])
        {
            using var g = new ParavirtualGuest(engine, (_, a) =>
            {
                a.mov(eax, number);
                if (amd) a.vmmcall();
                else a.vmcall();
                Report(a);
                a.hlt();
            }, mode);
            Assert.Null(g.Run());
            Assert.Equal([unchecked((uint)-1000)], g.Reports);
        }
    }

    [Theory, Engines]
    public void Hypercalls_from_user_mode_return_KVM_EPERM(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            a.mov(eax, 1);
            a.vmcall();
            a.mov(__qword_ptr[Layout.Data], rax);
            a.@int(X.Done);
        }, cpl: 3);
        Assert.Null(g.Run());
        Assert.Equal(-1L, g.Read<long>(Layout.Data));
    }

    private static long Call(string engine, uint number, ulong a0 = 0, ulong a1 = 0, ulong a2 = 0, ulong a3 = 0, Action<ParavirtualGuest>? check = null,
        Mode mode = Mode.Long)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            a.mov(eax, number);
            a.mov(rbx, a0);
            a.mov(rcx, a1);
            a.mov(rdx, a2);
            a.mov(rsi, a3);
            a.vmmcall();
            a.mov(__qword_ptr[Layout.Data], rax);
            a.hlt();
        });
        Assert.Null(g.Run());
        check?.Invoke(g);
        return g.Read<long>(Layout.Data);
    }

    [Theory, Engines]
    public void Hypercall_KVM_HC_VAPIC_POLL_IRQ_KVM_HC_KICK_CPU_and_KVM_HC_SCHED_YIELD_return_0(string engine)
    {
        Assert.Equal(0, Call(engine, 1));
        Assert.Equal(0, Call(engine, 11, 0));
        Assert.Equal(0, Call(engine, 11, ulong.MaxValue));
        Assert.Equal(0, Call(engine, 5, 0, 77)); // there is no such processor
    }

    [Theory, Engines]
    public void Hypercall_KVM_HC_KICK_CPU_ends_the_halt_that_comes_after_it(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            a.mov(eax, 5);
            a.xor(ebx, ebx);
            a.xor(ecx, ecx);
            a.vmcall();
            a.sti();
            a.hlt();
            a.cli();
            a.mov(eax, 0x600D);
            Report(a);
            a.hlt();
        });
        Assert.Null(g.Run());
        Assert.Equal([0x600Du], g.Reports);
    }

    [Theory, Engines]
    public void Hypercall_KVM_HC_SEND_IPI_refuses_other_than_plain_fixed_interrupts_and_NMIs(string engine)
    {
        const uint logical = 1 << 11, self = 1 << 18, smi = 2 << 8, init = 5 << 8;
        foreach (uint bits in (uint[])[logical, self, smi, init]) Assert.Equal(-22, Call(engine, 10, 1, 0, 0, 0x40 | bits));
        Assert.Equal(0, Call(engine, 10, ulong.MaxValue, ulong.MaxValue, 5, 0x40)); // nobody there
        Assert.Equal(0, Call(engine, 10, ulong.MaxValue, ulong.MaxValue, uint.MaxValue, 0x40));
    }

    [Theory, Engines]
    public void Hypercall_KVM_HC_SEND_IPI_delivers_to_each_bit_and_counts(string engine)
    {
        using var g = new ParavirtualGuest(engine, (guest, a) =>
        {
            Wrmsr(a, 0x1B, 0xFEE0_0D00); // x2APIC mode
            Wrmsr(a, 0x80F, 0x1FF);      // enabled
            a.mov(eax, 10);
            a.mov(rbx, ~0ul);            // APIC ID 0 and a hundred others that are not there
            a.mov(rcx, ~0ul);
            a.xor(edx, edx);
            a.mov(esi, 0x41);
            a.vmcall();
            Report(a);
            a.sti();
            a.nop();
            a.cli();
            a.hlt();
            guest.Mark(a, "interrupt");
            a.mov(eax, 0x41);
            Report(a);
            a.iretq();
        }, prepare: guest => guest.Handle(0x41, "interrupt"));
        Assert.Null(g.Run());
        Assert.Equal([1u, 0x41u], g.Reports);
    }

    [Theory, Engines]
    public void Hypercall_KVM_HC_CLOCK_PAIRING_gives_time_of_day_and_TSC(string engine)
    {
        Assert.Equal(-95, Call(engine, 9, Page, 1));
        Assert.Equal(-14, Call(engine, 9, 1ul << 40, 0));
        Assert.Equal(-14, Call(engine, 9, Layout.MemorySize - 63, 0));
        Assert.Equal(0, Call(engine, 9, Page, 0, check: g =>
        {
            double then = g.Read<long>(Page) + g.Read<long>(Page + 8) / 1e9, earliest = TimeOfDay;
            double since = (g.Machine.Clock.Counter - g.Read<ulong>(Page + 16)) / (double)g.Machine.Clock.CounterFrequency;
            Assert.InRange(then + since, earliest - 0.2, TimeOfDay + 0.2);
        }));
    }

    [Theory, Engines]
    public void Msr_KVM_STEAL_TIME_marks_a_halted_vCPU_as_preempted_and_flushes_its_TLB_when_asked(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Wrmsr(a, StealTime, Page | 1);
            a.nop();
            a.movzx(eax, __byte_ptr[Page + 16]);
            Report(a);
            a.sti();
            a.hlt();
            a.cli();
            a.movzx(eax, __byte_ptr[Page + 16]);
            Report(a);
            a.hlt();
        });
        g.Machine.Memory.TryWrite(Page + 16, (byte)1); // left over
        g.Machine.Start();
        g.WaitForReports(1);
        Assert.True(new Patience(TimeSpan.FromSeconds(10), g.Machine).Await(() => g.Read<byte>(Page + 16) == 1), "not marked");
        ulong flushes = g.Machine.Cpus[0].Cpu.Counters.TlbFlushes;
        g.Machine.Memory.TryWrite(Page + 16, (byte)3); // as another vCPU does
        Assert.Equal(0ul, CallKick(g));
        Assert.Null(g.WaitForEnd());
        Assert.Equal([0u, 0u], g.Reports);
        Assert.True(g.Machine.Cpus[0].Cpu.Counters.TlbFlushes > flushes);
        Assert.Equal(0u, g.Read<uint>(Page + 8) & 1);
    }

    /// <summary>What another vCPU would do.</summary>
    private static ulong CallKick(ParavirtualGuest g) => g.Machine.Paravirtual!.Call(0, new HypercallArguments(5, 0, 0, 0, 0, 0, true));

    [Theory, Engines]
    public void Msr_KVM_PV_EOI_EN_saves_the_write_to_the_EOI_register(string engine)
    {
        const uint x2ApicEoi = 0x80B, x2ApicSelfIpi = 0x83F, vector = 0x50;
        using var g = new ParavirtualGuest(engine, (guest, a) =>
        {
            Label written = a.CreateLabel(), silent = a.CreateLabel();
            Wrmsr(a, 0x1B, 0xFEE0_0D00);
            Wrmsr(a, 0x80F, 0x1FF);
            Wrmsr(a, PvEoiEnable, Page | 1);
            a.sti();
            // One alone is ended silently; of two that wait together the first is not.
            Wrmsr(a, x2ApicSelfIpi, vector);
            a.nop();
            Wrmsr(a, x2ApicSelfIpi, vector);
            a.nop();
            a.cli();
            Wrmsr(a, x2ApicSelfIpi, vector);
            Wrmsr(a, x2ApicSelfIpi, vector + 0x10);
            a.sti();
            a.nop();
            a.nop();
            a.cli();
            a.mov(ecx, 0x815); // ISR 191:160 is empty, as are those of our vectors
            a.rdmsr();
            a.mov(ecx, 0x812); // ISR 95:64
            a.rdmsr();
            Report(a);
            a.hlt();
            guest.Mark(a, "interrupt");
            a.btr(__dword_ptr[Page], 0);
            a.jc(silent);
            a.mov(eax, 2);
            Report(a);
            Wrmsr(a, x2ApicEoi, 0);
            a.jmp(written);
            a.Label(ref silent);
            a.mov(eax, 1);
            Report(a);
            a.Label(ref written);
            a.iretq();
        }, prepare: guest =>
        {
            guest.Handle((int)vector, "interrupt");
            guest.Handle((int)vector + 0x10, "interrupt");
        });
        Assert.Null(g.Run());
        Assert.Equal([1u, 1u, 2u, 1u, 0u], g.Reports);
    }
}
