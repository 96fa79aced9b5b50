namespace Bunraku.Processor.X86;

/// <summary>Why decoded and translated code was given up: a generation of it for the first two reasons, else all.</summary>
internal enum FlushCause
{
    /// <summary>No room for another decoded block.</summary>
    Operations,
    /// <summary>No room for another translation, or what belongs to it.</summary>
    Translations,
    /// <summary>No jump cache is left for another mode.</summary>
    Modes,
    /// <summary>No number is left for another mapping of a page.</summary>
    Mappings,
    /// <summary>No room for another routine that executes an instruction on the host.</summary>
    Thunks,
    /// <summary>No number is left for another set of intercepted instructions.</summary>
    Intercepts,
}
