namespace Bunraku.Processor.X86;

/// <summary>What the model has of SVM, looked up once: entries and exits ask for it.</summary>
/// <remarks>AMD APM vol. 3, CPUID function 8000_000Ah, EDX.</remarks>
internal readonly struct SvmFeatures(CpuModel model)
{
    public readonly bool NestedPaging = model.Has(CpuFeature.Npt);
    public readonly bool LastBranch = model.Has(CpuFeature.Lbrv);
    public readonly bool NextRip = model.Has(CpuFeature.NripSave);
    public readonly bool TscRatio = model.Has(CpuFeature.TscScale);
    public readonly bool FlushByAsid = model.Has(CpuFeature.FlushByAsid);
    public readonly bool DecodeAssists = model.Has(CpuFeature.DecodeAssists);
    public readonly bool PauseFilter = model.Has(CpuFeature.PauseFilter);
    public readonly bool PauseThreshold = model.Has(CpuFeature.PfThreshold);
    public readonly bool VirtualLoadSave = model.Has(CpuFeature.VVmsaveVmload);
    public readonly bool VirtualGif = model.Has(CpuFeature.Vgif);
    public readonly bool VirtualNmi = model.Has(CpuFeature.Vnmi);
    public readonly bool Avic = model.Has(CpuFeature.Avic);
    public readonly bool X2Avic = model.Has(CpuFeature.X2avic);
    public readonly bool ExecuteTrap = model.Has(CpuFeature.Gmet);
}
