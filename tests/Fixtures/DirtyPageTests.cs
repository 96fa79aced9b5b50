using Bunraku.Engines;
using Bunraku.Testing;
using Iced.Intel;
using static Bunraku.Fixtures.ParavirtualGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>The log of written pages: what it does not name has not changed since the last look, whatever engine runs the guest.</summary>
public sealed class DirtyPageTests
{
    private const uint First = 0x8_0000, Pages = 16;

    /// <summary>A guest that writes pages as long as it lives, in an order that does not repeat soon, is copied while it runs, and the copy is right.</summary>
    [Theory, Engines]
    public void A_copy_that_follows_the_log_is_whole(string engine)
    {
        using var g = new ParavirtualGuest(engine, (_, a) =>
        {
            Label next = a.CreateLabel();
            a.mov(ebx, 1);
            a.mov(eax, 1);
            Report(a);
            a.Label(ref next);
            a.imul(ebx, ebx, 1_103_515_245);
            a.add(ebx, 12_345);
            a.mov(edi, ebx);
            a.shr(edi, 8);
            a.and(edi, (int)(Pages * 4096 - 1) & ~3);
            a.mov(__dword_ptr[rdi + First], ebx);
            a.jmp(next);
        });
        IDirtyPageLog log = g.Machine.DirtyPages!;
        g.Machine.Start();
        g.WaitForReports(1);
        g.Machine.Pause();
        log.Enable(true);
        g.Machine.Resume();
        byte[] copy = new byte[g.Machine.Memory.Size];
        Assert.True(g.Machine.Memory.Read(0, copy));
        int follows = 0;
        Assert.True(new Patience(TimeSpan.FromSeconds(20), g.Machine).Await(() =>
        {
            Assert.False(g.Machine.Stopped.IsCompleted, g.Machine.Stopped.IsCompleted ? g.Machine.Stopped.Result.ToString() : "");
            follows += Follow() > 0 ? 1 : 0;
            return follows >= 20;
        }), $"only {follows} looks found something");
        Assert.True(g.Machine.Memory.Write(First + Pages * 4096, [1])); // a device
        g.Machine.Pause();
        Assert.NotEqual(0, Follow());
        Assert.Equal(0, Follow());
        byte[] now = new byte[copy.Length];
        Assert.True(g.Machine.Memory.Read(0, now));
        Assert.Equal(copy.Length, copy.AsSpan().CommonPrefixLength(now));

        // Off: nothing is noted, and nothing is in the guest's way.
        log.Enable(false);
        g.Machine.Resume();
        Assert.False(g.Machine.Stopped.IsCompleted);

        int Follow()
        {
            int followed = 0;
            for (int n = 0; n < g.Machine.Memory.Regions.Count; n++)
            {
                ulong[] pages = log.Take(n);
                MemoryRegion region = g.Machine.Memory.Regions[n];
                for (ulong page = 0; page < region.Length / 4096; page++)
                {
                    if ((pages[page / 64] >> (int)(page % 64) & 1) == 0) continue;
                    followed++;
                    Assert.True(g.Machine.Memory.Read(region.Start + page * 4096, copy.AsSpan((int)(region.Start + page * 4096), 4096)));
                }
            }
            return followed;
        }
    }
}
