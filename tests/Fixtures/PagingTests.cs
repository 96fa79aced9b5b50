using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3A, "Paging": translation in every mode, "Access Rights", "Page-Fault Exceptions", "Accessed and Dirty Flags", reserved bits, "Protection
/// Keys".
/// </summary>
/// <remarks>
/// QEMU 7.2's TCG agrees but for these: it reports RSVD without P (the manual: "bit 3 of the error code can be set only if bit 0 is also set"), a
/// read-modify-write's fault as a read, sets accessed flags in PDPTEs, walks them anew each time, and does not check their reserved bits.
/// </remarks>
[TinyCachesToo]
public sealed class PagingTests
{
    private const uint P = 1, W = 2, U = 4, Rsvd = 8, I = 0x10, Pk = 0x20;
    private const ulong Wp = 1 << 16, Smep = 1 << 20, Smap = 1 << 21, Pke = 1 << 22, Ac = 1 << 18;
    /// <summary>A linear page that tests map as they like.</summary>
    private const uint Page = Layout.Spare;

    /// <summary>One access: "read", "write", "rmw" or "fetch". A fault must be a #PF with this error code; null: none.</summary>
    private static Outcome Try(string engine, Guest g, string kind, uint? error, ulong linear = Page)
    {
        g.Write<byte>(Page, 0xC3);
        g.Code(a =>
        {
            g.Mark(a, "at");
            switch (kind)
            {
                case "read": a.mov(eax, g.AtBx); break;
                case "write": a.mov(g.AtBx, eax); break;
                case "rmw": a.inc(g.AtBx); break;
                default:
                    if (a.Bitness == 64) a.call(rbx);
                    else a.call(ebx);
                    break;
            }
            g.End(a);
        });
        g.State.Gpr[0] = 0xC3C3_C3C3;
        g.State.Gpr[3] = linear;
        Outcome o = g.Run(engine);
        if (error == null) return o.Done();
        Assert.Equal(((int?)X.PF, error, linear), (o.Vector, o.Frame.Error, o.State.Cr2));
        Assert.Equal(kind == "fetch" ? linear : g["at"], o.Frame.Rip);
        return o;
    }

    [Theory]
    // What a fault's error code says, by access and privilege, for a page that is absent.
    [Engines(Mode.Paged32, 0, "read", 0u), Engines(Mode.Paged32, 0, "write", W), Engines(Mode.Paged32, 3, "read", U), Engines(Mode.Paged32, 3, "write", W | U),
        Engines(Mode.Paged32, 3, "fetch", U)]
    [Engines(Mode.Pae, 0, "read", 0u), Engines(Mode.Pae, 0, "write", W), Engines(Mode.Pae, 3, "rmw", W | U), Engines(Mode.Pae, 0, "fetch", I),
        Engines(Mode.Pae, 3, "fetch", U | I)]
    [Engines(Mode.Long, 0, "read", 0u), Engines(Mode.Long, 0, "rmw", W), Engines(Mode.Long, 3, "write", W | U), Engines(Mode.Long, 0, "fetch", I),
        Engines(Mode.Long, 3, "fetch", U | I)]
    [Engines(Mode.Long5, 3, "read", U), Engines(Mode.Compatibility, 3, "fetch", U | I)]
    public void Page_fault_error_code_of_an_absent_page(string engine, Mode mode, int cpl, string kind, uint error)
    {
        using var g = new Guest(mode, cpl);
        g.Tables[Page] = 0;
        Try(engine, g, kind, error);
    }

    [Theory]
    [Engines(Mode.Paged32, 2), Engines(Mode.Pae, 2), Engines(Mode.Long, 2), Engines(Mode.Long, 3), Engines(Mode.Long, 4), Engines(Mode.Long5, 5)]
    public void An_absent_entry_of_any_level_is_an_absent_page(string engine, Mode mode, int level)
    {
        const ulong far = 0x4000_0000ul;
        ulong linear = level switch { 4 => 1ul << 40, 5 => 1ul << 50, 3 => 2ul << 30, _ => far };
        using var g = new Guest(mode, 3);
        g.Tables[linear] = Page | Pte.P | Pte.W | Pte.U;
        g.Tables[linear, level] &= ~Pte.P;
        Try(engine, g, "read", U, linear);
    }

    [Theory]
    // U/S and R/W of page and directory (or all levels above) are combined by AND; CR0.WP decides for the supervisor.
    [Engines(3, "read", Pte.U, Pte.U, true, null), Engines(3, "write", Pte.U, Pte.U, true, P | W | U),
        Engines(3, "write", Pte.U | Pte.W, Pte.U | Pte.W, true, null)]
    [Engines(3, "write", Pte.U | Pte.W, Pte.U, true, P | W | U), Engines(3, "write", Pte.U, Pte.U | Pte.W, true, P | W | U)]
    [Engines(3, "read", 0ul, Pte.U, true, P | U), Engines(3, "read", Pte.U, 0ul, true, P | U), Engines(3, "fetch", 0ul, Pte.U | Pte.W, true, P | U)]
    [Engines(0, "read", 0ul, 0ul, true, null), Engines(0, "write", 0ul, Pte.W, true, P | W), Engines(0, "write", 0ul, Pte.W, false, null),
        Engines(0, "write", Pte.U, Pte.U, false, null), Engines(0, "rmw", Pte.U, Pte.U | Pte.W, true, P | W)]
    public void Access_rights_are_those_of_all_levels_and_CR0_WP(string engine, int cpl, string kind, ulong page, ulong directory, bool wp, uint? error)
    {
        foreach (Mode mode in (Mode[])[Mode.Paged32, Mode.Pae, Mode.Long])
        {
            using var g = new Guest(mode, cpl);
            if (!wp) g.State.Cr0 &= ~Wp;
            const ulong linear = 0x4000_0000ul; // under entries of its own
            g.Tables[linear] = Page | Pte.P | page;
            g.Tables[linear, 2] = g.Tables[linear, 2] & ~(Pte.U | Pte.W) | directory;
            uint? expected = kind == "fetch" && mode != Mode.Paged32 ? error | I : error;
            Try(engine, g, kind, expected, linear);
        }
    }

    [Theory]
    [Engines(Mode.Pae, 1, true, P | I), Engines(Mode.Pae, 2, true, P | I), Engines(Mode.Long, 1, true, P | I), Engines(Mode.Long, 2, true, P | I),
        Engines(Mode.Long, 3, true, P | I), Engines(Mode.Long, 4, true, P | I)]
    [Engines(Mode.Long, 1, false, P | Rsvd), Engines(Mode.Long, 3, false, P | Rsvd), Engines(Mode.Pae, 1, false, P | Rsvd)]
    public void XD_at_any_level_forbids_fetches_and_is_reserved_without_EFER_NXE(string engine, Mode mode, int level, bool nxe, uint error)
    {
        const ulong linear = 0x4000_0000ul;
        using var g = new Guest(mode);
        g.Tables[linear] = Page | Pte.P | Pte.W;
        ulong where = level == 4 ? 1ul << 40 : linear;
        g.Tables[where] = Page | Pte.P | Pte.W;
        g.Tables[where, level] |= Pte.Nx;
        if (!nxe) g.State.Efer &= ~0x800ul;
        Try(engine, g, "fetch", error, where);

        using var reader = new Guest(mode);
        reader.Tables[where] = Page | Pte.P | Pte.W;
        reader.Tables[where, level] |= Pte.Nx;
        if (!nxe) reader.State.Efer &= ~0x800ul;
        Try(engine, reader, "read", nxe ? null : P | Rsvd, where);
    }

    [Theory]
    [Engines("fetch", true, P | I), Engines("fetch", false, null), Engines("read", true, null)]
    public void SMEP_forbids_supervisor_fetches_from_user_pages(string engine, string kind, bool smep, uint? error)
    {
        using var g = new Guest(Mode.Long);
        if (smep) g.State.Cr4 |= Smep;
        Try(engine, g, kind, error);
    }

    [Theory, Engines]
    public void With_SMEP_the_I_bit_of_the_error_code_exists_in_32_bit_paging_too(string engine)
    {
        using var g = new Guest(Mode.Paged32);
        g.State.Cr4 |= Smep;
        Try(engine, g, "fetch", P | I);
    }

    [Theory]
    [Engines("read", false, P), Engines("write", false, P | W), Engines("read", true, null), Engines("write", true, null), Engines("fetch", false, null)]
    public void SMAP_forbids_supervisor_data_accesses_to_user_pages_unless_AC_is_set(string engine, string kind, bool ac, uint? error)
    {
        foreach (Mode mode in (Mode[])[Mode.Paged32, Mode.Pae, Mode.Long])
        {
            using var g = new Guest(mode);
            g.State.Cr4 |= Smap;
            if (ac) g.State.Rflags |= Ac;
            Try(engine, g, kind, error);
        }
    }

    [Theory, Engines]
    public void STAC_and_CLAC_take_effect_with_the_next_instruction(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Cr4 |= Smap;
        g.Code(a =>
        {
            a.stac();
            a.mov(eax, __dword_ptr[(int)Page]);
            a.clac();
            g.Mark(a, "at");
            a.mov(eax, __dword_ptr[(int)Page]);
        });
        g.Run(engine).Raised(X.PF, P, g["at"]);
    }

    [Theory, Engines]
    public void SMAP_holds_for_implicit_accesses_whatever_AC_says(string engine)
    {
        // The GDT lies in a user page; a segment load at level 3 reads it as the supervisor.
        using var g = new Guest(Mode.Long, 3);
        g.State.Cr4 |= Smap;
        g.State.Rflags |= Ac;
        g.Tables[Layout.Gdt] |= Pte.U;
        g.Code(a =>
        {
            a.mov(eax, Sel.UserData32);
            g.Mark(a, "at");
            a.mov(ds, eax);
            g.End(a);
        });
        // With the IDT's gates behind the same GDT delivery cannot succeed either.
        Assert.Equal(ExitReason.TripleFault, g.Run(engine).Reason);
    }

    /// <summary>What the supervisor reads in a user page with RFLAGS.AC set is not cached for accesses that level 3 causes.</summary>
    [Theory, Engines]
    public void SMAP_holds_for_implicit_accesses_though_the_supervisor_has_read_there(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Cr4 |= Smap;
        g.State.Rflags |= Ac;
        g.Tables[Layout.Gdt] |= Pte.U;
        g.Code(a =>
        {
            Label user = a.CreateLabel();
            a.mov(ebx, Sel.UserData32);
            a.lar(eax, ebx);
            a.mov(ecx, __dword_ptr[(int)Layout.Gdt]);
            a.pushfq();
            a.pop(r11);
            a.lea(rcx, __[user]);
            a.sysretq();
            a.Label(ref user);
            a.lar(eax, ebx);
            g.End(a);
        });
        g.State.Msrs[0xC000_0081] = (ulong)(Sel.UserCode64 - 16) << 48; // STAR
        Assert.Equal(ExitReason.TripleFault, g.Run(engine).Reason);
    }

    [Theory]
    // key bits: 1 = access disable, 2 = write disable
    [Engines(3, "read", 1u, true, P | U | Pk), Engines(3, "write", 2u, true, P | W | U | Pk), Engines(3, "read", 2u, true, null),
        Engines(3, "fetch", 3u, true, null)]
    [Engines(0, "read", 1u, true, P | Pk), Engines(0, "write", 2u, true, P | W | Pk), Engines(0, "write", 2u, false, null), Engines(0, "fetch", 3u, true, null)]
    public void Protection_keys_of_user_pages(string engine, int cpl, string kind, uint rights, bool wp, uint? error)
    {
        using var g = new Guest(Mode.Long, cpl);
        g.State.Cr4 |= Pke | 1 << 18;
        g.State.Xcr0 = 0x207;
        if (!wp) g.State.Cr0 &= ~Wp;
        BitConverter.TryWriteBytes(g.State.Xsave.AsSpan(512), 0x203ul);
        BitConverter.TryWriteBytes(g.State.Xsave.AsSpan(PkruOffset), rights << 10);
        g.Tables[Page] |= Pte.Key(5);
        Try(engine, g, kind, error);
    }

    /// <summary>Of PKRU in the standard format of the models (CPUID leaf 0Dh, subleaf 9, EBX).</summary>
    private const int PkruOffset = 832;

    /// <summary>Intel SDM vol. 2, RDPKRU "Operation": ECX must be zero, CR4.PKE set; EDX becomes zero.</summary>
    [Theory]
    [Engines(true, 0ul, null), Engines(true, 1ul << 32, null), Engines(true, 1ul, X.GP), Engines(false, 0ul, X.UD)]
    public void RDPKRU_reads_the_register(string engine, bool enabled, ulong count, int? vector)
    {
        const uint rights = 0xC03;
        using var g = new Guest(Mode.Long, 3);
        if (enabled) g.State.Cr4 |= Pke | 1 << 18;
        g.State.Xcr0 = 0x207;
        BitConverter.TryWriteBytes(g.State.Xsave.AsSpan(512), 0x203ul);
        BitConverter.TryWriteBytes(g.State.Xsave.AsSpan(PkruOffset), rights);
        g.State.Gpr[0] = g.State.Gpr[2] = ulong.MaxValue;
        g.State.Gpr[1] = count;
        g.State.Rflags |= 0x8D5;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.rdpkru();
            g.End(a);
        });
        Outcome o = g.Run(engine);
        if (vector == null) Assert.Equal((rights, 0ul, count, 0x8D5ul), (o.Done().State.Gpr[0], o.State.Gpr[2], o.State.Gpr[1], o.State.Rflags & 0x8D5));
        else Assert.Equal((vector, g["at"]), (o.Vector, o.Frame.Rip));
    }

    [Theory, Engines]
    public void CR2_and_CR3_are_read_into_any_register(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Cr2 = 0x1234_5678_9ABC;
        g.Code(a =>
        {
            a.mov(rbx, cr2);
            a.mov(r13, cr2);
            a.mov(rax, cr3);
            a.mov(r12, cr3);
            g.End(a);
        });
        CpuState s = g.Run(engine).Done().State;
        Assert.Equal((0x1234_5678_9ABCul, 0x1234_5678_9ABCul, s.Cr3, s.Cr3), (s.Gpr[3], s.Gpr[13], s.Gpr[0], s.Gpr[12]));
    }

    [Theory, Engines]
    public void CR2_is_not_for_programs_to_read(string engine)
    {
        using var g = new Guest(Mode.Long, 3);
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.mov(rbx, cr2);
            g.End(a);
        });
        g.Run(engine).Raised(X.GP, 0, g["at"]);
    }

    [Theory, Engines]
    public void WRPKRU_takes_effect_with_the_next_instruction(string engine)
    {
        using var g = new Guest(Mode.Long, 3);
        g.State.Cr4 |= Pke;
        g.Tables[Page] |= Pte.Key(3);
        g.Code(a =>
        {
            a.mov(ebx, __dword_ptr[(int)Page]);
            a.xor(ecx, ecx);
            a.xor(edx, edx);
            a.mov(eax, 1 << 6);
            a.wrpkru();
            g.Mark(a, "at");
            a.mov(ebx, __dword_ptr[(int)Page]);
        });
        g.Run(engine).Raised(X.PF, P | U | Pk, g["at"]);
    }

    [Theory]
    [Engines(Mode.Long, 1, 1ul << 51), Engines(Mode.Long, 2, 1ul << 50), Engines(Mode.Long, 4, 1ul << 48), Engines(Mode.Long, 4, Pte.Ps),
        Engines(Mode.Long5, 5, Pte.Ps), Engines(Mode.Pae, 1, 1ul << 62), Engines(Mode.Pae, 2, 1ul << 52), Engines(Mode.Pae, 1, 1ul << 51)]
    public void Reserved_bits_of_an_entry_fault_with_RSVD_and_P(string engine, Mode mode, int level, ulong bit)
    {
        ulong linear = level switch { 4 => 1ul << 40, 5 => 1ul << 50, _ => 0x4000_0000ul };
        using var g = new Guest(mode, 3);
        g.Tables[linear] = Page | Pte.P | Pte.W | Pte.U;
        g.Tables[linear, level] |= bit;
        Try(engine, g, "read", P | U | Rsvd, linear);
    }

    [Theory]
    [Engines(Mode.Paged32, 2, 1ul << 21), Engines(Mode.Pae, 2, 1ul << 13), Engines(Mode.Pae, 2, 1ul << 20), Engines(Mode.Long, 2, 1ul << 13),
        Engines(Mode.Long, 3, 1ul << 13), Engines(Mode.Long, 3, 1ul << 29)]
    public void Reserved_address_bits_of_a_large_page_fault(string engine, Mode mode, int level, ulong bit)
    {
        using var g = new Guest(mode, 3);
        g.State.Cr4 |= 0x10; // PSE
        g.Tables[0x4000_0000ul, level] = Pte.P | Pte.W | Pte.U | Pte.Ps | bit;
        Try(engine, g, "write", P | W | U | Rsvd, 0x4000_0000ul + Page);
    }

    [Theory]
    [Engines(Mode.Paged32, 2), Engines(Mode.Pae, 2), Engines(Mode.Long, 2), Engines(Mode.Long, 3), Engines(Mode.Long5, 2)]
    public void Large_pages_of_4_MiB_2_MiB_and_1_GiB_map_all_of_themselves(string engine, Mode mode, int level)
    {
        using var g = new Guest(mode);
        g.State.Cr4 |= 0x10;
        g.Tables[0x4000_0000ul, level] = Pte.P | Pte.W | Pte.Ps | 1 << 12; // PAT, not an address bit
        if (mode == Mode.Paged32) g.Tables[0x4000_0000ul, level] = Pte.P | Pte.W | Pte.Ps;
        Try(engine, g, "rmw", null, 0x4000_0000ul + Page + 0x1000 - 2);
        Assert.Equal(0x0000_0001u, g.Read<uint>(Page + 0x1000 - 2));
        Assert.Equal(Pte.A | Pte.D, g.Tables[0x4000_0000ul, level] & (Pte.A | Pte.D));
    }

    [Theory, Engines]
    public void Without_CR4_PSE_the_PS_bit_of_32_bit_paging_is_ignored(string engine)
    {
        using var g = new Guest(Mode.Paged32);
        g.Tables[0x4000_0000ul] = Page | Pte.P | Pte.W;
        g.Tables[0x4000_0000ul, 2] |= Pte.Ps;
        Try(engine, g, "read", null, 0x4000_0000ul);
    }

    [Theory, Engines]
    public void PSE_36_takes_physical_address_bits_39_to_32_from_bits_20_to_13(string engine)
    {
        using var g = new Guest(Mode.Paged32);
        g.State.Cr4 |= 0x10;
        g.Tables[0x4000_0000ul, 2] = Pte.P | Pte.W | Pte.Ps | 0x12 << 13;
        Outcome o = Try(engine, g, "read", null, 0x4000_1234ul);
        Assert.Equal(new Access(ExitReason.Mmio, false, 0x12_0000_1234, 4, 0xFFFF_FFFF), o.Accesses.Single());
    }

    [Theory]
    [Engines(Mode.Paged32, "read", Pte.A), Engines(Mode.Paged32, "write", Pte.A | Pte.D), Engines(Mode.Paged32, "fetch", Pte.A)]
    [Engines(Mode.Pae, "read", Pte.A), Engines(Mode.Pae, "rmw", Pte.A | Pte.D)]
    [Engines(Mode.Long, "read", Pte.A), Engines(Mode.Long, "write", Pte.A | Pte.D), Engines(Mode.Long, "fetch", Pte.A),
        Engines(Mode.Long5, "write", Pte.A | Pte.D)]
    public void Accessed_and_dirty_flags_are_set_as_the_access_needs(string engine, Mode mode, string kind, ulong flags)
    {
        const ulong linear = 0x4000_0000ul;
        using var g = new Guest(mode);
        g.Tables[linear] = Page | Pte.P | Pte.W;
        Try(engine, g, kind, null, linear);
        Assert.Equal(flags, g.Tables[linear] & (Pte.A | Pte.D));
        Assert.Equal(Pte.A, g.Tables[linear, 2] & (Pte.A | Pte.D));
        if (mode == Mode.Pae) Assert.Equal(0ul, g.Tables[linear, 3] & (Pte.A | Pte.D)); // PDPTEs have none
    }

    /// <summary>
    /// Intel SDM vol. 3A, "Operations that Invalidate TLBs and Paging-Structure Caches": descriptors are read through mappings that are cached like any other.
    /// </summary>
    [Theory, Engines]
    public void INVLPG_drops_the_mapping_through_which_descriptors_are_read(string engine)
    {
        const ulong linear = 0x4000_0000ul;
        using var g = new Guest(Mode.Long);
        g.Tables[linear] = Layout.Gdt | Pte.P | Pte.W;
        g.Tables[0x4000_1000] = Page | Pte.P | Pte.W;
        g.Gdt(Sel.Free, Desc.Flat(Desc.Data));
        g.Write(Page + Sel.Free, Desc.Flat(Desc.Code));
        g.State.GdtrBase = linear;
        g.Code(a =>
        {
            a.mov(ecx, Sel.Free);
            a.lar(eax, ecx);
            a.@out(Guest.ReportPort, eax);
            a.mov(rax, __qword_ptr[(int)g.Tables.EntryAddress(0x4000_1000)]);
            a.mov(__qword_ptr[(int)g.Tables.EntryAddress(linear)], rax);
            a.invlpg(__[0x4000_0000]);
            a.lar(eax, ecx);
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });
        Assert.Equal([Desc.Data, Desc.Code], g.Run(engine).Done().Reports.Select(r => (int)(r >> 8 & 0xFF)));
    }

    [Theory, Engines]
    public void INVLPG_drops_all_of_a_large_page(string engine)
    {
        const ulong linear = 0x4000_0000ul;
        using var g = new Guest(Mode.Long);
        g.Tables[linear, 2] = 0 | Pte.P | Pte.W | Pte.Ps;
        g.Write(Page, 0x1111u);
        g.Write(0x20_0000 + Page, 0x2222u);
        g.Code(a =>
        {
            a.mov(ebx, 0x4000_0000 + (int)Page);
            a.mov(eax, __dword_ptr[rbx]);
            a.@out(Guest.ReportPort, eax);
            a.add(__dword_ptr[(int)g.Tables.EntryAddress(linear, 2)], 0x20_0000);
            a.invlpg(__[rbx + 0x3000]);
            a.mov(eax, __dword_ptr[rbx]);
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });
        Assert.Equal([0x1111u, 0x2222u], g.Run(engine).Done().Reports.Select(r => (uint)r));
    }

    [Theory, Engines]
    public void A_write_after_a_read_sets_the_dirty_flag_though_the_translation_is_cached(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            a.mov(eax, __dword_ptr[(int)Page]);
            a.mov(rax, __qword_ptr[(int)g.Tables.EntryAddress(Page)]);
            a.@out(Guest.ReportPort, eax);
            a.mov(__dword_ptr[(int)Page], eax);
            a.mov(rax, __qword_ptr[(int)g.Tables.EntryAddress(Page)]);
            a.@out(Guest.ReportPort, eax);
            a.hlt();
        });
        Assert.Equal([Pte.A, Pte.A | Pte.D], g.Run(engine).Done().Reports.Select(r => r & (Pte.A | Pte.D)));
    }

    [Theory]
    [Engines(3, "write"), Engines(0, "write")]
    public void An_access_that_rights_forbid_leaves_the_dirty_flag_alone(string engine, int cpl, string kind)
    {
        using var g = new Guest(Mode.Long, cpl);
        g.Tables[Page] = Page | Pte.P | Pte.U;
        Try(engine, g, kind, P | W | (cpl == 3 ? U : 0));
        Assert.Equal(0ul, g.Tables[Page] & Pte.D);
    }

    [Theory, Engines]
    public void A_read_only_CMPXCHG_that_fails_still_needs_and_marks_a_writable_page(string engine)
    {
        using var g = new Guest(Mode.Long, 3);
        g.Code(a =>
        {
            a.mov(eax, 1);
            a.cmpxchg(__dword_ptr[(int)Page], ecx);
            g.End(a);
        });
        g.Run(engine).Done();
        Assert.Equal(Pte.A | Pte.D, g.Tables[Page] & (Pte.A | Pte.D));
    }

    [Theory]
    [Engines("read"), Engines("write"), Engines("rmw")]
    public void An_access_across_pages_faults_with_the_address_of_the_page_that_is_absent_and_writes_nothing(string engine, string kind)
    {
        using var g = new Guest(Mode.Long);
        g.Tables[Page + 0x1000] = 0;
        g.Code(a =>
        {
            g.Mark(a, "at");
            switch (kind)
            {
                case "read": a.mov(eax, __dword_ptr[rbx]); break;
                case "write": a.mov(__dword_ptr[rbx], eax); break;
                default: a.add(__dword_ptr[rbx], eax); break;
            }
        });
        g.State.Gpr[0] = 0x1111_1111;
        g.State.Gpr[3] = Page + 0xFFE;
        Outcome o = g.Run(engine).Raised(X.PF, kind == "read" ? 0 : W, g["at"]);
        Assert.Equal(Page + 0x1000ul, o.State.Cr2);
        Assert.Equal((ushort)0, g.Read<ushort>(Page + 0xFFE));
    }

    [Theory, Engines]
    public void A_far_linear_address_that_is_canonical_with_57_bits_only(string engine)
    {
        const ulong linear = 0x00F0_0000_0000_0000;
        using var four = new Guest(Mode.Long);
        four.Code(a =>
        {
            four.Mark(a, "at");
            a.mov(eax, __dword_ptr[rbx]);
        });
        four.State.Gpr[3] = linear;
        four.Run(engine).Raised(X.GP, 0, four["at"]);
        using var five = new Guest(Mode.Long5);
        five.Tables[linear] = Page | Pte.P | Pte.W;
        Try(engine, five, "read", null, linear);
    }

    [Theory]
    [Engines(1ul << 1), Engines(1ul << 8), Engines(1ul << 6), Engines(1ul << 52), Engines(1ul << 63)]
    public void MOV_to_CR3_with_PAE_loads_the_PDPTEs_and_raises_GP_for_their_reserved_bits(string engine, ulong bit)
    {
        using var g = new Guest(Mode.Pae);
        uint other = g.Tables.Allocate();
        for (uint n = 0; n < 4; n++) g.Write(other + n * 8, g.Read<ulong>(g.Tables.Root + n * 8));
        if (bit != 1ul << 6) g.Write(other + 8, 0x1000 | Pte.P | bit);
        else g.Write(other + 8, Pte.U | 1 << 6); // absent: nothing is reserved
        g.Code(a =>
        {
            a.mov(eax, other);
            g.Mark(a, "at");
            a.mov(cr3, eax);
            a.hlt();
        });
        Outcome o = g.Run(engine);
        if (bit == 1ul << 6) o.Done();
        else
        {
            o.Raised(X.GP, 0, g["at"]);
            Assert.Equal(g.Tables.Root, o.State.Cr3);
        }
    }

    [Theory, Engines]
    public void PDPTEs_are_used_as_loaded_until_CR3_is_written(string engine)
    {
        using var g = new Guest(Mode.Pae);
        g.Tables[0x4000_0000ul] = Page | Pte.P | Pte.W;
        g.Code(a =>
        {
            a.mov(eax, __dword_ptr[0x4000_0000]);
            a.mov(__dword_ptr[(int)g.Tables.EntryAddress(0x4000_0000ul, 3)], 0);
            a.invlpg(__[0x4000_0000]);
            a.mov(eax, __dword_ptr[0x4000_0000]);
            a.mov(eax, cr3);
            a.mov(cr3, eax);
            g.Mark(a, "at");
            a.mov(eax, __dword_ptr[0x4000_0000]);
        });
        g.Run(engine).Raised(X.PF, 0, g["at"]);
    }
}
