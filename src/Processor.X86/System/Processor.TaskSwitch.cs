namespace Bunraku.Processor.X86;

/// <summary>What starts a task switch.</summary>
internal enum TaskSwitchCause { Jump, Call, Event, Iret }

public sealed unsafe partial class Processor
{
    private void SwitchTaskThroughGate(ushort selector, TaskSwitchCause cause, ulong returnRip, uint flagsImage, uint? errorCode) =>
        throw SelectorFault(Vector.Ts, selector);

    private void SwitchTask(ushort selector, Descriptor tss, TaskSwitchCause cause, ulong returnRip, uint flagsImage, uint? errorCode) =>
        throw SelectorFault(Vector.Ts, selector);

    private void ReturnToPreviousTask(ulong returnRip) => throw SelectorFault(Vector.Ts, 0);

}
