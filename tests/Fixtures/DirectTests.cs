using System.Globalization;
using System.Runtime.Intrinsics.X86;
using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Programs of a system like Linux, as they run directly on the host's processor: what a program can do, see and break is the same on every engine. The guest's
/// kernel is a handler for each event, which reports and returns.
/// </summary>
[DirectToo]
public sealed class DirectTests
{
    internal const uint Entry = Layout.Spare + 0x8_0000, Handler = Entry + 0x1000; // supervisor pages
    private const uint Program = Layout.Code;
    private const uint Star = 0xC000_0081, Lstar = 0xC000_0082, Fmask = 0xC000_0084;
    private const ulong If = 0x200;
    /// <summary>"Genu" of GenuineIntel.</summary>
    private const int IntelVendor = 0x756E_6547;

    /// <summary>A guest whose program has what Linux gives it. SYSCALL ends the run with RAX as it is.</summary>
    internal static Guest NewGuest(string model = "max")
    {
        var g = new Guest(Mode.Long, 3, model);
        CpuState s = g.State;
        s.Rflags |= If;
        s.Cr0 |= 0x4_0000; // AM
        s.Cr4 |= 0x7_0000; // FSGSBASE, PCIDE, OSXSAVE
        s.Cr4 |= 0x80;
        s.Xcr0 = 7;
        s.Ds = s.Es = s.Fs = s.Gs = new SegmentState(0, 0, 0, 0x1_0000);
        s.Msrs[Star] = (ulong)(Sel.UserCode32) << 48 | (ulong)Sel.Code32 << 32;
        s.Msrs[Lstar] = Entry;
        s.Msrs[Fmask] = 0x4_0700;
        for (uint page = Entry; page < Layout.MemorySize; page += 0x1000) g.Tables[page] &= ~Pte.U;
        g.Place(Entry, 64, a => a.hlt());
        return g;
    }

    /// <summary>On that engine the program must have run directly, or the test says nothing.</summary>
    private static void AssertRanDirectly(string engine, Guest g)
    {
        if (engine != TestedEngines.Direct) return;
        ulong entries = g.Cpu.Execution!.Counts.Single(c => c.Name == "direct: entries").Value;
        Assert.True(entries > 0, "the program did not run directly");
    }

    internal static Outcome Run(string engine, Guest g)
    {
        Outcome o = g.Run(engine);
        AssertRanDirectly(engine, g);
        return o;
    }

    [Theory, Engines]
    public void Registers_of_every_kind_come_out_as_the_program_left_them(string engine)
    {
        using Guest g = NewGuest();
        g.Write(Layout.Data, Enumerable.Range(1, 32).Select(n => (byte)n).ToArray());
        g.Code(a =>
        {
            a.mov(rbx, Layout.Data);
            a.vmovdqu(ymm15, __[rbx]);
            a.vpaddb(ymm3, ymm15, ymm15);
            a.fld1();
            a.fldpi();
            a.mov(r15, 0x1234_5678_9ABC_DEF0);
            a.mov(rbp, r15);
            a.ror(rbp, 12);
            a.mov(rsi, 0x7000_1234_5678);
            a.wrfsbase(rsi);
            a.std();
            a.stc();
            a.mov(eax, -1);
            a.adc(eax, 0);
            a.syscall();
        });
        Outcome o = Run(engine, g).Done();
        CpuState s = o.State;
        Assert.Equal((0x1234_5678_9ABC_DEF0ul, 0xEF01_2345_6789_ABCDul, 0ul), (s.Gpr[15], s.Gpr[5], s.Gpr[0]));
        Assert.Equal(0x7000_1234_5678ul, s.Fs.Base);
        // DF; CF, ZF, PF, AF of FFFFFFFFh + 0 + 1
        Assert.Equal(If | 0x400 | 0x55 | 2, s.Gpr[11]);
        Assert.Equal(2, s.Xsave[160 + 3 * 16]);
        Assert.Equal(1, s.Xsave[160 + 15 * 16]);
        Assert.Equal(64, s.Xsave[576 + 3 * 16 + 15]);
        Assert.Equal(0x30, s.Xsave[3] & 0x38); // TOP is 6
    }

    [Theory, Engines]
    public void A_sum_over_many_pages_sets_their_accessed_flags_and_dirty_flags_only_where_it_writes(string engine)
    {
        using Guest g = NewGuest();
        for (uint n = 0; n < 64; n++) g.Write(Layout.Spare + n * 0x1000 + 8 * n, (ulong)n);
        g.Code(a =>
        {
            Label next = a.CreateLabel();
            a.mov(ebx, Layout.Spare);
            a.xor(eax, eax);
            a.mov(ecx, 64);
            a.Label(ref next);
            a.add(rax, __[rbx]);
            a.add(rbx, 0x1008);
            a.dec(ecx);
            a.jnz(next);
            a.mov(__qword_ptr[Layout.Spare + 0x5010], rax);
            a.syscall();
        });
        Assert.Equal(64ul * 63 / 2, Run(engine, g).Done().State.Gpr[0]);
        Assert.Equal(64ul * 63 / 2, g.Read<ulong>(Layout.Spare + 0x5010));
        for (uint n = 0; n < 64; n++)
            Assert.Equal(n == 5 ? Pte.A | Pte.D : Pte.A, g.Tables[Layout.Spare + n * 0x1000] & (Pte.A | Pte.D));
        Assert.Equal(0ul, g.Tables[Layout.Spare + 0x4_1000] & (Pte.A | Pte.D));
    }

    [Theory]
    [Engines("divide", X.DE), Engines("undefined", X.UD), Engines("int3", X.BP, 1), Engines("privileged", X.GP), Engines("not canonical", X.GP),
        Engines("stack not canonical", X.SS), Engines("int", X.GP), Engines("out", X.GP), Engines("unaligned", X.AC), Engines("alignment", X.GP)]
    public void Faults_have_the_vector_and_place_that_they_have_everywhere(string engine, string what, int vector, int after = 0)
    {
        using Guest g = NewGuest();
        g.Code(a =>
        {
            a.xor(ecx, ecx);
            a.mov(rbx, 0x8000_0000_0000);
            a.mov(r8d, Layout.Data + 1);
            if (what == "unaligned")
            {
                a.pushfq();
                a.or(__dword_ptr[rsp], 0x4_0000);
                a.popfq();
            }
            g.Mark(a, "at");
            switch (what)
            {
                case "divide": a.div(ecx); break;
                case "undefined": a.ud2(); break;
                case "int3": a.int3(); break;
                case "privileged": a.hlt(); break;
                case "not canonical": a.mov(eax, __dword_ptr[rbx]); break;
                case "stack not canonical":
                    a.mov(rbp, rbx);
                    a.mov(eax, __dword_ptr[rbp]);
                    break;
                case "int": a.@int(0x41); break;
                case "out": a.@out(0x80, al); break;
                case "unaligned": a.mov(eax, __dword_ptr[r8]); break;
                default: a.movaps(xmm0, __[r8]); break;
            }
        });
        Outcome o = Run(engine, g);
        Assert.Equal(vector, o.Vector);
        Assert.Equal(g["at"] + (ulong)after + (what == "stack not canonical" ? 3ul : 0), o.Frame.Rip);
    }

    [Theory]
    [Engines("read", 4u), Engines("write", 6u), Engines("write to what may be read", 7u), Engines("fetch", 0x14u), Engines("fetch from data", 0x15u),
        Engines("supervisor's", 5u)]
    public void Page_faults_tell_address_and_kind(string engine, string what, uint error)
    {
        const ulong absent = 0x1234_5000;
        using Guest g = NewGuest();
        g.Tables[Layout.Spare] |= Pte.Nx;
        g.Tables[Layout.Spare + 0x1000] &= ~Pte.W;
        ulong address = what switch
        {
            "write to what may be read" => Layout.Spare + 0x1008,
            "fetch from data" => Layout.Spare,
            "supervisor's" => Entry,
            _ => absent + 8,
        };
        g.Code(a =>
        {
            a.mov(rbx, address);
            a.mov(r9d, Layout.Spare + 0x1000);
            a.mov(r10, __[r9]);
            g.Mark(a, "at");
            if (what.StartsWith("write", StringComparison.Ordinal)) a.mov(__[rbx], rax);
            else if (what.StartsWith("fetch", StringComparison.Ordinal)) a.jmp(rbx);
            else a.mov(rax, __[rbx]);
        });
        Outcome o = Run(engine, g);
        Assert.Equal((X.PF, (uint?)error, address), (o.Vector, o.Frame.Error, o.State.Cr2));
        Assert.Equal(what.StartsWith("fetch", StringComparison.Ordinal) ? address : g["at"], o.Frame.Rip);
    }

    [Theory, Engines]
    public void A_single_step_that_the_program_asks_for_traps_behind_the_next_instruction(string engine)
    {
        using Guest g = NewGuest();
        g.Code(a =>
        {
            a.pushfq();
            a.or(__dword_ptr[rsp], 0x100);
            a.popfq();
            a.inc(eax);
            g.Mark(a, "after");
            a.inc(eax);
        });
        Outcome o = Run(engine, g);
        Assert.Equal((X.DB, g["after"], 1ul), (o.Vector, o.Frame.Rip, o.State.Gpr[0]));
        Assert.Equal(0x4000ul, o.State.Dr6 & 0x4000);
    }

    [Theory]
    [Engines("cpuid"), Engines("rdtsc"), Engines("xgetbv"), Engines("rdpid")]
    public void Instructions_that_would_show_the_host_show_the_guest(string engine, string what)
    {
        bool isIntel = X86Base.CpuId(0, 0).Ebx == IntelVendor;
        using Guest g = NewGuest(what == "cpuid" && !isIntel ? "x86-64-v3-intel" : "max");
        g.State.Msrs[0x10] = 1ul << 60;
        g.State.Msrs[0xC000_0103] = 0x4711;
        g.Code(a =>
        {
            // Direct execution begins before, and comes to the instruction.
            Label loop = a.CreateLabel();
            a.mov(esi, 1000);
            a.Label(ref loop);
            a.dec(esi);
            a.jnz(loop);
            a.jmp(Layout.Spare);
        });
        g.Place(Layout.Spare, 64, a =>
        {
            a.xor(eax, eax);
            a.xor(ecx, ecx);
            switch (what)
            {
                case "cpuid": a.cpuid(); break;
                case "rdtsc": a.rdtsc(); break;
                case "xgetbv": a.xgetbv(); break;
                default: a.rdpid(rax); break;
            }
            a.syscall();
        });
        CpuState s = Run(engine, g).Done().State;
        switch (what)
        {
            case "cpuid":
                Assert.Equal(!isIntel, s.Gpr[3] == IntelVendor);
                break;
            case "rdtsc":
                Assert.InRange(s.Gpr[2] << 32 | (uint)s.Gpr[0], 1ul << 60, (1ul << 60) + (1ul << 50));
                break;
            case "xgetbv":
                Assert.Equal(7ul, s.Gpr[0]);
                break;
            default:
                Assert.Equal(0x4711ul, s.Gpr[0]);
                break;
        }
    }

    /// <summary>
    /// A page with a few instructions that would show the host runs directly, but for those: also where they have prefixes, and where they lie across pages.
    /// With more of them than the processor has breakpoints it does not; and breakpoints go with their page.
    /// </summary>
    [Theory]
    [Engines("few", true), Engines("prefixes", true), Engines("across pages", true), Engines("prefixes before the page", true), Engines("many", false),
        Engines("in turns", true), Engines("single step", true)]
    public void Sensitive_instructions_in_a_page_that_runs_directly_are_the_guests(string engine, string where, bool direct)
    {
        const uint first = Layout.Spare, second = Layout.Spare + 0x1000;
        const int rounds = 50;
        using Guest g = NewGuest("max");
        g.State.Msrs[0xC000_0103] = 0x4711;
        byte[] rdpid = [0xF3, 0x0F, 0xC7, 0xF8], ret = [0xC3];
        const byte dataSize = 0x66;
        var places = new List<uint>(); // of subroutines that read the processor's number into RAX
        switch (where)
        {
            case "few":
                Add(first + 0x100, rdpid);
                Add(first + 0x200, rdpid);
                break;
            case "prefixes":
                Add(first + 0x100, [dataSize, .. rdpid]);
                break;
            case "across pages":
                Add(second - 2, rdpid);
                break;
            case "prefixes before the page":
                Add(second - 1, rdpid);
                break;
            case "many":
                for (uint n = 0; n < 5; n++) Add(first + 0x100 * n, rdpid);
                break;
            case "in turns":
                // More than the processor has breakpoints.
                for (uint n = 0; n < 3; n++) Add(first + 0x100 * n, rdpid);
                for (uint n = 0; n < 3; n++) Add(second + 0x100 * n, rdpid);
                break;
            default:
                Add(first + 0x100, rdpid);
                break;
        }
        g.Code(a =>
        {
            Label next = a.CreateLabel();
            a.mov(esi, rounds);
            a.xor(ebx, ebx);
            a.Label(ref next);
            foreach (uint place in places)
            {
                a.xor(eax, eax);
                a.mov(edi, place);
                a.call(rdi);
                a.add(rbx, rax);
            }
            a.dec(esi);
            a.jnz(next);
            if (where == "single step")
            {
                a.mov(edi, places[0]);
                a.pushfq();
                a.or(__dword_ptr[rsp], 0x100);
                a.popfq();
                a.jmp(rdi);
            }
            else a.syscall();
        });
        Outcome o = g.Run(engine);
        Assert.Equal(0x4711ul * (ulong)(rounds * places.Count), o.State.Gpr[3]);
        if (where == "single step") Assert.Equal((X.DB, (ulong)places[0]), (o.Vector, o.Frame.Rip)); // behind the jump
        else o.Done();
        if (engine != TestedEngines.Direct) return;
        Assert.True(direct == g.Cpu.Execution!.Counts.Single(c => c.Name == "direct: left for a guarded place").Value > 0,
            string.Join(", ", g.Cpu.Execution!.Counts.Where(c => c.Name.StartsWith("direct", StringComparison.Ordinal))));

        void Add(uint address, byte[] code)
        {
            g.Write(address, (byte[])[.. code, .. ret]);
            places.Add(address);
        }
    }

    /// <summary>Twice: SYSCALL to a kernel that gives the page another frame, and says so for the page alone or for the whole address space.</summary>
    [Theory]
    [Engines(false), Engines(true)]
    public void A_page_that_the_kernel_maps_elsewhere_is_seen_elsewhere(string engine, bool flush)
    {
        using Guest g = NewGuest();
        const uint page = Layout.Spare + 0x2000, other = Layout.Spare + 0x7000;
        g.Write(page, 0x11u);
        g.Write(other, 0x22u);
        ulong entry = g.Tables.EntryAddress(page);
        g.Place(Entry, 64, a =>
        {
            Label end = a.CreateLabel();
            a.test(edi, edi);
            a.jnz(end);
            a.mov(__qword_ptr[(int)entry], (int)(other | Pte.P | Pte.W | Pte.U));
            if (flush)
            {
                a.mov(rdx, cr3);
                a.mov(cr3, rdx);
            }
            else
            {
                a.invlpg(__[(int)page]);
            }
            a.sysretq();
            a.Label(ref end);
            a.hlt();
        });
        g.Code(a =>
        {
            a.mov(ebx, page);
            a.mov(eax, __dword_ptr[rbx]);
            a.xor(edi, edi);
            a.syscall();
            a.shl(eax, 8);
            a.or(eax, __dword_ptr[rbx]);
            a.mov(__dword_ptr[rbx + 4], eax);
            a.inc(edi);
            a.syscall();
        });
        Assert.Equal(0x1122ul, Run(engine, g).Done().State.Gpr[0]);
        Assert.Equal((0x1122u, 0u), (g.Read<uint>(other + 4), g.Read<uint>(page + 4)));
    }

    [Theory]
    [Engines(0u), Engines(0x3000u)]
    public void Code_that_the_program_writes_is_what_it_runs(string engine, uint alias)
    {
        using Guest g = NewGuest();
        const uint function = Layout.Spare + 0x1000;
        // mov eax, imm32; ret
        g.Write(function, (byte[])[0xB8, 0, 0, 0, 0, 0xC3]);
        if (alias != 0) g.Tables[function + alias] = function | Pte.P | Pte.W | Pte.U;
        g.Code(a =>
        {
            Label next = a.CreateLabel();
            a.mov(ebx, function);
            a.mov(ebp, function + alias);
            a.mov(ecx, 50);
            a.xor(edx, edx);
            a.Label(ref next);
            a.mov(__dword_ptr[rbp + 1], ecx);
            a.call(rbx);
            a.add(edx, eax);
            a.dec(ecx);
            a.jnz(next);
            a.mov(eax, edx);
            a.syscall();
        });
        Assert.Equal(50ul * 51 / 2, Run(engine, g).Done().State.Gpr[0]);
    }

    /// <summary>
    /// One vCPU writes functions in many pages, another calls them, in turns: the first loses its rights to write there while it is outside the guest, more of
    /// them at once than it is told one by one.
    /// </summary>
    [Theory, Engines]
    public void Code_in_many_pages_that_another_vCPU_writes_is_what_one_runs(string engine)
    {
        if (engine == "check") return; // it cannot tell what another vCPU has written meanwhile
        const int functions = 40;
        using Guest g = NewGuest();
        // mov eax, imm32; ret
        for (uint n = 0; n < functions; n++) g.Write(Layout.Spare + n * 0x1000, (byte[])[0xB8, 0, 0, 0, 0, 0xC3]);
        g.Code(a =>
        {
            Label calls = a.CreateLabel(), write = a.CreateLabel(), call = a.CreateLabel();
            a.mov(ebx, Layout.Spare);
            a.mov(ecx, functions);
            a.xor(edx, edx);
            a.test(edi, edi);
            a.jz(calls);
            a.Label(ref write);
            a.mov(__dword_ptr[rbx + 1], edi);
            a.add(rbx, 0x1000);
            a.dec(ecx);
            a.jnz(write);
            a.syscall();
            a.Label(ref calls);
            a.nop();
            a.Label(ref call);
            a.call(rbx);
            a.add(edx, eax);
            a.add(rbx, 0x1000);
            a.dec(ecx);
            a.jnz(call);
            a.syscall();
        });
        using IX86Vm vm = TestedEngines.Find(engine).CreateVm(g.Memory, g.Model, new VirtualClock());
        using IX86Cpu writer = vm.CreateCpu(0), caller = vm.CreateCpu(1);
        for (uint round = 1; round < 5; round++)
        {
            _ = RunOn(writer, round);
            Assert.Equal(functions * round, RunOn(caller, 0));
        }

        uint RunOn(IX86Cpu cpu, uint what)
        {
            g.State.Gpr[7] = what;
            // Without AM a program never runs directly: the caller's code is decoded, and must not stay as it was.
            g.State.Cr0 = what == 0 ? g.State.Cr0 & ~0x4_0000ul : g.State.Cr0 | 0x4_0000;
            cpu.WriteState(g.State);
            while (cpu.Enter().Reason != ExitReason.Hlt)
            {
            }
            var s = new CpuState();
            cpu.ReadState(s);
            return (uint)s.Gpr[2];
        }
    }

    /// <summary>Whatever number a system call has, and however it is made, it is the guest's kernel's.</summary>
    [Theory, Engines]
    public void No_system_call_reaches_the_host(string engine)
    {
        using Guest g = NewGuest();
        const uint counter = Layout.Spare + 0x2000;
        g.Place(Entry, 64, a =>
        {
            a.inc(__dword_ptr[(int)counter]);
            a.sysretq();
        });
        g.Place(Handler, 64, a =>
        {
            a.inc(__dword_ptr[(int)counter + 4]);
            a.iretq();
        });
        g.Idt(X.Done, Desc.Gate(g.StubCode, Handler, Desc.IntGate, 3));
        g.Code(a =>
        {
            Label next = a.CreateLabel();
            a.xor(ebx, ebx);
            a.Label(ref next);
            a.mov(eax, ebx);
            // exit, exit_group, kill and their like would end a process with these arguments.
            a.xor(edi, edi);
            a.mov(esi, 9);
            a.syscall();
            a.mov(eax, ebx);
            a.mov(r8d, Layout.Spare);
            a.call(r8);
            a.inc(ebx);
            a.cmp(ebx, 450);
            a.jne(next);
            a.ud2();
        });
        // On a page of its own, which does not run directly.
        g.Place(Layout.Spare, 64, a =>
        {
            a.@int(X.Done);
            a.ret();
        });
        Outcome o = Run(engine, g);
        Assert.Equal((X.UD, 450ul), (o.Vector, o.State.Gpr[3]));
        Assert.Equal((450u, 450u), (g.Read<uint>(counter), g.Read<uint>(counter + 4)));
    }

    [Theory, Engines]
    public void A_kick_stops_a_program_that_never_calls_its_kernel(string engine)
    {
        using Guest g = NewGuest();
        g.Code(a =>
        {
            Label forever = a.CreateLabel();
            a.Label(ref forever);
            a.inc(rax);
            a.jmp(forever);
        });
        g.On(engine);
        var s = new CpuState();
        // A kick may come before the program does anything: on a busy host several times.
        for (int n = 0; s.Gpr[0] == 0 && n < 1000; n++)
        {
            using var kicker = new Timer(_ => g.Cpu.Kick(), null, 20, Timeout.Infinite);
            Assert.Equal(ExitReason.Kicked, g.Cpu.Enter().Reason);
            g.Cpu.ReadState(s);
        }
        Assert.NotEqual(0ul, s.Gpr[0]);
        AssertRanDirectly(engine, g);
    }

    /// <summary>A program that counts in RAX for ever, with what the processor runs it in.</summary>
    private static Guest Counting(string engine)
    {
        Guest g = NewGuest();
        g.Code(a =>
        {
            Label forever = a.CreateLabel();
            a.Label(ref forever);
            a.inc(rax);
            a.mov(__[Layout.Data], rax);
            a.jmp(forever);
        });
        g.On(engine);
        return g;
    }

    /// <summary>The processes that run code of this guest, by their numbers. Other tests run at the same time, and have processes of their own.</summary>
    private static unsafe int[] Helpers(Guest g)
    {
        var address = (ulong)g.Memory.Backing.Pointer;
        string ours = File.ReadLines("/proc/self/maps").Single(line => Range(line) is var (from, to) && from <= address && address < to);
        string inode = ours.Split(' ', StringSplitOptions.RemoveEmptyEntries)[4];
        return [.. Directory.GetDirectories("/proc/self/task").SelectMany(Children).Where(IsOne)];

        static (ulong From, ulong To) Range(string line)
        {
            string[] ends = line[..line.IndexOf(' ', StringComparison.Ordinal)].Split('-');
            return (Convert.ToUInt64(ends[0], 16), Convert.ToUInt64(ends[1], 16));
        }

        static IEnumerable<int> Children(string thread)
        {
            string list = Path.Combine(thread, "children");
            try
            {
                return [.. File.ReadAllText(list).Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(w => int.Parse(w, CultureInfo.InvariantCulture))];
            }
            catch (IOException)
            {
                return []; // a thread that has just ended
            }
        }

        bool IsOne(int id)
        {
            try
            {
                return File.ReadLines($"/proc/{id}/maps").Any(line => line.Contains($" {inode} ", StringComparison.Ordinal));
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return false;
            }
        }
    }

    /// <summary>Enters until the program has counted up from where it was.</summary>
    private static void Advance(Guest g, CpuState s, Action? meanwhile = null)
    {
        g.Cpu.ReadState(s);
        ulong before = s.Gpr[0];
        for (int n = 0; s.Gpr[0] == before && n < 1000; n++)
        {
            using var kicker = new Timer(_ =>
            {
                meanwhile?.Invoke();
                meanwhile = null;
                g.Cpu.Kick();
            }, null, 20, Timeout.Infinite);
            Assert.Equal(ExitReason.Kicked, g.Cpu.Enter().Reason);
            g.Cpu.ReadState(s);
        }
        Assert.True(s.Gpr[0] > before);
        Assert.InRange(s.Gpr[0] - g.Read<ulong>(Layout.Data), 0ul, 1ul); // nothing is lost, and nothing is done twice
    }

    /// <summary>The process has guest RAM and its own pages, and can do nothing with them but compute.</summary>
    [Theory, Engines]
    public void A_helper_has_nothing_but_memory_of_the_guest(string engine)
    {
        if (engine != TestedEngines.Direct) return; // there is none elsewhere
        using Guest g = Counting(engine);
        var s = new CpuState();
        Advance(g, s);
        int helper = Assert.Single(Helpers(g));
        var own = new List<string>();
        foreach (string line in File.ReadAllLines($"/proc/{helper}/maps"))
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            string name = words.Length > 5 ? words[5] : "";
            if (name == "[vsyscall]") continue; // the filter below keeps it out
            Assert.True(name.StartsWith("/memfd:", StringComparison.Ordinal), line);
            Assert.DoesNotContain("wx", words[1], StringComparison.Ordinal);
            if (name.StartsWith("/memfd:guest-ram", StringComparison.Ordinal)) continue;
            own.Add(words[1]);
        }
        Assert.Equal(["r-xs", "r--s"], own); // routines, and a table
        string status = File.ReadAllText($"/proc/{helper}/status");
        Assert.Contains("NoNewPrivs:\t1", status, StringComparison.Ordinal);
        Assert.Contains("Seccomp:\t2", status, StringComparison.Ordinal);
        Assert.Matches(@"Threads:\t1\b", status);
        Assert.Equal("0", File.ReadLines($"/proc/{helper}/limits").Single(l => l.StartsWith("Max core", StringComparison.Ordinal)).Split(' ',
            StringSplitOptions.RemoveEmptyEntries)[4]);
    }

    /// <summary>
    /// A helper that somebody ends, or stops, or interrupts, is no loss: what the program has done is done, and it goes on in software, and later in another.
    /// </summary>
    [Theory]
    [Engines("KILL"), Engines("TERM"), Engines("STOP"), Engines("SEGV"), Engines("TRAP"), Engines("ILL"), Engines("SYS"), Engines("USR2")]
    public void A_helper_that_gets_a_signal_from_outside_is_no_loss(string engine, string signal)
    {
        if (engine != TestedEngines.Direct) return; // there is none elsewhere
        using Guest g = Counting(engine);
        var s = new CpuState();
        Advance(g, s);
        for (int n = 0; n < 3; n++)
        {
            Advance(g, s, () =>
            {
                using var kill = System.Diagnostics.Process.Start("/bin/sh", ["-c", $"kill -{signal} {string.Join(' ', Helpers(g))}"]);
                kill.WaitForExit();
            });
        }
    }

    /// <summary>A limit on a VM's processor time counts what its programs use in helpers, those that are gone included.</summary>
    [Theory, Engines]
    public void What_helpers_use_of_the_host_is_told(string engine)
    {
        if (engine != TestedEngines.Direct) return; // there is none elsewhere
        using Guest g = Counting(engine);
        var s = new CpuState();
        Advance(g, s);
        int helper = Assert.Single(Helpers(g));
        long told = g.Cpu.HelperTime.Run;
        Assert.Equal(RunTime(helper), told);
        Assert.True(told > 0);
        Advance(g, s, () => System.Diagnostics.Process.GetProcessById(helper).Kill());
        Assert.Empty(Helpers(g));
        Assert.True(g.Cpu.HelperTime.Run > told);

        static long RunTime(int process) => long.Parse(File.ReadAllText($"/proc/{process}/schedstat").Split(' ')[0], CultureInfo.InvariantCulture);
    }
}
