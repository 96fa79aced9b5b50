using Bunraku.Engines;

namespace Bunraku.Processor.X86;

/// <summary>
/// A hypervisor inside the guest, as far as the processor knows it: it may take the exits of its own guest before ours sees them. Until the processor
/// implements VMX or SVM there is none.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "VM Exits"; AMD APM vol. 2, "#VMEXIT".</remarks>
internal interface IGuestHypervisor
{
    /// <summary>
    /// An exit is about to go out: of an instruction, an exception, an access that the second stage refuses, a window, whatever it is but a kick. Called
    /// between two instructions, with the state as the hypervisor outside would see it.
    /// </summary>
    /// <returns>
    /// True: the exit is the guest's affair. The state is that in which its hypervisor goes on; the instruction that exited is not completed, and the event
    /// during whose delivery it exited (<see cref="X86Exit.Vectoring"/>) is not delivered, unless the guest's hypervisor sees to it.
    /// </returns>
    bool TakeExit(X86Exit exit);
}
