using System.Globalization;
using System.Text;

namespace Bunraku.Sessions.Debugging;

/// <summary>
/// Answers the packets of a debugger while the guest stands still. Whatever a packet holds, it is answered, and neither the VM nor the process ends by it,
/// unless it asks for that. One thread.
/// </summary>
/// <remarks>GDB manual, appendix "GDB Remote Serial Protocol": "Packets", "General Query Packets", "Stop Reply Packets".</remarks>
internal sealed class RemoteProtocol
{
    /// <summary>Bytes of the longest packet's contents.</summary>
    public const int LongestPacket = 0x4000;

    private const int LongestRead = LongestPacket / 2 - 16, LongestOutput = LongestPacket / 2 - 16;

    private readonly DebugTarget _target;
    private readonly RemoteMonitor _monitor;
    private DebugStop _last; // why the guest stands still
    private int? _general, _continued; // the vCPUs that packets are about; null: any, or all
    private bool _tellsSoftware, _tellsHardware;
    private byte[] _description = [];

    /// <param name="stop">Why the guest stands still now.</param>
    public RemoteProtocol(DebugTarget target, RemoteMonitor monitor, DebugStop stop)
    {
        (_target, _monitor, _last) = (target, monitor, stop);
        Registers = DebugRegisters.Of(_monitor.ArchitectureOf(target));
    }

    /// <summary>The registers that the debugger was told of.</summary>
    public DebugRegisters Registers { get; private set; }

    /// <summary>What each vCPU is to do, with <see cref="RemoteAction.Resume"/>.</summary>
    public IReadOnlyList<CpuOrder> Orders { get; private set; } = [];

    /// <summary>The vCPU that is looked at.</summary>
    public int Cpu => _general ?? _last.Cpu;

    /// <summary>The contents of the packet that tells a stop.</summary>
    public byte[] Tell(DebugStop stop)
    {
        _last = stop;
        _general = stop.Cpu;
        string reason = stop.Kind switch
        {
            DebugStopKind.SoftwareBreakpoint when _tellsSoftware => "swbreak:;",
            DebugStopKind.HardwareBreakpoint when _tellsHardware => "hwbreak:;",
            DebugStopKind.WriteWatch => $"watch:{stop.Address:x};",
            DebugStopKind.ReadWatch => $"rwatch:{stop.Address:x};",
            DebugStopKind.AccessWatch => $"awatch:{stop.Address:x};",
            _ => "",
        };
        const int interrupt = 2, trap = 5;
        int signal = stop.Kind == DebugStopKind.Interrupted ? interrupt : trap;
        return Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"T{signal:x2}{reason}thread:{stop.Cpu + 1:x};"));
    }

    /// <summary>Answers a packet.</summary>
    public RemoteAnswer Answer(ReadOnlySpan<byte> packet)
    {
        if (packet.IsEmpty) return RemoteAnswer.Unknown;
        ReadOnlySpan<byte> text = packet[1..];
        switch (packet[0])
        {
            case (byte)'?': return new RemoteAnswer([Tell(_last)]);
            case (byte)'g' or (byte)'G' or (byte)'p' or (byte)'P':
                return TakeSuffix(ref text) is { } cpu ? AnswerRegisters(packet[0], text, cpu) : RemoteAnswer.Impossible;
            case (byte)'m': return ReadMemory(text);
            case (byte)'M': return WriteMemory(text, binary: false);
            case (byte)'X': return WriteMemory(text, binary: true);
            case (byte)'Z': return SetPoint(text, set: true);
            case (byte)'z': return SetPoint(text, set: false);
            case (byte)'H': return SelectThread(text);
            case (byte)'T': return IsThread(text) ? RemoteAnswer.Ok : RemoteAnswer.Impossible;
            case (byte)'c': return Resume(text, CpuOrder.Run, hasSignal: false);
            case (byte)'C': return Resume(text, CpuOrder.Run, hasSignal: true);
            case (byte)'s': return Resume(text, CpuOrder.Step, hasSignal: false);
            case (byte)'S': return Resume(text, CpuOrder.Step, hasSignal: true);
            case (byte)'D': return RemoteAnswer.Text("OK", RemoteAction.Detach);
            case (byte)'k': return RemoteAnswer.Silence(RemoteAction.Kill);
            case (byte)'v': return AnswerV(packet);
            case (byte)'q' or (byte)'Q': return AnswerQuery(packet);
            default: return RemoteAnswer.Unknown;
        }
    }

    // ---- threads

    private bool IsThread(ReadOnlySpan<byte> text) => ResumeRequest.TryTakeThread(ref text, _target.CpuCount, out int? cpu) && cpu is not null;

    private RemoteAnswer SelectThread(ReadOnlySpan<byte> text)
    {
        if (text.IsEmpty) return RemoteAnswer.Malformed;
        byte purpose = text[0];
        text = text[1..];
        if (!ResumeRequest.TryTakeThread(ref text, _target.CpuCount, out int? cpu)) return RemoteAnswer.Impossible;
        switch (purpose)
        {
            case (byte)'g': _general = cpu; return RemoteAnswer.Ok;
            case (byte)'c': _continued = cpu; return RemoteAnswer.Ok;
            default: return RemoteAnswer.Unknown;
        }
    }

    // ---- registers

    /// <summary>LLDB says behind a packet of registers whose they are: it takes memory for the same in all threads, and selects none.</summary>
    /// <returns>The vCPU; null: there is no such thread.</returns>
    private int? TakeSuffix(ref ReadOnlySpan<byte> text)
    {
        ReadOnlySpan<byte> word = ";thread:"u8;
        int at = text.IndexOf(word);
        if (at < 0) return Cpu;
        ReadOnlySpan<byte> thread = text[(at + word.Length)..];
        text = text[..at];
        return ResumeRequest.TryTakeThread(ref thread, _target.CpuCount, out int? cpu) ? cpu ?? Cpu : null;
    }

    private RemoteAnswer AnswerRegisters(byte packet, ReadOnlySpan<byte> text, int cpu) => packet switch
    {
        (byte)'g' => RemoteAnswer.Text(Hex.Of(Registers.Read(_target.StateOf(cpu)))),
        (byte)'G' => WriteAll(text, cpu),
        (byte)'p' => ReadOne(text, cpu),
        _ => WriteOne(text, cpu),
    };

    private RemoteAnswer WriteAll(ReadOnlySpan<byte> text, int cpu)
    {
        if (!Hex.TryReadBytes(text, out byte[] all) || all.Length != Registers.Size) return RemoteAnswer.Malformed;
        _target.Change(cpu, state =>
        {
            Registers.Write(state, all);
            return true;
        });
        return RemoteAnswer.Ok;
    }

    private RemoteAnswer ReadOne(ReadOnlySpan<byte> text, int cpu)
    {
        if (!Hex.TryTakeNumber(ref text, out ulong number) || !text.IsEmpty) return RemoteAnswer.Malformed;
        if (number >= (ulong)Registers.All.Count) return RemoteAnswer.Impossible;
        DebugRegister register = Registers.All[(int)number];
        var value = new byte[register.Size];
        register.Read(_target.StateOf(cpu), value);
        return RemoteAnswer.Text(Hex.Of(value));
    }

    private RemoteAnswer WriteOne(ReadOnlySpan<byte> text, int cpu)
    {
        if (!Hex.TryTakeNumber(ref text, out ulong number) || !Hex.TryTake(ref text, '=') || !Hex.TryReadBytes(text, out byte[] value))
            return RemoteAnswer.Malformed;
        if (number >= (ulong)Registers.All.Count) return RemoteAnswer.Impossible;
        DebugRegister register = Registers.All[(int)number];
        if (value.Length != register.Size) return RemoteAnswer.Malformed;
        return _target.Change(cpu, state => register.Write(state, value)) ? RemoteAnswer.Ok : RemoteAnswer.Impossible;
    }

    // ---- memory

    private static bool TryTakeRange(ref ReadOnlySpan<byte> text, out ulong address, out ulong length)
    {
        length = 0;
        return Hex.TryTakeNumber(ref text, out address) && Hex.TryTake(ref text, ',') && Hex.TryTakeNumber(ref text, out length);
    }

    private RemoteAnswer ReadMemory(ReadOnlySpan<byte> text)
    {
        if (!TryTakeRange(ref text, out ulong address, out ulong length) || !text.IsEmpty) return RemoteAnswer.Malformed;
        var bytes = new byte[Math.Min(length, LongestRead)];
        int read = _target.ReadMemory(Cpu, address, bytes);
        return read == 0 && length != 0 ? RemoteAnswer.NoMemory : RemoteAnswer.Text(Hex.Of(bytes.AsSpan(0, read)));
    }

    private RemoteAnswer WriteMemory(ReadOnlySpan<byte> text, bool binary)
    {
        if (!TryTakeRange(ref text, out ulong address, out ulong length) || !Hex.TryTake(ref text, ':')) return RemoteAnswer.Malformed;
        byte[] bytes = [];
        if (binary) bytes = text.ToArray();
        else if (!Hex.TryReadBytes(text, out bytes)) return RemoteAnswer.Malformed;
        if ((ulong)bytes.Length != length) return RemoteAnswer.Malformed;
        return _target.WriteMemory(Cpu, address, bytes) ? RemoteAnswer.Ok : RemoteAnswer.NoMemory;
    }

    // ---- breakpoints

    private RemoteAnswer SetPoint(ReadOnlySpan<byte> text, bool set)
    {
        if (!Hex.TryTakeNumber(ref text, out ulong kind) || !Hex.TryTake(ref text, ',') || !TryTakeRange(ref text, out ulong address, out ulong length))
            return RemoteAnswer.Malformed;
        if (kind > (ulong)PointKind.Access) return RemoteAnswer.Unknown;
        if (!text.IsEmpty) return RemoteAnswer.Malformed; // conditions were not offered
        if (!set)
        {
            _target.RemovePoint((PointKind)kind, address, length);
            return RemoteAnswer.Ok;
        }
        return _target.AddPoint((PointKind)kind, address, length) is { } problem ? RemoteAnswer.Text("E." + problem) : RemoteAnswer.Ok;
    }

    // ---- going on

    private RemoteAnswer Resume(ReadOnlySpan<byte> text, CpuOrder order, bool hasSignal)
    {
        if (hasSignal)
        {
            if (!Hex.TryTakeNumber(ref text, out _)) return RemoteAnswer.Malformed;
            Hex.TryTake(ref text, ';');
        }
        int cpu = _continued ?? Cpu;
        if (!text.IsEmpty)
        {
            if (!Hex.TryTakeNumber(ref text, out ulong address) || !text.IsEmpty) return RemoteAnswer.Malformed;
            var value = new byte[sizeof(ulong)];
            System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(value, address);
            DebugRegister counter = Registers.ProgramCounter;
            _target.Change(cpu, state => counter.Write(state, value.AsSpan(0, counter.Size)));
        }
        // One steps and the others run, unless the debugger has said that only one is to go on.
        Orders = [.. Enumerable.Range(0, _target.CpuCount).Select(n => n == cpu ? order : _continued is null ? CpuOrder.Run : CpuOrder.Hold)];
        return RemoteAnswer.Silence(RemoteAction.Resume);
    }

    private RemoteAnswer AnswerV(ReadOnlySpan<byte> packet)
    {
        if (packet.SequenceEqual("vCont?"u8)) return RemoteAnswer.Text(ResumeRequest.Supported);
        if (packet.StartsWith("vCont"u8))
        {
            if (ResumeRequest.Parse(packet["vCont".Length..], _target.CpuCount) is not { } orders) return RemoteAnswer.Malformed;
            Orders = orders;
            return RemoteAnswer.Silence(RemoteAction.Resume);
        }
        return packet.StartsWith("vKill"u8) ? RemoteAnswer.Text("OK", RemoteAction.Kill) : RemoteAnswer.Unknown;
    }

    // ---- queries

    private RemoteAnswer AnswerQuery(ReadOnlySpan<byte> packet)
    {
        int end = packet.IndexOfAny(":,;"u8);
        ReadOnlySpan<byte> name = end < 0 ? packet : packet[..end], rest = end < 0 ? [] : packet[(end + 1)..];
        switch (Encoding.ASCII.GetString(name))
        {
            case "qSupported":
                (_tellsSoftware, _tellsHardware) = (packet.IndexOf("swbreak+"u8) >= 0, packet.IndexOf("hwbreak+"u8) >= 0);
                return RemoteAnswer.Text($"PacketSize={LongestPacket:x};QStartNoAckMode+;vContSupported+;qXfer:features:read+;swbreak+;hwbreak+");
            case "QStartNoAckMode": return RemoteAnswer.Text("OK", RemoteAction.StopAcknowledging);
            case "qXfer": return Transfer(rest);
            case "qC": return RemoteAnswer.Text(string.Create(CultureInfo.InvariantCulture, $"QC{Cpu + 1:x}"));
            case "qfThreadInfo": return RemoteAnswer.Text("m" + string.Join(',', Enumerable.Range(1, _target.CpuCount).Select(n => n.ToString("x", null))));
            case "qsThreadInfo": return RemoteAnswer.Text("l");
            case "qThreadExtraInfo":
                return ResumeRequest.TryTakeThread(ref rest, _target.CpuCount, out int? cpu) && cpu is { } known
                    ? RemoteAnswer.Text(Hex.OfText($"cpu{known} {_target.Describe(known)}")) : RemoteAnswer.Impossible;
            case "qAttached": return RemoteAnswer.Text("1"); // the guest was there before: a debugger that leaves lets it run
            case "QThreadSuffixSupported": return RemoteAnswer.Ok;
            case "qSymbol": return RemoteAnswer.Ok;
            case "qRcmd": return RunMonitor(rest);
            default: return RemoteAnswer.Unknown;
        }
    }

    /// <summary>A piece of the target description. Its beginning decides anew which one it is.</summary>
    private RemoteAnswer Transfer(ReadOnlySpan<byte> text)
    {
        ReadOnlySpan<byte> prefix = "features:read:target.xml:"u8;
        if (!text.StartsWith("features:read:"u8)) return RemoteAnswer.Unknown;
        if (!text.StartsWith(prefix)) return RemoteAnswer.Text("E00"); // no such part
        text = text[prefix.Length..];
        if (!TryTakeRange(ref text, out ulong offset, out ulong length) || !text.IsEmpty) return RemoteAnswer.Malformed;
        if (offset == 0)
        {
            Registers = DebugRegisters.Of(_monitor.ArchitectureOf(_target));
            _description = Encoding.ASCII.GetBytes(TargetDescription.Write(Registers));
        }
        if (offset > (ulong)_description.Length) return RemoteAnswer.Impossible;
        ReadOnlySpan<byte> rest = _description.AsSpan((int)offset);
        int n = (int)Math.Min(Math.Min(length, LongestRead), (ulong)rest.Length);
        return new RemoteAnswer([[n < rest.Length ? (byte)'m' : (byte)'l', .. rest[..n]]]);
    }

    private RemoteAnswer RunMonitor(ReadOnlySpan<byte> digits)
    {
        if (!Hex.TryReadBytes(digits, out byte[] line)) return RemoteAnswer.Malformed;
        byte[] output = Encoding.UTF8.GetBytes(_monitor.Execute(_target, Encoding.UTF8.GetString(line)));
        _target.ForgetStates();
        IEnumerable<byte[]> pieces = output.Chunk(LongestOutput).Select(p => Encoding.ASCII.GetBytes("O" + Hex.Of(p)));
        return new RemoteAnswer([.. pieces, "OK"u8.ToArray()]);
    }
}
