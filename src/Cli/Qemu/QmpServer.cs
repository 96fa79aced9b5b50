using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Bunraku.Cli.Qemu.Characters;
using Bunraku.Machine.Virtio.Balloons;
using Bunraku.Sessions.Monitoring;
using Bunraku.Sessions.Screens;
using Bunraku.Storage;

namespace Bunraku.Cli.Qemu;

/// <summary>What a machine of QEMU's words does on request.</summary>
internal interface IQemuControl
{
    /// <summary>The machine is ended, the process with it.</summary>
    /// <param name="reason">As the event SHUTDOWN names it.</param>
    void Quit(string reason);

    /// <summary>The guest has switched off, and the process stays (-no-shutdown).</summary>
    bool IsShutDown { get; }

    /// <summary>The guest has run: it does not wait any more for its first 'cont'.</summary>
    bool HasRun { get; }

    /// <summary>As it was named, if it was.</summary>
    string? Name { get; }

    /// <summary>As it was given, or zeros.</summary>
    Guid Uuid { get; }

    /// <summary>Number of the disk of a drive or node.</summary>
    /// <exception cref="MonitorException">There is none.</exception>
    int DiskOf(string name);

    /// <summary>Names of the disks, and of the discs behind them.</summary>
    IReadOnlyList<DriveName> Drives { get; }

    /// <summary>Number of the network card with a name, or of a back end with it.</summary>
    /// <exception cref="MonitorException">There is none.</exception>
    int CardOf(string name);

    /// <summary>Names of its character devices, with what they are connected to.</summary>
    IEnumerable<(string Id, string What)> Characters { get; }
}

/// <summary>
/// QEMU's machine protocol on a character device: JSON objects in both directions, a greeting, negotiation, commands, events. Input comes on the device's
/// thread,
/// events on any.
/// </summary>
/// <remarks>QEMU documentation, "QEMU Machine Protocol Specification" (docs/interop/qmp-spec) and "QEMU QMP Reference Manual", version 7.2.</remarks>
internal sealed class QmpServer
{
    private const int LongestCommand = 1 << 20, Width = 80;

    /// <summary>Bytes of events that wait behind a full queue before who does not read is sent away.</summary>
    private const int MostEvents = 1 << 20;

    private readonly Vm _vm;
    private readonly CharacterDevice _device;
    private readonly IQemuControl _control;
    private readonly JsonSerializerOptions _format;
    private readonly QmpSplitter _splitter = new(LongestCommand);
    private readonly Lock _writing = new();
    private volatile bool _negotiated;
    private int _waitingEvents; // bytes; with _writing held

    public QmpServer(Vm vm, CharacterDevice device, IQemuControl control, bool isPretty)
    {
        (_vm, _device, _control) = (vm, device, control);
        _format = new JsonSerializerOptions { WriteIndented = isPretty };
        device.Connected = Greet;
        device.Disconnected = () => SetNegotiated(false);
        device.Received = Feed;
    }

    /// <summary>The commands, in alphabetical order. docs/qemu-options.md has the same.</summary>
    public static IReadOnlyList<string> Commands { get; } =
    [
        "balloon", "block_resize", "change-vnc-password", "cont", "human-monitor-command", "inject-nmi", "qmp_capabilities", "query-balloon", "query-block",
        "query-chardev", "query-commands", "query-cpus-fast", "query-kvm", "query-machines", "query-memory-size-summary", "query-name", "query-status",
        "query-uuid", "query-version", "quit", "screendump", "set_link", "set_password", "stop", "system_powerdown", "system_reset",
    ];

    private static JsonObject VersionOf() => new()
    {
        ["qemu"] = new JsonObject { ["micro"] = QemuCommand.Micro, ["minor"] = QemuCommand.Minor, ["major"] = QemuCommand.Major },
        ["package"] = QemuCommand.Package,
    };

    private void Greet()
    {
        SetNegotiated(false);
        _splitter.Reset();
        Send(new JsonObject { ["QMP"] = new JsonObject { ["version"] = VersionOf(), ["capabilities"] = new JsonArray() } });
    }

    /// <summary>Tells of an event. Any thread.</summary>
    public void Tell(string name, JsonObject? data = null)
    {
        if (!_negotiated) return;
        long microseconds = (DateTime.UtcNow - DateTime.UnixEpoch).Ticks / TimeSpan.TicksPerMicrosecond;
        var message = new JsonObject
        {
            ["timestamp"] = new JsonObject { ["seconds"] = microseconds / 1_000_000, ["microseconds"] = microseconds % 1_000_000 },
            ["event"] = name,
        };
        if (data is not null) message["data"] = data;
        byte[] line = LineOf(message);
        lock (_writing)
        {
            if (!_negotiated) return; // somebody else is there by now
            _waitingEvents = _device.IsFull ? _waitingEvents + line.Length : 0;
            if (_waitingEvents <= MostEvents) _device.Write(line);
            else _device.Disconnect();
        }
    }

    private void SetNegotiated(bool negotiated)
    {
        lock (_writing) (_negotiated, _waitingEvents) = (negotiated, 0);
    }

    private byte[] LineOf(JsonObject message) => [.. Encoding.UTF8.GetBytes(message.ToJsonString(_format)), (byte)'\r', (byte)'\n'];

    private void Send(JsonObject message)
    {
        byte[] line = LineOf(message);
        lock (_writing) _device.Write(line);
    }

    private void Feed(ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes)
        {
            if (_splitter.Add(b) is not { } text) continue;
            if (!_device.AwaitRoom()) return;
            JsonNode? id = null;
            try
            {
                var request = JsonNode.Parse(text, documentOptions: new JsonDocumentOptions { MaxDepth = 64 }) as JsonObject
                    ?? throw new QmpException("QMP input must be a JSON object");
                id = IdOf(request);
                Answer(id, "return", Execute(request));
            }
            catch (JsonException)
            {
                Fail(null, new QmpException("JSON parse error"));
            }
            catch (QmpException e)
            {
                Fail(id, e);
            }
            catch (Exception e) when (e is SessionException or InvalidOperationException or ArgumentException)
            {
                Fail(id, new QmpException(e.Message.ReplaceLineEndings(" ")));
            }
        }
    }

    /// <summary>What comes back with the answer. A text that cannot be written again (half of a surrogate pair) is found here, and not in the answer.</summary>
    private static JsonNode? IdOf(JsonObject request)
    {
        JsonNode? id = request["id"]?.DeepClone();
        try
        {
            _ = id?.ToJsonString();
            return id;
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException)
        {
            throw new JsonException("", e);
        }
    }

    private void Fail(JsonNode? id, QmpException e) => Answer(id, "error", new JsonObject { ["class"] = e.Class, ["desc"] = e.Message });

    private void Answer(JsonNode? id, string word, JsonNode what)
    {
        var answer = new JsonObject { [word] = what };
        if (id is not null) answer["id"] = id;
        Send(answer);
    }

    private JsonNode Execute(JsonObject request)
    {
        foreach ((string key, JsonNode? _) in request)
        {
            if (key is not ("execute" or "exec-oob" or "arguments" or "id")) throw new QmpException($"QMP input member '{key}' is unexpected");
        }
        string command = request["execute"] is JsonValue name && name.TryGetValue(out string? text) ? text
            : throw new QmpException("QMP input lacks member 'execute'");
        JsonObject arguments = request["arguments"] as JsonObject ?? [];
        if (!_negotiated)
        {
            if (command != "qmp_capabilities")
                throw new QmpException("Expecting capabilities negotiation with 'qmp_capabilities'") { Class = "CommandNotFound" };
            SetNegotiated(true);
            return new JsonObject();
        }
        if (!Commands.Contains(command) || command == "qmp_capabilities")
        {
            string problem = command == "qmp_capabilities" ? "Capabilities negotiation is already complete, command ignored"
                : $"The command {command} has not been found";
            throw new QmpException(problem) { Class = "CommandNotFound" };
        }
        foreach ((string key, JsonNode? _) in arguments)
        {
            bool isKnown = command switch
            {
                "human-monitor-command" => key is "command-line" or "cpu-index",
                "balloon" => key is "value",
                "screendump" => key is "filename" or "format",
                "set_password" => key is "protocol" or "password" or "connected",
                "change-vnc-password" => key is "password",
                "block_resize" => key is "device" or "node-name" or "size",
                "set_link" => key is "name" or "up",
                _ => false,
            };
            if (!isKnown) throw new QmpException($"Parameter '{key}' is unexpected");
        }
        return Execute(command, arguments);
    }

    private JsonNode Execute(string command, JsonObject arguments)
    {
        switch (command)
        {
            case "query-status":
                return new JsonObject { ["status"] = Status, ["singlestep"] = false, ["running"] = Status == "running" };
            case "query-version":
                return VersionOf();
            case "query-commands":
                return new JsonArray([.. Commands.Select(c => (JsonNode)new JsonObject { ["name"] = c })]);
            case "query-name":
                return _control.Name is { } name ? new JsonObject { ["name"] = name } : new JsonObject();
            case "query-uuid":
                return new JsonObject { ["UUID"] = _control.Uuid.ToString("D") };
            case "query-kvm":
                return new JsonObject { ["enabled"] = _vm.EngineName == "kvm", ["present"] = _vm.EngineName == "kvm" };
            case "query-machines":
                return new JsonArray([.. ((string[])["pc", "q35"]).Select(m => (JsonNode)new JsonObject { ["name"] = m, ["cpu-max"] = 255,
                    ["hotpluggable-cpus"] = false })]);
            case "query-memory-size-summary":
                return new JsonObject { ["base-memory"] = _vm.Machine.Memory.RamSize };
            case "query-chardev":
                return new JsonArray([.. _control.Characters.Select(c => (JsonNode)new JsonObject { ["frontend-open"] = true, ["label"] = c.Id,
                    ["filename"] = c.What })]);
            case "query-block":
                return new JsonArray([.. _vm.LookAtDisks().Select((disk, n) => (JsonNode)Block(disk, _control.Drives[n], n >= _vm.DiskCount))]);
            case "balloon":
                if (arguments["value"] is not JsonValue value || !value.TryGetValue(out long bytes) || bytes <= 0)
                    throw new QmpException("Parameter 'value' expects a size");
                Ballooned(() => _vm.SetBalloon((ulong)bytes));
                break;
            case "query-balloon":
                BalloonState? balloon = null;
                Ballooned(() => balloon = _vm.LookAtBalloon());
                return new JsonObject { ["actual"] = balloon!.Actual };
            case "query-cpus-fast":
                return new JsonArray([.. Enumerable.Range(0, _vm.Machine.Cpus.Count).Select(Cpu)]);
            case "human-monitor-command":
                string line = Text(arguments, "command-line");
                return JsonValue.Create(new MonitorShell(_vm, () => Width, null, MonitorSession.PromptName).Execute(line).Replace("\n", "\r\n",
                    StringComparison.Ordinal));
            case "screendump":
                if (arguments.ContainsKey("format") && Text(arguments, "format") is var format and not "png")
                    throw new QmpException($"a picture is written as png, not as {format}");
                DumpScreen(_vm, Text(arguments, "filename"));
                break;
            case "block_resize":
                if (arguments["size"] is not JsonValue length || !length.TryGetValue(out long size) || size <= 0 || size % 512 != 0)
                    throw new QmpException("Parameter 'size' expects a multiple of 512 bytes");
                _vm.GrowDisk(_control.DiskOf(Text(arguments, arguments.ContainsKey("device") ? "device" : "node-name")), (ulong)size);
                break;
            case "set_link":
                if (arguments["up"] is not JsonValue up || !up.TryGetValue(out bool isUp)) throw new QmpException("Parameter 'up' expects a boolean");
                _vm.SetLink(_control.CardOf(Text(arguments, "name")), isUp);
                break;
            case "set_password":
                if (arguments.ContainsKey("connected") && Text(arguments, "connected") is var others and not "keep")
                    throw new QmpException($"viewers that are connected stay; 'connected' is keep, not {others}");
                QemuRun.SetPassword(_vm, Text(arguments, "protocol"), Text(arguments, "password"));
                break;
            case "change-vnc-password":
                QemuRun.SetPassword(_vm, "vnc", Text(arguments, "password"));
                break;
            case "inject-nmi":
                _vm.PulseNmi();
                break;
            case "stop":
                _vm.Pause();
                break;
            case "cont":
                if (_control.IsShutDown) throw new QmpException("Resetting the Virtual Machine is required");
                _vm.Resume();
                break;
            case "system_powerdown":
                _vm.PressPowerButton();
                Tell("POWERDOWN");
                break;
            case "system_reset":
                _vm.Machine.RequestReset();
                break;
            case "quit":
                _control.Quit("host-qmp-quit");
                break;
        }
        return new JsonObject();
    }

    /// <summary>Clients know a machine without a balloon by the error's class.</summary>
    private static void Ballooned(Action action)
    {
        try
        {
            action();
        }
        catch (MonitorException e)
        {
            throw new QmpException(e.Message) { Class = "DeviceNotActive" };
        }
    }

    private static string Text(JsonObject arguments, string name) => arguments[name] is JsonValue value && value.TryGetValue(out string? text) ? text
        : throw new QmpException($"Parameter '{name}' is missing");

    /// <summary>Writes a picture of the screen to a PNG file.</summary>
    /// <exception cref="SessionException">There is no screen, or the file cannot be written.</exception>
    public static void DumpScreen(Vm vm, string path) =>
        PngFile.Write(path, (vm.Display ?? throw new MonitorException("the machine has no screen; -vga std gives it one")).Paint());

    private string Status => _control.IsShutDown ? "shutdown" : _vm.State switch
    {
        VmState.Running => "running",
        VmState.Ended => "shutdown",
        _ => _vm.LacksRoom ? "io-error" : _control.HasRun ? "paused" : "prelaunch",
    };

    private static JsonObject Block(DiskState disk, DriveName name, bool isDisc)
    {
        string format = DiskImage.Word(disk.Format ?? ImageFormat.Raw);
        var inserted = new JsonObject { ["file"] = disk.Path };
        if (name.Node is { } node) inserted["node-name"] = node;
        inserted["ro"] = disk.IsReadOnly;
        inserted["drv"] = format;
        (inserted["encrypted"], inserted["detect_zeroes"], inserted["backing_file_depth"], inserted["write_threshold"]) = (false, "off", 0, 0);
        foreach (string limit in (string[])["bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"]) inserted[limit] = 0; // there is none
        inserted["image"] = new JsonObject { ["filename"] = disk.Path, ["format"] = format, ["virtual-size"] = disk.Length };
        inserted["cache"] = new JsonObject { ["writeback"] = true, ["direct"] = false, ["no-flush"] = false };
        var block = new JsonObject { ["device"] = name.Drive, ["type"] = "unknown", ["removable"] = isDisc, ["locked"] = false, ["inserted"] = inserted };
        if (isDisc) block["tray_open"] = false;
        block["io-status"] = disk.LacksRoom ? "nospace" : "ok";
        return block;
    }

    private static JsonNode Cpu(int index) => new JsonObject
    {
        ["thread-id"] = Environment.ProcessId,
        ["props"] = new JsonObject { ["core-id"] = 0, ["thread-id"] = 0, ["socket-id"] = index },
        ["qom-path"] = $"/machine/unattached/device[{index}]",
        ["cpu-index"] = index,
        ["target"] = "x86_64",
    };
}

/// <summary>A command of the protocol fails.</summary>
/// <param name="message">What the client is told.</param>
internal sealed class QmpException(string message) : Exception(message)
{
    /// <summary>A word that clients know.</summary>
    public string Class { get; init; } = "GenericError";
}

/// <summary>Cuts a stream of JSON objects into single ones, which need not be on lines of their own.</summary>
/// <param name="longest">Bytes of one.</param>
internal sealed class QmpSplitter(int longest)
{
    private readonly List<byte> _bytes = [];
    private int _depth;
    private bool _inText, _escaped, _tooLong;

    /// <summary>Begins anew.</summary>
    public void Reset()
    {
        _bytes.Clear();
        (_depth, _inText, _escaped, _tooLong) = (0, false, false, false);
    }

    /// <summary>Takes a byte. The text that it ends; null: none. A text that is too long, or begins with no brace, comes as what no parser takes.</summary>
    public string? Add(byte b)
    {
        if (_depth == 0 && _bytes.Count == 0 && b is (byte)' ' or (byte)'\t' or (byte)'\r' or (byte)'\n' or (byte)',') return null;
        if (_bytes.Count < longest) _bytes.Add(b);
        else _tooLong = true;
        if (_inText)
        {
            if (_escaped) _escaped = false;
            else if (b == '\\') _escaped = true;
            else if (b == '"') _inText = false;
            return _tooLong && b == '\n' ? Finish() : null;
        }
        switch (b)
        {
            case (byte)'"':
                _inText = true;
                return null;
            case (byte)'{' or (byte)'[':
                _depth++;
                return null;
            case (byte)'}' or (byte)']':
                _depth--;
                return _depth <= 0 ? Finish() : null;
            case (byte)'\n' when _depth == 0 || _tooLong:
                return Finish();
            default:
                return null;
        }
    }

    private string Finish()
    {
        string text = _tooLong ? "" : Encoding.UTF8.GetString([.. _bytes]);
        Reset();
        return text;
    }
}
