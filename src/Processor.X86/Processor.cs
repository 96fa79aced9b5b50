using System.Runtime.InteropServices;
using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// One x86 vCPU in software. The class is split by topic: Execution/ (dispatch, blocks), Memory/ (MMU), System/ (segments, events,
/// control registers), Instructions/ (handlers, static methods grouped in classes).
/// Everything is for the one thread that runs the vCPU unless it says otherwise.
/// </summary>
public sealed unsafe partial class Processor
{
    /// <summary>Execution state in native memory; never null before disposal.</summary>
    internal readonly ProcessorState* State;
    internal readonly GuestMemory Memory;
    internal readonly CpuModel Model;
    internal readonly VirtualClock Clock;

    /// <summary>The exit being prepared or returned.</summary>
    internal readonly VmExit Exit = new();

    internal Processor(GuestMemory memory, CpuModel model, VirtualClock clock)
    {
        Memory = memory;
        Model = model;
        Clock = clock;
        State = (ProcessorState*)NativeMemory.AlignedAlloc((nuint)sizeof(ProcessorState), 64);
        *State = default;
    }

    private readonly GuestFault _fault = new();
    internal readonly ExitRequest ExitRequested = new();

    /// <summary>Raises an exception for the guest: <c>throw p.Fault(…)</c>. The instruction must have changed nothing yet.</summary>
    internal GuestFault Fault(Vector vector, uint? errorCode = null)
    {
        _fault.Vector = vector;
        _fault.ErrorCode = errorCode;
        return _fault;
    }

    /// <summary>#GP with an error code: 0 or a selector with its EXT bit clear.</summary>
    internal GuestFault GeneralProtection(uint errorCode = 0) => Fault(Vector.Gp, errorCode);

    /// <summary>#UD.</summary>
    internal GuestFault InvalidOpcode() => Fault(Vector.Ud);
}
