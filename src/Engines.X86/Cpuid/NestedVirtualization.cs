namespace Bunraku.Engines.X86;

/// <summary>Virtualization that a guest finds on its processor, so that hypervisors run inside it.</summary>
public enum NestedVirtualization
{
    /// <summary>None.</summary>
    Off,
    /// <summary>Intel's VMX, on a model with Intel's behaviour.</summary>
    Vmx,
    /// <summary>AMD's SVM, with everything of it that this processor has.</summary>
    Svm,
}
