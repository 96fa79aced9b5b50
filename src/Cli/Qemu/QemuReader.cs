using System.Globalization;
using System.Text;
using Bunraku.Cli.CommandLine;
using Bunraku.Machine.Board;
using Bunraku.Machine.Firmware;
using Bunraku.Platform;
using Bunraku.Sessions.Debugging;
using Bunraku.Sessions.Screens;

namespace Bunraku.Cli.Qemu;

/// <summary>What is asked for in place of a machine.</summary>
internal enum QemuQuestion { None, Help, Version, Machines, Cpus, Accelerators, Devices, Networks, Characters }

/// <summary>Reads a command line of QEMU's into a <see cref="QemuMachine"/>. One thread.</summary>
internal sealed class QemuReader
{
    private const string Seabios = "seabios";

    /// <summary>Names of SeaBIOS's and qboot's ROMs: without -bios there is one of them as well.</summary>
    private static readonly string[] s_seabios = [Seabios, "bios.bin", "bios-256k.bin", "bios-microvm.bin", "qboot.rom"];

    private readonly (string File, bool IsReadOnly)?[] _flash = new (string, bool)?[2];
    private bool _hasAccelerator, _isHeadless;

    private QemuReader()
    {
        Result = new QemuMachine();
        Drives = new QemuDrives(Result, Pflash);
        Networks = new QemuNetworks(Result);
        Characters = new QemuCharacters(Result);
        Folders = new QemuFolders(Result);
        _devices = new QemuDevices(Result, Drives, Networks, Folders);
    }

    private readonly QemuDevices _devices;
    private readonly List<string> _deviceWords = [];

    public QemuMachine Result { get; }
    public QemuDrives Drives { get; }
    public QemuNetworks Networks { get; }
    public QemuFolders Folders { get; }
    public QemuCharacters Characters { get; }
    public bool IsNoGraphic { get; set; }
    public bool NoDefaults { get; set; }
    public string? BiosFile { get; set; }
    public List<string> Serials { get; } = [];
    public List<(string Where, bool IsProtocol, bool IsPretty)> Monitors { get; } = [];
    public QemuQuestion Question { get; private set; }

    /// <summary>Reads all of it.</summary>
    /// <returns>The machine; and what was asked for in its place, if something was.</returns>
    /// <exception cref="UsageException">Something is wrong, or not had; the message names the word.</exception>
    public static (QemuMachine Machine, QemuQuestion Question) Read(IReadOnlyList<string> arguments)
    {
        var reader = new QemuReader();
        for (int n = 0; n < arguments.Count && reader.Question == QemuQuestion.None; n++)
        {
            string word = arguments[n];
            if (word.Length == 0) continue; // kunit.py gives one; QEMU takes it for a drive without a disk
            if (word[0] != '-' || word == "-")
            {
                reader.Drives.AddNumbered(word, word, 0);
                continue;
            }
            string name = word.TrimStart('-');
            if (word.StartsWith("---", StringComparison.Ordinal) || QemuOptions.Find(name) is not { } option) throw Unknown(word);
            string argument = "";
            if (option.Argument is not null) argument = ++n < arguments.Count ? arguments[n]
                : throw new UsageException($"-{name}: an argument is missing: {option.Argument}");
            reader.Take(option, argument);
        }
        if (reader.Question == QemuQuestion.None) reader.Finish();
        return (reader.Result, reader.Question);
    }

    private static UsageException Unknown(string word) =>
        new(Nearest.Message("option", word, [.. QemuOptions.All.Where(o => o.Likeness != Likeness.Absent).Select(o => "-" + o.Name)]));

    private void Take(QemuOption option, string argument)
    {
        switch (option.Likeness)
        {
            case Likeness.Absent:
                throw new UsageException($"-{option.Name}{(argument.Length > 0 ? " " + argument : "")}: not had: {option.Note}");
            case Likeness.Ignored:
                if (option.TellsOfIgnoring) Result.Notes.Add($"-{option.Name}{(argument.Length > 0 ? " " + argument : "")} is passed over: {option.Note}");
                return;
            default:
                option.Read!(this, argument);
                return;
        }
    }

    public void Ask(QemuQuestion question) => Question = question;

    private bool AsksForHelp(string text, QemuQuestion question)
    {
        if (text is not ("help" or "?")) return false;
        Ask(question);
        return true;
    }

    public void Machine(string text)
    {
        if (AsksForHelp(text, QemuQuestion.Machines)) return;
        QemuWords words = QemuWords.Parse("-machine", text, "type");
        if (words.Take("type") is { } type) Result.Board = type == "microvm" ? BoardKind.MicroVm : IsPc(type) ? BoardKind.Pc : throw NoMachine(type);
        if (words.Take("accel") is { } accelerators) Accelerator(accelerators);
        if (words.Take("pflash0") is not null || words.Take("pflash1") is not null)
            throw new UsageException("-machine: not had: pflash0=; take -drive if=pflash");
        words.Drop("usb", "vmport", "dump-guest-core", "mem-merge", "graphics", "smm", "kernel_irqchip", "kernel-irqchip", "hpet", "pit", "pic", "i8042",
            "sata", "smbus",
            "memory-backend", "nvdimm", "fd-bootchk", "max-ram-below-4g", "acpi", "hmat", "igd-passthru", "suppress-vmdesc", "phandle_start",
                "q35-pcihost.pci-hole64-size",
            "default-bus-bypass-iommu", "confidential-guest-support", "kvm-type", "smbios-entry-point-type", "usb.off",
            "isa-serial", "rtc", "auto-kernel-cmdline", "ioapic2", "x-option-roms");
        foreach (string rest in words.TakeRest()) Result.Notes.Add($"-machine: {rest} is passed over");
    }

    private static bool IsPc(string type) => type is "pc" or "q35" || type.StartsWith("pc-", StringComparison.Ordinal);

    private static UsageException NoMachine(string type) => new(type switch
    {
        "isapc" or "xenfv" or "xenpv" or "none" => $"-machine: not had: {type}; there are pc, q35 and microvm",
        _ => Nearest.Message("machine", type, ["pc", "q35", "microvm"]),
    });

    public void Accelerator(string text)
    {
        if (AsksForHelp(text, QemuQuestion.Accelerators)) return;
        QemuWords words = QemuWords.Parse("-accel", text, "accel");
        string names = words.Need("accel");
        words.Drop("thread", "tb-size", "split-wx", "kernel-irqchip", "dirty-ring-size", "kvm-shadow-mem", "one-insn-per-tb", "igd-passthru", "notify-vmexit",
            "notify-window");
        words.Finish();
        if (_hasAccelerator) return; // the first that is there counts
        foreach (string name in names.Split(':'))
        {
            string? engine = name switch
            {
                "kvm" => VmOptions.AutomaticEngine,
                "tcg" => "bt",
                "bt" or "interp" or "check" => name,
                "hvf" or "whpx" or "nvmm" or "hax" or "xen" or "qtest" => null,
                _ => throw new UsageException(Nearest.Message("accelerator", name, ["kvm", "tcg", "bt", "interp", "check"])),
            };
            if (engine is null) continue;
            (_hasAccelerator, Result.Engine) = (true, engine);
            return;
        }
        _lastAccelerator = names;
    }

    private string? _lastAccelerator;

    public void Cpu(string text)
    {
        if (!AsksForHelp(text, QemuQuestion.Cpus)) QemuCpu.Read(Result, text);
    }

    public void Device(string text)
    {
        // Devices name what other words describe, which may come behind them.
        if (!AsksForHelp(text, QemuQuestion.Devices)) _deviceWords.Add(text);
    }

    public void Memory(string text)
    {
        QemuWords words = QemuWords.Parse("-m", text, "size");
        const ulong unit = 1 << 20;
        if (words.Take("size") is { } size) Result.Memory = QemuWords.Size("-m", size, unit);
        if (words.TakeNumber("slots") is > 0 && words.Take("maxmem") is { } most && QemuWords.Size("-m", most, unit) > Result.Memory)
            Result.Notes.Add("-m: slots and maxmem are passed over: no memory is plugged in while the machine runs");
        words.Drop("maxmem");
        words.Finish();
        Result.Memory -= Result.Memory % GuestMemory.PageSize;
        if (Result.Memory < VmOptions.SmallestMemory) throw new UsageException($"-m {text}: the least is 1M");
    }

    public void Smp(string text)
    {
        QemuWords words = QemuWords.Parse("-smp", text, "cpus");
        int? cpus = words.TakeNumber("cpus"), most = words.TakeNumber("maxcpus");
        long product = 1;
        bool hasTopology = false;
        foreach (string part in (string[])["sockets", "dies", "clusters", "cores", "threads"])
        {
            if (words.TakeNumber(part) is not { } n) continue;
            if (n == 0) throw new UsageException($"-smp: {part}=0");
            product *= n;
            hasTopology = true;
            if (product > int.MaxValue) throw new UsageException($"-smp {text}: too many processors");
        }
        words.Finish();
        int count = cpus ?? (hasTopology ? (int)product : most ?? 1);
        if (count < 1) throw new UsageException($"-smp {text}: the least is 1");
        if (hasTopology && cpus is not null && product != (most ?? cpus) && product > 1 && most is null && product < cpus)
            throw new UsageException($"-smp {text}: {product} processors in the sockets, and {cpus} are asked for");
        if (most > count) Result.Notes.Add($"-smp: maxcpus={most} is passed over: no processor is plugged in while the machine runs");
        Result.Cpus = count;
    }

    public void Name(string text)
    {
        QemuWords words = QemuWords.Parse("-name", text, "guest");
        Result.Name = words.Take("guest");
        words.Drop("process", "debug-threads");
        words.Finish();
    }

    public void Uuid(string text) => Result.Identity = Result.Identity with
    {
        Uuid = Guid.TryParseExact(text, "D", out Guid uuid) ? uuid : throw new UsageException($"-uuid: '{text}' is no UUID"),
    };

    public void Display(string text)
    {
        _isHeadless = true;
        const string vnc = "vnc=";
        if (text.StartsWith(vnc, StringComparison.Ordinal)) Vnc(text[vnc.Length..]);
        else if (text.Split(',')[0] != "none") Result.Notes.Add($"-display {text}: there is no window; the machine runs without");
    }

    public void Vga(string text)
    {
        if (AsksForHelp(text, QemuQuestion.Help)) return;
        Result.Display = text == "none" ? DisplayKind.None : DisplayKind.Standard;
        if (text is not ("none" or "std")) Result.Notes.Add($"-vga {text}: the display is a standard VGA");
    }

    /// <summary>HOST:DISPLAY or unix:PATH, with words behind.</summary>
    public void Vnc(string text)
    {
        const int firstPort = 5900, mostDisplay = 65535 - firstPort;
        _isHeadless = true;
        QemuWords words = QemuWords.Parse("-vnc", text, "vnc");
        string place = words.Need("vnc");
        bool asks = words.TakeSwitch("password") == true;
        _vncSecret = words.Take("password-secret");
        words.Drop("share", "lossy", "non-adaptive", "power-control", "key-delay-ms", "audiodev");
        words.Finish();
        if (place == "none") return;
        int colon = place.LastIndexOf(':');
        if (!place.StartsWith("unix:", StringComparison.Ordinal))
        {
            if (colon < 0 || !int.TryParse(place.AsSpan(colon + 1), NumberStyles.None, CultureInfo.InvariantCulture, out int display) || display > mostDisplay)
                throw new UsageException($"-vnc {text}: '{place}' is no display; write for example 127.0.0.1:1 or unix:PATH");
            place = string.Create(CultureInfo.InvariantCulture, $"{place[..colon]}:{firstPort + display}");
        }
        try
        {
            Result.Vnc = VncEndpoint.Parse(place, asks || _vncSecret is not null);
        }
        catch (FormatException e)
        {
            throw new UsageException($"-vnc {text}: {e.Message}");
        }
    }

    private readonly Dictionary<string, string> _secrets = new(StringComparer.Ordinal);
    private string? _vncSecret;

    private static string ReadSecret(string file)
    {
        const int most = 4096;
        using var reader = new StreamReader(file);
        char[] text = new char[most];
        int length = reader.ReadBlock(text);
        return length < most ? new string(text, 0, length) : throw new FormatException($"this is longer than a secret ({most} characters)");
    }

    /// <summary>-object secret: a word that another thing names, as it stands there or in a file.</summary>
    private void Secret(QemuWords words)
    {
        string id = words.Need("id");
        string? data = words.Take("data"), file = words.Take("file"), format = words.Take("format");
        if (words.Take("keyid") is not null) throw new UsageException("-object secret: not had: keyid=, a secret that another one encrypts");
        words.Finish();
        if (data is null == file is null) throw new UsageException($"-object secret,id={id}: it has data= or file=, one of the two");
        try
        {
            string text = data ?? ReadSecret(file!);
            _secrets[id] = format is null or "raw" ? text : format == "base64" ? Encoding.UTF8.GetString(Convert.FromBase64String(text.Trim()))
                : throw new UsageException($"-object secret,id={id}: format={format} is neither raw nor base64");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException or FormatException)
        {
            throw new UsageException($"-object secret,id={id}: {(file is null ? "data=" : file)}: {HostError.Reason(e)}");
        }
    }

    /// <summary>The first is firmware's code, the second its variables.</summary>
    /// <param name="unit">0 or 1; null: the next.</param>
    public void Pflash(int? unit, string file, bool isReadOnly)
    {
        int place = unit ?? (_flash[0] is null ? 0 : 1);
        if (place is not (0 or 1) || _flash[place] is not null)
            throw new UsageException("there are two flash memories, unit 0 and unit 1: firmware's code, and its variables");
        _flash[place] = (file, isReadOnly);
    }

    public void Boot(string text)
    {
        QemuWords words = QemuWords.Parse("-boot", text, "order");
        string? once = words.Take("once"), order = words.Take("order") ?? once;
        if (once is not null) Result.Notes.Add("-boot: once= counts at each start: SeaBIOS has one order");
        words.Drop("menu", "splash", "splash-time", "reboot-timeout", "strict");
        words.Finish();
        if (order is null) return;
        var devices = new List<BootDevice>();
        foreach (char letter in once ?? order)
        {
            BootDevice? device = letter switch
            {
                'a' or 'b' => null,
                'c' => BootDevice.Disk,
                'd' => BootDevice.CompactDisc,
                'n' or 'o' or 'p' => BootDevice.Network,
                _ => throw new UsageException($"-boot: '{letter}' is no device; a and b are floppies, c disks, d CDs, n the network"),
            };
            if (device is { } d && !devices.Contains(d)) devices.Add(d);
        }
        Result.BootOrder = devices;
    }

    public void FirmwareItem(string text)
    {
        QemuWords words = QemuWords.Parse("-fw_cfg", text, "name");
        string name = words.Need("name");
        string? file = words.Take("file"), content = words.Take("string");
        words.Finish();
        if (file is null == content is null) throw new UsageException("-fw_cfg: write name=NAME with either file=FILE or string=TEXT");
        if (name.Length is 0 or > 55 || !Ascii.IsValid(name)) throw new UsageException($"-fw_cfg: '{name}' is no name; it has 1 to 55 ASCII characters");
        Result.FirmwareItems.Add((name, content is not null ? Encoding.UTF8.GetBytes(content) : ReadFile("-fw_cfg", file!)));
    }

    private static byte[] ReadFile(string option, string path)
    {
        const long longest = 64 << 20;
        try
        {
            using var file = new FileStream(path, FileMode.Open, FileAccess.Read);
            if (file.Length > longest) throw new CannotStartException($"{option}: {path} has more than 64 MiB");
            byte[] bytes = new byte[file.Length];
            file.ReadExactly(bytes);
            return bytes;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            throw new CannotStartException($"{option}: cannot read {path}: {Platform.HostError.Reason(e)}", e);
        }
    }

    public void Smbios(string text)
    {
        QemuWords words = QemuWords.Parse("-smbios", text);
        if (words.Take("file") is not null) throw new UsageException("-smbios: not had: file=; type= with its words is");
        int type = words.TakeNumber("type") ?? throw new UsageException("-smbios: type= is missing");
        MachineIdentity identity = Result.Identity;
        switch (type)
        {
            case 0:
                identity = identity with { BiosVendor = words.Take("vendor"), BiosVersion = words.Take("version"), BiosDate = words.Take("date") };
                words.Drop("release", "uefi");
                break;
            case 1:
                identity = identity with
                {
                    Manufacturer = words.Take("manufacturer") ?? identity.Manufacturer,
                    Product = words.Take("product") ?? identity.Product,
                    Version = words.Take("version") ?? identity.Version,
                    Serial = words.Take("serial") ?? identity.Serial,
                    Sku = words.Take("sku") ?? identity.Sku,
                    Family = words.Take("family") ?? identity.Family,
                };
                Result.Identity = identity;
                if (words.Take("uuid") is { } uuid) Uuid(uuid);
                identity = Result.Identity;
                break;
            case 11:
                identity = identity with
                {
                    Strings = [.. identity.Strings, .. words.TakeAll("value"), .. words.TakeAll("path").Select(p =>
                        Encoding.UTF8.GetString(ReadFile("-smbios", p)))],
                };
                break;
            case 2 or 3 or 4 or 17 or 41:
                Result.Notes.Add($"-smbios: type={type} is passed over");
                return;
            default:
                throw new UsageException($"-smbios: not had: type={type}; there are 0, 1 and 11");
        }
        words.Finish();
        if (identity.Problem is { } problem) throw new UsageException($"-smbios: {problem}");
        Result.Identity = identity;
    }

    public void DebugConsole(string where)
    {
        const ushort port = 0xE9;
        if (Characters.Short("-debugcon", where, out _) is { } character) Result.DebugConsoles.Add((port, character));
    }

    public void Monitor(string text)
    {
        QemuWords words = QemuWords.Parse("-mon", text, "chardev");
        string character = words.Need("chardev"), mode = words.Take("mode") ?? "readline";
        if (mode is not ("readline" or "control")) throw new UsageException($"-mon: mode={mode} is neither readline nor control");
        Monitors.Add(($"chardev:{character}", mode == "control", words.TakeSwitch("pretty") == true));
        words.Drop("id", "default");
        words.Finish();
    }

    public void EscapeKey(string text)
    {
        int key = QemuWords.Number("-echr", "code", text);
        Result.EscapeKey = key is > 0 and < 128 ? (byte)key : throw new UsageException($"-echr: {text} is no key; Ctrl-A is 1");
    }

    public void Debugger(string text)
    {
        string where = text.StartsWith("tcp:", StringComparison.Ordinal) ? text["tcp:".Length..] : text;
        int comma = where.IndexOf(',');
        if (comma >= 0) where = where[..comma]; // server, nowait: what else should it be?
        try
        {
            Result.Debugger = DebugEndpoint.Parse(where);
        }
        catch (FormatException e)
        {
            throw new UsageException($"-gdb: {e.Message}");
        }
    }

    public void Action(string text)
    {
        QemuWords words = QemuWords.Parse("-action", text);
        Result.NoReboot = words.Take("reboot") switch
        {
            null => Result.NoReboot,
            "reset" => false,
            "shutdown" => true,
            { } other => throw new UsageException($"-action: not had: reboot={other}"),
        };
        Result.NoShutdown = words.Take("shutdown") switch
        {
            null => Result.NoShutdown,
            "poweroff" => false,
            "pause" => true,
            { } other => throw new UsageException($"-action: not had: shutdown={other}"),
        };
        if (words.Take("panic") is { } panic and not "shutdown") throw new UsageException($"-action: not had: panic={panic}");
        words.Drop("watchdog");
        words.Finish();
    }

    public void Clock(string text)
    {
        QemuWords words = QemuWords.Parse("-rtc", text);
        Result.StartTime = Quantities.ParseStartTime("-rtc base=", words.Take("base") ?? "utc");
        words.Drop("clock", "driftfix");
        words.Finish();
    }

    public void Object(string text)
    {
        QemuWords words = QemuWords.Parse("-object", text, "qom-type");
        string kind = words.Need("qom-type");
        if (kind == "secret")
        {
            Secret(words);
            return;
        }
        words.TakeRest();
        if (kind is "rng-random" or "rng-builtin" or "iothread" or "throttle-group" or "can-bus"
            || kind.StartsWith("memory-backend-", StringComparison.Ordinal)) return;
        throw new UsageException($"-object: not had: {kind}");
    }

    /// <summary>All words are there: what they leave open gets what QEMU would give, and what names another thing finds it.</summary>
    private void Finish()
    {
        if (!_hasAccelerator && _lastAccelerator is { } absent) throw new UsageException($"-accel: not had: {absent}; there are kvm and tcg");
        foreach (string device in _deviceWords) _devices.Add(device);
        if (_vncSecret is { } secret)
            Result.VncPassword = _secrets.GetValueOrDefault(secret) ?? throw new UsageException($"-vnc: there is no -object secret with id={secret}");
        Drives.Finish();
        Networks.Finish(hasDefaults: !NoDefaults && Result.Board == BoardKind.Pc);
        bool hasSerial = Serials.Count > 0 || Result.Serials.Count > 0, hasMonitor = Monitors.Count > 0
            || Serials.Any(s => s.StartsWith("mon:", StringComparison.Ordinal)), hasWindow = !_isHeadless && !IsNoGraphic;
        if (!NoDefaults && !hasSerial && !hasMonitor && hasWindow && Result.VirtioSerials.Count == 0)
        {
            Result.Notes.Add("there is no window: the first serial port and the monitor are on this terminal, as with -nographic");
            IsNoGraphic = true;
        }
        if (IsNoGraphic && !NoDefaults)
        {
            if (!hasSerial && !hasMonitor) Serials.Add("mon:stdio");
            else if (!hasSerial) Serials.Add("stdio");
            else if (!hasMonitor) Monitors.Add(("stdio", false, false));
        }
        for (int n = 0; n < Serials.Count; n++)
        {
            string? character = Characters.Short("-serial", Serials[n], out bool withMonitor);
            if (n >= QemuMachine.MostSerialPorts)
            {
                if (character is null || Result.Characters[character].Kind == CharacterKind.Null) continue;
                throw new UsageException($"-serial {Serials[n]}: not had: a third port; the board has {QemuMachine.MostSerialPorts}");
            }
            Result.Serials.Insert(Math.Min(n, Result.Serials.Count), character);
            if (withMonitor) Result.Monitors.Add(new MonitorSpec(character!, IsProtocol: false));
        }
        foreach ((string where, bool isProtocol, bool isPretty) in Monitors)
        {
            string option = isProtocol ? "-qmp" : "-monitor";
            if (Characters.Short(option, where, out _) is { } character) Result.Monitors.Add(new MonitorSpec(character, isProtocol, isPretty));
        }
        CheckCharacters();
        if (Result.Daemonize && Result.Characters.Values.Any(c => c.Kind == CharacterKind.Stdio))
            throw new UsageException("-daemonize: a process in the background has no terminal: -nographic and stdio do not go with it; -display none and "
                + "-serial file: do");
        FinishFirmware();
    }

    /// <summary>Each character device that is named exists, and has one user, or is shared.</summary>
    private void CheckCharacters()
    {
        var ports = Result.Serials.OfType<string>().Concat(Result.VirtioSerials.SelectMany(v => v.Ports).Select(p => p.Character))
            .Concat(Result.DebugConsoles.Select(d => d.Character)).ToList();
        foreach (string name in ports.Concat(Result.Monitors.Select(m => m.Character)))
        {
            if (!Result.Characters.ContainsKey(name)) throw new UsageException($"there is no -chardev with id={name}");
        }
        foreach ((string name, CharacterSpec spec) in Result.Characters)
        {
            int users = ports.Count(p => p == name), monitors = Result.Monitors.Count(m => m.Character == name);
            if (!spec.IsShared && users + monitors > 1) throw new UsageException($"the character device '{name}' has two users; mux=on shares it");
            if (users > 1 || monitors > 1 || users > 0 && Result.Monitors.Any(m => m.Character == name && m.IsProtocol))
                throw new UsageException($"the character device '{name}': a mux with more than one port and one monitor for people is not had");
        }
    }

    private void FinishFirmware()
    {
        if (NoDefaults && Result is { Display: DisplayKind.Automatic, Vnc: null }) Result.Display = DisplayKind.None;
        if (_flash is not [null, null])
        {
            if (Result.Kernel is not null || BiosFile is not null) throw new UsageException("flash memories go without -bios and -kernel");
            string code = _flash[0]?.File ?? throw new UsageException($"flash memory {_flash[1]!.Value.File}: variables go with the firmware's code, unit 0");
            Result.Bios = FirmwareImage.NameOfCode(code)
                ?? throw new UsageException($"flash memory {code}: not had: other code than that of the package ovmf (OVMF_CODE_4M.fd)");
            if (_flash[1] is not { } variables) return;
            if (!variables.IsReadOnly && !Drives.Throwaway) Result.EfiVars = variables.File;
            else Result.Notes.Add($"flash memory {variables.File} is passed over: variables are new, and gone at the end");
            return;
        }
        bool isSeabios = BiosFile is null || s_seabios.Contains(Path.GetFileName(BiosFile)) && !File.Exists(BiosFile);
        if (Result.Kernel is null)
        {
            if (Result.Initrd is not null) throw new UsageException("-initrd goes with -kernel");
            if (Result.Append is not null) throw new UsageException("-append goes with -kernel");
            Result.Bios = isSeabios ? Seabios : FirmwareImage.NameOfCode(BiosFile!) ?? BiosFile;
            return;
        }
        if (BiosFile is not null && !s_seabios.Contains(Path.GetFileName(BiosFile)))
            throw new UsageException($"-bios {BiosFile}: not had: -kernel through firmware; the kernel is entered without, so leave -bios away");
    }
}
