using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Page faults of programs that run directly, by the instruction that causes them.</summary>
[DirectToo]
public sealed class DirectFaultTests
{
    private const ulong Absent = 0x1234_5000;
    private const uint Handler = DirectTests.Entry + 0x1000;
    private const uint User = 4, Write = 2;

    /// <summary>Intel SDM vol. 3A, "Page-Fault Exceptions": W/R is set for what writes, or reads in order to write.</summary>
    [Theory]
    [Engines("add to memory", User | Write), Engines("compare", User), Engines("push", User | Write), Engines("pop", User), Engines("call", User | Write),
        Engines("return", User), Engines("exchange", User | Write), Engines("compare and exchange", User | Write), Engines("locked increment", User | Write),
        Engines("bit test", User), Engines("bit set", User | Write), Engines("store a string", User | Write), Engines("repeated store", User | Write),
        Engines("move a string", User), Engines("vector load", User), Engines("vector store", User | Write), Engines("x87 store", User | Write),
        Engines("by FS", User), Engines("jump through memory", User), Engines("masked store", User | Write), Engines("gather", User),
        Engines("across pages", User | Write), Engines("push of memory", User)]
    public void A_page_fault_tells_whether_the_instruction_writes(string engine, string what, uint error)
    {
        using Guest g = DirectTests.NewGuest();
        ulong address = Absent + 0x40, first = what == "across pages" ? Layout.Spare + 0xFFC : address;
        if (what == "across pages") g.Tables[Layout.Spare + 0x1000] = 0;
        g.Code(a =>
        {
            a.mov(rbx, first);
            a.mov(r9d, Layout.Spare + 0x2000);
            a.mov(r10, __[r9]); // it runs directly by now
            a.vpcmpeqb(ymm1, ymm1, ymm1);
            a.vpxor(ymm2, ymm2, ymm2);
            if (what is "push" or "call") a.lea(rsp, __[rbx + 8]);
            if (what is "pop" or "return") a.mov(rsp, rbx);
            if (what is "store a string" or "repeated store") a.mov(rdi, rbx);
            if (what is "move a string")
            {
                a.mov(rsi, rbx);
                a.mov(edi, Layout.Spare + 0x2000);
            }
            if (what == "by FS")
            {
                a.mov(r8d, 0x30);
                a.sub(rbx, r8);
                a.wrfsbase(rbx);
            }
            a.mov(ecx, 5);
            g.Mark(a, "at");
            switch (what)
            {
                case "add to memory": a.add(__dword_ptr[rbx], eax); break;
                case "compare": a.cmp(__dword_ptr[rbx], eax); break;
                case "push": a.push(rax); break;
                case "pop": a.pop(rax); break;
                case "call": a.call(r9); break;
                case "return": a.ret(); break;
                case "exchange": a.xchg(__[rbx], rax); break;
                case "compare and exchange": a.cmpxchg(__[rbx], rcx); break;
                case "locked increment": a.@lock.inc(__dword_ptr[rbx]); break;
                case "bit test": a.bt(__dword_ptr[rbx], ecx); break;
                case "bit set": a.bts(__dword_ptr[rbx], ecx); break;
                case "store a string": a.stosq(); break;
                case "repeated store": a.rep.stosq(); break;
                case "move a string": a.movsq(); break;
                case "vector load": a.vmovdqa(ymm0, __[rbx]); break;
                case "vector store": a.vmovdqa(__[rbx], ymm0); break;
                case "x87 store": a.fstp(__qword_ptr[rbx]); break;
                case "by FS": a.mov(rax, __qword_ptr.fs[r8]); break;
                case "jump through memory": a.jmp(__qword_ptr[rbx]); break;
                case "masked store": a.vmaskmovps(__[rbx], ymm1, ymm0); break;
                case "gather": a.vgatherdps(ymm0, __[rbx + ymm2 * 4], ymm1); break;
                case "across pages": a.mov(__[rbx], rax); break;
                case "push of memory": a.push(__qword_ptr[rbx]); break;
                default: throw new ArgumentException(what);
            }
        });
        Outcome o = DirectTests.Run(engine, g);
        ulong expected = what == "across pages" ? Layout.Spare + 0x1000 : address;
        Assert.Equal((X.PF, (uint?)error, expected, g["at"]), (o.Vector, o.Frame.Error, o.State.Cr2, o.Frame.Rip));
        // Intel SDM vol. 3B, "Resume Flag": set in what a fault pushes.
        Assert.Equal(0x1_0000ul, o.Frame.Flags & 0x1_0000);
    }

    /// <summary>
    /// The kernel maps the page and returns with RF set, which software sets for one instruction. That instruction must not show the host, though RF would have
    /// the processor pass the breakpoint which guards it.
    /// </summary>
    [Theory, Engines]
    public void An_instruction_that_the_kernel_returns_to_behind_its_fault_is_the_guests(string engine)
    {
        const uint page = Layout.Spare + 0x3000;
        using Guest g = DirectTests.NewGuest();
        ulong entry = g.Tables.EntryAddress(page), value = g.Tables[page];
        g.Tables[page] = 0;
        g.Place(Handler, 64, a =>
        {
            a.mov(__qword_ptr[(int)entry], (int)(value | Pte.A | Pte.D));
            a.inc(r15d);
            a.add(rsp, 8);
            a.iretq();
        });
        g.Idt(X.PF, Desc.Gate(g.StubCode, Handler, Desc.IntGate, 0));
        g.Code(a =>
        {
            Label next = a.CreateLabel();
            a.mov(r9d, Layout.Spare + 0x2000);
            a.mov(r10, __[r9]);
            a.mov(ebx, page);
            a.sldt(__word_ptr[rbx]); // of the host it would be another one, or a value that it makes up
            a.mov(ecx, 3);
            a.Label(ref next);
            a.add(__dword_ptr[rbx + 8], ecx);
            a.dec(ecx);
            a.jnz(next);
            a.mov(eax, __dword_ptr[rbx]);
            a.syscall();
        });
        ulong selector = g.State.Ldtr.Selector;
        CpuState s = DirectTests.Run(engine, g).Done().State;
        Assert.Equal((1ul, selector, 6u), (s.Gpr[15], s.Gpr[0] & 0xFFFF, g.Read<uint>(page + 8)));
    }
}
