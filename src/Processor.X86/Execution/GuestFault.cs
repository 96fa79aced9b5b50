namespace Bunraku.Processor.X86;

/// <summary>
/// Thrown to abandon the current instruction with an exception for the guest. One instance per processor is reused, so that
/// throwing allocates nothing; guest state must be as before the instruction when it is thrown.
/// </summary>
internal sealed class GuestFault : Exception
{
    public Vector Vector { get; internal set; }
    public uint? ErrorCode { get; internal set; }
}

/// <summary>Thrown to abandon the current instruction because the hypervisor must do something first; it is executed again from the start afterwards.</summary>
internal sealed class ExitRequest : Exception;
