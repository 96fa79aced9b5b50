using System.Diagnostics;
using System.Text;
using Bunraku.Machine.Virtio.Files;
using Bunraku.Platform;
using Bunraku.Sessions.Migration;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>Linux's own FUSE client in shared folders of the host, where what it did is looked at from outside.</summary>
public sealed class LinuxShareTests : IClassFixture<LinuxGuestFiles>, IDisposable
{
    private readonly string _whole = Directory.CreateTempSubdirectory("bunraku-share").FullName, _folder, _outside;

    public LinuxShareTests()
    {
        _folder = Directory.CreateDirectory(Path.Combine(_whole, "shared folder's")).FullName;
        _outside = Directory.CreateDirectory(Path.Combine(_whole, "outside")).FullName;
        File.WriteAllText(Path.Combine(_outside, "secret"), "of the host");
    }

    public void Dispose() => Directory.Delete(_whole, recursive: true);

    private string In(string name) => Path.Combine(_folder, name);

    private VmBuilder Builder(Stream output, string script, params VmShare[] shares) => new(KnownEngines.All)
    {
        Engine = "bt",
        Memory = 256 << 20,
        Shares = shares.Length > 0 ? shares : [new VmShare(_folder)],
        Command = ["sh", "-ec", script],
        Output = output,
        Timeout = TimeSpan.FromMinutes(9),
    };

    private async Task<string> Run(string script, int cpus = 1, params VmShare[] shares)
    {
        var output = new MemoryStream();
        await using Vm vm = (Builder(output, script, shares) with { Cpus = cpus }).Build();
        VmResult result = await vm.RunAsync();
        string text = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {text}{vm.HiddenMessages}");
        AssertOutsideUntouched();
        return text;
    }

    private void AssertOutsideUntouched()
    {
        Assert.Equal(["secret"], Directory.GetFileSystemEntries(_outside).Select(Path.GetFileName));
        Assert.Equal("of the host", File.ReadAllText(Path.Combine(_outside, "secret")));
        Assert.Equal(2, Directory.GetFileSystemEntries(_whole).Length);
    }

    private void Compile()
    {
        string source = Path.Combine(AppContext.BaseDirectory, "share-work.c");
        using var gcc = new TestProcess(new ProcessStartInfo("gcc", ["-static", "-O1", "-Wall", "-o", In("work"), source]) { RedirectStandardError = true });
        string errors = gcc.StandardError.ReadToEnd();
        gcc.WaitForExit();
        Assert.True(gcc.ExitCode == 0, errors);
    }

    /// <summary>The command starts in the folder, at the path that it has outside; what it does there is there.</summary>
    /// <summary>By pieces of 1 MiB, where Linux by itself has 128 KiB.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Large_files_are_read_ahead(bool kept)
    {
        var output = new MemoryStream();
        const string script = "cat /sys/class/bdi/$(grep -m 1 virtiofs /proc/self/mountinfo | cut -d' ' -f3)/read_ahead_kb";
        await using Vm vm = (Builder(output, script) with { KeepBooted = kept }).Build();
        Assert.Equal(0, (await vm.RunAsync()).ExitStatus);
        Assert.Equal("1024\n", Encoding.UTF8.GetString(output.ToArray()));
    }

    [Fact]
    public async Task What_Linux_does_is_done_on_the_host()
    {
        Compile();
        byte[] random = new byte[5_000_000];
        new Random(1).NextBytes(random);
        File.WriteAllBytes(In("random"), random);
        string text = await Run("""
            pwd
            ./work
            sha256sum <random
            mkdir -p a/b/c; cp random a/b/c/copy; mv a/b moved; ln -s ../random moved/link; ln moved/c/copy hard
            sha256sum <moved/link; sha256sum <hard
            dd if=/dev/zero of=random bs=1000 count=3 seek=100 conv=notrunc 2>/dev/null
            echo appended >>random; truncate -s 4000000 hard
            echo text >text; chmod 640 text; chown 12:34 text; stat -c '%a %u %g' text; touch -d '2001-02-03 04:05:06' text
            cp /bin/busybox .; ./busybox echo from a program of the folder
            mkdir many; n=0; while [ $n -lt 10000 ]; do : >many/$n; n=$((n + 1)); done
            ls many | wc -l; find many -type f | wc -l
            rm -r moved; sync
            """, cpus: 2);
        string hash = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(random));
        Assert.Equal([_folder, "whole", $"{hash}  -", $"{hash}  -", $"{hash}  -", "640 12 34", "from a program of the folder", "10000", "10000"],
            text.TrimEnd('\n').Split('\n'));
        byte[] changed = [.. random];
        changed.AsSpan(100_000, 3000).Clear();
        Assert.Equal([.. changed, .. "appended\n"u8], File.ReadAllBytes(In("random")));
        Assert.Equal(random[..4_000_000], File.ReadAllBytes(In("hard")));
        Assert.Equal(10_000, Directory.GetFiles(In("many")).Select(Path.GetFileName).Distinct().Count());
        Assert.False(Path.Exists(In("moved")));
        Assert.Equal(new DateTime(2001, 2, 3, 4, 5, 6, DateTimeKind.Utc), File.GetLastWriteTimeUtc(In("text")));
        Assert.Equal("text\n", File.ReadAllText(In("text")));
        byte[] mapped = File.ReadAllBytes(In("mapped"));
        Assert.Equal(Enumerable.Range(0, 3 * 4096 + 10).Select(n => (byte)(n * 7)), mapped);
        Assert.Equal((1L << 30) + 3, new FileInfo(In("sparse")).Length);
        using (FileStream sparse = File.OpenRead(In("sparse"))) Assert.InRange(HostFile.AllocatedBytes(sparse.SafeFileHandle), 1ul, 1ul << 20);
        // Nothing on the host has become another user's, or a device.
        Assert.All(Directory.GetFileSystemEntries(_folder), p => Assert.True(!HostFile.IsSpecial(p) || Directory.Exists(p), p));
        Assert.Equal(0, (int)File.GetUnixFileMode(In("copied")) & 0xE00);
    }

    /// <summary>The same by Linux's 9p client: what it does is on the host, and what the host has there is seen.</summary>
    [Theory]
    [InlineData(FileCache.Auto)]
    [InlineData(FileCache.Always)]
    public async Task What_Linux_does_by_9p_is_done_on_the_host(FileCache cache)
    {
        byte[] random = new byte[5_000_000];
        new Random(1).NextBytes(random);
        File.WriteAllBytes(In("random"), random);
        File.CreateSymbolicLink(In("out"), "../outside");
        var output = new MemoryStream();
        await using Vm vm = (Builder(output, """
            grep -c ' 9p ' /proc/mounts; pwd
            sha256sum <random
            mkdir -p a/b/c; cp random a/b/c/copy; mv a/b moved; ln -s ../random moved/link; ln moved/c/copy hard
            sha256sum <moved/link; sha256sum <hard
            dd if=/dev/zero of=random bs=1000 count=3 seek=100 conv=notrunc 2>/dev/null
            echo appended >>random; truncate -s 4000000 hard
            echo text >text; chown 12:34 text; chmod 4640 text; stat -c '%a %u %g' text; touch -d '2001-02-03 04:05:06' text
            mkfifo pipe; (echo through >pipe &); cat pipe; mknod null c 1 3; stat -c '%t %T' null; stat -f -c %l . >/dev/null
            cp /bin/busybox .; ./busybox echo from a program of the folder
            mkdir many; n=0; while [ $n -lt 2000 ]; do : >many/$n; n=$((n + 1)); done
            ls many | wc -l; find many -type f | wc -l
            exec 3<text; rm text; cat <&3; cat out/secret 2>/dev/null || echo not out; exec 3<&-
            rm -r moved; sync; echo 3 >/proc/sys/vm/drop_caches; ls many | wc -l
            cd /; umount "$OLDPWD"; echo unmounted
            """, new VmShare(_folder) { Kind = ShareKind.NineP, Cache = cache }) with { Guest = "linux-generic", Cpus = 2 }).Build();
        VmResult result = await vm.RunAsync();
        string text = Encoding.UTF8.GetString(output.ToArray());
        Assert.True(result.ExitStatus == 0, $"status {result.ExitStatus}: {text}{vm.HiddenMessages}");
        AssertOutsideUntouched();
        string hash = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(random));
        Assert.Equal(["1", _folder, $"{hash}  -", $"{hash}  -", $"{hash}  -", "4640 12 34", "through", "1 3", "from a program of the folder", "2000", "2000",
            "text", "not out", "2000", "unmounted"], text.TrimEnd('\n').Split('\n'));
        byte[] changed = [.. random];
        changed.AsSpan(100_000, 3000).Clear();
        Assert.Equal([.. changed, .. "appended\n"u8], File.ReadAllBytes(In("random")));
        Assert.Equal(random[..4_000_000], File.ReadAllBytes(In("hard")));
        Assert.Equal(2000, Directory.GetFiles(In("many")).Length);
        // Nothing on the host has become another user's, or a device.
        Assert.All(Directory.GetFileSystemEntries(_folder), p => Assert.True(!HostFile.IsSpecial(p) || Directory.Exists(p), p));
    }

    /// <summary>What the host changes meanwhile is seen; links that the host puts in the place of folders lead nowhere outside.</summary>
    [Fact]
    public async Task The_host_works_in_the_folder_at_the_same_time()
    {
        Directory.CreateDirectory(In("a"));
        File.WriteAllText(In("a/secret"), "inside");
        var output = new MemoryStream();
        await using Vm vm = (Builder(output, """
            echo ready >ready
            n=0; inside=0
            # The host ends with the folder in its place: at the latest then it is inside.
            while [ $n -lt 400 ] || [ $inside = 0 ]; do
                text=$(cat a/secret 2>/dev/null) || text=
                case $text in inside) inside=$((inside + 1)) ;; "") ;; *) echo "read $text" ;; esac
                echo made >a/made 2>/dev/null || true; rm -f a/made 2>/dev/null || true
                n=$((n + 1))
            done
            while [ ! -e answer ]; do sleep 0.1; done; cat answer; cat ../outside/secret || echo nothing there
            """) with { Errors = Stream.Null }).Build();
        Task<VmResult> run = vm.RunAsync();
        while (!File.Exists(In("ready")) && !run.IsCompleted) await Task.Delay(20);
        for (int n = 0; n < 2000 && !run.IsCompleted; n++)
        {
            Directory.Move(In("a"), In("b"));
            File.CreateSymbolicLink(In("a"), "../outside");
            await Task.Delay(1);
            File.Delete(In("a"));
            Directory.Move(In("b"), In("a"));
            await Task.Delay(1);
        }
        File.WriteAllText(In("answer"), "of the host, later\n");
        VmResult result = await run;
        Assert.Equal(0, result.ExitStatus);
        Assert.Equal("of the host, later\nnothing there\n", Encoding.UTF8.GetString(output.ToArray()));
        AssertOutsideUntouched();
    }

    [Fact]
    public async Task A_read_only_folder_and_others_are_where_they_were_asked_for()
    {
        File.WriteAllText(In("file"), "text");
        string other = Directory.CreateDirectory(In("other")).FullName;
        string text = await Run("""
            pwd; cat file
            for what in 'echo x >file' 'echo x >new' 'rm file' 'mkdir d' 'mv file g' 'ln file g' 'ln -s a b' 'chmod 777 file' 'touch file' \
                'truncate -s 0 file'; do
                if sh -c "$what" 2>/tmp/error; then echo "$what went well"; fi
                grep -q 'Read-only file system' /tmp/error || cat /tmp/error
            done
            echo made >/mnt/other/made
            mkdir /tmp/again; mount -t virtiofs mine /tmp/again -o rw; echo x >/tmp/again/file || echo refused
            """, shares: [new VmShare(_folder) { ReadOnly = true, At = "/data/ro", Tag = "mine" }, new VmShare(other) { At = "/mnt/other/" }]);
        Assert.Equal(["/data/ro", "text"], text.Split('\n')[..1].Append(text.Split('\n')[1][..4]));
        Assert.EndsWith("refused\n", text, StringComparison.Ordinal);
        Assert.DoesNotContain("went well", text, StringComparison.Ordinal);
        Assert.Equal("text", File.ReadAllText(In("file")));
        Assert.Equal(["file", "other"], Directory.GetFileSystemEntries(_folder).Select(Path.GetFileName).Order());
        Assert.Equal("made\n", File.ReadAllText(In("other/made")));
    }

    /// <summary>A guest that was kept before it had its command mounts the folder of this run; what waits in its pages is on the host at the end.</summary>
    [Fact]
    public async Task A_kept_guest_has_the_folder_of_its_run()
    {
        string kept = Path.Combine(_folder, "kept");
        for (int n = 0; n < 3; n++)
        {
            string folder = Directory.CreateDirectory(In($"folder {n}")).FullName;
            var output = new MemoryStream();
            await using Vm vm = (Builder(output, "pwd; echo $0 >new; dd if=/dev/zero of=zeros bs=100k count=30 2>/dev/null",
                new VmShare(folder) { Cache = n == 2 ? FileCache.Always : FileCache.Auto }) with
            { KeepBooted = true, KeptFolder = kept }).Build();
            VmResult result = await vm.RunAsync();
            Assert.Equal((0, folder + "\n"), (result.ExitStatus, Encoding.UTF8.GetString(output.ToArray())));
            if (n > 0) Assert.InRange(result.Statistics!.Instructions, 1ul, 200_000_000ul); // a boot takes a billion
            Assert.Equal("sh\n", File.ReadAllText(Path.Combine(folder, "new")));
            Assert.Equal(new byte[3_072_000], File.ReadAllBytes(Path.Combine(folder, "zeros")));
        }
        Assert.Single(Directory.GetFiles(kept));
    }

    /// <summary>Where a folder cannot be mounted nothing runs that would take another one for it.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_command_does_not_run_without_its_folder(bool keeps)
    {
        var errors = new MemoryStream();
        await using Vm vm = (Builder(Stream.Null, "rm -rf *", new VmShare(_folder) { At = "/etc/passwd" }) with
        {
            KeepBooted = keeps,
            KeptFolder = Path.Combine(_folder, "kept"),
            Errors = errors,
        }).Build();
        VmResult result = await vm.RunAsync();
        Assert.Equal(126, result.ExitStatus);
        Assert.Equal("bunraku: the guest cannot mount the shared folder at /etc/passwd\n", Encoding.UTF8.GetString(errors.ToArray()));
    }

    /// <summary>A VM with a mounted folder stays where it is, and says why.</summary>
    [Fact]
    public async Task A_mounted_folder_is_neither_saved_nor_moved()
    {
        await using Vm vm = Builder(Stream.Null, "echo >ready; sleep 1000").Build();
        Task<VmResult> run = vm.RunAsync();
        while (!File.Exists(In("ready")) && !run.IsCompleted) await Task.Delay(20);
        string file = Path.Combine(_folder, "vm.snap");
        CannotWriteException refused = await Assert.ThrowsAsync<CannotWriteException>(() => vm.SaveAsync(file));
        Assert.Contains("mounted", refused.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', refused.Message);
        Assert.False(File.Exists(file));
        MigrationException stays = await Assert.ThrowsAsync<MigrationException>(() => vm.MigrateAsync(new MemoryStream()));
        Assert.Contains("shared folders", stays.Message, StringComparison.Ordinal);
        vm.End(HostEnd.Quit);
        await run;
    }
}
