using Bunraku.Hypervisor;

namespace Bunraku.Machine.Tests.Running;

/// <summary>Buses whose ranges overlap, move and go away while others use them.</summary>
public sealed class BusTests
{
    private sealed class Device(uint answer) : IPortDevice, IMmioDevice
    {
        public List<(ulong Offset, int Size, ulong Value)> Writes { get; } = [];
        public Action? OnAccess { get; init; }

        public uint ReadPort(ushort offset, int size) => (uint)ReadMmio(offset, size);

        public void WritePort(ushort offset, int size, uint value) => WriteMmio(offset, size, value);

        public ulong ReadMmio(ulong offset, int size)
        {
            OnAccess?.Invoke();
            return answer + (uint)offset;
        }

        public void WriteMmio(ulong offset, int size, ulong value)
        {
            OnAccess?.Invoke();
            Writes.Add((offset, size, value));
        }
    }

    [Fact]
    public void WhatIsNotThereReadsAsOnes()
    {
        var ports = new PortBus();
        var mmio = new MmioBus();
        Assert.Equal((0xFFu, 0xFFFFu, uint.MaxValue), (ports.Read(0x100, 1), ports.Read(0x100, 2), ports.Read(0xFFFF, 4)));
        Assert.Equal(ulong.MaxValue, mmio.Read(0xD000_0000, 8));
        Assert.False(mmio.TryWrite(0xD000_0000, 8, 1));
        ports.Write(0x100, 4, 1);
    }

    [Fact]
    public void TheHighestPriorityAnswersAndAmongEqualsTheFirst()
    {
        var mmio = new MmioBus();
        mmio.Add(0x1000, 0x3000, new Device(1));
        mmio.Add(0x2000, 0x3000, new Device(2));
        IBusMapping above = mmio.Add(0x2800, 0x1000, new Device(3), priority: 1);
        ulong[] expected = [1, 0x1001, 3, 0x803, 0x2801, 0x2002];
        ulong[] answers = [mmio.Read(0x1000, 4), mmio.Read(0x2000, 4), mmio.Read(0x2800, 4), mmio.Read(0x3000, 4), mmio.Read(0x3800, 4), mmio.Read(0x4000, 4)];
        Assert.Equal(expected, answers);
        above.Remove();
        Assert.Equal((0x1801ul, 0x2001ul), (mmio.Read(0x2800, 4), mmio.Read(0x3000, 4)));
    }

    [Fact]
    public void ARangeMovesGoesAndComesBack()
    {
        var ports = new PortBus();
        var device = new Device(0x40);
        IBusMapping range = ports.Add(0x300, 8, device);
        Assert.Equal(0x43u, ports.Read(0x303, 1));
        range.Move(0x500);
        Assert.Equal((0xFFu, 0x43u, 0x500ul), (ports.Read(0x303, 1), ports.Read(0x503, 1), range.First));
        range.Remove();
        Assert.Equal(0xFFu, ports.Read(0x503, 1));
        range.Remove();
        range.Move(0x600);
        Assert.Equal((0x40u, 8ul), (ports.Read(0x600, 1), range.Length));
    }

    [Fact]
    public void WhatLiesBeyondTheEndOfTheBusIsNotDecoded()
    {
        var ports = new PortBus();
        var mmio = new MmioBus();
        IBusMapping range = ports.Add(0x300, 8, new Device(0x40));
        range.Move(0xFFFC);
        Assert.Equal((0x43u, 0xFFu), (ports.Read(0xFFFF, 1), ports.Read(0, 1)));
        range.Move(0x1_0000);
        Assert.Equal((0xFFu, 0xFFu), (ports.Read(0, 1), ports.Read(0xFFFF, 1)));
        IBusMapping memory = mmio.Add(0x1000, 0x1000, new Device(0x40));
        memory.Move(ulong.MaxValue - 0xF);
        Assert.Equal((0x48ul, ulong.MaxValue), (mmio.Read(ulong.MaxValue - 7, 4), mmio.Read(0, 4)));
    }

    [Fact]
    public void AnAccessThatRunsBeyondItsDeviceIsSplitIntoBytes()
    {
        var ports = new PortBus();
        Device first = new(0x10), second = new(0x20), above = new(0x30);
        ports.Add(0x300, 2, first);
        ports.Add(0x302, 2, second);
        Assert.Equal(0x2120_1110u, ports.Read(0x300, 4));
        Assert.Equal(0x10u, ports.Read(0x300, 2)); // within: one access
        ports.Write(0x301, 2, 0xBBAA);
        Assert.Equal([(1ul, 1, 0xAAul)], first.Writes);
        Assert.Equal([(0ul, 1, 0xBBul)], second.Writes);
        ports.Add(0x301, 1, above, priority: 1); // in the middle of a device
        Assert.Equal(0x3010u, ports.Read(0x300, 2));
    }

    [Fact]
    public void TwoDevicesOfEqualPriorityAtOneAddressAreFound()
    {
        var ports = new PortBus();
        ports.Add(0x300, 8, new Device(1));
        ports.Add(0x304, 8, new Device(2), priority: 1);
        Assert.Null(ports.FindConflict());
        IBusMapping third = ports.Add(0x2F8, 9, new Device(3));
        Assert.Equal("port 0300 of Device is taken by Device", ports.FindConflict());
        third.Move(0x2F0);
        Assert.Null(ports.FindConflict());
    }

    [Fact]
    public void RangesOfMemoryAreMadeOfMultiplesOfEight()
    {
        var mmio = new MmioBus();
        Assert.Throws<ArgumentException>(() => mmio.Add(0x1004, 0x1000, new Device(1)));
        Assert.Throws<ArgumentException>(() => mmio.Add(0x1000, 4, new Device(1)));
        Assert.Throws<ArgumentOutOfRangeException>(() => mmio.Add(0x1000, 0, new Device(1)));
    }

    [Fact]
    public void OneDeviceAtWorkDoesNotHoldUpAnother()
    {
        using var inside = new ManualResetEventSlim();
        using var leave = new ManualResetEventSlim();
        var ports = new PortBus();
        ports.Add(0x300, 1, new Device(1) { OnAccess = () => { inside.Set(); leave.Wait(); } });
        ports.Add(0x301, 1, new Device(2));
        var thread = new Thread(() => ports.Write(0x300, 1, 0));
        thread.Start();
        inside.Wait();
        Assert.Equal(2u, ports.Read(0x301, 1)); // hangs where both share a lock
        leave.Set();
        thread.Join();
    }

    [Fact]
    public void RangesOfOneDeviceShareItsLock()
    {
        int inside = 0;
        bool together = false;
        var device = new Device(1)
        {
            OnAccess = () =>
            {
                together |= Interlocked.Increment(ref inside) != 1;
                Thread.Yield();
                Interlocked.Decrement(ref inside);
            },
        };
        var ports = new PortBus();
        ports.Add(0x300, 1, device);
        ports.Add(0x310, 1, device);
        Parallel.For(0, 10_000, n => ports.Read((ushort)(0x300 + 0x10 * (n & 1)), 1));
        Assert.False(together);
    }

    [Fact]
    public void WhoRemovesARangeUnderTheDevicesLockSeesNoAccessAfterwards()
    {
        var @lock = new DeviceLock("test");
        int accesses = 0;
        bool removed = false, late = false;
        var device = new Device(1) { OnAccess = () => { accesses++; late |= removed; } };
        var mmio = new MmioBus();
        IBusMapping range = mmio.Add(0x1000, 0x1000, device, @lock);
        using var stop = new CancellationTokenSource();
        Thread[] readers = [.. Enumerable.Range(0, 3).Select(_ => new Thread(() => { while (!stop.IsCancellationRequested) mmio.Read(0x1000, 4); }))];
        foreach (Thread reader in readers) reader.Start();
        for (int n = 0; n < 2000; n++)
        {
            lock (@lock)
            {
                range.Remove();
                removed = true;
            }
            Thread.Yield();
            lock (@lock) removed = false;
            range.Move(0x1000);
        }
        stop.Cancel();
        foreach (Thread reader in readers) reader.Join();
        Assert.False(late);
        Assert.True(accesses > 0);
    }

    [Fact]
    public void AnAccessWhileARangeGoesReachesWhoAnswersThen()
    {
        bool lost = false;
        var ports = new PortBus();
        ports.Add(0x300, 1, new Device(1));
        IBusMapping above = ports.Add(0x300, 1, new Device(2), priority: 1);
        using var stop = new CancellationTokenSource();
        Thread[] readers = [.. Enumerable.Range(0, 3).Select(_ => new Thread(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                if (ports.Read(0x300, 1) == 0xFF) lost = true;
            }
        }))];
        foreach (Thread reader in readers) reader.Start();
        for (int n = 0; n < 20_000; n++)
        {
            above.Remove();
            above.Move(0x300);
        }
        stop.Cancel();
        foreach (Thread reader in readers) reader.Join();
        Assert.False(lost);
    }
}
