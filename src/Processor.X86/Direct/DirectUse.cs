namespace Bunraku.Processor.X86;

/// <summary>Which programs of a guest run directly on the host's processor, see <see cref="TranslatorEngine.Direct"/>.</summary>
public enum DirectUse : byte
{
    /// <summary>None.</summary>
    None,
    /// <summary>Those for which it pays, as was measured.</summary>
    WherePays,
    /// <summary>All that can, for as long as they can; for tests.</summary>
    Always,
}
