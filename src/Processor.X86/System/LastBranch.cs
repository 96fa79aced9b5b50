using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// The last branch record: one pair of addresses, while DEBUGCTL.LBR is set. Instructions are executed one at a time then, so that nothing else knows of it.
/// </summary>
/// <remarks>AMD APM vol. 2, "Control-Transfer Recording".</remarks>
internal sealed unsafe class LastBranch(Processor p)
{
    /// <summary>DEBUGCTL.LBR.</summary>
    public const ulong Enable = 1;

    /// <summary>Branches are recorded.</summary>
    public bool IsOn => (p.Msrs.DebugCtl & Enable) != 0;

    /// <summary>An instruction at RIP <paramref name="from"/> has retired, whose first operation is <paramref name="first"/>.</summary>
    public void Note(ulong from, Insn* first)
    {
        while (first->Length == 0) first++;
        var code = (Code)first->Code;
        if (code.FlowControl() is FlowControl.Next or FlowControl.Exception) return;
        if (code is Code.Vmrunw or Code.Vmrund or Code.Vmrunq) return; // the guest's record is in force by now
        ProcessorState* s = p.State;
        if (s->Rip == ((from + first->Length) & Flow.RipMask(s))) return;
        p.Msrs.LastBranchFrom = from;
        p.Msrs.LastBranchTo = s->Rip;
    }
}
