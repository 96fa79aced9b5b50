using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Loops that go round pages whose translations have nothing in common, long enough that an engine may have learnt where they are. What it has learnt must not
/// survive a change of the mapping, of the rights, of the address space, or of what the page is used for.
/// </summary>
[TinyCachesToo]
public sealed class ScatteredLoopTests
{
    private const int Pages = 4, Rounds = 40_000;
    private const uint Linear = 0x60_0000, Backing = Layout.Spare;
    /// <summary>
    /// Offsets in a page: address of the next one, a number, where the loop stores, and a function that returns what is stored at its second byte.
    /// </summary>
    private const int Next = 0, Number = 8, Function = 0x800, Stored = Function + 1;

    private static uint PageAt(int n) => Linear + (uint)n * 0x1000;

    /// <summary>Three neighbours never lie beside each other in memory.</summary>
    private static uint BackingOf(int n) => Backing + (uint)(n * 5 % 8) * 0x1000;

    private static int After(int n) => n switch { 0 => 2, 2 => 1, 1 => 3, _ => 0 };

    private static void Fill(Guest g, uint at, int n, uint number)
    {
        g.Write(at + Next, (ulong)PageAt(After(n)));
        g.Write(at + Number, (ulong)number);
        g.Write(at + Function, (byte)0xB8); // MOV EAX, imm32
        g.Write(at + Stored, 0u);
        g.Write(at + Function + 5, (byte)0xC3); // RET
    }

    private static Guest Scattered()
    {
        var g = new Guest(Mode.Long);
        for (int n = 0; n < Pages; n++)
        {
            g.Tables[PageAt(n)] = BackingOf(n) | Pte.P | Pte.W;
            Fill(g, BackingOf(n), n, (uint)n + 1);
        }
        return g;
    }

    /// <summary>Goes round from the first page and reports the sum of the numbers.</summary>
    private static void Sum(Assembler a)
    {
        a.mov(rbx, (ulong)PageAt(0));
        a.mov(ecx, Rounds);
        a.xor(edx, edx);
        Label loop = a.CreateLabel();
        a.Label(ref loop);
        a.mov(rbx, __qword_ptr[rbx]);
        a.add(rdx, __qword_ptr[rbx + Number]);
        a.dec(ecx);
        a.jnz(loop);
        a.mov(rax, rdx);
        Guest.Report(a);
    }

    private static ulong SumOf(params uint[] numbers) => (ulong)numbers.Sum(n => (long)n) * Rounds / Pages;

    /// <summary>Code that is called, so that each call meets what the last one left behind.</summary>
    private static Label Shared(Assembler a, Action<Assembler> body)
    {
        Label function = a.CreateLabel(), over = a.CreateLabel();
        a.jmp(over);
        a.Label(ref function);
        body(a);
        a.ret();
        a.Label(ref over);
        return function;
    }

    [Theory, Engines]
    public void A_page_that_is_mapped_elsewhere(string engine)
    {
        using Guest g = Scattered();
        const uint other = Backing + 0x1_0000, third = other + 0x1000;
        Fill(g, other, 1, 100);
        Fill(g, third, 1, 1000);
        int entry = (int)g.Tables.EntryAddress(PageAt(1));
        g.Code(a =>
        {
            Label sum = Shared(a, Sum);
            a.call(sum);
            foreach (uint page in (uint[])[other, third, BackingOf(1)])
            {
                a.mov(__dword_ptr[entry], (int)(page | 3));
                a.invlpg(__[(int)PageAt(1)]);
                a.call(sum);
            }
            a.hlt();
        });
        Assert.Equal([SumOf(1, 2, 3, 4), SumOf(1, 100, 3, 4), SumOf(1, 1000, 3, 4), SumOf(1, 2, 3, 4)], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void Address_spaces_that_keep_their_translations_when_another_is_used(string engine)
    {
        using Guest g = Scattered();
        const uint other = Backing + 0x1_0000;
        Fill(g, other, 2, 100);
        uint pml4 = g.Tables.RootWith(PageAt(2), other | Pte.P | Pte.W);
        g.State.Cr4 |= 1 << 17;
        g.Code(a =>
        {
            Label sum = Shared(a, Sum);
            for (int n = 0; n < 3; n++)
            {
                foreach (ulong root in (ulong[])[g.Tables.Root | 1, pml4 | 2])
                {
                    a.mov(rax, 1ul << 63 | root);
                    a.mov(cr3, rax);
                    a.call(sum);
                }
            }
            a.hlt();
        });
        ulong first = SumOf(1, 2, 3, 4), second = SumOf(1, 2, 100, 4);
        Assert.Equal([first, second, first, second, first, second], g.Run(engine).Done().Reports);
    }

    /// <summary>Goes round and stores the remaining rounds plus EBP into each page's function.</summary>
    private static void Store(Assembler a)
    {
        a.mov(rbx, (ulong)PageAt(0));
        a.mov(ecx, Rounds);
        Label loop = a.CreateLabel();
        a.Label(ref loop);
        a.mov(rbx, __qword_ptr[rbx]);
        a.lea(eax, __[rcx + rbp]);
        a.mov(__dword_ptr[rbx + Stored], eax);
        a.dec(ecx);
        a.jnz(loop);
    }

    [Theory, Engines]
    public void A_page_that_becomes_code(string engine)
    {
        using Guest g = Scattered();
        g.Code(a =>
        {
            Label store = Shared(a, Store);
            for (int n = 0; n < 3; n++)
            {
                a.mov(ebp, n << 20);
                a.call(store);
                // By the loop's own addresses and by another one.
                foreach (uint function in (uint[])[PageAt(3), BackingOf(3), PageAt(2)])
                {
                    a.mov(rax, (ulong)function + Function);
                    a.call(rax);
                    Guest.Report(a);
                }
                a.mov(eax, __dword_ptr[(int)BackingOf(1) + Stored]);
                Guest.Report(a);
            }
            a.hlt();
        });
        // The last rounds are 4, 3, 2, 1 in the order 2, 1, 3, 0.
        ulong[] once = [2, 2, 4, 3];
        Assert.Equal([.. once, .. once.Select(r => r + (1 << 20)), .. once.Select(r => r + (2 << 20))], g.Run(engine).Done().Reports);
    }

    [Theory]
    [Engines(0ul, 2u), Engines(Pte.P, 3u)]
    public void A_page_that_must_not_be_written_any_more(string engine, ulong rights, uint error)
    {
        using Guest g = Scattered();
        g.State.Cr0 |= 1 << 16;
        int entry = (int)g.Tables.EntryAddress(PageAt(1));
        g.Code(a =>
        {
            Label store = Shared(a, Store);
            a.call(store);
            a.mov(__dword_ptr[entry], (int)(BackingOf(1) | rights));
            a.invlpg(__[(int)PageAt(1)]);
            a.mov(ebp, 1 << 20);
            a.call(store);
            a.hlt();
            g.Mark(a, "pf");
            a.pop(rax);
            Guest.Report(a);
            a.mov(rax, cr2);
            Guest.Report(a);
            a.mov(eax, ecx);
            Guest.Report(a);
            a.hlt();
        });
        g.Handle(X.PF, "pf");
        // The second round stores there.
        Outcome o = g.Run(engine).Done();
        Assert.Equal([error, PageAt(1) + (ulong)Stored, Rounds - 1], o.Reports);
        Assert.Equal((uint)Rounds + (1 << 20), g.Read<uint>(BackingOf(2) + Stored));
    }
}
