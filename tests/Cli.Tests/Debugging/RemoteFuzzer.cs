using System.Globalization;
using System.Text;
using Bunraku.Sessions;
using Bunraku.Sessions.Debugging;

namespace Bunraku.Cli.Tests;

/// <summary>Random packets, most of them nearly right, for the stub of a VM. Those that mean to end the guest are left out.</summary>
internal sealed class RemoteFuzzer(Vm vm, int seed)
{
    private static readonly string[] s_begins =
    [
        "?", "g", "G", "p", "P", "m", "M", "X", "Z0,", "Z1,", "Z2,", "Z3,", "Z4,", "z0,", "z1,", "z2,", "z4,", "H", "Hg", "Hc", "T", "c", "C", "s",
        "S", "vCont;c", "vCont;s:1", "vCont;s:2;c", "vCont;t;c", "vCont?", "vCont", "vRun", "qSupported:swbreak+;hwbreak+", "qC", "qfThreadInfo",
        "qsThreadInfo", "qThreadExtraInfo,", "qAttached", "qXfer:features:read:target.xml:", "qXfer:", "qRcmd,", "q", "Q", "QStartNoAckMode", "i",
        "R", "b", "!", "",
    ];
    private static readonly string[] s_commands = ["phys on", "phys off", "arch auto", "arch i8086", "arch x86-64", "info registers", "info cpus", "help", "x"];

    private readonly Random _random = new(seed);

    /// <summary>How often the guest went on.</summary>
    public int Resumed { get; private set; }

    /// <summary>Asks the stub so many times, and lets the guest go on for a moment where that is the answer.</summary>
    public void Run(int packets)
    {
        var target = new DebugTarget(vm);
        target.Attach();
        var protocol = new RemoteProtocol(target, new RemoteMonitor(), target.Stop(0));
        for (int n = 0; n < packets; n++)
        {
            RemoteAnswer answer = protocol.Answer(Packet(protocol.Registers.Size));
            if (answer.Replies.Any(r => r.Length > RemoteProtocol.LongestPacket)) throw new InvalidOperationException("a reply is too long");
            if (answer.Action != RemoteAction.Resume) continue;
            Resumed++;
            DebugStop stop = target.Resume(protocol.Orders) ?? target.Stop(protocol.Cpu);
            if (protocol.Tell(stop) is not [(byte)'T', (byte)'0', ..]) throw new InvalidOperationException("a stop is told as something else");
        }
        target.Detach();
    }

    /// <summary>The contents of the next packet.</summary>
    /// <param name="registers">Bytes of all registers.</param>
    public byte[] Packet(int registers)
    {
        string begin = s_begins[_random.Next(s_begins.Length)];
        if (begin == "qRcmd," && _random.Next(4) != 0) return Encoding.ASCII.GetBytes(begin + Hex.OfText(s_commands[_random.Next(s_commands.Length)]));
        var text = new StringBuilder(begin);
        int pieces = _random.Next(6);
        for (int n = 0; n < pieces; n++)
        {
            text.Append(_random.Next(9) switch
            {
                0 => ",",
                1 => ":",
                2 => ";",
                3 => "=",
                4 => Number(),
                5 => Number() + "," + Number(),
                6 => Number() + "=" + new string('0', 2 * _random.Next(20)),
                7 => begin == "G" ? Hex.Of(Bytes(registers)) : "-1",
                _ => Encoding.Latin1.GetString(Bytes(_random.Next(40))),
            });
        }
        byte[] packet = Encoding.Latin1.GetBytes(text.ToString());
        // What a debugger means when it says so.
        return packet is [(byte)'k' or (byte)'D', ..] || packet.AsSpan().StartsWith("vKill"u8) ? "?"u8.ToArray() : packet;
    }

    private byte[] Bytes(int count)
    {
        var bytes = new byte[count];
        _random.NextBytes(bytes);
        return bytes;
    }

    private string Number() => (_random.Next(5) switch
    {
        0 => (ulong)_random.NextInt64(),
        1 => ulong.MaxValue - (ulong)_random.Next(4),
        2 => 0x10_0000u + (ulong)_random.Next(0x40),
        3 => (ulong)_random.Next(0x2000),
        _ => (ulong)_random.Next(8),
    }).ToString("x", CultureInfo.InvariantCulture);
}
