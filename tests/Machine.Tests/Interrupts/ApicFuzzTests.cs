using static Bunraku.Machine.Tests.Interrupts.ApicFixture;

namespace Bunraku.Machine.Tests.Interrupts;

/// <summary>A hostile guest: random accesses to every register never throw, hang or break an invariant.</summary>
public sealed class ApicFuzzTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(3)]
    public void RandomAccesses(int seed)
    {
        const int Steps = 200_000, Cpus = 3;
        var random = new Random(seed);
        var f = new ApicFixture(Cpus);
        for (int step = 0; step < Steps; step++)
        {
            int cpu = random.Next(Cpus);
            ulong value = random.Next(3) switch { 0 => (ulong)random.NextInt64(), 1 => (uint)random.Next(), _ => (ulong)random.Next(0x800) };
            switch (random.Next(10))
            {
                case 0:
                    f.Mmio(cpu).Write(DefaultBase + (uint)random.Next(0x1000), 1 << random.Next(4), value);
                    break;
                case 1:
                    f.Write((uint)random.Next(0x40) << 4, (uint)value, cpu);
                    break;
                case 2:
                    _ = f.Mmio(cpu).Read(DefaultBase + (uint)random.Next(0x1000), 1 << random.Next(4));
                    break;
                case 3:
                    f.Bus.TryWriteMsr(cpu, X2ApicMsr + (uint)random.Next(0x40), value);
                    break;
                case 4:
                    f.Bus.TryReadMsr(cpu, X2ApicMsr + (uint)random.Next(0x100), out _);
                    break;
                case 5:
                    f.Bus.TryWriteMsr(cpu, random.Next(2) == 0 ? TscDeadlineMsr : BaseMsr, random.Next(2) == 0 ? value
                        : DefaultBase | value & (Enable | Extd | Bsp));
                    break;
                case 6:
                    f.IoApic.WriteMmio((uint)random.Next(0x50), 1 << random.Next(4), value);
                    _ = f.IoApic.ReadMmio((uint)random.Next(0x50), 1 << random.Next(4));
                    break;
                case 7:
                    f.IoApic.GetLine(random.Next(24)).Set(random.Next(2) == 0);
                    (random.Next(2) == 0 ? f.Apic(cpu).Lint0 : f.Apic(cpu).Lint1).Set(random.Next(2) == 0);
                    break;
                case 8:
                    f.Time.Advance(random.Next(100_000));
                    break;
                default:
                    f.Bus.DeliverMsi(0xFEE0_0000 | value & 0xF_FFFF, (uint)value);
                    break;
            }
            if (!f.Apic(cpu).InterruptPending) continue;
            byte? vector = f.Apic(cpu).AcknowledgeInterrupt();
            Assert.True(vector >= 16 || vector == f.PicVector);
            if (random.Next(2) == 0) f.Write(Eoi, 0, cpu);
        }
    }
}
