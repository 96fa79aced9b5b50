using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3A, "Self-Modifying Code", "Handling Self- and Cross-Modifying Code": what is written is what is executed next, by whatever address it was
/// written.
/// </summary>
[TinyCachesToo]
public sealed class SelfModifyingCodeTests
{
    private const byte IncEcx0 = 0xFF, IncEcx1 = 0xC1, DecEcx1 = 0xC9; // FF /0, FF /1

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void A_store_to_the_very_next_instruction(string engine, Mode mode)
    {
        using var g = new Guest(mode);
        g.Code(a =>
        {
            g.Mark(a, "store");
            // Patched below: the address is known after assembly.
            if (mode == Mode.Real) a.mov(__byte_ptr.cs[bx], al);
            else a.mov(g.AtBx.Base == Register.RBX ? __byte_ptr[rbx] : __byte_ptr[ebx], al);
            g.Mark(a, "patched");
            a.db(IncEcx0, IncEcx1);
            a.hlt();
        });
        g.State.Gpr[0] = DecEcx1;
        g.State.Gpr[1] = 10;
        g.State.Gpr[3] = g["patched"] + 1;
        Assert.Equal(9ul, g.Run(engine).Done().State.Gpr[1] & 0xFFFF);
    }

    [Theory, Engines]
    public void A_loop_that_changes_its_own_immediate_each_time(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.mov(eax, 0);
            a.add(edx, eax);
            a.inc(__dword_ptr[rbx]);
            a.dec(ecx);
            a.jnz(loop);
            a.hlt();
        });
        g.State.Gpr[1] = 1000;
        g.State.Gpr[3] = Layout.Code + 1;
        Assert.Equal(999ul * 1000 / 2, g.Run(engine).Done().State.Gpr[2]);
    }

    [Theory, Engines]
    public void Functions_across_page_boundaries_rewritten_on_either_side(string engine)
    {
        // Each write makes code invalid that lies in two pages; what stays behind in the other page's lists must be gone before its memory
        // is used for other code.
        using var g = new Guest(Mode.Long);
        uint[] boundaries = [.. Enumerable.Range(0, 12).Select(n => Layout.Spare + 0x1000 + 0x2000 * (uint)n)];
        var returned = new uint[boundaries.Length];
        // mov eax, 0 with the boundary in the middle of its immediate; ret
        foreach (uint boundary in boundaries) g.Write(boundary - 3, (byte[])[0xB8, 0, 0, 0, 0, 0xC3]);
        var random = new Random(20);
        uint sum = 0;
        g.Code(a =>
        {
            a.xor(ebx, ebx);
            for (int step = 0; step < 3000; step++)
            {
                int n = random.Next(boundaries.Length);
                uint value = (uint)random.Next(1 << 15);
                switch (random.Next(8))
                {
                    case < 4:
                        returned[n] = (returned[n] & 0xFFFF_0000) | value;
                        a.mov(__word_ptr[(int)boundaries[n] - 2], (short)value);
                        break;
                    case 4:
                        returned[n] = (returned[n] & 0xFFFF) | value << 16;
                        a.mov(__word_ptr[(int)boundaries[n]], (short)value);
                        break;
                    default:
                        sum += returned[n];
                        a.mov(ecx, boundaries[n] - 3);
                        a.call(rcx);
                        a.add(ebx, eax);
                        break;
                }
            }
            a.hlt();
        });
        Assert.Equal(sum, (uint)g.Run(engine).Done().State.Gpr[3]);
    }

    [Theory]
    [Engines("alias"), Engines("string"), Engines("sse"), Engines("push"), Engines("locked"), Engines("x87")]
    public void A_function_rewritten_through_another_mapping_or_another_kind_of_store(string engine, string how)
    {
        using var g = new Guest(Mode.Long);
        const uint function = Layout.Spare, alias = Layout.Spare + 0x5000;
        g.Tables[alias] = function | 3;
        // mov eax, imm32; ret, padded to 16 bytes
        byte[] first = [0xB8, 1, 0, 0, 0, 0xC3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90], second = [.. first];
        second[1] = 2;
        g.Write(function, first);
        g.Write(Layout.Data, second);
        g.Code(a =>
        {
            a.mov(rbx, function);
            a.call(rbx);
            Guest.Report(a);
            a.mov(rdi, how == "alias" ? alias : function);
            a.mov(rsi, Layout.Data);
            switch (how)
            {
                case "alias":
                    a.mov(__byte_ptr[rdi + 1], 2);
                    break;
                case "string":
                    a.mov(ecx, 16);
                    a.rep.movsb();
                    break;
                case "sse":
                    a.movups(xmm0, __xmmword_ptr[rsi]);
                    a.movups(__xmmword_ptr[rdi], xmm0);
                    break;
                case "push":
                    a.mov(rdx, rsp);
                    a.lea(rsp, __[rdi + 8]);
                    a.push(__qword_ptr[rsi]);
                    a.mov(rsp, rdx);
                    break;
                case "locked":
                    a.@lock.add(__byte_ptr[rdi + 1], 1);
                    break;
                default:
                    a.fild(__qword_ptr[rsi]);
                    a.fistp(__qword_ptr[rdi]);
                    break;
            }
            a.call(rbx);
            Guest.Report(a);
            a.hlt();
        });
        Assert.Equal([1ul, 2], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void An_instruction_across_two_pages_whose_second_page_changes(string engine)
    {
        using var g = new Guest(Mode.Long);
        const uint at = Layout.Spare + 0xFFE;
        g.Write(at, [0xB8, 1, 0, 0, 0, 0xC3]);
        g.Code(a =>
        {
            a.mov(rbx, at);
            a.call(rbx);
            Guest.Report(a);
            a.mov(__byte_ptr[rbx + 3], 7);
            a.call(rbx);
            Guest.Report(a);
            // and whose second page is another one
            a.mov(__qword_ptr[(int)g.Tables.EntryAddress(Layout.Spare + 0x1000)], (int)(Layout.Spare + 0x9000 | 3));
            a.invlpg(__[rbx + 2]);
            a.call(rbx);
            Guest.Report(a);
            a.hlt();
        });
        g.Write(Layout.Spare + 0x9000, [0, 0x11, 0, 0xC3]);
        Assert.Equal([1ul, 0x7_0001, 0x11_0001], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void Code_that_the_hypervisor_writes_as_a_device_would(string engine)
    {
        using var g = new Guest(Mode.Long);
        const uint function = Layout.Spare;
        g.Write(function, [0xB8, 1, 0, 0, 0, 0xC3]);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(rbx, function);
            a.Label(ref loop);
            a.call(rbx);
            Guest.Report(a);
            a.cmp(eax, 5);
            a.jb(loop);
            a.hlt();
        });
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Io) g.Write(function + 1, (byte)(exit.Data + 1));
            return false;
        };
        Assert.Equal([1ul, 2, 3, 4, 5], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void DMA_into_a_running_loop_from_another_thread(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.Label(ref loop);
            a.inc(rcx);
            a.jmp(loop);
        });
        g.On(engine);
        // The loop becomes HLT under its feet.
        using var timer = new Timer(_ => g.Memory.Write(Layout.Code, [0xF4]), null, 20, Timeout.Infinite);
        g.Run(engine).Done();
    }

    [Theory, Engines]
    public void Code_is_shared_between_address_spaces_and_changes_for_both(string engine)
    {
        using var g = new Guest(Mode.Long);
        const uint function = Layout.Spare, second = Layout.Spare + 0x3000;
        g.Tables[second] = function | 3;
        g.Write(function, [0x48, 0x8D, 0x05, 0, 0, 0, 0, 0xC3]); // LEA RAX, [RIP]: its own address in whatever mapping
        g.Code(a =>
        {
            foreach (uint target in (uint[])[function, second, function, second])
            {
                a.mov(rbx, target);
                a.call(rbx);
                Guest.Report(a);
            }
            a.mov(__byte_ptr[(int)second + 3], 0x10);
            foreach (uint target in (uint[])[function, second])
            {
                a.mov(rbx, target);
                a.call(rbx);
                Guest.Report(a);
            }
            a.hlt();
        });
        Assert.Equal([function + 7, second + 7, function + 7, second + 7, function + 0x17, second + 0x17], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void The_same_bytes_are_other_instructions_in_another_mode(string engine)
    {
        using var g = new Guest(Mode.Long);
        // 48 FF C0: INC RAX in 64-bit mode, DEC EAX; INC EAX in 32-bit mode
        g.Write(Layout.Spare, [0x48, 0xFF, 0xC0, 0xCB]);
        g.Code(a =>
        {
            foreach (ushort code in (ushort[])[Sel.Code64, Sel.Code32, Sel.Code64])
            {
                a.xor(eax, eax);
                a.mov(__dword_ptr[(int)Layout.Data], (int)Layout.Spare);
                a.mov(__word_ptr[(int)Layout.Data + 4], (short)code);
                a.mov(rbx, Layout.Data);
                a.db(0xFF, 0x1B); // CALL m16:32 [RBX]
                Guest.Report(a);
            }
            a.hlt();
        });
        Assert.Equal([1ul, 0, 1], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void A_page_that_becomes_forbidden_to_execute_stops_a_warm_loop(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Write(Layout.Spare, [0xC3]);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.mov(rbx, Layout.Spare);
            a.Label(ref loop);
            a.call(rbx);
            a.inc(ecx);
            a.cmp(ecx, 100);
            a.jne(loop);
            a.mov(rax, (1ul << 63) | Layout.Spare | 3);
            a.mov(__qword_ptr[(int)g.Tables.EntryAddress(Layout.Spare)], rax);
            a.invlpg(__[rbx]);
            a.call(rbx);
        });
        g.Run(engine).Raised(X.PF, 0x11, Layout.Spare);
    }
}
