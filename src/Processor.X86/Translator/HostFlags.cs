namespace Bunraku.Processor.X86;

/// <summary>The arithmetic flags on their way between the interpreter's lazy form and the host's flags; see <see cref="TranslatorState.HostFlags"/>.</summary>
internal static unsafe class HostFlags
{
    public static ulong From(ProcessorState* s)
    {
        uint flags = (Flags.Cf(s) ? (uint)Rflags.Cf : 0) | (Flags.Pf(s) ? (uint)Rflags.Pf : 0) | (Flags.Af(s) ? (uint)Rflags.Af : 0)
            | (Flags.Zf(s) ? (uint)Rflags.Zf : 0) | (Flags.Sf(s) ? (uint)Rflags.Sf : 0);
        return flags << 8 | (Flags.Of(s) ? 1u : 0);
    }

    public static void To(ProcessorState* s, ulong host) =>
        Flags.SetArithmetic(s, (uint)(host >> 8) & 0xFF | ((host & 1) != 0 ? (uint)Rflags.Of : 0));
}
