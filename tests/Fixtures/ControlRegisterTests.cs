using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3A, "Control Registers"; vol. 4 (MSRs); vol. 2, "Operation" of the system instructions: reserved bits, canonical addresses, privilege, UMIP.
/// </summary>
public sealed class ControlRegisterTests
{
    private static void Expect(string engine, Mode mode, bool allowed, Action<Assembler> emit, Action<Guest>? prepare = null, int cpl = 0, int vector = X.GP,
        string model = "max")
    {
        using var g = new Guest(mode, cpl, model);
        prepare?.Invoke(g);
        g.Code(a =>
        {
            g.Mark(a, "at");
            emit(a);
            g.End(a);
        });
        Outcome o = g.Run(engine);
        if (allowed) o.Done();
        else o.Raised(vector, X.HasErrorCode(vector) ? 0u : null, g["at"]);
    }

    private static void Write(Assembler a, int register)
    {
        switch (register)
        {
            case 0: a.mov(cr0, rbx); break;
            case 3: a.mov(cr3, rbx); break;
            default: a.mov(cr4, rbx); break;
        }
    }

    private static void ExpectWrite(string engine, int register, ulong toggled, bool allowed, Mode mode = Mode.Long) =>
        Expect(engine, mode, allowed, a =>
        {
            if (a.Bitness == 64) Write(a, register);
            else if (register == 0) a.mov(cr0, ebx);
            else if (register == 4) a.mov(cr4, ebx);
            else a.mov(cr3, ebx);
        }, g => g.State.Gpr[3] = (register switch { 0 => g.State.Cr0, 3 => g.State.Cr3, _ => g.State.Cr4 }) ^ toggled);

    [Theory]
    [Engines(1ul << 32, false), Engines(1ul << 29, false), Engines(3ul << 29, true), Engines(1ul << 30, true), Engines(1ul, false), Engines(1ul << 31, false),
        Engines(1ul << 16, true), Engines(1ul << 18, true), Engines(1ul << 6, true)]
    public void MOV_to_CR0_checks_NW_without_CD_PG_without_PE_and_the_upper_half(string engine, ulong toggled, bool allowed) =>
        ExpectWrite(engine, 0, toggled, allowed);

    [Theory]
    [Engines(1ul << 32, false), Engines(1ul << 13, false), Engines(1ul << 14, false), Engines(1ul << 15, false), Engines(1ul << 19, false),
        Engines(1ul << 23, false), Engines(1ul << 31, false), Engines(1ul << 5, false), Engines(1ul << 12, false), Engines(1ul << 20, true),
        Engines(1ul << 21, true), Engines(1ul << 11, true), Engines(1ul << 7, true), Engines(1ul << 17, true)]
    public void MOV_to_CR4_checks_reserved_bits_and_PAE_and_LA57_in_long_mode(string engine, ulong toggled, bool allowed) =>
        ExpectWrite(engine, 4, toggled, allowed);

    [Theory, Engines]
    public void CR4_PCIDE_needs_long_mode_and_a_CR3_without_low_bits(string engine)
    {
        ExpectWrite(engine, 4, 1 << 17, allowed: false, Mode.Pae);
        Expect(engine, Mode.Long, false, a => a.mov(cr4, rbx), g =>
        {
            g.State.Gpr[3] = g.State.Cr4 | 1 << 17;
            g.State.Cr3 |= 0x18;
        });
    }

    [Theory]
    [Engines(1ul << 46, false), Engines(1ul << 51, false), Engines(1ul << 52, false), Engines(1ul << 63, false), Engines(0x18ul, true)]
    public void MOV_to_CR3_checks_the_bits_beyond_the_physical_address_width(string engine, ulong toggled, bool allowed) =>
        ExpectWrite(engine, 3, toggled, allowed);

    [Theory]
    [Engines(1), Engines(5), Engines(6), Engines(7), Engines(9), Engines(15)]
    public void Control_registers_that_do_not_exist_raise_UD(string engine, int number) =>
        Expect(engine, Mode.Long, false, a =>
        {
            if (number >= 8) a.db(0x44, 0x0F, 0x20, (byte)(0xC0 | (number - 8) << 3));
            else a.db(0x0F, 0x20, (byte)(0xC0 | number << 3));
        }, vector: X.UD);

    [Theory]
    [Engines(0x1234_5678u), Engines(0xC000_0085u), Engines(0xC001_FFFFu), Engines(0x9_0000u)]
    public void An_unknown_MSR_raises_GP_at_reads_and_writes(string engine, uint index)
    {
        Expect(engine, Mode.Long, false, a => a.rdmsr(), g => g.State.Gpr[1] = index);
        Expect(engine, Mode.Long, false, a => a.wrmsr(), g => g.State.Gpr[1] = index);
    }

    [Theory]
    // index, value, allowed
    [Engines(0xC000_0080u, 0x501ul | 1ul << 1, false), Engines(0xC000_0080u, 0xD01ul, true), Engines(0xC000_0080u, 0xC01ul, false),
        Engines(0xC000_0080u, 1ul << 63, false)]
    [Engines(0xC000_0100u, 0x0100_0000_0000_0000ul, false), Engines(0xC000_0100u, 0xFFFF_8000_0000_0000ul, true),
        Engines(0xC000_0082u, 0x8000_0000_0000_0000ul, false), Engines(0xC000_0102u, 0x0100_0000_0000_0000ul, false), Engines(0xC000_0084u, 1ul << 32, false)]
    [Engines(0x277u, 0x02ul, false), Engines(0x277u, 0x0007_0406_0007_0406ul, true), Engines(0x277u, 0x08ul, false), Engines(0x2FFu, 0x6ul, true),
        Engines(0x2FFu, 0x7ul, false), Engines(0x2FFu, 1ul << 12, false), Engines(0xFEu, 0ul, false)]
    public void WRMSR_checks_reserved_bits_canonical_addresses_and_memory_types(string engine, uint index, ulong value, bool allowed) =>
        Expect(engine, Mode.Long, allowed, a => a.wrmsr(), g =>
        {
            g.State.Gpr[1] = index;
            g.State.Gpr[0] = (uint)value;
            g.State.Gpr[2] = value >> 32;
        });

    [Theory]
    [Engines("rdmsr"), Engines("wrmsr"), Engines("clts"), Engines("lmsw"), Engines("invlpg"), Engines("wbinvd"), Engines("hlt"), Engines("lgdt"),
        Engines("lidt"), Engines("lldt"), Engines("ltr"), Engines("movcr"), Engines("movdr"), Engines("cli"), Engines("xsetbv")]
    public void Privileged_instructions_raise_GP_above_level_0(string engine, string what)
    {
        foreach (Mode mode in (Mode[])[Mode.Protected32, Mode.Long])
        {
            Expect(engine, mode, false, a =>
            {
                bool wide = a.Bitness == 64;
                switch (what)
                {
                    case "rdmsr": a.rdmsr(); break;
                    case "wrmsr": a.wrmsr(); break;
                    case "clts": a.clts(); break;
                    case "lmsw": a.lmsw(ax); break;
                    case "invlpg": a.invlpg(__[(int)Layout.Data]); break;
                    case "wbinvd": a.wbinvd(); break;
                    case "hlt": a.hlt(); break;
                    case "lgdt": a.lgdt(__[(int)Layout.Data]); break;
                    case "lidt": a.lidt(__[(int)Layout.Data]); break;
                    case "lldt": a.lldt(ax); break;
                    case "ltr": a.ltr(ax); break;
                    case "movcr": if (wide) a.mov(rax, cr0); else a.mov(eax, cr0); break;
                    case "movdr": if (wide) a.mov(rax, dr7); else a.mov(eax, dr7); break;
                    case "cli": a.cli(); break;
                    default: a.xsetbv(); break;
                }
            }, g => g.State.Cr4 |= 1 << 18, cpl: 3);
        }
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void UMIP_forbids_SGDT_SIDT_SLDT_STR_and_SMSW_above_level_0(string engine, bool umip)
    {
        foreach (Action<Assembler> emit in (Action<Assembler>[])[a => a.sgdt(__[(int)Layout.Data]), a => a.sidt(__[(int)Layout.Data]), a => a.sldt(ax),
            a => a.str(ax), a => a.smsw(ax), a => a.sldt(__word_ptr[(int)Layout.Data])])
        {
            Expect(engine, Mode.Long, !umip, emit, g => g.State.Cr4 |= umip ? 0x800ul : 0, cpl: 3);
            Expect(engine, Mode.Long, true, emit, g => g.State.Cr4 |= umip ? 0x800ul : 0, cpl: 0);
        }
    }

    [Theory, Engines]
    public void CR4_TSD_PCE_and_FSGSBASE_decide_about_their_instructions(string engine)
    {
        Expect(engine, Mode.Long, true, a => a.rdtsc(), cpl: 3);
        Expect(engine, Mode.Long, false, a => a.rdtsc(), g => g.State.Cr4 |= 4, cpl: 3);
        Expect(engine, Mode.Long, true, a => a.rdtsc(), g => g.State.Cr4 |= 4, cpl: 0);
        Expect(engine, Mode.Long, false, a => a.rdpmc(), cpl: 3);
        Expect(engine, Mode.Long, false, a => a.rdfsbase(rax), cpl: 3, vector: X.UD);
        Expect(engine, Mode.Long, true, a => a.rdfsbase(rax), g => g.State.Cr4 |= 1 << 16, cpl: 3);
        Expect(engine, Mode.Long, false, a => a.wrgsbase(rbx), g =>
        {
            g.State.Cr4 |= 1 << 16;
            g.State.Gpr[3] = 0x0100_0000_0000_0000;
        }, cpl: 3);
    }

    [Theory]
    [Engines(0ul, 0u, false), Engines(5ul, 0u, false), Engines(3ul, 0u, true), Engines(7ul, 0u, true), Engines(1ul, 0u, true), Engines(0x1_0000ul, 0u, false),
        Engines(3ul, 1u, false), Engines(1ul << 62 | 3, 0u, false)]
    public void XSETBV_checks_the_register_and_the_dependencies_of_its_bits(string engine, ulong value, uint register, bool allowed) =>
        Expect(engine, Mode.Long, allowed, a => a.xsetbv(), g =>
        {
            g.State.Cr4 |= 1 << 18;
            g.State.Gpr[1] = register;
            g.State.Gpr[0] = (uint)value;
            g.State.Gpr[2] = value >> 32;
        });

    [Theory, Engines]
    public void Without_OSXSAVE_XGETBV_and_VEX_instructions_are_invalid(string engine)
    {
        Expect(engine, Mode.Long, false, a => a.xgetbv(), vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.vpxor(ymm0, ymm0, ymm0), vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.vpxor(ymm0, ymm0, ymm0), g => g.State.Cr4 |= 1 << 18, vector: X.UD); // XCR0 = 1
        Expect(engine, Mode.Long, true, a => a.vpxor(ymm0, ymm0, ymm0), g =>
        {
            g.State.Cr4 |= 1 << 18;
            g.State.Xcr0 = 7;
        });
    }

    [Theory, Engines]
    public void Without_OSFXSR_SSE_instructions_are_invalid_and_EM_makes_x87_unavailable(string engine)
    {
        Expect(engine, Mode.Long, false, a => a.addps(xmm0, xmm1), g => g.State.Cr4 &= ~0x200ul, vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.addps(xmm0, xmm1), g => g.State.Cr0 |= 4, vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.fld1(), g => g.State.Cr0 |= 4, vector: X.NM);
        Expect(engine, Mode.Long, false, a => a.paddb(mm0, mm1), g => g.State.Cr0 |= 4, vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.paddb(mm0, mm1), g => g.State.Cr0 |= 8, vector: X.NM);
    }

    [Theory, Engines]
    public void CLAC_and_STAC_above_level_0_are_invalid(string engine) => Expect(engine, Mode.Long, false, a => a.stac(), cpl: 3, vector: X.UD);

    [Theory]
    [Engines(true), Engines(false)]
    public void A_LOCK_prefix_is_legal_with_a_memory_destination_of_some_instructions_only(string engine, bool memory)
    {
        Expect(engine, Mode.Long, memory, a => a.db(memory ? [0xF0, 0x01, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00] : [0xF0, 0x01, 0xC0]), vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.db(0xF0, 0x8B, 0x03), vector: X.UD);
        Expect(engine, Mode.Long, false, a => a.db(0xF0, 0x90), vector: X.UD);
    }

    [Theory, Engines]
    public void LGDT_and_LIDT_refuse_a_base_that_is_not_canonical(string engine) =>
        Expect(engine, Mode.Long, false, a => a.lgdt(__[(int)Layout.Data]), g => g.Write(Layout.Data + 2, 0x0200_0000_0000_0000ul));

    [Theory]
    [Engines("jmp"), Engines("call"), Engines("ret")]
    public void A_near_transfer_to_a_non_canonical_address_faults_at_the_instruction(string engine, string how)
    {
        using var g = new Guest(Mode.Long);
        g.State.Gpr[3] = 0x0000_8000_0000_0000;
        g.Write(Layout.StackTop, 0x0000_8000_0000_0000ul);
        g.Code(a =>
        {
            g.Mark(a, "at");
            if (how == "jmp") a.jmp(rbx);
            else if (how == "call") a.call(rbx);
            else a.ret();
        });
        Outcome o = g.Run(engine).Raised(X.GP, 0, g["at"]);
        Assert.Equal((ulong)Layout.StackTop, o.Frame.Rsp);
    }

    [Theory, Engines]
    public void MOV_to_CR8_takes_four_bits(string engine)
    {
        Expect(engine, Mode.Long, false, a => a.mov(cr8, rbx), g => g.State.Gpr[3] = 0x10);
        using var g = new Guest(Mode.Long);
        ulong? written = null;
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.CrAccess && exit.IsWrite) written = exit.Data;
            else if (exit.Reason == ExitReason.CrAccess) exit.Data = 0x9;
            return false;
        };
        g.Code(a =>
        {
            a.mov(eax, 0xD);
            a.mov(cr8, rax);
            a.mov(rcx, cr8);
            a.hlt();
        });
        Assert.Equal((0x9ul, 0xDul), (g.Run(engine).Done().State.Gpr[1], written));
    }

    [Theory, Engines]
    public void LMSW_can_set_PE_but_not_clear_it(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            a.xor(eax, eax);
            a.lmsw(ax);
            a.mov(eax, cr0);
            a.hlt();
        });
        Assert.Equal(1ul, g.Run(engine).Done().State.Gpr[0] & 0xF);
    }

    [Theory]
    [Engines(0xFFBFu, true), Engines(0x1_0000u, false), Engines(0x8000_0000u, false)]
    public void LDMXCSR_raises_GP_for_reserved_bits(string engine, uint value, bool allowed) =>
        Expect(engine, Mode.Long, allowed, a => a.ldmxcsr(__dword_ptr[(int)Layout.Data]), g => g.Write(Layout.Data, value));

    [Theory]
    [Engines(0), Engines(1), Engines(8)]
    public void MOVAPS_raises_GP_for_a_misaligned_operand_and_MOVUPS_does_not(string engine, int offset)
    {
        Expect(engine, Mode.Long, offset == 0, a => a.movaps(xmm0, __xmmword_ptr[(int)Layout.Data + offset]));
        Expect(engine, Mode.Long, true, a => a.movups(xmm0, __xmmword_ptr[(int)Layout.Data + offset]));
        Expect(engine, Mode.Long, offset == 0, a => a.addps(xmm0, __xmmword_ptr[(int)Layout.Data + offset]));
    }
}
