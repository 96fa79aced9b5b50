using Bunraku.Hypervisor;
using Bunraku.Machine.Input;

namespace Bunraku.Machine.Tests;

/// <summary>
/// IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; the order of Linux's i8042 probe.
/// </summary>
public class I8042Tests
{
    private const ushort Data = 0x60, Command = 0x64;
    private const int OutputFull = 0x01, Auxiliary = 0x20;

    private readonly TestLine _irq1 = new(), _irq12 = new();
    private readonly PortBus _ports = new();
    private readonly List<bool> _a20Changes = [];
    private readonly A20Gate _a20;
    private readonly I8042 _controller;
    private int _resets;

    public I8042Tests()
    {
        _a20 = new A20Gate(_a20Changes.Add);
        _controller = new I8042(_irq1, _irq12, _a20, () => _resets++, new DeviceLock("test"));
        _controller.AttachTo(_ports);
    }

    private int Status => _ports.In(Command);

    private byte[] Drain()
    {
        List<byte> bytes = [];
        while ((Status & OutputFull) != 0) bytes.Add(_ports.In(Data));
        return [.. bytes];
    }

    private byte[] Controller(int command, params int[] data)
    {
        _ports.Out(Command, command);
        foreach (int value in data) _ports.Out(Data, value);
        return Drain();
    }

    private byte[] Keyboard(params int[] data)
    {
        foreach (int value in data) _ports.Out(Data, value);
        return Drain();
    }

    private byte[] Mouse(params int[] data)
    {
        List<byte> answers = [];
        foreach (int value in data)
        {
            answers.AddRange(Controller(0xD4, value));
        }
        return [.. answers];
    }

    [Fact]
    public void Self_test_and_interface_tests_pass()
    {
        Assert.Equal([0x55], Controller(0xAA));
        Assert.Equal([0x00], Controller(0xAB));
        Assert.Equal([0x00], Controller(0xA9));
        Assert.Equal(0x04, Status & 0x04);
    }

    [Fact]
    public void Command_byte_and_RAM_are_written_and_read()
    {
        Assert.Empty(Controller(0x60, 0x45));
        Assert.Equal([0x45], Controller(0x20));
        Assert.Empty(Controller(0x7F, 0xA5));
        Assert.Equal([0xA5], Controller(0x3F));
    }

    [Fact]
    public void Status_bit_3_tells_commands_from_data()
    {
        Controller(0xAB);
        Assert.Equal(0x08, Status & 0x08);
        Keyboard(0xEE);
        Assert.Equal(0, Status & 0x08);
    }

    [Fact]
    public void Disable_and_enable_commands_change_the_command_byte()
    {
        Controller(0xA7);
        Assert.Equal(0x20, Controller(0x20)[0] & 0x20);
        Controller(0xA8);
        Assert.Equal(0, Controller(0x20)[0] & 0x20);
        Controller(0xAD);
        Assert.Equal(0x10, Controller(0x20)[0] & 0x10);
        Controller(0xAE);
        Assert.Equal(0, Controller(0x20)[0] & 0x10);
    }

    [Fact]
    public void Loopback_of_the_auxiliary_port_raises_IRQ12()
    {
        Controller(0x60, 0x47);
        _ports.Out(Command, 0xD3);
        _ports.Out(Data, 0x5A);
        Assert.Equal(OutputFull | Auxiliary, Status & (OutputFull | Auxiliary));
        Assert.True(_irq12.Asserted);
        Assert.False(_irq1.Asserted);
        Assert.Equal(0x5A, _ports.In(Data));
        Assert.False(_irq12.Asserted);
    }

    [Fact]
    public void D2h_returns_its_byte_as_the_keyboards()
    {
        _ports.Out(Command, 0xD2);
        _ports.Out(Data, 0x12);
        Assert.True(_irq1.Asserted);
        Assert.Equal(OutputFull, Status & (OutputFull | Auxiliary));
        Assert.Equal([0x12], Drain());
    }

    [Fact]
    public void Keyboard_reset_identify_and_settings()
    {
        Assert.Equal([0xFA, 0xAA], Keyboard(0xFF));
        Controller(0x60, 0x05); // no translation
        Assert.Equal([0xFA, 0xAB, 0x83], Keyboard(0xF2));
        Controller(0x60, 0x45);
        Assert.Equal([0xFA, 0xAB, 0x41], Keyboard(0xF2));
        Assert.Equal([0xEE], Keyboard(0xEE));
        Assert.Equal([0xFA], Keyboard(0xED));
        Assert.Equal([0xFA], Keyboard(0x07));
        Assert.Equal(7, _controller.Indicators);
        Assert.Equal([0xFA], Keyboard(0xF3));
        Assert.Equal([0xFA], Keyboard(0x20));
        Assert.Equal([0xFE], Keyboard(0xEF)); // invalid
    }

    [Fact]
    public void Keyboard_scan_code_set_is_remembered()
    {
        Controller(0x60, 0x05);
        Assert.Equal([0xFA], Keyboard(0xF0));
        Assert.Equal([0xFA, 0x02], Keyboard(0x00));
        Keyboard(0xF0);
        Assert.Equal([0xFA], Keyboard(0x03));
        Keyboard(0xF0);
        Assert.Equal([0xFA, 0x03], Keyboard(0x00));
        Keyboard(0xF6);
        Keyboard(0xF0);
        Assert.Equal([0xFA, 0x02], Keyboard(0x00));
    }

    [Fact]
    public void Keyboard_repeats_its_last_byte_on_resend()
    {
        Assert.Equal([0xEE], Keyboard(0xEE));
        Assert.Equal([0xEE], Keyboard(0xFE));
    }

    [Fact]
    public void Keys_are_translated_to_set_1_and_raise_IRQ1_byte_by_byte()
    {
        _controller.Type([0x1C]); // A down
        Assert.True(_irq1.Asserted);
        Assert.Equal([0x1E], Drain());
        _controller.Type([0xF0, 0x1C]); // A up
        Assert.Equal([0x9E], Drain());
        int edges = _irq1.Edges;
        _controller.Type([0xE0, 0xF0, 0x75]); // cursor up, released
        Assert.Equal([0xE0, 0xC8], Drain());
        Assert.Equal(edges + 2, _irq1.Edges);
        Assert.False(_irq1.Asserted);
    }

    [Fact]
    public void Disabled_scanning_or_interface_holds_keys_back()
    {
        Keyboard(0xF5);
        _controller.Type([0x1C]);
        Assert.Empty(Drain());
        Keyboard(0xF4);
        Controller(0xAD);
        _controller.Type([0x1C]);
        Assert.Empty(Drain());
        Assert.Equal([0x1E], Controller(0xAE));
    }

    [Fact]
    public void Mouse_answers_as_a_standard_PS2_mouse()
    {
        Controller(0xA8);
        Assert.Equal([0xFA, 0xAA, 0x00], Mouse(0xFF));
        Assert.Equal([0xFA, 0x00], Mouse(0xF2));
        Assert.Equal([0xFA, 0xFA], Mouse(0xE8, 3));
        Assert.Equal([0xFA, 0xFA], Mouse(0xF3, 200));
        Assert.Equal([0xFA], Mouse(0xF4));
        Assert.Equal([0xFA, 0x20, 3, 200], Mouse(0xE9));
        Assert.Equal([0xFA, 0x08, 0, 0], Mouse(0xEB));
        Assert.Equal([0xFA], Mouse(0xEE)); // wrap mode echoes
        Assert.Equal([0xF2], Mouse(0xF2));
        Assert.Equal([0xFA], Mouse(0xEC));
        Assert.Equal([0xFE], Mouse(0xE1));
    }

    [Fact]
    public void Output_port_controls_A20_and_reset()
    {
        Assert.Equal(0xCF, Controller(0xD0)[0]);
        Controller(0xD1, 0xDD);
        Assert.False(_a20.Enabled);
        Assert.Equal(0, Controller(0xD0)[0] & 2);
        Controller(0xD1, 0xDF);
        Controller(0xDD);
        Controller(0xDF);
        Assert.Equal([false, true, false, true], _a20Changes);
        Assert.Equal(0, _resets);
        Controller(0xD1, 0xDE);
        Assert.Equal(1, _resets);
    }

    [Fact]
    public void Pulse_command_FEh_resets_the_machine()
    {
        Controller(0xFF);
        Assert.Equal(0, _resets);
        Controller(0xFE);
        Assert.Equal(1, _resets);
    }

    [Fact]
    public void Port_92_and_the_controller_both_open_A20()
    {
        new Port92(_a20, () => _resets++).AttachTo(_ports);
        _ports.Out(0x92, 2);
        Controller(0xDD);
        Assert.True(_a20.Enabled);
        _ports.Out(0x92, 0);
        Assert.False(_a20.Enabled);
        _ports.Out(0x92, 3);
        Assert.Equal(1, _resets);
        _ports.Out(0x92, 3); // no edge
        Assert.Equal(1, _resets);
        Assert.Equal(3, _ports.In(0x92));
    }
}
