using System.Diagnostics;
using Bunraku.Storage;
using Bunraku.Testing;

namespace Bunraku.Cli.Tests;

/// <summary>A host that has no room for what the guest writes.</summary>
public sealed class FullDiskTests : IClassFixture<LinuxGuestFiles>
{
    /// <summary>A disk in memory, on a host that has no room for a while.</summary>
    private sealed class FullDisk(int length) : IBlockBackend
    {
        private const int NoSpace = 28; // errno-base.h: ENOSPC

        public byte[] Bytes { get; } = new byte[length];
        public volatile bool IsFull;

        public ulong Length => (ulong)Bytes.Length;
        public bool IsReadOnly => false;
        public uint Granularity => 512;
        public void Read(ulong position, Span<byte> destination) => Bytes.AsSpan((int)position, destination.Length).CopyTo(destination);

        public void Write(ulong position, ReadOnlySpan<byte> source)
        {
            if (IsFull) throw new IOException("No space left on device", NoSpace);
            source.CopyTo(Bytes.AsSpan((int)position));
        }

        public void WriteZeroes(ulong position, ulong count, bool unmap) => Write(position, new byte[count]);
        public void Flush() { }
        public void Discard(ulong position, ulong count) { }
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

    /// <summary>
    /// A file system that is full for a while, in a mount namespace of its own: the machine stands still, tells why, and goes on with the same write.
    /// </summary>
    [Fact]
    public async Task The_machine_stops_and_goes_on_with_the_same_write()
    {
        string folder = Directory.CreateTempSubdirectory("bunraku-full").FullName, program = Path.Combine(AppContext.BaseDirectory, "bunraku.dll");
        Directory.CreateDirectory(Path.Combine(folder, "m"));
        const string script = "echo begun; yes | dd of=/dev/vda bs=64k count=64 iflag=fullblock conv=fsync 2>/dev/null; echo 3 >/proc/sys/vm/drop_caches; "
            + "yes | head -c 4194304 | sha256sum; head -c 4194304 /dev/vda | sha256sum";
        try
        {
            using var process = new TestProcess(new ProcessStartInfo("unshare", [.. OwnMounts(), "sh", "-ec", $"""
                cd '{folder}'; mount -t tmpfs -o size=6M none m; head -c 4M /dev/zero >m/ballast; truncate -s 8M m/disk
                (while [ ! -e room ]; do sleep 0.1; done; rm m/ballast; echo >made) &
                dotnet '{program}' run --name full --cpus 2 --timeout 9m --disk m/disk,full=pause -- sh -ec '{script}' 2>errors && status=0 || status=$?
                umount -l m; exit $status
                """])
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                Environment = { ["XDG_RUNTIME_DIR"] = folder },
            });
            process.StandardInput.Close();
            Task<string> output = process.StandardOutput.ReadToEndAsync();
            const string stopped = "stopped: the host has no room";
            Assert.True(SpinWait.SpinUntil(() => process.HasExited || Errors().Contains("the host has no room", StringComparison.Ordinal), s_long), Errors());
            Await(stopped);
            BunrakuProgram.Run(folder, 0, ["monitor", "full", "--", "cont"]); // there is no more room than before
            Await(stopped);
            File.WriteAllText(Path.Combine(folder, "room"), "");
            Assert.True(SpinWait.SpinUntil(() => File.Exists(Path.Combine(folder, "made")), s_long));
            BunrakuProgram.Run(folder, 0, ["monitor", "full", "--", "cont"]);
            process.WaitForExit();
            Assert.True(process.ExitCode == 0, Errors());
            string[] lines = (await output).Trim().Split('\n');
            Assert.Equal((3, lines[1]), (lines.Length, lines[2]));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }

        string Errors() => File.Exists(Path.Combine(folder, "errors")) ? File.ReadAllText(Path.Combine(folder, "errors")) : "";

        void Await(string state) => Assert.True(SpinWait.SpinUntil(() =>
            BunrakuProgram.Run(folder, 0, ["monitor", "full", "--", "info", "status"]).Contains(state, StringComparison.Ordinal), s_long));
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
