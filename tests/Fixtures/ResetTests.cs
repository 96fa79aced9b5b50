using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>A reset by the guest resets processors and devices, and boots again where the machine may.</summary>
public sealed class ResetTests
{
    private const uint Counter = Layout.Data; // RAM that no loader writes

    [Theory]
    [Engines("cf9"), Engines("8042"), Engines("port92")]
    public void A_guest_that_resets_boots_again_with_fresh_devices_and_its_memory(string engine, string door)
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            Label done = a.CreateLabel();
            // What the devices are like: scratch register of COM1, POST code, A20 by port 92h. Then spoils them.
            a.mov(dx, 0x3FF);
            a.@in(al, dx);
            a.@out(0xE9, al);
            a.@in(al, 0x81);
            a.@out(0xE9, al);
            a.@in(al, 0x92);
            a.@out(0xE9, al);
            a.mov(al, 0x5A);
            a.@out(dx, al);
            a.@out(0x81, al);
            a.mov(al, 2);
            a.@out(0x92, al);
            a.mov(eax, cr2);
            a.@out(0xE9, al);
            a.mov(ecx, 0x77);
            a.mov(cr2, ecx);
            a.inc(__dword_ptr[Counter]);
            a.mov(eax, __dword_ptr[Counter]);
            a.@out(0xE9, al);
            a.cmp(eax, 3);
            a.jae(done);
            switch (door)
            {
                case "cf9": a.mov(dx, 0xCF9); a.mov(al, 6); a.@out(dx, al); break;
                case "8042": a.mov(al, 0xFE); a.@out(0x64, al); break;
                default: a.mov(al, 3); a.@out(0x92, al); break;
            }
            // Not one instruction more than what the exit needs.
            a.mov(al, 0xEE);
            a.@out(0xE9, al);
            a.Label(ref done);
            a.mov(al, 0);
            a.@out(0xF4, al);
        });
        var said = new List<byte>();
        using var vm = new X86Machine(TestedEngines.Find(engine), g.Model, Layout.MemorySize);
        _ = new PcBoard(vm, new PcBoardOptions { DebugExit = true, DebugOutput = b => said.AddRange(b) });
        byte[] image = new byte[Layout.Spare - Layout.Gdt];
        Assert.True(g.Memory.Read(Layout.Gdt, image));
        Load();
        vm.RebootsOnReset = () => true;
        vm.AfterReset += Load;
        vm.Start();
        Assert.Equal(StopReason.DebugExit, BoardGuest.Ends(vm)?.Reason);
        Assert.Equal("000000000100000000020000000003", Convert.ToHexString([.. said]));

        void Load()
        {
            // Not the counter: RAM stays over a reset.
            for (int n = 0; n < image.Length; n += 4096)
            {
                if (Layout.Gdt + (uint)n != (Counter & ~0xFFFu))
                    Assert.True(vm.Memory.Write(Layout.Gdt + (ulong)n, image.AsSpan(n, Math.Min(4096, image.Length - n))));
            }
            vm.Cpus[0].Cpu.WriteState(g.State);
        }
    }

    [Theory, Engines]
    public void A_triple_fault_ends_the_machine_in_any_case(string engine)
    {
        using var g = new Guest(Mode.Protected32);
        g.State.IdtrLimit = 0;
        g.Code(a => a.ud2());
        using var vm = new X86Machine(TestedEngines.Find(engine), g.Model, Layout.MemorySize) { RebootsOnReset = () => true };
        byte[] image = new byte[Layout.Spare - Layout.Gdt];
        Assert.True(g.Memory.Read(Layout.Gdt, image));
        Assert.True(vm.Memory.Write(Layout.Gdt, image));
        vm.Cpus[0].Cpu.WriteState(g.State);
        vm.Start();
        Assert.Equal(StopReason.Shutdown, BoardGuest.Ends(vm)?.Reason);
    }
}
