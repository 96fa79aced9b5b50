using Bunraku.Engines;
using static Bunraku.Machine.Tests.Interrupts.ApicFixture;

namespace Bunraku.Machine.Tests.Interrupts;

/// <summary>
/// The local APIC against Intel SDM vol. 3A (325462-083), chapter "Advanced Programmable Interrupt Controller (APIC)"; names cite its sections.
/// </summary>
public sealed class LocalApicTests
{
    [Fact]
    public void LocalApicStateAfterPowerUpOrReset()
    {
        var f = new ApicFixture(cpus: 2, enable: false);
        foreach (int cpu in (int[])[0, 1])
        {
            Assert.Equal(DefaultBase | Enable | (cpu == 0 ? Bsp : 0), f.ReadMsr(BaseMsr, cpu));
            foreach (uint zero in (uint[])[Tpr, Ppr, Ldr, Esr, IcrLow, IcrHigh, InitialCount, CurrentCount, Divide]) Assert.Equal(0u, f.Read(zero, cpu));
            for (uint n = 0; n < 0x80; n += 0x10)
                foreach (uint set in (uint[])[Isr, Tmr, Irr]) Assert.Equal(0u, f.Read(set + n, cpu));
            foreach (uint lvt in (uint[])[LvtTimer, LvtThermal, LvtPerf, LvtLint0, LvtLint1, LvtError]) Assert.Equal(Masked, f.Read(lvt, cpu));
            Assert.Equal(uint.MaxValue, f.Read(Dfr, cpu));
            Assert.Equal(0xFFu, f.Read(Svr, cpu));
            Assert.Equal((uint)cpu << 24, f.Read(Id, cpu));
            Assert.False(f.Apic(cpu).InterruptPending);
        }
    }

    [Fact]
    public void LocalApicVersionRegister()
    {
        uint version = new ApicFixture().Read(VersionRegister);
        Assert.InRange(version & 0xFF, 0x10u, 0x15u); // integrated APIC
        Assert.Equal(5u, version >> 16 & 0xFF); // six LVT entries: no CMCI
        Assert.Equal(1u, version >> 24 & 1); // EOI broadcasts can be suppressed
    }

    [Fact]
    public void TaskAndProcessorPriorities()
    {
        var f = new ApicFixture();
        f.Write(Tpr, 0x45);
        Assert.Equal(0x45u, f.Read(Ppr)); // TPR class >= ISRV class: PPR is TPR
        SelfIpi(f, 0x4F);
        Assert.False(f.Apic().InterruptPending); // same class is not above
        SelfIpi(f, 0x51);
        Assert.True(f.Apic().InterruptPending);
        Assert.Equal((byte)0x51, f.Apic().AcknowledgeInterrupt());
        Assert.Equal(0x50u, f.Read(Ppr)); // ISRV class above TPR's: PPR 3:0 is 0
        Assert.True(f.Bit(Isr, 0x51));
        Assert.False(f.Bit(Irr, 0x51));
        SelfIpi(f, 0x5F);
        Assert.False(f.Apic().InterruptPending);
        SelfIpi(f, 0x60);
        Assert.Equal((byte)0x60, f.Apic().AcknowledgeInterrupt()); // nested
        f.Write(Eoi, 0);
        Assert.False(f.Bit(Isr, 0x60));
        Assert.True(f.Bit(Isr, 0x51));
        f.Write(Eoi, 0);
        f.Write(Tpr, 0);
        Assert.Equal([0x5F, 0x4F], f.TakeAll());
    }

    [Fact]
    public void InteractionOfTaskPrioritiesBetweenCr8AndApic()
    {
        var f = new ApicFixture();
        f.Write(Tpr, 0x7F);
        Assert.Equal(7ul, f.Apic().Cr8);
        f.Apic().Cr8 = 9;
        Assert.Equal(0x90u, f.Read(Tpr)); // TPR[3:0] is cleared
    }

    [Fact]
    public void LocalApicStateAfterItHasBeenSoftwareDisabled()
    {
        var f = new ApicFixture();
        f.Write(LvtLint0, 0x31);
        SelfIpi(f, 0x40);
        f.Write(Svr, 0xFF);
        foreach (uint lvt in (uint[])[LvtTimer, LvtThermal, LvtPerf, LvtLint0, LvtLint1, LvtError]) Assert.Equal(Masked, f.Read(lvt) & Masked);
        f.Write(LvtLint0, 0x31);
        Assert.Equal(Masked, f.Read(LvtLint0) & Masked); // "attempts to reset these bits will be ignored"
        SelfIpi(f, 0x50); // not accepted
        f.Bus.DeliverMsi(0xFEE0_0000, 0x400); // NMI is
        Assert.True(f.Apic().TakeNmi());
        Assert.Equal([0x40], f.TakeAll()); // what was pending stays
    }

    [Theory]
    [InlineData(0ul, Enable, true)] // disabled -> xAPIC
    [InlineData(0ul, Enable | Extd, false)]
    [InlineData(0ul, Extd, false)]
    [InlineData(Enable, 0ul, true)]
    [InlineData(Enable, Enable | Extd, true)]
    [InlineData(Enable, Extd, false)]
    [InlineData(Enable | Extd, 0ul, true)]
    [InlineData(Enable | Extd, Enable, false)]
    [InlineData(Enable | Extd, Extd, false)]
    [InlineData(Enable | Extd, Enable | Extd, true)]
    public void LocalApicStateTransitionsWithApicBase(ulong from, ulong to, bool legal)
    {
        var f = new ApicFixture();
        f.WriteMsr(BaseMsr, DefaultBase | Bsp | from);
        Assert.Equal(!legal, f.WriteFaults(BaseMsr, DefaultBase | Bsp | to));
        Assert.Equal(DefaultBase | Bsp | (legal ? to : from), f.ReadMsr(BaseMsr));
    }

    [Fact]
    public void ApicBaseReservedBits()
    {
        var f = new ApicFixture();
        ulong good = f.ReadMsr(BaseMsr);
        foreach (int bit in (int[])[0, 1, 2, 3, 4, 5, 6, 7, 9, 40, 51, 52, 63]) Assert.True(f.WriteFaults(BaseMsr, good | 1ul << bit), $"bit {bit}");
        Assert.True(new ApicFixture(1, true, CpuFeature.X2apic).WriteFaults(BaseMsr, good | Extd));
    }

    [Fact]
    public void RelocatingTheLocalApicRegisters()
    {
        var f = new ApicFixture();
        f.WriteMsr(BaseMsr, 0xFED4_0000 | Enable | Bsp);
        Assert.Equal(f.ReadPhysical(0xFED4_0030), new ApicFixture().Read(VersionRegister));
        Assert.Equal(uint.MaxValue, f.Read(VersionRegister));
    }

    [Fact]
    public void EnablingOrDisablingTheLocalApic()
    {
        var f = new ApicFixture();
        f.Apic().Cr8 = 3;
        f.WriteMsr(BaseMsr, DefaultBase | Bsp);
        Assert.Equal(uint.MaxValue, f.Read(VersionRegister));
        Assert.Equal(3ul, f.Apic().Cr8);
        Assert.True(f.ReadFaults(X2(VersionRegister)));
        f.WriteMsr(BaseMsr, DefaultBase | Bsp | Enable);
        Assert.Equal(0x30u, f.Read(Tpr));
        f.EnterX2Apic();
        Assert.Equal(uint.MaxValue, f.Read(VersionRegister)); // the page is gone in x2APIC mode
        Assert.Equal(0x30ul, f.ReadMsr(X2(Tpr)));
    }

    [Fact]
    public void PicDeliversDirectlyWhileTheApicIsDisabled()
    {
        var f = new ApicFixture(enable: false) { PicVector = 0x24 };
        f.WriteMsr(BaseMsr, DefaultBase | Bsp);
        f.Apic().Lint0.Set(true);
        Assert.Equal(1, f.Wakes[0]);
        Assert.Equal((byte)0x24, f.Apic().AcknowledgeInterrupt());
        f.Apic().Lint0.Set(false);
        Assert.False(f.Apic().InterruptPending);
        f.Apic().Lint1.Set(true);
        Assert.True(f.Apic().TakeNmi());
    }

    [Fact]
    public void ExtIntOnLint0GoesPastThePriorities()
    {
        var f = new ApicFixture() { PicVector = 0x08 };
        f.Write(LvtLint0, 0x700);
        f.Write(Tpr, 0xF0);
        f.Apic().Lint0.Set(true);
        Assert.Equal((byte)0x08, f.Apic().AcknowledgeInterrupt());
        Assert.False(f.Bit(Isr, 8)); // ISR stays out of it
        f.Write(LvtLint0, 0x700 | Masked);
        Assert.False(f.Apic().InterruptPending);
    }

    [Theory]
    [InlineData(LvtLint0)]
    [InlineData(LvtLint1)]
    public void LocalInterruptDeliveryModes(uint lvt)
    {
        var f = new ApicFixture();
        Hypervisor.IInterruptLine pin = lvt == LvtLint0 ? f.Apic().Lint0 : f.Apic().Lint1;
        f.Write(lvt, 0x35); // fixed, edge
        pin.Set(true);
        pin.Set(true);
        Assert.Equal([0x35], f.TakeAll());
        pin.Set(false);
        f.Write(lvt, 0x400); // NMI
        pin.Set(true);
        Assert.True(f.Apic().NmiPending);
        Assert.True(f.Apic().TakeNmi());
        Assert.False(f.Apic().TakeNmi());
        pin.Set(false);
        f.Write(lvt, 0x400 | Masked);
        pin.Set(true);
        Assert.False(f.Apic().NmiPending);
    }

    [Fact]
    public void Lint0LevelTriggeredHasRemoteIrr()
    {
        var f = new ApicFixture();
        f.Write(LvtLint0, 0x35 | 1 << 15);
        f.Apic().Lint0.Set(true);
        Assert.Equal((byte)0x35, f.Apic().AcknowledgeInterrupt());
        Assert.NotEqual(0u, f.Read(LvtLint0) & 1 << 14);
        f.Write(Eoi, 0);
        Assert.True(f.Apic().InterruptPending); // still asserted
        f.Apic().Lint0.Set(false);
        Assert.Equal([0x35], f.TakeAll());
        Assert.Equal(0u, f.Read(LvtLint0) & 1 << 14);
    }

    [Fact]
    public void ErrorHandling()
    {
        var f = new ApicFixture();
        f.Write(LvtError, 0xFE);
        SelfIpi(f, 0x0F);
        Assert.Equal(0u, f.Read(Esr)); // a write brings it up to date
        f.Write(Esr, 0);
        Assert.Equal(1u << 5, f.Read(Esr)); // send illegal vector
        Assert.Equal([0xFE], f.TakeAll());

        f.Bus.DeliverMsi(0xFEE0_0000, 0x05);
        _ = f.Read(0x40); // reserved register
        f.Write(Esr, 0);
        Assert.Equal(1u << 6 | 1u << 7, f.Read(Esr)); // received illegal vector, illegal register address
        Assert.Equal([0xFE], f.TakeAll()); // once until ESR is written
        f.Write(Esr, 0);
        Assert.Equal(0u, f.Read(Esr));
    }

    [Fact]
    public void IllegalErrorVectorDoesNotLoop()
    {
        var f = new ApicFixture();
        f.Write(LvtError, 3);
        SelfIpi(f, 2);
        f.Write(Esr, 0);
        Assert.Equal(1u << 5 | 1u << 6, f.Read(Esr));
        Assert.False(f.Apic().InterruptPending);
    }

    [Fact]
    public void LvtWritableBits()
    {
        var f = new ApicFixture();
        (uint, uint)[] expected =
        [
            (LvtTimer, 0x7_00FF), (LvtThermal, 0x1_07FF), (LvtPerf, 0x1_07FF), (LvtLint0, 0x1_A7FF), (LvtLint1, 0x1_A7FF), (LvtError, 0x1_00FF),
        ];
        foreach ((uint lvt, uint bits) in expected)
        {
            f.Write(lvt, uint.MaxValue);
            Assert.Equal(bits, f.Read(lvt));
        }
        var old = new ApicFixture(1, true, CpuFeature.TscDeadline);
        old.Write(LvtTimer, uint.MaxValue);
        Assert.Equal(0x3_00FFu, old.Read(LvtTimer));
        Assert.True(old.ReadFaults(TscDeadlineMsr));
        Assert.True(old.WriteFaults(TscDeadlineMsr, 1));
    }

    [Fact]
    public void OnlyAlignedDoublewordsReachTheRegisters()
    {
        var f = new ApicFixture();
        f.Mmio().Write(DefaultBase + Tpr, 1, 0x50);
        f.Mmio().Write(DefaultBase + Tpr + 4, 4, 0x50);
        f.Mmio().Write(DefaultBase + Tpr, 8, 0x50);
        Assert.Equal(0u, f.Read(Tpr));
        Assert.Equal(0ul, f.Mmio().Read(DefaultBase + VersionRegister + 8, 4));
        Assert.Equal(f.Read(VersionRegister) >> 16, f.Mmio().Read(DefaultBase + VersionRegister + 2, 2));
    }

    // ---- x2APIC

    [Fact]
    public void X2ApicRegisterAvailability()
    {
        var f = new ApicFixture();
        f.EnterX2Apic();
        // Table "Local APIC Register Address Map Supported by x2APIC": everything else raises #GP.
        uint[] readable =
        [
            0x802, 0x803, 0x808, 0x80A, 0x80D, 0x80F, .. Enumerable.Range(0x810, 0x18).Select(n => (uint)n), 0x828, 0x830,
            .. Enumerable.Range(0x832, 8).Select(n => (uint)n), 0x83E,
        ];
        uint[] writableWithZero = [0x808, 0x80B, 0x80F, 0x828, 0x832, 0x833, 0x834, 0x835, 0x836, 0x837, 0x838, 0x83E, 0x83F];
        for (uint msr = 0x800; msr <= 0x8FF; msr++)
        {
            Assert.Equal(!readable.Contains(msr), f.ReadFaults(msr));
            if (msr != 0x830) Assert.Equal(!writableWithZero.Contains(msr), f.WriteFaults(msr, 0));
        }
    }

    [Fact]
    public void X2ApicReservedBitChecking()
    {
        var f = new ApicFixture();
        f.EnterX2Apic();
        (uint Register, uint Legal)[] registers =
        [
            (Tpr, 0xFF), (Svr, 0x13FF), (LvtTimer, 0x7_10FF), (LvtThermal, 0x1_17FF), (LvtPerf, 0x1_17FF), (LvtLint0, 0x1_F7FF), (LvtLint1, 0x1_F7FF),
            (LvtError, 0x1_10FF), (Divide, 0xB), (ApicFixture.SelfIpi, 0xFF), (InitialCount, uint.MaxValue), (Eoi, 0), (Esr, 0),
        ];
        foreach ((uint register, uint legal) in registers)
        {
            for (int bit = 0; bit < 64; bit++)
                Assert.True(((ulong)legal >> bit & 1) == 0 == f.WriteFaults(X2(register), 1ul << bit), $"register {register:X} bit {bit}");
        }
        foreach (int bit in (int[])[13, 16, 17, 20, 31]) Assert.True(f.WriteFaults(X2(IcrLow), 0x40FF | 1ul << bit), $"ICR bit {bit}");
    }

    [Fact]
    public void LogicalX2ApicIdIsDerivedFromTheX2ApicId()
    {
        var f = new ApicFixture(cpus: 20);
        f.EnterX2Apic(18);
        Assert.Equal(18ul, f.ReadMsr(X2(Id), 18));
        Assert.Equal(0x1_0004ul, f.ReadMsr(X2(Ldr), 18));
    }

    [Fact]
    public void SelfIpiRegister()
    {
        var f = new ApicFixture();
        f.EnterX2Apic();
        f.WriteMsr(X2(ApicFixture.SelfIpi), 0x61);
        Assert.Equal((byte)0x61, f.Apic().AcknowledgeInterrupt());
        Assert.Equal(0ul, f.ReadMsr(X2(IcrLow)));
        Assert.Equal(0, f.Wakes[0]); // the vCPU is awake: it has just written the register
    }

    // ---- interprocessor interrupts

    [Theory]
    [InlineData(0x4050, 2u, new[] { 2 })] // physical
    [InlineData(0x4050, 0xFFu, new[] { 0, 1, 2, 3 })]
    [InlineData(0x4050, 9u, new int[0])]
    [InlineData(0x4850, 0x06u, new[] { 1, 2 })] // logical, flat
    [InlineData(0x4850, 0xFFu, new[] { 0, 1, 2, 3 })]
    [InlineData(0x4_4050, 3u, new[] { 0 })] // self
    [InlineData(0x8_4050, 3u, new[] { 0, 1, 2, 3 })] // all including self
    [InlineData(0xC_4050, 0u, new[] { 1, 2, 3 })] // all excluding self
    public void DeterminingIpiDestination(uint icr, uint destination, int[] expected)
    {
        var f = new ApicFixture(cpus: 4);
        for (int n = 0; n < 4; n++) f.Write(Ldr, 1u << (24 + n), n);
        f.Write(IcrHigh, destination << 24);
        f.Write(IcrLow, icr);
        Assert.Equal(expected, Receivers(f, 0x50));
        Assert.Equal(0u, f.Read(IcrLow) & 1 << 12); // delivery status: idle

        var x2 = new ApicFixture(cpus: 4);
        for (int n = 0; n < 4; n++) x2.EnterX2Apic(n);
        x2.WriteMsr(X2(IcrLow), (ulong)(destination == 0xFF ? uint.MaxValue : destination) << 32 | icr);
        Assert.Equal(expected, Receivers(x2, 0x50));
    }

    [Fact]
    public void LogicalDestinationModeFlatCluster()
    {
        var f = new ApicFixture(cpus: 4);
        uint[] ids = [0x11, 0x12, 0x21, 0x22];
        for (int n = 0; n < 4; n++)
        {
            f.Write(Dfr, 0x0FFF_FFFF, n);
            f.Write(Ldr, ids[n] << 24, n);
        }
        f.Write(IcrHigh, 0x23u << 24);
        f.Write(IcrLow, 0x4850);
        Assert.Equal([2, 3], Receivers(f, 0x50));
        f.Write(IcrHigh, 0xFFu << 24);
        f.Write(IcrLow, 0x4861);
        Assert.Equal([0, 1, 2, 3], Receivers(f, 0x61));
    }

    [Fact]
    public void LowestPriorityDeliveryMode()
    {
        var f = new ApicFixture(cpus: 3);
        f.Write(Tpr, 0x30, 0);
        f.Write(Tpr, 0x10, 1);
        f.Write(Tpr, 0x20, 2);
        f.Write(IcrHigh, 0xFFu << 24);
        f.Write(IcrLow, 0x4150);
        Assert.Equal([1], Receivers(f, 0x50));
    }

    [Fact]
    public void NmiInitAndStartUpMessages()
    {
        var f = new ApicFixture(cpus: 2);
        f.Write(IcrHigh, 1u << 24);
        f.Write(IcrLow, 0xC500); // INIT, level, assert
        f.Write(IcrLow, 0x8500); // INIT level de-assert: ignored
        f.Write(IcrLow, 0x469A); // SIPI
        Assert.True(f.Apic(1).TakeInit());
        Assert.False(f.Apic(1).TakeInit());
        Assert.True(f.Apic(1).WaitsForStartUp);
        f.Write(IcrLow, 0x469B); // the first one has started it, had it not been so slow
        Assert.Equal((byte)0x9A, f.Apic(1).TakeStartUp());
        Assert.False(f.Apic(1).WaitsForStartUp);
        f.Write(IcrLow, 0x469B);
        Assert.Null(f.Apic(1).TakeStartUp());
        Assert.True(f.Wakes[1] >= 2);
        f.Write(IcrLow, 0x4400); // NMI
        Assert.True(f.Apic(1).TakeNmi());
        Assert.False(f.Apic(1).TakeNmi());
        Assert.False(f.Apic(0).NmiPending);
    }

    [Fact]
    public void LocalApicStateAfterItReceivesAnInitReset()
    {
        var f = new ApicFixture(cpus: 2);
        Assert.False(f.Apic(0).WaitsForStartUp);
        Assert.True(f.Apic(1).WaitsForStartUp); // after power-up as after INIT
        f.Write(ApicFixture.Id, 7u << 24, 1);
        f.Write(Tpr, 0x20, 1);
        f.Write(LvtTimer, 0x55, 1);
        f.Write(IcrHigh, 7u << 24);
        f.Write(IcrLow, 0x4500);
        f.Write(IcrLow, 0x4400); // an NMI that comes before the vCPU has taken INIT
        Assert.True(f.Apic(1).TakeInit());
        Assert.Equal((0u, 0x1_0000u, 0xFFu, 7u << 24), (f.Read(Tpr, 1), f.Read(LvtTimer, 1), f.Read(Svr, 1), f.Read(ApicFixture.Id, 1)));
        Assert.False(f.Apic(1).NmiPending);
        Assert.Null(f.Apic(1).TakeStartUp());
        // INIT sends the bootstrap processor to its firmware.
        f.Write(IcrHigh, 0);
        f.Write(IcrLow, 0x4500);
        Assert.True(f.Apic(0).TakeInit());
        Assert.False(f.Apic(0).WaitsForStartUp);
    }

    [Fact]
    public void HandlingMultipleNmis()
    {
        // Intel SDM vol. 3A, "Handling Multiple NMIs": while one is handled, one more is held and the others are lost.
        var f = new ApicFixture(cpus: 2);
        f.Write(IcrHigh, 1u << 24);
        for (int n = 0; n < 5; n++) f.Write(IcrLow, 0x4400);
        Assert.True(f.Apic(1).TakeNmi()); // as if it had been there in time
        f.Write(IcrLow, 0x4400);
        f.Write(IcrLow, 0x4400);
        f.Apic(1).CollapseNmis();
        Assert.True(f.Apic(1).TakeNmi());
        Assert.False(f.Apic(1).TakeNmi());
    }

    [Fact]
    public void LocalApicIdIsWritableInXApicMode()
    {
        // AMD APM vol. 2, "APIC ID Register"; two processors with the same ID both are the destination.
        var f = new ApicFixture(cpus: 3);
        f.Write(ApicFixture.Id, 1u << 24, 2);
        f.Write(IcrHigh, 1u << 24);
        f.Write(IcrLow, 0x4050);
        Assert.Equal([1, 2], Receivers(f, 0x50));
        f.EnterX2Apic(2);
        Assert.Equal(2ul, f.ReadMsr(X2(ApicFixture.Id), 2));
        Assert.True(f.WriteFaults(X2(ApicFixture.Id), 1, 2));
    }

    [Fact]
    public void SuppressingEoiBroadcasts()
    {
        var f = new ApicFixture();
        f.Redirect(5, 0x8050); // level
        f.Write(Svr, 0x11FF);
        f.IoApic.GetLine(5).Set(true);
        Assert.Equal((byte)0x50, f.Apic().AcknowledgeInterrupt());
        f.Write(Eoi, 0);
        Assert.Equal(1u << 14, f.ReadIoApic(0x1A) & 1 << 14); // Remote IRR stays
        Assert.False(f.Apic().InterruptPending);
        f.IoApic.WriteMmio(0x40, 4, 0x50);
        Assert.Equal((byte)0x50, f.Apic().AcknowledgeInterrupt());
    }

    [Fact]
    public void MessageSignalledInterrupts()
    {
        var f = new ApicFixture(cpus: 2);
        f.Bus.DeliverMsi(0xFEE0_1000, 0x41); // physical, APIC ID 1
        Assert.Equal([1], Receivers(f, 0x41));
        f.Write(Ldr, 2u << 24, 0);
        f.Bus.DeliverMsi(0xFEE0_2004, 0x42); // logical
        Assert.Equal([0], Receivers(f, 0x42));
    }

    private static void SelfIpi(ApicFixture f, byte vector) => f.Write(IcrLow, 0x4_4000u | vector);

    /// <summary>The vCPUs whose highest request is <paramref name="vector"/>.</summary>
    private static int[] Receivers(ApicFixture f, int vector) =>
        [.. f.Bus.LocalApics.Where(a => a.InterruptPending && a.AcknowledgeInterrupt() == vector).Select(a => a.Index)];
}
