using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.SvmGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>AMD APM vol. 2, "Nested Paging", "Nested Page Faults vs. Intercepts", "TLB Control", "Virtualizing VMSAVE and VMLOAD".</summary>
public sealed class NestedPagingTests
{
    private const ulong All = Pte.P | Pte.W | Pte.U, Final = 1ul << 32, Walk = 1ul << 33;
    private const uint Page = Layout.Data;

    [Theory]
    [Engines(0ul, false, Final | 4), Engines(Pte.P | Pte.U, true, Final | 7), Engines(Pte.P | Pte.W, false, Final | 5),
        Engines(All | Pte.Nx, false, 0ul), Engines(All | 1ul << 50, false, Final | 0xD)]
    public void A_nested_page_fault_tells_the_access_and_its_address(string engine, ulong entry, bool write, ulong code)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(NestedEntry(Page), (entry & Pte.P) != 0 ? Page | entry : entry);
        g.Code(a =>
        {
            g.Host.Mark(a, "at");
            if (write) a.mov(__dword_ptr[Page + 0x123], eax);
            else a.mov(ebx, __dword_ptr[Page + 0x123]);
            a.vmmcall();
        });
        g.Run(engine).Done();
        if (code == 0)
        {
            Assert.Equal(0x81ul, g.ExitCode); // no-execute does not concern data
            return;
        }
        Assert.Equal((0x400ul, code, Page + 0x123ul, g.Host["at"]), (g.ExitCode, g.Info1, g.Info2, g.Get<ulong>(Field.Rip)));
        Assert.Equal(0ul, g.Get<ulong>(Field.ExitIntInfo));
        Assert.Equal((byte)15, g.Get<byte>(Field.FetchedBytes));
    }

    [Theory, Engines]
    public void A_fetch_from_a_page_that_is_not_executable(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(NestedEntry(Layout.Spare), Layout.Spare | All | Pte.Nx);
        g.Code(a => { a.mov(rax, (ulong)Layout.Spare + 5); a.jmp(rax); });
        g.Run(engine).Done();
        Assert.Equal((0x400ul, Final | 0x15, Layout.Spare + 5ul), (g.ExitCode, g.Info1, g.Info2));
    }

    [Theory, Engines]
    public void Walks_of_the_guests_tables_are_writes_of_the_user(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        uint root = (uint)g.Host.State.Cr3;
        g.Host.Write(NestedEntry(root), root | Pte.P | Pte.U);
        g.Code(a => a.vmmcall());
        g.Run(engine).Done();
        Assert.Equal((0x400ul, Walk | 7), (g.ExitCode, g.Info1));
        Assert.Equal(root, g.Info2 & ~0xFFFul);
    }

    [Theory, Engines]
    public void A_page_fault_of_the_guest_is_its_own_and_comes_before_that_of_the_page(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Intercept(Field.Exceptions, X.PF);
        g.Host.Write(NestedEntry(Page), 0ul);
        g.Host.Tables[Page] = Page | Pte.P; // not writable
        g.Code(a => { a.mov(__dword_ptr[Page], eax); a.vmmcall(); });
        g.Run(engine).Done();
        Assert.Equal((0x4Eul, 3ul, (ulong)Page), (g.ExitCode, g.Info1, g.Info2));
    }

    [Theory, Engines]
    public void Accessed_and_dirty_flags_of_both_stages_are_set(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Code(a =>
        {
            a.mov(ebx, __dword_ptr[Page]);
            a.mov(__dword_ptr[Page + 0x1000], ebx);
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal(0x81ul, g.ExitCode);
        const ulong flags = Pte.A | Pte.D;
        Assert.Equal(Pte.A, g.Host.Read<ulong>(NestedEntry(Page)) & flags);
        Assert.Equal(flags, g.Host.Read<ulong>(NestedEntry(Page + 0x1000)) & flags);
        Assert.Equal(flags, g.Host.Read<ulong>(NestedEntry((uint)g.Host.State.Cr3)) & flags);
        Assert.Equal(Pte.A, g.Host.Tables[Page] & flags);
        Assert.Equal(flags, g.Host.Tables[Page + 0x1000] & flags);
    }

    [Theory, Engines]
    public void A_guests_page_lies_where_the_nested_tables_say(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(NestedEntry(Page), (Page + 0x2000) | All);
        g.Host.Write(Page, 0x1111u);
        g.Host.Write(Page + 0x2000, 0x2222u);
        g.Enter = a => a.mov(edi, __dword_ptr[Page]);
        g.After = a => a.mov(esi, __dword_ptr[Page]);
        g.Code(a => { a.mov(ebx, __dword_ptr[Page]); a.vmmcall(); });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x1111ul, 0x2222ul, 0x1111ul), (o.State.Gpr[7], o.State.Gpr[3], o.State.Gpr[6]));
    }

    /// <summary>The host changes the nested entry between two entries of the guest.</summary>
    [Theory]
    [Engines(0, 1), Engines(1, 1), Engines(3, 1), Engines(7, 1), Engines(0, 2)]
    public void TLB_CONTROL_drops_what_it_names_and_another_ASID_knows_nothing(string engine, int control, int asid)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(Page, 0x1111u);
        g.Host.Write(Page + 0x2000, 0x2222u);
        g.After = a =>
        {
            a.mov(dword(NestedEntry(Page)), (int)((Page + 0x2000) | All));
            a.mov(__dword_ptr[Vmcb + Field.TlbControl], control);
            a.mov(__dword_ptr[Vmcb + Field.Asid], asid);
            a.add(__qword_ptr[Vmcb + Field.Rip], 3);
            a.mov(rax, (ulong)Vmcb);
            a.vmrunq();
        };
        g.Code(a =>
        {
            a.mov(ebx, __dword_ptr[Page]);
            a.vmmcall();
            a.mov(ebx, __dword_ptr[Page]);
            a.vmmcall();
        });
        Outcome o = g.Run(engine).Done();
        // Without a flush either is right; this processor keeps what it has.
        if (control != 0 || asid != 1) Assert.Equal(0x2222ul, o.State.Gpr[3]);
        else Assert.Contains(o.State.Gpr[3], new[] { 0x1111ul, 0x2222ul });

        static AssemblerMemoryOperand dword(uint address) => __dword_ptr[address];
    }

    /// <summary>A processor that gets another state, as at a reset, has no mapping of guests that ran before.</summary>
    [Theory, Engines]
    public void Another_state_of_the_processor_knows_no_mappings_of_guests_that_ran_before(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Host.Write(Page, 0x1111u);
        g.Host.Write(Page + 0x2000, 0x2222u);
        g.Code(a => { a.mov(ebx, __dword_ptr[Page]); a.vmmcall(); });
        Assert.Equal(0x1111ul, g.Run(engine).Done().State.Gpr[3]);
        g.Host.Write(NestedEntry(Page), (Page + 0x2000) | All);
        g.Set(Field.Rip, (ulong)GuestCode);
        g.Host.Cpu.WriteState(g.Host.State);
        Assert.Equal(0x2222ul, g.Host.Run(engine).Done().State.Gpr[3]);
    }

    [Theory, Engines]
    public void VMSAVE_in_the_guest_writes_where_its_own_address_leads(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        g.Set(Field.VirtualExtensions, 2ul);
        g.Host.Write(NestedEntry(OtherVmcb), (OtherVmcb + 0x1000) | All);
        g.Host.State.Msrs[0xC000_0102] = 0x4321; // KernelGSBase
        g.Code(a =>
        {
            a.mov(eax, OtherVmcb);
            a.vmsaveq();
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal(0x81ul, g.ExitCode);
        Assert.Equal((0ul, 0x4321ul), (g.Host.Read<ulong>(OtherVmcb + 0x620), g.Host.Read<ulong>(OtherVmcb + 0x1620)));
    }

    [Theory, Engines]
    public void Device_memory_behind_nested_tables_is_the_machines(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        const uint pdpt = NestedRoot + 0x1000;
        g.Host.Write(pdpt + 3 * 8, 0xC000_0000ul | All | Pte.Ps); // 1 GiB
        g.Host.Tables[Layout.Spare + 0x1000] = Layout.Mmio | Pte.P | Pte.W | Pte.U;
        g.Code(a =>
        {
            a.mov(ebx, __dword_ptr[Layout.Spare + 0x1010]);
            a.mov(__dword_ptr[Layout.Spare + 0x1020], ebx);
            a.vmmcall();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(0x81ul, g.ExitCode);
        Assert.Equal([new Access(ExitReason.Mmio, false, Layout.Mmio + 0x10, 4, uint.MaxValue),
            new Access(ExitReason.Mmio, true, Layout.Mmio + 0x20, 4, uint.MaxValue)],
            o.Accesses);
    }
}
