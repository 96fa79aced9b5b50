using System.Diagnostics;
using System.Net;
using Bunraku.Cli.Qemu;
using Bunraku.Machine.Board;
using Bunraku.Network.Slirp;
using Bunraku.Storage;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests.Qemu;

/// <summary>Command lines of QEMU's, among them those that other programs produce: what they describe here.</summary>
public sealed class QemuReaderTests
{
    private static string Root([System.Runtime.CompilerServices.CallerFilePath] string here = "") => Path.Combine(Path.GetDirectoryName(here)!, "..", "..",
        "..");

    /// <summary>Words apart by blanks, 'quoted' where they have some.</summary>
    private static QemuMachine Read(string line)
    {
        var words = new List<string>();
        foreach ((string part, int n) in line.Split('\'').Select((p, n) => (p, n)))
        {
            if (n % 2 == 1) words.Add(part);
            else words.AddRange(part.Split((char[])[' ', '\n'], StringSplitOptions.RemoveEmptyEntries));
        }
        (QemuMachine machine, QemuQuestion question) = QemuReader.Read(words);
        Assert.Equal(QemuQuestion.None, question);
        return machine;
    }

    private static string Refusal(string line)
    {
        string message = Assert.Throws<UsageException>(() => Read(line)).Message;
        Assert.DoesNotContain('\n', message);
        return message;
    }

    private static CharacterSpec Serial(QemuMachine machine, int n = 0) => machine.Characters[machine.Serials[n]!];

    /// <summary>tools/testing/kunit/kunit_kernel.py of Linux 6.x with qemu_configs/x86_64.py.</summary>
    [Fact]
    public void What_the_kernels_kunit_gives()
    {
        (QemuMachine machine, _) = QemuReader.Read(["-nodefaults", "-m", "1024", "-kernel", ".kunit/arch/x86/boot/bzImage", "-append",
            "kunit.enable=1 console=ttyS0 kunit_shutdown=reboot", "-no-reboot", "-nographic", "-accel", "kvm", "-accel", "hvf", "-accel", "tcg", "-serial",
                "stdio", ""]);
        Assert.Equal(1ul << 30, machine.Memory);
        Assert.Equal("auto", machine.Engine);
        Assert.Equal(".kunit/arch/x86/boot/bzImage", machine.Kernel);
        Assert.True(machine.NoReboot);
        Assert.Equal(CharacterKind.Stdio, Serial(machine).Kind);
        Assert.Empty(machine.Monitors);
        Assert.Empty(machine.Networks);
        Assert.Empty(machine.Notes);
        Assert.Null(machine.Bios);
    }

    /// <summary>vm/qemu/qemu.go of syzkaller: its defaults for linux/amd64.</summary>
    [Fact]
    public void What_syzkaller_gives()
    {
        QemuMachine machine = Read("""
            -m 2048 -smp 2 -display none -serial stdio -no-reboot -enable-kvm -cpu host,migratable=off -device e1000,netdev=net0
            -netdev user,id=net0,host=10.0.2.10,hostfwd=tcp::10021-:22 -hda /images/wheezy.img -snapshot -kernel bzImage
            -append 'earlyprintk=serial root=/dev/sda console=ttyS0'
            """);
        Assert.Equal((2ul << 30, 2, "auto", "max"), (machine.Memory, machine.Cpus, machine.Engine, machine.Cpu));
        VmDisk disk = Assert.Single(machine.Disks);
        Assert.Equal((DiskBus.Ahci, true, "/images/wheezy.img"), (disk.Bus, disk.Throwaway, disk.Image.Path));
        SlirpOptions network = Assert.IsType<UserNetwork>(Assert.Single(machine.Networks)).Options;
        Assert.Equal("10.0.2.10", network.Host?.ToString());
        Assert.Equal("tcp:127.0.0.1:10021-0.0.0.0:22", Assert.Single(network.Forwards).ToString());
        Assert.True(network.HostLoopback);
        Assert.Equal(NetworkModel.E1000, machine.Networks[0].Model);
        Assert.Empty(machine.Notes);
        Assert.Empty(machine.Monitors); // it is on a window that is not there
        Assert.False(Serial(machine).IsShared);
    }

    /// <summary>The same with an image_device and network_device of its configuration, as its documents have them.</summary>
    [Fact]
    public void What_syzkaller_gives_with_virtio()
    {
        QemuMachine machine = Read("""
            -m 512 -smp 1 -display none -serial stdio -no-reboot -device virtio-net-pci,netdev=net0 -netdev user,id=net0,host=10.0.2.10,hostfwd=tcp::1-:22
            -drive index=0,media=disk,file=/i.img
            """);
        Assert.Equal("/i.img", Assert.Single(machine.Disks).Image.Path);
        Assert.Equal("seabios", machine.Bios);
        Assert.Empty(machine.Notes);
    }

    /// <summary>board/qemu/x86_64 of Buildroot: start-qemu.sh, as it is and with 'serial-only'.</summary>
    [Theory]
    [InlineData("-serial stdio")]
    [InlineData("-nographic")]
    public void What_Buildroot_gives(string more)
    {
        QemuMachine machine = Read("-M pc -kernel bzImage -drive file=rootfs.ext2,if=virtio,format=raw -append 'rootwait root=/dev/vda console=tty1 "
            + "console=ttyS0' "
            + "-net nic,model=virtio -net user " + more);
        VmDisk disk = Assert.Single(machine.Disks);
        Assert.Equal((DiskBus.Virtio, false, ImageFormat.Raw), (disk.Bus, disk.Throwaway, disk.Image.Format));
        Assert.IsType<UserNetwork>(Assert.Single(machine.Networks));
        Assert.Equal(CharacterKind.Stdio, Serial(machine).Kind);
        Assert.Equal(more == "-nographic", Serial(machine).IsShared);
        Assert.Equal(more == "-nographic", !Serial(machine).HasSignals);
        Assert.Empty(machine.Notes);
    }

    /// <summary>virtme/commands/run.py of virtme-ng; its root file system is 9p, or a vhost device.</summary>
    [Fact]
    public void What_virtme_gives()
    {
        QemuMachine machine = Read("""
            -m 1G -machine accel=kvm:tcg -device i6300esb,id=watchdog0 -cpu host,topoext=on -parallel none -net none -echr 1
            -chardev file,path=/proc/self/fd/2,id=dmesg -device virtio-serial-pci -device virtconsole,chardev=dmesg
            -chardev stdio,id=console,signal=off,mux=on -serial chardev:console -mon chardev=console -vga none -display none
            -device virtio-balloon-pci,id=balloon0 -smp 2 -drive if=none,id=blk-disk0,file=/d.img -device virtio-blk-pci,drive=blk-disk0,serial=disk
            -gdb tcp:localhost:1234 -qmp tcp:localhost:3636,server,nowait -device virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56 -netdev user,id=n0
            -kernel bzImage -append 'virtme_console=ttyS0' -initrd /tmp/initrd
            """);
        Assert.Equal((2, "auto", 1ul << 30), (machine.Cpus, machine.Engine, machine.Memory));
        Assert.Equal("console", machine.Serials[0]);
        Assert.True(Serial(machine).IsShared);
        Assert.Equal([new MonitorSpec("console", false)], machine.Monitors.Where(m => !m.IsProtocol));
        CharacterSpec protocol = machine.Characters[Assert.Single(machine.Monitors, m => m.IsProtocol).Character];
        Assert.Equal((CharacterKind.Tcp, "127.0.0.1:3636", true, false), (protocol.Kind, protocol.Address!.ToString(), protocol.IsServer, protocol.Waits));
        VirtioPortSpec port = Assert.Single(Assert.Single(machine.VirtioSerials).Ports);
        Assert.Equal((true, "dmesg"), (port.IsConsole, port.Character));
        Assert.Equal("/proc/self/fd/2", machine.Characters["dmesg"].Path);
        Assert.Equal(("/d.img", "disk", DiskBus.Virtio), (machine.Disks[0].Image.Path, machine.Disks[0].Serial, machine.Disks[0].Bus));
        Assert.Equal("525400123456", Assert.Single(machine.Networks).Mac!.ToString());
        Assert.Equal(1234, machine.Debugger!.Address!.Port);
        Assert.Equal(new VmBalloon { DeflateOnOom = false, Reporting = false }, machine.Balloon); // as with QEMU
        Assert.Equal(2, machine.Notes.Count); // the watchdog, topoext
        Assert.Equal(new VmShare("/") { Kind = ShareKind.NineP, Tag = "/dev/root", ReadOnly = true },
            Assert.Single(Read("-fsdev local,id=virtfs5,path=/,security_model=none,readonly=on,multidevs=remap -device "
                + "virtio-9p-pci,fsdev=virtfs5,mount_tag=/dev/root").Shares));
        Assert.Contains("no -fsdev with id=x", Refusal("-device virtio-9p-pci,fsdev=x,mount_tag=t"), StringComparison.Ordinal);
        Assert.Contains("proxy", Refusal("-fsdev proxy,id=x,socket=s"), StringComparison.Ordinal);
        Assert.Contains("'mount_tag='", Refusal("-virtfs local,path=/w"), StringComparison.Ordinal);
        Assert.Contains("vhost", Refusal("-device vhost-user-fs-pci,chardev=char,tag=ROOTFS"), StringComparison.Ordinal);
    }

    [Fact]
    public void Balloons_and_sockets()
    {
        Assert.Equal(new VmBalloon(), Read("-device virtio-balloon-pci,deflate-on-oom=on,free-page-reporting=on").Balloon);
        Assert.Equal(new VmVsock("/tmp/v") { Cid = 7 }, Read("-device vhost-vsock-pci,guest-cid=7,path=/tmp/v").Vsock);
        Assert.Contains("guest-cid= is missing", Refusal("-device vhost-vsock-pci,path=/tmp/v"), StringComparison.Ordinal);
        Assert.Contains("add path=PATH", Refusal("-device vhost-vsock-pci,guest-cid=7"), StringComparison.Ordinal);
    }

    /// <summary>lib/autopkgtest_qemu.py of Debian's autopkgtest 5.28, its folder included.</summary>
    [Fact]
    public void What_autopkgtest_gives_beside_its_folder()
    {
        QemuMachine machine = Read("""
            -m 1024 -smp 1 -nographic -net nic,model=virtio -net user,hostfwd=tcp:127.0.0.1:10022-:22 -object rng-random,filename=/dev/urandom,id=rng0
            -device virtio-rng-pci,rng=rng0,id=rng-device0 -monitor unix:/w/monitor,server=on,wait=off -device virtio-serial
            -chardev socket,path=/w/hvc0,server=on,wait=off,id=hvc0 -device virtconsole,chardev=hvc0
            -chardev socket,path=/w/hvc1,server=on,wait=off,id=hvc1 -device virtconsole,chardev=hvc1
            -serial unix:/w/ttyS0,server=on,wait=off -serial unix:/w/ttyS1,server=on,wait=off
            -drive index=0,cache=unsafe,if=virtio,discard=unmap,format=qcow2,file=/w/overlay.img -enable-kvm -cpu kvm64,+vmx,+lahf_lm
            """);
        Assert.Equal(["/w/ttyS0", "/w/ttyS1"], machine.Serials.Select(s => machine.Characters[s!].Path));
        Assert.All(machine.Serials, s => Assert.True(machine.Characters[s!] is { IsServer: true, Waits: false }));
        Assert.Equal("/w/monitor", machine.Characters[Assert.Single(machine.Monitors).Character].Path);
        Assert.Equal(["hvc0", "hvc1"], Assert.Single(machine.VirtioSerials).Ports.Select(p => p.Character));
        VmDisk disk = Assert.Single(machine.Disks);
        Assert.Equal((ImageFormat.Qcow2, true, true, DiskBus.Virtio), (disk.Image.Format, disk.Image.Discard, disk.Image.AllowBacking, disk.Bus));
        Assert.True(machine.Rng);
        Assert.Equal("x86-64-v1,+vmx,+lahflm", machine.Cpu);
        Assert.DoesNotContain(machine.Characters.Values, c => c.Kind == CharacterKind.Stdio);
        Assert.Empty(machine.Notes);
        VmShare folder = Assert.Single(Read("-virtfs local,id=autopkgtest,path=/w,security_model=none,mount_tag=autopkgtest").Shares);
        Assert.Equal(new VmShare("/w") { Kind = ShareKind.NineP, Tag = "autopkgtest" }, folder);
    }

    /// <summary>vl.c of QEMU 7.2: who gets the terminal with -nographic.</summary>
    [Fact]
    public void The_terminal_is_shared_as_with_QEMU()
    {
        QemuMachine machine = Read("-nographic");
        Assert.True(Serial(machine).IsShared);
        Assert.Equal(machine.Serials[0], Assert.Single(machine.Monitors).Character);

        machine = Read("-nographic -monitor null");
        Assert.False(Serial(machine).IsShared);
        Assert.Equal(CharacterKind.Stdio, Serial(machine).Kind);

        machine = Read("-nographic -serial mon:stdio");
        Assert.Equal(machine.Serials[0], Assert.Single(machine.Monitors).Character);

        machine = Read("-nographic -serial null");
        Assert.Equal(CharacterKind.Null, Serial(machine).Kind);
        Assert.Equal(CharacterKind.Stdio, machine.Characters[Assert.Single(machine.Monitors).Character].Kind);

        Assert.Contains("stdio", Refusal("-nographic -serial stdio"), StringComparison.Ordinal);
        Assert.Empty(Read("-nodefaults -nographic").Characters);
        Assert.Empty(Read("-display none").Characters);
        machine = Read("");
        Assert.True(Serial(machine).IsShared);
        Assert.Contains("window", Assert.Single(machine.Notes), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("-m 1G", 1024)]
    [InlineData("-m 300", 300)]
    [InlineData("-m size=2G,slots=2,maxmem=4G", 2048)]
    [InlineData("", 128)]
    public void Memory(string line, ulong mebibytes) => Assert.Equal(mebibytes << 20, Read(line).Memory);

    [Theory]
    [InlineData("-smp 4", 4)]
    [InlineData("-smp cpus=3,maxcpus=8", 3)]
    [InlineData("-smp sockets=2,cores=2,threads=2", 8)]
    [InlineData("-smp 4,sockets=1,cores=4,threads=1", 4)]
    [InlineData("-smp maxcpus=2", 2)]
    public void Processors(string line, int count) => Assert.Equal(count, Read(line).Cpus);

    [Theory]
    [InlineData("-accel tcg", "bt")]
    [InlineData("-accel kvm", "auto")]
    [InlineData("-accel kvm:tcg", "auto")]
    [InlineData("-accel hvf -accel tcg,thread=multi", "bt")]
    [InlineData("-machine q35,accel=tcg", "bt")]
    [InlineData("-M accel=kvm:tcg,type=pc-q35-7.2,usb=off", "auto")]
    [InlineData("-enable-kvm", "auto")]
    [InlineData("--accel interp", "interp")]
    [InlineData("", "auto")]
    public void Accelerators(string line, string engine) => Assert.Equal(engine, Read(line).Engine);

    [Theory]
    [InlineData("host", "max")]
    [InlineData("max,-avx2", "max,-avx2")]
    [InlineData("qemu64", "x86-64-v1")]
    [InlineData("Nehalem-v2", "x86-64-v2")]
    [InlineData("Skylake-Client-noTSX-IBRS", "x86-64-v3-intel")]
    [InlineData("EPYC-Rome-v2,rdpid=off", "x86-64-v3")]
    [InlineData("x86-64-v3,+la57", "x86-64-v3,+la57")]
    [InlineData("max,sse4_2=off", "max,-sse42")]
    public void Models(string text, string model) => Assert.StartsWith(model, Read("-cpu " + text).Cpu, StringComparison.Ordinal);

    [Fact]
    public void Features_that_are_not_there_are_told_or_refused()
    {
        Assert.Contains("tsx", Assert.Single(Read("-nodefaults -cpu max,+tsx").Notes), StringComparison.OrdinalIgnoreCase);
        Assert.Contains("tsx", Refusal("-cpu max,+tsx,enforce"), StringComparison.OrdinalIgnoreCase);
        Assert.False(Read("-cpu host,kvm=off").Paravirtual);
        Assert.Contains("Nehalem", Refusal("-cpu Nehalm"), StringComparison.Ordinal);
    }

    [Fact]
    public void Disks_stand_in_the_order_of_their_numbers_and_nodes_on_each_other()
    {
        QemuMachine machine = Read("""
            -hdb b -hda a -cdrom c.iso -drive if=none,id=x,file=x.qcow2,format=qcow2,readonly=on -device ide-hd,drive=x -drive file=v0,if=virtio -drive
            file=v1,if=virtio,snapshot=on
            -blockdev driver=file,filename=n.img,node-name=file0 -blockdev driver=qcow2,file=file0,node-name=disk0 -device virtio-blk-pci,drive=disk0,serial=s7
            """);
        Assert.Equal(["n.img", "v0", "v1"], machine.Disks.Where(d => d.Bus == DiskBus.Virtio).Select(d => d.Image.Path).Order(StringComparer.Ordinal));
        Assert.Equal(["a", "b"], machine.Disks.Where(d => d.Bus == DiskBus.Ahci).Select(d => d.Image.Path).Where(p => p != "x.qcow2"));
        Assert.True(machine.Disks.FindIndex(d => d.Image.Path == "v0") < machine.Disks.FindIndex(d => d.Image.Path == "v1"));
        Assert.Equal(["c.iso"], machine.CompactDiscs);
        VmDisk node = Assert.Single(machine.Disks, d => d.Image.Path == "n.img");
        Assert.Equal((ImageFormat.Qcow2, "s7", DiskBus.Virtio), (node.Image.Format, node.Serial, node.Bus));
        Assert.True(Assert.Single(machine.Disks, d => d.Image.Path == "v1").Throwaway);
        Assert.True(Assert.Single(machine.Disks, d => d.Image.Path == "x.qcow2").Image.ReadOnly);
        Assert.Equal("d.img", Assert.Single(Read("d.img").Disks).Image.Path);
        Assert.Equal(["z", "y", "x"], Read("-drive file=y -drive file=x -hda z").Disks.Select(d => d.Image.Path));
        Assert.Contains("there already", Refusal("-hda a -drive file=b,index=0"), StringComparison.Ordinal);
        Assert.Contains("there is no drive", Refusal("-device virtio-blk-pci,drive=nobody"), StringComparison.Ordinal);
        Assert.Contains("stands on itself", Refusal("-blockdev driver=raw,node-name=a,file=b -blockdev driver=raw,node-name=b,file=a -device "
            + "virtio-blk,drive=a"),
            StringComparison.Ordinal);
        Assert.Contains("if=virtio already", Refusal("-drive file=a,if=virtio,id=d -device virtio-blk-pci,drive=d"), StringComparison.Ordinal);
        Assert.Contains("nbd:", Refusal("-hda nbd:localhost:10809"), StringComparison.Ordinal);
    }

    [Fact]
    public void Networks_of_each_kind()
    {
        Assert.IsType<UserNetwork>(Assert.Single(Read("-nographic").Networks)); // QEMU's default
        Assert.Empty(Read("-nographic -nodefaults").Networks);
        Assert.Empty(Read("-net none").Networks);
        Assert.Empty(Read("-nic none").Networks);
        Assert.Equal("tap7", Assert.IsType<TapInterface>(Assert.Single(Read("-nic "
            + "tap,ifname=tap7,script=no,downscript=no,model=virtio-net-pci,mac=52:54:00:00:00:07").Networks)).Name);
        UdpCable cable = Assert.IsType<UdpCable>(Assert.Single(Read("-netdev socket,id=s,udp=127.0.0.1:7001,localaddr=127.0.0.1:7002 -device "
            + "virtio-net,netdev=s").Networks));
        Assert.Equal((7002, 7001), (cable.Local.Port, cable.Remote.Port));
        Assert.Equal(new TcpCable(IPEndPoint.Parse("127.0.0.1:7003"), Listens: true), Bare("-nic socket,listen=:7003"));
        Assert.Equal(new TcpCable(IPEndPoint.Parse("127.0.0.1:7003"), Listens: false), Bare("-nic socket,connect=localhost:7003"));
        Assert.Equal(new MulticastCable(IPEndPoint.Parse("230.0.0.1:1234"), null), Bare("-nic socket,mcast=230.0.0.1:1234"));
        Assert.Equal(new MulticastCable(IPEndPoint.Parse("230.0.0.1:1234"), IPAddress.Loopback), Bare("-nic socket,mcast=230.0.0.1:1234,localaddr=127.0.0.1"));
        Assert.Equal(new TcpCable(IPEndPoint.Parse("127.0.0.1:7003"), Listens: true),
            Bare("-nic stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=7003"));
        Assert.Equal(new UnixCable("/tmp/c"), Bare("-nic stream,addr.type=unix,addr.path=/tmp/c"));
        Assert.Equal(new MulticastCable(IPEndPoint.Parse("230.0.0.1:1234"), null), Bare("-nic dgram,remote.type=inet,remote.host=230.0.0.1,remote.port=1234"));
        Assert.Contains("no multicast group", Refusal("-nic socket,mcast=10.0.0.1:1234"), StringComparison.Ordinal);
        Assert.Contains("one of listen=", Refusal("-nic socket,listen=:1,connect=:2"), StringComparison.Ordinal);
        SlirpOptions user = Assert.IsType<UserNetwork>(Assert.Single(Read("-nic "
            + "user,restrict=on,ipv6=off,net=192.168.76.0/24,dhcpstart=192.168.76.9").Networks)).Options;
        Assert.True(user is { Restricted: true, Ip6: false, HostLoopback: false });
        Assert.Equal(("192.168.76.0", "192.168.76.9"), (user.Network.ToString(), user.FirstDhcp!.ToString()));
        foreach (string absent in (string[])["-nic user,tftp=/srv", "-nic bridge", "-netdev socket,id=a,fd=3", "-nic vhost-user", "-net nic -net nic"])
            Refusal(absent);
    }

    private static VmNetwork Bare(string words) => Assert.Single(Read(words).Networks) with { Mac = null };

    [Fact]
    public void Viewers_are_asked_for_a_password_where_it_says_so()
    {
        Assert.True(Read("-vnc 192.0.2.1:1,password=on").Vnc is { AsksForPassword: true, Address.Port: 5901 });
        Assert.False(Read("-vnc :1").Vnc!.AsksForPassword);
        QemuMachine machine = Read("-object secret,id=s,data=word -vnc :1,password-secret=s");
        Assert.Equal((true, "word"), (machine.Vnc!.AsksForPassword, machine.VncPassword));
        Assert.Equal("word", Read("-vnc :1,password-secret=s -object secret,id=s,data=d29yZA==,format=base64").VncPassword);
        Assert.Contains("-object secret with id=s", Refusal("-vnc :1,password-secret=s"), StringComparison.Ordinal);
        Assert.Contains("data= or file=", Refusal("-object secret,id=s"), StringComparison.Ordinal);
        Assert.Contains("data=: ", Refusal("-object secret,id=s,data=?,format=base64"), StringComparison.Ordinal);
        Assert.Contains("/nonexistent: No such file", Refusal("-object secret,id=s,file=/nonexistent"), StringComparison.Ordinal);
    }

    /// <summary>QEMU's default for writes is enospc.</summary>
    [Fact]
    public void A_host_without_room_stops_the_machine_unless_told_otherwise()
    {
        Assert.Equal([true, false, true, false], Read("-drive file=a,if=virtio -drive file=b,if=virtio,werror=report -drive file=c,if=none,id=c "
            + "-device virtio-blk-pci,drive=c -drive file=d,if=none,id=d -device virtio-blk-pci,drive=d,werror=report").Disks
                .OrderBy(d => d.Image.Path, StringComparer.Ordinal).Select(d => d.StopsWhenFull));
        Assert.Contains("werror", Refusal("-drive file=a,werror=panic"), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("-device nvme,drive=d", "nvme")]
    [InlineData("-device virtio-scsi-pci", "virtio-scsi-pci")]
    [InlineData("-vnc 192.0.2.1:1", "192.0.2.1")]
    [InlineData("-vnc 5901", "'5901'")]
    [InlineData("-pflash code.fd", "code.fd")]
    [InlineData("-drive if=pflash,file=c.fd", "c.fd")]
    [InlineData("-machine pflash0=code", "pflash0=")]
    [InlineData("-machine isapc", "microvm")]
    [InlineData("-machine microvm -device virtio-blk-pci,drive=d", "virtio-blk-device")]
    [InlineData("-machine microvm -device virtio-net-pci-non-transitional,netdev=n", "virtio-net-device")]
    [InlineData("-device virtio-rng-device", "virtio-rng-pci")]
    [InlineData("-device vhost-vsock-device,guest-cid=3", "vhost-vsock-pci")]
    [InlineData("-fda floppy.img", "-fda")]
    [InlineData("-object tls-creds-x509,id=s", "tls-creds-x509")]
    [InlineData("-nosuch", "-nosuch")]
    [InlineData("-serial udp:1", "udp:1")]
    [InlineData("-m", "-m")]
    [InlineData("-chardev socket,id=s,host=192.0.2.1,port=80,server=on", "192.0.2.1:80")]
    [InlineData("-chardev pty,id=s -serial chardev:other", "other")]
    [InlineData("-chardev pty,id=s -serial chardev:s -monitor chardev:s", "'s'")]
    [InlineData("-serial null -serial null -serial pty", "-serial pty")]
    [InlineData("-daemonize -nographic", "-daemonize")]
    public void What_is_not_had_is_named(string line, string word) => Assert.Contains(word, Refusal(line), StringComparison.Ordinal);

    [Theory]
    [InlineData("-usb")]
    [InlineData("-vga qxl")]
    [InlineData("-device qxl")]
    [InlineData("-device intel-hda -d guest_errors")]
    [InlineData("-display gtk")]
    [InlineData("-m 1G,slots=1,maxmem=2G")]
    public void What_means_nothing_here_is_told(string line) => Assert.NotEmpty(Read("-nodefaults " + line).Notes);

    /// <summary>docs/system/i386/microvm.rst of QEMU: its examples.</summary>
    [Fact]
    public void What_a_microvm_is_given()
    {
        QemuMachine machine = Read("-M microvm,x-option-roms=off,pit=off,pic=off,isa-serial=off,rtc=off -enable-kvm -cpu host -m 512m -smp 2 -kernel vmlinux "
            + "-append 'console=hvc0 root=/dev/vda' -nodefaults -no-user-config -nographic -chardev stdio,id=virtiocon0 -device virtio-serial-device "
            + "-device virtconsole,chardev=virtiocon0 -drive id=test,file=test.img,format=raw,if=none -device virtio-blk-device,drive=test "
            + "-netdev user,id=n -device virtio-net-device,netdev=n -device virtio-rng-device -device vhost-vsock-device,guest-cid=9,path=/tmp/v");
        Assert.Equal((BoardKind.MicroVm, DiskBus.Virtio, true), (machine.Board, Assert.Single(machine.Disks).Bus, machine.Rng));
        Assert.Equal(NetworkModel.Virtio, Assert.Single(machine.Networks).Model);
        Assert.Single(machine.VirtioSerials);
        Assert.Equal(9u, machine.Vsock!.Cid);
        Assert.Empty(machine.Notes);
        Assert.Empty(Read("-M microvm -kernel k -nographic").Networks);
        Assert.Equal(BoardKind.Pc, Read("-M microvm -M q35 -nodefaults").Board);
    }

    [Fact]
    public void A_screen_is_there_with_firmware_and_for_viewers()
    {
        QemuMachine machine = Read("-vnc :3,share=ignore -device virtio-tablet-pci -device VGA,vgamem_mb=16");
        Assert.Equal("127.0.0.1:5903", machine.Vnc!.ToString());
        Assert.Equal((DisplayKind.Standard, true), (machine.Display, machine.Tablet));
        Assert.Equal("/run/screen", Read("-display vnc=unix:/run/screen").Vnc!.Path);
        Assert.Null(Read("-vnc none").Vnc);
        Assert.Equal(DisplayKind.Automatic, Read("").Display);
        Assert.Equal(DisplayKind.None, Read("-nodefaults").Display);
        Assert.Equal(DisplayKind.Standard, Read("-nodefaults -vga std").Display);
        Assert.Equal(DisplayKind.None, Read("-vga none").Display);
    }

    /// <summary>As libvirt and the package ovmf's own document give them.</summary>
    [Theory]
    [InlineData("-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd -drive if=pflash,format=raw,file=/v.fd", "/v.fd")]
    [InlineData("-pflash /usr/share/OVMF/OVMF_CODE_4M.fd -pflash /v.fd", "/v.fd")]
    [InlineData("-pflash /usr/share/OVMF/OVMF_CODE_4M.fd", null)]
    public void Flash_memories_are_firmware_and_its_variables(string line, string? variables)
    {
        QemuMachine machine = Read(line);
        Assert.Equal(("ovmf", variables), (machine.Bios, machine.EfiVars));
    }

    [Fact]
    public void The_machine_says_who_it_is()
    {
        QemuMachine machine = Read("""
            -uuid 00112233-4455-6677-8899-aabbccddeeff -name guest=web,debug-threads=on -smbios type=1,manufacturer=Acme,,Inc,serial=7 -smbios
            type=11,value=io.systemd.credential:a=b
            -smbios type=0,vendor=V -boot order=dc -rtc base=2026-01-31T12:30:00 -fw_cfg opt/a,string=text -echr 2
            """);
        Assert.Equal(Guid.Parse("00112233-4455-6677-8899-aabbccddeeff"), machine.Identity.Uuid);
        Assert.Equal(("Acme,Inc", "7", "V"), (machine.Identity.Manufacturer, machine.Identity.Serial, machine.Identity.BiosVendor));
        Assert.Equal(["io.systemd.credential:a=b"], machine.Identity.Strings);
        Assert.Equal([BootDevice.CompactDisc, BootDevice.Disk], machine.BootOrder);
        Assert.Equal(new DateTime(2026, 1, 31, 12, 30, 0), machine.StartTime);
        Assert.Equal("opt/a", Assert.Single(machine.FirmwareItems).Name);
        Assert.Equal(("web", 2), (machine.Name, machine.EscapeKey));
    }

    /// <summary>The document has each option with what becomes of it.</summary>
    [Fact]
    public void The_document_has_every_option_and_device()
    {
        string text = File.ReadAllText(Path.Combine(Root(), "docs", "qemu-options.md"));
        foreach (QemuOption option in QemuOptions.All)
        {
            string likeness = option.Likeness == Likeness.Ignored ? "passed over" : option.Likeness.ToString().ToLowerInvariant();
            string words = option.Argument is null ? option.Name : $"{option.Name} {option.Argument}";
            Assert.Contains($"| `-{Cell(words)}` | {likeness} | {Cell(option.Note)} |", text, StringComparison.Ordinal);
        }
        foreach ((string names, string what) in QemuDevices.Explain()) Assert.Contains($"| {names} | {what} |", text, StringComparison.Ordinal);
        foreach (string command in QmpServer.Commands) Assert.Contains($"`{command}`", text, StringComparison.Ordinal);

        static string Cell(string text) => text.Replace("|", "\\|", StringComparison.Ordinal);
    }

    /// <summary>QEMU's own list of its options: none of them is unknown.</summary>
    [Fact]
    public void Every_option_of_QEMUs_is_known()
    {
        using var process = new TestProcess(new ProcessStartInfo("qemu-system-x86_64", ["-help"]) { RedirectStandardOutput = true });
        string help = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        string[] names = [.. help.Split('\n').Where(l => l.StartsWith('-')).SelectMany(l => l.Split(' ')[0].Split('/')).Select(n =>
            n.TrimStart('-')).Distinct()];
        Assert.True(names.Length > 80, help);
        Assert.All(names, n => Assert.NotNull(QemuOptions.Find(n)));
    }
}
