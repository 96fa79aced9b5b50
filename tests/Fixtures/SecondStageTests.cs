using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// The second stage: accesses to guest-physical memory that <see cref="PageRightsTable"/> refuses exit, whatever asks for them, before they have any effect,
/// and are tried again.
/// </summary>
/// <remarks>
/// Intel SDM vol. 3C, "EPT Violations" and "Exit Qualification for EPT Violations": which access, at which addresses, to a paging-structure entry or to what is
/// mapped.
/// </remarks>
[TinyCachesToo]
public sealed class SecondStageTests
{
    /// <summary>The page under test, and one that its neighbour's accesses reach into.</summary>
    private const uint Page = Layout.Spare, Next = Page + 0x1000;

    /// <summary>Runs code with rights taken from one page; each violation is noted and answered by giving all rights back.</summary>
    private static (Outcome Outcome, List<(ulong Address, PageViolation Violation, ulong Rip)> Seen) Run(string engine, Guest g, ulong page, PageRights rights)
    {
        var seen = new List<(ulong, PageViolation, ulong)>();
        var state = new CpuState();
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.EptViolation) return false;
            g.Cpu.ReadState(state);
            seen.Add((exit.Address, exit.Violation, state.Rip));
            Assert.True(seen.Count < 10, "the violation comes again and again");
            Assert.Equal((exit.Violation.Wanted & PageRights.Write) != 0, exit.IsWrite);
            g.Memory.Rights.Set(page, 0x1000, PageRights.All);
            return false;
        };
        g.On(engine);
        Assert.True(g.Vm.HonoursPageRights);
        g.Memory.Rights.Set(page, 0x1000, rights);
        return (g.Run(engine), seen);
    }

    public static readonly IReadOnlyDictionary<string, (Action<Assembler> Emit, PageRights Wanted, uint Linear)> Accesses = new Dictionary<string,
        (Action<Assembler>, PageRights, uint)>
    {
        ["load"] = (a => a.mov(rax, __[rbx]), PageRights.Read, Page),
        ["load beyond a page"] = (a => a.mov(rax, __[rbx + 0xFFC - 0x1000]), PageRights.Read, Page),
        ["arithmetic with memory"] = (a => a.add(eax, __[rbx + 8]), PageRights.Read, Page + 8),
        ["vector load"] = (a => a.movups(xmm1, __xmmword_ptr[rbx + 16]), PageRights.Read, Page + 16),
        ["x87 load"] = (a => a.fld(__qword_ptr[rbx]), PageRights.Read, Page),
        ["pop"] = (a => { a.mov(rsp, rbx); a.pop(rax); }, PageRights.Read, Page),
        ["string load"] = (a => { a.mov(rsi, rbx); a.lodsq(); }, PageRights.Read, Page),
        ["store"] = (a => a.mov(__dword_ptr[rbx], eax), PageRights.Write, Page),
        ["store beyond a page"] = (a => a.mov(__[rbx - 4], rax), PageRights.Write, Page),
        ["read-modify-write"] = (a => a.inc(__dword_ptr[rbx]), PageRights.Write, Page),
        ["locked"] = (a => a.@lock.xadd(__[rbx + 4], eax), PageRights.Write, Page + 4),
        ["compare and exchange"] = (a => a.@lock.cmpxchg(__[rbx], ecx), PageRights.Write, Page),
        ["vector store"] = (a => a.movaps(__xmmword_ptr[rbx], xmm1), PageRights.Write, Page),
        ["x87 store"] = (a => { a.fldz(); a.fstp(__tword_ptr[rbx]); }, PageRights.Write, Page),
        ["push"] = (a => { a.lea(rsp, __[rbx + 8]); a.push(rax); }, PageRights.Write, Page),
        ["string store"] = (a => { a.mov(rdi, rbx); a.mov(ecx, 3); a.rep.stosd(); }, PageRights.Write, Page),
        ["fetch"] = (a => a.call(rbx), PageRights.Execute, Page),
    };

    public static IEnumerable<object[]> AccessNames() => Accesses.Keys.Select(k => (object[])[k]);

    [AttributeUsage(AttributeTargets.Method)]
    private sealed class EveryAccessAttribute : Xunit.Sdk.DataAttribute
    {
        public override IEnumerable<object?[]> GetData(System.Reflection.MethodInfo testMethod) =>
            new EnginesAttribute().GetData(testMethod).SelectMany(e => AccessNames().Select(n => (object?[])[e[0], n[0]]));
    }

    [Theory, EveryAccess]
    public void An_access_without_the_right_exits_before_any_effect_and_then_does_what_it_does(string engine, string name)
    {
        (Action<Assembler> emit, PageRights wanted, uint linear) = Accesses[name];
        Outcome expected = Prepare(out Guest free, emit).Run(engine).Done();
        using Guest g = Prepare(out _, emit);
        (Outcome o, var seen) = Run(engine, g, Page, PageRights.All & ~(wanted == PageRights.Read ? PageRights.All : wanted));
        o.Done();
        Assert.Equal(((ulong)linear, new PageViolation(wanted, linear, false)), (seen.Single().Address, seen[0].Violation));
        if (wanted != PageRights.Execute) Assert.InRange(seen[0].Rip, g["first"], g["last"]);
        Assert.Equal(expected.State.Gpr, o.State.Gpr);
        Assert.Equal(expected.State.Xsave, o.State.Xsave);
        for (uint at = Page - 8; at < Page + 64; at += 8) Assert.Equal(free.Read<ulong>(at), g.Read<ulong>(at));
        free.Dispose();

        static Guest Prepare(out Guest g, Action<Assembler> emit)
        {
            g = new Guest(Mode.Long);
            for (uint at = Page - 0x100; at < Page + 0x100; at += 8) g.Write(at, 0x9090_9090_9090_9090 + at);
            g.Write<byte>(Page, 0xC3); // RET
            g.State.Gpr[3] = Page;
            g.State.Gpr[0] = 0x1122_3344_5566_7788;
            Guest made = g;
            g.Code(a =>
            {
                made.Mark(a, "first");
                emit(a);
                made.Mark(a, "last");
                a.hlt();
            });
            return g;
        }
    }

    [Theory]
    [Engines(PageRights.Read), Engines(PageRights.Read | PageRights.Write), Engines(PageRights.Read | PageRights.Execute), Engines(PageRights.Execute)]
    public void Accesses_with_the_right_do_not_exit(string engine, PageRights rights)
    {
        using var g = new Guest(Mode.Long);
        g.Write<byte>(Page, 0xC3);
        g.State.Gpr[3] = Page;
        g.Code(a =>
        {
            if ((rights & PageRights.Read) != 0) a.mov(eax, __[rbx]);
            if ((rights & PageRights.Write) != 0) a.inc(__dword_ptr[rbx + 4]);
            if ((rights & PageRights.Execute) != 0) a.call(rbx);
            a.hlt();
        });
        (Outcome o, var seen) = Run(engine, g, Page, rights);
        o.Done();
        Assert.Empty(seen);
    }

    [Theory]
    [Engines(Mode.Paged32, 1), Engines(Mode.Paged32, 2), Engines(Mode.Pae, 1), Engines(Mode.Pae, 2)]
    [Engines(Mode.Long, 1), Engines(Mode.Long, 2), Engines(Mode.Long, 3), Engines(Mode.Long, 4), Engines(Mode.Long5, 5)]
    public void A_walk_that_may_not_read_a_table_exits_with_the_entry_and_the_linear_address(string engine, Mode mode, int level)
    {
        ulong linear = LinearOf(mode, level);
        using Guest g = Walking(mode, linear);
        // The root is read for the first fetch of code already.
        if (g.Tables.EntryAddress(linear, level) >> 12 == g.Tables.Root >> 12) linear = Layout.Code;
        uint entry = g.Tables.EntryAddress(linear, level);
        (Outcome o, var seen) = Run(engine, g, entry & ~0xFFFu, PageRights.None);
        Assert.Equal(0x1234_5678u, (uint)o.Done().State.Gpr[0]);
        Assert.Equal((entry, new PageViolation(PageRights.Read, linear, true)), ((uint)seen.Single().Address, seen[0].Violation));
        Assert.Equal(g["at"], seen[0].Rip);
    }

    [Theory]
    [Engines(Mode.Paged32, 1), Engines(Mode.Paged32, 2), Engines(Mode.Pae, 1), Engines(Mode.Pae, 2)]
    [Engines(Mode.Long, 1), Engines(Mode.Long, 2), Engines(Mode.Long, 3), Engines(Mode.Long, 4), Engines(Mode.Long5, 5)]
    public void Setting_accessed_and_dirty_flags_writes_to_the_table(string engine, Mode mode, int level)
    {
        ulong linear = LinearOf(mode, level);
        using Guest g = Walking(mode, linear);
        uint entry = g.Tables.EntryAddress(linear, level);
        g.Tables[linear, level] &= ~(Pte.A | Pte.D);
        (Outcome o, var seen) = Run(engine, g, entry & ~0xFFFu, PageRights.Read);
        Assert.Equal(0x1234_5678u, (uint)o.Done().State.Gpr[0]);
        Assert.Equal((entry, new PageViolation(PageRights.Write, linear, true)), ((uint)seen.Single().Address, seen[0].Violation));
        Assert.NotEqual(0ul, g.Tables[linear, level] & Pte.A);
    }

    [Theory, Engines]
    public void Loading_PDPTEs_reads_through_the_second_stage(string engine)
    {
        using var g = new Guest(Mode.Pae);
        // A root in a page of its own.
        for (uint n = 0; n < 4; n++) g.Write(Page + n * 8, g.Read<ulong>(g.Tables.Root + n * 8));
        g.Code(a =>
        {
            a.mov(eax, (int)Page);
            g.Mark(a, "at");
            a.mov(cr3, eax);
            a.mov(ecx, 1);
            a.hlt();
        });
        (Outcome o, var seen) = Run(engine, g, Page, PageRights.None);
        Assert.Equal((Page, 1ul), (o.Done().State.Cr3, o.State.Gpr[1]));
        Assert.Equal(((ulong)Page, PageRights.Read, true, g["at"]),
            (seen.Single().Address, seen[0].Violation.Wanted, seen[0].Violation.IsTableAccess, seen[0].Rip));
    }

    /// <summary>The device has been asked and may have changed by it: nobody asks it for the same element again.</summary>
    [Theory, Engines]
    public void The_right_to_write_is_taken_between_the_answer_to_INS_and_its_store(string engine)
    {
        using var g = new Guest(Mode.Long);
        uint next = 0xA0;
        int violations = 0;
        g.On(engine);
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.EptViolation)
            {
                violations++;
                Assert.Equal((Page + next - 0xA1, PageRights.Write), ((uint)exit.Address, exit.Violation.Wanted));
                g.Memory.Rights.Set(Page, 0x1000, PageRights.All);
            }
            else if (exit.Reason == ExitReason.Io && !exit.IsWrite)
            {
                exit.Data = next++;
                g.Memory.Rights.Set(Page, 0x1000, PageRights.Read);
            }
            return false;
        };
        g.Code(a =>
        {
            a.mov(edi, Page);
            a.mov(edx, 0x60);
            a.mov(ecx, 3);
            a.rep.insb();
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((3, 0xA3u, 0xA2_A1A0u), (violations, next, g.Read<uint>(Page)));
        Assert.Equal((0ul, Page + 3ul), (o.State.Gpr[1], o.State.Gpr[7]));
    }

    [Theory, Engines]
    public void PDPTEs_that_a_state_came_without_are_loaded_through_the_second_stage(string engine)
    {
        using var g = new Guest(Mode.Pae);
        for (uint n = 0; n < 4; n++) g.Write(Page + n * 8, g.Read<ulong>(g.Tables.Root + n * 8));
        g.State.Cr3 = Page;
        g.Code(a =>
        {
            a.mov(ecx, 1);
            a.hlt();
        });
        g.On(engine);
        int seen = 0;
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.EptViolation) return false;
            Assert.Equal(((ulong)Page, true, ++seen), (exit.Address, exit.Violation.IsTableAccess, 1));
            g.Memory.Rights.Set(Page, 0x1000, PageRights.All);
            return false;
        };
        g.Memory.Rights.Set(Page, 0x1000, PageRights.None);
        g.State.Pdptes = null;
        g.Cpu.WriteState(g.State);
        var between = new CpuState();
        g.Cpu.ReadState(between);
        Assert.Null(between.Pdptes); // a state that is saved now says the same
        Assert.Equal(1ul, g.Run(engine).Done().State.Gpr[1]);
        Assert.Equal(1, seen);
    }

    [Theory]
    // A descriptor in the new task's LDT, its stack, its PDPTEs.
    [Engines("JMP"), Engines("CALL"), Engines("IRET"), Engines("UD2"), Engines("error code"), Engines("PDPTEs")]
    public void A_task_switch_whose_new_task_is_refused_something_begins_anew_from_the_old_one(string engine, string how)
    {
        const ushort newTss = Sel.Free, newLdt = Sel.Free + 8;
        const uint t = Layout.OtherTss;
        Outcome expected = Prepare(out Guest free).Run(engine).Done();
        using Guest g = Prepare(out _);
        var before = new CpuState();
        int seen = 0;
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.EptViolation) return false;
            Assert.Equal(1, ++seen);
            g.Cpu.ReadState(before);
            Assert.Equal((g["at"], Sel.Tss, 0ul, 0x1234_5678ul), (before.Rip, before.Tr.Selector, before.Cr0 & 8, before.Gpr[3]));
            Assert.Equal((true, how == "IRET"), ((g.Gdt(Sel.Tss) >> 41 & 1) != 0, (g.Gdt(newTss) >> 41 & 1) != 0));
            g.Memory.Rights.Set(Page, 0x1000, PageRights.All);
            return false;
        };
        g.On(engine);
        g.Memory.Rights.Set(Page, 0x1000, how == "error code" ? PageRights.Read : PageRights.None);
        Outcome o = g.Run(engine).Done();
        Assert.Equal(1, seen);
        Assert.Equal(expected.State.Gpr, o.State.Gpr);
        Assert.Equal((expected.State.Rip, expected.State.Rflags, expected.State.Cr3), (o.State.Rip, o.State.Rflags, o.State.Cr3));
        Assert.Equal((expected.State.Tr, expected.State.Ldtr, expected.State.Fs, expected.State.Ss), (o.State.Tr, o.State.Ldtr, o.State.Fs, o.State.Ss));
        foreach ((uint from, uint length) in ((uint, uint)[])[(Layout.Gdt, Layout.GdtSize), (Layout.Tss, 0x68), (t, 0x68), (Page, 0x1000)])
        {
            for (uint at = from; at < from + length; at += 8) Assert.Equal(free.Read<ulong>(at), g.Read<ulong>(at));
        }
        free.Dispose();

        Guest Prepare(out Guest made)
        {
            var g = new Guest(how == "PDPTEs" ? Mode.Pae : Mode.Protected32);
            made = g;
            g.Gdt(newTss, Desc.Segment(t, 0x67, how == "IRET" ? Desc.Tss32Busy : Desc.Tss32));
            bool hasLdt = how is not ("error code" or "PDPTEs");
            if (hasLdt)
            {
                g.Gdt(newLdt, Desc.Segment(Page, 0xFF, Desc.Ldt));
                g.Write(Page + 8, Desc.Flat(Desc.Data - 1)); // not accessed yet
                g.Write<uint>(t + 0x60, newLdt);
            }
            g.Write(t + 0x1C, how == "PDPTEs" ? Page : 0u);
            if (how == "PDPTEs") for (uint n = 0; n < 4; n++) g.Write(Page + n * 8, g.Read<ulong>(g.Tables.Root + n * 8));
            g.Write(t + 0x20, Layout.Code + 0x800);
            g.Write(t + 0x24, 2u);
            g.Write(t + 0x34, 0x4321u); // EBX
            g.Write(t + 0x38, how == "error code" ? Page + 0x800 : Layout.Stack1Top);
            uint[] segments = [Sel.Data32, Sel.Code32, Sel.Data32, Sel.Data32, hasLdt ? 0xCu : Sel.Data32, Sel.Data32];
            for (uint n = 0; n < 6; n++) g.Write(t + 0x48 + n * 4, segments[n]);
            g.Idt(X.UD, Desc.Gate(newTss, 0, Desc.TaskGate));
            g.Idt(X.GP, Desc.Gate(newTss, 0, Desc.TaskGate));
            g.State.Gpr[3] = 0x1234_5678;
            if (how == "IRET")
            {
                g.State.Rflags |= 1 << 14; // NT
                g.Write<ushort>(Layout.Tss, newTss);
            }
            g.Code(a =>
            {
                a.mov(eax, 0x7F8);
                g.Mark(a, "at");
                switch (how)
                {
                    case "JMP" or "PDPTEs": a.jmp(newTss, 0u); break;
                    case "CALL": a.call(newTss, 0u); break;
                    case "IRET": a.iretd(); break;
                    case "UD2": a.ud2(); break;
                    default: a.mov(fs, ax); break;
                }
            });
            g.Place(Layout.Code + 0x800, 32, a => a.hlt());
            return g;
        }
    }

    [Theory]
    // The gate, and the stack: each part of a delivery.
    [Engines("UD2", Layout.Idt), Engines("UD2", Layout.StackTop - 0x1000), Engines("INT", Layout.Idt), Engines("INT", Layout.StackTop - 0x1000)]
    [Engines("INT3", Layout.Gdt), Engines("interrupt", Layout.Idt), Engines("interrupt", Layout.StackTop - 0x1000), Engines("NMI", Layout.Idt),
        Engines("page fault", Layout.StackTop - 0x1000)]
    public void An_event_whose_delivery_is_refused_is_delivered_once_afterwards(string engine, string what, uint refused)
    {
        using var g = new Guest(Mode.Long);
        g.State.Rflags |= 0x200;
        g.Code(a =>
        {
            g.Mark(a, "at");
            switch (what)
            {
                case "UD2": a.ud2(); break;
                case "INT": a.@int(0x50); break;
                case "INT3": a.int3(); break;
                case "page fault": a.mov(eax, __dword_ptr[0x7000_0000]); break;
                default: a.inc(ecx); break;
            }
            a.hlt();
            g.Mark(a, "handler");
            a.inc(edx);
            a.hlt();
        });
        (int vector, EventKind kind, int length) = what switch
        {
            "UD2" => (X.UD, EventKind.HardwareException, 0),
            "INT" => (0x50, EventKind.SoftwareInterrupt, 2),
            "INT3" => (X.BP, EventKind.SoftwareException, 1),
            "NMI" => (X.NMI, EventKind.Nmi, 0),
            "page fault" => (X.PF, EventKind.HardwareException, 0),
            _ => (0x50, EventKind.ExternalInterrupt, 0),
        };
        g.Handle(vector, "handler");
        g.On(engine);
        if (what == "NMI") g.Cpu.InjectNmi();
        if (what == "interrupt") g.Cpu.InjectInterrupt(0x50);
        var seen = new List<VectoredEvent?>();
        var before = new CpuState();
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.EptViolation) return false;
            seen.Add(exit.Vectoring);
            g.Cpu.ReadState(before);
            Assert.Equal((g["at"], (ulong)Layout.StackTop, false), (before.Rip, before.Gpr[4], before.NmiBlocked));
            g.Memory.Rights.Set(refused, 0x1000, PageRights.All);
            return false;
        };
        g.Memory.Rights.Set(refused, 0x1000, refused == Layout.StackTop - 0x1000 ? PageRights.Read : PageRights.None);
        Outcome o = g.Run(engine);
        Assert.Equal((1ul, 0ul, what == "NMI"), (o.State.Gpr[2], o.State.Gpr[1], o.State.NmiBlocked));
        VectoredEvent told = Assert.Single(seen)!.Value;
        Assert.Equal((kind, vector, length), (told.Kind, told.Vector, told.InstructionLength));
        Assert.Equal(what == "page fault" ? 0u : null, told.ErrorCode);
        // The frame that was pushed in the end.
        ulong pushed = g.Read<ulong>(Layout.StackTop - 40);
        Assert.Equal(what is "INT" or "INT3" ? g["at"] + (ulong)length : g["at"], pushed);
    }

    [Theory, Engines]
    public void A_value_that_a_device_has_given_is_not_read_again_when_the_instruction_is_refused_afterwards(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Tables[0x4000_0000] = Layout.Mmio | Pte.P | Pte.W;
        g.State.Gpr[6] = 0x4000_0000;
        g.State.Gpr[7] = Page;
        g.Code(a =>
        {
            a.movsd();
            a.hlt();
        });
        (Outcome o, var seen) = Run(engine, g, Page, PageRights.Read);
        o.Done();
        Assert.Single(seen);
        Assert.Single(o.Accesses);
        Assert.Equal(uint.MaxValue, g.Read<uint>(Page));
    }

    [Theory, Engines]
    public void A_guest_that_runs_is_stopped_at_its_next_access_when_rights_go(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Write<byte>(Page, 0xC3);
        g.State.Gpr[3] = Page;
        g.Code(a =>
        {
            Label again = a.CreateLabel();
            a.mov(ecx, 300);
            a.Label(ref again);
            a.inc(__dword_ptr[rbx + 8]);
            a.call(rbx);
            a.dec(ecx);
            a.jnz(again);
            a.mov(al, 1);
            a.@out(0x99, al); // by now everything is cached, and translated
            a.mov(ecx, 2);
            a.inc(__dword_ptr[rbx + 8]);
            g.Mark(a, "call");
            a.call(rbx);
            a.hlt();
        });
        var seen = new List<PageRights>();
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Io) g.Memory.Rights.Set(Page, 0x1000, PageRights.Read);
            if (exit.Reason != ExitReason.EptViolation) return false;
            seen.Add(exit.Violation.Wanted);
            g.Memory.Rights.Set(Page, 0x1000, PageRights.Read | (seen.Count == 1 ? PageRights.Write : PageRights.Execute));
            return false;
        };
        g.Run(engine).Done();
        Assert.Equal([PageRights.Write, PageRights.Execute], seen);
        Assert.Equal(301u, g.Read<uint>(Page + 8));
    }

    [Theory, Engines]
    public void When_the_right_to_write_has_been_taken_no_vCPU_writes_any_more(string engine)
    {
        const uint stop = Layout.Data;
        using var g = new Guest(Mode.Long);
        g.Code(a =>
        {
            foreach (bool isLocked in (bool[])[false, true])
            {
                g.Mark(a, isLocked ? "locked" : "plain");
                Label again = a.CreateLabel();
                a.lea(rbx, __[rdi * 8 + (int)Page]);
                a.Label(ref again);
                if (isLocked) a.@lock.inc(__qword_ptr[rbx]);
                else a.inc(__qword_ptr[rbx]);
                a.cmp(__dword_ptr[(int)stop], 0);
                a.je(again);
                SmpGuest.End(a);
            }
        });
        int rounds = 0;
        using var run = SmpGuest.Run(engine, g, vm =>
        {
            ulong[] Counts() => [.. Enumerable.Range(0, 2).Select(n =>
            {
                Assert.True(vm.Memory.TryRead(Page + (ulong)n * 8, out ulong count));
                return count;
            })];
            // Refused vCPUs wait here until the rights are back.
            using var back = new ManualResetEventSlim(true);
            vm.PageViolation = (_, exit) =>
            {
                back.Wait();
                return exit.Address - Page < 16 && exit.Violation is { Wanted: PageRights.Write, IsTableAccess: false };
            };
            for (; rounds < 50; rounds++)
            {
                ulong[] start = Counts();
                SpinWait.SpinUntil(() => vm.Stopped.IsCompleted || Counts().Zip(start).All(p => p.First > p.Second + 100));
                back.Reset();
                vm.Memory.Rights.Set(Page, 0x1000, PageRights.Read);
                ulong[] before = Counts();
                Thread.Sleep(1);
                Assert.Equal(before, Counts());
                vm.Memory.Rights.Set(Page, 0x1000, PageRights.All);
                back.Set();
            }
            Assert.True(vm.Memory.TryWrite(stop, 1u));
        }, "plain", "locked");
        Assert.Equal(50, rounds);
    }

    [Fact]
    public void A_device_that_writes_to_a_page_without_the_right_is_heard_of_before_the_page_changes()
    {
        using var memory = new GuestMemory(Layout.MemorySize);
        memory.TryWrite(Page, 1u);
        memory.Rights.Set(Page, 0x1000, PageRights.Read);
        var heard = new List<(ulong, uint)>();
        memory.Rights.DeviceWriteRefused = page =>
        {
            memory.TryRead(page, out uint before);
            heard.Add((page, before));
        };
        Assert.True(memory.Write(Page - 4, new byte[12]));
        Assert.True(memory.TryWrite(Next, 5u));
        Assert.Equal([(Page, 1u)], heard);
        Assert.True(memory.TryRead(Page, out uint now));
        Assert.Equal(0u, now);
    }

    [Theory]
    [InlineData(Page + 1, 0x1000)]
    [InlineData(Page, 0x800)]
    [InlineData(Layout.MemorySize, 0x1000)]
    [InlineData(0xFFFF_F000, 0x2000)]
    public void Rights_are_those_of_whole_pages_of_the_memory(ulong offset, ulong length)
    {
        using var memory = new GuestMemory(Layout.MemorySize);
        Assert.Throws<ArgumentOutOfRangeException>(() => memory.Rights.Set(offset, length, PageRights.None));
    }

    [Fact]
    public void Write_without_read_is_a_misconfiguration()
    {
        using var memory = new GuestMemory(Layout.MemorySize);
        Assert.Throws<ArgumentException>(() => memory.Rights.Set(Page, 0x1000, PageRights.Write));
    }

    /// <summary>
    /// An address whose entry of this level lies in a table that no other access of the guest uses; the root's own entries share their table.
    /// </summary>
    private static ulong LinearOf(Mode mode, int level) => mode switch
    {
        Mode.Paged32 or Mode.Pae => 0x4000_0000,
        _ => level switch { 5 => 1ul << 50, >= 3 => 1ul << 40, _ => 0x4000_0000 },
    };

    /// <summary>A guest that reads a doubleword by <paramref name="linear"/>; everything else that it needs was walked before.</summary>
    private static Guest Walking(Mode mode, ulong linear)
    {
        var g = new Guest(mode);
        g.Tables[linear] = Page | Pte.P | Pte.W | Pte.U;
        g.Write(Page, 0x1234_5678u);
        g.State.Gpr[3] = linear;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.mov(eax, g.AtBx);
            g.End(a);
        });
        // What the code's own pages need has its flags set already.
        for (uint page = 0; page < Layout.MemorySize; page += 0x1000)
        {
            for (int level = 1; level <= (mode switch { Mode.Paged32 => 2, Mode.Pae => 2, Mode.Long5 => 5, _ => 4 }); level++)
                g.Tables[page, level] |= Pte.A | (level == 1 ? Pte.D : 0);
        }
        return g;
    }
}
