using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.SvmGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// AMD APM vol. 2, "Instruction Intercepts", "IOIO Intercepts", "MSR Intercepts", "Exception Intercepts", "Interrupt Intercepts", "Decode Assists".
/// </summary>
public sealed class SvmInterceptTests
{
    /// <param name="Word">Offset of the word in the VMCB that has the intercept, and its bit there.</param>
    /// <param name="Info1">EXITINFO1; null: not looked at.</param>
    private sealed record Case(int Word, int Bit, ulong Exit, Action<Assembler> Emit, ulong? Info1 = 0);

    private const ulong Move = 1ul << 63;

    private static readonly Dictionary<string, Case> s_cases = new()
    {
#pragma warning disable IDE0055 // one aligned row an intercept
        ["MOV from CR0"]  = new(Field.CrReads,      0, 0x00, a => a.mov(rbx, cr0), Move | 3),
        ["MOV from CR2"]  = new(Field.CrReads,      2, 0x02, a => a.mov(rcx, cr2), Move | 1),
        ["MOV from CR3"]  = new(Field.CrReads,      3, 0x03, a => a.mov(r9, cr3),  Move | 9),
        ["MOV from CR4"]  = new(Field.CrReads,      4, 0x04, a => a.mov(rdx, cr4), Move | 2),
        ["MOV from CR8"]  = new(Field.CrReads,      8, 0x08, a => a.mov(rsi, cr8), Move | 6),
        ["SMSW"]          = new(Field.CrReads,      0, 0x00, a => a.smsw(ebx)),
        ["MOV to CR0"]    = new(Field.CrWrites,     0, 0x10, a => a.mov(cr0, rbx), Move | 3),
        ["MOV to CR2"]    = new(Field.CrWrites,     2, 0x12, a => a.mov(cr2, rcx), Move | 1),
        ["MOV to CR3"]    = new(Field.CrWrites,     3, 0x13, a => a.mov(cr3, r9),  Move | 9),
        ["MOV to CR4"]    = new(Field.CrWrites,     4, 0x14, a => a.mov(cr4, rdx), Move | 2),
        ["MOV to CR8"]    = new(Field.CrWrites,     8, 0x18, a => a.mov(cr8, rsi), Move | 6),
        ["CLTS"]          = new(Field.CrWrites,     0, 0x10, a => a.clts()),
        ["LMSW"]          = new(Field.CrWrites,     0, 0x10, a => a.lmsw(bx)),
        ["MOV from DR0"]  = new(Field.DrReads,      0, 0x20, a => a.mov(rbx, dr0), 3),
        ["MOV from DR7"]  = new(Field.DrReads,      7, 0x27, a => a.mov(r10, dr7), 10),
        ["MOV to DR0"]    = new(Field.DrWrites,     0, 0x30, a => a.mov(dr0, r12), 12),
        ["MOV to DR1"]    = new(Field.DrWrites,     1, 0x31, a => a.mov(dr1, rbx), 3),
        ["MOV to DR6"]    = new(Field.DrWrites,     6, 0x36, a => a.mov(dr6, rcx), 1),
        ["selective CR0"] = new(Field.Intercepts1,  5, 0x65, a => { a.mov(rbx, cr0); a.btc(rbx, 18); a.mov(cr0, rbx); }, Move | 3),
        ["selective LMSW"] = new(Field.Intercepts1, 5, 0x65, a => { a.smsw(ebx); a.lmsw(bx); }),
        ["SIDT"]          = new(Field.Intercepts1,  6, 0x66, a => a.sidt(__[rsp - 16])),
        ["SGDT"]          = new(Field.Intercepts1,  7, 0x67, a => a.sgdt(__[rsp - 16])),
        ["SLDT"]          = new(Field.Intercepts1,  8, 0x68, a => a.sldt(ebx)),
        ["STR"]           = new(Field.Intercepts1,  9, 0x69, a => a.str(ebx)),
        ["LIDT"]          = new(Field.Intercepts1, 10, 0x6A, a => a.lidt(__[rsp - 16])),
        ["LGDT"]          = new(Field.Intercepts1, 11, 0x6B, a => a.lgdt(__[rsp - 16])),
        ["LLDT"]          = new(Field.Intercepts1, 12, 0x6C, a => a.lldt(bx)),
        ["LTR"]           = new(Field.Intercepts1, 13, 0x6D, a => a.ltr(bx)),
        ["RDTSC"]         = new(Field.Intercepts1, 14, 0x6E, a => a.rdtsc()),
        ["RDPMC"]         = new(Field.Intercepts1, 15, 0x6F, a => a.rdpmc()),
        ["PUSHF"]         = new(Field.Intercepts1, 16, 0x70, a => a.pushfq()),
        ["POPF"]          = new(Field.Intercepts1, 17, 0x71, a => a.popfq()),
        ["CPUID"]         = new(Field.Intercepts1, 18, 0x72, a => a.cpuid()),
        ["RSM"]           = new(Field.Intercepts1, 19, 0x73, a => a.rsm()),
        ["IRET"]          = new(Field.Intercepts1, 20, 0x74, a => a.iretq()),
        ["INT n"]         = new(Field.Intercepts1, 21, 0x75, a => a.@int(0x41), 0x41),
        ["INVD"]          = new(Field.Intercepts1, 22, 0x76, a => a.invd()),
        ["PAUSE"]         = new(Field.Intercepts1, 23, 0x77, a => a.pause()),
        ["HLT"]           = new(Field.Intercepts1, 24, 0x78, a => a.hlt()),
        ["INVLPG"]        = new(Field.Intercepts1, 25, 0x79, a => a.invlpg(__byte_ptr[rsp - 0x1000]), GuestStack - 0x1000),
        ["INVLPGA"]       = new(Field.Intercepts1, 26, 0x7A, a => a.invlpgaq()),
        ["VMRUN"]         = new(Field.Intercepts2,  0, 0x80, a => a.vmrunq()),
        ["VMMCALL"]       = new(Field.Intercepts2,  1, 0x81, a => a.vmmcall()),
        ["VMLOAD"]        = new(Field.Intercepts2,  2, 0x82, a => a.vmloadq()),
        ["VMSAVE"]        = new(Field.Intercepts2,  3, 0x83, a => a.vmsaveq()),
        ["STGI"]          = new(Field.Intercepts2,  4, 0x84, a => a.stgi()),
        ["CLGI"]          = new(Field.Intercepts2,  5, 0x85, a => a.clgi()),
        ["RDTSCP"]        = new(Field.Intercepts2,  7, 0x87, a => a.rdtscp()),
        ["INT1"]          = new(Field.Intercepts2,  8, 0x88, a => a.int1()),
        ["WBINVD"]        = new(Field.Intercepts2,  9, 0x89, a => a.wbinvd()),
        ["MONITOR"]       = new(Field.Intercepts2, 10, 0x8A, a => { a.mov(rax, rsp); a.xor(ecx, ecx); a.monitorq(); }),
        ["MWAIT"]         = new(Field.Intercepts2, 11, 0x8B, a => { a.xor(ecx, ecx); a.mwait(); }),
        ["MWAIT, armed"]  = new(Field.Intercepts2, 12, 0x8C, a => { a.xor(ecx, ecx); a.mwait(); }),
        ["XSETBV"]        = new(Field.Intercepts2, 13, 0x8D, a => a.xsetbv()),
        ["INVPCID"]       = new(Field.Intercepts3,  2, 0xA2, a => a.invpcid(rbx, __xmmword_ptr[rsp - 16]), GuestStack - 16),
#pragma warning restore IDE0055
    };

    /// <summary>Intercepts that have a test of their own, by the VMCB's word and bit.</summary>
    private static readonly Dictionary<(int Word, int Bit), string> s_elsewhere = new()
    {
        [(Field.Intercepts1, 0)] = nameof(SvmEventTests.An_intercepted_interrupt_is_not_acknowledged),
        [(Field.Intercepts1, 1)] = nameof(SvmEventTests.An_intercepted_NMI_waits_for_GIF),
        [(Field.Intercepts1, 3)] = nameof(SvmEventTests.An_intercepted_INIT_waits_for_GIF_and_becomes_SX_where_that_is_asked_for),
        [(Field.Intercepts1, 4)] = nameof(SvmEventTests.A_virtual_interrupt_exits_when_it_could_be_taken),
        [(Field.Intercepts1, 27)] = nameof(Ports_exit_by_the_permission_map),
        [(Field.Intercepts1, 28)] = nameof(MSRs_exit_by_the_permission_map),
        [(Field.Intercepts1, 29)] = nameof(SvmStateTests.A_task_switch_exits_with_its_source),
        [(Field.Intercepts1, 31)] = nameof(SvmEventTests.A_triple_fault_of_the_guest_is_its_hosts_affair),
    };

    /// <summary>Intercepts of what no processor of ours does, with the reason.</summary>
    private static readonly Dictionary<(int Word, int Bit), string> s_absent = new()
    {
        [(Field.Intercepts1, 2)] = "SMI: there is no system management mode",
        [(Field.Intercepts1, 30)] = "FERR_FREEZE: no frozen processor",
        [(Field.Intercepts2, 6)] = "SKINIT is absent",
        [(Field.Intercepts2, 14)] = "RDPRU is absent",
        [(Field.Intercepts2, 15)] = "the trap after a write of EFER belongs to encrypted state, which is absent",
    };

    /// <summary>Exit codes that this class has a test or a reason for.</summary>
    internal static IEnumerable<SvmExit> ExitCodes => s_cases.Values.Select(c => (SvmExit)c.Exit).Concat(s_elsewhere.Keys.Concat(s_absent.Keys)
        .Select(i => (SvmExit)((i.Word == Field.Intercepts1 ? (ulong)SvmExit.Intr : (ulong)SvmExit.Vmrun) + (ulong)i.Bit)));

    public static IEnumerable<object[]> Names() => s_cases.Keys.Select(n => (object[])[n]);

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class EveryCaseAttribute : Xunit.Sdk.DataAttribute
    {
        public override IEnumerable<object?[]> GetData(System.Reflection.MethodInfo testMethod) =>
            new EnginesAttribute().GetData(testMethod).SelectMany(e => s_cases.Keys.Select(n => (object?[])[e[0], n]));
    }

    [Theory, EveryCase]
    public void Exits_before_any_effect_with_RIP_on_the_instruction(string engine, string name)
    {
        Case c = s_cases[name];
        using var g = new SvmGuest("max,+svm,+monitor");
        g.Intercept(c.Word & ~3, c.Bit + 8 * (c.Word & 3));
        g.Set(Field.Cr4, g.Get<ulong>(Field.Cr4) | 0x4_0000); // OSXSAVE
        ulong at = 0, behind = 0;
        g.Code(a =>
        {
            // What is intercepted is the last instruction.
            c.Emit(a);
            g.Host.Mark(a, "next");
            a.vmmcall();
        });
        g.Run(engine).Done();
        behind = g.Host["next"];
        at = g.Get<ulong>(Field.Rip);
        Assert.Equal(c.Exit, g.ExitCode);
        if (c.Info1 is { } info) Assert.Equal(info, g.Info1);
        Assert.Equal(behind, g.Get<ulong>(Field.NextRip));
        Assert.InRange(behind - at, 1ul, 15ul);
        Assert.Equal(0ul, g.Get<ulong>(Field.ExitIntInfo));
        Assert.Equal((ulong)GuestStack, g.Get<ulong>(Field.Rsp));
    }

    [Fact]
    public void Every_intercept_has_a_test_or_a_reason()
    {
        var tested = s_cases.Values.Select(c => (c.Word, c.Bit)).Concat(s_elsewhere.Keys).Concat(s_absent.Keys).ToHashSet();
        for (int bit = 0; bit < 32; bit++) Assert.Contains((Field.Intercepts1, bit), tested);
        for (int bit = 0; bit < 16; bit++) Assert.Contains((Field.Intercepts2, bit), tested);
        Assert.Contains((Field.Intercepts3, 2), tested);
    }

    [Theory]
    [Engines(0x60, true), Engines(0x70, false)]
    public void Ports_exit_by_the_permission_map(string engine, int port, bool exits)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 27);
        g.Host.Write<byte>(Iopm + 0x60 / 8, 1);
        g.Code(a =>
        {
            a.mov(edx, port);
            a.@in(al, dx);
            g.Host.Mark(a, "next");
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal(exits ? 0x7Bul : 0x81ul, g.ExitCode);
        if (!exits) return;
        Assert.Equal(1ul | 1ul << 4 | 1ul << 9 | (ulong)port << 16, g.Info1);
        Assert.Equal(g.Host["next"], g.Info2);
    }

    [Theory, Engines]
    public void A_repeated_string_instruction_exits_with_its_registers_as_they_were(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 27);
        for (uint n = 0; n < 0x3000; n++) g.Host.Write<byte>(Iopm + n, 0xFF);
        g.Code(a =>
        {
            a.mov(edx, 0x80);
            a.mov(ecx, 5);
            a.mov(rsi, (ulong)Layout.Data);
            a.rep.outsw();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(0x7Bul, g.ExitCode);
        Assert.Equal(4ul | 8 | 2 << 4 | 1 << 9 | 3 << 10 | 0x80ul << 16, g.Info1);
        Assert.Equal((5ul, (ulong)Layout.Data), (o.State.Gpr[1], o.State.Gpr[6]));
        Assert.Empty(o.Accesses);
    }

    [Theory]
    [Engines(0xC000_0082u, false, true), Engines(0xC000_0082u, true, false), Engines(0xC000_0081u, false, false), Engines(0x4000_0000u, false, true)]
    public void MSRs_exit_by_the_permission_map(string engine, uint index, bool write, bool exits)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 28);
        g.Host.Write<byte>(Msrpm + 0x800 + 0x82 / 4, 1 << 4); // reads of LSTAR
        g.Code(a =>
        {
            a.mov(ecx, index);
            a.xor(edx, edx);
            a.xor(eax, eax);
            if (write) a.wrmsr();
            else a.rdmsr();
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal(exits ? 0x7Cul : 0x81ul, g.ExitCode);
        if (exits) Assert.Equal(write ? 1ul : 0ul, g.Info1);
    }

    [Theory, Engines]
    public void VMMCALL_that_is_not_intercepted_raises_UD_and_calls_nobody(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.Intercepts2, 1u);
        g.Intercept(Field.Exceptions, X.UD);
        g.Code(a => a.vmmcall());
        g.Run(engine).Done();
        Assert.Equal(0x46ul, g.ExitCode);
    }

    [Theory, Engines]
    public void PAUSE_exits_when_the_filter_is_used_up(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 23);
        g.Set(Field.PauseCount, (ushort)3);
        g.Code(a =>
        {
            a.xor(ecx, ecx);
            Label again = a.CreateLabel();
            a.Label(ref again);
            a.inc(ecx);
            a.pause();
            a.jmp(again);
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x77ul, 4ul), (g.ExitCode, o.State.Gpr[1]));
    }

    [Theory, Engines]
    public void PAUSEs_far_apart_fill_the_filter_again(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 23);
        g.Set(Field.PauseCount, (ushort)1);
        g.Set(Field.PauseThreshold, (ushort)20);
        g.Code(a =>
        {
            for (int n = 0; n < 5; n++)
            {
                for (int k = 0; k < 30; k++) a.nop();
                a.pause();
            }
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal(0x81ul, g.ExitCode);
    }
}
