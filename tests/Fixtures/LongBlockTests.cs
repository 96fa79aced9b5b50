using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Straight code with many accesses to pages of their own, each of which once in turn has no translation, or faults: what an access does when it fails must be
/// within its reach, wherever in the code it stands, and flags must pass it by.
/// </summary>
[TinyCachesToo]
public sealed class LongBlockTests
{
    private const int Pages = 24;
    private const uint Linear = 0x60_0000;
    private const uint Big = 0xC000_0000; // two of them carry

    private static uint PageAt(int n) => Linear + (uint)n * 0x1000;

    /// <param name="filler">Instructions between the accesses.</param>
    private static void Body(Guest g, Assembler a, int filler)
    {
        a.xor(eax, eax);
        a.xor(edx, edx);
        for (int n = 0; n < Pages; n++)
        {
            // The carry that ADC takes passes the check of ADC's own operand.
            g.Mark(a, $"add{n}");
            a.add(eax, __dword_ptr[rdi + n * 0x1000]);
            g.Mark(a, $"adc{n}");
            a.adc(edx, __dword_ptr[rdi + (n * 0x1000 + 0x800)]);
            for (int k = 0; k < filler; k++)
            {
                if (filler > 3 || k == 0) a.mov(r15, 0x1234_5678_9ABC_DEF0ul); // long where the register lives in memory
                else a.mov(__qword_ptr[rdi + (n * 0x1000 + 0x400)], r15);
            }
        }
    }

    [Theory]
    [Engines(0), Engines(1), Engines(2), Engines(3), Engines(4), Engines(5), Engines(8)]
    public void Each_access_faults_once(string engine, int filler)
    {
        using var g = new Guest(Mode.Long);
        for (int n = 0; n < Pages; n++)
        {
            g.Tables[PageAt(n)] = (Layout.Spare + (uint)n * 0x1000) | Pte.P | Pte.W;
            g.Write(Layout.Spare + (uint)n * 0x1000, Big);
        }
        uint sum = 0, carries = 0;
        var expected = new List<ulong>();
        for (int n = 0; n < Pages; n++)
        {
            carries += sum + (ulong)Big > uint.MaxValue ? 1u : 0;
            sum += Big;
        }
        g.Code(a =>
        {
            Label body = a.CreateLabel(), over = a.CreateLabel();
            a.jmp(over);
            a.Label(ref body);
            Body(g, a, filler);
            a.ret();
            g.Mark(a, "fault");
            a.push(rax);
            a.mov(rax, cr2);
            Guest.Report(a);
            a.mov(eax, __dword_ptr[rsp + 16]); // RIP behind RAX and the error code
            Guest.Report(a);
            a.or(__byte_ptr[rbx], 1);
            a.pop(rax);
            a.add(rsp, 8);
            a.iretq();
            a.Label(ref over);
            a.mov(edi, Linear);
            for (int n = -1; n < Pages; n++)
            {
                if (n >= 0)
                {
                    a.mov(ebx, (int)g.Tables.EntryAddress(PageAt(n)));
                    a.and(__byte_ptr[rbx], unchecked((sbyte)0xFE));
                    a.invlpg(__[(int)PageAt(n)]);
                }
                a.call(body);
                Guest.Report(a);
                a.mov(eax, edx);
                Guest.Report(a);
            }
            a.hlt();
        });
        g.Handle(X.PF, "fault");
        for (int n = -1; n < Pages; n++)
        {
            if (n >= 0) expected.AddRange([PageAt(n), g[$"add{n}"]]);
            expected.AddRange([sum, carries]);
        }
        Assert.Equal(expected, g.Run(engine).Done().Reports);
    }
}
