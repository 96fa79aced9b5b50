using Bunraku.Engines;

namespace Bunraku.Hypervisor.Tests.Toy;

/// <summary>Why a toy processor exits.</summary>
internal enum ToyReason : byte
{
    Kicked, Access, Halt, Off, BadInstruction, Call,
}

/// <summary>An exit of the toy processor. A call has its number in <see cref="VmExit.Data"/>.</summary>
internal sealed class ToyExit : VmExit
{
    /// <summary>An exit without a reason of the toy's own.</summary>
    public void Set(ExitKind kind) => Set(kind, (byte)ToyReason.Kicked);

    public void Set(ToyReason reason) => Set(reason switch
    {
        ToyReason.Kicked => ExitKind.Kicked,
        ToyReason.Access => ExitKind.Access,
        ToyReason.Halt => ExitKind.Halt,
        ToyReason.Off => ExitKind.Shutdown,
        ToyReason.BadInstruction => ExitKind.InternalError,
        _ => ExitKind.Architectural,
    }, (byte)reason);
}
