using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Interrupts;

/// <summary>
/// I/O APIC with 24 pins: turns wires into messages for the local APICs. Offsets are from its own base (FEC00000h for the first). With
/// <see cref="VirtualMachine.InterruptLock"/> held.
/// </summary>
/// <remarks>
/// Intel 82093AA I/O Advanced Programmable Interrupt Controller datasheet, section 3 "Register Description"; the EOI register is that of version 20h,
/// Intel I/O Controller Hub datasheets, "EOIR: EOI Register". A wire is asserted or not, whatever voltage stands for that: the polarity bit is stored only.
/// </remarks>
internal sealed class IoApic : IMmioDevice, IDevice, IStateful<IoApicState>
{
    public const int Pins = 24;
    /// <summary>Bytes that the registers take.</summary>
    public const ulong Length = 0x1000;

    private const ulong RegisterSelect = 0x00, Window = 0x10, Eoi = 0x40;
    private const byte IndexId = 0, IndexVersion = 1, IndexArbitration = 2, IndexRedirection = 0x10;
    private const uint Version = 0x20 | (Pins - 1) << 16;

    private readonly ApicBus _bus;
    private readonly RedirectionEntry[] _redirections = new RedirectionEntry[Pins];
    private readonly bool[] _levels = new bool[Pins];
    private readonly IInterruptLine[] _lines = new IInterruptLine[Pins];
    private byte _select;
    private uint _id;

    public IoApic(ApicBus bus)
    {
        _bus = bus;
        for (int pin = 0; pin < Pins; pin++) _lines[pin] = new Line(this, pin);
        Reset();
        bus.Add(this);
    }

    /// <inheritdoc/>
    public string Id => "ioapic";

    IoApicState IStateful<IoApicState>.Save() => new(_select, _id, [.. _redirections.Select(r => r.Value)], [.. _levels]);

    void IStateful<IoApicState>.Restore(IoApicState state)
    {
        StateCheck.Length(state.Redirections, Pins, Id);
        StateCheck.Length(state.Levels, Pins, Id).CopyTo(_levels, 0);
        (_select, _id) = (state.Select, state.Identifier);
        for (int pin = 0; pin < Pins; pin++)
        {
            _redirections[pin] = new RedirectionEntry(state.Redirections[pin]);
            _bus.SetRoute(this, pin, _redirections[pin].IsLevel ? _redirections[pin].Message : null);
        }
    }

    /// <summary>The wire to a pin.</summary>
    /// <param name="gsi">Global system interrupt, 0 to 23.</param>
    public IInterruptLine GetLine(int gsi) => _lines[gsi];

    /// <summary>
    /// Setting the wire to a level would change nothing: it has that level, and no message waits for being sent again. Needs no lock where only the caller
    /// moves the wire.
    /// </summary>
    internal bool IsSettled(int pin, bool asserted) =>
        _levels[pin] == asserted && (!asserted || _redirections[pin] is { IsLevel: false } or { IsMasked: true } or { RemoteIrr: true });

    /// <summary>All pins masked. The levels of the wires stay.</summary>
    public void Reset()
    {
        _select = 0;
        _id = 0;
        Array.Fill(_redirections, new RedirectionEntry(RedirectionEntry.MaskBit));
        for (int pin = 0; pin < Pins; pin++) _bus.SetRoute(this, pin, null);
    }

    public ulong ReadMmio(ulong offset, int size) => offset switch
    {
        RegisterSelect => _select,
        Window => ReadRegister(_select),
        _ => 0,
    };

    public void WriteMmio(ulong offset, int size, ulong value)
    {
        switch (offset)
        {
            case RegisterSelect:
                _select = (byte)value;
                break;
            case Window:
                WriteRegister(_select, (uint)value);
                break;
            case Eoi:
                EndOfInterrupt((byte)value);
                break;
            default:
                break;
        }
    }

    private uint ReadRegister(byte index)
    {
        switch (index)
        {
            case IndexId or IndexArbitration: // the arbitration ID takes on the value of the ID
                return _id;
            case IndexVersion:
                return Version;
            default:
                int pin = (index - IndexRedirection) >> 1;
                if ((uint)pin >= Pins) return 0;
                return (uint)(_redirections[pin].Value >> (32 * (index & 1)));
        }
    }

    private void WriteRegister(byte index, uint value)
    {
        if (index == IndexId)
        {
            _id = value & 0x0F00_0000;
            return;
        }
        int pin = (index - IndexRedirection) >> 1;
        if ((uint)pin >= Pins) return;
        ulong old = _redirections[pin].Value;
        ulong written = (index & 1) != 0 ? (uint)old | (ulong)value << 32 : (old & 0xFFFF_FFFF_0000_0000) | value;
        var entry = new RedirectionEntry((written & RedirectionEntry.Writable) | (old & RedirectionEntry.RemoteIrrBit));
        // Software for version 11h, which has no EOI register, clears Remote IRR by making the pin edge-triggered for a moment.
        if (!entry.IsLevel) entry = entry.WithRemoteIrr(false);
        _redirections[pin] = entry;
        // Masked pins too: an interrupt may be in service.
        _bus.SetRoute(this, pin, entry.IsLevel ? entry.Message : null);
        if (entry.IsLevel) Service(pin);
    }

    private void Set(int pin, bool asserted)
    {
        bool edge = asserted && !_levels[pin];
        _levels[pin] = asserted;
        RedirectionEntry entry = _redirections[pin];
        if (entry.IsLevel) Service(pin);
        else if (edge && !entry.IsMasked) _bus.Deliver(entry.Message); // an edge while masked is lost
    }

    /// <summary>Sends the message of a level-triggered pin that is asserted and not waiting for its EOI.</summary>
    private void Service(int pin)
    {
        RedirectionEntry entry = _redirections[pin];
        if (!_levels[pin] || !entry.IsLevel || entry.IsMasked || entry.RemoteIrr) return;
        if (_bus.Deliver(entry.Message)) _redirections[pin] = entry.WithRemoteIrr(true);
    }

    internal void ServiceAll()
    {
        for (int pin = 0; pin < Pins; pin++) Service(pin);
    }

    /// <summary>A local APIC finished with <paramref name="vector"/>: pins that are still asserted ask again.</summary>
    internal void EndOfInterrupt(byte vector)
    {
        for (int pin = 0; pin < Pins; pin++)
        {
            RedirectionEntry entry = _redirections[pin];
            if (!entry.RemoteIrr || entry.Vector != vector) continue;
            _redirections[pin] = entry.WithRemoteIrr(false);
            Service(pin);
        }
    }

    /// <summary>An entry of the redirection table.</summary>
    private readonly record struct RedirectionEntry(ulong Value)
    {
        public const ulong RemoteIrrBit = 1 << 14, MaskBit = 1 << 16;
        /// <summary>All but delivery status (12), Remote IRR (14) and the reserved bits.</summary>
        public const ulong Writable = 0xFF00_0000_0001_AFFF;

        public byte Vector => (byte)Value;
        public DeliveryMode Mode => (DeliveryMode)(Value >> 8 & 7);
        public bool RemoteIrr => (Value & RemoteIrrBit) != 0;
        /// <summary>Only fixed and lowest-priority interrupts wait for an EOI; the other modes are edges whatever the trigger mode says.</summary>
        public bool IsLevel => (Value & 1 << 15) != 0 && Mode is (DeliveryMode.Fixed or DeliveryMode.LowestPriority);
        public bool IsMasked => (Value & MaskBit) != 0;
        public InterruptMessage Message => new(Vector, Mode, IsLogical: (Value & 1 << 11) != 0, IsLevel, (uint)(Value >> 56), IsWide: false);

        public RedirectionEntry WithRemoteIrr(bool value) => new(value ? Value | RemoteIrrBit : Value & ~RemoteIrrBit);
    }

    private sealed class Line(IoApic owner, int pin) : IInterruptLine
    {
        public void Set(bool asserted) => owner.Set(pin, asserted);
    }
}

/// <summary>State of an <see cref="IoApic"/>.</summary>
/// <param name="Redirections">The redirection table, by pin.</param>
/// <param name="Levels">The levels of the wires, by pin.</param>
[StateRecord("ioapic", version: 1)]
internal sealed record IoApicState(byte Select, uint Identifier, ulong[] Redirections, bool[] Levels);
