using Bunraku.Hypervisor;
using Bunraku.Machine.Interrupts;

namespace Bunraku.Machine.Tests;

/// <summary>Intel 8259A data sheet (231468-003) and, for the edge/level control registers, the PIIX data sheet.</summary>
public class Pic8259Tests
{
    private const ushort Master = 0x20, MasterData = 0x21, Slave = 0xA0, SlaveData = 0xA1;
    private const int NonSpecificEoi = 0x20, ReadIrr = 0x0A, ReadIsr = 0x0B, MasterBase = 0x30, SlaveBase = 0x38;

    private readonly TestLine _intr = new();
    private readonly PortBus _ports = new();
    private readonly Pic8259Pair _pic;

    public Pic8259Tests()
    {
        _pic = new Pic8259Pair(_intr);
        _pic.AttachTo(_ports);
        Initialise();
    }

    private void Initialise(int masterIcw4 = 0x01, int slaveIcw4 = 0x01)
    {
        _ports.Out(Master, 0x11);
        _ports.Out(MasterData, MasterBase);
        _ports.Out(MasterData, 0x04);
        _ports.Out(MasterData, masterIcw4);
        _ports.Out(Slave, 0x11);
        _ports.Out(SlaveData, SlaveBase);
        _ports.Out(SlaveData, 0x02);
        _ports.Out(SlaveData, slaveIcw4);
    }

    private void Pulse(int irq)
    {
        _pic.Line(irq).Set(false);
        _pic.Line(irq).Set(true);
    }

    private byte Irr(ushort port = Master)
    {
        _ports.Out(port, ReadIrr);
        return _ports.In(port);
    }

    private byte Isr(ushort port = Master)
    {
        _ports.Out(port, ReadIsr);
        return _ports.In(port);
    }

    [Fact]
    public void An_uninitialised_chip_does_not_interrupt()
    {
        TestLine intr = new();
        Pic8259Pair pic = new(intr);
        pic.Line(0).Set(true);
        Assert.False(intr.Asserted);
    }

    [Fact]
    public void Interrupt_sequence_moves_a_request_from_IRR_to_ISR()
    {
        Pulse(3);
        Assert.True(_intr.Asserted);
        Assert.Equal(0x08, Irr());
        Assert.Equal(MasterBase + 3, _pic.Acknowledge());
        Assert.Equal(0x00, Irr());
        Assert.Equal(0x08, Isr());
        Assert.False(_intr.Asserted);
        _ports.Out(Master, NonSpecificEoi);
        Assert.Equal(0x00, Isr());
    }

    [Fact]
    public void Fully_nested_mode_lets_only_higher_priorities_through()
    {
        Pulse(4);
        _pic.Acknowledge();
        Pulse(5);
        Assert.False(_intr.Asserted);
        Pulse(3);
        Assert.True(_intr.Asserted);
        Assert.Equal(MasterBase + 3, _pic.Acknowledge());
        _ports.Out(Master, NonSpecificEoi);
        Assert.Equal(0x10, Isr());
        _ports.Out(Master, NonSpecificEoi);
        Assert.True(_intr.Asserted);
        Assert.Equal(MasterBase + 5, _pic.Acknowledge());
    }

    [Fact]
    public void OCW1_masks_and_reads_back()
    {
        _ports.Out(MasterData, 0x08);
        Assert.Equal(0x08, _ports.In(MasterData));
        Pulse(3);
        Assert.False(_intr.Asserted);
        Assert.Equal(0x08, Irr());
        _ports.Out(MasterData, 0);
        Assert.True(_intr.Asserted);
    }

    [Fact]
    public void Edge_mode_interrupts_once_for_a_line_that_stays_high()
    {
        Pulse(1);
        _pic.Acknowledge();
        _ports.Out(Master, NonSpecificEoi);
        Assert.False(_intr.Asserted);
    }

    [Fact]
    public void Edge_mode_a_request_that_falls_before_INTA_gives_the_default_IR7()
    {
        Pulse(1);
        _pic.Line(1).Set(false);
        Assert.False(_intr.Asserted);
        Assert.Equal(MasterBase + 7, _pic.Acknowledge());
        Assert.Equal(0, Isr()); // "the default IR7 does not set the ISR bit"
    }

    [Fact]
    public void Level_mode_requests_as_long_as_the_line_is_high()
    {
        _ports.Out(0x4D0, 0x20);
        _pic.Line(5).Set(true);
        Assert.Equal(MasterBase + 5, _pic.Acknowledge());
        _ports.Out(Master, NonSpecificEoi);
        Assert.True(_intr.Asserted);
        _pic.Acknowledge();
        _pic.Line(5).Set(false);
        _ports.Out(Master, NonSpecificEoi);
        Assert.False(_intr.Asserted);
    }

    [Fact]
    public void ELCR_keeps_the_system_inputs_edge_triggered()
    {
        _ports.Write(0x4D0, 2, 0xFFFF);
        Assert.Equal(0xDEF8u, _ports.Read(0x4D0, 2));
    }

    [Fact]
    public void Cascade_the_slave_gives_the_vector_and_both_need_an_EOI()
    {
        Pulse(12);
        Assert.Equal(0x04, Irr());
        Assert.Equal(SlaveBase + 4, _pic.Acknowledge());
        Assert.Equal(0x04, Isr());
        Assert.Equal(0x10, Isr(Slave));
        Pulse(9);
        Assert.False(_intr.Asserted); // the master holds IR2 in service
        _ports.Out(Slave, NonSpecificEoi);
        _ports.Out(Master, NonSpecificEoi);
        Assert.Equal(SlaveBase + 1, _pic.Acknowledge());
    }

    [Fact]
    public void Cascade_two_requests_of_the_slave_are_both_delivered()
    {
        Pulse(12);
        Pulse(14);
        Assert.Equal(SlaveBase + 4, _pic.Acknowledge());
        _ports.Out(Slave, NonSpecificEoi);
        _ports.Out(Master, NonSpecificEoi);
        Assert.True(_intr.Asserted);
        Assert.Equal(SlaveBase + 6, _pic.Acknowledge());
    }

    [Fact]
    public void Cascade_a_slave_in_automatic_EOI_mode_gives_the_master_an_edge_for_each_request()
    {
        Initialise(slaveIcw4: 0x03);
        Pulse(12);
        Pulse(14);
        Assert.Equal(SlaveBase + 4, _pic.Acknowledge());
        _ports.Out(Master, NonSpecificEoi);
        Assert.True(_intr.Asserted);
        Assert.Equal(SlaveBase + 6, _pic.Acknowledge());
    }

    [Fact]
    public void Special_fully_nested_mode_lets_the_slave_in_service_ask_again()
    {
        Initialise(masterIcw4: 0x11);
        Pulse(12);
        _pic.Acknowledge();
        Pulse(9);
        Assert.True(_intr.Asserted);
        Assert.Equal(SlaveBase + 1, _pic.Acknowledge());
    }

    [Fact]
    public void Specific_EOI_ends_the_named_level()
    {
        Pulse(5);
        _pic.Acknowledge();
        Pulse(2 + 1);
        _pic.Acknowledge();
        _ports.Out(Master, 0x60 | 5);
        Assert.Equal(0x08, Isr());
    }

    [Fact]
    public void Automatic_rotation_gives_the_served_level_the_lowest_priority()
    {
        Pulse(4);
        _pic.Acknowledge();
        _ports.Out(Master, 0xA0);
        Pulse(4);
        Pulse(6);
        Assert.Equal(MasterBase + 6, _pic.Acknowledge()); // now 5, 6, 7, 0 .. 4
    }

    [Fact]
    public void Specific_rotation_sets_the_lowest_priority()
    {
        _ports.Out(Master, 0xC0 | 5);
        Pulse(0);
        Pulse(6);
        Assert.Equal(MasterBase + 6, _pic.Acknowledge());
        _ports.Out(Master, 0xE0 | 6); // rotate on specific EOI
        Assert.Equal(0, Isr());
        Pulse(6);
        Assert.Equal(MasterBase + 0, _pic.Acknowledge());
    }

    [Fact]
    public void Automatic_EOI_leaves_nothing_in_service()
    {
        Initialise(masterIcw4: 0x03);
        Pulse(3);
        _pic.Acknowledge();
        Assert.Equal(0, Isr());
        _ports.Out(Master, 0x80); // rotate in automatic EOI mode
        Pulse(3);
        _pic.Acknowledge();
        Pulse(3);
        Pulse(4);
        Assert.Equal(MasterBase + 4, _pic.Acknowledge());
    }

    [Fact]
    public void Special_mask_mode_lets_lower_priorities_through_a_masked_level_in_service()
    {
        Pulse(3);
        _pic.Acknowledge();
        _ports.Out(MasterData, 0x08);
        Pulse(6);
        Assert.False(_intr.Asserted);
        _ports.Out(Master, 0x68);
        Assert.True(_intr.Asserted);
        Assert.Equal(MasterBase + 6, _pic.Acknowledge());
        _ports.Out(Master, NonSpecificEoi);
        Assert.Equal(0x08, Isr()); // the masked level is passed over
        _ports.Out(Master, NonSpecificEoi);
        Assert.Equal(0x08, Isr());
        _ports.Out(Master, 0x63);
        Assert.Equal(0, Isr());
        _ports.Out(Master, 0x48);
    }

    [Fact]
    public void Poll_command_acknowledges_with_the_next_read()
    {
        Pulse(6);
        _ports.Out(Master, 0x0C);
        Assert.Equal(0x86, _ports.In(Master));
        Assert.False(_intr.Asserted);
        Assert.Equal(0x40, Isr());
        _ports.Out(Master, 0x0C);
        Assert.Equal(0x00, _ports.In(Master) & 0x80);
    }

    [Fact]
    public void ICW1_resets_the_edge_sense_circuit_the_mask_and_the_rotation()
    {
        _ports.Out(MasterData, 0xFF);
        _ports.Out(Master, 0xC0 | 3);
        Pulse(1);
        Initialise();
        Assert.Equal(0, _ports.In(MasterData));
        Assert.False(_intr.Asserted); // the line must rise again
        Pulse(4);
        Pulse(1);
        Assert.Equal(MasterBase + 1, _pic.Acknowledge());
    }

    [Fact]
    public void ICW1_single_without_ICW4_takes_one_more_word_and_selects_the_MCS80_vector()
    {
        _ports.Out(Master, 0x16 | 0xA0); // interval 4, single, no ICW4
        _ports.Out(MasterData, 0x12);
        _ports.Out(MasterData, 0x00); // OCW1 already
        Pulse(3);
        Assert.Equal(0xA0 | (3 << 2), _pic.Acknowledge());
    }
}
