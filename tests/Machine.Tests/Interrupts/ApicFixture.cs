using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Interrupts;

namespace Bunraku.Machine.Tests.Interrupts;

/// <summary>Local APICs on a bus with an I/O APIC, in a time that only the test moves.</summary>
internal sealed class ApicFixture
{
    public const uint BaseMsr = 0x1B, TscDeadlineMsr = 0x6E0, X2ApicMsr = 0x800;
    public const ulong Bsp = 1 << 8, Extd = 1 << 10, Enable = 1 << 11, DefaultBase = 0xFEE0_0000;

    public const uint Id = 0x20, VersionRegister = 0x30, Tpr = 0x80, Ppr = 0xA0, Eoi = 0xB0, Ldr = 0xD0, Dfr = 0xE0, Svr = 0xF0, Isr = 0x100, Tmr = 0x180,
        Irr = 0x200, Esr = 0x280, IcrLow = 0x300, IcrHigh = 0x310, LvtTimer = 0x320, LvtThermal = 0x330, LvtPerf = 0x340, LvtLint0 = 0x350,
        LvtLint1 = 0x360, LvtError = 0x370, InitialCount = 0x380, CurrentCount = 0x390, Divide = 0x3E0, SelfIpi = 0x3F0;
    public const uint Masked = 1 << 16, Periodic = 1 << 17, TscDeadlineMode = 1 << 18, DivideBy1 = 0xB;

    private readonly MmioBus[] _mmio;

    public ApicFixture(int cpus = 1, bool enable = true, params CpuFeature[] without)
    {
        HashSet<CpuFeature> features = [CpuFeature.Apic, CpuFeature.X2apic, CpuFeature.TscDeadline];
        features.ExceptWith(without);
        var model = new CpuModel("test", "GenuineIntel", 6, 1, 1, "test", features) { PhysicalAddressBits = 40 };
        IoApic = new IoApic(Bus);
        _mmio = [.. Enumerable.Range(0, cpus).Select(_ => new MmioBus())];
        Wakes = new int[cpus];
        for (int n = 0; n < cpus; n++)
        {
            int cpu = n;
            _ = new LocalApic(n, Bus, Time, model, _mmio[n], () => (ulong)Time.Nanoseconds + TscOffset, () => Wakes[cpu]++, () => PicVector);
        }
        if (!enable) return;
        for (int n = 0; n < cpus; n++) Write(Svr, 0x1FF, n);
    }

    public TestTime Time { get; } = new();
    public ApicBus Bus { get; } = new();
    public IoApic IoApic { get; }
    public int[] Wakes { get; }
    public ulong TscOffset { get; set; }
    public byte PicVector { get; set; } = 0x08;

    public LocalApic Apic(int cpu = 0) => Bus.LocalApics[cpu];

    /// <summary>What the vCPU reads at a guest-physical address.</summary>
    public uint ReadPhysical(ulong address, int cpu = 0) => (uint)_mmio[cpu].Read(address, 4);

    public uint Read(uint register, int cpu = 0) => ReadPhysical(DefaultBase + register, cpu);

    public void Write(uint register, uint value, int cpu = 0) => _mmio[cpu].Write(DefaultBase + register, 4, value);

    public MmioBus Mmio(int cpu = 0) => _mmio[cpu];

    /// <summary>RDMSR; fails the test on #GP.</summary>
    public ulong ReadMsr(uint index, int cpu = 0)
    {
        Assert.True(Bus.TryReadMsr(cpu, index, out ulong value), $"#GP reading {index:X}");
        return value;
    }

    public void WriteMsr(uint index, ulong value, int cpu = 0) => Assert.True(Bus.TryWriteMsr(cpu, index, value), $"#GP writing {index:X}");

    public bool ReadFaults(uint index, int cpu = 0) => !Bus.TryReadMsr(cpu, index, out _);

    public bool WriteFaults(uint index, ulong value, int cpu = 0) => !Bus.TryWriteMsr(cpu, index, value);

    /// <summary>The x2APIC MSR of a register, by its xAPIC offset.</summary>
    public static uint X2(uint register) => X2ApicMsr + (register >> 4);

    public void EnterX2Apic(int cpu = 0) => WriteMsr(BaseMsr, ReadMsr(BaseMsr, cpu) | Extd, cpu);

    /// <summary>Takes all deliverable interrupts with EOI after each; their vectors in order.</summary>
    public List<int> TakeAll(int cpu = 0)
    {
        List<int> vectors = [];
        while (Apic(cpu).InterruptPending && vectors.Count < 1000)
        {
            vectors.Add(Apic(cpu).AcknowledgeInterrupt() ?? -1);
            Write(Eoi, 0, cpu);
        }
        return vectors;
    }

    /// <summary>Whether a vector is set in one of ISR, TMR, IRR.</summary>
    public bool Bit(uint register, int vector, int cpu = 0) => (Read(register + (uint)(vector >> 5 << 4), cpu) >> (vector & 31) & 1) != 0;

    /// <summary>Writes a redirection entry of the I/O APIC, high half first.</summary>
    public void Redirect(int pin, ulong entry)
    {
        WriteIoApic((byte)(0x11 + 2 * pin), (uint)(entry >> 32));
        WriteIoApic((byte)(0x10 + 2 * pin), (uint)entry);
    }

    public uint ReadIoApic(byte index)
    {
        IoApic.WriteMmio(0, 4, index);
        return (uint)IoApic.ReadMmio(0x10, 4);
    }

    public void WriteIoApic(byte index, uint value)
    {
        IoApic.WriteMmio(0, 4, index);
        IoApic.WriteMmio(0x10, 4, value);
    }
}
