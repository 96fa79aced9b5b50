using Bunraku.Engines;
using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>Loops that wait for another vCPU, which may need this one's host processor.</summary>
internal sealed unsafe class PauseLoops(Processor p)
{
    /// <summary>PAUSE instructions between two offers to the host's scheduler: a few microseconds of spinning, several times what the offer costs.</summary>
    private const uint PauseBurst = 64;

    private uint _pauses;
    private HostBackoff _backoff;

    /// <summary>After a burst of PAUSE the host's other threads have their turn: one of them may be the vCPU that this one waits for.</summary>
    public void Paused()
    {
        if (++_pauses % PauseBurst == 0 && p.Group.Count > 1) WaitForOthers();
    }

    /// <summary>Lets the host's other threads have their turn, for what another vCPU has to do first. On this vCPU's thread.</summary>
    public void WaitForOthers()
    {
        p.State->Work = CpuWork.Waiting;
        _backoff.Wait();
        p.State->Work = CpuWork.Interpreter;
    }
}
