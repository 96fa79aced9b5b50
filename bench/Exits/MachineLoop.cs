using Bunraku.Engines;
using Bunraku.Hypervisor;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Bench.Exits;

/// <summary>What the guests of a <see cref="MachineLoop"/> repeat.</summary>
internal sealed record DeviceAccess(string Name, Action<Assembler> Emit)
{
    public static IReadOnlyList<DeviceAccess> All { get; } =
    [
        new("OUT", a => a.@out(dx, al)),
        new("IN", a => a.@in(al, dx)),
        new("MMIO write", a => a.mov(__dword_ptr[edi], eax)),
        new("MMIO read", a => a.mov(eax, __dword_ptr[edi])),
    ];
}

/// <summary>
/// A whole virtual machine: each vCPU repeats an access to a device, all to one or each to its own, with run loop, buses and a record of each exit as the
/// command line keeps it. Costs are processor time of the vCPUs' threads, so that a busy host does not count.
/// </summary>
internal static class MachineLoop
{
    private const uint Code = 0x1000;
    private const ushort FirstPort = 0x500, DonePort = 0x400;
    private const uint FirstAddress = 0xD000_0000, Stride = 0x1000;

    /// <returns>Nanoseconds of processor time for each access, and how often in a thousand a thread waited for a lock.</returns>
    public static (double Nanoseconds, double Contentions) Measure(IX86Engine engine, CpuModel model, DeviceAccess access, int cpus, bool sameDevice, int count)
    {
        using var vm = new X86Machine(engine, model, 16 << 20, cpus, new X86MachineOptions { Paravirtual = false });
        var log = new Bunraku.Sessions.ExitLog(cpus);
        using var done = new CountdownEvent(cpus);
        vm.Ports.Add(DonePort, 1, new Done(done));
        for (int n = 0; n < (sameDevice ? 1 : cpus); n++)
        {
            var device = new Device();
            vm.Ports.Add((ushort)(FirstPort + n), 1, device);
            vm.Mmio.Add(FirstAddress + (uint)n * Stride, Stride, device);
        }
        var a = new Assembler(32);
        Label again = a.CreateLabel();
        a.Label(ref again);
        access.Emit(a);
        a.dec(ecx);
        a.jnz(again);
        a.mov(dx, DonePort);
        a.@out(dx, al);
        a.hlt();
        var bytes = new MemoryStream();
        a.Assemble(new StreamCodeWriter(bytes), Code);
        vm.Memory.Write(Code, bytes.ToArray());
        foreach (X86CpuThread cpu in vm.Cpus)
        {
            int n = sameDevice ? 0 : cpu.Cpu.Index;
            CpuState state = ExitLoop.State();
            (state.Gpr[1], state.Gpr[2], state.Gpr[7]) = ((ulong)count, (ulong)(FirstPort + n), FirstAddress + (ulong)n * Stride);
            cpu.Cpu.WriteState(state);
            cpu.OnExit = (c, exit) => log.Add(Bunraku.Sessions.ExitRecord.From(vm.Clock.Nanoseconds, c.Cpu.Index, exit));
        }
        long contentions = Monitor.LockContentionCount;
        vm.Start();
        done.Wait();
        double run = vm.Cpus.Sum(c => c.HostTime.Run);
        return (run / cpus / count, (Monitor.LockContentionCount - contentions) * 1000.0 / cpus / count);
    }

    private sealed class Device : IPortDevice, IMmioDevice
    {
        private ulong _value;

        public uint ReadPort(ushort offset, int size) => (uint)_value;

        public void WritePort(ushort offset, int size, uint value) => _value = value;

        public ulong ReadMmio(ulong offset, int size) => _value;

        public void WriteMmio(ulong offset, int size, ulong value) => _value = value;
    }

    private sealed class Done(CountdownEvent done) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size) => 0;

        public void WritePort(ushort offset, int size, uint value) => done.Signal();
    }
}
