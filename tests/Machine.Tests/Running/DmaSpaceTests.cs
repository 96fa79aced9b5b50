using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Tests.Running;

/// <summary>A bus master's view of memory: RAM alone, the enable bit, who is told of what it writes.</summary>
public sealed class DmaSpaceTests : IDisposable
{
    private const ulong Hole = MemoryLayout.LowMemoryEnd, High = 0x1_0000_0000, Page = GuestMemory.PageSize;

    private readonly GuestMemory _memory = new(MemoryLayout.Regions(Hole + (1 << 20)));
    private readonly DmaSpace _dma;

    public DmaSpaceTests() => _dma = new DmaSpace(_memory);

    public void Dispose() => _memory.Dispose();

    [Fact]
    public void WithoutTheEnableBitEveryAccessFails()
    {
        Assert.True(_dma.TryWrite(0x1000, 0x1234_5678u));
        _dma.Enabled = false;
        Assert.False(_dma.TryRead(0x1000, out uint _));
        Assert.False(_dma.TryWrite(0x1000, 0u));
        Assert.False(_dma.Read(0x1000, new byte[4]));
        Assert.False(_dma.Write(0x1000, new byte[4]));
        Assert.False(_dma.TryOpen(0x1000, 4, writes: true, out _));
        _dma.Enabled = true;
        Assert.True(_dma.TryRead(0x1000, out uint value));
        Assert.Equal(0x1234_5678u, value);
    }

    [Theory]
    [InlineData(Hole - 4, 8)] // out of RAM
    [InlineData(Hole, 1)]
    [InlineData(High - 1, 2)] // into RAM
    [InlineData(High + (1 << 20) - 8, 9)]
    [InlineData(0x1000, ulong.MaxValue)]
    [InlineData(ulong.MaxValue, 2)]
    public void WhatIsNotAllRamIsRefusedAndNothingIsTouched(ulong address, ulong length)
    {
        Assert.True(_memory.TryWrite(Hole - 4, 0x1111_1111u));
        Assert.False(_dma.TryOpen(address, length, writes: true, out DmaTransfer transfer));
        foreach (Span<byte> piece in transfer) piece.Fill(0xFF);
        Assert.True(_memory.TryRead(Hole - 4, out uint value));
        Assert.Equal(0x1111_1111u, value);
    }

    [Fact]
    public void PiecesAreTheMemoryItself()
    {
        Assert.True(_dma.TryOpen(High + 0xFF0, 0x20, writes: true, out DmaTransfer transfer));
        int pieces = 0;
        foreach (Span<byte> piece in transfer)
        {
            Assert.Equal(0x20, piece.Length); // across a page, but in one region
            piece.Fill(0x5A);
            pieces++;
        }
        Assert.Equal(1, pieces);
        Assert.True(_memory.TryRead(High + 0x1008, out ulong value));
        Assert.Equal(0x5A5A_5A5A_5A5A_5A5Aul, value);
        Assert.True(_dma.TryOpen(0x2000, 0, writes: true, out transfer));
        foreach (Span<byte> _ in transfer) Assert.Fail("no byte, no piece");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void WrittenPagesAreLogged(bool inPlace)
    {
        _memory.DeviceWrites.Enable(true);
        if (inPlace)
        {
            Assert.True(_dma.TryOpen(5 * Page - 1, 2, writes: true, out DmaTransfer transfer));
            foreach (Span<byte> piece in transfer) piece.Fill(1);
            Assert.True(_dma.TryOpen(9 * Page, Page, writes: false, out transfer)); // reading is not writing
            foreach (Span<byte> piece in transfer) _ = piece.Length;
        }
        else
        {
            Assert.True(_dma.Write(5 * Page - 1, [1, 1]));
            Assert.True(_dma.Read(9 * Page, new byte[4]));
        }
        Assert.True(_dma.TryWrite(High + 70 * Page, 1));
        ulong[] low = _memory.DeviceWrites.Take(_memory.Regions[0]), high = _memory.DeviceWrites.Take(_memory.Regions[1]);
        Assert.Equal((1ul << 4 | 1ul << 5, 0ul), (low[0], low.Skip(1).Aggregate(0ul, (a, b) => a | b)));
        Assert.Equal([0ul, 1ul << 6, 0, 0], high);
        Assert.All(_memory.DeviceWrites.Take(_memory.Regions[0]), word => Assert.Equal(0ul, word)); // taken
        _memory.DeviceWrites.Enable(false);
        Assert.True(_dma.TryWrite(0, 1));
        _memory.DeviceWrites.Enable(true);
        Assert.All(_memory.DeviceWrites.Take(_memory.Regions[0]), word => Assert.Equal(0ul, word));
    }

    [Fact]
    public void WhoHasReadCodeThereIsTold()
    {
        var observer = new Observer();
        int number = _memory.Code.Add(observer);
        _memory.Code.Watch(3 * Page, number);
        Assert.True(_dma.TryOpen(3 * Page, Page, writes: false, out DmaTransfer transfer));
        foreach (Span<byte> piece in transfer) _ = piece.Length;
        Assert.Empty(observer.Written);
        Assert.True(_dma.TryOpen(2 * Page, 2 * Page, writes: true, out transfer));
        foreach (Span<byte> piece in transfer)
        {
            Assert.Empty(observer.Written); // not before it is written
            piece.Fill(0x90);
        }
        Assert.Equal([3 * Page], observer.Written);
    }

    [Fact]
    public void AWriteToAPageWithoutThatRightIsToldBefore()
    {
        var told = new List<ulong>();
        _memory.Rights.DeviceWriteRefused = told.Add;
        _memory.Rights.Set(4 * Page, Page, PageRights.Read);
        Assert.True(_dma.TryOpen(3 * Page, 2 * Page, writes: true, out DmaTransfer transfer));
        foreach (Span<byte> piece in transfer) Assert.Equal([4 * Page], told);
        Assert.True(_dma.TryOpen(3 * Page, 2 * Page, writes: false, out transfer));
        foreach (Span<byte> piece in transfer) Assert.Single(told);
    }

    private sealed class Observer : ICodeObserver
    {
        public List<ulong> Written { get; } = [];

        public void CodeWritten(ulong page) => Written.Add(page);

        public void RevokeWrites(ulong page, Revocation revocation)
        {
        }
    }
}
