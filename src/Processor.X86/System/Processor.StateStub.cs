using Bunraku.Engines;

namespace Bunraku.Processor.X86;

// "sys": replace by System/Processor.StateTransfer.cs and delete this file.
public sealed unsafe partial class Processor
{
    internal void ReadState(CpuState state) => throw new InvalidOperationException();

    internal void WriteState(CpuState state) => throw new InvalidOperationException();

    internal void Reset() => throw new InvalidOperationException();
}
