namespace Bunraku.Processor.X86;

/// <summary>The arithmetic flags on their way between the interpreter's lazy form and the host's flags; see <see cref="TranslatorState.HostFlags"/>.</summary>
internal static unsafe class HostFlags
{
    public static ulong From(ProcessorState* s)
    {
        uint flags = Flags.Get(s);
        return (flags & 0xFF) << 8 | ((flags & (uint)Rflags.Of) != 0 ? 1u : 0);
    }

    public static void To(ProcessorState* s, ulong host) =>
        Flags.SetArithmetic(s, (uint)(host >> 8) & 0xFF | ((host & 1) != 0 ? (uint)Rflags.Of : 0));
}
