using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.VmxApicGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3C, "Virtualizing Memory-Mapped APIC Accesses", "Virtualizing MSR-Based APIC Accesses", and the checks that belong to them.
/// </summary>
public sealed class VmxApicTests
{
    private const uint ApicAccess = 44, ApicWrite = 56, Write = 1 << 12, Fetch = 2 << 12, Event = 3 << 12, TableInEvent = 10 << 12, Table = 15 << 12;

    [Theory]
    [Engines(false), Engines(true)]
    public void APIC_access_VM_exits_have_the_offset_and_the_type_of_the_access(string engine, bool ept)
    {
        using VmxGuest v = With(Accesses, 0, ept);
        v.Guest(a =>
        {
            a.mov(edx, __dword_ptr[AccessPage + 0x20]);
            a.mov(__byte_ptr[AccessPage + 0x301], cl);
            a.mov(edx, AccessPage + 0x18);
            a.jmp(rdx);
        });
        VmxExitResult r = v.Run(engine).Is(ApicAccess, 0x20, 7);
        Assert.Equal((ulong)VmxGuest.GuestCode, r[VmField.GuestRip]);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 7;
        v.Run(engine).Is(ApicAccess, 0x301 | Write, 7);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 14;
        Assert.Equal(AccessPage + 0x18ul, v.Run(engine).Is(ApicAccess, 0x18 | Fetch)[VmField.GuestRip]);
        Assert.Equal(0x6666_6666u, v.G.Read<uint>(AccessPage));
    }

    /// <summary>The event is told of by the IDT-vectoring information.</summary>
    [Theory]
    [Engines(true), Engines(false)]
    public void APIC_access_VM_exits_during_event_delivery(string engine, bool software)
    {
        using VmxGuest v = With(Accesses | Registers, ept: true);
        v.Guest(a =>
        {
            if (software) a.@int(0x30);
            else a.ud2();
        });
        v.Fields[VmField.GuestIdt] = AccessPage;
        VmxExitResult r = v.Run(engine).Is(ApicAccess, (software ? 0x300u : 0x60) | Event);
        Assert.Equal(1u << 31 | (software ? 4u << 8 | 0x30 : 3u << 8 | X.UD), (uint)r[VmField.Vectoring]);
        if (software) Assert.Equal(2ul, r[VmField.Length]);
        Assert.Equal((ulong)VmxGuest.GuestCode, r[VmField.GuestRip]);
    }

    /// <summary>A paging structure of the guest lies in the page.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void Guest_physical_accesses_to_the_APIC_access_page_exit(string engine, bool delivers)
    {
        using VmxGuest v = With(Accesses | Registers, ept: true);
        const uint linear = 0x20_0000; // the second 2 MiB have a table of their own
        ulong table = v.G.State.Cr3;
        foreach (int shift in (int[])[39, 30, 21]) table = v.G.Read<ulong>(table + (linear >> shift & 0x1FF) * 8) & ~0xFFFul;
        v.Guest(a =>
        {
            a.mov(edx, __dword_ptr[linear]);
            a.ud2();
        });
        v.Fields[VmField.ApicAccess] = table;
        if (delivers) v.Fields[VmField.GuestRip] = VmxGuest.GuestCode + 7;
        v.Fields[VmField.GuestIdt] = linear;
        VmxExitResult r = v.Run(engine).Is(ApicAccess, delivers ? TableInEvent : Table);
        Assert.Equal(delivers ? 1u << 31 | 3u << 8 | X.UD : 0, (uint)r[VmField.Vectoring]);
    }

    /// <summary>Reads give what the virtual-APIC page has, writes to the task priority clear its bytes 3:1.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void The_TPR_shadow_virtualizes_accesses_at_080H_and_no_other(string engine, bool ept)
    {
        using VmxGuest v = With(Accesses, ept: ept);
        v.G.Write(Page + 0x80, 0x50u);
        v.Guest(a =>
        {
            a.mov(edx, __dword_ptr[AccessPage + 0x80]);
            a.mov(__dword_ptr[AccessPage + 0x80], unchecked((int)0x9876_5432));
            a.mov(rax, cr8);
            a.@lock.or(__byte_ptr[AccessPage + 0x80], 0x40);
            a.vmcall();
            v.G.Mark(a, "other");
            a.mov(edx, __dword_ptr[AccessPage + 0x90]);
        });
        VmxExitResult r = v.Run(engine).Is(18);
        Assert.Equal((0x50ul, 3ul, 0x72u, 0u), (r.Rdx, r.Rax, v.G.Read<uint>(Page + 0x80), v.G.Read<uint>(AccessPage + 0x80)));
        v.Fields[VmField.GuestRip] = v.G["other"];
        v.Run(engine).Is(ApicAccess, 0x90);
    }

    public static readonly TheoryData<uint, int> OddAccesses = new()
    {
        { 0x80, 8 }, { 0x81, 4 }, { 0x7E, 4 }, { 0x82, 4 }, { 0x84, 1 }, { 0xFFE, 4 }, { 0x80, 16 }, { 0x480, 4 },
    };

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class EveryOddAccessAttribute : Xunit.Sdk.DataAttribute
    {
        public override IEnumerable<object?[]> GetData(System.Reflection.MethodInfo testMethod) =>
            new EnginesAttribute().GetData(testMethod).SelectMany(e => OddAccesses.Select(d => (object?[])[e[0], d[0], d[1]]));
    }

    /// <summary>More than 32 bits, or not within the low 4 bytes of 16.</summary>
    [Theory, EveryOddAccess]
    public void Accesses_that_are_too_wide_or_not_within_a_register_exit(string engine, uint offset, int size)
    {
        using VmxGuest v = With(Accesses | Registers);
        v.Guest(a =>
        {
            if (size == 16) a.movups(xmm0, __xmmword_ptr[AccessPage + offset]);
            else if (size == 8) a.mov(rdx, __qword_ptr[AccessPage + offset]);
            else if (size == 4) a.mov(edx, __dword_ptr[AccessPage + offset]);
            else a.mov(dl, __byte_ptr[AccessPage + offset]);
            v.G.Mark(a, "write");
            if (size == 16) a.movups(__xmmword_ptr[AccessPage + offset], xmm0);
            else if (size == 8) a.mov(__qword_ptr[AccessPage + offset], rdx);
            else if (size == 4) a.mov(__dword_ptr[AccessPage + offset], edx);
            else a.mov(__byte_ptr[AccessPage + offset], dl);
        });
        v.Run(engine).Is(ApicAccess, offset);
        v.Fields[VmField.GuestRip] = v.G["write"];
        v.Run(engine).Is(ApicAccess, offset | Write);
    }

    private static readonly uint[] s_written =
        [0x20, 0x80, 0xB0, 0xD0, 0xE0, 0xF0, 0x280, 0x300, 0x310, 0x320, 0x330, 0x340, 0x350, 0x360, 0x370, 0x380, 0x3E0];

    private static readonly uint[] s_read = [.. s_written, 0x30, .. Enumerable.Range(0, 24).Select(n => 0x100u + (uint)n * 16)];

    [Theory, Engines]
    public void APIC_register_virtualization_has_these_registers_to_read(string engine)
    {
        for (uint offset = 0; offset < 0x400; offset += 16)
        {
            using VmxGuest v = With(Accesses | Registers);
            v.Guest(a =>
            {
                a.mov(eax, __dword_ptr[AccessPage + offset]);
                a.vmcall();
            });
            v.G.Write(Page + offset, 0x1234_0000 | offset);
            VmxExitResult r = v.Run(engine);
            if (s_read.Contains(offset)) Assert.Equal(0x1234_0000ul | offset, r.Is(18).Rax);
            else r.Is(ApicAccess, offset);
        }
    }

    /// <summary>The exit comes behind the instruction, before the next.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void APIC_register_virtualization_has_these_registers_to_write_and_APIC_write_VM_exits_follow(string engine, bool ept)
    {
        foreach (uint offset in Enumerable.Range(0, 64).Select(n => (uint)n * 16))
        {
            using VmxGuest v = With(Accesses | Registers, ept: ept);
            v.Guest(a =>
            {
                a.mov(edx, unchecked((int)0x8765_4321));
                a.mov(__dword_ptr[AccessPage + offset], edx);
                v.G.Mark(a, "next");
                a.xor(edx, edx);
                a.vmcall();
            });
            VmxExitResult r = v.Run(engine);
            uint found = v.G.Read<uint>(Page + offset);
            if (!s_written.Contains(offset))
            {
                r.Is(ApicAccess, offset | Write);
                Assert.Equal(0u, found);
            }
            else if (offset is 0x80 or 0x310)
            {
                r.Is(18);
                Assert.Equal(offset == 0x80 ? 0x21u : 0x8700_0000, found);
            }
            else
            {
                r.Is(ApicWrite, offset);
                Assert.Equal((v.G["next"], 0x8765_4321ul, 0x8765_4321u), (r[VmField.GuestRip], r.Rdx, found));
                v.Run(engine).Is(18);
            }
        }
    }

    [Theory, Engines]
    public void A_repeated_store_exits_behind_each_of_its_writes(string engine)
    {
        using VmxGuest v = With(Accesses | Registers);
        v.Guest(a =>
        {
            a.mov(edi, AccessPage + 0x300);
            a.mov(ecx, 2);
            a.mov(eax, 0x4500);
            v.G.Mark(a, "stos");
            a.rep.stosd();
        });
        VmxExitResult r = v.Run(engine).Is(ApicWrite, 0x300);
        Assert.Equal((v.G["stos"], 0x4500u), (r[VmField.GuestRip], v.G.Read<uint>(Page + 0x300)));
    }

    /// <summary>The monitor trap flag and a single step are not first.</summary>
    [Theory]
    [Engines(true), Engines(false)]
    public void An_APIC_write_VM_exit_comes_before_other_traps_of_the_instruction(string engine, bool monitorTrap)
    {
        using VmxGuest v = With(Accesses | Registers);
        v.Guest(a =>
        {
            a.mov(__dword_ptr[AccessPage + 0x280], eax);
            v.G.Mark(a, "next");
            a.nop();
        });
        if (monitorTrap) v.Fields[VmField.Primary] |= VmControl.MonitorTrap;
        else v.Fields[VmField.GuestRflags] = 0x102;
        VmxExitResult r = v.Run(engine).Is(ApicWrite, 0x280);
        Assert.Equal((v.G["next"], monitorTrap ? 0ul : 1 << 14), (r[VmField.GuestRip], r[VmField.PendingDebug]));
    }

    /// <summary>What was cached while the page was memory like any other is not used where it stands for the APIC, with the same VPID.</summary>
    [Theory, Engines]
    public void The_page_is_looked_at_though_its_mapping_was_cached_without_the_control(string engine)
    {
        using VmxGuest v = With(SecondaryControls.EnableVpid);
        v.Fields[VmField.Vpid] = 1;
        v.Guest(a =>
        {
            a.mov(eax, __dword_ptr[AccessPage]);
            a.vmcall();
        });
        Assert.Equal(0x6666_6666ul, v.Run(engine).Is(18).Rax);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        v.Fields[VmField.Secondary] = (ulong)(SecondaryControls.EnableVpid | Accesses);
        v.Run(engine).Is(ApicAccess);
        v.Fields[VmField.Secondary] = (ulong)SecondaryControls.EnableVpid;
        v.Run(engine).Is(18);
    }

    [Theory]
    [Engines(false), Engines(true)]
    public void A_TPR_threshold_above_the_shadow_exits_behind_the_entry_where_APIC_accesses_are_virtualized(string engine, bool halted)
    {
        using VmxGuest v = With(Accesses);
        v.Guest(a => a.nop());
        v.Fields[VmField.TprThreshold] = 3;
        v.G.Write(Page + 0x80, 0x2Fu);
        if (halted) v.Fields[VmField.Activity] = 1;
        Assert.Equal((ulong)VmxGuest.GuestCode, v.Run(engine).Is(43)[VmField.GuestRip]);
    }

    [Theory, Engines]
    public void A_write_to_the_page_may_lower_the_priority_below_the_threshold(string engine)
    {
        using VmxGuest v = With(Accesses);
        v.Guest(a =>
        {
            a.mov(__dword_ptr[AccessPage + 0x80], 0x40);
            a.mov(__dword_ptr[AccessPage + 0x80], 0x3F);
            v.G.Mark(a, "next");
            a.nop();
        });
        v.Fields[VmField.TprThreshold] = 4;
        v.G.Write(Page + 0x80, 0x50u);
        Assert.Equal(v.G["next"], v.Run(engine).Is(43)[VmField.GuestRip]);
    }

    /// <summary>Whoever keeps a log of written pages, for a migration, is told of those that the processor writes to by itself.</summary>
    [Theory, Engines]
    public void Writes_to_the_virtual_APIC_page_are_told_of_and_made_where_rights_were_taken(string engine)
    {
        using VmxGuest v = With(0);
        v.Guest(a =>
        {
            a.mov(eax, 6);
            a.mov(cr8, rax);
            a.vmcall();
        });
        var told = new List<ulong>();
        v.G.On(engine);
        v.G.Memory.Rights.DeviceWriteRefused = offset => told.Add(offset);
        v.G.Memory.Rights.Set(Page, 0x1000, PageRights.Read | PageRights.Execute);
        v.Run(engine).Is(18);
        Assert.Equal((0x60u, true), (v.G.Read<uint>(Page + 0x80), told.Contains(Page)));
    }

    // ---- x2APIC mode

    /// <summary>Without APIC-register virtualization only the task priority is read from the page.</summary>
    [Theory]
    [Engines(0x808u, false, true), Engines(0x808u, true, true), Engines(0x802u, false, false), Engines(0x802u, true, true), Engines(0x8FFu, true, true)]
    public void RDMSR_in_virtual_x2APIC_mode(string engine, uint msr, bool registers, bool virtualized)
    {
        using VmxGuest v = With(X2Apic | (registers ? Registers : 0));
        v.G.Write(Page + (msr & 0xFF) * 16, 0x1122_3344_5566_7788ul);
        v.Guest(a =>
        {
            a.mov(ecx, msr);
            a.rdmsr();
            a.vmcall();
        });
        bool outside = false;
        v.G.OnExit = e =>
        {
            if (e.Reason != ExitReason.Msr) return false;
            (outside, e.Fault, e.Data) = (true, false, 0x99);
            return false;
        };
        VmxExitResult r = v.Run(engine).Is(18);
        Assert.Equal((!virtualized, virtualized ? 0x5566_7788ul : 0x99, virtualized ? 0x1122_3344ul : 0), (outside, r.Rax, r.Rdx));
    }

    [Theory]
    [Engines(0x808u, 0xE5ul, 0x80u), Engines(0x808u, 0x100ul, 0u), Engines(0x808u, 1ul << 32, 0u), Engines(0x80Bu, 1ul, 0u), Engines(0x83Fu, 0x100ul, 0u)]
    public void WRMSR_in_virtual_x2APIC_mode_checks_reserved_bits(string engine, uint msr, ulong value, uint offset)
    {
        using VmxGuest v = With(X2Apic | Delivery);
        v.Fields[VmField.Pin] |= VmControl.ExternalInterrupt;
        v.Fields[VmField.ExceptionBitmap] = 1 << X.GP;
        v.Guest(a =>
        {
            a.mov(ecx, msr);
            a.mov(eax, (uint)value);
            a.mov(edx, (uint)(value >> 32));
            a.wrmsr();
            a.vmcall();
        });
        VmxExitResult r = v.Run(engine).Is(offset == 0 ? 0u : 18);
        if (offset != 0) Assert.Equal((uint)value, v.G.Read<uint>(Page + offset));
        else Assert.Equal(1u << 31 | 1 << 11 | 3 << 8 | X.GP, (uint)r[VmField.Interruption]);
    }

    [Theory, Engines]
    public void Other_writes_in_virtual_x2APIC_mode_go_to_the_processors_own_APIC(string engine)
    {
        using VmxGuest v = With(X2Apic | Registers);
        v.Guest(a =>
        {
            a.mov(ecx, 0x80B);
            a.xor(eax, eax);
            a.xor(edx, edx);
            a.wrmsr();
            a.vmcall();
        });
        var written = new List<ulong>();
        v.G.OnExit = e =>
        {
            if (e.Reason != ExitReason.Msr) return false;
            if (e.IsWrite) written.Add(e.Address);
            e.Fault = false;
            return false;
        };
        v.Run(engine).Is(18);
        Assert.Equal([0x80Bul], written);
    }

    // ---- checks of an entry

    private static readonly Dictionary<string, Action<Dictionary<uint, ulong>>> s_invalid = new()
    {
        ["register virtualization without TPR shadow"] = f => Set(f, Registers, tprShadow: false),
        ["x2APIC without TPR shadow"] = f => Set(f, X2Apic, tprShadow: false),
        ["interrupt delivery without TPR shadow"] = f => Set(f, Delivery, tprShadow: false),
        ["x2APIC with APIC accesses"] = f => Set(f, X2Apic | Accesses),
        ["interrupt delivery without external-interrupt exiting"] = f => { Set(f, Delivery); f[VmField.Pin] &= ~1ul; },
        ["posted interrupts without interrupt delivery"] = f => { Set(f, Registers); Post(f); },
        ["posted interrupts without acknowledging"] = f => { Set(f, Delivery); Post(f); f[VmField.Exit] &= ~(1ul << 15); },
        ["notification vector"] = f => { Set(f, Delivery); Post(f); f[VmField.NotificationVector] = 0x100; },
        ["posted-interrupt descriptor's alignment"] = f => { Set(f, Delivery); Post(f); f[VmField.PostedDescriptor] += 32; },
        ["posted-interrupt descriptor's address"] = f => { Set(f, Delivery); Post(f); f[VmField.PostedDescriptor] = 1ul << 60; },
        ["APIC-access address"] = f => { Set(f, Accesses); f[VmField.ApicAccess] = AccessPage + 8; },
        ["APIC-access address beyond the width"] = f => { Set(f, Accesses); f[VmField.ApicAccess] = 1ul << 60; },
        ["virtual-APIC address"] = f => f[VmField.VirtualApic] = Page + 8,
        ["TPR threshold's bits"] = f => f[VmField.TprThreshold] = 0x10,
    };

    private static void Set(Dictionary<uint, ulong> fields, SecondaryControls secondary, bool tprShadow = true)
    {
        fields[VmField.Secondary] = (ulong)secondary;
        fields[VmField.Pin] |= VmControl.ExternalInterrupt;
        if (!tprShadow) fields[VmField.Primary] &= ~(ulong)ProcessorControls.UseTprShadow;
    }

    private static void Post(Dictionary<uint, ulong> fields)
    {
        fields[VmField.Pin] |= (ulong)PinControls.ProcessPostedInterrupts;
        fields[VmField.Exit] |= (ulong)ExitControls.AcknowledgeInterruptOnExit;
        fields[VmField.NotificationVector] = 0xF2;
        fields[VmField.PostedDescriptor] = Descriptor;
    }

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class EveryInvalidAttribute : Xunit.Sdk.DataAttribute
    {
        public override IEnumerable<object?[]> GetData(System.Reflection.MethodInfo testMethod) =>
            new EnginesAttribute().GetData(testMethod).SelectMany(e => s_invalid.Keys.Select(n => (object?[])[e[0], n]));
    }

    [Theory, EveryInvalid]
    public void Checks_on_APIC_virtualization_fail_the_instruction(string engine, string name)
    {
        using VmxGuest v = With(0);
        v.Guest(a => a.vmcall());
        s_invalid[name](v.Fields);
        v.Run(engine).FailedWith(7);
    }

    /// <summary>A threshold that virtual-interrupt delivery does not use is not looked at.</summary>
    [Theory, Engines]
    public void All_of_it_together_is_valid(string engine)
    {
        using VmxGuest v = With(0);
        v.Guest(a => a.vmcall());
        Set(v.Fields, Delivery | Registers | Accesses);
        Post(v.Fields);
        v.Fields[VmField.TprThreshold] = 0x15;
        v.Run(engine).Is(18);
    }

    /// <summary>What is left out is told so, with what builds on it.</summary>
    [Theory]
    [Engines("-vmx-flexpriority", 0x0000_0000_0001ul), Engines("-vmx-apicv-xapic", 0x80_0000_0310ul), Engines("-vmx-apicv-x2apic", 0x80_0000_0301ul),
        Engines("-vmx-apicv-register", 0x80_0000_0211ul), Engines("-vmx-apicv-vid", 0x0000_0000_0111ul), Engines("-vmx-posted-intr", 0x0000_0000_0311ul)]
    public void Capabilities_are_left_out_by_QEMUs_words(string engine, string word, ulong expected)
    {
        using var g = new Guest(Mode.Long, model: $"max,+vmx,{word}");
        g.Code(a =>
        {
            a.mov(ecx, 0x48B);
            a.rdmsr();
            a.mov(esi, edx);
            a.mov(ecx, 0x481);
            a.rdmsr();
            a.mov(edi, edx);
            g.End(a);
        });
        CpuState s = g.Run(engine).Done().State;
        Assert.Equal(expected, s.Gpr[6] & 0x311 | (s.Gpr[7] & 0x80) << 32);
    }
}
