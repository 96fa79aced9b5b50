using static Bunraku.Machine.Tests.Interrupts.ApicFixture;

namespace Bunraku.Machine.Tests.Interrupts;

/// <summary>The I/O APIC against the 82093AA datasheet (290566-001), section 3.</summary>
public sealed class IoApicTests
{
    private const ulong Level = 1 << 15, Mask = 1 << 16, RemoteIrr = 1 << 14;

    [Fact]
    public void IdVersionAndArbitrationRegisters()
    {
        var f = new ApicFixture();
        f.WriteIoApic(0, uint.MaxValue);
        Assert.Equal(0x0F00_0000u, f.ReadIoApic(0)); // 3.2.1: bits 27:24
        Assert.Equal(0x0F00_0000u, f.ReadIoApic(2)); // 3.2.3
        f.WriteIoApic(2, 0);
        Assert.Equal(0x0F00_0000u, f.ReadIoApic(2));
        uint version = f.ReadIoApic(1);
        f.WriteIoApic(1, ~version);
        Assert.Equal(version, f.ReadIoApic(1));
        Assert.Equal(23u, version >> 16); // maximum redirection entry
    }

    [Fact]
    public void RedirectionTableAfterReset()
    {
        var f = new ApicFixture();
        for (byte pin = 0; pin < 24; pin++)
        {
            Assert.Equal((uint)Mask, f.ReadIoApic((byte)(0x10 + 2 * pin)));
            Assert.Equal(0u, f.ReadIoApic((byte)(0x11 + 2 * pin)));
        }
        f.WriteIoApic(0x10, uint.MaxValue);
        Assert.Equal(0x1_AFFFu, f.ReadIoApic(0x10)); // delivery status and remote IRR are read-only
    }

    [Fact]
    public void EdgeTriggered()
    {
        var f = new ApicFixture();
        f.Redirect(14, 0x76);
        f.IoApic.GetLine(14).Set(true);
        f.IoApic.GetLine(14).Set(true);
        Assert.Equal([0x76], f.TakeAll());
        Assert.False(f.Bit(Tmr, 0x76));
        f.IoApic.GetLine(14).Set(false);
        f.Redirect(14, 0x76 | Mask);
        f.IoApic.GetLine(14).Set(true);
        f.Redirect(14, 0x76);
        Assert.Empty(f.TakeAll()); // an edge while masked is lost
    }

    [Fact]
    public void LevelTriggeredWithRemoteIrr()
    {
        var f = new ApicFixture();
        f.Redirect(14, 0x77 | Level);
        f.IoApic.GetLine(14).Set(true);
        Assert.NotEqual(0u, f.ReadIoApic(0x10 + 28) & (uint)RemoteIrr);
        Assert.Equal((byte)0x77, f.Apic().AcknowledgeInterrupt());
        Assert.True(f.Bit(Tmr, 0x77));
        f.IoApic.GetLine(14).Set(false);
        f.IoApic.GetLine(14).Set(true); // remote IRR holds it back
        Assert.False(f.Bit(Irr, 0x77));
        f.Write(Eoi, 0);
        Assert.Equal((byte)0x77, f.Apic().AcknowledgeInterrupt()); // still asserted: again
        f.IoApic.GetLine(14).Set(false);
        f.Write(Eoi, 0);
        Assert.Equal(0u, f.ReadIoApic(0x10 + 28) & (uint)RemoteIrr);
        Assert.False(f.Apic().InterruptPending);
    }

    [Fact]
    public void LevelTriggeredUnmaskedWhileAsserted()
    {
        var f = new ApicFixture();
        f.Redirect(14, 0x82 | Level | Mask);
        f.IoApic.GetLine(14).Set(true);
        Assert.False(f.Apic().InterruptPending);
        f.Redirect(14, 0x82 | Level);
        Assert.True(f.Apic().InterruptPending);
    }

    [Fact]
    public void LevelTriggeredAssertedBeforeTheLocalApicIsEnabled()
    {
        var f = new ApicFixture(enable: false);
        f.Redirect(14, 0x82 | Level);
        f.IoApic.GetLine(14).Set(true);
        Assert.Equal(0u, f.ReadIoApic(0x10 + 28) & (uint)RemoteIrr); // nobody accepted it
        f.Write(Svr, 0x1FF);
        Assert.True(f.Apic().InterruptPending);
    }

    [Fact]
    public void EdgeModeForAMomentClearsRemoteIrr()
    {
        var f = new ApicFixture();
        f.Redirect(14, 0x82 | Level);
        f.IoApic.GetLine(14).Set(true);
        f.IoApic.GetLine(14).Set(false);
        f.Redirect(14, 0x82 | Mask);
        f.Redirect(14, 0x82 | Level);
        Assert.Equal(0u, f.ReadIoApic(0x10 + 28) & (uint)RemoteIrr);
    }

    [Fact]
    public void EoiRegisterOfVersion20()
    {
        var f = new ApicFixture();
        f.Write(Svr, 0x11FF); // suppress EOI broadcasts
        f.Redirect(14, 0x82 | Level);
        f.IoApic.GetLine(14).Set(true);
        f.IoApic.GetLine(14).Set(false);
        Assert.Equal([0x82], f.TakeAll());
        Assert.NotEqual(0u, f.ReadIoApic(0x10 + 28) & (uint)RemoteIrr);
        f.IoApic.WriteMmio(0x40, 4, 0x82);
        Assert.Equal(0u, f.ReadIoApic(0x10 + 28) & (uint)RemoteIrr);
    }

    [Fact]
    public void DestinationsAndDeliveryModes()
    {
        var f = new ApicFixture(cpus: 2);
        f.Redirect(5, 0x60 | 1ul << 56); // physical, APIC ID 1
        f.IoApic.GetLine(5).Set(true);
        Assert.False(f.Apic(0).InterruptPending);
        Assert.Equal([0x60], f.TakeAll(1));

        f.Write(Ldr, 1u << 24, 0);
        f.Write(Ldr, 2u << 24, 1);
        f.Redirect(6, 0x61 | 1 << 11 | 3ul << 56); // logical, both
        f.IoApic.GetLine(6).Set(true);
        Assert.Equal([0x61], f.TakeAll(0));
        Assert.Equal([0x61], f.TakeAll(1));

        f.Redirect(7, 0x400 | Level); // NMI: an edge whatever the trigger mode says
        f.IoApic.GetLine(7).Set(true);
        Assert.True(f.Apic(0).TakeNmi());
        f.Redirect(7, 0x400 | Level);
        Assert.False(f.Apic(0).NmiPending);
        f.IoApic.GetLine(7).Set(false);
        f.IoApic.GetLine(7).Set(true); // no EOI comes for it
        Assert.True(f.Apic(0).TakeNmi());
    }

    [Fact]
    public void ExtIntThroughInput0AsksThePic()
    {
        var f = new ApicFixture { PicVector = 0x20 };
        f.Redirect(0, 0x700);
        f.Apic().Lint0.Set(true);
        f.IoApic.GetLine(0).Set(true);
        Assert.Equal((byte)0x20, f.Apic().AcknowledgeInterrupt());
        Assert.False(f.Apic().InterruptPending);
    }
}
