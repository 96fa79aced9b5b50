using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Intel SDM vol. 3A, "Caching Translation Information": what INVLPG, MOV to CR3 and CR4, and INVPCID must drop, and what PCIDs keep apart.</summary>
[TinyCachesToo]
public sealed class TranslationCacheTests
{
    private const uint Page = Layout.Spare, Other = Layout.Spare + 0x1000;

    /// <summary>Reads Page through one mapping, changes the entry to Other, drops it in some way, and reads again.</summary>
    private static void Remap(string engine, Mode mode, ulong bits, Action<Guest, Iced.Intel.Assembler> drop, Action<Guest>? prepare = null)
    {
        using var g = new Guest(mode);
        g.Write(Page, 0x11u);
        g.Write(Other, 0x22u);
        g.Tables[Page] |= bits;
        int entry = (int)g.Tables.EntryAddress(Page);
        prepare?.Invoke(g);
        g.Code(a =>
        {
            a.mov(eax, __dword_ptr[(int)Page]);
            Guest.Report(a);
            a.mov(__dword_ptr[entry], (int)(Other | Pte.P | Pte.W | bits));
            drop(g, a);
            a.mov(eax, __dword_ptr[(int)Page]);
            Guest.Report(a);
            a.hlt();
        });
        Assert.Equal([0x11ul, 0x22ul], g.Run(engine).Done().Reports);
    }

    [Theory]
    [Engines(Mode.Paged32, 0ul), Engines(Mode.Pae, 0ul), Engines(Mode.Long, 0ul), Engines(Mode.Long, Pte.G)]
    public void INVLPG_drops_the_page_global_or_not(string engine, Mode mode, ulong bits) =>
        Remap(engine, mode, bits, (_, a) => a.invlpg(__[(int)Page + 0x123]), g => g.State.Cr4 |= 0x80);

    [Theory]
    [Engines(Mode.Paged32), Engines(Mode.Pae), Engines(Mode.Long)]
    public void MOV_to_CR3_drops_pages_that_are_not_global(string engine, Mode mode) =>
        Remap(engine, mode, 0, (_, a) =>
        {
            if (a.Bitness == 64)
            {
                a.mov(rax, cr3);
                a.mov(cr3, rax);
            }
            else
            {
                a.mov(eax, cr3);
                a.mov(cr3, eax);
            }
        });

    [Theory]
    [Engines(0x80u), Engines(0x10u)]
    public void A_change_of_CR4_PGE_or_PSE_drops_global_pages_too(string engine, uint bit) =>
        Remap(engine, Mode.Pae, Pte.G, (_, a) =>
        {
            a.mov(eax, cr4);
            a.xor(eax, bit);
            a.mov(cr4, eax);
        }, g => g.State.Cr4 |= 0x80);

    [Theory]
    [Engines(0u), Engines(1u), Engines(2u)]
    public void INVPCID_types_0_1_and_2_drop_the_page_of_the_current_PCID(string engine, uint type) =>
        Remap(engine, Mode.Long, 0, (g, a) =>
        {
            a.mov(ecx, type);
            a.invpcid(rcx, __[(int)Layout.Data]);
        }, g =>
        {
            g.State.Cr4 |= 1 << 17;
            g.State.Cr3 |= 5;
            g.Write(Layout.Data, 5ul);
            g.Write(Layout.Data + 8, (ulong)Page);
        });

    [Theory, Engines]
    public void Address_spaces_with_their_own_PCID_do_not_see_each_others_translations(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Write(Page, 0x11u);
        g.Write(Other, 0x22u);
        uint pml4 = g.Tables.RootWith(Page, Other | Pte.P | Pte.W | Pte.U);
        g.State.Cr4 |= 1 << 17;
        g.Code(a =>
        {
            for (int n = 0; n < 3; n++)
            {
                a.mov(rax, 1ul << 63 | g.Tables.Root | 1);
                a.mov(cr3, rax);
                a.mov(eax, __dword_ptr[(int)Page]);
                Guest.Report(a);
                a.mov(rax, 1ul << 63 | pml4 | 2);
                a.mov(cr3, rax);
                a.mov(eax, __dword_ptr[(int)Page]);
                Guest.Report(a);
            }
            a.mov(rax, cr3);
            Guest.Report(a);
            a.hlt();
        });
        Assert.Equal([0x11, 0x22, 0x11, 0x22, 0x11, 0x22, pml4 | 2], g.Run(engine).Done().Reports);
    }

    [Theory]
    [Engines(4u, 0ul, false), Engines(0u, 0x1000ul, false), Engines(1u, 5ul, true), Engines(1u, 5ul, false)]
    public void INVPCID_refuses_bad_types_descriptors_and_PCIDs(string engine, uint type, ulong descriptor, bool pcide)
    {
        using var g = new Guest(Mode.Long);
        if (pcide) g.State.Cr4 |= 1 << 17;
        g.Write(Layout.Data, descriptor);
        g.Code(a =>
        {
            a.mov(ecx, type);
            g.Mark(a, "at");
            a.invpcid(rcx, __[(int)Layout.Data]);
            a.hlt();
        });
        Outcome o = g.Run(engine);
        if (type == 1 && pcide) o.Done();
        else o.Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void A_page_that_becomes_present_needs_no_invalidation(string engine)
    {
        // "Optional Invalidation": no entry is made for an absent page.
        using var g = new Guest(Mode.Long);
        g.Write(Page, 0x11u);
        g.Tables[Page] = 0;
        g.Code(a =>
        {
            a.mov(eax, __dword_ptr[(int)Page]);
            a.hlt();
            g.Mark(a, "pf");
            a.mov(__qword_ptr[(int)g.Tables.EntryAddress(Page)], (int)(Page | 3));
            a.add(rsp, 8);
            a.iretq();
        });
        g.Handle(X.PF, "pf");
        Assert.Equal(0x11ul, g.Run(engine).Done().State.Gpr[0]);
    }

    [Theory, Engines]
    public void A_page_fault_for_a_write_that_the_tables_now_allow_is_not_repeated(string engine)
    {
        // A fault drops the cached translation of its address ("Propagation of Paging-Structure Changes").
        using var g = new Guest(Mode.Long);
        g.Tables[Page] = Page | 1;
        g.Code(a =>
        {
            a.mov(eax, __dword_ptr[(int)Page]);
            a.mov(__dword_ptr[(int)Page], 0x77);
            a.hlt();
            g.Mark(a, "pf");
            a.inc(edx);
            a.or(__qword_ptr[(int)g.Tables.EntryAddress(Page)], 2);
            a.add(rsp, 8);
            a.iretq();
        });
        g.Handle(X.PF, "pf");
        Assert.Equal(1ul, g.Run(engine).Done().State.Gpr[2]);
        Assert.Equal(0x77u, g.Read<uint>(Page));
    }
}
