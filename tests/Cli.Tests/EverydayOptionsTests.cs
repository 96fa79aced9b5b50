using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Bunraku.Cli.CommandLine;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Options for every day, as a user types them: what a command finds in its guest, VMs in the background, and what is made of the commands'
/// definitions.</summary>
public sealed class EverydayOptionsTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-everyday").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    private TestProcess Start(params string[] arguments) => new(new ProcessStartInfo("dotnet", [Program, .. arguments])
    {
        RedirectStandardInput = true,
        RedirectStandardOutput = true,
        RedirectStandardError = true,
        Environment = { ["XDG_RUNTIME_DIR"] = _folder, ["BUNRAKU_TEST"] = "of the host" },
    });

    private (int Status, string Output, string Errors) Run(params string[] arguments)
    {
        using TestProcess process = Start(arguments);
        process.StandardInput.Close();
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, errors.Result);
    }

    /// <summary>POSIX: what a process has of environment, folder and identity. The same when the guest was kept and when it is booted.</summary>
    [Theory]
    [InlineData()]
    [InlineData("--fresh")]
    public void A_command_starts_where_as_whom_and_with_what_was_said(params string[] more)
    {
        (int status, string output, string errors) = Run(["run", .. more, "--quiet", "--env", "A=b c'd\"$e\n2", "--env", "BUNRAKU_TEST", "--env",
            "BUNRAKU_TEST_NOT_SET",
            "--cwd", "/tmp", "--user", "1234:56", "--", "sh", "-c", "printf '%s|' \"$A\" \"$BUNRAKU_TEST\" \"${BUNRAKU_TEST_NOT_SET-none}\" \"$(pwd)\" "
                + "\"$(id -u)\" \"$(id -g)\" \"$1\"; exit 7",
            "sh", "-c"]);
        Assert.Equal((7, "b c'd\"$e\n2|of the host|none|/tmp|1234|56|-c|", ""), (status, output, errors));
    }

    [Fact]
    public void Random_numbers_follow_from_a_seed()
    {
        string[] numbers = [.. ((string[])["7", "7", "8"]).Select(seed =>
        {
            (int status, string output, string errors) = Run("run", "--quiet", "--seed", seed, "--", "sh", "-c", "head -c 40 /dev/hwrng | sha256sum");
            Assert.Equal((0, ""), (status, errors));
            return output;
        })];
        Assert.Equal(numbers[0], numbers[1]);
        Assert.NotEqual(numbers[0], numbers[2]);
    }

    [Theory]
    [InlineData("/bin/busybox sh")]
    [InlineData("/bin/sh")]
    public void A_program_of_the_users_is_the_first_process(string shell)
    {
        File.WriteAllText(In("init"), $"#!{shell}\necho first $$ $0\n/bin/busybox poweroff -f\n");
        (int status, string output, _) = Run("run", "--quiet", "--init", In("init"));
        Assert.Equal(0, status);
        Assert.Contains("first 1 /sbin/init", output, StringComparison.Ordinal);
        foreach (string[] wrong in (string[][])[["--init", In("missing")], ["--init", In("init"), "--", "true"], ["hello", "--init", In("init")],
            ["--kernel-version", "1.2.3"], ["--kernel-version", "a b"], ["hello", "--kernel-version", "6.1"]])
        {
            (status, _, string errors) = Run(["run", "--quiet", .. wrong]);
            Assert.NotEqual(0, status);
            Assert.StartsWith("bunraku: ", errors, StringComparison.Ordinal);
            Assert.Equal(1, errors.AsSpan().TrimEnd('\n').Count('\n') + 1);
        }
    }

    [Fact]
    public void A_kernel_is_had_by_its_version()
    {
        (_, string version, _) = Run("run", "--quiet", "--", "uname", "-r");
        string beginning = string.Join('.', version.Split('.')[..2]);
        Assert.Equal((0, version, ""), Run("run", "--quiet", "--kernel-version", beginning, "--", "uname", "-r"));
        Assert.Equal((0, version, ""), Run("run", "--quiet", "--kernel-version", version.TrimEnd(), "--", "uname", "-r"));
    }

    [Fact]
    public void A_user_or_folder_that_is_not_there_is_told_by_the_guest()
    {
        (int status, _, string errors) = Run("run", "--quiet", "--user", "nobody-known", "--", "true");
        Assert.Equal(126, status);
        Assert.Contains("nobody-known", errors, StringComparison.Ordinal);
        (status, _, errors) = Run("run", "--quiet", "--cwd", "/no/folder", "--", "true");
        Assert.Equal(126, status);
        Assert.Contains("/no/folder", errors, StringComparison.Ordinal);
    }

    [Fact]
    public void Copies_have_their_contents_rights_and_links()
    {
        Directory.CreateDirectory(In("folder/below"));
        File.WriteAllText(In("folder/below/file"), "contents");
        File.CreateSymbolicLink(In("folder/link"), "below/file");
        byte[] bytes = new byte[100_000];
        new Random(3).NextBytes(bytes);
        File.WriteAllBytes(In("bytes"), bytes);
        File.WriteAllText(In("script"), "#!/bin/sh\ncat /root/folder/link; sha256sum </tmp/deep/bytes; stat -c %a /tmp /root/folder/below/file /bin/copied\n");
        File.SetUnixFileMode(In("script"), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        File.SetUnixFileMode(In("folder/below/file"), (UnixFileMode)0x1B6); // rw for all
        (int status, string output, string errors) = Run("run", "--quiet", "--copy", In("folder"), "--copy", $"{In("bytes")},at=/tmp/deep/", "--copy",
            $"{In("script")},at=/bin/copied", "--", "copied");
        Assert.Equal((0, ""), (status, errors));
        Assert.Equal($"contents{Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(bytes))}  -\n1777\n666\n500\n", output);
    }

    [Fact]
    public void What_is_too_large_to_be_copied_is_not_read()
    {
        using (FileStream large = File.Create(In("large"))) large.SetLength(1L << 40);
        (int status, _, string errors) = Run("run", "--quiet", "--copy", In("large"), "--", "true");
        Assert.NotEqual(0, status);
        Assert.Contains("more than half of the guest's memory", errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--env", "1a=b")]
    [InlineData("--env", "=b")]
    [InlineData("--user", "a b")]
    [InlineData("--user", "1:2:3")]
    [InlineData("--copy", "x,at=../y")]
    [InlineData("--copy", "x,to=/y")]
    [InlineData("--cwd", "")]
    [InlineData("--escape", "^C")]
    [InlineData("--rtc", "yesterday")]
    public void What_cannot_be_is_told(string option, string value)
    {
        (int status, _, string errors) = Run("run", option, value, "--", "true");
        Assert.Equal(2, status);
        Assert.Matches("^bunraku: [^\n]*\n$", errors);
    }

    /// <summary>In the background, under a name: its log, its status, somebody attached, a second one who is refused, and its end.</summary>
    [Fact]
    public void A_guest_in_the_background()
    {
        (int status, string output, string errors) = Run("run", "hello", "--detach", "--name", "far");
        Assert.Equal((0, "far\n", ""), (status, output, errors));
        try
        {
            Assert.Contains("far", Run("ps").Output, StringComparison.Ordinal);
            using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(In("bunraku/far.console")));
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(In("bunraku/far.log")));
            socket.Connect(new UnixDomainSocketEndPoint(In("bunraku/far.console")));
            var seen = new StringBuilder();
            byte[] buffer = new byte[4096];
            while (!seen.ToString().Contains("Type a line", StringComparison.Ordinal)) seen.Append(Encoding.UTF8.GetString(buffer, 0, socket.Receive(buffer)));
            (status, _, errors) = Run("attach", "far");
            Assert.Equal(1, status);
            Assert.Contains("somebody else is attached", errors, StringComparison.Ordinal);
            Assert.Contains("Type a line", Run("logs", "far").Output, StringComparison.Ordinal);
        }
        finally
        {
            Assert.Equal(0, Run("kill", "far").Status);
        }
        output = Run("logs", "--follow", "far").Output;
        Assert.EndsWith("bunraku: ended with status 0\n", output, StringComparison.Ordinal);
        Assert.Equal(1, Run("attach", "far").Status);
    }

    [Fact]
    public void A_command_in_the_background_leaves_output_and_status_in_its_log()
    {
        (int status, string output, string errors) = Run("run", "--detach", "--quiet", "--", "sh", "-c", "echo one; echo two >&2; exit 5");
        Assert.Equal((0, ""), (status, errors));
        string log = Run("logs", "--follow", output.Trim()).Output;
        Assert.Contains("one\n", log, StringComparison.Ordinal);
        Assert.Contains("two\n", log, StringComparison.Ordinal);
        Assert.EndsWith("bunraku: ended with status 5\n", log, StringComparison.Ordinal);
        (status, output, errors) = Run("run", "--detach", "--kernel", In("none"));
        Assert.Equal((1, ""), (status, output));
        Assert.Contains(In("none"), errors, StringComparison.Ordinal);
    }

    [Fact]
    public void A_restored_guest_in_the_background()
    {
        Assert.Equal(0, Run("run", "hello", "--detach", "--name", "far").Status);
        Assert.Equal(0, Run("monitor", "far", "--", "save " + In("far.snap")).Status);
        Assert.Equal(0, Run("kill", "far").Status);
        Assert.Equal((0, "near\n", ""), Run("restore", In("far.snap"), "--detach", "--quiet", "--name", "near"));
        try
        {
            Assert.Contains("near", Run("ps").Output, StringComparison.Ordinal);
        }
        finally
        {
            Assert.Equal(0, Run("kill", "near").Status);
        }
        Assert.EndsWith("bunraku: ended with status 0\n", Run("logs", "--follow", "near").Output, StringComparison.Ordinal);
        (int status, _, string errors) = Run("restore", In("far.snap"), "--vnc", "127.0.0.1:0");
        Assert.Equal((1, $"bunraku: snapshot {In("far.snap")}: its VM has no screen for --vnc\n"), (status, errors));
        (status, _, errors) = Run("restore", In("far.snap"), "--detach", "--serial", "none");
        Assert.Equal((2, "bunraku: --detach does not go with --serial and --stats: what the VM prints is in its log\n"), (status, errors));
    }

    [Fact]
    public void A_file_has_the_words_of_the_options_and_the_command_line_the_last_one()
    {
        File.WriteAllText(In("c"), "# words\n\nguest = hello\nmemory = 64M\n--cpus 2\nstats\ndisk = a,,b,serial=x\nappend = a=b c\n");
        RunOptions options = Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", "--memory", "96M", "--config", In("c"), "--no-reboot"])).Options;
        Assert.Equal(("hello", 96ul << 20, 2, true, true, "a=b c"), (options.Guest, options.Memory, options.Cpus, options.Stats, options.NoReboot,
            options.Append));
        Assert.Equal("a,b", Assert.Single(options.Disks).Image.Path);
        Assert.Equal("linux", Assert.IsType<Request.Run>(CommandLineParser.Parse(["run", "linux", "--config=" + In("c")])).Options.Guest);
        Assert.Contains("no-file", Assert.Throws<UsageException>(() => CommandLineParser.Parse(["run", "--config", In("no-file")])).Message,
            StringComparison.Ordinal);
        File.WriteAllText(In("c"), "memory = 64M\n!!\n");
        Assert.Contains("line 2", Assert.Throws<UsageException>(() => CommandLineParser.Parse(["run", "--config", In("c")])).Message, StringComparison.Ordinal);
    }

    /// <summary>groff reads the manual page without a complaint, and bash the completion, which completes.</summary>
    [Fact]
    public void The_manual_page_and_completion_are_what_their_readers_take()
    {
        string page = Assert.IsType<Request.Generated>(CommandLineParser.Parse(["man"])).Text;
        using (var groff = new TestProcess(new ProcessStartInfo("groff", ["-man", "-Tascii", "-ww", "-z"])
        {
            RedirectStandardInput = true,
            RedirectStandardError = true
        }))
        {
            groff.StandardInput.Write(page);
            groff.StandardInput.Close();
            Assert.Equal("", groff.StandardError.ReadToEnd());
        }
        Assert.Contains("\\-\\-detach", page, StringComparison.Ordinal);
        string script = Assert.IsType<Request.Generated>(CommandLineParser.Parse(["completion", "bash"])).Text;
        using var bash = new TestProcess(new ProcessStartInfo("bash", ["-c", $$"""
            bunraku() { dotnet {{Program}} "$@"; }
            {{script}}
            COMP_WORDS=(bunraku att) COMP_LINE='bunraku att' COMP_POINT=11
            _bunraku
            echo "${COMPREPLY[@]}"
            """]) { RedirectStandardOutput = true });
        Assert.Equal("attach\n", bash.StandardOutput.ReadToEnd());
        Assert.Throws<UsageException>(() => CommandLineParser.Parse(["completion", "csh"]));
    }

    [Fact]
    public void Engines_for_programs()
    {
        (int status, string output, _) = Run("engines", "--json");
        Assert.Equal(0, status);
        JsonElement[] engines = [.. JsonDocument.Parse(output).RootElement.GetProperty("engines").EnumerateArray()];
        Assert.Equal(KnownEngines.All.Select(e => e.Name), engines.Select(e => e.GetProperty("name").GetString()));
        Assert.Equal(Vm.ChosenEngine(KnownEngines.All)!.Name,
            Assert.Single(engines, e => e.GetProperty("chosen").GetBoolean()).GetProperty("name").GetString());
    }
}
