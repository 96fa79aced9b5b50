using Bunraku.Hypervisor;

namespace Bunraku.Machine.Tests;

public class SmallDeviceTests
{
    private readonly PortBus _ports = new();

    [Theory]
    [InlineData(0xF4, 1, 0u, 1)]
    [InlineData(0xF4, 4, 0x20u, 0x41)]
    [InlineData(0xF7, 1, 3u, 7)]
    public void Debug_exit_status_is_twice_the_value_plus_one(int port, int size, uint value, int status)
    {
        StopCause? cause = null;
        new DebugExit(c => cause = c).AttachTo(_ports);
        Assert.Equal(0u, _ports.Read((ushort)port, 1));
        _ports.Write((ushort)port, size, value);
        Assert.Equal(new StopCause(StopReason.DebugExit, status), cause);
    }

    [Fact]
    public void Debug_console_reads_E9h_and_takes_bytes()
    {
        List<byte> output = [];
        new DebugConsole(bytes => output.AddRange(bytes)).AttachTo(_ports);
        Assert.Equal(0xE9, _ports.In(0xE9));
        _ports.Out(0xE9, 'x');
        Assert.Equal([(byte)'x'], output);
    }

    [Fact]
    public void Post_code_port_and_page_registers_hold_bytes()
    {
        PostCode post = new();
        post.AttachTo(_ports);
        _ports.Out(0x80, 0x5A);
        _ports.Out(0x8F, 0xA5);
        Assert.Equal(0x5A, post.Last);
        Assert.Equal((0x5A, 0xA5), (_ports.In(0x80), _ports.In(0x8F)));
    }
}
