using System.Globalization;
using System.Net;

namespace Bunraku.Cli.Qemu;

/// <summary>Reads character devices: <c>-chardev KIND,id=…</c>, and the short forms behind -serial, -monitor, -qmp and their like.</summary>
internal sealed class QemuCharacters(QemuMachine machine)
{
    private const string ShortForms = "stdio, null, none, file:PATH, pipe:PATH, unix:PATH, tcp:HOST:PORT, pty or chardev:ID";

    private int _unnamed;

    /// <summary>-chardev.</summary>
    public void Add(string text)
    {
        const string option = "-chardev";
        QemuWords words = QemuWords.Parse(option, text, "backend");
        string kind = words.Need("backend"), id = words.Need("id");
        CharacterSpec spec = kind switch
        {
            "null" or "vc" or "braille" or "msmouse" or "wctablet" or "testdev" or "ringbuf" or "memory" => Silent(words, kind, id),
            "stdio" => new CharacterSpec(id, CharacterKind.Stdio) { HasSignals = words.TakeSwitch("signal") ?? true },
            "file" => new CharacterSpec(id, CharacterKind.File)
            {
                Path = words.Need("path"),
                InputPath = words.Take("input-path"),
                Append = words.TakeSwitch("append") == true,
            },
            "pipe" => new CharacterSpec(id, CharacterKind.Pipe) { Path = words.Need("path") },
            "pty" => new CharacterSpec(id, CharacterKind.Pty) { Path = words.Take("path") },
            "socket" => Socket(words, id),
            _ => throw new UsageException(kind
                is "udp" or "serial" or "tty" or "parallel" or "parport" or "spicevmc" or "spiceport" or "qemu-vdagent" or "dbus" or "console"
                ? $"{option}: not had: {kind}; there are {ShortForms}" : Nearest.Message("character "
                    + "device", kind, ["null", "stdio", "file", "pipe", "pty", "socket"])),
        };
        spec = spec with
        {
            IsShared = words.TakeSwitch("mux") == true,
            LogFile = words.Take("logfile"),
            LogAppend = words.TakeSwitch("logappend") == true,
        };
        words.Finish();
        AddSpec(option, spec);
    }

    /// <summary>What shows on a window of QEMU's goes nowhere.</summary>
    private static CharacterSpec Silent(QemuWords words, string kind, string id)
    {
        words.Drop("width", "height", "cols", "rows", "size");
        return kind is "null" or "vc" ? new CharacterSpec(id, CharacterKind.Null)
            : throw new UsageException($"-chardev: not had: {kind}; 'null' takes what nobody is to read");
    }

    private static CharacterSpec Socket(QemuWords words, string id)
    {
        string? path = words.Take("path"), host = words.Take("host"), port = words.Take("port");
        foreach (string absent in (string[])["fd", "tls-creds", "tls-authz"])
        {
            if (words.Take(absent) is not null) throw new UsageException($"{words.Option}: not had: {absent}=");
        }
        if (words.TakeSwitch("telnet") == true || words.TakeSwitch("tn3270") == true || words.TakeSwitch("websocket") == true)
            throw new UsageException($"{words.Option}: not had: telnet, tn3270 and websocket; a plain socket is");
        words.Drop("nodelay", "ipv4", "ipv6", "to", "abstract", "tight", "delay");
        bool isServer = words.TakeSwitch("server") == true;
        var spec = new CharacterSpec(id, path is null ? CharacterKind.Tcp : CharacterKind.Unix)
        {
            Path = path,
            Address = path is null ? Address(words.Option, host ?? "", port ?? throw new UsageException($"{words.Option}: a socket needs path=, or host= and "
                + "port=")) : null,
            IsServer = isServer,
            Waits = isServer && (words.TakeSwitch("wait") ?? true),
            Reconnect = words.TakeNumber("reconnect") ?? 0,
        };
        words.Drop("wait");
        return spec;
    }

    /// <summary>A port of this host, or of another one. Who listens, listens on loopback alone: whoever connects has the guest's console, or the
    /// machine.</summary>
    private static IPEndPoint Address(string option, string host, string port)
    {
        if (!ushort.TryParse(port, NumberStyles.None, CultureInfo.InvariantCulture, out ushort number)) throw new UsageException($"{option}: '{port}' is no "
            + "port");
        if (host is "" or "localhost" or "0.0.0.0") return new IPEndPoint(IPAddress.Loopback, number);
        if (host is "::" or "[::]") return new IPEndPoint(IPAddress.IPv6Loopback, number);
        return IPAddress.TryParse(host.Trim('[', ']'), out IPAddress? address) ? new IPEndPoint(address, number)
            : throw new UsageException($"{option}: '{host}' is no address; sockets take addresses, and 'localhost'");
    }

    /// <summary>A short form; the character device's name, or null for 'none'.</summary>
    /// <param name="option">For messages.</param>
    /// <param name="text">As it was given.</param>
    /// <param name="withMonitor">It began with mon:, so that a monitor is to share it.</param>
    public string? Short(string option, string text, out bool withMonitor)
    {
        withMonitor = text.StartsWith("mon:", StringComparison.Ordinal);
        if (withMonitor) text = text["mon:".Length..];
        (string kind, string? rest) = text.IndexOf(':') is >= 0 and int colon ? (text[..colon], text[(colon + 1)..]) : (text, null);
        if (kind == "chardev" && rest is not null) return rest;
        if (text == "none") return null;
        string id = string.Create(CultureInfo.InvariantCulture, $"{option}#{_unnamed++}");
        CharacterSpec spec = kind switch
        {
            "stdio" => new CharacterSpec(id, CharacterKind.Stdio) { HasSignals = !withMonitor },
            "null" or "vc" => new CharacterSpec(id, CharacterKind.Null),
            "pty" => new CharacterSpec(id, CharacterKind.Pty),
            "file" when rest is { Length: > 0 } => new CharacterSpec(id, CharacterKind.File) { Path = rest },
            "pipe" when rest is { Length: > 0 } => new CharacterSpec(id, CharacterKind.Pipe) { Path = rest },
            "unix" when rest is { Length: > 0 } => ShortSocket(option, id, rest),
            "tcp" when rest is { Length: > 0 } => ShortSocket(option, id, rest, isTcp: true),
            "file" or "pipe" or "unix" or "tcp" => throw new UsageException($"{option} {text}: write {ShortForms}"),
            _ => throw new UsageException(kind is "udp" or "telnet" or "websocket" or "tn3270" or "con" or "msmouse" or "braille" or "wctablet"
                || text.StartsWith('/')
                ? $"{option}: not had: {text}; there are {ShortForms}" : $"{option}: '{text}' is no character device; there are {ShortForms}"),
        };
        if (withMonitor) spec = spec with { IsShared = true };
        AddSpec(option, spec);
        return id;
    }

    private static CharacterSpec ShortSocket(string option, string id, string text, bool isTcp = false)
    {
        QemuWords words = QemuWords.Parse(option, text, "place");
        string place = words.Need("place");
        words.Drop("nodelay", "ipv4", "ipv6", "abstract", "tight");
        if (words.TakeSwitch("telnet") == true) throw new UsageException($"{option}: not had: telnet; a plain socket is");
        bool isServer = words.TakeSwitch("server") == true;
        bool waits = isServer && (words.TakeSwitch("wait") ?? true);
        words.Drop("wait");
        int reconnect = words.TakeNumber("reconnect") ?? 0;
        words.Finish();
        int colon = place.LastIndexOf(':');
        if (isTcp && colon < 0) throw new UsageException($"{option} tcp:{place}: the port is missing");
        return new CharacterSpec(id, isTcp ? CharacterKind.Tcp : CharacterKind.Unix)
        {
            Path = isTcp ? null : place,
            Address = isTcp ? Address(option, place[..colon], place[(colon + 1)..]) : null,
            IsServer = isServer,
            Waits = waits,
            Reconnect = reconnect,
        };
    }

    private void AddSpec(string option, CharacterSpec spec)
    {
        if (spec is { IsServer: false, Kind: CharacterKind.Unix or CharacterKind.Tcp } or { IsServer: true } && spec.Address is { } address && spec.IsServer
            && !IPAddress.IsLoopback(address.Address))
        {
            throw new UsageException($"{option}: {address} is no loopback address, and who connects has what is behind it; listen on "
                + $"127.0.0.1:{address.Port} or unix:PATH");
        }
        if (spec.Kind == CharacterKind.Stdio && machine.Characters.Values.Any(c => c.Kind == CharacterKind.Stdio))
            throw new UsageException($"{option}: stdio can be used by one character device alone; 'mon:stdio', or -chardev stdio,mux=on, shares it");
        if (!machine.Characters.TryAdd(spec.Id, spec)) throw new UsageException($"{option}: the name '{spec.Id}' is given twice");
    }
}
