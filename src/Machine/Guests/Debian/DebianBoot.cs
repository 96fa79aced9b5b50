using System.Security.Cryptography;
using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// How the guest 'debian' starts: a small initramfs mounts its disk and goes on to systemd there. What this run alone needs is put into /run, so that the disk
/// knows nothing of it: a login without a password on the console, or a unit that runs the command and tells its status by <see cref="GuestMessages"/>.
/// </summary>
internal static class DebianBoot
{
    /// <summary>In the guest, where this run's files are.</summary>
    public const string Folder = "/run/bunraku";

    private const string Stage = "bunraku"; // of the initramfs, what becomes the folder
    private const string FileFolder = "copies"; // of the initramfs, what is copied into the system
    private const string Units = "/run/systemd/system", CommandUnit = "bunraku-command.service", SizeUnit = "bunraku-size.service",
        CommandTarget = "bunraku.target";
    private const uint Executable = 0x1ED;

    /// <summary>A file in the guest that is there when the network has told of a name server.</summary>
    public const string OnlineMark = Folder + "/online";

    /// <summary>Seconds that a command waits for the first network card's address.</summary>
    private const int NetworkWait = 5;

    /// <summary>The part of the initramfs that goes with the kernel: busybox and drivers.</summary>
    /// <param name="modules">In the order in which they are loaded.</param>
    public static byte[] Base(ReadOnlySpan<byte> busybox, IReadOnlyList<ReadOnlyMemory<byte>> modules)
    {
        CpioArchive archive = Start(busybox, modules);
        archive.AddDirectory("root");
        return archive.ToArray();
    }

    /// <summary>The initramfs of the guest that makes the image.</summary>
    /// <param name="tools">Paths and bytes of further files, which are links where <c>IsLink</c> says so.</param>
    public static byte[] Maker(
        ReadOnlySpan<byte> busybox, IReadOnlyList<ReadOnlyMemory<byte>> modules, IEnumerable<(string Path, ReadOnlyMemory<byte> Bytes, bool IsLink)> tools,
        string script)
    {
        CpioArchive archive = Start(busybox, modules);
        var folders = new HashSet<string>(s_directories);
        foreach ((string path, ReadOnlyMemory<byte> bytes, bool isLink) in tools)
        {
            for (int slash = path.IndexOf('/'); slash > 0; slash = path.IndexOf('/', slash + 1))
                if (folders.Add(path[..slash])) archive.AddDirectory(path[..slash]);
            if (isLink) archive.AddSymbolicLink(path, Encoding.UTF8.GetString(bytes.Span));
            else archive.AddFile(path, bytes.Span, Executable);
        }
        archive.AddFile("init", Encoding.UTF8.GetBytes(script), Executable);
        return archive.ToArray();
    }

    private static readonly string[] s_directories = ["usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "dev", "proc", "sys", "run", "tmp", "modules"];

    private static CpioArchive Start(ReadOnlySpan<byte> busybox, IReadOnlyList<ReadOnlyMemory<byte>> modules)
    {
        var archive = new CpioArchive();
        foreach (string directory in s_directories) archive.AddDirectory(directory);
        foreach (string merged in (string[])["bin", "sbin", "lib", "lib64"]) archive.AddSymbolicLink(merged, "usr/" + merged);
        archive.AddCharacterDevice("dev/console", 5, 1);
        archive.AddCharacterDevice("dev/null", 1, 3, 0x1B6);
        archive.AddFile("usr/bin/busybox", busybox, Executable);
        for (int n = 0; n < modules.Count; n++) archive.AddFile($"modules/{n:00}.ko", modules[n].Span);
        return archive;
    }

    /// <summary>The built-in commands of the shell start no program, which is most of what takes time here.</summary>
    private static string InitScript(LinuxGuestOptions options) => $$"""
        #!/bin/busybox sh
        export PATH=/usr/bin
        busybox mount -t devtmpfs -o mode=755,nosuid dev /dev
        set -- /modules/*
        [ -e "$1" ] && busybox insmod "$1" 2>/dev/null
        shift
        for module; do busybox insmod "$module" 2>/dev/null; done
        n=0
        while [ ! -e /dev/vda ] && [ $n -lt 50 ]; do
            busybox sleep 0.1
            n=$((n + 1))
        done
        busybox mount -t ext4 -o relatime /dev/vda /root || { echo "bunraku: the disk of the system cannot be mounted"; busybox poweroff -f; }
        busybox mount -t tmpfs -o mode=755,nosuid,nodev run /root/run
        busybox cp -a /{{Stage}}/. /root/run/
        [ ! -d /{{FileFolder}} ] || (umask 0; busybox cp -dR /{{FileFolder}}/. /root/)
        # What systemd has units for, each of which is a program to start.
        while read -r module name device; do
            number=${device#c}
            case $module$device in
                '#'* | *b*:*) ;;
                *)
                    case $name in
                        */*) busybox mkdir -p "/dev/${name%/*}" ;;
                    esac
                    [ -e "/dev/$name" ] || busybox mknod -m 600 "/dev/$name" c "${number%:*}" "${number#*:}"
                    ;;
            esac
        done </root/lib/modules/$(busybox uname -r)/modules.devname 2>/dev/null
        {{(!options.Waits ? InitramfsBuilder.MountSharesIn("/root", options) : InitramfsBuilder.LoadShareDriver("/root", options))}}
        busybox mount --move /dev /root/dev
        exec busybox switch_root /root /sbin/init
        """ + "\n";

    /// <summary>The guest, ready to be booted.</summary>
    /// <param name="initramfs">From <see cref="Base"/>.</param>
    /// <param name="grows">The disk may be larger than its file system.</param>
    /// <param name="lasts">What is on the disk is of use afterwards.</param>
    public static LinuxGuest Create(
        ReadOnlyMemory<byte> kernel, string kernelName, ReadOnlySpan<byte> initramfs, ReadOnlySpan<byte> busybox, LinuxGuestOptions options, bool grows,
        bool lasts)
    {
        string token = RandomNumberGenerator.GetHexString(8, lowercase: true);
        GuestConsole console = options.Command.Count == 0 ? GuestConsole.Shell
            : options.Terminal ? GuestConsole.CommandOnTerminal : GuestConsole.CommandOnPorts;
        string append = "console=ttyS0 root=/dev/vda rw quiet audit=0 net.ifnames=0" + (grows ? " bunraku.grow" : "")
            + (console == GuestConsole.Shell ? " " + LinuxGuest.PanicMark : " panic=-1 systemd.getty_auto=no")
            + (console == GuestConsole.Shell || lasts ? "" : " systemd.unit=" + CommandTarget);
        return new(kernel, kernelName, (byte[])[.. initramfs, .. Additions(options, console, token, busybox, lasts)], append, console, token)
        {
            EndsWithStatus = !lasts && console != GuestConsole.Shell,
            Waits = options.Waits,
            FollowsSize = LinuxGuest.TakesSizes(options, console),
        };
    }

    private static byte[] Additions(LinuxGuestOptions options, GuestConsole console, string token, ReadOnlySpan<byte> busybox, bool lasts)
    {
        var archive = new CpioArchive();
        string stage = Stage + Folder["/run".Length..], units = Stage + Units["/run".Length..];
        archive.AddFile("init", Utf8(InitScript(options)), Executable);
        archive.AddDirectory(Stage);
        archive.AddDirectory(stage);
        archive.AddDirectory(Stage + "/systemd");
        archive.AddDirectory(units);
        foreach (string unit in (string[])[.. s_needless, .. lasts ? [] : s_ofLastingSystems]) archive.AddSymbolicLink($"{units}/{unit}", "/dev/null");
        if (options.Files.Count > 0)
        {
            archive.AddDirectory(FileFolder);
            CommandStart.AddFiles(archive, FileFolder, options.Files);
        }
        archive.AddDirectory(Stage + "/systemd/system-generators");
        foreach (string generator in s_needlessGenerators)
            archive.AddSymbolicLink($"{Stage}/systemd/system-generators/systemd-{generator}-generator", "/dev/null");
        archive.AddDirectory(units + "/systemd-udev-trigger.service.d");
        archive.AddFile(units + "/systemd-udev-trigger.service.d/bunraku.conf", Utf8(s_coldPlug));
        if (!lasts)
        {
            archive.AddDirectory(Stage + "/systemd/journald.conf.d");
            archive.AddFile(Stage + "/systemd/journald.conf.d/bunraku.conf", "[Journal]\nStorage=volatile\n"u8);
        }
        if (options.Waits) archive.AddFile(stage + "/copy", CopyProgram.Build(), Executable);
        if (LinuxGuest.TakesSizes(options, console)) AddSizes(archive, stage, units, console == GuestConsole.Shell || lasts);
        if (console == GuestConsole.Shell)
        {
            archive.AddDirectory(units + "/serial-getty@ttyS0.service.d");
            archive.AddFile(units + "/serial-getty@ttyS0.service.d/bunraku.conf", Utf8($"""
                [Service]
                ExecStart=
                ExecStart=-/sbin/agetty -o '-p -f -- \\u' --autologin root --noclear --noissue --keep-baud ttyS0 {Word(options.Term ?? "linux")}

                """));
            archive.AddFile(stage + "/profile", Utf8(Profile(options, token)));
            return archive.ToArray();
        }
        archive.AddFile(stage + "/busybox", busybox, Executable);
        archive.AddFile(stage + "/command", options.Waits ? [] : Utf8(CommandScript(options)), Executable);
        if (options.Waits) archive.AddFile(stage + "/pump", PumpProgram.Build(), Executable);
        archive.AddFile(stage + "/run", Utf8(RunScript(options, console, token, lasts)), Executable);
        archive.AddFile($"{units}/{CommandUnit}", Utf8($"""
            [Unit]
            Description=The command of this run
            FailureAction=poweroff-immediate

            [Service]
            ExecStart={Folder}/run
            StandardInput=null
            StandardOutput=null
            StandardError=null
            Delegate=yes
            KillMode=mixed
            TimeoutStopSec=5
            OOMPolicy=continue

            """));
        string target = lasts ? "multi-user.target" : CommandTarget;
        archive.AddDirectory($"{units}/{target}.wants");
        archive.AddSymbolicLink($"{units}/{target}.wants/{CommandUnit}", "../" + CommandUnit);
        if (!lasts) archive.AddFile($"{units}/{CommandTarget}", Utf8("""
            [Unit]
            Description=A system that runs one command
            Requires=basic.target
            After=basic.target
            Wants=systemd-networkd.service bunraku-resolv.path bunraku-grow.service
            AllowIsolate=yes

            """));
        return archive.ToArray();
    }

    /// <summary>The program that takes the terminal's sizes, and its unit.</summary>
    private static void AddSizes(CpioArchive archive, string stage, string units, bool isMultiUser)
    {
        archive.AddFile(stage + "/size", Utf8("#!/bin/sh\n" + InitramfsBuilder.SizeScript), Executable);
        archive.AddFile($"{units}/{SizeUnit}", Utf8($"""
            [Unit]
            Description=The size of the terminal
            Before=serial-getty@ttyS0.service {CommandUnit}

            [Service]
            ExecStart={Folder}/size

            """));
        string target = isMultiUser ? "multi-user.target" : CommandTarget;
        archive.AddDirectory($"{units}/{target}.wants");
        archive.AddSymbolicLink($"{units}/{target}.wants/{SizeUnit}", "../" + SizeUnit);
    }

    /// <summary>
    /// Units that do nothing of use in a machine that is as it is here: file systems and drivers are mounted and loaded by who uses them, there is no screen,
    /// and who has logged in before is of no interest.
    /// </summary>
    private static readonly string[] s_needless =
    [
        "modprobe@.service", "kmod-static-nodes.service", "getty@tty1.service", "systemd-remount-fs.service", "systemd-update-utmp.service",
        "systemd-update-utmp-runlevel.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
        "sys-fs-fuse-connections.mount", "systemd-pstore.service", "systemd-repart.service",
    ];

    /// <summary>Units that keep something for the next start, or look what the one before has left to be done.</summary>
    private static readonly string[] s_ofLastingSystems =
    [
        "systemd-journal-flush.service", "systemd-random-seed.service", "systemd-modules-load.service", "dpkg-db-backup.timer",
        "systemd-tmpfiles-clean.timer",
    ];

    /// <summary>Programs that look for disks and settings which this machine does not have.</summary>
    private static readonly string[] s_needlessGenerators =
        ["bless-boot", "cryptsetup", "gpt-auto", "hibernate-resume", "integritysetup", "system-update", "veritysetup"];

    private static readonly string[] s_subsystems = ["virtio", "block", "net", "pci", "virtio-ports", "misc", "rtc", "scsi", "usb"];

    /// <summary>
    /// Which devices udev is told of that were there before it: those that have drivers to be loaded, and those that somebody opens. A kernel has hundreds of
    /// others.
    /// </summary>
    private static readonly string s_coldPlug = $"""
        [Service]
        ExecStart=
        ExecStart=-udevadm trigger --type=subsystems --action=add
        ExecStart=-udevadm trigger --type=devices --action=add --prioritized-subsystem=virtio,block,net {string.Join(' ', s_subsystems
            .Select(n => "--subsystem-match=" + n))}
        ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty --sysname-match=ttyS[01] --sysname-match=hvc*

        """;

    private static byte[] Utf8(string text) => Encoding.UTF8.GetBytes(text);

    /// <summary>Letters and digits of a name that goes into a unit's command line.</summary>
    private static string Word(string name) => name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '.' or '+') && name.Length > 0 ? name : "linux";

    /// <summary>Each prompt tells that input is taken: see <see cref="InitramfsBuilder"/>.</summary>
    private static string Profile(LinuxGuestOptions options, string token)
    {
        string size = InitramfsBuilder.Size(options), enter = InitramfsBuilder.EnterShare(options, ":").ReplaceLineEndings("; ");
        return $$"""
            if [ "$(tty)" = /dev/ttyS0 ]; then
                {{(options.Waits ? WaitForShell(token) : size.Length > 0 ? "stty" + size : ":")}}
                {{(options.Waits ? $". {Folder}/enter" : enter)}}
                {{(options.Waits ? "" : CommandStart.Exports(options))}}
                PS1='\[\e_bunraku;{{token}};input\e\\\\\]'"$PS1"
            fi

            """;
    }

    private static string CommandScript(LinuxGuestOptions options) =>
        "#!/bin/sh\n" + InitramfsBuilder.EnterShare(options, "exit 126")
        + CommandStart.Exec(options, string.Join(' ', options.Command.Select(InitramfsBuilder.Quote)), hasAccounts: true);

    /// <summary>See <see cref="LinuxGuest.Handover"/>: <see cref="RunScript"/> or <see cref="Profile"/> reads it as part of itself.</summary>
    public static byte[] Handover(LinuxGuestOptions options, bool isCopy)
    {
        var script = new StringBuilder(InitramfsBuilder.Mode(options));
        script.Append($"export TERM={InitramfsBuilder.Quote(options.Term ?? "linux")}\n");
        bool shell = options.Command.Count == 0;
        if (shell) script.Append($"printf %s {InitramfsBuilder.Quote(InitramfsBuilder.EnterShare(options, ":") + CommandStart.Exports(options))} >enter\n");
        else script.Append($"printf %s {InitramfsBuilder.Quote(CommandScript(options))} >command\n").Append(InitramfsBuilder.LeaveShares(options));
        script.Append(InitramfsBuilder.MountSharesLate(options));
        // What a start would have made anew, behind the new random numbers.
        if (isCopy) script.Append("""
            read -r copied <&7
            read -r id </proc/sys/kernel/random/uuid
            echo "${id//-/}" >/etc/machine-id
            read -r id </proc/sys/kernel/random/uuid
            echo "$id" >boot_id
            busybox mount --bind boot_id /proc/sys/kernel/random/boot_id

            """);
        for (int n = 0; n < options.Networks.Count; n++)
        {
            if (isCopy && !options.HasOwnAddress.ElementAtOrDefault(n)) script.Append($"busybox ip link set eth{n} address {InitramfsBuilder.NewAddress()}\n");
        }
        return Utf8(script.ToString());
    }

    private static string RunScript(LinuxGuestOptions options, GuestConsole console, string token, bool lasts)
    {
        string wait = !options.Networks.Contains(true) ? "" : $$"""
            n=0
            while [ ! -e {{OnlineMark}} ] && [ $n -lt {{NetworkWait * 20}} ]; do
                busybox sleep 0.05
                n=$((n + 1))
            done

            """;
        string errors = options.SeparateErrors ? Folder + "/errors" : "&1";
        string start = $$"""
            #!{{Folder}}/busybox sh
            busybox() { {{Folder}}/busybox "$@"; }
            tell() {
                printf '\033_bunraku;{{token}};%s\033\\' "$1" >/dev/console
                busybox stty -F /dev/console onlcr
            }
            export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root LOGNAME=root SHELL=/bin/bash
            export TERM={{InitramfsBuilder.Quote(options.Term ?? "linux")}} LANG=C.UTF-8
            unset INVOCATION_ID JOURNAL_STREAM SYSTEMD_EXEC_PID
            cd {{Folder}}
            # What the command leaves running would hold its pipes open: all of it is in a group of its own.
            read -r group </proc/self/cgroup
            group=/sys/fs/cgroup${group#*::}/command
            busybox mkdir $group
            {{wait}}
            """;
        string onTerminal = $$"""
            exec 3<>/dev/ttyS1
            busybox stty -F /dev/ttyS1 115200 sane crtscts{{(options.Waits ? " $size" : InitramfsBuilder.Size(options))}}
            busybox mkfifo status
            # The leader of the terminal's session stays until all is sent: at its end Linux drops what still waits.
            cat >leader <<'END'
            trap : HUP INT QUIT TERM USR1 USR2
            echo $$ >"$1/cgroup.procs"
            shift
            cd /
            (trap - HUP INT QUIT TERM USR1 USR2; exec {{Folder}}/command)
            echo $? >{{Folder}}/status
            exec {{Folder}}/busybox sleep 2147483647
            END
            tell input
            # Twice: the second one finds itself the leader of a process group, forks and does not wait. With & the command would ignore SIGINT.
            busybox setsid {{Folder}}/busybox setsid -c {{Folder}}/busybox sh {{Folder}}/leader $group <&3 >&3 2>&3 3>&-
            read -r status <status || status=137
            busybox stty -F /dev/ttyS1 sane
            echo 1 >$group/cgroup.kill

            """;
        string work = options.Waits ? WaitForCommand + onTerminal + WaitedOnStreams : console == GuestConsole.CommandOnTerminal ? onTerminal : $$"""
            {{Ports(LinuxGuest.ErrorPort)}}
            busybox mkfifo input output errors
            busybox dd bs=65536 <${port}{{LinuxGuest.InputPort}} >input 2>/dev/null &
            busybox dd bs=65536 <output >${port}{{LinuxGuest.OutputPort}} 2>/dev/null &
            drain=$!
            {{(options.SeparateErrors ? $"busybox dd bs=65536 <errors >${{port}}{LinuxGuest.ErrorPort} 2>/dev/null &\ndrain=\"$drain $!\"" : "")}}
            tell input
            # Not with &, which would have the command ignore SIGINT and SIGQUIT.
            (echo 0 >$group/cgroup.procs; cd /; exec {{Folder}}/busybox setsid {{Folder}}/command <{{Folder}}/input >{{Folder}}/output 2>{{errors}})
            status=$?
            echo 1 >$group/cgroup.kill
            wait $drain

            """;
        return start + (options.Waits ? "" : InitramfsBuilder.LeaveShares(options)) + work + $$"""
            leave
            tell "exit $status"
            {{(lasts ? "systemctl poweroff --no-block\nbusybox sleep 60" : "busybox poweroff -n -f\nbusybox sleep 60")}}

            """;
    }

    /// <summary>Of a guest that is kept before it shows its shell: the first login waits, in bash.</summary>
    private static string WaitForShell(string token) => $$"""
        if [ ! -e {{Folder}}/enter ]; then
            cd {{Folder}}
            busybox() { command "$@"; }
        {{Ports(LinuxGuest.CopyPort)}}
            mkfifo copied
            exec 7<>copied
            (./copy <${port}{{LinuxGuest.CopyPort}} >&7 2>/dev/null 7>&- &)
            printf '\033_bunraku;{{token}};{{GuestMessages.WaitsMessage}}\033\\' >/dev/console
            . ${port}{{LinuxGuest.CommandPort}}
            exec 7>&-
            [ -z "$size" ] || stty $size
            unset -f busybox
            unset n port mode size id copied
            set --
            cd
        fi
        """;

    /// <summary>In $port what the names of the ports begin with.</summary>
    /// <param name="last">The one with the highest number.</param>
    private static string Ports(int last) => $$"""
        n=0
        while set -- /dev/vport*p{{last}}; do
            [ -e "$1" ] && break
            [ $n -lt 200 ] || exit 1
            busybox sleep 0.05
            n=$((n + 1))
        done
        port=${1%{{last}}}
        """;

    /// <summary>Of a guest that is kept before it has its command: everything is there that it needs.</summary>
    private static readonly string WaitForCommand = $$"""
        {{Ports(LinuxGuest.CopyPort)}}
        busybox mkfifo input output errors output.end errors.end copied
        exec 5<>output.end 6<>errors.end 7<>copied
        ./copy <${port}{{LinuxGuest.CopyPort}} >&7 2>/dev/null 5>&- 6>&- 7>&- &
        ./pump <${port}{{LinuxGuest.InputPort}} >input 2>/dev/null 5>&- 6>&- 7>&- &
        ./pump <output >${port}{{LinuxGuest.OutputPort}} 2>&5 5>&- 6>&- 7>&- &
        ./pump <errors >${port}{{LinuxGuest.ErrorPort}} 2>&6 5>&- 6>&- 7>&- &
        tell {{GuestMessages.WaitsMessage}}
        . ${port}{{LinuxGuest.CommandPort}}
        if [ $mode = terminal ]; then

        """;

    private static readonly string WaitedOnStreams = $$"""
        else
            # Not with &, which would have the command ignore SIGINT and SIGQUIT.
            (
                echo 0 >$group/cgroup.procs
                cd /
                exec 5>&- 6>&- 7>&- <{{Folder}}/input >{{Folder}}/output
                [ $mode = separate ] && exec 2>{{Folder}}/errors || exec 2>&1
                exec {{Folder}}/busybox setsid {{Folder}}/command
            )
            status=$?
            echo 1 >$group/cgroup.kill
            read -r ended <&5
            [ $mode = joined ] || read -r ended <&6
        fi

        """;
}
