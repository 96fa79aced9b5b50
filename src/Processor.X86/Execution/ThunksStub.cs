namespace Bunraku.Processor.X86;

// "fpu": delete this file when Thunks.cs comes.
internal sealed unsafe class Thunks
{
    public static bool Prepare(Processor p, in Iced.Intel.Instruction instruction, Insn* insn) => true;

    public void Clear() { }
}

public sealed unsafe partial class Processor
{
    internal Thunks Thunks { get; } = new();
}
