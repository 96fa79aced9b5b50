using System.Diagnostics;
using System.Globalization;

namespace Bunraku.Compare;

/// <summary>
/// Bochs, as the distribution packages it. It boots from a CD, its console is a file, a display of some kind has to be there (Debian's has none without a
/// terminal), and a build with the debugger waits for its first command.
/// </summary>
internal sealed class BochsSubject() : Subject("bochs", "Bochs")
{
    private const string Isolinux = "/usr/lib/ISOLINUX/isolinux.bin", Loader = "/usr/lib/syslinux/modules/bios/ldlinux.c32";
    private const string SeaBios = "/usr/share/seabios/bios.bin", OwnBios = "/usr/share/bochs/BIOS-bochs-latest",
        VgaBios = "/usr/share/bochs/VGABIOS-lgpl-latest";

    public override int MaxRuns => 1;

    public override TimeSpan Patience => TimeSpan.FromMinutes(5);

    public override string? Missing(CancellationToken cancel)
    {
        if (HostProgram.Find("bochs") is null) return "bochs is not installed (apt-get install bochs bochs-term bochsbios vgabios)";
        foreach ((string tool, string package) in (ReadOnlySpan<(string, string)>)[("genisoimage", "genisoimage"), ("script", "bsdutils")])
        {
            if (HostProgram.Find(tool) is null) return $"it boots from a CD and needs {tool} (apt-get install {package})";
        }
        foreach ((string file, string package) in (ReadOnlySpan<(string, string)>)[(Isolinux, "isolinux"), (Loader, "syslinux-common"), (VgaBios, "vgabios")])
        {
            if (!File.Exists(file)) return $"it needs {file} (apt-get install {package})";
        }
        return null;
    }

    public override RunningSubject Start(BenchGuest guest, IReadOnlyList<Workload> workloads, int milliseconds, bool mitigations)
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-bench-").FullName;
        string configuration = Path.Combine(folder, "bochsrc"), serial = Path.Combine(folder, "serial.txt");
        string cd = MakeCd(guest, guest.CommandLine(workloads, milliseconds, mitigations), folder);
        File.WriteAllText(serial, "");
        File.WriteAllText(configuration, Configuration(guest, folder, cd, serial));
        long started = Stopwatch.GetTimestamp();
        // script gives it a terminal, and "c" lets the debugger go on.
        var info = new ProcessStartInfo("sh", ["-c", $"echo c | exec script -qec \"bochs -q -f '{configuration}'\" /dev/null"]) { WorkingDirectory = folder };
        info.Environment["TERM"] = "linux";
        info.Environment.TryAdd("BXSHARE", "/usr/share/bochs");
        return new Running(HostProgram.Start(info), started, folder, serial);
    }

    private static string MakeCd(BenchGuest guest, string append, string folder)
    {
        string tree = Path.Combine(folder, "cd"), boot = Directory.CreateDirectory(Path.Combine(tree, "isolinux")).FullName,
            cd = Path.Combine(folder, "boot.iso");
        File.Copy(Isolinux, Path.Combine(boot, "isolinux.bin"));
        File.Copy(Loader, Path.Combine(boot, "ldlinux.c32"));
        File.Copy(guest.Kernel, Path.Combine(tree, "vmlinuz"));
        File.Copy(guest.Initrd, Path.Combine(tree, "initrd"));
        File.WriteAllText(Path.Combine(boot, "isolinux.cfg"),
            $"SERIAL 0 115200\nDEFAULT l\nPROMPT 0\nLABEL l\nKERNEL /vmlinuz\nINITRD /initrd\nAPPEND {append}\n");
        HostProgram.Run("genisoimage",
            ["-quiet", "-o", cd, "-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", tree],
                CancellationToken.None);
        return cd;
    }

    /// <remarks>Its clock counts instructions; that is good enough to calibrate by, and what counts is the host's.</remarks>
    private static string Configuration(BenchGuest guest, string folder, string cd, string serial) => $"""
        config_interface: textconfig
        display_library: {(File.Exists("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so") ? "term" : "nogui")}
        megs: {guest.Megabytes}
        romimage: file={(File.Exists(SeaBios) ? SeaBios : OwnBios)}
        vgaromimage: file={VgaBios}
        ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
        ata0-master: type=cdrom, path={cd}, status=inserted
        boot: cdrom
        com1: enabled=1, mode=file, dev={serial}
        log: {Path.Combine(folder, "bochs.log")}
        panic: action=fatal
        sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
        speaker: enabled=0
        clock: sync=none
        cpu: model=corei7_haswell_4770, count=1, ips=100000000, reset_on_triple_fault=0

        """;

    private sealed class Running(Process process, long started, string folder, string serial)
        : RunningSubject(process, started, ConsoleLines.OfFile(process, serial))
    {
        public override bool EndsItself => false; // a panic about power management, or the debugger's prompt

        /// <summary>The innermost of shell, script and Bochs.</summary>
        public override int? MonitorId
        {
            get
            {
                try
                {
                    int id = Process.Id;
                    while (File.ReadAllText($"/proc/{id}/task/{id}/children").Split(' ')[0] is { Length: > 0 } child)
                        id = int.Parse(child, CultureInfo.InvariantCulture);
                    return id == Process.Id ? null : id;
                }
                catch (IOException)
                {
                    return null; // ended, or a kernel without this file
                }
            }
        }

        public override bool IsBootLoadersLastWord(string line) => line.Contains("initrd", StringComparison.Ordinal)
            && (line.Contains("ok", StringComparison.Ordinal) || line.Contains("ready", StringComparison.Ordinal));

        public override void Dispose()
        {
            base.Dispose();
            Directory.Delete(folder, recursive: true);
        }
    }
}
