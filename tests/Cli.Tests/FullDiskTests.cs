using System.Diagnostics;
using Bunraku.Storage;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>A host that has no room for what the guest writes.</summary>
public sealed class FullDiskTests : IClassFixture<LinuxGuestFiles>
{
    private const int NoSpace = 28; // errno-base.h: ENOSPC

    /// <summary>A disk in memory, on a host that has no room for a while.</summary>
    private sealed class FullDisk(int length) : IBlockBackend
    {
        public byte[] Bytes { get; } = new byte[length];
        public volatile bool IsFull;
        public Lock Gate { get; } = new();
        public LostWritesException? Lost { get; set; }

        public ulong Length => (ulong)Bytes.Length;
        public bool IsReadOnly => false;
        public uint Granularity => 512;
        public void Read(ulong position, Span<byte> destination) => Bytes.AsSpan((int)position, destination.Length).CopyTo(destination);

        public void Write(ulong position, ReadOnlySpan<byte> source)
        {
            lock (Gate)
            {
                Flush();
                source.CopyTo(Bytes.AsSpan((int)position));
            }
        }

        public void WriteZeroes(ulong position, ulong count, bool unmap) => Write(position, new byte[count]);

        public void Flush()
        {
            lock (Gate)
            {
                if (Lost is { } lost) throw lost;
                if (IsFull) throw new IOException("No space left on device", NoSpace);
            }
        }

        public void Discard(ulong position, ulong count) => Flush();
        public ulong KnownZeros(ulong position) => 0;
        public void Dispose() { }
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_write_goes_on_when_somebody_has_made_room(bool hasRoom)
    {
        var full = new FullDisk(4096) { IsFull = true };
        int asked = 0;
        using var disk = new GuestDisk("d", () => full)
        {
            AwaitRoom = path =>
            {
                Assert.Equal("d", path);
                Assert.False(full.Gate.IsHeldByCurrentThread); // others go on meanwhile
                full.IsFull = !hasRoom;
                return ++asked < 3 && hasRoom;
            },
        };
        if (hasRoom)
        {
            disk.Write(512, "written"u8);
            Assert.Equal("written"u8, full.Bytes.AsSpan(512, 7));
        }
        else
        {
            Assert.Throws<IOException>(() => disk.Write(512, "written"u8));
        }
        Assert.Equal(1, asked);
        using var reports = new GuestDisk("d", () => full);
        full.IsFull = true;
        Assert.Throws<IOException>(() => reports.WriteZeroes(0, 512, unmap: false));
    }

    /// <summary>What an image has not written yet of its tables is written at a flush; what the host has lost stays lost.</summary>
    [Fact]
    public void A_flush_goes_on_when_somebody_has_made_room_and_one_that_failed_stays_failed()
    {
        var full = new FullDisk(4096) { IsFull = true };
        int asked = 0;
        var errors = new List<DiskError>();
        using var disk = new GuestDisk("d", () => full)
        {
            Number = 3,
            Failed = errors.Add,
            AwaitRoom = _ =>
            {
                full.IsFull = ++asked < 2;
                return true;
            },
        };
        disk.Flush();
        Assert.Equal((2, false), (asked, disk.LacksRoom));
        Assert.All(errors, e => Assert.Equal(new DiskError(3, IsRead: false, LacksRoom: true, Stops: true, "No space left on device"), e));
        Assert.Equal(2, errors.Count);
        (full.IsFull, asked) = (true, 0);
        disk.Discard(0, 512);
        Assert.Equal(2, asked);
        full.IsFull = true;
        Assert.Throws<IOException>(disk.FlushNow); // the machine's end waits for nobody
        Assert.Equal(2, asked);
        full.Lost = new LostWritesException("lost", new IOException("No space left on device", NoSpace));
        for (int n = 0; n < 2; n++) Assert.Throws<LostWritesException>(disk.Flush);
        Assert.Throws<LostWritesException>(() => disk.Write(0, "x"u8));
        Assert.Equal((2, 3, false), (asked, errors.Count(e => !e.Stops && e.LacksRoom), disk.LacksRoom));
    }

    /// <summary>
    /// A file system that is full for a while, in a mount namespace of its own: the machine stands still, tells why, and goes on with the same write.
    /// </summary>
    [Fact]
    public async Task The_machine_stops_and_goes_on_with_the_same_write()
    {
        string[] lines = await RunStopped("head -c 4M /dev/zero >m/ballast; truncate -s 8M m/disk", "",
            "echo begun; yes | dd of=/dev/vda bs=64k count=64 iflag=fullblock conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
            + "yes | head -c 4194304 | sha256sum; head -c 4194304 /dev/vda | sha256sum");
        Assert.Equal((3, lines[1]), (lines.Length, lines[2]));
    }

    /// <summary>The same where data was written, and there is no room for the tables that lead to it, which a flush writes.</summary>
    [Fact]
    public async Task The_machine_stops_and_goes_on_with_the_same_flush()
    {
        // All of the room goes while the guest waits for a line, of which it has told by the first one.
        string[] lines = await RunStopped($"dotnet '{s_program}' image create m/disk 8M --format qcow2", "cat /dev/zero >m/ballast 2>/dev/null || echo >full",
            "yes | dd of=/dev/vda bs=64k count=2 iflag=fullblock 2>/dev/null; echo begun; read -r line; "
            + "dd if=/dev/null of=/dev/vda conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
            + "yes | head -c 131072 | sha256sum; head -c 131072 /dev/vda | sha256sum");
        Assert.Equal((3, lines[1]), (lines.Length, lines[2]));
    }

    private static readonly string s_program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");

    /// <summary>Runs a guest that is stopped twice, and has room the second time it is let go on.</summary>
    /// <param name="setUp">Makes m/disk, where 6 MiB are.</param>
    /// <param name="fill">Takes the room when the guest has printed its first line, and makes the file 'full'; empty: there is too little before.</param>
    /// <param name="script">Of the guest, which gets a line then.</param>
    /// <returns>What the guest printed.</returns>
    private static async Task<string[]> RunStopped(string setUp, string fill, string script)
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-full").FullName;
        Directory.CreateDirectory(Path.Combine(folder, "m"));
        try
        {
            using var process = new TestProcess(new ProcessStartInfo("unshare", [.. OwnMounts(), "sh", "-ec", $"""
                cd '{folder}'; mount -t tmpfs -o size=6M none m; {setUp}
                (while [ ! -e fill ]; do sleep 0.1; done; {(fill.Length > 0 ? fill : ":")}; while [ ! -e room ]; do sleep 0.1; done; rm m/ballast; echo >made) &
                exec 3<&0
                dotnet '{s_program}' run --name full --cpus 2 --timeout 9m --disk m/disk,full=pause -- sh -ec '{script}' <&3 2>errors && status=0 || status=$?
                umount -l m; exit $status
                """])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                Environment = { ["XDG_RUNTIME_DIR"] = folder },
            });
            string begun = await process.StandardOutput.ReadLineAsync() ?? "";
            Assert.True(begun == "begun", begun + Errors());
            Make("fill");
            if (fill.Length > 0) Await(() => Exists("full"));
            process.StandardInput.WriteLine();
            process.StandardInput.Close();
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            const string stopped = "stopped: the host has no room";
            Await(() => process.HasExited || Errors().Contains("the host has no room", StringComparison.Ordinal));
            Await(() => Status().Contains(stopped, StringComparison.Ordinal));
            BunrakuProgram.Run(folder, 0, ["monitor", "full", "--", "cont"]); // there is no more room than before
            Await(() => Status().Contains(stopped, StringComparison.Ordinal));
            Make("room");
            Await(() => Exists("made"));
            BunrakuProgram.Run(folder, 0, ["monitor", "full", "--", "cont"]);
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, $"{process.ExitCode}: {await output}{Errors()}");
            return [begun, .. (await output).Trim().Split('\n')];
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }

        string Errors() => Exists("errors") ? File.ReadAllText(Path.Combine(folder, "errors")) : "";

        bool Exists(string name) => File.Exists(Path.Combine(folder, name));

        void Make(string name) => File.WriteAllText(Path.Combine(folder, name), "");

        void Await(Func<bool> condition) => Assert.True(SpinWait.SpinUntil(condition, s_long), Errors());

        string Status() => BunrakuProgram.Run(folder, 0, ["monitor", "full", "--", "info", "status"]);
    }

    /// <summary>
    /// unshare's words for mounts of one's own: an ordinary user needs a user namespace, and in a changed root there is none, nor a root that is a mount.
    /// </summary>
    private static string[] OwnMounts() =>
        ((string[][])[["-rm"], ["-m"], ["-m", "--propagation", "unchanged"]]).First(words => Run([.. words, "true"]) == 0);

    private static int Run(string[] words)
    {
        using Process p = Process.Start(new ProcessStartInfo("unshare", words) { RedirectStandardError = true })!;
        _ = p.StandardError.ReadToEnd();
        p.WaitForExit();
        return p.ExitCode;
    }

    private static readonly TimeSpan s_long = TimeSpan.FromMinutes(3);
}
