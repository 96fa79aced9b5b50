namespace Bunraku.Engines.X86;

/// <summary>A message-signalled interrupt: a write to FEExxxxxh.</summary>
/// <param name="Address">Destination 19:12, redirection hint 3, destination mode 2.</param>
/// <param name="Data">Vector 7:0, delivery mode 10:8, level 14, trigger mode 15.</param>
/// <remarks>Intel SDM vol. 3A, "Message Signalled Interrupts".</remarks>
public readonly record struct MsiMessage(ulong Address, uint Data)
{
    /// <summary>The local APIC broadcasts the EOI of this interrupt.</summary>
    public bool IsLevel => (Data & 1 << 15) != 0;
}

/// <summary>
/// Local APICs that the engine holds itself: the guest's accesses to them, HLT, INIT and SIPI are then the engine's affair and do not exit. The board
/// keeps I/O APIC and 8259A and sends messages; <see cref="IX86Cpu.InjectInterrupt"/> stands for ExtINT on LINT0. Thread-safe.
/// </summary>
public interface IEngineApics
{
    /// <summary>Delivers a message. True when a local APIC accepted it.</summary>
    bool Deliver(MsiMessage message);

    /// <summary>
    /// What an I/O APIC pin sends, or null. The EOI of a level-triggered interrupt with such a message exits as <see cref="ExitReason.VirtualizedEoi"/>.
    /// </summary>
    /// <param name="pin">0 to 23.</param>
    void SetRoute(int pin, MsiMessage? message);
}

/// <summary>The registers of a local APIC, whoever holds it: the engine, or the board. A plain container.</summary>
/// <remarks>Intel SDM vol. 3A, "Local APIC Register Address Map".</remarks>
public sealed class LocalApicState
{
    /// <summary>Bytes of the register page that have registers.</summary>
    public const int Size = 0x400;

    /// <summary>IA32_APIC_BASE.</summary>
    public ulong Base;

    /// <summary>
    /// The register page: 32 bits at multiples of 16. The identifier is in bits 31:24, in x2APIC mode in all bits; the current count is that of the moment.
    /// </summary>
    public byte[] Registers = new byte[Size];

    /// <summary>IA32_TSC_DEADLINE in ticks of the virtual clock; 0: not armed.</summary>
    public ulong TscDeadline;

    /// <summary>The processor waits for a start-up IPI and nothing else.</summary>
    public bool WaitsForStartUp;

    /// <summary>A register by its offset in the page, a multiple of 16.</summary>
    public uint this[int offset]
    {
        get => System.Buffers.Binary.BinaryPrimitives.ReadUInt32LittleEndian(Registers.AsSpan(offset));
        set => System.Buffers.Binary.BinaryPrimitives.WriteUInt32LittleEndian(Registers.AsSpan(offset), value);
    }

    /// <summary>A copy that nothing is shared with.</summary>
    public LocalApicState Clone() => new() { Base = Base, Registers = [.. Registers], TscDeadline = TscDeadline, WaitsForStartUp = WaitsForStartUp };

    /// <summary>State after power-up: enabled at FEE00000h in xAPIC mode, disabled by software.</summary>
    public static LocalApicState PowerOn(int index)
    {
        const uint masked = 1 << 16;
        var s = new LocalApicState { Base = 0xFEE0_0000 | 1 << 11 | (index == 0 ? 1u << 8 : 0) };
        s[LocalApicOffset.Id] = (uint)index << 24;
        s[LocalApicOffset.Version] = 0x14 | 5 << 16;
        s[LocalApicOffset.DestinationFormat] = uint.MaxValue;
        s[LocalApicOffset.SpuriousVector] = 0xFF;
        for (int lvt = LocalApicOffset.LvtTimer; lvt <= LocalApicOffset.LvtError; lvt += 16) s[lvt] = masked;
        return s;
    }

    /// <summary>What firmware leaves behind for the bootstrap processor: enabled, the 8259A through LINT0 (virtual wire mode) and NMI on LINT1.</summary>
    /// <remarks>MultiProcessor Specification 1.4, section 3.6.2.2 "Virtual Wire Mode", and its appendix A.</remarks>
    public void SetVirtualWire()
    {
        const uint enabled = 1 << 8, extInt = 7 << 8, nmi = 4 << 8;
        this[LocalApicOffset.SpuriousVector] = 0xFF | enabled;
        this[LocalApicOffset.LvtLint0] = extInt;
        this[LocalApicOffset.LvtLint1] = nmi;
    }
}

/// <summary>Offsets in a local APIC's page that several parts of the project name.</summary>
public static class LocalApicOffset
{
    /// <summary>The register of that name; all are 32 bits wide.</summary>
    public const int Id = 0x20, Version = 0x30, TaskPriority = 0x80, ProcessorPriority = 0xA0, LogicalDestination = 0xD0, DestinationFormat = 0xE0,
        SpuriousVector = 0xF0,
        InService = 0x100, TriggerMode = 0x180, InterruptRequest = 0x200, ErrorStatus = 0x280, InterruptCommand = 0x300, InterruptCommandHigh = 0x310,
        LvtTimer = 0x320, LvtLint0 = 0x350, LvtLint1 = 0x360, LvtError = 0x370, InitialCount = 0x380, CurrentCount = 0x390, DivideConfiguration = 0x3E0;
}
