using Bunraku.Engines;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>
/// ROM, and memory that comes to lie elsewhere while the guest runs: what firmware on a PC meets (Intel 440FX data sheet, "PAM[6:0] - Programmable Attribute
/// Map Registers").
/// </summary>
public sealed class MemoryMapTests
{
    private const uint Rom = 0xE000_0000, Moved = 0xE010_0000, First = Layout.Spare, Second = Layout.Spare + 0x1000;
    private static readonly MemoryRegion s_ram = new(0, Layout.MemorySize, 0, false);

    private static Guest NewGuest(Mode mode)
    {
        var g = new Guest(mode);
        if (mode == Mode.Long)
        {
            g.Tables[Rom] = Rom | Pte.P | Pte.W;
            g.Tables[Moved] = Moved | Pte.P | Pte.W;
        }
        return g;
    }

    [Theory, Engines(Mode.Protected32), Engines(Mode.Long)]
    public void ROM_is_read_and_executed_and_a_write_to_it_is_an_access_to_a_device(string engine, Mode mode)
    {
        using Guest g = NewGuest(mode);
        g.Write(First, 0x1122_3344u);
        g.Write<byte>(First + 0x10, 0xC3); // RET
        g.Memory.Map([s_ram, new(Rom, 0x1000, First, true)]);
        g.Code(a =>
        {
            a.mov(ebx, Rom);
            a.mov(eax, g.AtBx);
            a.@out(0xE0, eax);
            a.mov(__dword(mode, 4), eax);
            a.add(g.AtBx, 0x10);
            a.mov(eax, g.AtBx);
            a.@out(0xE0, eax);
            a.mov(ecx, Rom + 0x10);
            if (mode == Mode.Long) a.call(rcx);
            else a.call(ecx);
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Assert.Equal(
            [
                new(ExitReason.Io, true, 0xE0, 4, 0x1122_3344),
                new(ExitReason.Mmio, true, Rom + 4, 4, 0x1122_3344),
                new(ExitReason.Mmio, true, Rom, 4, 0x1122_3354),
                new(ExitReason.Io, true, 0xE0, 4, 0x1122_3344),
            ], o.Accesses);
        Assert.Equal((0x1122_3344u, 0u), (g.Read<uint>(First), g.Read<uint>(First + 4)));
    }

    private static Iced.Intel.AssemblerMemoryOperand __dword(Mode mode, int offset) =>
        mode == Mode.Long ? __dword_ptr[rbx + offset] : __dword_ptr[ebx + offset];

    [Theory, Engines]
    public void A_write_to_ROM_by_a_bus_master_is_refused(string engine)
    {
        using Guest g = NewGuest(Mode.Protected32);
        g.On(engine);
        g.Memory.Map([s_ram, new(Rom, 0x1000, First, true)]);
        Assert.False(g.Memory.TryWrite(Rom, 1));
        Assert.True(g.Memory.TryWrite(First, 0x77));
        Assert.True(g.Memory.TryRead(Rom, out int seen));
        Assert.Equal(0x77, seen);
    }

    /// <summary>The same address shows other bytes, other code, RAM in the place of ROM, and nothing, each from the next instruction on.</summary>
    [Theory, Engines(Mode.Protected32), Engines(Mode.Long)]
    public void What_the_map_says_holds_from_the_next_instruction_on(string engine, Mode mode)
    {
        using Guest g = NewGuest(mode);
        g.Write(First, 0xC3_0000_0001_B8); // MOV EAX, 1; RET
        g.Write(Second, 0xC3_0000_0002_B8);
        g.Memory.Map([s_ram, new(Moved, 0x1000, First, true)]);
        var maps = new Queue<MemoryRegion[]>([
            [s_ram, new(Moved, 0x1000, Second, true)], [s_ram, new(Moved, 0x1000, First, false)], [s_ram, new(Moved, 0x1000, Second, false)], [s_ram],
        ]);
        g.OnExit = exit =>
        {
            if (exit is { Reason: ExitReason.Io, Address: 0xE1 }) g.Memory.Map(maps.Dequeue());
            return false;
        };
        g.Code(a =>
        {
            a.mov(ebx, Moved);
            for (int n = 0; n < 4; n++)
            {
                if (mode == Mode.Long) a.call(rbx);
                else a.call(ebx);
                a.@out(0xE0, eax);
                a.mov(__dword(mode, 0x100), eax);
                a.mov(eax, __dword(mode, 0x100));
                a.@out(0xE0, eax);
                a.@out(0xE1, al);
            }
            a.mov(eax, g.AtBx);
            a.hlt();
        });
        Outcome o = g.Run(engine).Done();
        Access[] shown = [.. o.Accesses.Where(x => x.Address != 0xE1)];
        Access Out(uint value) => new(ExitReason.Io, true, 0xE0, 4, value);
        Assert.Equal(
            [
                Out(1), new(ExitReason.Mmio, true, Moved + 0x100, 4, 1), Out(0),
                Out(2), new(ExitReason.Mmio, true, Moved + 0x100, 4, 2), Out(0),
                Out(1), Out(1),
                Out(2), Out(2),
                new(ExitReason.Mmio, false, Moved, 4, uint.MaxValue),
            ], shown);
        Assert.Equal((1u, 2u), (g.Read<uint>(First + 0x100), g.Read<uint>(Second + 0x100)));
    }
}
