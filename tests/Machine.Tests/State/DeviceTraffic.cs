using Bunraku.Hypervisor.X86.Paravirtual;
using Bunraku.Machine.Board;
using Bunraku.Machine.Tests.Virtio;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Tests.State;

/// <summary>Random accesses to one device of a board, and now and then to the others. One seed gives one sequence.</summary>
internal sealed class DeviceTraffic(string device, int seed)
{
    /// <summary>
    /// Where the registers of each device are: I/O ports, guest-physical ranges, MSRs. A device that is not named here has no door of its own, and lives on
    /// what the others do to it.
    /// </summary>
    public static IReadOnlyDictionary<string, Doors> All { get; } = new Dictionary<string, Doors>
    {
        ["kvm"] = new() { Msrs = [KvmMsr.WallClock, KvmMsr.WallClockOld, KvmMsr.SystemTime, KvmMsr.StealTime, KvmMsr.PvEoi, KvmMsr.PollControl] },
        ["kvm.cpu0"] = new() { Msrs = [KvmMsr.SystemTime, KvmMsr.StealTime, KvmMsr.PvEoi, KvmMsr.PollControl] },
        ["kvm.cpu1"] = new() { Msrs = [KvmMsr.SystemTime, KvmMsr.StealTime, KvmMsr.PvEoi, KvmMsr.PollControl] },
        ["apicbus"] = new() { Msrs = [0x830, 0x1B] },
        ["cpu0.apic"] = new() { Memory = [(MemoryLayout.LocalApic, 0x400)], Msrs = [0x1B, 0x6E0, .. Enumerable.Range(0x800, 0x40).Select(n => (uint)n)] },
        ["cpu1.apic"] = new() { Memory = [(MemoryLayout.LocalApic, 0x400)], Msrs = [0x1B, 0x6E0, .. Enumerable.Range(0x800, 0x40).Select(n => (uint)n)] },
        ["ioapic"] = new() { Memory = [(MemoryLayout.IoApic, 0x44)] },
        ["pic"] = new() { Ports = [(0x20, 2), (0xA0, 2), (0x4D0, 2)] },
        ["coprocessor"] = new() { Ports = [(0xF0, 2)] },
        ["gate.pit"] = new() { Ports = [(0x40, 4)], Memory = [(MemoryLayout.Hpet, 0x20)] },
        ["gate.rtc"] = new() { Ports = [(0x70, 2)], Memory = [(MemoryLayout.Hpet, 0x20)] },
        ["pit"] = new() { Ports = [(0x40, 4), (0x61, 1)] },
        ["pm"] = new() { Ports = [(0x600, 12)] },
        ["rtc"] = new() { Ports = [(0x70, 2)] },
        ["hpet"] = new() { Memory = [(MemoryLayout.Hpet, 0x160)] },
        ["wire.20"] = new() { Memory = [(MemoryLayout.Hpet, 0x160)] },
        ["wire.21"] = new() { Memory = [(MemoryLayout.Hpet, 0x160)] },
        ["wire.22"] = new() { Memory = [(MemoryLayout.Hpet, 0x160)] },
        ["wire.23"] = new() { Memory = [(MemoryLayout.Hpet, 0x160)] },
        ["i8042"] = new() { Ports = [(0x60, 1), (0x64, 1)] },
        ["port92"] = new() { Ports = [(0x92, 1)] },
        ["a20"] = new() { Ports = [(0x92, 1), (0x60, 1), (0x64, 1)] },
        ["postcode"] = new() { Ports = [(0x80, 16)] },
        ["com1"] = new() { Ports = [(0x3F8, 8)] },
        ["com2"] = new() { Ports = [(0x2F8, 8)] },
        ["debugcon"] = new() { Ports = [(0xE9, 1)] },
        ["debugexit"] = new() { Ports = [(0xF4, 4)] },
        ["testdev"] = new() { Ports = [(0xE0, 8), (0x2000, 16)], Memory = [(TestDevice.MemoryBase, TestDevice.MemoryLength)] },
        ["rng"] = new() { Memory = [(VirtioDriver.Structures, 0x4000), (VirtioDriver.Messages, 0x20)] },
        ["vga"] = new() { Ports = [(0x3B4, 2), (0x3BA, 1), (0x3C0, 16), (0x3D4, 2), (0x3DA, 1), (0x1CE, 3)], Memory = [(0xA_0000, 0x2_0000)] },
        ["pci"] = new() { Ports = [(0xCF8, 8)] },
        ["fwcfg"] = new() { Ports = [(0x510, 2), (0x514, 8)] },
    };

    private readonly Random _random = new(seed);

    internal sealed record Doors
    {
        public (ushort First, int Count)[] Ports { get; init; } = [];
        public (ulong Start, ulong Length)[] Memory { get; init; } = [];
        public uint[] Msrs { get; init; } = [];
    }

    /// <summary>The next access, on all machines alike; returns what each of them saw.</summary>
    public ulong[] Next(params ReadOnlySpan<BoardRig> rigs)
    {
        Func<BoardRig, ulong> action = Choose();
        ulong[] seen = new ulong[rigs.Length];
        for (int n = 0; n < rigs.Length; n++) seen[n] = action(rigs[n]);
        return seen;
    }

    private Func<BoardRig, ulong> Choose()
    {
        int choice = _random.Next(100);
        if (device == "rng" && choice < 25) return DriverOfVirtio();
        if (device == "vga" && choice < 30) return DriverOfDisplay();
        if (choice < 70) return AccessTo(All.GetValueOrDefault(device) ?? new Doors());
        if (choice < 78) return AccessTo(All.Values.ElementAt(_random.Next(All.Count)));
        int cpu = _random.Next(BoardRig.Cpus);
        if (choice < 86)
        {
            // From a tick to some seconds: short timers, long ones, and the clock's second.
            ulong time = (ulong)_random.NextInt64(1L << _random.Next(1, 33));
            return rig =>
            {
                rig.Advance(time);
                return 0;
            };
        }
        if (choice < 93) return rig => rig.TakeEvents(cpu);
        return FromOutside();
    }

    /// <summary>What random accesses alone would hardly ever do: a driver starts the device, or gives it buffers.</summary>
    private Func<BoardRig, ulong> DriverOfVirtio()
    {
        VirtioFeatures features = VirtioFeatures.Version1 | (_random.Next(2) == 0 ? VirtioFeatures.RingPacked : 0)
            | (_random.Next(2) == 0 ? VirtioFeatures.EventIndex : 0);
        int buffers = _random.Next(1, 8);
        bool notify = _random.Next(3) != 0;
        return rig =>
        {
            var driver = new VirtioDriver(rig, BoardRig.VirtioSlot);
            driver.Negotiate((ulong)features);
            TestQueue queue = driver.SetUp(0, 8, 0x20_0000, features);
            driver.SetDriverOk();
            for (int n = 0; n < buffers; n++) queue.Add([(0x28_0000 + (ulong)n * 0x100, 0x40, true)]);
            if (notify) driver.Notify(0);
            return queue.TryTakeUsed(out int id, out uint written) ? (ulong)id << 32 | written : driver.TakeInterrupt();
        };
    }

    /// <summary>Registers that depend on each other, set in the order in which a driver does.</summary>
    private Func<BoardRig, ulong> DriverOfDisplay()
    {
        const int bits = 3, enable = 4, count = 10;
        (ushort index, ushort value, byte low, byte high) = ((ushort)_random.Next(1, count), (ushort)_random.Next(2000), (byte)_random.Next(25), (byte)Value());
        ushort port = (ushort)(_random.Next(3) switch { 0 => 0x3C4, 1 => 0x3CE, _ => 0x3D4 });
        if (index == bits) value = (ushort)(8 * _random.Next(5));
        if (index == enable) value = (ushort)_random.Next(0x100);
        bool isBochs = _random.Next(2) == 0;
        return rig =>
        {
            if (!isBochs)
            {
                rig.Io(0x3C2, 1, true, 0x63);
                rig.Io(port, 2, true, (ulong)(high << 8 | low));
                return rig.Io((ushort)(port + 1), 1, false, 0);
            }
            rig.Io(0x1CE, 2, true, index);
            rig.Io(0x1CF, 2, true, value);
            return rig.Io(0x1CF, 2, false, 0);
        };
    }

    /// <summary>What comes from the other end of the wires.</summary>
    private Func<BoardRig, ulong> FromOutside()
    {
        byte[] bytes = new byte[_random.Next(1, 24)];
        _random.NextBytes(bytes);
        Action<BoardRig> action = _random.Next(8) switch
        {
            0 => rig => rig.Board.Serial.Enqueue(bytes),
            1 => rig => rig.Board.SecondSerial!.Enqueue(bytes),
            2 => rig => rig.Board.Serial.EnqueueBreak(),
            3 => rig => rig.Board.Serial.SetModemLines((Serial.UartModemLines)(bytes[0] & 0xF0)),
            4 => rig => rig.Board.Keyboard.Type(bytes.AsSpan(0, Math.Min(3, bytes.Length))),
            5 => rig => rig.Board.PressPowerButton(),
            6 => rig => rig.Board.PulseNmi(),
            _ => rig => rig.Machine.FloatingPointError!.Set(true),
        };
        return rig =>
        {
            action(rig);
            return 0;
        };
    }

    private Func<BoardRig, ulong> AccessTo(Doors doors)
    {
        int kinds = doors.Ports.Length + doors.Memory.Length + (doors.Msrs.Length > 0 ? 1 : 0);
        if (kinds == 0) return _ => 0;
        int kind = _random.Next(kinds), cpu = _random.Next(BoardRig.Cpus);
        bool write = _random.Next(3) != 0;
        ulong value = Value();
        if (kind < doors.Ports.Length)
        {
            (ushort first, int count) = doors.Ports[kind];
            ushort port = (ushort)(first + _random.Next(count));
            int size = _random.Next(8) switch { 0 => 2, 1 or 2 when count >= 4 => 4, _ => 1 };
            if (first == 0x70 && port == 0x70) value &= 0x8F; // registers rather than RAM
            return rig => rig.Io(port, size, write, value);
        }
        kind -= doors.Ports.Length;
        if (kind < doors.Memory.Length)
        {
            (ulong start, ulong length) = doors.Memory[kind];
            int size = _random.Next(4) switch { 0 => 8, 1 => 1 << _random.Next(3), _ => 4 };
            ulong address = start + (ulong)_random.NextInt64((long)length) / (ulong)size * (ulong)size;
            if (start == MemoryLayout.IoApic && _random.Next(4) != 0) (address, size) = (start + (_random.Next(2) == 0 ? 0u : 0x10), 4);
            if (start == MemoryLayout.LocalApic && _random.Next(8) != 0) (address, size) = (address & ~15ul, 4);
            return rig => rig.Mmio(cpu, address, size, write, value);
        }
        uint msr = doors.Msrs[_random.Next(doors.Msrs.Length)];
        // An address in RAM with the enable bit, for the paravirtual pages; the APIC's base as it is, in its modes.
        if (msr is KvmMsr.SystemTime or KvmMsr.StealTime or KvmMsr.PvEoi) value = (value & 0xF_FFC0) + 0x10_0000 | value & 1;
        // What would be written there is the host's time of day, different for each machine: not into RAM.
        if (msr is KvmMsr.WallClock or KvmMsr.WallClockOld) value |= 1ul << 40;
        if (msr == 0x1B) value = MemoryLayout.LocalApic | (cpu == 0 ? 0x100u : 0) | 0x800 | (value & 1) << 10 & 0x400;
        return rig => rig.Msr(cpu, msr, write, value);
    }

    /// <summary>Few bits, many bits, small numbers, all ones.</summary>
    private ulong Value() => _random.Next(6) switch
    {
        0 => (ulong)_random.NextInt64(),
        1 => 1ul << _random.Next(64),
        2 => ulong.MaxValue,
        3 => (ulong)_random.Next(0x10000),
        _ => (ulong)_random.Next(0x100),
    };
}
