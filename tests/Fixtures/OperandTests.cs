using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Operands in every register: an engine may keep some of the guest's registers elsewhere than others. Intel SDM vol. 1, "Specifying an Offset"; vol. 2, LEA,
/// CALL, POPF.
/// </summary>
public sealed class OperandTests
{
    private static readonly AssemblerRegister64[] s_registers = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];

    private static ulong Contents(int register) => 0x1_0000_0001ul * (ulong)(register + 3) * 0x1_2345;

    [Theory, Engines]
    public void LEA_adds_every_base_and_index_into_every_register(string engine)
    {
        for (int destination = 0; destination < 16; destination++)
        {
            if (destination == 4) continue; // the reports are pushed
            List<ulong> expected = [];
            using var g = new Guest(Mode.Long);
            int to = destination;
            g.Code(a =>
            {
                for (int @base = 0; @base < 16; @base++)
                {
                    for (int index = 0; index < 16; index++)
                    {
                        if (@base == 4 || index == 4) continue;
                        for (int n = 0; n < 16; n++)
                        {
                            if (n != 4) a.mov(s_registers[n], Contents(n));
                        }
                        a.lea(s_registers[to], __[s_registers[@base] + s_registers[index] * 4 + 0x40]);
                        a.mov(rax, s_registers[to]);
                        Guest.Report(a);
                        expected.Add((uint)(Contents(@base) + Contents(index) * 4 + 0x40));
                    }
                }
                a.hlt();
            });
            Assert.Equal(expected, g.Run(engine).Done().Reports.Select(r => (ulong)(uint)r));
        }
    }

    [Theory, Engines]
    public void CALL_through_the_stack_pushes_where_the_stack_is(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label function = a.CreateLabel(), back = a.CreateLabel();
            a.mov(ebx, 3);
            a.lea(rdx, __[function]);
            a.Label(ref back);
            a.push(rdx);
            a.push(rbx);
            a.call(__qword_ptr[rsp + 8]); // read and write of the same piece of the stack, a jump between them
            a.pop(rax);
            a.pop(rdx);
            Guest.Report(a);
            a.dec(ebx);
            a.jne(back);
            a.hlt();
            a.Label(ref function);
            a.add(__qword_ptr[rsp + 8], 0x10);
            a.ret();
        });
        Assert.Equal([0x13ul, 0x12ul, 0x11ul], g.Run(engine).Done().Reports);
    }
}
