using System.Diagnostics;
using System.Text.RegularExpressions;
using Bunraku.Sessions.Debugging;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>LLDB itself, in batch mode, on a Debian kernel: what it prints of the guest is judged.</summary>
public sealed class LldbTests(LinuxGuestFiles files) : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private static readonly TimeSpan s_longest = TimeSpan.FromMinutes(5);

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-lldb-").FullName;

    private string Socket => Path.Combine(_folder, "socket");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>Runs commands in an LLDB that is connected, and returns what it prints. It ends at the first that fails.</summary>
    private string Lldb(params string[] commands)
    {
        string script = Path.Combine(_folder, "script");
        File.WriteAllLines(script, ["settings set plugin.process.gdb-remote.packet-timeout 60",
            $"process connect --plugin gdb-remote unix-connect://{Socket}", .. commands]);
        using var lldb = new TestProcess(new ProcessStartInfo("lldb", ["--no-lldbinit", "--batch", "--no-use-colors", "-s", script])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        });
        Task<string> errors = lldb.StandardError.ReadToEndAsync();
        string output = lldb.StandardOutput.ReadToEnd();
        lldb.WaitForExit();
        Assert.True(!Regex.IsMatch(output + errors.Result, "^error:", RegexOptions.Multiline), output + errors.Result);
        return output;
    }

    private async Task<string> Run(string engine, int cpus, string[] command, Func<string>? debug)
    {
        _ = files;
        using var output = new MemoryStream();
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Cpus = cpus,
            Append = "nokaslr",
            Command = command,
            Output = output,
            Debugger = debug is null ? null : DebugEndpoint.Unix(Socket),
            StartsStopped = debug is not null,
            Timeout = s_longest,
        }.Build();
        Task<VmResult> run = vm.RunAsync();
        string printed = debug?.Invoke() ?? "";
        Assert.Equal(debug is null ? 0 : 7, (await run).ExitStatus);
        return printed + System.Text.Encoding.UTF8.GetString(output.ToArray());
    }

    [Theory, InlineData("bt", 2), InlineData("interp", 1)]
    public async Task A_Debian_kernel_from_its_first_instruction_on(string engine, int cpus)
    {
        string symbols = await Run("bt", 1, ["grep", "-E", " (__x64_sys_newuname|init_uts_ns)$", "/proc/kallsyms"], null);
        string Address(string name) => Regex.Match(symbols, $"^([0-9a-f]+) . {name}$", RegexOptions.Multiline).Groups[1].Value;
        string call = Address("__x64_sys_newuname"), names = Address("init_uts_ns");

        string output = await Run(engine, cpus, ["sh", "-c", "uname -n; uname -n; exit 7"], () => Lldb(
            "register read cr0",
            $"breakpoint set --hardware --address 0x{call}", "process continue",
            "thread list",
            "register read rip cr0 cr4 eflags xmm0 fs_base",
            "disassemble --pc --count 1",
            "thread step-inst", "thread step-inst", "register read rip",
            "register write r11 0x123456789abcdef0", "register read r11",
            "memory write --size 8 $rsp-1024 0x1122334455667788", "memory read --size 8 --count 1 --format x $rsp-1024",
            $"memory read --size 1 --count 5 --format c 0x{names}",
            "breakpoint delete -f",
            $"watchpoint set expression --watch read_write --size 8 -- (long *)0x{names}", "process continue",
            "watchpoint delete -f",
            "process plugin packet monitor info status",
            "detach"));
        GdbBatch.Prints(output, "^ +cr0 = 0x0000000080000011$");
        GdbBatch.Prints(output, "stop reason = breakpoint 1\\.1$");
        GdbBatch.Prints(output, $"^\\* thread #\\d: tid = 0x000\\d, 0x{call}");
        if (cpus > 1) GdbBatch.Prints(output, "thread #2: tid = 0x0002, 0x");
        GdbBatch.Prints(output, $"^ +rip = 0x{call}$");
        GdbBatch.Prints(output, "^ +cr0 = 0x0000000080050033$");
        GdbBatch.Prints(output, "^ +xmm0 = \\{0x");
        GdbBatch.Prints(output, $"^-> +0x{call}: nopl ");
        GdbBatch.Prints(output, "stop reason = instruction step into$");
        GdbBatch.Prints(output, $"^ +rip = 0x(?!{call})[0-9a-f]+$");
        GdbBatch.Prints(output, "^ +r11 = 0x123456789abcdef0$");
        GdbBatch.Prints(output, ": 0x1122334455667788$");
        GdbBatch.Prints(output, $"^0x{names}: Linux$");
        GdbBatch.Prints(output, "stop reason = watchpoint 1$");
        GdbBatch.Prints(output, $"{cpus} processors? x86-64-v3, 512 MiB, engine {engine}$");
        GdbBatch.Prints(output, "^Process 1 detached$");
        Assert.EndsWith("bunraku\nbunraku\n", output, StringComparison.Ordinal);
    }
}
