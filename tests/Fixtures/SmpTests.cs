using Bunraku.Hypervisor;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Several vCPUs at once. Intel SDM vol. 3A, "Multiple-Processor Management".</summary>
[TinyCachesToo]
public sealed class SmpTests
{
    private const int Rounds = 20_000;
    private const uint Counter = Layout.Data + 0x100, Lock = Layout.Data + 0x200, Flag = Layout.Data + 0x300, Reached = Layout.Data + 0x340,
        Wrong = Layout.Data + 0x380;

    private static void Repeat(Assembler a, int times, Action body)
    {
        Label loop = a.CreateLabel();
        a.mov(ecx, times);
        a.Label(ref loop);
        body();
        a.dec(ecx);
        a.jnz(loop);
    }

    /// <summary>Waits until the doubleword at <paramref name="at"/> is EBP.</summary>
    private static void AwaitEbp(Assembler a, uint at)
    {
        Label again = a.CreateLabel(), go = a.CreateLabel();
        a.Label(ref again);
        a.cmp(__dword_ptr[(int)at], ebp);
        a.je(go);
        a.pause();
        a.jmp(again);
        a.Label(ref go);
    }

    // ---- "Locked Atomic Operations"

    [Theory]
    [Engines("add"), Engines("xadd"), Engines("inc"), Engines("sub"), Engines("cmpxchg"), Engines("cmpxchg8b"), Engines("cmpxchg16b"), Engines("xchg"),
        Engines("bts")]
    public void Software_Controlled_Bus_Locking_counts_right_in_data_and_beside_code(string engine, string how)
    {
        foreach (uint counter in (uint[])[Counter, Layout.Code + 0xF00])
        {
            using var g = new Guest(Mode.Long);
            g.Code(a =>
            {
                g.Mark(a, "start");
                a.mov(r15d, counter);
                a.xor(edx, edx);
                Repeat(a, Rounds, () => CountOne(a, how));
                SmpGuest.End(a);
            });
            using var run = SmpGuest.Run(engine, g, "start", "start", "start");
            Assert.Equal(3ul * Rounds, run.Read<ulong>(counter));
        }
    }

    private static void CountOne(Assembler a, string how)
    {
        Label again = a.CreateLabel();
        switch (how)
        {
            case "add":
                a.@lock.add(__qword_ptr[r15], 1);
                break;
            case "sub":
                a.@lock.sub(__qword_ptr[r15], -1);
                break;
            case "inc":
                a.@lock.inc(__qword_ptr[r15]);
                break;
            case "xadd":
                a.mov(eax, 1);
                a.@lock.xadd(__qword_ptr[r15], rax);
                break;
            case "cmpxchg":
                a.mov(rax, __qword_ptr[r15]);
                a.Label(ref again);
                a.lea(rbx, __[rax + 1]);
                a.@lock.cmpxchg(__qword_ptr[r15], rbx);
                a.jne(again);
                break;
            case "cmpxchg8b" or "cmpxchg16b":
                a.mov(esi, ecx);
                a.mov(eax, __dword_ptr[r15]);
                a.mov(edx, __dword_ptr[r15 + (how == "cmpxchg8b" ? 4 : 8)]);
                a.Label(ref again);
                a.lea(rbx, __[rax + 1]);
                a.mov(rcx, rdx);
                if (how == "cmpxchg8b") a.@lock.cmpxchg8b(__qword_ptr[r15]);
                else a.@lock.cmpxchg16b(__xmmword_ptr[r15]);
                a.jne(again);
                a.mov(ecx, esi);
                break;
            default:
                // A lock around a plain increment; XCHG locks by itself.
                Label spin = a.CreateLabel(), taken = a.CreateLabel();
                a.nop();
                a.Label(ref again);
                a.mov(eax, 1);
                if (how == "xchg")
                {
                    a.xchg(__dword_ptr[r15 + 64], eax);
                    a.test(eax, eax);
                    a.jz(taken);
                }
                else
                {
                    a.@lock.bts(__dword_ptr[r15 + 64], 5);
                    a.jnc(taken);
                }
                a.Label(ref spin);
                a.pause();
                a.cmp(__dword_ptr[r15 + 64], 0);
                a.jne(spin);
                a.jmp(again);
                a.Label(ref taken);
                a.inc(__qword_ptr[r15]);
                a.mov(__dword_ptr[r15 + 64], 0);
                break;
        }
    }

    [Theory]
    [Engines(0x104u), Engines(0x13Cu), Engines(0xFFCu)]
    public void The_integrity_of_a_bus_lock_is_not_affected_by_the_alignment_of_the_memory_field(string engine, uint offset)
    {
        // One adds to a quadword that may be in two cache lines or two pages; the other to its upper half, which is an aligned doubleword.
        using var g = new Guest(Mode.Long);
        int field = (int)(Layout.Data + offset);
        g.Code(a =>
        {
            g.Mark(a, "whole");
            a.mov(rax, 0x1_0000_0001);
            Repeat(a, Rounds, () => a.@lock.add(__qword_ptr[field], rax));
            SmpGuest.End(a);
            g.Mark(a, "half");
            Repeat(a, 8 * Rounds, () => a.@lock.inc(__dword_ptr[field + 4]));
            SmpGuest.End(a);
        });
        using var run = SmpGuest.Run(engine, g, "whole", "half");
        Assert.Equal((9ul * Rounds << 32) | Rounds, run.Read<ulong>((ulong)field));
    }

    [Theory]
    [Engines(0x13Cu), Engines(0xFFCu)]
    public void A_bus_lock_keeps_plain_stores_out_too(string engine, uint offset)
    {
        // Adding nothing must not bring back a value that the other has overwritten.
        using var g = new Guest(Mode.Long);
        int field = (int)(Layout.Data + offset);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            g.Mark(a, "whole");
            a.nop();
            a.Label(ref loop);
            a.@lock.add(__qword_ptr[field], 0);
            a.cmp(__dword_ptr[(int)Flag], 0);
            a.je(loop);
            SmpGuest.End(a);

            g.Mark(a, "half");
            Repeat(a, 20 * Rounds, () =>
            {
                Label right = a.CreateLabel();
                a.mov(__dword_ptr[field + 4], ecx);
                a.cmp(__dword_ptr[field + 4], ecx);
                a.je(right);
                a.inc(__dword_ptr[(int)Wrong]);
                a.Label(ref right);
            });
            a.inc(__dword_ptr[(int)Flag]);
            SmpGuest.End(a);
        });
        using var run = SmpGuest.Run(engine, g, "whole", "half");
        Assert.Equal(0u, run.Read<uint>(Wrong));
    }

    // ---- "Handling Self- and Cross-Modifying Code"

    [Theory]
    [Engines(1, true), Engines(1, false), Engines(200, true), Engines(200, false)]
    public void Cross_modifying_code_is_executed_after_the_flag_and_a_serialising_instruction(string engine, int pages, bool cpuid)
    {
        // The writer's translation for the page is older than the code: it becomes code while it is being written.
        using var g = new Guest(Mode.Long);
        const int area = 0x10_0000;
        g.Code(a =>
        {
            void EachFunction(Action body)
            {
                // EBP counts from 1; R12 is the function of the round: the pages take turns.
                Label loop = a.CreateLabel();
                a.xor(ebp, ebp);
                a.Label(ref loop);
                a.inc(ebp);
                a.mov(eax, ebp);
                a.xor(edx, edx);
                a.mov(ebx, pages);
                a.div(ebx);
                a.shl(edx, 12);
                a.lea(r12, __[rdx + area]);
                // Within a page the function moves as well.
                a.mov(eax, ebp);
                a.and(eax, 0xF0);
                a.add(r12, rax);
                body();
                a.cmp(ebp, Rounds);
                a.jne(loop);
            }

            g.Mark(a, "writer");
            EachFunction(() =>
            {
                a.mov(__byte_ptr[r12], 0xB8); // MOV EAX, EBP; RET
                a.mov(__dword_ptr[r12 + 1], ebp);
                a.mov(__byte_ptr[r12 + 5], 0xC3);
                a.mov(__dword_ptr[(int)Flag], ebp);
                AwaitEbp(a, Reached);
            });
            SmpGuest.End(a);

            g.Mark(a, "reader");
            EachFunction(() =>
            {
                Label right = a.CreateLabel();
                AwaitEbp(a, Flag);
                if (cpuid)
                {
                    a.xor(eax, eax);
                    a.cpuid();
                }
                else
                {
                    a.mov(rax, cr3);
                    a.mov(cr3, rax);
                }
                a.call(r12);
                a.cmp(eax, ebp);
                a.je(right);
                a.inc(__dword_ptr[(int)Wrong]);
                a.Label(ref right);
                a.mov(__dword_ptr[(int)Reached], ebp);
            });
            SmpGuest.End(a);
        });
        for (uint page = area; page < area + 200 * 0x1000; page += 0x1000) g.Tables[page] = page | 3;
        using var run = SmpGuest.Run(engine, g, "writer", "reader");
        Assert.Equal(0u, run.Read<uint>(Wrong));
    }

    [Theory, Engines]
    public void Code_that_is_written_while_it_is_executed_is_never_older_than_what_was_told_about_it(string engine)
    {
        // AMD APM vol. 2, "Cross-Modifying Code": one store into an aligned quadword may meet a processor that executes it. The writer has no branch between
        // its stores, so that nothing can be asked of it there.
        using var g = new Guest(Mode.Long);
        const int function = (int)Layout.Spare, burst = 40;
        g.Code(a =>
        {
            g.Mark(a, "writer");
            Repeat(a, Rounds, () =>
            {
                for (int n = 0; n < burst; n++)
                {
                    a.add(ebp, 1);
                    a.mov(rax, rbp);
                    a.shl(rax, 8);
                    a.add(rax, r8);
                    a.mov(__qword_ptr[function], rax); // MOV EAX, EBP; RET
                    a.mov(__dword_ptr[(int)Flag], ebp);
                }
            });
            SmpGuest.End(a);

            Label loop = a.CreateLabel(), right = a.CreateLabel();
            g.Mark(a, "reader");
            a.nop();
            a.Label(ref loop);
            a.mov(ebp, __dword_ptr[(int)Flag]);
            a.xor(eax, eax);
            a.cpuid();
            a.mov(r12d, function);
            a.call(r12);
            a.cmp(eax, ebp);
            a.jae(right);
            a.inc(__dword_ptr[(int)Wrong]);
            a.Label(ref right);
            a.cmp(ebp, burst * Rounds);
            a.jne(loop);
            SmpGuest.End(a);
        });
        g.State.Gpr[8] = 0x9090_C300_0000_00B8;
        g.Write(function, 0x9090_C300_0000_00B8);
        using var run = SmpGuest.Run(engine, g, "writer", "reader");
        Assert.Equal(0u, run.Read<uint>(Wrong));
    }

    [Theory, Engines]
    public void A_loop_that_another_processor_changes_goes_on_with_the_new_code(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            Label loop = a.CreateLabel(), there = a.CreateLabel();
            g.Mark(a, "loop");
            a.nop();
            a.Label(ref loop);
            a.inc(__dword_ptr[(int)Reached]);
            g.Mark(a, "patched");
            a.jmp(loop);
            SmpGuest.End(a);

            g.Mark(a, "writer");
            a.nop();
            a.Label(ref there);
            a.cmp(__dword_ptr[(int)Reached], 100_000);
            a.jb(there);
            a.mov(ebx, 0x9090); // the jump becomes two NOPs
            a.mov(__word_ptr[(int)Layout.Code + 8], bx);
            SmpGuest.End(a);
        });
        Assert.Equal(Layout.Code + 8, g["patched"]);
        using var run = SmpGuest.Run(engine, g, "loop", "writer");
        Assert.True(run.Read<uint>(Reached) >= 100_000);
    }

    // ---- "Accessed and Dirty Flags": set by an atomic operation, and only in the entry that was used

    [Theory, Engines]
    public void Flags_are_not_set_in_an_entry_that_another_processor_has_just_replaced(string engine)
    {
        using var g = new Guest(Mode.Long);
        ulong entry = g.Tables.EntryAddress(Layout.Spare);
        const ulong absent = 0x5A5A_0000;
        g.Code(a =>
        {
            g.Mark(a, "page fault");
            a.add(rsp, 8);
            a.iretq();

            Label loop = a.CreateLabel();
            g.Mark(a, "user");
            a.nop();
            a.Label(ref loop);
            a.invlpg(__[(int)Layout.Spare]);
            a.inc(__dword_ptr[(int)Layout.Spare]);
            a.cmp(__dword_ptr[(int)Flag], 0);
            a.je(loop);
            SmpGuest.End(a);

            g.Mark(a, "owner");
            a.mov(r12, absent);
            a.mov(r13, Layout.Spare | 3);
            Repeat(a, Rounds, () =>
            {
                Label right = a.CreateLabel();
                a.mov(rax, r12);
                a.xchg(__qword_ptr[(int)entry], rax); // not present any more
                for (int n = 0; n < 20; n++) a.nop();
                a.mov(rax, r13);
                a.xchg(__qword_ptr[(int)entry], rax); // and present again, neither accessed nor dirty
                a.cmp(rax, r12);
                a.je(right);
                a.inc(__dword_ptr[(int)Wrong]);
                a.Label(ref right);
                for (int n = 0; n < 20; n++) a.nop();
            });
            a.inc(__dword_ptr[(int)Flag]);
            SmpGuest.End(a);
        });
        g.Handle(X.PF, "page fault");
        using var run = SmpGuest.Run(engine, g, "user", "owner");
        Assert.Equal(0u, run.Read<uint>(Wrong));
    }

    // ---- "Memory Ordering in P6 and More Recent Processor Families", its examples

    [Theory, Engines]
    public void Stores_are_seen_in_order_and_loads_are_made_in_order(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            g.Mark(a, "writer");
            Repeat(a, 20 * Rounds, () =>
            {
                a.inc(ebp);
                a.mov(__dword_ptr[(int)Counter], ebp);
                a.mov(__dword_ptr[(int)Flag], ebp);
            });
            SmpGuest.End(a);

            g.Mark(a, "reader");
            Repeat(a, 20 * Rounds, () =>
            {
                Label right = a.CreateLabel();
                a.mov(eax, __dword_ptr[(int)Flag]);
                a.mov(ebx, __dword_ptr[(int)Counter]);
                a.cmp(ebx, eax);
                a.jae(right);
                a.inc(__dword_ptr[(int)Wrong]);
                a.Label(ref right);
            });
            SmpGuest.End(a);
        });
        using var run = SmpGuest.Run(engine, g, "writer", "reader");
        Assert.Equal(0u, run.Read<uint>(Wrong));
    }

    [Theory, Engines]
    public void MFENCE_keeps_a_load_behind_an_earlier_store(string engine)
    {
        // Peterson's algorithm excludes only if it does.
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            g.Mark(a, "start");
            a.mov(esi, 1);
            a.sub(esi, edi); // the other
            Repeat(a, 5 * Rounds, () =>
            {
                Label wait = a.CreateLabel(), go = a.CreateLabel();
                a.mov(__dword_ptr[rdi * 4 + (int)Lock], 1);
                a.mov(__dword_ptr[(int)Reached], esi);
                a.mfence();
                a.Label(ref wait);
                a.cmp(__dword_ptr[rsi * 4 + (int)Lock], 0);
                a.je(go);
                a.cmp(__dword_ptr[(int)Reached], esi);
                a.jne(go);
                a.pause();
                a.jmp(wait);
                a.Label(ref go);
                a.inc(__dword_ptr[(int)Counter]);
                a.mov(__dword_ptr[rdi * 4 + (int)Lock], 0);
            });
            SmpGuest.End(a);
        });
        using var run = SmpGuest.Run(engine, g, "start", "start");
        Assert.Equal(10u * Rounds, run.Read<uint>(Counter));
    }

    [Theory, Engines]
    public void Eight_processors_pass_a_ticket_lock_on_though_the_host_may_have_fewer(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            g.Mark(a, "start");
            Repeat(a, 500, () =>
            {
                Label wait = a.CreateLabel(), go = a.CreateLabel();
                a.mov(eax, 1);
                a.@lock.xadd(__dword_ptr[(int)Lock], eax);
                a.Label(ref wait);
                a.cmp(__dword_ptr[(int)Flag], eax);
                a.je(go);
                a.pause();
                a.jmp(wait);
                a.Label(ref go);
                a.inc(__dword_ptr[(int)Counter]);
                a.inc(__dword_ptr[(int)Flag]);
            });
            SmpGuest.End(a);
        });
        using var run = SmpGuest.Run(engine, g, [.. Enumerable.Repeat("start", 8)]);
        Assert.Equal(4000u, run.Read<uint>(Counter));
    }

    // ---- "Multiple-Processor (MP) Initialization"

    private const uint IcrLow = 0xFEE0_0300, IcrHigh = 0xFEE0_0310;

    private static void SendIpi(Assembler a, int destination, uint command)
    {
        a.mov(__dword_ptr[IcrHigh], destination << 24);
        a.mov(__dword_ptr[IcrLow], (int)command);
    }

    [Theory, Engines]
    public void INIT_and_start_up_IPIs_start_application_processors_at_the_page_of_the_vector(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            Label wait = a.CreateLabel();
            g.Mark(a, "bootstrap");
            // Before INIT and SIPI they do nothing; a fixed interrupt does not start them.
            SendIpi(a, 1, 0x4040);
            SendIpi(a, 1, 0x4500);
            SendIpi(a, 1, 0x4608); // 08000h
            SendIpi(a, 1, 0x4609); // too late: it has started
            a.Label(ref wait);
            a.cmp(__dword_ptr[(int)Reached], 1);
            a.jne(wait);
            // Once more, another way: all but self, elsewhere.
            a.mov(__dword_ptr[IcrLow], 0xC_4500);
            a.mov(__dword_ptr[IcrLow], 0xC_460A);
            SmpGuest.End(a);
        });
        void Trampoline(uint at, bool last) => g.Place(at, 16, a =>
        {
            a.mov(__word_ptr.cs[0x100], cs);
            a.mov(__dword_ptr.cs[0x108], edx);
            a.mov(__dword_ptr.cs[0x10C], ebx);
            a.mov(eax, cr0);
            a.mov(__dword_ptr.cs[0x104], eax);
            a.mov(ebx, 0x1234_5678); // INIT clears it
            a.mov(ax, (short)(Layout.Data >> 4));
            a.mov(ds, ax);
            a.@lock.inc(__dword_ptr[(short)(Reached - Layout.Data)]);
            if (last) SmpGuest.End(a);
            a.hlt();
        }, 0);
        Trampoline(0x8000, last: false);
        g.Place(0x9000, 16, a =>
        {
            a.mov(__word_ptr.cs[0x100], ax); // must not run
            a.hlt();
        }, 0);
        Trampoline(0xA000, last: true);
        g.Write(0x9100u, (ushort)0x5A5A);
        using var run = SmpGuest.RunOnBoard(engine, g, cpus: 3, "bootstrap", ends: 3);
        Assert.Equal((ushort)0x0800, run.Read<ushort>(0x8100));
        Assert.Equal((ushort)0x0A00, run.Read<ushort>(0xA100));
        Assert.Equal(0x6000_0010u, run.Read<uint>(0x8104)); // after power-up: CD, NW, ET
        Assert.Equal(CpuidLeaves.Query(new CpuidSubject(g.Model, 1, 3, 1), 1, 0).Eax, run.Read<uint>(0xA108));
        Assert.Equal(0u, run.Read<uint>(0xA10C));
        Assert.Equal((ushort)0x5A5A, run.Read<ushort>(0x9100));
        Assert.Equal(3u, run.Read<uint>(Reached));
    }

    [Theory, Engines]
    public void INIT_of_the_bootstrap_processor_resets_a_machine_without_firmware(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            g.Mark(a, "start");
            SendIpi(a, 0, 0x4500);
            a.hlt();
        });
        Assert.Equal(StopReason.Reset, SmpGuest.RunToStop(engine, g, cpus: 2, "start").Reason);
    }
}
