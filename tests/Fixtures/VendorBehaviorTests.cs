using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>The same bytes on a CPU model of each vendor: every engine in software does what the model's vendor does, whatever the host is.</summary>
public sealed class VendorBehaviorTests
{
    private const string Amd = "max", Intel = "x86-64-v3-intel";
    private const uint LastWord = Layout.Spare + 0x1000 - 2, Behind = Layout.Spare + 0x1000;

    /// <summary>AMD APM vol. 3, "LOOPcc": no word of it; measured on AMD's families 19h and 1Ah.</summary>
    [Theory]
    [Engines(Amd, Mode.Long, true), Engines(Intel, Mode.Long, false), Engines(Amd, Mode.Protected32, true), Engines(Intel, Mode.Protected32, false)]
    public void A_repeat_prefix_chooses_the_condition_of_LOOPcc(string engine, string model, Mode mode, bool chooses)
    {
        using var g = new Guest(mode, model: model);
        g.Code(a =>
        {
            // Prefix, opcode, ZF, and whether the plain instruction jumps.
            foreach ((byte prefix, byte opcode, bool zf) in (ReadOnlySpan<(byte, byte, bool)>)[(0xF3, 0xE0, true), (0xF2, 0xE1, false), (0xF3, 0xE1, true),
                (0xF2, 0xE0, false), (0xF2, 0xE0, true), (0xF3, 0xE1, false)])
            {
                a.mov(eax, 1);
                a.mov(ecx, 3);
                a.cmp(ecx, zf ? 3 : 4);
                a.db(prefix, opcode, 5); // over the MOV
                a.mov(eax, 0);
                Guest.Report(a);
                a.mov(eax, ecx);
                Guest.Report(a);
            }
            g.End(a);
        });
        ulong changed = chooses ? 1ul : 0;
        Assert.Equal([changed, 2, changed, 2, 1, 2, 1, 2, 0, 2, 0, 2], g.Run(engine).Done().Reports);
    }

    /// <summary>Intel SDM vol. 2C, "VPERMQ", "VPERMPD": VEX.W must be 1; AMD's families 19h and 1Ah ignore it.</summary>
    [Theory]
    [Engines(Amd, 0, true), Engines(Intel, 0, false), Engines(Amd, 1, true), Engines(Intel, 1, false)]
    public void VPERMQ_and_VPERMPD_with_W_0(string engine, string model, int opcode, bool executes)
    {
        // The second one lies in two pages, and so does not come out of one reading.
        const uint code = Layout.Code + 0xFE8;
        using var g = new Guest(Mode.Long, model: model);
        g.State.Cr4 |= 1 << 18; // OSXSAVE
        g.State.Xcr0 = 7;
        for (uint n = 0; n < 4; n++) g.Write(Layout.Data + n * 8, 0x11ul * (n + 1));
        g.State.Rip = code;
        g.Place(code, 64, a =>
        {
            a.vmovdqu(ymm0, __ymmword_ptr[Layout.Data]);
            g.Mark(a, "first");
            a.db(0xC4, 0xE3, 0x7D, (byte)opcode, 0xC8, 0x1B); // ymm1, ymm0, 1Bh
            a.vmovq(rax, xmm1);
            a.db(0xC4, 0xE3, 0x7D, (byte)opcode, 0x14, 0x25, 0x00, 0x00, 0x03, 0x00, 0x4E); // ymm2, [Layout.Data], 4Eh
            a.vmovq(rdx, xmm2);
            a.hlt();
        });
        Assert.True(g["first"] + 11 < Layout.Code + 0x1000 && g["first"] + 11 + 11 > Layout.Code + 0x1000);
        Outcome o = g.Run(engine);
        if (!executes)
        {
            o.Raised(X.UD, null, g["first"]);
            return;
        }
        o.Done();
        Assert.Equal((0x44ul, 0x33ul), (o.State.Gpr[0], o.State.Gpr[2]));
    }

    /// <summary>AMD APM vol. 3, "PREFETCHlevel"; Intel SDM vol. 2D, "Opcode Map": reserved NOP.</summary>
    [Theory]
    [Engines(Amd, true), Engines(Intel, false)]
    public void PREFETCHW_of_a_register(string engine, string model, bool isUndefined)
    {
        using var g = new Guest(Mode.Long, model: model);
        g.Code(a => { a.db(0x0F, 0x0D, 0xC8); a.hlt(); });
        Outcome o = g.Run(engine);
        if (isUndefined) o.Raised(X.UD, null, Layout.Code);
        else o.Done();
    }

    /// <summary>AMD APM vol. 3, "MOVSXD"; Intel SDM vol. 2B, "MOVSX/MOVSXD": r16, r/m16.</summary>
    [Theory]
    [Engines(Amd, true), Engines(Intel, false)]
    public void MOVSXD_of_a_word_in_front_of_an_absent_page(string engine, string model, bool readsDoubleword)
    {
        using var g = new Guest(Mode.Long, model: model);
        g.Tables[Behind] = 0;
        g.Write<ushort>(LastWord, 0x8765);
        g.State.Gpr[1] = 0x1122_3344_5566_7788;
        g.State.Gpr[3] = LastWord;
        g.Code(a => { a.db(0x66, 0x63, 0x0B); a.hlt(); }); // movsxd cx, [rbx]
        Outcome o = g.Run(engine);
        if (readsDoubleword)
        {
            o.Raised(X.PF, 0, Layout.Code);
            Assert.Equal((ulong)Behind, o.State.Cr2);
            return;
        }
        Assert.Equal(0x1122_3344_5566_8765ul, o.Done().State.Gpr[1]);
    }

    /// <summary>Open in both manuals; measured on each vendor's processors.</summary>
    [Theory]
    [Engines(Amd, true), Engines(Intel, false)]
    public void POP_FS_in_front_of_an_absent_page(string engine, string model, bool readsWholeSlot)
    {
        using var g = new Guest(Mode.Long, model: model);
        g.Tables[Behind] = 0;
        g.Write(LastWord, Sel.Data32);
        g.State.Gpr[4] = LastWord;
        g.Code(a => { a.pop(fs); a.hlt(); });
        Outcome o = g.Run(engine);
        if (readsWholeSlot) o.Raised(X.PF, 0, Layout.Code);
        else Assert.Equal((Sel.Data32, LastWord + 8ul), (o.Done().State.Fs.Selector, o.State.Gpr[4]));
    }

    /// <summary>Intel SDM vol. 2B, "SHA1MSG1", "Exceptions Type 4"; AMD's families 19h and 1Ah take any address.</summary>
    [Theory]
    [Engines(Amd, true), Engines(Intel + ",+sha", false)]
    public void SHA_with_an_unaligned_operand(string engine, string model, bool executes)
    {
        using var g = new Guest(Mode.Long, model: model);
        g.State.Gpr[3] = Layout.Data;
        g.Write(Layout.Data + 0x10, 0x1111_2222_3333_4444ul);
        g.Write(Layout.Data + 0x21, 0x1111_2222_3333_4444ul);
        g.Code(a =>
        {
            // SHA1NEXTE adds the rotated high doubleword of the first to the second.
            foreach (int at in (ReadOnlySpan<int>)[0x10, 0x21])
            {
                a.pxor(xmm1, xmm1);
                a.sha1nexte(xmm1, __xmmword_ptr[rbx + at]);
                a.movd(eax, xmm1);
                Guest.Report(a);
            }
            a.hlt();
        });
        Outcome o = g.Run(engine);
        Assert.Equal(executes ? null : X.GP, o.Vector);
        Assert.Equal(executes ? [0x3333_4444, 0x3333_4444] : (ulong[])[0x3333_4444], o.Reports);
    }

    /// <summary>
    /// AMD APM vol. 3, "JMP (Near)", "Jcc", "LOOPcc", "CALL (Near)", "RET (Near)"; Intel SDM vol. 2A, "Jcc": the prefix is ignored in 64-bit mode.
    /// </summary>
    [Theory]
    [Engines(Amd, true), Engines(Intel, false)]
    public void Near_branches_with_an_operand_size_prefix_in_64_bit_mode(string engine, string model, bool narrow)
    {
        // Each with nothing behind it that a branch would skip; the second number is what the stack pointer moves by on AMD and on Intel.
        (byte[] Bytes, int Amd, int Intel)[] branches =
        [
            ([0x66, 0xEB, 0x00], 0, 0),                         // jmp short
            ([0x66, 0x74, 0x00], 0, 0),                         // je
            ([0x66, 0xE2, 0x00], 0, 0),                         // loop
            ([0x66, 0xE3, 0x00], 0, 0),                         // jrcxz, not taken
            ([0x66, 0xE8, 0x00, 0x00, 0x00, 0x00], -2, -8),     // call rel16, or rel32
            ([0x66, 0xC3], 2, 8),                               // ret
            ([0x66, 0xFF, 0xE3], 0, 0),                         // jmp bx, or rbx
            ([0x66, 0xFF, 0xD3], -2, -8),                       // call bx, or rbx
        ];
        foreach ((byte[] bytes, int amd, int intel) in branches)
        {
            using var g = new Guest(Mode.Long, model: model);
            const uint code = Layout.Code + 0x9100;
            bool taken = bytes[1] != 0xE3;
            // What the branch leaves of its length is the distance to the next instruction, which CALL rel16 does not reach.
            uint length = narrow && bytes[1] == 0xE8 ? 4 : (uint)bytes.Length, next = code + length, target = narrow && taken ? (ushort)next : next;
            g.State.Rip = code;
            g.State.Rflags |= 0x40; // ZF
            g.State.Gpr[1] = 3;
            g.State.Gpr[3] = code + length;
            g.State.Gpr[4] = Layout.StackTop - 16;
            g.Write<ulong>(Layout.StackTop - 16, code + length);
            g.Write(code, bytes);
            g.Write<byte>(next, 0xF4);
            g.Write<byte>(target, 0xF4);
            Outcome o = g.Run(engine).Done();
            Assert.Equal((target + 1ul, Layout.StackTop - 16ul + (ulong)(narrow ? amd : intel)), (o.State.Rip, o.State.Gpr[4]));
        }
    }

    /// <summary>Intel SDM vol. 3A, "Determining the Signature": zero is written, CPUID executed, and it is in bits 63:32. Xen does so when it boots.</summary>
    [Theory]
    [Engines(Amd, false), Engines(Intel, true)]
    public void The_revision_of_microcode_is_read_as_each_vendor_says(string engine, string model, bool isAbove)
    {
        using var g = new Guest(Mode.Long, model: model);
        g.Code(a =>
        {
            a.mov(ecx, 0x8B);
            a.xor(eax, eax);
            a.xor(edx, edx);
            if (isAbove) a.wrmsr();
            a.mov(eax, 1);
            a.cpuid();
            a.mov(ecx, 0x8B);
            a.rdmsr();
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.True(o.State.Gpr[isAbove ? 2 : 0] != 0, "no revision");
        if (isAbove) Assert.Equal(0ul, o.State.Gpr[0]);
    }
}
