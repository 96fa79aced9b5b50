namespace Bunraku.Processor.X86;

/// <summary>Why all decoded and translated code was given up.</summary>
internal enum FlushCause
{
    /// <summary>No room for another decoded block.</summary>
    Operations,
    /// <summary>No room for another translation, or what belongs to it.</summary>
    Translations,
    /// <summary>No jump cache is left for another mode.</summary>
    Modes,
    /// <summary>No room for another routine that executes an instruction on the host.</summary>
    Thunks,
    /// <summary>No number is left for another set of intercepted instructions.</summary>
    Intercepts,
}
