using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// Builds the user space of the default Linux guest: busybox and an init script. The script talks to the host by <see cref="GuestMessages"/>
/// on COM1: "init" when it starts, "input" when the command is about to start and with each prompt of the shell, "exit N" when the command ended and all its output left the serial port. Then it powers off, however the command ended.
/// </summary>
public static class InitramfsBuilder
{
    private const uint Executable = 0x1ED;
    private const string CommandPath = "/etc/bunraku/command";

    private static readonly string[] Directories = ["bin", "sbin", "usr", "usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "root", "tmp", "etc", "etc/bunraku", "var"];

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
        archive.AddFile("bin/busybox", busybox, Executable);
        archive.AddFile("etc/passwd", "root::0:0:root:/root:/bin/sh\n"u8);
        archive.AddFile("etc/group", "root:x:0:\ntty:x:5:\n"u8);
        archive.AddFile("etc/hostname", "bunraku\n"u8);
        archive.AddFile("etc/hosts", "127.0.0.1 localhost bunraku\n"u8);
        archive.AddFile("etc/profile", Encoding.UTF8.GetBytes(Profile(token)));
        archive.AddFile("init", Encoding.UTF8.GetBytes(InitScript(options, console, token)), Executable);
        if (console != GuestConsole.Shell)
            archive.AddFile(CommandPath[1..], Encoding.UTF8.GetBytes($"#!/bin/busybox sh\nexec {string.Join(' ', options.Command.Select(Quote))}\n"), Executable);
        return archive.ToArray();
    }

    /// <summary>Quotes a word for the POSIX shell: any bytes but NUL come out as they are.</summary>
    public static string Quote(string word) => $"'{word.Replace("'", "'\\''")}'";

    /// <summary>
    /// The shell's prompt tells "input": only then is the terminal in the mode in which the shell reads, and a Ctrl-D typed ahead is no longer lost.
    /// </summary>
    private static string Profile(string token) => $$"""
        PS1='\[\e_bunraku;{{token}};input\e\\\]root@\h:\w\$ '
        alias ll='ls -l'

        """;

    private static string InitScript(LinuxGuestOptions options, GuestConsole console, string token)
    {
        string size = options is { Columns: > 0, Rows: > 0 } ? $" cols {options.Columns} rows {options.Rows}" : "";
        // Setting any terminal mode first waits until the serial port has sent everything (tcsetattr with TCSADRAIN).
        string start = $$"""
            #!/bin/busybox sh
            export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root USER=root SHELL=/bin/sh TERM={{Quote(options.Term ?? "linux")}}
            tell() {
                printf '\033_bunraku;{{token}};%s\033\\' "$1" >/dev/console
                /bin/busybox stty -F /dev/console onlcr
            }
            /bin/busybox mount -t devtmpfs -o mode=755 dev /dev
            exec </dev/console >/dev/console 2>&1
            tell init
            /bin/busybox --install -s
            mount -t proc proc /proc
            mount -t sysfs sys /sys
            mkdir -p /dev/pts /dev/shm
            mount -t devpts -o mode=620,gid=5 devpts /dev/pts
            mount -t tmpfs -o mode=1777 tmpfs /dev/shm
            mount -t tmpfs -o mode=1777 tmpfs /tmp
            mount -t tmpfs -o mode=755 tmpfs /run
            ln -sf /proc/self/fd /dev/fd
            hostname -F /etc/hostname
            ip link set lo up 2>/dev/null

            """;
        string work = console switch
        {
            // cttyhack gives the shell the real terminal behind /dev/console, and with it job control.
            GuestConsole.Shell => $$"""
                stty -F /dev/console sane{{size}}
                setsid cttyhack sh -l
                tell "exit 0"

                """,
            // The command has pipes, as its caller has no terminal. What it leaves running would hold them open: all in another session than ours, 0,
            // ends with the command.
            // The input is copied by dd, since cat would use sendfile, which holds the pipe's lock while it waits for the terminal: a command that ends
            // before its input does would then wait for that lock.
            // The command's redirections wait for the other ends of the pipes. A shell of their own makes them, which has no children: our own shell's is interrupted
            // when the feeder ends, and gives up.
            // The descriptor that stays open keeps the line's modes and RTS.
            GuestConsole.Command => $$"""
                dmesg -n 1
                exec 3<>/dev/ttyS1
                stty -F /dev/ttyS1 115200 cs8 -cstopb -parenb clocal cread -ignbrk -brkint -ignpar -parmrk -inpck -istrip -inlcr -igncr -icrnl -ixon -ixoff -ixany \
                    -opost -isig icanon iexten -echo -echoe -echok -echonl -echoctl -echoke \
                    intr undef quit undef erase undef kill undef eof ^D eol undef eol2 undef start undef stop undef susp undef rprnt undef werase undef lnext ^V
                stty -F /dev/ttyS1 crtscts
                mkfifo /run/input /run/output
                dd bs=4096 <&3 >/run/input 2>/dev/null 3>&- &
                feeder=$!
                cat </run/output >&3 &
                drain=$!
                tell input
                (setsid {{CommandPath}} </run/input >/run/output 2>&1 3>&-)
                status=$?
                for process in /proc/[0-9]*; do
                    read -r state <$process/stat || continue
                    set -- ${state##*) }
                    [ $4 = 0 ] || kill -9 ${process#/proc/}
                done 2>/dev/null
                kill $feeder
                wait $drain
                stty -F /dev/ttyS1 -opost
                tell "exit $status"

                """,
            GuestConsole.CommandOnTerminal => $$"""
                dmesg -n 1
                exec 3<>/dev/ttyS1
                stty -F /dev/ttyS1 115200 sane{{size}}
                tell input
                setsid -c {{CommandPath}} <&3 >&3 2>&3 3>&-
                status=$?
                stty -F /dev/ttyS1 sane
                tell "exit $status"

                """,
            _ => throw new ArgumentOutOfRangeException(nameof(console)),
        };
        return start + work + "poweroff -f\n";
    }
}
