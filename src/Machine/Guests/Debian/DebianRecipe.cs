namespace Bunraku.Machine;

/// <summary>What the guest 'debian' is made of, and how the guest that makes it goes about it.</summary>
internal static class DebianRecipe
{
    /// <summary>What somebody who logs in expects, beside the essential packages.</summary>
    public static IReadOnlyList<string> Packages { get; } =
    [
        "apt", "ca-certificates", "dbus", "debconf", "e2fsprogs", "gcc", "iproute2", "iputils-ping", "kmod", "less", "libc6-dev", "libpam-modules",
        "libpam-runtime", "login", "make", "mawk", "mount", "nano", "netbase", "passwd", "procps", "systemd-sysv", "tzdata", "udev",
    ];

    /// <summary>What tests make do with.</summary>
    public static IReadOnlyList<string> SmallPackages { get; } = ["e2fsprogs", "kmod", "libpam-modules", "mawk", "mount", "systemd-sysv", "udev"];

    /// <summary>Of some releases only: without the first, /usr is merged by a program that needs all of Perl.</summary>
    public static IReadOnlyList<string> OptionalPackages { get; } = ["usr-is-merged"];

    /// <summary>Bytes of the disk: its image takes what is written alone.</summary>
    public const ulong DiskSize = 8ul << 30;

    /// <summary>Bytes of memory of the guest that makes it, and kernel parameters for it.</summary>
    public const ulong MakersMemory = 1536ul << 20;
    public const string MakersAppend = "console=ttyS0 earlyprintk=serial,ttyS0,115200 quiet panic=-1";

    /// <summary>Most bytes of the disk's image and of what is there beside it while it is made.</summary>
    public const long Room = 2400L << 20;

    /// <summary>A line of the making guest begins with it; what follows is the script's own word and a token.</summary>
    public const string Mark = "bunraku-make:";

    private const string Systemd = "etc/systemd/system/";
    private static readonly string[] s_left =
    [
        "usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/groff/", "usr/share/lintian/", "usr/share/linda/", "usr/share/locale/",
        "usr/share/bug/",
    ];

    /// <summary>A path is not left out: documentation and other languages are.</summary>
    public static bool Wants(string path) =>
        !s_left.Any(l => path.StartsWith(l, StringComparison.Ordinal)) || path.EndsWith("/copyright", StringComparison.Ordinal);

    /// <summary>Puts the system's own settings into the tree, before the packages' files: these stay.</summary>
    /// <param name="sources">Lines of sources.list.</param>
    public static void AddSettings(TarStream tar, IReadOnlyList<string> sources)
    {
        foreach (string folder in (string[])["dev", "etc", "etc/apt", "etc/dpkg", "etc/dpkg/dpkg.cfg.d", "etc/profile.d", "etc/systemd", "etc/systemd/network",
            Systemd[..^1], Systemd + "multi-user.target.wants", Systemd + "sockets.target.wants", "proc", "run", "sys", "usr/local"])
            tar.AddDirectory(folder);
        tar.AddDirectory("tmp", 0b1_111_111_111);
        tar.AddDirectory("root", 0b111_000_000);
        tar.AddFile("etc/hostname", "debian\n");
        tar.AddFile("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n");
        tar.AddFile("etc/fstab", "# The root file system is mounted before this is read.\n");
        tar.AddFile("etc/machine-id", ""); // each start makes one of its own
        tar.AddFile("etc/resolv.conf", "");
        tar.AddFile("etc/apt/sources.list", string.Concat(sources.Select(l => l + "\n")));
        tar.AddFile("etc/dpkg/dpkg.cfg.d/bunraku", "# What the image leaves out; without this file packages bring all that they have.\n"
            + string.Concat(s_left.Select(l => $"path-exclude=/{l}*\n")) + "path-include=/usr/share/doc/*/copyright\n");
        tar.AddFile("etc/systemd/network/80-ether.network", "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n");
        tar.AddLink(Systemd + "multi-user.target.wants/systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service");
        tar.AddLink(Systemd + "sockets.target.wants/systemd-networkd.socket", "/lib/systemd/system/systemd-networkd.socket");
        // What looks for news by itself would do so in each throwaway copy.
        foreach (string unit in (string[])["apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer",
            "systemd-networkd-wait-online.service"])
            tar.AddLink(Systemd + unit, "/dev/null");
        tar.AddFile("etc/profile.d/bunraku.sh", $"[ -r {DebianBoot.Folder}/profile ] && . {DebianBoot.Folder}/profile\n");
        tar.AddFile(Systemd + "bunraku-resolv.path", """
            [Unit]
            Description=Name servers that the network's configuration tells of
            DefaultDependencies=no
            Before=systemd-networkd.service shutdown.target
            Conflicts=shutdown.target

            [Path]
            PathChanged=/run/systemd/netif/state

            """);
        // Without a limit on starts: the file is written several times in a second when a network comes up, and the path would fail for good.
        tar.AddFile(Systemd + "bunraku-resolv.service", """
            [Unit]
            Description=Write name servers to /etc/resolv.conf
            DefaultDependencies=no
            StartLimitIntervalSec=0

            [Service]
            Type=oneshot
            ExecStart=/bin/sh /usr/local/lib/bunraku/resolv

            """);
        tar.AddLink(Systemd + "multi-user.target.wants/bunraku-resolv.path", "../bunraku-resolv.path");
        tar.AddDirectory("usr/local/lib");
        tar.AddDirectory("usr/local/lib/bunraku");
        tar.AddFile("usr/local/lib/bunraku/resolv", $$"""
            # Only where nothing else has taken the file over: it is empty, or ours.
            mark='# by bunraku-resolv.service'
            if [ -s /etc/resolv.conf ]; then
                read -r first </etc/resolv.conf
                [ "$first" = "$mark" ] || exit 0
            fi
            [ -L /etc/resolv.conf ] && exit 0
            servers= domains=
            while IFS='=' read -r name value; do
                case $name in
                    DNS) servers=$value ;;
                    DOMAINS) domains=$value ;;
                esac
            done </run/systemd/netif/state
            [ "$servers" ] || exit 0
            {
                echo "$mark"
                for server in $servers; do echo "nameserver $server"; done
                [ -z "$domains" ] || echo "search $domains"
            } >/etc/resolv.conf
            [ -d {{DebianBoot.Folder}} ] && : >{{DebianBoot.OnlineMark}}

            """);
        tar.AddFile(Systemd + "bunraku-grow.service", """
            [Unit]
            Description=Let the file system fill its disk
            ConditionKernelCommandLine=bunraku.grow

            [Service]
            Type=oneshot
            ExecStart=/lib/systemd/systemd-growfs /

            """);
        tar.AddLink(Systemd + "multi-user.target.wants/bunraku-grow.service", "../bunraku-grow.service");
    }

    /// <summary>Packages whose files the making guest needs before there is a file system: mke2fs and what it is linked with.</summary>
    public static IReadOnlySet<string> Formatters(IReadOnlyList<ControlStanza> packages)
    {
        var found = new HashSet<string>();
        var open = new Queue<string>(["e2fsprogs"]);
        while (open.TryDequeue(out string? name))
        {
            // One that is named, or whoever stands for it.
            ControlStanza? package = packages.FirstOrDefault(p => p.Package == name) ?? packages.FirstOrDefault(p => p.Names("Provides").Contains(name));
            if (package is null || !found.Add(package.Package)) continue;
            foreach (string next in package.Names("Pre-Depends").Concat(package.Names("Depends"))) open.Enqueue(next);
        }
        return found;
    }

    /// <summary>The first process of the making guest. The disk is /dev/vda, the archive with the tree /dev/vdb.</summary>
    /// <param name="preinst">Names in dpkg's folder of packages with a script to run first.</param>
    /// <param name="kernelVersion">Whose modules are in the tree.</param>
    public static string MakingScript(IReadOnlyList<string> preinst, string kernelVersion, string token) => $$"""
        #!/bin/busybox sh
        export PATH=/usr/sbin:/usr/bin:/sbin:/bin
        /bin/busybox mount -t devtmpfs dev /dev
        exec </dev/console >/dev/console 2>&1
        say() { echo "{{Mark}}{{token}} $*"; }
        fail() {
            say "failed $*"
            sync
            /bin/busybox poweroff -f
            sleep 60
        }
        /bin/busybox --install -s
        mount -t proc proc /proc
        mount -t sysfs sys /sys
        dmesg -n 2
        for module in /modules/*; do [ -e "$module" ] && insmod "$module"; done
        n=0
        while [ ! -e /dev/vdb ] && [ $n -lt 100 ]; do
            sleep 0.1
            n=$((n + 1))
        done
        say format
        # All of it now: what is put off would be done in each throwaway copy.
        /usr/sbin/mke2fs -q -F -t ext4 -m 1 -L debian -J size=32 -E lazy_itable_init=0,lazy_journal_init=0,nodiscard /dev/vda || fail "mke2fs"
        mkdir -p /target
        mount -t ext4 -o noatime,barrier=0,data=writeback,noinit_itable /dev/vda /target || fail "mounting the new file system"
        say unpack
        tar -x -f /dev/vdb -C /target || fail "unpacking the packages"
        mount -t proc proc /target/proc
        mount -t sysfs sys /target/sys
        mount --bind /dev /target/dev
        mount -t tmpfs -o mode=755 run /target/run
        printf '#!/bin/sh\nexit 101\n' >/target/usr/sbin/policy-rc.d
        chmod 755 /target/usr/sbin/policy-rc.d
        export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true DEBCONF_NOWARNINGS=yes LC_ALL=C HOME=/root
        export PERL_BADLANG=0
        say configure
        for package in {{string.Join(' ', preinst.OrderBy(p => p != "base-passwd"))}}; do
            DPKG_MAINTSCRIPT_PACKAGE=${package%:*} DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_ARCH=amd64 DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 \
                DPKG_RUNNING_VERSION=1.20 DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= \
                chroot /target /var/lib/dpkg/info/$package.preinst install </dev/null || fail "the script $package.preinst"
        done
        # By their paths: busybox would take its own programs of these names.
        # These are taken for granted by the scripts of all others.
        chroot /target /usr/bin/dpkg --force-depends --configure base-passwd base-files mawk </dev/null || fail "configuring the first packages"
        chroot /target /usr/bin/dpkg --configure -a </dev/null || fail "configuring the packages"
        say finish
        chroot /target /usr/sbin/depmod {{kernelVersion}} || fail "depmod"
        rm -f /target/usr/sbin/policy-rc.d /target/var/lib/dpkg/*-old /target/var/cache/debconf/*-old /target/var/log/*.log
        rm -rf /target/var/log/apt /target/var/cache/apt/*.bin
        : >/target/etc/machine-id
        # What is to be done after an update of /usr is done.
        touch /target/etc/.updated /target/var/.updated
        # Nobody has a password; the console lets root in without one.
        umount /target/run /target/dev /target/sys /target/proc
        umount /target || fail "writing the file system"
        sync
        say done
        /bin/busybox poweroff -f
        sleep 60

        """;
}
