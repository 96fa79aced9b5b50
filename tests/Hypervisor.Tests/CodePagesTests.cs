using Bunraku.Engines;

namespace Bunraku.Hypervisor.Tests;

/// <summary>Who has read code from a page hears of the next write to it, in a memory of any size.</summary>
public sealed class CodePagesTests
{
    private const ulong Memory = 8ul << 30, Last = Memory - GuestMemory.PageSize;

    private sealed class Observer : ICodeObserver
    {
        public List<ulong> Written { get; } = [];

        public void CodeWritten(ulong page) => Written.Add(page);

        public void RevokeWrites(ulong page, Revocation revocation)
        {
            // It writes to nothing.
        }
    }

    [Fact]
    public void Who_watches_pages_hears_of_a_write_once()
    {
        using var memory = new GuestMemory(Memory, shared: false);
        CodePages code = memory.Code;
        Observer reader = new(), other = new();
        int number = code.Add(reader), another = code.Add(other);
        ulong[] pages = [0, 0x1FF000, 0x200000, 0x7654_3000, Last];
        foreach (ulong page in pages)
        {
            Assert.False(code.HoldsCode(page));
            Assert.Null(code.Watch(page, number));
            Assert.True(code.HoldsCode(page));
        }
        Assert.False(code.HoldsCode(0x1000));
        code.Written(0x1000);
        code.WrittenBy(Last, number);
        Assert.Empty(reader.Written);
        code.WrittenBy(Last, another);
        code.Written(0x1FF000);
        code.AllWritten();
        code.AllWritten();
        Assert.Equal([Last, 0x1FF000, 0, 0x200000, 0x7654_3000], reader.Written);
        Assert.Empty(other.Written);
        Assert.DoesNotContain(pages, code.HoldsCode);
    }

    [Fact]
    public void Who_is_gone_watches_nothing()
    {
        using var memory = new GuestMemory(Memory, shared: false);
        CodePages code = memory.Code;
        Observer reader = new(), other = new();
        int number = code.Add(reader), another = code.Add(other);
        code.Watch(0x5000, number);
        code.Watch(Last, number);
        code.Watch(Last, another);
        code.Remove(number);
        Assert.Equal((false, true), (code.HoldsCode(0x5000), code.HoldsCode(Last)));
        code.AllWritten();
        Assert.Empty(reader.Written);
        Assert.Equal([Last], other.Written);
    }
}
