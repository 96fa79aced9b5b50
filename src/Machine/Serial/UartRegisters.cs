namespace Bunraku.Machine.Serial;

// Register layouts of the PC16550D, data sheet (National Semiconductor, 1995), section 8.0 "Registers", table II.

/// <summary>IER, section 8.7.</summary>
[Flags]
internal enum UartInterrupts : byte
{
    ReceivedData = 1 << 0,
    TransmitterEmpty = 1 << 1,
    LineStatus = 1 << 2,
    ModemStatus = 1 << 3,
    All = 0xF,
}

/// <summary>IIR, section 8.6, table IV, in the order of priority.</summary>
internal enum UartInterruptId : byte
{
    None = 0x1,
    LineStatus = 0x6,
    ReceivedData = 0x4,
    CharacterTimeout = 0xC,
    TransmitterEmpty = 0x2,
    ModemStatus = 0x0,
    FifosEnabled = 0xC0,
}

/// <summary>FCR, section 8.5.</summary>
[Flags]
internal enum UartFifoControl : byte
{
    Enable = 1 << 0,
    ResetReceiver = 1 << 1,
    ResetTransmitter = 1 << 2,
}

/// <summary>LCR, section 8.1.</summary>
[Flags]
internal enum UartLineControl : byte
{
    WordLength = 3,
    TwoStopBits = 1 << 2,
    ParityEnable = 1 << 3,
    SetBreak = 1 << 6,
    DivisorLatchAccess = 1 << 7,
}

/// <summary>MCR, section 8.8.</summary>
[Flags]
internal enum UartModemControl : byte
{
    Dtr = 1 << 0,
    Rts = 1 << 1,
    Out1 = 1 << 2,
    Out2 = 1 << 3,
    Loop = 1 << 4,
    All = 0x1F,
}

/// <summary>LSR, section 8.4.</summary>
[Flags]
internal enum UartLineStatus : byte
{
    DataReady = 1 << 0,
    Overrun = 1 << 1,
    Parity = 1 << 2,
    Framing = 1 << 3,
    Break = 1 << 4,
    HoldingEmpty = 1 << 5,
    TransmitterEmpty = 1 << 6,
    ErrorInFifo = 1 << 7,
    CharacterErrors = Parity | Framing | Break,
}

/// <summary>The modem's lines into the UART, at their places in MSR (section 8.9).</summary>
[Flags]
public enum UartModemLines : byte
{
    /// <summary>No line.</summary>
    None = 0,
    /// <summary>Clear to send.</summary>
    Cts = 1 << 4,
    /// <summary>Data set ready.</summary>
    Dsr = 1 << 5,
    /// <summary>Ring indicator.</summary>
    Ri = 1 << 6,
    /// <summary>Data carrier detect.</summary>
    Dcd = 1 << 7,
}
