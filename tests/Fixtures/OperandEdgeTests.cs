using Bunraku.Processor.X86;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Operands that begin before an edge of the address space and end behind it: what canonicality or the limit says comes before any page fault. Intel SDM vol.
/// 1, "Canonical Addressing"; vol. 3A, "Limit Checking" and "Priority Among Concurrent Events".
/// </summary>
public sealed class OperandEdgeTests
{
    private static ulong Edge(Mode mode) => mode == Mode.Long5 ? 1ul << 56 : 1ul << 47;

    private static readonly string[] s_data =
    [
        "load", "store", "add", "lock add", "lock cmpxchg8b", "xchg", "bt", "lock bts", "movbe", "movups", "movups store", "vmovups",
        "vmaskmovps", "vmaskmovps store", "maskmovdqu", "cvtps2pd", "ldmxcsr",
        "fld m64", "fld m80", "fstp m80", "fild", "movq mm", "fxsave", "fxrstor", "xsave", "xrstor",
        "lodsq", "stosq", "movsq from", "movsq to", "rep movsq", "scasq", "cmpsq", "jmp", "push m", "pop m", "lgdt",
        "lidt", "sgdt",
    ];

    /// <summary>One instruction with its operand at RBX, which begins <see cref="Before"/> bytes before the edge.</summary>
    private static void Data(Assembler a, string what)
    {
        AssemblerMemoryOperand m = __qword_ptr[rbx];
        switch (what)
        {
            case "load": a.mov(rax, m); break;
            case "store": a.mov(m, rax); break;
            case "add": a.add(m, rax); break;
            case "lock add": a.@lock.add(m, rax); break;
            case "lock cmpxchg8b": a.@lock.cmpxchg8b(m); break;
            case "xchg": a.xchg(m, rax); break;
            case "bt": a.bt(m, rcx); break;
            case "lock bts": a.@lock.bts(m, rcx); break;
            case "movbe": a.movbe(rax, m); break;
            case "movups": a.movups(xmm0, __xmmword_ptr[rbx]); break;
            case "movups store": a.movups(__xmmword_ptr[rbx], xmm0); break;
            case "vmovups": a.vmovups(ymm0, __ymmword_ptr[rbx]); break;
            case "vmaskmovps": a.vmaskmovps(xmm0, xmm1, __xmmword_ptr[rbx]); break;
            case "vmaskmovps store": a.vmaskmovps(__xmmword_ptr[rbx], xmm1, xmm0); break;
            case "maskmovdqu": a.maskmovdqu(xmm0, xmm1); break;
            case "cvtps2pd": a.cvtps2pd(xmm0, m); break;
            case "ldmxcsr": a.ldmxcsr(__dword_ptr[rbx]); break;
            case "fld m64": a.fld(m); break;
            case "fld m80": a.fld(__tbyte_ptr[rbx]); break;
            case "fstp m80": a.fstp(__tbyte_ptr[rbx]); break;
            case "fild": a.fild(m); break;
            case "movq mm": a.movq(mm0, m); break;
            case "fxsave": a.fxsave(__[rbx]); break;
            case "fxrstor": a.fxrstor(__[rbx]); break;
            case "xsave": a.xsave(__[rbx]); break;
            case "xrstor": a.xrstor(__[rbx]); break;
            case "lodsq": a.lodsq(); break;
            case "stosq": a.stosq(); break;
            case "movsq from": a.movsq(); break;
            case "movsq to": a.movsq(); break;
            case "rep movsq": a.rep.movsq(); break;
            case "scasq": a.scasq(); break;
            case "cmpsq": a.cmpsq(); break;
            case "jmp": a.jmp(m); break;
            case "push m": a.push(m); break;
            case "pop m": a.pop(m); break;
            case "lgdt": a.lgdt(__[rbx]); break;
            case "lidt": a.lidt(__[rbx]); break;
            case "sgdt": a.sgdt(__[rbx]); break;
            default: throw new ArgumentOutOfRangeException(nameof(what), what, null);
        }
    }

    /// <summary>How far before the edge an operand begins: it crosses it, aligned as the instruction wants it.</summary>
    private static ulong Before(string what) => what switch
    {
        "fxsave" or "fxrstor" => 256,
        // The header of the area lies behind the edge.
        "xsave" or "xrstor" => 512,
        "ldmxcsr" => 2,
        _ => 4,
    };

    /// <param name="mapped">The page before the edge may be accessed.</param>
    private static Guest NewGuest(Mode mode, string model, bool mapped)
    {
        var g = new Guest(mode, model: model);
        g.State.Xcr0 = 7;
        g.State.Cr4 |= 0x4_0000; // OSXSAVE
        foreach (int vector in (int[])[X.SS, X.GP, X.PF]) g.Idt(vector, Desc.Gate(Sel.Code64, Guest.Stub(vector), Desc.IntGate, 0, 1));
        if (mapped) g.Tables[Edge(mode) - 0x1000] = Layout.Spare | Pte.P | Pte.W;
        return g;
    }

    private static string Describe(Outcome o) => $"vector {o.Vector}, error {o.Frame.Error:X}, RIP {o.Frame.Rip:X}, CR2 {o.State.Cr2:X}";

    private static void Raises(string engine, Guest g, int vector, string what)
    {
        Outcome o = g.Run(engine);
        Assert.True(o.Vector == vector && o.Frame.Error == 0 && o.Frame.Rip == g["at"] && o.State.Cr2 == 0, $"{what}: {Describe(o)}");
    }

    [Theory]
    [Engines(Mode.Long, true), Engines(Mode.Long, false), Engines(Mode.Long5, true), Engines(Mode.Long5, false)]
    public void An_operand_across_the_canonical_edge_raises_GP_whether_its_first_page_is_accessible_or_not(string engine, Mode mode, bool mapped)
    {
        foreach (string what in s_data)
        {
            using Guest g = NewGuest(mode, "max", mapped);
            ulong at = Edge(mode) - Before(what);
            g.Code(a =>
            {
                a.vpcmpeqd(xmm1, xmm1, xmm1);
                a.mov(rbx, at);
                a.mov(rsi, what is "lodsq" or "movsq from" or "rep movsq" or "cmpsq" ? at : Layout.Data);
                a.mov(rdi, what is "stosq" or "movsq to" or "scasq" or "maskmovdqu" ? at : Layout.Data);
                a.mov(ecx, 1);
                a.mov(eax, 7);
                a.xor(edx, edx);
                a.fld1();
                g.Mark(a, "at");
                Data(a, what);
                a.hlt();
            });
            Raises(engine, g, X.GP, what);
        }
    }

    private static readonly string[] s_stack =
        ["load", "store", "fld", "push", "push m", "pop", "call", "call m", "ret", "leave", "pushfq", "popfq", "retfq", "iretq", "enter"];

    [Theory]
    [Engines(Mode.Long, true), Engines(Mode.Long, false), Engines(Mode.Long5, true), Engines(Mode.Long5, false)]
    public void A_stack_operand_across_the_canonical_edge_raises_SS(string engine, Mode mode, bool mapped)
    {
        foreach (string what in s_stack)
        {
            using Guest g = NewGuest(mode, "max", mapped);
            ulong edge = Edge(mode);
            g.Code(a =>
            {
                Label there = a.CreateLabel();
                a.mov(rbx, Layout.Data);
                a.mov(rbp, edge - 4);
                // Downwards from behind the edge, upwards from before it; IRETQ's frame has five words, RETF's two.
                bool pushes = what is "push" or "push m" or "call" or "call m" or "pushfq" or "enter";
                a.mov(rsp, pushes ? edge + 4 : what == "iretq" ? edge - 16 : what == "retfq" ? edge - 8 : edge - 4);
                g.Mark(a, "at");
                switch (what)
                {
                    case "load": a.mov(rax, __qword_ptr[rbp]); break;
                    case "store": a.mov(__qword_ptr[rbp], rax); break;
                    case "fld": a.fld(__qword_ptr[rbp]); break;
                    case "push": a.push(rax); break;
                    case "push m": a.push(__qword_ptr[rbx]); break;
                    case "pop": a.pop(rax); break;
                    case "call": a.call(there); break;
                    case "call m": a.call(__qword_ptr[rbx]); break;
                    case "ret": a.ret(); break;
                    case "leave": a.leave(); break;
                    case "pushfq": a.pushfq(); break;
                    case "popfq": a.popfq(); break;
                    case "retfq": a.AddInstruction(Instruction.Create(Code.Retfq)); break;
                    case "iretq": a.iretq(); break;
                    case "enter": a.enter(0, 2); break;
                    default: throw new InvalidOperationException(what);
                }
                a.Label(ref there);
                a.hlt();
            });
            Raises(engine, g, X.SS, what);
        }
    }

    /// <summary>
    /// Intel SDM vol. 1, "Segmentation in 64-Bit Mode": prefixes of ES, CS, SS and DS mean nothing, so they do not choose between #SS and #GP either.
    /// </summary>
    [Theory]
    [Engines(0x36, false, X.GP), Engines(0x3E, true, X.SS), Engines(0x2E, true, X.SS), Engines(0x64, true, X.GP)]
    public void In_64_bit_mode_the_base_register_alone_makes_an_operand_one_of_the_stack(string engine, int prefix, bool byRbp, int vector)
    {
        using Guest g = NewGuest(Mode.Long, "max", false);
        g.Code(a =>
        {
            a.mov(rax, Edge(Mode.Long));
            a.mov(rbp, rax);
            g.Mark(a, "at");
            a.db((byte)prefix);
            if (byRbp) a.mov(rcx, __qword_ptr[rbp]);
            else a.mov(rcx, __qword_ptr[rax]);
            a.hlt();
        });
        Raises(engine, g, vector, $"{prefix:X}");
    }

    /// <summary>
    /// <see cref="Engines.VendorBehavior.StructuresInPieces"/>: the first field of a structure lies before the edge, in a page that is not present.
    /// </summary>
    [Theory]
    [Engines("max", false), Engines("x86-64-v3-intel", true)]
    public void Far_pointers_and_x87_environments_across_the_edge_are_checked_as_the_model_does(string engine, string model, bool inPieces)
    {
        foreach (string what in (string[])["jmp far", "lss", "fnstenv", "fldenv", "fnsave", "frstor"])
        {
            using Guest g = NewGuest(Mode.Long, model, false);
            ulong at = Edge(Mode.Long) - 4;
            g.Code(a =>
            {
                a.mov(rbx, at);
                g.Mark(a, "at");
                switch (what)
                {
                    case "jmp far": a.jmp(__fword_ptr[rbx]); break;
                    case "lss": a.lss(eax, __fword_ptr[rbx]); break;
                    case "fnstenv": a.fnstenv(__[rbx]); break;
                    case "fldenv": a.fldenv(__[rbx]); break;
                    case "fnsave": a.fnsave(__[rbx]); break;
                    default: a.frstor(__[rbx]); break;
                }
                a.hlt();
            });
            if (!inPieces)
            {
                Raises(engine, g, X.GP, what);
                continue;
            }
            Outcome o = g.Run(engine);
            uint error = what is "fnstenv" or "fnsave" ? 2u : 0;
            Assert.True(o.Vector == X.PF && o.Frame.Error == error && o.State.Cr2 == at, $"{what}: {Describe(o)}");
        }
    }

    private static readonly string[] s_flat = ["load", "store", "lock add", "movups", "fld", "lodsd", "stosd", "bt", "load ebp", "push", "pop", "ret"];

    private static void Flat(Assembler a, string what)
    {
        switch (what)
        {
            case "load": a.mov(eax, __dword_ptr[ebx]); break;
            case "store": a.mov(__dword_ptr[ebx], eax); break;
            case "lock add": a.@lock.add(__dword_ptr[ebx], eax); break;
            case "movups": a.movups(xmm0, __xmmword_ptr[ebx]); break;
            case "fld": a.fld(__qword_ptr[ebx]); break;
            case "lodsd": a.lodsd(); break;
            case "stosd": a.stosd(); break;
            case "bt": a.bt(__dword_ptr[ebx], ecx); break;
            case "load ebp": a.mov(eax, __dword_ptr[ebp]); break;
            case "push": a.push(eax); break;
            case "pop": a.pop(eax); break;
            case "ret": a.ret(); break;
            default: throw new InvalidOperationException(what);
        }
    }

    private const uint LastBytes = 0xFFFF_FFFE;

    private static Guest NewFlatGuest(string model, string what, bool mapped)
    {
        var g = new Guest(Mode.Paged32, 3, model);
        if (mapped) g.Tables[0xFFFF_F000] = Layout.Spare | Pte.P | Pte.W | Pte.U;
        g.Tables[0] = Layout.Spare + 0x1000 | Pte.P | Pte.W | Pte.U;
        g.Code(a =>
        {
            a.mov(ebx, LastBytes);
            a.mov(esi, LastBytes);
            a.mov(edi, LastBytes);
            a.mov(ebp, LastBytes);
            a.xor(ecx, ecx);
            a.mov(eax, 0x4433_2211);
            a.mov(esp, what == "push" ? 2 : LastBytes);
            g.Mark(a, "at");
            Flat(a, what);
            g.Mark(a, "next");
            g.End(a);
        });
        return g;
    }

    /// <summary><see cref="Engines.VendorBehavior.FlatSegmentsWrap"/> of AMD's processors.</summary>
    [Theory, Engines(true), Engines(false)]
    public void An_operand_beyond_the_end_of_a_flat_segment_violates_its_limit_on_AMDs_processors(string engine, bool mapped)
    {
        foreach (string what in s_flat)
        {
            using Guest g = NewFlatGuest("max", what, mapped);
            Raises(engine, g, what is "load ebp" or "push" or "pop" or "ret" ? X.SS : X.GP, what);
        }
    }

    /// <summary><see cref="Engines.VendorBehavior.FlatSegmentsWrap"/> of Intel's processors.</summary>
    [Theory, Engines(true), Engines(false)]
    public void An_operand_beyond_the_end_of_a_flat_segment_goes_on_at_0_on_Intels_processors(string engine, bool mapped)
    {
        foreach (string what in s_flat)
        {
            if (what == "ret" && mapped) continue; // goes wherever
            using Guest g = NewFlatGuest("x86-64-v3-intel", what, mapped);
            g.Write(Layout.Spare + 0x1000, 0x0000_4433u);
            g.Write<ushort>(Layout.Spare + 0xFFE, 0x2211);
            Outcome o = g.Run(engine);
            if (!mapped)
            {
                Assert.True(o.Vector == X.PF && o.State.Cr2 == LastBytes && o.Frame.Rip == g["at"], $"{what}: vector {o.Vector}, CR2 {o.State.Cr2:X}");
                continue;
            }
            Assert.True(o.Vector == null, $"{what}: vector {o.Vector}, CR2 {o.State.Cr2:X}");
            if (what is "load" or "lodsd" or "load ebp" or "pop" or "store" or "stosd" or "push") Assert.Equal(0x4433_2211u, (uint)o.State.Gpr[0]);
            if (what is not ("store" or "stosd" or "push")) continue;
            Assert.Equal((0x2211, 0x4433), (g.Read<ushort>(Layout.Spare + 0xFFE), g.Read<ushort>(Layout.Spare + 0x1000)));
        }
    }

    /// <summary>Only with base 0: measured on both vendors' processors.</summary>
    [Theory, Engines("max"), Engines("x86-64-v3-intel")]
    public void A_segment_with_a_base_is_limited_at_4_GiB(string engine, string model)
    {
        using var g = new Guest(Mode.Paged32, 3, model);
        g.Gdt(Sel.Free, Desc.Segment(Layout.Data, 0xF_FFFF, Desc.Data, Desc.Size.Big | Desc.Size.Granular, 3));
        g.Code(a =>
        {
            a.mov(eax, Sel.Free | 3);
            a.mov(es, eax);
            a.mov(eax, __dword_ptr.es[0xFFFF_FFFC]);
            g.Mark(a, "at");
            a.mov(eax, __dword_ptr.es[0xFFFF_FFFE]);
            g.End(a);
        });
        Raises(engine, g, X.GP, model);
    }

    /// <summary>VMASKMOV accesses the elements with a set mask alone.</summary>
    [Theory, Engines]
    public void VMASKMOV_looks_at_the_edge_for_selected_elements_alone(string engine)
    {
        foreach ((int shift, int? vector) in (ReadOnlySpan<(int, int?)>)[(12, X.PF), (0, X.GP), (16, null)])
        {
            using Guest g = NewGuest(Mode.Long, "max", false);
            g.Code(a =>
            {
                a.vpcmpeqd(xmm1, xmm1, xmm1);
                a.vpsrldq(xmm1, xmm1, (byte)shift); // the lowest element, all, none
                a.mov(rbx, Edge(Mode.Long) - 4);
                a.vmaskmovps(xmm0, xmm1, __xmmword_ptr[rbx]);
                a.hlt();
            });
            Assert.Equal(vector, g.Run(engine).Vector);
        }
    }
}
