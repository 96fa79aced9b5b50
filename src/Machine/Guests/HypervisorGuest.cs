using System.Globalization;
using System.Text;

namespace Bunraku.Machine;

/// <summary>
/// A Linux guest that is a hypervisor: the distribution's kernel with KVM's modules, and this host's QEMU, which boots the same kernel once more inside.
/// It prints "@bench launch" when QEMU is about to start; from then on its console is that of the guest inside. Behind each line of that which begins
/// with "@bench start" or "@bench end" come KVM's own counts, if they are asked for. It powers off when the guest inside has ended.
/// </summary>
/// <remarks>
/// Words of the kernel's command line: kvm.param=NAME=VALUE for the vendor's module, kvm.counts=1; those that begin with "bench." and "mitigations=" go
/// to the guest inside as well. In RAM it needs what the guest inside has and <see cref="OwnMegabytes"/>.
/// </remarks>
internal sealed class HypervisorGuest
{
    /// <summary>Mebibytes for kernel, QEMU and files, twice while the kernel unpacks them.</summary>
    public const int OwnMegabytes = 640;
    /// <summary>Line that says that QEMU is about to start.</summary>
    public const string LaunchLine = "@bench launch";
    /// <summary>How the line with KVM's counts begins: NAME=VALUE each.</summary>
    public const string CountsLine = "@kvm ";
    /// <summary>Counts of KVM, as its debugfs folder names them.</summary>
    public static readonly string[] Counts = ["exits", "mmu_pte_write", "pf_fixed", "pf_guest", "mmu_shadow_zapped"];

    private const string Qemu = "qemu-system-x86_64";
    private const uint Executable = 0x1ED;
    // What a PC without cards and with a kernel given needs of QEMU's firmware.
    private static readonly string[] s_firmware = ["bios-256k.bin", "linuxboot_dma.bin", "kvmvapic.bin"];
    private static readonly string[] s_firmwareFolders = ["/usr/share/qemu", "/usr/share/seabios", "/usr/share/qemu-efi", "/usr/lib/ipxe/qemu"];

    /// <summary>The kernel of both.</summary>
    public required string Kernel { get; init; }

    public required byte[] Initrd { get; init; }

    /// <summary>Makes it.</summary>
    /// <param name="innerInitrd">What the guest inside boots.</param>
    /// <param name="innerMegabytes">Its RAM.</param>
    /// <exception cref="BootException">QEMU, the kernel, its modules or busybox can't be had; the message is one line.</exception>
    public static HypervisorGuest Build(DebianPackages packages, byte[] innerInitrd, int innerMegabytes, CancellationToken cancel)
    {
        string qemu = ToolRunner.Find(Qemu)
            ?? throw new BootException($"the guest's hypervisor is QEMU with KVM, and {Qemu} is not installed (apt-get install qemu-system-x86)");
        string kernel = packages.FindKernel("linux", cancel);
        IReadOnlyList<string> modules = packages.FindModules(kernel, GuestDrivers.Hypervisor, cancel);
        if (!modules.Any(m => Path.GetFileName(m) == "kvm.ko")) throw new BootException($"kernel {kernel} has no modules of KVM");
        var archive = new CpioArchive();
        var folders = new HashSet<string>();
        foreach (string folder in (string[])["dev", "proc", "sys", "tmp", "modules", "inside"]) Folder(folder);
        archive.AddCharacterDevice("dev/console", 5, 1);
        Add("bin/busybox", File.ReadAllBytes(packages.FindBusybox(cancel)));
        foreach (string module in modules) Add("modules/" + Path.GetFileName(module), File.ReadAllBytes(module));
        Add("modules/list", Encoding.ASCII.GetBytes(string.Concat(modules.Select(m => Path.GetFileNameWithoutExtension(m) + "\n"))));
        Add(qemu, File.ReadAllBytes(qemu));
        foreach (string library in Libraries(qemu, cancel)) Add(library, File.ReadAllBytes(library));
        foreach (string file in s_firmware) Add("usr/share/qemu/" + file, File.ReadAllBytes(Firmware(file)));
        Add("inside/vmlinuz", File.ReadAllBytes(kernel));
        Add("inside/initrd", innerInitrd);
        Add("init", Encoding.ASCII.GetBytes(Init(qemu, innerMegabytes)));
        return new HypervisorGuest { Kernel = kernel, Initrd = archive.ToArray() };

        void Folder(string path)
        {
            if (path.Length == 0 || !folders.Add(path)) return;
            Folder(Path.GetDirectoryName(path)!);
            archive.AddDirectory(path);
        }

        void Add(string path, byte[] content)
        {
            path = path.TrimStart('/');
            Folder(Path.GetDirectoryName(path)!);
            archive.AddFile(path, content, Executable);
        }
    }

    /// <summary>The files that a program needs from the dynamic linker, the linker itself among them.</summary>
    private static string[] Libraries(string program, CancellationToken cancel)
    {
        string ldd = ToolRunner.Find("ldd")
            ?? throw new BootException("the libraries of QEMU are found by ldd, which is not installed (apt-get install libc-bin)");
        ToolRunner.Result result = ToolRunner.Run(ldd, [program], null, cancel);
        if (result.Status != 0) throw new BootException($"ldd {program}: {result.Cause}");
        // "name => /path (address)", and "/path (address)" for the linker.
        return [.. result.Output.Split('\n').SelectMany(line => line.Split(' ', StringSplitOptions.TrimEntries))
            .Where(word => word.StartsWith('/')).Distinct()];
    }

    private static string Firmware(string file) => s_firmwareFolders.Select(f => Path.Combine(f, file)).FirstOrDefault(File.Exists)
        ?? throw new BootException($"QEMU's file {file} is in none of {string.Join(", ", s_firmwareFolders)} (apt-get install qemu-system-data seabios)");

    private static string Init(string qemu, int megabytes) => string.Create(CultureInfo.InvariantCulture, $$"""
        #!/bin/busybox sh
        /bin/busybox mount -t devtmpfs dev /dev
        /bin/busybox mount -t proc proc /proc
        /bin/busybox mount -t sysfs sys /sys
        /bin/busybox mount -t debugfs debug /sys/kernel/debug
        /bin/busybox mount -t tmpfs tmp /tmp
        inside= params= counts=
        for word in $(/bin/busybox cat /proc/cmdline); do
            case "$word" in
            kvm.param=*) params="$params ${word#kvm.param=}";;
            kvm.counts=1) counts=1;;
            bench.*|mitigations=*) inside="$inside $word";;
            esac
        done
        other=kvm-intel
        /bin/busybox grep -q GenuineIntel /proc/cpuinfo && other=kvm-amd
        while read -r module; do
            case "$module" in
            $other) ;;
            kvm-*) /bin/busybox insmod /modules/$module.ko $params || echo "@bench fail kvm $module $params";;
            *) /bin/busybox insmod /modules/$module.ko;;
            esac
        done </modules/list
        run() {
            {{qemu}} -accel kvm -cpu host -smp 1 -m {{megabytes}} -nodefaults -display none -serial stdio -no-reboot \
                -kernel /inside/vmlinuz -initrd /inside/initrd -append "console=ttyS0 panic=-1 quiet$inside"
        }
        tell() {
            told="{{CountsLine}}"
            for name in {{string.Join(' ', Counts)}}; do
                value=
                [ -r /sys/kernel/debug/kvm/$name ] && read -r value </sys/kernel/debug/kvm/$name
                told="$told $name=$value"
            done
            echo "$told"
        }
        echo "{{LaunchLine}}"
        if [ "$counts" ]; then
            run </dev/null 2>&1 | while read -r line; do
                case "$line" in "@bench start "*|"@bench end "*) tell;; esac
                echo "$line"
            done
        else
            run </dev/null
        fi
        /bin/busybox poweroff -f

        """);
}
