using Bunraku.Engines;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// What an engine may remember about where a branch leads. Intel SDM vol. 3A, "Self-Modifying Code" and "Program or Task State on Interrupts": neither changed
/// code nor an event between a branch and its target may be forgotten, or be remembered as the target.
/// </summary>
[TinyCachesToo]
public sealed class BlockLinkTests
{
    private const int Interrupt = 0x40;

    [Theory, Engines]
    public void A_return_leads_to_the_code_that_stands_there_now(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Iced.Intel.Label function = a.CreateLabel(), again = a.CreateLabel(), end = a.CreateLabel();
            a.mov(ecx, 2);
            a.Label(ref again);
            a.call(function);
            g.Mark(a, "return");
            a.mov(eax, 1);
            Guest.Report(a);
            a.dec(ecx);
            a.je(end);
            a.lea(rdi, __[again]);
            // The immediate of the MOV behind the call, which is five bytes long.
            a.mov(__byte_ptr[rdi + 6], 2);
            a.jmp(again);
            a.Label(ref end);
            a.hlt();
            a.Label(ref function);
            a.ret();
        });
        Assert.Equal([1ul, 2ul], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void An_interrupt_between_a_jump_and_its_target_does_not_become_the_target(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Tables[Layout.Mmio] = Layout.Mmio | Pte.P | Pte.W;
        g.Code(a =>
        {
            Iced.Intel.Label again = a.CreateLabel(), target = a.CreateLabel();
            a.xor(ebx, ebx);
            a.mov(ecx, 3);
            a.mov(edx, Layout.Mmio);
            a.jmp(again); // so that both times the same block is entered
            a.Label(ref again);
            a.mov(__dword_ptr[rdx], eax); // MMIO the first time: the exit comes after the jump, or before
            a.mov(edx, Layout.Data);
            a.jmp(target);
            a.nop();
            a.Label(ref target);
            a.dec(ecx);
            a.jne(again);
            a.hlt();
            g.Mark(a, "handler"); // in the same page, where a branch is linked without another look
            a.inc(ebx);
            a.iretq();
        });
        g.Handle(Interrupt, "handler");
        bool injected = false;
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Mmio && !injected && g.Cpu.InterruptWindowOpen)
            {
                g.Cpu.InjectInterrupt(Interrupt);
                injected = true;
            }
            return false;
        };
        Assert.Equal(1ul, g.Run(engine).Done().State.Gpr[3]);
    }

    [Theory, Engines]
    public void A_fault_in_fetching_the_target_does_not_become_the_target(string engine)
    {
        const uint page = Layout.Spare, next = page + 0x1000;
        using var g = new Guest(Mode.Long);
        ulong entry = g.Tables[next];
        g.Tables[next] = 0;
        g.Code(a =>
        {
            a.xor(ebx, ebx);
            a.mov(ecx, 3);
            a.mov(eax, page + 0xFF0);
            a.jmp(rax);
            g.Mark(a, "handler");
            a.mov(eax, (uint)entry);
            a.mov(__qword_ptr[g.Tables.EntryAddress(next)], rax);
            a.inc(ebx);
            a.add(rsp, 8);
            a.iretq();
        });
        g.Place(page + 0xFF0, 64, a =>
        {
            Iced.Intel.Label again = a.CreateLabel(), crossing = a.CreateLabel();
            a.Label(ref again);
            a.jmp(crossing);
            a.nop(11);
            a.Label(ref crossing);
            a.mov(eax, 0x12345678); // from FFDh on
            a.dec(ecx);
            a.jne(again);
            a.hlt();
        });
        g.Handle(X.PF, "handler");
        Outcome o = g.Run(engine).Done();
        Assert.Equal((1ul, 0x12345678ul), (o.State.Gpr[3], o.State.Gpr[0]));
    }
}
