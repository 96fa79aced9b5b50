using Bunraku.Engines;
using Iced.Intel;
using static Bunraku.Fixtures.SvmGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>AMD APM vol. 2, "VMRUN Instruction", "#VMEXIT", "LBR Virtualization", "Task Switches": what of the state save area is loaded and saved.</summary>
public sealed class SvmStateTests
{
    private const byte Marker = 0x55;

    /// <summary>Fields of the save area, with values that differ from the host's.</summary>
    private static readonly (int Offset, int Bytes, ulong Value)[] s_values =
    [
        (0x400, 2, Sel.Data16), (0x402, 2, 0xC93), (0x404, 4, 0xFFFF_FFFF), (0x408, 8, 0), // ES
        (0x410, 2, Sel.Code64), (0x412, 2, 0xA9B), (0x414, 4, 0xFFFF_FFFF), (0x418, 8, 0), // CS
        (0x420, 2, Sel.Data16), (0x422, 2, 0xC93), (0x424, 4, 0xFFFF_FFFF), (0x428, 8, 0), // SS
        (0x430, 2, Sel.Data16), (0x432, 2, 0x493), (0x434, 4, 0x1_2345), (0x438, 8, 0x1234), // DS
        (Field.GdtrLimit, 4, 0x1FF), (Field.GdtrBase, 8, 0xB000), (Field.IdtrLimit, 4, 0xFF7), (Field.IdtrBase, 8, 0xC000),
        (Field.Cpl, 1, 0), (Field.Cr4, 8, 0x220), (Field.Cr0, 8, 0x8001_0031), (Field.Dr7, 8, 0x405), (Field.Dr6, 8, 0xFFFF_0FF1),
        (Field.Rflags, 8, 0xCD7 & ~0x100u), (Field.Rsp, 8, 0x12_3456), (Field.Rax, 8, 0x77), (Field.Cr2, 8, 0x2222), (Field.GuestPat, 8, 0x0001_0406_0007_0406),
    ];

    [Theory, Engines]
    public void The_save_area_is_loaded_by_VMRUN_and_saved_by_VMEXIT(string engine)
    {
        using var g = new SvmGuest();
        g.Nested();
        foreach ((int offset, int bytes, ulong value) in s_values) SetBytes(g, offset, bytes, value);
        g.Code(a =>
        {
            a.@out(Marker, al);
            g.Host.Mark(a, "at");
            a.vmmcall();
        });
        g.Host.OnExit = e => e is { Reason: ExitReason.Io, Address: Marker };
        CpuState s = g.Run(engine).State;
        Assert.Equal((0x8001_0031ul, 0x220ul, 0x12_3456ul, 0x77ul, 0x2222ul, 0x405ul, 0xFFFF_0FF1ul, 0xCD7ul & ~0x100ul),
            (s.Cr0, s.Cr4, s.Gpr[4], s.Gpr[0], s.Cr2, s.Dr7, s.Dr6, s.Rflags));
        Assert.Equal(new SegmentState(Sel.Data16, 0x1234, 0x1_2345, 0x4093), s.Ds);
        Assert.Equal(new SegmentState(Sel.Code64, 0, uint.MaxValue, 0xA09B), s.Cs);
        Assert.Equal((0xB000ul, 0x1FF, 0xC000ul, 0xFF7, 0x0001_0406_0007_0406ul), (s.GdtrBase, s.GdtrLimit, s.IdtrBase, s.IdtrLimit, s.Msrs[0x277]));
        // What was there is gone, so that all of it comes from the processor.
        foreach ((int offset, int bytes, _) in s_values) SetBytes(g, offset, bytes, 0);
        foreach (int field in (int[])[Field.Efer, Field.Cr3, Field.Rip]) g.Set(field, 0ul);
        g.Host.OnExit = null;
        g.Host.Run(engine).Done();
        Assert.Equal(0x81ul, g.ExitCode);
        Assert.All(s_values, v => Assert.Equal((v.Offset, v.Value), (v.Offset, GetBytes(g, v.Offset, v.Bytes))));
        Assert.Equal((g.Host.State.Efer, g.Host.State.Cr3, g.Host["at"]), (g.Get<ulong>(Field.Efer), g.Get<ulong>(Field.Cr3), g.Get<ulong>(Field.Rip)));
    }

    private static void SetBytes(SvmGuest g, int offset, int bytes, ulong value)
    {
        for (int n = 0; n < bytes; n++) g.Set(offset + n, (byte)(value >> 8 * n));
    }

    private static ulong GetBytes(SvmGuest g, int offset, int bytes)
    {
        ulong value = 0;
        for (int n = 0; n < bytes; n++) value |= (ulong)g.Get<byte>(offset + n) << 8 * n;
        return value;
    }

    [Theory, Engines]
    public void LBR_virtualization_gives_the_guest_its_own_branch_records(string engine)
    {
        using var g = new SvmGuest();
        g.Set(Field.VirtualExtensions, 1ul);
        g.Set(Field.DebugCtl, 1ul);
        g.Set(Field.BranchFrom, 0x1111ul);
        g.Set(Field.BranchTo, 0x2222ul);
        g.Set(Field.BranchTo + 8, 0x3333ul);
        g.Set(Field.BranchTo + 16, 0x4444ul);
        g.Code(a =>
        {
            Label next = a.CreateLabel();
            g.Host.Mark(a, "from");
            a.jmp(next);
            a.int3();
            a.Label(ref next);
            a.nop();
            g.Host.Mark(a, "behind the target");
            a.vmmcall();
        });
        g.Run(engine).Done();
        Assert.Equal((0x81ul, 1ul, g.Host["from"], g.Host["behind the target"] - 1, 0x3333ul, 0x4444ul), (g.ExitCode, g.Get<ulong>(Field.DebugCtl),
            g.Get<ulong>(Field.BranchFrom), g.Get<ulong>(Field.BranchTo), g.Get<ulong>(Field.BranchTo + 8), g.Get<ulong>(Field.BranchTo + 16)));
    }

    /// <summary>EXITINFO1 is the selector, EXITINFO2 bit 38 says JMP.</summary>
    [Theory, Engines]
    public void A_task_switch_exits_with_its_source(string engine)
    {
        using var g = new SvmGuest();
        g.Intercept(Field.Intercepts1, 29);
        g.Set(Field.Cr0, 0x31ul);
        g.Set(Field.Cr4, 0ul);
        g.Set(Field.Efer, 0x1000ul);
        g.Set(Field.Cs, Sel.Code32);
        g.Set(Field.CsAttributes, (ushort)0xC9B);
        g.Host.Gdt(Sel.Free, Desc.Segment(Layout.OtherTss, 0x67, Desc.Tss32));
        g.Host.Place(GuestCode, 32, a => a.db(0xEA, 0, 0, 0, 0, (byte)Sel.Free, 0));
        g.Run(engine).Done();
        Assert.Equal((0x7Dul, (ulong)Sel.Free, 1ul << 38, (ulong)GuestCode), (g.ExitCode, g.Info1, g.Info2, g.Get<ulong>(Field.Rip)));
    }
}
