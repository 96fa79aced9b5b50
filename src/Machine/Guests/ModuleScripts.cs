namespace Bunraku.Machine;

/// <summary>The Linux guest's side of <see cref="ModuleRequests"/>: modprobe, which the kernel calls as well, and modinfo.</summary>
internal static class ModuleScripts
{
    /// <summary>Where the kernel looks for it: Linux, Documentation/admin-guide/sysctl/kernel.rst, "modprobe".</summary>
    public const string ModprobePath = "/sbin/modprobe";

    public const string ModinfoPath = "/sbin/modinfo";

    /// <summary>
    /// The port can be opened by one at a time, and so has one answer under way. Nothing waits for ever, not even in a guest that was saved here and goes on
    /// where nobody answers.
    /// </summary>
    private static readonly string Ask = $$"""
        #!/bin/busybox sh
        # Modules of this kernel, from the host.
        PATH=/usr/sbin:/usr/bin:/sbin:/bin
        # The kernel starts us without any.
        [ -e /proc/self/fd/0 ] || exec 0</dev/null
        [ -e /proc/self/fd/1 ] || exec 1>/dev/null
        [ -e /proc/self/fd/2 ] || exec 2>/dev/null
        version=$(uname -r)
        # $1: a function, which has the port as 7; then its arguments
        host() {
            exec 9>&2
            n=0
            until [ "$opened" ]; do
                [ $n -lt 600 ] || { echo "${0##*/}: the port to the host is not there, or taken" >&2; return 1; }
                [ $n = 0 ] || sleep 0.1
                n=$((n + 1))
                # A redirection that fails has a message of its own.
                { open "$@" 7<>$(echo /dev/vport*p{{LinuxGuest.ModulePort}}); } 2>/dev/null
            done
            return $status
        }
        open() {
            opened=1
            "$@" 2>&9
            status=$?
        }
        ask() {
            echo "$*" >&7
            read -r -t 60 word words <&7
        }
        # Where an answer goes, then the request
        fetch() {
            local into=$1 word words
            shift
            ask "$@" && [ "$word" != none ] && dd bs=$word count=1 iflag=fullblock <&7 >$into 2>/dev/null
        }
        """;

    /// <summary>As busybox's modprobe takes its words, and kmod's most common ones.</summary>
    public static readonly string Modprobe = Ask + $$"""

        usage='modprobe [-alnqrvD] MODULE [NAME=VALUE...]'
        quiet= all= remove= list= show= verbose=
        while getopts :abDlnqrRsv option; do
            case $option in
                a) all=1 ;; D | n) show=1 ;; l) list=1 ;; q) quiet=1 ;; r | R) remove=1 ;; v) verbose=1 ;;
                '?') echo "modprobe: unknown option -$OPTARG ($usage)" >&2; exit 1 ;;
            esac
        done
        shift $((OPTIND - 1))
        names() {
            ask list $version && [ "$word" = ok ] && printf '%s\n' $words
        }
        # Its name, then parameters, which are for the last of what is loaded
        load() {
            local name=$1 module
            shift
            if ! ask resolve $version "$name" || [ "$word" != ok ]; then
                [ "$quiet" ] || echo "modprobe: the host has no module '$name' of kernel $version" >&2
                return 1
            fi
            for module in $words; do
                [ ! -e /sys/module/$module ] || continue
                if [ "$show" ]; then
                    echo "insmod $module"
                    continue
                fi
                fetch /run/module.$$ read $version $module || { echo "modprobe: module $module does not come from the host" >&2; return 1; }
                [ ! "$verbose" ] || echo "insmod $module"
                if [ $module = ${words##* } ]; then insmod /run/module.$$ "$@"; else insmod /run/module.$$; fi
                status=$?
                rm /run/module.$$
                # Two can want the same one at once.
                [ $status = 0 ] || [ -e /sys/module/$module ] || return 1
            done
        }
        several() {
            local one failed=0
            for one; do load "$one" || failed=1; done
            return $failed
        }
        if [ "$list" ]; then host names; exit; fi
        [ $# -gt 0 ] || { echo "modprobe: no module is named ($usage)" >&2; exit 1; }
        if [ "$remove" ]; then rmmod "$@"; exit; fi
        if [ "$all" ]; then host several "$@"; else host load "$@"; fi

        """;

    /// <summary>As kmod's prints it.</summary>
    public static readonly string Modinfo = Ask + $$"""

        field=
        while getopts :adlpnF:0 option; do
            case $option in
                a) field=author ;; d) field=description ;; l) field=license ;; p) field=parm ;; n) field=filename ;; F) field=$OPTARG ;; 0) ;;
                *) echo 'modinfo: modinfo [-adlpn] [-F FIELD] MODULE...' >&2; exit 1 ;;
            esac
        done
        shift $((OPTIND - 1))
        show() {
            local one failed=0
            for one; do
                fetch /run/module.$$ info $version "$one" || { echo "modinfo: the host has no module '$one' of kernel $version" >&2; failed=1; continue; }
                while IFS== read -r key value; do
                    if [ ! "$field" ]; then printf '%-16s%s\n' "$key:" "$value"; elif [ "$key" = "$field" ]; then printf '%s\n' "$value"; fi
                done </run/module.$$
                rm /run/module.$$
            done
            return $failed
        }
        host show "$@"

        """;

    /// <summary>
    /// Devices whose drivers Linux loads when they are opened: elsewhere kmod's list of them and systemd-tmpfiles make these files. The numbers are those of
    /// Linux, Documentation/admin-guide/devices.txt. What exists has its file already.
    /// </summary>
    public const string DeviceFiles = """
        mkdir -p /dev/net /dev/mapper
        for file in loop-control:237 fuse:229 net/tun:200 mapper/control:236 btrfs-control:234; do
            [ -e /dev/${file%:*} ] || mknod /dev/${file%:*} c 10 ${file#*:}
        done

        """;

    /// <summary>
    /// Loads the drivers of devices that have none, and of what those find, as udev would. The names of devices are those of Linux,
    /// Documentation/ABI/testing/sysfs-bus-pci, "modalias".
    /// </summary>
    public const string FindDrivers = """
        for bus in pci scsi; do
            for device in /sys/bus/$bus/devices/*/modalias; do
                [ ! -e "$device" ] || [ -e "${device%/*}/driver" ] || modprobe -q "$(cat "$device")"
            done
            sleep 0.2 # disks are looked for beside us
        done

        """;
}
