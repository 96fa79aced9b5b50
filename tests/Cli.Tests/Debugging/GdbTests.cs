using System.Diagnostics;
using System.Text.RegularExpressions;
using Bunraku.Hypervisor;
using Bunraku.Sessions.Debugging;
using Bunraku.Testing;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>GDB itself, in batch mode: what it prints of a guest is judged.</summary>
public sealed class GdbTests(LinuxGuestFiles files) : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(5);

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-gdb-").FullName;

    private string Socket => Path.Combine(_folder, "socket");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Gdb(params string[] commands) => GdbBatch.Run(Socket, commands);

    private VmBuilder Builder(string engine) => new(KnownEngines.All)
    {
        Engine = engine,
        Memory = 16 << 20,
        DebugExit = true,
        Debugger = DebugEndpoint.Unix(Socket),
        StartsStopped = true,
        Timeout = s_longest,
    };

    public static TheoryData<string> Engines => ["interp", "bt", "check"];

    /// <summary>From 32-bit code with paging off to 64-bit mode: a table for each level, pages of 2 MiB.</summary>
    private const uint Tables = 0x30_0000, Data = 0x20_0000;

    private readonly Dictionary<string, ulong> _marks = [];

    private static void Cmov(Assembler a, uint at, uint value) => a.mov(__dword_ptr[at], value);

    private byte[] BothModes()
    {
        const uint entry = 0x10_0020;
        var labels = new Dictionary<string, Label>();
        var a = new Assembler(32);
        void Mark(string name)
        {
            Label label = a.CreateLabel(name);
            a.Label(ref label);
            labels.Add(name, label);
        }

        Cmov(a, Tables, (Tables + 0x1000) | 3);
        Cmov(a, Tables + 0x1000, (Tables + 0x2000) | 3);
        Cmov(a, Tables + 0x2000, 0x83);
        Cmov(a, Tables + 0x2008, 0x20_0083);
        a.mov(ebx, 0x1122_3344);
        Mark("work32");
        a.mov(__dword_ptr[Data], ebx);
        Mark("stored32");
        a.movd(mm0, ebx);
        a.emms();
        a.mov(eax, Tables);
        a.mov(cr3, eax);
        a.mov(eax, 0x620);
        a.mov(cr4, eax);
        a.mov(ecx, 0xC000_0080);
        a.rdmsr();
        a.or(eax, 0x100);
        a.wrmsr();
        a.mov(eax, 0x8000_0011);
        a.mov(cr0, eax);
        a.mov(esp, 0x18_0000);
        a.lgdt(__[0x10_0800]);
        a.db([0xEA, 0x00, 0x09, 0x10, 0x00, 0x08, 0x00]); // far jump to the 64-bit code at 100900h
        using var stream = new MemoryStream();
        AssemblerResult made = a.Assemble(new StreamCodeWriter(stream), entry, BlockEncoderOptions.ReturnNewInstructionOffsets);
        foreach ((string name, Label label) in labels) _marks[name] = made.GetLabelRIP(label);

        var b = new Assembler(64);
        labels.Clear();
        var marks64 = new Dictionary<string, Label>();
        void Mark64(string name)
        {
            Label label = b.CreateLabel(name);
            b.Label(ref label);
            marks64.Add(name, label);
        }
        Label function = b.CreateLabel();
        b.mov(rbx, 0x1122_3344_5566_7788);
        b.movq(xmm1, rbx);
        b.xor(ecx, ecx);
        b.call(function);
        Mark64("behind");
        b.mov(dx, (ushort)0xF4);
        b.mov(al, 3);
        b.@out(dx, al);
        Label here = b.CreateLabel();
        b.Label(ref here);
        b.jmp(here);
        b.Label(ref function);
        b.push(rbp);
        b.mov(rbp, rsp);
        Mark64("inside");
        b.inc(rcx);
        b.mov(__qword_ptr[Data], rcx);
        Mark64("stored64");
        b.cmp(rcx, 5000);
        b.jne(marks64["inside"]);
        b.pop(rbp);
        b.ret();
        using var stream64 = new MemoryStream();
        made = b.Assemble(new StreamCodeWriter(stream64), 0x10_0900, BlockEncoderOptions.ReturnNewInstructionOffsets);
        foreach ((string name, Label label) in marks64) _marks[name] = made.GetLabelRIP(label);

        byte[] kernel = TestKernel.Assemble(c => c.db(new byte[0x1000]));
        stream.ToArray().CopyTo(kernel, 0x20);
        BitConverter.TryWriteBytes(kernel.AsSpan(0x800), (ushort)0x17);
        BitConverter.TryWriteBytes(kernel.AsSpan(0x802), 0x10_0810u);
        BitConverter.TryWriteBytes(kernel.AsSpan(0x818), 0x00AF_9B00_0000_FFFF);
        BitConverter.TryWriteBytes(kernel.AsSpan(0x820), 0x00CF_9300_0000_FFFF);
        stream64.ToArray().CopyTo(kernel, 0x900);
        return kernel;
    }

    [Theory, MemberData(nameof(Engines))]
    public async Task From32To64BitCode(string engine)
    {
        byte[] kernel = BothModes();
        string path = Path.Combine(_folder, "kernel");
        File.WriteAllBytes(path, kernel);
        await using Vm vm = (Builder(engine) with { Kernel = path }).Build();
        Task<VmResult> run = vm.RunAsync();
        string output = Gdb(
            "show architecture",
            $"hbreak *{_marks["work32"]}", "continue",
            "printf \"ebx %x eip %x\\n\", $ebx, $eip",
            "x/i $pc",
            $"watch *(int *) {Data}", "continue",
            $"hbreak *{_marks["inside"]}", "continue",
            "monitor arch auto", "unset tdesc filename",
            "show architecture",
            "printf \"rbx %lx rip %lx\\n\", $rbx, $rip",
            "print $xmm1.uint128", "print $cr0", "print $efer", "print $cr4",
            "backtrace 1",
            "x/i $pc",
            "stepi", "stepi",
            "printf \"rcx %ld, stored %ld\\n\", $rcx, *(long *) 0x200000",
            "delete",
            $"break *{_marks["inside"]} if $rcx == 20", "continue",
            "print $rcx", "delete",
            $"watch *(long *) {Data} if *(long *) {Data} == 40", "continue",
            "delete", "set var $rcx = 4990", $"tbreak *{_marks["behind"]}", "continue",
            "printf \"at the end %ld\\n\", $rcx",
            "continue");
        GdbBatch.Prints(output, "\"auto\" \\(currently \"i386\"\\)");
        GdbBatch.Prints(output, $"^ebx 11223344 eip {_marks["work32"]:x}$");
        GdbBatch.Prints(output, "mov +%ebx,0x200000");
        GdbBatch.Prints(output, "^Old value = 0\nNew value = 287454020$");
        GdbBatch.Prints(output, "\"auto\" \\(currently \"i386:x86-64\"\\)");
        GdbBatch.Prints(output, $"^rbx 1122334455667788 rip {_marks["inside"]:x}$");
        GdbBatch.Prints(output, "= 1234605616436508552");
        GdbBatch.Prints(output, "= \\[ PE ET PG \\]");
        GdbBatch.Prints(output, "= \\[ LME LMA \\]");
        GdbBatch.Prints(output, "= \\[ PAE OSFXSR OSXMMEXCPT \\]");
        GdbBatch.Prints(output, $"=> 0x{_marks["inside"]:x}:\\s+inc +%rcx");
        GdbBatch.Prints(output, "^rcx 1, stored 1$");
        GdbBatch.Prints(output, "= 20$");
        GdbBatch.Prints(output, "^Old value = 39\nNew value = 40$");
        GdbBatch.Prints(output, "^at the end 5000$");
        GdbBatch.Prints(output, "exited with code 07");
        Assert.Equal((StopReason.DebugExit, 7), ((await run).Cause.Reason, (await run).ExitStatus));
    }

    [Theory, MemberData(nameof(Engines))]
    public async Task RealMode(string engine)
    {
        // A ROM whose code in the segment F000h calls some of itself.
        byte[] rom = new byte[0x1_0000];
        var a = new Assembler(16);
        Label function = a.CreateLabel();
        a.mov(ax, 0x2000);
        a.mov(ss, ax);
        a.mov(sp, 0x1000);
        a.mov(cx, 3);
        Label again = a.CreateLabel();
        a.Label(ref again);
        a.call(function);
        a.loop(again);
        a.mov(dx, 0xF4);
        a.mov(al, 2);
        a.@out(dx, al);
        a.hlt();
        a.Label(ref function);
        a.inc(bx);
        a.mov(__word_ptr[0x500], bx);
        a.ret();
        using var stream = new MemoryStream();
        AssemblerResult made = a.Assemble(new StreamCodeWriter(stream), 0x100, BlockEncoderOptions.ReturnNewInstructionOffsets);
        ulong inside = 0xF_0000 + made.GetLabelRIP(function);
        stream.ToArray().CopyTo(rom, 0x100);
        byte[] reset = [0xEA, 0x00, 0x01, 0x00, 0xF0]; // jmp F000:0100
        reset.CopyTo(rom, 0xFFF0);
        string path = Path.Combine(_folder, "rom");
        File.WriteAllBytes(path, rom);
        await using Vm vm = (Builder(engine) with { Bios = path }).Build();
        Task<VmResult> run = vm.RunAsync();
        string output = Gdb(
            "show architecture",
            "x/i $pc",
            $"break *{inside}", "continue",
            "printf \"bx %d cs %x pc %x\\n\", $ebx, $cs, $eip",
            "x/2i $pc", "stepi", "stepi",
            "x/hx 0x500", "continue", "x/hx 0x500", "delete",
            "watch *(short *) 0x500", "continue", "delete",
            "print $cr0", "continue");
        GdbBatch.Prints(output, "\"auto\" \\(currently \"i8086\"\\)");
        GdbBatch.Prints(output, "=> 0xfffffff0:\\s+ljmp +\\$0xf000,\\$0x100");
        GdbBatch.Prints(output, $"^Breakpoint 1, 0x0*{inside:x} in");
        GdbBatch.Prints(output, $"^bx 0 cs f000 pc {inside:x}$");
        GdbBatch.Prints(output, $"=> 0x{inside:x}:\\s+inc +%bx");
        GdbBatch.Prints(output, "^0x500:\\s+0x0001\n[^$]*^0x500:\\s+0x0001$");
        GdbBatch.Prints(output, "^Old value = 1\nNew value = 2$");
        GdbBatch.Prints(output, "exited with code 05");
        Assert.Equal((StopReason.DebugExit, 5), ((await run).Cause.Reason, (await run).ExitStatus));
    }

    /// <summary>Runs the program, and GDB beside it when it listens.</summary>
    private (int Status, string Output, string Gdb) Debian(string[] arguments, string[] command, params string[] gdb)
    {
        _ = files;
        using var program = new TestProcess(new ProcessStartInfo("dotnet",
            [Program, "run", "--timeout", "5m", "--engine", "bt", "--append", "nokaslr", .. arguments, "--", .. command])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        });
        program.StandardInput.Close();
        Task<string> output = program.StandardOutput.ReadToEndAsync(), errors = program.StandardError.ReadToEndAsync();
        string printed = "";
        if (gdb.Length > 0)
        {
            while (!File.Exists(Socket) && !program.HasExited) Thread.Sleep(1);
            printed = Gdb(gdb);
        }
        program.WaitForExit();
        Assert.Equal(gdb.Length > 0 ? $"bunraku: for the debugger: target remote {Socket}\n" : "", errors.Result);
        return (program.ExitCode, output.Result, printed);
    }

    [Theory, InlineData(1), InlineData(4)]
    public void ADebianKernelFromItsFirstInstructionToTheCommandsEnd(int cpus)
    {
        (_, string symbols, _) = Debian([], ["grep", "-E", " (start_kernel|__x64_sys_newuname|init_uts_ns)$", "/proc/kallsyms"]);
        string Address(string name) => "0x" + Regex.Match(symbols, $"^([0-9a-f]+) . {name}$", RegexOptions.Multiline).Groups[1].Value;

        (int status, string output, string gdb) = Debian(["--gdb", "unix:" + Socket, "--stopped", "--cpus", $"{cpus}"],
            ["sh", "-c", "for n in $(seq 30); do uname -n; done | uniq -c; exit 7"],
            "show architecture", "print $efer", "info threads",
            $"hbreak *{Address("start_kernel")}", "continue",
            "printf \"start_kernel %lx\\n\", $rip", "print $cs", "print $cr0", "backtrace 1",
            "delete",
            $"break *{Address("__x64_sys_newuname")}", "continue",
            "printf \"newuname %lx\\n\", $rip",
            "info threads",
            "print $gs_base != 0", "print $rsp > 0xffff800000000000",
            "stepi", "stepi", "x/i $pc",
            "set var $hits = 0",
            "delete", $"break *{Address("__x64_sys_newuname")}", "commands", "silent", "set var $hits = $hits + 1", "if $hits < 25", "continue", "end", "end",
            "continue", "print $hits", "delete",
            $"rwatch *(long *) {Address("init_uts_ns")}", "continue", "delete",
            "x/s *(long *) $rsp != 0 ? (char *) " + Address("init_uts_ns") + " : 0",
            "continue");
        GdbBatch.Prints(gdb, "\"auto\" \\(currently \"i386:x86-64\"\\)");
        GdbBatch.Prints(gdb, "^\\* 1 +Thread 1 \\(cpu0 running\\)");
        if (cpus > 1) GdbBatch.Prints(gdb, "^  4 +Thread 4 \\(cpu3 waits for its start\\)");
        GdbBatch.Prints(gdb, $"^start_kernel {Address("start_kernel")[2..]}$");
        GdbBatch.Prints(gdb, $"^newuname {Address("__x64_sys_newuname")[2..]}$");
        GdbBatch.Prints(gdb, "= \\[ PE MP ET NE WP AM PG \\]");
        GdbBatch.Prints(gdb, "= 25$");
        GdbBatch.Prints(gdb, "^Hardware read watchpoint \\d+: \\*\\(long \\*\\) 0x");
        GdbBatch.Prints(gdb, "exited with code 07");
        Assert.Equal((7, "     30 bunraku\n"), (status, output));
    }
}
