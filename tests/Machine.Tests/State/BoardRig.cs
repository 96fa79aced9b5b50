using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Hypervisor.X86.Paravirtual;
using Bunraku.Machine.Board;
using Bunraku.Machine.Tests.Board;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Tests.State;

/// <summary>A full board on an engine whose guest does nothing, with time that only the test moves, and accesses that it makes up.</summary>
internal sealed class BoardRig : IDisposable
{
    public const ulong Memory = 4 << 20, DisplayMemory = 1 << 20;
    public const int Cpus = 2;

    /// <summary>PCI slot of the virtio device, where a test does not ask for other parts.</summary>
    public const int VirtioSlot = 5;

    private static readonly CpuModel s_model =
        IdleEngine.Model with { Features = new HashSet<CpuFeature>(IdleEngine.Model.Features) { CpuFeature.Hypervisor } };

    private readonly X86Exit _exit = new();

    public BoardRig(ulong startTsc = 0, params IBoardPart[] parts)
    {
        Machine = new X86Machine(new IdleEngine(), s_model, MemoryLayout.Regions(Memory, DisplayMemory), Cpus,
            new X86MachineOptions { TscFrequency = 1_000_000_000 });
        Machine.Pause();
        Machine.Clock.Step(startTsc);
        Board = new PcBoard(Machine, new PcBoardOptions
        {
            SerialOutput = b => Output.AddRange(b),
            SecondSerialOutput = b => Output.AddRange(b),
            DebugOutput = b => Output.AddRange(b),
            DebugExit = true,
            TestDevice = true,
            Parts = parts.Length > 0 ? parts : [new VirtioPart(new Entropy("rng", bytes => bytes.Fill(0x5A)), VirtioSlot)],
            StartTime = new DateTime(2026, 2, 28, 23, 59, 50, DateTimeKind.Utc),
        });
        Board.FwCfg.AddFile("opt/test/writable", new byte[100], writable: true);
        Board.FwCfg.AddFile("opt/test/fixed", [1, 2, 3, 4, 5]);
    }

    public X86Machine Machine { get; }
    public PcBoard Board { get; }

    /// <summary>What left the machine.</summary>
    public List<byte> Output { get; } = [];

    public ulong Io(ushort port, int size, bool write, ulong value) => Access(0, ExitReason.Io, port, size, write, value);

    public ulong Mmio(int cpu, ulong address, int size, bool write, ulong value) => Access(cpu, ExitReason.Mmio, address, size, write, value);

    public ulong Msr(int cpu, uint index, bool write, ulong value) => Access(cpu, ExitReason.Msr, index, 8, write, value);

    private ulong Access(int cpu, ExitReason reason, ulong address, int size, bool write, ulong value)
    {
        (_exit.Reason, _exit.Address, _exit.Size, _exit.IsWrite, _exit.Data, _exit.Fault) = (reason, address, size, write, write ? value : 0, false);
        Machine.Cpus[cpu].Handle(_exit);
        ulong mask = size == 8 ? ulong.MaxValue : (1ul << 8 * size) - 1;
        return _exit.Fault ? 0xFA17 : _exit.Data & mask;
    }

    /// <summary>Virtual time goes on by so many ns; what is due then comes.</summary>
    public void Advance(ulong nanoseconds)
    {
        Machine.Clock.Step(nanoseconds);
        Machine.Timers.RunDue();
    }

    /// <summary>What a vCPU's run loop would do between two entries, as one number.</summary>
    public ulong TakeEvents(int cpu)
    {
        IInterruptSource source = Machine.Cpus[cpu].Interrupts!;
        lock (Machine.InterruptLock)
        {
            ulong seen = (source.InterruptPending ? 1ul : 0) | (source.NmiPending ? 2ul : 0) | (source.WaitsForStartUp ? 4ul : 0) | source.Cr8 << 4;
            if (source.TakeInit()) seen |= 1 << 8;
            if (source.TakeStartUp() is { } vector) seen |= (ulong)vector << 16 | 1 << 9;
            if (source.TakeNmi()) seen |= 1 << 10;
            else if (source.AcknowledgeInterrupt() is { } interrupt) seen |= (ulong)interrupt << 24 | 1 << 11;
            return seen;
        }
    }

    public void Dispose() => Machine.Dispose();
}
