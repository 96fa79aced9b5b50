using System.Globalization;
using System.Security.Cryptography;
using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// Builds the user space of the default Linux guest: busybox and scripts. They talk to the host by <see cref="GuestMessages"/> on COM1: "init" when
/// the first one starts, "input" when the command takes input and with each prompt of the shell, and "exit N" when the command ended and all its output
/// left the serial port. Then the machine powers off, however the command ended.
/// </summary>
/// <remarks>
/// Process 1 sets everything up, starts the session and waits for its end or for a signal of poweroff, reboot or halt. The session is a process of its own that
/// runs the command (or shell), leads the session of the terminal, and stays: when the leader of a terminal's session ends, Linux drops the
/// output that still waits in the terminal.
/// </remarks>
internal static class InitramfsBuilder
{
    /// <summary>Seconds between two looks at what Linux counted on the command's line. A look starts one process.</summary>
    private const int WatchPeriod = 3;
    private const uint Executable = 0x1ED;
    private const string CommandPath = "/etc/bunraku/command", SizePath = "/etc/bunraku/size", CopyPath = "/etc/bunraku/copy", PumpPath = "/etc/bunraku/pump",
        SessionPath = "/etc/bunraku/session", DhcpPath = "/etc/bunraku/dhcp", ModuleFolder = "/etc/bunraku/modules", FileFolder = "/etc/bunraku/files";

    /// <summary>Where <see cref="LinuxGuestOptions.Init"/> is.</summary>
    public const string OtherInit = "/sbin/init";

    private static readonly string[] Directories =
        ["bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "root", "tmp", "etc", "etc/bunraku", ModuleFolder[1..], "var"];

    /// <summary>Returns a cpio archive.</summary>
    /// <param name="busybox">A statically linked busybox for x86-64.</param>
    /// <param name="token">See <see cref="GuestMessages"/>; letters and digits.</param>
    public static byte[] Build(ReadOnlySpan<byte> busybox, LinuxGuestOptions options, GuestConsole console, string token)
    {
        var archive = new CpioArchive();
        foreach (string directory in Directories) archive.AddDirectory(directory);
        // The kernel opens the console for init before anything is mounted.
        archive.AddCharacterDevice("dev/console", 5, 1);
        archive.AddCharacterDevice("dev/null", 1, 3, 0x1B6);
        if (options.StreamPorts) busybox = BusyboxApplets.Hide(busybox, "modprobe", "modinfo");
        archive.AddFile("bin/busybox", busybox, Executable);
        archive.AddFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n"u8);
        archive.AddFile("etc/group", "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n"u8);
        archive.AddFile("etc/hostname", "bunraku\n"u8);
        archive.AddFile("etc/hosts", "127.0.0.1 localhost bunraku\n"u8);
        archive.AddFile("etc/profile", Encoding.UTF8.GetBytes(Profile(token)));
        archive.AddFile("init", Encoding.UTF8.GetBytes(InitScript(options, console, token)), Executable);
        if (options.Init is { } init)
        {
            archive.AddFile(OtherInit[1..], init.Span, Executable);
            archive.AddSymbolicLink("bin/sh", "busybox"); // which scripts begin with, and ours would make too late
        }
        archive.AddFile(SessionPath[1..], Encoding.UTF8.GetBytes(SessionScript(options, console, token)), Executable);
        if (options.Networks.Count > 0) archive.AddFile(DhcpPath[1..], Encoding.UTF8.GetBytes(DhcpScript), Executable);
        for (int n = 0; n < options.Modules.Count; n++) archive.AddFile($"{ModuleFolder[1..]}/{n:00}.ko", options.Modules[n].Span);
        if (options.Files.Count > 0)
        {
            archive.AddDirectory(FileFolder[1..]);
            CommandStart.AddFiles(archive, FileFolder[1..], options.Files);
        }
        if (console != GuestConsole.Shell)
            archive.AddFile(CommandPath[1..], Encoding.UTF8.GetBytes(options.Waits ? WaitingScript(token) : CommandScript(options)), Executable);
        if (LinuxGuest.TakesSizes(options, console)) archive.AddFile(SizePath[1..], Encoding.UTF8.GetBytes("#!/bin/busybox sh\n" + SizeScript), Executable);
        if (options.StreamPorts)
        {
            archive.AddFile(ModuleScripts.ModprobePath[1..], Encoding.UTF8.GetBytes(ModuleScripts.Modprobe), Executable);
            archive.AddFile(ModuleScripts.ModinfoPath[1..], Encoding.UTF8.GetBytes(ModuleScripts.Modinfo), Executable);
        }
        if (options.Waits)
        {
            archive.AddFile(CopyPath[1..], CopyProgram.Build(), Executable);
            archive.AddFile(PumpPath[1..], PumpProgram.Build(), Executable);
        }
        return archive.ToArray();
    }

    /// <summary>Gives a terminal the sizes that come by <see cref="LinuxGuest.SizePort"/>; who works there is told by SIGWINCH.</summary>
    public static readonly string SizeScript = $$"""
        n=0
        while set -- /dev/vport*p{{LinuxGuest.SizePort}}; do
            [ -e "$1" ] && break
            [ $n -lt 100 ] || exit 0
            sleep 0.1
            n=$((n + 1))
        done
        while read -r terminal columns rows; do
            stty -F "/dev/$terminal" cols "$columns" rows "$rows"
        done <"$1" 2>/dev/null

        """;

    private static string CommandScript(LinuxGuestOptions options) =>
        "#!/bin/busybox sh\n" + EnterShare(options, "exit 126") + Become(options);

    /// <summary>The shell becomes the command, or the user's shell.</summary>
    private static string Become(LinuxGuestOptions options)
    {
        if (options.Command.Count == 0) return CommandStart.Exec(options, "sh -l", hasAccounts: false);
        string name = Quote(options.Command[0]), words = string.Join(' ', options.Command.Select(Quote));
        string check = options.Command[0].Contains('/') ? ""
            : $"command -v {name} >/dev/null || {{ printf '%s: not found\\n' {name} >&2; exit 127; }}\n";
        return CommandStart.Exec(options, words, hasAccounts: false, check);
    }

    /// <summary>What could not be mounted is told by who would work in it.</summary>
    private const string NotMounted = "/run/not-mounted";

    /// <summary>Of a guest that waits: what is to be done with its shared folders at the end; missing where that is nothing.</summary>
    private const string LeavePath = "/run/leave";

    /// <summary>Mounts the shared folders.</summary>
    private static string MountShares(LinuxGuestOptions options) => MountShares(options, "", "");

    /// <summary>The same below another system's root, whose drivers are not loaded yet, with nothing but busybox.</summary>
    public static string MountSharesIn(string root, LinuxGuestOptions options) => options.Shares.Count == 0 ? ""
        : LoadShareDriver(root, options) + MountShares(options, root, "busybox ");

    /// <summary>For who mounts them later: <see cref="MountSharesLate"/>.</summary>
    public static string LoadShareDriver(string root, LinuxGuestOptions options) => string.Concat(
        options.Shares.Select(s => s.NinePCache is null ? "virtiofs" : "-a 9p 9pnet_virtio").Distinct()
            .Select(driver => $"busybox chroot {root} /sbin/modprobe {driver}\n"));

    /// <summary>Mounts the shared folders where their driver is there.</summary>
    public static string MountSharesLate(LinuxGuestOptions options) => MountShares(options, "", "busybox ");

    private static string MountShares(LinuxGuestOptions options, string root, string tool) => string.Concat(options.Shares.Select(s => $$"""
        {{tool}}mkdir -p {{Quote(root + s.At)}} && {{tool}}mount {{s.Options}} {{Quote(s.Tag)}} {{Quote(root + s.At)}} ||
            printf 'bunraku: the guest cannot mount the shared folder at %s\n' {{Quote(s.At)}} >>{{root}}{{NotMounted}}
        {{(s.NinePCache is null && root.Length == 0 ? ReadAhead(s.At) : "")}}

        """));

    /// <summary>
    /// Linux reads ahead by 128 KiB, and a client of FUSE can be told of less and not of more: a request of 1 MiB costs little more than one of those. By the
    /// device's number that the folder has as a mount, which are the fifth and the third word of a line. In a shell of its own, whose variables are nobody's.
    /// </summary>
    private static string ReadAhead(string at) => $$"""
        (while read -r n x device x place rest; do
            [ "$place" != {{Quote(Octal(at))}} ] || echo 1024 >/sys/class/bdi/$device/read_ahead_kb
        done) </proc/self/mountinfo 2>/dev/null
        """;

    /// <summary>A path as the kernel's list of mounts has it.</summary>
    private static string Octal(string path) => path.Replace(@"\", @"\134", StringComparison.Ordinal).Replace(" ", @"\040", StringComparison.Ordinal)
        .Replace("\t", @"\011", StringComparison.Ordinal).Replace("\n", @"\012", StringComparison.Ordinal);

    /// <summary>What waits in the guest to be written goes to the host at the end. Else there is nothing to wait for.</summary>
    public static string LeaveShares(LinuxGuestOptions options) => $$"""
        leave() {
            {{LeaveCommands(options)}}:
        }

        """;

    private static string LeaveCommands(LinuxGuestOptions options) =>
        string.Concat(options.Shares.Where(s => s.WritesLater).Select(s => $"umount {Quote(s.At)} 2>/dev/null || sync; "));

    /// <summary>Where a command or a shell starts.</summary>
    public static string EnterShare(LinuxGuestOptions options, string otherwise) => (options.Shares.Count == 0 ? "" : $$"""
        [ ! -e {{NotMounted}} ] || { cat {{NotMounted}} >&2; {{otherwise}}; }
        cd {{Quote(options.Shares[0].At)}} || {{otherwise}}

        """) + CommandStart.Enter(options, otherwise);

    /// <summary>See <see cref="LinuxGuest.Handover"/>. <see cref="WaitingScript"/> reads it as part of itself.</summary>
    public static byte[] Handover(LinuxGuestOptions options, bool isCopy)
    {
        var script = new StringBuilder();
        // A program of the guest's user must not see what is for this script alone: no export.
        script.Append(Mode(options));
        for (int n = 0; n < options.Networks.Count; n++)
        {
            if (isCopy && !options.HasOwnAddress.ElementAtOrDefault(n)) script.Append($"ip link set eth{n} address {NewAddress()}\n");
            script.Append(Network(options.Networks[n], n));
        }
        script.Append(MountShares(options));
        if (LeaveCommands(options) is { Length: > 0 } leave) script.Append("echo ").Append(Quote(leave)).Append(" >").Append(LeavePath).Append('\n');
        if (isCopy) script.Append("read -r copied <&7\n");
        script.Append("export TERM=").Append(Quote(options.Term ?? "linux")).Append('\n');
        script.Append("run() {\n").Append(EnterShare(options, options.Command.Count == 0 ? ":" : "exit 126")).Append(Become(options)).Append("}\n");
        return Encoding.UTF8.GetBytes(script.ToString());
    }

    /// <summary>How the command is wired, for the script that waits for it.</summary>
    public static string Mode(LinuxGuestOptions options) => options.Terminal ? $"mode=terminal\nsize={Quote(Size(options))}\n"
        : options.SeparateErrors ? "mode=separate\n" : "mode=joined\n";

    /// <summary>An address for a network card, of those that QEMU's cards have.</summary>
    public static string NewAddress() =>
        $"52:54:00:{string.Join(':', RandomNumberGenerator.GetBytes(3).Select(b => b.ToString("x2", CultureInfo.InvariantCulture)))}";

    /// <summary>Words for stty: the terminal's size, where it is known.</summary>
    public static string Size(LinuxGuestOptions options) => options is { Columns: > 0, Rows: > 0 } ? $" cols {options.Columns} rows {options.Rows}" : "";

    /// <summary>Quotes a word for the POSIX shell: any bytes but NUL come out as they are.</summary>
    public static string Quote(string word) => $"'{word.Replace("'", "'\\''")}'";

    /// <summary>
    /// The shell's prompt tells "input": only then is the terminal in the mode in which the shell reads, and a Ctrl-D typed ahead is no longer lost.
    /// The shell takes backslashes away twice: when it expands PS1 as in double quotes, and when it looks for the escapes of a prompt.
    /// </summary>
    private static string Profile(string token) => $$"""
        PS1='\[\e_bunraku;{{token}};input\e\\\\\]\u@\h:\w\$ '
        alias ll='ls -l'

        """;

    /// <summary>Setting any terminal mode first waits until the serial port has sent everything (tcsetattr with TCSADRAIN).</summary>
    private static string Tell(string token) => $$"""
        tell() {
            printf '\033_bunraku;{{token}};%s\033\\' "$1" >/dev/console
            /bin/busybox stty -F /dev/console onlcr
        }

        """;

    /// <summary>What busybox's udhcpc calls with what it was told.</summary>
    private const string DhcpScript = """
        #!/bin/busybox sh
        case $1 in
            bound | renew)
                ip addr flush dev $interface scope global
                ip addr add $ip/$mask dev $interface
                [ "$mtu" ] && ip link set $interface mtu $mtu
                for gateway in $router; do ip route add default via $gateway dev $interface && break; done
                for server in $dns; do echo nameserver $server; done >/etc/resolv.conf
                [ "$domain" ] && echo "search $domain" >>/etc/resolv.conf ;;
        esac

        """;

    private static string Network(bool answers, int number) => $"""
        ip link set eth{number} up
        udhcpc -i eth{number} -q -n -t {(answers ? "5 -T 1" : "10 -T 3")} -s {DhcpPath} >/dev/null 2>&1{(answers ? "" : " &")}

        """;

    private static string Reader(LinuxGuestOptions options) => $$"""
        {{LeaveShares(options)}}
        {{MountShares(options)}}
        # The session writes its status; when it is killed, the pipe ends without one.
        (read -r status </run/ended; echo "${status:-137}" >/run/status) &
        reader=$!
        """;

    private static string InitScript(LinuxGuestOptions options, GuestConsole console, string token)
    {
        string size = Size(options);
        string start = $$"""
            #!/bin/busybox sh
            export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root SHELL=/bin/sh TERM={{Quote(options.Term ?? "linux")}}
            {{Tell(token)}}
            /bin/busybox mount -t devtmpfs -o mode=755 dev /dev
            exec </dev/console >/dev/console 2>&1
            tell init
            /bin/busybox --install -s
            {{(options.StreamPorts ? "rm -f /sbin/*[a-z]-" : "")}}
            mount -t proc proc /proc
            mount -t sysfs sys /sys
            mkdir -p /dev/pts /dev/shm
            mount -t devpts -o mode=620,gid=5 devpts /dev/pts
            mount -t tmpfs -o mode=1777 tmpfs /dev/shm
            mount -t tmpfs -o mode=1777 tmpfs /tmp
            mount -t tmpfs -o mode=755 tmpfs /run
            ln -sf /proc/self/fd /dev/fd
            for n in 0:stdin 1:stdout 2:stderr; do ln -sf /proc/self/fd/${n%%:*} /dev/${n#*:}; done
            hostname -F /etc/hostname
            ip link set lo up 2>/dev/null
            {{(options.Modules.Count > 0 ? $"for module in {ModuleFolder}/*; do insmod $module; done" : "")}}
            {{(options.StreamPorts ? ModuleScripts.DeviceFiles : "")}}
            {{(options is { FindsDrivers: true, StreamPorts: true } ? ModuleScripts.FindDrivers : "")}}
            {{(options.Waits ? "" : string.Concat(options.Networks.Select(Network)))}}
            # Without -p, which would change the rights of folders that are there, /tmp for example.
            {{(options.Files.Count > 0 ? $"(umask 0; cp -dR {FileFolder}/. /) && rm -rf {FileFolder}" : "")}}
            mkfifo /run/ended
            {{(!options.Waits ? Reader(options) : console == GuestConsole.Shell ? Reader(options with { Shares = [] }) : Report)}}
            # What poweroff, reboot and halt send without -f. Nobody could do anything with a halted machine, so it is switched off.
            trap 'ending=poweroff; kill $reader' USR1 USR2
            trap 'ending=reboot; kill $reader' TERM
            {{(LinuxGuest.TakesSizes(options, console) ? $"{SizePath} </dev/null >/dev/null 2>&1 &" : "")}}

            """;
        if (options.Waits && console != GuestConsole.Shell) return start + WaitingWork;
        // crtscts: the host holds back while the terminal's buffer is full.
        // Twice setsid: the second one finds itself the leader of a process group, so it forks and does not wait. With & the shell would have the
        // command ignore SIGINT and SIGQUIT.
        string work = console switch
        {
            // cttyhack gives the session the real terminal behind /dev/console, and with it job control.
            GuestConsole.Shell => $$"""
                {{(options.Waits ? WaitingShell : "")}}
                stty -F /dev/console sane crtscts{{size}}
                setsid setsid cttyhack {{SessionPath}} ${port}{{LinuxGuest.CommandPort}}

                """,
            // The command has pipes, as its caller has no terminal. Input comes in frames, see CommandInput. The descriptor that stays open
            // keeps the line's modes and RTS.
            // Data is copied by dd, since cat would use sendfile, which holds the pipe's lock while it waits for the terminal: a command that ends
            // before its input does, or is killed while its output waits, would then wait for that lock.
            GuestConsole.Command => $$"""
                dmesg -n 1
                exec 3<>/dev/ttyS1
                stty -F /dev/ttyS1 115200 raw -echo -iexten cs8 -parenb -cstopb clocal cread crtscts
                mkfifo /run/input /run/output
                say() { printf '\033_bunraku;{{token}};%s\033\\' "$1" >/dev/console; }
                feed() {
                    expected=1
                    while read -r number size && [ "$number" = $expected ] && [ "$size" -ge 0 ]; do
                        [ "$size" = 0 ] && return
                        # It fails when the command reads no more.
                        dd bs="$size" count=1 iflag=fullblock || return
                        printf '\{{Convert.ToString(GuestMessages.FrameTaken, 8)}}' >/dev/console
                        expected=$((expected + 1))
                    done 2>/dev/null
                    say broken
                }
                watch() {
                    while sleep {{WatchPeriod}}; do
                        while read -r line; do
                            case $line in
                                1:*) say "now $line" ;;
                            esac
                        done </proc/tty/driver/serial
                    done 2>/dev/null
                }
                watch &
                feed <&3 >/run/input 3>&- &
                dd bs=65536 </run/output >&3 2>/dev/null &
                drain=$!
                tell input
                setsid setsid {{SessionPath}} 3>&-

                """,
            // The command has pipes here as well: a port can be opened once, and programs open /dev/stdout again.
            GuestConsole.CommandOnPorts => $$"""
                {{Streams}}
                {{Ports(LinuxGuest.ErrorPort)}}
                dd bs=65536 <${port}{{LinuxGuest.InputPort}} >/run/input 2>/dev/null &
                dd bs=65536 </run/output >${port}{{LinuxGuest.OutputPort}} 2>/dev/null &
                drain=$!
                {{(options.SeparateErrors ? $"dd bs=65536 </run/errors >${{port}}{LinuxGuest.ErrorPort} 2>/dev/null & drain=\"$drain $!\"" : "")}}
                tell input
                setsid setsid {{SessionPath}}

                """,
            GuestConsole.CommandOnTerminal => $$"""
                dmesg -n 1
                exec 3<>/dev/ttyS1
                stty -F /dev/ttyS1 115200 sane crtscts{{size}}
                setsid setsid -c {{SessionPath}} <&3 >&3 2>&3 3>&-

                """,
            _ => throw new ArgumentOutOfRangeException(nameof(console)),
        };
        string end = $$"""
            wait $reader
            read -r status </run/status || status=137
            {{KillSession}}

            """;
        string report = console switch
        {
            GuestConsole.Shell => $"""
                [ ! -e {LeavePath} ] || . {LeavePath}
                stty -F /dev/console onlcr
                status=0

                """,
            // What Linux counted on the line shows the host whether anything was lost.
            GuestConsole.Command => """
                wait $drain
                stty -F /dev/ttyS1 -opost
                tell "line $(grep ^1: /proc/tty/driver/serial)"

                """,
            // A port is closed behind all that was written to it, and the host has taken that before it is.
            GuestConsole.CommandOnPorts => "wait $drain\n",
            _ => "stty -F /dev/ttyS1 sane\n",
        };
        return start + work + end + report + $$"""
            leave
            [ "$ending" ] || tell "exit $status"
            exec ${ending:-poweroff} -f

            """;
    }

    private const string Streams = """
        dmesg -n 1
        mkfifo /run/input /run/output /run/errors
        """;

    /// <summary>For a guest that waits before it shows its shell: the session's leader does.</summary>
    private static readonly string WaitingShell = $$"""
        {{Ports(LinuxGuest.CopyPort)}}
        mkfifo /run/copied /run/never
        exec 7<>/run/copied
        {{CopyPath}} <${port}{{LinuxGuest.CopyPort}} >&7 2>/dev/null 7>&- &
        """;

    /// <summary>In $port what the names of the ports begin with.</summary>
    /// <param name="last">The port with the highest number: the driver is told of them one by one.</param>
    private static string Ports(int last) => $$"""
        for n in 0 1 2 3 4 5 6 7 8 9; do
            set -- /dev/vport*p{{last}}
            [ -e "$1" ] && break
            sleep 0.$n
        done
        port=${1%{{last}}}
        """;

    /// <summary>What the command leaves running would hold its pipes open: all in another session than ours, 0, ends with it, but for the leader.</summary>
    private const string KillSession = """
        read -r leader </run/leader
        for process in /proc/[0-9]*; do
            read -r state <$process/stat || continue
            set -- ${state##*) }
            [ $4 = 0 ] || [ $process = /proc/$leader ] || kill -9 ${process#/proc/}
        done 2>/dev/null
        """;

    /// <summary>
    /// For a guest that waits. All that does not need the command is done before, and the processes are there that it needs, with their files open: who goes on
    /// from here has little left to do, in code that is cold.
    /// </summary>
    private static readonly string WaitingWork = $$"""
        {{Streams}}
        {{Ports(LinuxGuest.CopyPort)}}
        mkfifo /run/never /run/output.end /run/errors.end /run/copied
        exec 5<>/run/output.end 6<>/run/errors.end 7<>/run/copied
        {{CopyPath}} <${port}{{LinuxGuest.CopyPort}} >&7 2>/dev/null 5>&- 6>&- 7>&- &
        {{PumpPath}} <${port}{{LinuxGuest.InputPort}} >/run/input 2>/dev/null 5>&- 6>&- 7>&- &
        {{PumpPath}} </run/output >${port}{{LinuxGuest.OutputPort}} 2>&5 5>&- 6>&- 7>&- &
        output=$!
        {{PumpPath}} </run/errors >${port}{{LinuxGuest.ErrorPort}} 2>&6 5>&- 6>&- 7>&- &
        errors=$!
        # The session writes its status; when it is killed, the pipe ends without one.
        (read -r status mode </run/ended; report ${status:-137} $mode) &
        reader=$!
        setsid setsid {{SessionPath}} ${port}{{LinuxGuest.CommandPort}} 5>&- 6>&-
        tell {{GuestMessages.WaitsMessage}}
        wait $reader || [ "$ending" ] || report 137
        exec ${ending:-poweroff} -f

        """;

    /// <summary>
    /// Most runs leave nothing behind, and are over when their pipes are. The host stops a guest that waited as soon as its status is there. One that goes on
    /// says it again: what it said before was lost on the way.
    /// </summary>
    private static readonly string Report = $$"""
        kill_session() {
            {{KillSession}}
        }
        drained() { # the descriptor that tells, and who writes to it
            read -r -t 0.2 ended <&$1 && return
            kill_session
            until read -r -t 1 ended <&$1; do kill -0 $2 2>/dev/null || return; done
        }
        report() {
            if [ "$2" ]; then
                kill_session
                stty -F /dev/ttyS1 sane
            else
                drained 5 $output
                drained 6 $errors
            fi
            [ ! -e {{LeavePath}} ] || . {{LeavePath}}
            for n in 1 2; do
                tell "exit $1"
                sleep 1
            done
        }
        """;

    /// <summary>
    /// For a guest that waits: becomes the command. Its streams are open before; where it has a terminal, it leads that terminal's session, and the command is
    /// a process of its own.
    /// </summary>
    private static string WaitingScript(string token) => $$"""
        #!/bin/busybox sh
        {{Tell(token)}}
        exec 3</run/input 4>/run/output 8>/run/errors
        . "$1"
        if [ $mode != terminal ]; then
            [ $mode = separate ] || exec 8>&4
            exec <&3 >&4 2>&8 3<&- 4>&- 7>&- 8>&- 9>&-
            run
        fi
        exec 3<&- 4>&- 7>&- 8>&-
        echo $$ >/run/leader
        trap : HUP INT QUIT TERM USR1 USR2
        # The first terminal that the leader of a session opens is that session's.
        exec 0<>/dev/ttyS1 >&0 2>&0
        stty 115200 sane crtscts $size
        (tell input; run 9>&-)
        echo $? terminal >&9
        read -r nothing </run/never

        """;

    /// <summary>The leader of the session: runs the command, hands its status over and stays.</summary>
    private static string SessionScript(LinuxGuestOptions options, GuestConsole console, string token)
    {
        // A session of its own, so that a command that signals its process group does not reach us. The redirections wait for the other ends of the pipes.
        // The terminal is the command's before anything is typed into it: a Ctrl-C that comes before would be lost. Here it reaches whoever is in the
        // foreground, ourselves too; the traps keep us, and are not the command's.
        const string onTerminal = $"(tell input; exec {CommandPath} 9>&-)", streams = $"exec setsid {CommandPath} </run/input >/run/output 9>&-";
        string run = options.Waits && console != GuestConsole.Shell ? $"setsid {CommandPath} \"$1\"" : console switch
        {
            GuestConsole.Shell => options.Waits ? $$"""
                tell {{GuestMessages.WaitsMessage}}
                . "$1"
                [ -z "$size" ] || stty $size
                (run 7>&- 9>&-)
                """ : EnterShare(options, ":") + $"(exec 9>&-\n{Become(options)})",
            GuestConsole.Command => $"({streams} 2>&1)",
            GuestConsole.CommandOnPorts => $"({streams} 2>{(options.SeparateErrors ? "/run/errors" : "&1")})",
            _ => onTerminal,
        };
        return $$"""
            #!/bin/busybox sh
            {{Tell(token)}}
            echo $$ >/run/leader
            exec 9>/run/ended
            trap : HUP INT QUIT TERM USR1 USR2
            {{run}}
            echo $? >&9
            {{(options.Waits ? "read -r nothing </run/never" : "exec sleep 2147483647")}}

            """;
    }
}
