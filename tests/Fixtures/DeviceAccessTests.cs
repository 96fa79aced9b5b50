using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Ports and memory-mapped devices: one exit for each access, in program order, of the width that the instruction has. Intel SDM vol. 1, "Input/Output".
/// </summary>
public sealed class DeviceAccessTests
{
    private const uint Mmio = Layout.Mmio;

    private static Guest NewGuest(Mode mode = Mode.Long)
    {
        var g = new Guest(mode);
        if (mode == Mode.Long)
        {
            for (uint n = 0; n < 4; n++) g.Tables[Mmio + n * 0x1000] = Mmio + n * 0x1000 | 3;
        }
        g.State.Gpr[3] = Mmio;
        return g;
    }

    private static Access Read(ulong offset, int size, ulong data) => new(ExitReason.Mmio, false, Mmio + offset, size, data);
    private static Access Write(ulong offset, int size, ulong data) => new(ExitReason.Mmio, true, Mmio + offset, size, data);

    private static Outcome Run(string engine, Action<Assembler> emit, ulong answer = 0, Mode mode = Mode.Long, Action<Guest>? prepare = null)
    {
        using Guest g = NewGuest(mode);
        g.Code(a =>
        {
            emit(a);
            a.hlt();
        });
        g.OnExit = exit =>
        {
            if (exit.Reason is ExitReason.Mmio or ExitReason.Io && !exit.IsWrite) exit.Data = answer;
            return false;
        };
        prepare?.Invoke(g);
        return g.Run(engine).Done();
    }

    [Theory, Engines]
    public void Reads_and_writes_of_1_2_4_and_8_bytes(string engine)
    {
        Outcome o = Run(engine, a =>
        {
            a.mov(al, __byte_ptr[rbx]);
            a.mov(__byte_ptr[rbx + 1], al);
            a.mov(ax, __word_ptr[rbx + 2]);
            a.mov(__word_ptr[rbx + 6], ax);
            a.mov(eax, __dword_ptr[rbx + 4]);
            a.mov(__dword_ptr[rbx + 8], eax);
            a.mov(rax, __qword_ptr[rbx + 8]);
            a.mov(__qword_ptr[rbx + 16], rax);
        }, 0x8877_6655_4433_2211);
        Assert.Equal([Read(0, 1, 0x11), Write(1, 1, 0x11), Read(2, 2, 0x2211), Write(6, 2, 0x2211), Read(4, 4, 0x4433_2211), Write(8, 4, 0x4433_2211),
            Read(8, 8, 0x8877_6655_4433_2211), Write(16, 8, 0x8877_6655_4433_2211)], o.Accesses);
    }

    [Theory]
    [Engines(6u, 4, 2, 2), Engines(0xFFEu, 4, 2, 2), Engines(1u, 8, 7, 1), Engines(7u, 2, 1, 1)]
    public void An_access_across_8_bytes_is_split_low_part_first(string engine, uint offset, int size, int first, int second)
    {
        Outcome o = Run(engine, a =>
        {
            a.mov(rax, 0x8877_6655_4433_2211);
            if (size == 2) a.mov(__word_ptr[rbx + (int)offset], ax);
            else if (size == 4) a.mov(__dword_ptr[rbx + (int)offset], eax);
            else a.mov(__qword_ptr[rbx + (int)offset], rax);
        });
        ulong value = 0x8877_6655_4433_2211;
        Assert.Equal([Write(offset, first, value & ((1ul << first * 8) - 1)),
            Write(offset + (uint)first, second, value >> first * 8 & ((1ul << second * 8) - 1))], o.Accesses);
        o = Run(engine, a =>
        {
            if (size == 2) a.movzx(eax, __word_ptr[rbx + (int)offset]);
            else if (size == 4) a.mov(eax, __dword_ptr[rbx + (int)offset]);
            else a.mov(rax, __qword_ptr[rbx + (int)offset]);
        }, 0x0102_0304_0506_0708);
        Assert.Equal([(Mmio + (ulong)offset, first), (Mmio + (ulong)offset + (ulong)first, second)], o.Accesses.Select(x => (x.Address, x.Size)));
    }

    [Theory, Engines]
    public void A_read_modify_write_reads_once_and_writes_once(string engine)
    {
        foreach (Action<Assembler> emit in (Action<Assembler>[])
            [a => a.add(__dword_ptr[rbx], 2), a => a.@lock.add(__dword_ptr[rbx], 2), a => { a.mov(eax, 2); a.xadd(__dword_ptr[rbx], eax); },
                a => { a.mov(eax, 5); a.mov(ecx, 7); a.cmpxchg(__dword_ptr[rbx], ecx); }, a => { a.mov(eax, 7); a.xchg(__dword_ptr[rbx], eax); }])
        {
            Assert.Equal([Read(0, 4, 5), Write(0, 4, 7)], Run(engine, emit, 5).Accesses);
        }
    }

    [Theory, Engines]
    public void String_instructions_make_one_access_an_element(string engine)
    {
        Outcome o = Run(engine, a =>
        {
            a.mov(rsi, rbx);
            a.lea(rdi, __[rbx + 0x100]);
            a.mov(ecx, 3);
            a.rep.movsd();
        }, 0x77);
        Assert.Equal([Read(0, 4, 0x77), Write(0x100, 4, 0x77), Read(4, 4, 0x77), Write(0x104, 4, 0x77), Read(8, 4, 0x77), Write(0x108, 4, 0x77)], o.Accesses);
        Assert.Equal((0ul, Mmio + 12ul, Mmio + 0x10Cul), (o.State.Gpr[1], o.State.Gpr[6], o.State.Gpr[7]));

        o = Run(engine, a =>
        {
            a.std();
            a.lea(rdi, __[rbx + 8]);
            a.mov(eax, 0x12);
            a.mov(ecx, 2);
            a.rep.stosw();
        });
        Assert.Equal([Write(8, 2, 0x12), Write(6, 2, 0x12)], o.Accesses);

        o = Run(engine, a =>
        {
            a.mov(rdi, rbx);
            a.mov(ecx, 10);
            a.mov(al, 3);
            a.repne.scasb();
        }, 3);
        Assert.Equal([Read(0, 1, 3)], o.Accesses);
    }

    [Theory, Engines]
    public void Writes_come_before_a_following_read_and_before_a_port_access(string engine)
    {
        Outcome o = Run(engine, a =>
        {
            a.mov(__dword_ptr[rbx], 1);
            a.mov(__dword_ptr[rbx + 4], 2);
            a.mov(eax, __dword_ptr[rbx + 8]);
            a.mov(__dword_ptr[rbx + 12], 3);
            a.@out(0x80, al);
            a.mov(__dword_ptr[rbx + 16], 4);
        }, 9);
        Assert.Equal([Write(0, 4, 1), Write(4, 4, 2), Read(8, 4, 9), Write(12, 4, 3), new Access(ExitReason.Io, true, 0x80, 1, 9), Write(16, 4, 4)],
            o.Accesses);
    }

    [Theory, Engines]
    public void Stack_and_SSE_accesses_to_devices(string engine)
    {
        Outcome o = Run(engine, a =>
        {
            a.lea(rsp, __[rbx + 0x18]);
            a.push(0x1234);
            a.pop(rcx);
            a.movups(xmm0, __xmmword_ptr[rbx]);
            a.movups(__xmmword_ptr[rbx + 0x20], xmm0);
        }, 0x55);
        Assert.Equal([Write(0x10, 8, 0x1234), Read(0x10, 8, 0x55), Read(0, 8, 0x55), Read(8, 8, 0x55), Write(0x20, 8, 0x55), Write(0x28, 8, 0x55)], o.Accesses);
    }

    [Theory, Engines]
    public void An_access_half_in_memory_and_half_in_a_device(string engine)
    {
        using Guest g = NewGuest();
        g.Tables[Layout.Spare + 0x1000] = Mmio | 3;
        g.State.Gpr[3] = Layout.Spare + 0xFFE;
        g.State.Gpr[0] = 0x4433_2211;
        g.Code(a =>
        {
            a.mov(__dword_ptr[rbx], eax);
            a.mov(ecx, __dword_ptr[rbx]);
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal([Write(0, 2, 0x4433), Read(0, 2, 0xFFFF)], o.Accesses);
        Assert.Equal((0xFFFF_2211ul, (ushort)0x2211), (o.State.Gpr[1], g.Read<ushort>(Layout.Spare + 0xFFE)));
    }

    [Theory, Engines]
    public void A_device_read_completes_even_if_the_instruction_then_faults_on_its_write_which_is_checked_first(string engine)
    {
        // MOVS: the source is a device, the destination is absent.
        using Guest g = NewGuest();
        g.Tables[Layout.Spare] = 0;
        g.State.Gpr[6] = Mmio;
        g.State.Gpr[7] = Layout.Spare;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.movsd();
        });
        Outcome o = g.Run(engine).Raised(X.PF, 2, g["at"]);
        Assert.Equal((Mmio, (ulong)Layout.Spare), (o.State.Gpr[6], o.State.Gpr[7]));
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void IN_and_OUT_of_all_widths(string engine, Mode mode)
    {
        Outcome o = Run(engine, a =>
        {
            a.@in(al, 0x10);
            a.@out(0x11, al);
            a.mov(dx, 0x1234);
            a.@in(ax, dx);
            a.@out(dx, ax);
            a.@in(eax, dx);
            a.@out(dx, eax);
        }, 0x8877_6655, mode);
        Assert.Equal([(0x10ul, 1, false, 0x55ul), (0x11, 1, true, 0x55), (0x1234, 2, false, 0x6655), (0x1234, 2, true, 0x6655), (0x1234, 4, false, 0x8877_6655),
            (0x1234, 4, true, 0x8877_6655)],
            o.Accesses.Select(x => (x.Address, x.Size, x.IsWrite, x.Data)));
    }

    [Theory]
    [Engines(Mode.Real), Engines(Mode.Protected32), Engines(Mode.Long)]
    public void INS_and_OUTS_with_REP_move_an_element_an_exit(string engine, Mode mode)
    {
        using Guest g = NewGuest(mode);
        uint data = mode == Mode.Real ? 0x100u : Layout.Data + 0x100;
        uint next = 0xA0;
        g.OnExit = exit =>
        {
            if (exit.Reason == ExitReason.Io && !exit.IsWrite) exit.Data = next++;
            return false;
        };
        g.State.Gpr[1] = 4;
        g.State.Gpr[2] = 0x60;
        g.State.Gpr[6] = g.State.Gpr[7] = data;
        g.Code(a =>
        {
            a.rep.insb();
            a.mov(ecx, 2);
            a.rep.outsw();
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal([(0x60ul, 1, 0xA0ul), (0x60, 1, 0xA1), (0x60, 1, 0xA2), (0x60, 1, 0xA3), (0x60, 2, 0xA1A0), (0x60, 2, 0xA3A2)],
            o.Accesses.Select(x => (x.Address, x.Size, x.Data)));
        Assert.Equal((0ul, data + 4ul, data + 4ul), (o.State.Gpr[1], o.State.Gpr[6], o.State.Gpr[7]));
    }

    [Theory, Engines]
    public void INS_to_an_absent_page_faults_before_the_device_is_asked(string engine)
    {
        using Guest g = NewGuest();
        g.Tables[Layout.Spare] = 0;
        g.State.Gpr[7] = Layout.Spare;
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.insb();
        });
        Assert.Empty(g.Run(engine).Raised(X.PF, 2, g["at"]).Accesses);
    }

    [Theory]
    [Engines(0, 0, true), Engines(1, 0, true), Engines(3, 3, true), Engines(0, 3, false), Engines(2, 3, false)]
    public void IOPL_decides_about_ports_where_the_bitmap_does_not(string engine, int iopl, int cpl, bool allowed)
    {
        foreach (Mode mode in (Mode[])[Mode.Protected32, Mode.Long])
        {
            using var g = new Guest(mode, cpl);
            g.State.Rflags |= (ulong)iopl << 12;
            g.Code(a =>
            {
                g.Mark(a, "at");
                a.@in(al, 0x60);
                g.End(a);
            });
            Outcome o = g.Run(engine);
            if (allowed) o.Done();
            else o.Raised(X.GP, 0, g["at"]);
        }
    }

    [Theory, Engines]
    public void Addresses_beyond_memory_read_what_the_bus_gives_and_a_fetch_from_there_is_an_invalid_opcode(string engine)
    {
        Outcome o = Run(engine, a => a.mov(rax, __qword_ptr[rbx]), ulong.MaxValue);
        Assert.Equal(ulong.MaxValue, o.State.Gpr[0]);
        using Guest g = NewGuest();
        g.Code(a => a.jmp(rbx));
        g.Run(engine).Raised(X.UD, null, Mmio);
    }

    [Theory, Engines]
    public void A20M_masks_bit_20_of_every_physical_address(string engine)
    {
        foreach (Mode mode in (Mode[])[Mode.Protected32, Mode.Long])
        {
            using var g = new Guest(mode);
            g.Write(Layout.Data, 0x11u);
            g.Write(Layout.Data + (1 << 20), 0x22u);
            g.Code(a =>
            {
                a.mov(eax, __dword_ptr[(int)Layout.Data + (1 << 20)]);
                Guest.Report(a);
                a.@out(0x92, al);
                a.mov(eax, __dword_ptr[(int)Layout.Data + (1 << 20)]);
                Guest.Report(a);
                a.mov(__dword_ptr[(int)Layout.Data + (1 << 20)], 0x33);
                a.@out(0x93, al);
                a.mov(eax, __dword_ptr[(int)Layout.Data + (1 << 20)]);
                Guest.Report(a);
                a.mov(eax, __dword_ptr[(int)Layout.Data]);
                Guest.Report(a);
                a.hlt();
            });
            g.OnExit = exit =>
            {
                if (exit is { Reason: ExitReason.Io, Address: 0x92 or 0x93 }) g.Vm.SetA20(exit.Address == 0x93);
                return false;
            };
            g.On(engine);
            bool hasPin = g.Vm.SetA20(false);
            Assert.True(g.Vm.SetA20(true));
            Outcome o = g.Run(engine).Done();
            Assert.Equal(hasPin ? [0x22, 0x11, 0x22, 0x33] : [0x22, 0x22, 0x33, 0x11], o.Reports);
        }
    }

    [Theory, Engines]
    public void FERR_exits_once_in_front_of_the_waiting_instruction_when_CR0_NE_is_clear(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.State.Cr0 &= ~0x20ul;
        g.Write<ushort>(Layout.Data, 0x37B);
        g.Code(a =>
        {
            a.fldcw(__word_ptr[(int)Layout.Data]);
            a.fld1();
            a.fldz();
            a.fdivp(st1, st0);
            g.Mark(a, "wait");
            a.wait();
            a.wait();
            a.fnclex();
            a.wait();
            a.hlt();
        });
        Assert.Equal([g["wait"]], AssertsOfFerr(g, engine));
    }

    /// <summary>Runs the guest to its end; where FERR# was asserted.</summary>
    private static List<ulong> AssertsOfFerr(Guest g, string engine)
    {
        var at = new List<ulong>();
        var state = new CpuState();
        g.OnExit = exit =>
        {
            if (exit.Reason != ExitReason.FloatingPointError) return false;
            g.Cpu.ReadState(state);
            at.Add(state.Rip);
            return false;
        };
        g.Run(engine).Done();
        return at;
    }

    // External circuitry may assert IGNNE#. Intel SDM vol. 1, "MS-DOS Compatibility Sub-mode": the instruction is executed though the exception waits.
    [Theory, Engines]
    public void An_x87_instruction_behind_FERR_is_executed_and_the_exception_still_waits(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.State.Cr0 &= ~0x20ul;
        const int control = (int)Layout.Data, one = control + 4, result = control + 8, status = control + 16;
        g.Write<ushort>((uint)control, 0x37B); // division by zero is unmasked
        g.Write((uint)one, 1f);
        g.Code(a =>
        {
            a.fldcw(__word_ptr[control]);
            a.fld1();
            a.fldz();
            a.fdivp(st1, st0);
            g.Mark(a, "fld");
            a.fld(__dword_ptr[one]);
            a.fadd(__dword_ptr[one]);
            a.fstp(__dword_ptr[result]);
            a.fnstsw(__word_ptr[status]);
            a.hlt();
        });
        Assert.Equal([g["fld"]], AssertsOfFerr(g, engine));
        Assert.Equal(2f, g.Read<float>((uint)result));
        Assert.Equal(0x8084, g.Read<ushort>((uint)status) & 0x80BF); // B, ES, ZE
    }

    public static TheoryData<string, string> UsualLoads
    {
        get
        {
            var data = new TheoryData<string, string>();
            foreach (string engine in (string[])["interp", "bt"])
            {
                foreach (string load in s_usualLoads.Keys) data.Add(engine, load);
            }
            return data;
        }
    }

    private static readonly Dictionary<string, Action<Assembler>> s_usualLoads = new()
    {
        ["MOV"] = a => a.mov(rax, __qword_ptr[rbx]),
        ["MOV behind a posted write"] = a => { a.mov(__byte_ptr[rbx], al); a.mov(rax, __qword_ptr[rbx]); },
        ["MOV across 8 bytes"] = a => a.mov(rax, __qword_ptr[rbx + 4]),
        ["MOV across pages"] = a => a.mov(rax, __qword_ptr[rbx + 0xFFC]),
        ["MOVZX"] = a => a.movzx(eax, __byte_ptr[rbx]),
        ["MOVSXD"] = a => a.movsxd(rax, __dword_ptr[rbx]),
        ["MOVBE"] = a => a.movbe(eax, __dword_ptr[rbx]),
        ["ADD"] = a => a.add(eax, __dword_ptr[rbx]),
        ["ADD to memory"] = a => a.add(__dword_ptr[rbx], eax),
        ["AND of an immediate"] = a => a.and(__dword_ptr[rbx], 0xF),
        ["INC"] = a => a.inc(__dword_ptr[rbx]),
        ["SHL"] = a => a.shl(__dword_ptr[rbx], 3),
        ["SHLD"] = a => a.shld(__dword_ptr[rbx], eax, 3),
        ["CMP"] = a => a.cmp(__dword_ptr[rbx], eax),
        ["TEST"] = a => a.test(__byte_ptr[rbx], 1),
        ["BT"] = a => a.bt(__dword_ptr[rbx], 3),
        ["BTS"] = a => a.bts(__dword_ptr[rbx], 3),
        ["BSF"] = a => a.bsf(eax, __dword_ptr[rbx]),
        ["CMOV"] = a => a.cmove(eax, __dword_ptr[rbx]),
        ["IMUL"] = a => a.imul(eax, __dword_ptr[rbx]),
        ["IMUL of an immediate"] = a => a.imul(eax, __dword_ptr[rbx], 3),
        ["MUL"] = a => a.mul(__dword_ptr[rbx]),
        ["PUSH"] = a => { a.push(__qword_ptr[rbx]); a.pop(rax); },
        ["MOVD"] = a => a.movd(xmm0, __dword_ptr[rbx]),
        ["LODS"] = a => { a.mov(rsi, rbx); a.lodsd(); },
        ["MOVS"] = a => { a.mov(rsi, rbx); a.mov(edi, (int)Layout.Data); a.movsq(); },
        ["REP MOVS"] = a => { a.mov(rsi, rbx); a.mov(edi, (int)Layout.Data); a.mov(ecx, 3); a.rep.movsd(); },
        ["SCAS"] = a => { a.mov(rdi, rbx); a.scasb(); },
        ["REPE CMPS"] = a => { a.mov(rsi, rbx); a.lea(rdi, __qword_ptr[rbx + 0x10]); a.mov(ecx, 3); a.repe.cmpsb(); },
        ["IN behind a posted write"] = a => { a.mov(__byte_ptr[rbx], al); a.@in(al, 0x80); },
        ["OUT behind a posted write"] = a => { a.mov(__byte_ptr[rbx], al); a.@out(0x80, al); },
        ["OUTS"] = a => { a.mov(rsi, rbx); a.mov(edx, 0x80); a.outsb(); },
    };

    /// <summary>An exception of .NET costs more than ten exits.</summary>
    [Theory]
    [MemberData(nameof(UsualLoads))]
    public void The_usual_loads_from_a_device_leave_without_an_exception(string engine, string load)
    {
        var thrown = new List<Exception>();
        Thread thread = Thread.CurrentThread;
        void Note(object? sender, System.Runtime.ExceptionServices.FirstChanceExceptionEventArgs e)
        {
            if (Thread.CurrentThread == thread) thrown.Add(e.Exception);
        }

        AppDomain.CurrentDomain.FirstChanceException += Note;
        Outcome o;
        try
        {
            o = Run(engine, s_usualLoads[load], 0x8877_6655_4433_2211);
        }
        finally
        {
            AppDomain.CurrentDomain.FirstChanceException -= Note;
        }
        Assert.NotEmpty(o.Accesses);
        Assert.Empty(thrown);
    }
}
