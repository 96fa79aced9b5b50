using Bunraku.Platform;

namespace Bunraku.Machine.Tests;

public sealed unsafe class ResidentMapsTests
{
    /// <summary>In the form of proc(5), smaps: a program, RAM at two addresses, code at two, another part of the same memory.</summary>
    private const string Smaps = """
        56130c449000-56130d2aa000 r-xp 0001d000 fe:00 393 /usr/bin/bunraku
        Size:              14724 kB
        Rss:                 100 kB
        Pss:                  50 kB
        7fb85be00000-7fb8fbe00000 rw-s 00000000 00:01 2059 /memfd:guest-ram (deleted)
        Rss:             1310720 kB
        VmFlags: rd wr sh mr mw me ms sd
        7fb75be00000-7fb75bf00000 rw-s 00200000 00:01 2059 /memfd:guest-ram (deleted)
        Rss:                   8 kB
        7fb842c00000-7fb85bc00000 rw-s 00000000 00:01 1032 /dev/zero (deleted)
        Rss:                 400 kB
        7fb829a00000-7fb842a00000 r-xs 00000000 00:01 1032 /dev/zero (deleted)
        Rss:                 300 kB
        7fb829900000-7fb829a00000 r-xs 19000000 00:01 1032 /dev/zero (deleted)
        Rss:                  20 kB
        7fb7c56b7000-7fb7c9db7000 rw-p 00000000 00:00 0 
        Rss:                1000 kB
        7fb7d56b7000-7fb7d9db7000 rw-p 00000000 00:00 0 
        Rss:                1000 kB
        """;

    [Fact]
    public void What_is_seen_twice_counts_once()
    {
        ulong kib = ResidentMaps.Sum(Smaps.Split('\n'), (start, _) => start == 0x7fb85be00000) >> 10;
        Assert.Equal(100ul + 400 + 20 + 1000 + 1000, kib);
    }

    [Fact]
    public void Code_of_this_process_counts_once()
    {
        const ulong bytes = (7ul << 20) + (13 << 12); // nothing else here has just this size
        using var code = new ExecutableMemory(bytes);
        code.Append(new byte[bytes]);
        byte sum = 0;
        for (ulong n = 0; n < bytes; n += 4096) sum |= code.Code[n]; // the other view has its pages as well
        Assert.Equal(0, sum);
        int views = 0;
        ulong taken = ResidentMaps.Sum(File.ReadLines("/proc/self/smaps"), (_, size) =>
        {
            views += size == bytes ? 1 : 0;
            return size != bytes;
        });
        Assert.Equal((2, bytes), (views, taken));
    }
}
