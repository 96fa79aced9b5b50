using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;
using Field = Bunraku.Fixtures.SvmGuest.Field;

namespace Bunraku.Fixtures;

/// <summary>AMD APM vol. 2, "Advanced Virtual Interrupt Controller".</summary>
public sealed class SvmAvicTests
{
    private const uint Backing = 0x12_0000, Physical = 0x12_1000, Logical = 0x12_2000, Other = 0x12_3000, Bar = Layout.Spare + 0x2000;
    private const ulong Vmmcall = 0x81, Hlt = 0x78, IncompleteIpi = 0x401, NoAccelerate = 0x402, Write = 1ul << 32, Valid = 1ul << 63, Running = 1ul << 62;
    private const int ApicBar = 0x98, BackingPage = 0xE0, LogicalTable = 0xF0, PhysicalTable = 0xF8;
    private const byte Low = 0x41, High = 0xE3;
    private const ulong Failed = ulong.MaxValue;

    /// <summary>Two processors, of which the other does not run; HLT exits, so that the handler of a vector is seen.</summary>
    private static SvmGuest WithAvic(string model = "max,+svm")
    {
        var g = new SvmGuest(model);
        g.Nested();
        g.Set(Field.VirtualInterrupt, 1ul << 31 | 1 << 24);
        g.Set(ApicBar, (ulong)Bar);
        g.Set(BackingPage, (ulong)Backing);
        g.Set(LogicalTable, (ulong)Logical);
        g.Set(PhysicalTable, Physical | 1ul);
        g.Host.Write(Physical, Valid | Running | Backing);
        g.Host.Write(Physical + 8, Valid | Other | 7);
        g.Host.Write(Backing + 0xE0, uint.MaxValue);
        g.Intercept(Field.Intercepts1, 24);
        g.Set(Field.Rflags, 0x202ul);
        return g;
    }

    private static void SetBit(SvmGuest g, uint register, byte vector)
    {
        uint at = register + (vector & 0xE0u) / 2;
        g.Host.Write(at, g.Host.Read<uint>(at) | 1u << (vector & 31));
    }

    private static byte[] Vectors(SvmGuest g, uint register) =>
        [.. Enumerable.Range(0, 256).Where(n => (g.Host.Read<uint>(register + ((uint)n & 0xE0) / 2) >> (n & 31) & 1) != 0).Select(n => (byte)n)];

    private static ulong Pushed(SvmGuest g) => g.Host.Read<ulong>(g.Get<ulong>(Field.Rsp));

    private static void IsIn(SvmGuest g, byte vector) => Assert.Equal((Hlt, (ulong)Guest.Stub(vector)), (g.ExitCode, g.Get<ulong>(Field.Rip)));

    private static bool IsRead(uint offset) =>
        offset is 0x20 or 0x30 or 0x80 or (>= 0xA0 and <= 0xF0) or (>= 0x100 and <= 0x280) or (>= 0x300 and <= 0x380) or 0x3E0;

    private static bool IsTrapped(uint offset) => offset is 0x20 or (>= 0xD0 and <= 0xF0) or 0x280 or (>= 0x320 and <= 0x380) or 0x3E0;

    /// <summary>What is not read there exits before the access, with its offset.</summary>
    [Theory, Engines]
    public void Guest_vAPIC_register_reads(string engine)
    {
        for (uint offset = 0; offset < 0x400; offset += 16)
        {
            using SvmGuest g = WithAvic();
            g.Code(a =>
            {
                a.mov(edx, __dword_ptr[Bar + offset]);
                a.mov(eax, edx);
                a.vmmcall();
            });
            g.Host.Write(Backing + offset, 0x0102_0000u);
            g.Set(Field.Rflags, 2ul);
            g.Run(engine).Done();
            if (IsRead(offset) && offset != 0xA0) Assert.Equal((Vmmcall, 0x0102_0000ul), (g.ExitCode, g.Get<ulong>(Field.Rax)));
            else if (offset != 0xA0) Assert.Equal((NoAccelerate, (ulong)offset, (ulong)SvmGuest.GuestCode), (g.ExitCode, g.Info1, g.Get<ulong>(Field.Rip)));
        }
    }

    /// <summary>Some exit behind the instruction, when the page has the value; those that are read-only before it.</summary>
    [Theory, Engines]
    public void Guest_vAPIC_register_writes(string engine)
    {
        for (uint offset = 0; offset < 0x400; offset += 16)
        {
            if (offset is 0xB0 or 0x300) continue; // have tests of their own
            using SvmGuest g = WithAvic();
            g.Code(a =>
            {
                a.mov(edx, 0x3300_0051);
                a.mov(__dword_ptr[Bar + offset], edx);
                g.Host.Mark(a, "next");
                a.vmmcall();
            });
            g.Run(engine).Done();
            uint found = g.Host.Read<uint>(Backing + offset);
            if (offset is 0x80 or 0x310) Assert.Equal((Vmmcall, offset == 0x80 ? 0x51u : 0x3300_0051), (g.ExitCode, found));
            else if (IsTrapped(offset))
                Assert.Equal((NoAccelerate, offset | Write, g.Host["next"], 0x3300_0051u), (g.ExitCode, g.Info1, g.Get<ulong>(Field.Rip), found));
            else Assert.Equal((NoAccelerate, offset | Write, SvmGuest.GuestCode + 5ul), (g.ExitCode, g.Info1, g.Get<ulong>(Field.Rip)));
        }
    }

    [Theory, Engines]
    public void A_requested_interrupt_is_delivered_behind_VMRUN(string engine)
    {
        using SvmGuest g = WithAvic();
        g.Code(a => a.vmmcall());
        SetBit(g, Backing + 0x200, Low);
        SetBit(g, Backing + 0x200, High);
        g.Run(engine).Done();
        IsIn(g, High);
        Assert.Equal((byte[])[High], Vectors(g, Backing + 0x100));
        Assert.Equal((byte[])[Low], Vectors(g, Backing + 0x200));
        Assert.Equal((0xE0u, (ulong)SvmGuest.GuestCode), (g.Host.Read<uint>(Backing + 0xA0), Pushed(g)));
    }

    /// <summary>The same in x2APIC mode. Accesses to its registers are not intercepted, but for those that the permission map names.</summary>
    private static SvmGuest WithX2Avic()
    {
        SvmGuest g = WithAvic();
        g.Set(Field.VirtualInterrupt, 1ul << 31 | 1 << 30 | 1 << 24);
        return g;
    }

    private const uint FirstMsr = 0x800;

    /// <summary>Of the registers that x2APIC mode has, the timer's count is the host's to tell; it has no destination format and no arbitration.</summary>
    [Theory, Engines]
    public void X2AVIC_register_reads(string engine)
    {
        for (uint offset = 0; offset < 0x500; offset += 16)
        {
            using SvmGuest g = WithX2Avic();
            g.Code(a =>
            {
                a.mov(ecx, FirstMsr + offset / 16);
                a.rdmsr();
                a.mov(esi, edx);
                a.vmmcall();
            });
            if (offset < 0x400) g.Host.Write(Backing + offset, 0x0102_0000u);
            g.Host.Write(Backing + 0x310, 0x55u);
            g.Set(Field.Rflags, 2ul);
            g.Intercept(Field.Exceptions, 13);
            g.Run(engine).Done();
            if (offset == 0x390) Assert.Equal((NoAccelerate, 0x390ul, SvmGuest.GuestCode + 5ul), (g.ExitCode, g.Info1, g.Get<ulong>(Field.Rip)));
            else if (!IsRead(offset) || offset is 0xB0 or 0xC0 or 0xE0 or 0x310) Assert.Equal(0x4Dul, g.ExitCode);
            else if (offset != 0xA0) Assert.Equal((Vmmcall, 0x0102_0000ul), (g.ExitCode, g.Get<ulong>(Field.Rax)));
        }
    }

    [Theory, Engines]
    public void X2AVIC_register_writes(string engine)
    {
        for (uint offset = 0; offset < 0x500; offset += 16)
        {
            if (offset is 0xB0 or 0x300 or 0x3F0) continue; // have tests of their own
            using SvmGuest g = WithX2Avic();
            g.Code(a =>
            {
                a.mov(eax, 0x51);
                a.xor(edx, edx);
                a.mov(ecx, FirstMsr + offset / 16);
                a.wrmsr();
                g.Host.Mark(a, "next");
                a.vmmcall();
            });
            g.Intercept(Field.Exceptions, 13);
            g.Run(engine).Done();
            uint found = g.Host.Read<uint>(offset < 0x400 ? Backing + offset : Backing);
            if (offset == 0x80) Assert.Equal((Vmmcall, 0x51u, 5ul), (g.ExitCode, found, g.Get<ulong>(Field.VirtualInterrupt) & 0xF));
            else if (offset is 0xF0 or 0x280 or (>= 0x320 and <= 0x380) or 0x3E0)
                Assert.Equal((NoAccelerate, offset | Write, g.Host["next"], 0x51u), (g.ExitCode, g.Info1, g.Get<ulong>(Field.Rip), found));
            else Assert.Equal(0x4Dul, g.ExitCode);
        }
    }

    /// <summary>Interrupts in x2APIC mode: to itself, by ID, by a bit of a cluster, to all; the entry of the table has 9 bits of index.</summary>
    [Theory]
    [Engines(0x83Fu, (ulong)Low, 0u), Engines(0x830u, 0x4_0000ul | Low, 0u), Engines(0x830u, 0ul << 32 | Low, 0u), Engines(0x830u, 1ul << 32 | Low, 1u),
        Engines(0x830u, 0x100ul << 32 | Low, 0x100u), Engines(0x830u, 2ul << 32 | 0x800 | Low, 1u), Engines(0x830u, 0x10_0001ul << 32 | 0x800 | Low, 0x100u),
        Engines(0x830u, 0xC_0000ul | Low, 1u)]
    public void X2AVIC_interrupts(string engine, uint msr, ulong command, uint target)
    {
        using SvmGuest g = WithX2Avic();
        g.Set(PhysicalTable, Physical | 0x100ul);
        g.Host.Write(Physical + 0x100 * 8, Valid | Running | Other | 0x123);
        if (target == 1) g.Host.Write(Physical + 8, Valid | Running | Other | 7);
        if (target == 0x100) g.Host.Write(Physical + 8, 0ul);
        if (target == 1) g.Host.Write(Physical + 0x100 * 8, 0ul);
        g.Code(a =>
        {
            a.mov(eax, (uint)command);
            a.mov(edx, (uint)(command >> 32));
            a.mov(ecx, msr);
            a.wrmsr();
            a.vmmcall();
        });
        g.Run(engine).Done();
        if (target == 0) IsIn(g, Low);
        else Assert.Equal((Vmmcall, (byte)1, Low), (g.ExitCode, (byte)Vectors(g, Other + 0x200).Length, Vectors(g, Other + 0x200).Single()));
        if (msr == 0x830) Assert.Equal((uint)(command >> 32), g.Host.Read<uint>(Backing + 0x310));
    }

    /// <summary>What an interrupt that cannot be sent, an end that is not zero, and a forbidden register lead to.</summary>
    [Theory]
    [Engines(0x830u, 0x7ul << 32 | Low, IncompleteIpi, 2ul << 32 | 7), Engines(0x830u, 0x500ul, IncompleteIpi, 0ul),
        Engines(0x830u, 0x4_0002ul, IncompleteIpi, 4ul << 32), Engines(0x830u, 1ul << 20, 0x4Dul, null), Engines(0x80Bu, 1ul, 0x4Dul, null),
        Engines(0x80Bu, 0ul, Vmmcall, null), Engines(0x83Fu, 0x100ul, 0x4Dul, null), Engines(0x808u, 0x100ul, 0x4Dul, null)]
    public void X2AVIC_failures(string engine, uint msr, ulong value, ulong code, ulong? info)
    {
        using SvmGuest g = WithX2Avic();
        g.Code(a =>
        {
            a.mov(eax, (uint)value);
            a.mov(edx, (uint)(value >> 32));
            a.mov(ecx, msr);
            a.wrmsr();
            a.vmmcall();
        });
        g.Intercept(Field.Exceptions, 13);
        g.Run(engine).Done();
        Assert.Equal(code, g.ExitCode);
        if (info is { } expected) Assert.Equal((value, expected), (g.Info1, g.Info2));
    }

    /// <summary>The permission map comes first; without x2AVIC, or with the page alone, the MSRs are what they are without AVIC.</summary>
    [Theory, Engines]
    public void The_permission_map_comes_before_x2AVIC(string engine)
    {
        using SvmGuest g = WithX2Avic();
        g.Code(a =>
        {
            a.mov(ecx, 0x803);
            a.rdmsr();
            a.vmmcall();
        });
        g.Intercept(Field.Intercepts1, 28);
        g.Host.Write(SvmGuest.Msrpm + 0x803 / 4, (byte)(1 << 2 * (0x803 & 3)));
        g.Run(engine).Done();
        Assert.Equal((0x7Cul, 0ul), (g.ExitCode, g.Info1));
    }

    /// <summary>The register and CR8 are one, and V_TPR has it.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void It_waits_for_the_task_priority(string engine, bool byCr8)
    {
        using SvmGuest g = WithAvic();
        SetBit(g, Backing + 0x200, Low);
        g.Host.Write(Backing + 0x80, 0x40u);
        g.Set(Field.VirtualInterrupt, 1ul << 31 | 1 << 24 | 4);
        g.Code(a =>
        {
            a.mov(eax, byCr8 ? 3 : 0x30);
            if (byCr8) a.mov(cr8, rax);
            else a.mov(__dword_ptr[Bar + 0x80], eax);
            g.Host.Mark(a, "open");
            a.vmmcall();
        });
        g.Run(engine).Done();
        IsIn(g, Low);
        Assert.Equal((g.Host["open"], 0x30u, 3ul), (Pushed(g), g.Host.Read<uint>(Backing + 0x80), g.Get<ulong>(Field.VirtualInterrupt) & 0xF));
    }

    /// <summary>A level-triggered interrupt is the host's to end: it is told the vector.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void EOI_ends_the_interrupt_in_service_unless_it_is_level_triggered(string engine, bool level)
    {
        using SvmGuest g = WithAvic();
        SetBit(g, Backing + 0x100, High);
        SetBit(g, Backing + 0x200, Low);
        if (level) SetBit(g, Backing + 0x180, High);
        g.Code(a =>
        {
            a.mov(__dword_ptr[Bar + 0xB0], 0);
            g.Host.Mark(a, "ended");
            a.vmmcall();
        });
        g.Run(engine).Done();
        if (level)
        {
            Assert.Equal((NoAccelerate, 0xB0 | Write, (ulong)High, g.Host["ended"]), (g.ExitCode, g.Info1, g.Info2, g.Get<ulong>(Field.Rip)));
            Assert.Equal((byte[])[High], Vectors(g, Backing + 0x100));
            return;
        }
        IsIn(g, Low);
        Assert.Equal(g.Host["ended"], Pushed(g));
        Assert.Equal((byte[])[Low], Vectors(g, Backing + 0x100));
    }

    private static void Send(SvmGuest g, uint command, uint destination)
    {
        g.Code(a =>
        {
            a.mov(__dword_ptr[Bar + 0x310], destination);
            a.mov(__dword_ptr[Bar + 0x300], command);
            g.Host.Mark(a, "sent");
            a.vmmcall();
        });
    }

    /// <summary>By the shorthand, by the physical and by the logical ID.</summary>
    [Theory]
    [Engines(1u << 18 | Low, 0u), Engines((uint)Low, 0u), Engines(1u << 11 | Low, 1u << 24), Engines(2u << 18 | Low, 0u)]
    public void An_interrupt_to_itself_is_delivered(string engine, uint command, uint destination)
    {
        using SvmGuest g = WithAvic();
        if (command >> 18 == 2) g.Host.Write(Physical + 8, 0ul);
        g.Host.Write(Logical, 1u << 31);
        Send(g, command, destination);
        g.Run(engine).Done();
        IsIn(g, Low);
        Assert.Equal(g.Host["sent"], Pushed(g));
    }

    /// <summary>The other has the request in its backing page; the host is told when it does not run, with its index.</summary>
    [Theory]
    [Engines((uint)Low, 1u << 24, false), Engines((uint)Low, 1u << 24, true), Engines(3u << 18 | Low, 0u, false), Engines(1u << 11 | Low, 2u << 24, false)]
    public void An_interrupt_to_another_processor_is_left_in_its_backing_page(string engine, uint command, uint destination, bool runs)
    {
        using SvmGuest g = WithAvic();
        if (runs) g.Host.Write(Physical + 8, Valid | Running | Other | 7);
        g.Host.Write(Logical + 4, 1u << 31 | 1);
        Send(g, command, destination);
        g.Run(engine).Done();
        Assert.Equal((byte[])[Low], Vectors(g, Other + 0x200));
        Assert.Empty(Vectors(g, Backing + 0x200));
        Assert.Equal(runs ? Vmmcall : IncompleteIpi, g.ExitCode);
        Assert.Equal(g.Host["sent"], g.Get<ulong>(Field.Rip));
        if (!runs) Assert.Equal((command | (ulong)destination << 32, 1ul << 32 | 1), (g.Info1, g.Info2));
    }

    [Theory]
    [Engines(0x4_4541u, 0u, 0u, 0u), Engines(0x8041u, 0u, 0u, 0u), Engines(0x441u, 0u, 0u, 0u), Engines((uint)Low, 9u << 24, 2u, 9u),
        Engines((uint)Low, 1u << 24, 3u, 1u), Engines(0x0Fu, 0u, 4u, 0u), Engines(1u << 11 | Low, 4u << 24, 2u, 0u)]
    public void An_incomplete_IPI_exits_with_its_cause(string engine, uint command, uint destination, uint cause, uint index)
    {
        using SvmGuest g = WithAvic();
        if (cause == 3) g.Host.Write(Physical + 8, Valid | 0x1_0000_0000);
        Send(g, command, destination);
        g.Run(engine).Done();
        Assert.Equal((IncompleteIpi, command | (ulong)destination << 32, (ulong)cause << 32 | index), (g.ExitCode, g.Info1, g.Info2));
        Assert.Empty(Vectors(g, Other + 0x200));
    }

    /// <summary>What others have left in the backing page is seen when the doorbell rings.</summary>
    [Theory, Engines]
    public void The_doorbell(string engine)
    {
        using SvmGuest g = WithAvic();
        g.Code(a =>
        {
            a.@out(0x55, al);
            a.nop();
            a.mov(ecx, 0xC001_011B);
            a.xor(eax, eax);
            a.xor(edx, edx);
            a.wrmsr();
            g.Host.Mark(a, "rung");
            a.vmmcall();
        });
        g.Host.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Io, Address: 0x55 }) SetBit(g, Backing + 0x200, Low);
            return false;
        };
        g.Run(engine).Done();
        IsIn(g, Low);
        Assert.Equal(g.Host["rung"], Pushed(g));
    }

    [Theory]
    [Engines(Field.NestedControl, 0ul), Engines(ApicBar, 1ul << 51), Engines(BackingPage, 1ul << 51), Engines(LogicalTable, 1ul << 51),
        Engines(PhysicalTable, 1ul << 51)]
    public void Checks_of_VMRUN(string engine, int field, ulong value)
    {
        using SvmGuest g = WithAvic();
        g.Code(a => a.vmmcall());
        g.Set(field, value);
        g.Run(engine).Done();
        Assert.Equal(Failed, g.ExitCode);
    }

    /// <summary>The second stage comes first.</summary>
    [Theory, Engines]
    public void The_page_must_be_mapped_by_the_nested_tables(string engine)
    {
        using SvmGuest g = WithAvic();
        g.Host.Write(SvmGuest.NestedEntry(Bar), 0ul);
        g.Code(a => a.mov(edx, __dword_ptr[Bar + 0x20]));
        g.Run(engine).Done();
        Assert.Equal((0x400ul, Bar + 0x20ul), (g.ExitCode, g.Info2));
    }

    [Theory]
    [Engines("max,+svm", true), Engines("max,+svm,-avic", false), Engines("max,+svm,-npt", false)]
    public void CPUID_tells_AVIC_and_without_it_the_page_is_memory(string engine, string model, bool told)
    {
        using (var plain = new Guest(Mode.Long, model: model))
        {
            plain.Code(a =>
            {
                a.mov(eax, 0x8000_000A);
                a.cpuid();
                plain.End(a);
            });
            Assert.Equal(told, (plain.Run(engine).Done().State.Gpr[2] & 1 << 13) != 0);
        }
        if (model.EndsWith("npt", StringComparison.Ordinal)) return;
        using SvmGuest g = WithAvic(model);
        g.Host.Write(Bar + 0x20, 0x77u);
        g.Host.Write(Backing + 0x20, 0x99u);
        g.Code(a =>
        {
            a.mov(edx, __dword_ptr[Bar + 0x20]);
            a.mov(eax, edx);
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((Vmmcall, told ? 0x99ul : 0x77), (g.ExitCode, g.Get<ulong>(Field.Rax)));
    }
}
