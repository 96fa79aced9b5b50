using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// Intel SDM vol. 3A, "Task Management": task switches by JMP, CALL, interrupts and IRET with 32- and 16-bit TSSs, busy and NT flags, the link field, CR0.TS,
/// faults before and in the new task.
/// </summary>
/// <remarks>
/// QEMU 7.2's TCG agrees about what is saved, loaded, linked and busy, but keeps the busy flag out of its copy of TR, does not know the T flag, and saves
/// another EIP for faults in the new task.
/// </remarks>
public sealed class TaskSwitchTests
{
    private const int NewTss = Sel.Free, Gate = Sel.Free + 8;
    private const uint Entry = Layout.Code + 0x800;
    private const ulong Nt = 1 << 14;

    /// <summary>A second task that starts at <see cref="Entry"/> (EIP of a 16-bit TSS has 16 bits, so its CS begins at <see cref="Layout.Code"/>).</summary>
    private static void AddTask(Guest g, bool wide, uint cr3 = 0, uint trap = 0)
    {
        g.Gdt(NewTss, Desc.Segment(Layout.OtherTss, wide ? 0x67u : 0x2B, wide ? Desc.Tss32 : Desc.Tss16));
        g.Gdt(Gate, Desc.Gate(NewTss, 0, Desc.TaskGate, 3));
        g.Gdt(Gate + 8, Desc.Segment(Layout.Code, 0xFFFF, Desc.Code, Desc.Size.Big));
        const uint t = Layout.OtherTss;
        ushort[] segments = [Sel.Data32, Gate + 8, Sel.Data32, Sel.Data32, 0, Sel.Data32];
        if (wide)
        {
            g.Write(t + 0x1C, cr3);
            g.Write(t + 0x20, Entry - Layout.Code);
            g.Write(t + 0x24, 0x0000_0402u);
            for (uint n = 0; n < 8; n++) g.Write(t + 0x28 + n * 4, 0x1111_1111u * n);
            g.Write(t + 0x38, Layout.Stack1Top);
            for (uint n = 0; n < 6; n++) g.Write(t + 0x48 + n * 4, (uint)segments[n]);
            g.Write(t + 0x64, trap | 0x68u << 16);
        }
        else
        {
            g.Write(t + 0x0E, (ushort)(Entry - Layout.Code));
            g.Write<ushort>(t + 0x10, 0x402);
            for (uint n = 0; n < 8; n++) g.Write(t + 0x12 + n * 2, (ushort)(0x1111 * n));
            g.Write<ushort>(t + 0x1A, 0x8000);
            for (uint n = 0; n < 4; n++) g.Write(t + 0x22 + n * 2, segments[n]);
        }
    }

    private static bool Busy(Guest g, int selector) => (g.Gdt(selector) >> 41 & 1) != 0;

    [Theory]
    [Engines("jmp", true, NewTss), Engines("jmp", false, NewTss), Engines("call", true, NewTss), Engines("call", false, NewTss), Engines("jmp", true, Gate),
        Engines("call", true, Gate), Engines("int", true, Gate), Engines("int", false, Gate)]
    public void Task_switch_saves_the_old_task_and_loads_the_new_one(string engine, string how, bool wide, int selector)
    {
        using var g = new Guest(Mode.Protected32);
        AddTask(g, wide);
        g.Idt(0x20, Desc.Gate(NewTss, 0, Desc.TaskGate, 3));
        g.State.Gpr[0] = 0xAAAA_0001;
        g.State.Gpr[7] = 0xAAAA_0007;
        g.State.Rflags |= 0x201;
        g.Code(a =>
        {
            switch (how)
            {
                case "jmp": a.jmp((ushort)selector, 0u); break;
                case "call": a.call((ushort)selector, 0u); break;
                default: a.@int(0x20); break;
            }
            g.Mark(a, "next");
            a.nop();
        });
        g.Place(Entry, 32, a => a.hlt());
        Outcome o = g.Run(engine).Done();
        bool nested = how != "jmp";

        Assert.Equal(Entry - Layout.Code + 1ul, o.State.Rip);
        Assert.Equal((NewTss, Gate + 8, Sel.Data32, Sel.Data32), (o.State.Tr.Selector, o.State.Cs.Selector, o.State.Ss.Selector, o.State.Ds.Selector));
        Assert.Equal((ushort)0, o.State.Fs.Selector);
        Assert.Equal((ulong)Layout.Code, o.State.Cs.Base);
        Assert.Equal(wide ? 0x7777_7777ul : 0x7777, o.State.Gpr[7] & (wide ? uint.MaxValue : 0xFFFFul));
        Assert.Equal(wide ? Layout.Stack1Top : 0x8000ul, o.State.Gpr[4] & (wide ? uint.MaxValue : 0xFFFFul));
        Assert.Equal(0x402ul | (nested ? Nt : 0), o.State.Rflags);
        Assert.Equal(8ul, o.State.Cr0 & 8);
        Assert.Equal((!nested ? false : true, true), (Busy(g, Sel.Tss), Busy(g, NewTss)));
        Assert.Equal(nested ? Sel.Tss : 0, g.Read<ushort>(Layout.OtherTss));

        // What the old TSS holds now.
        Assert.Equal(((uint)g["next"], 0x203u, 0xAAAA_0001u, 0xAAAA_0007u),
            (g.Read<uint>(Layout.Tss + 0x20), g.Read<uint>(Layout.Tss + 0x24), g.Read<uint>(Layout.Tss + 0x28), g.Read<uint>(Layout.Tss + 0x44)));
        Assert.Equal((Sel.Code32, Sel.Data32), (g.Read<ushort>(Layout.Tss + 0x4C), g.Read<ushort>(Layout.Tss + 0x54)));
        Assert.Equal(1u, o.State.Tr.Attributes >> 1 & 1);
    }

    [Theory]
    [Engines(true), Engines(false)]
    public void IRET_with_NT_goes_back_to_the_linked_task_and_ends_the_nested_one(string engine, bool wide)
    {
        using var g = new Guest(Mode.Protected32);
        AddTask(g, wide);
        g.State.Gpr[3] = 0x1234_5678;
        g.Code(a =>
        {
            a.call(NewTss, 0u);
            a.hlt();
        });
        g.Place(Entry, 32, a =>
        {
            a.mov(ebx, 1);
            a.iretd();
            a.inc(ecx);
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal((0x1234_5678ul, Sel.Tss, 2ul), (o.State.Gpr[3], o.State.Tr.Selector, o.State.Rflags));
        Assert.Equal((true, false), (Busy(g, Sel.Tss), Busy(g, NewTss)));
        // The nested task goes on behind its IRET, with NT clear in its image.
        Assert.Equal(Entry - Layout.Code + 6u, wide ? g.Read<uint>(Layout.OtherTss + 0x20) : g.Read<ushort>(Layout.OtherTss + 0x0E));
        Assert.Equal(0u, wide ? g.Read<uint>(Layout.OtherTss + 0x24) & (uint)Nt : g.Read<ushort>(Layout.OtherTss + 0x10) & (uint)Nt);
    }

    [Theory]
    [Engines(X.GP, "busy"), Engines(X.NP, "absent"), Engines(X.TS, "short"), Engines(X.GP, "level")]
    public void A_TSS_that_is_busy_absent_too_short_or_too_privileged_faults_in_the_old_task(string engine, int vector, string how)
    {
        using var g = new Guest(Mode.Protected32, how == "level" ? 3 : 0);
        AddTask(g, wide: true);
        g.Gdt(NewTss, how switch
        {
            "busy" => Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32Busy),
            "absent" => Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32 - Desc.NotPresent),
            "short" => Desc.Segment(Layout.OtherTss, 0x66, Desc.Tss32),
            _ => Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32, 0, 2),
        });
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.jmp(NewTss, 0u);
        });
        Outcome o = g.Run(engine).Raised(vector, NewTss, g["at"]);
        Assert.Equal(Sel.Tss, o.State.Tr.Selector);
    }

    [Theory]
    [Engines(0x4C, Sel.Data32, X.TS), Engines(0x4C, 0, X.TS), Engines(0x50, Sel.Code32, X.TS), Engines(0x50, 0, X.TS), Engines(0x54, Sel.Free + 0x40, X.NP),
        Engines(0x50, Sel.Free + 0x40, X.SS), Engines(0x54, 0xFF8, X.TS), Engines(0x60, Sel.Data32, X.TS)]
    public void A_bad_selector_in_the_new_TSS_faults_in_the_new_task(string engine, int field, int selector, int vector)
    {
        using var g = new Guest(Mode.Protected32);
        AddTask(g, wide: true);
        g.Gdt(Sel.Free + 0x40, Desc.Flat(Desc.Data - Desc.NotPresent));
        g.Write(Layout.OtherTss + (uint)field, (uint)selector);
        // The exception comes through a task gate of its own, as it must when the new task has no stack.
        g.Gdt(Sel.Free + 0x20, Desc.Segment(Layout.OtherTss + 0x100, 0x67, Desc.Tss32));
        foreach (int v in (int[])[X.TS, X.NP, X.SS]) g.Idt(v, Desc.Gate(Sel.Free + 0x20, 0, Desc.TaskGate));
        const uint third = Layout.OtherTss + 0x100;
        g.Write(third + 0x20, Guest.Stub(vector));
        g.Write(third + 0x24, 2u);
        g.Write(third + 0x38, Layout.Stack2Top);
        foreach ((uint at, uint s) in ((uint, uint)[])[(0x4C, Sel.Code32), (0x50, Sel.Data32)]) g.Write(third + at, s);
        g.Code(a => a.jmp(NewTss, 0u));
        Outcome o = g.Run(engine);
        Assert.Equal(vector, o.Vector);
        // The handler's task is linked to the new one, which had no time to execute anything.
        Assert.Equal(NewTss, g.Read<ushort>(third));
        Assert.Equal(Entry - Layout.Code, g.Read<uint>(Layout.OtherTss + 0x20));
        Assert.Equal((uint)selector & 0xFFFC, g.Read<uint>(Layout.Stack2Top - 4));
    }

    [Theory, Engines]
    public void The_new_task_has_its_own_CR3(string engine)
    {
        using var g = new Guest(Mode.Paged32);
        uint directory = g.Tables.Allocate();
        g.Write(directory, g.Read<uint>(g.Tables.Root));
        g.Write(Layout.Tss + 0x1C, g.Tables.Root); // a task switch does not save CR3
        AddTask(g, wide: true, cr3: directory);
        g.Code(a =>
        {
            a.call(NewTss, 0u);
            a.mov(eax, cr3);
            Guest.Report(a);
            a.hlt();
        });
        g.Place(Entry, 32, a =>
        {
            a.mov(eax, cr3);
            Guest.Report(a);
            a.iretd();
        });
        Assert.Equal([directory, g.Tables.Root], g.Run(engine).Done().Reports);
    }

    [Theory, Engines]
    public void The_T_flag_of_a_TSS_raises_a_debug_trap_before_the_first_instruction(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        AddTask(g, wide: true, trap: 1);
        g.Code(a => a.jmp(NewTss, 0u));
        Outcome o = g.Run(engine).Raised(X.DB, null, Entry - Layout.Code);
        Assert.Equal(0x8000ul, o.State.Dr6 & 0xE00F);
    }

    [Theory, Engines]
    public void An_exception_through_a_task_gate_pushes_its_error_code_on_the_new_stack(string engine)
    {
        using var g = new Guest(Mode.Protected32, 3);
        AddTask(g, wide: true);
        g.Idt(X.GP, Desc.Gate(NewTss, 0, Desc.TaskGate));
        g.Code(a =>
        {
            g.Mark(a, "at");
            a.hlt();
        });
        g.Place(Entry, 32, a => a.hlt());
        Outcome o = g.Run(engine);
        Assert.Equal(Layout.Stack1Top - 4ul, o.State.Gpr[4]);
        Assert.Equal((0u, (uint)g["at"]), (g.Read<uint>(Layout.Stack1Top - 4), g.Read<uint>(Layout.Tss + 0x20)));
        Assert.Equal(0x1_0000u, g.Read<uint>(Layout.Tss + 0x24) & 0x1_0000); // RF in the saved flags of a fault
    }

    [Theory, Engines]
    public void A_task_can_be_a_virtual_8086_one(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        AddTask(g, wide: true);
        g.Write(Layout.OtherTss + 0x24, 0x2_3002u);
        g.Write(Layout.OtherTss + 4, Layout.KernelStackTop);
        g.Write(Layout.OtherTss + 8, (uint)Sel.Data32);
        g.Write(Layout.OtherTss + 0x4C, Layout.Code >> 4);
        g.Write(Layout.OtherTss + 0x50, Layout.StackBase >> 4);
        g.Code(a => a.jmp(NewTss, 0u));
        g.Place(Entry, 16, a => a.ud2());
        Outcome o = g.Run(engine).Raised(X.UD, null, Entry - Layout.Code);
        Assert.Equal(0x2_0000ul, o.Frame.Flags & 0x2_0000);
    }

    [Theory, Engines]
    public void LTR_marks_the_TSS_busy_and_refuses_a_busy_one(string engine)
    {
        using var g = new Guest(Mode.Long);
        g.Gdt(Sel.Free, Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32)).Gdt(Sel.Free + 8, 0);
        g.Code(a =>
        {
            a.mov(eax, Sel.Free);
            a.ltr(ax);
            g.Mark(a, "at");
            a.ltr(ax);
        });
        Outcome o = g.Run(engine).Raised(X.GP, Sel.Free, g["at"]);
        Assert.Equal((Sel.Free, (ulong)Layout.OtherTss), (o.State.Tr.Selector, o.State.Tr.Base));
        Assert.True(Busy(g, Sel.Free));
    }
}
