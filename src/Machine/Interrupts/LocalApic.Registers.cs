using Bunraku.Engines;

namespace Bunraku.Machine.Interrupts;

// The register file: the xAPIC page and the x2APIC MSRs are two views of the same registers.
internal sealed partial class LocalApic
{
    private const uint MsrApicBase = 0x1B, MsrTscDeadline = 0x6E0, MsrX2ApicFirst = 0x800, MsrX2ApicLast = 0x8FF;

    /// <summary>Version 14h (integrated APIC), six LVT entries, EOI broadcast can be suppressed.</summary>
    /// <remarks>Intel SDM vol. 3A, "Local APIC Version Register".</remarks>
    private const uint VersionValue = 0x14 | 5 << 16 | 1 << 24;

    private const uint SvrEnable = 1 << 8, SvrFocusChecking = 1 << 9, SvrSuppressEoiBroadcast = 1 << 12;
    private const uint SvrWritable = 0xFF | SvrEnable | SvrFocusChecking | SvrSuppressEoiBroadcast;
    private const uint DivideWritable = 0xB;

    private readonly LvtEntry[] _lvt = new LvtEntry[6]; // timer to error, in the order of their addresses
    private uint _ldr, _dfr, _svr;
    private ulong _icr;
    private ApicErrors _errors, _errorStatus; // detected since the last write to ESR; what ESR shows
    private bool _errorInterruptArmed;

    /// <summary>Logical x2APIC ID, derived from the x2APIC ID: cluster 31:16, one bit in 15:0.</summary>
    private uint X2Ldr => (uint)Index >> 4 << 16 | 1u << (Index & 15);

    private ref LvtEntry Lvt(LocalApicRegister entry) => ref _lvt[entry - LocalApicRegister.LvtTimer];

    private void ResetRegisters()
    {
        _ldr = 0;
        _dfr = uint.MaxValue;
        _svr = 0xFF;
        _icr = 0;
        _errors = _errorStatus = ApicErrors.None;
        _errorInterruptArmed = true;
        Array.Fill(_lvt, new LvtEntry(LvtEntry.MaskBit));
    }

    // ---- xAPIC page

    /// <summary>Registers are 32 bits at multiples of 16; the bytes between them read as 0.</summary>
    public ulong ReadMmio(ulong offset, int size)
    {
        _ownAccess = true;
        ulong value = 0;
        int within = (int)(offset & 15);
        if (within < 4)
        {
            if (TryRead((LocalApicRegister)(offset >> 4), x2: false, out uint register)) value = (ulong)register >> (8 * within);
            else RecordError(ApicErrors.IllegalRegisterAddress);
        }
        _ownAccess = false;
        return value;
    }

    /// <summary>Only aligned 32-bit writes have an effect; others are undefined by the manual.</summary>
    public void WriteMmio(ulong offset, int size, ulong value)
    {
        if (size != 4 || (offset & 15) != 0) return;
        _ownAccess = true;
        if (!WriteXApic((LocalApicRegister)(offset >> 4), (uint)value)) RecordError(ApicErrors.IllegalRegisterAddress);
        _ownAccess = false;
    }

    /// <summary>Bits that cannot be written keep their value. False when there is no such register.</summary>
    private bool WriteXApic(LocalApicRegister register, uint value)
    {
        switch (register)
        {
            case LocalApicRegister.Id:
                // Software that gives two processors the same ID reaches both by it.
                _id = (byte)(value >> 24);
                return true;
            case LocalApicRegister.LogicalDestination:
                _ldr = value & 0xFF00_0000;
                return true;
            case LocalApicRegister.DestinationFormat:
                _dfr = value | 0x0FFF_FFFF;
                return true;
            case LocalApicRegister.InterruptCommand:
                SendIpi((_icr & ~(ulong)uint.MaxValue) | (value & InterruptCommand.Writable), x2: false);
                return true;
            case LocalApicRegister.InterruptCommandHigh:
                _icr = (uint)_icr | (ulong)(value & 0xFF00_0000) << 32;
                return true;
            case LocalApicRegister.SelfIpi: // exists in x2APIC mode only
                return false;
            default:
                return IsReadOnly(register) || Write(register, value & WritableBits(register));
        }
    }

    // ---- MSRs

    internal bool TryReadMsr(uint index, out ulong value)
    {
        value = 0;
        switch (index)
        {
            case MsrApicBase:
                value = _base;
                return true;
            case MsrTscDeadline when _model.Has(CpuFeature.TscDeadline):
                value = ReadTscDeadline();
                return true;
            case >= MsrX2ApicFirst and <= MsrX2ApicLast when Mode == LocalApicMode.X2Apic:
                var register = (LocalApicRegister)(index - MsrX2ApicFirst);
                if (register == LocalApicRegister.InterruptCommand)
                {
                    value = _icr;
                    return true;
                }
                _ownAccess = true;
                bool exists = TryRead(register, x2: true, out uint low);
                _ownAccess = false;
                value = low;
                return exists;
            default:
                return false;
        }
    }

    internal bool TryWriteMsr(uint index, ulong value)
    {
        _ownAccess = true;
        bool done = index switch
        {
            MsrApicBase => TryWriteBase(value),
            MsrTscDeadline when _model.Has(CpuFeature.TscDeadline) => WriteTscDeadline(value),
            >= MsrX2ApicFirst and <= MsrX2ApicLast when Mode == LocalApicMode.X2Apic => WriteX2Apic((LocalApicRegister)(index - MsrX2ApicFirst), value),
            _ => false,
        };
        _ownAccess = false;
        return done;
    }

    /// <summary>Reserved bits and registers that are absent or read-only raise #GP.</summary>
    /// <remarks>Intel SDM vol. 3A, "Reserved Bit Checking" of the x2APIC section.</remarks>
    private bool WriteX2Apic(LocalApicRegister register, ulong value)
    {
        if (register == LocalApicRegister.InterruptCommand)
        {
            // The delivery status went away with x2APIC, but software that writes back what it read in xAPIC mode may have it set.
            if (((uint)value & ~(InterruptCommand.Writable | LvtEntry.DeliveryStatus)) != 0) return false;
            SendIpi(value & ~(ulong)LvtEntry.DeliveryStatus, x2: true);
            return true;
        }
        if (value > uint.MaxValue || IsReadOnly(register)) return false;
        switch (register)
        {
            case LocalApicRegister.LogicalDestination:
            case LocalApicRegister.DestinationFormat:
            case LocalApicRegister.InterruptCommandHigh:
            case LocalApicRegister.EndOfInterrupt or LocalApicRegister.ErrorStatus when value != 0:
                return false;
            default:
                uint writable = WritableBits(register);
                if (((uint)value & ~(writable | ReadOnlyBits(register))) != 0) return false;
                return Write(register, (uint)value & writable);
        }
    }

    // ---- both

    /// <summary>False when the register does not exist in this mode or cannot be read.</summary>
    private bool TryRead(LocalApicRegister register, bool x2, out uint value)
    {
        switch (register)
        {
            case LocalApicRegister.Id:
                value = x2 ? (uint)Index : (uint)_id << 24;
                return true;
            case LocalApicRegister.Version:
                value = VersionValue;
                return true;
            case LocalApicRegister.TaskPriority:
                value = _tpr;
                return true;
            case LocalApicRegister.ProcessorPriority:
                value = _ppr;
                return true;
            case LocalApicRegister.ArbitrationPriority or LocalApicRegister.RemoteRead or LocalApicRegister.EndOfInterrupt:
                value = 0;
                return !x2;
            case LocalApicRegister.LogicalDestination:
                value = x2 ? X2Ldr : _ldr;
                return true;
            case LocalApicRegister.DestinationFormat:
                value = _dfr;
                return !x2;
            case LocalApicRegister.SpuriousVector:
                value = _svr;
                return true;
            case >= LocalApicRegister.InService and < LocalApicRegister.TriggerMode:
                value = _isr.Word(register - LocalApicRegister.InService);
                return true;
            case >= LocalApicRegister.TriggerMode and < LocalApicRegister.InterruptRequest:
                value = _tmr.Word(register - LocalApicRegister.TriggerMode);
                return true;
            case >= LocalApicRegister.InterruptRequest and < LocalApicRegister.ErrorStatus:
                value = _irr.Word(register - LocalApicRegister.InterruptRequest);
                return true;
            case LocalApicRegister.ErrorStatus:
                value = (uint)_errorStatus;
                return true;
            case LocalApicRegister.InterruptCommand:
                value = (uint)_icr;
                return true;
            case LocalApicRegister.InterruptCommandHigh:
                value = (uint)(_icr >> 32);
                return !x2;
            case >= LocalApicRegister.LvtTimer and <= LocalApicRegister.LvtError:
                value = Lvt(register).Value;
                return true;
            case LocalApicRegister.InitialCount:
                value = _initialCount;
                return true;
            case LocalApicRegister.CurrentCount:
                value = ReadCurrentCount();
                return true;
            case LocalApicRegister.DivideConfiguration:
                value = _divideConfiguration;
                return true;
            default:
                value = 0;
                return false;
        }
    }

    /// <summary>Writes a register that both modes have; reserved bits are 0 by now. False when there is none.</summary>
    private bool Write(LocalApicRegister register, uint value)
    {
        switch (register)
        {
            case LocalApicRegister.TaskPriority:
                _tpr = (byte)value;
                UpdatePriority();
                return true;
            case LocalApicRegister.EndOfInterrupt:
                EndOfInterrupt();
                return true;
            case LocalApicRegister.SpuriousVector:
                WriteSpuriousVector(value);
                return true;
            case LocalApicRegister.ErrorStatus:
                _errorStatus = _errors;
                _errors = ApicErrors.None;
                _errorInterruptArmed = true;
                return true;
            case >= LocalApicRegister.LvtTimer and <= LocalApicRegister.LvtError:
                WriteLvt(register, value);
                return true;
            case LocalApicRegister.InitialCount:
                WriteInitialCount(value);
                return true;
            case LocalApicRegister.DivideConfiguration:
                WriteDivideConfiguration(value);
                return true;
            case LocalApicRegister.SelfIpi:
                SendIpi(value | (uint)DestinationShorthand.Self << 18, x2: true, remember: false);
                return true;
            default:
                return false;
        }
    }

    private static bool IsReadOnly(LocalApicRegister register) => register is LocalApicRegister.Id or LocalApicRegister.Version
        or LocalApicRegister.ArbitrationPriority or LocalApicRegister.ProcessorPriority or LocalApicRegister.RemoteRead
        or (>= LocalApicRegister.InService and < LocalApicRegister.ErrorStatus) or LocalApicRegister.CurrentCount;

    /// <summary>Bits that software can change.</summary>
    private uint WritableBits(LocalApicRegister register) => register switch
    {
        LocalApicRegister.TaskPriority or LocalApicRegister.SelfIpi => 0xFF,
        LocalApicRegister.SpuriousVector => SvrWritable,
        LocalApicRegister.LvtTimer => LvtEntry.VectorBits | LvtEntry.MaskBit | (_model.Has(CpuFeature.TscDeadline) ? LvtEntry.TimerModeBits : 1 << 17),
        LocalApicRegister.LvtThermal or LocalApicRegister.LvtPerformance => LvtEntry.VectorBits | LvtEntry.ModeBits | LvtEntry.MaskBit,
        LocalApicRegister.LvtLint0 or LocalApicRegister.LvtLint1 =>
            LvtEntry.VectorBits | LvtEntry.ModeBits | LvtEntry.Polarity | LvtEntry.Trigger | LvtEntry.MaskBit,
        LocalApicRegister.LvtError => LvtEntry.VectorBits | LvtEntry.MaskBit,
        LocalApicRegister.DivideConfiguration => DivideWritable,
        _ => uint.MaxValue,
    };

    /// <summary>Bits that software may write as 1 without effect in x2APIC mode.</summary>
    private static uint ReadOnlyBits(LocalApicRegister register) => register switch
    {
        LocalApicRegister.LvtLint0 or LocalApicRegister.LvtLint1 => LvtEntry.DeliveryStatus | LvtEntry.RemoteIrrBit,
        >= LocalApicRegister.LvtTimer and <= LocalApicRegister.LvtError => LvtEntry.DeliveryStatus,
        _ => 0,
    };

    private void WriteSpuriousVector(uint value)
    {
        bool wasEnabled = (_svr & SvrEnable) != 0;
        _svr = value;
        if ((value & SvrEnable) == 0)
        {
            // "The mask bits for all the LVT entries are set. Attempts to reset these bits will be ignored."
            foreach (ref LvtEntry entry in _lvt.AsSpan()) entry = new(entry.Value | LvtEntry.MaskBit);
        }
        else if (!wasEnabled)
        {
            _bus.RetryPending();
        }
    }

    private void WriteLvt(LocalApicRegister register, uint value)
    {
        if ((_svr & SvrEnable) == 0) value |= LvtEntry.MaskBit;
        ref LvtEntry entry = ref Lvt(register);
        if (register == LocalApicRegister.LvtTimer)
        {
            WriteTimerLvt(new(value));
            return;
        }
        var written = new LvtEntry(value);
        // Remote IRR belongs to level-triggered fixed interrupts only.
        entry = new(value | (written is { IsLevel: true, Mode: DeliveryMode.Fixed } ? entry.Value & LvtEntry.RemoteIrrBit : 0));
        if (register == LocalApicRegister.LvtLint0) ServiceLint0();
    }

    /// <summary>Notes an error and, once until software writes ESR, raises the error interrupt.</summary>
    private void RecordError(ApicErrors error)
    {
        _errors |= error;
        if (!_errorInterruptArmed) return;
        _errorInterruptArmed = false;
        TriggerLocal(LocalApicRegister.LvtError);
    }

    /// <summary>A write to the ICR.</summary>
    /// <param name="icr">The whole register: destination 63:56 in xAPIC mode, 63:32 in x2APIC mode.</param>
    /// <param name="remember">False for SELF IPI, which does not go through the ICR.</param>
    /// <remarks>Intel SDM vol. 3A, "Issuing Interprocessor Interrupts".</remarks>
    private void SendIpi(ulong icr, bool x2, bool remember = true)
    {
        if (remember) _icr = icr;
        var command = new InterruptCommand((uint)icr);
        DeliveryMode mode = command.Mode;
        switch (mode)
        {
            case DeliveryMode.Fixed or DeliveryMode.LowestPriority when command.Vector < 16:
                RecordError(ApicErrors.SendIllegalVector);
                return;
            case DeliveryMode.Init when command is { IsLevel: true, IsAssert: false }: // INIT level de-assert: no such thing since the Pentium 4
            case DeliveryMode.Reserved or DeliveryMode.ExtInt:
                return;
            default:
                break;
        }
        // Level-triggered interprocessor interrupts do not exist: the trigger mode counts for INIT de-assert only.
        var message = new InterruptMessage(command.Vector, mode, command.IsLogical, IsLevel: false, x2 ? (uint)(icr >> 32) : (uint)(icr >> 56), x2);
        switch (command.Shorthand)
        {
            case DestinationShorthand.Self:
                Receive(message);
                break;
            case DestinationShorthand.None:
                _bus.Deliver(message);
                break;
            default:
                _bus.DeliverToAll(message, command.Shorthand == DestinationShorthand.AllExcludingSelf ? this : null);
                break;
        }
    }
}
