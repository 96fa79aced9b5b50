using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3C, "Mode-Based Execute Control for EPT" (in "EPT Violations"), "Virtualization Exceptions".</summary>
public sealed class VmxMemoryTests
{
    private const uint ModeBased = 1 << 22, Exceptions = 1 << 18, Valid = 1u << 31, Area = VmxGuest.ZerosToo;
    private const ulong UserExecute = 1 << 10, Suppress = 1ul << 63;

    private static VmxGuest With(uint secondary, ulong flags)
    {
        var v = new VmxGuest();
        v.Fields[VmField.Primary] |= VmControl.Secondary;
        v.Fields[VmField.Secondary] = secondary;
        v.WithEpt(flags);
        // Each level gives the right, or none does.
        foreach (uint entry in (uint[])[0, 0x1000, 0x2000, 0x2008])
            v.G.Write(VmxGuest.EptTables + entry, v.G.Read<ulong>(VmxGuest.EptTables + entry) | flags & UserExecute);
        return v;
    }

    /// <summary>Pages from <see cref="Layout.Spare"/> on are the user's in the guest's tables, those below the supervisor's; the guest is at CPL 0.</summary>
    [Theory]
    // User-mode addresses by bit 10, the others by bit 2; without the control all by bit 2.
    [Engines(true, Layout.Spare, 7ul, 4u | 7 << 3), Engines(true, Layout.Spare, 3ul | 1 << 10, null),
        Engines(true, Layout.Data, 3ul | 1 << 10, 4u | 3 << 3 | 1 << 6),
        Engines(true, Layout.Data, 7ul, null), Engines(false, Layout.Spare, 3ul | 1 << 10, 4u | 3 << 3), Engines(false, Layout.Spare, 7ul, null),
        Engines(true, Layout.Spare, 1ul << 10, null)]
    public void Mode_based_execute_control_tells_user_mode_addresses_from_the_others(string engine, bool control, uint page, ulong rights, uint? violation)
    {
        using VmxGuest v = With(control ? ModeBased : 0, 7 | UserExecute);
        v.G.Place(page, 64, a => a.vmcall(), page);
        v.G.Write(VmxGuest.EptEntry(page), page | rights | 6 << 3);
        v.Guest(a => { a.mov(rax, (ulong)page); a.jmp(rax); });
        VmxExitResult r = v.Run(engine);
        if (violation is { } qualification) Assert.Equal(page, r.Is(48, qualification | 3 << 7)[VmField.GuestPhysical]);
        else r.Is(18);
    }

    [Theory, Engines]
    public void An_EPT_violation_whose_entry_allows_it_is_an_exception_of_the_guest(string engine)
    {
        using VmxGuest v = With(Exceptions, 7 | Suppress);
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), 0ul);
        v.Guest(a => a.mov(eax, __dword_ptr[Layout.Spare + 8]));
        v.Fields[0x202A] = Area;
        v.Fields[0x4] = 5; // EPTP index
        v.Fields[VmField.Primary] |= VmControl.Hlt;
        Assert.Equal((ulong)Bunraku.Fixtures.Guest.Stub(20), v.Run(engine).Is(12)[VmField.GuestRip]);
        Assert.Equal((48u, uint.MaxValue, 1ul | 3 << 7, Layout.Spare + 8ul, Layout.Spare + 8ul, (ushort)5), (v.G.Read<uint>(Area), v.G.Read<uint>(Area + 4),
            v.G.Read<ulong>(Area + 8), v.G.Read<ulong>(Area + 16), v.G.Read<ulong>(Area + 24), v.G.Read<ushort>(Area + 32)));
        // The guest has not taken what is told there: the hypervisor hears of the next one.
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        v.Run(engine).Is(48, 1 | 3 << 7);
        v.G.Write(Area + 4, 0u);
        v.Fields[VmField.GuestRip] = VmxGuest.GuestCode;
        v.Run(engine).Is(12);
    }

    [Theory, Engines]
    public void Bit_63_of_the_entry_suppresses_the_exception(string engine)
    {
        using VmxGuest v = With(Exceptions, 7);
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Suppress);
        v.Guest(a => a.mov(eax, __dword_ptr[Layout.Spare]));
        v.Fields[0x202A] = Area;
        v.Run(engine).Is(48, 1 | 3 << 7);
        Assert.Equal(0u, v.G.Read<uint>(Area + 4));
    }

    [Theory, Engines]
    public void A_virtualization_exception_is_asked_for_in_the_exception_bitmap(string engine)
    {
        using VmxGuest v = With(Exceptions, 7);
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Spare | 1ul | 6 << 3);
        v.Guest(a => a.mov(__dword_ptr[Layout.Spare], eax));
        v.Fields[0x202A] = Area;
        v.Fields[VmField.ExceptionBitmap] = 1 << 20;
        VmxExitResult r = v.Run(engine).Is(0);
        Assert.Equal((Valid | 3 << 8 | 20, (ulong)VmxGuest.GuestCode), ((uint)r[VmField.Interruption], r[VmField.GuestRip]));
        Assert.Equal(2ul | 1 << 3 | 3 << 7, v.G.Read<ulong>(Area + 8));
    }

    /// <summary>The device has the value before the exception's delivery exits, and both engines say so at the same place.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void A_write_to_a_device_comes_before_the_exception_of_the_next_instruction(string engine, bool pageFault)
    {
        const uint idt = Layout.Spare + 0x1000;
        using VmxGuest v = With(0, 7);
        v.G.Write(VmxGuest.EptEntry(Layout.Spare), Layout.Mmio | 3ul);
        v.G.Write(VmxGuest.EptEntry(idt), 0ul);
        v.Fields[VmField.GuestIdt] = idt;
        v.Guest(a =>
        {
            a.mov(__dword_ptr[Layout.Spare + 8], 0x1234_5678);
            if (pageFault) a.mov(eax, __dword_ptr[0x7000_0000]);
            else a.ud2();
        });
        int writes = 0;
        v.G.OnExit = e =>
        {
            if (e is { Reason: ExitReason.Mmio, IsWrite: true, Address: Layout.Mmio + 8, Data: 0x1234_5678 })
            {
                var state = new CpuState();
                v.G.Cpu.ReadState(state);
                Assert.Equal((VmxGuest.GuestCode + 11ul, null, 0ul), (state.Rip, state.Pending, state.Cr2));
                writes++;
            }
            return false;
        };
        VmxExitResult r = v.Run(engine).Is(48, 1 | 3 << 7);
        uint vector = pageFault ? 14u | 1 << 11 : 6;
        Assert.Equal((1, idt + (vector & 0xFF) * 16, 1u << 31 | 3 << 8 | vector), (writes, r[VmField.GuestPhysical], (uint)r[VmField.Vectoring]));
    }

    /// <summary>An entry that asks for what a word on the command line has taken away fails.</summary>
    [Theory]
    [Engines("vmx-vpid", 1u << 5), Engines("vmx-mbec", ModeBased), Engines("vmx-ept-violation-ve", Exceptions), Engines("vmx-unrestricted-guest", 1u << 7),
        Engines("vmx-ple", 1u << 10), Engines("vmx-desc-exit", 1u << 2)]
    public void Capabilities_are_left_out_by_their_words(string engine, string word, uint control)
    {
        using var v = new VmxGuest($"{VmxGuest.Model},-{word}");
        v.Fields[VmField.Primary] |= VmControl.Secondary;
        v.Fields[VmField.Secondary] = control;
        v.WithEpt();
        v.Fields[VmField.Vpid] = 1;
        v.Guest(a => a.cpuid());
        v.Run(engine).FailedWith(7);
        v.Fields[VmField.Secondary] = VmControl.Ept;
        v.Resumes = false;
        v.Run(engine).Is(10);
    }
}
