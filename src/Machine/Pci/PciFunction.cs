using System.Numerics;
using Bunraku.Engines;

namespace Bunraku.Machine.Pci;

/// <summary>What a base address register asks for: PCI Local Bus Specification 3.0, section 6.2.5.1.</summary>
public enum PciBarKind
{
    /// <summary>Ports.</summary>
    Io,
    /// <summary>Memory below 4 GiB, not prefetchable.</summary>
    Memory32,
    /// <summary>Takes two registers.</summary>
    Memory64,
    /// <summary>Takes two registers, and its reads have no effects.</summary>
    Memory64Prefetchable,
    /// <summary>Memory below 4 GiB whose reads have no effects.</summary>
    Memory32Prefetchable,
}

/// <summary>A base address register as the guest programmed it.</summary>
/// <param name="Index">Number of the (first) register, 0 to 5; 8 is the expansion ROM's, which is that far behind.</param>
/// <param name="Length">Bytes or ports, a power of two.</param>
public sealed record PciBar(int Index, PciBarKind Kind, ulong Length)
{
    /// <summary>Where it decodes now; null while the command register disables its space or the address is not usable.</summary>
    public ulong? Address { get; internal set; }

    /// <summary>It has ports, not memory.</summary>
    public bool IsIo => Kind == PciBarKind.Io;
    internal bool IsRom => Index == RomIndex;
    internal const int RomIndex = 8;
    internal bool Is64 => Kind is PciBarKind.Memory64 or PciBarKind.Memory64Prefetchable;
}

/// <summary>
/// One function of a PCI device with a type 0 header. Derive from it or use it as it is for functions with nothing but identification.
/// With its lock held.
/// </summary>
public class PciFunction
{
    private const int Bars = 6;
    private const uint IoFlag = 1, Memory64Flag = 4, PrefetchableFlag = 8, RomEnable = 1;

    private readonly List<PciBar> _bars = [];
    // A function without a space of a kind has its enable bit hard-wired to 0.
    private PciCommand _writableCommand = PciCommand.BusMaster | PciCommand.ParityErrorResponse | PciCommand.SerrEnable | PciCommand.InterruptDisable;
    private int _nextCapability = PciRegister.FirstFree, _lastCapabilityLink = PciRegister.Capabilities;

    /// <param name="classCode">Base class, subclass and programming interface: 24 bits.</param>
    public PciFunction(ushort vendor, ushort device, uint classCode, byte revision = 0, ushort subsystemVendor = 0, ushort subsystem = 0)
    {
        Config.SetWord(PciRegister.VendorId, vendor);
        Config.SetWord(PciRegister.DeviceId, device);
        Config.SetLong(PciRegister.Revision, classCode << 8 | revision);
        Config.SetWord(PciRegister.SubsystemVendorId, subsystemVendor);
        Config.SetWord(PciRegister.SubsystemId, subsystem);
        Config.AllowWrites(PciRegister.Command, (uint)_writableCommand, size: 2);
        Config.AllowWrites(PciRegister.CacheLineSize, 0xFF, size: 1);
        Config.AllowWrites(PciRegister.LatencyTimer, 0xFF, size: 1);
        Config.AllowWrites(PciRegister.InterruptLine, 0xFF, size: 1);
    }

    /// <summary>The configuration space, with the function's lock held.</summary>
    public PciConfigSpace Config { get; } = new();

    /// <summary>The base address registers, in the order in which they were added.</summary>
    public IReadOnlyList<PciBar> BaseAddresses => _bars;

    /// <summary>The command register.</summary>
    public PciCommand Command => (PciCommand)Config.Word(PciRegister.Command);

    /// <summary>Adds a base address register.</summary>
    /// <param name="index">0 to 5; a 64-bit one also takes the next register.</param>
    /// <param name="length">A power of two: at least 4 ports or 16 bytes, at most 256 ports, 2 GiB with 32 bits.</param>
    public PciBar AddBar(int index, PciBarKind kind, ulong length)
    {
        PciBar bar = new(index, kind, length);
        ulong least = bar.IsIo ? 4ul : 16, most = bar.IsIo ? 256ul : bar.Is64 ? 1ul << 62 : 1ul << 31;
        if (!BitOperations.IsPow2(length) || length < least || length > most)
            throw new ArgumentOutOfRangeException(nameof(length), length, $"not a size for a {kind} base address register");
        ArgumentOutOfRangeException.ThrowIfGreaterThan(index, bar.Is64 ? Bars - 2 : Bars - 1);
        int offset = Offset(bar);
        ulong mask = ~(length - 1);
        // The low bits are hard-wired, so that writing all ones reads back the size.
        Config.SetLong(offset, kind switch
        {
            PciBarKind.Io => IoFlag,
            PciBarKind.Memory64 => Memory64Flag,
            PciBarKind.Memory64Prefetchable => Memory64Flag | PrefetchableFlag,
            PciBarKind.Memory32Prefetchable => PrefetchableFlag,
            _ => 0,
        });
        Config.AllowWrites(offset, (uint)mask);
        if (bar.Is64) Config.AllowWrites(offset + 4, (uint)(mask >> 32));
        AllowCommand(bar.IsIo ? PciCommand.IoSpace : PciCommand.MemorySpace);
        _bars.Add(bar);
        return bar;
    }

    /// <summary>The guest can write these bits of the command register, for a space that the function has without a base address register, too.</summary>
    internal void AllowCommand(PciCommand bits)
    {
        _writableCommand |= bits;
        Config.AllowWrites(PciRegister.Command, (uint)_writableCommand, size: 2);
    }

    /// <summary>Adds the expansion ROM base address register (section 6.2.5.2), which has an enable bit of its own.</summary>
    /// <param name="length">A power of two from 2 KiB on.</param>
    internal PciBar AddRomBar(ulong length)
    {
        PciBar bar = new(PciBar.RomIndex, PciBarKind.Memory32, length);
        Config.AllowWrites(Offset(bar), (uint)~(length - 1) | RomEnable);
        AllowCommand(PciCommand.MemorySpace);
        _bars.Add(bar);
        return bar;
    }

    /// <summary>Appends a capability to the list (section 6.7): its bytes follow the id and the link. Returns its offset.</summary>
    /// <exception cref="InvalidOperationException">The configuration space is full.</exception>
    public int AddCapability(byte id, ReadOnlySpan<byte> body)
    {
        int offset = _nextCapability;
        if (offset + 2 + body.Length > PciConfigSpace.Size) throw new InvalidOperationException("no room in configuration space for a capability");
        Config.Bytes[offset] = id;
        body.CopyTo(Config.Bytes[(offset + 2)..]);
        Config.Bytes[_lastCapabilityLink] = (byte)offset;
        Config.SetWord(PciRegister.Status, (ushort)(Config.Word(PciRegister.Status) | (ushort)PciStatus.CapabilityList));
        _lastCapabilityLink = offset + 1;
        _nextCapability = (offset + 2 + body.Length + 3) & ~3;
        return offset;
    }

    /// <summary>A guest's access to configuration space; inside one aligned doubleword.</summary>
    public virtual uint ReadConfig(int offset, int size) => Config.Read(offset, size);

    /// <inheritdoc cref="ReadConfig"/>
    public virtual void WriteConfig(int offset, int size, uint value)
    {
        Config.Write(offset, size, value);
        bool command = offset < PciRegister.Status && offset + size > PciRegister.Command;
        bool bars = offset + size > PciRegister.FirstBar && offset < PciRegister.FirstBar + 4 * Bars;
        bool rom = offset + size > PciRegister.RomAddress && offset < PciRegister.RomAddress + 4;
        if (command || bars || rom) UpdateBars();
        ConfigChanged(restored: false);
    }

    /// <summary>Configuration space has other contents; base addresses have followed already.</summary>
    /// <param name="restored">By taking a saved state over: what is at the other end of wires has its own.</param>
    protected virtual void ConfigChanged(bool restored)
    {
    }

    private void UpdateBars()
    {
        foreach (PciBar bar in _bars)
        {
            ulong? address = Decode(bar), before = bar.Address;
            if (address == before) continue;
            bar.Address = address;
            BarMoved(bar, before);
        }
    }

    /// <summary>A base address register starts, ceases or moves decoding: see <see cref="PciBar.Address"/>.</summary>
    /// <param name="before">Where it was.</param>
    protected virtual void BarMoved(PciBar bar, ulong? before)
    {
    }

    /// <summary>Configuration space as after power-on: what the guest can write or clear becomes 0. Base addresses cease to decode.</summary>
    internal void ResetConfig()
    {
        Config.Reset();
        UpdateBars();
        ConfigChanged(restored: false);
    }

    /// <summary>Takes configuration space over; what depends on base addresses follows.</summary>
    /// <exception cref="StateFormatException">It is the space of another function.</exception>
    internal void RestoreConfig(ReadOnlySpan<byte> bytes, string id)
    {
        if (!Config.TryRestore(bytes)) throw new StateFormatException($"{id}: the saved configuration space is that of another function");
        UpdateBars();
        ConfigChanged(restored: true);
    }

    private static int Offset(PciBar bar) => PciRegister.FirstBar + 4 * bar.Index;

    private ulong? Decode(PciBar bar)
    {
        if (!Command.HasFlag(bar.IsIo ? PciCommand.IoSpace : PciCommand.MemorySpace)) return null;
        ulong address = Config.Long(Offset(bar));
        if (bar.IsRom && (address & RomEnable) == 0) return null;
        if (bar.Is64) address |= (ulong)Config.Long(Offset(bar) + 4) << 32;
        address &= ~(bar.Length - 1);
        ulong end = bar.IsIo ? 0x1_0000 : bar.Is64 ? ulong.MaxValue : 0x1_0000_0000;
        // All ones is a guest that measures the size with decoding on; zero is a register that was never set.
        return address == 0 || address + (bar.Length - 1) >= end - 1 ? null : address;
    }
}
